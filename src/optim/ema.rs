//! A moving average of the weights, in f32, over the slices that the optimizer updates (Polyak and Juditsky 1992; as it
//! is used in training: arXiv 1710.10196, section 6.1).
//!
//!     a ← a + (1 − d)(w − a),  d = min(decay, t/(t + 1)),  t updates made before
//!
//! Until 1/(1 − decay) updates are made it is the mean of all weights since the first update; what a run began with
//! leaves no trace in it.

use crate::device::{Category, DType, Device, Elem, Shared, simd};
use crate::params::{Params, Unit};
use crate::tape::profile;
use crate::tensor::Tensor;
use half::bf16;

/// Elements per task.
const GRAIN: usize = 1 << 15;

pub struct Ema {
    decay: f64,
    /// (1, slice) of each unit
    pub average: Vec<Tensor>,
}

impl Ema {
    pub fn new(dev: &Device, decay: f64, params: &Params) -> Ema {
        let zeros = |u: &Unit| Tensor::zeros(dev, 1, u.slice.len(), DType::F32, Category::Optimizer);
        Ema { decay, average: params.units.iter().map(zeros).collect() }
    }

    /// Takes in the weights after an update; `t` updates were made before it.
    pub fn update(&mut self, dev: &Device, params: &Params, t: u64) {
        if dev.is_meta() {
            return;
        }
        let new = (1.0 - self.decay.min(t as f64 / (t as f64 + 1.0))) as f32;
        let bytes = params.units.iter().map(|u| 12 * u.slice.len()).sum();
        let all = || {
            for (average, unit) in self.average.iter_mut().zip(&params.units) {
                let w = unit.trained();
                let average = Shared::new(average.data_mut::<f32>());
                dev.pool().ranges(w.len(), GRAIN, |range| {
                    // SAFETY: ranges of different tasks are disjoint.
                    let average = unsafe { average.part(range.clone()) };
                    simd(
                        #[inline(always)]
                        || average.iter_mut().zip(&w[range]).for_each(|(a, w)| *a = new.mul_add(*w - *a, *a)),
                    );
                });
            }
        };
        profile::time(|| profile::pass("Average of weights", bytes), all);
    }

    /// Puts the average where the model computes, in this rank's slices. f32 weights (and, at ZeRO 3, the masters) lie in
    /// the average's place meanwhile; bf16 ones are in the masters. No weights are on their way.
    pub fn show(&mut self, dev: &Device, params: &mut Params) {
        self.place(dev, params, true);
    }

    /// Puts the trained weights back, bit by bit.
    pub fn hide(&mut self, dev: &Device, params: &mut Params) {
        self.place(dev, params, false);
    }

    fn place(&mut self, dev: &Device, params: &mut Params, average: bool) {
        if dev.is_meta() {
            return;
        }
        for (own, unit) in self.average.iter_mut().zip(&mut params.units) {
            let Unit { weights, master, slice, dtype, .. } = unit;
            match dtype {
                // ZeRO 3: the model computes with what is gathered from the masters.
                _ if !weights.exists() => master.data_mut::<f32>().swap_with_slice(own.data_mut()),
                DType::Bf16 => {
                    let from = if average { own } else { master };
                    let weights = &mut weights.data_mut::<bf16>()[slice.clone()];
                    weights
                        .iter_mut()
                        .zip(from.data::<f32>())
                        .for_each(|(w, a)| *w = <bf16 as Elem>::store(*a));
                }
                _ => weights.data_mut::<f32>()[slice.clone()].swap_with_slice(own.data_mut()),
            }
        }
    }
}
