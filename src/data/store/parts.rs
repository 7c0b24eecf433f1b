//! Tokens that lie one after another in files: the whole of PREFIX.bin, or pieces of files that others wrote.

use super::source::Source;
use crate::{Error, Result};
use std::path::Path;

#[derive(Debug)]
pub struct Parts {
    parts: Vec<Part>,
    len: u64,
}

#[derive(Debug)]
struct Part {
    source: Source,
    /// Its first byte in the file, and among the bytes of all parts.
    offset: u64,
    start: u64,
    len: u64,
}

impl Parts {
    pub fn whole(source: Source) -> Parts {
        let len = source.len();
        Parts { parts: vec![Part { source, offset: 0, start: 0, len }], len }
    }

    pub fn empty() -> Parts {
        Parts { parts: Vec::new(), len: 0 }
    }

    /// Appends `len` bytes of a file from `offset` on. Empty ones are left out.
    pub fn push(&mut self, source: Source, offset: u64, len: u64) -> Result<()> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= source.len());
        let total = self.len.checked_add(len).filter(|_| inside);
        let Some(total) = total else {
            let problem =
                format!("has {} bytes, not the {len} from {offset} that the corpus needs", source.len());
            return Err(Error::data(source.path(), problem, "restore the file or adopt it again"));
        };
        if len > 0 {
            self.parts.push(Part { source, offset, start: self.len, len });
            self.len = total;
        }
        Ok(())
    }

    /// Bytes of all parts.
    pub fn len(&self) -> u64 {
        self.len
    }

    pub fn files(&self) -> usize {
        self.parts.len()
    }
    pub fn file(&self, i: usize) -> &Source {
        &self.parts[i].source
    }
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.parts.iter().map(|part| &part.source)
    }

    /// Gives `f` the `len` bytes from `at`, which the caller has found to be there.
    pub fn with<R>(&self, at: u64, len: usize, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let Some(part) = self.part(at) else { return Ok(f(&[])) };
        if at - part.start + len as u64 <= part.len {
            return part.source.with(part.offset + (at - part.start), len, f);
        }
        let mut bytes = vec![0; len];
        self.read_at(at, &mut bytes)?;
        Ok(f(&bytes))
    }

    fn read_at(&self, mut at: u64, mut out: &mut [u8]) -> Result<()> {
        while let Some(part) = self.part(at).filter(|_| !out.is_empty()) {
            let within = at - part.start;
            let (now, later) = out.split_at_mut((part.len - within).min(out.len() as u64) as usize);
            part.source.read_at(part.offset + within, now)?;
            at += now.len() as u64;
            out = later;
        }
        Ok(())
    }

    /// The file and the place in it of byte `at` of the tokens.
    pub fn place(&self, at: u64) -> Option<(&Path, u64)> {
        self.part(at).map(|part| (part.source.path(), part.offset + (at - part.start)))
    }

    /// The part that holds byte `at`; the last one for the end.
    fn part(&self, at: u64) -> Option<&Part> {
        self.parts[..self.parts.partition_point(|part| part.start <= at)].last()
    }
}
