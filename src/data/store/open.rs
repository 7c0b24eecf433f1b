//! Finds and opens the files of a corpus: PREFIX.json, PREFIX.idx and its tokens in PREFIX.bin, PREFIX.bin.zst or the
//! parts that PREFIX.json names.

use super::frames::Frames;
use super::parts::Parts;
use super::source::{Access, Source};
use super::stage::{Piece, Staged};
use super::tokens::Tokens;
use crate::data::meta::{Meta, Part, beside};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

/// Where the tokens lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    Plain(PathBuf),
    Compressed(PathBuf),
    Parts(Vec<(PathBuf, Part)>),
}

impl Form {
    /// .bin if both it and .bin.zst are there.
    pub fn find(prefix: &Path, meta: &Meta) -> Result<Form> {
        if !meta.parts.is_empty() {
            let folder = prefix.parent().unwrap_or(Path::new(""));
            return Ok(Form::Parts(
                meta.parts.iter().map(|part| (folder.join(&part.path), part.clone())).collect(),
            ));
        }
        let (plain, compressed) = (beside(prefix, ".bin"), beside(prefix, ".bin.zst"));
        match (plain.is_file(), compressed.is_file()) {
            (true, _) => Ok(Form::Plain(plain)),
            (false, true) => Ok(Form::Compressed(compressed)),
            (false, false) => Err(Error::data(&plain, "there is no such file", missing(prefix))),
        }
    }

    pub fn open(&self, access: Access) -> Result<Tokens> {
        match self {
            Form::Plain(path) => Ok(Parts::whole(Source::open(path, access)?).into()),
            Form::Compressed(path) => Ok(Frames::open(Source::open(path, access)?)?.into()),
            Form::Parts(files) => {
                let mut parts = Parts::empty();
                for (path, part) in files {
                    parts.push(Source::open(path, access)?, part.offset, part.tokens * part.dtype.bytes())?;
                }
                Ok(parts.into())
            }
        }
    }
}

/// The description of a corpus, and where its index and tokens lie.
pub fn describe(prefix: &Path) -> Result<(Meta, PathBuf, Form)> {
    let (json, idx) = (beside(prefix, ".json"), beside(prefix, ".idx"));
    for file in [&json, &idx] {
        if !file.is_file() {
            return Err(Error::data(file, "there is no such file", missing(prefix)));
        }
    }
    let meta = Meta::read(&json)?;
    let form = Form::find(prefix, &meta)?;
    Ok((meta, idx, form))
}

/// Copies one file beside a corpus to the disk that the corpus was copied to; where it lies there.
pub fn stage_beside(staged: &Staged, hash: u64, from: &Path) -> Result<(Staged, PathBuf)> {
    let name = from.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let piece = whole(from, &name)?;
    let copy = Staged::new(staged.parent(), hash, std::slice::from_ref(&piece))?;
    let path = copy.path(&name);
    Ok((copy, path))
}

fn whole(from: &Path, name: &str) -> Result<Piece> {
    let len = std::fs::metadata(from).map_err(Error::io(from, "find"))?.len();
    Ok(Piece { from: from.into(), offset: 0, len, name: name.into() })
}

/// Copies index and tokens to a disk of the node; see `stage`.
pub fn stage(hash: u64, idx: PathBuf, form: Form, folder: Option<&Path>) -> Result<(Staged, PathBuf, Form)> {
    let mut pieces = vec![whole(&idx, "idx")?];
    match &form {
        Form::Plain(path) => pieces.push(whole(path, "bin")?),
        Form::Compressed(path) => pieces.push(whole(path, "bin.zst")?),
        Form::Parts(files) => pieces.extend(files.iter().enumerate().map(|(i, (path, part))| Piece {
            from: path.clone(),
            offset: part.offset,
            len: part.tokens * part.dtype.bytes(),
            name: format!("part-{i:05}"),
        })),
    }
    let staged = Staged::new(folder, hash, &pieces)?;
    let copy = |i: usize| staged.path(&pieces[i].name);
    let form = match form {
        Form::Plain(_) => Form::Plain(copy(1)),
        Form::Compressed(_) => Form::Compressed(copy(1)),
        Form::Parts(files) => Form::Parts(
            files
                .into_iter()
                .enumerate()
                .map(|(i, (_, part))| (copy(i + 1), Part { offset: 0, ..part }))
                .collect(),
        ),
    };
    let idx = copy(0);
    Ok((staged, idx, form))
}

fn missing(prefix: &Path) -> String {
    match prefix.extension().and_then(|e| e.to_str()) {
        Some(end @ ("bin" | "idx" | "json" | "zst")) => format!("give the path without .{end}"),
        _ => "a corpus is PREFIX.bin (or .bin.zst), .idx and .json as `espalier corpus build` or `adopt` make them".into(),
    }
}
