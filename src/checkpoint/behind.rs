//! A thread that writes one rank's files of a checkpoint from the live state, while the rank trains on.
//!
//! No second copy of the state is made: the thread shares the tensors. What it shares cannot be written, and is let go
//! when the system has taken it all (`fence`), before the disk has (`wait`). The thread takes part in no collective.

use super::disk::{self, Writer};
use super::file;
use super::manifest::FileEntry;
use super::piece::Outgoing;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// What one rank did.
#[derive(Serialize, Deserialize)]
pub enum Report {
    Files(Vec<FileEntry>),
    Error(String),
}

/// The file in which it says so.
pub fn report_name(rank: usize) -> String {
    format!("rank-{rank:05}.sum")
}

/// Weights and optimizer state that a rank writes.
type Pieces = (Vec<Outgoing>, Vec<Outgoing>);

/// The thread, or what it came to.
pub struct Behind {
    state: State,
    /// Hangs up when the thread has let go of the state, however it came to that.
    held: Receiver<()>,
    stop: Arc<AtomicBool>,
}

enum State {
    Under(JoinHandle<Result<()>>),
    Over(Result<()>),
}

/// Fields are dropped in this order: first the state, then the line that says so.
struct Held {
    pieces: Pieces,
    _line: Sender<()>,
}

impl Behind {
    /// Writes `pieces`, or the reason why there are none, to the directory, with the report of this rank.
    pub fn start(path: &Path, rank: usize, pieces: Result<Pieces>, texts: &[(&str, &str)]) -> Behind {
        let (line, held) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let texts = texts.iter().map(|(name, text)| (name.to_string(), text.to_string())).collect();
        let pieces = pieces.map(|pieces| Held { pieces, _line: line });
        let job = Job { path: path.into(), rank, texts, stop: stop.clone() };
        let thread = std::thread::Builder::new().name(format!("checkpoint {rank}"));
        let state = match thread.spawn(move || job.run(pieces)) {
            Ok(thread) => State::Under(thread),
            Err(e) => State::Over(Err(Error::io(path, "start a thread to write")(e))),
        };
        Behind { state, held, stop }
    }

    /// There is nothing to write, for this reason.
    pub fn failed(e: Error) -> Behind {
        let (_, held) = channel();
        Behind { state: State::Over(Err(e)), held, stop: Arc::default() }
    }

    /// Returns when the thread has let go of the state.
    pub fn fence(&self) {
        // Nothing is ever sent: this ends when the line is gone.
        let _ = self.held.recv();
    }

    pub fn is_over(&self) -> bool {
        match &self.state {
            State::Under(thread) => thread.is_finished(),
            State::Over(_) => true,
        }
    }

    /// Returns when the files are on the disk.
    pub fn wait(mut self) -> Result<()> {
        self.join()
    }

    fn join(&mut self) -> Result<()> {
        match std::mem::replace(&mut self.state, State::Over(Ok(()))) {
            State::Under(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            State::Over(outcome) => outcome,
        }
    }
}

impl Drop for Behind {
    /// Given up: what is written would be in the way of whoever saves next.
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        if let State::Under(thread) = std::mem::replace(&mut self.state, State::Over(Ok(()))) {
            // What it has to say interests nobody any more.
            let _ = thread.join();
        }
    }
}

/// What the thread does.
struct Job {
    path: PathBuf,
    rank: usize,
    texts: Vec<(String, String)>,
    stop: Arc<AtomicBool>,
}

impl Job {
    fn run(self, pieces: Result<Held>) -> Result<()> {
        let (report, outcome) = match pieces.and_then(|held| self.files(held)) {
            Ok(files) => (Report::Files(files), Ok(())),
            Err(e) => (Report::Error(e.to_string()), Err(e)),
        };
        let name = self.path.join(report_name(self.rank));
        let json = serde_json::to_vec(&report).expect("strings and numbers");
        let reported = std::fs::write(&name, json).map_err(Error::io(&name, "write"));
        outcome.and(reported)
    }

    /// All files are written before the first is waited for, so that the state is held no longer than need be.
    fn files(&self, held: Held) -> Result<Vec<FileEntry>> {
        let mut written = vec![];
        let (weights, optimizer) = &held.pieces;
        for (name, out) in [("weights", weights), ("optim", optimizer)] {
            if !out.is_empty() {
                let path = self.path.join(format!("{name}-r{:05}.safetensors", self.rank));
                written.push(file::write(&path, out, || self.go_on())?);
            }
        }
        drop(held);
        for (name, text) in &self.texts {
            let mut out = Writer::create(&self.path.join(name))?;
            out.put(text.as_bytes())?;
            written.push(out.end()?);
        }
        let sync = |file: disk::Written| self.go_on().and_then(|()| file.sync());
        written.into_iter().map(sync).collect()
    }

    fn go_on(&self) -> Result<()> {
        match self.stop.load(Relaxed) {
            true => Err(Error::checkpoint(&self.path, "given up", "")),
            false => Ok(()),
        }
    }
}
