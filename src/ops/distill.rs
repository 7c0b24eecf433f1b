//! From the logits of a student and its teacher to the loss of each row and, in place, to the gradient of the student's.
//!
//!     q = softmax(l),  p = softmax(t/τ),  loss = weight/Z·((1 − ω)·nll + ω·D(p, q) + ζ·lse²)
//!
//!     kd    D = −Σ p log q                                    dD/dl = q − p
//!     rkl   D = Σ q log(q/p)                                  dD/dl = q·(log(q/p) − D)
//!     js    D = ½ Σ p log(p/m) + ½ Σ q log(q/m), m = (p + q)/2   dD/dl = ½ q·(log(q/m) − Σ q log(q/m))
//!
//! kd is the cross-entropy with the teacher (Hinton et al., arXiv 1503.02531; with the student at temperature 1 SALT's,
//! arXiv 2410.18779); rkl the reverse divergence (MiniLLM, arXiv 2306.08543). l and t are split over tp alike.

use super::loss::{Targets, Vocab};
use super::reduce::{LANES, fold};
use super::softmax::{map2_into, row_max, row_stats};
use crate::Result;
use crate::comm::{Comm, Reduce};
use crate::config::Distance;
use crate::device::{DType, Device, Elem, Real, Shared, simd};
use crate::tensor::Tensor;

/// How much of the loss is the teacher's, and how it is compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Soft {
    pub distance: Distance,
    /// ω
    pub weight: f64,
    /// τ
    pub temperature: f64,
}

/// What a chunk of rows adds to the terms of the loss.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sums {
    /// Σ weight·lse², or 0 if there is no z term.
    pub z: f64,
    /// Σ weight·D(p, q).
    pub kd: f64,
}

/// From logits (n, valid) of student and teacher to nll (n) and, if `back`, in place to dl: a row of T where one of
/// `logits` began.
pub(super) fn distill<T: Elem>(
    dev: &Device,
    tp: &dyn Comm,
    (logits, teacher): (&mut [T::Acc], &[T::Acc]),
    vocab: Vocab<T>,
    targets: Targets,
    soft: Soft,
    nll: &mut [f32],
    back: bool,
) -> Result<Sums> {
    type A<T> = <T as Elem>::Acc;
    let (n, v) = (targets.ids.len(), vocab.valid);
    let row = Row { vocab, targets, soft, inverse_temperature: A::<T>::of(1.0 / soft.temperature), back };
    let mut terms = vec![[0f64; 2]; n];
    let (logits, nll, out) = (Shared::new(logits), Shared::new(nll), Shared::new(&mut terms));
    let l = |i: usize| {
        // SAFETY: each row is one task's.
        unsafe { logits.part(i * v..(i + 1) * v) }
    };
    let t = |i: usize| &teacher[i * v..(i + 1) * v];
    let finish = |i: usize, max: &[A<T>], sums: &[A<T>], mixed: &[A<T>]| {
        // SAFETY: as above.
        let (nll, terms) = unsafe { (&mut nll.part(i..i + 1)[0], &mut out.part(i..i + 1)[0]) };
        let found = row.finish(i, l(i), t(i), max, sums, mixed);
        (*nll, *terms) = (found[0] as f32, [found[1], found[2]]);
    };
    let each_row = |f: &(dyn Fn(usize) + Sync)| dev.pool().ranges(n, 8, |rows| rows.for_each(f));
    if tp.size() == 1 {
        // A row stays in the cache from its maximum to its gradient.
        each_row(&|i| {
            let max = row.max(l(i), t(i));
            let sums = row.sums(i, l(i), t(i), &max);
            let mixed = row.mixed(l(i), t(i), &max, &sums);
            finish(i, &max, &sums, &mixed);
        });
    } else {
        let stat = |cols| row_stats(dev, n, cols, A::<T>::DTYPE);
        let reduced = |mut stats: Tensor, cols: usize, op, what, f: &(dyn Fn(usize) -> Vec<A<T>> + Sync)| {
            let part = Shared::new(stats.data_mut::<A<T>>());
            // SAFETY: as above.
            each_row(&|i| unsafe { part.part(i * cols..(i + 1) * cols) }.copy_from_slice(&f(i)));
            tp.all_reduce(stats, op, what)?.wait()
        };
        let max = reduced(stat(2), 2, Reduce::Max, "loss max", &|i| row.max(l(i), t(i)).to_vec())?;
        let max = |i: usize| &max.data::<A<T>>()[2 * i..2 * i + 2];
        let sums =
            reduced(stat(4), 4, Reduce::Sum, "loss sums", &|i| row.sums(i, l(i), t(i), max(i)).to_vec())?;
        let sums = |i: usize| &sums.data::<A<T>>()[4 * i..4 * i + 4];
        let third = match soft.distance {
            Distance::Kd | Distance::Rkl => Tensor::default(),
            Distance::Js => reduced(stat(2), 2, Reduce::Sum, "loss mixed", &|i| {
                row.mixed(l(i), t(i), max(i), sums(i)).to_vec()
            })?,
        };
        let third = |i: usize| third.exists().then(|| &third.data::<A<T>>()[2 * i..2 * i + 2]);
        each_row(&|i| finish(i, max(i), sums(i), third(i).unwrap_or(&[])));
    }
    let add = |sums: Sums, row: &[f64; 2]| Sums { z: sums.z + row[0], kd: sums.kd + row[1] };
    Ok(terms.iter().fold(Sums::default(), add))
}

/// The collectives of `distill` on n rows, on the Meta device.
pub(super) fn meta_distill(
    dev: &Device,
    tp: &dyn Comm,
    n: usize,
    stat: DType,
    distance: Distance,
) -> Result<()> {
    if tp.size() == 1 {
        return Ok(());
    }
    let mut calls = vec![(2, Reduce::Max, "loss max"), (4, Reduce::Sum, "loss sums")];
    if distance == Distance::Js {
        calls.push((2, Reduce::Sum, "loss mixed"));
    }
    // All are held to the end.
    let stats = calls
        .into_iter()
        .map(|(cols, op, what)| tp.all_reduce(row_stats(dev, n, cols, stat), op, what)?.wait());
    stats.collect::<Result<Vec<_>>>().map(drop)
}

/// What becomes of row i; l and t (valid) are this rank's part of it.
struct Row<'a, T: Elem> {
    vocab: Vocab<'a, T>,
    targets: Targets<'a>,
    soft: Soft,
    /// 1/τ
    inverse_temperature: T::Acc,
    back: bool,
}

impl<T: Elem> Row<'_, T> {
    fn max(&self, l: &[T::Acc], t: &[T::Acc]) -> [T::Acc; 2] {
        simd(
            #[inline(always)]
            || [row_max(l), row_max(t)],
        )
    }

    fn target(&self, i: usize) -> Option<usize> {
        (self.targets.ids[i] as usize).checked_sub(self.vocab.first).filter(|t| *t < self.vocab.valid)
    }

    /// [Σ e^l', l'[target], Σ e^t', x], with l' = l − max l, t' = (t − max t)/τ and, of kd, x = Σ e^t'·l', of rkl
    /// Σ e^l'·(l' − t').
    fn sums(&self, i: usize, l: &[T::Acc], t: &[T::Acc], max: &[T::Acc]) -> [T::Acc; 4] {
        let (a, b, inverse) = (max[0], max[1], self.inverse_temperature);
        let target = self.target(i).map_or(T::Acc::ZERO, |t| l[t] - a);
        let (kd, zero) = (self.soft.distance == Distance::Kd, T::Acc::ZERO);
        let [student, teacher, x] = simd(
            #[inline(always)]
            || match self.soft.distance {
                Distance::Kd | Distance::Rkl => sums_of_two(l, t, |l, t| {
                    let (l, t) = (l - a, (t - b) * inverse);
                    let (q, p) = (l.exp_of_negative(), t.exp_of_negative());
                    [q, p, if kd { p * l } else { q * (l - t) }]
                }),
                Distance::Js => sums_of_two(l, t, |l, t| {
                    [(l - a).exp_of_negative(), ((t - b) * inverse).exp_of_negative(), zero]
                }),
            },
        );
        [student, target, teacher, x]
    }

    /// Of js: [Σ e^l'·log(q/m), Σ e^t'·log(p/m)].
    fn mixed(&self, l: &[T::Acc], t: &[T::Acc], max: &[T::Acc], sums: &[T::Acc]) -> [T::Acc; 2] {
        if self.soft.distance != Distance::Js {
            return [T::Acc::ZERO; 2];
        }
        let (a, b, inverse) = (max[0], max[1], self.inverse_temperature);
        let shift = sums[2].ln() - sums[0].ln();
        let [q, p, _] = simd(
            #[inline(always)]
            || {
                sums_of_two(l, t, |l, t| {
                    let (l, t) = (l - a, (t - b) * inverse);
                    // log q − log p
                    let d = l - t + shift;
                    let (q, p) = (l.exp_of_negative(), t.exp_of_negative());
                    [q * over_mean(-d), p * over_mean(d), T::Acc::ZERO]
                })
            },
        );
        [q, p]
    }

    /// [nll, weight·lse² if there is a z term, weight·D]; with `back`, l becomes dl.
    fn finish(
        &self,
        i: usize,
        l: &mut [T::Acc],
        t: &[T::Acc],
        max: &[T::Acc],
        sums: &[T::Acc],
        mixed: &[T::Acc],
    ) -> [f64; 3] {
        let (Targets { weights, scale, z, .. }, soft) = (self.targets, self.soft);
        let (student, teacher) = (sums[0], sums[2]);
        let (log_student, log_teacher) = (student.ln(), teacher.ln());
        let lse = max[0] + log_student;
        // D, and what the gradient subtracts.
        let (distance, mean) = match soft.distance {
            Distance::Kd => (log_student - sums[3] / teacher, T::Acc::ZERO),
            Distance::Rkl => {
                let d = sums[3] / student - log_student + log_teacher;
                (d, d)
            }
            Distance::Js => {
                let (q, p) = (mixed[0] / student, mixed[1] / teacher);
                (T::Acc::of(0.5) * (q + p), q)
            }
        };
        if self.back && weights[i] == 0.0 {
            let zero = T::Acc::ZERO;
            simd(
                #[inline(always)]
                || map2_into::<T>(l, t, |_, _| zero),
            );
        } else if self.back {
            let w = weights[i] as f64 * scale;
            let of = T::Acc::of;
            let (hard, taught) = (of(w * (1.0 - soft.weight)), of(w * soft.weight));
            let up = of(2.0 * z * w) * lse;
            let (a, b, inverse) = (max[0], max[1], self.inverse_temperature);
            // log(q/p) = l' − t' + shift
            let shift = log_teacher - log_student;
            let slope = self.vocab.cap.map(|cap| (of(1.0 / cap), T::Acc::ONE));
            let slope = |l: T::Acc| slope.map_or(T::Acc::ONE, |(c, one)| one - (l * c) * (l * c));
            let target = self.target(i).map(|at| (at, l[at], t[at]));
            let dl: [T::Acc; 3] = match soft.distance {
                Distance::Kd => [(hard + taught + up) / student, taught / teacher, T::Acc::ZERO],
                Distance::Rkl => [(hard + up) / student, taught / student, mean],
                Distance::Js => [(hard + up) / student, of(0.5) * taught / student, mean],
            };
            let gradient = Gradient { distance: soft.distance, a, b, inverse, shift, factors: dl };
            match self.vocab.cap {
                None => simd(
                    #[inline(always)]
                    || gradient.write::<T>(l, t, |_| T::Acc::ONE),
                ),
                Some(_) => simd(
                    #[inline(always)]
                    || gradient.write::<T>(l, t, slope),
                ),
            }
            if let Some((at, l_at, t_at)) = target {
                let x = (gradient.of(l_at, t_at) - hard) * slope(l_at);
                bytemuck::cast_slice_mut::<_, T>(l)[at] = T::store(x);
            }
        }
        let weight = weights[i] as f64;
        if weight == 0.0 {
            return [0.0; 3];
        }
        let square = if z == 0.0 { 0.0 } else { weight * lse.f64().powi(2) };
        [(log_student - sums[1]).f64(), square, weight * distance.f64()]
    }
}

/// The gradient of a logit, but for its own target.
#[derive(Clone, Copy)]
struct Gradient<A> {
    distance: Distance,
    /// max l, max t
    a: A,
    b: A,
    inverse: A,
    shift: A,
    /// Of e^l', of e^t' (kd) or of e^l' times what follows, and what that subtracts.
    factors: [A; 3],
}

impl<A: Real> Gradient<A> {
    #[inline(always)]
    fn of(&self, l: A, t: A) -> A {
        let (l, t) = (l - self.a, (t - self.b) * self.inverse);
        let (q, [x, y, mean]) = (l.exp_of_negative(), self.factors);
        match self.distance {
            Distance::Kd => q * x - t.exp_of_negative() * y,
            Distance::Rkl => q * (x + y * (l - t + self.shift - mean)),
            Distance::Js => q * (x + y * (over_mean(t - l - self.shift) - mean)),
        }
    }

    #[inline(always)]
    fn write<T: Elem<Acc = A>>(&self, l: &mut [A], t: &[A], slope: impl Fn(A) -> A) {
        // A loop for each distance, so that each is one without branches.
        match self.distance {
            Distance::Kd => {
                let g = Gradient { distance: Distance::Kd, ..*self };
                map2_into::<T>(l, t, |l, t| g.of(l, t) * slope(l));
            }
            Distance::Rkl => {
                let g = Gradient { distance: Distance::Rkl, ..*self };
                map2_into::<T>(l, t, |l, t| g.of(l, t) * slope(l));
            }
            Distance::Js => {
                let g = Gradient { distance: Distance::Js, ..*self };
                map2_into::<T>(l, t, |l, t| g.of(l, t) * slope(l));
            }
        }
    }
}

/// log(2/(1 + e^d)): of d = log p − log q, log(q/m) with m = (p + q)/2.
#[inline(always)]
fn over_mean<A: Real>(d: A) -> A {
    let ln_2 = A::of(std::f64::consts::LN_2);
    ln_2 - d.max(A::ZERO) - ln_1p((-d.abs()).exp_of_negative())
}

/// log(1 + x) for x of 0 to 1: 2 artanh s with s = x/(2 + x), by its series.
#[inline(always)]
fn ln_1p<A: Real>(x: A) -> A {
    let s = x / (A::of(2.0) + x);
    let square = s * s;
    // s is at most 1/3: what is left out is below half a unit of the last place.
    let terms = if A::DTYPE == DType::F64 { 17 } else { 7 };
    let mut p = A::ZERO;
    for k in (0..terms).rev() {
        p = p.mul_add(square, A::of(1.0 / f64::from(2 * k + 1)));
    }
    (s + s) * p
}

/// Σ f(x_i, y_i), each of three sums in the order of `reduce::sum`.
#[inline(always)]
fn sums_of_two<A: Real>(x: &[A], y: &[A], f: impl Fn(A, A) -> [A; 3]) -> [A; 3] {
    let mut acc = [[A::ZERO; LANES]; 3];
    let (cx, cy) = (x.chunks_exact(LANES), y.chunks_exact(LANES));
    let (rx, ry) = (cx.remainder(), cy.remainder());
    for (a, b) in cx.zip(cy) {
        for l in 0..LANES {
            let [p, q, r] = f(a[l], b[l]);
            acc[0][l] += p;
            acc[1][l] += q;
            acc[2][l] += r;
        }
    }
    let mut all = acc.map(fold);
    for (a, b) in rx.iter().zip(ry) {
        let more = f(*a, *b);
        all.iter_mut().zip(more).for_each(|(s, m)| *s += m);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_by_its_series_is_that_of_the_library() {
        for i in 0..=10_000 {
            let x = i as f64 / 10_000.0;
            assert!((ln_1p(x) - x.ln_1p()).abs() <= 1e-15 * x.ln_1p().max(1e-300), "{x}");
            let (x, want) = (x as f32, f64::from(x as f32).ln_1p());
            assert!((f64::from(ln_1p(x)) - want).abs() <= 3e-7 * want, "{x}");
        }
        for d in [-800.0, -3.0, 0.0, 1e-9, 3.0, 800.0] {
            let want = std::f64::consts::LN_2 - if d > 30.0 { d } else { f64::exp(d).ln_1p() };
            assert!((over_mean(d) - want).abs() <= 1e-14 * (1.0 + want.abs()), "{d}");
        }
    }
}
