//! The directory of a run's checkpoints: `step-00000500`, one per saved step. While a step is saved a second time, the
//! finished checkpoint waits as `step-00000500.old`, and is found there if the second save never ends.

use super::disk;
use super::manifest::{MANIFEST, Manifest};
use super::open::Checkpoint;
use crate::comm::processes;
use crate::{Error, Result};
use std::io::ErrorKind::NotFound;
use std::path::{Path, PathBuf};

const OLD: &str = ".old";

/// A directory with the name of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Found {
    pub step: u64,
    /// Not the one that waits while its step is saved again.
    current: bool,
    pub path: PathBuf,
    /// Whether it has a manifest.
    pub finished: bool,
}

pub fn step_dir(dir: &Path, step: u64) -> PathBuf {
    dir.join(format!("step-{step:08}"))
}

/// Where a finished checkpoint waits while its step is saved again.
pub fn old_dir(dir: &Path, step: u64) -> PathBuf {
    dir.join(format!("step-{step:08}{OLD}"))
}

fn scan(dir: &Path) -> Result<Vec<Found>> {
    let entries = match std::fs::read_dir(dir) {
        Err(e) if e.kind() == NotFound => return Ok(vec![]),
        entries => entries.map_err(Error::io(dir, "list"))?,
    };
    let mut all = vec![];
    for entry in entries {
        let path = entry.map_err(Error::io(dir, "list"))?.path();
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let Some(digits) = name.strip_prefix("step-") else { continue };
        let digits = digits.strip_suffix(OLD).unwrap_or(digits);
        // Exactly the names that are written here: a directory that somebody put aside under another stays alone.
        if digits.len() >= 8
            && let Ok(step) = digits.parse()
            && [step_dir(dir, step), old_dir(dir, step)].contains(&path)
        {
            let (current, finished) = (!name.ends_with(OLD), path.join(MANIFEST).is_file());
            all.push(Found { step, current, path, finished });
        }
    }
    all.sort();
    Ok(all)
}

/// The finished checkpoints of a directory, oldest first. They may still be damaged.
pub fn list(dir: &Path) -> Result<Vec<Found>> {
    Ok(scan(dir)?.into_iter().filter(|f| f.finished).collect())
}

/// The newest sound checkpoint of some, opened, and a sentence about each newer one that is not.
#[derive(Default)]
pub struct Search {
    pub found: Option<Checkpoint>,
    pub passed_over: Vec<String>,
}

/// Goes through checkpoints (of `dir`, newest first) until `examine` finds one sound; its own error, not that of the
/// checkpoint, ends the search. An error if there are some and all are damaged: a run must not begin again from the
/// beginning unasked. Nothing is removed. What is passed over is said by the first of several processes.
pub fn search(
    dir: &Path,
    paths: impl IntoIterator<Item = PathBuf>,
    mut examine: impl FnMut(&Path) -> Result<Result<Checkpoint, String>>,
) -> Result<Search> {
    let (mut search, mut first) = (Search::default(), None);
    for path in paths {
        match examine(&path)? {
            Ok(found) => {
                search.found = Some(found);
                return Ok(search);
            }
            Err(problem) => {
                let text = format!("checkpoint {} is passed over: {problem}", path.display());
                if processes::is_first() {
                    tracing::warn!("{text}");
                }
                search.passed_over.push(text);
                first.get_or_insert(problem);
            }
        }
    }
    match first {
        None => Ok(search),
        Some(problem) => Err(Error::checkpoint(
            dir,
            format!("every checkpoint is damaged, the newest like this: {problem}"),
            "remove the directory to start again from the beginning",
        )),
    }
}

/// The newest checkpoint whose files all match their checksums, as `search` has it. Reads the whole checkpoint: call it
/// on one rank.
pub fn newest(dir: &Path) -> Result<Option<PathBuf>> {
    let paths = list(dir)?.into_iter().rev().map(|found| found.path);
    let sound = |path: &Path| Checkpoint::open(path).and_then(|c| c.verify().map(|()| c));
    let found = search(dir, paths, |path| Ok(sound(path).map_err(|e| e.to_string())))?.found;
    Ok(found.map(|c| c.path().into()))
}

/// The checkpoint that `PATH[@STEP]` names: a checkpoint, a run directory, or a directory of checkpoints; without a
/// step the newest valid one.
pub fn resolve(path: &Path, step: Option<u64>) -> Result<PathBuf> {
    let dir = [path.join("ckpt"), path.to_path_buf()].into_iter().find(|d| d.is_dir()).unwrap_or(path.into());
    let found = match step {
        _ if path.join(MANIFEST).is_file() => {
            let held = Manifest::read(path)?.meta.clocks.update;
            step.is_none_or(|s| s == held).then(|| path.to_path_buf())
        }
        // The last of that step is the current one.
        Some(step) => list(&dir)?.into_iter().rev().find(|f| f.step == step).map(|f| f.path),
        None => newest(&dir)?,
    };
    found.ok_or_else(|| {
        let steps: Vec<String> = list(&dir).unwrap_or_default().iter().map(|f| f.step.to_string()).collect();
        let step = step.map_or("no checkpoint".into(), |s| format!("no checkpoint of step {s}"));
        let there = if steps.is_empty() { "none".into() } else { steps.join(", ") };
        Error::checkpoint(
            path,
            format!("{step} (steps there: {there})"),
            "name RUN, RUN/ckpt or RUN/ckpt/step-N",
        )
    })
}

/// The checkpoints older than the newest `keep_last` (at least 1) up to `step`, except those whose step is a multiple of
/// `keep_every_steps`. Damaged and unfinished ones count for nothing and are among them when they are older than what is
/// kept.
///
/// What is newer than `step` was passed over when the run was resumed: it is damaged, and it must not push out what
/// was saved since.
pub fn prunable(
    dir: &Path,
    step: u64,
    keep_last: usize,
    keep_every_steps: Option<u64>,
) -> Result<Vec<PathBuf>> {
    let mut all = scan(dir)?;
    all.retain(|f| f.step <= step);
    let sound = |f: &&Found| f.finished && Checkpoint::open(&f.path).is_ok();
    let Some(oldest_kept) = all.iter().rev().filter(sound).nth(keep_last.max(1) - 1) else {
        return Ok(vec![]);
    };
    let kept = |f: &Found| f.finished && keep_every_steps.is_some_and(|n| n > 0 && f.step.is_multiple_of(n));
    Ok(all.iter().filter(|f| *f < oldest_kept && !kept(f)).map(|f| f.path.clone()).collect())
}

/// Removes what is `prunable` after `step` was saved, and returns it. Not while a checkpoint is being saved.
pub fn prune(dir: &Path, step: u64, keep_last: usize, keep_every_steps: Option<u64>) -> Result<Vec<PathBuf>> {
    let gone = prunable(dir, step, keep_last, keep_every_steps)?;
    gone.iter().try_for_each(|path| remove(path))?;
    Ok(gone)
}

/// Removes a checkpoint, the manifest first: what a crash leaves of it is no checkpoint.
pub fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path.join(MANIFEST)) {
        Err(e) if e.kind() == NotFound => {}
        done => {
            done.map_err(Error::io(path, "remove"))?;
            disk::sync_dir(path)?;
        }
    }
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() == NotFound => Ok(()),
        done => done.map_err(Error::io(path, "remove")),
    }
}

/// Removes what a failed save of this step left. The checkpoint that waited while it was saved again is back.
pub fn discard(dir: &Path, step: u64) -> Result<()> {
    let (path, old) = (step_dir(dir, step), old_dir(dir, step));
    if path.join(MANIFEST).exists() {
        return Ok(()); // it was finished after all
    }
    remove(&path)?;
    if old.join(MANIFEST).exists() {
        std::fs::rename(&old, &path).map_err(Error::io(&old, "rename"))?;
    }
    Ok(())
}
