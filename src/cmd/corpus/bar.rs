//! How far a command is, on one line of a terminal.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Says nothing where stderr is no terminal; its line is gone when it is dropped.
pub struct Bar {
    unit: &'static str,
    begun: Instant,
    shown: Option<Instant>,
    terminal: bool,
}

impl Bar {
    pub fn new(unit: &'static str) -> Bar {
        Bar { unit, begun: Instant::now(), shown: None, terminal: std::io::stderr().is_terminal() }
    }

    /// `done` of `all` so far; shown at most five times a second.
    pub fn at(&mut self, done: u64, all: u64) {
        let fresh = self.shown.is_some_and(|at| at.elapsed() < Duration::from_millis(200));
        if !self.terminal || fresh {
            return;
        }
        self.shown = Some(Instant::now());
        let seconds = self.begun.elapsed().as_secs_f64();
        let left = seconds * (all.saturating_sub(done)) as f64 / done.max(1) as f64;
        let share = 100.0 * done as f64 / all.max(1) as f64;
        // A terminal that went away is no reason to stop.
        let _ = write!(std::io::stderr(), "\r\x1b[K{share:.1} % of {all} {}, {left:.0} s left", self.unit);
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        if self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
