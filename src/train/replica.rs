//! What one rank holds: its device, its place in the mesh, the network, its parameters and optimizer state.

use crate::Result;
use crate::checkpoint::{Checkpoint, Values};
use crate::comm::Mesh;
use crate::config::{EvalWeights, ModelConfig, OptimConfig, OptimKind};
use crate::device::{DType, Device};
use crate::model::Network;
use crate::optim::{Optimizer, ema::Ema};
use crate::params::{Dp, Params};
use crate::tape::Recompute;
use crate::tensor::Tensor;

pub struct Replica {
    pub dev: Device,
    pub mesh: Mesh,
    pub net: Network,
    pub params: Params,
    pub optim: Optimizer,
    pub recompute: Recompute,
    pub zero: u8,
}

/// What a replica is made of, besides its device and mesh.
pub struct Plan<'a> {
    pub model: &'a ModelConfig,
    pub optim: &'a OptimConfig,
    pub dtype: DType,
    pub recompute: Recompute,
    /// ZeRO stage, 0 or 1.
    pub zero: u8,
    /// Longest sequence of any phase.
    pub seq_len: usize,
}

impl Replica {
    /// Allocates; weights are zero until `params.fill`.
    pub fn new(dev: Device, mesh: Mesh, plan: &Plan) -> Replica {
        let dp = Dp { rank: mesh.dp.rank(), size: mesh.dp.size(), zero: plan.zero };
        let tp = (mesh.tp.rank(), mesh.tp.size());
        let (net, params) = Network::build(plan.model, &dev, plan.dtype, tp, dp, plan.seq_len);
        let optim = Optimizer::new(&dev, plan.optim, &params);
        Replica { dev, mesh, net, params, optim, recompute: plan.recompute, zero: plan.zero }
    }

    /// This rank's part of the model of a checkpoint, to look at and not to train: without gradients, masters and
    /// moments. `dtype`: F32 or Bf16.
    pub fn of_checkpoint(
        checkpoint: &Checkpoint,
        weights: EvalWeights,
        dtype: DType,
        seq_len: usize,
        dev: Device,
        mesh: Mesh,
    ) -> Result<Replica> {
        let meta = &checkpoint.manifest().meta;
        let optim =
            OptimConfig { kind: OptimKind::Sgd { weight_decay: 0.0 }, clip: None, groups: vec![], ema: None };
        let plan =
            Plan { model: &meta.model, optim: &optim, dtype, recompute: Recompute::Keep, zero: 0, seq_len };
        let mut r = Replica::new(dev, mesh, &plan);
        for unit in &mut r.params.units {
            (unit.grads, unit.master) = (Tensor::default(), Tensor::default());
        }
        let as_stored = meta.dtype == dtype.name();
        let values = match weights {
            EvalWeights::Trained if as_stored => Values::Stored,
            weights => weights.into(),
        };
        checkpoint.load_weights(&r.dev, &mut r.params, values)?;
        Ok(r)
    }

    /// What f makes of the averaged weights; the trained ones are back after it. Collective over dp.
    pub fn with_average<R>(&mut self, f: impl FnOnce(&mut Replica) -> Result<R>) -> Result<R> {
        let swap = |r: &mut Replica, place: fn(&mut Ema, &Device, &mut Params)| {
            if let Some(ema) = &mut r.optim.ema {
                place(ema, &r.dev, &mut r.params);
            }
            r.gather_weights()
        };
        swap(self, Ema::show)?;
        let made = f(self)?;
        swap(self, Ema::hide)?;
        Ok(made)
    }

    /// Under ZeRO, brings the slices that other ranks updated. Collective over dp.
    pub fn gather_weights(&mut self) -> Result<()> {
        if self.zero == 0 || self.mesh.dp.size() == 1 {
            return Ok(());
        }
        let mut flights = Vec::with_capacity(self.params.units.len());
        for unit in &mut self.params.units {
            let weights = std::mem::take(&mut unit.weights);
            flights.push(self.mesh.dp.all_gather(weights, &format!("{} weights", unit.name))?);
        }
        for (unit, flight) in self.params.units.iter_mut().zip(flights) {
            unit.weights = flight.wait()?;
        }
        Ok(())
    }
}
