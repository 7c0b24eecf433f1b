//! A checkpoint of any number of ranks as one rank would have written it: the same tensors, bit by bit, in two files.
//! Memory does not grow with the model: a few megabytes of a tensor at a time.

use super::disk::{self, Writer};
use super::file;
use super::manifest::{FileEntry, Manifest, Topology};
use super::open::Checkpoint;
use super::piece::{Area, Kind, Piece};
use super::save::Saved;
use crate::device::DType;
use crate::params::ParamSpec;
use crate::{Error, Result};
use std::path::Path;

/// Values copied at a time.
const CHUNK: usize = 1 << 20;

/// Writes the checkpoint `to`, a directory that is not there yet. Without `optimizer` only the weights, which can begin
/// a run (`init`) but not resume one.
pub fn merge(from: &Checkpoint, to: &Path, optimizer: bool) -> Result<Saved> {
    let old = from.manifest();
    std::fs::create_dir(to).map_err(Error::io(to, "create"))?;
    let mut files = vec![];
    let groups = [("weights", &[Kind::Weight][..]), ("optim", &[Kind::Master, Kind::M, Kind::V, Kind::Ema])];
    for (name, kinds) in groups.into_iter().take(if optimizer { 2 } else { 1 }) {
        files.extend(write(from, &to.join(format!("{name}-r00000.safetensors")), kinds)?);
    }
    for entry in old.files.iter().filter(|f| !f.name.ends_with(".safetensors")) {
        let text = from.text(&entry.name)?.expect("the manifest lists it");
        files.push(disk::write(&to.join(&entry.name), [text.as_bytes()])?);
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let manifest = Manifest { topology: Topology { dp: 1, tp: 1, zero: 0 }, files, ..old.clone() };
    manifest.write(to)?;
    disk::sync_dir(to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    Ok(Saved { path: to.into(), bytes: manifest.bytes() })
}

/// All tensors of these kinds in one file; None if there are none.
fn write(from: &Checkpoint, path: &Path, kinds: &[Kind]) -> Result<Option<FileEntry>> {
    let mut all: Vec<(Piece, DType, &ParamSpec)> = vec![];
    for &kind in kinds {
        for spec in &from.manifest().params {
            let Some(dtype) = from.dtype(kind, spec)? else { continue };
            let area = Area::whole(spec);
            let (entry, tensor) = (kind.entry(&spec.name), spec.name.clone());
            all.push((Piece { entry, tensor, kind, area, range: [0, area.len()] }, dtype, spec));
        }
    }
    if all.is_empty() {
        return Ok(None);
    }
    let header = file::header(all.iter().map(|(piece, dtype, spec)| (piece, *dtype, spec.shape())))
        .map_err(|problem| Error::checkpoint(path, problem, ""))?;
    let mut out = Writer::create(path)?;
    out.put(&header)?;
    let mut values = vec![0f32; CHUNK];
    for (piece, dtype, spec) in &all {
        for start in (0..spec.len()).step_by(CHUNK) {
            let values = &mut values[..CHUNK.min(spec.len() - start)];
            from.read_range(piece.kind, spec, start, values)?;
            match dtype {
                DType::Bf16 => out.put_rounded(values)?,
                _ => out.put(bytemuck::cast_slice(values))?,
            }
        }
    }
    out.end()?.sync().map(Some)
}
