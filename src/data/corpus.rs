//! A corpus: tokens and document boundaries in mapped files, PREFIX.bin, PREFIX.idx and PREFIX.json.

use super::idx::{Index, TokenType, damaged};
use super::meta::{Meta, beside};
use crate::{Error, Result};
use memmap2::Mmap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// A document is known by this many of its first bytes in .bin.
const HASHED_BYTES: u64 = 4096;

pub struct Corpus {
    prefix: PathBuf,
    bin_path: PathBuf,
    bin: Mmap,
    index: Index,
    meta: Meta,
}

impl std::fmt::Debug for Corpus {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "Corpus({}, {} tokens)", self.prefix.display(), self.tokens())
    }
}

impl Corpus {
    /// Maps the three files and checks that they fit one another; what reading them costs is left to `verify`.
    pub fn open(prefix: &Path) -> Result<Corpus> {
        let path = |suffix| beside(prefix, suffix);
        for file in [".json", ".idx", ".bin"].map(path) {
            if !file.is_file() {
                return Err(Error::data(&file, "there is no such file", missing(prefix)));
            }
        }
        let meta = Meta::read(&path(".json"))?;
        let bin_path = path(".bin");
        let file = File::open(&bin_path).map_err(Error::io(&bin_path, "open"))?;
        // SAFETY: the mapping is only read, through bounds-checked slices; corpora are written under temporary names
        // and renamed, so a file that has this name is not written to.
        let bin = unsafe { Mmap::map(&file) }.map_err(Error::io(&bin_path, "map"))?;
        let index = Index::open(&path(".idx"), bin.len() as u64)?;
        let corpus = Corpus { prefix: prefix.into(), bin_path, bin, index, meta };
        let item = corpus.index.token_type.bytes();
        let expected = (corpus.meta.tokens.checked_mul(item), corpus.meta.documents);
        if expected != (Some(corpus.bin.len() as u64), corpus.documents()) {
            let problem = format!(
                "states {} tokens in {} documents, but .bin and .idx hold {} in {}: they are not of one corpus",
                corpus.meta.tokens,
                corpus.meta.documents,
                corpus.tokens(),
                corpus.documents()
            );
            let remedy = "copy the three files together or rebuild the corpus with `espalier corpus build`";
            return Err(Error::data(path(".json"), problem, remedy));
        }
        Ok(corpus)
    }

    /// The path all three files share.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }
    pub fn meta(&self) -> &Meta {
        &self.meta
    }
    /// At least 1.
    pub fn tokens(&self) -> u64 {
        self.index.tokens()
    }
    pub fn documents(&self) -> u64 {
        self.index.documents()
    }
    pub fn vocab(&self) -> u32 {
        self.meta.vocab
    }

    /// Names the content: equal for copies, different after any change of tokens, documents or tokenizer.
    pub fn hash(&self) -> u64 {
        let m = &self.meta;
        let parts = [m.bin_xxh3, m.idx_xxh3, m.tokenizer.hash, u64::from(m.vocab)];
        xxh3_64(&parts.map(u64::to_le_bytes).concat())
    }

    /// Tokens first to first + out.len(); an id outside the vocabulary is an error.
    pub fn read(&self, first: u64, out: &mut [u32]) -> Result<()> {
        let bytes = self.bytes(first, out.len() as u64)?;
        match self.index.token_type {
            TokenType::U16 => {
                for (o, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                    *o = u32::from(u16::from_le_bytes([b[0], b[1]]));
                }
            }
            // A negative id becomes one above 2^31 and fails the check below.
            TokenType::I32 => {
                for (o, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                    *o = u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
                }
            }
        }
        match out.iter().position(|&id| id >= self.meta.vocab) {
            None => Ok(()),
            Some(i) => {
                let at = (first + i as u64) * self.index.token_type.bytes();
                let problem = format!("token {} is outside the vocabulary of {}", out[i], self.meta.vocab);
                Err(damaged(&self.bin_path, at, problem))
            }
        }
    }

    /// The document that holds a token.
    pub fn document_at(&self, token: u64) -> Result<u64> {
        self.bytes(token, 1)?;
        let (mut low, mut high) = (0, self.documents());
        // start(low) <= token < start(high); of documents that begin at the same token all but the last are empty.
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.index.document_start(middle)? <= token {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// Tokens of document `doc`; may be empty.
    pub fn document_range(&self, doc: u64) -> Result<Range<u64>> {
        if doc >= self.documents() {
            let problem = format!("document {doc} of {} was asked for", self.documents());
            return Err(Error::data(&self.prefix, problem, "ask for a document the corpus has"));
        }
        let range = self.index.document_start(doc)?..self.index.document_start(doc + 1)?;
        if range.start > range.end {
            let problem = format!("document {doc} runs from token {} to {}", range.start, range.end);
            return Err(damaged(&self.index.path, 0, problem));
        }
        Ok(range)
    }

    /// Sequences: what documents are made of. Most writers make each document one.
    pub fn sequences(&self) -> u64 {
        self.index.sequences()
    }

    /// Tokens of sequence `i`; may be empty.
    pub fn sequence_range(&self, i: u64) -> Result<Range<u64>> {
        if i >= self.sequences() {
            let problem = format!("sequence {i} of {} was asked for", self.sequences());
            return Err(Error::data(&self.prefix, problem, "ask for a sequence the corpus has"));
        }
        self.index.sequence_range(i)
    }

    /// XXH3 of the document's first bytes in .bin (at most 4096), so equal beginnings share their fate.
    pub fn document_hash(&self, doc: u64) -> Result<u64> {
        let range = self.document_range(doc)?;
        let most = HASHED_BYTES / self.index.token_type.bytes();
        Ok(xxh3_64(self.bytes(range.start, (range.end - range.start).min(most))?))
    }

    /// Reads everything: each entry of the index, each token, both checksums.
    pub fn verify(&self) -> Result<()> {
        self.index.check_all()?;
        let mut tokens = vec![0; 1 << 16];
        let mut hash = Xxh3::new();
        let mut first = 0;
        while first < self.tokens() {
            let count = (self.tokens() - first).min(tokens.len() as u64);
            self.read(first, &mut tokens[..count as usize])?;
            hash.update(self.bytes(first, count)?);
            first += count;
        }
        let idx = (&self.index.path, xxh3_64(&self.index.map), self.meta.idx_xxh3);
        for (path, found, stated) in [idx, (&self.bin_path, hash.digest(), self.meta.bin_xxh3)] {
            if found != stated {
                let problem =
                    format!("has checksum {found:016x}, but the .json beside it states {stated:016x}");
                let remedy =
                    "copy the three files together or rebuild the corpus with `espalier corpus build`";
                return Err(Error::data(path, problem, remedy));
            }
        }
        Ok(())
    }

    fn bytes(&self, first: u64, count: u64) -> Result<&[u8]> {
        match first.checked_add(count).filter(|&end| end <= self.tokens()) {
            Some(end) => {
                let item = self.index.token_type.bytes();
                Ok(&self.bin[(first * item) as usize..(end * item) as usize])
            }
            None => {
                let problem = format!("{count} tokens from {first} were asked for, it has {}", self.tokens());
                Err(Error::data(&self.bin_path, problem, "ask for tokens the corpus has"))
            }
        }
    }
}

fn missing(prefix: &Path) -> String {
    match prefix.extension().and_then(|e| e.to_str()) {
        Some(end @ ("bin" | "idx" | "json")) => format!("give the path without .{end}"),
        _ => "a corpus is PREFIX.bin, .idx and .json as `espalier corpus build` writes them".into(),
    }
}
