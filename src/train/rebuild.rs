//! Where a phase trains another network than the one before: the replica is given up, and a new one filled from the
//! checkpoint in between, whatever the topology. No rank holds a whole model.

use super::replica::Replica;
use super::run::{Rank, plan_of};
use crate::checkpoint::{Checkpoint, Kind, Values, step_dir};
use crate::config::{OptimState, PhaseConfig};
use crate::method::grow::{Grown, Growth, Quantity};
use crate::optim::Moment;
use crate::{Error, Result};
use serde_json::{Value, json};

impl Rank<'_> {
    /// Before the first update of a phase with a larger network: the network, and what the row of the phase says of it.
    /// Null where there is none. Collective.
    pub(super) fn rebuild(&mut self, phase: &PhaseConfig) -> Result<Value> {
        let Some(grown) = &phase.grow else { return Ok(Value::Null) };
        let before = self.config.model_of(self.position.phase.saturating_sub(1));
        let growth = Growth::new(&grown.grow, before, &grown.model);
        if self.position.phase_step == 0 {
            self.grow(phase, &growth)?;
        }
        let to: serde_json::Map<_, _> =
            growth.sizes().into_iter().map(|(key, _, to)| (key.to_string(), json!(to))).collect();
        Ok(json!({
            "to": to, "width": grown.grow.width.name(), "depth": grown.grow.depth.name(),
            "params": grown.model.params(), "exact": growth.losses().is_empty(), "inexact": growth.losses(),
        }))
    }

    fn grow(&mut self, phase: &PhaseConfig, growth: &Growth) -> Result<()> {
        if self.saved_at != Some(self.position.update) {
            // The save at the end of the phase before failed: this is the last chance.
            self.save(phase, true)?;
        }
        self.finish_save(true)?;
        let path = step_dir(&self.config.run.dir.join("ckpt"), self.position.update);
        let checkpoint = Checkpoint::open(&path)?;
        let old = &mut self.replica;
        old.flow.settle(&mut old.params)?;
        // Freed before the new one is there.
        let t = old.optim.t;
        old.params.units.clear();
        old.optim.forget();
        old.masks = None;
        old.dev.arena().trim();
        let plan = plan_of(self.config, &growth.to);
        let mut new = Replica::new(old.dev.clone(), old.mesh.clone(), &plan)?;
        let weights = checkpoint.weights(Values::Master);
        new.params.fill(&new.dev, &Grown::new(growth, &weights, Quantity::Weight))?;
        let values = |kind| checkpoint.values(kind);
        if new.optim.ema.is_some() {
            checkpoint.check_values(Values::Ema)?;
            let average = values(Kind::Ema);
            new.optim.fill_average(&new.params, &Grown::new(growth, &average, Quantity::Weight))?;
        }
        if phase.optimizer != OptimState::Reset {
            if !checkpoint.has_moments() && !new.optim.moments.is_empty() {
                return Err(Error::checkpoint(&path, "it has no moments", "set optimizer = \"reset\""));
            }
            for (which, kind, quantity) in
                [(Moment::First, Kind::M, Quantity::Gradient), (Moment::Second, Kind::V, Quantity::Square)]
            {
                let moments = values(kind);
                new.optim.fill(which, &new.params, &Grown::new(growth, &moments, quantity))?;
            }
            new.optim.t = t;
        }
        if let Some(p) = &mut self.progress {
            p.flops_per_token = [false, true].map(|c| growth.to.flops_per_token(phase.seq_len, c));
        }
        self.replica = new;
        let text = format!("{} parameters instead of {}", growth.to.params(), growth.from.params());
        self.event("grown", &text);
        Ok(())
    }
}
