//! Input files to numbered chunks of about a megabyte: whole lines, whole texts, and pieces of long texts cut where the
//! tokenizer allows it. Where chunks begin and end depends on the input and the tokenizer alone.

use super::inputs::{Format, Input};
use super::source::Source;
use crate::data::tokenizer::Cuts;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// Text that goes through a worker at once.
pub(super) const CHUNK: usize = 1 << 20;

/// A place in the input: a file by its number, and an offset in its text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub file: usize,
    pub offset: u64,
}

pub(super) struct Chunk {
    pub bytes: Vec<u8>,
    pub parts: Vec<Part>,
    /// Where the next chunk begins.
    pub next: Place,
    /// Bytes of the input files that were read up to the end of this chunk.
    pub read: u64,
}

/// A stretch of a chunk.
pub(super) struct Part {
    pub place: Place,
    pub range: Range<usize>,
    pub kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Whole lines, a document each.
    Lines,
    /// Text of one document; whether it ends here.
    Text { last: bool },
}

pub(super) struct Reader<'a> {
    inputs: &'a [Input],
    cuts: Cuts,
    /// Longest line, and longest piece of text between two cuts.
    most: usize,
    at: Place,
    source: Option<Source>,
    read: Arc<AtomicU64>,
}

impl<'a> Reader<'a> {
    pub fn new(inputs: &'a [Input], cuts: Cuts, most: usize, from: Place) -> Reader<'a> {
        let done = inputs[..from.file].iter().map(|input| input.bytes).sum();
        Reader { inputs, cuts, most, at: from, source: None, read: Arc::new(AtomicU64::new(done)) }
    }

    /// None after the last one.
    pub fn next(&mut self) -> Result<Option<Chunk>> {
        let mut chunk = Chunk { bytes: Vec::new(), parts: Vec::new(), next: self.at, read: 0 };
        while let Some(input) = self.inputs.get(self.at.file) {
            if chunk.bytes.len() >= CHUNK || chunk.parts.len() >= CHUNK / 64 {
                break;
            }
            let mut source = match self.source.take() {
                Some(source) => source,
                None => Source::open(input, self.at.offset, &self.read)?,
            };
            let room = (CHUNK - chunk.bytes.len()).max(1);
            let start = chunk.bytes.len();
            let kind = match input.format {
                Format::Jsonl => {
                    let count = lines(&mut source, room, self.most, input)?;
                    source.take(count, &mut chunk.bytes);
                    Kind::Lines
                }
                _ => {
                    let (count, last) = text(&mut source, room, self.most, self.cuts, input)?;
                    source.take(count, &mut chunk.bytes);
                    Kind::Text { last }
                }
            };
            chunk.parts.push(Part { place: self.at, range: start..chunk.bytes.len(), kind });
            let over = match kind {
                Kind::Lines => source.ended && source.buffer.is_empty(),
                Kind::Text { last } => last,
            };
            if over {
                input.check()?;
                self.at = Place { file: self.at.file + 1, offset: 0 };
            } else {
                self.at.offset = source.offset;
                self.source = Some(source);
            }
        }
        chunk.next = self.at;
        chunk.read = self.read.load(std::sync::atomic::Ordering::Relaxed);
        Ok((!chunk.parts.is_empty()).then_some(chunk))
    }
}

/// Bytes of whole lines to take, about `room`; at the end of the file all there is.
fn lines(source: &mut Source, room: usize, most: usize, input: &Input) -> Result<usize> {
    let mut want = room;
    loop {
        source.fill(want)?;
        if source.buffer.len() <= want && source.ended {
            return Ok(source.buffer.len());
        }
        let within = &source.buffer[..want.min(source.buffer.len())];
        if let Some(last) = within.iter().rposition(|&b| b == b'\n') {
            return Ok(last + 1);
        }
        want = longer(source, want, most, input, "line")?;
    }
}

/// Bytes of the document to take, about `room`, and whether it ends there.
fn text(source: &mut Source, room: usize, most: usize, cuts: Cuts, input: &Input) -> Result<(usize, bool)> {
    let mut want = room;
    loop {
        // One byte more shows whether the text goes on.
        source.fill(want + 1)?;
        if source.buffer.len() <= want {
            return Ok((source.buffer.len(), true));
        }
        if let Some(at) = (1..=want).rev().find(|&at| cuts.allows(&source.buffer, at)) {
            return Ok((at, false));
        }
        want = longer(
            source,
            want,
            most,
            input,
            "stretch of text that has to go through the tokenizer in one piece",
        )?;
    }
}

fn longer(source: &Source, want: usize, most: usize, input: &Input, what: &str) -> Result<usize> {
    if want < most {
        return Ok((2 * want).min(most));
    }
    Err(Error::Data {
        path: input.path.clone(),
        offset: Some(source.offset),
        problem: format!("here begins a {what} of more than {most} bytes"),
        remedy: "split the document, or allow more with --max-document MIB".into(),
    })
}
