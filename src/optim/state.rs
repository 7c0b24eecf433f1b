//! The state of an optimizer, always slices: moments of the elements that this rank updates, and its step counter t.

use super::adamw::{AdamStep, Master, adam, sgd};
use super::ema::Ema;
use super::moments::{runs, widened};
use crate::config::{OptimConfig, OptimKind, Precision};
use crate::device::{Category, DType, Device, Shared};
use crate::params::{Params, Unit, reduced};
use crate::rng::Philox;
use crate::tape::profile;
use crate::tensor::Tensor;
use half::bf16;
use std::ops::Range;

/// Elements per task.
const GRAIN: usize = 1 << 15;

/// What one update uses.
#[derive(Clone, Copy, Debug)]
pub struct Hyper {
    pub lr: f64,
    /// Of every gradient: below 1 when the norm is clipped.
    pub grad_scale: f64,
    /// Updates that the run made before.
    pub update: u64,
}

pub struct Optimizer {
    kind: OptimKind,
    /// Updates made since the state was new.
    pub t: u64,
    /// First and second moments (1, slice) of each unit; empty for SGD.
    pub moments: Vec<[Tensor; 2]>,
    pub ema: Option<Ema>,
    /// For each unit: ranges with their decay and learning-rate factor, cut to tasks.
    ranges: Vec<Vec<Span>>,
}

#[derive(Clone, Debug)]
struct Span {
    range: Range<usize>,
    weight_decay: f64,
    lr_scale: f64,
    /// Index of the tensor in its unit.
    param: usize,
}

impl Optimizer {
    pub fn new(dev: &Device, config: &OptimConfig, params: &Params) -> Optimizer {
        let moments = match config.kind {
            OptimKind::AdamW { moments, .. } | OptimKind::Adam { moments, .. } => {
                let dtype = if moments == Precision::Bf16 { DType::Bf16 } else { DType::F32 };
                let zeros = |u: &Unit| Tensor::zeros(dev, 1, u.slice.len(), dtype, Category::Optimizer);
                params.units.iter().map(|u| [zeros(u), zeros(u)]).collect()
            }
            OptimKind::Sgd { .. } => vec![],
        };
        let ranges = params.units.iter().map(|u| spans(config, u)).collect();
        let ema = config.ema.map(|decay| Ema::new(dev, decay, params));
        Optimizer { kind: config.kind, t: 0, moments, ema, ranges }
    }

    /// New moments, t = 0: for a phase that begins with `optimizer = "reset"`.
    pub fn reset(&mut self) {
        self.t = 0;
        for t in self.moments.iter_mut().flatten() {
            t.bytes_mut().fill(0);
        }
    }

    /// First moments start at zero, second moments and t stay.
    pub fn reset_first_moments(&mut self) {
        self.moments.iter_mut().for_each(|[m, _]| m.bytes_mut().fill(0));
    }

    /// One update of this rank's slice of every unit.
    pub fn update(&mut self, dev: &Device, params: &mut Params, hyper: Hyper) {
        self.t += 1;
        if dev.is_meta() {
            return;
        }
        // Of AdamW in f32: g, m, v, w read, m, v, w written.
        let bytes = params.units.iter().map(|u| 28 * u.slice.len()).sum();
        let all = || {
            for (i, unit) in params.units.iter_mut().enumerate() {
                match unit.dtype {
                    DType::Bf16 => self.update_unit::<half::bf16>(dev, i, unit, hyper),
                    _ => self.update_unit::<f32>(dev, i, unit, hyper),
                }
            }
        };
        profile::time(|| profile::pass("Optimizer", bytes), all);
        if let Some(ema) = &mut self.ema {
            ema.update(dev, params, hyper.update);
        }
    }

    fn update_unit<T: crate::device::Elem<Acc = f32>>(
        &mut self,
        dev: &Device,
        i: usize,
        unit: &mut Unit,
        hyper: Hyper,
    ) {
        let start = unit.slice.start;
        // At stage 3 of ZeRO only the master is here, and it is rounded when it is gathered.
        let Unit { weights, master, grads, part_grads, part, params, .. } = unit;
        let (grads, first) = reduced(grads, part_grads, part);
        let stored = weights.exists().then(|| Shared::new(weights.data_mut::<T>()));
        let master = master.exists().then(|| Shared::new(master.data_mut::<f32>()));
        let moments = self.moments.get_mut(i).map(Moments::new);
        let (spans, t) = (&self.ranges[i], self.t);
        dev.pool().run(spans.len(), |n| {
            let Span { range, weight_decay, lr_scale, param } = &spans[n];
            let local = range.start - start..range.end - start;
            let (lr, scale) = ((hyper.lr * lr_scale) as f32, hyper.grad_scale as f32);
            // SAFETY: spans do not overlap.
            let stored = stored.as_ref().map(|s| unsafe { s.part(range.clone()) });
            // SAFETY: as above.
            let master = master.as_ref().map(|m| unsafe { m.part(local.clone()) });
            let mut w = match (master, stored) {
                (Some(master), Some(stored)) => Master::Apart(master, stored),
                (Some(master), None) => Master::Same(master),
                (None, Some(stored)) => Master::Same(bytemuck::cast_slice_mut::<T, f32>(stored)),
                (None, None) => return,
            };
            let g = &grads.data::<f32>()[range.start - first..range.end - first];
            let (kind, Some(moments)) = (&self.kind, &moments) else {
                return sgd(lr, *weight_decay as f32, scale, g, w);
            };
            let (OptimKind::AdamW { betas: [beta1, beta2], eps, .. }
            | OptimKind::Adam { betas: [beta1, beta2], eps, .. }) = kind
            else {
                return;
            };
            let step = AdamStep {
                lr,
                beta1: *beta1 as f32,
                beta2: *beta2 as f32,
                eps: *eps as f32,
                weight_decay: *weight_decay as f32,
                correction1: (1.0 - beta1.powi(t as i32)) as f32,
                correction2: (1.0 - beta2.powi(t as i32)).sqrt() as f32,
                scale,
            };
            let adam =
                if matches!(kind, OptimKind::Adam { .. }) { adam::<T, true> } else { adam::<T, false> };
            match moments {
                // SAFETY: as above.
                Moments::F32(m, v) => unsafe { adam(step, g, m.part(local.clone()), v.part(local), w) },
                Moments::Bf16(m, v) => {
                    let p = &params[*param];
                    let stream = Philox::new(0, &format!("moments/{}", p.spec.name));
                    for (run, index) in runs(p, range.clone()) {
                        let local = run.start - start..run.end - start;
                        // SAFETY: as above.
                        let (m, v) = unsafe { (m.part(local.clone()), v.part(local)) };
                        let at = run.start - range.start;
                        widened(&stream, index, hyper.update, m, v, |r, m, v| {
                            let r = at + r.start..at + r.end;
                            adam(step, &g[r.clone()], m, v, w.cut(r));
                        });
                    }
                }
            }
        });
    }
}

/// The moments of a unit, written by several tasks.
enum Moments<'a> {
    F32(Shared<'a, f32>, Shared<'a, f32>),
    Bf16(Shared<'a, bf16>, Shared<'a, bf16>),
}

impl<'a> Moments<'a> {
    fn new([m, v]: &'a mut [Tensor; 2]) -> Moments<'a> {
        match m.dtype() {
            DType::Bf16 => Moments::Bf16(Shared::new(m.data_mut()), Shared::new(v.data_mut())),
            _ => Moments::F32(Shared::new(m.data_mut()), Shared::new(v.data_mut())),
        }
    }
}

/// The tensors of a unit cut to its slice and to tasks; a matching group changes decay and learning rate.
fn spans(config: &OptimConfig, unit: &Unit) -> Vec<Span> {
    let mut spans = vec![];
    for (param, p) in unit.params.iter().enumerate() {
        let (weight_decay, lr_scale) = config.for_name(&p.spec.name);
        let own = p.range().start.max(unit.slice.start)..p.range().end.min(unit.slice.end);
        for start in (own.start..own.end).step_by(GRAIN) {
            spans.push(Span { range: start..(start + GRAIN).min(own.end), weight_decay, lr_scale, param });
        }
    }
    spans
}
