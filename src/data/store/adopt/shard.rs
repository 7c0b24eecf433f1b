//! What files of other programs hold: how many tokens of which type from which byte on, and who says where documents
//! end.
//!
//! - llm.c: a header of 256 i32 (magic 20240520, version 1: u16 tokens; magic 20240801, version 7: u32), the third of
//!   them the number of tokens, then the tokens. (`dev/data/data_common.py`)
//! - datatrove (nanotron): tokens without a header in X.ds, and X.ds.index, a u64 for each document: the token after its
//!   last one. The numbers' type follows from the sizes. (`pipeline/tokens/tokenizer.py`)
//! - anything else: tokens without a header, whose type the user says.

use crate::data::meta::{PartType, beside};
use crate::data::store::{Access, Source};
use crate::{Error, Result};
use std::path::{Path, PathBuf};

const LLMC_HEADER: u64 = 1024;
/// Magic, version, type of the tokens.
const LLMC: [(u32, u32, PartType); 2] = [(20_240_520, 1, PartType::U16), (20_240_801, 7, PartType::U32)];

#[derive(Debug)]
pub struct Shard {
    pub source: Source,
    pub offset: u64,
    pub tokens: u64,
    pub dtype: PartType,
    /// The file of document ends.
    pub ends: Option<Source>,
    pub format: &'static str,
}

/// What `path` is. `dtype` is needed where nothing else says it, and must agree where something does.
pub fn open(path: &Path, dtype: Option<PartType>) -> Result<Shard> {
    let source = Source::open(path, Access::Positioned)?;
    let index = beside(path, ".index");
    let magic = if source.len() >= LLMC_HEADER { source.u32_at(0)? } else { 0 };
    let shard = match LLMC.iter().find(|kind| kind.0 == magic) {
        Some(&kind) => llmc(source, kind)?,
        None if index.is_file() => datatrove(source, &index, dtype)?,
        None => raw(source, dtype)?,
    };
    match dtype {
        Some(said) if said.bytes() != shard.dtype.bytes() => {
            let problem =
                format!("has tokens of {} bytes, and --dtype says {}", shard.dtype.bytes(), said.bytes());
            Err(Error::data(path, problem, "leave out --dtype"))
        }
        Some(said) => Ok(Shard { dtype: said, ..shard }),
        None => Ok(shard),
    }
}

fn llmc(source: Source, (_, version, dtype): (u32, u32, PartType)) -> Result<Shard> {
    let bad = |offset: u64, problem: String| {
        let remedy = "write the shard again with llm.c's scripts".into();
        Err(Error::Data { path: source.path().into(), offset: Some(offset), problem, remedy })
    };
    let (found, tokens) = (source.u32_at(4)?, source.u32_at(8)?);
    if found != version {
        return bad(
            4,
            format!("version {found} of an llm.c shard; this program reads {version} of this kind"),
        );
    }
    let tokens = u64::from(tokens);
    let bytes = LLMC_HEADER + tokens * dtype.bytes();
    if tokens == 0 || tokens > i32::MAX as u64 || source.len() != bytes {
        return bad(8, format!("an llm.c shard of {tokens} tokens has {bytes} bytes, not {}", source.len()));
    }
    Ok(Shard { source, offset: LLMC_HEADER, tokens, dtype, ends: None, format: "llm.c" })
}

fn datatrove(source: Source, index: &Path, dtype: Option<PartType>) -> Result<Shard> {
    let ends = Source::open(index, Access::Positioned)?;
    let remedy = "copy both files again: the index has a u64 for each document, the token after its last";
    if ends.len() == 0 || ends.len() % 8 != 0 {
        let problem = format!("has {} bytes, which are no list of document ends", ends.len());
        return Err(Error::data(index, problem, remedy));
    }
    let tokens = ends.u64_at(ends.len() - 8)?;
    let fits = |dtype: &PartType| tokens.checked_mul(dtype.bytes()) == Some(source.len());
    let kinds = [PartType::U16, PartType::U32];
    match dtype.filter(fits).or_else(|| kinds.into_iter().find(fits)).filter(|_| tokens > 0) {
        Some(dtype) => Ok(Shard { source, offset: 0, tokens, dtype, ends: Some(ends), format: "datatrove" }),
        None => {
            let problem = format!(
                "the last document ends at token {tokens}, and {} has {} bytes, not 2 or 4 for each",
                source.path().display(),
                source.len()
            );
            Err(Error::Data {
                path: index.into(),
                offset: Some(ends.len() - 8),
                problem,
                remedy: remedy.into(),
            })
        }
    }
}

fn raw(source: Source, dtype: Option<PartType>) -> Result<Shard> {
    let Some(dtype) = dtype else {
        let problem = "is no Megatron index, llm.c shard or datatrove file with its .index beside it";
        let remedy = "say --dtype u16 or u32 if it is tokens and nothing else";
        return Err(Error::data(source.path(), problem, remedy));
    };
    if source.len() == 0 || !source.len().is_multiple_of(dtype.bytes()) {
        let problem =
            format!("has {} bytes, which are no tokens of {} bytes each", source.len(), dtype.bytes());
        return Err(Error::data(source.path(), problem, "say the right --dtype or restore the file"));
    }
    let tokens = source.len() / dtype.bytes();
    Ok(Shard { source, offset: 0, tokens, dtype, ends: None, format: "raw" })
}

/// The files that the arguments name: folders stand for the .bin, .ds and .npy files in them, by name.
pub fn find(inputs: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for input in inputs {
        if !input.is_dir() {
            files.push(input.clone());
            continue;
        }
        let before = files.len();
        for entry in std::fs::read_dir(input).map_err(Error::io(input, "list"))? {
            let path = entry.map_err(Error::io(input, "list"))?.path();
            let end = path.extension().and_then(|end| end.to_str());
            if path.is_file() && end.is_some_and(|end| ["bin", "ds", "npy"].contains(&end)) {
                files.push(path);
            }
        }
        files[before..].sort();
        if files.len() == before {
            return Err(Error::data(input, "has no .bin, .ds or .npy file", "name the files"));
        }
    }
    Ok(files)
}
