//! Checkpoints of a run: one that cannot be written does not end it, as long as there is another chance.

use super::run::Rank;
use super::{council, resume};
use crate::config::PhaseConfig;
use crate::{Error, Result, checkpoint};
use serde_json::json;
use std::time::Instant;

impl Rank<'_> {
    /// Writes a checkpoint of where the run is, unless that was done. One that cannot be written is removed and tried
    /// again when the next is due; those before it stay. At the `last` chance it is an error, the same on all ranks.
    /// Collective.
    pub(super) fn save(&mut self, phase: &PhaseConfig, last: bool) -> Result<()> {
        if self.saved_at == Some(self.position.update) {
            return Ok(());
        }
        let began = Instant::now();
        let lr = phase.lr_at(self.position.phase_step.saturating_sub(1));
        self.replica.flow.settle(&mut self.replica.params)?;
        let cursor = self.cursor.as_ref();
        let (at, numbers) = (self.position, &self.numbers);
        let saved = resume::save(self.config, self.domains, &self.replica, at, cursor, numbers, lr);
        self.last_save = Instant::now();
        let saved = match saved {
            Ok(saved) => saved,
            Err(e) => return self.not_saved(e, last),
        };
        self.saved_at = Some(self.position.update);
        let ms = began.elapsed().as_secs_f64() * 1e3;
        self.row(
            "checkpoint",
            || json!({ "path": saved.path, "bytes": saved.bytes, "blocked_ms": ms, "total_ms": ms }),
        );
        if let Some(p) = &self.progress {
            p.saved(self.position.update, &saved.path, began.elapsed());
        }
        Ok(())
    }

    fn not_saved(&mut self, e: Error, last: bool) -> Result<()> {
        if let Error::RankLost { .. } = e {
            return Err(e);
        }
        let (dev, world, step) = (&self.replica.dev, self.replica.mesh.world.as_ref(), self.position.update);
        let dir = self.config.run.dir.join("ckpt");
        // Where the system refused says more than what the others heard of it.
        let refused = matches!(e, Error::Io { .. }).then(|| e.to_string());
        let problem = match council::first(dev, world, refused.as_deref(), "why it is not saved")? {
            Some((_, problem)) => problem,
            None => council::first(dev, world, Some(&e.to_string()), "why it is not saved")?
                .map_or(String::new(), |said| said.1),
        };
        if world.rank() == 0
            && let Err(e) = checkpoint::discard(&dir, step)
        {
            tracing::warn!("what was written of step {step} stays: {e}");
        }
        let newest = match self.saved_at {
            Some(saved) => format!("the newest checkpoint is that of step {saved}"),
            None => "there is no checkpoint yet".into(),
        };
        if last {
            return Err(Error::checkpoint(
                dir,
                format!("step {step} cannot be saved and is lost ({problem}); {newest}"),
                "mend that and start the same command again",
            ));
        }
        let text = format!(
            "step {step} is not saved: {problem}; {newest}; the run goes on and saves when it is due"
        );
        if world.rank() == 0 {
            tracing::warn!("{text}");
        }
        self.event("checkpoint_failed", &text);
        Ok(())
    }
}
