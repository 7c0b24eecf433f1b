//! A file that grows under a temporary name, is continued after a kill, and gets its header and its name at the end.

use super::header::{HEADER, Header};
use crate::{Error, Result};
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

const CHUNK: usize = 1 << 16;

pub(super) struct Out {
    path: PathBuf,
    file: BufWriter<File>,
    /// Of everything after the header.
    hash: Xxh3,
}

impl Out {
    /// Replaces what an earlier attempt left. The header is zeros until `finish`: unfinished files are no side files.
    pub fn create(path: PathBuf) -> Result<Out> {
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path);
        let file = file.map_err(Error::io(&path, "create"))?;
        let mut out = Out { path, file: BufWriter::with_capacity(CHUNK, file), hash: Xxh3::new() };
        out.file.write_all(&[0; HEADER as usize]).map_err(Error::io(&out.path, "write"))?;
        Ok(out)
    }

    /// Goes on after the first `keep` bytes of the payload.
    pub fn resume(path: PathBuf, keep: u64) -> Result<Out> {
        let file = File::options().read(true).write(true).open(&path);
        let mut file = file.map_err(Error::io(&path, "continue"))?;
        let length = file.metadata().map_err(Error::io(&path, "find"))?.len();
        let Some(end) = keep.checked_add(HEADER).filter(|&end| end <= length) else {
            let problem =
                format!("has {length} bytes, fewer than the {keep} of values it was to be continued after");
            return Err(Error::data(&path, problem, "remove it and start from the beginning"));
        };
        file.set_len(end).map_err(Error::io(&path, "truncate"))?;
        file.seek(SeekFrom::Start(HEADER)).map_err(Error::io(&path, "read"))?;
        let mut hash = Xxh3::new();
        let mut bytes = vec![0; CHUNK];
        loop {
            match file.read(&mut bytes).map_err(Error::io(&path, "read"))? {
                0 => break,
                count => hash.update(&bytes[..count]),
            }
        }
        Ok(Out { path, file: BufWriter::with_capacity(CHUNK, file), hash })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hash.update(bytes);
        self.file.write_all(bytes).map_err(Error::io(&self.path, "write"))
    }

    /// Appends the payload of another.
    pub fn append(&mut self, other: &mut Out) -> Result<()> {
        other.flush()?;
        let (mut at, mut bytes) = (HEADER, vec![0; CHUNK]);
        loop {
            let read =
                other.file.get_ref().read_at(&mut bytes, at).map_err(Error::io(&other.path, "read"))?;
            if read == 0 {
                return Ok(());
            }
            self.write(&bytes[..read])?;
            at += read as u64;
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.file.flush().map_err(Error::io(&self.path, "write"))
    }

    /// Waits until all that was written is on the disk.
    pub fn sync(&mut self) -> Result<()> {
        self.flush()?;
        self.file.get_ref().sync_data().map_err(Error::io(&self.path, "write"))
    }

    /// The eight bytes at `at` of the payload.
    pub fn u64(&self, at: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        let read = self.file.get_ref().read_exact_at(&mut bytes, HEADER + at);
        read.map_err(Error::io(&self.path, "read"))?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes the header, and gives the file its name when every byte is safe.
    pub fn finish(&mut self, mut header: Header, to: &Path) -> Result<()> {
        header.checksum = self.hash.digest();
        self.flush()?;
        let file = self.file.get_ref();
        file.write_all_at(&header.encode(), 0).map_err(Error::io(&self.path, "write"))?;
        file.sync_all().map_err(Error::io(&self.path, "write"))?;
        std::fs::rename(&self.path, to).map_err(Error::io(to, "rename"))
    }
}
