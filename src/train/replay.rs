//! An update that went wrong, kept so that it can be looked at: `replay/step-N.json` with what it was and
//! `replay/step-N/`, a checkpoint of the state before it. One rank makes its forward and backward again
//! (`train RUN.toml --replay FILE`) and says which units and which samples it was.

use super::position::Position;
use super::replica::Replica;
use super::resume::{self, Start};
use super::run::{Launch, Rank, plan_of};
use super::step::{Outcome, Terms, Update, forward_backward};
use super::teacher::Teacher;
use super::vote::Ballot;
use super::{corpora, council};
use crate::checkpoint::{self, Checkpoint};
use crate::comm::Mesh;
use crate::config::{Accumulate, ParallelConfig, PhaseConfig, RunConfig, Shard};
use crate::device::Device;
use crate::optim::norm::{part_square_sum, unit_square_sum};
use crate::tape::At;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;

/// The file. Loss and norm are texts, because JSON has no NaN; the texts are exact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub v: u32,
    /// Updates made before it.
    pub step: u64,
    pub phase: String,
    pub reason: String,
    pub loss: String,
    pub grad_norm: String,
    pub lr: f64,
    pub weight_sum: f64,
    pub dp: usize,
    pub tp: usize,
    pub zero: u8,
}

fn name(step: u64) -> String {
    format!("step-{step:08}")
}

impl Rank<'_> {
    /// Keeps an update that was not made, if the run still may. That it cannot be written is said and no reason to
    /// stop. Collective.
    pub(super) fn keep_for_replay(
        &mut self,
        phase: &PhaseConfig,
        update: &Update,
        outcome: &Outcome,
        reason: &str,
    ) -> Result<()> {
        let dir = self.config.run.dir.join("replay");
        let file = dir.join(name(update.step) + ".json");
        let mesh = self.replica.mesh.clone();
        let first = mesh.world.rank() == 0;
        let room = first && !file.exists() && kept(&dir) < self.config.numerics.replays;
        if !council::any(&self.replica.dev, mesh.world.as_ref(), room, "a replay")? {
            return Ok(());
        }
        self.replica.flow.settle(&mut self.replica.params)?;
        let (config, at, cursor) = (self.config, self.position, self.cursor.as_ref());
        let lr = phase.lr_at(at.phase_step.saturating_sub(1));
        let saved = resume::begin(&dir, config, self.domains, &self.replica, at, cursor, &self.numbers, lr)
            .and_then(|saving| saving.finish(&|| mesh.world.barrier("checkpoint")));
        if let Err(e @ Error::RankLost { .. }) = saved {
            return Err(e);
        }
        if !first {
            return Ok(());
        }
        let record = Record {
            v: 1,
            step: update.step,
            phase: phase.name.clone(),
            reason: reason.into(),
            loss: format!("{:?}", outcome.loss),
            grad_norm: format!("{:?}", outcome.grad_norm),
            lr: update.lr,
            weight_sum: update.weight_sum,
            dp: mesh.dp.size(),
            tp: mesh.tp.size(),
            zero: self.replica.flow.zero,
        };
        let text = serde_json::to_string_pretty(&record).expect("numbers and texts") + "\n";
        match saved.and_then(|_| checkpoint::replace(&file, text.as_bytes())) {
            Ok(()) => {
                // That one says of which step its teachers are.
                let own = config.run.dir.join("run.toml");
                let taught = config.phases.iter().any(|p| p.salt.is_some());
                let run_file = if taught { own.display().to_string() } else { config.source_file.clone() };
                let how = format!("espalier train {run_file} --replay {}", file.display());
                self.event("replay", &how);
                tracing::warn!("update {} can be looked at: {how}", update.step);
            }
            Err(e) => {
                // What is left of it would count for nothing.
                let _ = checkpoint::discard(&dir, update.step);
                tracing::warn!("update {} cannot be kept for a replay: {e}", update.step);
            }
        }
        Ok(())
    }
}

/// The replays in a directory.
fn kept(dir: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries.flatten().filter(|e| e.path().extension().is_some_and(|e| e == "json")).count()
}

/// What one rank found.
pub struct Replay {
    pub record: Record,
    pub loss: f64,
    pub grad_norm: f64,
    /// Name, gradient norm, values that are not finite, values.
    pub units: Vec<(String, f64, usize, usize)>,
    /// Sample of the run, corpus, mean −log p over its targets, targets.
    pub samples: Vec<(u64, String, f64, f64)>,
}

/// Makes forward and backward of the update again, and no update. Nothing is written.
pub fn replay(config: &RunConfig, launch: &Launch, file: &Path) -> Result<Replay> {
    if launch.ranks != 1 {
        let problem = format!("--replay on {} ranks", launch.ranks);
        return Err(Error::launch(problem, "it takes one rank: leave --ranks out"));
    }
    let record = read(file)?;
    let path = file.with_extension("");
    let checkpoint = Checkpoint::open(&path)?;
    let parallel = ParallelConfig {
        tp: 1,
        zero: 0,
        shard: Shard::All,
        sequence_parallel: false,
        accumulate: Accumulate::Local,
        open: false,
        ..config.parallel.clone()
    };
    let config = &super::teacher::pinned(&RunConfig { parallel, ..config.clone() })?;
    super::run::check(config, launch)?;
    let domains = corpora::open(config)?;
    let position = resume::check_resume(config, &domains, &checkpoint)?;
    let Position { update: step, phase: index, phase_step } = position;
    let Some(phase) = config.phases.get(index).filter(|_| step == record.step) else {
        let problem =
            format!("it is of update {}, and {} was written after {step}", record.step, path.display());
        return Err(Error::checkpoint(file, problem, "put the two together that belong together"));
    };
    let start = Start::Resume(Box::new(checkpoint), position);
    // The network of the phase, also where the update is its first.
    let plan = plan_of(config, index);
    let mut r = Replica::new(Device::cpu(launch.threads_per_rank()), Mesh::solo(), &plan)?;
    resume::load(config, &start, &mut r)?;
    r.sparsify(phase.spdf.as_ref())?;
    let mut sampler = corpora::sampler(config, &domains, index)?;
    let first = position.sample(config);
    if let Some(cursor) = resume::cursor(&start)?.filter(|cursor| cursor.sample == first) {
        sampler.restore(&cursor)?;
    }
    let split = corpora::splits(config, phase, (0, 1), phase_step).next();
    let (split, _) = split.expect("a phase that is not over has updates");
    let batches = split.draw(&mut sampler, first)?;

    let (mut ballot, mut samples) = (Ballot::new(domains.len()), vec![]);
    let terms = Terms {
        scale: 1.0 / record.weight_sum,
        z: phase.z_loss,
        teacher: resume::numbers(&start)?.teachers_share(phase, phase_step),
    };
    if let Some(salt) = phase.salt.as_ref().filter(|_| terms.teacher > 0.0) {
        r.teacher = Some(Teacher::load(&r, salt, phase.seq_len)?);
    }
    r.params.zero_grads(&r.dev);
    for (i, batch) in batches.iter().enumerate() {
        let at = At { step, layer: 0 };
        let losses = forward_backward(&mut r, batch, at, terms, i + 1 == batches.len())?;
        ballot.add_losses(batch, &losses, true);
        let t = batch.seq.seq_len;
        for (row, (id, domain)) in batch.seq.sample_ids.iter().zip(&batch.domains).enumerate() {
            let (w, l) = (&batch.weights[row * t..][..t], &losses.nll[row * t..][..t]);
            let weight: f64 = w.iter().map(|w| *w as f64).sum();
            // A loss of weight 0 is none, also where it is not finite.
            let targets = w.iter().zip(l).filter(|(w, _)| **w != 0.0);
            let sum: f64 = targets.map(|(w, l)| *w as f64 * *l as f64).sum();
            samples.push((*id, domains[*domain as usize].name.clone(), sum / weight, weight));
        }
    }
    r.flow.finish(&r.dev, &mut r.params)?;
    if let Some(masks) = &r.masks {
        masks.grads(&r.dev, &mut r.params);
    }
    ballot.square_sum = part_square_sum(&r.dev, &r.params);
    let vote = ballot.cast(&r.dev, &r.mesh)?;
    let units = r.params.units.iter().map(|u| {
        let values = u.params.iter().flat_map(|p| &u.grads.data::<f32>()[p.range()]);
        let (bad, all) = values.fold((0, 0), |(bad, all), g| (bad + usize::from(!g.is_finite()), all + 1));
        (u.name.clone(), unit_square_sum(&r.dev, u).sqrt(), bad, all)
    });
    // As `step` has it.
    let mean = |sum: f64| sum / record.weight_sum;
    let (ce, own) = (mean(vote.loss_sum), mean(vote.loss_sum) + phase.z_loss * mean(vote.z_sum));
    Ok(Replay {
        loss: if terms.teacher == 0.0 { own } else { own + terms.teacher * (mean(vote.kd_sum) - ce) },
        grad_norm: vote.square_sum.sqrt(),
        units: units.collect(),
        samples,
        record,
    })
}

fn read(file: &Path) -> Result<Record> {
    let refuse = |problem: String| Error::checkpoint(file, problem, "give RUN/replay/step-N.json");
    let text = std::fs::read(file).map_err(|e| refuse(format!("cannot be read: {e}")))?;
    let record: Record =
        serde_json::from_slice(&text).map_err(|e| refuse(format!("it is not the file of a replay: {e}")))?;
    match record.v {
        1 => Ok(record),
        v => Err(refuse(format!("version {v}, and this program reads 1"))),
    }
}

impl Replay {
    /// Whether loss and norm are those of the run, to the bit.
    pub fn is_exact(&self) -> bool {
        let same = |text: &str, x: f64| text == format!("{x:?}");
        same(&self.record.loss, self.loss) && same(&self.record.grad_norm, self.grad_norm)
    }
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let Record { step, phase, reason, loss, grad_norm, dp, tp, zero, .. } = &self.record;
        writeln!(f, "update {step}, phase {phase}: {reason}")?;
        writeln!(f, "  in the run  loss {loss}, gradient norm {grad_norm} (dp {dp} x tp {tp}, ZeRO {zero})")?;
        let same = if self.is_exact() { "the same bits" } else { "other bits" };
        writeln!(f, "  here        loss {:?}, gradient norm {:?}: {same}", self.loss, self.grad_norm)?;
        writeln!(f, "{:<12} {:>14} {:>24}", "unit", "gradient norm", "values that are not finite")?;
        for (name, norm, bad, all) in &self.units {
            writeln!(f, "{name:<12} {norm:>14.6e} {:>24}", format!("{bad} of {all}"))?;
        }
        writeln!(f, "{:>12} {:<12} {:>12} {:>12}", "sample", "corpus", "loss", "targets")?;
        for (id, corpus, loss, targets) in &self.samples {
            writeln!(f, "{id:>12} {corpus:<12} {loss:>12.6} {targets:>12}")?;
        }
        Ok(())
    }
}
