//! What a rank called, and whether the ranks of a group called the same.

use super::{Kind, Reduce};
use crate::device::DType;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// What a rank called; all ranks of a group must agree on it.
#[derive(Clone, PartialEq)]
pub struct Call {
    pub kind: Kind,
    pub reduce: Reduce,
    pub root: usize,
    pub dtype: DType,
    pub len: usize,
    pub what: Arc<str>,
}

impl Call {
    pub fn bytes(&self) -> usize {
        self.len * self.dtype.bytes()
    }
    /// The values that rank r of n reduces, or owns.
    pub fn slice(&self, r: usize, n: usize) -> Range<usize> {
        // Two ranks do not write to one cache line.
        let line = if self.kind == Kind::AllReduce { 64 / self.dtype.bytes() } else { 1 };
        let each = self.len.div_ceil(n).next_multiple_of(line);
        (r * each).min(self.len)..((r + 1) * each).min(self.len)
    }
    /// Why n ranks cannot do it.
    pub fn refusal(&self, n: usize) -> Option<String> {
        match self.kind {
            Kind::ReduceScatter | Kind::AllGather | Kind::AllToAll if !self.len.is_multiple_of(n) => {
                Some(format!("{self} over {n} ranks, which do not divide the number of values"))
            }
            Kind::Broadcast if self.root >= n => {
                Some(format!("{self} over {n} ranks, which have no such root"))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Call { kind, reduce, root, dtype, len, what } = self;
        match kind {
            Kind::Barrier | Kind::Split => write!(f, "{kind} ({what})"),
            Kind::AllReduce => write!(f, "{kind} {} of {len} {dtype} ({what})", reduce.name()),
            Kind::Broadcast => write!(f, "{kind} from {root} of {len} {dtype} ({what})"),
            _ => write!(f, "{kind} of {len} {dtype} ({what})"),
        }
    }
}

/// None if all ranks called the same and it can be done, else the world rank that differs from most and what is wrong.
/// All ranks get the same answer. `calls` by rank of the group, `members` are the world ranks.
pub fn disagreement(calls: &[&Call], members: &[usize]) -> Option<(usize, String)> {
    let n = calls.len();
    if calls.iter().all(|call| *call == calls[0]) {
        return calls[0].refusal(n).map(|problem| (members[0], format!("called {problem}")));
    }
    let votes = |&r: &usize| calls.iter().filter(|call| **call == calls[r]).count();
    let most = (0..n).rev().max_by_key(votes).expect("a group has ranks");
    let odd = (0..n).find(|&r| calls[r] != calls[most]).expect("they differ");
    Some((members[odd], format!("called {} where rank {} called {}", calls[odd], members[most], calls[most])))
}
