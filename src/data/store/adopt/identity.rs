//! Which tokenizer the user says made the ids, and how PREFIX.json names files.

use crate::data::meta::Tokenizer;
use crate::{Error, Result};
use serde_json::Value;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

const MAX_BYTES: u64 = 1 << 28;

/// A tokenizer as --tokenizer gives it.
pub struct Identity {
    pub tokenizer: Tokenizer,
    /// One above the highest id, where a definition says it.
    pub vocab: Option<u32>,
    /// Its tokenizer.json.
    pub definition: Option<PathBuf>,
}

/// `said`: the path of a tokenizer.json, or of a folder that holds one, or else a name that stands for itself.
pub fn identity(said: &str) -> Result<Identity> {
    let path = Path::new(said);
    let path = if path.is_dir() { path.join("tokenizer.json") } else { path.to_path_buf() };
    if !path.is_file() {
        if said.ends_with(".json") || said.contains('/') {
            return Err(Error::data(&path, "there is no such file", "name a tokenizer.json, or a tokenizer"));
        }
        if said == "byte" {
            return Ok(Identity { tokenizer: Tokenizer::byte(), vocab: Some(257), definition: None });
        }
        let tokenizer = Tokenizer { kind: said.into(), hash: xxh3_64(said.as_bytes()) };
        return Ok(Identity { tokenizer, vocab: None, definition: None });
    }
    let remedy = "name the tokenizer.json of the model";
    let length = std::fs::metadata(&path).map_err(Error::io(&path, "find"))?.len();
    if length > MAX_BYTES {
        let problem = format!("is {length} bytes long; a tokenizer.json has at most {MAX_BYTES}");
        return Err(Error::data(&path, problem, remedy));
    }
    let bytes = std::fs::read(&path).map_err(Error::io(&path, "read"))?;
    let value: Value = serde_json::from_slice(&bytes)
        .map_err(|e| Error::data(&path, format!("is not JSON: {e}"), remedy))?;
    let Some(kind) = value["model"]["type"].as_str() else {
        return Err(Error::data(&path, "has no model.type: it is not a tokenizer.json", remedy));
    };
    // The same definition with other white space is the same tokenizer.
    let tokenizer = Tokenizer { kind: kind.to_lowercase(), hash: xxh3_64(value.to_string().as_bytes()) };
    let model = match &value["model"]["vocab"] {
        Value::Object(map) => map.values().filter_map(Value::as_u64).max(),
        Value::Array(list) => (list.len() as u64).checked_sub(1),
        _ => None,
    };
    let added = value["added_tokens"].as_array().into_iter().flatten().filter_map(|t| t["id"].as_u64()).max();
    let vocab = model.max(added).and_then(|id| u32::try_from(id).ok()).and_then(|id| id.checked_add(1));
    Ok(Identity { tokenizer, vocab, definition: Some(path) })
}

/// `file` as seen from `folder`, if they have a folder in common; else from the root.
pub fn relative(file: &Path, folder: &Path) -> Result<PathBuf> {
    let file = std::fs::canonicalize(file).map_err(Error::io(file, "find"))?;
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let folder = std::fs::canonicalize(folder).map_err(Error::io(folder, "find"))?;
    if file.to_str().is_none() {
        return Err(Error::data(&file, "its name is not UTF-8, which PREFIX.json needs", "rename the file"));
    }
    let shared = file.components().zip(folder.components()).take_while(|(a, b)| a == b).count();
    if shared < 2 {
        return Ok(file);
    }
    let up = folder.components().skip(shared).map(|_| std::path::Component::ParentDir);
    Ok(up.chain(file.components().skip(shared)).collect())
}
