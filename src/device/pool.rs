//! Threads of one rank: `run(tasks, f)` calls f(0), f(1), ... on all of them and returns when all are done.
//!
//! Tasks are claimed in order by whoever is free, so a result must not depend on who runs which: give each task its
//! own output, and let the number of tasks follow from the shape, never from the number of threads. Then one thread
//! and two give the same bits.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;

/// How often a worker looks for work before it sleeps: some tens of microseconds, the gap between two ops.
const SPINS: u32 = 4000;
const OPEN: u64 = 1 << 16;
const EPOCH: u64 = 1 << 17;

type Job = *const (dyn Fn(usize) + Sync);

struct Shared {
    /// [epoch | open | workers that joined]: a job may be joined while it is open.
    gate: AtomicU64,
    job: std::cell::UnsafeCell<Option<(Job, usize)>>,
    next: AtomicUsize,
    finished: AtomicUsize,
    panicked: AtomicBool,
    /// A job is running.
    busy: AtomicBool,
    stop: AtomicBool,
    sleepers: AtomicUsize,
    lock: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is written only while the gate is closed and no worker is inside, and read only by workers that
// joined through the gate; the job outlives them because `run` waits for all that joined.
unsafe impl Sync for Shared {}
// SAFETY: as above; the raw pointer is only followed between joining and finishing.
unsafe impl Send for Shared {}

pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// `threads` ≥ 1 counts the calling thread.
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared {
            gate: AtomicU64::new(0),
            job: std::cell::UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            finished: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            sleepers: AtomicUsize::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let spawn = |i: usize| {
            let shared = shared.clone();
            let name = format!("espalier-{i}");
            std::thread::Builder::new()
                .name(name)
                .spawn(move || shared.work())
                .expect("a thread can be started")
        };
        Pool { workers: (1..threads).map(spawn).collect(), shared }
    }

    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls f(i) for every i < tasks, each once. Panics if a job of this pool is running already: f must not call
    /// `run` of the same pool, and two threads must not share one.
    pub fn run(&self, tasks: usize, f: impl Fn(usize) + Sync) {
        if tasks <= 1 || self.workers.is_empty() {
            return (0..tasks).for_each(f);
        }
        let s = &*self.shared;
        assert!(!s.busy.swap(true, Acquire), "a pool runs one job at a time");
        let job: *const (dyn Fn(usize) + Sync + '_) = &f;
        // SAFETY: only the lifetime changes; the gate is closed and nobody is inside, and below we wait for all who join.
        unsafe {
            *s.job.get() = Some((std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), Job>(job), tasks))
        };
        s.next.store(0, Relaxed);
        s.finished.store(0, Relaxed);
        let epoch = s.gate.load(Relaxed) / EPOCH + 1;
        s.gate.store((epoch * EPOCH) | OPEN, SeqCst);
        if s.sleepers.load(SeqCst) > 0 {
            drop(s.lock.lock().expect("no panic under the lock"));
            s.wake.notify_all();
        }
        let own = catch_unwind(AssertUnwindSafe(|| s.claim(&f, tasks)));
        if own.is_err() {
            s.next.store(tasks, Relaxed);
        }
        let joined = (s.gate.fetch_and(!OPEN, AcqRel) & (OPEN - 1)) as usize;
        let mut spins = 0;
        while s.finished.load(Acquire) < joined {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { std::thread::yield_now() }
        }
        let panicked = s.panicked.swap(false, Relaxed);
        s.busy.store(false, Release);
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(!panicked, "a worker thread panicked");
    }

    /// `run` over 0..n in ranges of `grain` (the last may be shorter).
    pub fn ranges(&self, n: usize, grain: usize, f: impl Fn(std::ops::Range<usize>) + Sync) {
        let grain = grain.max(1);
        self.run(n.div_ceil(grain), |i| f(i * grain..n.min((i + 1) * grain)));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        drop(self.shared.lock.lock());
        self.shared.wake.notify_all();
        self.workers.drain(..).for_each(|w| drop(w.join()));
    }
}

impl Shared {
    fn claim(&self, f: &(dyn Fn(usize) + Sync), tasks: usize) {
        loop {
            let i = self.next.fetch_add(1, Relaxed);
            if i >= tasks {
                return;
            }
            f(i);
        }
    }

    fn work(&self) {
        let (mut last, mut spins) = (0, 0);
        while !self.stop.load(Relaxed) {
            let gate = self.gate.load(Acquire);
            if gate & OPEN == 0 || gate / EPOCH == last {
                spins += 1;
                if spins < SPINS {
                    std::hint::spin_loop()
                } else {
                    self.sleep(last)
                }
                continue;
            }
            spins = 0;
            if self.gate.compare_exchange(gate, gate + 1, AcqRel, Relaxed).is_err() {
                continue;
            }
            last = gate / EPOCH;
            // SAFETY: we joined while the gate was open, so the job is set and stays until we report.
            let (job, tasks) = unsafe { (*self.job.get()).expect("an open gate has a job") };
            // SAFETY: as above.
            let f = unsafe { &*job };
            if catch_unwind(AssertUnwindSafe(|| self.claim(f, tasks))).is_err() {
                self.panicked.store(true, Relaxed);
            }
            self.finished.fetch_add(1, Release);
        }
    }

    fn sleep(&self, last: u64) {
        let mut guard = self.lock.lock().expect("no panic under the lock");
        self.sleepers.fetch_add(1, SeqCst);
        loop {
            let gate = self.gate.load(SeqCst);
            if self.stop.load(SeqCst) || gate & OPEN != 0 && gate / EPOCH != last {
                break;
            }
            guard = self.wake.wait(guard).expect("no panic under the lock");
        }
        self.sleepers.fetch_sub(1, SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_exactly_once() {
        let pool = Pool::new(3);
        for round in 0..3000 {
            let tasks = round % 17;
            let seen: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            pool.run(tasks, |i| {
                seen[i].fetch_add(1, Relaxed);
            });
            assert!(seen.iter().all(|s| s.load(Relaxed) == 1));
        }
    }

    #[test]
    fn a_nested_job_is_refused() {
        let pool = Pool::new(2);
        let nested = catch_unwind(AssertUnwindSafe(|| pool.run(4, |_| pool.run(4, |_| {}))));
        assert!(nested.is_err());
        let sum = AtomicUsize::new(0);
        pool.run(3, |i| {
            sum.fetch_add(i, Relaxed);
        });
        assert_eq!(sum.into_inner(), 3);
    }

    #[test]
    fn a_panic_in_a_task_reaches_the_caller_and_the_pool_survives() {
        let pool = Pool::new(2);
        let bad = catch_unwind(AssertUnwindSafe(|| pool.run(64, |i| assert!(i != 33))));
        assert!(bad.is_err());
        let sum = AtomicUsize::new(0);
        pool.run(10, |i| {
            sum.fetch_add(i, Relaxed);
        });
        assert_eq!(sum.into_inner(), 45);
    }
}
