//! Matrix product on the CPU: c = a·b or c += a·b, with an optional epilogue on the finished sums.
//!
//!     c (M, N)  ←  Σ_k a (M, K) · b (K, N)
//!
//! The scheme is that of Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008), in the
//! form of BLIS: b is packed into panels of NR columns, a into bands of MR rows, and a register kernel walks down k.
//! bf16 becomes f32 while packing, or stays in pairs where the machine has a faster instruction for these; all sums
//! are in `Elem::Acc`.
//!
//! One element of c is one chain of fused multiply-adds per block of K, blocks added in order, and the blocks follow
//! from K alone. So its bits depend on its row of a and its column of b only: not on M or N, the number of threads,
//! or the instruction set (subnormal bf16, below 1.2e-38, count as zero in pairs).

mod block;
mod blocks;
mod buffer;
mod kernel;
mod pack;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod panels;
mod peak;
mod store;
mod task;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use super::simd::{Isa, isa};
use super::{DType, Elem, Pool};
pub use block::{A_VALUES, B_VALUES, DEPTH, SUM_ROWS};
pub use blocks::{BlockMap, Blocks, blocks_forward, blocks_input, blocks_weight};
pub use panels::{Panels, gemm_panels, panel_row, to_panels};
pub use peak::{bf16_dot_peak, peak};

/// A matrix (rows, cols) with strides in elements, one of which is 1.
#[derive(Clone, Copy)]
pub struct Mat<'a, T> {
    pub data: &'a [T],
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    pub col_stride: usize,
}

impl<'a, T> Mat<'a, T> {
    /// Row-major and dense.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        Self::pitched(data, rows, cols, cols)
    }

    /// Row-major; a row begins every `row_stride` elements.
    pub fn pitched(data: &'a [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        let mat = Mat { data, rows, cols, row_stride, col_stride: 1 };
        mat.check();
        mat
    }

    /// The transpose, as a view.
    pub fn t(self) -> Self {
        Mat {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    fn check(&self) {
        let (rs, cs) = (self.row_stride, self.col_stride);
        assert!(rs == 1 || cs == 1, "a matrix has strides ({rs}, {cs}), one of which must be 1");
        let (need, have) = (extent(self.rows, self.cols, rs, cs), self.data.len());
        assert!(
            need <= have as u128,
            "a matrix ({}, {}) with strides ({rs}, {cs}) spans {need} elements, its data has {have}",
            self.rows,
            self.cols
        );
    }
}

/// A row-major matrix (rows, cols) to write to; a row begins every `row_stride` elements.
pub struct MatMut<'a, T> {
    pub data: &'a mut [T],
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
}

impl<'a, T> MatMut<'a, T> {
    /// Dense.
    pub fn new(data: &'a mut [T], rows: usize, cols: usize) -> Self {
        Self::pitched(data, rows, cols, cols)
    }

    /// A row begins every `row_stride` ≥ `cols` elements.
    pub fn pitched(data: &'a mut [T], rows: usize, cols: usize, row_stride: usize) -> Self {
        let mat = MatMut { data, rows, cols, row_stride };
        mat.check();
        mat
    }

    fn check(&self) {
        let (rows, cols, pitch) = (self.rows, self.cols, self.row_stride);
        assert!(pitch >= cols || rows <= 1, "a matrix has {cols} columns and a pitch of only {pitch}");
        let (need, have) = (extent(rows, cols, pitch, 1), self.data.len());
        assert!(
            need <= have as u128,
            "a matrix ({rows}, {cols}) with pitch {pitch} spans {need} elements, its data has {have}"
        );
    }
}

/// Elements from the first to the last of a strided matrix. In 128 bits: these guard unsafe code, so no wrapping.
fn extent(rows: usize, cols: usize, row_stride: usize, col_stride: usize) -> u128 {
    if rows == 0 || cols == 0 {
        return 0;
    }
    (rows as u128 - 1) * row_stride as u128 + (cols as u128 - 1) * col_stride as u128 + 1
}

/// What happens to the old contents of c.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Out {
    /// c = a·b
    Store,
    /// c += a·b
    Add,
}

/// c = a·b or c += a·b, with a (M, K), b (K, N), c (M, N). K = 0 gives zeros.
pub fn gemm<A: Elem, B: Elem<Acc = A::Acc>, C: Elem<Acc = A::Acc>>(
    pool: &Pool,
    c: MatMut<C>,
    out: Out,
    a: Mat<A>,
    b: Mat<B>,
) {
    on(How::here(), pool, c, out, a, b, None::<&Nothing>);
}

/// What happens to sums before they are stored.
pub trait Epilogue<R>: Sync {
    /// Changes `sums`, the finished sums of one row from column `first` on. Called once for each segment of a row while
    /// it is in cache; the segments cover the columns once, their lengths are the implementation's choice.
    ///
    /// Make it and what it calls `#[inline(always)]`: then it is compiled for the vectors of the kernel.
    fn finish(&self, row: usize, first: usize, sums: &mut [R]);
}

impl<R, F: Fn(usize, usize, &mut [R]) + Sync> Epilogue<R> for F {
    #[inline(always)]
    fn finish(&self, row: usize, first: usize, sums: &mut [R]) {
        self(row, first, sums);
    }
}

struct Nothing;

impl<R> Epilogue<R> for Nothing {
    fn finish(&self, _row: usize, _first: usize, _sums: &mut [R]) {}
}

/// As [`gemm`], with `epilogue(row, first column, sums)` called as [`Epilogue::finish`] is; what it leaves in the sums is
/// stored, or with `Out::Add` added to the old c. The compiler may leave a large closure outside the vector code:
/// one that computes more than an addition is better an `Epilogue` for [`gemm_fused`].
pub fn gemm_with<A, B, C, E>(pool: &Pool, c: MatMut<C>, out: Out, a: Mat<A>, b: Mat<B>, epilogue: E)
where
    A: Elem,
    B: Elem<Acc = A::Acc>,
    C: Elem<Acc = A::Acc>,
    E: Fn(usize, usize, &mut [A::Acc]) + Sync,
{
    on(How::here(), pool, c, out, a, b, Some(&epilogue));
}

/// As [`gemm_with`], with an epilogue that is sure to be compiled for the vectors of the kernel.
pub fn gemm_fused<A, B, C, E>(pool: &Pool, c: MatMut<C>, out: Out, a: Mat<A>, b: Mat<B>, epilogue: &E)
where
    A: Elem,
    B: Elem<Acc = A::Acc>,
    C: Elem<Acc = A::Acc>,
    E: Epilogue<A::Acc>,
{
    on(How::here(), pool, c, out, a, b, Some(epilogue));
}

/// Which kernels compute.
#[derive(Clone, Copy, Debug, PartialEq)]
struct How {
    isa: Isa,
    /// bf16 by bf16 as dot products of pairs. Only with AVX-512.
    dots: bool,
}

impl How {
    /// The fastest that this machine has.
    fn here() -> How {
        How { isa: isa(), dots: isa() == Isa::Avx512 && peak::dots_are_faster() }
    }
}

/// Whether products of bf16 by bf16 take pairs of it: this machine does more multiply-adds as dot products.
pub fn bf16_in_pairs() -> bool {
    How::here().dots
}

/// The product with the kernels of `how`, which this machine must have.
fn on<A, B, C, E>(how: How, pool: &Pool, c: MatMut<C>, out: Out, a: Mat<A>, b: Mat<B>, epilogue: Option<&E>)
where
    A: Elem,
    B: Elem<Acc = A::Acc>,
    C: Elem<Acc = A::Acc>,
    E: Epilogue<A::Acc>,
{
    a.check();
    b.check();
    c.check();
    assert_eq!(a.cols, b.rows, "a·b with a ({}, {}) and b ({}, {})", a.rows, a.cols, b.rows, b.cols);
    let (rows, cols) = (c.rows, c.cols);
    assert_eq!((rows, cols), (a.rows, b.cols), "c has another shape than a·b");
    #[cfg(target_arch = "x86_64")]
    if A::Acc::DTYPE == DType::F32 {
        match how.isa {
            Isa::Avx512 if how.dots && [A::DTYPE, B::DTYPE] == [DType::Bf16; 2] => {
                return block::product::<x86::Dots, A, B, C, E>(pool, c, out, a, b, epilogue);
            }
            Isa::Avx512 => return block::product::<x86::Avx512, A, B, C, E>(pool, c, out, a, b, epilogue),
            Isa::Avx2 => return block::product::<x86::Avx2, A, B, C, E>(pool, c, out, a, b, epilogue),
            Isa::Portable => {}
        }
    }
    let _ = how;
    block::product::<kernel::Portable, A, B, C, E>(pool, c, out, a, b, epilogue)
}
