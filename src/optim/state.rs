//! The state of an optimizer, always slices: moments of the elements that this rank updates, and its step counter t.

use super::adamw::{AdamStep, adam, sgd};
use super::ema::Ema;
use super::moments::widened;
use super::muon::{Muon, Ranks};
use super::trained::Trained;
use crate::Result;
use crate::config::{OptimConfig, OptimKind, Precision, is_matrix_of_block};
use crate::device::{Category, DType, Device, Shared};
use crate::params::{Params, Placed, Unit, reduced};
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

/// One of the moments of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// m; of Muon's matrices the momentum.
    First,
    /// v
    Second,
}

pub struct Optimizer {
    kind: OptimKind,
    /// Updates made since the state was new.
    pub t: u64,
    /// First moments (1, slice) and second moments of each unit; empty for SGD. Second moments are (1, slice) too, but
    /// where some tensors have none those of the others follow one another.
    pub moments: Vec<[Tensor; 2]>,
    /// For each unit and tensor, for either moment: the element of the unit that value 0 would belong to if all that
    /// follow were of this tensor. None: it has no such moment here.
    begins: Vec<Vec<[Option<usize>; 2]>>,
    pub ema: Option<Ema>,
    /// For each unit: ranges with their decay and learning-rate factor, cut to tasks.
    ranges: Vec<Vec<Span>>,
    /// What updates the matrices of blocks in place of the ranges.
    muon: Option<Muon>,
}

#[derive(Clone, Debug)]
struct Span {
    range: Range<usize>,
    weight_decay: f64,
    lr_scale: f64,
    /// Index of the tensor in its unit.
    param: usize,
}

/// Adam of what is updated element by element.
struct Adam {
    betas: [f64; 2],
    eps: f64,
    coupled: bool,
}

fn adam_of(kind: &OptimKind) -> Option<(Adam, Precision)> {
    match *kind {
        OptimKind::AdamW { betas, eps, moments, .. } => Some((Adam { betas, eps, coupled: false }, moments)),
        OptimKind::Adam { betas, eps, moments, .. } => Some((Adam { betas, eps, coupled: true }, moments)),
        OptimKind::Muon(m) => {
            Some((Adam { betas: m.adamw.betas, eps: m.adamw.eps, coupled: false }, m.moments))
        }
        OptimKind::Sgd { .. } => None,
    }
}

impl Optimizer {
    /// `ranks` are those over which matrices are moved.
    pub fn new(dev: &Device, config: &OptimConfig, params: &Params, ranks: &Ranks) -> Optimizer {
        let muon = Muon::new(config, params, ranks);
        let (mut moments, mut begins) = (vec![], vec![]);
        for unit in &params.units {
            let Some((_, precision)) = adam_of(&config.kind) else { continue };
            let dtype = if precision == Precision::Bf16 { DType::Bf16 } else { DType::F32 };
            let zeros = |len| Tensor::zeros(dev, 1, len, dtype, Category::Optimizer);
            let (begin, len) = begin(unit, muon.is_some());
            moments.push([zeros(unit.slice.len()), zeros(len)]);
            begins.push(begin);
        }
        let ranges = params.units.iter().map(|u| spans(config, u, muon.is_some())).collect();
        let ema = config.ema.map(|decay| Ema::new(dev, decay, params));
        Optimizer { kind: config.kind, t: 0, moments, begins, ema, ranges, muon }
    }

    /// Where a moment of a tensor lies: values, and the element of the unit that the first of them would belong to.
    pub fn moment(&self, which: Moment, unit: usize, param: usize) -> Option<(&Tensor, usize)> {
        let begin = self.begins.get(unit)?[param][which as usize]?;
        Some((&self.moments[unit][which as usize], begin))
    }

    /// New moments, t = 0: for a phase that begins with `optimizer = "reset"`.
    pub fn reset(&mut self) {
        self.t = 0;
        for t in self.moments.iter_mut().flatten() {
            t.bytes_mut().fill(0);
        }
    }

    /// Gives up all memory; there is nothing to update any more.
    pub fn forget(&mut self) {
        self.moments.clear();
        self.ema = None;
    }

    /// First moments start at zero, second moments and t stay.
    pub fn reset_first_moments(&mut self) {
        self.moments.iter_mut().for_each(|[m, _]| m.bytes_mut().fill(0));
    }

    /// One update of this rank's slice of every unit. Collective over the ranks that matrices are moved over.
    pub fn update(&mut self, dev: &Device, params: &mut Params, hyper: Hyper) -> Result<()> {
        self.t += 1;
        if let Some(muon) = &self.muon {
            muon.update(dev, params, &mut self.moments, hyper)?;
        }
        if dev.is_meta() {
            return Ok(());
        }
        // Of AdamW in f32: g, m, v, w read, m, v, w written.
        let values = self.ranges.iter().flatten().map(|s| s.range.len());
        let bytes = 28 * values.sum::<usize>();
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
        Ok(())
    }

    fn update_unit<T: crate::device::Elem<Acc = f32>>(
        &mut self,
        dev: &Device,
        i: usize,
        unit: &mut Unit,
        hyper: Hyper,
    ) {
        let Unit { weights, master, grads, part_grads, part, params, slice, .. } = unit;
        let (grads, first) = reduced(grads, part_grads, part);
        let trained = Trained::<T>::new(weights, master, slice);
        let moments = self.moments.get_mut(i).map(Moments::new);
        let (spans, t, rule) = (&self.ranges[i], self.t, adam_of(&self.kind));
        let begins = self.begins.get(i);
        dev.pool().run(spans.len(), |n| {
            let Span { range, weight_decay, lr_scale, param } = &spans[n];
            let (lr, scale) = ((hyper.lr * lr_scale) as f32, hyper.grad_scale as f32);
            // SAFETY: spans do not overlap.
            let mut w = unsafe { trained.part(range.clone()) };
            let g = &grads.data::<f32>()[range.start - first..range.end - first];
            let (Some((rule, _)), Some(moments), Some([Some(m_begin), Some(v_begin)])) =
                (&rule, &moments, begins.map(|b| b[*param]))
            else {
                return sgd(lr, *weight_decay as f32, scale, g, w);
            };
            let [beta1, beta2] = rule.betas;
            let step = AdamStep {
                lr,
                beta1: beta1 as f32,
                beta2: beta2 as f32,
                eps: rule.eps as f32,
                weight_decay: *weight_decay as f32,
                correction1: (1.0 - beta1.powi(t as i32)) as f32,
                correction2: (1.0 - beta2.powi(t as i32)).sqrt() as f32,
                scale,
            };
            let adam = if rule.coupled { adam::<T, true> } else { adam::<T, false> };
            let of_m = |r: &Range<usize>| r.start - m_begin..r.end - m_begin;
            let of_v = |r: &Range<usize>| r.start - v_begin..r.end - v_begin;
            match moments {
                // SAFETY: as above.
                Moments::F32(m, v) => unsafe { adam(step, g, m.part(of_m(range)), v.part(of_v(range)), w) },
                Moments::Bf16(m, v) => {
                    let p = &params[*param];
                    let stream = Philox::new(0, &format!("moments/{}", p.spec.name));
                    for (run, index) in p.runs(range.clone()) {
                        // SAFETY: as above.
                        let (m, v) = unsafe { (m.part(of_m(&run)), v.part(of_v(&run))) };
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

/// Where the moments of each tensor begin, as `Optimizer::begins` says it, and for how many second moments there is room.
fn begin(unit: &Unit, muon: bool) -> (Vec<[Option<usize>; 2]>, usize) {
    let first = Some(unit.slice.start);
    if !muon {
        return (vec![[first; 2]; unit.params.len()], unit.slice.len());
    }
    let has = |p: &&Placed| !is_matrix_of_block(&p.spec.name);
    let mut len = 0;
    let mut second = |p: &Placed| {
        let own = p.within(&unit.slice);
        let begin = own.start - len;
        len += own.len();
        begin
    };
    let begins = unit.params.iter().map(|p| [first, Some(p).filter(has).map(&mut second)]).collect();
    // The most that any rank of the shard group has: then all need the same memory.
    let each = unit.slice.len();
    let of = |start| unit.params.iter().filter(has).map(|p| p.within(&(start..start + each)).len()).sum();
    (begins, (0..unit.len).step_by(each).map(of).max().unwrap_or(0))
}

/// The tensors of a unit cut to its slice and to tasks; a matching group changes decay and learning rate. With Muon not
/// its matrices.
fn spans(config: &OptimConfig, unit: &Unit, muon: bool) -> Vec<Span> {
    let mut spans = vec![];
    for (param, p) in unit.params.iter().enumerate() {
        if muon && is_matrix_of_block(&p.spec.name) {
            continue;
        }
        let (weight_decay, lr_scale) = config.for_name(&p.spec.name);
        let own = p.within(&unit.slice);
        for start in own.clone().step_by(GRAIN) {
            spans.push(Span { range: start..(start + GRAIN).min(own.end), weight_decay, lr_scale, param });
        }
    }
    spans
}
