//! A file that is read by copying out of its map: the one place that touches the bytes of side streams and columns.

use crate::{Error, Result};
use memmap2::Mmap;
use std::fs::File;
use std::path::{Path, PathBuf};

pub(super) struct Map {
    pub path: PathBuf,
    map: Mmap,
}

impl Map {
    pub fn open(path: &Path) -> Result<Map> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        // SAFETY: the mapping is only read, through bounds-checked slices; these files are written under temporary
        // names and renamed, so a file that has this name is not written to.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path, "map"))?;
        Ok(Map { path: path.into(), map })
    }

    pub fn len(&self) -> u64 {
        self.map.len() as u64
    }

    /// Copies the bytes from `at` on, which must exist.
    pub fn read(&self, at: u64, out: &mut [u8]) -> Result<()> {
        out.copy_from_slice(&self.map[at as usize..][..out.len()]);
        Ok(())
    }

    /// The little-endian number at `at`.
    pub fn u64(&self, at: u64) -> Result<u64> {
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}
