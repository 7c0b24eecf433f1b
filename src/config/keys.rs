//! Refuses keys that `schema` does not have, and by name those that ask for what is not built yet.

use super::doc::{Doc, Node, Value};
use super::schema::TABLES;
use crate::{Error, Result};

/// (table, keys, what to do instead).
pub(super) const NOT_BUILT: &[(&str, &[&str], &str)] = &[
    ("phase.*.spdf", &["keep_old"], "leave it out, every weight is as likely to be zero"),
    ("phase.*.spdf", &["dynamic", "rigl", "set"], "leave it out, masks stay as they are drawn"),
    ("parallel", &["pp", "pipeline", "pipeline_parallel"], "leave it out and use tp and more ranks"),
    ("parallel", &["cp", "context", "context_parallel"], "leave it out and lower micro_batch"),
    ("parallel", &["ep", "expert_parallel"], "leave it out, models are dense"),
    ("model", &["experts", "num_experts", "experts_per_token"], "leave it out, models are dense"),
    ("model", &["dropout", "attn_dropout", "embed_dropout"], "leave it out, models train without dropout"),
    ("run", &["dropout"], "leave it out, models train without dropout"),
    ("optim", &["adafactor", "lion"], "use adamw, adam, sgd or muon"),
    ("optim.sgd", &["momentum"], "leave it out for plain SGD, or use adamw"),
    ("optim.group.*", &["frozen"], "leave it out, every parameter trains"),
];

/// Refuses the first key, in the order of the file, that is not in the schema.
pub(super) fn check(doc: &Doc) -> Result<()> {
    walk(doc, &doc.root, "", "")
}

/// `path` is where we are, `pattern` the same with `*` for names and numbers.
fn walk(doc: &Doc, node: &Node, path: &str, pattern: &str) -> Result<()> {
    let inside = TABLES.iter().any(|t| t.path.starts_with(pattern));
    match &node.value {
        Value::Table(entries) if inside => {
            let table = TABLES.iter().find(|t| t.path == pattern);
            let known: Option<Vec<_>> = table.map(|t| t.keys.iter().map(|k| k.name).collect());
            for (key, child) in entries {
                if let Some(known) = &known
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
    let problem = match (nearest(key, known), TABLES.iter().find(|t| t.keys.iter().any(|k| k.name == key))) {
        (Some(near), _) => format!("unknown key `{key}`, nearest is `{near}`"),
        (None, Some(table)) if !table.path.is_empty() => {
            format!("unknown key `{key}` here, it belongs in `{}`", join(&table.path.replace('*', "N"), key))
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
