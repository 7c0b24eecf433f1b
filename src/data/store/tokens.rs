//! The bytes of a corpus's tokens, as they would lie in PREFIX.bin, wherever they are.

use super::frames::Frames;
use super::parts::Parts;
use super::source::{Access, Source};
use crate::Result;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use xxhash_rust::xxh3::Xxh3;

/// Blocks of the sampled checksum and bytes of each.
const BLOCKS: u64 = 64;
const BLOCK: u64 = 4096;
/// Files that one call of `unchanged` asks for: corpora of thousands of parts are gone through in turns.
const ASKED: usize = 8;

#[derive(Debug)]
pub struct Tokens {
    kind: Kind,
    turn: AtomicUsize,
}

#[derive(Debug)]
enum Kind {
    Parts(Parts),
    Frames(Frames),
}

impl From<Parts> for Tokens {
    fn from(parts: Parts) -> Tokens {
        Tokens { kind: Kind::Parts(parts), turn: AtomicUsize::new(0) }
    }
}
impl From<Frames> for Tokens {
    fn from(frames: Frames) -> Tokens {
        Tokens { kind: Kind::Frames(frames), turn: AtomicUsize::new(0) }
    }
}

impl Tokens {
    /// Bytes that PREFIX.bin has or would have.
    pub fn len(&self) -> u64 {
        match &self.kind {
            Kind::Parts(parts) => parts.len(),
            Kind::Frames(frames) => frames.len(),
        }
    }

    /// Gives `f` the `len` bytes from `at`; at + len ≤ `len()`. What `f` made is only returned if all could be read.
    pub fn with<R>(&self, at: u64, len: usize, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        match &self.kind {
            Kind::Parts(parts) => parts.with(at, len, f),
            Kind::Frames(frames) => frames.with(at, len, f),
        }
    }

    /// The file that holds byte `at`, and where in it: the byte itself, or the beginning of its compressed frame.
    pub fn place(&self, at: u64) -> Option<(&Path, u64)> {
        match &self.kind {
            Kind::Parts(parts) => parts.place(at),
            Kind::Frames(frames) => frames.place(at),
        }
    }

    /// The files, in order.
    pub fn sources(&self) -> Vec<&Source> {
        match &self.kind {
            Kind::Parts(parts) => parts.sources().collect(),
            Kind::Frames(frames) => vec![frames.source()],
        }
    }

    /// See `Source::unchanged`; looks at a few files, others on the next call.
    pub fn unchanged(&self) -> Result<()> {
        let parts = match &self.kind {
            Kind::Parts(parts) => parts,
            Kind::Frames(frames) => return frames.source().unchanged(),
        };
        let turn = self.turn.fetch_add(ASKED, Ordering::Relaxed);
        let count = parts.files();
        (0..ASKED.min(count)).try_for_each(|i| parts.file((turn.wrapping_add(i)) % count).unchanged())
    }

    /// What `sampled` gives for these bytes.
    pub fn sampled(&self) -> Result<u64> {
        sampled(self.len(), |at, block| self.with(at, block.len(), |bytes| block.copy_from_slice(bytes)))
    }
}

/// What `Tokens::sampled` will be for a file that becomes PREFIX.bin.
pub fn sampled_file(path: &Path) -> Result<u64> {
    Tokens::from(Parts::whole(Source::open(path, Access::Positioned)?)).sampled()
}

/// XXH3 of 64 blocks of 4096 bytes spread evenly from the first to the last byte of PREFIX.bin, or of all of it if it
/// is no longer than they are. `read` fills a block from a place.
fn sampled(len: u64, mut read: impl FnMut(u64, &mut [u8]) -> Result<()>) -> Result<u64> {
    let mut hash = Xxh3::new();
    let mut block = [0; BLOCK as usize];
    for i in 0..BLOCKS {
        let (at, count) = if len <= BLOCKS * BLOCK {
            (i * BLOCK, len.saturating_sub(i * BLOCK).min(BLOCK))
        } else {
            // i (len - BLOCK) / 63 without overflow.
            let (whole, rest) = ((len - BLOCK) / (BLOCKS - 1), (len - BLOCK) % (BLOCKS - 1));
            (i * whole + i * rest / (BLOCKS - 1), BLOCK)
        };
        if count > 0 {
            read(at, &mut block[..count as usize])?;
            hash.update(&block[..count as usize]);
        }
    }
    Ok(hash.digest())
}
