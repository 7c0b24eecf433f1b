//! The two linear layers of tensor parallelism (Megatron-LM, arXiv 1909.08053, section 3).
//!
//! `ColumnLinear` splits the rows of w over tp, so every rank has all inputs and some outputs; `RowLinear` splits
//! the columns, so every rank has some inputs and a partial sum of all outputs. One after the other costs one
//! all-reduce forward and one backward; with sequence parallelism (`sequence.rs`) x is gathered on the way in and y
//! scattered on the way out, which sends as much.

use super::matrix::Matrix;
use super::reduce::{add_column_sums, partial_sums};
use super::sequence::{all_rows, gather, own_rows};
use crate::Result;
use crate::comm::{Pending, Reduce};
use crate::device::gemm::{Mat, MatMut, Out};
use crate::device::{Elem, Real, Shared, simd};
use crate::tape::{Back, Cost, Cx, Grads, Needs, Op, ParamId, Shape};
use crate::tensor::Tensor;
use crate::with_dtype;

/// Of what is stored: blocks that are not kept cost nothing.
fn product_cost(n: usize, w: &Matrix, bytes: usize) -> Cost {
    let flops = 2.0 * (n * w.id.len()) as f64;
    Cost { flops, bytes: ((n * (w.rows + w.cols) + w.id.len()) * bytes) as f64 }
}

/// y = x·wᵀ + bias.   x (N, I), the same on every rank, or this rank's (N/R, I); w (O/R, I); bias (O/R); y (N, O/R)
pub struct ColumnLinear {
    pub w: Matrix,
    pub bias: Option<ParamId>,
    /// false: every rank holds all of w and does the same work on the rows it has, without a collective.
    pub split: bool,
    /// Ranks over which the rows of x are split: R with sequence parallelism, 1 without or if w is not split.
    pub parts: usize,
}

impl Op for ColumnLinear {
    fn name(&self) -> &'static str {
        "ColumnLinear"
    }
    fn needs(&self) -> Needs {
        Needs { x: 0b1, y: 0 }
    }
    fn outputs(&self, x: &[Shape]) -> Vec<Shape> {
        vec![Shape { rows: x[0].rows * self.parts, cols: self.w.rows, ..x[0] }]
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        product_cost(x[0].rows * self.parts, &self.w, x[0].dtype.bytes())
    }
    fn forward(&self, cx: &Cx, x: &[&Tensor], y: &mut [Tensor]) -> Result<()> {
        let all = match self.parts {
            1 => None,
            _ => Some(gather(cx.dev, cx.tp, x[0], "ColumnLinear x")?.wait()?),
        };
        let x = all.as_ref().unwrap_or(x[0]);
        with_dtype!(x.dtype(), T => {
            let (w, n) = (&self.w, x.rows());
            let (a, c) = (Mat::new(x.data::<T>(), n, self.w.cols), MatMut::new(y[0].data_mut::<T>(), n, self.w.rows));
            match self.bias.map(|b| cx.w.view::<T>(b)) {
                None => w.forward(cx, c, a, #[inline(always)] |_, _, _: &mut [<T as Elem>::Acc]| {}),
                Some(bias) => w.forward(cx, c, a, #[inline(always)] |_, col, acc: &mut [<T as Elem>::Acc]| add_to(acc, &bias[col..])),
            }
        });
        Ok(())
    }
    fn meta_forward(&self, cx: &Cx, x: &[Shape], _: &mut [Tensor]) -> Result<()> {
        if self.parts > 1 {
            cx.tp.all_gather(all_rows(cx.tp, x[0]).empty(cx.dev), "ColumnLinear x")?.wait()?;
        }
        Ok(())
    }
    fn meta_backward(&self, cx: &Cx, _: &[Shape], b: &mut Back) -> Result<()> {
        self.back(cx, None, b)
    }
    fn backward(&self, cx: &Cx, dw: &mut Grads, b: &mut Back) -> Result<()> {
        self.back(cx, Some(dw), b)
    }
}

impl ColumnLinear {
    /// dx += Σ_tp dy·w, in flight while  dw += dyᵀ·x,  dbias += Σ_N dy. The other ranks' rows of x come meanwhile.
    fn back(&self, cx: &Cx, dw: Option<&mut Grads>, b: &mut Back) -> Result<()> {
        let (x, dy) = (b.x[0], &b.dy[0]);
        let shape = Shape::of(x);
        if cx.tp.size() == 1 || !self.split {
            let (dx, out) = b.dx[0].target(cx.dev, shape);
            self.w.input_gradient(cx, dy, dx, out);
            weight_gradient(cx, dw, &self.w, self.bias, dy, x);
            return Ok(());
        }
        let gathered = match self.parts {
            1 => None,
            _ => Some(gather(cx.dev, cx.tp, x, "ColumnLinear x")?),
        };
        // Not added to dx yet: that holds a sum over tp, which must not be summed again.
        let mut part = Shape { rows: dy.rows(), ..shape }.empty(cx.dev);
        self.w.input_gradient(cx, dy, &mut part, Out::Store);
        let flight = match self.parts {
            1 => cx.tp.all_reduce(part, Reduce::Sum, "ColumnLinear dx")?,
            _ => cx.tp.reduce_scatter(part, "ColumnLinear dx")?,
        };
        let all = gathered.map(Pending::wait).transpose()?;
        weight_gradient(cx, dw, &self.w, self.bias, dy, all.as_ref().unwrap_or(x));
        drop(all);
        let mut dx = flight.wait()?;
        if self.parts > 1 {
            let sum = std::mem::replace(&mut dx, shape.empty(cx.dev));
            own_rows(cx.dev, cx.tp, &sum, &mut dx);
        }
        b.dx[0].put(cx.dev, dx);
        Ok(())
    }
}

/// y = r + bias + Σ_tp x·wᵀ.   x (N, I/R), w (O, I/R), bias (O); r and y (N, O), or this rank's (N/R, O)
pub struct RowLinear {
    pub w: Matrix,
    pub bias: Option<ParamId>,
}

impl Op for RowLinear {
    fn name(&self) -> &'static str {
        "RowLinear"
    }
    fn needs(&self) -> Needs {
        Needs { x: 0b01, y: 0 } // x, not r
    }
    fn outputs(&self, x: &[Shape]) -> Vec<Shape> {
        vec![x[1]]
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        product_cost(x[0].rows, &self.w, x[0].dtype.bytes())
    }
    fn forward(&self, cx: &Cx, x: &[&Tensor], y: &mut [Tensor]) -> Result<()> {
        with_dtype!(x[0].dtype(), T => {
            let (w, n, cols) = (&self.w, x[0].rows(), self.w.rows);
            let a = Mat::new(x[0].data::<T>(), n, self.w.cols);
            let (r, bias) = (x[1].data::<T>(), self.bias.map(|b| cx.w.view::<T>(b)));
            if cx.tp.size() == 1 {
                w.forward(cx, MatMut::new(y[0].data_mut::<T>(), n, cols), a, #[inline(always)] |row, col, acc: &mut [<T as Elem>::Acc]| {
                    add_rest(acc, r, bias, row * cols, col)
                });
            } else {
                self.sum_over_tp(cx, n, y, |part| {
                    let c = MatMut::new(part.data_mut::<T>(), n, cols);
                    w.forward(cx, c, a, #[inline(always)] |_, _, _: &mut [<T as Elem>::Acc]| {});
                })?;
                finish_rows::<T>(cx, y[0].data_mut(), cols, #[inline(always)] |row, col, acc: &mut [<T as Elem>::Acc]| {
                    add_rest(acc, r, bias, row * cols, col)
                });
            }
        });
        Ok(())
    }
    fn meta_forward(&self, cx: &Cx, x: &[Shape], y: &mut [Tensor]) -> Result<()> {
        if cx.tp.size() > 1 {
            self.sum_over_tp(cx, x[0].rows, y, |_| ())?;
        }
        Ok(())
    }
    fn meta_backward(&self, cx: &Cx, _: &[Shape], b: &mut Back) -> Result<()> {
        self.back(cx, None, b)
    }
    fn backward(&self, cx: &Cx, dw: &mut Grads, b: &mut Back) -> Result<()> {
        self.back(cx, Some(dw), b)
    }
}

impl RowLinear {
    /// y = Σ_tp of what `multiply` makes (n, O), or this rank's rows of it.
    fn sum_over_tp(
        &self,
        cx: &Cx,
        n: usize,
        y: &mut [Tensor],
        multiply: impl FnOnce(&mut Tensor),
    ) -> Result<()> {
        if y[0].rows() == n {
            let mut part = std::mem::take(&mut y[0]);
            multiply(&mut part);
            y[0] = cx.tp.all_reduce(part, Reduce::Sum, "RowLinear y")?.wait()?;
        } else {
            let mut part = all_rows(cx.tp, Shape::of(&y[0])).empty(cx.dev);
            multiply(&mut part);
            let sum = cx.tp.reduce_scatter(part, "RowLinear y")?.wait()?;
            own_rows(cx.dev, cx.tp, &sum, &mut y[0]);
        }
        Ok(())
    }

    /// dx += dy·w,  dw += dyᵀ·x,  dbias += Σ_N dy,  dr += dy.   dy is the same on every rank, or gathered first
    fn back(&self, cx: &Cx, dw: Option<&mut Grads>, b: &mut Back) -> Result<()> {
        let (x, dr) = (b.x[0], std::mem::take(&mut b.dy[0]));
        let all = match x.rows() == dr.rows() {
            true => None,
            false => Some(gather(cx.dev, cx.tp, &dr, "RowLinear dy")?.wait()?),
        };
        let dy = all.as_ref().unwrap_or(&dr);
        let (dx, out) = b.dx[0].target(cx.dev, Shape::of(x));
        self.w.input_gradient(cx, dy, dx, out);
        weight_gradient(cx, dw, &self.w, self.bias, dy, x);
        drop(all);
        b.dx[1].put(cx.dev, dr);
        Ok(())
    }
}

/// acc += r[first + col ..] + bias[col ..]
#[inline(always)]
fn add_rest<T: Elem>(acc: &mut [T::Acc], r: &[T], bias: Option<&[T]>, first: usize, col: usize) {
    add_to(acc, &r[first + col..]);
    if let Some(bias) = bias {
        add_to(acc, &bias[col..]);
    }
}

/// acc += x, as far as acc reaches
#[inline(always)]
fn add_to<T: Elem>(acc: &mut [T::Acc], x: &[T]) {
    for (a, x) in acc.iter_mut().zip(x) {
        *a += x.load();
    }
}

/// Applies an epilogue to rows that a collective had to sum first.
fn finish_rows<T: Elem>(
    cx: &Cx,
    y: &mut [T],
    cols: usize,
    rest: impl Fn(usize, usize, &mut [T::Acc]) + Sync,
) {
    const WIDTH: usize = 256;
    let n = y.len() / cols;
    let out = Shared::new(y);
    cx.pool().ranges(n, 16, |rows| {
        // SAFETY: rows of different tasks are disjoint.
        let y = unsafe { out.part(rows.start * cols..rows.end * cols) };
        simd(
            #[inline(always)]
            || {
                let mut acc = [T::Acc::ZERO; WIDTH];
                for (row, y) in rows.clone().zip(y.chunks_exact_mut(cols)) {
                    for (i, y) in y.chunks_mut(WIDTH).enumerate() {
                        let acc = &mut acc[..y.len()];
                        acc.iter_mut().zip(y.iter()).for_each(|(a, y)| *a = y.load());
                        rest(row, i * WIDTH, acc);
                        y.iter_mut().zip(acc.iter()).for_each(|(y, a)| *y = T::store(*a));
                    }
                }
            },
        );
    });
}

/// dw += dyᵀ·x,  dbias += Σ_N dy. On the Meta device there is no dw, and the workspace of dbias is all there is.
fn weight_gradient(
    cx: &Cx,
    dw: Option<&mut Grads>,
    w: &Matrix,
    bias: Option<ParamId>,
    dy: &Tensor,
    x: &Tensor,
) {
    let Some(dw) = dw else {
        if let Some(bias) = bias {
            partial_sums(cx.dev, dy.rows(), bias.len(), Shape::of(dy).stat(1).dtype);
        }
        return;
    };
    w.weight_gradient(cx, dw, dy, x);
    if let Some(bias) = bias {
        with_dtype!(dy.dtype(), T => add_column_sums(cx.dev, dy.data::<T>(), dy.cols(), dw.view(bias)));
    }
}
