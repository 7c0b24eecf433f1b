//! A chunk of input to tokens: what each worker does.

use super::json::{Keys, Scalar, Wanted, parse};
use super::reader::{CHUNK, Chunk, Kind, Place};
use crate::Error;
use crate::data::tokenizer::{Cuts, Encoder, Refused};
use std::path::{Path, PathBuf};

pub(super) struct Encoded {
    pub tokens: Vec<u32>,
    pub pieces: Vec<Piece>,
    /// Bad lines, and the pieces that came before each.
    pub bad: Vec<(usize, Error)>,
    /// What makes going on impossible.
    pub failed: Option<Error>,
    pub text_bytes: u64,
    pub next: Place,
    pub read: u64,
}

/// Tokens of one document, or a part of them.
pub(super) struct Piece {
    pub tokens: usize,
    /// How many of the first ones have loss weight 0.
    pub prompt: usize,
    pub bytes: u64,
    pub ends: bool,
    pub columns: Vec<(String, Scalar)>,
}

pub(super) struct Worker<'a> {
    pub encoder: Encoder<'a>,
    pub cuts: Cuts,
    pub most: usize,
    pub keys: &'a Keys,
    pub wanted: &'a Wanted,
    /// Of the inputs, by number.
    pub path: &'a (dyn Fn(usize) -> PathBuf + Sync),
}

impl Worker<'_> {
    pub fn encode(&mut self, chunk: &Chunk) -> Encoded {
        let mut out = Encoded {
            tokens: Vec::with_capacity(chunk.bytes.len() / 3),
            pieces: Vec::new(),
            bad: Vec::new(),
            failed: None,
            text_bytes: chunk.bytes.len() as u64,
            next: chunk.next,
            read: chunk.read,
        };
        for part in &chunk.parts {
            let bytes = &chunk.bytes[part.range.clone()];
            match part.kind {
                Kind::Lines => self.lines(bytes, part.place, &mut out),
                Kind::Text { last } => self.text(bytes, part.place, last, &mut out),
            }
            if out.failed.is_some() {
                break;
            }
        }
        out
    }

    fn text(&mut self, bytes: &[u8], place: Place, last: bool, out: &mut Encoded) {
        let before = out.tokens.len();
        if let Err(refused) = self.encoder.encode_bytes(bytes, &mut out.tokens) {
            let (offset, problem) = match refused {
                Refused::NotUtf8(valid) => (valid as u64, "the text is not UTF-8 from here on".to_string()),
                Refused::Tokenizer(problem) => (0, format!("the tokenizer refuses this text: {problem}")),
            };
            out.failed = Some(Error::Data {
                path: (self.path)(place.file),
                offset: Some(place.offset + offset),
                problem,
                remedy: "convert the file to UTF-8, leave it out, or use --tokenizer byte".into(),
            });
            return;
        }
        let tokens = out.tokens.len() - before;
        out.pieces.push(Piece { tokens, prompt: 0, bytes: bytes.len() as u64, ends: last, columns: vec![] });
    }

    fn lines(&mut self, bytes: &[u8], place: Place, out: &mut Encoded) {
        let mut offset = place.offset;
        for line in bytes.split_inclusive(|&b| b == b'\n') {
            if !line.trim_ascii().is_empty() {
                let before = out.tokens.len();
                match self.line(line, &mut out.tokens) {
                    Ok(piece) => out.pieces.push(piece),
                    Err(problem) => {
                        out.tokens.truncate(before);
                        let error = Error::Data {
                            path: (self.path)(place.file),
                            offset: Some(offset),
                            problem,
                            remedy: "mend the line, or pass over such lines with --skip-bad N".into(),
                        };
                        out.bad.push((out.pieces.len(), error));
                    }
                }
            }
            offset += line.len() as u64;
        }
    }

    fn line(&mut self, line: &[u8], tokens: &mut Vec<u32>) -> Result<Piece, String> {
        let line = parse(line, self.keys, self.wanted)?;
        let before = tokens.len();
        self.document(&line.text, tokens)?;
        let mut piece =
            Piece { tokens: 0, prompt: 0, bytes: line.text.len() as u64, ends: true, columns: line.columns };
        if let Some(completion) = &line.completion {
            piece.prompt = tokens.len() - before;
            piece.bytes += completion.len() as u64;
            self.document(completion, tokens)?;
        }
        piece.tokens = tokens.len() - before;
        Ok(piece)
    }

    /// A text of any length, long ones in pieces where that changes nothing.
    fn document(&mut self, text: &str, tokens: &mut Vec<u32>) -> Result<(), String> {
        let refused = |problem| format!("the tokenizer refuses this text: {problem}");
        let mut rest = text;
        while rest.len() > CHUNK && self.cuts == Cuts::Lines {
            let Some(at) = (1..CHUNK).rev().find(|&at| self.cuts.allows(rest.as_bytes(), at)) else { break };
            self.encoder.encode(&rest[..at], tokens).map_err(refused)?;
            rest = &rest[at..];
        }
        if rest.len() > self.most {
            let bytes = rest.len();
            return Err(format!(
                "a text of {bytes} bytes has to go through the tokenizer in one piece; allow it with --max-document MIB"
            ));
        }
        self.encoder.encode(rest, tokens).map_err(refused)
    }
}

/// What errors call an input.
pub(super) fn path_of(inputs: &[super::inputs::Input]) -> impl Fn(usize) -> PathBuf + Sync + '_ {
    |file| inputs.get(file).map_or(Path::new("input"), |input| input.path.as_path()).into()
}
