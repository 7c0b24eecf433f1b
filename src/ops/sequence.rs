//! Sequence parallelism (arXiv 2205.05198, section 4.2.2): between the tensor-parallel regions of a model rank r of tp
//! holds rows r·N/R to (r + 1)·N/R of x, so that norms, residuals and what the tape keeps of them are N/R rows. Two
//! operators lead in and out, each the other's backward:
//!
//!     gather    (N/R, C) to (N, C)                          all_gather
//!     scatter   (N, C), of which Σ_tp is meant, to (N/R, C)   reduce_scatter, then `own_rows`

use crate::Result;
use crate::comm::{Comm, Pending};
use crate::device::{Device, Shared};
use crate::tape::Shape;
use crate::tensor::Tensor;

/// Bytes of a task.
const GRAIN: usize = 1 << 18;

/// Starts to bring all rows (N, C), of which x (N/R, C) are this rank's.
pub fn gather(dev: &Device, tp: &dyn Comm, x: &Tensor, what: &str) -> Result<Pending> {
    let mut all = all_rows(tp, Shape::of(x)).empty(dev);
    if !dev.is_meta() {
        let own = x.bytes().len();
        copy(dev, &mut all.bytes_mut()[tp.rank() * own..][..own], x.bytes());
    }
    tp.all_gather(all, what)
}

/// The shape of what `gather` brings.
pub fn all_rows(tp: &dyn Comm, own: Shape) -> Shape {
    Shape { rows: own.rows * tp.size(), ..own }
}

/// The rows of this rank, out (N/R, C), of what a reduce_scatter left, sum (N, C).
pub fn own_rows(dev: &Device, tp: &dyn Comm, sum: &Tensor, out: &mut Tensor) {
    assert_eq!((out.rows() * tp.size(), out.cols()), (sum.rows(), sum.cols()), "rows of a rank");
    if !dev.is_meta() {
        let own = out.bytes().len();
        copy(dev, out.bytes_mut(), &sum.bytes()[tp.rank() * own..][..own]);
    }
}

fn copy(dev: &Device, to: &mut [u8], from: &[u8]) {
    let to = Shared::new(to);
    // SAFETY: ranges of different tasks are disjoint.
    dev.pool().ranges(from.len(), GRAIN, |r| unsafe { to.part(r.clone()) }.copy_from_slice(&from[r]));
}
