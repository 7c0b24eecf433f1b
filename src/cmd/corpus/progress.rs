//! The line that says how far a build is: rewritten in place on a terminal, a new line now and then elsewhere.

use crate::data::build::Progress;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

pub struct Line {
    terminal: bool,
    began: Instant,
    /// Bytes read when this process began.
    first: Option<u64>,
    shown: Option<Instant>,
}

impl Line {
    pub fn new() -> Line {
        Line { terminal: std::io::stderr().is_terminal(), began: Instant::now(), first: None, shown: None }
    }

    pub fn show(&mut self, p: &Progress) {
        let first = *self.first.get_or_insert(p.read);
        let every = Duration::from_millis(if self.terminal { 200 } else { 10_000 });
        if self.shown.unwrap_or(self.began).elapsed() < every {
            return;
        }
        self.shown = Some(Instant::now());
        let text = text(p, first, self.began.elapsed().as_secs_f64());
        let (before, after) = if self.terminal { ("\r", "\x1b[K") } else { ("", "\n") };
        // Progress that nobody reads is no reason to fail.
        let _ = write!(std::io::stderr(), "{before}{text}{after}");
    }

    /// Leaves the terminal at a new line.
    pub fn end(&mut self) {
        if self.terminal && self.shown.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn text(p: &Progress, first: u64, seconds: f64) -> String {
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
        let p = Progress { read: 250, total: 1000, text: 50_000_000, tokens: 1_250_000, documents: 7 };
        assert_eq!(text(&p, 50, 10.0), " 25 %  5.0 MB/s  1.2 M tokens  0:38 left");
        assert_eq!(clock(7384.0), "2:03 h");
    }
}
