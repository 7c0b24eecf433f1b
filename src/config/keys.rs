//! Every key a run file may have, and those that are refused by name because what they ask for is not built yet.

use super::doc::{Doc, Node, Value};
use crate::{Error, Result};

/// Tables by path; `*` stands for a corpus name or the number of a list entry.
const TABLES: &[(&str, &[&str])] = &[
    ("", &["schema", "eval", "checkpoint", "run", "model", "data", "parallel", "optim", "phase"]),
    ("eval", &["on", "every", "tokens", "weights"]),
    ("checkpoint", &["every", "keep_last", "keep_every"]),
    ("run", &["dir", "seed", "device", "dtype", "init", "seq_len", "global_batch", "attention", "z_loss"]),
    (
        "model",
        &[
            "preset",
            "layers",
            "dim",
            "heads",
            "kv_heads",
            "head_dim",
            "ffn_dim",
            "vocab",
            "norm",
            "norm_eps",
            "norm_place",
            "positions",
            "max_positions",
            "rope",
            "qk_norm",
            "activation",
            "qkv_bias",
            "out_bias",
            "mlp_bias",
            "norm_bias",
            "head_bias",
            "tied",
            "causal",
            "token_types",
            "embed_norm",
            "head",
            "logit_softcap",
            "init_std",
            "init_scale_residual",
        ],
    ),
    ("model.rope", &["theta", "scaling"]),
    ("model.rope.scaling", &["factor", "low_freq", "high_freq", "original_max"]),
    (
        "data.*",
        &[
            "path",
            "order",
            "packing",
            "pack_group",
            "split",
            "io",
            "stage_dir",
            "weights",
            "holdout",
            "max_epochs",
        ],
    ),
    ("parallel", &["tp", "zero", "shard", "sequence_parallel", "micro_batch", "accumulate", "recompute"]),
    ("optim", &["adamw", "adam", "sgd", "clip", "group", "ema"]),
    ("optim.adamw", &["betas", "eps", "weight_decay", "moments"]),
    ("optim.adam", &["betas", "eps", "weight_decay", "moments"]),
    ("optim.sgd", &["weight_decay"]),
    ("optim.ema", &["decay"]),
    ("optim.group.*", &["match", "weight_decay", "lr_scale"]),
    (
        "phase.*",
        &[
            "name",
            "steps",
            "tokens",
            "mix",
            "lr",
            "optimizer",
            "schedule",
            "cursor",
            "seq_len",
            "global_batch",
            "attention",
            "z_loss",
            "eval",
        ],
    ),
    ("phase.*.eval", &["on", "every", "tokens", "weights"]),
    ("phase.*.lr.*", &["kind", "from", "to", "frac", "steps"]),
];

/// (table, keys, what to do instead).
const NOT_BUILT: &[(&str, &[&str], &str)] = &[
    ("phase.*", &["grow"], "leave it out, the network keeps its size"),
    ("phase.*", &["spdf"], "leave it out, the phase trains dense weights"),
    (
        "phase.*",
        &["batch_ramp", "ramp", "batch_size_ramp"],
        "write several phases, each with its own global_batch, and schedule = \"keep\" in all but the first",
    ),
    ("phase.*", &["salt"], "leave it out, the phase trains without a teacher"),
    ("parallel", &["pp", "pipeline", "pipeline_parallel"], "leave it out and use tp and more ranks"),
    ("parallel", &["cp", "context", "context_parallel"], "leave it out and lower micro_batch"),
    ("parallel", &["ep", "expert_parallel"], "leave it out, models are dense"),
    ("model", &["experts", "num_experts", "experts_per_token"], "leave it out, models are dense"),
    ("model", &["dropout", "attn_dropout", "embed_dropout"], "leave it out, models train without dropout"),
    ("run", &["dropout"], "leave it out, models train without dropout"),
    ("optim", &["muon", "adafactor", "lion"], "use adamw, adam or sgd"),
    ("optim.sgd", &["momentum"], "leave it out for plain SGD, or use adamw"),
    ("optim.group.*", &["frozen"], "leave it out, every parameter trains"),
];

/// Refuses the first key, in the order of the file, that is not in `TABLES`.
pub(super) fn check(doc: &Doc) -> Result<()> {
    walk(doc, &doc.root, "", "")
}

/// `path` is where we are, `pattern` the same with `*` for names and numbers.
fn walk(doc: &Doc, node: &Node, path: &str, pattern: &str) -> Result<()> {
    let inside = TABLES.iter().any(|(t, _)| t.starts_with(pattern));
    match &node.value {
        Value::Table(entries) if inside => {
            let known = TABLES.iter().find(|(t, _)| *t == pattern).map(|(_, keys)| *keys);
            for (key, child) in entries {
                if let Some(known) = known
                    && !known.contains(&key.as_str())
                {
                    return Err(unknown(doc, path, pattern, key, known));
                }
                let part = if known.is_some() { key } else { "*" };
                walk(doc, child, &join(path, key), &join(pattern, part))?;
            }
            Ok(())
        }
        Value::Array(items) if inside => items
            .iter()
            .enumerate()
            .try_for_each(|(i, item)| walk(doc, item, &join(path, &i.to_string()), &join(pattern, "*"))),
        _ => Ok(()),
    }
}

fn unknown(doc: &Doc, path: &str, pattern: &str, key: &str, known: &[&str]) -> Error {
    let full = join(path, key);
    let built = NOT_BUILT.iter().find(|(t, keys, _)| *t == pattern && keys.contains(&key));
    if let Some((_, _, instead)) = built {
        return doc.error(&full, format!("`{key}` is not built yet"), instead);
    }
    let allowed = format!("allowed here: {}", known.join(", "));
    let problem = match (nearest(key, known), TABLES.iter().find(|(_, keys)| keys.contains(&key))) {
        (Some(near), _) => format!("unknown key `{key}`, nearest is `{near}`"),
        (None, Some((table, _))) if !table.is_empty() => {
            format!("unknown key `{key}` here, it belongs in `{}`", join(&table.replace('*', "N"), key))
        }
        (None, Some(_)) => format!("unknown key `{key}` here, it belongs at the top of the file"),
        (None, None) => format!("unknown key `{key}`"),
    };
    doc.error(&full, problem, allowed)
}

/// The known word most like `word`, if one is like it at all; a word cut short counts as its whole.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase();
    let likeness = |k: &str| {
        let cut = word.chars().count() >= 3 && k.starts_with(&word);
        let like = strsim::jaro_winkler(&word, k) + if cut { 1.0 } else { 0.0 };
        let edits = strsim::damerau_levenshtein(&word, k);
        (like > 0.84 || edits <= 2 && edits < word.chars().count()).then_some(like)
    };
    let close = known.iter().filter_map(|k| likeness(k).map(|like| (like, *k)));
    close.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, k)| k)
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.into() } else { format!("{path}.{key}") }
}
