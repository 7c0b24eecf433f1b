//! `espalier ckpt inspect | verify | diff | merge | prune`: what a checkpoint holds, whether it is whole, how two differ; one
//! of many ranks as one of one, and room on the disk.

mod diff;
mod tidy;

use crate::Result;
use crate::checkpoint::{Checkpoint, Manifest, list};
use crate::cmd::print;
use crate::params::{ParamSpec, Shard};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

#[derive(clap::Subcommand)]
pub enum Ckpt {
    /// What a checkpoint holds
    #[command(after_help = "Examples:
  espalier ckpt inspect runs/quickstart                            the newest of a run
  espalier ckpt inspect runs/quickstart/ckpt/step-00000100 --json")]
    Inspect {
        /// Run directory or checkpoint
        path: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Compare all files of a checkpoint with their checksums
    #[command(after_help = "Examples:
  espalier ckpt verify runs/quickstart")]
    Verify {
        path: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Write a checkpoint of any number of ranks as one rank would have: the same tensors, bit by bit
    Merge(tidy::Merge),
    /// Remove old checkpoints of a run
    Prune(tidy::Prune),
    /// Compare the tensors of two checkpoints, whatever topologies wrote them; exit code 1 if they differ
    #[command(after_help = "Examples:
  espalier ckpt diff runs/a runs/b
  espalier ckpt diff runs/a/ckpt/step-00000100 runs/a/ckpt/step-00000200 --json")]
    Diff {
        a: PathBuf,
        b: PathBuf,
        #[arg(long)]
        json: bool,
    },
}

impl Ckpt {
    pub fn run(self) -> Result<()> {
        match self {
            Ckpt::Inspect { path, json } => inspect(&path, json),
            Ckpt::Verify { path, json } => verify(&path, json),
            Ckpt::Merge(c) => c.run(),
            Ckpt::Prune(c) => c.run(),
            Ckpt::Diff { a, b, json } => {
                if !diff::diff(&a, &b, json)? {
                    std::process::exit(1);
                }
                Ok(())
            }
        }
    }
}

/// Prints what the manifest says. `path` is a checkpoint, or a run whose newest one is meant.
pub fn inspect(path: &Path, json: bool) -> Result<()> {
    let path = locate(path)?;
    let manifest = Manifest::read(&path)?;
    print(&if json {
        pretty(&serde_json::json!({ "path": path, "manifest": manifest }))
    } else {
        describe(&path, &manifest)
    })
}

/// Compares all files with their checksums; the error names the first bad one.
pub fn verify(path: &Path, json: bool) -> Result<()> {
    let path = locate(path)?;
    let checkpoint = Checkpoint::open(&path)?;
    checkpoint.verify()?;
    let (files, bytes) = (checkpoint.manifest().files.len(), checkpoint.manifest().bytes());
    print(&if json {
        pretty(&serde_json::json!({ "path": path, "files": files, "bytes": bytes, "valid": true }))
    } else {
        format!("{}: valid, {files} files, {bytes} bytes\n", path.display())
    })
}

/// A checkpoint as it is named, or the newest finished one of a run; it may be damaged, which is then reported.
fn locate(path: &Path) -> Result<PathBuf> {
    for dir in [path.join("ckpt"), path.to_path_buf()] {
        if let Some(newest) = list(&dir)?.pop() {
            return Ok(newest.path);
        }
    }
    Ok(path.into())
}

fn describe(path: &Path, m: &Manifest) -> String {
    let (c, t) = (m.meta.clocks, m.topology);
    let mut out = format!("{}\n", path.display());
    let mut line = |name: &str, text: String| writeln!(out, "  {name:<12}{text}").expect("strings grow");
    line("update", format!("{} (phase {}, update {} of it)", c.update, m.meta.phase, m.meta.phase_step));
    line("clocks", format!("adam t {}, schedule {}, next sample {}", c.adam_t, c.schedule, c.sample));
    line("lr", format!("{:e}", m.meta.lr));
    line("seed", m.meta.seed.to_string());
    line("written by", format!("dp {} x tp {}, zero {}, git {}", t.dp, t.tp, t.zero, m.meta.git));
    let values: usize = m.params.iter().map(ParamSpec::len).sum();
    line("model", format!("{values} parameters in {} tensors, {}", m.params.len(), m.meta.dtype));
    line("config", m.meta.config_hash.clone());
    line("tokenizer", m.meta.tokenizer_hash.clone());
    for corpus in &m.meta.corpora {
        line("corpus", format!("{} {}", corpus.name, corpus.hash));
        if let Some(weights) = corpus.weights.as_ref().filter(|weights| *weights != "none") {
            line("", format!("targets weighed by {weights}"));
        }
    }
    line("files", format!("{} bytes", m.bytes()));
    for f in &m.files {
        line("", format!("{:>16}  {}  {}", f.bytes, f.xxh3, f.name));
    }
    line("tensors", String::new());
    for p in &m.params {
        let split = match p.shard {
            Shard::Replicated => "on every tp rank".into(),
            Shard::Rows { unit } => format!("rows split by {unit}"),
            Shard::Heads { unit } => format!("rows split by heads of {unit}"),
            Shard::Cols { unit } => format!("columns split by {unit}"),
        };
        let blocks = p.layout.grid().map_or(String::new(), |g| {
            format!(", blocks of {} of a matrix [{}, {}]", g.block, g.rows, g.cols)
        });
        line("", format!("{:<32} {:<16} {split}{blocks}", p.name, format!("{:?}", p.shape())));
    }
    out
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Clocks, Meta, SaveState, save};
    use crate::config::ModelConfig;
    use crate::device::{DType, Device};
    use crate::model::Network;
    use crate::params::{Dp, Params, RandomInit};

    pub(super) fn model() -> ModelConfig {
        ModelConfig {
            layers: 1,
            dim: 16,
            ffn_dim: 24,
            vocab: 70,
            ..ModelConfig::preset("llama-tiny").unwrap()
        }
    }

    /// Weights only, from `seed`, by `tp` ranks one after the other; `change` edits what each holds.
    pub(super) fn written(
        dir: &Path,
        tp: usize,
        model: &ModelConfig,
        seed: u64,
        change: &(dyn Fn(&mut Params) + Sync),
    ) -> PathBuf {
        let dev = Device::cpu(1);
        let meta = Meta {
            clocks: Clocks { update: 3, ..Clocks::default() },
            phase: 0,
            phase_step: 3,
            lr: 1e-3,
            ledger: serde_json::Value::Null,
            data: serde_json::Value::Null,
            corpora: vec![],
            numbers: serde_json::Value::Null,
            tokenizer_hash: String::new(),
            end_of_document: None,
            seed,
            config_hash: String::new(),
            dtype: "f32".into(),
            model: model.clone(),
            git: "unknown".into(),
        };
        let saved = crate::comm::run_ranks(tp, std::time::Duration::from_secs(60), |world| {
            let me = (world.rank(), tp);
            let (_, mut params) = Network::build(model, &dev, DType::F32, me, Dp::SOLO, 8);
            params.fill(&Device::cpu(1), &RandomInit { seed })?;
            change(&mut params);
            let state = SaveState { params: &params, optim: None, tp: me, dp: Dp::SOLO };
            save(&dir.join("ckpt"), &state, &meta, &[], &|| world.barrier("checkpoint"))
        });
        saved.unwrap().remove(0).path
    }

    #[test]
    fn inspect_and_verify_take_a_run_or_a_checkpoint_and_name_what_is_wrong() {
        let dir = tempfile::tempdir().unwrap();
        let path = written(dir.path(), 2, &model(), 1, &|_| ());
        for at in [dir.path(), &dir.path().join("ckpt"), &path] {
            assert_eq!(locate(at).unwrap(), path);
            for json in [false, true] {
                inspect(at, json).unwrap();
                verify(at, json).unwrap();
            }
        }
        let text = describe(&path, &Manifest::read(&path).unwrap());
        for want in
            ["update      3 (phase 0", "dp 1 x tp 2, zero 0", "weights-r00001.safetensors", "[70, 16]"]
        {
            assert!(text.contains(want), "{want} in {text}");
        }
        let file = path.join("weights-r00001.safetensors");
        let mut bytes = std::fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&file, bytes).unwrap();
        assert!(verify(dir.path(), false).unwrap_err().to_string().contains("weights-r00001.safetensors"));
        assert!(
            inspect(&dir.path().join("none"), false).unwrap_err().to_string().contains("no manifest.json")
        );
    }
}
