//! Filling the weights of a rank from wherever they come: initial values, a checkpoint, a Hugging Face directory.

use super::spec::{LocalBox, ParamSpec};
use super::unit::{Params, Placed, Unit};
use crate::Result;
use crate::device::{Device, Elem, Real, Shared};
use crate::with_dtype;
use std::ops::Range;
use std::sync::Mutex;

/// Where values of parameters come from: initialisation, a checkpoint, a Hugging Face directory.
pub trait TensorSource: Sync {
    /// Fills `out` (rows · cols, row-major, without padding) with the box of the tensor.
    fn read(&self, spec: &ParamSpec, b: LocalBox, out: &mut [f32]) -> Result<()>;
}

/// Initial values: Philox(seed, name) at the global index, the same for every topology.
pub struct RandomInit {
    pub seed: u64,
}

impl TensorSource for RandomInit {
    fn read(&self, spec: &ParamSpec, b: LocalBox, out: &mut [f32]) -> Result<()> {
        spec.fill(self.seed, b, out);
        Ok(())
    }
}

impl Params {
    /// Reads the weights and masters that this rank keeps.
    pub fn fill(&mut self, dev: &Device, source: &dyn TensorSource) -> Result<()> {
        if dev.is_meta() {
            return Ok(());
        }
        for unit in &mut self.units {
            let Unit { params, weights, master, slice, len, dtype, .. } = unit;
            for p in params {
                with_dtype!(*dtype, T => {
                    let weights = weights.exists().then(|| Kept::<T>::new(weights.data_mut(), 0..*len));
                    let master = master.exists().then(|| Kept::<<T as Elem>::Acc>::new(master.data_mut(), slice.clone()));
                    fill_one(dev, source, p, weights, master)
                })?;
            }
        }
        Ok(())
    }
}

/// Elements `held` of a unit.
struct Kept<'a, T> {
    values: Shared<'a, T>,
    held: Range<usize>,
}

impl<'a, T: Elem> Kept<'a, T> {
    fn new(values: &'a mut [T], held: Range<usize>) -> Self {
        Kept { values: Shared::new(values), held }
    }
    /// Stores values that begin at element `first` of the unit, as far as they are kept.
    ///
    /// # Safety
    /// Ranges of simultaneous calls are disjoint.
    unsafe fn store(&self, first: usize, values: &[f32]) {
        let own = self.held.start.max(first)..self.held.end.min(first + values.len());
        if own.start < own.end {
            // SAFETY: the caller's.
            let out = unsafe { self.values.part(own.start - self.held.start..own.end - self.held.start) };
            let values = &values[own.start - first..own.end - first];
            out.iter_mut().zip(values).for_each(|(w, v)| *w = T::store(<T::Acc as Real>::of(*v as f64)));
        }
    }
}

/// Elements read at a time: small enough to share, large enough for a file read.
const READ: usize = 1 << 16;

fn fill_one<T: Elem>(
    dev: &Device,
    source: &dyn TensorSource,
    p: &Placed,
    weights: Option<Kept<T>>,
    master: Option<Kept<T::Acc>>,
) -> Result<()>
where
    T::Acc: Elem,
{
    let (b, cols) = (p.local, p.local.cols.max(1));
    // Rows of which this rank keeps anything.
    let held = [weights.as_ref().map(|k| &k.held), master.as_ref().map(|k| &k.held)];
    let held = held.into_iter().flatten();
    let row = |at: usize| at.clamp(p.range().start, p.range().end) - p.start;
    let first = held.clone().map(|h| row(h.start) / cols).min().unwrap_or(0);
    let end = held.map(|h| row(h.end).div_ceil(cols)).max().unwrap_or(0);
    let failed = Mutex::new(None);
    dev.pool().ranges(end.saturating_sub(first), (READ / cols).max(1), |rows| {
        let part =
            LocalBox { row: b.row + first + rows.start, rows: rows.len(), stored_rows: rows.len(), ..b };
        let mut values = vec![0.0; rows.len() * b.cols];
        if let Err(e) = source.read(&p.spec, part, &mut values) {
            *failed.lock().expect("no panic under the lock") = Some(e);
            return;
        }
        let at = p.start + (first + rows.start) * cols;
        // SAFETY: row ranges of different tasks are disjoint.
        unsafe {
            weights.iter().for_each(|k| k.store(at, &values));
            master.iter().for_each(|k| k.store(at, &values));
        }
    });
    match failed.into_inner().expect("no panic under the lock") {
        Some(e) => Err(e),
        None => Ok(()),
    }
}
