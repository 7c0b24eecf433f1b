//! y[i] = x_0[i] ∘ x_1[i] ∘ ... over the ranks' buffers, from left to right, for a range of i and every output y. bf16 is accumulated in
//! f32 and rounded once. The order does not depend on who computes it, so neither do the bits.

use super::Reduce;
use crate::device::{DType, Elem, Real, simd};
use crate::with_dtype;
use std::ops::Range;

/// Values accumulated at a time: a block of each of 8 ranks stays in the first-level cache until the sum is written
/// back (with 2048 values an all_reduce of 4 ranks took twice as long).
const BLOCK: usize = 256;

/// # Safety
/// All buffers are valid for `range` in values of `dtype` and aligned; nobody else writes the range of a source,
/// nobody else touches the range of an output (which may be a source).
pub unsafe fn reduce(
    outputs: &[*mut u8],
    sources: &[*mut u8],
    range: Range<usize>,
    dtype: DType,
    by: Reduce,
) {
    // SAFETY: passed on.
    with_dtype!(dtype, T => unsafe { typed::<T>(outputs, sources, range, by) })
}

/// Values that stay in registers.
const FEW: usize = 32;

/// # Safety
/// As for `reduce`.
unsafe fn typed<T: Elem>(outputs: &[*mut u8], sources: &[*mut u8], range: Range<usize>, by: Reduce) {
    // SAFETY: passed on.
    unsafe {
        match *sources {
            [a, b] => few::<T, 2>(outputs, [a, b], range, by),
            [a, b, c] => few::<T, 3>(outputs, [a, b, c], range, by),
            [a, b, c, d] => few::<T, 4>(outputs, [a, b, c, d], range, by),
            [a, b, c, d, e, f] => few::<T, 6>(outputs, [a, b, c, d, e, f], range, by),
            [a, b, c, d, e, f, g, h] => few::<T, 8>(outputs, [a, b, c, d, e, f, g, h], range, by),
            _ => many::<T>(outputs, sources, range, by),
        }
    }
}

/// A number of sources that is known beforehand: each value is added up in a register, and the processor sees as many
/// streams of memory as there are sources. In cache it takes 0.4 of the time of `many`.
///
/// # Safety
/// As for `reduce`.
unsafe fn few<T: Elem, const N: usize>(
    outputs: &[*mut u8],
    sources: [*mut u8; N],
    range: Range<usize>,
    by: Reduce,
) {
    let add = |a: T::Acc, x: T::Acc| a + x;
    let max = |a: T::Acc, x: T::Acc| if x > a || is_nan(x) { x } else { a };
    // SAFETY: passed on.
    unsafe {
        match by {
            Reduce::Sum => folded::<T, N>(outputs, sources, range, add),
            Reduce::Max => folded::<T, N>(outputs, sources, range, max),
        }
    }
}

/// # Safety
/// As for `reduce`.
unsafe fn folded<T: Elem, const N: usize>(
    outputs: &[*mut u8],
    sources: [*mut u8; N],
    range: Range<usize>,
    f: impl Fn(T::Acc, T::Acc) -> T::Acc,
) {
    simd(
        #[inline(always)]
        || {
            let whole = range.len() / FEW * FEW;
            for start in (range.start..range.start + whole).step_by(FEW) {
                let mut acc = [T::Acc::ZERO; FEW];
                // SAFETY: within the range; not written before all sources of the block are read.
                let x = sources.map(|s| unsafe { &*s.cast::<T>().add(start).cast::<[T; FEW]>() });
                for i in 0..FEW {
                    acc[i] = x[0][i].load();
                    for x in &x[1..] {
                        acc[i] = f(acc[i], x[i].load());
                    }
                }
                for output in outputs {
                    // SAFETY: within the range, which is ours alone.
                    let y = unsafe { &mut *output.cast::<T>().add(start).cast::<[T; FEW]>() };
                    for i in 0..FEW {
                        y[i] = T::store(acc[i]);
                    }
                }
            }
            for i in range.start + whole..range.end {
                // SAFETY: within the range.
                let x = sources.map(|s| unsafe { (*s.cast::<T>().add(i)).load() });
                let sum = x[1..].iter().fold(x[0], |a, x| f(a, *x));
                for output in outputs {
                    // SAFETY: within the range, which is ours alone.
                    unsafe { *output.cast::<T>().add(i) = T::store(sum) };
                }
            }
        },
    )
}

/// # Safety
/// As for `reduce`.
unsafe fn many<T: Elem>(outputs: &[*mut u8], sources: &[*mut u8], range: Range<usize>, by: Reduce) {
    simd(
        #[inline(always)]
        || {
            let mut block = [T::Acc::ZERO; BLOCK];
            for start in range.clone().step_by(BLOCK) {
                let n = BLOCK.min(range.end - start);
                let acc = &mut block[..n];
                for (rank, source) in sources.iter().enumerate() {
                    // SAFETY: within the range; not written before the last source of the block is read.
                    let x = unsafe { std::slice::from_raw_parts(source.cast::<T>().add(start), n) };
                    match by {
                        _ if rank == 0 => each(acc, x, |_, x| x),
                        Reduce::Sum => each(acc, x, |a, x| a + x),
                        Reduce::Max => each(acc, x, |a, x| if x > a || is_nan(x) { x } else { a }),
                    }
                }
                for output in outputs {
                    // SAFETY: within the range, which is ours alone.
                    let y = unsafe { std::slice::from_raw_parts_mut(output.cast::<T>().add(start), n) };
                    for (y, a) in y.iter_mut().zip(&*acc) {
                        *y = T::store(*a);
                    }
                }
            }
        },
    )
}

#[inline(always)]
fn each<T: Elem>(acc: &mut [T::Acc], x: &[T], f: impl Fn(T::Acc, T::Acc) -> T::Acc) {
    for (a, x) in acc.iter_mut().zip(x) {
        *a = f(*a, x.load());
    }
}

#[inline(always)]
#[expect(clippy::eq_op, reason = "only NaN differs from itself")]
fn is_nan<R: Real>(x: R) -> bool {
    x != x
}
