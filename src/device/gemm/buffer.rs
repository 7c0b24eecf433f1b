//! Packing buffers: aligned to cache lines, grown on first use and kept by the thread that asked.

use crate::device::Real;
use std::cell::Cell;

/// Memory for numbers, of any contents.
#[derive(Default)]
pub(super) struct Buffer {
    words: Vec<u64>,
}

const LINE: usize = 64;

impl Buffer {
    /// Room for `len` values at a multiple of 64 bytes.
    pub(super) fn get<R: Real>(&mut self, len: usize) -> *mut R {
        let words = (len * size_of::<R>() + LINE).div_ceil(size_of::<u64>());
        if self.words.len() < words {
            self.words = Vec::new();
            self.words = vec![0; words];
            ask_for_huge_pages(&mut self.words);
        }
        let start = self.words.as_mut_ptr().cast::<u8>();
        start.wrapping_add(start.align_offset(LINE)).cast()
    }
}

/// A panel crosses a page every few k; with 2 MiB pages the walks vanish. Only advice: a refusal costs speed alone.
fn ask_for_huge_pages(words: &mut [u64]) {
    #[cfg(target_os = "linux")]
    {
        const HUGE: usize = 2 << 20;
        let range = words.as_mut_ptr_range();
        let (from, to) = ((range.start as usize).next_multiple_of(HUGE), range.end as usize / HUGE * HUGE);
        if from < to {
            // SAFETY: whole pages inside an allocation of ours; the advice changes no contents.
            unsafe { libc::madvise(from as *mut libc::c_void, to - from, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = words;
}

/// What a thread keeps between products.
#[derive(Default)]
pub(super) struct Kept {
    /// Packed b, in the thread that calls.
    pub(super) b: Buffer,
    /// Sums over the blocks of K so far, in the thread that calls, where c itself cannot hold them.
    pub(super) sums: Buffer,
    /// Packed rows of a, in each thread that works, and which they are: (product, block of K, block of M).
    pub(super) a: Buffer,
    pub(super) a_holds: Option<(u64, usize, usize)>,
}

thread_local! {
    static CALLER: Cell<Kept> = Cell::default();
    static WORKER: Cell<Kept> = Cell::default();
}

/// Gives f what this thread keeps. If f panics the buffers are dropped and the next product grows new ones.
pub(super) fn as_caller<T>(f: impl FnOnce(&mut Kept) -> T) -> T {
    with(&CALLER, f)
}

/// The same for the part of a product that runs in a task; the calling thread works too, so it has both.
pub(super) fn as_worker<T>(f: impl FnOnce(&mut Kept) -> T) -> T {
    with(&WORKER, f)
}

fn with<T>(place: &'static std::thread::LocalKey<Cell<Kept>>, f: impl FnOnce(&mut Kept) -> T) -> T {
    let mut kept = place.take();
    let result = f(&mut kept);
    place.set(kept);
    result
}
