//! A run saved on four ranks (dp 2 x tp 2, ZeRO 3) goes on in other layouts: a table of cells, each with what must hold.
//!
//! - State: the layout reads the checkpoint as a resume does and writes what it holds, without an update between. Weights,
//!   masters, moments and averages are those of the first checkpoint to the bit, by `espalier ckpt diff`.
//! - Losses: the program itself goes on in the layout, and loses what the undisturbed run loses, up to rounding.

use espalier::Result;
use espalier::comm::{Mesh, World};
use espalier::config::RunConfig;
use espalier::data::build_bytes;
use espalier::device::Device;
use espalier::train::replica::Replica;
use espalier::train::{corpora, resume, run};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Of the checkpoint, and of the run.
const STEPS: [u64; 2] = [4, 10];

/// What losses may be off by, relatively: sums in another order.
const BOUND: f64 = 1e-5;

const RUN: &str = r#"
schema = 1
checkpoint = { every = "4 steps", keep_last = 5 }
optim = { ema = { decay = 0.9 } }
[run]
seed = 3
seq_len = 24
global_batch = 12
[model]
preset = "llama-tiny"
vocab = 257
layers = 2
dim = 48
heads = 12
ffn_dim = 96
qk_norm = true
[[phase]]
name = "only"
steps = 10
lr = [{ kind = "linear", to = 1e-3, frac = 0.2 }, { kind = "const" }]
[data]
"#;

#[derive(Clone, Copy)]
pub struct Layout {
    pub ranks: usize,
    tp: usize,
    zero: u8,
    /// Ranks of a shard group; 0 is all of dp.
    shard: usize,
    sequence_parallel: bool,
    sharded: bool,
}

const fn layout(ranks: usize, tp: usize, zero: u8) -> Layout {
    Layout { ranks, tp, zero, shard: 0, sequence_parallel: false, sharded: false }
}
const fn sequence(l: Layout) -> Layout {
    Layout { sequence_parallel: true, ..l }
}
/// One row at a time, each reduced.
const fn sharded(l: Layout) -> Layout {
    Layout { sharded: true, ..l }
}
const fn pairs(l: Layout) -> Layout {
    Layout { shard: 2, ..l }
}

/// What is saved.
const SAVED: Layout = layout(4, 2, 3);

const LAYOUTS: [Layout; 23] = [
    layout(1, 1, 0),
    layout(1, 1, 3),
    layout(2, 1, 0),
    layout(2, 1, 1),
    sharded(layout(2, 1, 2)),
    layout(2, 1, 3),
    layout(2, 2, 0),
    sequence(layout(2, 2, 3)),
    layout(3, 1, 0),
    sharded(layout(3, 1, 3)),
    layout(3, 1, 1),
    layout(3, 3, 0),
    sequence(layout(3, 3, 1)),
    layout(4, 1, 0),
    layout(4, 1, 2),
    pairs(layout(4, 1, 1)),
    sharded(pairs(layout(4, 1, 3))),
    layout(4, 2, 0),
    sequence(layout(4, 2, 1)),
    sharded(sequence(layout(4, 2, 3))),
    SAVED,
    layout(4, 4, 0),
    sequence(layout(4, 4, 3)),
];

impl Layout {
    /// For three ranks of tp six kv heads; else two, which four ranks of tp hold twice.
    fn kv_heads(self) -> usize {
        if self.tp == 3 { 6 } else { 2 }
    }
    fn set(self, dtype: &str, kv_heads: usize, dir: &Path) -> Vec<String> {
        let Layout { tp, zero, .. } = self;
        let shard = if self.shard == 0 { "all".to_string() } else { format!("{} ranks", self.shard) };
        let mut set = vec![
            format!("run.dtype={dtype}"),
            // Of bf16 all: random rounding of moments is stored too.
            format!("optim.adamw.moments={dtype}"),
            format!("model.kv_heads={kv_heads}"),
            format!("run.dir={}", dir.display()),
            format!("parallel.tp={tp}"),
            format!("parallel.zero={zero}"),
            format!("parallel.shard=\"{shard}\""),
            format!("parallel.sequence_parallel={}", self.sequence_parallel),
        ];
        if self.sharded {
            set.extend(["parallel.accumulate=\"sharded\"", "parallel.micro_batch=1"].map(String::from));
        }
        set
    }
    fn name(self) -> String {
        let Layout { ranks, tp, zero, shard, .. } = self;
        let word = |is: bool, word: &'static str| if is { word } else { "" };
        let shard = if shard > 0 { format!(", shard {shard}") } else { String::new() };
        let rows = word(self.sequence_parallel, ", sequence parallel");
        let sums = word(self.sharded, ", sharded sums");
        format!("{ranks}: dp {} x tp {tp}, ZeRO {zero}{shard}{rows}{sums}", ranks / tp)
    }
}

/// A layout, and the type that the run computes in.
type Cell = (Layout, &'static str);

fn cells() -> impl Iterator<Item = Cell> {
    LAYOUTS.into_iter().flat_map(|l| [(l, "f32"), (l, "bf16")])
}

fn folder(root: &Path, (layout, dtype): Cell) -> PathBuf {
    root.join(format!("{dtype} {}", layout.name().replace(':', "")))
}

fn checkpoint(dir: &Path) -> PathBuf {
    dir.join(format!("step-{:08}", STEPS[0]))
}

/// What the layouts of as many ranks as there are here hold of the checkpoints below `root`, written to `again` beside each.
/// Collective over the world.
pub fn rewrite(world: &World, root: &Path) -> Result<()> {
    for cell in cells().filter(|(layout, _)| layout.ranks == world.size()) {
        let ((layout, dtype), dir) = (cell, folder(root, cell));
        let set = layout.set(dtype, layout.kv_heads(), &dir);
        let config = RunConfig::load(&root.join("run.toml"), &set)?;
        let domains = corpora::open(&config)?;
        let start = resume::find(&config, &domains, Some(world.as_ref()))?.start;
        let mesh =
            Mesh::grid(world.clone(), layout.tp, config.parallel.shard_size(layout.ranks / layout.tp))?;
        let mut r = Replica::new(Device::cpu(1), mesh, &run::plan(&config))?;
        let position = resume::load(&config, &start, &mut r)?;
        let (cursor, numbers) = (resume::cursor(&start)?, resume::numbers(&start)?);
        let again = dir.join("again");
        let saving = resume::begin(&again, &config, &domains, &r, position, cursor.as_ref(), &numbers, 0.0)?;
        saving.finish(&|| world.barrier("checkpoint"))?;
    }
    Ok(())
}

/// Ranks by threads or by processes.
pub trait Over {
    /// Runs the program on ranks in a folder, to its end.
    fn program(&self, ranks: usize, folder: &Path, args: &[&str]);
    /// Calls `rewrite` on ranks.
    fn rewrite(&self, ranks: usize, root: &Path);
}

/// All cells, a line for each.
pub fn check(over: &dyn Over) {
    let place = place();
    let root = place.path();
    let train = |ranks: usize, set: &[String]| {
        let mut args = vec!["train", "run.toml", "--threads", "1"];
        args.extend(set.iter().flat_map(|s| ["--set", s.as_str()]));
        over.program(ranks, root, &args);
    };
    let saved = |dtype: &str, kv_heads: usize| root.join(format!("saved {dtype} {kv_heads}"));
    for (dtype, kv_heads) in [("f32", 2), ("f32", 6), ("bf16", 2), ("bf16", 6)] {
        train(SAVED.ranks, &SAVED.set(dtype, kv_heads, &saved(dtype, kv_heads)));
    }
    for cell @ (layout, dtype) in cells() {
        let from = checkpoint(&saved(dtype, layout.kv_heads()).join("ckpt"));
        copy(&from, &checkpoint(&folder(root, cell).join("ckpt")));
    }
    (1..=4).for_each(|ranks| over.rewrite(ranks, root));
    for cell @ (layout, dtype) in cells() {
        let (dir, saved) = (folder(root, cell), saved(dtype, layout.kv_heads()));
        let tensors = equal_tensors(&checkpoint(&saved.join("ckpt")), &checkpoint(&dir.join("again")), dtype);
        let mut said =
            format!("from 4: dp 2 x tp 2, ZeRO 3 to {}; {dtype}: {tensors} tensors equal", layout.name());
        // In bf16 sums in another order are rounded to other weights.
        if dtype == "f32" {
            train(layout.ranks, &layout.set(dtype, layout.kv_heads(), &dir));
            let gap = loss_gap(&losses(&dir), &losses(&saved));
            said += &format!(", losses within {gap:.1e}");
            println!("{said}");
            assert!(gap <= BOUND, "{said}");
        } else {
            println!("{said}");
        }
    }
}

/// A folder with a corpus and a run file.
fn place() -> TempDir {
    let dir = TempDir::new().expect("a temporary folder");
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/text");
    let corpus = dir.path().join("text");
    build_bytes(&[text.join("1821-Monroe-1.txt")], &corpus).expect("a corpus");
    let data = format!("text = {{ path = {corpus:?} }}\n");
    fs::write(dir.path().join("run.toml"), [RUN, &data].concat()).expect("write");
    dir
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a new folder");
    for entry in fs::read_dir(from).expect("a checkpoint") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), to.join(entry.file_name())).expect("a copy");
    }
}

/// How many tensors of which kind are equal: all that a run of this type stores.
fn equal_tensors(a: &Path, b: &Path, dtype: &str) -> usize {
    let mut command = Command::new(env!("CARGO_BIN_EXE_espalier"));
    let out = command.env_clear().args(["ckpt", "diff", "--json"]).args([a, b]).output().expect("it starts");
    let said = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{} is not {}: {said}", b.display(), a.display());
    let diff: Value = serde_json::from_str(&said).expect("JSON");
    let rows = diff["tensors"].as_array().expect("rows");
    assert!(diff["equal"] == true && rows.iter().all(|r| r["result"] == "equal"), "{said}");
    let kinds: BTreeSet<&str> = rows.iter().map(|r| r["kind"].as_str().expect("a kind")).collect();
    let master = (dtype == "bf16").then_some("master");
    assert_eq!(kinds, ["weight", "m", "v", "ema"].into_iter().chain(master).collect());
    assert_eq!(rows.len() % kinds.len(), 0, "each tensor in every kind");
    rows.len()
}

/// The loss of each step after the checkpoint.
fn losses(dir: &Path) -> BTreeMap<u64, f64> {
    let text = fs::read_to_string(dir.join("metrics.jsonl")).expect("metrics");
    let rows = text.lines().map(|l| serde_json::from_str::<Value>(l).expect("a row"));
    let steps = rows.filter(|r| r["kind"] == "step");
    let pairs = steps.map(|r| (r["step"].as_u64().expect("a step"), r["loss"].as_f64().expect("a loss")));
    let after: BTreeMap<u64, f64> = pairs.filter(|(step, _)| *step > STEPS[0]).collect();
    assert_eq!(after.keys().copied().collect::<Vec<_>>(), (STEPS[0] + 1..=STEPS[1]).collect::<Vec<_>>());
    after
}

fn loss_gap(ours: &BTreeMap<u64, f64>, theirs: &BTreeMap<u64, f64>) -> f64 {
    ours.iter().map(|(step, loss)| (loss / theirs[step] - 1.0).abs()).fold(0.0, f64::max)
}
