//! Any source of tensors to a Hugging Face directory: model.safetensors (or shards and their index), config.json
//! last. Tensors are streamed in pieces, so memory does not grow with the model. Names, order, shards and the
//! treatment of tied heads are those of `save_pretrained`.

use super::family::Family;
use super::files::{INDEX, SINGLE};
use super::map::{Stored, stored};
use super::{atomic, bert, config};
use crate::config::ModelConfig;
use crate::device::{DType, Elem};
use crate::model::Network;
use crate::params::{LocalBox, ParamSpec, TensorSource};
use crate::{Error, Result};
use half::bf16;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::path::Path;

/// Values converted at a time.
const PIECE: usize = 1 << 18;

#[derive(Clone, Copy, Debug)]
pub struct Export<'a> {
    /// f32 or bf16
    pub dtype: DType,
    /// A file holds at most this many bytes of tensors, unless one tensor alone is larger.
    pub max_shard_bytes: u64,
    /// An earlier config.json, whose token ids and other settings are kept.
    pub extra: Option<&'a Value>,
}

impl Default for Export<'_> {
    fn default() -> Self {
        Export { dtype: DType::F32, max_shard_bytes: 5_000_000_000, extra: None }
    }
}

/// A tensor to write and the tensors of ours that make it up, in order along the out side.
struct Plan {
    name: String,
    shape: Vec<usize>,
    parts: Vec<(ParamSpec, Stored)>,
}

impl Plan {
    fn len(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Writes `dir`, which must not hold a model yet.
///
/// # Errors
/// `Error::Config` if the family cannot say what the model is or the dtype is not one of its own;
/// `Error::Checkpoint` if `dir` holds a model; `Error::Io`; what the source returns.
pub fn export(
    dir: &Path,
    family: Family,
    c: &ModelConfig,
    source: &dyn TensorSource,
    options: Export,
) -> Result<()> {
    family.fits(c)?;
    if options.dtype == DType::F64 {
        return Err(Error::config(
            "export",
            "dtype",
            "f64 is not a type of published weights",
            "f32 or bf16",
        ));
    }
    std::fs::create_dir_all(dir).map_err(Error::io(dir, "create"))?;
    refuse_used(dir)?;

    let plans = plan(family, c)?;
    let size = |p: &Plan| (p.len() * options.dtype.bytes()) as u64;
    let shards = shard(&plans, options.max_shard_bytes, size);
    let name = |i: usize| match shards.len() {
        1 => SINGLE.to_string(),
        n => format!("model-{:05}-of-{n:05}.safetensors", i + 1),
    };
    for (i, shard) in shards.iter().enumerate() {
        write_file(&dir.join(name(i)), shard, source, options.dtype)?;
    }
    if shards.len() > 1 {
        let places = shards.iter().enumerate().flat_map(|(i, shard)| shard.iter().map(move |p| (&p.name, i)));
        let weight_map: BTreeMap<&String, String> = places.map(|(tensor, i)| (tensor, name(i))).collect();
        let total: u64 = plans.iter().map(size).sum();
        let index = json!({
            "metadata": { "total_parameters": c.params(), "total_size": total },
            "weight_map": weight_map,
        });
        let path = dir.join(INDEX);
        let text = serde_json::to_string_pretty(&index).expect("maps with text keys") + "\n";
        atomic::write(&path, |out| out.write_all(text.as_bytes()).map_err(Error::io(&path, "write")))?;
    }
    config::write_config(dir, family, c, options.dtype, options.extra)
}

/// A file left from another export would be loaded with, or instead of, the new ones.
fn refuse_used(dir: &Path) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(Error::io(dir, "list"))? {
        let name = entry.map_err(Error::io(dir, "list"))?.file_name();
        let name = name.to_string_lossy();
        let weights = [".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json"];
        if name == "config.json" || weights.iter().any(|end| name.ends_with(end)) {
            return Err(Error::checkpoint(dir, format!("already holds {name}"), "choose a new directory"));
        }
    }
    Ok(())
}

/// All tensors to write, by name.
fn plan(family: Family, c: &ModelConfig) -> Result<Vec<Plan>> {
    let mut plans: BTreeMap<String, Plan> = BTreeMap::new();
    for spec in Network::specs(c) {
        let Some(place) = stored(family, &spec) else {
            let problem = format!("the family {family} has no {}", spec.name);
            return Err(Error::config("export", "model", problem, ""));
        };
        if place.name == bert::BIAS && !c.tied {
            // Version 5 computes with this one, version 4 with the other.
            let name = bert::DECODER_BIAS.to_string();
            let parts = vec![(spec.clone(), place.clone())];
            plans.insert(name.clone(), Plan { name, shape: place.shape.clone(), parts });
        }
        let new = Plan { name: place.name.clone(), shape: place.shape.clone(), parts: vec![] };
        plans.entry(place.name.clone()).or_insert(new).parts.push((spec, place));
    }
    let mut plans: Vec<_> = plans.into_values().collect();
    for p in &mut plans {
        p.parts.sort_by_key(|(_, place)| place.first);
        let covered: usize = p.parts.iter().map(|(spec, _)| spec.len()).sum();
        assert_eq!(covered, p.len(), "values of {}", p.name);
    }
    Ok(plans)
}

/// Fills one file after the other, in order.
fn shard(plans: &[Plan], max: u64, size: impl Fn(&Plan) -> u64) -> Vec<Vec<&Plan>> {
    let mut shards: Vec<Vec<&Plan>> = vec![vec![]];
    let mut used = 0;
    for p in plans {
        if used > 0 && used + size(p) > max {
            shards.push(vec![]);
            used = 0;
        }
        used += size(p);
        shards.last_mut().expect("starts with one").push(p);
    }
    shards
}

fn write_file(path: &Path, plans: &[&Plan], source: &dyn TensorSource, dtype: DType) -> Result<()> {
    let stored_dtype = if dtype == DType::Bf16 { Dtype::BF16 } else { Dtype::F32 };
    let mut end = 0;
    let infos = plans.iter().map(|p| {
        let start = end;
        end += p.len() * dtype.bytes();
        let info = TensorInfo { dtype: stored_dtype, shape: p.shape.clone(), data_offsets: (start, end) };
        (p.name.clone(), info)
    });
    let format = HashMap::from([("format".to_string(), "pt".to_string())]);
    let header = Metadata::new(Some(format), infos.collect()).expect("offsets that follow each other");
    let mut header = serde_json::to_vec(&header).expect("maps with text keys");
    header.resize(header.len().next_multiple_of(8), b' ');
    atomic::write(path, |out| {
        let mut put = |bytes: &[u8]| out.write_all(bytes).map_err(Error::io(path, "write"));
        put(&(header.len() as u64).to_le_bytes())?;
        put(&header)?;
        let mut pieces = Pieces { source, dtype, bytes: vec![] };
        plans.iter().try_for_each(|p| pieces.tensor(p, &mut put))
    })
}

/// Converts values piece by piece.
struct Pieces<'a> {
    source: &'a dyn TensorSource,
    dtype: DType,
    bytes: Vec<u8>,
}

impl Pieces<'_> {
    fn tensor(&mut self, p: &Plan, put: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        if p.parts.iter().any(|(_, place)| place.transposed) {
            return self.transposed(p, put);
        }
        for (spec, _) in &p.parts {
            let step = (PIECE / spec.cols.max(1)).max(1);
            let mut values = vec![0.0; step.min(spec.rows) * spec.cols];
            for row in (0..spec.rows).step_by(step) {
                let rows = step.min(spec.rows - row);
                let b = LocalBox { row, rows, stored_rows: rows, col: 0, cols: spec.cols };
                let values = &mut values[..rows * spec.cols];
                self.source.read(spec, b, values)?;
                self.put(values, put)?;
            }
        }
        Ok(())
    }

    /// A row of the file is a column of each part.
    fn transposed(&mut self, p: &Plan, put: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (depth, width) = (p.shape[0], p.shape[1]); // in, out
        let step = (PIECE / width.max(1)).max(1).min(depth);
        let (mut rows, mut part) = (vec![0.0; step * width], vec![]);
        for col in (0..depth).step_by(step) {
            let n = step.min(depth - col);
            for (spec, place) in &p.parts {
                part.resize(spec.rows * n, 0.0);
                let b = LocalBox { row: 0, rows: spec.rows, stored_rows: spec.rows, col, cols: n };
                self.source.read(spec, b, &mut part)?;
                for (i, row) in rows.chunks_exact_mut(width).take(n).enumerate() {
                    let row = &mut row[place.first..place.first + spec.rows];
                    row.iter_mut().enumerate().for_each(|(r, x)| *x = part[r * n + i]);
                }
            }
            self.put(&rows[..n * width], put)?;
        }
        Ok(())
    }

    fn put(&mut self, values: &[f32], put: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
        self.bytes.clear();
        match self.dtype {
            DType::Bf16 => values.iter().for_each(|x| {
                self.bytes.extend_from_slice(&<bf16 as Elem>::store(*x).to_bits().to_le_bytes());
            }),
            _ => values.iter().for_each(|x| self.bytes.extend_from_slice(&x.to_le_bytes())),
        }
        put(&self.bytes)
    }
}
