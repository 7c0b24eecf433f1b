//! What the forward and the backward share: per-thread scratch, packing, and outputs that tasks write side by side.

use super::gemm::LANES;
use crate::device::{DType, Elem, Real, simd};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::thread::LocalKey;

/// Queries and keys of a tile: a tile of scores is 16 KiB in f32, half of a first-level cache.
pub const TILE: usize = 64;

/// One cache line; scratch is made of these so that every packed row starts on one.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub struct Line([u8; 64]);

pub type Buffer = LocalKey<RefCell<Vec<Line>>>;

thread_local! {
    /// What a task works in.
    pub static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Calls f with `len` elements of this thread's buffer, of any content; it grows when first needed and stays.
pub fn with_buffer<A: Real, R>(buffer: &'static Buffer, len: usize, f: impl FnOnce(&mut [A]) -> R) -> R {
    buffer.with_borrow_mut(|lines| {
        let need = (len * size_of::<A>()).div_ceil(size_of::<Line>());
        if lines.len() < need {
            lines.resize(need, Line([0; 64]));
        }
        f(&mut bytemuck::cast_slice_mut(&mut lines[..need])[..len])
    })
}

/// Cuts the first `len` elements off; lengths that are multiples of LANES keep the rest on a cache line.
pub fn cut<'a, A>(rest: &mut &'a mut [A], len: usize) -> &'a mut [A] {
    let (head, tail) = std::mem::take(rest).split_at_mut(len);
    *rest = tail;
    head
}

/// n rounded up to whole vectors.
pub fn padded(n: usize) -> usize {
    n.next_multiple_of(LANES)
}

/// Rows of a matrix in memory, of which one head's columns are read: row r is data[r·width + column..][..dim].
#[derive(Clone, Copy)]
pub struct Rows<'a, T> {
    pub data: &'a [T],
    pub width: usize,
    pub column: usize,
    pub dim: usize,
}

impl<'a, T: Elem> Rows<'a, T> {
    pub fn row(&self, r: usize) -> &'a [T] {
        &self.data[r * self.width + self.column..][..self.dim]
    }

    /// out (rows, padded dim) = factor · these rows, padded with zeros.
    pub fn pack(&self, rows: std::ops::Range<usize>, factor: T::Acc, out: &mut [T::Acc]) {
        simd(
            #[inline(always)]
            || {
                for (out, r) in out.chunks_exact_mut(padded(self.dim)).zip(rows) {
                    let (body, pad) = out.split_at_mut(self.dim);
                    for (o, x) in body.iter_mut().zip(self.row(r)) {
                        *o = x.load() * factor;
                    }
                    pad.fill(T::Acc::ZERO);
                }
            },
        )
    }
}

/// e^x for x ≤ 0, or a little above by rounding: half the instructions of `Real::exp`, with the same error below 2e-7 in
/// f32 and the same zero far below 0. A NaN stays a NaN.
#[inline(always)]
pub fn exp<A: Real>(x: A) -> A {
    if A::DTYPE == DType::F32 { bytemuck::cast(exp_f32(bytemuck::cast(x))) } else { x.exp() }
}

/// x = n·ln 2 + r with |r| ≤ ln 2 / 2; (e^r − 1 − r)/r² by its Chebyshev interpolant, which keeps e^0 = 1 exactly.
#[inline(always)]
fn exp_f32(x: f32) -> f32 {
    const ROUND: f32 = 12582912.0; // 1.5·2^23: adding it leaves the nearest integer in the low bits
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = n.mul_add(-0.693_359_4, x);
    let r = n.mul_add(2.121_944_4e-4, r);
    let mut p = 0.001_392_625;
    for c in [0.008_363_233, 0.041_666_552, 0.166_665_76, 0.5, 1.0, 1.0] {
        p = p.mul_add(r, c);
    }
    // The shift drops all of ROUND. A product, since adding to the exponent would turn some NaN into numbers.
    let y = p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < -87.0 { 0.0 } else { y }
}

/// out (dim, TILE) = the transpose of packed (rows, padded dim); columns from `rows` to whole vectors become zero.
pub fn transpose<A: Real>(packed: &[A], rows: usize, dim: usize, out: &mut [A]) {
    let width = padded(dim);
    simd(
        #[inline(always)]
        || {
            for i in (0..rows).step_by(LANES) {
                let live = LANES.min(rows - i);
                for d in (0..dim).step_by(LANES) {
                    let mut block = [[A::ZERO; LANES]; LANES];
                    for (r, block) in block[..live].iter_mut().enumerate() {
                        block.copy_from_slice(&packed[(i + r) * width + d..][..LANES]);
                    }
                    for c in 0..LANES.min(dim - d) {
                        let out = &mut out[(d + c) * TILE + i..][..LANES];
                        for (out, block) in out.iter_mut().zip(&block) {
                            *out = block[c];
                        }
                    }
                }
            }
        },
    )
}

/// A slice that the tasks of one `Pool::run` write at the same time, each its own elements.
#[derive(Clone, Copy)]
pub struct Out<'a, T> {
    data: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: whoever calls `at` promises that no two tasks reach the same elements.
unsafe impl<T: Send> Sync for Out<'_, T> {}

impl<'a, T> Out<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Out<'a, T> {
        Out { data: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// Elements start..start+len.
    ///
    /// # Safety
    /// Nobody else may hold any of them.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn at(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "{start}..+{len} of {}", self.len);
        // SAFETY: in bounds, and the caller promises that it is alone.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }
}
