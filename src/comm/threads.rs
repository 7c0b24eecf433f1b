//! Ranks that are threads of this process: laptops and tests.

use super::call::Call;
use super::group::{Group, Part, Run};
use super::record::Counters;
use super::{Comm, InFlight, Kind, Pending, Record, Reduce, Solo, Spent, Traffic};
use crate::device::{DType, arena::OutOfMemory};
use crate::{Error, Result, tensor::Tensor};
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a rank waits for the others before it calls them lost, unless told otherwise.
pub const DEADLINE: Duration = Duration::from_secs(600);

/// As for a main thread.
const STACK: usize = 8 << 20;

/// The communicator of all ranks of a run.
pub type World = Arc<dyn Comm>;

/// One rank's end of a group.
pub struct Threads {
    me: usize,
    group: Arc<Group>,
    traffic: Arc<Counters>,
}

impl Threads {
    fn new(me: usize, group: Arc<Group>) -> Threads {
        Threads { me, group, traffic: Arc::default() }
    }

    fn start(&self, kind: Kind, t: Tensor, reduce: Reduce, root: usize, what: &str) -> Result<Pending> {
        let call = Call { kind, reduce, root, dtype: t.dtype(), len: t.len(), what: what.into() };
        self.traffic.add(kind, call.bytes(), self.size());
        if t.is_meta() {
            return Ok(Pending::ready(t));
        }
        assert!(!t.is_shared(), "{call}: the tensor is shared");
        let mut buffer = t;
        let part = self.group.post(self.me, call, buffer.bytes_mut())?;
        Ok(Pending::in_flight(Moving { part, buffer, traffic: self.traffic.clone() }))
    }

    /// Waits for a collective without a tensor.
    fn meet(&self, kind: Kind, words: &mut [u64], what: &str) -> Result<Part> {
        let call = Call {
            kind,
            reduce: Reduce::Sum,
            root: 0,
            dtype: DType::F64,
            len: words.len(),
            what: what.into(),
        };
        self.traffic.add(kind, 0, self.size());
        let mut part = self.group.post(self.me, call, bytemuck::cast_slice_mut(words))?;
        part.complete()?;
        Ok(part)
    }
}

/// The part is declared, and so dropped, before the buffer: others are out of it before it is free.
struct Moving {
    part: Part,
    buffer: Tensor,
    traffic: Arc<Counters>,
}

impl InFlight for Moving {
    fn wait(mut self: Box<Self>) -> Result<Tensor> {
        // Threads do the work of a collective here, so none of it is hidden.
        let asked = Instant::now();
        self.part.complete()?;
        self.traffic.waited(asked, asked, asked);
        Ok(self.buffer)
    }
}

impl Comm for Threads {
    fn rank(&self) -> usize {
        self.me
    }
    fn size(&self) -> usize {
        self.group.members.len()
    }
    fn axis(&self) -> &str {
        &self.group.axis
    }
    fn all_reduce(&self, t: Tensor, reduce: Reduce, what: &str) -> Result<Pending> {
        self.start(Kind::AllReduce, t, reduce, 0, what)
    }
    fn reduce_scatter(&self, t: Tensor, what: &str) -> Result<Pending> {
        self.start(Kind::ReduceScatter, t, Reduce::Sum, 0, what)
    }
    fn all_gather(&self, t: Tensor, what: &str) -> Result<Pending> {
        self.start(Kind::AllGather, t, Reduce::Sum, 0, what)
    }
    fn broadcast(&self, t: Tensor, root: usize, what: &str) -> Result<Pending> {
        self.start(Kind::Broadcast, t, Reduce::Sum, root, what)
    }
    fn all_to_all(&self, t: Tensor, what: &str) -> Result<Pending> {
        self.start(Kind::AllToAll, t, Reduce::Sum, 0, what)
    }
    fn barrier(&self, what: &str) -> Result<()> {
        self.meet(Kind::Barrier, &mut [], what).map(drop)
    }
    fn split(&self, color: usize, key: usize, axis: &str) -> Result<Arc<dyn Comm>> {
        let part = self.meet(Kind::Split, &mut [color as u64, key as u64], axis)?;
        let flight = &part.flight;
        // (color, key, rank) of everyone; every rank sorts the same list.
        let mut all: Vec<(u64, u64, usize)> =
            (0..self.size()).map(|r| (flight.posted_words(r)[0], flight.posted_words(r)[1], r)).collect();
        all.sort_unstable();
        let make = |same: &[(u64, u64, usize)]| {
            let members = same.iter().map(|&(_, _, r)| self.group.members[r]).collect();
            Group::new(self.group.run.clone(), members, axis)
        };
        let groups = flight.groups.get_or_init(|| all.chunk_by(|a, b| a.0 == b.0).map(make).collect());
        let world_rank = self.group.members[self.me];
        let find = |g: &Arc<Group>| g.members.iter().position(|&m| m == world_rank).map(|me| (me, g.clone()));
        let (me, group) = groups.iter().find_map(find).expect("every rank has a color");
        Ok(Arc::new(Threads::new(me, group)))
    }
    fn abort(&self, reason: &str) {
        self.group.run.lose(self.group.members[self.me], reason.into());
    }
    fn traffic(&self) -> Traffic {
        self.traffic.read()
    }
    fn spent(&self) -> Spent {
        self.traffic.spent()
    }
    fn recent(&self) -> Vec<Record> {
        self.group.run.recent(self.group.members[self.me]).read()
    }
}

/// Runs f once per rank, on threads of their own if there are several, and returns what they returned, by rank.
///
/// A rank that panics, returns an error or returns while others wait for it releases the others. The error returned
/// is the first failing rank's own: not what the others heard of it. A thread cannot be killed, so this returns when
/// the last rank has.
pub fn run_ranks<R: Send>(
    ranks: usize,
    deadline: Duration,
    f: impl Fn(World) -> Result<R> + Sync,
) -> Result<Vec<R>> {
    if ranks == 0 {
        return Err(Error::launch("a run of 0 ranks", "start with --ranks 1 or more"));
    }
    if ranks == 1 {
        return Ok(vec![guarded(0, || f(Arc::new(Solo::new())))?]);
    }
    let run = Run::new(ranks, deadline);
    let group = Group::new(run.clone(), (0..ranks).collect(), "world");
    let (run, group) = (&run, &group);
    let one = &|rank: usize| {
        let world = Arc::new(Threads::new(rank, group.clone()));
        let result = guarded(rank, || f(world));
        match &result {
            Ok(_) => run.finish(rank),
            Err(Error::RankLost { rank, problem }) => run.lose(*rank, problem.clone()),
            Err(e) => run.lose(rank, e.to_string()),
        }
        result
    };
    let mut results: Vec<Result<R>> = std::thread::scope(|scope| {
        let spawn = |rank| {
            let thread = std::thread::Builder::new().name(format!("rank-{rank}")).stack_size(STACK);
            let thread = thread.spawn_scoped(scope, move || one(rank));
            thread.map_err(|e| {
                run.lose(rank, format!("cannot start its thread: {e}"));
                Error::launch(format!("cannot start thread {rank} of {ranks}: {e}"), "start fewer ranks")
            })
        };
        let threads: Vec<_> = (0..ranks).map(spawn).collect();
        threads.into_iter().map(|t| t?.join().expect("panics of a rank are caught")).collect()
    });
    match run.lost() {
        None => results.into_iter().collect(),
        Some((rank, problem)) => match results.swap_remove(*rank) {
            Err(own) if !matches!(own, Error::RankLost { .. }) => Err(own),
            _ => Err(Error::RankLost { rank: *rank, problem: problem.clone() }),
        },
    }
}

/// Turns a panic into an error with its message.
pub(super) fn guarded<R>(rank: usize, f: impl FnOnce() -> Result<R>) -> Result<R> {
    catch_unwind(AssertUnwindSafe(f)).unwrap_or_else(|panic| {
        if let Some(e) = out_of_memory(&*panic) {
            return Err(e);
        }
        let said = |p: &Box<dyn Any + Send>| {
            p.downcast_ref::<String>().cloned().or_else(|| p.downcast_ref::<&str>().map(|s| s.to_string()))
        };
        let said = said(&panic).unwrap_or("no message".into());
        Err(Error::RankLost { rank, problem: format!("panicked: {said}") })
    })
}

/// What to tell of a panic by which the arena asked for more than there is.
pub fn out_of_memory(panic: &(dyn Any + Send)) -> Option<Error> {
    let OutOfMemory { bytes } = panic.downcast_ref()?;
    Some(Error::launch(
        format!("out of memory: the system does not give {bytes} bytes more"),
        "raise the limit of memory, or use less: smaller batches, more ranks (train --dry-run says what a run needs)",
    ))
}
