//! What one rank holds: its device, its place in the mesh, the network, its parameters and optimizer state.

use super::saving::Saving;
use super::teacher::Teacher;
use crate::Result;
use crate::checkpoint::{Checkpoint, Values};
use crate::comm::Mesh;
use crate::config::{EvalWeights, ModelConfig, OptimConfig, OptimKind, Spdf};
use crate::device::{DType, Device};
use crate::method::spdf::Masks;
use crate::model::Network;
use crate::optim::{Optimizer, Ranks, ema::Ema};
use crate::params::{Accumulate, Dp, Flow, Params, Partial};
use crate::tape::Recompute;

pub struct Replica {
    pub dev: Device,
    pub mesh: Mesh,
    pub net: Network,
    pub params: Params,
    /// Collectives of the parameters, under way.
    pub flow: Flow,
    pub optim: Optimizer,
    /// Weights that are zero, in a sparse phase.
    pub masks: Option<Masks>,
    /// Who teaches, while it has a share of the loss.
    pub teacher: Option<Teacher>,
    pub recompute: Recompute,
    /// Whether training keeps x split over tp by rows.
    pub sequence_parallel: bool,
    /// A checkpoint that is being written from here.
    pub saving: Option<Saving>,
}

/// What a replica is made of, besides its device and mesh.
pub struct Plan<'a> {
    pub model: &'a ModelConfig,
    /// Which matrices are stored as their kept blocks, if it has that pattern.
    pub spdf: Option<&'a Spdf>,
    pub optim: &'a OptimConfig,
    pub dtype: DType,
    pub recompute: Recompute,
    /// ZeRO stage.
    pub zero: u8,
    pub accumulate: Accumulate,
    pub sequence_parallel: bool,
    /// Longest sequence of any phase.
    pub seq_len: usize,
}

impl Replica {
    /// Allocates; weights are zero until `params.fill`. Collective over tp.
    pub fn new(dev: Device, mesh: Mesh, plan: &Plan) -> Result<Replica> {
        let dp = dp(&mesh, plan.zero);
        let tp = (mesh.tp.rank(), mesh.tp.size());
        let mesh = mesh.with_kv_copies(plan.model.kv_copies(tp.1))?;
        let (net, params) = Network::sparse(plan.model, plan.spdf, &dev, plan.dtype, tp, dp, plan.seq_len);
        let (shard, replicate) = (mesh.shard.clone(), mesh.replicate.clone());
        let ranks = Ranks { shard: shard.clone(), tp: mesh.tp.clone(), zero: plan.zero };
        let optim = Optimizer::new(&dev, plan.optim, &params, &ranks);
        let &Plan { sequence_parallel, recompute, .. } = plan;
        let partial = Partial { tp: mesh.tp.clone(), kv: mesh.kv.clone(), sequence_parallel };
        let flow = Flow::new(shard, replicate, partial, plan.zero, plan.accumulate, params.units.len());
        Ok(Replica {
            dev,
            mesh,
            net,
            params,
            flow,
            optim,
            masks: None,
            teacher: None,
            recompute,
            sequence_parallel,
            saving: None,
        })
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
        let plan = Plan {
            model: &meta.model,
            spdf: None,
            optim: &optim,
            dtype,
            recompute: Recompute::Keep,
            zero: 0,
            accumulate: Accumulate::Local,
            sequence_parallel: false,
            seq_len,
        };
        let mut r = Replica::new(dev, mesh, &plan)?;
        r.params.forget_training();
        let as_stored = meta.dtype == dtype.name();
        let values = match weights {
            EvalWeights::Trained if as_stored => Values::Stored,
            weights => weights.into(),
        };
        checkpoint.load_weights(&r.dev, &mut r.params, values)?;
        Ok(r)
    }

    /// Returns when weights and optimizer may change: no checkpoint is being written from them any more.
    pub fn fence(&mut self) {
        if let Some(saving) = &mut self.saving {
            saving.fence();
        }
    }

    /// Makes the zeros of a phase, or frees those of the one before; how many values of this rank were not zero yet.
    /// Collective.
    pub fn sparsify(&mut self, spdf: Option<&Spdf>) -> Result<u64> {
        self.masks = None;
        let Some(spdf) = spdf else { return Ok(0) };
        let masks = Masks::draw(&self.dev, self.mesh.world.as_ref(), &self.params, spdf)?;
        if masks.about.compact {
            // What is not stored need not be made zero.
            self.masks = Some(masks);
            return Ok(0);
        }
        self.fence();
        self.flow.settle(&mut self.params)?;
        let cleared = masks.state(&self.dev, &mut self.params, &mut self.optim);
        self.masks = Some(masks);
        self.flow.updated(&mut self.params)?;
        Ok(cleared)
    }

    /// What f makes of the averaged weights; the trained ones are back after it. Collective over dp.
    pub fn with_average<R>(&mut self, f: impl FnOnce(&mut Replica) -> Result<R>) -> Result<R> {
        let swap = |r: &mut Replica, place: fn(&mut Ema, &Device, &mut Params)| {
            r.fence();
            r.flow.settle(&mut r.params)?;
            if let Some(ema) = &mut r.optim.ema {
                place(ema, &r.dev, &mut r.params);
            }
            r.flow.updated(&mut r.params)
        };
        swap(self, Ema::show)?;
        let made = f(self);
        // Also after an error: what is saved then are the trained ones.
        let back = swap(self, Ema::hide);
        made.and_then(|made| back.map(|()| made))
    }
}

/// Where a rank of the mesh stands among those that share the parameters. Without ZeRO nothing is split, and all of dp is one
/// group.
pub fn dp(mesh: &Mesh, zero: u8) -> Dp {
    let (shard, replicate) = (&mesh.shard, &mesh.replicate);
    Dp { rank: shard.rank(), size: shard.size(), zero, replica: (replicate.rank(), replicate.size()) }
}
