//! x = tokens[id] + positions[position] + types[type]; the vocabulary is split over tp by rows.
//!
//! tokens (V/R, C), positions (P, C), types (S, C); x (N, C), or this rank's (N/R, C) with sequence parallelism. No value
//! is read in the backward: ids have no gradient.

use super::sequence::{all_rows, gather, own_rows};
use crate::Result;
use crate::comm::Reduce;
use crate::device::gemm::{Panels, panel_row};
use crate::device::{Device, Elem, Shared, simd};
use crate::tape::{Back, Cx, Grads, Needs, Op, ParamId, Seq, Shape};
use crate::tensor::Tensor;
use crate::with_dtype;

pub struct Embedding {
    pub tokens: ParamId,
    /// The global id of this rank's first row.
    pub first: usize,
    /// Rows of this rank that are tokens; the rest is padding.
    pub valid: usize,
    pub positions: Option<ParamId>,
    pub types: Option<ParamId>,
    /// Of x.
    pub shape: Shape,
}

impl Embedding {
    /// Row of token `id` in this rank's part.
    fn row(&self, id: u32) -> Option<usize> {
        (id as usize).checked_sub(self.first).filter(|row| *row < self.valid)
    }
}

fn type_of(seq: &Seq, i: usize) -> usize {
    seq.token_types.get(i).map_or(0, |t| *t as usize)
}

impl Op for Embedding {
    fn name(&self) -> &'static str {
        "Embedding"
    }
    fn needs(&self) -> Needs {
        Needs { x: 0, y: 0 }
    }
    fn outputs(&self, _: &[Shape]) -> Vec<Shape> {
        vec![self.shape]
    }
    fn forward(&self, cx: &Cx, _: &[&Tensor], y: &mut [Tensor]) -> Result<()> {
        with_dtype!(self.shape.dtype, T => {
            self.sum_over_tp(cx, y, |part| self.look_up::<T>(cx, part.data_mut()))?;
            self.add_places::<T>(cx, y[0].data_mut());
        });
        Ok(())
    }
    fn meta_forward(&self, cx: &Cx, _: &[Shape], y: &mut [Tensor]) -> Result<()> {
        self.sum_over_tp(cx, y, |_| ())
    }
    fn meta_backward(&self, cx: &Cx, _: &[Shape], b: &mut Back) -> Result<()> {
        self.all_of(cx, &b.dy[0]).map(drop)
    }
    fn backward(&self, cx: &Cx, dw: &mut Grads, b: &mut Back) -> Result<()> {
        let all = self.all_of(cx, &b.dy[0])?;
        let (seq, dy) = (cx.seq, all.as_ref().unwrap_or(&b.dy[0]));
        with_dtype!(dy.dtype(), T => {
            let dy = dy.data::<T>();
            scatter(cx.dev, dw, self.tokens, dy, |i| self.row(seq.tokens[i]));
            if let Some(p) = self.positions {
                scatter(cx.dev, dw, p, dy, |i| Some(seq.positions[i] as usize));
            }
            if let Some(p) = self.types {
                scatter(cx.dev, dw, p, dy, |i| Some(type_of(seq, i)));
            }
        });
        Ok(())
    }
}

impl Embedding {
    /// Whether this rank has some rows of x.
    fn splits(&self, cx: &Cx) -> bool {
        self.shape.rows < cx.seq.len()
    }

    /// y = Σ_tp of what `look_up` finds (N, C), or this rank's rows of it.
    fn sum_over_tp(&self, cx: &Cx, y: &mut [Tensor], look_up: impl FnOnce(&mut Tensor)) -> Result<()> {
        if self.splits(cx) {
            let mut part = all_rows(cx.tp, self.shape).empty(cx.dev);
            look_up(&mut part);
            let sum = cx.tp.reduce_scatter(part, "Embedding x")?.wait()?;
            own_rows(cx.dev, cx.tp, &sum, &mut y[0]);
            return Ok(());
        }
        look_up(&mut y[0]);
        if cx.tp.size() > 1 {
            y[0] = cx.tp.all_reduce(std::mem::take(&mut y[0]), Reduce::Sum, "Embedding x")?.wait()?;
        }
        Ok(())
    }

    /// dy of all rows, unless this rank has it.
    fn all_of(&self, cx: &Cx, dy: &Tensor) -> Result<Option<Tensor>> {
        match self.splits(cx) {
            true => gather(cx.dev, cx.tp, dy, "Embedding dx")?.wait().map(Some),
            false => Ok(None),
        }
    }

    fn look_up<T: Elem>(&self, cx: &Cx, y: &mut [T]) {
        let (cols, table, y) = (self.shape.cols, cx.w.view::<T>(self.tokens), Shared::new(y));
        let panels = Panels { data: table, rows: self.tokens.rows, cols };
        let in_panels = cx.past.is_some_and(|p| p.tied);
        cx.pool().ranges(cx.seq.len(), 32, |rows| {
            for i in rows {
                // SAFETY: each row is written by one task.
                let y = unsafe { y.part(i * cols..(i + 1) * cols) };
                match self.row(cx.seq.tokens[i]) {
                    Some(row) if in_panels => panel_row(panels, row, y),
                    Some(row) => y.copy_from_slice(&table[row * cols..(row + 1) * cols]),
                    None => y.fill(T::default()),
                }
            }
        });
    }

    fn add_places<T: Elem>(&self, cx: &Cx, y: &mut [T]) {
        let (cols, y) = (self.shape.cols, Shared::new(y));
        let table = |p: Option<ParamId>| p.map(|p| cx.w.view::<T>(p));
        let (positions, types) = (table(self.positions), table(self.types));
        if positions.is_none() && types.is_none() {
            return;
        }
        let first = if self.splits(cx) { cx.tp.rank() * self.shape.rows } else { 0 };
        cx.pool().ranges(self.shape.rows, 32, |rows| {
            for i in rows {
                // SAFETY: each row is written by one task.
                let y = unsafe { y.part(i * cols..(i + 1) * cols) };
                let row = |table: Option<&'_ [T]>, r: usize, y: &mut [T]| {
                    if let Some(table) = table {
                        simd(
                            #[inline(always)]
                            || {
                                for (y, v) in y.iter_mut().zip(&table[r * cols..(r + 1) * cols]) {
                                    *y = T::store(y.load() + v.load());
                                }
                            },
                        );
                    }
                };
                row(types, type_of(cx.seq, first + i), y);
                row(positions, cx.seq.positions[first + i] as usize, y);
            }
        });
    }
}

/// dw[row(i)] += dy[i] for every token i in order. Tasks own columns, so that equal rows never race.
fn scatter<T: Elem>(
    dev: &Device,
    dw: &mut Grads,
    table: ParamId,
    dy: &[T],
    row: impl Fn(usize) -> Option<usize> + Sync,
) {
    let cols = table.cols;
    let dw = Shared::new(dw.view::<T::Acc>(table));
    dev.pool().ranges(cols, 64, |c| {
        for (i, dy) in dy.chunks_exact(cols).enumerate() {
            if let Some(r) = row(i) {
                // SAFETY: columns of different tasks are disjoint.
                let dw = unsafe { dw.part(r * cols + c.start..r * cols + c.end) };
                simd(
                    #[inline(always)]
                    || dw.iter_mut().zip(&dy[c.clone()]).for_each(|(d, g)| *d += g.load()),
                );
            }
        }
    });
}
