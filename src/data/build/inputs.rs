//! The files of a build: found, in a fixed order, each with what it is.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// How a file holds documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// By the name: .jsonl, .ndjson and .json are lines, everything else is text; .gz, .zst and .zstd are passed over.
    #[default]
    Auto,
    /// One document.
    Text,
    /// One document a line, a JSON object each.
    Jsonl,
}

/// A file as it was when the build began.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Input {
    pub path: PathBuf,
    pub bytes: u64,
    /// Nanoseconds since 1970.
    pub modified: u64,
    pub format: Format,
}

impl Input {
    fn new(path: PathBuf, format: Format) -> Result<Input> {
        let meta = std::fs::metadata(&path).map_err(Error::io(&path, "find"))?;
        let modified = meta.modified().ok().and_then(|t| t.duration_since(UNIX_EPOCH).ok());
        let format = match format {
            Format::Auto if is(&path, &["jsonl", "ndjson", "json"]) => Format::Jsonl,
            Format::Auto => Format::Text,
            given => given,
        };
        let modified = modified.map_or(0, |t| t.as_nanos() as u64);
        Ok(Input { path, bytes: meta.len(), modified, format })
    }

    /// Fails if the file is not what it was.
    pub fn check(&self) -> Result<()> {
        let now = Input::new(self.path.clone(), self.format)?;
        if now == *self {
            return Ok(());
        }
        let problem = "changed while the corpus was being built";
        Err(Error::data(&self.path, problem, "leave the input alone and start over with --restart"))
    }
}

/// The files to read, sorted by path, each once. Folders are searched for .txt, .md, .jsonl and .ndjson, compressed
/// or not.
pub(super) fn find(inputs: &[PathBuf], format: Format) -> Result<Vec<Input>> {
    let mut files = Vec::new();
    let mut folders = Vec::new();
    for path in inputs {
        let kind = std::fs::metadata(path).map_err(Error::io(path, "find"))?;
        if kind.is_dir() { folders.push(path.clone()) } else { files.push(path.clone()) }
    }
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(Error::io(&folder, "list"))? {
            let entry = entry.map_err(Error::io(&folder, "list"))?;
            let path = entry.path();
            let kind = entry.file_type().map_err(Error::io(&path, "find"))?;
            // Links to folders are not followed: they may form a circle.
            if kind.is_dir() {
                folders.push(path);
            } else if path.is_file() && is(&path, &["txt", "md", "jsonl", "ndjson"]) {
                files.push(path);
            }
        }
    }
    files.sort();
    files.dedup();
    if files.is_empty() {
        let first = inputs.first().map_or(Path::new("input"), PathBuf::as_path);
        let problem = "has no .txt, .md, .jsonl or .ndjson file, compressed or not";
        return Err(Error::data(first, problem, "give files, or folders that hold some"));
    }
    files.into_iter().map(|path| Input::new(path, format)).collect()
}

/// Whether the name has one of these endings, before .gz, .zst or .zstd where there is one.
fn is(path: &Path, endings: &[&str]) -> bool {
    let name = path.file_name().unwrap_or_default().as_bytes();
    let cut = |name: &[u8], end: &str| name.strip_suffix(format!(".{end}").as_bytes()).map(<[u8]>::to_vec);
    let inner = ["gz", "zst", "zstd"].iter().find_map(|end| cut(name, end)).unwrap_or(name.to_vec());
    endings.iter().any(|end| cut(&inner, end).is_some())
}
