//! One file of pieces: a safetensors file whose header lists them under the metadata key "pieces".

use super::disk::{self, Writer, Written};
use super::manifest::FileEntry;
use super::piece::{Content, Outgoing, Piece};
use crate::device::DType;
use crate::params::ParamSpec;
use crate::{Error, Result};
use memmap2::Mmap;
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

// Values are stored little-endian and are copied as they are.
const _: () = assert!(cfg!(target_endian = "little"), "checkpoints need a little-endian machine");

const PIECES: &str = "pieces";
/// Longer headers are refused by every safetensors reader.
const MAX_HEADER: usize = 100_000_000;

/// Writes the pieces to a new file, straight from the live state, unless `go_on` says no between two of them.
pub fn write(path: &Path, out: &[Outgoing], go_on: impl Fn() -> Result<()>) -> Result<Written> {
    let entries = out.iter().map(|o| (&o.piece, o.dtype, o.shape.clone()));
    let header = header(entries).map_err(|problem| Error::checkpoint(path, problem, ""))?;
    let mut file = Writer::create(path)?;
    file.put(&header)?;
    for o in out {
        go_on()?;
        match o.content() {
            Content::Stored(bytes) => file.put(bytes)?,
            Content::Rounded(masters) => file.put_rounded(masters)?,
        }
    }
    file.end()
}

/// What comes before the values of these pieces, each with the type and shape of its entry, in this order.
pub fn header<'a>(pieces: impl Iterator<Item = (&'a Piece, DType, Vec<usize>)>) -> Result<Vec<u8>, String> {
    let (mut end, mut infos, mut list) = (0, vec![], vec![]);
    for (piece, dtype, shape) in pieces {
        let stored = stored_type(dtype).ok_or_else(|| format!("values of type {dtype} are not stored"))?;
        let data_offsets = (end, end + (piece.range[1] - piece.range[0]) * dtype.bytes());
        end = data_offsets.1;
        infos.push((piece.entry.clone(), TensorInfo { dtype: stored, shape, data_offsets }));
        list.push(piece);
    }
    let json = |e: serde_json::Error| format!("the header cannot be written as JSON: {e}");
    let list = serde_json::to_string(&list).map_err(json)?;
    let header = Metadata::new(Some(HashMap::from([(PIECES.to_string(), list)])), infos)
        .map_err(|e| format!("the header cannot be written: {e}"))?;
    let mut header = serde_json::to_string(&header).map_err(json)?;
    // The values begin at a multiple of 8.
    while header.len() % 8 != 0 {
        header.push(' ');
    }
    if header.len() > MAX_HEADER {
        return Err(format!("a header of {} bytes, and readers accept {MAX_HEADER}", header.len()));
    }
    Ok([&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat())
}

fn stored_type(dtype: DType) -> Option<Dtype> {
    match dtype {
        DType::F32 => Some(Dtype::F32),
        DType::Bf16 => Some(Dtype::BF16),
        // Only the oracle of the tests computes in f64.
        DType::F64 => None,
    }
}

/// A file of a checkpoint; what it holds is checked against its checksum before the first value is handed out.
pub struct StoredFile {
    pub path: PathBuf,
    entry: FileEntry,
    checked: OnceLock<Result<(), (PathBuf, String)>>,
    map: Option<Mmap>,
    /// Empty unless the file is one of pieces.
    pub pieces: Vec<StoredPiece>,
}

pub struct StoredPiece {
    pub piece: Piece,
    pub dtype: DType,
    /// Where its values lie in the file.
    pub bytes: Range<usize>,
}

impl StoredFile {
    /// Checks the size, and reads the header if the file is one of pieces. Nothing in the header is believed unchecked.
    pub fn open(dir: &Path, entry: &FileEntry, specs: &HashMap<&str, &ParamSpec>) -> Result<StoredFile> {
        let path = dir.join(&entry.name);
        let file = disk::open(&path)?;
        let bytes = file.metadata().map_err(Error::io(&path, "read"))?.len();
        disk::check_size(&path, entry, bytes)?;
        let holds_pieces = ["weights-r", "optim-r"].iter().any(|p| entry.name.starts_with(p));
        let (mut map, mut pieces) = (None, vec![]);
        if holds_pieces {
            // SAFETY: nobody changes a file of a finished checkpoint; pruning unlinks it, which leaves the map valid.
            let mapped = unsafe { Mmap::map(&file) }.map_err(Error::io(&path, "map"))?;
            pieces = read_header(&mapped, specs).map_err(|problem| {
                Error::checkpoint(&path, format!("damaged: {problem}"), "use an earlier checkpoint")
            })?;
            map = Some(mapped);
        }
        Ok(StoredFile { path, entry: entry.clone(), checked: OnceLock::new(), map, pieces })
    }

    /// Compares size and checksum with the manifest, once.
    pub fn check(&self) -> Result<()> {
        let first = self.checked.get_or_init(|| {
            disk::check(&self.path, &self.entry).map_err(|e| match e {
                Error::Checkpoint { path, problem, .. } => (path, problem),
                e => (self.path.clone(), e.to_string()),
            })
        });
        first.clone().map_err(|(path, problem)| Error::checkpoint(path, problem, "use an earlier checkpoint"))
    }

    /// All bytes of the file, which `StoredPiece::bytes` indexes.
    pub fn data(&self) -> Result<&[u8]> {
        self.check()?;
        Ok(self.map.as_deref().unwrap_or(&[]))
    }
}

fn read_header(file: &[u8], specs: &HashMap<&str, &ParamSpec>) -> Result<Vec<StoredPiece>, String> {
    let (header, metadata) = safetensors::SafeTensors::read_metadata(file).map_err(|e| e.to_string())?;
    let first = 8 + header;
    let list =
        metadata.metadata().as_ref().and_then(|m| m.get(PIECES)).ok_or("the header lists no pieces")?;
    let pieces: Vec<Piece> = serde_json::from_str(list).map_err(|e| format!("the list of pieces: {e}"))?;
    let entries = metadata.offset_keys().len();
    if entries != pieces.len() {
        return Err(format!("{entries} entries and {} pieces", pieces.len()));
    }
    let mut seen = std::collections::HashSet::new();
    let stored: Result<_, String> = pieces
        .iter()
        .map(|piece| {
            let entry = &piece.entry;
            let info = metadata.info(entry).ok_or_else(|| format!("piece {entry} has no entry"))?;
            if !seen.insert(entry) {
                return Err(format!("entry {entry} belongs to two pieces"));
            }
            let dtype = match info.dtype {
                Dtype::F32 => DType::F32,
                Dtype::BF16 => DType::Bf16,
                other => return Err(format!("entry {entry} has type {other}, expected F32 or BF16")),
            };
            let spec = specs.get(piece.tensor.as_str()).ok_or_else(|| {
                format!("entry {entry} is of tensor {}, which is not in the manifest", piece.tensor)
            })?;
            if !piece.area.lies_in(spec) {
                return Err(format!(
                    "entry {entry} lies outside of its tensor {:?}: {}",
                    spec.shape(),
                    piece.area
                ));
            }
            let ([a, b], (start, end)) = (piece.range, info.data_offsets);
            if a >= b || b > piece.area.len() {
                return Err(format!(
                    "entry {entry} holds elements {a}..{b} of a box of {}",
                    piece.area.len()
                ));
            }
            if (end - start) != (b - a) * dtype.bytes() {
                return Err(format!(
                    "entry {entry} has {} bytes for {} values of {dtype}",
                    end - start,
                    b - a
                ));
            }
            Ok(StoredPiece { piece: piece.clone(), dtype, bytes: first + start..first + end })
        })
        .collect();
    stored
}
