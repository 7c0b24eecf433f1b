//! GPT-2: learned positions, LayerNorm, fused query, key and value. Its `Conv1D` weights are (in, out).

use super::config::{activation_name, equal_heads, plain_activation};
use super::fields::Fields;
use super::map::{Layout, Module};
use crate::Result;
use crate::config::{Head, ModelConfig, Norm, NormPlace, Positions};
use serde_json::{Map, Value, json};

pub const BLOCKS: &str = "transformer.h.";
pub const TIED: &[(&str, &str)] = &[("transformer.wte.weight", "lm_head.weight")];

pub fn read(f: &Fields) -> Result<ModelConfig> {
    f.only("scale_attn_weights", true)?;
    f.only("scale_attn_by_inverse_layer_idx", false)?;
    let (dim, max) = (f.size("n_embd")?, f.size("n_positions")?);
    Ok(ModelConfig {
        layers: f.size("n_layer")?,
        dim,
        heads: f.size("n_head")?,
        kv_heads: f.size("n_head")?,
        head_dim: equal_heads(f, "n_embd", "n_head")?,
        ffn_dim: f.size_opt("n_inner")?.unwrap_or(4 * dim),
        vocab: f.size("vocab_size")?,
        norm: Norm::Layer,
        norm_eps: f.float("layer_norm_epsilon", 1e-5)?,
        norm_place: NormPlace::Pre,
        positions: Positions::Learned { max },
        max_positions: max,
        qk_norm: false,
        activation: plain_activation(f, "activation_function", "gelu_new")?,
        qkv_bias: true,
        out_bias: true,
        mlp_bias: true,
        norm_bias: true,
        head_bias: false,
        tied: f.flag("tie_word_embeddings", true)?,
        causal: true,
        token_types: 0,
        embed_norm: false,
        head: Head::Lm,
        logit_softcap: None,
        init_std: f.float("initializer_range", 0.02)?,
        init_scale_residual: true,
    })
}

pub fn write(c: &ModelConfig, out: &mut Map<String, Value>) {
    let keys = json!({
        "activation_function": activation_name(c.activation),
        "layer_norm_epsilon": c.norm_eps,
        "n_embd": c.dim,
        "n_head": c.heads,
        "n_inner": c.ffn_dim,
        "n_layer": c.layers,
        "n_positions": c.max_positions,
        "scale_attn_by_inverse_layer_idx": false,
        "scale_attn_weights": true,
    });
    out.extend(keys.as_object().cloned().unwrap_or_default());
    out.shift_remove("n_ctx"); // an old second name of n_positions
}

pub fn module(m: Module) -> Option<(&'static str, Layout)> {
    Some(match (m.block, m.module) {
        (false, "embed.tokens") => ("transformer.wte", Layout::Same),
        (false, "embed.positions") => ("transformer.wpe", Layout::Same),
        (false, "norm") => ("transformer.ln_f", Layout::Same),
        (false, "head") => ("lm_head", Layout::Same),
        (true, "norm1") => ("ln_1", Layout::Same),
        (true, "norm2") => ("ln_2", Layout::Same),
        (true, "attn.q") => ("attn.c_attn", Layout::Fused { part: 0, of: 3 }),
        (true, "attn.k") => ("attn.c_attn", Layout::Fused { part: 1, of: 3 }),
        (true, "attn.v") => ("attn.c_attn", Layout::Fused { part: 2, of: 3 }),
        (true, "attn.o") => ("attn.c_proj", Layout::Transposed),
        (true, "mlp.up") => ("mlp.c_fc", Layout::Transposed),
        (true, "mlp.down") => ("mlp.c_proj", Layout::Transposed),
        _ => return None,
    })
}

/// The causal masks that old files hold as buffers.
pub fn unused(name: &str) -> bool {
    name.starts_with(BLOCKS) && (name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias"))
}
