//! One document in each row: its first T inputs and their targets; the rest of a long document is never read.
//!
//! Documents of fewer than two tokens predict nothing and have no row. There are few of them as a rule, so their
//! numbers are kept and row j is found by counting those before it.

use crate::data::Corpus;
use crate::data::domain::BLOCK;
use crate::{Error, Result};

/// Most documents without a row: 1 GiB of numbers.
const MOST: usize = 1 << 27;

/// The rows of a corpus, and what they leave out.
#[derive(Debug)]
pub struct OneDoc {
    /// R.
    rows: u64,
    /// Documents without a row, ascending.
    short: Vec<u64>,
    /// Documents longer than T + 1 tokens.
    pub cut: u64,
    /// Targets that a row has, and those that none has: of long documents after the T-th.
    pub kept: u64,
    pub lost: u64,
}

impl OneDoc {
    /// Reads the whole index of the corpus.
    pub fn new(corpus: &Corpus, seq_len: usize) -> Result<OneDoc> {
        let mut one = OneDoc { rows: 0, short: Vec::new(), cut: 0, kept: 0, lost: 0 };
        let mut starts = vec![0; BLOCK + 1];
        for first in (0..corpus.documents()).step_by(BLOCK) {
            let count = (corpus.documents() - first).min(BLOCK as u64) as usize;
            corpus.document_starts(first, &mut starts[..=count])?;
            for (doc, ends) in (first..).zip(starts[..=count].windows(2)) {
                one.add(corpus, doc, ends[1] - ends[0], seq_len as u64)?;
            }
        }
        Ok(one)
    }

    fn add(&mut self, corpus: &Corpus, doc: u64, tokens: u64, seq_len: u64) -> Result<()> {
        if tokens >= 2 {
            let lost = (tokens - 1).saturating_sub(seq_len);
            self.rows += 1;
            self.cut += u64::from(lost > 0);
            self.kept += tokens - 1 - lost;
            self.lost += lost;
            return Ok(());
        }
        self.short.push(doc);
        if self.short.len() > MOST {
            let problem = format!("more than {MOST} documents have fewer than two tokens");
            let remedy = "set packing = \"best-fit\" or build the corpus without them";
            return Err(Error::data(corpus.prefix(), problem, remedy));
        }
        Ok(())
    }

    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Documents that have no row.
    pub fn left_out(&self) -> u64 {
        self.short.len() as u64
    }

    /// The document of row `row`.
    pub fn document(&self, row: u64) -> u64 {
        // The i-th short document has short[i] − i documents with a row before it.
        let (mut low, mut high) = (0, self.short.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.short[middle] - middle as u64 <= row { low = middle + 1 } else { high = middle }
        }
        row + low as u64
    }
}
