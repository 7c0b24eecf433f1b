//! The shape of a network: everything that decides which parameters exist and what the forward computes.
//!
//! Block, pre-norm: x + attn(norm1(x)), then x + mlp(norm2(x)), and one `norm` before the head. Post-norm (BERT):
//! norm1(x + attn(x)), then norm2(x + mlp(x)), and no norm before the head.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};

/// Largest sizes accepted: beyond any model, and small enough that counts fit in 64 bits.
pub(super) mod limit {
    pub const LAYERS: usize = 10_000;
    pub const DIM: usize = 1 << 20;
    pub const HEADS: usize = 1 << 14;
    pub const HEAD_DIM: usize = 1 << 12;
    pub const FFN_DIM: usize = 1 << 22;
    pub const VOCAB: usize = 1 << 28;
    pub const POSITIONS: usize = 1 << 28;
    pub const TOKEN_TYPES: usize = 1 << 16;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelConfig {
    pub layers: usize,
    pub dim: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub ffn_dim: usize,
    pub vocab: usize,
    pub norm: Norm,
    pub norm_eps: f64,
    pub norm_place: NormPlace,
    pub positions: Positions,
    /// Rows of the table when positions are learned; otherwise only recorded and exported.
    pub max_positions: usize,
    /// RMS norm of each query and key head before the rotation; weights of `head_dim`.
    pub qk_norm: bool,
    pub activation: Activation,
    /// Bias of the query, key and value projections.
    pub qkv_bias: bool,
    /// Bias of the attention output projection.
    pub out_bias: bool,
    pub mlp_bias: bool,
    /// Bias of LayerNorm.
    pub norm_bias: bool,
    /// Bias of the decoder, one per vocabulary entry.
    pub head_bias: bool,
    /// The decoder is the embedding matrix.
    pub tied: bool,
    pub causal: bool,
    /// Rows of the token-type table; 0 = no table.
    pub token_types: usize,
    /// A norm right after the sum of the embeddings.
    pub embed_norm: bool,
    pub head: Head,
    /// The logits are c·tanh(logits / c).
    #[serde(default)]
    pub logit_softcap: Option<f64>,
    /// Standard deviation of the initial weight matrices and embeddings.
    pub init_std: f64,
    /// `attn.o` and `mlp.down` start at init_std / sqrt(2 L).
    pub init_scale_residual: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    Layer,
    Rms,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NormPlace {
    Pre,
    Post,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Positions {
    /// A table of `max` rows, added to the token embedding.
    Learned {
        max: usize,
    },
    /// Rotation of query and key pairs (i, i + head_dim/2) by position · theta^(−2i/head_dim).
    Rope {
        theta: f64,
        scaling: Option<RopeScaling>,
    },
    None,
}

/// The llama3 kind: frequencies with a wavelength beyond original_max / low_freq are divided by `factor`, those
/// below original_max / high_freq are kept, between them the two are blended linearly.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct RopeScaling {
    pub factor: f64,
    pub low_freq: f64,
    pub high_freq: f64,
    pub original_max: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// The tanh form of GELU (GPT-2).
    GeluTanh,
    /// GELU by erf (BERT).
    Gelu,
    /// silu(gate) · up.
    SwiGlu,
    /// gelu(gate) · up, by erf.
    GeGlu,
    /// gelu(gate) · up, tanh form.
    GeGluTanh,
    /// max(x, 0)².
    Relu2,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Head {
    /// norm (pre-norm models), then the decoder.
    Lm,
    /// A dense layer with the ungated form of the activation and a norm before the decoder (BERT).
    Mlm,
}

impl ModelConfig {
    /// The MLP has a gate: three matrices instead of two.
    pub fn is_glu(&self) -> bool {
        matches!(self.activation, Activation::SwiGlu | Activation::GeGlu | Activation::GeGluTanh)
    }

    /// The first width that `tp` ranks cannot share, and its size. A kv head may be on several ranks: there K divides tp.
    pub fn tp_problem(&self, tp: usize) -> Option<(&'static str, usize)> {
        let divides = |n: usize| tp > 0 && n.is_multiple_of(tp);
        let kv = divides(self.kv_heads) || tp.is_multiple_of(self.kv_heads);
        let fits = [
            ("heads", self.heads, divides(self.heads)),
            ("kv_heads", self.kv_heads, kv),
            ("ffn_dim", self.ffn_dim, divides(self.ffn_dim)),
        ];
        fits.into_iter().find(|(.., fits)| !fits).map(|(name, width, _)| (name, width))
    }

    /// Ranks of `tp` that hold the same kv heads.
    pub fn kv_copies(&self, tp: usize) -> usize {
        (tp / self.kv_heads).max(1)
    }

    /// The exact number of parameters; a tied head counts once.
    pub fn params(&self) -> u64 {
        let n = |x: usize| x as u64;
        let (c, f, v) = (n(self.dim), n(self.ffn_dim), n(self.vocab));
        let (q, kv) = (n(self.heads * self.head_dim), n(self.kv_heads * self.head_dim));
        let bias = |on: bool, width: u64| if on { width } else { 0 };
        let norm = |width: u64| width + bias(self.norm_bias, width);

        let attn = c * (q + 2 * kv)
            + bias(self.qkv_bias, q + 2 * kv)
            + q * c
            + bias(self.out_bias, c)
            + if self.qk_norm { 2 * n(self.head_dim) } else { 0 };
        let wide = if self.is_glu() { 2 * f } else { f };
        let mlp = c * wide + bias(self.mlp_bias, wide) + f * c + bias(self.mlp_bias, c);
        let block = attn + mlp + 2 * norm(c);

        let positions = if let Positions::Learned { max } = self.positions { n(max) * c } else { 0 };
        let embed = v * c + positions + n(self.token_types) * c + if self.embed_norm { norm(c) } else { 0 };
        let last_norm = if self.norm_place == NormPlace::Pre { norm(c) } else { 0 };
        let mlm = if self.head == Head::Mlm { c * c + bias(self.mlp_bias, c) + norm(c) } else { 0 };
        let decoder = if self.tied { 0 } else { v * c } + bias(self.head_bias, v);
        embed + n(self.layers) * block + last_norm + mlm + decoder
    }

    /// Whether such a network can be built; `file` is where the numbers came from, for the message.
    pub fn validate(&self, file: &str) -> Result<()> {
        match self.problem() {
            Some((key, problem, remedy)) => Err(Error::config(file, format!("model.{key}"), problem, remedy)),
            None => Ok(()),
        }
    }

    /// The first thing wrong: key, problem, remedy.
    pub(super) fn problem(&self) -> Option<(&'static str, String, String)> {
        let sizes = [
            ("layers", self.layers, limit::LAYERS),
            ("dim", self.dim, limit::DIM),
            ("heads", self.heads, limit::HEADS),
            ("kv_heads", self.kv_heads, limit::HEADS),
            ("head_dim", self.head_dim, limit::HEAD_DIM),
            ("ffn_dim", self.ffn_dim, limit::FFN_DIM),
            ("vocab", self.vocab, limit::VOCAB),
            ("max_positions", self.max_positions, limit::POSITIONS),
        ];
        if let Some((key, n, max)) = sizes.into_iter().find(|(_, n, max)| !(1..=*max).contains(n)) {
            return Some((
                key,
                format!("{n} is out of range"),
                format!("give a whole number from 1 to {max}"),
            ));
        }
        if self.token_types > limit::TOKEN_TYPES {
            let problem = format!("{} is out of range", self.token_types);
            return Some(("token_types", problem, format!("give at most {}", limit::TOKEN_TYPES)));
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let works = listed(&divisors(self.heads));
            let problem = format!("{} kv heads do not divide {} heads", self.kv_heads, self.heads);
            return Some(("kv_heads", problem, format!("give one of {works}")));
        }
        if !(self.norm_eps > 0.0 && self.norm_eps < 1.0) {
            let problem = format!("{:?} is out of range", self.norm_eps);
            return Some(("norm_eps", problem, "give a number > 0 and < 1".into()));
        }
        if !(self.init_std > 0.0 && self.init_std <= 1.0) {
            let problem = format!("{:?} is out of range", self.init_std);
            return Some(("init_std", problem, "give a number > 0 and at most 1".into()));
        }
        if let Some(cap) = self.logit_softcap.filter(|c| !(c.is_finite() && *c > 0.0)) {
            let problem = format!("{cap:?} is out of range");
            return Some(("logit_softcap", problem, "give a number > 0 or \"none\"".into()));
        }
        if self.norm == Norm::Rms && self.norm_bias {
            let problem = "an RMS norm has no bias".into();
            return Some(("norm_bias", problem, "set it to false or set norm = \"layer\"".into()));
        }
        match self.head {
            Head::Lm if !self.causal => {
                let problem = "without a causal mask the lm head sees the token it predicts".into();
                return Some(("head", problem, "set head = \"mlm\" or causal = true".into()));
            }
            Head::Mlm if self.causal => {
                let problem = "the mlm head needs both directions".into();
                return Some(("head", problem, "set causal = false or head = \"lm\"".into()));
            }
            _ => {}
        }
        self.position_problem()
    }

    fn position_problem(&self) -> Option<(&'static str, String, String)> {
        match self.positions {
            Positions::Learned { max } if max != self.max_positions => Some((
                "max_positions",
                format!("{} differs from the table's {max} rows", self.max_positions),
                "make them equal".into(),
            )),
            Positions::Rope { .. } if !self.head_dim.is_multiple_of(2) => Some((
                "head_dim",
                format!("rope rotates pairs, and head_dim is odd: {}", self.head_dim),
                "make head_dim even".into(),
            )),
            Positions::Rope { theta, .. } if !(theta.is_finite() && theta > 1.0) => {
                Some(("rope.theta", format!("{theta:?} is out of range"), "give a number > 1".into()))
            }
            Positions::Rope { scaling: Some(s), .. } => s.problem(),
            _ => None,
        }
    }
}

impl RopeScaling {
    fn problem(&self) -> Option<(&'static str, String, String)> {
        let fine = |x: f64, least: f64| x.is_finite() && x >= least;
        if !fine(self.factor, 1.0) || self.original_max == 0 {
            let problem = "factor must be at least 1 and original_max at least 1".into();
            return Some(("rope.scaling", problem, "use those of the published model".into()));
        }
        if !(fine(self.low_freq, f64::MIN_POSITIVE) && fine(self.high_freq, self.low_freq))
            || self.high_freq == self.low_freq
        {
            let problem = format!("low_freq {:?} is not below high_freq {:?}", self.low_freq, self.high_freq);
            return Some(("rope.scaling", problem, "usual are 1.0 and 4.0".into()));
        }
        None
    }
}

/// The numbers that divide `n`, smallest first.
pub(super) fn divisors(n: usize) -> Vec<usize> {
    let mut low: Vec<usize> = (1..=n.isqrt()).filter(|d| n.is_multiple_of(*d)).collect();
    let high: Vec<usize> = low.iter().rev().map(|d| n / d).filter(|d| d * d > n).collect();
    low.extend(high);
    low
}

/// "1, 2, 4", shortened in the middle.
pub(super) fn listed(numbers: &[usize]) -> String {
    let text = |n: &[usize]| n.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    match numbers.len() {
        0..=16 => text(numbers),
        n => format!("{}, .., {}", text(&numbers[..12]), text(&numbers[n - 2..])),
    }
}
