//! The layouts that a run's ranks allow, simplest first, and why the others are out.

use super::cost::Ranks;
use crate::config::{Accumulate, ParallelConfig, Recompute, RunConfig, Shard};
use crate::train::sparse::tp_problem;

/// A layout but for recompute and micro-batch, which memory decides.
pub struct Space {
    pub layouts: Vec<ParallelConfig>,
    /// What is out, and why.
    pub out: Vec<(String, String)>,
}

/// `config.parallel` is what every layout begins with.
pub fn space(config: &RunConfig, ranks: Ranks) -> Space {
    let mut space = Space { layouts: vec![], out: vec![] };
    let mut refuse = |tp: usize, why: String| space.out.push((format!("tp {tp}"), why));
    for tp in (1..=ranks.of_a_node).filter(|tp| ranks.of_a_node.is_multiple_of(*tp)) {
        if let Some((name, width)) = config.models().find_map(|m| m.tp_problem(tp)) {
            refuse(tp, format!("{name} {width} is not divided by it"));
            continue;
        }
        if let Some(problem) = tp_problem(config, tp) {
            refuse(tp, problem);
            continue;
        }
        let dp = ranks.all / tp;
        let uneven = |p: &crate::config::PhaseConfig| p.sizes().find(|size| !size.is_multiple_of(dp));
        if let Some(size) = config.phases.iter().find_map(uneven) {
            refuse(tp, format!("{size} sequences are not divided by dp {dp}"));
            continue;
        }
        let even = config.phases.iter().all(|p| p.seq_len.is_multiple_of(tp));
        for sequence_parallel in [false, true] {
            if sequence_parallel && (tp == 1 || !even) {
                continue;
            }
            let base = ParallelConfig { tp, sequence_parallel, open: false, ..config.parallel.clone() };
            let near = ranks.of_a_node / tp;
            let shards: &[Shard] = match near < dp && near > 1 {
                true => &[Shard::All, Shard::Node(Some(near))],
                false => &[Shard::All],
            };
            let stages: &[u8] = if dp > 1 { &[1, 2, 3] } else { &[1] };
            for &zero in stages {
                for shard in shards {
                    let local = ParallelConfig { zero, shard: *shard, ..base.clone() };
                    let sharded = ParallelConfig { accumulate: Accumulate::Sharded, ..local.clone() };
                    space.layouts.push(local);
                    if zero > 1 {
                        space.layouts.push(sharded);
                    }
                }
            }
        }
    }
    space
}

/// Sizes of a micro-batch that divide every batch, largest first, within the tokens that suffice for efficient products.
pub fn micro_batches(config: &RunConfig, dp: usize) -> Vec<usize> {
    let longest = config.phases.iter().map(|p| p.seq_len).max().unwrap_or(1);
    let each = |n: &usize| config.phases.iter().all(|p| p.sizes().all(|size| size.is_multiple_of(n * dp)));
    let most = config.phases.iter().flat_map(|p| p.sizes()).min().unwrap_or(1) / dp;
    let enough = |n: &usize| *n == 1 || n * longest <= TOKENS;
    let mut all: Vec<usize> = (1..=most.min(TOKENS)).filter(|n| enough(n) && each(n)).collect();
    all.reverse();
    all
}

/// As where the run file leaves the size open.
const TOKENS: usize = 8192;

/// "tp 2, zero 1, ..." as the run file calls it.
pub fn name(p: &ParallelConfig) -> String {
    let mut name = format!("tp {}, zero {}", p.tp, p.zero);
    if let Shard::Node(_) = p.shard {
        name += ", shard node";
    }
    if p.sequence_parallel {
        name += ", sequence_parallel";
    }
    if p.accumulate == Accumulate::Sharded {
        name += ", accumulate sharded";
    }
    name
}

pub fn full_name(p: &ParallelConfig) -> String {
    let micro = p.micro_batch.map_or(String::new(), |n| format!(", micro_batch {n}"));
    format!("{}, recompute {}{micro}", name(p), recompute(p.recompute))
}

pub fn recompute(r: Recompute) -> &'static str {
    match r {
        Recompute::Keep => "keep",
        Recompute::Cheap => "cheap",
        Recompute::Full => "full",
    }
}
