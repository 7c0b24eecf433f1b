//! RMSNorm of each q and k head over D (QK-norm, arXiv 2302.05442, as in Qwen3); v passes.
//!
//! qkv (N, (H+2K)·D/R); q_norm, k_norm (D), the same on every tp rank; rstd (N, (H+K)/R). The heads share their weights,
//! so dw is of this rank's heads and summed over tp when the gradients of the unit are complete (`params/partial.rs`).

use super::reduce::{over_rows, partial_sums, sum, sum3};
use crate::Result;
use crate::device::attention::Heads;
use crate::device::gemm::Out;
use crate::device::{Category, Elem, Real, Shared, simd};
use crate::tape::{Back, Cx, Grads, Needs, Op, ParamId, Shape};
use crate::tensor::Tensor;
use crate::with_dtype;

pub struct HeadNorm {
    /// Of this rank.
    pub heads: Heads,
    pub eps: f64,
    pub q: ParamId,
    pub k: ParamId,
}

impl Op for HeadNorm {
    fn name(&self) -> &'static str {
        "HeadNorm"
    }
    fn needs(&self) -> Needs {
        Needs { x: 0b1, y: 0b10 } // x, rstd
    }
    fn cheap(&self) -> bool {
        true
    }
    fn outputs(&self, x: &[Shape]) -> Vec<Shape> {
        vec![x[0], x[0].stat(self.normed())]
    }
    fn forward(&self, cx: &Cx, x: &[&Tensor], y: &mut [Tensor]) -> Result<()> {
        let [y, rstd] = y else { panic!("two outputs") };
        with_dtype!(x[0].dtype(), T => self.run::<T>(cx, x[0], y.data_mut(), rstd.data_mut()));
        Ok(())
    }
    fn meta_backward(&self, cx: &Cx, x: &[Shape], b: &mut Back) -> Result<()> {
        b.dx[0].target(cx.dev, x[0]);
        let sums = Tensor::zeros(cx.dev, 2, self.heads.head_dim, x[0].stat(1).dtype, Category::Workspace);
        partial_sums(cx.dev, x[0].rows, sums.len(), sums.dtype());
        Ok(())
    }
    fn backward(&self, cx: &Cx, dw: &mut Grads, b: &mut Back) -> Result<()> {
        let (x, rstd, dy) = (b.x[0], b.y[1], &b.dy[0]);
        let (dx, out) = b.dx[0].target(cx.dev, Shape::of(x));
        with_dtype!(x.dtype(), T => self.run_back::<T>(cx, dw, x, rstd.data(), dy.data(), dx.data_mut(), out));
        Ok(())
    }
}

impl HeadNorm {
    /// Heads that are normed: q and k.
    fn normed(&self) -> usize {
        self.heads.heads + self.heads.kv_heads
    }

    fn run<T: Elem>(&self, cx: &Cx, x: &Tensor, y: &mut [T], rstd: &mut [T::Acc]) {
        let (cols, d, x, normed) = (x.cols(), self.heads.head_dim, x.data::<T>(), self.normed());
        let (wq, wk) = (cx.w.view::<T>(self.q), cx.w.view::<T>(self.k));
        let (of_d, eps) = (T::Acc::of(1.0 / d as f64), T::Acc::of(self.eps));
        let (y, rstd) = (Shared::new(y), Shared::new(rstd));
        cx.pool().ranges(x.len() / cols, 16, |rows| {
            for i in rows {
                let x = &x[i * cols..(i + 1) * cols];
                // SAFETY: each row is written by one task.
                let (y, rstd) =
                    unsafe { (y.part(i * cols..(i + 1) * cols), rstd.part(i * normed..(i + 1) * normed)) };
                simd(
                    #[inline(always)]
                    || {
                        for (h, rstd) in rstd.iter_mut().enumerate() {
                            let w = if h < self.heads.heads { wq } else { wk };
                            let (x, y) = (&x[h * d..(h + 1) * d], &mut y[h * d..(h + 1) * d]);
                            *rstd = T::Acc::ONE / (sum(x, |x| x * x) * of_d + eps).sqrt();
                            for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                                *y = T::store(x.load() * *rstd * w.load());
                            }
                        }
                        y[normed * d..].copy_from_slice(&x[normed * d..]);
                    },
                );
            }
        });
    }

    /// As RMSNorm in `norm.rs`, per head.
    fn run_back<T: Elem>(
        &self,
        cx: &Cx,
        dw: &mut Grads,
        x: &Tensor,
        rstd: &[T::Acc],
        dy: &[T],
        dx: &mut [T],
        out: Out,
    ) {
        let (cols, d, x, normed) = (x.cols(), self.heads.head_dim, x.data::<T>(), self.normed());
        let (wq, wk) = (cx.w.view::<T>(self.q), cx.w.view::<T>(self.k));
        let of_d = T::Acc::of(1.0 / d as f64);
        let dx = Shared::new(dx);
        let mut sums = Tensor::zeros(cx.dev, 2, d, T::Acc::DTYPE, Category::Workspace);
        over_rows(
            cx.dev,
            x.len() / cols,
            sums.data_mut::<T::Acc>(),
            #[inline(always)]
            |rows, partial| {
                let (sum_q, sum_k) = partial.split_at_mut(d);
                for i in rows {
                    let (x, dy) = (&x[i * cols..(i + 1) * cols], &dy[i * cols..(i + 1) * cols]);
                    // SAFETY: each row is written by one task.
                    let dx = unsafe { dx.part(i * cols..(i + 1) * cols) };
                    let old = |dx: T| if out == Out::Add { dx.load() } else { T::Acc::ZERO };
                    for h in 0..normed {
                        let is_q = h < self.heads.heads;
                        let (w, dw) = if is_q { (wq, &mut *sum_q) } else { (wk, &mut *sum_k) };
                        let (r, head) = (rstd[i * normed + h], h * d..(h + 1) * d);
                        let (x, dy, dx) = (&x[head.clone()], &dy[head.clone()], &mut dx[head]);
                        for ((dw, x), dy) in dw.iter_mut().zip(x).zip(dy) {
                            *dw += dy.load() * x.load() * r;
                        }
                        let gn = sum3(x, dy, w, |x, dy, w| x * dy * w);
                        let gn = gn * r * of_d;
                        for (((dx, x), dy), w) in dx.iter_mut().zip(x).zip(dy).zip(w) {
                            let n = x.load() * r;
                            *dx = T::store(old(*dx) + r * (dy.load() * w.load() - n * gn));
                        }
                    }
                    for (dx, dy) in dx[normed * d..].iter_mut().zip(&dy[normed * d..]) {
                        *dx = T::store(old(*dx) + dy.load());
                    }
                }
            },
        );
        let (sq, sk) = sums.data::<T::Acc>().split_at(d);
        dw.view::<T::Acc>(self.q).iter_mut().zip(sq).for_each(|(d, s)| *d += *s);
        dw.view::<T::Acc>(self.k).iter_mut().zip(sk).for_each(|(d, s)| *d += *s);
    }
}
