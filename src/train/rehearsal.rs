//! A phase of a run on the Meta device: the code of `step` with every tensor's size and no tensor's values. It says
//! what memory a rank will need, what it will send, and which program (ops and collectives, in order) it will run.

use super::corpora::Split;
use super::evaluate;
use super::replica::Replica;
use super::run::plan;
use super::step::{MicroBatch, Update, step};
use super::vote::Ballot;
use crate::comm::{Comm, Mesh, Reduce};
use crate::config::{PhaseConfig, RunConfig};
use crate::device::{Category, DType, Device};
use crate::tape::Seq;
use crate::tensor::Tensor;
use crate::{Error, Result};

/// One rank of a run, pretended.
pub struct Rehearsal<'a> {
    config: &'a RunConfig,
    pub replica: Replica,
}

impl<'a> Rehearsal<'a> {
    pub fn new(config: &'a RunConfig, rank: usize, dp: usize) -> Rehearsal<'a> {
        let shard = config.parallel.shard_size(dp);
        let mesh = Mesh::pretend_rank(rank, (dp, shard), config.parallel.tp);
        let replica = Replica::new(Device::meta(), mesh, &plan(config));
        Rehearsal { config, replica: replica.expect("pretended groups do not fail") }
    }

    /// How the updates of a phase are cut.
    pub fn split(&self, phase: &PhaseConfig) -> Split {
        let dp = &self.replica.mesh.dp;
        let micro = self.config.parallel.micro_batch;
        Split::new((dp.rank(), dp.size()), micro, phase.global_batch, phase.seq_len)
    }

    /// The vote before a phase, which learns the first weight sum.
    pub fn begin(&self) -> Result<()> {
        self.replica.dev.arena().trim();
        Ballot::new(0).cast(&self.replica.dev, &self.replica.mesh).map(drop)
    }

    /// One update of a phase.
    pub fn update(&mut self, phase: &PhaseConfig) -> Result<()> {
        let split = self.split(phase);
        let batches: Vec<_> =
            (0..split.micro_steps).map(|_| fake(split.micro_batch, phase.seq_len)).collect();
        let update = Update { step: 0, lr: 0.0, clip: None, weight_sum: 1.0, z_loss: phase.z_loss };
        step(&mut self.replica, &batches, &update, Ballot::new(self.config.data.len())).map(drop)
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

/// The program of each phase's update on a rank. Equal on all ranks of a run that fits together.
pub fn program_hashes(config: &RunConfig, rank: usize, dp: usize) -> Result<Vec<u64>> {
    let hash = |phase| {
        let mut r = Rehearsal::new(config, rank, dp);
        r.update(phase)?;
        Ok(r.replica.dev.arena().program_hash())
    };
    config.phases.iter().map(hash).collect()
}

/// Refuses a run whose ranks would not run the same programs. Collective over all ranks.
pub fn check_agreement(dev: &Device, world: &dyn Comm, hashes: &[u64]) -> Result<()> {
    // The largest of h and of −h over all ranks say whether all h are equal; halves of 32 bits are exact in f64.
    let halves = hashes.iter().flat_map(|h| [h >> 32, h & 0xffff_ffff]).map(|h| h as f64);
    let own: Vec<f64> = halves.flat_map(|h| [h, -h]).collect();
    let most = Tensor::from_slice(dev, 1, own.len(), &own, Category::Comm);
    let most = world.all_reduce(most, Reduce::Max, "programs of the phases")?.wait()?;
    match most.data::<f64>().chunks(4).position(|m| m[0] != -m[1] || m[2] != -m[3]) {
        None => Ok(()),
        Some(phase) => Err(Error::launch(
            format!("the ranks would run different programs in phase {phase}: {:016x} here", hashes[phase]),
            "start all ranks with the same program and run file",
        )),
    }
}
