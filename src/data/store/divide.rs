//! `corpus split`: the documents of a corpus as two.

use super::join::{apart, copy_documents, copy_tokens};
use super::output::{CorpusFiles, definition_of};
use super::sides::{Sides, Writers};
use crate::data::Corpus;
use crate::data::idx::TokenType;
use crate::data::meta::{BYTE_VOCAB, Meta};
use crate::{Error, Result};
use std::path::Path;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Set apart from the hash that `holdout` compares, so that it holds out its share of each half.
const SEED: u64 = 0x53_504c_4954;

/// Which documents go to the first half.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Share {
    /// Those with hash / 2^64 below it: equal beginnings go together, and a larger share takes all that a smaller took.
    Hash(f64),
    /// The first so many.
    Documents(u64),
}

impl Share {
    fn takes(self, corpus: &Corpus, doc: u64) -> Result<bool> {
        match self {
            Share::Documents(count) => Ok(doc < count),
            Share::Hash(share) => {
                let hash = xxh3_64_with_seed(&corpus.document_hash(doc)?.to_le_bytes(), SEED);
                Ok((hash as f64) < share * 18_446_744_073_709_551_616.0)
            }
        }
    }
}

/// Writes the documents that `share` takes to `a` and the others to `b`, in their order, with their values in side streams and columns. `progress` gets the documents
/// read.
pub fn split(
    corpus: &Corpus,
    share: Share,
    a: &Path,
    b: &Path,
    progress: &mut dyn FnMut(u64),
) -> Result<[Meta; 2]> {
    if let Share::Hash(share) = share
        && !(share > 0.0 && share < 1.0)
    {
        return Err(Error::config(
            "command line",
            "--share",
            format!("it is {share}"),
            "give one between 0 and 1",
        ));
    }
    if let Share::Documents(count) = share
        && !(1..corpus.documents()).contains(&count)
    {
        let problem = format!("it is {count}, and the corpus has {} documents", corpus.documents());
        return Err(Error::config(
            "command line",
            "--documents",
            problem,
            "leave at least one for each half",
        ));
    }
    apart(corpus, a)?;
    apart(corpus, b)?;
    if a == b {
        return Err(Error::config("command line", "--out", "both halves have one name", "give two names"));
    }
    let token_type = if corpus.token_bytes() == 4 { TokenType::I32 } else { TokenType::U16 };
    let mut files = [CorpusFiles::create(a, token_type, true)?, CorpusFiles::create(b, token_type, true)?];
    let (sides, _) = Sides::shared(std::slice::from_ref(corpus))?;
    let (beside, mut writers) =
        (sides.open(corpus)?, [Writers::create(a, &sides)?, Writers::create(b, &sides)?]);
    let mut text = [0, 0];
    for doc in 0..corpus.documents() {
        let half = usize::from(!share.takes(corpus, doc)?);
        let range = corpus.document_range(doc)?;
        text[half] += (range.end - range.start).saturating_sub(1);
        copy_tokens(corpus, range.clone(), &mut files[half], &mut |_| {})?;
        writers[half].copy(&beside, range, doc..doc + 1)?;
        copy_documents(corpus, doc..doc + 1, &mut files[half])?;
        if doc % 1024 == 0 {
            progress(doc);
        }
    }
    let mut metas = Vec::new();
    for (half, (files, out)) in files.into_iter().zip([a, b]).enumerate() {
        if files.tokens() == 0 {
            let problem = format!("none of the {} documents falls to it", corpus.documents());
            return Err(Error::data(out, problem, "choose another share"));
        }
        let mut meta = corpus.meta().like();
        // A byte is a token; what other tokens stand for is not known of a part.
        meta.source_bytes =
            if meta.vocab == BYTE_VOCAB && meta.tokenizer.kind == "byte" { text[half] } else { 0 };
        metas.push(files.finish(meta)?);
        definition_of(corpus.prefix(), out)?;
        std::mem::take(&mut writers[half]).finish(Corpus::open(out)?.hash())?;
    }
    Ok(metas.try_into().expect("two halves"))
}
