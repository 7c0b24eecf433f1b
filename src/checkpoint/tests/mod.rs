//! States whose every value is a function of (kind, tensor, global index), so that any topology can check any other.

mod behind;
mod crash;
mod damage;
mod folder;
mod round_trip;

use super::*;
use crate::comm::run_ranks;
use crate::config::{ModelConfig, OptimConfig, OptimKind, Positions, Precision};
use crate::device::{DType, Device, Elem};
use crate::model::Network;
use crate::optim::{self, Optimizer};
use crate::params::{Dp, ParamSpec, Params, Placed};
use crate::rng::Philox;
use half::bf16;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ranks {
    pub dp: usize,
    pub tp: usize,
    pub zero: u8,
    /// Shard groups of dp.
    pub replicas: usize,
}

pub const SOLO: Ranks = Ranks { dp: 1, tp: 1, zero: 0, replicas: 1 };

pub const fn ranks(dp: usize, tp: usize, zero: u8) -> Ranks {
    Ranks { dp, tp, zero, replicas: 1 }
}

/// Both end in a vocabulary (200) that no topology divides into full ranks.
pub fn models() -> [ModelConfig; 2] {
    let base = |name| ModelConfig {
        layers: 1,
        dim: 32,
        heads: 4,
        kv_heads: 4,
        head_dim: 8,
        ffn_dim: 40,
        vocab: 200,
        ..ModelConfig::preset(name).unwrap()
    };
    let llama = ModelConfig { tied: false, qk_norm: true, ..base("llama-tiny") };
    let gpt2 = ModelConfig { positions: Positions::Learned { max: 10 }, ..base("gpt2-tiny") };
    [llama, gpt2]
}

/// Small enough to damage it everywhere.
pub fn smallest() -> ModelConfig {
    ModelConfig {
        layers: 2,
        dim: 4,
        heads: 2,
        kv_heads: 2,
        head_dim: 2,
        ffn_dim: 6,
        vocab: 10,
        ..models()[0].clone()
    }
}

pub fn adamw() -> OptimConfig {
    let kind = OptimKind::AdamW { betas: [0.9, 0.95], eps: 1e-8, weight_decay: 0.1, moments: Precision::F32 };
    OptimConfig { kind, clip: None, groups: vec![], ema: None }
}

pub fn meta(model: &ModelConfig, dtype: DType, update: u64) -> Meta {
    Meta {
        clocks: Clocks { update, adam_t: 7, schedule: 5, sample: 64 * update },
        phase: 1,
        phase_step: 3,
        lr: 0.1 + 0.2,
        ledger: serde_json::json!([{"first": 0, "web": 0.95, "laws": 0.05}]),
        data: serde_json::json!({"web": 12345, "laws": 7}),
        corpora: vec![CorpusId { name: "web".into(), hash: "00ff00ff00ff00ff".into(), weights: None }],
        numbers: serde_json::Value::Null,
        tokenizer_hash: "0123456789abcdef".into(),
        end_of_document: Some(0),
        seed: u64::MAX,
        config_hash: "fedcba9876543210".into(),
        dtype: dtype.name().into(),
        model: model.clone(),
        git: "unknown".into(),
    }
}

/// The whole tensor.
pub fn values(kind: Kind, dtype: DType, spec: &ParamSpec) -> Vec<f32> {
    let stream = if kind == Kind::Weight { Kind::Master } else { kind };
    let mut all = vec![0.0; spec.len()];
    Philox::new(3, &stream.entry(&spec.name)).fill_normal(0, 1.0, &mut all);
    if kind == Kind::Weight && dtype == DType::Bf16 {
        all.iter_mut().for_each(|x| *x = bf16::store(*x).load());
    }
    all
}

/// Element `i` of the whole tensor.
pub fn value(kind: Kind, dtype: DType, name: &str, i: usize) -> f32 {
    let stream = if kind == Kind::Weight { Kind::Master } else { kind };
    let x = Philox::new(3, &stream.entry(name)).normal(i as u64, 0) as f32;
    if kind == Kind::Weight && dtype == DType::Bf16 { bf16::store(x).load() } else { x }
}

/// The global index of each element that the rank holds, by its index in the unit.
pub fn elements(p: &Placed) -> impl Iterator<Item = (usize, usize)> {
    let (b, all) = (p.local, p.spec.cols);
    p.range().enumerate().map(move |(i, at)| (at, (b.row + i / b.cols) * all + b.col + i % b.cols))
}

/// A rank's state; all zeros, or with values and NaN in all padding.
pub fn replica(
    model: &ModelConfig,
    dtype: DType,
    ranks: Ranks,
    rank: usize,
    filled: bool,
) -> (Params, Optimizer, (usize, usize), Dp) {
    let (tp, dp_rank) = ((rank % ranks.tp, ranks.tp), rank / ranks.tp);
    let shard = ranks.dp / ranks.replicas;
    let replica = (dp_rank / shard, ranks.replicas);
    let dp = Dp { rank: dp_rank % shard, size: shard, zero: ranks.zero, replica };
    let dev = Device::cpu(1);
    let (_, mut params) = Network::build(model, &dev, dtype, tp, dp, 8);
    let mut optim = Optimizer::new(&dev, &adamw(), &params, &optim::Ranks::solo());
    if filled {
        optim.t = 7;
        for (u, [m, v]) in params.units.iter_mut().zip(&mut optim.moments) {
            m.data_mut::<f32>().fill(f32::NAN);
            v.data_mut::<f32>().fill(f32::NAN);
            if u.master.exists() {
                u.master.data_mut::<f32>().fill(f32::NAN);
            }
            match dtype {
                _ if !u.weights.exists() => {}
                DType::Bf16 => u.weights.data_mut::<bf16>().fill(bf16::NAN),
                _ => u.weights.data_mut::<f32>().fill(f32::NAN),
            }
            for p in &u.params {
                let values = Kind::ALL.map(|kind| values(kind, dtype, &p.spec));
                for (at, i) in elements(p) {
                    let value = |kind| values[kind as usize][i];
                    match dtype {
                        _ if !u.weights.exists() => {}
                        DType::Bf16 => u.weights.data_mut()[at] = bf16::store(value(Kind::Weight)),
                        _ => u.weights.data_mut()[at] = value(Kind::Weight),
                    }
                    if u.slice.contains(&at) {
                        let at = at - u.slice.start;
                        m.data_mut()[at] = value(Kind::M);
                        v.data_mut()[at] = value(Kind::V);
                        if u.master.exists() {
                            u.master.data_mut()[at] = value(Kind::Master);
                        }
                    }
                }
            }
        }
    }
    (params, optim, tp, dp)
}

pub const TEXTS: [(&str, &str); 2] = [("run.toml", "schema = 1\n"), ("tokenizer.json", "{}")];

/// Saves with all ranks as threads.
pub fn save_all(dir: &Path, model: &ModelConfig, dtype: DType, ranks: Ranks, update: u64) -> Saved {
    let mut saved = run_ranks(ranks.dp * ranks.tp, DEADLINE, |world| {
        let (params, optim, tp, dp) = replica(model, dtype, ranks, world.rank(), true);
        let state = SaveState { params: &params, optim: Some(&optim), tp, dp };
        save(dir, &state, &meta(model, dtype, update), &TEXTS, &|| world.barrier("checkpoint"))
    })
    .unwrap();
    saved.dedup();
    assert_eq!(saved.len(), 1, "all ranks report the same: {saved:?}");
    saved.remove(0)
}

/// Loads into every rank of a topology and compares bit by bit; padding must stay zero.
pub fn assert_reads(c: &Checkpoint, model: &ModelConfig, dtype: DType, ranks: Ranks) {
    for rank in 0..ranks.dp * ranks.tp {
        let (mut params, mut optim, ..) = replica(model, dtype, ranks, rank, false);
        c.load_weights(&Device::cpu(1), &mut params, Values::Stored).unwrap();
        if let Some(u) = params.units.iter_mut().find(|u| u.master.exists()) {
            // So that only `load_optimizer` can have brought the masters.
            u.master.bytes_mut().fill(0);
        }
        c.load_optimizer(&mut params, &mut optim).unwrap();
        assert_eq!(optim.t, 7);
        for (u, [m, v]) in params.units.iter().zip(&optim.moments) {
            let mut want: Vec<[f32; 4]> = vec![[0.0; 4]; u.len];
            for p in &u.params {
                let values = Kind::ALL.map(|kind| values(kind, dtype, &p.spec));
                for (at, i) in elements(p) {
                    want[at] = [0, 1, 2, 3].map(|kind| values[kind][i]);
                }
            }
            let bits = |x: f64| (x as f32).to_bits();
            let weights = if u.weights.exists() { u.weights.to_f64() } else { vec![] };
            for (at, got) in weights.into_iter().enumerate() {
                assert_eq!(
                    bits(got),
                    want[at][0].to_bits(),
                    "weight {at} of {} on {rank} of {ranks:?}",
                    u.name
                );
            }
            for (kind, buffer) in [(1, &u.master), (2, m), (3, v)] {
                let values = if buffer.exists() { buffer.to_f64() } else { vec![] };
                for (at, got) in values.into_iter().enumerate() {
                    let want = want[u.slice.start + at][kind];
                    assert_eq!(bits(got), want.to_bits(), "{kind} {at} of {} on {rank} of {ranks:?}", u.name);
                }
            }
        }
    }
}

/// All files below a directory with their contents, by name.
pub fn contents(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .map(|p| (p.strip_prefix(dir).unwrap().to_path_buf(), std::fs::read(p).unwrap()))
        .collect();
    all.sort();
    all
}

pub fn spec<'a>(c: &'a Checkpoint, name: &str) -> &'a ParamSpec {
    c.manifest().params.iter().find(|p| p.name == name).unwrap()
}
