//! Reader, workers and writer: one thread reads chunks, many encode them, the caller's thread takes them in order.
//!
//! At most `2·threads + 4` chunks are under way, whatever the speed of each part, so memory does not grow with the input.

use super::encode::{Encoded, Worker};
use super::reader::{Chunk, Reader};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread;
use std::time::Duration;

/// How long the writer waits before it looks around.
const PATIENCE: Duration = Duration::from_millis(100);

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Go {
    On,
    Stop,
}

enum Done {
    Chunk(Box<Encoded>),
    /// The reader's error, after the chunks before it.
    Failed(Error),
    End,
}

/// Calls `take` with each chunk in order, and `look` between times. Ends early when either says stop or fails.
pub(super) fn run<'w>(
    reader: Reader,
    threads: usize,
    worker: impl Fn() -> Worker<'w> + Sync,
    mut take: impl FnMut(Encoded) -> Result<Go>,
    mut look: impl FnMut() -> Result<Go>,
) -> Result<Go> {
    let under_way = 2 * threads + 4;
    let (ticket, tickets) = sync_channel(under_way);
    for _ in 0..under_way {
        ticket.send(()).expect("there is room");
    }
    let (chunks, work) = channel();
    let (done, results) = channel();
    let work = Mutex::new(work);
    thread::scope(|scope| {
        // Moved in, so that a return ends the other threads by closing their channels.
        let (ticket, results) = (ticket, results);
        let from_reader = done.clone();
        scope.spawn(move || read(reader, &tickets, &chunks, &from_reader));
        for _ in 0..threads {
            let (work, done, worker) = (&work, done.clone(), &worker);
            scope.spawn(move || {
                let mut worker = worker();
                loop {
                    let next = work.lock().expect("no holder of the lock panics").recv();
                    let Ok((number, chunk)) = next else { return };
                    // A tokenizer.json from anywhere may bring the crate that reads it to panic; the writer must not
                    // wait for this chunk for ever.
                    let result = match catch_unwind(AssertUnwindSafe(|| worker.encode(&chunk))) {
                        Ok(encoded) => Done::Chunk(Box::new(encoded)),
                        Err(_) => Done::Failed(Error::launch(
                            format!("the tokenizer failed in the input after {} bytes", chunk.read),
                            "see its message above; another tokenizer.json may do",
                        )),
                    };
                    if done.send((number, result)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(done);
        write(&ticket, &results, &mut take, &mut look)
    })
}

fn read(
    mut reader: Reader,
    tickets: &Receiver<()>,
    chunks: &Sender<(u64, Chunk)>,
    done: &Sender<(u64, Done)>,
) {
    let mut number = 0;
    while tickets.recv().is_ok() {
        let last = match reader.next() {
            Ok(Some(chunk)) => match chunks.send((number, chunk)) {
                Ok(()) => {
                    number += 1;
                    continue;
                }
                // The workers have ended.
                Err(_) => return,
            },
            Ok(None) => Done::End,
            Err(e) => Done::Failed(e),
        };
        // If the writer has ended, nobody needs to know.
        let _ = done.send((number, last));
        return;
    }
}

fn write(
    ticket: &SyncSender<()>,
    results: &Receiver<(u64, Done)>,
    take: &mut impl FnMut(Encoded) -> Result<Go>,
    look: &mut impl FnMut() -> Result<Go>,
) -> Result<Go> {
    let mut early = BTreeMap::new();
    let mut next = 0;
    loop {
        if look()? == Go::Stop {
            return Ok(Go::Stop);
        }
        match results.recv_timeout(PATIENCE) {
            Ok((number, result)) => {
                early.insert(number, result);
            }
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Error::launch("a thread of the build ended before its time", ""));
            }
        }
        while let Some(result) = early.remove(&next) {
            match result {
                Done::Chunk(encoded) => {
                    if take(*encoded)? == Go::Stop {
                        return Ok(Go::Stop);
                    }
                }
                Done::Failed(e) => return Err(e),
                Done::End => return Ok(Go::On),
            }
            next += 1;
            // The reader may have ended.
            let _ = ticket.try_send(());
        }
    }
}
