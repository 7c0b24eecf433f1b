//! Batches drawn ahead of the step, by a thread of their own.
//!
//! The thread draws the updates of a phase in their order and hands them over a bounded channel, so what a run trains
//! on does not depend on how fast either side is. With each update it asks whether the corpora's files are still as they
//! were. What the step waits for is the time that `take` blocks. Each update comes with where the data cursor is after it,
//! which goes into checkpoints: the thread's own sampler is ahead.

use super::corpora::Split;
use super::step::MicroBatch;
use crate::data::{Sampler, Snapshot};
use crate::{Error, Result};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

/// Updates that lie ready, beside the one the step works on and the one whose weights it announces.
const AHEAD: usize = 2;

/// One update; after the last, nothing.
#[derive(Default)]
pub struct Drawn {
    /// Of this rank.
    pub batches: Vec<MicroBatch>,
    /// Where the data cursor is after the update, the same on all ranks.
    pub cursor: Option<Snapshot>,
}

impl Drawn {
    /// Of a micro-batch.
    pub fn rows(&self) -> Option<usize> {
        self.batches.first().map(|b| b.seq.rows)
    }
}

pub struct Loader {
    /// None once the loader is being dropped.
    updates: Option<Receiver<Result<Drawn>>>,
    thread: Option<JoinHandle<()>>,
}

impl Loader {
    /// Draws the micro-batches of this rank, update after update; the first begins at sample `first`. `splits`: how the
    /// next updates fall to ranks and micro-batches, and how many of them.
    pub fn start(
        mut sampler: Sampler,
        splits: impl Iterator<Item = (Split, u64)> + Send + 'static,
        first: u64,
    ) -> Result<Loader> {
        let (give, take) = sync_channel(AHEAD);
        let draw = move || {
            let mut begin = first;
            for split in splits.flat_map(|(split, updates)| (0..updates).map(move |_| split)) {
                let end = begin + split.samples();
                let drawn = split.draw(&mut sampler, begin).map(|batches| {
                    sampler.seek(end);
                    Drawn { batches, cursor: Some(sampler.state()) }
                });
                let unchanged = sampler.domains().try_for_each(|domain| domain.unchanged());
                let drawn = drawn.and_then(|drawn| unchanged.map(|()| drawn));
                let failed = drawn.is_err();
                // Nobody listens any more when the phase ended early.
                if give.send(drawn).is_err() || failed {
                    return;
                }
                begin = end;
            }
        };
        let thread = std::thread::Builder::new().name("loader".into()).spawn(draw).map_err(|e| {
            Error::launch(
                format!("the loader's thread cannot be started: {e}"),
                "raise the limit of processes (ulimit -u)",
            )
        })?;
        Ok(Loader { updates: Some(take), thread: Some(thread) })
    }

    /// The next update.
    pub fn take(&mut self) -> Result<Drawn> {
        let updates = self.updates.as_ref().expect("there until dropped");
        updates.recv().unwrap_or_else(|_| match self.thread.take().map(JoinHandle::join) {
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            _ => Ok(Drawn::default()),
        })
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        self.updates = None; // ends a thread that waits for room
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // a panic was or is being reported already
        }
    }
}
