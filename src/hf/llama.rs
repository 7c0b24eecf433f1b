//! Llama: rotary positions, RMS norm, gated MLP, grouped key and value heads. Qwen uses the same names.

use super::config::{activation_name, equal_heads, gated_activation};
use super::fields::Fields;
use super::map::{Layout, Module};
use super::rope;
use crate::Result;
use crate::config::{Head, ModelConfig, Norm, NormPlace};
use serde_json::{Map, Value, json};

pub const BLOCKS: &str = "model.layers.";
pub const TIED: &[(&str, &str)] = &[("model.embed_tokens.weight", "lm_head.weight")];
/// heads · head_dim beyond this is damage.
const MAX_WIDTH: usize = 1 << 24;

pub fn read(f: &Fields) -> Result<ModelConfig> {
    let head_dim = match f.size_opt("head_dim")? {
        Some(d) => d,
        None => equal_heads(f, "hidden_size", "num_attention_heads")?,
    };
    let bias = f.flag("attention_bias", false)?;
    let c = rotary(f, head_dim)?;
    Ok(ModelConfig { qkv_bias: bias, out_bias: bias, mlp_bias: f.flag("mlp_bias", false)?, ..c })
}

/// What Llama and Qwen have in common; no biases.
pub fn rotary(f: &Fields, head_dim: usize) -> Result<ModelConfig> {
    let heads = f.size("num_attention_heads")?;
    let kv_heads = f.size_opt("num_key_value_heads")?.unwrap_or(heads);
    if !heads.is_multiple_of(kv_heads) {
        let problem = format!("{kv_heads} does not divide num_attention_heads, {heads}");
        return Err(f.error("num_key_value_heads", problem, ""));
    }
    if head_dim % 2 == 1 {
        return Err(f.error("head_dim", format!("{head_dim} is odd"), "rotary positions turn pairs"));
    }
    if heads * head_dim > MAX_WIDTH {
        return Err(f.error("head_dim", format!("{heads} heads of {head_dim} are too wide"), ""));
    }
    let max_positions = f.size_opt("max_position_embeddings")?.unwrap_or(2048);
    Ok(ModelConfig {
        layers: f.size("num_hidden_layers")?,
        dim: f.size("hidden_size")?,
        heads,
        kv_heads,
        head_dim,
        ffn_dim: f.size("intermediate_size")?,
        vocab: f.size("vocab_size")?,
        norm: Norm::Rms,
        norm_eps: f.float("rms_norm_eps", 1e-6)?,
        norm_place: NormPlace::Pre,
        positions: rope::read(f, max_positions)?,
        max_positions,
        qk_norm: false,
        activation: gated_activation(f, "hidden_act")?,
        qkv_bias: false,
        out_bias: false,
        mlp_bias: false,
        norm_bias: false,
        head_bias: false,
        tied: f.flag("tie_word_embeddings", false)?,
        causal: true,
        token_types: 0,
        embed_norm: false,
        head: Head::Lm,
        logit_softcap: None,
        init_std: f.float("initializer_range", 0.02)?,
        init_scale_residual: false,
    })
}

pub fn write(c: &ModelConfig, out: &mut Map<String, Value>) {
    write_rotary(c, out);
    out.insert("attention_bias".into(), json!(c.qkv_bias));
    out.insert("mlp_bias".into(), json!(c.mlp_bias));
}

pub fn write_rotary(c: &ModelConfig, out: &mut Map<String, Value>) {
    let keys = json!({
        "head_dim": c.head_dim,
        "hidden_act": activation_name(c.activation),
        "hidden_size": c.dim,
        "intermediate_size": c.ffn_dim,
        "max_position_embeddings": c.max_positions,
        "num_attention_heads": c.heads,
        "num_hidden_layers": c.layers,
        "num_key_value_heads": c.kv_heads,
        "rms_norm_eps": c.norm_eps,
    });
    out.extend(keys.as_object().cloned().unwrap_or_default());
    rope::write(&c.positions, out);
}

pub fn module(m: Module) -> Option<(&'static str, Layout)> {
    let name = match (m.block, m.module) {
        (false, "embed.tokens") => "model.embed_tokens",
        (false, "norm") => "model.norm",
        (false, "head") => "lm_head",
        (true, "norm1") => "input_layernorm",
        (true, "norm2") => "post_attention_layernorm",
        (true, "attn.q") => "self_attn.q_proj",
        (true, "attn.k") => "self_attn.k_proj",
        (true, "attn.v") => "self_attn.v_proj",
        (true, "attn.o") => "self_attn.o_proj",
        (true, "mlp.gate") => "mlp.gate_proj",
        (true, "mlp.up") => "mlp.up_proj",
        (true, "mlp.down") => "mlp.down_proj",
        _ => return None,
    };
    Some((name, Layout::Same))
}

/// Frequencies that old files hold as buffers.
pub fn unused(name: &str) -> bool {
    name.ends_with("rotary_emb.inv_freq")
}
