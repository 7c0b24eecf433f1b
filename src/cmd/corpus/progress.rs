//! How far a command is: a line that is rewritten on a terminal, elsewhere a new line now and then, or nothing.

use crate::data::build;
use crate::terminal::Line;
use std::time::Duration;

/// So much of all, on a terminal only.
pub struct Progress {
    unit: &'static str,
    line: Line,
}

impl Progress {
    pub fn new(unit: &'static str) -> Progress {
        Progress { unit, line: Line::new(None) }
    }

    /// `done` of `all` so far; shown at most five times a second.
    pub fn at(&mut self, done: u64, all: u64) {
        self.line.show(|seconds| {
            let left = seconds * (all.saturating_sub(done)) as f64 / done.max(1) as f64;
            let share = 100.0 * done as f64 / all.max(1) as f64;
            format!("{share:.1} % of {all} {}, {} left", self.unit, clock(left))
        });
    }
}

/// How far a build is.
pub struct Rate {
    line: Line,
    /// Bytes read when this process began.
    first: Option<u64>,
}

impl Rate {
    pub fn new() -> Rate {
        Rate { line: Line::new(Some(Duration::from_secs(10))), first: None }
    }

    pub fn show(&mut self, p: &build::Progress) {
        let first = *self.first.get_or_insert(p.read);
        self.line.show(|seconds| text(p, first, seconds));
    }
}

fn text(p: &build::Progress, first: u64, seconds: f64) -> String {
    let share = 100.0 * p.read as f64 / p.total.max(1) as f64;
    let speed = p.text as f64 / 1e6 / seconds;
    let read = p.read.saturating_sub(first);
    let left = match read {
        0 => "?".into(),
        _ => clock(p.total.saturating_sub(p.read) as f64 * seconds / read as f64),
    };
    format!("{share:3.0} %  {speed:.1} MB/s  {:.1} M tokens  {left} left", p.tokens as f64 / 1e6)
}

fn clock(seconds: f64) -> String {
    let s = seconds.round() as u64;
    if s < 3600 { format!("{}:{:02}", s / 60, s % 60) } else { format!("{}:{:02} h", s / 3600, s / 60 % 60) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_share_speed_tokens_and_time_left() {
        let p = build::Progress { read: 250, total: 1000, text: 50_000_000, tokens: 1_250_000, documents: 7 };
        assert_eq!(text(&p, 50, 10.0), " 25 %  5.0 MB/s  1.2 M tokens  0:38 left");
        assert_eq!(clock(7384.0), "2:03 h");
    }
}
