//! The model presets in `configs/model/`, embedded so that the binary needs no files beside it.

use super::doc::{Doc, Node, Origin, Value};
use super::keys::nearest;
use super::model::ModelConfig;
use super::read_model;
use super::table::Table;
use crate::{Error, Result};

macro_rules! presets {
    ($($name:literal),* $(,)?) => {
        const PRESETS: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../configs/model/", $name, ".toml")))),*];
    };
}

presets![
    "gpt2-124m",
    "gpt2-355m",
    "gpt2-774m",
    "gpt2-1558m",
    "gpt3-xl",
    "cerebras-gpt-111m",
    "gpt2-tiny",
    "llama-tiny",
    "llama-3-8b",
    "llama-3-70b",
    "llama-3.2-1b",
    "qwen2.5-0.5b",
    "qwen2.5-1.5b",
    "qwen2.5-7b",
    "qwen3-0.6b",
    "qwen3-1.7b",
    "bert-base",
    "bert-large",
    "bert-tiny",
    "tiny",
    "small",
    "gpt2-t512",
    "llama25",
    "llama110",
    "wide",
];

impl ModelConfig {
    /// The names `preset` knows.
    pub fn presets() -> Vec<&'static str> {
        PRESETS.iter().map(|(name, _)| *name).collect()
    }

    /// A model by the name of its preset; the error lists the names.
    pub fn preset(name: &str) -> Result<ModelConfig> {
        let Some((name, text)) = PRESETS.iter().find(|(n, _)| *n == name) else {
            let (problem, remedy) = unknown(name);
            return Err(Error::config("presets", "model.preset", problem, remedy));
        };
        let mut doc = Doc::parse(text, &format!("configs/model/{name}.toml"))?;
        let origin = doc.root.origin.clone();
        doc.root = Node { value: Value::Table(vec![("model".into(), doc.root)]), origin };
        super::keys::check(&doc)?;
        read_model::model(&Table::root(&doc).table("model")?, None)
    }
}

fn unknown(name: &str) -> (String, String) {
    let names = ModelConfig::presets();
    let near = nearest(name, &names).map_or(String::new(), |n| format!(", nearest is \"{n}\""));
    (format!("unknown preset {name:?}{near}"), format!("presets: {}", names.join(", ")))
}

/// Puts the keys of `model.preset` under those of `[model]`: a key given there wins, tables are merged.
pub(super) fn merge(doc: &mut Doc) -> Result<()> {
    let Some(Value::Str(name)) = doc.find("model.preset").map(|n| n.value.clone()) else {
        return Ok(()); // absent, or a wrong type that the reader refuses
    };
    let Some((name, text)) = PRESETS.iter().find(|(n, _)| *n == name) else {
        let (problem, remedy) = unknown(&name);
        return Err(doc.error("model.preset", problem, remedy));
    };
    let mut base = Doc::parse(text, name)?.root;
    mark(&mut base, name);
    let Value::Table(entries) = &mut doc.root.value else { return Ok(()) };
    if let Some((_, model)) = entries.iter_mut().find(|(k, _)| k == "model") {
        // A preset's rotation means nothing under another kind of positions.
        let kind = |n: &Node| match n.get("positions").map(|p| &p.value) {
            Some(Value::Str(s)) => Some(s.clone()),
            _ => None,
        };
        if kind(model).is_some_and(|k| k != "rope")
            && let Value::Table(entries) = &mut base.value
        {
            entries.retain(|(k, _)| k != "rope");
        }
        overlay(&mut base, model.clone());
        base.origin = model.origin.clone();
        *model = base;
    }
    Ok(())
}

fn mark(node: &mut Node, name: &'static str) {
    node.origin = Origin::Preset(name);
    match &mut node.value {
        Value::Table(entries) => entries.iter_mut().for_each(|(_, n)| mark(n, name)),
        Value::Array(items) => items.iter_mut().for_each(|n| mark(n, name)),
        _ => {}
    }
}

fn overlay(base: &mut Node, over: Node) {
    match (&mut base.value, over.value) {
        (Value::Table(entries), Value::Table(news)) => {
            for (key, new) in news {
                match entries.iter_mut().find(|(k, _)| *k == key) {
                    Some((_, old)) => overlay(old, new),
                    None => entries.push((key, new)),
                }
            }
        }
        (value, new) => (*value, base.origin) = (new, over.origin),
    }
}
