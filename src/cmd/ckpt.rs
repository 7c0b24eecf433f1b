//! `espalier ckpt inspect | verify | diff`: what a checkpoint holds, whether it is whole, how two differ.

use crate::checkpoint::{Area, Checkpoint, Kind, Manifest, list};
use crate::params::{ParamSpec, Shard};
use crate::{Error, Result};
use serde::Serialize;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

#[derive(clap::Subcommand)]
pub enum Ckpt {
    /// What a checkpoint holds
    Inspect {
        /// Run directory or checkpoint
        path: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Compare all files of a checkpoint with their checksums
    Verify {
        path: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Compare the tensors of two checkpoints, whatever topologies wrote them; exit code 1 if they differ
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
            Ckpt::Diff { a, b, json } => {
                if !diff(&a, &b, json)? {
                    std::process::exit(1);
                }
                Ok(())
            }
        }
    }
}

/// Elements compared at a time.
const CHUNK: usize = 1 << 20;

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

/// Prints the largest difference of each tensor of two checkpoints, whatever topologies wrote them. Returns whether
/// both have the same tensors with the same bits.
pub fn diff(a: &Path, b: &Path, json: bool) -> Result<bool> {
    let (a, b) = (Checkpoint::open(&locate(a)?)?, Checkpoint::open(&locate(b)?)?);
    let rows = compare(&a, &b)?;
    let equal = rows.iter().all(|r| r.result == Outcome::Equal);
    print(&if json {
        pretty(&serde_json::json!({ "equal": equal, "tensors": rows }))
    } else {
        table(&rows)
    })?;
    Ok(equal)
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
            Shard::Cols { unit } => format!("columns split by {unit}"),
        };
        line("", format!("{:<32} {:<16} {split}", p.name, format!("{:?}", p.shape())));
    }
    out
}

/// One kind of one tensor in both checkpoints.
#[derive(Debug, PartialEq, Serialize)]
struct Row {
    tensor: String,
    kind: Kind,
    #[serde(flatten)]
    result: Outcome,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "result")]
enum Outcome {
    /// Bit by bit.
    Equal,
    /// Null in JSON if a difference is not a number. Zeros of different sign differ by 0.
    Differs {
        max_abs: f64,
        elements: usize,
    },
    Shapes {
        a: Vec<usize>,
        b: Vec<usize>,
    },
    OnlyA,
    OnlyB,
}

fn compare(a: &Checkpoint, b: &Checkpoint) -> Result<Vec<Row>> {
    let mut rows = vec![];
    let find = |c: &Checkpoint, name: &str| c.manifest().params.iter().find(|p| p.name == name).cloned();
    for p in &a.manifest().params {
        match find(b, &p.name) {
            None => rows.push(row(p, Kind::Weight, Outcome::OnlyA)),
            Some(q) if q.shape() != p.shape() => {
                rows.push(row(p, Kind::Weight, Outcome::Shapes { a: p.shape(), b: q.shape() }));
            }
            Some(_) => {
                for kind in Kind::ALL {
                    if let Some(outcome) = compare_one(a, b, p, kind)? {
                        rows.push(row(p, kind, outcome));
                    }
                }
            }
        }
    }
    let only_b = b.manifest().params.iter().filter(|p| find(a, &p.name).is_none());
    rows.extend(only_b.map(|p| row(p, Kind::Weight, Outcome::OnlyB)));
    Ok(rows)
}

fn row(p: &ParamSpec, kind: Kind, result: Outcome) -> Row {
    Row { tensor: p.name.clone(), kind, result }
}

/// None if neither has this kind.
fn compare_one(a: &Checkpoint, b: &Checkpoint, p: &ParamSpec, kind: Kind) -> Result<Option<Outcome>> {
    let (mut max_abs, mut elements) = (0f64, 0);
    let step = (CHUNK / p.cols).max(1);
    for row in (0..p.rows).step_by(step) {
        let area = Area { row, rows: step.min(p.rows - row), col: 0, cols: p.cols };
        let [mut x, mut y] = [vec![0f32; area.len()], vec![0f32; area.len()]];
        match (a.read(kind, p, area, &mut x)?, b.read(kind, p, area, &mut y)?) {
            (None, None) => return Ok(None),
            (Some(()), None) => return Ok(Some(Outcome::OnlyA)),
            (None, Some(())) => return Ok(Some(Outcome::OnlyB)),
            (Some(()), Some(())) => {}
        }
        for (x, y) in x.iter().zip(&y).filter(|(x, y)| x.to_bits() != y.to_bits()) {
            elements += 1;
            let d = (f64::from(*x) - f64::from(*y)).abs();
            // Once NaN, always NaN: `f64::max` would drop it.
            max_abs = if d.is_nan() || max_abs.is_nan() { f64::NAN } else { max_abs.max(d) };
        }
    }
    Ok(Some(if elements == 0 { Outcome::Equal } else { Outcome::Differs { max_abs, elements } }))
}

fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|r| r.tensor.len()).max().unwrap_or(0);
    let mut out = String::new();
    for r in rows {
        let text = match &r.result {
            Outcome::Equal => "equal".into(),
            Outcome::Differs { max_abs, elements } => {
                format!("differs by at most {max_abs:.3e}, {elements} elements")
            }
            Outcome::Shapes { a, b } => format!("has shape {a:?} in the first and {b:?} in the second"),
            Outcome::OnlyA => "only in the first".into(),
            Outcome::OnlyB => "only in the second".into(),
        };
        writeln!(out, "{:<width$}  {:<6}  {text}", r.tensor, r.kind.name()).expect("strings grow");
    }
    let equal = rows.iter().filter(|r| r.result == Outcome::Equal).count();
    writeln!(out, "{equal} of {} equal", rows.len()).expect("strings grow");
    out
}

fn pretty(value: &serde_json::Value) -> String {
    format!("{value:#}\n")
}

/// A reader that closed the pipe (`| head`) has seen what it wanted.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::io("standard output", "write")(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::{Clocks, Meta, SaveState, save};
    use crate::config::ModelConfig;
    use crate::device::{DType, Device};
    use crate::model::Network;
    use crate::params::{Dp, Params, RandomInit};

    fn model() -> ModelConfig {
        ModelConfig {
            layers: 1,
            dim: 16,
            ffn_dim: 24,
            vocab: 70,
            ..ModelConfig::preset("llama-tiny").unwrap()
        }
    }

    /// Weights only, from `seed`, by `tp` ranks one after the other; `change` edits what each holds.
    fn written(
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

    fn compared(a: &Path, b: &Path) -> Vec<Row> {
        compare(&Checkpoint::open(a).unwrap(), &Checkpoint::open(b).unwrap()).unwrap()
    }

    #[test]
    fn diff_sees_through_topologies_and_finds_one_changed_element() {
        let dirs = [(); 3].map(|_| tempfile::tempdir().unwrap());
        let a = written(dirs[0].path(), 1, &model(), 1, &|_| ());
        let b = written(dirs[1].path(), 2, &model(), 1, &|_| ());
        assert!(compared(&a, &b).iter().all(|r| r.result == Outcome::Equal));
        assert!(diff(dirs[0].path(), &b, true).unwrap());
        let c = written(dirs[2].path(), 1, &model(), 1, &|p| {
            let head = p.units.last_mut().unwrap();
            let at = head.params[0].start;
            head.weights.data_mut::<f32>()[at + 2] += 0.5;
        });
        let rows = compared(&b, &c);
        let differ: Vec<&Row> = rows.iter().filter(|r| r.result != Outcome::Equal).collect();
        assert_eq!(differ.len(), 1);
        assert_eq!(differ[0].tensor, "norm.weight");
        assert_eq!(differ[0].result, Outcome::Differs { max_abs: 0.5, elements: 1 });
        assert!(!diff(&b, &c, false).unwrap());
        let text = table(&rows);
        assert!(text.contains("differs by at most 5.000e-1, 1 elements"), "{text}");
        assert!(text.ends_with(&format!("{} of {} equal\n", rows.len() - 1, rows.len())), "{text}");
    }

    #[test]
    fn diff_reports_nan_and_tensors_that_only_one_has() {
        let dirs = [(); 3].map(|_| tempfile::tempdir().unwrap());
        let a = written(dirs[0].path(), 1, &model(), 1, &|_| ());
        let nan = written(dirs[1].path(), 1, &model(), 1, &|p| {
            p.units[0].weights.data_mut::<f32>()[..2].copy_from_slice(&[f32::NAN, 9.0]);
        });
        let rows = compared(&a, &nan);
        assert!(
            matches!(rows[0].result, Outcome::Differs { max_abs, elements: 2 } if max_abs.is_nan()),
            "{rows:?}"
        );
        let other = ModelConfig { tied: false, vocab: 71, ..model() };
        let other = written(dirs[2].path(), 1, &other, 1, &|_| ());
        let rows = compared(&a, &other);
        assert_eq!(rows[0].result, Outcome::Shapes { a: vec![70, 16], b: vec![71, 16] });
        assert_eq!(
            rows.last().unwrap(),
            &Row { tensor: "head.weight".into(), kind: Kind::Weight, result: Outcome::OnlyB }
        );
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
