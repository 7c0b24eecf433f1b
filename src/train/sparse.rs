//! The zeros of a phase of a run.

use super::run::Rank;
use crate::config::{ModelConfig, PhaseConfig, RunConfig, Spdf};
use crate::method::ledger;
use crate::model::Network;
use crate::{Error, Result};
use serde_json::{Value, json};

/// That the networks have the matrices that phases make sparse.
pub fn zeros_fit(config: &RunConfig) -> Result<()> {
    for (i, phase) in config.phases.iter().enumerate() {
        let specs = Network::specs(config.model_of(i));
        let shapes: Vec<_> = specs.iter().map(|s| (s.name.as_str(), s.rows, s.cols)).collect();
        if let Some((key, problem, remedy)) = phase.spdf.as_ref().and_then(|s| s.problem(&shapes)) {
            return Err(Error::config(&config.source_file, format!("phase.{i}.spdf.{key}"), problem, remedy));
        }
    }
    Ok(())
}

/// That ranks of tp hold whole lines of the blocks that phases store.
pub(super) fn blocks_fit(config: &RunConfig) -> Result<()> {
    for i in 0..config.phases.len() {
        let problem = |tp| of_blocks(config.model_of(i), config.blocks_of(i)?, tp);
        if let Some(problem) = [1, config.parallel.tp].into_iter().find_map(problem) {
            let key = format!("phase.{i}.spdf.pattern");
            let remedy = "take smaller blocks or a smaller parallel.tp, or leave it out with `match`";
            return Err(Error::config(&config.source_file, key, problem, remedy));
        }
    }
    Ok(())
}

/// Why ranks of tp cannot hold whole lines of the blocks that phases store. The models themselves can be split over them.
pub fn tp_problem(config: &RunConfig, tp: usize) -> Option<String> {
    (0..config.phases.len()).find_map(|i| of_blocks(config.model_of(i), config.blocks_of(i)?, tp))
}

/// Why the matrices of a model cannot be stored as these blocks.
pub fn misfit(model: &ModelConfig, spdf: &Spdf) -> Option<String> {
    of_blocks(model, spdf, 1)
}

fn of_blocks(model: &ModelConfig, spdf: &Spdf, tp: usize) -> Option<String> {
    let block = spdf.pattern.block()?;
    let specs = Network::specs(model);
    let mut own = specs.iter().filter(|spec| spdf.covers(&spec.name));
    own.find_map(|spec| spec.block_problem(block, tp))
}

impl Rank<'_> {
    /// Weights that are neither stored nor multiplied.
    pub(super) fn left_out(&self) -> u64 {
        self.replica.masks.as_ref().map_or(0, |masks| masks.about.left_out())
    }

    /// Before the first update of this attempt at a phase: its zeros, and what the row of the phase says of them. Error
    /// `Checkpoint`, if the run goes on within the phase and they were none. Collective.
    pub(super) fn sparsify(&mut self, phase: &PhaseConfig) -> Result<Value> {
        let cleared = self.replica.sparsify(phase.spdf.as_ref())?;
        if self.position.phase_step > 0 && cleared > 0 {
            let problem = format!("{cleared} values that phase {:?} keeps at zero are not zero", phase.name);
            let remedy =
                "go on with the program that wrote them, or start a new run with init = \"ckpt:PATH\"";
            return Err(Error::checkpoint(self.config.run.dir.join("ckpt"), problem, remedy));
        }
        let (Some(spdf), Some(masks)) = (&phase.spdf, &self.replica.masks) else { return Ok(Value::Null) };
        let about = &masks.about;
        if let Some(p) = &mut self.progress {
            let model = &self.replica.net.config;
            let flops = |causal| model.flops_per_token(phase.seq_len, causal) - 6.0 * about.left_out() as f64;
            p.flops_per_token = [false, true].map(flops);
        }
        Ok(json!({
            "pattern": spdf.pattern.name(), "sparsity": spdf.sparsity,
            "tensors": about.tensors, "values": about.values, "zeros": about.zeros,
            "hash": format!("{:016x}", about.hash), "compact": about.compact,
            "flops_per_token": ledger::of_phase(&self.replica.net.config, phase.seq_len, about),
        }))
    }
}
