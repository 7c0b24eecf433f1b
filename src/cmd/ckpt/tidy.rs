//! `ckpt merge` and `ckpt prune`.

use super::{pretty, print};
use crate::checkpoint::{Values, list, merge, newest, prunable, remove};
use crate::train::lock;
use crate::{Error, Result};
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  espalier ckpt merge runs/a --out merged
  espalier ckpt merge runs/a@500 --out merged --weights-only

`espalier export RUN --ema` writes the moving average as a model.")]
pub struct Merge {
    /// Run directory or checkpoint, PATH or PATH@STEP
    from: String,
    /// The directory to write; it must not be there
    #[arg(long)]
    out: PathBuf,
    /// Leave out the optimizer's state, f32 masters and moving average: such a checkpoint begins runs (run.init) and
    /// resumes none
    #[arg(long)]
    weights_only: bool,
}

impl Merge {
    pub fn run(self) -> Result<()> {
        let from = crate::cmd::open_checkpoint(&self.from)?;
        if self.out.exists() {
            return Err(Error::checkpoint(&self.out, "is there already", "give a directory that is not"));
        }
        from.verify()?;
        let merged = merge(&from, &self.out, !self.weights_only)?;
        let left = match self.weights_only {
            true if from.check_values(Values::Ema).is_ok() => {
                "; the trained weights without their moving average, which `espalier export --ema` writes"
            }
            true => "; the weights only",
            false => "",
        };
        print(&format!("{}: {} bytes{left}\n", merged.path.display(), merged.bytes))
    }
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  espalier ckpt prune runs/a --keep-last 1 --dry-run
  espalier ckpt prune runs/a --keep-last 2 --keep-every 1000

Only runs that nobody trains in are pruned; a run prunes itself by [checkpoint] keep_last and keep_every.")]
pub struct Prune {
    /// Run directory
    run: PathBuf,
    /// The newest N stay
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    keep_last: u64,
    /// and those whose step is a multiple of this
    #[arg(long, value_name = "STEPS", value_parser = clap::value_parser!(u64).range(1..))]
    keep_every: Option<u64>,
    /// Say what would go, and remove nothing
    #[arg(long)]
    dry_run: bool,
    #[arg(long)]
    json: bool,
}

impl Prune {
    pub fn run(self) -> Result<()> {
        let dir = self.run.join("ckpt");
        if !dir.is_dir() {
            return Err(Error::checkpoint(&self.run, "has no directory ckpt", "name the directory of a run"));
        }
        let _lock = lock::take(&self.run)?;
        // Reads the newest as a whole: what is kept should be worth keeping.
        let Some(newest) = newest(&dir)? else {
            return Err(Error::checkpoint(&dir, "has no checkpoint", "there is nothing to prune"));
        };
        let found = list(&dir)?.into_iter().find(|f| f.path == newest);
        let step = found.expect("the newest is one of them").step;
        let gone = prunable(&dir, step, self.keep_last as usize, self.keep_every)?;
        let bytes = gone.iter().map(|path| size(path)).sum::<u64>();
        if !self.dry_run {
            gone.iter().try_for_each(|path| remove(path))?;
        }
        let stay = list(&dir)?.into_iter().map(|f| f.path).filter(|path| !gone.contains(path));
        let stay: Vec<PathBuf> = stay.collect();
        if self.json {
            return print(&pretty(
                &json!({ "removed": gone, "bytes": bytes, "kept": stay, "dry_run": self.dry_run }),
            ));
        }
        let would = if self.dry_run { "would remove" } else { "removed" };
        let mut text: String = gone.iter().map(|path| format!("{would} {}\n", path.display())).collect();
        let all = gone.len() + stay.len();
        text += &format!("{would} {} of {all} checkpoints, {:.1} MB\n", gone.len(), bytes as f64 / 1e6);
        print(&text)
    }
}

/// Bytes of the files of a directory that can still be counted.
fn size(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    files.filter_map(|f| f.metadata().ok()).map(|m| m.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::super::tests::{model, written};
    use super::*;

    fn prune(run: &Path, keep_last: u64, keep_every: Option<u64>, dry_run: bool) -> Result<()> {
        Prune { run: run.into(), keep_last, keep_every, dry_run, json: false }.run()
    }

    #[test]
    fn prune_keeps_the_newest_and_multiples_and_leaves_runs_in_use_alone() {
        let run = tempfile::tempdir().unwrap();
        let saved = written(run.path(), 1, &model(), 1, &|_| ());
        let dir = run.path().join("ckpt");
        // The same state under other steps: prune goes by names.
        for step in [10, 20, 30, 40] {
            let to = dir.join(format!("step-{step:08}"));
            std::fs::create_dir(&to).unwrap();
            for file in std::fs::read_dir(&saved).unwrap() {
                let file = file.unwrap();
                std::fs::copy(file.path(), to.join(file.file_name())).unwrap();
            }
        }
        std::fs::remove_dir_all(&saved).unwrap();
        let steps = || list(&dir).unwrap().into_iter().map(|f| f.step).collect::<Vec<_>>();
        let held = lock::take(run.path()).unwrap();
        assert!(prune(run.path(), 1, None, false).unwrap_err().to_string().contains("in use"));
        drop(held);
        assert!(prune(&dir, 1, None, false).unwrap_err().to_string().contains("no directory ckpt"));
        prune(run.path(), 2, Some(20), true).unwrap();
        assert_eq!(steps(), [10, 20, 30, 40]);
        prune(run.path(), 2, Some(20), false).unwrap();
        assert_eq!(steps(), [20, 30, 40]);
        prune(run.path(), 1, None, false).unwrap();
        assert_eq!(steps(), [40]);
    }
}
