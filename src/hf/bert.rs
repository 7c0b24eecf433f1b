//! BERT: both directions, norms after the sums, token types, and a masked-LM head with a transform.

use super::config::{activation_name, equal_heads, plain_activation};
use super::fields::Fields;
use super::map::{Layout, Module};
use crate::Result;
use crate::config::{Head, ModelConfig, Norm, NormPlace, Positions};
use serde_json::{Map, Value, json};

pub const BLOCKS: &str = "bert.encoder.layer.";
pub const BIAS: &str = "cls.predictions.bias";
/// The bias under its second name. Without tied embeddings, transformers 5 computes with this one.
pub const DECODER_BIAS: &str = "cls.predictions.decoder.bias";
pub const TIED: &[(&str, &str)] =
    &[("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"), (BIAS, DECODER_BIAS)];

pub fn read(f: &Fields) -> Result<ModelConfig> {
    f.only("is_decoder", false)?;
    if f.text("position_embedding_type")?.is_some_and(|kind| kind != "absolute") {
        return Err(f.refuse("position_embedding_type", "absolute is"));
    }
    let (heads, max) = (f.size("num_attention_heads")?, f.size("max_position_embeddings")?);
    Ok(ModelConfig {
        layers: f.size("num_hidden_layers")?,
        dim: f.size("hidden_size")?,
        heads,
        kv_heads: heads,
        head_dim: equal_heads(f, "hidden_size", "num_attention_heads")?,
        ffn_dim: f.size("intermediate_size")?,
        vocab: f.size("vocab_size")?,
        norm: Norm::Layer,
        norm_eps: f.float("layer_norm_eps", 1e-12)?,
        norm_place: NormPlace::Post,
        positions: Positions::Learned { max },
        max_positions: max,
        qk_norm: false,
        activation: plain_activation(f, "hidden_act", "gelu")?,
        qkv_bias: true,
        out_bias: true,
        mlp_bias: true,
        norm_bias: true,
        head_bias: true,
        tied: f.flag("tie_word_embeddings", true)?,
        causal: false,
        token_types: f.size_opt("type_vocab_size")?.unwrap_or(2),
        embed_norm: true,
        head: Head::Mlm,
        logit_softcap: None,
        init_std: f.float("initializer_range", 0.02)?,
        init_scale_residual: false,
    })
}

pub fn write(c: &ModelConfig, out: &mut Map<String, Value>) {
    let keys = json!({
        "hidden_act": activation_name(c.activation),
        "hidden_size": c.dim,
        "intermediate_size": c.ffn_dim,
        "is_decoder": false,
        "layer_norm_eps": c.norm_eps,
        "max_position_embeddings": c.max_positions,
        "num_attention_heads": c.heads,
        "num_hidden_layers": c.layers,
        "position_embedding_type": "absolute",
        "type_vocab_size": c.token_types,
    });
    out.extend(keys.as_object().cloned().unwrap_or_default());
}

pub fn module(m: Module) -> Option<(&'static str, Layout)> {
    let name = match (m.block, m.module) {
        (false, "embed.tokens") => "bert.embeddings.word_embeddings",
        (false, "embed.positions") => "bert.embeddings.position_embeddings",
        (false, "embed.types") => "bert.embeddings.token_type_embeddings",
        (false, "embed.norm") => "bert.embeddings.LayerNorm",
        (false, "head") if m.bias => "cls.predictions",
        (false, "head") => "cls.predictions.decoder",
        (false, "head.dense") => "cls.predictions.transform.dense",
        (false, "head.norm") => "cls.predictions.transform.LayerNorm",
        (true, "attn.q") => "attention.self.query",
        (true, "attn.k") => "attention.self.key",
        (true, "attn.v") => "attention.self.value",
        (true, "attn.o") => "attention.output.dense",
        (true, "norm1") => "attention.output.LayerNorm",
        (true, "mlp.up") => "intermediate.dense",
        (true, "mlp.down") => "output.dense",
        (true, "norm2") => "output.LayerNorm",
        _ => return None,
    };
    Some((name, Layout::Same))
}

/// Index buffers of old files, and the heads of other objectives.
pub fn unused(name: &str) -> bool {
    ["bert.embeddings.position_ids", "bert.embeddings.token_type_ids"].contains(&name)
        || name.starts_with("bert.pooler.")
        || name.starts_with("cls.seq_relationship.")
}
