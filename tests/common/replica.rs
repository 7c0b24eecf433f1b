//! Replicas of two small models, stepped directly: a GPT-2 (biases, learned positions, tied head) and a Llama (grouped
//! queries, QK-norm, own head), with an odd vocabulary whose last tensor-parallel part of four is empty.

use espalier::Result;
use espalier::comm::{Mesh, World, run_ranks};
use espalier::config::{Group, ModelConfig, OptimConfig, OptimKind, Positions, Precision, Spdf};
use espalier::device::{DType, Device};
use espalier::params::{Accumulate, Init, LocalBox, ParamSpec, TensorSource};
use espalier::tape::Recompute;
use espalier::train::replica::{Plan, Replica};
use std::time::Duration;

/// T unless a test says otherwise.
pub const SEQ_LEN: usize = 48;
pub const VOCAB: usize = 517;

pub fn gpt2() -> ModelConfig {
    let base = ModelConfig::preset("gpt2-tiny").expect("a preset");
    ModelConfig {
        layers: 2,
        dim: 64,
        heads: 4,
        kv_heads: 4,
        head_dim: 16,
        ffn_dim: 128,
        vocab: VOCAB,
        positions: Positions::Learned { max: SEQ_LEN },
        max_positions: SEQ_LEN,
        ..base
    }
}

pub fn llama() -> ModelConfig {
    let base = ModelConfig::preset("llama-tiny").expect("a preset");
    ModelConfig {
        layers: 2,
        dim: 64,
        heads: 8,
        kv_heads: 4,
        head_dim: 16,
        ffn_dim: 96,
        vocab: VOCAB,
        qk_norm: true,
        tied: false,
        max_positions: SEQ_LEN,
        ..base
    }
}

/// How a model is trained.
#[derive(Clone)]
pub struct Setup {
    pub model: ModelConfig,
    /// What is stored as blocks.
    pub compact: Option<Spdf>,
    /// The longest that will be seen.
    pub seq_len: usize,
    pub kind: OptimKind,
    pub dtype: DType,
    pub recompute: Recompute,
    pub dp: usize,
    pub tp: usize,
    pub zero: u8,
    /// Ranks of a shard group; 0 is all of dp.
    pub shard: usize,
    pub accumulate: Accumulate,
    pub sequence_parallel: bool,
    /// Of each rank.
    pub threads: usize,
}

impl Setup {
    /// One rank of one thread, f32, AdamW, everything kept.
    pub fn solo(model: ModelConfig) -> Setup {
        Setup {
            model,
            compact: None,
            seq_len: SEQ_LEN,
            kind: OptimKind::AdamW {
                betas: [0.9, 0.95],
                eps: 1e-8,
                weight_decay: 0.1,
                moments: Precision::F32,
            },
            dtype: DType::F32,
            recompute: Recompute::Keep,
            dp: 1,
            tp: 1,
            zero: 0,
            shard: 0,
            accumulate: Accumulate::Local,
            sequence_parallel: false,
            threads: 1,
        }
    }

    /// Calls f on every rank with its replica; what they returned, by rank.
    pub fn run<R: Send>(&self, f: impl Fn(&mut Replica) -> Result<R> + Sync) -> Vec<R> {
        let ranks = run_ranks(self.dp * self.tp, Duration::from_secs(300), |world| {
            let mut r = self.replica(world)?;
            let made = f(&mut r)?;
            r.flow.settle(&mut r.params)?;
            Ok(made)
        });
        ranks.unwrap_or_else(|e| panic!("dp {} tp {}: {e}", self.dp, self.tp))
    }

    /// The replica of a rank of the world. Collective.
    pub fn replica(&self, world: World) -> Result<Replica> {
        let patterns = vec!["*.bias".into(), "*norm*".into()];
        let groups = vec![Group { patterns, weight_decay: Some(0.0), lr_scale: None }];
        let optim = OptimConfig { kind: self.kind, clip: None, groups, ema: None };
        let plan = Plan {
            model: &self.model,
            spdf: self.compact.as_ref(),
            optim: &optim,
            dtype: self.dtype,
            recompute: self.recompute,
            zero: self.zero,
            accumulate: self.accumulate,
            sequence_parallel: self.sequence_parallel,
            seq_len: self.seq_len,
        };
        let shard = if self.shard == 0 { self.dp } else { self.shard };
        let mesh = Mesh::grid(world, self.tp, shard)?;
        let mut r = Replica::new(Device::cpu(self.threads), mesh, &plan)?;
        r.params.fill(&r.dev, &Varied)?;
        Ok(r)
    }
}

/// Every tensor random: zero biases and unit gains would hide what is done to them.
pub struct Varied;

impl TensorSource for Varied {
    fn read(&self, spec: &ParamSpec, b: LocalBox, out: &mut [f32]) -> Result<()> {
        let mut varied = spec.clone();
        varied.init = Init::Normal { std: 0.1 };
        varied.fill(7, b, out);
        if spec.init == Init::Ones {
            out.iter_mut().for_each(|x| *x += 1.0);
        }
        Ok(())
    }
}
