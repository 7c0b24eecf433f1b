//! Packing buffers: aligned to cache lines, grown on first use and kept by the thread that asked.

use crate::device::Real;
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::thread::LocalKey;

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

/// What a thread keeps, lent out; it goes back on drop.
pub(super) struct Lent {
    kept: Kept,
    place: &'static LocalKey<Cell<Kept>>,
}

/// The buffers of the thread that calls a product.
pub(super) fn caller() -> Lent {
    Lent { kept: CALLER.take(), place: &CALLER }
}

/// The buffers of a thread that runs a task; the calling thread does too, so it has both.
pub(super) fn worker() -> Lent {
    Lent { kept: WORKER.take(), place: &WORKER }
}

impl Deref for Lent {
    type Target = Kept;
    fn deref(&self) -> &Kept {
        &self.kept
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Kept {
        &mut self.kept
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.place.set(std::mem::take(&mut self.kept));
    }
}
