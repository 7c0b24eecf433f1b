//! LayerNorm (arXiv 1607.06450) and RMSNorm (arXiv 1910.07467) over the last dimension.
//!
//!     LayerNorm  y = (x − μ)·rstd∘w + b,  rstd = 1/√(mean((x − μ)²) + ε)
//!     RMSNorm    y = x·rstd∘w,            rstd = 1/√(mean(x²) + ε)
//!
//! x, y (N, C); w, b (C); statistics (N, 2) as [μ, rstd].

use super::reduce::{over_rows, partial_sums, sum, sum2, sum3};
use crate::Result;
use crate::config::Norm as Kind;
use crate::device::gemm::Out;
use crate::device::{Category, DType, Elem, Real, Shared, simd};
use crate::tape::{Back, Cx, Grads, Needs, Op, ParamId, Shape};
use crate::tensor::Tensor;
use crate::with_dtype;

#[derive(Clone, Copy)]
pub struct Norm {
    pub kind: Kind,
    pub eps: f64,
    pub w: ParamId,
    pub bias: Option<ParamId>,
}

impl Op for Norm {
    fn name(&self) -> &'static str {
        "Norm"
    }
    fn needs(&self) -> Needs {
        Needs { x: 0b1, y: 0b10 } // x and the statistics
    }
    fn cheap(&self) -> bool {
        true
    }
    fn outputs(&self, x: &[Shape]) -> Vec<Shape> {
        vec![x[0], x[0].stat(2)]
    }
    fn forward(&self, cx: &Cx, x: &[&Tensor], y: &mut [Tensor]) -> Result<()> {
        let [y, stats] = y else { panic!("two outputs") };
        with_dtype!(x[0].dtype(), T => self.run(cx, x[0].data::<T>(), y.data_mut(), stats.data_mut(), x[0].cols()));
        Ok(())
    }
    fn meta_backward(&self, cx: &Cx, x: &[Shape], b: &mut Back) -> Result<()> {
        b.dx[0].target(cx.dev, x[0]);
        let sums = self.sums(cx, x[0].cols, x[0].stat(1).dtype);
        partial_sums(cx.dev, x[0].rows, sums.len(), sums.dtype());
        Ok(())
    }
    fn backward(&self, cx: &Cx, dw: &mut Grads, b: &mut Back) -> Result<()> {
        let (x, stats, dy) = (b.x[0], b.y[1], &b.dy[0]);
        let (dx, out) = b.dx[0].target(cx.dev, Shape::of(x));
        with_dtype!(x.dtype(), T => self.run_back::<T>(cx, dw, x, stats.data(), dy.data(), dx.data_mut(), out));
        Ok(())
    }
}

impl Norm {
    /// dw and db as one row, added to their places when complete.
    fn sums(&self, cx: &Cx, cols: usize, dtype: DType) -> Tensor {
        let width = if self.bias.is_some() { 2 * cols } else { cols };
        Tensor::zeros(cx.dev, 1, width, dtype, Category::Workspace)
    }

    fn run<T: Elem>(&self, cx: &Cx, x: &[T], y: &mut [T], stats: &mut [T::Acc], cols: usize) {
        let (w, bias) = (cx.w.view::<T>(self.w), self.bias.map(|b| cx.w.view::<T>(b)));
        let (y, stats) = (Shared::new(y), Shared::new(stats));
        let (of_cols, eps) = (T::Acc::of(1.0 / cols as f64), T::Acc::of(self.eps));
        cx.pool().ranges(x.len() / cols, 16, |rows| {
            for i in rows {
                let x = &x[i * cols..(i + 1) * cols];
                // SAFETY: each row is written by one task.
                let (y, stats) = unsafe { (y.part(i * cols..(i + 1) * cols), stats.part(2 * i..2 * i + 2)) };
                simd(
                    #[inline(always)]
                    || {
                        let mean = match self.kind {
                            Kind::Layer => sum(x, |x| x) * of_cols,
                            Kind::Rms => T::Acc::ZERO,
                        };
                        let var = sum(x, |x| (x - mean) * (x - mean)) * of_cols;
                        let rstd = T::Acc::ONE / (var + eps).sqrt();
                        stats.copy_from_slice(&[mean, rstd]);
                        for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                            *y = T::store((x.load() - mean) * rstd * w.load());
                        }
                        if let Some(bias) = bias {
                            // From x again, not from the stored y, which may have been rounded.
                            for (((y, x), w), b) in y.iter_mut().zip(x).zip(w).zip(bias) {
                                *y = T::store(((x.load() - mean) * rstd).mul_add(w.load(), b.load()));
                            }
                        }
                    },
                );
            }
        });
    }

    /// With n = (x − μ)·rstd and g = dy∘w:  dx += rstd·(g − [mean(g)] − n·mean(g∘n)), the bracket for LayerNorm
    /// only;  dw += Σ_N dy∘n,  db += Σ_N dy
    fn run_back<T: Elem>(
        &self,
        cx: &Cx,
        dw: &mut Grads,
        x: &Tensor,
        stats: &[T::Acc],
        dy: &[T],
        dx: &mut [T],
        out: Out,
    ) {
        let (cols, w, x) = (x.cols(), cx.w.view::<T>(self.w), x.data::<T>());
        let of_cols = T::Acc::of(1.0 / cols as f64);
        let dx = Shared::new(dx);
        let mut sums = self.sums(cx, cols, T::Acc::DTYPE);
        over_rows(
            cx.dev,
            x.len() / cols,
            sums.data_mut::<T::Acc>(),
            #[inline(always)]
            |rows, partial| {
                let (dw, db) = partial.split_at_mut(cols);
                for i in rows {
                    let (x, dy) = (&x[i * cols..(i + 1) * cols], &dy[i * cols..(i + 1) * cols]);
                    // SAFETY: each row is written by one task.
                    let dx = unsafe { dx.part(i * cols..(i + 1) * cols) };
                    let (mean, rstd) = (stats[2 * i], stats[2 * i + 1]);
                    for ((dw, x), dy) in dw.iter_mut().zip(x).zip(dy) {
                        *dw += dy.load() * ((x.load() - mean) * rstd);
                    }
                    let gn = sum3(x, dy, w, |x, dy, w| dy * w * ((x - mean) * rstd)) * of_cols;
                    let g1 = match self.kind {
                        Kind::Layer => sum2(dy, w, |dy, w| dy * w) * of_cols,
                        Kind::Rms => T::Acc::ZERO,
                    };
                    for (db, dy) in db.iter_mut().zip(dy) {
                        *db += dy.load();
                    }
                    for (((dx, x), dy), w) in dx.iter_mut().zip(x).zip(dy).zip(w) {
                        let n = (x.load() - mean) * rstd;
                        let d = rstd * (dy.load() * w.load() - g1 - n * gn);
                        let old = if out == Out::Add { dx.load() } else { T::Acc::ZERO };
                        *dx = T::store(old + d);
                    }
                }
            },
        );
        let (sw, sb) = sums.data::<T::Acc>().split_at(cols);
        dw.view::<T::Acc>(self.w).iter_mut().zip(sw).for_each(|(d, s)| *d += *s);
        if let Some(bias) = self.bias {
            dw.view::<T::Acc>(bias).iter_mut().zip(sb).for_each(|(d, s)| *d += *s);
        }
    }
}
