//! `[model]`: from keys to a `ModelConfig`. What follows from other keys has a default, sizes have none.

use super::doc::{Node, Value};
use super::model::{Activation, Head, ModelConfig, Norm, NormPlace, Positions, RopeScaling};
use super::table::Table;
use crate::Result;

/// Reads the table; `longest` is the default of `max_positions`, the longest sequence of the run.
pub(super) fn model(t: &Table, longest: Option<usize>) -> Result<ModelConfig> {
    use super::model::limit;
    t.str("preset", "the name of a preset as a string")?;
    let size = |key: &str, max: usize, like: &str| {
        t.usize(key, 1..=max)?.ok_or_else(|| t.missing(key, &format!("{like} (or a preset)")))
    };
    let layers = size("layers", limit::LAYERS, "layers = 12")?;
    let dim = size("dim", limit::DIM, "dim = 768")?;
    let heads = size("heads", limit::HEADS, "heads = 12")?;
    let vocab = size("vocab", limit::VOCAB, "vocab = 50257")?;
    let kv_heads = t.usize("kv_heads", 1..=limit::HEADS)?.unwrap_or(heads);
    let head_dim = match t.usize("head_dim", 1..=limit::HEAD_DIM)? {
        Some(d) => d,
        None if dim.is_multiple_of(heads) => dim / heads,
        None => {
            let problem = format!("{heads} heads do not divide dim: {dim}");
            return Err(t.error("heads", problem, "change heads or dim, or give head_dim"));
        }
    };
    let activation = t.choice("activation", ACTIVATIONS)?.unwrap_or(Activation::SwiGlu);
    // A gate adds a third matrix; two thirds of the width keep the parameters (Shazeer 2020), in whole 64s.
    let glu = matches!(activation, Activation::SwiGlu | Activation::GeGlu | Activation::GeGluTanh);
    let usual = if glu { (8 * dim).div_ceil(3).next_multiple_of(64) } else { 4 * dim };
    let ffn_dim = t.usize("ffn_dim", 1..=limit::FFN_DIM)?.unwrap_or(usual.min(limit::FFN_DIM));

    let norm = t.choice("norm", NORMS)?.unwrap_or(Norm::Rms);
    let causal = t.bool("causal")?.unwrap_or(true);
    let max_positions = match (t.usize("max_positions", 1..=limit::POSITIONS)?, longest) {
        (Some(n), _) | (None, Some(n)) => n,
        (None, None) => return Err(t.missing("max_positions", "max_positions = 1024")),
    };
    let bias = |key: &str| Ok(t.bool(key)?.unwrap_or(false));
    let model = ModelConfig {
        layers,
        dim,
        heads,
        kv_heads,
        head_dim,
        ffn_dim,
        vocab,
        norm,
        norm_eps: t.float("norm_eps", "a number > 0 and < 1", |x| x > 0.0 && x < 1.0)?.unwrap_or(1e-5),
        norm_place: t.choice("norm_place", NORM_PLACES)?.unwrap_or(NormPlace::Pre),
        positions: positions(t, max_positions)?,
        max_positions,
        qk_norm: bias("qk_norm")?,
        activation,
        qkv_bias: bias("qkv_bias")?,
        out_bias: bias("out_bias")?,
        mlp_bias: bias("mlp_bias")?,
        norm_bias: t.bool("norm_bias")?.unwrap_or(norm == Norm::Layer),
        head_bias: bias("head_bias")?,
        tied: bias("tied")?,
        causal,
        token_types: t.usize("token_types", 0..=limit::TOKEN_TYPES)?.unwrap_or(0),
        embed_norm: bias("embed_norm")?,
        head: t.choice("head", HEADS)?.unwrap_or(if causal { Head::Lm } else { Head::Mlm }),
        logit_softcap: logit_softcap(t)?,
        init_std: t.float("init_std", "a number > 0 and at most 1", |x| x > 0.0 && x <= 1.0)?.unwrap_or(0.02),
        init_scale_residual: t.bool("init_scale_residual")?.unwrap_or(true),
    };
    match model.problem() {
        Some((key, problem, remedy)) => Err(t.error(key, problem, remedy)),
        None => Ok(model),
    }
}

pub(super) const NORMS: &[(&str, Norm)] = &[("layer", Norm::Layer), ("rms", Norm::Rms)];
pub(super) const NORM_PLACES: &[(&str, NormPlace)] = &[("pre", NormPlace::Pre), ("post", NormPlace::Post)];
pub(super) const HEADS: &[(&str, Head)] = &[("lm", Head::Lm), ("mlm", Head::Mlm)];
pub(super) const ACTIVATIONS: &[(&str, Activation)] = &[
    ("gelu_tanh", Activation::GeluTanh),
    ("gelu", Activation::Gelu),
    ("swiglu", Activation::SwiGlu),
    ("geglu", Activation::GeGlu),
    ("geglu_tanh", Activation::GeGluTanh),
    ("relu2", Activation::Relu2),
];

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Learned,
    Rope,
    None,
}

fn positions(t: &Table, max: usize) -> Result<Positions> {
    let kinds = [("learned", Kind::Learned), ("rope", Kind::Rope), ("none", Kind::None)];
    let kind = t.choice("positions", &kinds)?.unwrap_or(Kind::Rope);
    if kind != Kind::Rope && t.get("rope").is_some() {
        return Err(t.error(
            "rope",
            "positions are not \"rope\"",
            "leave rope out or set positions = \"rope\"",
        ));
    }
    Ok(match kind {
        Kind::Learned => Positions::Learned { max },
        Kind::None => Positions::None,
        Kind::Rope => {
            let t = t.table("rope")?;
            let theta = t.float("theta", "a number > 1", |x| x > 1.0)?.unwrap_or(10_000.0);
            Positions::Rope { theta, scaling: scaling(&t)? }
        }
    })
}

/// A number, or "none" over a preset that has one.
fn logit_softcap(t: &Table) -> Result<Option<f64>> {
    match t.get("logit_softcap") {
        Some(Node { value: Value::Str(s), .. }) if s == "none" => Ok(None),
        _ => t.float("logit_softcap", "a number > 0, such as 30.0, or \"none\"", |x| x > 0.0),
    }
}

/// `scaling = { .. }`, or "none" over a preset that has one.
fn scaling(t: &Table) -> Result<Option<RopeScaling>> {
    if let Some(Node { value: Value::Str(s), .. }) = t.get("scaling")
        && s == "none"
    {
        return Ok(None);
    }
    let Some(t) = t.opt_table("scaling")? else { return Ok(None) };
    let factor = t
        .float("factor", "a number of at least 1", |x| x >= 1.0)?
        .ok_or_else(|| t.missing("factor", "factor = 8.0"))?;
    let original_max = t
        .usize("original_max", 1..=super::model::limit::POSITIONS)?
        .ok_or_else(|| t.missing("original_max", "original_max = 8192"))?;
    let positive = |key: &str| t.float(key, "a number > 0", |x| x > 0.0);
    let low_freq = positive("low_freq")?.unwrap_or(1.0);
    let high_freq = positive("high_freq")?.unwrap_or(4.0);
    Ok(Some(RopeScaling { factor, low_freq, high_freq, original_max }))
}
