//! Rotary positions in config.json, in two spellings: `rope_theta` beside `rope_scaling` (transformers 4), or both
//! inside `rope_parameters` (transformers 5). The first is written: both versions read it, while version 4 would
//! silently take theta = 10000 from the second.

use super::fields::Fields;
use crate::Result;
use crate::config::{Positions, RopeScaling};
use serde_json::{Map, Value, json};

const DEFAULT_THETA: f64 = 10_000.0;

/// Keys of the config that hold the rotation.
pub const KEYS: [&str; 3] = ["rope_theta", "rope_scaling", "rope_parameters"];

pub fn read(f: &Fields, max_positions: usize) -> Result<Positions> {
    whole(f)?;
    let outer = f.float_opt("rope_theta")?;
    let mut found: Option<Positions> = None;
    for key in ["rope_scaling", "rope_parameters"] {
        let Some(table) = f.object(key)? else { continue };
        let positions = one(&table, outer, max_positions)?;
        if found.is_some_and(|p| p != positions) {
            return Err(f.error(key, "contradicts rope_scaling", "keep one of the two"));
        }
        found = Some(positions);
    }
    match found {
        Some(positions) => Ok(positions),
        None => Ok(Positions::Rope { theta: f.positive("rope_theta", DEFAULT_THETA)?, scaling: None }),
    }
}

/// Only rotations of whole heads.
fn whole(f: &Fields) -> Result<()> {
    match f.float_opt("partial_rotary_factor")? {
        None | Some(1.0) => Ok(()),
        Some(_) => Err(f.refuse("partial_rotary_factor", "whole heads are rotated (1.0)")),
    }
}

fn one(f: &Fields, outer: Option<f64>, max_positions: usize) -> Result<Positions> {
    if let Some(key) = f.keys().find(|k| f.get(k).is_some_and(Value::is_object)) {
        return Err(f.refuse(key, "one rotation must serve all layers"));
    }
    whole(f)?;
    let theta = f.positive("rope_theta", outer.unwrap_or(DEFAULT_THETA))?;
    if let Some(outer) = outer.filter(|o| *o != theta) {
        return Err(f.error("rope_theta", format!("{theta} contradicts the outer rope_theta, {outer}"), ""));
    }
    let key = if f.has("rope_type") { "rope_type" } else { "type" };
    let (scaling, known): (_, &[&str]) = match f.text(key)?.unwrap_or("default") {
        "default" => (None, &[]),
        "llama3" => (
            Some(llama3(f, max_positions)?),
            &["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"],
        ),
        _ => return Err(f.refuse(key, "default and llama3 are")),
    };
    let common = ["rope_type", "type", "rope_theta", "partial_rotary_factor"];
    if let Some(key) = f.keys().find(|k| f.get(k).is_some() && !known.contains(k) && !common.contains(k)) {
        return Err(f.refuse(key, "it is not part of this kind of rotation"));
    }
    Ok(Positions::Rope { theta, scaling })
}

fn llama3(f: &Fields, max_positions: usize) -> Result<RopeScaling> {
    let required = |key: &str| match f.float_opt(key)? {
        Some(x) if x > 0.0 => Ok(x),
        Some(_) => Err(f.error(key, "0 is not allowed", "it must be above 0")),
        None => Err(f.error(key, "is missing", "rope_type llama3 needs it")),
    };
    let scaling = RopeScaling {
        factor: required("factor")?,
        low_freq: required("low_freq_factor")?,
        high_freq: required("high_freq_factor")?,
        original_max: f.size_opt("original_max_position_embeddings")?.unwrap_or(max_positions),
    };
    if scaling.low_freq >= scaling.high_freq {
        let problem = format!("{} is not above low_freq_factor, {}", scaling.high_freq, scaling.low_freq);
        return Err(f.error("high_freq_factor", problem, ""));
    }
    Ok(scaling)
}

pub fn write(positions: &Positions, out: &mut Map<String, Value>) {
    let Positions::Rope { theta, scaling } = positions else { return };
    out.insert("rope_theta".into(), json!(theta));
    let scaling = scaling.map(|s| {
        json!({
            "factor": s.factor,
            "high_freq_factor": s.high_freq,
            "low_freq_factor": s.low_freq,
            "original_max_position_embeddings": s.original_max,
            "rope_type": "llama3",
        })
    });
    out.insert("rope_scaling".into(), json!(scaling));
}
