//! A phase of a run on the Meta device: the code of `step` with every tensor's size and no tensor's values. It says
//! what memory a rank will need, what it will send, and which program (ops and collectives, in order) it will run.

use super::corpora::{self, Split};
use super::council;
use super::evaluate;
use super::replica::Replica;
use super::run::plan_of;
use super::step::{MicroBatch, Update, step};
use super::teacher::Teacher;
use super::vote::Ballot;
use crate::Result;
use crate::comm::{Job, Mesh, Reduce, processes};
use crate::config::{PhaseConfig, RunConfig};
use crate::device::{Category, DType, Device};
use crate::tape::Seq;
use crate::tensor::Tensor;
use std::collections::BTreeMap;

/// One rank of a run, pretended.
pub struct Rehearsal<'a> {
    config: &'a RunConfig,
    pub replica: Replica,
    /// Whether the teacher of a phase has its share, or none any more.
    taught: bool,
}

impl<'a> Rehearsal<'a> {
    /// Of the first phase.
    pub fn new(config: &'a RunConfig, rank: usize, dp: usize) -> Rehearsal<'a> {
        Rehearsal::of_phase(config, 0, rank, dp)
    }

    /// With the network of a phase.
    pub fn of_phase(config: &'a RunConfig, phase: usize, rank: usize, dp: usize) -> Rehearsal<'a> {
        let (shard, staging) =
            (config.parallel.shard_size(dp), processes::staging(config.parallel.reductions));
        let mesh = Mesh::pretend_staged(rank, (dp, shard), config.parallel.tp, staging);
        let replica = Replica::new(Device::meta(), mesh, &plan_of(config, phase));
        Rehearsal { config, taught: true, replica: replica.expect("pretended groups do not fail") }
    }

    /// How the updates of a phase are cut, in their order, with how many there are of each size.
    pub fn splits(&self, phase: &PhaseConfig) -> Vec<(Split, u64)> {
        let dp = &self.replica.mesh.dp;
        corpora::splits(self.config, phase, (dp.rank(), dp.size()), 0).collect()
    }

    /// Those that stand for all of a phase: of updates with micro-batches of one size that with most of them, which runs
    /// everything that the others run. Without a ramp there is one.
    pub fn kinds(&self, phase: &PhaseConfig) -> Vec<Split> {
        let mut kinds: Vec<Split> = vec![];
        for (split, _) in self.splits(phase) {
            match kinds.iter_mut().find(|k| k.micro_batch == split.micro_batch) {
                Some(kind) => kind.micro_steps = kind.micro_steps.max(split.micro_steps),
                None => kinds.push(split),
            }
        }
        kinds
    }

    /// The vote before a phase, which learns the first weight sum.
    pub fn begin(&self) -> Result<()> {
        self.replica.dev.arena().trim();
        Ballot::new(0).cast(&self.replica.dev, &self.replica.mesh).map(drop)
    }

    /// One update of a phase, with a ramp one of the last size.
    pub fn update(&mut self, phase: &PhaseConfig) -> Result<()> {
        let splits = self.splits(phase);
        self.update_of(phase, splits.last().expect("a phase has updates").0)
    }

    /// One update of a phase that is cut like this.
    pub fn update_of(&mut self, phase: &PhaseConfig, split: Split) -> Result<()> {
        let batches: Vec<_> =
            (0..split.micro_steps).map(|_| fake(split.micro_batch, phase.seq_len)).collect();
        if self.replica.masks.is_some() != phase.spdf.is_some() {
            self.replica.sparsify(phase.spdf.as_ref())?;
        }
        let salt = phase.salt.as_ref().filter(|_| self.taught);
        if self.replica.teacher.is_some() != salt.is_some() {
            let student = &self.replica;
            self.replica.teacher =
                salt.map(|salt| Teacher::load(student, salt, phase.seq_len)).transpose()?;
        }
        let teacher = if self.replica.teacher.is_some() { 1.0 } else { 0.0 };
        let update = Update { step: 0, lr: 0.0, clip: None, weight_sum: 1.0, z_loss: phase.z_loss, teacher };
        step(&mut self.replica, &batches, &update, Ballot::new(self.config.data.len())).map(drop)
    }

    /// The hash of what runs in a phase: an update of each kind and, with a ramp, how many there are of each size.
    pub fn program(&mut self, phase: &PhaseConfig) -> Result<u64> {
        let kinds = self.kinds(phase);
        if phase.salt.as_ref().is_some_and(|salt| salt.ends() < phase.steps) {
            self.taught = false;
            kinds.iter().try_for_each(|kind| self.update_of(phase, *kind))?;
            self.taught = true;
        }
        kinds.into_iter().try_for_each(|kind| self.update_of(phase, kind))?;
        let arena = self.replica.dev.arena();
        for (split, updates) in self.splits(phase).iter().filter(|_| phase.batches.ramp().is_some()) {
            arena.note(format_args!("{updates} updates of {} samples", split.samples()));
        }
        Ok(arena.program_hash())
    }

    /// One evaluation on texts of `held` rows each.
    pub fn evaluate(&mut self, phase: &PhaseConfig, held: &[usize]) -> Result<()> {
        if held.is_empty() {
            return Ok(());
        }
        let arena = self.replica.dev.arena().clone();
        arena.trim();
        evaluate::with_weights(&mut self.replica, phase, |r| Rehearsal::pretend(r, phase, held))?;
        arena.trim();
        Ok(())
    }

    fn pretend(r: &mut Replica, phase: &PhaseConfig, held: &[usize]) -> Result<()> {
        let rows = evaluate::batch_rows(phase.seq_len);
        for held in held {
            let batches = held.div_ceil(rows);
            let sums = Tensor::zeros(&r.dev, batches, 2, DType::F64, Category::Comm);
            council::any(&r.dev, r.mesh.world.as_ref(), false, "stop")?;
            // Batches are dealt in turn: the last ranks may have none of their own.
            if r.mesh.dp.rank() < batches || r.flow.zero == 3 {
                super::step::evaluate(r, &fake(rows, phase.seq_len), Default::default())?;
            }
            r.mesh.world.all_reduce(sums, Reduce::Sum, "evaluation")?.wait()?;
        }
        Ok(())
    }
}

/// A micro-batch of which only the size is known.
fn fake(rows: usize, seq_len: usize) -> MicroBatch {
    let seq = Seq { rows, seq_len, ..Seq::default() };
    MicroBatch { seq, targets: vec![], weights: vec![], domains: vec![] }
}

/// The collectives of an update, each once: those that training repeats.
pub fn jobs(config: &RunConfig, rank: usize, dp: usize) -> Result<Vec<Job>> {
    let mut all = BTreeMap::new();
    for (i, phase) in config.phases.iter().enumerate() {
        let mut one = Rehearsal::of_phase(config, i, rank, dp);
        for kind in one.kinds(phase) {
            // More of the same sizes call nothing new.
            one.update_of(phase, Split { micro_steps: kind.micro_steps.min(2), ..kind })?;
        }
        all.extend(one.replica.mesh.jobs());
    }
    Ok(all.into_keys().collect())
}

/// The program of each phase's updates on a rank, equal on all ranks of a run that fits together; and what the arena of this
/// rank will ask for at least, bytes.
pub fn programs(config: &RunConfig, rank: usize, dp: usize) -> Result<(Vec<u64>, usize)> {
    let (mut hashes, mut most) = (vec![], 0);
    for (i, phase) in config.phases.iter().enumerate() {
        let mut rehearsal = Rehearsal::of_phase(config, i, rank, dp);
        hashes.push(rehearsal.program(phase)?);
        most = most.max(rehearsal.replica.dev.arena().used().peak_total);
    }
    Ok((hashes, most))
}
