//! What an update takes, by a model of few constants: enough to compare layouts of one run with each other.
//!
//!     compute = tokens · FLOP per token / ranks · extra / (threads · RATE · shape)
//!     a collective = alpha · rounds + bytes inside a node / B1 + bytes between nodes · ranks of a node / B2
//!
//! extra: what recompute adds; shape: how well products of few rows or narrow parts use a core. Nothing is counted as
//! hidden behind arithmetic. Bytes and numbers of collectives are those that a rehearsal counts.

use crate::comm::{Job, Kind};
use crate::config::{Recompute, RunConfig};
use std::collections::BTreeMap;

/// FLOP/s of one thread in large products.
pub const RATE: f64 = 5e10;
/// Seconds that a message takes at least, within a node and between two.
pub const ALPHA: [f64; 2] = [2e-5, 5e-5];
/// Bytes a second: of a rank within its node, of a node to others.
pub const BANDWIDTH: [f64; 2] = [5e9, 3e9];
/// Rows of a product, and its width, at which half of the rate is reached.
const HALF: [f64; 2] = [32.0, 24.0];

/// How the ranks lie.
#[derive(Clone, Copy, Debug)]
pub struct Ranks {
    pub all: usize,
    pub of_a_node: usize,
    pub threads: usize,
}

/// Seconds of arithmetic of one update of `samples` sequences.
pub fn compute(config: &RunConfig, ranks: Ranks, samples: f64, seq_len: usize, micro_batch: usize) -> f64 {
    let (m, p) = (config.last_model(), &config.parallel);
    let flops = samples * seq_len as f64 * m.flops_per_token(seq_len, true);
    let extra = match p.recompute {
        Recompute::Keep => 1.0,
        // Norms and activations again, which products outweigh.
        Recompute::Cheap => 1.03,
        // The forward again.
        Recompute::Full => 4.0 / 3.0,
    };
    let fills = |n: usize, half: f64| n as f64 / (n as f64 + half);
    let width = (m.ffn_dim / p.tp).min(m.heads * m.head_dim / p.tp);
    let shape = fills(micro_batch * seq_len, HALF[0]) * fills(width, HALF[1]);
    flops * extra / (ranks.all * ranks.threads) as f64 / (RATE * shape)
}

/// Seconds of collectives, one after the other. `sizes`: ranks of a group, and how many of these share a node, by axis.
pub fn communication(jobs: &BTreeMap<Job, f64>, ranks: Ranks, sizes: impl Fn(&str) -> (usize, usize)) -> f64 {
    let one = |(job, times): (&Job, &f64)| {
        let (n, near) = sizes(&job.axis);
        let bytes = job.kind.sent(job.len * job.dtype.bytes(), n) as f64;
        let rounds = if job.kind == Kind::AllReduce { 2.0 } else { 1.0 } * (n as f64).log2().ceil();
        // Every rank sends every other its part: to so many of them through the link of the node.
        let far = (n - near) as f64 / (n - 1).max(1) as f64;
        let alpha = if near < n { ALPHA[1] } else { ALPHA[0] };
        let near = bytes * (1.0 - far) / BANDWIDTH[0];
        times * (alpha * rounds + near + bytes * far * ranks.of_a_node as f64 / BANDWIDTH[1])
    };
    jobs.iter().map(one).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DType;

    #[test]
    fn bytes_between_nodes_share_the_link_of_a_node() {
        let job = Job { axis: "dp".into(), kind: Kind::AllGather, dtype: DType::F32, len: 1 << 20 };
        let jobs = BTreeMap::from([(job, 2.0)]);
        let ranks = Ranks { all: 8, of_a_node: 4, threads: 1 };
        let sent = (1 << 22) as f64 * 7.0 / 8.0;
        let near = communication(&jobs, ranks, |_| (8, 8));
        assert!((near - 2.0 * (3.0 * ALPHA[0] + sent / BANDWIDTH[0])).abs() < 1e-12);
        let far = communication(&jobs, ranks, |_| (8, 4));
        let (out, inside) = (sent * 4.0 / 7.0 * 4.0 / BANDWIDTH[1], sent * 3.0 / 7.0 / BANDWIDTH[0]);
        assert!((far - 2.0 * (3.0 * ALPHA[1] + out + inside)).abs() < 1e-12);
    }
}
