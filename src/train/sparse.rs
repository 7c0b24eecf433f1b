//! The zeros of a phase of a run.

use super::run::Rank;
use crate::config::{ModelConfig, PhaseConfig, RunConfig, Spdf};
use crate::device::{DType, Device};
use crate::method::ledger;
use crate::model::Network;
use crate::params::Dp;
use crate::{Error, Result};
use serde_json::{Value, json};

/// That all phases store the same blocks, and that ranks of tp hold whole lines of them.
pub(super) fn blocks_fit(config: &RunConfig) -> Result<()> {
    let stored = |p: &PhaseConfig| p.spdf.clone().filter(|s| s.pattern.block().is_some());
    let refuse = |i: usize, problem: String, remedy: &str| {
        Err(Error::config(&config.source_file, format!("phase.{i}.spdf.pattern"), problem, remedy))
    };
    for (i, phases) in config.phases.windows(2).enumerate() {
        if stored(&phases[0]) != stored(&phases[1]) {
            let (before, own) = (&phases[0].name, &phases[1].name);
            let problem =
                format!("phases {before:?} and {own:?} store different blocks, which is not built yet");
            let remedy = "give all phases the same spdf table, and train on in a run of its own with init = \"ckpt:RUN\"";
            return refuse(i + 1, problem, remedy);
        }
    }
    match [1, config.parallel.tp].into_iter().find_map(|tp| tp_problem(config, tp)) {
        None => Ok(()),
        Some(problem) => {
            refuse(0, problem, "take smaller blocks or a smaller parallel.tp, or leave it out with `match`")
        }
    }
}

/// Why ranks of tp cannot hold whole lines of the blocks that the run stores. The model itself can be split over them.
pub fn tp_problem(config: &RunConfig, tp: usize) -> Option<String> {
    of_blocks(&config.model, config.compact()?, tp)
}

/// Why the matrices of a model cannot be stored as these blocks.
pub fn misfit(model: &ModelConfig, spdf: &Spdf) -> Option<String> {
    of_blocks(model, spdf, 1)
}

fn of_blocks(model: &ModelConfig, spdf: &Spdf, tp: usize) -> Option<String> {
    let block = spdf.pattern.block()?;
    let (_, params) = Network::build(model, &Device::meta(), DType::F32, (0, 1), Dp::SOLO, 1);
    let mut own = params.iter().map(|(_, p)| &p.spec).filter(|spec| spdf.covers(&spec.name));
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
            let model = &self.config.model;
            let flops = |causal| model.flops_per_token(phase.seq_len, causal) - 6.0 * about.left_out() as f64;
            p.flops_per_token = [false, true].map(flops);
        }
        Ok(json!({
            "pattern": spdf.pattern.name(), "sparsity": spdf.sparsity,
            "tensors": about.tensors, "values": about.values, "zeros": about.zeros,
            "hash": format!("{:016x}", about.hash), "compact": about.compact,
            "flops_per_token": ledger::of_phase(&self.config.model, phase.seq_len, about),
        }))
    }
}
