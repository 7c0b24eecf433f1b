//! From logits to the loss of each row and, in place, to the gradient of the logits.

use super::loss::{Targets, Vocab};
use super::reduce::sum;
use crate::Result;
use crate::comm::{Comm, Reduce};
use crate::device::{Category, DType, Device, Elem, Real, Shared, simd};
use crate::tensor::Tensor;

/// From logits (n, valid) to nll (n) and, if `back`, in place to dl. Returns Σ weight·lse² if there is a z term.
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
    let Targets { ids, weights, scale, z } = targets;
    let (n, v) = (ids.len(), vocab.valid);
    let stat = |cols| row_stats(dev, n, cols, A::<T>::DTYPE);
    let reduce = |t: Tensor, op, what| match tp.size() {
        1 => Ok(t),
        _ => tp.all_reduce(t, op, what)?.wait(),
    };
    let own = |i: usize| (ids[i] as usize).checked_sub(vocab.first).filter(|t| *t < v);

    let mut max = stat(1);
    {
        let (max, logits) = (Shared::new(max.data_mut::<A<T>>()), &*logits);
        dev.pool().ranges(n, 8, |rows| {
            for i in rows {
                // SAFETY: each row is written by one task.
                let max = unsafe { max.part(i..i + 1) };
                max[0] = simd(
                    #[inline(always)]
                    || row_max(&logits[i * v..(i + 1) * v]),
                );
            }
        });
    }
    let max = reduce(max, Reduce::Max, "loss max")?;

    let mut sums = stat(2); // [Σ e^(l − max), l[target] − max]
    let logits = Shared::new(logits);
    {
        let (max, sums) = (max.data::<A<T>>(), Shared::new(sums.data_mut::<A<T>>()));
        dev.pool().ranges(n, 8, |rows| {
            for i in rows {
                // SAFETY: each row is written by one task.
                let (l, sums) = unsafe { (logits.part(i * v..(i + 1) * v), sums.part(2 * i..2 * i + 2)) };
                sums[1] = own(i).map_or(A::<T>::ZERO, |t| l[t] - max[i]);
                simd(
                    #[inline(always)]
                    || {
                        if vocab.cap.is_some() {
                            // The slope of the cap needs the logits again.
                            sums[0] = sum::<A<T>>(l, |l| (l - max[i]).exp());
                        } else {
                            l.iter_mut().for_each(|l| *l = (*l - max[i]).exp());
                            sums[0] = sum::<A<T>>(l, |p| p);
                        }
                    },
                );
            }
        });
    }
    let sums = reduce(sums, Reduce::Sum, "loss sums")?;

    let (max, sums, nll) = (max.data::<A<T>>(), sums.data::<A<T>>(), Shared::new(nll));
    let lse = |i: usize| max[i] + sums[2 * i].ln();
    let inverse = vocab.cap.map(|cap| A::<T>::of(1.0 / cap));
    dev.pool().ranges(n, 8, |rows| {
        for i in rows {
            let (total, target) = (sums[2 * i], sums[2 * i + 1]);
            // SAFETY: each row is written by one task.
            let (l, nll) = unsafe { (logits.part(i * v..(i + 1) * v), nll.part(i..i + 1)) };
            nll[0] = if weights[i] == 0.0 { 0.0 } else { (total.ln() - target).f64() as f32 };
            if back {
                let w = A::<T>::of(weights[i] as f64 * scale);
                let up = if z == 0.0 { w } else { w * (A::<T>::ONE + A::<T>::of(2.0 * z) * lse(i)) };
                let factor = if weights[i] == 0.0 { A::<T>::ZERO } else { up / total };
                let slope = |l: A<T>| inverse.map_or(A::<T>::ONE, |i| A::<T>::ONE - (l * i) * (l * i));
                let target = own(i).map(|t| (t, w * slope(l[t])));
                simd(
                    #[inline(always)]
                    || match inverse {
                        None => l.iter_mut().for_each(|p| *p *= factor),
                        Some(inverse) => l.iter_mut().for_each(|l| {
                            let tanh = *l * inverse;
                            *l = (*l - max[i]).exp() * factor * (A::<T>::ONE - tanh * tanh);
                        }),
                    },
                );
                if let Some((t, w)) = target {
                    l[t] -= w;
                }
                simd(
                    #[inline(always)]
                    || narrow::<T>(l),
                );
            }
        }
    });
    let square = |i: usize| weights[i] as f64 * lse(i).f64().powi(2);
    Ok(if z == 0.0 { 0.0 } else { (0..n).map(square).sum() })
}

/// Rounds a row to T in place: element j of the row of T comes to lie before where it was.
#[inline(always)]
fn narrow<T: Elem>(row: &mut [T::Acc]) {
    const MANY: usize = 16;
    if size_of::<T>() == size_of::<T::Acc>() {
        return;
    }
    let (n, from) = (row.len(), row.as_mut_ptr());
    let to = from.cast::<T>();
    // SAFETY: T is smaller than T::Acc, so what is written lies within the row and before all that is still to be read.
    unsafe {
        for i in (0..n / MANY * MANY).step_by(MANY) {
            let x = from.add(i).cast::<[T::Acc; MANY]>().read();
            to.add(i).cast::<[T; MANY]>().write_unaligned(x.map(T::store));
        }
        (n / MANY * MANY..n).for_each(|i| to.add(i).write(T::store(from.add(i).read())));
    }
}

#[inline(always)]
fn row_max<A: Real>(x: &[A]) -> A {
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
