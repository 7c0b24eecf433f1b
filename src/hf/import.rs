//! A Hugging Face directory as a source of tensors. Opening it checks every name, shape and type; reading touches
//! only the bytes of the box.

use super::decode::{Kind, decode};
use super::family::Family;
use super::files::{Files, Found};
use super::map::{Stored, full_name, stored};
use super::{bert, config};
use crate::config::{Head, ModelConfig};
use crate::model::Network;
use crate::params::{LocalBox, ParamSpec, TensorSource};
use crate::{Error, Result};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Weights saved without a head (an encoder) are taken; the head keeps its initial values.
    pub allow_missing_head: bool,
    /// Of those initial values.
    pub seed: u64,
}

struct Entry {
    shape: Vec<usize>,
    kind: Kind,
    found: Found,
    stored: Stored,
}

pub struct HfSource {
    dir: PathBuf,
    family: Family,
    config: ModelConfig,
    json: Value,
    files: Files,
    /// By our name.
    entries: HashMap<String, Entry>,
    missing: Vec<String>,
    unused: Vec<String>,
    seed: u64,
}

impl HfSource {
    /// Opens DIR, which must hold all tensors of the model that its config describes.
    ///
    /// # Errors
    /// `Error::Config` for the config, `Error::Checkpoint` for the weights: one that lists all tensors that are
    /// missing, unknown or of another shape.
    pub fn open(dir: &Path) -> Result<HfSource> {
        HfSource::open_with(dir, Options::default())
    }

    pub fn open_with(dir: &Path, options: Options) -> Result<HfSource> {
        let (json, file) = config::load(dir)?;
        let (family, config) = config::parse(&json, &file)?;
        let files = Files::open(dir)?;
        let mut source = HfSource {
            dir: dir.to_path_buf(),
            family,
            config,
            json: Value::Object(json),
            files,
            entries: HashMap::new(),
            missing: vec![],
            unused: vec![],
            seed: options.seed,
        };
        let mut found = source.by_full_name()?;
        source.merge_copies(&mut found)?;
        source.claim(found, options.allow_missing_head)?;
        Ok(source)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }
    pub fn family(&self) -> Family {
        self.family
    }
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }
    /// The whole config.json, for a later export.
    pub fn json(&self) -> &Value {
        &self.json
    }
    /// Our names of tensors that keep their initial values.
    pub fn missing(&self) -> &[String] {
        &self.missing
    }
    /// Names of tensors in the files that the language model does not use: buffers, heads of other objectives.
    pub fn unused(&self) -> &[String] {
        &self.unused
    }
    /// Parameters by the type in which the files hold them.
    pub fn stored_types(&self) -> Vec<(&'static str, u64)> {
        let mut types: Vec<(&'static str, u64)> = vec![];
        for e in self.entries.values() {
            let (name, n) = (e.kind.name(), e.shape.iter().product::<usize>() as u64);
            match types.iter_mut().find(|(t, _)| *t == name) {
                Some((_, sum)) => *sum += n,
                None => types.push((name, n)),
            }
        }
        types.sort_unstable();
        types
    }

    fn error(&self, problem: String, remedy: &str) -> Error {
        Error::checkpoint(&self.dir, problem, remedy)
    }

    fn by_full_name(&self) -> Result<HashMap<String, Found>> {
        let mut all: HashMap<String, Found> = HashMap::new();
        for t in &self.files.tensors {
            let name = full_name(self.family, &t.name);
            if let Some(other) = all.insert(name, t.clone()) {
                return Err(self.error(format!("{} and {} are the same tensor", other.name, t.name), ""));
            }
        }
        Ok(all)
    }

    /// Leaves one tensor where a file holds copies.
    fn merge_copies(&self, found: &mut HashMap<String, Found>) -> Result<()> {
        if self.family == Family::Bert
            && !self.config.tied
            && let Some(bias) = found.remove(bert::DECODER_BIAS)
        {
            found.insert(bert::BIAS.into(), bias);
        }
        for (name, copy) in self.family.tied(&self.config) {
            let Some(second) = found.remove(*copy) else { continue };
            if let Some(first) = found.get(*name) {
                let bytes = |t: &Found| self.files.bytes(t, 0, t.bytes);
                if first.shape != second.shape
                    || first.dtype != second.dtype
                    || bytes(first) != bytes(&second)
                {
                    let problem =
                        format!("{} and {} differ, but the config ties them", first.name, second.name);
                    return Err(self.error(problem, "set tie_word_embeddings to false to keep both"));
                }
            } else {
                found.insert((*name).into(), second);
            }
        }
        Ok(())
    }

    /// Gives every tensor of the model its place in the files.
    fn claim(&mut self, mut found: HashMap<String, Found>, allow_missing_head: bool) -> Result<()> {
        let (mut missing, mut wrong, mut claimed) = (vec![], vec![], HashSet::new());
        for spec in Network::specs(&self.config) {
            let Some(stored) = stored(self.family, &spec) else {
                return Err(self.error(format!("the family {} has no {}", self.family, spec.name), ""));
            };
            let Some(t) = found.get(&stored.name) else {
                missing.push((stored.name, spec));
                continue;
            };
            claimed.insert(stored.name.clone());
            match Kind::of(t.dtype) {
                _ if t.shape != stored.shape => {
                    wrong.push(format!("{} is {:?} instead of {:?}", t.name, t.shape, stored.shape));
                }
                None => wrong.push(format!("{} is {} instead of F32, BF16 or F16", t.name, t.dtype)),
                Some(kind) => {
                    let entry = Entry { shape: spec.shape(), kind, found: t.clone(), stored };
                    self.entries.insert(spec.name, entry);
                }
            }
        }
        if allow_missing_head {
            let is_head = |spec: &ParamSpec| spec.name.starts_with("head.");
            self.missing =
                missing.extract_if(.., |(_, spec)| is_head(spec)).map(|(_, spec)| spec.name).collect();
        }
        found.retain(|name, _| !claimed.contains(name));
        let (unused, extra): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|(name, _)| self.family.unused(name));
        let names = |list: Vec<(String, Found)>| sorted(list.into_iter().map(|(_, t)| t.name).collect());
        self.unused = names(unused);
        let extra = names(extra);
        self.report(missing.into_iter().map(|(name, _)| name).collect(), wrong, extra)
    }

    fn report(&self, missing: Vec<String>, wrong: Vec<String>, extra: Vec<String>) -> Result<()> {
        // Parts of a fused tensor complain alike.
        let (missing, wrong) = (sorted(missing), sorted(wrong));
        let only_head = |name: &String| name.starts_with("cls.") || name.starts_with("lm_head.");
        let remedy = match missing.iter().all(only_head) && wrong.is_empty() && extra.is_empty() {
            true if self.config.head == Head::Mlm => "an encoder without its head must be asked for",
            true => "if the embedding serves as head, set tie_word_embeddings to true in config.json",
            false => "the weights must be those of config.json",
        };
        let parts: Vec<String> = [("missing", missing), ("of another form", wrong), ("unknown", extra)]
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| format!("{what}: {}", list(&names)))
            .collect();
        match parts.is_empty() {
            true => Ok(()),
            false => Err(self.error(format!("tensors do not fit the config ({})", parts.join("; ")), remedy)),
        }
    }
}

fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort();
    names.dedup();
    names
}

/// The names, or the first of many.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 12;
    match names.len() {
        n if n <= SHOWN => names.join(", "),
        n => format!("{} and {} more", names[..SHOWN].join(", "), n - SHOWN),
    }
}

impl TensorSource for HfSource {
    fn read(&self, spec: &ParamSpec, b: LocalBox, out: &mut [f32]) -> Result<()> {
        assert_eq!(out.len(), b.rows * b.cols, "values of a box of {}", spec.name);
        assert!(b.row + b.rows <= spec.rows && b.col + b.cols <= spec.cols, "{b:?} within {}", spec.name);
        let Some(e) = self.entries.get(&spec.name) else {
            if self.missing.contains(&spec.name) {
                spec.fill(self.seed, b, out);
                return Ok(());
            }
            return Err(self.error(format!("the model it describes has no {}", spec.name), "check [model]"));
        };
        if e.shape != spec.shape() {
            let problem = format!("{} is {:?}, the run wants {:?}", spec.name, e.shape, spec.shape());
            return Err(self.error(problem, "check [model]"));
        }
        if b.cols == spec.cols && !e.stored.transposed {
            self.run(e, b.row, b.col, out);
        } else if !e.stored.transposed {
            let rows = out.chunks_exact_mut(b.cols.max(1)).enumerate();
            rows.for_each(|(i, row)| self.run(e, b.row + i, b.col, row));
        } else {
            self.read_transposed(e, b, out);
        }
        Ok(())
    }
}

impl HfSource {
    /// Values that follow each other in the file, from element (row, col) of ours on.
    fn run(&self, e: &Entry, row: usize, col: usize, out: &mut [f32]) {
        let size = e.kind.bytes();
        let bytes = self.files.bytes(&e.found, e.stored.index(row, col) * size, out.len() * size);
        decode(e.kind, bytes, out);
    }

    /// Our columns are runs of the file. Some of them are decoded at a time, so that rows of `out` are written in
    /// pieces and not number by number.
    fn read_transposed(&self, e: &Entry, b: LocalBox, out: &mut [f32]) {
        const TILE: usize = 16;
        if b.rows == 0 {
            return;
        }
        let mut tile = vec![0.0; TILE.min(b.cols) * b.rows];
        for first in (0..b.cols).step_by(TILE) {
            let n = TILE.min(b.cols - first);
            for (j, column) in tile.chunks_exact_mut(b.rows).take(n).enumerate() {
                self.run(e, b.row, b.col + first + j, column);
            }
            for (i, row) in out.chunks_exact_mut(b.cols).enumerate() {
                row[first..first + n].iter_mut().enumerate().for_each(|(j, x)| *x = tile[j * b.rows + i]);
            }
        }
    }
}
