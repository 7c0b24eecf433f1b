//! Ranks that are threads of one process: what they share as a run (who failed) and as a group (the collectives
//! under way), and how they wait for each other.

use super::Kind;
use super::call::Call;
use super::flight::{Flight, Post, Stand};
use super::record::{Progress, Recent, Record};
use crate::{Error, Result};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, Weak};
use std::time::{Duration, Instant};

/// Looks before a waiting rank yields its core, if every rank has a core of its own, and yields before it sleeps.
const SPINS: u32 = 300;
const YIELDS: u32 = 30;

/// All ranks of a run.
pub struct Run {
    deadline: Duration,
    spins: u32,
    /// The rank whose failure ended the run, and how. The first stays.
    lost: OnceLock<(usize, String)>,
    ranks: Box<[RankState]>,
    any_finished: AtomicBool,
    groups: Mutex<Vec<Weak<Group>>>,
}

#[derive(Default)]
struct RankState {
    recent: Recent,
    /// A collective that this rank dropped without waiting for it.
    unwaited: Mutex<Option<String>>,
    /// It returned and will start nothing more.
    finished: AtomicBool,
}

impl Run {
    pub fn new(ranks: usize, deadline: Duration) -> Arc<Run> {
        let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
        Arc::new(Run {
            deadline,
            spins: if ranks <= cores { SPINS } else { 0 },
            lost: OnceLock::new(),
            ranks: (0..ranks).map(|_| RankState::default()).collect(),
            any_finished: AtomicBool::new(false),
            groups: Mutex::default(),
        })
    }
    /// Ends the run unless it has ended: everyone who waits, now or later, gets `RankLost` with this.
    pub fn lose(&self, rank: usize, problem: String) {
        if self.lost.set((rank, problem)).is_ok() {
            self.ring();
        }
    }
    /// The rank returned: who waits for it from now on waits in vain.
    pub fn finish(&self, rank: usize) {
        let unwaited = self.unwaited(rank).take();
        if let Some(what) = unwaited {
            self.lose(rank, format!("dropped {what}, without waiting for it"));
        }
        self.ranks[rank].finished.store(true, SeqCst);
        self.any_finished.store(true, SeqCst);
        self.ring();
    }
    fn ring(&self) {
        for group in self.groups.lock().expect("no panic under the lock").iter().filter_map(Weak::upgrade) {
            group.ring();
        }
    }
    pub fn lost(&self) -> Option<&(usize, String)> {
        self.lost.get()
    }
    pub fn check(&self) -> Result<()> {
        match self.lost.get() {
            Some((rank, problem)) => Err(Error::RankLost { rank: *rank, problem: problem.clone() }),
            None => Ok(()),
        }
    }
    pub fn recent(&self, rank: usize) -> &Recent {
        &self.ranks[rank].recent
    }
    /// What the rank left unwaited, if anything.
    pub fn unwaited(&self, rank: usize) -> MutexGuard<'_, Option<String>> {
        self.ranks[rank].unwaited.lock().expect("no panic under the lock")
    }
}

/// Some ranks of a run, and their collectives under way.
pub struct Group {
    pub run: Arc<Run>,
    pub axis: Arc<str>,
    /// The world rank of each rank of the group.
    pub members: Box<[usize]>,
    queue: Mutex<Queue>,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    bell: Condvar,
}

/// Flights that some rank has not posted in yet, by sequence number.
struct Queue {
    first: u64,
    flights: VecDeque<Arc<Flight>>,
    /// The next sequence number of each rank.
    next: Box<[u64]>,
}

impl Group {
    pub fn new(run: Arc<Run>, members: Vec<usize>, axis: &str) -> Arc<Group> {
        let queue = Queue { first: 0, flights: VecDeque::new(), next: vec![0; members.len()].into() };
        let group = Arc::new(Group {
            run,
            axis: axis.into(),
            members: members.into(),
            queue: Mutex::new(queue),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            bell: Condvar::new(),
        });
        let mut groups = group.run.groups.lock().expect("no panic under the lock");
        groups.retain(|g| g.strong_count() > 0);
        groups.push(Arc::downgrade(&group));
        drop(groups);
        group
    }

    /// Posts this rank's part of its next collective.
    pub fn post(self: &Arc<Self>, me: usize, call: Call, values: &mut [u8]) -> Result<Part> {
        let world_rank = self.members[me];
        self.run.check()?;
        if let Some(what) = &*self.run.unwaited(world_rank) {
            self.run.lose(world_rank, format!("dropped {what}, without waiting for it"));
            self.run.check()?;
        }
        let mut record = Record {
            sequence: 0,
            kind: call.kind,
            bytes: call.bytes(),
            axis: self.axis.clone(),
            what: call.what.clone(),
            progress: Progress::Started,
            at: Instant::now(),
        };
        let post = Post::new(call, values);
        let mut queue = self.queue.lock().expect("no panic under the lock");
        record.sequence = queue.next[me];
        queue.next[me] += 1;
        let i = (record.sequence - queue.first) as usize;
        if i == queue.flights.len() {
            queue.flights.push_back(Arc::new(Flight::new(record.sequence, self.members.len())));
        }
        let flight = queue.flights[i].clone();
        flight.post(me, post);
        let last = flight.arrive(me, 0);
        if last {
            // Every rank posts in order, so the flight that all have posted in is the oldest.
            queue.flights.pop_front();
            queue.first += 1;
        }
        drop(queue);
        if last {
            self.wake();
        }
        let record = self.run.recent(world_rank).push(record);
        Ok(Part { group: self.clone(), flight, me, record, waited: false, done: false })
    }

    /// Wakes who sleeps.
    fn wake(&self) {
        // A sleeper counts itself before it looks at the stage; the stage was completed before this look.
        if self.sleepers.load(SeqCst) > 0 {
            self.ring();
        }
    }
    fn ring(&self) {
        drop(self.lock.lock().expect("no panic under the lock"));
        self.bell.notify_all();
    }

    /// Returns when all ranks reached the stage. Error: the run ended, the deadline passed or a rank will not come.
    fn meet(&self, flight: &Flight, me: usize, stage: usize, since: Instant) -> Result<()> {
        let ready = || flight.complete(stage) || self.run.lost().is_some() || self.stranded(flight, stage);
        let mut looks = 0;
        while !ready() && looks < self.run.spins + YIELDS {
            looks += 1;
            if looks <= self.run.spins { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        if !ready() {
            self.sleepers.fetch_add(1, SeqCst);
            let mut guard = self.lock.lock().expect("no panic under the lock");
            while !ready() {
                let left = self.run.deadline.saturating_sub(since.elapsed());
                if left.is_zero() {
                    break;
                }
                guard = self.bell.wait_timeout(guard, left).expect("no panic under the lock").0;
            }
            drop(guard);
            self.sleepers.fetch_sub(1, SeqCst);
        }
        if flight.complete(stage) {
            return Ok(());
        }
        if self.run.lost().is_none() {
            let Some((rank, problem)) = self.behind(flight, me, stage) else { return Ok(()) };
            // Said at once: `run_ranks` cannot return before a hanging rank does.
            tracing::error!("rank {rank}: {problem}");
            self.run.lose(rank, problem);
        }
        self.run.check()
    }

    /// Whether a rank that has not reached the stage has returned.
    fn stranded(&self, flight: &Flight, stage: usize) -> bool {
        let gone = |r: usize| {
            // In this order: what it did before it returned is seen.
            self.run.ranks[self.members[r]].finished.load(SeqCst) && flight.stand(r, stage) != Stand::There
        };
        self.run.any_finished.load(SeqCst) && (0..self.members.len()).any(gone)
    }

    /// The first rank that has not reached the stage, and a sentence about all of them. None: they came just now.
    fn behind(&self, flight: &Flight, me: usize, stage: usize) -> Option<(usize, String)> {
        let mut first = None;
        let mut stories = Vec::new();
        for (r, &member) in self.members.iter().enumerate() {
            let stand = match flight.stand(r, stage) {
                Stand::There => continue,
                _ if self.run.ranks[member].finished.load(SeqCst) => "has returned",
                Stand::NotStarted => "has not started it",
                Stand::NotWaited => "has started it and not come back to wait for it",
                Stand::Left => "has given it up",
            };
            first = first.or(Some(member));
            let last = self.run.recent(member).last();
            let last = last.map_or("it made no call".into(), |r| format!("its last call was {r}"));
            stories.push(format!("rank {member} {stand}, {last}"));
        }
        let (sequence, axis, call) = (flight.sequence, &self.axis, &flight.posted(me).call);
        let problem = format!(
            "missing in collective {sequence} of {axis}, {call}, for which rank {} waits (deadline {:?}): {}",
            self.members[me],
            self.run.deadline,
            stories.join("; ")
        );
        first.map(|rank| (rank, problem))
    }
}

/// One rank's part in a flight. Dropped before it is done, it takes the rank's buffer out of the others' reach.
pub struct Part {
    group: Arc<Group>,
    pub flight: Arc<Flight>,
    me: usize,
    record: u64,
    waited: bool,
    done: bool,
}

impl Part {
    /// Does this rank's work; afterwards its buffer is its own again.
    pub fn complete(&mut self) -> Result<()> {
        let since = Instant::now();
        self.waited = true;
        self.progress(Progress::Waiting);
        let (group, flight, me) = (&self.group, &self.flight, self.me);
        group.meet(flight, me, 0, since)?;
        if let Some((rank, problem)) = flight.disagreement(&group.members) {
            let (sequence, axis) = (flight.sequence, &group.axis);
            group.run.lose(rank, format!("{problem}, as collective {sequence} of {axis}"));
            group.run.check()?;
        }
        if flight.in_place(me) {
            let entered = flight.enter(|| flight.work(me));
            if entered && flight.arrive(me, 1) {
                group.wake();
            }
            // A copy of the root's buffer is complete at once. If a rank gave up before we entered, the meeting
            // ends when that rank has said why.
            let Call { kind, root, .. } = flight.posted(me).call;
            if !(entered && kind == Kind::Broadcast && me != root) {
                group.meet(flight, me, 1, since)?;
            }
        } else {
            flight.work(me);
        }
        self.done = true;
        self.progress(Progress::Done);
        Ok(())
    }

    fn progress(&self, progress: Progress) {
        self.group.run.recent(self.group.members[self.me]).progress(self.record, progress);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        self.flight.leave(self.me);
        self.progress(Progress::Failed);
        if !self.waited {
            let call = &self.flight.posted(self.me).call;
            let what = format!("{call}, collective {} of {}", self.flight.sequence, self.group.axis);
            self.group.run.unwaited(self.group.members[self.me]).get_or_insert(what);
        }
    }
}
