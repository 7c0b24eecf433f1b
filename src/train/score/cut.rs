//! Documents cut into batches of windows, for scoring.
//!
//! A document of n tokens has n − 1 predictions: its first token has none. Window k of it has the inputs k·S to
//! k·S + T, less at the end; of its predictions those count that no window before it made, so from the second window
//! on a prediction has T − S tokens of context or more (S = T: windows do not overlap, as in an evaluation). Windows
//! shorter than T share rows, each a document of its own for attention and positions: a window goes to the first row
//! of the batch that has room, and a batch ends at the first window that finds none. So batches are a function of the
//! corpus, T, S and their rows alone, and what they predict follows the order of the corpus.

use crate::Result;
use crate::data::Corpus;
use crate::tape::Seq;
use crate::train::step::MicroBatch;
use serde::{Deserialize, Serialize};
use std::ops::Range;

/// How far scoring is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The first document that has predictions to be made.
    pub document: u64,
    /// Those made in it.
    pub made: u64,
}

/// A window and where it lies in its batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub document: u64,
    /// Its first input, as a token of the corpus.
    pub first: u64,
    pub inputs: usize,
    /// Inputs at its beginning whose prediction an earlier window made.
    pub context: usize,
    pub row: usize,
    pub col: usize,
}

impl Piece {
    /// The predictions that count, among the N of the batch.
    pub fn counted(&self, seq_len: usize) -> Range<usize> {
        let start = self.row * seq_len + self.col;
        start + self.context..start + self.inputs
    }
}

/// The shape of batches and the rule of windows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    /// T
    pub seq_len: usize,
    /// S, from 1 to T
    pub stride: usize,
    /// Of a batch.
    pub rows: usize,
}

/// Cuts batch after batch.
pub struct Cutter<'a> {
    corpus: &'a Corpus,
    windows: Windows,
    /// The next window.
    place: Place,
    /// One past the last document.
    end: u64,
}

impl<'a> Cutter<'a> {
    pub fn new(corpus: &'a Corpus, windows: Windows, place: Place, end: u64) -> Cutter<'a> {
        Cutter { corpus, windows, place, end }
    }

    /// Where the next batch begins.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The windows of the next batch in the order of the corpus; none at the end.
    pub fn take(&mut self) -> Result<Vec<Piece>> {
        let Windows { seq_len, rows, .. } = self.windows;
        let (mut pieces, mut used) = (vec![], vec![0; rows]);
        loop {
            let before = self.place;
            let Some(piece) = self.window()? else { return Ok(pieces) };
            let Some(row) = used.iter().position(|used| used + piece.inputs <= seq_len) else {
                self.place = before;
                return Ok(pieces);
            };
            pieces.push(Piece { row, col: used[row], ..piece });
            used[row] += piece.inputs;
        }
    }

    fn window(&mut self) -> Result<Option<Piece>> {
        let Windows { seq_len, stride, .. } = self.windows;
        while self.place.document < self.end {
            let Place { document, made } = self.place;
            let range = self.corpus.document_range(document)?;
            let inputs = (range.end - range.start).saturating_sub(1);
            if made < inputs {
                let start = if made == 0 { 0 } else { made - (seq_len - stride) as u64 };
                let length = (inputs - start).min(seq_len as u64);
                self.place.made = start + length;
                let (first, context) = (range.start + start, (made - start) as usize);
                let inputs = length as usize;
                return Ok(Some(Piece { document, first, inputs, context, row: 0, col: 0 }));
            }
            self.place = Place { document: document + 1, made: 0 };
        }
        Ok(None)
    }

    /// What the model sees of a batch; rows and rests without a window have weight 0.
    pub fn batch(&self, pieces: &[Piece]) -> Result<MicroBatch> {
        let Windows { seq_len, rows, .. } = self.windows;
        let n = rows * seq_len;
        let mut seq = Seq {
            rows,
            seq_len,
            tokens: vec![0; n],
            positions: Vec::with_capacity(n),
            cu_seqlens: vec![0],
            token_types: vec![],
            sample_ids: (0..rows as u64).collect(),
        };
        let (mut targets, mut weights) = (vec![0; n], vec![0.0; n]);
        let mut tokens = vec![0; seq_len + 1];
        let mut lengths: Vec<Vec<usize>> = vec![vec![]; rows];
        for piece in pieces {
            let (at, len) = (piece.row * seq_len + piece.col, piece.inputs);
            let tokens = &mut tokens[..len + 1];
            self.corpus.read(piece.first, tokens)?;
            seq.tokens[at..at + len].copy_from_slice(&tokens[..len]);
            targets[at..at + len].copy_from_slice(&tokens[1..]);
            weights[piece.counted(seq_len)].fill(1.0);
            lengths[piece.row].push(len);
        }
        for (row, mut lengths) in lengths.into_iter().enumerate() {
            let rest = seq_len - lengths.iter().sum::<usize>();
            lengths.extend((rest > 0).then_some(rest));
            let mut end = row * seq_len;
            for len in lengths {
                end += len;
                seq.positions.extend(0..len as u32);
                seq.cu_seqlens.push(end as u32);
            }
        }
        Ok(MicroBatch { seq, targets, weights, domains: vec![0; rows] })
    }
}
