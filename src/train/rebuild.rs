//! Where a phase trains another network than the one before: the replica is given up, and a new one filled from the
//! checkpoint in between, whatever the topology. No rank holds a whole model.

use super::replica::Replica;
use super::run::{Rank, plan_of};
use crate::checkpoint::{Checkpoint, Kind, Values, step_dir};
use crate::config::{OptimState, PhaseConfig};
use crate::method::grow::{Grown, Growth, Quantity};
use crate::optim::Moment;
use crate::params::{Gathered, TensorSource};
use crate::{Error, Result};
use serde_json::{Value, json};

impl Rank<'_> {
    /// Before the first update of a phase with another network: the network, and what the row of the phase says of a larger
    /// one. Null where there is none. Collective.
    pub(super) fn rebuild(&mut self, phase: &PhaseConfig) -> Result<Value> {
        let (config, at) = (self.config, self.position);
        if !config.begins_anew(at.phase) {
            return Ok(Value::Null);
        }
        let growth =
            phase.grow.as_ref().map(|g| Growth::new(&g.grow, config.model_of(at.phase - 1), &g.model));
        if at.phase_step == 0 {
            self.begin_anew(phase, growth.as_ref())?;
        }
        let Some(growth) = growth else { return Ok(Value::Null) };
        let to: serde_json::Map<_, _> =
            growth.sizes().into_iter().map(|(key, _, to)| (key.to_string(), json!(to))).collect();
        Ok(json!({
            "to": to, "width": growth.grow.width.name(), "depth": growth.grow.depth.name(),
            "params": growth.to.params(), "exact": growth.losses().is_empty(), "inexact": growth.losses(),
        }))
    }

    fn begin_anew(&mut self, phase: &PhaseConfig, growth: Option<&Growth>) -> Result<()> {
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
        let plan = plan_of(self.config, self.position.phase);
        let mut new = Replica::new(old.dev.clone(), old.mesh.clone(), &plan)?;
        // What the checkpoint has, as the new network has it.
        type Fill<'a> = &'a mut dyn FnMut(&dyn TensorSource) -> Result<()>;
        let read = |source: &dyn TensorSource, quantity, fill: Fill| match growth {
            Some(growth) => fill(&Gathered(&Grown::new(growth, source, quantity))),
            None => fill(source),
        };
        let Replica { dev, params, optim, .. } = &mut new;
        read(&checkpoint.weights(Values::Master), Quantity::Weight, &mut |s| params.fill(dev, s))?;
        if optim.ema.is_some() {
            checkpoint.check_values(Values::Ema)?;
            read(&checkpoint.values(Kind::Ema), Quantity::Weight, &mut |s| optim.fill_average(params, s))?;
        }
        if phase.optimizer != OptimState::Reset {
            if !checkpoint.has_moments() && !optim.moments.is_empty() {
                return Err(Error::checkpoint(&path, "it has no moments", "set optimizer = \"reset\""));
            }
            for (which, kind, quantity) in
                [(Moment::First, Kind::M, Quantity::Gradient), (Moment::Second, Kind::V, Quantity::Square)]
            {
                read(&checkpoint.values(kind), quantity, &mut |s| optim.fill(which, params, s))?;
            }
            optim.t = t;
        }
        let model = new.net.config.clone();
        if let Some(p) = &mut self.progress {
            p.flops_per_token = [false, true].map(|c| model.flops_per_token(phase.seq_len, c));
        }
        self.replica = new;
        if let Some(growth) = growth {
            let text = format!("{} parameters instead of {}", growth.to.params(), growth.from.params());
            self.event("grown", &text);
        }
        Ok(())
    }
}
