//! Saving: every rank writes its own files, rank 0 writes the manifest when all have.
//!
//!     prepare (rank 0)  |  files (all)  |  manifest (rank 0)  |  outcome (all)        | is a barrier
//!
//! Ranks talk through small files in the directory, so threads of a process and processes on a shared file system do
//! the same: the marker `incomplete` is there from the preparation until all files are durable, and each rank leaves
//! the list of its files, or its error. A rank that fails still comes to every barrier, so that none waits alone.

use super::disk;
use super::file;
use super::folder::{old_dir, remove, step_dir};
use super::manifest::{FORMAT_VERSION, FileEntry, MANIFEST, Manifest, Meta, Topology};
use super::piece::{Kind, Outgoing};
use crate::device::DType;
use crate::optim::{Moment, Optimizer};
use crate::params::{Dp, Params, Unit};
use crate::tensor::Tensor;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

const MARKER: &str = "incomplete";

/// The live state of one rank; it is written from where it lies.
pub struct SaveState<'a> {
    pub params: &'a Params,
    /// None: no moments (an import, a grown network).
    pub optim: Option<&'a Optimizer>,
    /// (rank, size); tp is the inner dimension of the mesh
    pub tp: (usize, usize),
    pub dp: Dp,
}

/// A checkpoint that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    pub path: PathBuf,
    /// Of all ranks' files.
    pub bytes: u64,
}

/// What one rank did.
#[derive(Serialize, Deserialize)]
enum Report {
    Files(Vec<FileEntry>),
    Error(String),
}

impl SaveState<'_> {
    /// Of the whole run.
    fn rank(&self) -> usize {
        (self.dp.replica.0 * self.dp.size + self.dp.rank) * self.tp.1 + self.tp.0
    }
    fn ranks(&self) -> usize {
        self.dp.replica.1 * self.dp.size * self.tp.1
    }

    /// The weights this rank writes.
    pub(super) fn weights(&self) -> Vec<Outgoing<'_>> {
        self.pieces(Kind::Weight, |_, u, _| match u.weights.exists() {
            true => Some((&u.weights, 0, u.dtype)),
            false => Some((&u.master, u.slice.start, u.dtype)),
        })
    }

    /// The state of the optimizer that this rank writes.
    pub(super) fn optimizer(&self) -> Vec<Outgoing<'_>> {
        let mut out = vec![];
        for kind in [Kind::Master, Kind::M, Kind::V, Kind::Ema] {
            out.extend(self.pieces(kind, |i, u, param| {
                let moment = |which| self.optim.and_then(|o| o.moment(which, i, param));
                let buffer = match kind {
                    Kind::M => moment(Moment::First),
                    Kind::V => moment(Moment::Second),
                    Kind::Ema => {
                        self.optim.and_then(|o| o.ema.as_ref()).map(|e| (&e.average[i], u.slice.start))
                    }
                    // f32 masters are the weights.
                    _ => (u.dtype == DType::Bf16 && u.master.exists()).then_some((&u.master, u.slice.start)),
                };
                buffer.map(|(b, start)| (b, start, b.dtype()))
            }));
        }
        out
    }

    /// What this rank updates; of what several ranks update, the first writes it: replicas, all dp ranks without ZeRO,
    /// and the tp ranks that hold the same.
    fn pieces<'a>(
        &self,
        kind: Kind,
        buffer: impl Fn(usize, &'a Unit, usize) -> Option<(&'a Tensor, usize, DType)>,
    ) -> Vec<Outgoing<'a>>
    where
        Self: 'a,
    {
        let Self { params, dp, .. } = *self;
        let mut out = vec![];
        for (i, u) in params.units.iter().enumerate() {
            let shared = u.slice == (0..u.len) && dp.rank != 0;
            if dp.replica.0 != 0 || shared {
                continue;
            }
            let ours = u.params.iter().enumerate().filter(|(_, p)| p.first);
            out.extend(ours.filter_map(|(n, p)| {
                let buffer = buffer(i, u, n)?;
                Outgoing::new(kind, (&p.spec, p.local, p.range()), &u.slice, buffer, self.rank())
            }));
        }
        out
    }

    fn check(&self, meta: &Meta) -> Result<(), String> {
        let dtype = self.params.units.first().map(|u| u.dtype.name());
        if dtype != Some(meta.dtype.as_str()) {
            return Err(format!("the weights are {dtype:?} and the manifest would say {}", meta.dtype));
        }
        match self.optim {
            Some(o) if o.t != meta.clocks.adam_t => {
                Err(format!("the optimizer's t is {} and the manifest would say {}", o.t, meta.clocks.adam_t))
            }
            // JSON has no NaN: the manifest could not be read again.
            _ if !meta.lr.is_finite() => Err(format!("the learning rate is {}", meta.lr)),
            _ => Ok(()),
        }
    }
}

/// Writes DIR/step-NNNNNNNN, where the step is the update clock. Collective: every rank calls it with its own state and
/// equal `meta`; `barrier` waits for all of them and fails if one is lost. `texts` (rank 0's count) are files to lie beside the
/// weights: `run.toml`, `tokenizer.json`. Returns when the manifest is durable, on all ranks, or an error on all.
/// A finished checkpoint of the same step is replaced, and stays until the new one is durable.
pub fn save(
    dir: &Path,
    state: &SaveState,
    meta: &Meta,
    texts: &[(&str, &str)],
    barrier: &dyn Fn() -> Result<()>,
) -> Result<Saved> {
    let (path, first) = (step_dir(dir, meta.clocks.update), state.rank() == 0);
    let prepared = if first { prepare(dir, meta.clocks.update) } else { Ok(()) };
    let ready = prepared.is_ok();
    barrier()?;
    let written = prepared.and_then(|()| write_files(&path, state, meta, texts));
    barrier()?;
    let finished = if first { written.and_then(|()| finish(dir, &path, state, meta)) } else { written };
    if let (true, true, Err(e)) = (first, ready, &finished) {
        // For the other ranks to read; if even this fails they only know that something did.
        let _ = std::fs::write(path.join(MARKER), e.to_string());
    }
    barrier()?;
    finished?;
    let marker = path.join(MARKER);
    match std::fs::read_to_string(&marker) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        reason => {
            let problem = format!("not completed: {}", reason.unwrap_or_default());
            return Err(Error::checkpoint(&path, problem, ""));
        }
    }
    Ok(Saved { bytes: Manifest::read(&path)?.bytes(), path })
}

/// An empty directory with a marker.
fn prepare(dir: &Path, step: u64) -> Result<()> {
    let (path, old) = (step_dir(dir, step), old_dir(dir, step));
    std::fs::create_dir_all(dir).map_err(Error::io(dir, "create"))?;
    if path.join(MANIFEST).exists() {
        remove(&old)?;
        std::fs::rename(&path, &old).map_err(Error::io(&path, "rename"))?;
    } else {
        // What an interrupted save left.
        remove(&path)?;
    }
    std::fs::create_dir(&path).map_err(Error::io(&path, "create"))?;
    disk::write(&path.join(MARKER), [&b"another rank failed"[..]])?;
    disk::sync_dir(dir)
}

fn report_name(rank: usize) -> String {
    format!("rank-{rank:05}.sum")
}

/// This rank's files and the report on them.
fn write_files(path: &Path, state: &SaveState, meta: &Meta, texts: &[(&str, &str)]) -> Result<()> {
    if !path.join(MARKER).exists() {
        return Err(Error::checkpoint(path, "rank 0 could not prepare the directory", ""));
    }
    let write = || -> Result<Vec<FileEntry>> {
        state.check(meta).map_err(|problem| Error::checkpoint(path, problem, ""))?;
        let mut files = vec![];
        for (name, out) in [
            (format!("weights-r{:05}.safetensors", state.rank()), state.weights()),
            (format!("optim-r{:05}.safetensors", state.rank()), state.optimizer()),
        ] {
            if !out.is_empty() {
                files.push(file::write(&path.join(name), &out)?);
            }
        }
        if state.rank() == 0 {
            for (name, text) in texts {
                files.push(disk::write(&path.join(name), [text.as_bytes()])?);
            }
        }
        Ok(files)
    };
    let (report, outcome) = match write() {
        Ok(files) => (Report::Files(files), Ok(())),
        Err(e) => (Report::Error(e.to_string()), Err(e)),
    };
    let name = path.join(report_name(state.rank()));
    let json = serde_json::to_vec(&report).expect("strings and numbers");
    let reported = std::fs::write(&name, json).map_err(Error::io(&name, "write"));
    outcome.and(reported)
}

/// All files are there: the reports become the manifest.
fn finish(dir: &Path, path: &Path, state: &SaveState, meta: &Meta) -> Result<()> {
    let mut files = vec![];
    for rank in 0..state.ranks() {
        let name = path.join(report_name(rank));
        let failed = |problem: String| Error::checkpoint(path, format!("rank {rank} failed: {problem}"), "");
        let text = std::fs::read(&name).map_err(|e| failed(format!("it left no report: {e}")))?;
        match serde_json::from_slice(&text).map_err(|e| failed(format!("its report is unreadable: {e}")))? {
            Report::Files(list) => files.extend(list),
            Report::Error(problem) => return Err(failed(problem)),
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let topology = Topology { dp: state.dp.size * state.dp.replica.1, tp: state.tp.1, zero: state.dp.zero };
    let params = state.params.iter().map(|(_, p)| p.spec.clone()).collect();
    let manifest = Manifest { format_version: FORMAT_VERSION, topology, meta: meta.clone(), params, files };
    for name in (0..state.ranks()).map(report_name).chain([MARKER.to_string()]) {
        let name = path.join(name);
        std::fs::remove_file(&name).map_err(Error::io(&name, "remove"))?;
    }
    manifest.write(path)?;
    disk::sync_dir(dir)?;
    remove(&old_dir(dir, meta.clocks.update))
}
