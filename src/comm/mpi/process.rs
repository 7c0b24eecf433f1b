//! This process as a rank of an MPI run: its engine, the thread that drives it while nobody waits, and how a rank waits
//! for a collective.

use super::by_library::Share;
use super::engine::{Engine, LOST, Lost};
use super::ffi::Link;
use super::flight::{Flight, Stage, Values};
use super::group::Group;
use super::place::Place;
use super::watch::Watch;
use crate::comm::call::Call;
use crate::comm::record::Recent;
use crate::{Error, Result};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

pub struct Process {
    pub rank: usize,
    pub places: Vec<Place>,
    /// As MPI made it, for the library's own collectives.
    pub link: Link,
    engine: Mutex<Engine>,
    /// For the helper, when there is something to do again.
    bell: Condvar,
    waiting: AtomicUsize,
    deadline_ms: AtomicU64,
    /// The longest message, in bytes.
    largest: AtomicUsize,
    pub(in crate::comm) recent: Recent,
    /// What the MPI library does where a group lets it.
    share: Mutex<Share>,
    /// A collective that was dropped without waiting for it.
    unwaited: Mutex<Option<String>>,
    /// Looks of a waiting rank before it yields its core.
    spins: u32,
}

/// Looks before a rank yields its core, if every rank of the host has one of its own; looks with yields before it
/// naps; naps.
const SPINS: u32 = 200;
const YIELDS: u32 = 500;
const NAP: Duration = Duration::from_micros(30);
const LONG: u32 = 3000;
/// Between two looks of the helper while something is under way, and how long it looks in vain before it parks.
const HELP: Duration = Duration::from_micros(80);
const IDLE: u32 = 50;
/// No message is longer: counts of MPI are 32 bits wide.
const LARGEST: usize = 1 << 30;

impl Process {
    pub fn new(rank: usize, places: Vec<Place>, link: Link, engine: Engine) -> Arc<Process> {
        let own_core = super::place::share(&places, rank) > 0.99;
        Arc::new(Process {
            rank,
            link,
            engine: Mutex::new(engine),
            bell: Condvar::new(),
            waiting: AtomicUsize::new(0),
            deadline_ms: AtomicU64::new(u64::MAX),
            largest: AtomicUsize::new(LARGEST),
            recent: Recent::default(),
            share: Mutex::new(Share::All),
            unwaited: Mutex::default(),
            spins: if own_core { SPINS } else { 0 },
            places,
        })
    }
    pub fn size(&self) -> usize {
        self.places.len()
    }
    pub fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().expect("no panic under the lock")
    }
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms.load(SeqCst))
    }
    pub fn set_deadline(&self, deadline: Duration) {
        self.deadline_ms.store(u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX), SeqCst);
    }
    /// Messages are cut at this many bytes: for tests of what happens beyond 2³¹.
    pub fn set_largest(&self, bytes: usize) {
        self.largest.store(bytes.clamp(64, LARGEST), SeqCst);
    }
    pub fn share(&self) -> MutexGuard<'_, Share> {
        self.share.lock().expect("no panic under the lock")
    }
    /// For collectives that start from here on. The same on all ranks.
    pub fn set_share(&self, share: Share) {
        *self.share() = share;
    }
    /// What this rank left unwaited, if anything.
    pub fn unwaited(&self) -> MutexGuard<'_, Option<String>> {
        self.unwaited.lock().expect("no panic under the lock")
    }

    /// The engine of a run that goes on.
    fn live(&self) -> Result<MutexGuard<'_, Engine>> {
        let unwaited = self.unwaited().clone();
        let mut engine = self.engine();
        if let Some(what) = unwaited {
            engine.lose(self.rank, LOST, format!("dropped {what}, without waiting for it"));
        }
        match &engine.lost {
            None => Ok(engine),
            Some(lost) => Err(lost.error()),
        }
    }

    /// Starts a collective; its number and sequence.
    pub fn start(&self, group: &Arc<Group>, call: Call, values: Values) -> Result<(u32, u64)> {
        let mut engine = self.live()?;
        let sequence = group.next();
        let largest = self.largest.load(SeqCst);
        let flight = Flight::new(group.clone(), sequence, call, values, largest);
        let added = engine.add(flight);
        let active = engine.active;
        let id = added.map_err(|problem| {
            engine.lose(self.rank, LOST, format!("MPI failed: {problem}"));
            Error::RankLost { rank: self.rank, problem: format!("MPI failed: {problem}") }
        })?;
        drop(engine);
        if active == 1 {
            self.bell.notify_all();
        }
        Ok((id, sequence))
    }

    /// Waits for a collective and takes it out.
    pub fn finish(&self, id: u32) -> Result<Box<Flight>> {
        let mut watch = None;
        self.until(|engine, naps| {
            let lost = engine.lost.is_some();
            let flight = engine.flight(id);
            match flight.stage.clone() {
                Stage::Done => return Some(Ok(engine.take(id))),
                Stage::Failed(rank, problem) => {
                    engine.lose(rank, LOST, problem);
                }
                Stage::Moving if !lost && naps => {
                    let watch = watch.get_or_insert_with(|| Watch::new(self));
                    if let Some((rank, problem)) = watch.look(engine, id) {
                        let lost = Lost { rank, code: LOST, problem: problem.clone(), heard: false };
                        crate::terminal::say(&format!("espalier: {}", lost.error()));
                        engine.told = true;
                        engine.lose(rank, LOST, problem);
                    }
                }
                Stage::Moving => {}
            }
            engine.lost.as_ref().map(|lost| Err(lost.error()))
        })
    }

    /// Drives the engine until `done` says something; `naps` is true for it now and then when nothing happens.
    pub fn until<R>(&self, mut done: impl FnMut(&mut Engine, bool) -> Option<R>) -> R {
        self.waiting.fetch_add(1, SeqCst);
        let (mut looks, mut looked) = (0, Instant::now());
        let found = loop {
            let mut engine = self.engine();
            let moved = engine.progress();
            looks = if moved { 0 } else { looks + 1 };
            let naps = looks > self.spins + YIELDS && looked.elapsed() > Duration::from_millis(10);
            if naps {
                looked = Instant::now();
            }
            if let Some(found) = done(&mut engine, naps) {
                break found;
            }
            drop(engine);
            match looks {
                _ if looks <= self.spins => std::hint::spin_loop(),
                _ if looks <= self.spins + YIELDS => std::thread::yield_now(),
                // Who waits for long, for a checkpoint or at the end, hardly costs anything.
                n if n < LONG => std::thread::sleep(NAP),
                _ => std::thread::sleep(10 * NAP),
            }
        };
        self.waiting.fetch_sub(1, SeqCst);
        found
    }

    /// What the helper does: it drives the engine while something is under way and nobody waits.
    pub fn help(&self) {
        let mut vain = 0;
        loop {
            let mut engine = self.engine();
            if engine.closed {
                return;
            }
            vain = if engine.active > 0 { 0 } else { vain + 1 };
            if vain > IDLE {
                drop(self.bell.wait(engine).expect("no panic under the lock"));
                vain = 0;
                continue;
            }
            // Who waits drives it.
            let waited = self.waiting.load(SeqCst) > 0;
            if engine.active > 0 && !waited {
                engine.progress();
            }
            drop(engine);
            std::thread::sleep(if waited { 4 * HELP } else { HELP });
        }
    }

    /// The helper ends; MPI is not called any more but by the caller.
    pub fn close(&self) {
        let mut engine = self.engine();
        engine.closed = true;
        engine.close();
        drop(engine);
        self.bell.notify_all();
    }
}

impl Lost {
    pub fn error(&self) -> Error {
        Error::RankLost { rank: self.rank, problem: self.problem.clone() }
    }
}
