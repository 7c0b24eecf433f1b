//! Time by op, for the bench of the step: off unless `start` was called, and then one load of a flag per op.

use super::op::Cost;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

/// All calls of one kind of work.
#[derive(Clone, Debug, Default)]
pub struct Row {
    pub name: String,
    pub calls: usize,
    pub seconds: f64,
    /// Of all threads of this process: does not grow when others use the machine.
    pub cpu_seconds: f64,
    pub cost: Cost,
}

static ON: AtomicBool = AtomicBool::new(false);
static ROWS: Mutex<Vec<Row>> = Mutex::new(vec![]);

pub fn start() {
    ROWS.lock().expect("no panic under the lock").clear();
    ON.store(true, Relaxed);
}

/// What was timed since `start`.
pub fn stop() -> Vec<Row> {
    ON.store(false, Relaxed);
    std::mem::take(&mut *ROWS.lock().expect("no panic under the lock"))
}

/// Names one pass over memory that reads and writes so many bytes.
pub fn pass(name: &str, bytes: usize) -> (String, Cost) {
    (name.into(), Cost { flops: 0.0, bytes: bytes as f64 })
}

/// Runs f; `what` names it and says what it costs. Calls must not be nested: time would count twice.
#[inline]
pub fn time<R>(what: impl FnOnce() -> (String, Cost), f: impl FnOnce() -> R) -> R {
    if !ON.load(Relaxed) {
        return f();
    }
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let result = f();
    let (seconds, cpu_seconds, (name, cost)) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu, what());
    let mut rows = ROWS.lock().expect("no panic under the lock");
    let row = match rows.iter().position(|r| r.name == name) {
        Some(i) => &mut rows[i],
        None => {
            rows.push(Row { name, ..Row::default() });
            rows.last_mut().expect("pushed just now")
        }
    };
    row.calls += 1;
    row.seconds += seconds;
    row.cpu_seconds += cpu_seconds;
    row.cost = Cost { flops: row.cost.flops + cost.flops, bytes: row.cost.bytes + cost.bytes };
    result
}

/// CPU time of all threads of this process so far.
pub fn cpu_seconds() -> f64 {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: t is ours to fill.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut t) };
    t.tv_sec as f64 + t.tv_nsec as f64 * 1e-9
}
