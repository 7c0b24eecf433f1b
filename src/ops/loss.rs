//! Head and cross-entropy in one pass over chunks of tokens, so that logits never exist as a whole.
//!
//!     l = h·wᵀ + b,  lse = log Σ_V e^l,  nll = lse − l[target],  loss = Σ weight/Z·(nll + ζ·lse²)
//!     dl = weight/Z·((1 + 2ζ·lse)·softmax(l) − onehot(target)),  dh = Σ_tp dl·w,  dw += dlᵀ·h,  db += Σ_N dl
//!
//! ζ lse² is the z term (PaLM, arXiv 2204.02311, section 5), which keeps the logits from drifting. With a soft-cap c
//! (Gemma 2, arXiv 2408.00118, section 2) the logits are l = c·tanh((h·wᵀ + b)/c) and dl gets the factor 1 − (l/c)².
//!
//! Logits and what becomes of them are in `Elem::Acc`; dl is rounded to the type of h, as every gradient of an activation.
//!
//! h (N, C), w (V/R, C), b (V/R). The vocabulary is split over tp; a row's maximum, sum and target logit are
//! reduced over it. Z is the global normaliser of the term, known before. With sequence parallelism (`sequence.rs`) h and
//! dh are this rank's (N/R, C).

use super::distill::{Soft, Sums, distill, meta_distill};
use super::reduce::{add_column_sums, partial_sums};
use super::sequence::{all_rows, gather, own_rows};
use super::softmax::{row_stats, softmax};
use crate::Result;
use crate::comm::{Comm, Reduce};
use crate::device::gemm::{Epilogue, Mat, MatMut, Out, Panels, gemm, gemm_fused, gemm_panels, gemm_with};
use crate::device::{Category, Device, Elem, Real};
use crate::tape::{Cost, Shape, profile};
use crate::tensor::Tensor;
use std::ops::Range;

/// Most bytes of logits at a time.
const CHUNK_BYTES: usize = 128 << 20;

/// This rank's part of the output vocabulary.
#[derive(Clone, Copy)]
pub struct Vocab<'a, T> {
    /// (valid, C)
    pub w: &'a [T],
    /// (valid)
    pub bias: Option<&'a [T]>,
    /// The global id of the first row.
    pub first: usize,
    pub valid: usize,
    /// Rows of the largest part of any rank: chunks, and with them the collectives, are the same on all.
    pub widest: usize,
    /// The soft-cap c of the logits.
    pub cap: Option<f64>,
}

pub struct VocabGrads<'a, A> {
    pub w: &'a mut [A],
    pub bias: Option<&'a mut [A]>,
}

/// What is to be predicted: a token of weight 0 has no target.
#[derive(Clone, Copy)]
pub struct Targets<'a> {
    /// (N)
    pub ids: &'a [u32],
    /// (N)
    pub weights: &'a [f32],
    /// 1/Z
    pub scale: f64,
    /// ζ of the z term; 0 leaves it out.
    pub z: f64,
}

/// Whose distribution the model takes after, beside the targets (`distill.rs`).
pub struct Teacher<'a, A> {
    /// Writes its logits of these rows (rows, valid): those of this rank's part of the vocabulary.
    pub logits: &'a dyn Fn(Range<usize>, &mut [A]),
    pub soft: Soft,
}

/// Rows of logits at a time, from the shape alone, for the rank that has the most of them: as few chunks as
/// `CHUNK_BYTES` allows, and those of one size.
fn chunk_rows(n: usize, widest: usize, elem: usize) -> usize {
    let most = (CHUNK_BYTES / (widest.max(1) * elem) / 64 * 64).max(64);
    let chunks = n.div_ceil(most).max(1);
    n.div_ceil(chunks).next_multiple_of(64).min(n.max(1))
}

/// −log p of every target (0 where the weight is 0) into `nll` (N); with `back`, dh, of the shape of h, and the gradients
/// of the head. Returns what the other terms add up to. Collective over tp.
pub fn cross_entropy<T: Elem>(
    dev: &Device,
    tp: &dyn Comm,
    h: &Tensor,
    vocab: Vocab<T>,
    targets: Targets,
    teacher: Option<Teacher<T::Acc>>,
    nll: &mut [f32],
    mut back: Option<(VocabGrads<T::Acc>, &mut Tensor)>,
) -> Result<Sums> {
    let (n, c, v) = (nll.len(), h.cols(), vocab.valid);
    let all = if h.rows() < n { Some(gather(dev, tp, h, "head h")?.wait()?) } else { None };
    let h = all.as_ref().unwrap_or(h);
    let mut all_dh = (all.is_some() && back.is_some()).then(|| Shape::of(h).empty(dev));
    let mut sums = Sums::default();
    let step = chunk_rows(n, vocab.widest, T::Acc::DTYPE.bytes());
    let buffer = || Tensor::empty(dev, step, v, T::Acc::DTYPE, Category::Logits);
    let (mut of_teacher, mut buffer) = (teacher.as_ref().map(|_| buffer()), buffer());
    for start in (0..n).step_by(step) {
        let rows = step.min(n - start);
        let h = &h.data::<T>()[start * c..(start + rows) * c];
        let logits = &mut buffer.data_mut::<T::Acc>()[..rows * v];
        let product = |what: &str| {
            (what.to_string(), Cost { flops: 2.0 * (rows * v * c) as f64, bytes: (rows * v * 4) as f64 })
        };
        profile::time(|| product("Loss logits"), || project(dev, h, vocab, logits, c));
        let range = start..start + rows;
        let own =
            Targets { ids: &targets.ids[range.clone()], weights: &targets.weights[range.clone()], ..targets };
        let passes = || ("Loss softmax".into(), Cost { flops: 0.0, bytes: (rows * v * 20) as f64 });
        let (nll, train) = (&mut nll[range.clone()], back.is_some());
        let more = match teacher.as_ref().zip(of_teacher.as_mut()) {
            None => Sums {
                z: profile::time(passes, || softmax(dev, tp, logits, vocab, own, nll, train))?,
                kd: 0.0,
            },
            Some((Teacher { logits: project, soft }, t)) => {
                let t = &mut t.data_mut::<T::Acc>()[..rows * v];
                project(range, t);
                profile::time(passes, || distill(dev, tp, (logits, t), vocab, own, *soft, nll, train))?
            }
        };
        sums = Sums { z: sums.z + more.z, kd: sums.kd + more.kd };
        if let Some((grads, dh)) = &mut back {
            // dl takes the place of the logits, a row where one was.
            let (flat, pitch) =
                (bytemuck::cast_slice::<_, T>(logits), v * size_of::<T::Acc>() / size_of::<T>());
            let dl = Mat::pitched(flat, rows, v, pitch);
            let dh = &mut all_dh.as_mut().unwrap_or(dh).data_mut::<T>()[start * c..(start + rows) * c];
            let (dh, dw) = (MatMut::new(dh, rows, c), MatMut::new(grads.w, v, c));
            profile::time(
                || product("Loss dh"),
                || gemm(dev.pool(), dh, Out::Store, dl, Mat::new(vocab.w, v, c)),
            );
            profile::time(
                || product("Loss dw"),
                || gemm(dev.pool(), dw, Out::Add, dl.t(), Mat::new(h, rows, c)),
            );
            if let Some(bias) = &mut grads.bias {
                add_column_sums(dev, flat, pitch, bias);
            }
        }
    }
    if let Some((_, dh)) = back {
        sum_dh(dev, tp, all_dh, dh)?;
    }
    Ok(sums)
}

/// dh = Σ_tp dh, or the rows of this rank of Σ_tp `all` (N, C).
fn sum_dh(dev: &Device, tp: &dyn Comm, all: Option<Tensor>, dh: &mut Tensor) -> Result<()> {
    match all {
        Some(all) => own_rows(dev, tp, &tp.reduce_scatter(all, "head dh")?.wait()?, dh),
        None if tp.size() > 1 => *dh = tp.all_reduce(std::mem::take(dh), Reduce::Sum, "head dh")?.wait()?,
        None => {}
    }
    Ok(())
}

/// What `cross_entropy` of n targets takes and sends, on the Meta device; h has no values, `dh` is absent in an evaluation.
pub fn meta_cross_entropy(
    dev: &Device,
    tp: &dyn Comm,
    h: Shape,
    n: usize,
    (valid, widest): (usize, usize),
    bias: bool,
    teacher: Option<Soft>,
    dh: Option<&mut Tensor>,
) -> Result<()> {
    let stat = h.stat(1).dtype;
    let reduce = |t: Tensor, op, what| match tp.size() {
        1 => Ok(t),
        _ => tp.all_reduce(t, op, what)?.wait(),
    };
    let all = match h.rows < n {
        true => Some(tp.all_gather(all_rows(tp, h).empty(dev), "head h")?.wait()?),
        false => None,
    };
    let all_dh = (all.is_some() && dh.is_some()).then(|| all_rows(tp, h).empty(dev));
    let step = chunk_rows(n, widest, stat.bytes());
    let logits = || Tensor::empty(dev, step, valid, stat, Category::Logits);
    let _logits = (logits(), teacher.map(|_| logits()));
    for start in (0..n).step_by(step) {
        let rows = step.min(n - start);
        if let Some(soft) = teacher {
            meta_distill(dev, tp, rows, stat, soft.distance)?;
        } else {
            let max = reduce(row_stats(dev, rows, 1, stat), Reduce::Max, "loss max")?;
            let sums = reduce(row_stats(dev, rows, 2, stat), Reduce::Sum, "loss sums")?;
            drop((max, sums));
        }
        if dh.is_some() && bias && valid > 0 {
            partial_sums(dev, rows, valid, stat);
        }
    }
    if let Some(dh) = dh {
        sum_dh(dev, tp, all_dh, dh)?;
    }
    Ok(())
}

/// Logits of all rows of h, whole, on every rank: (N, V). For generation and tests.
pub fn logits<T: Elem>(
    dev: &Device,
    tp: &dyn Comm,
    h: &Tensor,
    vocab: Vocab<T>,
    total: usize,
) -> Result<Tensor> {
    let (n, c, v) = (h.rows(), h.cols(), vocab.valid);
    let mut own = Tensor::empty(dev, n, v, T::Acc::DTYPE, Category::Logits);
    project(dev, h.data::<T>(), vocab, own.data_mut::<T::Acc>(), c);
    if tp.size() == 1 {
        return Ok(own);
    }
    let mut all = Tensor::zeros(dev, n, total, T::Acc::DTYPE, Category::Logits);
    for i in 0..n {
        let to = i * total + vocab.first;
        all.data_mut::<T::Acc>()[to..to + v].copy_from_slice(&own.data::<T::Acc>()[i * v..(i + 1) * v]);
    }
    tp.all_reduce(all, Reduce::Sum, "logits")?.wait()
}

/// The same on one rank with the weight in panels: (N, valid).
pub fn logits_in_panels<T: Elem>(
    dev: &Device,
    h: &Tensor,
    w: Panels<T>,
    bias: Option<&[T]>,
    cap: Option<f64>,
    valid: usize,
) -> Tensor {
    let (n, c) = (h.rows(), h.cols());
    let mut own = Tensor::empty(dev, n, valid, T::Acc::DTYPE, Category::Logits);
    let out = MatMut::new(own.data_mut::<T::Acc>(), n, valid);
    let a = Mat::new(h.data::<T>(), n, c);
    match cap {
        None => gemm_panels(
            dev.pool(),
            out,
            a,
            w,
            #[inline(always)]
            |_: usize, col: usize, acc: &mut [T::Acc]| {
                if let Some(bias) = bias {
                    acc.iter_mut().zip(&bias[col..]).for_each(|(a, b)| *a += b.load());
                }
            },
        ),
        Some(cap) => {
            let capped = SoftCap { bias, cap: T::Acc::of(cap), inverse: T::Acc::of(1.0 / cap) };
            gemm_panels(
                dev.pool(),
                out,
                a,
                w,
                #[inline(always)]
                |row: usize, col: usize, acc: &mut [T::Acc]| capped.finish(row, col, acc),
            );
        }
    }
    own
}

/// Logits of a teacher, (n, valid): its own projection of h (n, C).
pub fn teacher_logits<T: Elem>(dev: &Device, h: &[T], vocab: Vocab<T>, logits: &mut [T::Acc], c: usize) {
    let (n, v) = (h.len() / c, vocab.valid);
    let cost = || Cost { flops: 2.0 * (n * v * c) as f64, bytes: (n * v * 4) as f64 };
    profile::time(|| ("Teacher logits".into(), cost()), || project(dev, h, vocab, logits, c));
}

/// logits = h·wᵀ + b, soft-capped.   h (n, C), logits (n, valid)
fn project<T: Elem>(dev: &Device, h: &[T], vocab: Vocab<T>, logits: &mut [T::Acc], c: usize) {
    let (n, v) = (h.len() / c, vocab.valid);
    let (h, w, out) = (Mat::new(h, n, c), Mat::new(vocab.w, v, c).t(), MatMut::new(logits, n, v));
    if let Some(cap) = vocab.cap {
        let finish = SoftCap { bias: vocab.bias, cap: T::Acc::of(cap), inverse: T::Acc::of(1.0 / cap) };
        return gemm_fused(dev.pool(), out, Out::Store, h, w, &finish);
    }
    match vocab.bias {
        None => gemm(dev.pool(), out, Out::Store, h, w),
        Some(bias) => gemm_with(
            dev.pool(),
            out,
            Out::Store,
            h,
            w,
            #[inline(always)]
            |_, col, acc: &mut [T::Acc]| {
                for (a, b) in acc.iter_mut().zip(&bias[col..]) {
                    *a += b.load();
                }
            },
        ),
    }
}

/// c·tanh((l + b)/c) of finished logits.
struct SoftCap<'a, T: Elem> {
    bias: Option<&'a [T]>,
    cap: T::Acc,
    /// 1/c
    inverse: T::Acc,
}

impl<T: Elem> Epilogue<T::Acc> for SoftCap<'_, T> {
    #[inline(always)]
    fn finish(&self, _row: usize, first: usize, sums: &mut [T::Acc]) {
        if let Some(bias) = self.bias {
            for (l, b) in sums.iter_mut().zip(&bias[first..]) {
                *l += b.load();
            }
        }
        for l in sums {
            *l = self.cap * (*l * self.inverse).tanh();
        }
    }
}
