//! Writes a corpus in constant memory: tokens go straight to .bin, the length of each sequence and the end of each
//! document to two more files, which become the arrays of the index at the end. All lie in a folder PREFIX.build until
//! they are complete (`staging`).
//!
//! Sequences and documents are those of Megatron's `IndexedDatasetBuilder`: `push` and `end_sequence` are its
//! `add_item`, `close_document` its `end_document`; `end_document` is what its preprocessing does with a text: with
//! `keep_empty` also with one that has no tokens, which becomes a document of no sequence.

use super::idx::{MAGIC, TokenType, VERSION};
use super::meta::{Meta, Tokenizer, beside};
use super::staging::{Staging, sync};
use super::store::sampled_file;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// Longest sequence the index can state; longer documents become several sequences.
const MAX_SEQUENCE: u32 = i32::MAX as u32;

pub struct CorpusWriter {
    staging: Staging,
    meta: Meta,
    token_type: TokenType,
    bin: Output,
    /// i32 for each sequence.
    lengths: Output,
    /// i64 for each document: sequences up to its end.
    documents: Output,
    buffer: Vec<u8>,
    at: Mark,
    max_sequence: u32,
    keep_empty: bool,
}

/// How far a corpus is written: what a build needs to go on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    pub sequences: u64,
    pub documents: u64,
    pub tokens: u64,
    pub source_bytes: u64,
    /// Tokens of the sequence being written.
    pub pending: u32,
}

impl CorpusWriter {
    /// `end_of_document`: the token to put after each document. Missing parent folders are made.
    pub fn create(
        prefix: &Path,
        vocab: u32,
        tokenizer: Tokenizer,
        end_of_document: Option<u32>,
    ) -> Result<CorpusWriter> {
        let staging = Staging::open(prefix)?;
        staging.clear()?;
        CorpusWriter::resume(staging, vocab, tokenizer, end_of_document, Mark::default())
    }

    /// Goes on at `mark`; what was written beyond is dropped.
    pub(super) fn resume(
        staging: Staging,
        vocab: u32,
        tokenizer: Tokenizer,
        end_of_document: Option<u32>,
        mark: Mark,
    ) -> Result<CorpusWriter> {
        let prefix = staging.corpus();
        let meta = Meta::new(vocab, tokenizer, end_of_document);
        meta.check().map_err(|problem| {
            Error::data(staging.prefix(), problem, "give a vocabulary that fits its tokenizer")
        })?;
        let token_type = TokenType::for_vocab(vocab);
        Ok(CorpusWriter {
            bin: Output::resume(beside(&prefix, ".bin"), mark.tokens * token_type.bytes())?,
            lengths: Output::resume(staging.file("lengths"), 4 * mark.sequences)?,
            documents: Output::resume(staging.file("documents"), 8 * mark.documents)?,
            staging,
            token_type,
            meta,
            buffer: Vec::new(),
            at: mark,
            max_sequence: MAX_SEQUENCE,
            keep_empty: false,
        })
    }

    /// Whether `end_document` keeps documents without tokens, as documents of no sequence and no end-of-document token;
    /// at first it leaves them out.
    pub fn keep_empty(&mut self, keep: bool) {
        self.keep_empty = keep;
    }

    /// Appends to the current document.
    pub fn push(&mut self, tokens: &[u32]) -> Result<()> {
        if let Some(&id) = tokens.iter().find(|&&id| id >= self.meta.vocab) {
            let problem = format!("token {id} is outside the vocabulary of {}", self.meta.vocab);
            return Err(Error::data(
                self.staging.prefix(),
                problem,
                "use the tokenizer the corpus was created for",
            ));
        }
        let mut rest = tokens;
        while !rest.is_empty() {
            if self.at.pending == self.max_sequence {
                self.end_sequence()?;
            }
            let room = (self.max_sequence - self.at.pending) as usize;
            let (now, later) = rest.split_at(rest.len().min(room));
            self.buffer.clear();
            match self.token_type {
                TokenType::U16 => self.buffer.extend(now.iter().flat_map(|&id| (id as u16).to_le_bytes())),
                TokenType::I32 => self.buffer.extend(now.iter().flat_map(|&id| id.to_le_bytes())),
            }
            self.bin.write(&self.buffer)?;
            self.at.pending += now.len() as u32;
            self.at.tokens += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Ends the current document, which stood for `source_bytes` of text. One without tokens is left out, or kept if
    /// `keep_empty` was asked for.
    pub fn end_document(&mut self, source_bytes: u64) -> Result<()> {
        if self.at.pending == 0 {
            return if self.keep_empty { self.close_document(source_bytes) } else { Ok(()) };
        }
        if let Some(end) = self.meta.end_of_document {
            self.push(&[end])?;
        }
        self.end_sequence()?;
        self.close_document(source_bytes)
    }

    /// Ends a sequence within the document; it may be empty.
    pub fn end_sequence(&mut self) -> Result<()> {
        self.lengths.write(&self.at.pending.to_le_bytes())?;
        self.at.sequences += 1;
        self.at.pending = 0;
        Ok(())
    }

    /// Ends a document after its last sequence, without an end-of-document token; it may have no sequence at all.
    pub fn close_document(&mut self, source_bytes: u64) -> Result<()> {
        self.documents.write(&self.at.sequences.to_le_bytes())?;
        self.at.documents += 1;
        self.at.source_bytes += source_bytes;
        Ok(())
    }

    /// Names the side stream that weighs targets by default.
    pub(super) fn weigh_by(&mut self, stream: &str) {
        self.meta.weights = Some(stream.into());
    }
    /// Tokens written so far.
    pub(super) fn tokens(&self) -> u64 {
        self.at.tokens
    }
    /// Tokens of the current document so far.
    pub(super) fn in_document(&self) -> bool {
        self.at.pending > 0
    }
    pub(super) fn staging(&mut self) -> &mut Staging {
        &mut self.staging
    }

    /// Waits until all so far is on the disk, and says how far that is.
    pub(super) fn sync(&mut self) -> Result<Mark> {
        for file in [&mut self.bin, &mut self.lengths, &mut self.documents] {
            file.sync()?;
        }
        Ok(self.at)
    }

    /// Completes the files and gives them their names, PREFIX.json last.
    pub fn finish(mut self) -> Result<Meta> {
        let meta = self.stage()?;
        self.publish()?;
        Ok(meta)
    }

    /// Completes the files in the folder.
    pub(super) fn stage(&mut self) -> Result<Meta> {
        if self.in_document() {
            self.end_document(0)?;
        }
        if self.at.tokens == 0 {
            return Err(Error::data(
                self.staging.prefix(),
                "the input has no text",
                "give at least one file with text",
            ));
        }
        self.sync()?;
        let prefix = self.staging.corpus();
        let mut idx = Output::resume(beside(&prefix, ".idx"), 0)?;
        self.write_index(&mut idx)?;
        self.meta.tokens = self.at.tokens;
        self.meta.documents = self.at.documents;
        self.meta.source_bytes = self.at.source_bytes;
        self.meta.bin_xxh3 = self.bin.hash.digest();
        self.meta.idx_xxh3 = idx.hash.digest();
        self.meta.sampled_xxh3 = Some(sampled_file(&self.bin.path)?);
        idx.sync()?;
        self.meta.write(&beside(&prefix, ".json"))?;
        Ok(self.meta.clone())
    }

    /// Gives the staged files their names.
    pub(super) fn publish(self) -> Result<()> {
        self.staging.publish()
    }

    fn write_index(&self, idx: &mut Output) -> Result<()> {
        idx.write(&MAGIC)?;
        idx.write(&VERSION.to_le_bytes())?;
        idx.write(&[self.token_type.code()])?;
        idx.write(&self.at.sequences.to_le_bytes())?;
        idx.write(&(self.at.documents + 1).to_le_bytes())?;
        each::<4>(&self.lengths.path, |length| idx.write(&length))?;
        let mut offset = 0u64;
        each(&self.lengths.path, |length| {
            idx.write(&offset.to_le_bytes())?;
            offset += u64::from(u32::from_le_bytes(length)) * self.token_type.bytes();
            Ok(())
        })?;
        idx.write(&0u64.to_le_bytes())?;
        each::<8>(&self.documents.path, |sequence| idx.write(&sequence))
    }
}

/// Calls `f` with each N bytes of a file.
fn each<const N: usize>(path: &Path, mut f: impl FnMut([u8; N]) -> Result<()>) -> Result<()> {
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    let count = file.metadata().map_err(Error::io(path, "find"))?.len() / N as u64;
    let mut file = BufReader::with_capacity(1 << 16, file);
    let mut item = [0; N];
    for _ in 0..count {
        file.read_exact(&mut item).map_err(Error::io(path, "read"))?;
        f(item)?;
    }
    Ok(())
}

/// A file that grows, with a running checksum.
pub(super) struct Output {
    path: PathBuf,
    file: BufWriter<File>,
    hash: Xxh3,
}

impl Output {
    /// Goes on after the first `keep` bytes.
    pub fn resume(path: PathBuf, keep: u64) -> Result<Output> {
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(Error::io(&path, "create"))?;
        let length = file.metadata().map_err(Error::io(&path, "find"))?.len();
        if length < keep {
            let problem = format!("has {length} bytes, but the journal of the build counts on {keep}");
            return Err(Error::data(&path, problem, "start over with --restart"));
        }
        file.set_len(keep).map_err(Error::io(&path, "truncate"))?;
        let (mut hash, mut buffer) = (Xxh3::new(), vec![0; 1 << 16]);
        loop {
            match file.read(&mut buffer).map_err(Error::io(&path, "read"))? {
                0 => break,
                count => hash.update(&buffer[..count]),
            }
        }
        file.seek(SeekFrom::Start(keep)).map_err(Error::io(&path, "read"))?;
        Ok(Output { path, file: BufWriter::with_capacity(1 << 16, file), hash })
    }
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.file.write_all(bytes).map_err(Error::io(&self.path, "write"))
    }
    /// Waits until all of it is on the disk.
    pub fn sync(&mut self) -> Result<()> {
        self.file.flush().map_err(Error::io(&self.path, "write"))?;
        sync(self.file.get_ref(), &self.path)
    }
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Corpus;

    #[test]
    fn long_documents_become_several_sequences_of_one_document() {
        let folder = tempfile::tempdir().expect("a folder");
        let prefix = folder.path().join("long");
        let tokenizer = Tokenizer { kind: "test".into(), hash: 1 };
        let mut writer = CorpusWriter::create(&prefix, 70_000, tokenizer, None).expect("created");
        writer.max_sequence = 4;
        let documents: [&[u32]; 4] = [&[1, 2, 3, 4, 5, 6, 7, 8, 69_999], &[10, 11, 12, 13], &[], &[14]];
        for document in documents {
            document.chunks(3).for_each(|part| writer.push(part).expect("pushed"));
            writer.end_document(0).expect("ended");
        }
        assert!(writer.push(&[70_000]).is_err());
        let meta = writer.finish().expect("finished");
        assert_eq!((meta.tokens, meta.documents), (14, 3));
        let corpus = Corpus::open(&prefix).expect("opened");
        corpus.verify().expect("sound");
        let mut tokens = [0; 14];
        corpus.read(0, &mut tokens).expect("read");
        assert_eq!(tokens, [1, 2, 3, 4, 5, 6, 7, 8, 69_999, 10, 11, 12, 13, 14]);
        let ranges = [0, 1, 2].map(|doc| corpus.document_range(doc).expect("a range"));
        assert_eq!(ranges, [0..9, 9..13, 13..14]);
        let idx = std::fs::read(beside(&prefix, ".idx")).expect("read");
        assert_eq!((idx[17], idx[18]), (4, 5), "i32 tokens; 4 + 4 + 1, 4 and 1 are five sequences");
    }
}
