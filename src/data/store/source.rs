//! One file that bytes are read from, mapped or by positioned reads, and how a change of it is noticed.

use super::guard::Guard;
use crate::{Error, Result};
use memmap2::Mmap;
use std::cell::Cell;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

const CHANGED: &str = "files of a corpus must not change while they are read: restore it and resume";

/// How a file is read. `Stage` is the first of these on a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    Mapped,
    Positioned,
}

/// A file of fixed length, open for reading at any place by any number of threads.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    len: u64,
    stamp: Stamp,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    // The guard is dropped before what it guards.
    Mapped(Guard, Mmap),
    Positioned(File),
}

/// What tells one state of a file from another without reading it.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    inode: (u64, u64),
    len: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(m: &std::fs::Metadata) -> Stamp {
        Stamp { inode: (m.dev(), m.ino()), len: m.len(), modified: (m.mtime(), m.mtime_nsec()) }
    }
}

impl Source {
    pub fn open(path: &Path, access: Access) -> Result<Source> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let stamp = file.metadata().map_err(Error::io(path, "find"))?;
        if !stamp.is_file() {
            return Err(Error::data(path, "is not a file", "name a regular file"));
        }
        let stamp = Stamp::of(&stamp);
        let len = stamp.len;
        let bytes = match access {
            Access::Positioned => Bytes::Positioned(file),
            Access::Mapped => map(path, &file)?,
        };
        Ok(Source { path: path.into(), len, stamp, bytes })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// In bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Gives `f` the `len` bytes from `at`, and what it made of them to the caller if they could all be read. What `f`
    /// sees may be zeros if they could not.
    pub fn with<R>(&self, at: u64, len: usize, f: impl FnOnce(&[u8]) -> R) -> Result<R> {
        let Some(end) = at.checked_add(len as u64).filter(|&end| end <= self.len) else {
            let problem = format!("has {} bytes, and {len} from {at} are to be read", self.len);
            return Err(Error::data(&self.path, problem, "copy the corpus again"));
        };
        match &self.bytes {
            Bytes::Mapped(guard, map) => {
                let made = f(&map[at as usize..end as usize]);
                match guard.fault() {
                    None => Ok(made),
                    Some(at) => Err(self.lost(at)),
                }
            }
            Bytes::Positioned(file) => with_buffer(len, |buffer| {
                file.read_exact_at(buffer, at).map_err(|e| match e.kind() {
                    std::io::ErrorKind::UnexpectedEof => self.lost(at),
                    _ => Error::io(&self.path, "read")(e),
                })?;
                Ok(f(buffer))
            }),
        }
    }

    /// Copies the bytes from `at` on.
    pub fn read_at(&self, at: u64, out: &mut [u8]) -> Result<()> {
        self.with(at, out.len(), |bytes| out.copy_from_slice(bytes))
    }

    /// The little-endian number at `at`.
    pub fn u64_at(&self, at: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.read_at(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
    pub fn u32_at(&self, at: u64) -> Result<u32> {
        let mut bytes = [0; 4];
        self.read_at(at, &mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    /// XXH3 of the whole file.
    pub fn checksum(&self) -> Result<u64> {
        let mut hash = Xxh3::new();
        let mut at = 0;
        while at < self.len {
            let count = (self.len - at).min(1 << 20);
            self.with(at, count as usize, |bytes| hash.update(bytes))?;
            at += count;
        }
        Ok(hash.digest())
    }

    /// Whether the file's name still leads to the file that was opened, as it was then: one `stat`. A name that leads
    /// nowhere, or cannot be asked for, is no change: what was opened can still be read.
    pub fn unchanged(&self) -> Result<()> {
        let Ok(now) = std::fs::metadata(&self.path) else { return Ok(()) };
        let now = Stamp::of(&now);
        let problem = if now == self.stamp {
            return Ok(());
        } else if now.inode != self.stamp.inode {
            "was replaced by another file while it was in use".into()
        } else if now.len != self.len {
            format!("had {} bytes when it was opened and now has {}", self.len, now.len)
        } else {
            "was written to while it was in use".into()
        };
        Err(Error::data(&self.path, problem, CHANGED))
    }

    fn lost(&self, at: u64) -> Error {
        let now = std::fs::metadata(&self.path).map_or(self.len, |m| m.len());
        let problem = match now < self.len {
            true => format!("had {} bytes when it was opened and now has {now}", self.len),
            false => "could not be read: the disk or the connection to it fails".into(),
        };
        Error::Data { path: self.path.clone(), offset: Some(at), problem, remedy: CHANGED.into() }
    }
}

fn map(path: &Path, file: &File) -> Result<Bytes> {
    // SAFETY: the mapping is only read, as plain numbers, through bounds-checked slices that end with `Source::with`;
    // when the file shrinks, `Guard` puts zeros in its place, and what was made of them is dropped.
    let map = unsafe { Mmap::map(file) }.map_err(Error::io(path, "map"))?;
    // Windows are read in random order: reading ahead would read many times what is used. A hint that may fail.
    let _ = map.advise(memmap2::Advice::Random);
    let begin = map.as_ptr() as usize;
    match Guard::new(begin..begin + map.len()) {
        Some(guard) => Ok(Bytes::Mapped(guard, map)),
        None => {
            let problem = "too many files are mapped at once (16384)";
            Err(Error::data(
                path,
                problem,
                "adopt fewer files to a corpus, or give it tokens of its own with `espalier corpus compress`",
            ))
        }
    }
}

/// A buffer of the thread's own, so that small reads allocate nothing.
fn with_buffer<R>(len: usize, f: impl FnOnce(&mut [u8]) -> R) -> R {
    thread_local!(static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) });
    // Taken, so that a call within `f` finds an empty one instead of this.
    let mut buffer = BUFFER.take();
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    let made = f(&mut buffer[..len]);
    BUFFER.set(buffer);
    made
}
