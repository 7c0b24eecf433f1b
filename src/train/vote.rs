//! The only control collective of a step: one vector of f64, summed over all ranks, that carries losses, the norm,
//! signals, and the weight sum of the next update, which its loss must know before its first forward.

use super::step::{Losses, MicroBatch};
use crate::Result;
use crate::comm::{Mesh, Reduce};
use crate::device::{Category, DType, Device};
use crate::tensor::Tensor;

/// Stop, save, eval, next weight sum, z sum, writing, kd sum.
const FLAGS: usize = 7;

/// What one rank puts in.
#[derive(Clone, Debug, Default)]
pub struct Ballot {
    /// Σ weight·nll of this rank's targets, by domain; the same targets are counted by one tp rank only.
    pub loss_by_domain: Vec<f64>,
    pub weight_by_domain: Vec<f64>,
    /// Σ weight·lse² of this rank's targets, counted likewise.
    pub z_sum: f64,
    /// Σ weight·D(teacher, student) of this rank's targets, counted likewise.
    pub kd_sum: f64,
    /// Σ g² over this rank's part.
    pub square_sum: f64,
    /// Whether this rank was asked to stop.
    pub stop: bool,
    /// Whether a checkpoint or an evaluation is due after this step; rank 0 says it for all.
    pub save: bool,
    pub eval: bool,
    /// Whether this rank's part of a checkpoint is still being written.
    pub writing: bool,
    /// Σ weights of this rank's targets in the next update.
    pub next_weight_sum: f64,
}

/// What all ranks said.
#[derive(Clone, Debug, Default)]
pub struct Vote {
    pub loss_sum: f64,
    pub z_sum: f64,
    pub kd_sum: f64,
    pub loss_by_domain: Vec<f64>,
    pub weight_by_domain: Vec<f64>,
    pub square_sum: f64,
    pub stop: bool,
    pub save: bool,
    pub eval: bool,
    pub writing: bool,
    pub next_weight_sum: f64,
}

impl Ballot {
    pub fn new(domains: usize) -> Ballot {
        Ballot {
            loss_by_domain: vec![0.0; domains],
            weight_by_domain: vec![0.0; domains],
            ..Ballot::default()
        }
    }

    /// Counts the losses of a micro-batch, row by row.
    pub fn add_losses(&mut self, batch: &MicroBatch, losses: &Losses, counts: bool) {
        if !counts {
            return;
        }
        self.z_sum += losses.sums.z;
        self.kd_sum += losses.sums.kd;
        let t = batch.seq.seq_len;
        for (row, domain) in batch.domains.iter().enumerate() {
            let (w, l) = (&batch.weights[row * t..(row + 1) * t], &losses.nll[row * t..(row + 1) * t]);
            let weighted = w.iter().zip(l).map(|(w, l)| *w as f64 * *l as f64);
            self.loss_by_domain[*domain as usize] += weighted.sum::<f64>();
            self.weight_by_domain[*domain as usize] += w.iter().map(|w| *w as f64).sum::<f64>();
        }
    }

    /// Collective over all ranks. The norm's parts are summed in the order (part, tp rank), which is the same for
    /// every ZeRO stage.
    pub fn cast(self, dev: &Device, mesh: &Mesh) -> Result<Vote> {
        let (k, world) = (self.loss_by_domain.len(), mesh.world.size());
        let mut v = Tensor::zeros(dev, 1, 2 * k + FLAGS + world, DType::F64, Category::Comm);
        if dev.is_meta() {
            mesh.world.all_reduce(v, Reduce::Sum, "step vote")?.wait()?;
            return Ok(Vote::default());
        }
        let data = v.data_mut::<f64>();
        data[..k].copy_from_slice(&self.loss_by_domain);
        data[k..2 * k].copy_from_slice(&self.weight_by_domain);
        let flags = [self.stop, self.save, self.eval].map(|f| f as u8 as f64);
        data[2 * k..2 * k + 3].copy_from_slice(&flags);
        data[2 * k + 3] = self.next_weight_sum;
        data[2 * k + 4] = self.z_sum;
        data[2 * k + 5] = f64::from(u8::from(self.writing));
        data[2 * k + 6] = self.kd_sum;
        data[2 * k + FLAGS + mesh.world.rank()] = self.square_sum;
        let v = mesh.world.all_reduce(v, Reduce::Sum, "step vote")?.wait()?;
        let data = v.data::<f64>();
        Ok(Vote {
            loss_sum: data[..k].iter().sum(),
            z_sum: data[2 * k + 4],
            kd_sum: data[2 * k + 6],
            loss_by_domain: data[..k].to_vec(),
            weight_by_domain: data[k..2 * k].to_vec(),
            stop: data[2 * k] > 0.0,
            save: data[2 * k + 1] > 0.0,
            eval: data[2 * k + 2] > 0.0,
            writing: data[2 * k + 5] > 0.0,
            next_weight_sum: data[2 * k + 3],
            square_sum: data[2 * k + FLAGS..].iter().sum(),
        })
    }
}
