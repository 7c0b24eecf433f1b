//! Values beside a corpus: side streams, one number per token (`PREFIX.stream.NAME`), and document columns, one value
//! per document (`PREFIX.col.NAME`). Loss weights, losses of a model, metadata of documents.
//!
//! A file is a header of 64 bytes and the payload, all numbers little-endian:
//!
//! | offset | type | field |
//! |---|---|---|
//! | 0 | 8 bytes | "ESPSIDE\0" |
//! | 8 | u32 | version, 1 |
//! | 12 | u8 | 0 side stream, 1 document column |
//! | 13 | u8 | 0 u8, 1 f16, 2 f32, 3 f64, 4 i64, 5 utf8 |
//! | 14 | 2 bytes | 0 |
//! | 16 | u64 | hash of the corpus it belongs to |
//! | 24 | u64 | number of values: the tokens or the documents of the corpus |
//! | 32 | u64 | XXH3 of the payload |
//! | 40 | 24 bytes | 0 |
//! | 64 | | the values; utf8: u64\[values + 1\] where each text begins, from 0, then the texts |
//!
//! Side streams are u8 or f16. A file is bound to its corpus by the hash, so one that was made for other text is
//! refused. `open` checks the header, the sizes and the ends of the offsets, each access what it reads, `verify` all.

mod header;
mod out;
mod read;
mod write;

pub use header::SideType;
pub use read::{Column, Stream};
pub use write::{ColumnWriter, StreamWriter};

use super::corpus::Corpus;
use super::meta::beside;
use crate::{Error, Result};
use header::Kind;
use std::path::{Path, PathBuf};

/// One value of a document column.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    U8(u8),
    F16(half::f16),
    F32(f32),
    F64(f64),
    I64(i64),
    Utf8(String),
}

impl Value {
    pub fn side_type(&self) -> SideType {
        match self {
            Value::U8(_) => SideType::U8,
            Value::F16(_) => SideType::F16,
            Value::F32(_) => SideType::F32,
            Value::F64(_) => SideType::F64,
            Value::I64(_) => SideType::I64,
            Value::Utf8(_) => SideType::Utf8,
        }
    }

    /// The number; of an i64 the nearest one. None for a text.
    pub fn number(&self) -> Option<f64> {
        match self {
            Value::U8(x) => Some(f64::from(*x)),
            Value::F16(x) => Some(f64::from(*x)),
            Value::F32(x) => Some(f64::from(*x)),
            Value::F64(x) => Some(*x),
            Value::I64(x) => Some(*x as f64),
            Value::Utf8(_) => None,
        }
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Value::U8(x) => x.fmt(f),
            Value::F16(x) => x.fmt(f),
            Value::F32(x) => x.fmt(f),
            Value::F64(x) => x.fmt(f),
            Value::I64(x) => x.fmt(f),
            Value::Utf8(x) => x.fmt(f),
        }
    }
}

/// Names of what lies beside a corpus, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    pub streams: Vec<String>,
    pub columns: Vec<String>,
}

/// Looks beside `prefix`, without opening anything. Unfinished files have other names.
pub fn list(prefix: &Path) -> Result<Names> {
    let folder = prefix.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let own = prefix.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut names = Names::default();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder, "list"))? {
        let file = entry.map_err(Error::io(folder, "list"))?.file_name();
        let Some(end) = file.to_str().and_then(|f| f.strip_prefix(&own)) else { continue };
        for (kind, list) in [(Kind::Stream, &mut names.streams), (Kind::Column, &mut names.columns)] {
            list.extend(end.strip_prefix(kind.infix()).filter(|name| allowed(name)).map(String::from));
        }
    }
    names.streams.sort();
    names.columns.sort();
    Ok(names)
}

/// Reads all that lies beside a corpus and compares it with its checksums; the names of what that is.
pub fn verify(corpus: &Corpus) -> Result<Names> {
    let names = list(corpus.prefix())?;
    for name in &names.streams {
        Stream::open(corpus, name)?.verify()?;
    }
    for name in &names.columns {
        Column::open(corpus, name)?.verify()?;
    }
    Ok(names)
}

/// Whether `name` can name a side stream or a document column: 1 to 100 letters, digits, _ and -.
pub fn allowed(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    (1..=100).contains(&name.len()) && name.bytes().all(plain)
}

/// The file of a side stream.
pub fn stream_path(prefix: &Path, name: &str) -> Result<PathBuf> {
    path(prefix, Kind::Stream, name)
}
/// The file of a document column.
pub fn column_path(prefix: &Path, name: &str) -> Result<PathBuf> {
    path(prefix, Kind::Column, name)
}

fn path(prefix: &Path, kind: Kind, name: &str) -> Result<PathBuf> {
    if !allowed(name) {
        let problem = format!("{name:?} cannot name a {kind}");
        return Err(Error::data(prefix, problem, "use 1 to 100 letters, digits, _ and -"));
    }
    Ok(beside(prefix, &format!("{}{name}", kind.infix())))
}
