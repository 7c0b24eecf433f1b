//! Samples side by side, as the model takes them: flat arrays of N = rows · T.

use serde::{Deserialize, Serialize};

/// What a token may attend to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attention {
    /// Earlier tokens of its own document; positions restart with each document, and a document's last token has no
    /// target.
    Document,
    /// Earlier tokens of its row.
    Full,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    pub rows: usize,
    /// T.
    pub seq_len: usize,
    /// N.
    pub tokens: Vec<u32>,
    /// N: the token after each.
    pub targets: Vec<u32>,
    /// N: what each target counts in the loss.
    pub weights: Vec<f32>,
    /// N: distance from the start of the document (or of the row, if the document began before it).
    pub positions: Vec<u32>,
    /// Where attention is cut, over all rows: 0, every row start, under `Document` every document start, N.
    pub cu_seqlens: Vec<u32>,
    /// rows: the number of each sample in the run.
    pub sample_ids: Vec<u64>,
    /// rows.
    pub domains: Vec<u16>,
    /// N, for networks with token types.
    pub token_types: Option<Vec<u32>>,
}

impl Batch {
    pub(super) fn with_capacity(rows: usize, seq_len: usize) -> Batch {
        let n = rows * seq_len;
        Batch {
            rows: 0,
            seq_len,
            tokens: Vec::with_capacity(n),
            targets: Vec::with_capacity(n),
            weights: Vec::with_capacity(n),
            positions: Vec::with_capacity(n),
            cu_seqlens: vec![0],
            sample_ids: Vec::with_capacity(rows),
            domains: Vec::with_capacity(rows),
            token_types: None,
        }
    }

    /// Ends a row whose T tokens, targets and weights have been appended. `documents`: where they begin among these,
    /// first 0, strictly increasing.
    pub(super) fn end_row(&mut self, id: u64, domain: u16, documents: &[u32]) {
        let row = (self.rows * self.seq_len) as u32;
        for (i, &begin) in documents.iter().enumerate() {
            let end = documents.get(i + 1).copied().unwrap_or(self.seq_len as u32);
            self.positions.extend(0..end - begin);
            self.cu_seqlens.push(row + end);
        }
        self.sample_ids.push(id);
        self.domains.push(domain);
        self.rows += 1;
    }

    /// Total weight of the targets.
    pub fn weight_sum(&self) -> f64 {
        self.weights.iter().map(|&w| f64::from(w)).sum()
    }
}
