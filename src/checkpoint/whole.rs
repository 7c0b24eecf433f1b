//! A checkpoint as one rank would write it, from sources of tensors instead of live state: what `merge` and growth make.
//! Memory does not grow with the model: a few megabytes of a tensor at a time.

use super::disk::{self, Writer};
use super::file;
use super::manifest::{FORMAT_VERSION, FileEntry, Manifest, Meta, Topology};
use super::piece::{Area, Kind, Piece};
use super::save::Saved;
use crate::device::DType;
use crate::params::{LocalBox, ParamSpec, TensorSource};
use crate::{Error, Result};
use std::path::Path;

/// Values copied at a time.
const CHUNK: usize = 1 << 20;

/// Values of one kind.
pub struct Whole<'a> {
    pub kind: Kind,
    pub source: &'a dyn TensorSource,
    /// The type that those of a tensor are stored in; None where there are none.
    pub dtype: &'a dyn Fn(&ParamSpec) -> Result<Option<DType>>,
}

/// Writes the checkpoint `to`, a directory that is not there yet: tensors `params`, of each the kinds that it has, and
/// `texts` (name, content). Weights must be among the kinds.
pub fn write_whole(
    to: &Path,
    meta: &Meta,
    params: &[ParamSpec],
    kinds: &[Whole],
    texts: &[(String, String)],
) -> Result<Saved> {
    std::fs::create_dir(to).map_err(Error::io(to, "create"))?;
    let mut files = vec![];
    let (weights, optim): (Vec<_>, Vec<_>) = kinds.iter().partition(|w| w.kind == Kind::Weight);
    for (name, kinds) in [("weights", weights), ("optim", optim)] {
        files.extend(write(&to.join(format!("{name}-r00000.safetensors")), params, &kinds)?);
    }
    for (name, text) in texts {
        files.push(disk::write(&to.join(name), [text.as_bytes()])?);
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let (topology, params) = (Topology { dp: 1, tp: 1, zero: 0 }, params.to_vec());
    let manifest = Manifest { format_version: FORMAT_VERSION, topology, meta: meta.clone(), params, files };
    manifest.write(to)?;
    disk::sync_dir(to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))?;
    Ok(Saved { path: to.into(), bytes: manifest.bytes() })
}

/// All tensors of these kinds in one file; None if there are none.
fn write(path: &Path, params: &[ParamSpec], kinds: &[&Whole]) -> Result<Option<FileEntry>> {
    let mut all: Vec<(Piece, DType, &ParamSpec, &Whole)> = vec![];
    for whole in kinds {
        for spec in params {
            let Some(dtype) = (whole.dtype)(spec)? else { continue };
            let (kind, area) = (whole.kind, Area::whole(spec));
            let (entry, tensor) = (kind.entry(&spec.name), spec.name.clone());
            all.push((Piece { entry, tensor, kind, area, range: [0, area.len()] }, dtype, spec, whole));
        }
    }
    if all.is_empty() {
        return Ok(None);
    }
    let header = file::header(all.iter().map(|(piece, dtype, spec, _)| (piece, *dtype, spec.shape())))
        .map_err(|problem| Error::checkpoint(path, problem, ""))?;
    let mut out = Writer::create(path)?;
    out.put(&header)?;
    let mut values = vec![];
    for (_, dtype, spec, whole) in &all {
        let rows = (CHUNK / spec.cols).clamp(1, spec.rows);
        for row in (0..spec.rows).step_by(rows) {
            let rows = rows.min(spec.rows - row);
            values.resize(rows * spec.cols, 0f32);
            let b = LocalBox { row, rows, stored_rows: rows, col: 0, cols: spec.cols };
            whole.source.read(spec, b, &mut values)?;
            match dtype {
                DType::Bf16 => out.put_rounded(&values)?,
                _ => out.put(bytemuck::cast_slice(&values))?,
            }
        }
    }
    out.end()?.sync().map(Some)
}
