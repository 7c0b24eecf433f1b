//! Qwen2: Llama with biases on query, key and value. Qwen3: Llama with a norm on every query and key head.

use super::config::equal_heads;
use super::fields::Fields;
use super::llama;
use super::map::{Layout, Module};
use crate::Result;
use crate::config::ModelConfig;
use serde_json::{Map, Value, json};

pub fn read(f: &Fields, third: bool) -> Result<ModelConfig> {
    refuse_windows(f)?;
    if !f.has("num_key_value_heads") {
        return Err(f.error("num_key_value_heads", "is missing", "the shape cannot be known without it"));
    }
    let head_dim = match f.size_opt("head_dim")? {
        Some(d) => d,
        None if third => 128, // the default of its class, whatever the width
        None => equal_heads(f, "hidden_size", "num_attention_heads")?,
    };
    let c = llama::rotary(f, head_dim)?;
    if third {
        let bias = f.flag("attention_bias", false)?;
        return Ok(ModelConfig { qk_norm: true, qkv_bias: bias, out_bias: bias, ..c });
    }
    Ok(ModelConfig { qkv_bias: true, ..c })
}

/// Every layer must attend to all that came before it.
fn refuse_windows(f: &Fields) -> Result<()> {
    let full = "full attention in every layer is";
    if let Some(kinds) = f.texts("layer_types")? {
        return match kinds.iter().all(|kind| *kind == "full_attention") {
            true => Ok(()),
            false => Err(f.refuse("layer_types", full)),
        };
    }
    let first = f.count("max_window_layers", 28)?;
    if f.flag("use_sliding_window", false)? && first < f.size("num_hidden_layers")? {
        // An absent window has a default; one that is null is off.
        if f.get("sliding_window").is_some() || !f.has("sliding_window") {
            return Err(f.refuse("use_sliding_window", full));
        }
    }
    Ok(())
}

pub fn write(c: &ModelConfig, out: &mut Map<String, Value>) {
    llama::write_rotary(c, out);
    if c.qk_norm {
        out.insert("attention_bias".into(), json!(c.qkv_bias));
    }
    // Left over from a model of another depth these would contradict it.
    out.shift_remove("layer_types");
    out.insert("sliding_window".into(), Value::Null);
    out.insert("use_sliding_window".into(), json!(false));
}

/// Of Qwen3.
pub fn module(m: Module) -> Option<(&'static str, Layout)> {
    match (m.block, m.module) {
        (true, "attn.q_norm") => Some(("self_attn.q_norm", Layout::Same)),
        (true, "attn.k_norm") => Some(("self_attn.k_norm", Layout::Same)),
        _ => llama::module(m),
    }
}
