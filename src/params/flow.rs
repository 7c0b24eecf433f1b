//! ZeRO (arXiv 1910.02054): what of a unit each data-parallel rank keeps, and the collectives that bring the rest in time.
//!
//!     stage   weights   gradients   optimizer state        sent per micro-batch        sent per update
//!     0       all       all         all                                                all_reduce of gradients
//!     1       all       all         part                                               reduce_scatter, all_gather
//!     2       all       part        part                   (reduce_scatter, sharded)   reduce_scatter, all_gather
//!     3       part      part        part                   all_gather forward and      reduce_scatter
//!                                                          backward (as above)
//!
//! Parts are those of the shard group. Where several shard groups replicate each other, the reduced part is then
//! summed over them. A collective starts as early as it can and is waited for when its result is needed: the weights
//! of block l + 1 come behind block l, the gradients of block l leave behind block l − 1.

use super::partial::Partial;
use super::unit::{Params, Unit};
use crate::Result;
use crate::comm::{Comm, Pending, Reduce};
use crate::device::{Category, Device, Elem, Real, Shared, simd};
use crate::tensor::Tensor;
use crate::with_dtype;
use std::collections::VecDeque;
use std::sync::Arc;

/// How gradients of several micro-batches are summed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulate {
    /// In full on each rank; reduced once.
    Local,
    /// Each micro-batch is reduced; a rank keeps its part of the sum. Stages 2 and 3.
    Sharded,
}

/// The collectives of the units, under way.
pub struct Flow {
    pub zero: u8,
    accumulate: Accumulate,
    partial: Partial,
    shard: Arc<dyn Comm>,
    replicate: Arc<dyn Comm>,
    /// Weights on their way to each unit.
    gathers: Vec<Option<Pending>>,
    /// Gradients on their way, with whether they are the last of the update; the oldest first.
    reductions: VecDeque<(usize, bool, Pending)>,
    /// Reduced parts on their way over the replicas.
    sums: VecDeque<(usize, Pending)>,
}

impl Flow {
    /// For a rank of these groups and this many units. At stage 0 `shard` is all of dp.
    pub fn new(
        shard: Arc<dyn Comm>,
        replicate: Arc<dyn Comm>,
        partial: Partial,
        zero: u8,
        accumulate: Accumulate,
        units: usize,
    ) -> Flow {
        let gathers = (0..units).map(|_| None).collect();
        Flow {
            zero,
            accumulate,
            partial,
            shard,
            replicate,
            gathers,
            reductions: VecDeque::new(),
            sums: VecDeque::new(),
        }
    }

    /// Starts to bring the weights of a unit, unless they are here or on their way.
    pub fn fetch(&mut self, dev: &Device, params: &mut Params, unit: usize) -> Result<()> {
        let u = &mut params.units[unit];
        if self.zero == 3 && !u.weights.exists() && self.gathers[unit].is_none() {
            let mut slot = Tensor::empty(dev, 1, u.len, u.dtype, Category::Weights);
            if !dev.is_meta() {
                with_dtype!(u.dtype, T => cast_part::<T>(dev, u, &mut slot));
            }
            self.gathers[unit] = Some(self.shard.all_gather(slot, &format!("{} weights", u.name))?);
        }
        Ok(())
    }

    /// Returns when the weights of a unit are here.
    pub fn ready(&mut self, dev: &Device, params: &mut Params, unit: usize) -> Result<()> {
        self.fetch(dev, params, unit)?;
        if let Some(gather) = self.gathers[unit].take() {
            params.units[unit].weights = gather.wait()?;
        }
        Ok(())
    }

    /// The weights of a unit are not needed until they are fetched again.
    pub fn release(&self, params: &mut Params, unit: usize) {
        if self.zero == 3 {
            params.units[unit].weights = Tensor::default();
        }
    }

    /// Every rank updated its slices: weights that are kept whole are gathered, behind what comes next.
    pub fn updated(&mut self, params: &mut Params) -> Result<()> {
        for unit in 0..params.units.len() {
            self.release(params, unit);
        }
        if matches!(self.zero, 1 | 2) && self.shard.size() > 1 {
            for (u, gather) in params.units.iter_mut().zip(&mut self.gathers) {
                let weights = std::mem::take(&mut u.weights);
                *gather = Some(self.shard.all_gather(weights, &format!("{} weights", u.name))?);
            }
        }
        Ok(())
    }

    /// Returns when no weights are on their way: what is kept whole is whole.
    pub fn settle(&mut self, params: &mut Params) -> Result<()> {
        for (u, gather) in params.units.iter_mut().zip(&mut self.gathers) {
            if let Some(gather) = gather.take() {
                u.weights = gather.wait()?;
            }
        }
        if self.zero == 3 {
            params.units.iter_mut().for_each(|u| u.weights = Tensor::default());
        }
        Ok(())
    }

    /// The backward of a unit is done: its gradients leave, if they are complete (`last` of the update) or are not
    /// to be summed here.
    pub fn reduce(&mut self, dev: &Device, params: &mut Params, unit: usize, last: bool) -> Result<()> {
        if !last && self.accumulate == Accumulate::Local {
            return Ok(());
        }
        let u = &mut params.units[unit];
        self.partial.sum(dev, u)?;
        let (grads, what) = (std::mem::take(&mut u.grads), format!("{} grads", u.name));
        let flight = match self.zero {
            0 => self.shard.all_reduce(grads, Reduce::Sum, &what)?,
            _ => self.shard.reduce_scatter(grads, &what)?,
        };
        self.reductions.push_back((unit, last, flight));
        // One unit's gradients may be on their way while those of the next are computed.
        while self.zero >= 2 && self.reductions.len() > 1 {
            self.land(dev, params)?;
        }
        Ok(())
    }

    /// Returns when all gradients are reduced.
    pub fn finish(&mut self, dev: &Device, params: &mut Params) -> Result<()> {
        while !self.reductions.is_empty() {
            self.land(dev, params)?;
        }
        while let Some((unit, flight)) = self.sums.pop_front() {
            put_part(dev, &mut params.units[unit], flight.wait()?);
        }
        Ok(())
    }

    /// The oldest reduction arrives.
    fn land(&mut self, dev: &Device, params: &mut Params) -> Result<()> {
        let Some((unit, last, flight)) = self.reductions.pop_front() else { return Ok(()) };
        let u = &mut params.units[unit];
        let grads = flight.wait()?;
        if self.zero >= 2 {
            keep_part(dev, u, &grads, self.accumulate == Accumulate::Sharded);
        } else {
            u.grads = grads;
        }
        if last && self.zero >= 1 && self.replicate.size() > 1 {
            let part = take_part(dev, u);
            let sum = self.replicate.all_reduce(part, Reduce::Sum, &format!("{} part", u.name))?;
            self.sums.push_back((unit, sum));
        }
        Ok(())
    }
}

/// Elements per task.
const GRAIN: usize = 1 << 16;

/// y[i] ← f(y[i], x[i])
fn each<X: Elem, Y: Elem>(dev: &Device, y: &mut [Y], x: &[X], f: impl Fn(Y, X) -> Y + Sync) {
    let (n, y) = (y.len(), Shared::new(y));
    dev.pool().ranges(n, GRAIN, |r| {
        // SAFETY: ranges of different tasks are disjoint.
        let y = unsafe { y.part(r.clone()) };
        simd(
            #[inline(always)]
            || y.iter_mut().zip(&x[r]).for_each(|(y, x)| *y = f(*y, *x)),
        );
    });
}

/// The master of this rank, rounded, into its part of the slot.
fn cast_part<T: Elem>(dev: &Device, u: &Unit, slot: &mut Tensor) {
    let part = &mut slot.data_mut::<T>()[u.part.clone()];
    each(dev, part, u.master.data::<T::Acc>(), |_, x: T::Acc| T::store(x));
}

/// This rank's part of a reduced gradient joins (or becomes) what it keeps.
fn keep_part(dev: &Device, u: &mut Unit, grads: &Tensor, add: bool) {
    if dev.is_meta() {
        return;
    }
    fn run<A: Real>(dev: &Device, u: &mut Unit, grads: &Tensor, add: bool) {
        let x = &grads.data::<A>()[u.part.clone()];
        let y = u.part_grads.data_mut::<A>();
        match add {
            true => each(dev, y, x, |y: A, x: A| y + x),
            false => each(dev, y, x, |_, x: A| x),
        }
    }
    with_dtype!(grads.dtype(), T => run::<<T as Elem>::Acc>(dev, u, grads, add));
}

/// The reduced part as a tensor of its own: the kept one, or a copy out of the whole.
fn take_part(dev: &Device, u: &mut Unit) -> Tensor {
    if u.part_grads.exists() {
        return std::mem::take(&mut u.part_grads);
    }
    let mut part = Tensor::empty(dev, 1, u.part.len(), u.grad_dtype(), Category::Comm);
    if !dev.is_meta() {
        let size = u.grad_dtype().bytes();
        part.bytes_mut().copy_from_slice(&u.grads.bytes()[u.part.start * size..u.part.end * size]);
    }
    part
}

/// Takes `take_part` back.
fn put_part(dev: &Device, u: &mut Unit, part: Tensor) {
    if !u.grads.exists() {
        u.part_grads = part;
    } else if !dev.is_meta() {
        let size = u.grad_dtype().bytes();
        u.grads.bytes_mut()[u.part.start * size..u.part.end * size].copy_from_slice(part.bytes());
    }
}
