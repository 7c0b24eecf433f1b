//! What a rank called: the last collectives, for the report of a lost rank, and counters of traffic.

use crate::device::DType;
use std::collections::VecDeque;
use std::fmt;
use std::ops::{Add, Sub};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    AllReduce,
    ReduceScatter,
    AllGather,
    Broadcast,
    AllToAll,
    Barrier,
    Split,
}

impl Kind {
    pub const ALL: [Kind; 7] = [
        Kind::AllReduce,
        Kind::ReduceScatter,
        Kind::AllGather,
        Kind::Broadcast,
        Kind::AllToAll,
        Kind::Barrier,
        Kind::Split,
    ];
    pub const fn name(self) -> &'static str {
        match self {
            Kind::AllReduce => "all_reduce",
            Kind::ReduceScatter => "reduce_scatter",
            Kind::AllGather => "all_gather",
            Kind::Broadcast => "broadcast",
            Kind::AllToAll => "all_to_all",
            Kind::Barrier => "barrier",
            Kind::Split => "split",
        }
    }
    /// Bytes one of n ranks sends for a buffer of this size by the ring algorithm (for a broadcast: the mean over
    /// ranks, of which the last sends nothing).
    pub fn sent(self, bytes: usize, n: usize) -> u64 {
        let once = |bytes: usize| (bytes as u128 * (n as u128 - 1) / n as u128) as u64;
        match self {
            Kind::AllReduce => once(2 * bytes),
            Kind::ReduceScatter | Kind::AllGather | Kind::Broadcast | Kind::AllToAll => once(bytes),
            Kind::Barrier | Kind::Split => 0,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A collective as far as its speed goes: in which group, what, and how much.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Job {
    pub axis: Arc<str>,
    pub kind: Kind,
    pub dtype: DType,
    /// Values of the whole buffer.
    pub len: usize,
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Job { axis, kind, dtype, len } = self;
        write!(f, "{axis} {kind} of {len} {dtype}")
    }
}

/// Calls and bytes sent, by kind of collective, since the group was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic([Count; Kind::ALL.len()]);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub calls: u64,
    pub bytes: u64,
}

impl Traffic {
    pub fn of(&self, kind: Kind) -> Count {
        self.0[kind as usize]
    }
    /// Of all kinds together.
    pub fn calls(&self) -> u64 {
        self.0.iter().map(|c| c.calls).sum()
    }
    /// Of all kinds together.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|c| c.bytes).sum()
    }
}

/// What was added since an earlier reading.
impl Sub for Traffic {
    type Output = Traffic;
    fn sub(mut self, earlier: Traffic) -> Traffic {
        for (now, before) in self.0.iter_mut().zip(earlier.0) {
            now.calls -= before.calls;
            now.bytes -= before.bytes;
        }
        self
    }
}

/// Where the time of collectives went, since the group was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Waiting in `Pending::wait`: the rank did nothing else.
    pub exposed: Duration,
    /// Under way while the rank computed.
    pub hidden: Duration,
}

impl Add for Spent {
    type Output = Spent;
    fn add(self, other: Spent) -> Spent {
        Spent { exposed: self.exposed + other.exposed, hidden: self.hidden + other.hidden }
    }
}

/// What was added since an earlier reading.
impl Sub for Spent {
    type Output = Spent;
    fn sub(self, earlier: Spent) -> Spent {
        Spent { exposed: self.exposed - earlier.exposed, hidden: self.hidden - earlier.hidden }
    }
}

/// `Traffic` and `Spent` while they are counted.
#[derive(Default)]
pub(crate) struct Counters {
    kinds: [(AtomicU64, AtomicU64); Kind::ALL.len()],
    /// Nanoseconds.
    exposed: AtomicU64,
    hidden: AtomicU64,
}

impl Counters {
    /// A collective that was started and done at these times, for which the rank waited from `asked` until now.
    pub fn waited(&self, started: Instant, done: Instant, asked: Instant) {
        let exposed = asked.elapsed();
        // Until it was done, or the rank came to wait for it.
        let hidden = done.min(asked).saturating_duration_since(started);
        self.exposed.fetch_add(exposed.as_nanos() as u64, Relaxed);
        self.hidden.fetch_add(hidden.as_nanos() as u64, Relaxed);
    }
    pub fn spent(&self) -> Spent {
        let read = |n: &AtomicU64| Duration::from_nanos(n.load(Relaxed));
        Spent { exposed: read(&self.exposed), hidden: read(&self.hidden) }
    }
    pub fn add(&self, kind: Kind, bytes: usize, n: usize) {
        let (calls, sent) = &self.kinds[kind as usize];
        calls.fetch_add(1, Relaxed);
        sent.fetch_add(kind.sent(bytes, n), Relaxed);
    }
    pub fn read(&self) -> Traffic {
        let mut t = Traffic::default();
        for (to, (calls, bytes)) in t.0.iter_mut().zip(&self.kinds) {
            *to = Count { calls: calls.load(Relaxed), bytes: bytes.load(Relaxed) };
        }
        t
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The buffer was handed over; the rank has not come back for it.
    Started,
    /// The rank is inside `wait`.
    Waiting,
    Done,
    Failed,
}

/// One collective of one rank.
#[derive(Clone, Debug)]
pub struct Record {
    /// Counts the collectives of the group, from 0.
    pub sequence: u64,
    pub kind: Kind,
    pub bytes: usize,
    pub axis: Arc<str>,
    pub what: Arc<str>,
    pub progress: Progress,
    /// When it reached this progress.
    pub at: Instant,
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Record { sequence, kind, bytes, axis, what, progress, at } = self;
        let progress = match progress {
            Progress::Started => "started",
            Progress::Waiting => "waiting in it",
            Progress::Done => "done",
            Progress::Failed => "failed",
        };
        let ago = at.elapsed().as_secs_f64();
        write!(f, "{kind} {sequence} of {axis} ({what}, {bytes} bytes), {progress} {ago:.1} s ago")
    }
}

/// The last `KEPT` records of one rank.
#[derive(Default)]
pub(crate) struct Recent(Mutex<(u64, VecDeque<Record>)>);

pub(crate) const KEPT: usize = 256;

impl Recent {
    /// The id to report progress under.
    pub fn push(&self, record: Record) -> u64 {
        let (pushed, kept) = &mut *self.0.lock().expect("no panic under the lock");
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(record);
        *pushed += 1;
        *pushed - 1
    }
    pub fn progress(&self, id: u64, progress: Progress) {
        let (pushed, kept) = &mut *self.0.lock().expect("no panic under the lock");
        let age = (*pushed - id) as usize;
        // An old record may have been pushed out.
        if age <= kept.len() {
            let i = kept.len() - age;
            kept[i].progress = progress;
            kept[i].at = Instant::now();
        }
    }
    pub fn read(&self) -> Vec<Record> {
        self.0.lock().expect("no panic under the lock").1.iter().cloned().collect()
    }
    /// The record whose progress is the latest.
    pub fn last(&self) -> Option<Record> {
        self.0.lock().expect("no panic under the lock").1.iter().max_by_key(|r| r.at).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ring_volumes_are_those_of_the_textbook() {
        assert_eq!(Kind::AllReduce.sent(1000, 4), 1500);
        assert_eq!(Kind::ReduceScatter.sent(1000, 4), 750);
        assert_eq!(Kind::AllGather.sent(1000, 4), 750);
        assert_eq!(Kind::AllToAll.sent(1000, 4), 750);
        assert_eq!(Kind::Barrier.sent(0, 4), 0);
        assert!(Kind::ALL.iter().all(|k| k.sent(1000, 1) == 0));
        assert_eq!(Kind::AllReduce.sent(1 << 60, 8), (1 << 61) / 8 * 7);
    }

    #[test]
    fn the_last_256_records_are_kept_and_late_progress_of_older_ones_is_dropped() {
        let recent = Recent::default();
        let record = |sequence| Record {
            sequence,
            kind: Kind::Barrier,
            bytes: 0,
            axis: "world".into(),
            what: "x".into(),
            progress: Progress::Started,
            at: Instant::now(),
        };
        let ids: Vec<u64> = (0..300).map(|i| recent.push(record(i))).collect();
        recent.progress(ids[0], Progress::Failed);
        recent.progress(ids[44], Progress::Done);
        recent.progress(ids[299], Progress::Waiting);
        let kept = recent.read();
        assert_eq!((kept.len(), kept[0].sequence, kept[255].sequence), (256, 44, 299));
        assert_eq!(kept.iter().filter(|r| r.progress != Progress::Started).count(), 2);
        assert_eq!((kept[0].progress, kept[255].progress), (Progress::Done, Progress::Waiting));
        assert_eq!(recent.last().map(|r| r.sequence), Some(299));
    }
}
