//! `corpus adopt`: makes a corpus of files that other programs wrote. The tokens stay where they are: PREFIX.json names
//! the files, and PREFIX.idx is written where there is none. `shard` has the formats.

mod identity;
mod scan;
mod shard;

use super::output::CorpusFiles;
use super::parts::Parts;
use super::source::{Access, Source};
use super::tokens::Tokens;
use crate::data::Corpus;
use crate::data::idx::{Index, TokenType};
use crate::data::meta::{Meta, Part, PartType, beside};
use crate::{Error, Result};
use identity::{Identity, identity, relative};
use scan::{Cut, Scan};
use shard::Shard;
use std::path::{Path, PathBuf};

/// What to adopt, and what its ids mean.
#[derive(Debug, Clone, Default)]
pub struct Adopt {
    /// Files and folders, in the order of their tokens; or the prefix of one Megatron .bin and .idx.
    pub inputs: Vec<PathBuf>,
    /// Prefix of the corpus; None: that of the Megatron files.
    pub out: Option<PathBuf>,
    /// A tokenizer.json, or a name.
    pub tokenizer: String,
    /// Ids are below this; None: as the tokenizer.json says.
    pub vocab: Option<u32>,
    /// The id between documents, where the files do not say where they end.
    pub eod: Option<u32>,
    /// For files without a header.
    pub dtype: Option<PartType>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    pub prefix: PathBuf,
    pub format: &'static str,
    pub files: usize,
    pub tokens: u64,
    pub documents: u64,
    /// The id of `eod` stands before documents, as llm.c's scripts put it, not after them.
    pub eod_first: bool,
}

/// Reads all tokens once. `progress` gets the tokens read and those there are.
pub fn adopt(what: &Adopt, progress: &mut dyn FnMut(u64, u64)) -> Result<Adopted> {
    let id = identity(&what.tokenizer)?;
    let Some(vocab) = what.vocab.or(id.vocab) else {
        let remedy = "say how many ids there are with --vocab, or name a tokenizer.json";
        return Err(Error::config("command line", "--vocab", "the vocabulary is not known", remedy));
    };
    if let Some(eod) = what.eod.filter(|&eod| eod >= vocab) {
        let problem = format!("it is {eod}, outside the vocabulary of {vocab}");
        return Err(Error::config("command line", "--eod", problem, "give the id that ends documents"));
    }
    let mut meta = Meta::new(vocab, id.tokenizer.clone(), None);
    if id.tokenizer.kind == "byte" {
        meta.end_of_document = Some(256);
    }
    meta.check().map_err(|e| Error::config("command line", "--vocab", e, "say what the ids are"))?;
    let adopted = match what.inputs.as_slice() {
        [] => {
            return Err(Error::config(
                "command line",
                "INPUT",
                "there is none",
                "name files, folders or a prefix",
            ));
        }
        [input] if let Some(prefix) = megatron(input) => indexed(&prefix, what, meta, progress)?,
        inputs => shards(&shard::find(inputs)?, what, meta, progress)?,
    };
    definition(&id, &adopted.prefix)?;
    // What was written is a corpus.
    Corpus::open(&adopted.prefix)?;
    Ok(adopted)
}

/// The prefix, if `input` is one of a .bin and a .idx, or either file.
fn megatron(input: &Path) -> Option<PathBuf> {
    let text = input.to_str()?;
    let prefix = text.strip_suffix(".bin").or_else(|| text.strip_suffix(".idx")).unwrap_or(text);
    let prefix = PathBuf::from(prefix);
    (beside(&prefix, ".idx").is_file() && beside(&prefix, ".bin").is_file()).then_some(prefix)
}

/// Puts the tokenizer's definition beside the corpus.
fn definition(id: &Identity, prefix: &Path) -> Result<()> {
    let (Some(from), to) = (&id.definition, beside(prefix, ".tokenizer.json")) else { return Ok(()) };
    let same =
        std::fs::canonicalize(from).ok().is_some_and(|from| std::fs::canonicalize(&to).ok() == Some(from));
    if same { Ok(()) } else { std::fs::copy(from, &to).map(drop).map_err(Error::io(&to, "write")) }
}

/// A Megatron .bin and .idx.
fn indexed(
    prefix: &Path,
    what: &Adopt,
    mut meta: Meta,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Adopted> {
    let out = what.out.clone().unwrap_or_else(|| prefix.to_path_buf());
    let json = beside(&out, ".json");
    if json.exists() {
        let problem = "is there already: this is a corpus";
        return Err(Error::data(json, problem, "remove it to adopt the files anew"));
    }
    let (bin, idx) = (beside(prefix, ".bin"), beside(prefix, ".idx"));
    let source = Source::open(&bin, Access::Positioned)?;
    let index = Index::open(Source::open(&idx, Access::Positioned)?, source.len())?;
    index.check_all()?;
    let dtype = if index.token_type == TokenType::U16 { PartType::U16 } else { PartType::I32 };
    let shard = Shard { source, offset: 0, tokens: index.tokens(), dtype, ends: None, format: "megatron" };
    let total = shard.tokens;
    let mut count = |read| progress(read, total);
    let mut scan = Scan::new(meta.vocab, Cut::Stored, None, None, &mut count);
    scan.shard(&shard)?;
    meta.bin_xxh3 = scan.hash.digest();
    meta.idx_xxh3 = index.source.checksum()?;
    (meta.tokens, meta.documents) = (index.tokens(), index.documents());
    if out != prefix {
        let (folder, to) = (out.parent().unwrap_or(Path::new("")), beside(&out, ".idx"));
        std::fs::create_dir_all(folder).map_err(Error::io(folder, "make the folder"))?;
        std::fs::copy(&idx, &to).map_err(Error::io(&to, "write"))?;
        let path = relative(&bin, folder)?;
        meta.parts = vec![Part { path, offset: 0, tokens: shard.tokens, dtype }];
    }
    let mut ends = 0;
    let tokens = Tokens::from(Parts::whole(shard.source));
    meta.sampled_xxh3 = Some(tokens.sampled()?);
    if let Some(eod) = what.eod {
        ends = ending(&tokens, &index, eod)?;
    }
    meta.end_of_document = meta.end_of_document.or(what.eod.filter(|_| ends == index.documents()));
    meta.write(&json)?;
    Ok(Adopted {
        prefix: out,
        format: "megatron",
        files: 1,
        tokens: meta.tokens,
        documents: meta.documents,
        eod_first: false,
    })
}

/// Documents whose last token is `eod`.
fn ending(tokens: &Tokens, index: &Index, eod: u32) -> Result<u64> {
    let item = index.token_type.bytes();
    let mut count = 0;
    for doc in 0..index.documents() {
        let mut ends = [0; 2];
        index.document_starts(doc, &mut ends)?;
        if ends[1] > ends[0] {
            let last = tokens.with((ends[1] - 1) * item, item as usize, |b| {
                b.iter().rev().fold(0u32, |id, &byte| id << 8 | u32::from(byte))
            })?;
            count += u64::from(last == eod);
        }
    }
    Ok(count)
}

/// Shards with or without headers.
fn shards(
    files: &[PathBuf],
    what: &Adopt,
    mut meta: Meta,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Adopted> {
    let Some(out) = what.out.clone() else {
        let remedy = "say where to write PREFIX.json and PREFIX.idx with --out PREFIX";
        return Err(Error::config("command line", "--out", "it is missing", remedy));
    };
    let shards = files.iter().map(|path| shard::open(path, what.dtype)).collect::<Result<Vec<Shard>>>()?;
    let first = &shards[0];
    for shard in &shards {
        if (shard.dtype, shard.ends.is_some()) != (first.dtype, first.ends.is_some()) {
            let problem = format!("is of another kind than {}", first.source.path().display());
            return Err(Error::data(
                shard.source.path(),
                problem,
                "adopt each kind into a corpus of its own",
            ));
        }
    }
    let token_type = if first.dtype == PartType::U16 { TokenType::U16 } else { TokenType::I32 };
    let mut head = [0; 4];
    let item = first.dtype.bytes() as usize;
    first.source.read_at(first.offset, &mut head[..item])?;
    // A text that began with the end of a document would be an odd one: this one begins each.
    let eod_first = first.ends.is_none() && what.eod == Some(u32::from_le_bytes(head));
    let cut = match what.eod {
        _ if first.ends.is_some() => Cut::Stored,
        Some(eod) if eod_first => Cut::Before(eod),
        Some(eod) => Cut::After(eod),
        None => Cut::File,
    };
    let total = shards.iter().map(|shard| shard.tokens).sum();
    let mut count = |read| progress(read, total);
    let output = CorpusFiles::create(&out, token_type, false)?;
    let mut scan = Scan::new(meta.vocab, cut, what.eod, Some(output), &mut count);
    shards.iter().try_for_each(|shard| scan.shard(shard))?;
    scan.finish()?;
    meta.bin_xxh3 = scan.hash.digest();
    let output = scan.files.take().expect("given above");
    // The last document of a stream may be cut off.
    let all = scan.ended + u64::from(cut != Cut::Stored) >= output.documents() && scan.ended > 0;
    meta.end_of_document = meta.end_of_document.or(what.eod.filter(|_| all));
    let folder = out.parent().unwrap_or(Path::new(""));
    for shard in &shards {
        let path = relative(shard.source.path(), folder)?;
        meta.parts.push(Part { path, offset: shard.offset, tokens: shard.tokens, dtype: shard.dtype });
    }
    let (format, files) = (first.format, shards.len());
    let mut parts = Parts::empty();
    for shard in shards {
        parts.push(shard.source, shard.offset, shard.tokens * shard.dtype.bytes())?;
    }
    meta.sampled_xxh3 = Some(Tokens::from(parts).sampled()?);
    let (tokens, documents) = (output.tokens(), output.documents());
    output.finish(meta)?;
    Ok(Adopted { prefix: out, format, files, tokens, documents, eod_first })
}
