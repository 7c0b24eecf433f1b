//! Matrices that are moved to an owner and back: Muon trains alike on every topology.

use super::*;
use espalier::config::MuonConfig;

/// The shapes whose moves differ: of slices, of whole boxes, over tp, over both, in rounds of one block and of all.
const OF_MUON: [Topology; 11] = [
    topology(1, 1, 2, 0),
    topology(2, 1, 1, 0),
    topology(4, 1, 2, 1),
    topology(1, 4, 2, 0),
    topology(2, 2, 2, 0),
    topology(2, 2, 2, 2),
    sharded(topology(4, 1, 2, 3)),
    Topology { shard: 2, ..topology(4, 2, 1, 3) },
    Topology { shard: 2, ..topology(4, 1, 2, 1) },
    sequence(topology(2, 4, 2, 3)),
    sequence(full(topology(1, 2, 2, 1))),
];

#[test]
fn every_topology_trains_by_muon_like_one_rank() {
    every_topology_trains_like_one_rank(gpt2(), muon(), 3e-4, &OF_MUON);
    every_topology_trains_like_one_rank(llama(), muon(), 3e-4, &OF_MUON);
    every_topology_trains_like_one_rank(few_kv_heads(1), muon(), 3e-4, &OF_KV_COPIES);
}

/// Whose momentum is rounded at random.
pub fn muon_in_bf16() -> OptimKind {
    match muon() {
        OptimKind::Muon(muon) => OptimKind::Muon(MuonConfig { moments: Precision::Bf16, ..muon }),
        kind => kind,
    }
}
