//! Packing bf16 for dot products of pairs: a packed value is two steps of k of one line, in 32 bits.
//!
//!     dst[p·width + i] = line i at depth 2p in the high half, at 2p + 1 in the low half; zeros beyond the depth
//!
//! `vdpbf16ps` adds the product of the high halves first, then that of the low ones, each a fused multiply-add. So in
//! this order its sums have the bits of the f32 kernels, which go down k one by one (but for subnormal numbers, which it
//! takes for zero).

use super::pack::{COPY_ROWS, LINE, Source, prefetch};
use super::x86::transpose_pairs;

/// As `pack::panels`, over depth / 2 packed values. `full` is a multiple of 8, so nothing spills.
///
/// # Safety
/// As there; the machine has AVX2, and the source is bf16.
#[inline(always)]
pub(super) unsafe fn panels(
    src: Source<u16>,
    lines: usize,
    depth: usize,
    full: usize,
    lanes: usize,
    dst: *mut u32,
) {
    debug_assert_eq!((full % 8, lanes % 8), (0, 0));
    // SAFETY: the caller's promise, for the lines of one panel each.
    unsafe {
        if src.line_stride == 1 {
            return copy(src, lines, depth, full, lanes, dst);
        }
        let pairs = depth.div_ceil(2);
        for first in (0..lines).step_by(full) {
            let lines = (lines - first).min(full);
            let width = lines.next_multiple_of(lanes).min(full);
            transpose(src.at(first, 0), lines, depth, width, dst.wrapping_add(first * pairs));
        }
    }
}

/// Stride 1 along the lines: two rows of the source at a time are dealt out to the panels.
///
/// # Safety
/// As `panels`.
#[inline(always)]
unsafe fn copy(src: Source<u16>, lines: usize, depth: usize, full: usize, lanes: usize, dst: *mut u32) {
    let pairs = depth.div_ceil(2);
    for from in (0..pairs).step_by(COPY_ROWS) {
        let to = (from + COPY_ROWS).min(pairs);
        for k in 2 * to..(2 * (to + COPY_ROWS)).min(depth) {
            let row = src.at(0, k).at;
            (0..lines).step_by(LINE / size_of::<u16>()).for_each(|i| prefetch(row.wrapping_add(i)));
        }
        for first in (0..lines).step_by(full) {
            let lines = (lines - first).min(full);
            let width = lines.next_multiple_of(lanes).min(full);
            for p in from..to {
                let (high, low) = (src.at(first, 2 * p).at, src.at(first, 2 * p + 1).at);
                let to = dst.wrapping_add(first * pairs + p * width);
                let whole = lines / 16 * 16;
                // SAFETY: the caller's promise; the low row is read only if it is within the depth.
                unsafe {
                    if 2 * p + 1 < depth {
                        for i in (0..whole).step_by(16) {
                            let [h, l] = [high, low].map(|x| x.add(i).cast::<[u16; 16]>().read_unaligned());
                            let both: [u32; 16] = std::array::from_fn(|i| pair(h[i], l[i]));
                            to.add(i).cast::<[u32; 16]>().write_unaligned(both);
                        }
                        (whole..lines).for_each(|i| *to.add(i) = pair(*high.add(i), *low.add(i)));
                    } else {
                        (0..lines).for_each(|i| *to.add(i) = pair(*high.add(i), 0));
                    }
                    (lines..width).for_each(|i| *to.add(i) = 0);
                }
            }
        }
    }
}

/// Stride 1 along k: one panel, 8 lines by 8 pairs at a time.
///
/// # Safety
/// As `panels`.
#[inline(always)]
unsafe fn transpose(src: Source<u16>, lines: usize, depth: usize, width: usize, dst: *mut u32) {
    /// How far along k to ask ahead.
    const AHEAD: usize = 96;
    let eights = depth / 16 * 8;
    for p in (0..eights).step_by(8) {
        for first in (0..width).step_by(8) {
            let left = lines.saturating_sub(first).min(8);
            if p % 16 == 0 && 2 * p + AHEAD < depth {
                (0..left).for_each(|i| prefetch(src.at(first + i, 2 * p + AHEAD).at));
            }
            // SAFETY: the caller's promise.
            unsafe {
                let from = src.at(first, 2 * p).at;
                transpose_pairs(from, src.line_stride, left, dst.add(p * width + first), width);
            }
        }
    }
    for p in eights..depth.div_ceil(2) {
        for i in 0..width {
            // SAFETY: lines below `lines` and steps below `depth` are there.
            unsafe {
                let at = |k: usize| if i < lines && k < depth { *src.at(i, k).at } else { 0 };
                *dst.add(p * width + i) = pair(at(2 * p), at(2 * p + 1));
            }
        }
    }
}

#[inline(always)]
fn pair(high: u16, low: u16) -> u32 {
    (high as u32) << 16 | low as u32
}
