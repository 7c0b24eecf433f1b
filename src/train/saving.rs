//! Checkpoints of a run. They are written behind the next update, which waits only before it changes what is written.
//! One that cannot be written does not end the run, as long as there is another chance.

use super::run::Rank;
use super::{council, resume};
use crate::config::PhaseConfig;
use crate::{Error, Result, checkpoint};
use serde_json::json;
use std::time::{Duration, Instant};

/// A checkpoint that is being written from what a replica holds.
pub struct Saving {
    files: checkpoint::Saving,
    step: u64,
    began: Instant,
    /// How long training waited for it so far.
    blocked: Duration,
}

impl Saving {
    /// Returns when what it is of may change.
    pub fn fence(&mut self) {
        let asked = Instant::now();
        self.files.fence();
        self.blocked += asked.elapsed();
    }

    /// Whether this rank has no more to do for it.
    pub fn is_written(&self) -> bool {
        self.files.is_written()
    }
}

impl Rank<'_> {
    /// Begins a checkpoint of where the run is, unless that was saved; updates may follow. Collective.
    pub(super) fn begin_save(&mut self, phase: &PhaseConfig) -> Result<()> {
        self.finish_save(false)?;
        if self.saved_at == Some(self.position.update) {
            return Ok(());
        }
        let began = Instant::now();
        let lr = phase.lr_at(self.position.phase_step.saturating_sub(1));
        self.replica.flow.settle(&mut self.replica.params)?;
        let cursor = self.cursor.as_ref();
        let (at, numbers, dir) = (self.position, &self.numbers, self.config.run.dir.join("ckpt"));
        let files = resume::begin(&dir, self.config, self.domains, &self.replica, at, cursor, numbers, lr)?;
        let (step, blocked) = (at.update, began.elapsed());
        self.replica.saving = Some(Saving { files, step, began, blocked });
        self.last_save = Instant::now();
        Ok(())
    }

    /// Ends the save that is under way, if there is one. A checkpoint that cannot be written is removed and tried again
    /// when the next is due; those before it stay. At the `last` chance it is an error, the same on all ranks. Collective.
    pub(super) fn finish_save(&mut self, last: bool) -> Result<()> {
        let Some(Saving { files, step, began, blocked }) = self.replica.saving.take() else { return Ok(()) };
        let asked = Instant::now();
        let saved = resume::finish(self.config, &self.replica, files, step);
        self.last_save = Instant::now();
        let saved = match saved {
            Ok(saved) => saved,
            Err(e) => return self.not_saved(e, step, last),
        };
        self.saved_at = Some(step);
        let [blocked, total] = [blocked + asked.elapsed(), began.elapsed()].map(|t| t.as_secs_f64() * 1e3);
        self.row_of(
            step,
            "checkpoint",
            || json!({ "path": saved.path, "bytes": saved.bytes, "blocked_ms": blocked, "total_ms": total }),
        );
        if let Some(p) = &self.progress {
            p.saved(step, &saved.path, began.elapsed());
        }
        Ok(())
    }

    /// A checkpoint of where the run is, which is durable when this returns. Collective.
    pub(super) fn save(&mut self, phase: &PhaseConfig, last: bool) -> Result<()> {
        self.begin_save(phase)?;
        self.finish_save(last)
    }

    fn not_saved(&mut self, e: Error, step: u64, last: bool) -> Result<()> {
        if let Error::RankLost { .. } = e {
            return Err(e);
        }
        let (dev, world) = (&self.replica.dev, self.replica.mesh.world.as_ref());
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
        self.row_of(step, "event", || json!({ "name": "checkpoint_failed", "text": text }));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Manifest, SaveState};
    use crate::comm::Mesh;
    use crate::config::RunConfig;
    use crate::device::Device;
    use crate::params::RandomInit;
    use crate::tape::Seq;
    use crate::train::position::Position;
    use crate::train::replica::{self, Replica};
    use crate::train::run::plan;
    use crate::train::step::{MicroBatch, Update, step};
    use crate::train::vote::Ballot;
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Path;

    const RUN: &str = r#"
schema = 1
[run]
dir = "run"
seq_len = 8
global_batch = 1
[model]
preset = "llama-tiny"
vocab = 64
layers = 1
dim = 16
heads = 2
kv_heads = 1
ffn_dim = 32
[optim.ema]
decay = 0.9
[data]
text = { path = "text" }
[[phase]]
name = "one"
steps = 4
mix = { text = 1.0 }
lr = [{ kind = "linear", to = 1e-2 }]
"#;

    fn update(r: &mut Replica) {
        let ids: Vec<u32> = (0..8).collect();
        let batch = MicroBatch {
            seq: Seq::packed(&ids, &[8]),
            targets: ids,
            weights: vec![1.0; 8],
            domains: vec![0],
        };
        let update = Update { step: 0, lr: 1e-2, clip: None, weight_sum: 8.0, z_loss: 0.0, teacher: 0.0 };
        step(r, &[batch], &update, Ballot::new(1)).expect("an update");
    }

    fn average(r: &mut Replica) {
        r.with_average(|_| Ok(())).expect("shown and hidden");
    }

    #[test]
    fn what_changes_the_state_waits_until_it_is_written() {
        let changes: [fn(&mut Replica); 2] = [update, average];
        for (dtype, change) in ["f32", "bf16"].into_iter().flat_map(|d| changes.map(|c| (d, c))) {
            let dir = tempfile::tempdir().expect("a folder");
            let set = [format!("run.dir={}", dir.path().display()), format!("run.dtype={dtype}")];
            let config = RunConfig::parse(RUN, "run.toml", &set).expect("a run file");
            let mut r = Replica::new(Device::cpu(1), Mesh::solo(), &plan(&config)).expect("a replica");
            r.params.fill(&r.dev, &RandomInit { seed: 1 }).expect("filled");
            let (at, numbers) = (Position::default(), Default::default());
            let at_once = resume::save(&config, &[], &r, at, None, &numbers, 0.0).expect("saved").path;

            let file = "optim-r00000.safetensors";
            let (ckpt, slow) = (dir.path().join("ckpt"), dir.path().join("ckpt/step-00000001").join(file));
            let mut meta = Manifest::read(&at_once).expect("a manifest").meta;
            meta.clocks.update = 1;
            let state = SaveState {
                params: &r.params,
                optim: Some(&r.optim),
                tp: (0, 1),
                dp: replica::dp(&r.mesh, r.flow.zero),
            };
            let hold = || {
                pipe(&slow);
                Ok(())
            };
            let files = checkpoint::begin(&ckpt, &state, &meta, &[], &hold).expect("begun");
            let blocked = Duration::ZERO;
            r.saving = Some(Saving { files, step: 1, began: Instant::now(), blocked });
            let reader = std::thread::spawn(move || {
                // Time for a change to come too early.
                std::thread::sleep(Duration::from_secs(1));
                std::fs::read(slow).expect("written")
            });
            change(&mut r);
            assert!(r.saving.as_ref().is_some_and(|s| s.blocked > Duration::ZERO));
            let written = reader.join().expect("read");
            assert!(written == std::fs::read(at_once.join(file)).expect("there"), "{dtype}");
        }
    }

    /// A file that takes what is written to it only when somebody reads it.
    fn pipe(path: &Path) {
        let name = CString::new(path.as_os_str().as_bytes()).expect("no 0 in it");
        // SAFETY: the name ends in a 0.
        assert_eq!(unsafe { libc::mkfifo(name.as_ptr(), 0o600) }, 0);
    }
}
