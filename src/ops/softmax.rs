//! From logits to the loss of each row and, in place, to the gradient of the logits.

use super::loss::{Targets, Vocab};
use super::reduce::{LANES, fold, sum};
use crate::Result;
use crate::comm::{Comm, Reduce};
use crate::device::{Category, DType, Device, Elem, Real, Shared, simd};
use crate::tensor::Tensor;

/// From logits (n, valid) to nll (n) and, if `back`, in place to dl: a row of T where one of logits began. Returns
/// Σ weight·lse² if there is a z term.
pub(super) fn softmax<T: Elem>(
    dev: &Device,
    tp: &dyn Comm,
    logits: &mut [T::Acc],
    vocab: Vocab<T>,
    targets: Targets,
    nll: &mut [f32],
    back: bool,
) -> Result<f64> {
    type A<T> = <T as Elem>::Acc;
    let (n, v) = (targets.ids.len(), vocab.valid);
    let row = Row { vocab, targets, back };
    let stat = |cols| row_stats(dev, n, cols, A::<T>::DTYPE);
    let (mut max, mut sums) = (stat(1), stat(2));
    let (logits, nll) = (Shared::new(logits), Shared::new(nll));
    let logits_of = |i: usize| {
        // SAFETY: each row is one task's.
        unsafe { logits.part(i * v..(i + 1) * v) }
    };
    let nll_of = |i: usize| {
        // SAFETY: as above.
        unsafe { &mut nll.part(i..i + 1)[0] }
    };
    let each_row = |f: &(dyn Fn(usize) + Sync)| dev.pool().ranges(n, 8, |rows| rows.for_each(f));
    if tp.size() == 1 {
        // A row is read from memory once and written once.
        let (max, sums) = (Shared::new(max.data_mut::<A<T>>()), Shared::new(sums.data_mut::<A<T>>()));
        each_row(&|i| {
            // SAFETY: as above.
            let (max, sums) = unsafe { (&mut max.part(i..i + 1)[0], sums.part(2 * i..2 * i + 2)) };
            let l = logits_of(i);
            *max = row.max(l);
            sums.copy_from_slice(&row.sums(i, l, *max));
            *nll_of(i) = row.finish(i, l, *max, sums);
        });
    } else {
        let part = Shared::new(max.data_mut::<A<T>>());
        // SAFETY: as above.
        each_row(&|i| unsafe { part.part(i..i + 1)[0] = row.max(logits_of(i)) });
        max = tp.all_reduce(max, Reduce::Max, "loss max")?.wait()?;
        let (of_all, part) = (max.data::<A<T>>(), Shared::new(sums.data_mut::<A<T>>()));
        each_row(&|i| {
            // SAFETY: as above.
            let sums = unsafe { part.part(2 * i..2 * i + 2) };
            sums.copy_from_slice(&row.sums(i, logits_of(i), of_all[i]));
        });
        sums = tp.all_reduce(sums, Reduce::Sum, "loss sums")?.wait()?;
        let sums = sums.data::<A<T>>();
        each_row(&|i| *nll_of(i) = row.finish(i, logits_of(i), of_all[i], &sums[2 * i..2 * i + 2]));
    }
    let (max, sums) = (max.data::<A<T>>(), sums.data::<A<T>>());
    let square = |i: usize| targets.weights[i] as f64 * (max[i] + sums[2 * i].ln()).f64().powi(2);
    Ok(if targets.z == 0.0 { 0.0 } else { (0..n).map(square).sum() })
}

/// What becomes of a row of logits; l (valid) is this rank's part of row i.
struct Row<'a, T> {
    vocab: Vocab<'a, T>,
    targets: Targets<'a>,
    back: bool,
}

impl<T: Elem> Row<'_, T> {
    fn max(&self, l: &[T::Acc]) -> T::Acc {
        simd(
            #[inline(always)]
            || row_max(l),
        )
    }

    /// Where in l the target is, if this rank has it.
    fn target(&self, i: usize) -> Option<usize> {
        (self.targets.ids[i] as usize).checked_sub(self.vocab.first).filter(|t| *t < self.vocab.valid)
    }

    /// [Σ e^(l − max), l[target] − max]. Without a soft-cap, l becomes e^(l − max).
    fn sums(&self, i: usize, l: &mut [T::Acc], max: T::Acc) -> [T::Acc; 2] {
        let target = self.target(i).map_or(T::Acc::ZERO, |t| l[t] - max);
        let total = simd(
            #[inline(always)]
            || match self.vocab.cap {
                // The slope of the cap needs the logits again.
                Some(_) => sum::<T::Acc>(l, |l| (l - max).exp_of_negative()),
                None => map_and_sum(l, |l| (l - max).exp_of_negative()),
            },
        );
        [total, target]
    }

    /// The loss; with `back`, l becomes dl.
    fn finish(&self, i: usize, l: &mut [T::Acc], max: T::Acc, sums: &[T::Acc]) -> f32 {
        let Targets { weights, scale, z, .. } = self.targets;
        let (total, target, one) = (sums[0], sums[1], T::Acc::ONE);
        if self.back {
            let w = T::Acc::of(weights[i] as f64 * scale);
            let lse = max + total.ln();
            let up = if z == 0.0 { w } else { w * (one + T::Acc::of(2.0 * z) * lse) };
            let factor = if weights[i] == 0.0 { T::Acc::ZERO } else { up / total };
            let target = self.target(i).map(|t| (t, l[t]));
            let target = match self.vocab.cap {
                None => {
                    simd(
                        #[inline(always)]
                        || map_into::<T>(l, |p| p * factor),
                    );
                    target.map(|(t, p)| (t, p * factor - w))
                }
                Some(cap) => {
                    let inverse = T::Acc::of(1.0 / cap);
                    let slope = move |l: T::Acc| one - (l * inverse) * (l * inverse);
                    let dl = move |l: T::Acc| (l - max).exp_of_negative() * factor * slope(l);
                    simd(
                        #[inline(always)]
                        || map_into::<T>(l, dl),
                    );
                    target.map(|(t, l)| (t, dl(l) - w * slope(l)))
                }
            };
            if let Some((t, x)) = target {
                bytemuck::cast_slice_mut::<_, T>(l)[t] = T::store(x);
            }
        }
        if weights[i] == 0.0 { 0.0 } else { (total.ln() - target).f64() as f32 }
    }
}

/// x = f(x), and the sum in the order of `reduce::sum`.
#[inline(always)]
fn map_and_sum<A: Real>(x: &mut [A], f: impl Fn(A) -> A) -> A {
    let mut acc = [A::ZERO; LANES];
    let mut chunks = x.chunks_exact_mut(LANES);
    for c in &mut chunks {
        for l in 0..LANES {
            c[l] = f(c[l]);
            acc[l] += c[l];
        }
    }
    let rest = chunks.into_remainder();
    rest.iter_mut().for_each(|x| *x = f(*x));
    fold(acc) + rest.iter().fold(A::ZERO, |s, x| s + *x)
}

/// Element j of the row becomes f of it, as T: there, or if T is smaller, before where it was.
#[inline(always)]
fn map_into<T: Elem>(row: &mut [T::Acc], f: impl Fn(T::Acc) -> T::Acc) {
    let (n, from) = (row.len(), row.as_mut_ptr());
    // SAFETY: the row has n elements, and is read before it is written.
    unsafe { map_raw::<T>(n, from, from, |x, _| f(x)) }
}

/// The same of two rows, f of element j of both.
#[inline(always)]
pub(super) fn map2_into<T: Elem>(row: &mut [T::Acc], other: &[T::Acc], f: impl Fn(T::Acc, T::Acc) -> T::Acc) {
    assert_eq!(row.len(), other.len());
    // SAFETY: both rows have n elements.
    unsafe { map_raw::<T>(row.len(), row.as_mut_ptr(), other.as_ptr(), f) }
}

/// # Safety
/// `from` and `other` point to n elements, of which `from` may be written.
#[inline(always)]
unsafe fn map_raw<T: Elem>(
    n: usize,
    from: *mut T::Acc,
    other: *const T::Acc,
    f: impl Fn(T::Acc, T::Acc) -> T::Acc,
) {
    let to = from.cast::<T>();
    let whole = n / LANES * LANES;
    // SAFETY: T is not larger than T::Acc, so what is written lies within the row and not behind what is still to be read.
    unsafe {
        for i in (0..whole).step_by(LANES) {
            let x = from.add(i).cast::<[T::Acc; LANES]>().read();
            let y = other.add(i).cast::<[T::Acc; LANES]>().read();
            let mut out = [T::default(); LANES];
            for l in 0..LANES {
                out[l] = T::store(f(x[l], y[l]));
            }
            to.add(i).cast::<[T; LANES]>().write_unaligned(out);
        }
        (whole..n).for_each(|i| to.add(i).write(T::store(f(from.add(i).read(), other.add(i).read()))));
    }
}

#[inline(always)]
pub(super) fn row_max<A: Real>(x: &[A]) -> A {
    let mut acc = [A::NEG_INFINITY; 16];
    let chunks = x.chunks_exact(16);
    let rest = chunks.remainder();
    for c in chunks {
        for l in 0..16 {
            acc[l] = c[l].max(acc[l]);
        }
    }
    acc.iter().chain(rest).fold(A::NEG_INFINITY, |m, x| x.max(m))
}

/// (rows, cols) of the softmax.
pub(super) fn row_stats(dev: &Device, rows: usize, cols: usize, dtype: DType) -> Tensor {
    Tensor::empty(dev, rows, cols, dtype, Category::Workspace)
}
