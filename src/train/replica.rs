//! What one rank holds: its device, its place in the mesh, the network, its parameters and optimizer state.

use crate::Result;
use crate::comm::Mesh;
use crate::config::{ModelConfig, OptimConfig};
use crate::device::{DType, Device};
use crate::model::Network;
use crate::optim::Optimizer;
use crate::params::{Dp, Params};
use crate::tape::Recompute;

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
