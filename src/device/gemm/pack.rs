//! Packing: `lines` rows of a (or columns of b) over a block of K, laid out as the register kernel reads them.
//!
//!     dst[k·width + i] = line i at depth k, for i < lines; zeros for lines ≤ i < width
//!
//! The source has stride 1 either along the lines (copy) or along k (transpose, 8 × 8 at a time).

use super::kernel::Kernel;
use crate::device::{Elem, Real};

/// How many values beyond the end a transpose may write, into a width that is no multiple of 8.
pub(super) const SPILL: usize = 7;

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

/// Stride 1 along the lines: whole rows of the source are read at once and dealt out to the panels.
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
    for k in 0..depth {
        let row = src.at(0, k).at;
        for first in (0..lines).step_by(full) {
            let lines = (lines - first).min(full);
            let width = lines.next_multiple_of(lanes).min(full);
            // SAFETY: the caller's promise.
            unsafe {
                let (from, to) = (row.add(first), dst.add(first * depth + k * width));
                let eights = lines / 8 * 8;
                for i in (0..eights).step_by(8) {
                    let x = from.add(i).cast::<[T; 8]>().read_unaligned();
                    to.add(i).cast::<[T::Acc; 8]>().write_unaligned(x.map(T::load));
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
