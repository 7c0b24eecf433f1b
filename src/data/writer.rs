//! Writes a corpus in constant memory: tokens go straight to .bin, the length of each sequence to a spool file, and
//! the index is put together from the spool at the end. Files have temporary names until all are complete.

use super::idx::{MAGIC, TokenType, VERSION};
use super::meta::{Meta, Tokenizer, beside};
use super::store::sampled_file;
use crate::{Error, Result};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// Longest sequence the index can state; longer documents become several sequences.
const MAX_SEQUENCE: u32 = i32::MAX as u32;
/// Spool entries are a sequence's length with this bit set where a document ends.
const ENDS_DOCUMENT: u32 = 1 << 31;

pub struct CorpusWriter {
    prefix: PathBuf,
    meta: Meta,
    token_type: TokenType,
    bin: Output,
    spool: Output,
    buffer: Vec<u8>,
    sequences: u64,
    /// Tokens of the sequence being written.
    pending: u32,
    max_sequence: u32,
}

impl CorpusWriter {
    /// `end_of_document`: the token to put after each document. Missing parent folders are made.
    pub fn create(
        prefix: &Path,
        vocab: u32,
        tokenizer: Tokenizer,
        end_of_document: Option<u32>,
    ) -> Result<CorpusWriter> {
        let meta = Meta::new(vocab, tokenizer, end_of_document);
        meta.check()
            .map_err(|problem| Error::data(prefix, problem, "give a vocabulary that fits its tokenizer"))?;
        if let Some(folder) = prefix.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(Error::io(folder, "make the folder"))?;
        }
        Ok(CorpusWriter {
            bin: Output::create(beside(prefix, ".bin.tmp"))?,
            spool: Output::create(beside(prefix, ".lengths.tmp"))?,
            prefix: prefix.into(),
            token_type: TokenType::for_vocab(vocab),
            meta,
            buffer: Vec::new(),
            sequences: 0,
            pending: 0,
            max_sequence: MAX_SEQUENCE,
        })
    }

    /// Appends to the current document.
    pub fn push(&mut self, tokens: &[u32]) -> Result<()> {
        if let Some(&id) = tokens.iter().find(|&&id| id >= self.meta.vocab) {
            let problem = format!("token {id} is outside the vocabulary of {}", self.meta.vocab);
            return Err(Error::data(&self.prefix, problem, "use the tokenizer the corpus was created for"));
        }
        let mut rest = tokens;
        while !rest.is_empty() {
            if self.pending == self.max_sequence {
                self.end_sequence(0)?;
            }
            let room = (self.max_sequence - self.pending) as usize;
            let (now, later) = rest.split_at(rest.len().min(room));
            self.buffer.clear();
            match self.token_type {
                TokenType::U16 => self.buffer.extend(now.iter().flat_map(|&id| (id as u16).to_le_bytes())),
                TokenType::I32 => self.buffer.extend(now.iter().flat_map(|&id| id.to_le_bytes())),
            }
            self.bin.write(&self.buffer)?;
            self.pending += now.len() as u32;
            self.meta.tokens += now.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// Ends the current document, which stood for `source_bytes` of text. One without tokens is left out.
    pub fn end_document(&mut self, source_bytes: u64) -> Result<()> {
        if self.pending == 0 {
            return Ok(());
        }
        if let Some(end) = self.meta.end_of_document {
            self.push(&[end])?;
        }
        self.end_sequence(ENDS_DOCUMENT)?;
        self.meta.documents += 1;
        self.meta.source_bytes += source_bytes;
        Ok(())
    }

    fn end_sequence(&mut self, flag: u32) -> Result<()> {
        self.spool.write(&(self.pending | flag).to_le_bytes())?;
        self.sequences += 1;
        self.pending = 0;
        Ok(())
    }

    /// Completes the files and gives them their names, PREFIX.json last.
    pub fn finish(mut self) -> Result<Meta> {
        self.end_document(0)?;
        if self.meta.tokens == 0 {
            return Err(Error::data(
                &self.prefix,
                "the input has no text",
                "give at least one file with text",
            ));
        }
        self.spool.flush()?;
        let mut idx = Output::create(beside(&self.prefix, ".idx.tmp"))?;
        self.write_index(&mut idx)?;
        self.meta.bin_xxh3 = self.bin.hash.digest();
        self.meta.idx_xxh3 = idx.hash.digest();
        self.bin.flush()?;
        self.meta.sampled_xxh3 = Some(sampled_file(&self.bin.path)?);
        let mut json = Output::create(beside(&self.prefix, ".json.tmp"))?;
        let text = serde_json::to_string_pretty(&self.meta).expect("plain data") + "\n";
        json.write(text.as_bytes())?;
        // All bytes are safe before the first name changes.
        for file in [&mut self.bin, &mut idx, &mut json] {
            file.flush()?;
            file.file.get_ref().sync_all().map_err(Error::io(&file.path, "write"))?;
        }
        // Replacing a corpus starts with its description, so that an interruption leaves none that seems whole.
        let description = beside(&self.prefix, ".json");
        if description.exists() {
            std::fs::remove_file(&description).map_err(Error::io(&description, "replace"))?;
        }
        self.bin.rename(beside(&self.prefix, ".bin"))?;
        idx.rename(beside(&self.prefix, ".idx"))?;
        json.rename(description)?;
        Ok(self.meta.clone())
    }

    fn write_index(&self, idx: &mut Output) -> Result<()> {
        idx.write(&MAGIC)?;
        idx.write(&VERSION.to_le_bytes())?;
        idx.write(&[self.token_type.code()])?;
        idx.write(&self.sequences.to_le_bytes())?;
        idx.write(&(self.meta.documents + 1).to_le_bytes())?;
        self.each_sequence(|length, _| idx.write(&length.to_le_bytes()))?;
        let mut offset = 0u64;
        self.each_sequence(|length, _| {
            idx.write(&offset.to_le_bytes())?;
            offset += u64::from(length) * self.token_type.bytes();
            Ok(())
        })?;
        let mut sequence = 0u64;
        idx.write(&sequence.to_le_bytes())?;
        self.each_sequence(|_, ends| {
            sequence += 1;
            if ends { idx.write(&sequence.to_le_bytes()) } else { Ok(()) }
        })
    }

    /// Calls `f` with the length of each sequence and whether it ends a document.
    fn each_sequence(&self, mut f: impl FnMut(u32, bool) -> Result<()>) -> Result<()> {
        let path = &self.spool.path;
        let mut spool = BufReader::new(File::open(path).map_err(Error::io(path, "open"))?);
        let mut word = [0; 4];
        for _ in 0..self.sequences {
            spool.read_exact(&mut word).map_err(Error::io(path, "read"))?;
            let word = u32::from_le_bytes(word);
            f(word & !ENDS_DOCUMENT, word & ENDS_DOCUMENT != 0)?;
        }
        Ok(())
    }
}

/// A file under a temporary name with a running checksum; removed unless it was renamed.
struct Output {
    path: PathBuf,
    file: BufWriter<File>,
    hash: Xxh3,
    renamed: bool,
}

impl Output {
    fn create(path: PathBuf) -> Result<Output> {
        let file = File::create(&path).map_err(Error::io(&path, "create"))?;
        Ok(Output { path, file: BufWriter::with_capacity(1 << 16, file), hash: Xxh3::new(), renamed: false })
    }
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.file.write_all(bytes).map_err(Error::io(&self.path, "write"))
    }
    fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(Error::io(&self.path, "write"))
    }
    fn rename(&mut self, to: PathBuf) -> Result<()> {
        std::fs::rename(&self.path, &to).map_err(Error::io(&to, "rename"))?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.renamed {
            // Nothing is lost when this fails: the next build overwrites the file.
            let _ = std::fs::remove_file(&self.path);
        }
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
