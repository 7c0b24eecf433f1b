//! Sums whose order of additions follows from the shape alone, so that any number of threads gives the same bits.

use crate::device::{Category, DType, Device, Elem, Real, Shared, simd};
use crate::tensor::Tensor;

/// Accumulators of a sum along a row: a multiple of every vector width.
pub(super) const LANES: usize = 16;
/// Rows whose contributions to a column sum are added up first.
pub const ROW_BLOCK: usize = 64;

/// Σ f(x_i)
#[inline(always)]
pub fn sum<T: Elem>(x: &[T], f: impl Fn(T::Acc) -> T::Acc) -> T::Acc {
    let mut acc = [T::Acc::ZERO; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for c in chunks {
        for l in 0..LANES {
            acc[l] += f(c[l].load());
        }
    }
    let tail = rest.iter().fold(T::Acc::ZERO, |s, v| s + f(v.load()));
    fold(acc) + tail
}

/// Σ f(x_i, y_i)
#[inline(always)]
pub fn sum2<T: Elem>(x: &[T], y: &[T], f: impl Fn(T::Acc, T::Acc) -> T::Acc) -> T::Acc {
    sum3(x, y, y, |a, b, _| f(a, b))
}

/// Σ f(x_i, y_i, z_i)
#[inline(always)]
pub fn sum3<T: Elem>(x: &[T], y: &[T], z: &[T], f: impl Fn(T::Acc, T::Acc, T::Acc) -> T::Acc) -> T::Acc {
    let mut acc = [T::Acc::ZERO; LANES];
    let (cx, cy, cz) = (x.chunks_exact(LANES), y.chunks_exact(LANES), z.chunks_exact(LANES));
    let (rx, ry, rz) = (cx.remainder(), cy.remainder(), cz.remainder());
    for ((a, b), c) in cx.zip(cy).zip(cz) {
        for l in 0..LANES {
            acc[l] += f(a[l].load(), b[l].load(), c[l].load());
        }
    }
    let rest = rx.iter().zip(ry).zip(rz);
    let tail = rest.fold(T::Acc::ZERO, |s, ((a, b), c)| s + f(a.load(), b.load(), c.load()));
    fold(acc) + tail
}

#[inline(always)]
pub(super) fn fold<A: Real>(mut acc: [A; LANES]) -> A {
    let mut width = LANES / 2;
    while width > 0 {
        for l in 0..width {
            acc[l] += acc[l + width];
        }
        width /= 2;
    }
    acc[0]
}

/// Calls f(rows, partial) for blocks of `ROW_BLOCK` of n rows, partial (width) zeroed for each, and adds the partial
/// sums to `total` (width) in block order.
pub fn over_rows<A: Real>(
    dev: &Device,
    n: usize,
    total: &mut [A],
    f: impl Fn(std::ops::Range<usize>, &mut [A]) + Sync,
) {
    let (width, blocks) = (total.len(), n.div_ceil(ROW_BLOCK));
    let mut partial = partial_sums(dev, n, width, A::DTYPE);
    let out = Shared::new(partial.data_mut::<A>());
    dev.pool().run(blocks, |b| {
        // SAFETY: each block has its own row of partial sums.
        let partial = unsafe { out.part(b * width..(b + 1) * width) };
        partial.fill(A::ZERO);
        simd(
            #[inline(always)]
            || f(b * ROW_BLOCK..n.min((b + 1) * ROW_BLOCK), partial),
        );
    });
    let (partial, total) = (partial.data::<A>(), Shared::new(total));
    dev.pool().ranges(width, 1024, |r| {
        // SAFETY: ranges of different tasks are disjoint.
        let total = unsafe { total.part(r.clone()) };
        simd(
            #[inline(always)]
            || {
                for b in 0..blocks {
                    for (t, p) in total.iter_mut().zip(&partial[b * width..][r.clone()]) {
                        *t += *p;
                    }
                }
            },
        );
    });
}

/// The workspace of `over_rows`: (blocks, width). On the Meta device it is all there is of it.
pub fn partial_sums(dev: &Device, n: usize, width: usize, dtype: DType) -> Tensor {
    Tensor::empty(dev, n.div_ceil(ROW_BLOCK), width, dtype, Category::Workspace)
}

/// total (C) += Σ_N x.   x (N, C), a row every `pitch` ≥ C elements
pub fn add_column_sums<T: Elem>(dev: &Device, x: &[T], pitch: usize, total: &mut [T::Acc]) {
    let width = total.len();
    if width == 0 {
        return;
    }
    over_rows(
        dev,
        x.len() / pitch,
        total,
        #[inline(always)]
        |rows, partial| {
            for row in x[rows.start * pitch..rows.end * pitch].chunks_exact(pitch) {
                for (p, v) in partial.iter_mut().zip(row) {
                    *p += v.load();
                }
            }
        },
    );
}
