//! A group of ranks over MPI, and its collectives.

use super::engine::LOST;
use super::ffi::Link;
use super::flight::Values;
use super::process::Process;
use super::wire::cut;
use crate::comm::call::Call;
use crate::comm::record::{Counters, Progress};
use crate::comm::{Comm, InFlight, Kind, Pending, Record, Reduce, Spent, Traffic};
use crate::device::DType;
use crate::{Error, Result, tensor::Tensor};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Instant;

/// Some ranks of a run.
pub struct Group {
    pub process: Arc<Process>,
    /// No other group with the same ranks has it.
    pub id: u64,
    /// The run it is of; runs of a process are counted from 1.
    pub run: u64,
    pub axis: Arc<str>,
    /// The world rank of each rank of the group.
    pub members: Box<[usize]>,
    pub me: usize,
    /// Where the library reduces, if it does.
    pub library: Option<Link>,
    sequence: AtomicU64,
    /// Collectives that the library will do, and how many it was given.
    turns: AtomicU64,
    turn: AtomicU64,
}

impl Group {
    pub fn new(
        process: Arc<Process>,
        (id, run): (u64, u64),
        members: Vec<usize>,
        axis: &str,
        library: Option<Link>,
    ) -> Arc<Group> {
        let me = members.iter().position(|&m| m == process.rank).expect("a group has its own rank");
        Arc::new(Group {
            process,
            id,
            run,
            axis: axis.into(),
            members: members.into(),
            me,
            library,
            sequence: AtomicU64::new(0),
            turns: AtomicU64::new(0),
            turn: AtomicU64::new(0),
        })
    }
    pub fn next(&self) -> u64 {
        self.sequence.fetch_add(1, SeqCst)
    }
    /// Whether a network lies between some of its ranks.
    pub fn spans_hosts(&self) -> bool {
        let places = &self.process.places;
        self.members.iter().any(|&r| places[r].host != places[self.process.rank].host)
    }
    /// A collective for the library: its turn.
    pub fn queue(&self) -> u64 {
        self.turns.fetch_add(1, SeqCst)
    }
    pub fn is_turn(&self, turn: u64) -> bool {
        self.turn.load(SeqCst) == turn
    }
    pub fn next_turn(&self) {
        self.turn.fetch_add(1, SeqCst);
    }
}

/// One rank's end of a group.
pub struct Mpi {
    group: Arc<Group>,
    traffic: Arc<Counters>,
}

impl Mpi {
    pub fn new(group: Arc<Group>) -> Mpi {
        Mpi { group, traffic: Arc::default() }
    }

    fn start(&self, kind: Kind, t: Tensor, reduce: Reduce, root: usize, what: &str) -> Result<Pending> {
        let call = Call { kind, reduce, root, dtype: t.dtype(), len: t.len(), what: cut(what).into() };
        self.traffic.add(kind, call.bytes(), self.size());
        if t.is_meta() {
            return Ok(Pending::ready(t));
        }
        assert!(!t.is_shared(), "{call}: the tensor is shared");
        let part = self.post(call, Values::Tensor(t))?;
        Ok(Pending::in_flight(Moving(part, self.traffic.clone())))
    }

    fn post(&self, call: Call, values: Values) -> Result<Part> {
        let process = &self.group.process;
        let mut record = Record {
            sequence: 0,
            kind: call.kind,
            bytes: call.bytes(),
            axis: self.group.axis.clone(),
            what: call.what.clone(),
            progress: Progress::Started,
            at: Instant::now(),
        };
        let (id, sequence) = process.start(&self.group, call.clone(), values)?;
        record.sequence = sequence;
        let record = process.recent.push(record);
        let started = Instant::now();
        Ok(Part {
            group: self.group.clone(),
            call,
            id,
            sequence,
            record,
            started,
            waited: false,
            done: false,
        })
    }

    /// Waits for a collective without a tensor; what all ranks gave.
    fn meet(&self, kind: Kind, words: Vec<u64>, what: &str) -> Result<Vec<u64>> {
        let (dtype, len) = (DType::F64, words.len());
        let call = Call { kind, reduce: Reduce::Sum, root: 0, dtype, len, what: cut(what).into() };
        self.traffic.add(kind, 0, self.size());
        match self.post(call, Values::Words(words))?.complete()?.0 {
            Values::Words(all) => Ok(all),
            Values::Tensor(_) => Ok(vec![]),
        }
    }
}

/// This rank's part in a collective.
struct Part {
    group: Arc<Group>,
    call: Call,
    id: u32,
    sequence: u64,
    record: u64,
    started: Instant,
    waited: bool,
    done: bool,
}

impl Part {
    /// What it brought, and when it was done.
    fn complete(mut self) -> Result<(Values, Instant)> {
        self.waited = true;
        self.progress(Progress::Waiting);
        let mut flight = self.group.process.finish(self.id)?;
        self.done = true;
        self.progress(Progress::Done);
        Ok((flight.values().expect("it has them until they are taken"), flight.moved))
    }
    fn progress(&self, progress: Progress) {
        self.group.process.recent.progress(self.record, progress);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        self.group.process.engine().abandon(self.id);
        self.progress(Progress::Failed);
        if !self.waited {
            let what = format!("{}, collective {} of {}", self.call, self.sequence, self.group.axis);
            self.group.process.unwaited().get_or_insert(what);
        }
    }
}

struct Moving(Part, Arc<Counters>);

impl InFlight for Moving {
    fn wait(self: Box<Self>) -> Result<Tensor> {
        let Moving(part, traffic) = *self;
        let (started, asked) = (part.started, Instant::now());
        let (values, done) = part.complete()?;
        traffic.waited(started, done, asked);
        match values {
            Values::Tensor(t) => Ok(t),
            Values::Words(_) => unreachable!("it was started with a tensor"),
        }
    }
}

impl Comm for Mpi {
    fn rank(&self) -> usize {
        self.group.me
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
        self.meet(Kind::Barrier, vec![], what).map(drop)
    }
    fn split(&self, color: usize, key: usize, axis: &str) -> Result<Arc<dyn Comm>> {
        let (group, process) = (&self.group, &self.group.process);
        let next = process.engine().next_group;
        let all = self.meet(Kind::Split, vec![color as u64, key as u64, next], axis)?;
        // (color, key, rank, group number that is free there) of everyone; every rank sorts the same list.
        let mut all: Vec<(u64, u64, usize, u64)> =
            all.chunks(3).enumerate().map(|(r, words)| (words[0], words[1], r, words[2])).collect();
        all.sort_unstable();
        let id = all.iter().map(|a| a.3).max().expect("a group has ranks");
        let members = all.iter().filter(|a| a.0 == color as u64).map(|a| group.members[a.2]).collect();
        let mut engine = process.engine();
        engine.next_group = id + 1;
        if id >= engine.wires.groups() {
            let problem =
                format!("group {id} of ranks: this MPI library has tags for {}", engine.wires.groups());
            return Err(Error::launch(problem, "split less often"));
        }
        let library = group.library.map(|link| link.split(color, key)).transpose();
        drop(engine);
        let library = library.map_err(|e| Error::RankLost { rank: process.rank, problem: e })?;
        let part = Group::new(process.clone(), (id, group.run), members, axis, library);
        Ok(Arc::new(Mpi::new(part)))
    }
    fn abort(&self, reason: &str) {
        self.group.process.engine().lose(self.group.process.rank, LOST, reason.into());
    }
    fn traffic(&self) -> Traffic {
        self.traffic.read()
    }
    fn spent(&self) -> Spent {
        self.traffic.spent()
    }
    fn recent(&self) -> Vec<Record> {
        self.group.process.recent.read()
    }
}
