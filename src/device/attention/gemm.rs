//! Products of small matrices that lie in cache: c = a·b or c += a·b for tiles of at most a few hundred rows.
//!
//! Each element of c is Σ_k a(i,k)·b(k,j) summed over k in order with one rounding per term, whatever the block
//! shape, so the bits are the same on every instruction set.

use crate::device::simd::{Isa, isa};
use crate::device::{Real, simd};
use std::ops::Range;

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
    pub k: usize,
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
    // Accumulators of 8×32 f32 or 8×16 f64 fill 16 of the 32 AVX-512 registers, those of 4×16 f32 8 of the 16 of AVX2.
    let wide = isa() == Isa::Avx512;
    // SAFETY: the extents were checked above.
    simd(|| unsafe {
        match (wide, size_of::<A>()) {
            (true, 4) => args.columns::<8, 32>(),
            (true, _) => args.columns::<8, 16>(),
            _ => args.columns::<4, 16>(),
        }
    })
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
    /// Panels of L columns of b, which stay in the first-level cache while the rows of a pass by.
    #[inline(always)]
    unsafe fn columns<const M: usize, const L: usize>(self) {
        let mut j = 0;
        while j + L <= self.shape.n {
            // SAFETY: the caller's extents hold these columns.
            unsafe { self.rows::<M, L>(j) };
            j += L;
        }
        if j < self.shape.n {
            // SAFETY: as above; n and L are multiples of 16, and L is 16 or 32.
            unsafe { self.rows::<M, 16>(j) };
        }
    }

    #[inline(always)]
    unsafe fn rows<const M: usize, const L: usize>(self, j: usize) {
        let m = self.shape.m;
        let mut i = 0;
        // SAFETY: each block covers rows below m and L columns from j.
        unsafe {
            while i + M <= m {
                self.block::<M, L>(i, j);
                i += M;
            }
            if M > 4 && i + 4 <= m {
                self.block::<4, L>(i, j);
                i += 4;
            }
            if i + 2 <= m {
                self.block::<2, L>(i, j);
                i += 2;
            }
            if i < m {
                self.block::<1, L>(i, j);
            }
        }
    }

    #[inline(always)]
    unsafe fn block<const M: usize, const L: usize>(self, i: usize, j: usize) {
        let Shape { k, triangle, .. } = self.shape;
        let terms: Range<usize> = match triangle {
            Triangle::Full => 0..k,
            Triangle::Upper if i >= j + L => return,
            Triangle::Upper => 0..k,
            Triangle::TermsUpTo => 0..k.min(i + M),
            Triangle::TermsFrom => i.min(k)..k,
        };
        let mut acc = [[A::ZERO; L]; M];
        // SAFETY: rows i..i+M, columns j..j+L and terms below k are inside the extents that `gemm` checked.
        unsafe {
            let (mut a, mut b) =
                (self.a.add(i * self.row + terms.start * self.col), self.b.add(terms.start * self.ldb + j));
            for _ in terms {
                let right = &*(b as *const [A; L]);
                for (r, acc) in acc.iter_mut().enumerate() {
                    let left = *a.add(r * self.row);
                    for l in 0..L {
                        acc[l] = left.mul_add(right[l], acc[l]);
                    }
                }
                a = a.wrapping_add(self.col);
                b = b.wrapping_add(self.ldb);
            }
            for (r, acc) in acc.iter().enumerate() {
                let c = &mut *(self.c.add((i + r) * self.ldc + j) as *mut [A; L]);
                for l in 0..L {
                    c[l] = if self.add { c[l] + acc[l] } else { acc[l] };
                }
            }
        }
    }
}
