//! The safetensors files of a directory, mapped: one `model.safetensors`, or shards under
//! `model.safetensors.index.json`. Headers are checked before anything is read through them.

use crate::{Error, Result};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

pub const SINGLE: &str = "model.safetensors";
pub const INDEX: &str = "model.safetensors.index.json";
const AGAIN: &str = "fetch the file again";

/// A tensor of a file.
#[derive(Clone, Debug)]
pub struct Found {
    /// As the file calls it.
    pub name: String,
    pub file: usize,
    /// of the first byte in the file
    pub start: usize,
    pub bytes: usize,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

pub struct Files {
    pub maps: Vec<(PathBuf, Mmap)>,
    pub tensors: Vec<Found>,
}

impl Files {
    pub fn open(dir: &Path) -> Result<Files> {
        let mut files = Files { maps: vec![], tensors: vec![] };
        if dir.join(SINGLE).exists() {
            files.add(dir.join(SINGLE))?;
            return Ok(files);
        }
        let index = dir.join(INDEX);
        if !index.exists() {
            let problem = format!("holds neither {SINGLE} nor {INDEX}");
            return Err(Error::checkpoint(dir, problem, "other formats must be saved again as safetensors"));
        }
        let place = read_index(&index)?;
        let mut names: Vec<&str> = place.values().map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            // A file name only: an index must not lead outside its directory.
            if Path::new(name).file_name() != Some(name.as_ref()) {
                return Err(Error::checkpoint(
                    &index,
                    format!("{name:?} is not the name of a file beside it"),
                    "",
                ));
            }
            files.add(dir.join(name))?;
        }
        files.agree(&index, &place)?;
        Ok(files)
    }

    /// Maps a file and appends its tensors.
    fn add(&mut self, path: PathBuf) -> Result<()> {
        let damaged = |problem: String| Error::checkpoint(&path, problem, AGAIN);
        let file = std::fs::File::open(&path).map_err(Error::io(&path, "open"))?;
        // SAFETY: the file is only read; that nobody shortens it meanwhile is what every mapped reader relies on.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(&path, "map"))?;
        if map.starts_with(b"version https://git-lfs") {
            let problem = "is a Git LFS pointer instead of the weights";
            return Err(Error::checkpoint(&path, problem, "fetch them with git lfs pull"));
        }
        let (header, data) = match SafeTensors::read_metadata(&map) {
            Ok((n, data)) => (n + 8, data),
            Err(e) => {
                return Err(damaged(format!("is not a sound safetensors file of {} bytes ({e})", map.len())));
            }
        };
        let file = self.maps.len();
        for name in data.offset_keys() {
            let Some(info) = data.info(&name) else { continue };
            let (start, end) = info.data_offsets;
            let (dtype, shape) = (info.dtype, info.shape.clone());
            self.tensors.push(Found { name, file, start: header + start, bytes: end - start, dtype, shape });
        }
        self.maps.push((path, map));
        Ok(())
    }

    /// Every tensor lies in the file that the index names, and nowhere else.
    fn agree(&self, index: &Path, place: &BTreeMap<String, String>) -> Result<()> {
        let mut seen: HashMap<&str, &str> = HashMap::new();
        for t in &self.tensors {
            let file = self.maps[t.file].0.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if let Some(other) = seen.insert(&t.name, file) {
                return Err(Error::checkpoint(
                    index,
                    format!("{} lies in both {other} and {file}", t.name),
                    AGAIN,
                ));
            }
        }
        let wrong = place.iter().find(|(name, file)| seen.get(name.as_str()) != Some(&file.as_str()));
        match wrong {
            None => Ok(()),
            Some((name, file)) => {
                let problem = format!("{name} is not in {file}, where the index has it");
                Err(Error::checkpoint(index, problem, "fetch all files again"))
            }
        }
    }

    /// Bytes `from..from + len` of a tensor.
    pub fn bytes(&self, t: &Found, from: usize, len: usize) -> &[u8] {
        assert!(from + len <= t.bytes, "{from} + {len} of {} bytes of {}", t.bytes, t.name);
        &self.maps[t.file].1[t.start + from..t.start + from + len]
    }
}

/// Tensor name to file name.
fn read_index(path: &Path) -> Result<BTreeMap<String, String>> {
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: BTreeMap<String, String>,
    }
    let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
    let index: Index = serde_json::from_str(&text)
        .map_err(|e| Error::checkpoint(path, format!("is not an index of shards ({e})"), AGAIN))?;
    Ok(index.weight_map)
}
