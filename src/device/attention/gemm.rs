//! Products of small matrices that lie in cache: c = a·b or c += a·b for tiles of at most a few hundred rows.
//!
//! Each element of c is Σ_k a(i,k)·b(k,j) summed over k in order with one rounding per term, whatever the block
//! shape, so finite numbers give the same bits on every instruction set. Where a and b hold bf16 in pairs, a number for
//! two steps of k, the sums are the same (but for subnormal numbers, which count as zero there).

use super::tile::Form;
use super::vector::{Portable, Vector};
use crate::device::simd::{Isa, isa};
use crate::device::{DType, Real, simd};

/// Rows of b and c are padded to a multiple of this many elements.
pub const LANES: usize = 16;

/// The left factor: element (i, k) is data[i·row + k·col].
#[derive(Clone, Copy)]
pub struct Left<'a, A> {
    pub data: &'a [A],
    pub row: usize,
    pub col: usize,
}

/// What a causal diagonal tile leaves out, in whole blocks.
#[derive(Clone, Copy, PartialEq)]
pub enum Triangle {
    /// Nothing.
    Full,
    /// c(i, j) with i > j is not wanted and may be left as it was.
    Upper,
    /// a(i, k) is zero for k > i.
    TermsUpTo,
    /// a(i, k) is zero for k < i.
    TermsFrom,
}

#[derive(Clone, Copy)]
pub struct Shape {
    pub m: usize,
    /// A multiple of LANES.
    pub n: usize,
    /// Numbers along the sum: the steps, or half of them.
    pub k: usize,
    pub form: Form,
    pub triangle: Triangle,
}

/// c (m rows of stride ldc) = a·b, or c + a·b if `add`; b has k rows of stride ldb.
pub fn gemm<A: Real>(shape: Shape, a: Left<A>, b: &[A], ldb: usize, c: &mut [A], ldc: usize, add: bool) {
    let Shape { m, n, k, .. } = shape;
    if m == 0 || n == 0 {
        return;
    }
    assert!(n % LANES == 0 && n <= ldb && n <= ldc, "{n} columns in rows of {ldb} and {ldc}");
    assert!(k == 0 || (m - 1) * a.row + (k - 1) * a.col < a.data.len(), "a of {m}×{k}");
    assert!(k == 0 || (k - 1) * ldb + n <= b.len(), "b of {k}×{n}");
    assert!((m - 1) * ldc + n <= c.len(), "c of {m}×{n}");
    let (b, c) = (b.as_ptr(), c.as_mut_ptr());
    let args = Args { shape, a: a.data.as_ptr(), row: a.row, col: a.col, b, ldb, c, ldc, add };
    #[cfg(target_arch = "x86_64")]
    if A::DTYPE == DType::F32 {
        use std::arch::x86_64::{__m256, __m512};
        // 16 of the 32 registers hold sums: enough to hide the latency of the additions.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        unsafe fn avx512(args: Args<f32>) {
            // SAFETY: the features are enabled, and `gemm` checked the extents.
            unsafe { args.columns::<__m512, 8, 2>() }
        }
        // 12 of the 16 registers.
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2(args: Args<f32>) {
            // SAFETY: as above.
            unsafe { args.columns::<__m256, 6, 2>() }
        }
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
        unsafe fn pairs(args: Args<f32>) {
            // SAFETY: as above.
            unsafe { args.columns::<super::vector::Pairs, 8, 2>() }
        }
        match isa() {
            // SAFETY: `Form::of` says pairs only where the machine has the features.
            _ if shape.form == Form::Pairs => return unsafe { pairs(args.cast()) },
            // SAFETY: `isa` says that the machine has the features.
            Isa::Avx512 => return unsafe { avx512(args.cast()) },
            // SAFETY: as above.
            Isa::Avx2 => return unsafe { avx2(args.cast()) },
            Isa::Portable => {}
        }
    }
    assert!(shape.form == Form::Single);
    simd(
        #[inline(always)]
        // SAFETY: the extents were checked above, and plain Rust needs no special instructions.
        || unsafe { args.columns::<Portable<A>, 4, 1>() },
    )
}

#[derive(Clone, Copy)]
struct Args<A> {
    shape: Shape,
    a: *const A,
    row: usize,
    col: usize,
    b: *const A,
    ldb: usize,
    c: *mut A,
    ldc: usize,
    add: bool,
}

impl<A: Real> Args<A> {
    /// The same numbers under the name of their type.
    #[cfg(target_arch = "x86_64")]
    fn cast<B: Real>(self) -> Args<B> {
        assert_eq!(A::DTYPE, B::DTYPE);
        let Args { shape, row, col, ldb, ldc, add, .. } = self;
        Args { shape, a: self.a.cast(), row, col, b: self.b.cast(), ldb, c: self.c.cast(), ldc, add }
    }

    /// Panels of N vectors of columns of b, which stay in the first-level cache while the rows of a pass by.
    #[inline(always)]
    unsafe fn columns<V: Vector<Item = A>, const M: usize, const N: usize>(self) {
        let mut j = 0;
        while j + N * V::WIDTH <= self.shape.n {
            // SAFETY: these columns are inside the extents.
            unsafe { self.rows::<V, M, N>(j) };
            j += N * V::WIDTH;
        }
        while j < self.shape.n {
            // SAFETY: as above: n and j are multiples of the width.
            unsafe { self.rows::<V, M, 1>(j) };
            j += V::WIDTH;
        }
    }

    #[inline(always)]
    unsafe fn rows<V: Vector<Item = A>, const M: usize, const N: usize>(self, j: usize) {
        let m = self.shape.m;
        let mut i = 0;
        // SAFETY: each block covers rows below m.
        unsafe {
            while i + M <= m {
                self.block::<V, M, N>(i, j);
                i += M;
            }
            if M > 4 && i + 4 <= m {
                self.block::<V, 4, N>(i, j);
                i += 4;
            }
            if i + 2 <= m {
                self.block::<V, 2, N>(i, j);
                i += 2;
            }
            if i < m {
                self.block::<V, 1, N>(i, j);
            }
        }
    }

    /// Rows i..i+M and N vectors of columns from j.
    #[inline(always)]
    unsafe fn block<V: Vector<Item = A>, const M: usize, const N: usize>(self, i: usize, j: usize) {
        let Shape { k, form, triangle, .. } = self.shape;
        let terms = match triangle {
            Triangle::Full => 0..k,
            Triangle::Upper if i >= j + N * V::WIDTH => return,
            Triangle::Upper => 0..k,
            Triangle::TermsUpTo => 0..k.min(form.steps(i + M)),
            Triangle::TermsFrom => (i / form.deep()).min(k)..k,
        };
        // SAFETY: these rows, columns and terms are inside the extents that `gemm` checked.
        unsafe {
            let mut acc = [[V::splat(A::ZERO); N]; M];
            // Pointers move by wrapping_add, since the last step leaves the slice.
            let left: [*const A; M] = std::array::from_fn(|r| self.a.wrapping_add((i + r) * self.row));
            let mut at = terms.start * self.col;
            let mut b = self.b.wrapping_add(terms.start * self.ldb + j);
            for _ in terms {
                let right: [V; N] = std::array::from_fn(|v| V::load(b.wrapping_add(v * V::WIDTH)));
                for r in 0..M {
                    let x = V::splat(*left[r].wrapping_add(at));
                    for v in 0..N {
                        acc[r][v] = acc[r][v].fma(x, right[v]);
                    }
                }
                at += self.col;
                b = b.wrapping_add(self.ldb);
            }
            for (r, acc) in acc.into_iter().enumerate() {
                for (v, acc) in acc.into_iter().enumerate() {
                    let c = self.c.wrapping_add((i + r) * self.ldc + j + v * V::WIDTH);
                    let sum = if self.add { V::load(c).plus(acc) } else { acc };
                    sum.store(c);
                }
            }
        }
    }
}
