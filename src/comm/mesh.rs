//! The ranks of a run as a grid, data parallel × tensor parallel, tensor parallel innermost:
//! rank = dp_rank · tp_size + tp_rank. Neighbouring ranks share a node, and tensor parallelism talks most.
//! Rank arithmetic lives only here.

use super::solo::Staging;
use super::{Comm, Solo};
use crate::{Error, Result};
use std::sync::Arc;

#[derive(Clone)]
pub struct Mesh {
    pub world: Arc<dyn Comm>,
    /// Ranks that hold the same piece of the model and see different data.
    pub dp: Arc<dyn Comm>,
    /// Ranks that hold different pieces of the model and see the same data.
    pub tp: Arc<dyn Comm>,
}

impl Mesh {
    /// Every rank of the world must call it. Error: `Launch` if tp does not divide the number of ranks.
    pub fn new(world: Arc<dyn Comm>, tp: usize) -> Result<Mesh> {
        let (rank, size) = (world.rank(), world.size());
        if tp == 0 || !size.is_multiple_of(tp) {
            let fits: Vec<String> =
                (1..=size).filter(|d| size.is_multiple_of(*d)).map(|d| d.to_string()).collect();
            return Err(Error::launch(
                format!("parallel.tp = {tp} does not divide the number of ranks: {size}"),
                format!("start with a multiple of tp ranks or set parallel.tp to one of {}", fits.join(", ")),
            ));
        }
        let (dp_rank, tp_rank) = (rank / tp, rank % tp);
        let dp = world.split(tp_rank, dp_rank, "dp")?;
        let tp = world.split(dp_rank, tp_rank, "tp")?;
        Ok(Mesh { world, dp, tp })
    }

    /// One rank.
    pub fn solo() -> Mesh {
        Mesh::pretend(1, 1)
    }

    /// Rank 0 of a mesh without peers, for the Meta device: its collectives only count.
    pub fn pretend(dp: usize, tp: usize) -> Mesh {
        Mesh::pretend_rank(0, dp, tp)
    }

    /// The same as any rank of the world.
    pub fn pretend_rank(rank: usize, dp: usize, tp: usize) -> Mesh {
        Mesh::pretend_staged(rank, dp, tp, None)
    }

    /// The same with the memory that a transport takes counted.
    pub fn pretend_staged(rank: usize, dp: usize, tp: usize, staging: Option<Staging>) -> Mesh {
        let world = Solo::pretend(rank, dp * tp, "world").staged(staging);
        let (dp, tp) = (world.pretend_part(rank / tp, dp, "dp"), world.pretend_part(rank % tp, tp, "tp"));
        Mesh { world: Arc::new(world), dp: Arc::new(dp), tp: Arc::new(tp) }
    }
}
