//! Evaluations of a run, which a signal may cut short: then the run makes them when it goes on.

use super::council;
use super::evaluate::{self, EvalResult};
use super::position::Position;
use super::replica::Replica;
use super::run::Rank;
use crate::config::{EvalWeights, PhaseConfig};
use crate::data::HeldOut;
use crate::{Error, Result, signal};
use serde_json::json;
use std::time::Instant;

/// The event of an evaluation that was due and not made.
pub(super) const OWED: &str = "evaluation_owed";

impl Rank<'_> {
    /// False if a signal cut it short. Collective.
    pub(super) fn evaluate(&mut self, phase: &PhaseConfig, held: &[HeldOut]) -> Result<bool> {
        self.last_eval = Instant::now();
        if held.is_empty() {
            return Ok(true);
        }
        // An evaluation has sizes of its own; its buffers and those of training would both stay.
        let arena = self.replica.dev.arena().clone();
        arena.trim();
        let (rows, update) = (evaluate::batch_rows(phase.seq_len), self.position.update);
        let stop = &signal::asked_to_stop;
        let all = |r: &mut Replica| held.iter().map(|h| evaluate::run(r, h, rows, update, stop)).collect();
        let results = evaluate::with_weights(&mut self.replica, phase, all);
        arena.trim();
        let results: Vec<EvalResult> = match results {
            Err(Error::Stopped { .. }) => return Ok(false),
            results => results?,
        };
        if !self.compare_with_teacher(phase, held, &results)? {
            return Ok(false);
        }
        let weights = phase.eval.as_ref().map_or(EvalWeights::Trained, |e| e.weights);
        for (h, result) in held.iter().zip(results) {
            let EvalResult { nll_token, bits_byte, tokens } = result;
            let all = if h.domain().holdout < 1.0 { ":heldout" } else { "" };
            let corpus = format!("{}{all}", h.domain().name);
            self.row("eval", || {
                json!({
                    "corpus": corpus, "nll_token": nll_token, "bits_byte": bits_byte, "tokens": tokens,
                    "weights": weights.name(),
                })
            });
            if let Some(p) = &self.progress {
                let averaged = if weights == EvalWeights::Ema { " by the average" } else { "" };
                p.eval(self.position.update, &format!("{corpus}{averaged}"), &result);
            }
        }
        Ok(true)
    }

    /// What an earlier attempt was stopped before or in.
    pub(super) fn owed_evaluation(&mut self) -> Result<()> {
        let owed = self.metrics.as_ref().is_some_and(|m| m.owed() == Some(self.position.update));
        if !council::any(&self.replica.dev, self.replica.mesh.world.as_ref(), owed, "owed evaluation")? {
            return Ok(());
        }
        let here = self.position;
        // The beginning of a phase is the end of the one before, which the evaluation belongs to.
        let index = if here.phase_step == 0 { here.phase.saturating_sub(1) } else { here.phase };
        let Some(phase) = self.config.phases.get(index) else { return Ok(()) };
        let held = evaluate::held_out(self.domains, phase)?;
        self.position = Position { phase: index, ..here };
        let taught = !self.numbers.passed_teacher;
        let made = self.evaluate(phase, &held)?;
        if taught && self.numbers.passed_teacher {
            // It will not be owed again.
            self.position = here;
            self.save(phase, false)?;
        }
        if !made {
            self.event(OWED, "the evaluation was cut short again");
            return self.stop(phase);
        }
        self.position = here;
        Ok(())
    }
}
