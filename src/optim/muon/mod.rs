//! Muon: momentum, made orthogonal, for the matrices of blocks (K. Jordan et al. 2024; for language models arXiv 2502.16982).
//!
//!     m ← βm + (1−β)g
//!     u = (1−β)g + βm (Nesterov), or m
//!     w ← w·(1 − lr·λ) − lr · adjust(rows, cols) · orthogonal(u)
//!
//! As torch.optim.Muon has it; with sums m ← βm + g the directions are the same, since u is divided by its norm.
//! State is slices, as of any optimizer. u goes to the owner of its matrix (`owners`), who computes as one rank alone
//! would, and the result comes back in slices: so its bits depend on u only, and not on the ranks.

pub mod newton_schulz;
mod owners;

use super::Hyper;
use super::adamw::sgd;
use super::moments::widened_one;
use super::trained::Trained;
use crate::Result;
use crate::comm::{Comm, Solo};
use crate::config::{MuonConfig, OptimConfig, OptimKind};
use crate::device::{Category, DType, Device, Elem, Shared, simd};
use crate::params::{LocalBox, Params, Unit, reduced};
use crate::rng::Philox;
use crate::tape::{Cost, profile};
use crate::tensor::Tensor;
use half::bf16;
use newton_schulz::{GRAIN, Work, flops};
use owners::{Matrix, Place, Round, rounds};
use std::ops::Range;
use std::sync::Arc;

/// The ranks that hold the model once.
#[derive(Clone)]
pub struct Ranks {
    pub shard: Arc<dyn Comm>,
    pub tp: Arc<dyn Comm>,
    /// Stage of ZeRO.
    pub zero: u8,
}

impl Ranks {
    /// One that holds everything.
    pub fn solo() -> Ranks {
        Ranks { shard: Arc::new(Solo::new()), tp: Arc::new(Solo::new()), zero: 0 }
    }
}

pub struct Muon {
    rule: MuonConfig,
    ranks: Ranks,
    place: Place,
    rounds: Vec<Round>,
    /// Of each matrix of each round, decay and learning-rate factor (with `adjust`, apart).
    settings: Vec<Vec<Settings>>,
    /// Values of the largest matrix, and the longest short side.
    largest: (usize, usize),
}

#[derive(Clone, Copy)]
struct Settings {
    weight_decay: f64,
    lr_scale: f64,
    adjust: f64,
}

impl Muon {
    /// None if another optimizer is configured.
    pub fn new(config: &OptimConfig, params: &Params, ranks: &Ranks) -> Option<Muon> {
        let OptimKind::Muon(rule) = config.kind else { return None };
        let of = |c: &Arc<dyn Comm>| (c.rank(), c.size());
        let place = Place { shard: of(&ranks.shard), tp: of(&ranks.tp), sliced: ranks.zero >= 1 };
        let rounds = rounds(params, place);
        let all = || rounds.iter().flat_map(|r| &r.matrices);
        let largest = (
            all().map(|m| m.rows * m.cols).max().unwrap_or(0),
            all().map(|m| m.rows.min(m.cols)).max().unwrap_or(0),
        );
        let settings = |m: &Matrix| {
            let name = &params.units[m.unit].params[m.param].spec.name;
            let (weight_decay, lr_scale) = config.for_name(name);
            Settings { weight_decay, lr_scale, adjust: rule.adjust.factor(m.rows, m.cols) }
        };
        let settings = rounds.iter().map(|r| r.matrices.iter().map(settings).collect()).collect();
        Some(Muon { rule, ranks: ranks.clone(), place, rounds, settings, largest })
    }

    /// One update of this rank's slices of all matrices. `moments` has the momentum of each unit first. Collective over
    /// the shard group and tp.
    pub fn update(
        &self,
        dev: &Device,
        params: &mut Params,
        moments: &mut [[Tensor; 2]],
        hyper: Hyper,
    ) -> Result<()> {
        let mut work = Work::new(dev, self.largest.0, self.largest.1);
        for (round, settings) in self.rounds.iter().zip(&self.settings) {
            let boxes = self.bring(dev, params, moments, round, hyper)?;
            let boxes = self.orthogonalise(dev, round, boxes, &mut work)?;
            self.spread(dev, params, round, settings, boxes, hyper)?;
        }
        Ok(())
    }

    /// Whether slices move over the shard group.
    fn over_shard(&self) -> bool {
        self.place.shard.1 > 1 && self.place.sliced
    }

    /// u of this rank's slices, and then of its boxes of the matrices whose owner is in its column.
    fn bring(
        &self,
        dev: &Device,
        params: &Params,
        moments: &mut [[Tensor; 2]],
        round: &Round,
        hyper: Hyper,
    ) -> Result<Tensor> {
        let buffer = |len| Tensor::empty(dev, 1, len, DType::F32, Category::Comm);
        let (outer, inner) = (self.place.shard.1 * round.shard_slot, self.place.tp.1 * round.tp_slot);
        let mut u = buffer(if self.over_shard() { outer } else { inner });
        let values: usize = round.matrices.iter().map(|m| m.own.len()).sum();
        let all = || {
            for m in &round.matrices {
                self.average(dev, &params.units[m.unit], &mut moments[m.unit][0], m, &mut u, hyper);
            }
        };
        profile::time(|| profile::pass("Momentum", 16 * values), all);
        if !self.over_shard() {
            return Ok(u);
        }
        let u = self.ranks.shard.all_to_all(u, "momentum")?.wait()?;
        let mut boxes = buffer(inner);
        if !dev.is_meta() {
            let (from, to) = (u.data::<f32>(), boxes.data_mut::<f32>());
            for c in &round.copies {
                to[c.inner..c.inner + c.len].copy_from_slice(&from[c.outer..c.outer + c.len]);
            }
        }
        Ok(boxes)
    }

    /// m and u of this rank's slice of a matrix; u where it is to go, if it goes anywhere.
    fn average(
        &self,
        dev: &Device,
        unit: &Unit,
        momentum: &mut Tensor,
        matrix: &Matrix,
        u: &mut Tensor,
        hyper: Hyper,
    ) {
        let own = &matrix.own;
        if dev.is_meta() || own.is_empty() {
            return;
        }
        let (grads, first) = reduced(&unit.grads, &unit.part_grads, &unit.part);
        let g = &grads.data::<f32>()[own.start - first..own.end - first];
        let u = matrix.at.map(|at| Shared::new(&mut u.data_mut::<f32>()[at..at + own.len()]));
        let held = own.start - unit.slice.start..own.end - unit.slice.start;
        let average = Average {
            beta: self.rule.momentum as f32,
            nesterov: self.rule.nesterov,
            scale: hyper.grad_scale as f32,
        };
        let part = |r: Range<usize>| {
            // SAFETY: ranges of different tasks are disjoint.
            u.as_ref().map(|u| unsafe { u.part(r) })
        };
        if momentum.dtype() == DType::F32 {
            let m = Shared::new(&mut momentum.data_mut::<f32>()[held]);
            dev.pool().ranges(own.len(), GRAIN, |r| {
                // SAFETY: as above.
                let m = unsafe { m.part(r.clone()) };
                average.step(&g[r.clone()], m, part(r));
            });
            return;
        }
        let p = &unit.params[matrix.param];
        let stream = Philox::new(0, &format!("moments/{}", p.spec.name));
        let m = Shared::new(&mut momentum.data_mut::<bf16>()[held]);
        dev.pool().ranges(own.len(), GRAIN, |r| {
            for (run, index) in p.runs(own.start + r.start..own.start + r.end) {
                let run = run.start - own.start..run.end - own.start;
                // SAFETY: as above.
                let m = unsafe { m.part(run.clone()) };
                widened_one(&stream, index, hyper.update, m, |r, m| {
                    let r = run.start + r.start..run.start + r.end;
                    average.step(&g[r.clone()], m, part(r));
                });
            }
        });
    }

    /// The matrices that this rank owns; its boxes of all that have their owner in its column come back.
    fn orthogonalise(
        &self,
        dev: &Device,
        round: &Round,
        mut boxes: Tensor,
        work: &mut Work,
    ) -> Result<Tensor> {
        let tp = (self.place.tp.1 > 1).then_some(&self.ranks.tp);
        if let Some(tp) = tp {
            boxes = tp.all_to_all(boxes, "momentum")?.wait()?;
        }
        let me = (self.place.shard.0, self.place.tp.0);
        let steps = self.rule.steps;
        for m in round.matrices.iter().filter(|m| m.owner == me && !dev.is_meta()) {
            let Matrix { rows, cols, .. } = *m;
            let values = boxes.data_mut::<f32>();
            let cost = Cost { flops: flops(rows, cols, steps), bytes: (8 * steps * rows * cols) as f64 };
            profile::time(
                || ("Newton-Schulz".into(), cost),
                || {
                    let x = work.matrix(rows, cols);
                    for (b, at, _) in m.boxes.iter().filter(|b| b.2) {
                        each_row(b, cols, |own, whole| {
                            x[whole].copy_from_slice(&values[at + own.start..at + own.end]);
                        });
                    }
                    work.orthogonalise(dev.pool(), rows, cols, steps);
                    let x = work.matrix(rows, cols);
                    for (b, at, _) in &m.boxes {
                        each_row(b, cols, |own, whole| {
                            values[at + own.start..at + own.end].copy_from_slice(&x[whole]);
                        });
                    }
                },
            );
        }
        match tp {
            Some(tp) => tp.all_to_all(boxes, "orthogonal momentum")?.wait(),
            None => Ok(boxes),
        }
    }

    /// What came of u, back to the slices it came from, and the update.
    fn spread(
        &self,
        dev: &Device,
        params: &mut Params,
        round: &Round,
        settings: &[Settings],
        boxes: Tensor,
        hyper: Hyper,
    ) -> Result<()> {
        let shard = &self.ranks.shard;
        let all = round.matrices.iter().zip(settings);
        if self.over_shard() {
            let outer = self.place.shard.1 * round.shard_slot;
            let mut back = Tensor::empty(dev, 1, outer, DType::F32, Category::Comm);
            if !dev.is_meta() {
                let (from, to) = (boxes.data::<f32>(), back.data_mut::<f32>());
                for c in &round.copies {
                    to[c.outer..c.outer + c.len].copy_from_slice(&from[c.inner..c.inner + c.len]);
                }
            }
            drop(boxes);
            let back = shard.all_to_all(back, "orthogonal momentum")?.wait()?;
            all.for_each(|(m, s)| apply(dev, &mut params.units[m.unit], m, s, (&back, m.at), hyper));
        } else if self.place.shard.1 == 1 {
            all.for_each(|(m, s)| apply(dev, &mut params.units[m.unit], m, s, (&boxes, m.at), hyper));
        } else {
            // Without ZeRO every rank of the group updates all of the matrix.
            for (m, s) in all {
                let mut o = Tensor::empty(dev, 1, m.most, DType::F32, Category::Comm);
                if let (false, Some(at)) = (dev.is_meta(), m.box_at) {
                    let n = m.own.len();
                    o.data_mut::<f32>()[..n].copy_from_slice(&boxes.data::<f32>()[at..at + n]);
                }
                let o = shard.broadcast(o, m.owner.0, "orthogonal momentum")?.wait()?;
                apply(dev, &mut params.units[m.unit], m, s, (&o, Some(0)), hyper);
            }
        }
        Ok(())
    }
}

/// Rows of a box, in the box and in the whole matrix of `cols` columns; whole rows at once.
fn each_row(b: &LocalBox, cols: usize, mut f: impl FnMut(Range<usize>, Range<usize>)) {
    let (rows, width) = if b.cols == cols { (1, b.rows * cols) } else { (b.rows, b.cols) };
    for row in 0..rows {
        let whole = (b.row + row) * cols + b.col;
        f(row * width..(row + 1) * width, whole..whole + width);
    }
}

/// m and u of a range.
#[derive(Clone, Copy)]
struct Average {
    beta: f32,
    nesterov: bool,
    /// Of the gradient: the clip.
    scale: f32,
}

impl Average {
    fn step(self, g: &[f32], m: &mut [f32], u: Option<&mut [f32]>) {
        let new = (1.0 - self.beta) * self.scale;
        simd(
            #[inline(always)]
            || {
                m.iter_mut().zip(g).for_each(|(m, g)| *m = self.beta.mul_add(*m, new * g));
                match u {
                    Some(u) if self.nesterov => {
                        let all = u.iter_mut().zip(m).zip(g);
                        all.for_each(|((u, m), g)| *u = self.beta.mul_add(*m, new * g));
                    }
                    Some(u) => u.copy_from_slice(m),
                    None => {}
                }
            },
        );
    }
}

/// w ← w·(1 − lr·λ) − lr · adjust · o on this rank's slice of a matrix; o lies at an element of a buffer.
fn apply(
    dev: &Device,
    unit: &mut Unit,
    matrix: &Matrix,
    settings: &Settings,
    (o, at): (&Tensor, Option<usize>),
    hyper: Hyper,
) {
    fn run<T: Elem<Acc = f32>>(
        dev: &Device,
        unit: &mut Unit,
        own: &Range<usize>,
        o: &[f32],
        s: &Settings,
        lr: f64,
    ) {
        let Unit { weights, master, slice, .. } = unit;
        let trained = Trained::<T>::new(weights, master, slice);
        let (lr, decay, adjust) = ((lr * s.lr_scale) as f32, s.weight_decay as f32, s.adjust as f32);
        dev.pool().ranges(own.len(), GRAIN, |r| {
            // SAFETY: ranges of different tasks are disjoint.
            let w = unsafe { trained.part(own.start + r.start..own.start + r.end) };
            sgd::<T>(lr, decay, adjust, &o[r], w);
        });
    }
    let own = &matrix.own;
    let Some(at) = at.filter(|_| !dev.is_meta() && !own.is_empty()) else { return };
    let o = &o.data::<f32>()[at..at + own.len()];
    match unit.dtype {
        DType::Bf16 => run::<bf16>(dev, unit, own, o, settings, hyper.lr),
        _ => run::<f32>(dev, unit, own, o, settings, hyper.lr),
    }
}
