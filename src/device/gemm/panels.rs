//! Products of a few rows with a weight that lies in panels: what decoding spends its time on.
//!
//!     c (M, N) = a (M, K) · wᵀ,   w (N, K) in panels of 48 rows, each stored as (K, 48), the last as (K, what is left)
//!
//! With few rows of a the product is bound by reading w. A panel is one stream through memory that is read once for
//! up to 8 rows, needs no packing and no sum across a vector, and takes the place of the rows it was made from.
//!
//! An element of c is summed as in `block`: one chain of fused multiply-adds per block of K, blocks added in order. So
//! it has the bits that `gemm` gives, whatever M is: a token decoded alone equals the same token in a long forward.

use super::block::{ALONE, DEPTH, part};
use super::pack::prefetch;
use super::{Epilogue, Mat, MatMut, buffer};
use crate::device::attention::vector::{Portable, Vector};
use crate::device::simd::{Isa, isa};
use crate::device::{DType, Elem, Pool, Real, Shared, simd};

/// Rows of w in a panel: three registers of AVX-512.
const PANEL: usize = 48;
/// Rows of a that share one pass over a panel at most.
const BAND: usize = 8;
/// Rows of a whose sums a task keeps at a time.
const CHUNK: usize = 256;
/// Bytes ahead of what is used, beyond what the hardware follows at the end of a page.
const AHEAD: usize = 2048;
const LINE: usize = 64;

/// A matrix (rows, cols) in panels.
#[derive(Clone, Copy)]
pub struct Panels<'a, T> {
    pub data: &'a [T],
    pub rows: usize,
    pub cols: usize,
}

impl<T> Panels<'_, T> {
    /// First element and width of panel p.
    fn panel(&self, p: usize) -> (usize, usize) {
        (p * PANEL * self.cols, PANEL.min(self.rows - p * PANEL))
    }
}

/// Turns w (rows, cols), row-major, into panels, in place.
pub fn to_panels<T: Elem>(pool: &Pool, w: &mut [T], rows: usize, cols: usize) {
    assert_eq!(w.len(), rows * cols, "values of a ({rows}, {cols}) matrix");
    let out = Shared::new(w);
    pool.ranges(rows, PANEL, |r| {
        // SAFETY: row ranges of different tasks are disjoint.
        let w = unsafe { out.part(r.start * cols..r.end * cols) };
        let (old, width) = (w.to_vec(), r.len());
        for (k, line) in w.chunks_exact_mut(width).enumerate() {
            line.iter_mut().enumerate().for_each(|(i, x)| *x = old[i * cols + k]);
        }
    });
}

/// out (cols) = row `row` of w.
pub fn panel_row<T: Elem>(w: Panels<T>, row: usize, out: &mut [T]) {
    let (first, width) = w.panel(row / PANEL);
    let column = w.data[first + row % PANEL..].iter().step_by(width);
    out.iter_mut().zip(column).for_each(|(o, x)| *o = *x);
}

/// c = a·wᵀ through the epilogue, which gets (row, first column, finished sums). c may have fewer columns than w has
/// rows: the rest is padding.
pub fn gemm_panels<A, B, C, E>(pool: &Pool, c: MatMut<C>, a: Mat<A>, w: Panels<B>, epilogue: E)
where
    A: Elem,
    B: Elem<Acc = A::Acc>,
    C: Elem<Acc = A::Acc>,
    E: Epilogue<A::Acc>,
{
    a.check();
    c.check();
    let (m, n, k) = (c.rows, c.cols, w.cols);
    assert_eq!((a.rows, a.cols, a.col_stride), (m, k, 1), "a·wᵀ with w ({}, {k})", w.rows);
    assert!(n <= w.rows && w.data.len() == w.rows * k, "{n} of {} columns", w.rows);
    if m == 0 || n == 0 {
        return;
    }
    let most = if isa() == Isa::Avx512 { BAND } else { BAND / 2 };
    let mut kept = buffer::caller();
    let packed: *mut A::Acc = kept.b.get(m.div_ceil(most) * most * k);
    // SAFETY: the buffer has room for all bands, and is this thread's until `kept` is dropped.
    let packed = unsafe { std::slice::from_raw_parts_mut(packed, m.div_ceil(most) * most * k) };
    let run = |tasks: usize, work: usize, task: &(dyn Fn(usize) + Sync)| match work < ALONE {
        true => (0..tasks).for_each(task),
        false => pool.run(tasks, task),
    };
    let bands = Shared::new(&mut *packed);
    run(m.div_ceil(most), 16 * m * k, &|i| {
        let rows = most.min(m - i * most);
        // SAFETY: each band is packed by one task.
        let out = unsafe { bands.part(i * most * k..(i * most + rows.next_power_of_two()) * k) };
        pack(a, i * most, rows, out);
    });
    let work = Work { a: packed, most, w, m, n, depth: part(k, DEPTH, 8) };
    let (pitch, c) = (c.row_stride, Shared::new(c.data));
    run(n.div_ceil(PANEL), m * n * k, &|p| {
        let cols = PANEL.min(n - p * PANEL);
        for first in (0..m).step_by(CHUNK) {
            let rows = CHUNK.min(m - first);
            let mut lent = buffer::worker();
            let sums: *mut A::Acc = lent.sums.get(CHUNK * PANEL);
            // SAFETY: the buffer has this room, and is this thread's until `lent` is dropped.
            let sums = unsafe { std::slice::from_raw_parts_mut(sums, CHUNK * PANEL) };
            work.on(p, first, rows, sums);
            simd(
                #[inline(always)]
                || {
                    for (row, sums) in (first..first + rows).zip(sums.chunks_exact_mut(PANEL)) {
                        let sums = &mut sums[..cols];
                        epilogue.finish(row, p * PANEL, sums);
                        // SAFETY: these columns are this task's alone.
                        let c = unsafe { c.part(row * pitch + p * PANEL..row * pitch + p * PANEL + cols) };
                        c.iter_mut().zip(&*sums).for_each(|(c, s)| *c = C::store(*s));
                    }
                },
            );
        }
    });
}

/// out[k·width + i] = row first + i of a at depth k, for i < rows; zeros up to the width, the next power of two.
fn pack<A: Elem>(a: Mat<A>, first: usize, rows: usize, out: &mut [A::Acc]) {
    let width = rows.next_power_of_two();
    simd(
        #[inline(always)]
        || {
            for i in 0..width {
                let row = (i < rows).then(|| &a.data[(first + i) * a.row_stride..][..a.cols]);
                for (k, out) in out[i..].iter_mut().step_by(width).enumerate() {
                    *out = row.map_or(A::Acc::ZERO, |row| row[k].load());
                }
            }
        },
    );
}

/// A product: a packed in bands of up to `most` rows.
#[derive(Clone, Copy)]
struct Work<'a, R, B> {
    a: &'a [R],
    most: usize,
    w: Panels<'a, B>,
    m: usize,
    n: usize,
    depth: usize,
}

/// Some rows of a product with one panel, as the kernels see it.
struct Job<'a, R, B> {
    work: Work<'a, R, B>,
    panel: usize,
    /// The first row and how many: the first begins a band.
    first: usize,
    rows: usize,
    /// (rows, PANEL)
    sums: &'a mut [R],
}

impl<R: Real, B: Elem<Acc = R>> Work<'_, R, B> {
    /// sums (rows, PANEL) = the product of rows first.. with panel p.
    fn on(self, panel: usize, first: usize, rows: usize, sums: &mut [R]) {
        assert!(first + rows <= self.m && panel * PANEL < self.n && sums.len() >= rows * PANEL);
        let job = Job { work: self, panel, first, rows, sums };
        #[cfg(target_arch = "x86_64")]
        if R::DTYPE == DType::F32 {
            use std::arch::x86_64::{__m256, __m512};
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
            unsafe fn avx512<B: Elem<Acc = f32>>(job: Job<f32, B>) {
                // SAFETY: the features are enabled, and `gemm_panels` checked the extents.
                unsafe { job.bands::<__m512, 3>() }
            }
            #[target_feature(enable = "avx2,fma")]
            unsafe fn avx2<B: Elem<Acc = f32>>(job: Job<f32, B>) {
                // SAFETY: as above.
                unsafe { job.bands::<__m256, 3>() }
            }
            match (isa(), B::DTYPE) {
                // SAFETY: `isa` says that the machine has the features.
                (Isa::Avx512, DType::F32) => return unsafe { avx512::<f32>(job.cast()) },
                // SAFETY: as above.
                (Isa::Avx512, _) => return unsafe { avx512::<half::bf16>(job.cast()) },
                // SAFETY: as above.
                (Isa::Avx2, DType::F32) => return unsafe { avx2::<f32>(job.cast()) },
                // SAFETY: as above.
                (Isa::Avx2, _) => return unsafe { avx2::<half::bf16>(job.cast()) },
                (Isa::Portable, _) => {}
            }
        }
        simd(
            #[inline(always)]
            // SAFETY: plain Rust needs no special instructions; the extents as above.
            || unsafe { job.bands::<Portable<R>, 1>() },
        )
    }
}

impl<'a, R: Real, B: Elem<Acc = R>> Job<'a, R, B> {
    /// The same numbers under the names of their types.
    #[cfg(target_arch = "x86_64")]
    fn cast<S: Real, D: Elem>(self) -> Job<'a, S, D> {
        let Work { a, most, w, m, n, depth } = self.work;
        let w = Panels { data: bytemuck::cast_slice(w.data), rows: w.rows, cols: w.cols };
        let work = Work { a: bytemuck::cast_slice(a), most, w, m, n, depth };
        let Job { panel, first, rows, sums, .. } = self;
        Job { work, panel, first, rows, sums: bytemuck::cast_slice_mut(sums) }
    }

    /// Block of K by block of K, so that a part of the panel serves all bands from the cache.
    ///
    /// # Safety
    /// The machine has V's instructions.
    #[inline(always)]
    unsafe fn bands<V: Vector<Item = R>, const N: usize>(mut self) {
        let Work { most, depth, w, .. } = self.work;
        for at in (0..w.cols).step_by(depth) {
            let terms = at..w.cols.min(at + depth);
            for row in (0..self.rows).step_by(most) {
                // SAFETY: the caller's promise.
                unsafe {
                    match most.min(self.rows - row).next_power_of_two() {
                        1 => self.band::<V, 1, N>(row, terms.clone()),
                        2 => self.band::<V, 2, N>(row, terms.clone()),
                        4 => self.band::<V, 4, N>(row, terms.clone()),
                        // Only where `most` is 8, with registers for it.
                        _ => self.band::<V, BAND, N>(row, terms.clone()),
                    }
                }
            }
        }
    }

    /// Adds the terms to the sums of up to M rows: N vectors of columns at a time, then one, then single columns.
    #[inline(always)]
    unsafe fn band<V: Vector<Item = R>, const M: usize, const N: usize>(
        &mut self,
        row: usize,
        terms: std::ops::Range<usize>,
    ) {
        let Work { a, w, .. } = self.work;
        let (start, width) = w.panel(self.panel);
        let a = a[(self.first + row) * w.cols..][..M * w.cols][terms.start * M..terms.end * M].as_ptr();
        let panel = w.data[start..][..width * w.cols][terms.start * width..terms.end * width].as_ptr();
        let rows = M.min(self.rows - row);
        let (begin, depth) = (terms.start == 0, terms.len());
        let sums = &mut self.sums[row * PANEL..][..rows * PANEL];
        let mut add = |r: usize, col: usize, x: R| {
            let sum = &mut sums[r * PANEL + col];
            *sum = if begin { x } else { *sum + x };
        };
        let mut tile = [R::ZERO; BAND * PANEL];
        let (mut col, wide) = (0, N * V::WIDTH);
        // SAFETY: a has M values for each term, the panel `width`, of which the columns from `col` on are within.
        unsafe {
            while col < width {
                let done = if col + wide <= width {
                    product::<V, B, M, N>(depth, a, panel.add(col), width, tile.as_mut_ptr());
                    wide
                } else if col + V::WIDTH <= width {
                    product::<V, B, M, 1>(depth, a, panel.add(col), width, tile.as_mut_ptr());
                    V::WIDTH
                } else {
                    for r in 0..rows {
                        let term = |sum: R, k: usize| {
                            (*a.add(k * M + r)).mul_add((*panel.add(k * width + col)).load(), sum)
                        };
                        tile[r * PANEL] = (0..depth).fold(R::ZERO, term);
                    }
                    1
                };
                for r in 0..rows {
                    (0..done).for_each(|j| add(r, col + j, tile[r * PANEL + j]));
                }
                col += done;
            }
        }
    }
}

/// tile[r·PANEL + j] = Σ_k a[k·M + r]·w[k·pitch + j] for M rows and N vectors of columns.
///
/// # Safety
/// a, w and tile have these elements; the machine has V's instructions.
#[inline(always)]
unsafe fn product<V: Vector, B: Elem<Acc = V::Item>, const M: usize, const N: usize>(
    depth: usize,
    mut a: *const V::Item,
    mut w: *const B,
    pitch: usize,
    tile: *mut V::Item,
) {
    // SAFETY: the caller's promise. Pointers move by wrapping_add, since the last step leaves the data.
    unsafe {
        let mut sums = [[V::splat(V::Item::ZERO); N]; M];
        for _ in 0..depth {
            for line in 0..(N * V::WIDTH * size_of::<B>()).div_ceil(LINE) {
                prefetch(w.cast::<u8>().wrapping_add(AHEAD + line * LINE));
            }
            let right: [V; N] = std::array::from_fn(|v| V::widen(w.wrapping_add(v * V::WIDTH)));
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = V::splat(*a.wrapping_add(r));
                for (sum, &y) in sums.iter_mut().zip(&right) {
                    *sum = sum.fma(x, y);
                }
            }
            a = a.wrapping_add(M);
            w = w.wrapping_add(pitch);
        }
        for (r, sums) in sums.into_iter().enumerate() {
            for (v, sum) in sums.into_iter().enumerate() {
                sum.store(tile.wrapping_add(r * PANEL + v * V::WIDTH));
            }
        }
    }
}
