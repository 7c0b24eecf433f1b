//! One update, on one page: forward and backward through the units of the network, micro-batch by micro-batch. `flow`
//! (ZeRO, `params/flow.rs`) brings the weights of each unit just in time and reduces its gradients as soon as they are
//! complete. Then masks, norm, clip, optimizer, and the new weights are on their way to the next forward. Up to the fence before
//! the optimizer a checkpoint may be written from what the replica holds.

use super::numbers::{self, Fault};
use super::replica::Replica;
use super::vote::{Ballot, Vote};
use crate::Result;
use crate::ops::distill::Sums;
use crate::ops::loss::Targets;
use crate::optim::{Hyper, norm::part_square_sum};
use crate::tape::{At, Cx, Grads, Seq, Tape, Var, Weights};
use crate::tensor::Tensor;

/// A micro-batch of this rank: what the model sees and what it is to predict.
pub struct MicroBatch {
    pub seq: Seq,
    /// (N) next token, or the masked one
    pub targets: Vec<u32>,
    /// (N) 0 where there is nothing to predict
    pub weights: Vec<f32>,
    /// (rows) index into the domains of the phase
    pub domains: Vec<u16>,
}

/// What the terms of a micro-batch's loss are multiplied by.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// 1/Z
    pub scale: f64,
    /// Coefficient of the z term; 0 leaves it out.
    pub z: f64,
    /// ω, the share of the loss that is the teacher's; at 0 it is not asked.
    pub teacher: f64,
}

impl Terms {
    /// The mean cross-entropy alone.
    pub fn ce(scale: f64) -> Terms {
        Terms { scale, z: 0.0, teacher: 0.0 }
    }
}

/// What the targets of a micro-batch cost.
pub struct Losses {
    /// (N) −log p
    pub nll: Vec<f32>,
    pub sums: Sums,
}

/// What an update needs to know besides its data.
pub struct Update {
    pub step: u64,
    pub lr: f64,
    /// Largest gradient norm.
    pub clip: Option<f64>,
    /// Z: sum of all target weights of the update, over all ranks and micro-batches; the vote of the step before
    /// announced it.
    pub weight_sum: f64,
    /// Coefficient of the z term.
    pub z_loss: f64,
    /// ω, the teacher's share of the loss.
    pub teacher: f64,
}

/// What an update did, the same on every rank.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What is minimised: (1 − ω)·ce + ω·kd + z.
    pub loss: f64,
    /// Cross-entropy, mean over all targets of the update, nats.
    pub ce: f64,
    /// The z term, its coefficient included.
    pub z: f64,
    /// How far from the teacher, mean over all targets of the update.
    pub kd: f64,
    pub grad_norm: f64,
    /// Factor that the clip put on the gradients.
    pub clip: f64,
    pub vote: Vote,
    /// Why the update was not made: weights, moments and t are as before.
    pub fault: Option<Fault>,
}

/// One tape per unit, in the order of the forward, with the unit's input (none for the embedding) and output.
type Tapes = Vec<(Tape, Option<Var>, Var)>;

/// Trains on the micro-batches of one update. Collective over all ranks; `ballot` carries what this rank has to say. Error
/// `Numerics`, with nothing updated, if the loss or the gradient norm is not finite.
pub fn step(r: &mut Replica, batches: &[MicroBatch], update: &Update, ballot: Ballot) -> Result<Outcome> {
    let judge = |loss, norm| numbers::finite(loss, norm).err().map(|what| Fault { what, stops: true });
    let outcome = step_unless(r, batches, update, ballot, judge)?;
    match outcome.fault {
        Some(fault) => Err(numbers::error(update.step, fault.what)),
        None => Ok(outcome),
    }
}

/// The same, but that no update is made where `judge` finds a fault in its loss and gradient norm.
pub fn step_unless(
    r: &mut Replica,
    batches: &[MicroBatch],
    update: &Update,
    mut ballot: Ballot,
    judge: impl FnOnce(f64, f64) -> Option<Fault>,
) -> Result<Outcome> {
    r.params.zero_grads(&r.dev);
    for (i, batch) in batches.iter().enumerate() {
        let last = i + 1 == batches.len();
        let at = At { step: update.step, layer: 0 };
        let terms = Terms { scale: 1.0 / update.weight_sum, z: update.z_loss, teacher: update.teacher };
        let losses = forward_backward(r, batch, at, terms, last)?;
        ballot.add_losses(batch, &losses, r.mesh.tp.rank() == 0);
    }
    r.flow.finish(&r.dev, &mut r.params)?;
    if let Some(masks) = &r.masks {
        masks.grads(&r.dev, &mut r.params);
    }
    // What replicas have in common is counted once.
    if r.mesh.replicate.rank() == 0 {
        ballot.square_sum = part_square_sum(&r.dev, &r.params);
    }
    ballot.writing = r.saving.as_ref().is_some_and(|saving| !saving.is_written());
    let vote = ballot.cast(&r.dev, &r.mesh)?;

    let mean = |sum: f64| sum / update.weight_sum;
    let (ce, kd, z) = (mean(vote.loss_sum), mean(vote.kd_sum), update.z_loss * mean(vote.z_sum));
    let (own, grad_norm) = (ce + z, vote.square_sum.sqrt());
    let loss = if update.teacher == 0.0 { own } else { own + update.teacher * (kd - ce) };
    // The teacher's share may change from one update to the next, and the loss with it: no spike.
    let fault = judge(if loss.is_finite() { own } else { loss }, grad_norm);
    if fault.is_some() {
        // The weights that were brought for this update stay, or are brought again.
        return Ok(Outcome { loss, ce, z, kd, grad_norm, clip: 0.0, vote, fault });
    }
    // As torch.nn.utils.clip_grad_norm_ has it.
    let clip = update.clip.map_or(1.0, |most| (most / (grad_norm + 1e-6)).min(1.0));
    let hyper = Hyper { lr: update.lr, grad_scale: clip, update: update.step };
    r.fence();
    r.optim.update(&r.dev, &mut r.params, hyper)?;
    r.flow.updated(&mut r.params)?;
    Ok(Outcome { loss, ce, z, kd, grad_norm, clip, vote, fault })
}

/// Adds the gradients of one micro-batch; returns its losses. After the `last` of an update the gradients are complete:
/// the reduction of each unit's starts before the backward of the next, and `flow.finish` waits for them.
/// (Thread ranks do the work where they wait; a communicator with progress of its own does it meanwhile.)
pub fn forward_backward(
    r: &mut Replica,
    batch: &MicroBatch,
    at: At,
    terms: Terms,
    last: bool,
) -> Result<Losses> {
    // Before there are tapes: what it needs and they need need not be there at once.
    let mut teacher = if terms.teacher > 0.0 { r.teacher.take() } else { None };
    let of_teacher = teacher.as_mut().map(|t| t.forward(&batch.seq, at)).transpose()?;
    let (mut tapes, h) = forward(r, &batch.seq, at, true)?;
    let mut nll = vec![0.0; batch.seq.len()];
    let targets = Targets { ids: &batch.targets, weights: &batch.weights, scale: terms.scale, z: terms.z };
    let Replica { dev, mesh, net, params, .. } = &mut *r;
    for unit in net.loss_units() {
        params.units[unit].open_grads(dev);
    }
    let taught = teacher.as_ref().zip(of_teacher.as_ref()).map(|(t, h)| t.taught(h, terms.teacher));
    let (mut dy, sums) =
        net.head.loss(dev, mesh.tp.as_ref(), params, &net.embed, &h, targets, taught, &mut nll, true)?;
    drop((h, of_teacher));
    if let Some(mut teacher) = teacher {
        teacher.release();
        r.teacher = Some(teacher);
    }
    let Replica { dev, mesh, net, params, flow, .. } = &mut *r;
    flow.release(params, 0);
    for unit in (0..tapes.len()).rev() {
        let (mut tape, x, y) = tapes.pop().expect("one tape for each unit");
        if net.backward_reads(unit) {
            flow.ready(dev, params, unit)?;
        }
        if unit > 0 && net.backward_reads(unit - 1) {
            flow.fetch(dev, params, unit - 1)?;
        }
        let u = &mut params.units[unit];
        u.open_grads(dev);
        let at = At { layer: unit, ..at };
        let cx = Cx { dev, tp: mesh.tp.as_ref(), w: Weights(&u.weights), seq: &batch.seq, at, past: None };
        dy = tape.backward(&cx, &mut Grads(&mut u.grads), y, dy, x)?;
        flow.release(params, unit);
        flow.reduce(dev, params, unit, last)?;
    }
    Ok(Losses { nll, sums })
}

/// Through all units: their tapes, sealed (empty unless `train`), and what the head's projection reads (N, C), or with
/// sequence parallelism, which is for `train` alone, this rank's (N/R, C). The weights that the loss reads are here
/// after it.
pub fn forward(r: &mut Replica, seq: &Seq, at: At, train: bool) -> Result<(Tapes, Tensor)> {
    let Replica { dev, mesh, net, params, flow, recompute, sequence_parallel, .. } = r;
    let units = params.units.len();
    let mut tapes = Tapes::with_capacity(units);
    let mut x = Tensor::default();
    for unit in 0..units {
        flow.ready(dev, params, unit)?;
        if unit + 1 < units {
            flow.fetch(dev, params, unit + 1)?;
        }
        let at = At { layer: unit, ..at };
        let w = Weights(&params.units[unit].weights);
        let cx = Cx { dev, tp: mesh.tp.as_ref(), w, seq, at, past: None };
        let mut tape = Tape::default();
        let input = (unit > 0).then(|| tape.input(std::mem::take(&mut x)));
        let y = match input {
            None => net.embed.forward(&mut tape, &cx, *sequence_parallel && train)?,
            Some(x) if unit <= net.blocks.len() => net.blocks[unit - 1].forward(&mut tape, &cx, x)?,
            Some(x) => net.head.forward(&mut tape, &cx, x)?,
        };
        x = tape.value(y).clone();
        tape.seal(*recompute);
        if train {
            tapes.push((tape, input, y));
        }
        if !net.loss_units().contains(&unit) {
            flow.release(params, unit);
        }
    }
    Ok((tapes, x))
}

/// −log p of each target (N), without gradients. Collective over tp.
pub fn evaluate(r: &mut Replica, batch: &MicroBatch, at: At) -> Result<Vec<f32>> {
    let (_, h) = forward(r, &batch.seq, at, false)?;
    let mut nll = vec![0.0; batch.seq.len()];
    let targets = Targets { ids: &batch.targets, weights: &batch.weights, scale: 0.0, z: 0.0 };
    let Replica { dev, mesh, net, params, flow, .. } = r;
    net.head.loss(dev, mesh.tp.as_ref(), params, &net.embed, &h, targets, None, &mut nll, false)?;
    for unit in net.loss_units() {
        flow.release(params, unit);
    }
    Ok(nll)
}
