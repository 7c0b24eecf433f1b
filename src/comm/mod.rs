//! Communicators: collectives over a group of ranks, and the mesh of groups.
//!
//! A collective takes its buffer and returns `Pending`; only `Pending::wait` gives the buffer back, so a use before
//! it is ready does not compile. All ranks of a group start the same collectives in the same order and wait for
//! them in the same order; several may be in flight. A call that differs between ranks, a rank that fails and a
//! rank that does not come within the deadline are errors on every rank, never a hang.
//!
//! `Solo` is one rank without peers (and the planner's ranks, which only count); `Threads` are ranks that are
//! threads of this process; `mpi` has ranks that are processes (feature `mpi`). Sums run in rank order, so every rank,
//! every repetition and every transport gets the same bits.

mod call;
mod flight;
mod group;
pub mod launch;
pub mod mesh;
#[cfg(feature = "mpi")]
pub mod mpi;
pub mod nodes;
pub mod processes;
pub mod record;
mod reduce;
pub mod solo;
#[cfg(test)]
mod tests;
pub mod threads;

use crate::{Result, config::Reductions, tensor::Tensor};
use std::sync::Arc;
use std::time::Duration;

pub use mesh::Mesh;
pub use processes::run;
pub use record::{Job, Kind, Record, Spent, Traffic};
pub use solo::Solo;
pub use threads::{World, out_of_memory, run_ranks};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    Sum,
    /// A NaN on any rank gives NaN.
    Max,
}

impl Reduce {
    pub const fn name(self) -> &'static str {
        match self {
            Reduce::Sum => "sum",
            Reduce::Max => "max",
        }
    }
}

/// What a run asks of its ranks' communication.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// How long a rank waits for another before it calls it lost.
    pub deadline: Duration,
    /// Who sums, where ranks are processes.
    pub reductions: Reductions,
}

impl Setup {
    pub fn new(deadline: Duration) -> Setup {
        Setup { deadline, reductions: Reductions::Ordered }
    }
}

/// One group of ranks, n = `size()`. Collectives work in place on one full-size buffer. Slice r of a buffer is its
/// r-th n-th; where slices matter (all but `all_reduce` and `broadcast`) n divides the number of values.
///
/// `what` names the tensor in reports ("blocks.3 grads"). A tensor that is shared cannot be given: panics. On
/// tensors of the Meta device a collective is counted and nothing else happens. Errors: `RankLost`, from the call
/// or from `Pending::wait`, if a rank failed, called something else or did not come.
pub trait Comm: Send + Sync {
    /// Of this rank within the group.
    fn rank(&self) -> usize;
    fn size(&self) -> usize;
    /// "world", "dp", "tp": what the group is called in reports.
    fn axis(&self) -> &str;
    /// Sums are taken in rank order, f32 and f64 in their own precision, bf16 in f32 and rounded once.
    fn all_reduce(&self, t: Tensor, reduce: Reduce, what: &str) -> Result<Pending>;
    /// Slice `rank()` becomes the sum over ranks; the rest of the buffer is arbitrary afterwards.
    fn reduce_scatter(&self, t: Tensor, what: &str) -> Result<Pending>;
    /// Slice `rank()` is valid before, everything afterwards.
    fn all_gather(&self, t: Tensor, what: &str) -> Result<Pending>;
    fn broadcast(&self, t: Tensor, root: usize, what: &str) -> Result<Pending>;
    /// Slice j of rank i becomes slice i of rank j.
    fn all_to_all(&self, t: Tensor, what: &str) -> Result<Pending>;
    fn barrier(&self, what: &str) -> Result<()>;
    /// Groups of the ranks with the same color, ordered by (key, rank). Every rank of this group must call it.
    fn split(&self, color: usize, key: usize, axis: &str) -> Result<Arc<dyn Comm>>;
    /// Tells all ranks of the run that this one failed: their current and later collectives, in every group,
    /// return `RankLost` with this rank and the reason. The first reason stays.
    fn abort(&self, reason: &str);
    /// What this rank called and sent in this group.
    fn traffic(&self) -> Traffic;
    /// Where the time of this rank's collectives in this group went.
    fn spent(&self) -> Spent;
    /// The last collectives of this rank in all groups, oldest first.
    fn recent(&self) -> Vec<Record>;
}

/// A collective in flight: it owns the buffer. Dropping it unwaited is a bug that fails the run.
#[must_use = "a collective is not complete before `wait`"]
pub struct Pending(State);

enum State {
    Ready(Tensor),
    InFlight(Box<dyn InFlight>),
}

/// What an implementation of `Comm` does to complete a collective.
pub(crate) trait InFlight: Send {
    fn wait(self: Box<Self>) -> Result<Tensor>;
}

impl Pending {
    pub(crate) fn ready(t: Tensor) -> Pending {
        Pending(State::Ready(t))
    }
    pub(crate) fn in_flight(it: impl InFlight + 'static) -> Pending {
        Pending(State::InFlight(Box::new(it)))
    }
    /// The buffer, with its values valid as the collective says.
    pub fn wait(self) -> Result<Tensor> {
        match self.0 {
            State::Ready(t) => Ok(t),
            State::InFlight(it) => it.wait(),
        }
    }
}
