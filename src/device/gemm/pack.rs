//! Packing: `lines` rows of a (or columns of b) over a block of K, laid out as the register kernel reads them.
//!
//!     dst[k·width + i] = line i at depth k, for i < lines; zeros for lines ≤ i < width
//!
//! The source has stride 1 either along the lines (copy) or along k (transpose, 8 × 8 at a time).

use super::kernel::Kernel;
#[cfg(target_arch = "x86_64")]
use super::pairs;
use crate::device::{Elem, Real};

/// How many values beyond the end a transpose may write, into a width that is no multiple of 8.
pub(super) const SPILL: usize = 7;

/// Rows of the source that `copy` deals out at a time.
pub(super) const COPY_ROWS: usize = 4;

/// How far along k `transpose` asks ahead: it reads up to 48 lines at once, more than the hardware follows.
const AHEAD: usize = 48;
pub(super) const LINE: usize = 64;

/// Lines of a matrix over a block of K.
#[derive(Clone, Copy)]
pub(super) struct Source<T> {
    pub(super) at: *const T,
    /// Elements from one line to the next, and from one k to the next; one of them is 1.
    pub(super) line_stride: usize,
    pub(super) k_stride: usize,
}

impl<T> Source<T> {
    /// The same from this line and k on.
    pub(super) fn at(self, line: usize, k: usize) -> Self {
        Source { at: self.at.wrapping_add(line * self.line_stride + k * self.k_stride), ..self }
    }

    /// The same matrix under another name of its type.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn cast<U>(self) -> Source<U> {
        debug_assert_eq!(size_of::<T>(), size_of::<U>());
        Source { at: self.at.cast(), line_stride: self.line_stride, k_stride: self.k_stride }
    }
}

/// Panels of `full` lines one after the other, `full`·depth values apart; the last is as wide as the lines left,
/// rounded up to `lanes`. Up to SPILL values more
/// may be written.
///
/// # Safety
/// The machine has K's instruction set; the source has the lines over the depth; dst has room.
#[inline(always)]
pub(super) unsafe fn panels<K: Kernel<T::Acc>, T: Elem>(
    src: Source<T>,
    lines: usize,
    depth: usize,
    full: usize,
    lanes: usize,
    dst: *mut T::Acc,
) {
    // SAFETY: the caller's promise, for the lines of one panel each.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        if K::DEEP == 2 {
            return pairs::panels(src.cast(), lines, depth, full, lanes, dst.cast());
        }
        if src.line_stride == 1 {
            return copy(src, lines, depth, full, lanes, dst);
        }
        for first in (0..lines).step_by(full) {
            let lines = (lines - first).min(full);
            let width = lines.next_multiple_of(lanes).min(full);
            transpose::<K, T>(src.at(first, 0), lines, depth, width, dst.add(first * depth));
        }
    }
}

/// Stride 1 along the lines: rows of the source are read along their length and dealt out to the panels, a few rows
/// at a time, so that what is written is whole cache lines even if the panels lie a power of two apart.
///
/// # Safety
/// As `panels`.
#[inline(always)]
unsafe fn copy<T: Elem>(
    src: Source<T>,
    lines: usize,
    depth: usize,
    full: usize,
    lanes: usize,
    dst: *mut T::Acc,
) {
    for from_k in (0..depth).step_by(COPY_ROWS) {
        let to_k = (from_k + COPY_ROWS).min(depth);
        for k in to_k..(to_k + COPY_ROWS).min(depth) {
            let row = src.at(0, k).at;
            (0..lines).step_by(LINE / size_of::<T>()).for_each(|i| prefetch(row.wrapping_add(i)));
        }
        for first in (0..lines).step_by(full) {
            let lines = (lines - first).min(full);
            let width = lines.next_multiple_of(lanes).min(full);
            for k in from_k..to_k {
                let from = src.at(first, k).at;
                let to = dst.wrapping_add(first * depth + k * width);
                let (sixteens, eights) = (lines / 16 * 16, lines / 8 * 8);
                // SAFETY: the caller's promise.
                unsafe {
                    for i in (0..sixteens).step_by(16) {
                        convert::<16, T>(from.add(i), to.add(i));
                    }
                    if sixteens < eights {
                        convert::<8, T>(from.add(sixteens), to.add(sixteens));
                    }
                    for i in eights..lines {
                        *to.add(i) = (*from.add(i)).load();
                    }
                    for i in lines..width {
                        *to.add(i) = T::Acc::ZERO;
                    }
                }
            }
        }
    }
}

/// N values, in vectors.
///
/// # Safety
/// Both have N values.
#[inline(always)]
unsafe fn convert<const N: usize, T: Elem>(from: *const T, to: *mut T::Acc) {
    // SAFETY: the caller's promise.
    unsafe { to.cast::<[T::Acc; N]>().write_unaligned(from.cast::<[T; N]>().read_unaligned().map(T::load)) }
}

/// Stride 1 along k: one panel.
///
/// # Safety
/// As `panels`.
#[inline(always)]
unsafe fn transpose<K: Kernel<T::Acc>, T: Elem>(
    src: Source<T>,
    lines: usize,
    depth: usize,
    width: usize,
    dst: *mut T::Acc,
) {
    let eights = depth / 8 * 8;
    for k in (0..eights).step_by(8) {
        for first in (0..width).step_by(8) {
            let left = lines.saturating_sub(first).min(8);
            if k % 16 == 0 && k + AHEAD < depth {
                (0..left).for_each(|i| prefetch(src.at(first + i, k + AHEAD).at));
            }
            // SAFETY: the caller's promise. What is written beyond a width of 6 is overwritten by the next k.
            unsafe {
                K::transpose(src.at(first, k).at, src.line_stride, left, dst.add(k * width + first), width)
            };
        }
    }
    for k in eights..depth {
        for i in 0..width {
            // SAFETY: the caller's promise.
            unsafe {
                *dst.add(k * width + i) = if i < lines { (*src.at(i, k).at).load() } else { T::Acc::ZERO };
            }
        }
    }
}

/// Asks for a cache line that will be read.
#[inline(always)]
pub(super) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch changes nothing but speed, at any address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
