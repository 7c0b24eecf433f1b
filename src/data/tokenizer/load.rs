//! tokenizer.json from a file or a folder.

use super::Tokenizer;
use crate::{Error, Result};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

const MAX_BYTES: u64 = 1 << 28;

/// XXH3 of the file that `Tokenizer::read` reads.
pub fn fingerprint(path: &Path) -> Result<u64> {
    let path = inside(path);
    Ok(xxh3_64(&std::fs::read(&path).map_err(Error::io(&path, "read"))?))
}

fn inside(path: &Path) -> PathBuf {
    if path.is_dir() { path.join("tokenizer.json") } else { path.into() }
}

pub(super) fn file(path: &Path) -> Result<Tokenizer> {
    let path = &inside(path);
    let length = std::fs::metadata(path).map_err(Error::io(path, "find"))?.len();
    if length > MAX_BYTES {
        let problem = format!("is {length} bytes long; a tokenizer.json has at most {MAX_BYTES}");
        return Err(Error::data(path, problem, "name the tokenizer.json of the model"));
    }
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    let text = String::from_utf8(bytes).map_err(|_| {
        let remedy =
            "a SentencePiece .model or a vocab.txt has to be saved as tokenizer.json by `transformers` first";
        Error::data(path, "is not a tokenizer.json: it is not text", remedy)
    })?;
    Tokenizer::from_json(&text, path)
}
