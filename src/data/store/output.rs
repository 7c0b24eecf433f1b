//! What commands write that make corpora of corpora or of files of other programs: files under temporary names with
//! their checksums, and an index put together from a spool, in constant memory.

use super::tokens::sampled_file;
use crate::data::idx::{MAGIC, TokenType, VERSION};
use crate::data::meta::{Meta, beside};
use crate::{Error, Result};
use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// Longest sequence the index can state; longer documents become several sequences.
const MAX_SEQUENCE: u64 = i32::MAX as u64;
/// Spool entries are a sequence's length or, with this bit, a document's end.
const ENDS_DOCUMENT: u32 = 1 << 31;

/// A file under a temporary name with a running checksum; removed unless it was renamed.
pub struct Output {
    path: PathBuf,
    file: BufWriter<File>,
    hash: Xxh3,
    renamed: bool,
}

impl Output {
    pub fn create(path: PathBuf) -> Result<Output> {
        let file = File::create(&path).map_err(Error::io(&path, "create"))?;
        Ok(Output { path, file: BufWriter::with_capacity(1 << 18, file), hash: Xxh3::new(), renamed: false })
    }
    pub fn path(&self) -> &Path {
        &self.path
    }
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.file.write_all(bytes).map_err(Error::io(&self.path, "write"))
    }
    pub fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(Error::io(&self.path, "write"))
    }
    pub fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.file.get_ref().sync_all().map_err(Error::io(&self.path, "write"))
    }
    pub fn checksum(&self) -> u64 {
        self.hash.digest()
    }
    pub fn rename(&mut self, to: &Path) -> Result<()> {
        std::fs::rename(&self.path, to).map_err(Error::io(to, "rename"))?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.renamed {
            // Nothing is lost when this fails: the next run overwrites the file.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// The files of a corpus that is being written: .idx, .json, and .bin where the tokens are written too.
pub struct CorpusFiles {
    prefix: PathBuf,
    bin: Option<Output>,
    spool: Output,
    token_type: TokenType,
    sequences: u64,
    documents: u64,
    tokens: u64,
}

impl CorpusFiles {
    /// Missing parent folders are made.
    pub fn create(prefix: &Path, token_type: TokenType, bin: bool) -> Result<CorpusFiles> {
        if let Some(folder) = prefix.parent().filter(|p| !p.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(Error::io(folder, "make the folder"))?;
        }
        Ok(CorpusFiles {
            prefix: prefix.into(),
            bin: if bin { Some(Output::create(beside(prefix, ".bin.tmp"))?) } else { None },
            spool: Output::create(beside(prefix, ".lengths.tmp"))?,
            token_type,
            sequences: 0,
            documents: 0,
            tokens: 0,
        })
    }

    /// Tokens of the sequences that `sequence` will state.
    pub fn push(&mut self, tokens: &[u32]) -> Result<()> {
        let Some(bin) = &mut self.bin else { return Ok(()) };
        let bytes: Vec<u8> = match self.token_type {
            TokenType::U16 => tokens.iter().flat_map(|&id| (id as u16).to_le_bytes()).collect(),
            TokenType::I32 => tokens.iter().flat_map(|&id| id.to_le_bytes()).collect(),
        };
        bin.write(&bytes)
    }

    /// A sequence of the current document; one that is too long for the index becomes several.
    pub fn sequence(&mut self, mut tokens: u64) -> Result<()> {
        self.tokens += tokens;
        loop {
            let length = tokens.min(MAX_SEQUENCE);
            self.spool.write(&(length as u32).to_le_bytes())?;
            self.sequences += 1;
            tokens -= length;
            if tokens == 0 {
                return Ok(());
            }
        }
    }

    pub fn end_document(&mut self) -> Result<()> {
        self.documents += 1;
        self.spool.write(&ENDS_DOCUMENT.to_le_bytes())
    }

    pub fn tokens(&self) -> u64 {
        self.tokens
    }
    pub fn documents(&self) -> u64 {
        self.documents
    }

    /// Completes the files and gives them their names, PREFIX.json last. `meta` gets counts and checksums; those of the
    /// tokens only if they were written here.
    pub fn finish(mut self, mut meta: Meta) -> Result<Meta> {
        (meta.tokens, meta.documents) = (self.tokens, self.documents);
        if self.tokens == 0 {
            return Err(Error::data(&self.prefix, "no tokens are left for it", "give files with tokens"));
        }
        self.spool.flush()?;
        let mut idx = Output::create(beside(&self.prefix, ".idx.tmp"))?;
        self.write_index(&mut idx)?;
        idx.sync()?;
        meta.idx_xxh3 = idx.checksum();
        if let Some(bin) = &mut self.bin {
            bin.sync()?;
            meta.bin_xxh3 = bin.checksum();
            meta.sampled_xxh3 = Some(sampled_file(bin.path())?);
        }
        // Replacing a corpus starts with its description, so that an interruption leaves none that seems whole.
        let description = beside(&self.prefix, ".json");
        if description.exists() {
            std::fs::remove_file(&description).map_err(Error::io(&description, "replace"))?;
        }
        if let Some(bin) = &mut self.bin {
            bin.rename(&beside(&self.prefix, ".bin"))?;
        }
        idx.rename(&beside(&self.prefix, ".idx"))?;
        meta.write(&description)?;
        Ok(meta)
    }

    fn write_index(&self, idx: &mut Output) -> Result<()> {
        idx.write(&MAGIC)?;
        idx.write(&VERSION.to_le_bytes())?;
        idx.write(&[self.token_type.code()])?;
        idx.write(&self.sequences.to_le_bytes())?;
        idx.write(&(self.documents + 1).to_le_bytes())?;
        self.each(|length| length.map_or(Ok(()), |length| idx.write(&length.to_le_bytes())))?;
        let mut offset = 0u64;
        self.each(|length| {
            let Some(length) = length else { return Ok(()) };
            idx.write(&offset.to_le_bytes())?;
            offset += u64::from(length) * self.token_type.bytes();
            Ok(())
        })?;
        let mut sequence = 0u64;
        idx.write(&sequence.to_le_bytes())?;
        self.each(|length| match length {
            Some(_) => {
                sequence += 1;
                Ok(())
            }
            None => idx.write(&sequence.to_le_bytes()),
        })
    }

    /// Calls `f` with the length of each sequence, and None where a document ends.
    fn each(&self, mut f: impl FnMut(Option<u32>) -> Result<()>) -> Result<()> {
        let path = self.spool.path();
        let mut spool = BufReader::new(File::open(path).map_err(Error::io(path, "open"))?);
        let mut word = [0; 4];
        for _ in 0..self.sequences + self.documents {
            spool.read_exact(&mut word).map_err(Error::io(path, "read"))?;
            let word = u32::from_le_bytes(word);
            f((word != ENDS_DOCUMENT).then_some(word))?;
        }
        Ok(())
    }
}

/// Copies the tokenizer's definition of a corpus, if it has one, to a corpus that was made of it.
pub fn definition_of(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (beside(from, ".tokenizer.json"), beside(to, ".tokenizer.json"));
    if from.is_file() { std::fs::copy(&from, &to).map(drop).map_err(Error::io(&to, "write")) } else { Ok(()) }
}
