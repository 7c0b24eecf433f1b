//! The shape of a network: everything that decides which parameters exist and what the forward computes.
//!
//! Block, pre-norm: x + attn(norm1(x)), then x + mlp(norm2(x)), and one `norm` before the head. Post-norm (BERT):
//! norm1(x + attn(x)), then norm2(x + mlp(x)), and no norm before the head.

use serde::{Deserialize, Serialize};

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
}
