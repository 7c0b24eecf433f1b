//! Growth: a larger model out of a smaller one, by width (zero_pad, tile, FPI, AKI) and depth (identity, stack, interpolate).
//!
//! Every tensor of the larger model is rows and columns of one of the smaller one times factors, or new (`source.rs`). Which
//! rows and columns is a map for each axis of the network (`axis.rs`); which axes a tensor has, its class (`class.rs`). With
//! g the map along an axis and C(i) how often it takes i, a matrix y = W·x becomes (bert2BERT, arXiv 2110.07143, eq. 4 to 6)
//!
//!     W'[o, i] = s(o, i) · W[g(o), g(i)],    Σ s(o, i) over the copies i of a channel = 1,    s = 1 / C for FPI
//!
//! Unequal s keeps the function and lets copies go apart (LEMON, arXiv 2310.07999).
//!
//! Lossless, with D old and D' new channels:
//! - RMSNorm, zero_pad: zeros in the stream, scale · √(D/D'), ε' = ε · D/D'.
//! - LayerNorm, zero_pad: r = ⌊D'/D⌋ copies, the mean of the old channels in the rest; scale · √(rD/D'), ε' = ε · rD/D'.
//! - Copies in equal number: norms as they are. A tied head counts them: 1/C goes into the scale of the last norm.
//! - A head of m times the channels: rotary pair e at m·e, queries · √m. QK-norm undoes ε' by queries and keys · √(ε'/ε).
//! - New blocks with zero output; with post-norm, scale and bias of the last norm before move to the last new one.

mod axis;
mod class;
mod depth;
mod source;

pub use depth::stack_after;
pub use source::{Grown, Quantity};

use crate::Result;
use crate::config::{Depth, Grow, ModelConfig, Norm, NormPlace, Sizes, Width, grow::averaged_copies};
use crate::model::Network;
use crate::params::ParamSpec;
use axis::{AxisMap, BlockMaps};
use depth::BlockOf;
use std::collections::HashMap;

/// How one model grows into another: everything but the values.
pub struct Growth {
    pub grow: Grow,
    pub from: ModelConfig,
    pub to: ModelConfig,
    residual: AxisMap,
    vocab: AxisMap,
    /// Of the blocks of the source.
    maps: Vec<BlockMaps>,
    /// Of the blocks of the larger model.
    blocks: Vec<BlockOf>,
    /// The tensors of the source, by name.
    source: HashMap<String, ParamSpec>,
    /// Of the scale of norms: √(D/D') where new channels carry nothing.
    norm_scale: f64,
}

impl Growth {
    /// `to` is what `Grow::target` says of `from`.
    pub fn new(grow: &Grow, from: &ModelConfig, to: &ModelConfig) -> Growth {
        let norm_scale = match (grow.width, from.norm) {
            (Width::ZeroPad, Norm::Rms) => (from.dim as f64 / to.dim as f64).sqrt(),
            (Width::ZeroPad, Norm::Layer) => {
                ((averaged_copies(from.dim, to.dim) * from.dim) as f64 / to.dim as f64).sqrt()
            }
            (Width::Tile | Width::Fpi | Width::Aki, _) => 1.0,
        };
        Growth {
            grow: grow.clone(),
            from: from.clone(),
            to: to.clone(),
            residual: axis::residual(grow, from, to),
            vocab: AxisMap::padded(from.vocab, to.vocab),
            maps: (0..from.layers).map(|l| BlockMaps::new(grow, from, to, l)).collect(),
            blocks: depth::blocks(grow.depth, from.layers, to.layers),
            source: Network::specs(from).into_iter().map(|s| (s.name.clone(), s)).collect(),
            norm_scale,
        }
    }

    /// The same from what a user asks; an error names `file` and, after `key`, the size.
    pub fn resolve(grow: &Grow, from: &ModelConfig, file: &str, key: &str) -> Result<Growth> {
        let refused = |(size, problem, remedy): (&str, String, String)| {
            crate::Error::config(file, format!("{key}{size}"), problem, remedy)
        };
        let to = grow.target(from).map_err(refused)?;
        Ok(Growth::new(grow, from, &to))
    }

    /// Every size: its key, of the smaller and of the larger model.
    pub fn sizes(&self) -> [(&'static str, usize, usize); 7] {
        let sizes = |c: &ModelConfig| [c.layers, c.dim, c.heads, c.kv_heads, c.head_dim, c.ffn_dim, c.vocab];
        let (from, to) = (sizes(&self.from), sizes(&self.to));
        std::array::from_fn(|i| (Sizes::KEYS[i], from[i], to[i]))
    }

    /// The tensor of the smaller model that one of the larger comes from.
    pub fn source_of(&self, spec: &ParamSpec) -> Option<&ParamSpec> {
        let (block, rest) = class::split(&spec.name);
        let name = block.map_or(rest.to_string(), |l| format!("blocks.{}.{rest}", self.blocks[l].source));
        self.source.get(&name)
    }

    /// Why the larger model computes something else; empty where logits (those of the old vocabulary) are the same but for
    /// rounding.
    pub fn losses(&self) -> Vec<String> {
        let (from, to) = (&self.from, &self.to);
        let mut why = vec![];
        let wider = from.dim != to.dim || from.heads != to.heads || from.ffn_dim != to.ffn_dim;
        if self.grow.width == Width::Aki && wider {
            why.push("aki fills new rows from the next block".into());
        }
        if self.grow.width == Width::Fpi && !self.residual.is_even() {
            let [low, high] = [to.dim / from.dim, to.dim / from.dim + 1];
            why.push(format!("fpi copies some channels {low} times and others {high}, and norms weigh them"));
        }
        if self.grow.depth != Depth::Identity && from.layers != to.layers {
            why.push(format!("{} repeats blocks", self.grow.depth.name()));
        }
        why
    }

    /// Idle blocks of a post-norm model norm what was normed: a change of the order of ε of the variance.
    pub fn nearly(&self) -> bool {
        self.from.norm_place == NormPlace::Post && self.blocks.iter().any(|b| b.idle)
    }
}
