//! Random access to the tokens of PREFIX.bin.zst (`table` has the format). The frame that holds a place is decompressed
//! whole and kept, so that what follows it comes from memory.

use super::source::Source;
use super::table::{Frame, Table, damaged};
use crate::{Error, Result};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use xxhash_rust::xxh64::xxh64;
use zstd::bulk::Decompressor;

pub struct Frames {
    source: Source,
    table: Table,
    /// One for each thread that reads now; the one used last is on top, with its frame.
    readers: Mutex<Vec<Reader>>,
}

struct Reader {
    context: Decompressor<'static>,
    packed: Vec<u8>,
    /// The bytes of `held`.
    bytes: Vec<u8>,
    held: std::ops::Range<u64>,
}

impl std::fmt::Debug for Frames {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "Frames({}, {} bytes)", self.source.path().display(), self.table.len)
    }
}

impl Frames {
    pub fn open(source: Source) -> Result<Frames> {
        let table = Table::open(&source)?;
        Ok(Frames { source, table, readers: Mutex::default() })
    }

    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Decompressed bytes.
    pub fn len(&self) -> u64 {
        self.table.len
    }

    /// The file, and the place in it where the frame begins that holds byte `at` of the tokens.
    pub fn place(&self, at: u64) -> Option<(&Path, u64)> {
        let frame = self.table.frame(&self.source, at).ok()?;
        Some((self.source.path(), frame.packed.start))
    }

    /// Gives `f` the `len` decompressed bytes from `at`, which the caller has found to be there.
    pub fn with<R>(&self, at: u64, len: usize, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let mut reader = self.reader()?;
        let made = self.with_reader(&mut reader, at, len, f)?;
        // After an error it is dropped, and what it holds with it.
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).push(reader);
        Ok(made)
    }

    fn with_reader<R>(&self, r: &mut Reader, at: u64, len: usize, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        if len == 0 {
            return Ok(f(&[]));
        }
        self.hold(r, at)?;
        let from = (at - r.held.start) as usize;
        if from + len <= r.bytes.len() {
            return Ok(f(&r.bytes[from..from + len]));
        }
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let next = at + bytes.len() as u64;
            self.hold(r, next)?;
            let there = &r.bytes[(next - r.held.start) as usize..];
            bytes.extend_from_slice(&there[..there.len().min(len - bytes.len())]);
        }
        Ok(f(&bytes))
    }

    /// Makes `r` hold the frame with byte `at`.
    fn hold(&self, r: &mut Reader, at: u64) -> Result<()> {
        if r.held.contains(&at) {
            return Ok(());
        }
        let frame = self.table.frame(&self.source, at)?;
        r.held = 0..0;
        // Copied before the decompressor, which is not written for input that changes, looks at them.
        r.packed.resize((frame.packed.end - frame.packed.start) as usize, 0);
        self.source.read_at(frame.packed.start, &mut r.packed)?;
        r.bytes.resize((frame.bytes.end - frame.bytes.start) as usize, 0);
        match r.context.decompress_to_buffer(&r.packed, &mut r.bytes[..]) {
            Ok(count) if count == r.bytes.len() => {}
            Ok(count) => return Err(self.bad(&frame, format!("holds {count} bytes, not {}", r.bytes.len()))),
            Err(e) => return Err(self.bad(&frame, format!("is damaged: {e}"))),
        }
        if let Some(stated) = frame.checksum {
            let found = xxh64(&r.bytes, 0) as u32;
            if found != stated {
                let problem = format!("has checksum {found:08x}, and the seek table states {stated:08x}");
                return Err(self.bad(&frame, problem));
            }
        }
        r.held = frame.bytes;
        Ok(())
    }

    fn bad(&self, frame: &Frame, problem: String) -> Error {
        damaged(&self.source, frame.packed.start, format!("the zstd frame that begins here {problem}"))
    }

    fn reader(&self) -> Result<Reader> {
        if let Some(reader) = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop() {
            return Ok(reader);
        }
        let context = Decompressor::new().map_err(Error::io(self.source.path(), "decompress"))?;
        Ok(Reader { context, packed: Vec::new(), bytes: Vec::new(), held: 0..0 })
    }
}
