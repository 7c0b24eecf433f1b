//! One sample: a window of T + 1 tokens of a domain, where its documents begin, and which targets count.

use super::batch::Attention;
use super::corpus::Corpus;
use crate::Result;
use std::sync::Arc;

/// A corpus as a run uses it.
#[derive(Debug, Clone)]
pub struct Domain {
    pub name: String,
    pub corpus: Arc<Corpus>,
    /// The share of documents that is never trained on: those whose hash / 2^64 is below this.
    pub holdout: f64,
    /// Most passes over the corpus in one run.
    pub max_epochs: Option<u64>,
}

impl Domain {
    /// Whether document `doc` is held out. A function of its first bytes and `holdout`; a larger holdout keeps all
    /// that a smaller one held.
    pub fn holds_out(&self, doc: u64) -> Result<bool> {
        if self.holdout <= 0.0 || self.holdout >= 1.0 {
            return Ok(self.holdout >= 1.0);
        }
        // 2^64; that the hash is rounded to 53 bits moves no document by a share that matters.
        Ok((self.corpus.document_hash(doc)? as f64) < self.holdout * 18_446_744_073_709_551_616.0)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its number in the run.
    pub id: u64,
    pub domain: usize,
    /// T + 1 tokens: inputs are the first T, the target of input t is token t + 1.
    pub tokens: Vec<u32>,
    /// T: the weight of predicting token t + 1, 0 or 1.
    pub weights: Vec<f32>,
    /// Where documents begin among the T inputs: first 0, strictly increasing.
    pub documents: Vec<u32>,
}

/// The part of one document that lies in a window, as positions 0..=T.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub begin: usize,
    pub end: usize,
    pub held_out: bool,
}

/// The documents of the `len` tokens from `first`, without gaps or empty ones.
pub(super) fn spans(domain: &Domain, first: u64, len: usize) -> Result<Vec<Span>> {
    let corpus = &domain.corpus;
    let end = first + len as u64;
    let mut spans = Vec::new();
    let mut doc = corpus.document_at(first)?;
    loop {
        let range = corpus.document_range(doc)?;
        let (begin, stop) = (range.start.max(first), range.end.min(end));
        if begin < stop {
            let held_out = domain.holds_out(doc)?;
            spans.push(Span { begin: (begin - first) as usize, end: (stop - first) as usize, held_out });
        }
        if range.end >= end {
            return Ok(spans);
        }
        doc += 1;
    }
}

/// The targets of a span that count, as input positions. A document's first token counts only under `Full`, where
/// what precedes it is its context; a held-out document has none.
fn counted(span: &Span, attention: Attention) -> std::ops::Range<usize> {
    let first = match attention {
        Attention::Document => span.begin,
        Attention::Full => span.begin.saturating_sub(1),
    };
    let end = if span.held_out { first } else { span.end - 1 };
    first..end
}

/// The number of targets of a window that count, without reading its tokens.
pub(super) fn weight_sum(spans: &[Span], attention: Attention) -> u64 {
    spans.iter().map(|span| counted(span, attention).len() as u64).sum()
}

impl Sample {
    pub(super) fn read(
        id: u64,
        domain_index: usize,
        domain: &Domain,
        first: u64,
        seq_len: usize,
        attention: Attention,
    ) -> Result<Sample> {
        let mut tokens = vec![0; seq_len + 1];
        domain.corpus.read(first, &mut tokens)?;
        let spans = spans(domain, first, seq_len + 1)?;
        let mut weights = vec![0.0; seq_len];
        for span in &spans {
            weights[counted(span, attention)].fill(1.0);
        }
        let documents = match attention {
            Attention::Full => vec![0],
            Attention::Document => {
                spans.iter().map(|span| span.begin as u32).filter(|&begin| begin < seq_len as u32).collect()
            }
        };
        Ok(Sample { id, domain: domain_index, tokens, weights, documents })
    }
}
