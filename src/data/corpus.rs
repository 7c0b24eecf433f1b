//! A corpus: tokens, document boundaries and what they mean. `store` says where the tokens may lie.

use super::idx::{Index, TokenType, damaged};
use super::meta::{Meta, beside};
use super::store::{Access, Form, Source, Staged, Tokens, describe, stage};
use crate::config::Io;
use crate::{Error, Result};
use std::ops::Range;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// A document is known by this many of its first bytes in .bin.
const HASHED_BYTES: u64 = 4096;
const COPY: &str = "copy all files of the corpus together or rebuild it with `espalier corpus build`";

/// Open files of a corpus. Any number of threads may read from one.
pub struct Corpus {
    prefix: PathBuf,
    // The files before the folder they may be copied to.
    tokens: Tokens,
    index: Index,
    meta: Meta,
    access: Access,
    staged: Option<Staged>,
}

impl std::fmt::Debug for Corpus {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "Corpus({}, {} tokens)", self.prefix.display(), self.tokens())
    }
}

impl Corpus {
    /// Maps the files PREFIX.json, PREFIX.idx and PREFIX.bin (or PREFIX.bin.zst, or those that PREFIX.json names).
    pub fn open(prefix: &Path) -> Result<Corpus> {
        Corpus::open_with(prefix, Io::Mmap, None)
    }

    /// Checks that the files fit one another and that blocks of tokens spread over all of them are as they were
    /// written; what reading everything costs is left to `verify`. The time it takes does not depend on their size.
    /// `stage_dir`: where `Io::Stage` copies to, None for the system's folder for temporary files.
    pub fn open_with(prefix: &Path, io: Io, stage_dir: Option<&Path>) -> Result<Corpus> {
        let (meta, mut idx, mut form) = describe(prefix)?;
        let mut staged = None;
        if io == Io::Stage {
            let copy;
            (copy, idx, form) = stage(hash(&meta), idx, form, stage_dir)?;
            staged = Some(copy);
        }
        let access = if io == Io::Pread { Access::Positioned } else { Access::Mapped };
        let tokens = form.open(access)?;
        let index = Index::open(Source::open(&idx, access)?, tokens.len())?;
        let corpus = Corpus { prefix: prefix.into(), tokens, index, meta, access, staged };
        corpus.check(&form)?;
        Ok(corpus)
    }

    fn check(&self, form: &Form) -> Result<()> {
        let (meta, item) = (&self.meta, self.index.token_type.bytes());
        let json = beside(&self.prefix, ".json");
        if let Form::Parts(parts) = form
            && parts.iter().any(|(_, part)| part.dtype.bytes() != item)
        {
            let problem = format!("\"parts\" have not the {item} bytes for a number that the .idx states");
            return Err(Error::data(json, problem, "adopt the files again with `espalier corpus adopt`"));
        }
        let expected = (meta.tokens.checked_mul(item), meta.documents);
        if expected != (Some(self.tokens.len()), self.documents()) {
            let problem = format!(
                "states {} tokens in {} documents, but .bin and .idx hold {} in {}: they are not of one corpus",
                meta.tokens,
                meta.documents,
                self.tokens(),
                self.documents()
            );
            return Err(Error::data(json, problem, COPY));
        }
        match (meta.sampled_xxh3, self.tokens.sampled()?) {
            (Some(stated), found) if stated != found => {
                let problem = format!(
                    "tokens sampled from all parts of it have checksum {found:016x}, and the .json beside it states \
                     {stated:016x}"
                );
                let sources = self.tokens.sources();
                Err(Error::data(sources.first().map_or(self.prefix.as_path(), |s| s.path()), problem, COPY))
            }
            _ => Ok(()),
        }
    }

    /// An error if a file of the corpus was replaced, changed its length or was written to since it was opened. A few
    /// microseconds, for every batch; of a corpus of many parts each call looks at some.
    pub fn unchanged(&self) -> Result<()> {
        self.index.source.unchanged()?;
        self.tokens.unchanged()
    }

    /// The path all three files share.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }
    /// How its files are read; what lies beside it is read likewise.
    pub(super) fn access(&self) -> Access {
        self.access
    }
    /// The copy that is read, with `Io::Stage`.
    pub(super) fn staged(&self) -> Option<&Staged> {
        self.staged.as_ref()
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

    /// Sequences of the index: a document has one, or more if it is longer than 2^31 - 1 tokens or another program
    /// divided it.
    pub fn sequences(&self) -> u64 {
        self.index.sequences()
    }

    /// Names the content: equal for copies and compressed copies, different after any change of tokens, documents or
    /// tokenizer.
    pub fn hash(&self) -> u64 {
        hash(&self.meta)
    }

    /// Tokens first to first + out.len(); an id outside the vocabulary is an error.
    pub fn read(&self, first: u64, out: &mut [u32]) -> Result<()> {
        let token_type = self.index.token_type;
        self.with_bytes(first, out.len() as u64, |bytes| match token_type {
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
        })?;
        match out.iter().position(|&id| id >= self.meta.vocab) {
            None => Ok(()),
            Some(i) => Err(self.foreign(first + i as u64, out[i])),
        }
    }

    fn foreign(&self, token: u64, id: u32) -> Error {
        let problem = format!("token {id} is outside the vocabulary of {}", self.meta.vocab);
        match self.tokens.place(token * self.index.token_type.bytes()) {
            Some((path, at)) => damaged(path, at, problem),
            None => Error::data(&self.prefix, problem, COPY),
        }
    }

    /// The document that holds a token.
    pub fn document_at(&self, token: u64) -> Result<u64> {
        self.range(token, 1)?;
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
        let mut ends = [0; 2];
        self.index.document_starts(doc, &mut ends)?;
        let range = ends[0]..ends[1];
        if range.start > range.end {
            let problem = format!("document {doc} runs from token {} to {}", range.start, range.end);
            return Err(damaged(self.index.source.path(), 0, problem));
        }
        Ok(range)
    }

    /// First tokens of the documents from `first` to first + out.len(), at most the number of documents; that one
    /// "begins" at the end. They ascend, or it is an error.
    pub fn document_starts(&self, first: u64, out: &mut [u64]) -> Result<()> {
        if first.checked_add(out.len() as u64).is_none_or(|end| end > self.documents() + 1) {
            let problem =
                format!("{} documents from {first} were asked for, it has {}", out.len(), self.documents());
            return Err(Error::data(&self.prefix, problem, "ask for documents the corpus has"));
        }
        self.index.document_starts(first, out)?;
        match out.windows(2).position(|ends| ends[0] > ends[1]) {
            None => Ok(()),
            Some(i) => {
                let problem =
                    format!("document {} runs from token {} to {}", first + i as u64, out[i], out[i + 1]);
                Err(damaged(self.index.source.path(), 0, problem))
            }
        }
    }

    /// Tokens of sequence `i`; may be empty.
    pub fn sequence_range(&self, i: u64) -> Result<Range<u64>> {
        if i >= self.sequences() {
            let problem = format!("sequence {i} of {} was asked for", self.sequences());
            return Err(Error::data(&self.prefix, problem, "ask for a sequence the corpus has"));
        }
        self.index.sequence_range(i)
    }

    /// Lengths of the sequences from `first` on, in tokens.
    pub fn sequence_lengths(&self, first: u64, out: &mut [i32]) -> Result<()> {
        if first.checked_add(out.len() as u64).is_none_or(|end| end > self.sequences()) {
            let problem =
                format!("{} sequences from {first} were asked for, it has {}", out.len(), self.sequences());
            return Err(Error::data(&self.prefix, problem, "ask for sequences the corpus has"));
        }
        self.index.lengths(first, out)?;
        match out.iter().position(|&length| length < 0) {
            None => Ok(()),
            Some(i) => {
                let problem = format!("sequence {} of {} tokens", first + i as u64, out[i]);
                Err(damaged(self.index.source.path(), 0, problem))
            }
        }
    }

    /// The sequences that the documents from `first` on begin with; of the one after the last, their number.
    pub fn document_sequences(&self, first: u64, out: &mut [u64]) -> Result<()> {
        if first.checked_add(out.len() as u64).is_none_or(|end| end > self.documents() + 1) {
            let problem =
                format!("{} documents from {first} were asked for, it has {}", out.len(), self.documents());
            return Err(Error::data(&self.prefix, problem, "ask for documents the corpus has"));
        }
        self.index.read_entries(first, out)?;
        let ordered = out.windows(2).all(|ends| ends[0] <= ends[1]);
        match out.last() {
            Some(&last) if !ordered || last > self.sequences() => {
                let problem = format!("documents {first} on do not begin at ascending sequences");
                Err(damaged(self.index.source.path(), 0, problem))
            }
            _ => Ok(()),
        }
    }

    /// XXH3 of the document's first bytes in .bin (at most 4096), so equal beginnings share their fate.
    pub fn document_hash(&self, doc: u64) -> Result<u64> {
        let range = self.document_range(doc)?;
        let most = HASHED_BYTES / self.index.token_type.bytes();
        self.with_bytes(range.start, (range.end - range.start).min(most), xxh3_64)
    }

    /// Bytes of a token, and the files that hold the tokens, in order.
    pub fn token_bytes(&self) -> u64 {
        self.index.token_type.bytes()
    }
    pub fn files(&self) -> Vec<(&Path, u64)> {
        self.tokens.sources().iter().map(|source| (source.path(), source.len())).collect()
    }

    pub fn verify(&self) -> Result<()> {
        self.verify_with(&mut |_| {})
    }

    /// Reads everything: each entry of the index, each token, both checksums. `progress` gets the tokens read so far.
    pub fn verify_with(&self, progress: &mut dyn FnMut(u64)) -> Result<()> {
        // Not through the mapping, which the system does not read ahead.
        let (_, idx, form) = describe(&self.prefix)?;
        let index = Index::open(Source::open(&idx, Access::Positioned)?, self.tokens.len())?;
        index.check_all()?;
        let whole = Corpus {
            prefix: self.prefix.clone(),
            tokens: form.open(Access::Positioned)?,
            index,
            meta: self.meta.clone(),
            access: Access::Positioned,
            staged: None,
        };
        let (idx, bin) = (whole.index.source.checksum()?, whole.read_all(progress)?);
        let sources = whole.tokens.sources();
        let first = sources.first().map_or(self.prefix.as_path(), |source| source.path());
        let idx = (whole.index.source.path(), idx, self.meta.idx_xxh3);
        for (path, found, stated) in [idx, (first, bin, self.meta.bin_xxh3)] {
            if found != stated {
                let problem =
                    format!("has checksum {found:016x}, but the .json beside it states {stated:016x}");
                return Err(Error::data(path, problem, COPY));
            }
        }
        Ok(())
    }

    /// Checks each token; the checksum of all.
    fn read_all(&self, progress: &mut dyn FnMut(u64)) -> Result<u64> {
        let mut hash = Xxh3::new();
        let mut tokens = vec![0; 1 << 19];
        let mut first = 0;
        while first < self.tokens() {
            let count = (self.tokens() - first).min(tokens.len() as u64);
            self.with_bytes(first, count, |bytes| hash.update(bytes))?;
            self.read(first, &mut tokens[..count as usize])?;
            first += count;
            progress(first);
        }
        Ok(hash.digest())
    }

    fn with_bytes<R>(&self, first: u64, count: u64, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        self.range(first, count)?;
        let item = self.index.token_type.bytes();
        self.tokens.with(first * item, (count * item) as usize, f)
    }

    fn range(&self, first: u64, count: u64) -> Result<()> {
        match first.checked_add(count).filter(|&end| end <= self.tokens()) {
            Some(_) => Ok(()),
            None => {
                let problem = format!("{count} tokens from {first} were asked for, it has {}", self.tokens());
                Err(Error::data(&self.prefix, problem, "ask for tokens the corpus has"))
            }
        }
    }
}

fn hash(m: &Meta) -> u64 {
    let parts = [m.bin_xxh3, m.idx_xxh3, m.tokenizer.hash, u64::from(m.vocab)];
    xxh3_64(&parts.map(u64::to_le_bytes).concat())
}
