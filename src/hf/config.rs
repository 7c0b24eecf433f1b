//! config.json to `ModelConfig` and back. What would change the mathematics and is not supported is refused with
//! its key and value; dropout rates, token ids and other settings that do not touch the weights are passed over.

use super::family::Family;
use super::fields::Fields;
use super::{atomic, bert, gpt2, llama, qwen, rope};
use crate::config::{Activation, ModelConfig};
use crate::device::DType;
use crate::{Error, Result};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::path::Path;

/// More is damage, not a model; every layer takes memory before the weights are looked at.
const MAX_LAYERS: usize = 10_000;

/// What DIR/config.json says.
///
/// # Errors
/// `Error::Io` if it cannot be read; `Error::Config` with file, key and value if it is damaged or says something
/// that is not supported.
pub fn read_config(dir: &Path) -> Result<(Family, ModelConfig)> {
    let (json, file) = load(dir)?;
    parse(&json, &file)
}

/// The object in DIR/config.json, and the path for messages.
pub(super) fn load(dir: &Path) -> Result<(Map<String, Value>, String)> {
    let path = dir.join("config.json");
    let text = std::fs::read_to_string(&path).map_err(Error::io(&path, "read"))?;
    let file = path.display().to_string();
    match serde_json::from_str(&text) {
        Ok(Value::Object(map)) => Ok((map, file)),
        Ok(_) => Err(Error::config(&file, "top level", "is not an object", "")),
        Err(e) => {
            let place = format!("line {}", e.line());
            Err(Error::config(&file, place, format!("is not JSON ({e})"), "fetch the file again"))
        }
    }
}

pub(super) fn parse(json: &Map<String, Value>, file: &str) -> Result<(Family, ModelConfig)> {
    let f = Fields::new(file, json);
    let Some(model_type) = f.text("model_type")? else {
        return Err(f.error("model_type", "is missing", format!("one of {}", Family::names())));
    };
    let family = Family::parse(model_type)
        .ok_or_else(|| f.refuse("model_type", &format!("these are: {}", Family::names())))?;
    refuse(&f, family)?;
    let config = match family {
        Family::Gpt2 => gpt2::read(&f)?,
        Family::Llama => llama::read(&f)?,
        Family::Qwen2 => qwen::read(&f, false)?,
        Family::Qwen3 => qwen::read(&f, true)?,
        Family::Bert => bert::read(&f)?,
    };
    if config.layers > MAX_LAYERS {
        let key = if family == Family::Gpt2 { "n_layer" } else { "num_hidden_layers" };
        return Err(f.refuse(key, &format!("up to {MAX_LAYERS} layers are")));
    }
    Ok((family, config))
}

/// What no family supports.
fn refuse(f: &Fields, family: Family) -> Result<()> {
    let known = family.architectures();
    if let Some(classes) = f.texts("architectures")?.filter(|classes| !classes.is_empty())
        && !classes.iter().any(|class| known.contains(class))
    {
        return Err(f.refuse("architectures", &format!("of this family these are: {}", known.join(", "))));
    }
    for key in ["quantization_config", "compression_config"] {
        if f.get(key).is_some() {
            return Err(f.refuse(key, "use the F32, BF16 or F16 weights of this model"));
        }
    }
    if f.object("pruned_heads")?.is_some() {
        return Err(f.refuse("pruned_heads", "all layers must have all heads"));
    }
    if let Some(map) = f.object("auto_map")?
        && map.keys().any(|key| key.starts_with("AutoModel"))
    {
        return Err(f.refuse("auto_map", "the model must be the one built into transformers"));
    }
    f.only("is_encoder_decoder", false)?;
    f.only("add_cross_attention", false)
}

/// head_dim of equal heads.
pub(super) fn equal_heads(f: &Fields, dim_key: &str, heads_key: &str) -> Result<usize> {
    let (dim, heads) = (f.size(dim_key)?, f.size(heads_key)?);
    match dim.is_multiple_of(heads) {
        true => Ok(dim / heads),
        false => Err(f.error(heads_key, format!("{heads} does not divide {dim_key}, {dim}"), "")),
    }
}

/// Two matrices with f between them.
pub(super) fn plain_activation(f: &Fields, key: &str, default: &str) -> Result<Activation> {
    match f.text(key)?.unwrap_or(default) {
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_accurate" | "gelu_python_tanh" => {
            Ok(Activation::GeluTanh)
        }
        "gelu" | "gelu_python" => Ok(Activation::Gelu),
        "relu2" => Ok(Activation::Relu2),
        _ => Err(f.refuse(key, "gelu, gelu_new, gelu_pytorch_tanh and relu2 are")),
    }
}

/// f(gate) · up
pub(super) fn gated_activation(f: &Fields, key: &str) -> Result<Activation> {
    match f.text(key)?.unwrap_or("silu") {
        "silu" | "swish" => Ok(Activation::SwiGlu),
        "gelu" | "gelu_python" => Ok(Activation::GeGlu),
        "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" | "gelu_accurate" | "gelu_python_tanh" => {
            Ok(Activation::GeGluTanh)
        }
        _ => Err(f.refuse(key, "silu, gelu and gelu_pytorch_tanh are")),
    }
}

/// The name of f alone: whether there is a gate is a matter of the family.
pub(super) fn activation_name(a: Activation) -> &'static str {
    match a {
        Activation::SwiGlu => "silu",
        Activation::Gelu | Activation::GeGlu => "gelu",
        Activation::GeluTanh => "gelu_new",
        Activation::GeGluTanh => "gelu_pytorch_tanh",
        Activation::Relu2 => "relu2",
    }
}

/// The config of `c` in the words of `family`. Keys of `extra` (an earlier config) that say nothing about the shape
/// are kept, so token ids survive; without it there are none.
pub fn config_json(family: Family, c: &ModelConfig, extra: Option<&Value>) -> Map<String, Value> {
    let mut out = match extra.and_then(Value::as_object) {
        Some(earlier) => earlier.clone(),
        None => quiet(family),
    };
    rope::KEYS.iter().for_each(|key| drop(out.shift_remove(*key)));
    out.insert("architectures".into(), json!([family.architectures()[0]]));
    out.insert("model_type".into(), json!(family.model_type()));
    out.insert("initializer_range".into(), json!(c.init_std));
    out.insert("tie_word_embeddings".into(), json!(c.tied));
    out.insert("vocab_size".into(), json!(c.vocab));
    match family {
        Family::Gpt2 => gpt2::write(c, &mut out),
        Family::Llama => llama::write(c, &mut out),
        Family::Qwen2 | Family::Qwen3 => qwen::write(c, &mut out),
        Family::Bert => bert::write(c, &mut out),
    }
    out.sort_keys();
    out
}

/// Without an earlier config: no special tokens (the defaults of the classes may lie beyond the vocabulary), and
/// no dropout.
fn quiet(family: Family) -> Map<String, Value> {
    let mut out = Map::new();
    ["bos_token_id", "eos_token_id", "pad_token_id"]
        .iter()
        .for_each(|k| drop(out.insert((*k).into(), Value::Null)));
    let rates: &[&str] = match family {
        Family::Gpt2 => &["attn_pdrop", "embd_pdrop", "resid_pdrop"],
        Family::Llama | Family::Qwen2 | Family::Qwen3 => &["attention_dropout"],
        Family::Bert => &["attention_probs_dropout_prob", "hidden_dropout_prob"],
    };
    rates.iter().for_each(|k| drop(out.insert((*k).into(), json!(0.0))));
    out
}

/// Writes DIR/config.json for weights of type `dtype`.
///
/// # Errors
/// `Error::Config` if the family cannot say what the model is; `Error::Io`.
pub fn write_config(
    dir: &Path,
    family: Family,
    c: &ModelConfig,
    dtype: DType,
    extra: Option<&Value>,
) -> Result<()> {
    family.fits(c)?;
    let mut out = config_json(family, c, extra);
    let name = if dtype == DType::Bf16 { "bfloat16" } else { "float32" };
    // The spelling of version 4, which version 5 reads too.
    out.shift_remove("dtype");
    out.insert("torch_dtype".into(), json!(name));
    out.sort_keys();
    let text = serde_json::to_string_pretty(&out).expect("maps with text keys") + "\n";
    let path = dir.join("config.json");
    atomic::write(&path, |out| out.write_all(text.as_bytes()).map_err(Error::io(&path, "write")))
}
