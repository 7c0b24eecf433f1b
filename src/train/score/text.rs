//! Bytes of text under a scoring's predictions, for bits per byte: Σ −log2 p / bytes.

use crate::Result;
use crate::data::Corpus;
use crate::data::tokenizer::Tokenizer;
use std::ops::Range;

/// Tokens that are read at once.
const BLOCK: u64 = 1 << 16;

/// What is known of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextBytes {
    /// Of the predicted tokens, as an evaluation counts them: ends of documents are no text.
    Predicted(u64),
    /// Of the text that the whole corpus was built from. The first tokens of its documents are part of it but not
    /// predicted, so bits per byte come out a little low.
    Source(u64),
    /// Why not.
    Unknown(&'static str),
}

impl TextBytes {
    /// Of all tokens of `documents` but the first of each. Reads them where the tokenizer says what an id stands for.
    pub fn of(corpus: &Corpus, documents: &Range<u64>) -> Result<TextBytes> {
        if let Some(lengths) = Tokenizer::of(corpus)?.and_then(|t| t.byte_lengths()) {
            return predicted(corpus, documents, &lengths).map(TextBytes::Predicted);
        }
        Ok(match corpus.meta().source_bytes {
            0 => TextBytes::Unknown(
                "neither its tokenizer nor its description says what text it was built from",
            ),
            bytes if *documents == (0..corpus.documents()) => TextBytes::Source(bytes),
            _ => TextBytes::Unknown(
                "its tokenizer does not say what an id stands for, and only a part was scored",
            ),
        })
    }

    pub fn count(self) -> Option<u64> {
        match self {
            TextBytes::Predicted(bytes) | TextBytes::Source(bytes) => Some(bytes),
            TextBytes::Unknown(_) => None,
        }
    }

    /// Bits per byte of predictions that have −log p of `nll` nats together.
    pub fn bits(self, nll: f64) -> Option<f64> {
        self.count().filter(|&bytes| bytes > 0).map(|bytes| nll / std::f64::consts::LN_2 / bytes as f64)
    }
}

fn predicted(corpus: &Corpus, documents: &Range<u64>, lengths: &[u16]) -> Result<u64> {
    // Ids of a padded vocabulary stand for nothing.
    let length = |&id: &u32| u64::from(lengths.get(id as usize).copied().unwrap_or(0));
    let (mut bytes, mut ids) = (0, vec![]);
    for document in documents.clone() {
        let range = corpus.document_range(document)?;
        let mut at = range.start + 1;
        while at < range.end {
            ids.resize((range.end - at).min(BLOCK) as usize, 0);
            corpus.read(at, &mut ids)?;
            bytes += ids.iter().map(length).sum::<u64>();
            at += ids.len() as u64;
        }
    }
    Ok(bytes)
}
