//! Writing so that it survives a crash: data before names, and names before what refers to them.

use super::manifest::{FileEntry, hex};
use crate::device::Elem;
use crate::{Error, Result};
use half::bf16;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// Bytes hashed and written at a time: they are still in the cache when they are written.
const CHUNK: usize = 1 << 20;

/// A new file that is hashed while it is written.
pub struct Writer {
    path: PathBuf,
    out: BufWriter<File>,
    hash: Xxh3,
    bytes: u64,
}

/// A file that the system has taken; it may not be on the disk yet.
pub struct Written {
    path: PathBuf,
    file: File,
    entry: FileEntry,
}

impl Writer {
    pub fn create(path: &Path) -> Result<Writer> {
        let file = File::create(path).map_err(Error::io(path, "create"))?;
        let out = BufWriter::with_capacity(CHUNK, file);
        Ok(Writer { path: path.into(), out, hash: Xxh3::new(), bytes: 0 })
    }

    pub fn put(&mut self, part: &[u8]) -> Result<()> {
        for chunk in part.chunks(CHUNK) {
            self.hash.update(chunk);
            self.out.write_all(chunk).map_err(Error::io(&self.path, "write"))?;
            self.bytes += chunk.len() as u64;
        }
        Ok(())
    }

    /// The values as bf16.
    pub fn put_rounded(&mut self, values: &[f32]) -> Result<()> {
        let mut rounded = Vec::with_capacity(CHUNK.min(values.len()));
        for chunk in values.chunks(CHUNK) {
            rounded.clear();
            rounded.extend(chunk.iter().map(|v| <bf16 as Elem>::store(*v)));
            self.put(bytemuck::cast_slice(&rounded))?;
        }
        Ok(())
    }

    /// Nothing more is to be written.
    pub fn end(self) -> Result<Written> {
        let Writer { path, out, hash, bytes } = self;
        let file = out.into_inner().map_err(|e| Error::io(&path, "write")(e.into_error()))?;
        let name = path.file_name().expect("a file in a directory").to_string_lossy().into_owned();
        Ok(Written { path, file, entry: FileEntry { name, bytes, xxh3: hex(hash.digest()) } })
    }
}

impl Written {
    /// Waits until it is on the disk.
    pub fn sync(self) -> Result<FileEntry> {
        self.file.sync_all().map_err(Error::io(&self.path, "write"))?;
        Ok(self.entry)
    }
}

/// Writes the parts one after the other to a new file, hashing on the way, and waits until they are on the disk.
pub fn write<'a>(path: &Path, parts: impl IntoIterator<Item = &'a [u8]>) -> Result<FileEntry> {
    let mut out = Writer::create(path)?;
    parts.into_iter().try_for_each(|part| out.put(part))?;
    out.end()?.sync()
}

/// Puts a file in place at once: other readers see all of it or nothing.
pub fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let name = path.file_name().expect("a file in a directory").to_string_lossy();
    let temporary = path.with_file_name(format!("{name}.tmp"));
    write(&temporary, [content])?;
    std::fs::rename(&temporary, path).map_err(Error::io(path, "rename into place"))?;
    sync_dir(path.parent().expect("a file in a directory"))
}

/// Makes the names in a directory durable.
pub fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(Error::io(dir, "sync"))
}

/// Opens a file that the manifest lists.
pub fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Error::checkpoint(path, "missing, although the manifest lists it", "use an earlier checkpoint")
        }
        _ => Error::io(path, "open")(e),
    })
}

/// Checks size and checksum of a file against its entry. Reads instead of mapping: a bad sector is an error here, and
/// a signal there.
pub fn check(path: &Path, entry: &FileEntry) -> Result<()> {
    let mut file = open(path)?;
    let (mut hash, mut bytes, mut buffer) = (Xxh3::new(), 0, vec![0; CHUNK]);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                hash.update(&buffer[..n]);
                bytes += n as u64;
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Error::io(path, "read")(e)),
        }
    }
    check_size(path, entry, bytes)?;
    let found = hex(hash.digest());
    if found != entry.xxh3 {
        let problem = format!("damaged: its checksum is {found} and the manifest says {}", entry.xxh3);
        return Err(Error::checkpoint(path, problem, "use an earlier checkpoint"));
    }
    Ok(())
}

pub fn check_size(path: &Path, entry: &FileEntry, bytes: u64) -> Result<()> {
    if bytes != entry.bytes {
        let problem = format!("{bytes} bytes long and the manifest says {}", entry.bytes);
        return Err(Error::checkpoint(path, problem, "use an earlier checkpoint"));
    }
    Ok(())
}
