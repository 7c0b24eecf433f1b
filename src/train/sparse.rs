//! The zeros of a phase of a run.

use super::run::Rank;
use crate::config::PhaseConfig;
use crate::method::ledger;
use crate::{Error, Result};
use serde_json::{Value, json};

impl Rank<'_> {
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
        Ok(json!({
            "pattern": spdf.pattern.name(), "sparsity": spdf.sparsity,
            "tensors": about.tensors, "values": about.values, "zeros": about.zeros,
            "hash": format!("{:016x}", about.hash),
            "flops_per_token": ledger::of_phase(&self.replica.net.config, phase.seq_len, about),
        }))
    }
}
