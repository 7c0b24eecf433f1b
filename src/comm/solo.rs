//! One rank without peers. With size 1 every collective is the identity; with a pretended size it only counts, on
//! tensors of the Meta device: the planner's view of one rank of many.

use super::call::Call;
use super::record::{Counters, Progress, Recent};
use super::{Comm, InFlight, Job, Kind, Pending, Record, Reduce, Spent, Traffic};
use crate::device::arena::Buffer;
use crate::tensor::Tensor;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Instant;

pub struct Solo {
    rank: usize,
    size: usize,
    axis: Arc<str>,
    next: AtomicU64,
    traffic: Counters,
    shared: Arc<Shared>,
    staging: Option<Staging>,
}

/// Bytes that a collective takes besides its buffer on one of n ranks, where ranks are processes.
pub type Staging = fn(&Call, usize) -> usize;

/// Counted as long as the collective is under way.
struct Staged {
    t: Tensor,
    _staging: Buffer,
}

impl InFlight for Staged {
    fn wait(self: Box<Self>) -> Result<Tensor> {
        Ok(self.t)
    }
}

/// What the groups of one rank have in common.
#[derive(Default)]
struct Shared {
    recent: Recent,
    aborted: OnceLock<String>,
    /// What was counted, each once, with how often.
    jobs: Mutex<BTreeMap<Job, u64>>,
}

impl Solo {
    /// The only rank.
    pub fn new() -> Solo {
        Solo::pretend(0, 1, "world")
    }
    /// Counts as if it were one of many; refuses tensors that have values.
    pub fn pretend(rank: usize, size: usize, axis: &str) -> Solo {
        assert!(rank < size, "rank {rank} of a group of {size}");
        Solo {
            rank,
            size,
            axis: axis.into(),
            next: AtomicU64::new(0),
            traffic: Counters::default(),
            shared: Arc::default(),
            staging: None,
        }
    }
    /// The same with the memory that a transport takes counted.
    pub fn staged(self, staging: Option<Staging>) -> Solo {
        Solo { staging, ..self }
    }
    /// A group that this rank is in too: the same records, the same end.
    pub fn pretend_part(&self, rank: usize, size: usize, axis: &str) -> Solo {
        Solo { shared: self.shared.clone(), staging: self.staging, ..Solo::pretend(rank, size, axis) }
    }

    /// The collectives of all groups of this rank, and how often each was called.
    pub fn jobs(&self) -> BTreeMap<Job, u64> {
        self.jobs_mut().clone()
    }
    fn jobs_mut(&self) -> MutexGuard<'_, BTreeMap<Job, u64>> {
        self.shared.jobs.lock().expect("no panic under the lock")
    }

    fn count(&self, kind: Kind, bytes: usize, what: &str) -> Result<()> {
        if let Some(reason) = self.shared.aborted.get() {
            return Err(Error::RankLost { rank: self.rank, problem: reason.clone() });
        }
        self.traffic.add(kind, bytes, self.size);
        self.shared.recent.push(Record {
            sequence: self.next.fetch_add(1, Relaxed),
            kind,
            bytes,
            axis: self.axis.clone(),
            what: what.into(),
            progress: Progress::Done,
            at: Instant::now(),
        });
        Ok(())
    }

    fn run(&self, kind: Kind, t: Tensor, root: usize, what: &str) -> Result<Pending> {
        assert!(
            self.size == 1 || t.is_meta(),
            "{kind} of {what}: a pretended group of {} ranks only counts",
            self.size
        );
        self.count(kind, t.len() * t.dtype().bytes(), what)?;
        if self.size > 1 {
            let job = Job { axis: self.axis.clone(), kind, dtype: t.dtype(), len: t.len() };
            *self.jobs_mut().entry(job).or_default() += 1;
        }
        t.note(format_args!("{} {kind} {} {} {what}", self.axis, t.len(), t.dtype()));
        let Some(staging) = self.staging.filter(|_| t.is_meta()) else { return Ok(Pending::ready(t)) };
        let (dtype, len) = (t.dtype(), t.len());
        let call = Call { kind, reduce: Reduce::Sum, root, dtype, len, what: what.into() };
        match staging(&call, self.size) {
            0 => Ok(Pending::ready(t)),
            bytes => {
                let staging = t.staging(bytes);
                Ok(Pending::in_flight(Staged { t, _staging: staging }))
            }
        }
    }
}

impl Default for Solo {
    fn default() -> Solo {
        Solo::new()
    }
}

impl Comm for Solo {
    fn rank(&self) -> usize {
        self.rank
    }
    fn size(&self) -> usize {
        self.size
    }
    fn axis(&self) -> &str {
        &self.axis
    }
    fn all_reduce(&self, t: Tensor, _: Reduce, what: &str) -> Result<Pending> {
        self.run(Kind::AllReduce, t, 0, what)
    }
    fn reduce_scatter(&self, t: Tensor, what: &str) -> Result<Pending> {
        self.run(Kind::ReduceScatter, t, 0, what)
    }
    fn all_gather(&self, t: Tensor, what: &str) -> Result<Pending> {
        self.run(Kind::AllGather, t, 0, what)
    }
    fn broadcast(&self, t: Tensor, root: usize, what: &str) -> Result<Pending> {
        assert!(root < self.size, "broadcast of {what}: root {root} of {} ranks", self.size);
        self.run(Kind::Broadcast, t, root, what)
    }
    fn all_to_all(&self, t: Tensor, what: &str) -> Result<Pending> {
        self.run(Kind::AllToAll, t, 0, what)
    }
    fn barrier(&self, what: &str) -> Result<()> {
        self.count(Kind::Barrier, 0, what)
    }
    /// Panics for a pretended size, where the colors of the others are not known: `Mesh::pretend` makes the groups.
    fn split(&self, _: usize, _: usize, axis: &str) -> Result<Arc<dyn Comm>> {
        assert_eq!(self.size, 1, "ranks of a group that can be split without peers");
        self.count(Kind::Split, 0, axis)?;
        Ok(Arc::new(self.pretend_part(0, 1, axis)))
    }
    fn abort(&self, reason: &str) {
        let _ = self.shared.aborted.set(reason.into()); // the first reason stays
    }
    fn traffic(&self) -> Traffic {
        self.traffic.read()
    }
    fn spent(&self) -> Spent {
        Spent::default()
    }
    fn recent(&self) -> Vec<Record> {
        self.shared.recent.read()
    }
}
