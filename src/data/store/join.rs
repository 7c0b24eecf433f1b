//! `corpus merge`: the documents of several corpora as one, in the order of the arguments (the rule of Megatron's
//! `tools/merge_datasets.py`: tokens one after another, lengths appended, documents shifted). Empty documents and
//! documents of several sequences stay what they are.

use super::output::CorpusFiles;
use super::output::definition_of;
use super::sides::{Sides, Writers};
use crate::data::Corpus;
use crate::data::idx::TokenType;
use crate::data::meta::{Meta, beside};
use crate::{Error, Result};
use std::path::Path;

pub(super) const BLOCK: usize = 1 << 16;

/// What a merge made, and the side streams and columns that not all of its parts have.
#[derive(Debug)]
pub struct Merged {
    pub meta: Meta,
    pub left_out: Vec<String>,
}

/// Merges the corpora `parts` into `out`, which must be none of them, with the side streams and columns they all have. `progress` gets the tokens written and those
/// there are.
pub fn merge(parts: &[Corpus], out: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<Merged> {
    let Some(first) = parts.first() else {
        return Err(Error::config("command line", "INPUT", "there is none", "name the corpora to merge"));
    };
    for part in parts {
        apart(part, out)?;
        fits(part, first)?;
    }
    let wide = parts.iter().any(|part| part.token_bytes() == 4);
    let mut files = CorpusFiles::create(out, if wide { TokenType::I32 } else { TokenType::U16 }, true)?;
    let (sides, left_out) = Sides::shared(parts)?;
    if let Some(name) = first.meta().weights.as_ref().filter(|name| !sides.has_stream(name)) {
        let problem =
            format!("weighs targets by the stream {name:?}, which not all corpora have in one type");
        return Err(Error::data(first.prefix(), problem, "merge corpora that all have it"));
    }
    let mut writers = Writers::create(out, &sides)?;
    let total = parts.iter().map(Corpus::tokens).sum();
    for part in parts {
        let before = files.tokens();
        let mut count = |tokens| progress(before + tokens, total);
        copy_tokens(part, 0..part.tokens(), &mut files, &mut count)?;
        copy_documents(part, 0..part.documents(), &mut files)?;
        writers.copy(&sides.open(part)?, 0..part.tokens(), 0..part.documents())?;
    }
    let mut meta = first.meta().like();
    // 0 = not known, of any part as of the whole.
    let known = parts.iter().all(|part| part.meta().source_bytes > 0);
    meta.source_bytes = if known { parts.iter().map(|part| part.meta().source_bytes).sum() } else { 0 };
    let meta = files.finish(meta)?;
    definition_of(first.prefix(), out)?;
    writers.finish(Corpus::open(out)?.hash())?;
    Ok(Merged { meta, left_out })
}

/// A corpus is not written over itself.
pub(super) fn apart(part: &Corpus, out: &Path) -> Result<()> {
    let json = |prefix: &Path| std::fs::canonicalize(beside(prefix, ".json")).ok();
    match json(out) {
        Some(path) if json(part.prefix()) == Some(path.clone()) => {
            Err(Error::data(path, "is read and would be written", "give the new corpus a name of its own"))
        }
        _ => Ok(()),
    }
}

fn fits(part: &Corpus, first: &Corpus) -> Result<()> {
    let (a, b) = (part.meta(), first.meta());
    let describe = |m: &Meta| {
        let end = m.end_of_document.map_or("none".into(), |id| id.to_string());
        format!(
            "tokenizer {} {:016x}, {} ids, end of document {end}",
            m.tokenizer.kind, m.tokenizer.hash, m.vocab
        )
    };
    if (a.vocab, &a.tokenizer, a.end_of_document) != (b.vocab, &b.tokenizer, b.end_of_document) {
        let problem = format!("has {}, but {} has {}", describe(a), first.prefix().display(), describe(b));
        return Err(Error::data(part.prefix(), problem, "merge corpora of one tokenizer"));
    }
    if a.weights != b.weights {
        let problem =
            format!("weighs targets by {:?}, but {} by {:?}", a.weights, first.prefix().display(), b.weights);
        return Err(Error::data(
            part.prefix(),
            problem,
            "merge corpora that weigh targets by the same stream",
        ));
    }
    Ok(())
}

/// Appends tokens, which are checked on the way.
pub(super) fn copy_tokens(
    from: &Corpus,
    range: std::ops::Range<u64>,
    to: &mut CorpusFiles,
    progress: &mut dyn FnMut(u64),
) -> Result<()> {
    let mut tokens = Vec::new();
    let mut at = range.start;
    while at < range.end {
        tokens.resize((range.end - at).min(BLOCK as u64) as usize, 0);
        from.read(at, &mut tokens)?;
        to.push(&tokens)?;
        at += tokens.len() as u64;
        progress(at - range.start);
    }
    Ok(())
}

/// Appends documents with their sequences.
pub(super) fn copy_documents(from: &Corpus, docs: std::ops::Range<u64>, to: &mut CorpusFiles) -> Result<()> {
    let (mut begins, mut lengths) = (Vec::new(), Vec::new());
    let mut doc = docs.start;
    while doc < docs.end {
        let count = (docs.end - doc).min(BLOCK as u64) as usize;
        begins.resize(count + 1, 0);
        from.document_sequences(doc, &mut begins)?;
        for ends in begins.windows(2) {
            let mut sequence = ends[0];
            while sequence < ends[1] {
                lengths.resize((ends[1] - sequence).min(BLOCK as u64) as usize, 0);
                from.sequence_lengths(sequence, &mut lengths)?;
                lengths.iter().try_for_each(|&length| to.sequence(length as u64))?;
                sequence += lengths.len() as u64;
            }
            to.end_document()?;
        }
        doc += count as u64;
    }
    Ok(())
}
