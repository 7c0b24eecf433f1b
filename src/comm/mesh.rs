//! The ranks of a run as a grid, data parallel × tensor parallel, tensor parallel innermost, and data parallel as
//! replicas × shards:
//!
//!     rank = dp_rank · tp_size + tp_rank,   dp_rank = replica · shard_size + shard_rank
//!
//! Neighbouring ranks share a node; tensor parallelism talks most, shards of one model next. Rank arithmetic lives
//! only here.

use super::solo::Staging;
use super::{Comm, Job, Solo, Spent};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone)]
pub struct Mesh {
    pub world: Arc<dyn Comm>,
    /// Ranks that hold the same piece of the model and see different data.
    pub dp: Arc<dyn Comm>,
    /// Ranks that hold different pieces of the model and see the same data.
    pub tp: Arc<dyn Comm>,
    /// The ranks of dp over which ZeRO splits state.
    pub shard: Arc<dyn Comm>,
    /// The ranks of dp that keep the same part of it.
    pub replicate: Arc<dyn Comm>,
    /// The ranks of tp that hold the same kv heads (`with_kv_copies`).
    pub kv: Arc<dyn Comm>,
    /// The world of a mesh without peers.
    pretended: Option<Arc<Solo>>,
}

impl Mesh {
    /// One shard group. Every rank of the world must call it. Error: `Launch` if tp does not divide the number of ranks.
    pub fn new(world: Arc<dyn Comm>, tp: usize) -> Result<Mesh> {
        let dp = world.size() / tp.max(1);
        Mesh::grid(world, tp, dp.max(1))
    }

    /// With shard groups of `shard` data-parallel ranks. Every rank of the world must call it. Error: `Launch` if tp does
    /// not divide the number of ranks, or `shard` that of data-parallel ranks.
    pub fn grid(world: Arc<dyn Comm>, tp: usize, shard: usize) -> Result<Mesh> {
        let (rank, size) = (world.rank(), world.size());
        let divisors = |n: usize| {
            let fits: Vec<String> = (1..=n).filter(|d| n.is_multiple_of(*d)).map(|d| d.to_string()).collect();
            fits.join(", ")
        };
        if tp == 0 || !size.is_multiple_of(tp) {
            return Err(Error::launch(
                format!("parallel.tp = {tp} does not divide the number of ranks: {size}"),
                format!("start with a multiple of tp ranks or set parallel.tp to one of {}", divisors(size)),
            ));
        }
        let all = size / tp;
        if shard == 0 || !all.is_multiple_of(shard) {
            return Err(Error::launch(
                format!("parallel.shard = {shard} does not divide the number of data-parallel ranks: {all}"),
                format!("set it to \"all\" or to one of {}", divisors(all)),
            ));
        }
        let (dp_rank, tp_rank) = (rank / tp, rank % tp);
        let dp = world.split(tp_rank, dp_rank, "dp")?;
        let tp = world.split(dp_rank, tp_rank, "tp")?;
        if shard == all {
            let (replicate, kv) = (alone(), alone());
            return Ok(Mesh { world, tp, shard: dp.clone(), dp, replicate, kv, pretended: None });
        }
        let replicas = dp.split(dp_rank % shard, dp_rank / shard, "replicate")?;
        let shard = dp.split(dp_rank / shard, dp_rank % shard, "shard")?;
        Ok(Mesh { world, dp, tp, shard, replicate: replicas, kv: alone(), pretended: None })
    }

    /// The same with groups of `copies` neighbours of tp. Every rank of tp must call it.
    pub fn with_kv_copies(self, copies: usize) -> Result<Mesh> {
        let (group, rank) = (self.tp.rank() / copies, self.tp.rank() % copies);
        let kv: Arc<dyn Comm> = match (copies, &self.pretended) {
            (1, _) => alone(),
            (_, Some(world)) => Arc::new(world.pretend_part(rank, copies, "kv")),
            (_, None) => self.tp.split(group, rank, "kv")?,
        };
        Ok(Mesh { kv, ..self })
    }

    /// One rank.
    pub fn solo() -> Mesh {
        Mesh::pretend(1, 1)
    }

    /// Rank 0 of a mesh without peers, for the Meta device: its collectives only count.
    pub fn pretend(dp: usize, tp: usize) -> Mesh {
        Mesh::pretend_rank(0, (dp, dp), tp)
    }

    /// The same as any rank of the world. `dp`: the ranks of dp, and of a shard group.
    pub fn pretend_rank(rank: usize, dp: (usize, usize), tp: usize) -> Mesh {
        Mesh::pretend_staged(rank, dp, tp, None)
    }

    /// The same with the memory that a transport takes counted.
    pub fn pretend_staged(
        rank: usize,
        (dp, shard): (usize, usize),
        tp: usize,
        staging: Option<Staging>,
    ) -> Mesh {
        let world = Arc::new(Solo::pretend(rank, dp * tp, "world").staged(staging));
        let dp_rank = rank / tp;
        let part = |rank, size, axis| Arc::new(world.pretend_part(rank, size, axis)) as Arc<dyn Comm>;
        let whole = part(dp_rank, dp, "dp");
        let (shard, replicate) = match shard == dp {
            true => (whole.clone(), part(0, 1, "replicate")),
            false => (part(dp_rank % shard, shard, "shard"), part(dp_rank / shard, dp / shard, "replicate")),
        };
        let tp = part(rank % tp, tp, "tp");
        Mesh { world: world.clone(), dp: whole, tp, shard, replicate, kv: alone(), pretended: Some(world) }
    }

    /// The collectives that a mesh without peers counted, and how often each was called.
    pub fn jobs(&self) -> BTreeMap<Job, u64> {
        self.pretended.as_ref().map_or(BTreeMap::new(), |world| world.jobs())
    }

    /// The group that reports call `axis`.
    pub fn group(&self, axis: &str) -> Option<&Arc<dyn Comm>> {
        let all = [&self.dp, &self.tp, &self.shard, &self.replicate, &self.kv, &self.world];
        all.into_iter().find(|g| g.axis() == axis && g.size() > 1)
    }

    /// Where the time of this rank's collectives went, in all groups.
    pub fn spent(&self) -> Spent {
        let shard = if Arc::ptr_eq(&self.dp, &self.shard) { Spent::default() } else { self.shard.spent() };
        let others = [&self.world, &self.dp, &self.tp, &self.replicate, &self.kv].map(|c| c.spent());
        others.into_iter().fold(shard, |sum, s| sum + s)
    }

    /// Bytes that this rank sent over dp (its shard and replicate groups included) and over tp (its kv group included).
    pub fn sent(&self) -> [u64; 2] {
        let bytes = |c: &Arc<dyn Comm>| c.traffic().bytes();
        let split = if Arc::ptr_eq(&self.dp, &self.shard) { 0 } else { bytes(&self.shard) };
        [bytes(&self.dp) + split + bytes(&self.replicate), bytes(&self.tp) + bytes(&self.kv)]
    }
}

fn alone() -> Arc<dyn Comm> {
    Arc::new(Solo::new())
}
