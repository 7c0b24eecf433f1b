//! What the optimizer updates of a unit, for tasks that each take a part: weights, or masters and perhaps the weights that
//! are rounded from them.

use super::adamw::Master;
use crate::device::{Elem, Shared};
use crate::tensor::Tensor;
use std::ops::Range;

pub struct Trained<'a, T> {
    /// (1, len); missing at stage 3 of ZeRO, where only the master is here, and is rounded when it is gathered.
    stored: Option<Shared<'a, T>>,
    /// (1, slice)
    master: Option<Shared<'a, f32>>,
    /// Of the slice.
    start: usize,
}

impl<'a, T: Elem<Acc = f32>> Trained<'a, T> {
    /// Of a unit of these weights, master and slice. One of the two exists.
    pub fn new(weights: &'a mut Tensor, master: &'a mut Tensor, slice: &Range<usize>) -> Self {
        assert!(weights.exists() || master.exists(), "a unit has weights or masters");
        Trained {
            stored: weights.exists().then(|| Shared::new(weights.data_mut())),
            master: master.exists().then(|| Shared::new(master.data_mut())),
            start: slice.start,
        }
    }

    /// Elements `range` of the unit, which lie in the slice.
    ///
    /// # Safety
    /// No two parts that are alive at the same time may overlap.
    pub unsafe fn part(&self, range: Range<usize>) -> Master<'_, T> {
        let local = range.start - self.start..range.end - self.start;
        // SAFETY: the caller's promise.
        let stored = self.stored.as_ref().map(|s| unsafe { s.part(range) });
        // SAFETY: as above.
        let master = self.master.as_ref().map(|m| unsafe { m.part(local) });
        match (master, stored) {
            (Some(master), Some(stored)) => Master::Apart(master, stored),
            (Some(master), None) => Master::Same(master),
            (None, Some(stored)) => Master::Same(bytemuck::cast_slice_mut::<T, f32>(stored)),
            (None, None) => Master::Same(&mut []),
        }
    }
}
