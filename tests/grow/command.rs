//! `espalier grow`: G6, Hugging Face directories, a real BERT, what is refused.

use crate::models::{grow, growth};
use crate::process::{Run, Site, files};
use espalier::checkpoint::{Area, Checkpoint, Kind, Values};
use espalier::comm::Mesh;
use espalier::config::{Depth, OptimConfig, OptimKind, Width};
use espalier::device::{DType, Device};
use espalier::hf::{self, HfSource, Options};
use espalier::method::grow::{Grown, Quantity};
use espalier::model::Network;
use espalier::params::{Accumulate, TensorSource};
use espalier::tape::{At, Recompute, Seq};
use espalier::train::replica::{Plan, Replica};
use espalier::train::step::forward;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const SHORT: [&str; 4] = ["--set", "phase.0.steps=5", "--set", "phase.1.steps=1"];

fn espalier(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_espalier"));
    command.current_dir(dir).args(args).env_clear().output().unwrap()
}

/// What the command says with --json.
fn said(dir: &Path, args: &[&str]) -> Value {
    let out = espalier(dir, &[&["grow"], args, &["--json"]].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

fn sharded(site: &Site, more: &[&str]) -> Run {
    let args = ["--ranks", "4", "--set", "parallel.tp=2", "--set", "parallel.zero=3"];
    let run = site.run("sharded", &[&args, &SHORT[..], more].concat());
    run.finish();
    run
}

#[test]
fn growth_of_a_sharded_checkpoint_is_that_of_the_merged_one_and_reads_like_what_was_written() {
    let site = Site::in_memory();
    let run = sharded(&site, &[]);
    let dir = run.folder.as_path();
    assert!(espalier(dir, &["ckpt", "merge", "run", "--out", "merged"]).status.success());
    let to = ["--to", "layers=3,dim=40,heads=8,kv_heads=4,ffn_dim=80", "--seed", "11", "--check"];
    let one = said(dir, &[&["run", "of-sharded"], &to[..]].concat());
    said(dir, &[&["merged", "of-merged"], &to[..]].concat());
    let name = "weights-r00000.safetensors";
    let [a, b] = ["of-sharded", "of-merged"].map(|d| files(&dir.join(d)));
    assert!(a[name] == b[name], "grown weights of the sharded and of the merged checkpoint");
    assert!(!a.keys().any(|f| f.starts_with("optim")), "{:?}", a.keys());
    let (off, most) = (one["logits_apart"].as_f64().unwrap(), one["largest_logit"].as_f64().unwrap());
    assert!(off <= 2e-5 * most && one["exact"] == true, "{one}");

    // What was saved and loaded is what a rank of tp 2 would have grown for itself.
    let sizes = [("layers", 3), ("dim", 40), ("heads", 8), ("kv_heads", 4), ("ffn_dim", 80)];
    let checkpoint = Checkpoint::open(&run.checkpoint(6)).unwrap();
    let growth = growth(&grow(&sizes, Width::ZeroPad, Depth::Identity), &checkpoint.manifest().meta.model);
    let weights = checkpoint.weights(Values::Master);
    let grown = Grown::new(&growth, &weights, Quantity::Weight);
    let saved = Checkpoint::open(&dir.join("of-sharded")).unwrap();
    let saved = saved.weights(Values::Stored);
    for spec in Network::specs(&growth.to) {
        for part in (0..2).map(|rank| espalier::params::LocalBox { stored_rows: 0, ..spec.local(rank, 2) }) {
            let mut values = [0, 1].map(|_| vec![0f32; part.rows * part.cols]);
            grown.read(&spec, part, &mut values[0]).unwrap();
            saved.read(&spec, part, &mut values[1]).unwrap();
            assert!(values[0] == values[1], "{} {part:?}", spec.name);
        }
    }
}

#[test]
fn a_run_begins_with_a_grown_checkpoint_and_goes_on_with_carried_moments() {
    let site = Site::in_memory();
    let run = sharded(&site, &["--set", "run.dtype=bf16", "--set", "optim.ema={ decay = 0.9 }"]);
    let dir = run.folder.as_path();
    let to = ["--to", "dim=64,ffn_dim=128", "--width", "fpi"];
    said(dir, &[&["run", "fresh"], &to[..]].concat());
    let args = ["train", "fresh/run.toml", "--set", "run.dir=begun"];
    let out = espalier(dir, &[&args, &SHORT[..], &["--ranks", "4"]].concat());
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));

    let next = said(dir, &[&["run", "large", "--optimizer", "carry"], &to[..]].concat());
    assert!(next["next"].as_str().unwrap().starts_with("espalier train large/run.toml"), "{next}");
    let [old, new] =
        [run.checkpoint(6), dir.join("large/ckpt/step-00000006")].map(|p| Checkpoint::open(&p).unwrap());
    assert_eq!(old.manifest().meta.clocks, new.manifest().meta.clocks);
    let name = "blocks.1.mlp.up.weight";
    let whole = |c: &Checkpoint, kind| {
        let spec = c.manifest().params.iter().find(|p| p.name == name).unwrap();
        let mut values = vec![0f32; spec.len()];
        c.read(kind, spec, Area::whole(spec), &mut values).unwrap().unwrap();
        values
    };
    // Each of 2 copies of a unit has half the gradient; so has each column's reader all of it.
    for (kind, part) in [(Kind::M, 0.5), (Kind::V, 0.25), (Kind::Ema, 0.5), (Kind::Master, 0.5)] {
        let (old, new) = (whole(&old, kind), whole(&new, kind));
        let close = old[..32].iter().zip(&new[..32]).all(|(a, b)| (a * part - b).abs() <= 1e-6 * a.abs());
        assert!(close && old.iter().any(|x| *x != 0.0), "{kind} of the first unit");
    }
    let out = espalier(
        dir,
        &["train", "large/run.toml", "--set", "phase.1.steps=3", "--ranks", "2", "--set", "parallel.tp=1"],
    );
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let last = Checkpoint::open(&dir.join("large/ckpt/step-00000008")).unwrap();
    assert_eq!(last.manifest().meta.clocks.update, 8);
}

#[test]
fn every_family_goes_from_hugging_face_to_hugging_face() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let out = tempfile::tempdir().unwrap();
    for case in ["gpt2", "llama", "llama-tied", "qwen2", "qwen3", "bert"] {
        let (family, c) = hf::read_config(&golden.join(case)).unwrap();
        let to = format!(
            "layers={},dim={},heads={},kv_heads={},ffn_dim={}",
            c.layers + 1,
            2 * c.dim,
            2 * c.heads,
            2 * c.kv_heads,
            c.ffn_dim + 8
        );
        for width in ["zero_pad", "tile"] {
            let dest = out.path().join(format!("{case}-{width}"));
            let (from, dest) = (golden.join(case), dest.to_str().unwrap());
            let args = [from.to_str().unwrap(), dest, "--to", &to, "--width", width, "--export", "--check"];
            let row = said(out.path(), &args);
            let (off, most) = (row["logits_apart"].as_f64().unwrap(), row["largest_logit"].as_f64().unwrap());
            println!("{case} {width}: logits {off:.1e} apart of {most:.2}");
            assert!(off <= 2e-5 * most && row["exact"] == true, "{case} {width}: {row}");
            let back = HfSource::open(Path::new(dest)).unwrap();
            assert_eq!((back.family(), back.config().params()), (family, row["params"][1].as_u64().unwrap()));
        }
    }
}

/// Hidden states, (N, C): what the head reads.
fn hidden(source: &dyn TensorSource, model: &espalier::config::ModelConfig, seq: &Seq) -> Vec<f64> {
    let kind = OptimKind::Sgd { weight_decay: 0.0 };
    let optim = OptimConfig { kind, clip: None, groups: vec![], ema: None };
    let plan = Plan {
        spdf: None,
        model,
        optim: &optim,
        dtype: DType::F32,
        recompute: Recompute::Keep,
        zero: 0,
        accumulate: Accumulate::Local,
        sequence_parallel: false,
        seq_len: seq.seq_len,
    };
    let mut r = Replica::new(Device::cpu(2), Mesh::solo(), &plan).unwrap();
    r.params.forget_training();
    r.params.fill(&r.dev, source).unwrap();
    let (tapes, _) = forward(&mut r, seq, At::default(), true).unwrap();
    let (tape, input, _) = tapes.last().unwrap();
    tape.value(input.unwrap()).to_f64()
}

/// Post-norm: whole copies of the stream, heads and units of any number, idle blocks; exact to rounding (ε is 1e-12).
#[test]
fn a_trained_bert_keeps_its_hidden_states_when_it_grows() {
    let dir: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("data/minilm");
    if !dir.join("model.safetensors").exists() {
        println!("skipped: no data/minilm; tools/get-minilm fetches it");
        return;
    }
    let options = Options { allow_missing_head: true, seed: 0 };
    let source = HfSource::open_with(&dir, options).unwrap();
    let m = source.config().clone();
    let tokens: Vec<u32> = (0..48).map(|i| (i * 613 + 7) % m.vocab as u32).collect();
    let seq = Seq::packed(&tokens, &[20, 28]);
    let before = hidden(&source, &m, &seq);
    let most = before.iter().fold(0f64, |most, x| most.max(x.abs()));
    let cases: [(Width, &[(&str, usize)]); 5] = [
        (Width::Tile, &[("dim", 768), ("heads", 24)]),
        (Width::ZeroPad, &[("heads", 18)]),
        (Width::Tile, &[("ffn_dim", 2000)]),
        (Width::ZeroPad, &[("layers", 9)]),
        (Width::Tile, &[("dim", 768), ("heads", 24), ("ffn_dim", 3072), ("layers", 8)]),
    ];
    for (width, to) in cases {
        let growth = growth(&grow(to, width, Depth::Identity), &m);
        assert!(growth.losses().is_empty());
        let after = hidden(&Grown::new(&growth, &source, Quantity::Weight), &growth.to, &seq);
        let rows = after.chunks(growth.to.dim).flat_map(|row| &row[..m.dim]);
        let off = before.iter().zip(rows).fold(0f64, |off, (a, b)| off.max((a - b).abs())) / most;
        println!("minilm {to:?} by {width:?}: hidden states {off:.1e}");
        assert!(off <= 2e-5, "{to:?}: {off:e}");
    }
}

#[test]
fn what_cannot_be_is_refused_in_one_sentence_before_anything_is_written() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/llama");
    let dir = tempfile::tempdir().unwrap();
    let src = golden.to_str().unwrap();
    std::fs::create_dir(dir.path().join("there")).unwrap();
    let cases: &[(&[&str], i32, &[&str])] = &[
        (&["nowhere", "out", "--to", "dim=8"], 4, &["nowhere"]),
        (&[src, "out", "--to", "dim=8"], 2, &["--to dim: 8 is smaller than", "or more"]),
        (&[src, "out", "--to", "dim:8"], 2, &["\"dim:8\" is not KEY=NUMBER", "layers, dim, heads"]),
        (&[src, "out", "--to", "deep=8"], 2, &["\"deep=8\" is not KEY=NUMBER"]),
        (&[src, "out", "--to", "layers=9", "--width", "wide"], 2, &["--width", "zero_pad, tile, fpi, aki"]),
        (&[src, "out", "--to", "layers=9", "--depth", "up"], 2, &["--depth", "identity, stack, interpolate"]),
        (&[src, "out", "--to", "layers=9", "--optimizer", "keep"], 2, &["--optimizer", "reset or carry"]),
        (&[src, "out", "--to", "layers=9", "--optimizer", "carry"], 2, &["no moments to carry"]),
        (&[src, "there", "--to", "layers=9"], 4, &["there: is there already"]),
    ];
    for (args, code, words) in cases {
        let out = espalier(dir.path(), &[&["grow"], *args].concat());
        let text = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(*code), "{args:?}: {text}");
        assert_eq!(text.trim().lines().count(), 1, "{text}");
        for word in *words {
            assert!(text.contains(word), "{word:?} is not in: {text}");
        }
        assert!(!dir.path().join("out").exists(), "{args:?}");
    }
}

const RUN: &str = r#"
schema = 1
[run]
dir = "run"
seq_len = 32
global_batch = 4
[model]
preset = "llama-tiny"
vocab = 257
layers = 2
dim = 32
ffn_dim = 64
[data]
text = { path = "text" }
[[phase]]
name = "one"
steps = 2
lr = [{ kind = "const", to = 1e-3 }]
[[phase]]
name = "two"
steps = 2
lr = [{ kind = "const", to = 1e-3 }]
grow = { to = { layers = 4, dim = 48, heads = 8, kv_heads = 4 } }
[[phase]]
name = "three"
steps = 2
lr = [{ kind = "const", to = 1e-3 }]
grow = { to = { ffn_dim = 128 }, width = "tile", depth = "stack" }
"#;

/// Programs, memory and the resolved run file of a phase are those of a run that has its network from the start.
#[test]
fn a_grown_phase_is_rehearsed_with_its_own_network() {
    use espalier::config::{OptimState, RunConfig};
    use espalier::train::rehearsal::programs;
    let config = RunConfig::parse(RUN, "run.toml", &[]).unwrap();
    let resolved = RunConfig::parse(&config.resolved_toml(), "run.toml", &[]).unwrap();
    assert_eq!(resolved.phases, config.phases);
    let of = |c: &espalier::config::ModelConfig| (c.layers, c.dim, c.heads, c.ffn_dim);
    let models: Vec<_> = (0..3).map(|i| of(config.model_of(i))).collect();
    assert_eq!(models, [(2, 32, 4, 64), (4, 48, 8, 64), (4, 48, 8, 128)]);
    let states: Vec<_> = config.phases.iter().map(|p| p.optimizer).collect();
    assert_eq!(states, [OptimState::Keep, OptimState::Reset, OptimState::Reset]);
    let (hashes, most) = programs(&config, 0, 2).unwrap();
    for (i, hash) in hashes.iter().enumerate() {
        let mut alone = RunConfig { model: config.model_of(i).clone(), ..config.clone() };
        alone.phases.iter_mut().for_each(|p| p.grow = None);
        let (plain, bytes) = programs(&alone, 0, 2).unwrap();
        assert_eq!(plain[i], *hash, "phase {i}");
        assert!(bytes <= most && (i < 2 || bytes == most), "phase {i}: {bytes} of {most}");
    }
    assert!(hashes[0] != hashes[1] && hashes[1] != hashes[2]);
}
