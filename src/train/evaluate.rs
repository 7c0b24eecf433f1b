//! Loss on text that is not trained on: mean nats per token and, where the tokenizer's bytes are known, bits per byte.

use super::council;
use super::replica::Replica;
use super::step::{MicroBatch, evaluate};
use crate::comm::Reduce;
use crate::config::{EvalTarget, EvalWeights, PhaseConfig};
use crate::data::{Domain, HeldOut};
use crate::device::{Category, DType};
use crate::tape::At;
use crate::tensor::Tensor;
use crate::{Error, Result};

#[derive(Clone, Debug)]
pub struct EvalResult {
    pub nll_token: f64,
    pub bits_byte: Option<f64>,
    pub tokens: u64,
}

/// What a phase evaluates on, in the order of the run file.
pub fn held_out(domains: &[Domain], phase: &PhaseConfig) -> Result<Vec<HeldOut>> {
    let Some(eval) = &phase.eval else { return Ok(vec![]) };
    let of = |target: &EvalTarget| {
        let domain = domains.iter().find(|d| d.name == target.corpus);
        let mut domain = domain.expect("the run file was checked").clone();
        if !target.heldout {
            domain.holdout = 1.0; // all of it
        }
        HeldOut::new(&domain, phase.seq_len, eval.tokens)
    };
    eval.on.iter().map(of).collect()
}

/// Calls f with the weights on which the phase evaluates. Collective over dp.
pub fn with_weights<R>(
    r: &mut Replica,
    phase: &PhaseConfig,
    f: impl FnOnce(&mut Replica) -> Result<R>,
) -> Result<R> {
    match phase.eval.as_ref().map(|e| e.weights) {
        Some(EvalWeights::Ema) => r.with_average(f),
        Some(EvalWeights::Trained) | None => f(r),
    }
}

/// Rows of a batch: enough tokens for matrix products to be efficient.
pub fn batch_rows(seq_len: usize) -> usize {
    (8192 / seq_len).max(1)
}

/// Batches of `rows` are dealt to the dp ranks in turn. Collective over all ranks. Error `Stopped` on all of them when
/// `stop` says so on one, asked before each batch.
pub fn run(
    r: &mut Replica,
    held: &HeldOut,
    rows: usize,
    step: u64,
    stop: &dyn Fn() -> bool,
) -> Result<EvalResult> {
    let (dp, tp) = (r.mesh.dp.clone(), r.mesh.tp.clone());
    let batches = held.rows().div_ceil(rows);
    // Some ranks have a batch more than others, so a forward must not wait for weights that others bring, or (ZeRO 3)
    // every rank must run as many: without a batch of its own it runs the first, which does not count.
    r.flow.settle(&mut r.params)?;
    let ends = if r.flow.zero == 3 { batches.next_multiple_of(dp.size()) } else { batches };
    let world = r.mesh.world.clone();
    // Sums by batch, so that the total does not depend on who had which.
    let mut sums = Tensor::zeros(&r.dev, batches, 2, DType::F64, Category::Comm);
    for first in (0..ends).step_by(dp.size()) {
        if council::any(&r.dev, world.as_ref(), stop(), "stop")? {
            return Err(Error::Stopped { what: "the evaluation".into() });
        }
        let i = first + dp.rank();
        let counts = i < batches;
        if i >= ends {
            continue;
        }
        let batch = MicroBatch::from(held.batch(if counts { i * rows } else { 0 }, rows)?);
        let nll = evaluate(r, &batch, At { step, layer: 0 })?;
        if counts && tp.rank() == 0 {
            let weighted = batch.weights.iter().zip(&nll).map(|(w, l)| *w as f64 * *l as f64);
            sums.data_mut::<f64>()[2 * i] = weighted.sum();
            sums.data_mut::<f64>()[2 * i + 1] = batch.weights.iter().map(|w| *w as f64).sum();
        }
    }
    let sums = r.mesh.world.all_reduce(sums, Reduce::Sum, "evaluation")?.wait()?;
    let (nll, weight) = sums.data::<f64>().chunks(2).fold((0.0, 0.0), |(a, b), s| (a + s[0], b + s[1]));
    let bits_byte = held.bytes().map(|bytes| nll / std::f64::consts::LN_2 / bytes as f64);
    Ok(EvalResult { nll_token: nll / weight, bits_byte, tokens: weight as u64 })
}
