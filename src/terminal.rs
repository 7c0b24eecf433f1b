//! What a person sees on stderr while a command works: lines, and on a terminal one line below them that is rewritten.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Whether a line that will be rewritten stands at the end of the terminal.
static STANDS: Mutex<bool> = Mutex::new(false);

/// Back to the beginning of the line, and empty it.
const CLEAR: &str = "\r\x1b[K";

fn stands() -> MutexGuard<'static, bool> {
    STANDS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes whole lines above the one that is rewritten. That nobody reads them is no reason to fail.
fn put(text: &[u8]) -> std::io::Result<()> {
    let mut stands = stands();
    let mut err = std::io::stderr().lock();
    if std::mem::take(&mut *stands) {
        err.write_all(CLEAR.as_bytes())?;
    }
    err.write_all(text)
}

/// A line of text.
pub fn say(text: &str) {
    let _ = put(format!("{text}\n").as_bytes());
}

/// Where `tracing` writes, one event at a time.
pub struct Log;

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        put(bytes)?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// The line that is rewritten; gone when it is dropped. Where stderr is no terminal, plain lines now and then, or none.
pub struct Line {
    terminal: bool,
    /// Between two lines where there is no terminal.
    plain: Option<Duration>,
    begun: Instant,
    shown: Option<Instant>,
}

impl Line {
    pub fn new(plain: Option<Duration>) -> Line {
        Line { terminal: std::io::stderr().is_terminal(), plain, begun: Instant::now(), shown: None }
    }

    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Shows what `text` makes of the seconds since the start, if it is time to: on a terminal five times a second.
    pub fn show(&mut self, text: impl FnOnce(f64) -> String) {
        let every = if self.terminal { Some(Duration::from_millis(200)) } else { self.plain };
        let due = every.is_some_and(|every| self.shown.unwrap_or(self.begun).elapsed() >= every);
        if !due {
            return;
        }
        self.shown = Some(Instant::now());
        let text = text(self.begun.elapsed().as_secs_f64());
        if !self.terminal {
            return say(&text);
        }
        let mut stands = stands();
        *stands = true;
        let _ = write!(std::io::stderr(), "{CLEAR}{text}");
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.terminal {
            let _ = put(b"");
        }
    }
}

/// Columns of the terminal, 80 where they are not known.
pub fn columns() -> usize {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes a winsize.
    let done = unsafe { libc::ioctl(2, libc::TIOCGWINSZ, &mut size) };
    if done == 0 && size.ws_col > 0 { size.ws_col as usize } else { 80 }
}

/// `done` of `all` as a bar of `width` columns, an eighth of a column exact.
pub fn bar(done: u64, all: u64, width: usize) -> String {
    const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let filled = (8 * width as u64 * done.min(all)).checked_div(all).unwrap_or(8 * width as u64) as usize;
    let (whole, part) = (filled / 8, EIGHTHS[filled % 8]);
    let rest = width - whole - usize::from(!part.is_empty());
    format!("{}{part}{}", "█".repeat(whole), "·".repeat(rest))
}

#[cfg(test)]
mod tests {
    use super::bar;

    #[test]
    fn bars_have_their_width_and_grow() {
        for (done, want) in [(0, "····"), (1, "▌···"), (4, "██··"), (7, "███▌"), (8, "████"), (9, "████")]
        {
            assert_eq!(bar(done, 8, 4), want);
        }
        assert_eq!(bar(0, 0, 2), "██");
    }
}
