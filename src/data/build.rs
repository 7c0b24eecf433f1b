//! Text files to a corpus in the byte vocabulary: token = byte, 256 after each document.
//!
//! A .txt, .md or other file is one document, taken byte for byte (any encoding). A .jsonl file has one document per
//! line, the string under "text". Folders are searched for .txt, .md and .jsonl. Files are taken in the order of
//! their paths, so the same input gives the same corpus. Memory stays constant but for the longest .jsonl line.

use super::meta::{BYTE_END, BYTE_VOCAB, Tokenizer};
use super::writer::CorpusWriter;
use crate::{Error, Result};
use serde::Deserialize;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    pub files: u64,
    pub documents: u64,
    /// Including one end-of-document token for each document.
    pub tokens: u64,
    pub source_bytes: u64,
    /// Documents without text, which are left out.
    pub empty: u64,
}

#[derive(Deserialize)]
struct Line {
    text: String,
}

/// Builds `out`.bin, .idx and .json from files and folders.
pub fn build_bytes(inputs: &[PathBuf], out: &Path) -> Result<Summary> {
    let files = find(inputs)?;
    let mut build = Build {
        writer: CorpusWriter::create(out, BYTE_VOCAB, Tokenizer::byte(), Some(BYTE_END))?,
        tokens: Vec::new(),
        empty: 0,
    };
    for path in &files {
        let file = BufReader::with_capacity(1 << 16, File::open(path).map_err(Error::io(path, "open"))?);
        if is(path, &["jsonl"]) { build.lines(path, file)? } else { build.text(path, file)? }
    }
    let meta = build.writer.finish()?;
    Ok(Summary {
        files: files.len() as u64,
        documents: meta.documents,
        tokens: meta.tokens,
        source_bytes: meta.source_bytes,
        empty: build.empty,
    })
}

struct Build {
    writer: CorpusWriter,
    tokens: Vec<u32>,
    empty: u64,
}

impl Build {
    fn text(&mut self, path: &Path, mut file: impl Read) -> Result<()> {
        let mut buffer = vec![0; 1 << 16];
        let mut total = 0;
        loop {
            let count = file.read(&mut buffer).map_err(Error::io(path, "read"))?;
            if count == 0 {
                return self.end(total);
            }
            self.push(&buffer[..count])?;
            total += count as u64;
        }
    }

    fn lines(&mut self, path: &Path, mut file: impl BufRead) -> Result<()> {
        let (mut line, mut offset) = (Vec::new(), 0);
        loop {
            line.clear();
            let count = file.read_until(b'\n', &mut line).map_err(Error::io(path, "read"))?;
            if count == 0 {
                return Ok(());
            }
            if !line.trim_ascii().is_empty() {
                let parsed: Line = serde_json::from_slice(&line).map_err(|e| Error::Data {
                    path: path.into(),
                    offset: Some(offset),
                    problem: format!("this line is not a JSON object with a string under \"text\": {e}"),
                    remedy: "a .jsonl file has one document per line, such as {\"text\": \"...\"}".into(),
                })?;
                self.push(parsed.text.as_bytes())?;
                self.end(parsed.text.len() as u64)?;
            }
            offset += count as u64;
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Result<()> {
        self.tokens.clear();
        self.tokens.extend(bytes.iter().map(|&b| u32::from(b)));
        self.writer.push(&self.tokens)
    }

    fn end(&mut self, source_bytes: u64) -> Result<()> {
        self.empty += u64::from(source_bytes == 0);
        self.writer.end_document(source_bytes)
    }
}

/// The files to read, sorted, each once.
fn find(inputs: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = Vec::new();
    for path in inputs {
        let kind = std::fs::metadata(path).map_err(Error::io(path, "find"))?;
        if kind.is_dir() { folders.push(path.clone()) } else { files.push(path.clone()) }
    }
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).map_err(Error::io(&folder, "list"))? {
            let entry = entry.map_err(Error::io(&folder, "list"))?;
            let path = entry.path();
            let kind = entry.file_type().map_err(Error::io(&path, "find"))?;
            // Links to folders are not followed: they may form a circle.
            if kind.is_dir() {
                folders.push(path);
            } else if path.is_file() && is(&path, &["txt", "md", "jsonl"]) {
                files.push(path);
            }
        }
    }
    files.sort();
    files.dedup();
    if files.is_empty() {
        let first = inputs.first().map_or(Path::new("input"), PathBuf::as_path);
        return Err(Error::data(
            first,
            "has no .txt, .md or .jsonl file",
            "give files, or folders that hold some",
        ));
    }
    Ok(files)
}

fn is(path: &Path, endings: &[&str]) -> bool {
    path.extension().and_then(|e| e.to_str()).is_some_and(|e| endings.contains(&e))
}
