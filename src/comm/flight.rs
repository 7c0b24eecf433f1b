//! One collective of a group while it is under way: what each rank posted, which ranks reached which stage, and the
//! movement of values.
//!
//! Two stages: all posted; all did their work on each other's buffers in place. In an all_reduce rank r reduces slice
//! r of all buffers and writes the result to all of them: one pass over memory. Small buffers are posted by value:
//! every rank computes its own result from the copies after the first stage and leaves.
//!
//! Memory safety: buffers of other ranks are touched only inside `enter`. A rank that
//! gives up first closes the flight and waits until nobody is inside; only then is its buffer free.

use super::Kind;
use super::call::{Call, disagreement};
use super::group::Group;
use super::reduce::reduce;
use std::ops::Range;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

/// Largest buffer, in bytes, that is posted by value.
const SMALL: usize = 4096;
const STAGES: usize = 2;

/// A rank's part in a flight.
pub struct Post {
    pub call: Call,
    buffer: *mut u8,
    /// The values at the time of the call, if the buffer is small; u64 for the alignment.
    copy: Option<Box<[u64]>>,
}
// SAFETY: the buffer is followed only by the rules at the head of this file.
unsafe impl Send for Post {}
// SAFETY: as above.
unsafe impl Sync for Post {}

impl Post {
    pub fn new(call: Call, values: &mut [u8]) -> Post {
        assert_eq!(values.len(), call.bytes(), "bytes of {call}");
        let copy = (values.len() <= SMALL).then(|| {
            let mut copy = vec![0u64; values.len().div_ceil(8)].into_boxed_slice();
            bytemuck::cast_slice_mut(&mut copy)[..values.len()].copy_from_slice(values);
            copy
        });
        Post { call, buffer: values.as_mut_ptr(), copy }
    }
    fn source(&self) -> *mut u8 {
        // A copy is only read.
        self.copy.as_ref().map_or(self.buffer, |c| c.as_ptr().cast_mut().cast())
    }
}

pub struct Flight {
    pub sequence: u64,
    posts: Box<[OnceLock<Post>]>,
    /// How many ranks reached each stage, and how many stages each rank reached (or `LEFT`).
    counts: [AtomicUsize; STAGES],
    reached: Box<[AtomicU8]>,
    /// Ranks that touch buffers now; with `CLOSED` none may begin.
    inside: AtomicUsize,
    /// The groups a split makes.
    pub groups: OnceLock<Vec<Arc<Group>>>,
}

const CLOSED: usize = 1 << 32;
const LEFT: u8 = u8::MAX;

/// Where a rank stands, for reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stand {
    There,
    NotStarted,
    NotWaited,
    Left,
}

impl Flight {
    pub fn new(sequence: u64, size: usize) -> Flight {
        Flight {
            sequence,
            posts: (0..size).map(|_| OnceLock::new()).collect(),
            counts: Default::default(),
            reached: (0..size).map(|_| AtomicU8::new(0)).collect(),
            inside: AtomicUsize::new(0),
            groups: OnceLock::new(),
        }
    }
    pub fn size(&self) -> usize {
        self.posts.len()
    }
    pub fn post(&self, rank: usize, post: Post) {
        assert!(self.posts[rank].set(post).is_ok(), "rank {rank} posts once in flight {}", self.sequence);
    }
    pub fn posted(&self, rank: usize) -> &Post {
        self.posts[rank].get().expect("all ranks have posted after stage 0")
    }
    /// True for the rank that completes the stage.
    pub fn arrive(&self, rank: usize, stage: usize) -> bool {
        self.reached[rank].store(stage as u8 + 1, SeqCst);
        self.counts[stage].fetch_add(1, SeqCst) + 1 == self.size()
    }
    pub fn complete(&self, stage: usize) -> bool {
        self.counts[stage].load(SeqCst) == self.size()
    }
    pub fn stand(&self, rank: usize, stage: usize) -> Stand {
        match self.reached[rank].load(SeqCst) {
            LEFT => Stand::Left,
            0 => Stand::NotStarted,
            n if n as usize > stage => Stand::There,
            _ => Stand::NotWaited,
        }
    }

    /// After stage 0: what `call::disagreement` says.
    pub fn disagreement(&self, members: &[usize]) -> Option<(usize, String)> {
        let calls: Vec<&Call> = (0..self.size()).map(|r| &self.posted(r).call).collect();
        disagreement(&calls, members)
    }

    /// Whether ranks work on each other's buffers, so that the second stage follows the first.
    pub fn in_place(&self, rank: usize) -> bool {
        self.posted(rank).copy.is_none()
    }

    /// The values a rank posted, which were few.
    pub fn posted_words(&self, rank: usize) -> &[u64] {
        self.posted(rank).copy.as_deref().expect("posted by value")
    }

    /// Runs what touches the others' buffers, unless a rank gave up; says whether it ran.
    pub fn enter(&self, work: impl FnOnce()) -> bool {
        struct Inside<'a>(&'a AtomicUsize);
        impl Drop for Inside<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, SeqCst);
            }
        }
        let open = self.inside.fetch_add(1, SeqCst) < CLOSED;
        let _inside = Inside(&self.inside);
        if open {
            work();
        }
        open
    }

    /// This rank gives up: when this returns, nobody touches its buffer any more.
    pub fn leave(&self, rank: usize) {
        self.reached[rank].store(LEFT, SeqCst);
        self.inside.fetch_or(CLOSED, SeqCst);
        // What they do inside takes no longer than copying a buffer.
        while self.inside.load(SeqCst) & (CLOSED - 1) != 0 {
            std::thread::yield_now();
        }
    }

    /// Where the values of rank r are read.
    fn sources(&self) -> Vec<*mut u8> {
        (0..self.size()).map(|r| self.posted(r).source()).collect()
    }

    /// The values that rank r reduces, or owns.
    fn slice(&self, r: usize) -> Range<usize> {
        self.posted(r).call.slice(r, self.size())
    }

    /// Copies a range of values to the same place in this rank's buffer.
    ///
    /// # Safety
    /// By value or inside `enter`, and no other rank writes to either place.
    unsafe fn fetch(&self, rank: usize, from: *mut u8, range: Range<usize>) {
        let post = self.posted(rank);
        let size = post.call.dtype.bytes();
        // SAFETY: the range lies in both buffers, which are different.
        unsafe {
            let (from, to) = (from.add(range.start * size), post.buffer.add(range.start * size));
            std::ptr::copy_nonoverlapping(from, to, range.len() * size);
        }
    }

    /// The work of a rank after stage 0.
    pub fn work(&self, rank: usize) {
        let post = self.posted(rank);
        let Call { kind, dtype, len, root, reduce: by, .. } = post.call;
        let sources = self.sources();
        let others = (0..self.size()).filter(|&r| r != rank);
        match kind {
            // SAFETY: in place, this rank alone touches its slice of all buffers.
            Kind::AllReduce if self.in_place(rank) => unsafe {
                reduce(&sources, &sources, self.slice(rank), dtype, by)
            },
            // SAFETY: by value, the sources are only read and only this rank touches its buffer.
            Kind::AllReduce => unsafe { reduce(&[post.buffer], &sources, 0..len, dtype, by) },
            // SAFETY: as for an all_reduce, in place and by value.
            Kind::ReduceScatter => unsafe { reduce(&[post.buffer], &sources, self.slice(rank), dtype, by) },
            // SAFETY: slice r of buffer r is written by nobody, slice r of this buffer by this rank alone.
            Kind::AllGather => others.for_each(|r| unsafe { self.fetch(rank, sources[r], self.slice(r)) }),
            // SAFETY: the root's buffer is written by nobody, this one by this rank alone.
            Kind::Broadcast if rank != root => unsafe { self.fetch(rank, sources[root], 0..len) },
            Kind::AllToAll => others.for_each(|r| self.exchange(rank, r, sources[r])),
            Kind::Broadcast | Kind::Barrier | Kind::Split => {}
        }
    }

    /// Slice `rank` of the other becomes our slice `other`; in place, the two are swapped by one of the pair.
    fn exchange(&self, rank: usize, other: usize, source: *mut u8) {
        let post = self.posted(rank);
        let size = post.call.dtype.bytes();
        let (mine, theirs) = (self.slice(other), self.slice(rank));
        // SAFETY: both slices lie in their buffers; a pair's two slices are touched by one rank alone, which parity
        // picks so that every rank has about the same to do.
        unsafe {
            let to = post.buffer.add(mine.start * size);
            let from = source.add(theirs.start * size);
            if !self.in_place(rank) {
                std::ptr::copy_nonoverlapping(from, to, mine.len() * size);
            } else if (rank + other).is_multiple_of(2) == (rank < other) {
                std::ptr::swap_nonoverlapping(from, to, mine.len() * size);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc::channel;
    use std::time::Duration;

    #[test]
    fn who_gives_up_leaves_when_nobody_is_inside_and_nobody_enters_after() {
        let flight = &Flight::new(0, 2);
        let copied = &AtomicBool::new(false);
        let (entered, see_entered) = channel();
        let (go_on, may_go_on) = channel::<()>();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                flight.enter(|| {
                    entered.send(()).unwrap();
                    may_go_on.recv().unwrap();
                    copied.store(true, SeqCst);
                })
            });
            see_entered.recv().unwrap();
            scope.spawn(|| {
                flight.leave(0);
                assert!(copied.load(SeqCst), "it left while the other was copying");
            });
            while flight.stand(0, 0) != Stand::Left {
                std::thread::yield_now();
            }
            // Time for it to leave wrongly.
            std::thread::sleep(Duration::from_millis(20));
            go_on.send(()).unwrap();
        });
        assert!(!flight.enter(|| panic!("the flight is closed")));
    }
}
