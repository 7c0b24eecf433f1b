//! Saving: every rank writes its own files while it trains on, rank 0 writes the manifest when all have.
//!
//!     prepare (rank 0)  |  files (all, behind the training)  |  manifest (rank 0)  |  outcome (all)     | is a barrier
//!     begin ..............  .................................  finish ...............................
//!
//! Ranks talk through small files in the directory, so threads of a process and processes on a shared file system do
//! the same: the marker `incomplete` is there from the preparation until all files are durable, and each rank leaves
//! the list of its files, or its error. A rank that fails still comes to every barrier, so that none waits alone.

use super::behind::{Behind, Report, report_name};
use super::disk;
use super::folder::{old_dir, remove, step_dir};
use super::manifest::{FORMAT_VERSION, MANIFEST, Manifest, Meta, Topology};
use super::state::SaveState;
use crate::{Error, Result};
use std::path::{Path, PathBuf};

const MARKER: &str = "incomplete";

/// A checkpoint that is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    pub path: PathBuf,
    /// Of all ranks' files.
    pub bytes: u64,
}

/// A checkpoint on its way to the disk. Until `fence` returns, nothing of the state that it is of may change (a tensor
/// that is written would panic). Dropped unfinished, it is no checkpoint: the next save of its step cleans up.
pub struct Saving {
    dir: PathBuf,
    path: PathBuf,
    /// What is to be finished, on rank 0: the manifest without its files, and how many ranks report on theirs.
    first: Option<(Manifest, usize)>,
    /// Whether rank 0 could prepare the directory; known to rank 0.
    ready: bool,
    behind: Behind,
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
    begin(dir, state, meta, texts, barrier)?.finish(barrier)
}

/// The first half of `save`: returns when the directory is prepared, and writes behind its caller. What goes wrong is said
/// by the second half, `Saving::finish`; an error here is that of the barrier.
pub fn begin(
    dir: &Path,
    state: &SaveState,
    meta: &Meta,
    texts: &[(&str, &str)],
    barrier: &dyn Fn() -> Result<()>,
) -> Result<Saving> {
    let (path, rank) = (step_dir(dir, meta.clocks.update), state.rank());
    let prepared = if rank == 0 { prepare(dir, meta.clocks.update) } else { Ok(()) };
    let ready = prepared.is_ok();
    barrier()?;
    let there = prepared.and_then(|()| match path.join(MARKER).exists() {
        true => Ok(()),
        false => Err(Error::checkpoint(&path, "rank 0 could not prepare the directory", "")),
    });
    let behind = match there {
        Ok(()) => {
            let fits = state.check(meta).map_err(|problem| Error::checkpoint(&path, problem, ""));
            let texts = if rank == 0 { texts } else { &[] };
            Behind::start(&path, rank, fits.map(|()| (state.weights(), state.optimizer())), texts)
        }
        Err(e) => Behind::failed(e),
    };
    let first = (rank == 0).then(|| {
        let topology =
            Topology { dp: state.dp.size * state.dp.replica.1, tp: state.tp.1, zero: state.dp.zero };
        let params = state.params.iter().map(|(_, p)| p.spec.clone()).collect();
        let (meta, files) = (meta.clone(), vec![]);
        (Manifest { format_version: FORMAT_VERSION, topology, meta, params, files }, state.ranks())
    });
    Ok(Saving { dir: dir.into(), path, first, ready, behind })
}

impl Saving {
    /// Returns when the state may change: it is in the files, though maybe not on the disk yet. Not collective.
    pub fn fence(&self) {
        self.behind.fence();
    }

    /// Whether this rank has done its part, well or not: `finish` would not wait for this rank.
    pub fn is_written(&self) -> bool {
        self.behind.is_over()
    }

    /// The second half of `save`. Collective.
    pub fn finish(self, barrier: &dyn Fn() -> Result<()>) -> Result<Saved> {
        let Saving { dir, path, first, ready, behind } = self;
        let (written, marker) = (behind.wait(), path.join(MARKER));
        barrier()?;
        let is_first = first.is_some();
        let finished = match first {
            Some((manifest, ranks)) => written.and_then(|()| complete(&dir, &path, manifest, ranks)),
            None => written,
        };
        if let (true, true, Err(e)) = (is_first, ready, &finished) {
            // For the other ranks to read; if even this fails they only know that something did.
            let _ = std::fs::write(&marker, e.to_string());
        }
        barrier()?;
        finished?;
        match std::fs::read_to_string(&marker) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            reason => {
                let problem = format!("not completed: {}", reason.unwrap_or_default());
                return Err(Error::checkpoint(&path, problem, ""));
            }
        }
        Ok(Saved { bytes: Manifest::read(&path)?.bytes(), path })
    }
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

/// All files are there: the reports become the manifest.
fn complete(dir: &Path, path: &Path, mut manifest: Manifest, ranks: usize) -> Result<()> {
    let files = &mut manifest.files;
    for rank in 0..ranks {
        let name = path.join(report_name(rank));
        let failed = |problem: String| Error::checkpoint(path, format!("rank {rank} failed: {problem}"), "");
        let text = std::fs::read(&name).map_err(|e| failed(format!("it left no report: {e}")))?;
        match serde_json::from_slice(&text).map_err(|e| failed(format!("its report is unreadable: {e}")))? {
            Report::Files(list) => files.extend(list),
            Report::Error(problem) => return Err(failed(problem)),
        }
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    for name in (0..ranks).map(report_name).chain([MARKER.to_string()]) {
        let name = path.join(name);
        std::fs::remove_file(&name).map_err(Error::io(&name, "remove"))?;
    }
    manifest.write(path)?;
    disk::sync_dir(dir)?;
    remove(&old_dir(dir, manifest.meta.clocks.update))
}
