//! Filling the state of this rank from sources of tensors: growth, which no checkpoint holds as it is.

use super::state::{Moment, Optimizer};
use crate::Result;
use crate::device::{DType, Elem};
use crate::params::{LocalBox, Params, Placed, TensorSource};
use crate::tensor::Tensor;
use half::bf16;
use std::ops::Range;

/// Values read at a time.
const READ: usize = 1 << 16;

impl Optimizer {
    /// One of the moments of every tensor that has it.
    pub fn fill(&mut self, which: Moment, params: &Params, source: &dyn TensorSource) -> Result<()> {
        for (i, unit) in params.units.iter().enumerate() {
            for (n, p) in unit.params.iter().enumerate() {
                let Some((_, begin)) = self.moment(which, i, n) else { continue };
                let own = p.within(&unit.slice);
                fill(source, p, own, begin, &mut self.moments[i][which as usize])?;
            }
        }
        Ok(())
    }

    /// The moving average of the weights, if one is kept.
    pub fn fill_average(&mut self, params: &Params, source: &dyn TensorSource) -> Result<()> {
        let Some(ema) = &mut self.ema else { return Ok(()) };
        for (unit, average) in params.units.iter().zip(&mut ema.average) {
            for p in &unit.params {
                fill(source, p, p.within(&unit.slice), unit.slice.start, average)?;
            }
        }
        Ok(())
    }
}

/// Elements `own` of a unit, which lie in `p`, into `out`, which begins with element `begin`.
fn fill(
    source: &dyn TensorSource,
    p: &Placed,
    own: Range<usize>,
    begin: usize,
    out: &mut Tensor,
) -> Result<()> {
    if own.is_empty() {
        return Ok(());
    }
    let (b, cols) = (p.local, p.local.cols);
    let rows = (own.start - p.start) / cols..(own.end - p.start).div_ceil(cols);
    let each = (READ / cols).max(1);
    for first in rows.clone().step_by(each) {
        let n = each.min(rows.end - first);
        let mut values = vec![0f32; n * cols];
        source.read(&p.spec, LocalBox { row: b.row + first, rows: n, stored_rows: n, ..b }, &mut values)?;
        let at = p.start + first * cols;
        let part = own.start.max(at)..own.end.min(at + values.len());
        let (from, to) = (part.start - at..part.end - at, part.start - begin..part.end - begin);
        match out.dtype() {
            DType::Bf16 => {
                let out = &mut out.data_mut::<bf16>()[to];
                out.iter_mut().zip(&values[from]).for_each(|(o, x)| *o = <bf16 as Elem>::store(*x));
            }
            _ => out.data_mut::<f32>()[to].copy_from_slice(&values[from]),
        }
    }
    Ok(())
}
