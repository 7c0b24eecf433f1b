//! The three arrays of a corpus: document index, sample index, shuffle index.

use super::random::RandomState;
use crate::data::Corpus;
use crate::data::row::{Piece, Row};
use crate::{Error, Result};
use std::ops::Range;
use std::time::Instant;

/// A last epoch that gives less than this share of its samples is shuffled apart.
const THRESHOLD: f64 = 0.80;

/// All that the arrays depend on, but for the corpus.
#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    pub seed: u32,
    pub seq_len: u64,
    /// Samples asked for.
    pub samples: u64,
    /// The sequences of the training part.
    pub sequences: Range<u64>,
}

/// What the arrays will be, known before they are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub epochs: u64,
    /// Samples there will be, at least those asked for.
    pub samples: u64,
    /// Of these, the samples before the last epoch, if that is shuffled apart.
    pub apart: Option<u64>,
    pub bytes: u64,
}

/// About 12 bytes a sample and 4 bytes a sequence and epoch.
pub struct Arrays {
    key: Key,
    size: Size,
    documents: Vec<u32>,
    /// Where each sample begins: index into `documents`, offset in that sequence.
    starts: Vec<(u32, u32)>,
    shuffled: Vec<u32>,
}

impl Size {
    /// `tokens`: of the training part, at least 1. None if the numbers pass 2^63.
    pub fn new(key: &Key, tokens: u64) -> Option<Size> {
        let t = key.seq_len;
        let asked = key.samples.checked_mul(t)?.checked_add(1)?;
        let epochs = asked.div_ceil(tokens).max(1);
        let samples = (epochs.checked_mul(tokens)? - 1) / t;
        let apart = (epochs > 1).then(|| {
            // One token can be too few for any sample.
            let before = ((epochs - 1) * tokens - 1) / t;
            let whole = (THRESHOLD * ((tokens - 1) / t) as f64) as u64;
            (before, key.samples - before < whole)
        });
        let documents = (key.sequences.end - key.sequences.start).checked_mul(epochs)?;
        let bytes = documents.checked_mul(4)?.checked_add(samples.checked_mul(12)?)?;
        (bytes < 1 << 63).then_some(Size {
            epochs,
            samples,
            apart: apart.and_then(|(before, apart)| apart.then_some(before)),
            bytes,
        })
    }
}

impl Arrays {
    /// `size` of this key, checked to be in bounds; `lengths` of the sequences of the training part.
    pub fn build(name: &str, key: Key, size: Size, lengths: &[u32]) -> Arrays {
        let began = Instant::now();
        let mut random = RandomState::new(key.seed);
        let documents = document_index(&key, &size, &mut random);
        // The shuffle index needs nothing of the sample index but its length.
        let (starts, shuffled) = std::thread::scope(|scope| {
            let starts = scope.spawn(|| sample_index(&key, &size, &documents, lengths));
            let shuffled = shuffle_index(&size, &mut random);
            (starts.join().expect("walking over checked lengths does not panic"), shuffled)
        });
        tracing::info!(
            "corpus \"{name}\": Megatron's order of {} samples in {} epochs{}, {:.1} MiB built in {:.2} s",
            size.samples,
            size.epochs,
            if size.apart.is_some() { ", the last one shuffled apart" } else { "" },
            size.bytes as f64 / f64::from(1 << 20),
            began.elapsed().as_secs_f64()
        );
        Arrays { key, size, documents, starts, shuffled }
    }

    pub fn key(&self) -> &Key {
        &self.key
    }
    /// Samples there are.
    pub fn samples(&self) -> u64 {
        self.size.samples
    }

    /// Which row of the text sample k is; k < samples.
    pub fn row(&self, k: u64) -> u64 {
        self.shuffled[k as usize].into()
    }

    /// Passes over the training part that the text is.
    pub fn epochs(&self) -> u64 {
        self.size.epochs
    }

    /// Row j of the text: T + 1 tokens of one sequence after another. j < samples.
    pub fn lay(&self, corpus: &Corpus, j: u64, row: &mut Row) -> Result<()> {
        let (mut at, offset) = self.starts[j as usize];
        let (mut offset, mut wanted) = (u64::from(offset), self.key.seq_len + 1);
        row.joined = true;
        loop {
            let Some(&sequence) = self.documents.get(at as usize) else {
                let problem = format!("row {j} runs past the sequences that its order was built from");
                return Err(Error::data(corpus.prefix(), problem, "restore the corpus the run began with"));
            };
            let range = corpus.sequence_range(u64::from(sequence))?;
            let tokens = (range.end - range.start).saturating_sub(offset).min(wanted);
            wanted -= tokens;
            if tokens > 0 {
                // The last token of the row is a target only.
                let inputs = tokens - u64::from(wanted == 0);
                row.pieces.push(Piece { first: range.start + offset, inputs: inputs as u32 });
            }
            if wanted == 0 {
                return Ok(());
            }
            (at, offset) = (at + 1, 0);
        }
    }
}

/// Sequence numbers of E epochs, shuffled, the last epoch apart if it is so.
fn document_index(key: &Key, size: &Size, random: &mut RandomState) -> Vec<u32> {
    let one = (key.sequences.end - key.sequences.start) as usize;
    let mut documents = Vec::with_capacity(one * size.epochs as usize);
    for _ in 0..size.epochs {
        documents.extend(key.sequences.clone().map(|sequence| sequence as u32));
    }
    let before = if size.apart.is_some() { documents.len() - one } else { documents.len() };
    let (first, last) = documents.split_at_mut(before);
    random.shuffle(first);
    random.shuffle(last);
    documents
}

/// Where each sample begins. A sample begins at the last token of the one before it, so where that one ends with its
/// sequence, at the end of that sequence and not at the beginning of the next.
fn sample_index(key: &Key, size: &Size, documents: &[u32], lengths: &[u32]) -> Vec<(u32, u32)> {
    let length = |at: usize| u64::from(lengths[documents[at] as usize - key.sequences.start as usize]);
    let mut starts = Vec::with_capacity(size.samples as usize);
    let (mut at, mut offset) = (0, 0);
    for sample in 0..size.samples {
        starts.push((at as u32, offset as u32));
        if sample + 1 == size.samples {
            break;
        }
        let mut wanted = key.seq_len + 1;
        loop {
            let here = length(at) - offset;
            if here >= wanted {
                offset += wanted - 1;
                break;
            }
            wanted -= here;
            (at, offset) = (at + 1, 0);
        }
    }
    starts
}

fn shuffle_index(size: &Size, random: &mut RandomState) -> Vec<u32> {
    let mut shuffled: Vec<u32> = (0..size.samples as u32).collect();
    let (first, last) = shuffled.split_at_mut(size.apart.unwrap_or(size.samples) as usize);
    random.shuffle(first);
    random.shuffle(last);
    shuffled
}
