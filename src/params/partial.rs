//! Gradients that a rank of tp has only in part although it holds all of the tensor: of its rows of x for the norms between
//! the tensor-parallel regions (sequence parallelism), of its heads for the norms of heads, and of its q heads for a
//! kv head that several ranks hold.
//!
//! They are summed once, when a unit's gradients are complete and before these leave over dp: one small buffer over tp,
//! and one over the ranks that hold the same kv head.

use super::spec::Shard;
use super::unit::{Covers, Placed, Unit};
use crate::Result;
use crate::comm::{Comm, Pending, Reduce};
use crate::device::{Category, Device};
use crate::tensor::Tensor;
use std::ops::Range;
use std::sync::Arc;

pub struct Partial {
    pub tp: Arc<dyn Comm>,
    /// The ranks of tp with the same kv heads as this one.
    pub kv: Arc<dyn Comm>,
    /// Whether ranks see only their rows of x.
    pub sequence_parallel: bool,
}

impl Partial {
    /// Collective over tp.
    pub fn sum(&self, dev: &Device, u: &mut Unit) -> Result<()> {
        let of_tp = |p: &Placed| match (p.spec.shard, p.covers) {
            (Shard::Replicated, Covers::Rows) => self.sequence_parallel,
            (Shard::Replicated, Covers::Heads) => true,
            _ => false,
        };
        let tp = Sum::start(dev, u, self.tp.as_ref(), of_tp)?;
        let of_kv = |p: &Placed| matches!(p.spec.shard, Shard::Heads { .. }) && p.covers == Covers::Heads;
        let kv = Sum::start(dev, u, self.kv.as_ref(), of_kv)?;
        tp.into_iter().chain(kv).try_for_each(|sum| sum.finish(u))
    }
}

/// Some gradients of a unit on their way, one behind the other in one buffer.
struct Sum {
    ranges: Vec<Range<usize>>,
    flight: Pending,
}

impl Sum {
    /// None if there is nothing to sum.
    fn start(
        dev: &Device,
        u: &Unit,
        group: &dyn Comm,
        picked: impl Fn(&Placed) -> bool,
    ) -> Result<Option<Sum>> {
        let ranges: Vec<_> = u.params.iter().filter(|p| picked(p)).map(Placed::range).collect();
        let len = ranges.iter().map(Range::len).sum();
        if group.size() == 1 || len == 0 {
            return Ok(None);
        }
        let mut buffer = Tensor::empty(dev, 1, len, u.grad_dtype(), Category::Comm);
        if !dev.is_meta() {
            let mut rest = buffer.bytes_mut();
            for range in &ranges {
                let from = &u.grads.bytes()[in_bytes(u, range)];
                let (to, after) = rest.split_at_mut(from.len());
                to.copy_from_slice(from);
                rest = after;
            }
        }
        let what = format!("{} partial grads", u.name);
        Ok(Some(Sum { ranges, flight: group.all_reduce(buffer, Reduce::Sum, &what)? }))
    }

    fn finish(self, u: &mut Unit) -> Result<()> {
        let sum = self.flight.wait()?;
        if sum.is_meta() {
            return Ok(());
        }
        let mut rest = sum.bytes();
        for range in &self.ranges {
            let to = in_bytes(u, range);
            let (from, after) = rest.split_at(to.len());
            u.grads.bytes_mut()[to].copy_from_slice(from);
            rest = after;
        }
        Ok(())
    }
}

/// Elements of a unit's gradients as bytes.
fn in_bytes(u: &Unit, range: &Range<usize>) -> Range<usize> {
    let size = u.grad_dtype().bytes();
    range.start * size..range.end * size
}
