//! One row of a batch: T inputs out of pieces of a corpus, their targets, and which of these count.
//!
//! A piece is a run of corpus tokens, and the target of each of its inputs is the corpus token after it. In a joined
//! row (Megatron's order) pieces are unrelated but read as one text: the target of a piece's last input is the first
//! token of the next piece. What pieces leave free of a row is a document of its own that has no weight.

use super::batch::{Attention, Batch};
use super::domain::Domain;
use crate::{Error, Result};
use serde::Serialize;
use std::ops::Range;

/// `inputs` tokens of a corpus from token `first`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Piece {
    pub first: u64,
    /// 0 only for the last piece of a joined row, when it is but the row's last target.
    pub inputs: u32,
}

/// Buffers of a row, used again for the next one. `clear`, fill `pieces`, `lay_out`, then what is asked for.
pub(super) struct Row {
    seq_len: usize,
    pub pieces: Vec<Piece>,
    pub joined: bool,
    /// Where documents begin among the T inputs: first 0, strictly increasing.
    pub documents: Vec<u32>,
    /// The inputs whose targets count, but for the weight that a side stream gives them.
    counted: Vec<Range<usize>>,
    tokens: Vec<u32>,
    values: Vec<f32>,
}

impl Row {
    pub fn new(seq_len: usize) -> Row {
        Row {
            seq_len,
            pieces: Vec::new(),
            joined: false,
            documents: Vec::new(),
            counted: Vec::new(),
            tokens: Vec::new(),
            values: Vec::new(),
        }
    }

    pub fn clear(&mut self) {
        self.joined = false;
        self.pieces.clear();
    }

    /// Finds the documents of the pieces. A target counts if its document is not held out and, under `Document`, is
    /// that of its input.
    pub fn lay_out(&mut self, domain: &Domain, attention: Attention) -> Result<()> {
        self.documents.clear();
        self.counted.clear();
        let mut place = 0;
        for (i, piece) in self.pieces.iter().enumerate() {
            let inputs = piece.inputs as usize;
            if self.joined {
                // The target of the last input is in another document, unless the row ends here.
                let joint = attention == Attention::Document && i + 1 < self.pieces.len();
                self.counted.push(place..place + inputs.saturating_sub(usize::from(joint)));
                self.documents.extend((inputs > 0).then_some(place as u32));
            } else {
                let (documents, counted) = (&mut self.documents, &mut self.counted);
                each_span(domain, piece.first, inputs + 1, |span, held_out| {
                    documents.extend((span.start < inputs).then_some((place + span.start) as u32));
                    // The first token of a document has a context only under `Full`.
                    let first = match attention {
                        Attention::Document => span.start,
                        Attention::Full => span.start.saturating_sub(1),
                    };
                    if !held_out {
                        counted.push(place + first..place + span.end - 1);
                    }
                })?;
            }
            place += inputs;
        }
        if attention == Attention::Full {
            self.documents.clear();
            self.documents.push(0);
        }
        if place < self.seq_len && (place > 0 || self.documents.is_empty()) {
            self.documents.push(place as u32);
        }
        Ok(())
    }

    /// Total weight of the targets, without reading tokens. After `lay_out`.
    pub fn weight(&mut self, domain: &Domain) -> Result<f64> {
        if domain.weights.is_none() {
            return Ok(self.counted.iter().map(|range| range.len() as f64).sum());
        }
        self.read_values(domain)?;
        let of = |range: &Range<usize>| self.values[range.clone()].iter().map(|&v| f64::from(v)).sum::<f64>();
        Ok(self.counted.iter().map(of).sum())
    }

    /// Adds the row to a batch. After `lay_out`.
    pub fn append(&mut self, domain: &Domain, id: u64, number: u16, batch: &mut Batch) -> Result<()> {
        let begin = batch.tokens.len();
        let t = self.seq_len;
        if self.joined {
            self.read_joined(domain)?;
            batch.tokens.extend_from_slice(&self.tokens[..t]);
            batch.targets.extend_from_slice(&self.tokens[1..]);
        } else {
            for piece in &self.pieces {
                let inputs = piece.inputs as usize;
                self.tokens.resize(inputs + 1, 0);
                domain.corpus.read(piece.first, &mut self.tokens)?;
                batch.tokens.extend_from_slice(&self.tokens[..inputs]);
                batch.targets.extend_from_slice(&self.tokens[1..]);
            }
            batch.tokens.resize(begin + t, 0);
            batch.targets.resize(begin + t, 0);
        }
        batch.weights.resize(begin + t, 0.0);
        let weights = &mut batch.weights[begin..];
        if domain.weights.is_none() {
            self.counted.iter().for_each(|range| weights[range.clone()].fill(1.0));
        } else {
            self.read_values(domain)?;
            let values = &self.values;
            self.counted.iter().for_each(|r| weights[r.clone()].copy_from_slice(&values[r.clone()]));
        }
        batch.end_row(id, number, &self.documents);
        Ok(())
    }

    /// The T + 1 tokens of a joined row.
    fn read_joined(&mut self, domain: &Domain) -> Result<()> {
        self.tokens.resize(self.seq_len + 1, 0);
        let mut place = 0;
        for (i, piece) in self.pieces.iter().enumerate() {
            let end = place + piece.inputs as usize + usize::from(i + 1 == self.pieces.len());
            domain.corpus.read(piece.first, &mut self.tokens[place..end])?;
            place = end;
        }
        Ok(())
    }

    /// What the side stream says of the T targets; 0 where there is none.
    fn read_values(&mut self, domain: &Domain) -> Result<()> {
        let Some(stream) = &domain.weights else { return Ok(()) };
        self.values.clear();
        self.values.resize(self.seq_len, 0.0);
        let mut place = 0;
        for (i, piece) in self.pieces.iter().enumerate() {
            let inputs = piece.inputs as usize;
            // The targets within the row that this piece's tokens are, and the first of these tokens.
            let (targets, first) = match self.joined {
                false => (place..place + inputs, piece.first + 1),
                true => {
                    let end = place + inputs - usize::from(i + 1 < self.pieces.len());
                    if i == 0 { (0..end, piece.first + 1) } else { (place - 1..end, piece.first) }
                }
            };
            stream.read(first, &mut self.values[targets])?;
            place += inputs;
        }
        match self.values.iter().find(|v| !v.is_finite()) {
            None => Ok(()),
            Some(v) => {
                let problem = format!(
                    "the side stream that weighs the targets of corpus \"{}\" holds {v}",
                    domain.name
                );
                let remedy = "write it again with finite numbers";
                Err(Error::data(domain.corpus.prefix(), problem, remedy))
            }
        }
    }
}

/// Calls `f` with the part of each document that lies in the `len` tokens from `first`, as positions in 0..len, and
/// whether it is held out. Without gaps or empty parts.
fn each_span(domain: &Domain, first: u64, len: usize, mut f: impl FnMut(Range<usize>, bool)) -> Result<()> {
    let corpus = &domain.corpus;
    let end = first + len as u64;
    let mut doc = corpus.document_at(first)?;
    loop {
        let range = corpus.document_range(doc)?;
        let (begin, stop) = (range.start.max(first), range.end.min(end));
        if begin < stop {
            f((begin - first) as usize..(stop - first) as usize, domain.holds_out(doc)?);
        }
        if range.end >= end {
            return Ok(());
        }
        doc += 1;
    }
}
