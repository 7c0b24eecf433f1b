//! The samples of one domain: sample j of a domain is a row of it, row j mod R of pass ⌊j / R⌋ in the stream order, and
//! under Megatron's order what its arrays say.

use super::domain::Domain;
use super::megatron::Arrays;
use super::order::Order;
use super::packing::{OneDoc, Packer};
use super::row::{Piece, Row};
use crate::Result;
use crate::config::{self, Packing};
use std::sync::Arc;

/// Passes of one cursor; those of the next are numbered from here, so that they come in orders of their own.
const PASSES: u64 = 1 << 40;

pub(super) struct Source {
    pub domain: Domain,
    rows: Rows,
    /// R, at least 1.
    per_pass: u64,
    /// Samples it can give.
    limit: u64,
    seq_len: u64,
    /// Cursors of the run before this one.
    cursor: u64,
}

enum Rows {
    /// Never drawn from.
    None,
    Window(Order),
    BestFit(Order, Packer),
    OneDoc(Order, Arc<OneDoc>),
    Megatron(Arc<Arrays>),
}

/// Where sample j of a domain is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub pass: u64,
    /// Row of the corpus; under Megatron's order, of the text that its shuffled sequences are.
    pub row: u64,
}

/// Samples in one pass over a domain.
pub(super) fn per_pass(domain: &Domain, seq_len: usize) -> Result<u64> {
    let t = seq_len as u64;
    Ok(match (domain.order, domain.packing) {
        (config::Order::Megatron, _) => (domain.training_part()?.tokens - 1) / t,
        (config::Order::Stream, Packing::OneDoc) => domain.one_doc(seq_len)?.rows(),
        (config::Order::Stream, Packing::Window | Packing::BestFit) => (domain.corpus.tokens() - 1) / t,
    })
}

impl Source {
    /// A domain that is not drawn from.
    pub fn none(domain: Domain, seq_len: usize) -> Source {
        let per_pass = ((domain.corpus.tokens() - 1) / seq_len as u64).max(1);
        Source { domain, rows: Rows::None, per_pass, limit: 0, seq_len: seq_len as u64, cursor: 0 }
    }

    pub fn stream(domain: Domain, seed: u64, seq_len: usize, cursor: u64) -> Result<Source> {
        let per_pass = per_pass(&domain, seq_len)?;
        let order = Order::new(seed, &domain.name, per_pass);
        let rows = match domain.packing {
            Packing::Window => Rows::Window(order),
            Packing::BestFit => Rows::BestFit(order, Packer::new(seq_len, domain.pack_group, per_pass)),
            Packing::OneDoc => Rows::OneDoc(order, domain.one_doc(seq_len)?),
        };
        let limit = PASSES.saturating_mul(per_pass);
        Ok(Source { domain, rows, per_pass, limit, seq_len: seq_len as u64, cursor })
    }

    pub fn megatron(domain: Domain, arrays: Arc<Arrays>, tokens: u64, seq_len: usize) -> Source {
        let per_pass = ((tokens - 1) / seq_len as u64).max(1);
        let limit = arrays.samples();
        Source { domain, rows: Rows::Megatron(arrays), per_pass, limit, seq_len: seq_len as u64, cursor: 0 }
    }

    pub fn per_pass(&self) -> u64 {
        self.per_pass
    }
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Tokens that one pass predicts; for orders that have passes.
    pub fn reached(&self) -> u64 {
        match &self.rows {
            Rows::OneDoc(_, one) => one.kept,
            _ => self.per_pass * self.seq_len,
        }
    }

    /// The passes that Megatron's order shuffles together.
    pub fn epochs(&self) -> Option<u64> {
        match &self.rows {
            Rows::Megatron(arrays) => Some(arrays.epochs()),
            _ => None,
        }
    }

    /// Where sample `index` is; index < limit.
    pub fn place(&self, index: u64) -> Place {
        let (pass, position) = (index / self.per_pass, index % self.per_pass);
        let row = match &self.rows {
            Rows::None => 0,
            Rows::Window(order) | Rows::BestFit(order, _) | Rows::OneDoc(order, _) => {
                order.window(self.cursor * PASSES + pass, position)
            }
            Rows::Megatron(arrays) => return Place { pass: 0, row: arrays.row(index) },
        };
        Place { pass, row }
    }

    /// The pieces of a row.
    pub fn lay(&mut self, place: Place, row: &mut Row) -> Result<()> {
        row.clear();
        let t = self.seq_len;
        match &mut self.rows {
            Rows::None => {}
            Rows::Window(_) => row.pieces.push(Piece { first: place.row * t, inputs: t as u32 }),
            Rows::BestFit(_, packer) => packer.lay(&self.domain.corpus, place.row, &mut row.pieces)?,
            Rows::OneDoc(_, one) => {
                let range = self.domain.corpus.document_range(one.document(place.row))?;
                let inputs = (range.end - range.start).saturating_sub(1).min(t) as u32;
                row.pieces.push(Piece { first: range.start, inputs });
            }
            Rows::Megatron(arrays) => arrays.lay(&self.domain.corpus, place.row, row)?,
        }
        Ok(())
    }
}
