//! The program as a person starts it: what is wrong gets one helpful sentence, the right exit code, and no panic.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn espalier(dir: &Path, args: &[&str]) -> Output {
    let mut c = Command::new(env!("CARGO_BIN_EXE_espalier"));
    for name in ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS", "SLURM_STEP_ID"] {
        c.env_remove(name);
    }
    c.current_dir(dir).args(args).output().expect("the program starts")
}

const RUN: &str = r#"
schema = 1
eval = { on = ["text:heldout"], every = "2 steps", tokens = 500 }
[run]
dir = "run"
seed = 1
seq_len = 32
global_batch = 4
[model]
preset = "llama-tiny"
layers = 1
dim = 32
heads = 4
kv_heads = 2
ffn_dim = 64
vocab = 257
[data]
text = { path = "corpus", holdout = 0.3 }
[[phase]]
name = "only"
steps = 3
mix = { text = 1.0 }
lr = [{ kind = "const", to = 1e-3 }]
"#;

/// A folder with a corpus and a run file.
fn workplace() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let text = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/text");
    let out = espalier(dir.path(), &["corpus", "build", text.to_str().expect("UTF-8"), "--out", "corpus"]);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    std::fs::write(dir.path().join("run.toml"), RUN).expect("writes");
    dir
}

/// One line on stderr that starts with the program's name and has all of `says`; the exit code; no panic.
fn refused(out: &Output, code: i32, says: &[&str], what: &str) {
    let text = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(code), "{what}: {text}");
    let lines: Vec<_> = text.lines().filter(|l| l.starts_with("espalier: ")).collect();
    assert_eq!(lines.len(), 1, "{what}: {text}");
    assert!(!text.contains("panicked"), "{what}: {text}");
    for part in says {
        assert!(lines[0].contains(part), "{what}: no {part:?} in {}", lines[0]);
    }
}

#[test]
fn wrong_settings_get_one_sentence_and_exit_code_2_before_anything_is_written() {
    let dir = workplace();
    let cases: &[(&[&str], &[&str])] = &[
        (&["--set", "optim.clipp=1.0"], &["clipp", "clip"]),
        (&["--set", "model.head=4"], &["head"]),
        (&["--set", "run.seq_len=0"], &["seq_len"]),
        (&["--set", "run.seq_len=\"long\""], &["seq_len"]),
        (&["--set", "model.heads=3"], &["heads"]),
        (&["--set", "parallel.tp=3", "--ranks", "3"], &["tp", "heads"]),
        (&["--ranks", "3"], &["ranks"]),
        (&["--ranks", "8"], &["global_batch"]),
        (&["--ranks", "0"], &["ranks"]),
        (&["--threads", "0"], &["threads"]),
        (&["--set", "phase.0.mix.web=1.0"], &["web"]),
        (&["--set", "parallel.pp=2"], &["pp", "not built"]),
        (&["--set", "parallel.sequence_parallel=true"], &["sequence_parallel", "tp = 1"]),
        (&["--set", "model.dropout=0.1"], &["dropout"]),
        (&["--set", "run.device=cuda"], &["cuda", "not built"]),
        (&["--set", "phase.0.spdf={ sparsity = 0.5, match = [\"blockz.*\"] }"], &["spdf.match", "blockz"]),
        (
            &["--set", "phase.0.spdf={ sparsity = 0.5, match = [\"*norm*\"] }"],
            &["the vector", "matrices only"],
        ),
        (
            &["--set", "phase.0.spdf={ sparsity = 0.5, pattern = \"block:128\" }"],
            &["blocks of 128", "no multiple", "smaller blocks"],
        ),
        (
            &[
                "--set",
                "phase.0.spdf={ sparsity = 0.5, pattern = \"block:16\", match = [\"*.attn.q.weight\"] }",
            ],
            &["blocks.0.attn.k.weight", "stored with it", "both or neither"],
        ),
        (
            &[
                "--set",
                "phase.0.spdf={ sparsity = 0.5, pattern = \"block:16\", match = [\"embed.tokens.weight\"] }",
            ],
            &["embed.tokens.weight", "no matrix of a block"],
        ),
        (&["--set", "model.preset=bert-tiny"], &["masked"]),
        (&["--set", "optim.group=[{ match = [\"blockz.*\"], lr_scale = 0.5 }]"], &["blockz"]),
        (&["--set", "schema=2"], &["schema"]),
        (&["--set", "checkpoint.keep_every=\"20 min\""], &["keep_every", "steps"]),
    ];
    for (args, says) in cases {
        let out = espalier(dir.path(), &[&["train", "run.toml"], *args].concat());
        refused(&out, 2, says, &format!("{args:?}"));
        assert!(!dir.path().join("run").exists(), "{args:?} left a run directory");
    }
    let out = espalier(dir.path(), &["train", "nowhere.toml"]);
    refused(&out, 2, &["nowhere.toml"], "missing run file");
}

#[test]
fn missing_and_damaged_corpora_are_named_with_exit_code_3() {
    let dir = workplace();
    let path = |ext: &str| dir.path().join(format!("corpus.{ext}"));
    let out = espalier(dir.path(), &["train", "run.toml", "--set", "data.text.path=elsewhere"]);
    refused(&out, 3, &["elsewhere"], "missing corpus");
    let out = espalier(dir.path(), &["train", "run.toml", "--set", "model.vocab=100"]);
    refused(&out, 3, &["vocab", "257"], "small vocabulary");
    let bin = std::fs::read(path("bin")).expect("reads");
    std::fs::write(path("bin"), &bin[..bin.len() / 2]).expect("writes");
    refused(
        &espalier(dir.path(), &["train", "run.toml"]),
        3,
        &["corpus.idx", ".bin has"],
        "truncated corpus",
    );
    let mut flipped = bin.clone();
    flipped[1000] ^= 4;
    std::fs::write(path("bin"), &flipped).expect("writes");
    refused(&espalier(dir.path(), &["corpus", "verify", "corpus"]), 3, &["corpus.bin"], "flipped bit");
}

#[test]
fn a_run_of_one_of_several_processes_is_refused_by_a_build_without_mpi() {
    let dir = workplace();
    let out = Command::new(env!("CARGO_BIN_EXE_espalier"))
        .current_dir(dir.path())
        .env("OMPI_COMM_WORLD_SIZE", "4")
        .env("OMPI_COMM_WORLD_RANK", "0")
        .args(["train", "run.toml"])
        .output()
        .expect("starts");
    refused(&out, 2, &["no MPI", "--ranks"], "mpirun");
}

#[test]
fn train_generate_export_inspect_work_and_a_finished_run_says_so_again() {
    let dir = workplace();
    let run = |args: &[&str]| {
        let out = espalier(dir.path(), args);
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    run(&["train", "run.toml", "--ranks", "2"]);
    run(&["train", "run.toml", "--ranks", "2"]); // nothing left to do
    run(&["train", "run/run.toml"]); // the resolved file is a run file
    let text = run(&["generate", "run", "--prompt", "The ", "--tokens", "20", "--seed", "3"]);
    assert!(text.starts_with("The "), "{text}");
    assert_eq!(text, run(&["generate", "run", "--prompt", "The ", "--tokens", "20", "--seed", "3"]));
    run(&["export", "run", "--out", "hf"]);
    assert!(run(&["import", "hf"]).contains("llama"));
    let manifest: serde_json::Value =
        serde_json::from_str(&run(&["ckpt", "inspect", "run", "--json"])).expect("JSON");
    assert_eq!(manifest["manifest"]["meta"]["clocks"]["update"], 3);
    run(&["ckpt", "verify", "run"]);

    // A run that begins with the exported weights starts where the first one ended.
    run(&[
        "train",
        "run.toml",
        "--set",
        "run.init=\"hf:hf\"",
        "--set",
        "run.dir=again",
        "--set",
        "phase.0.steps=1",
    ]);
    let eval = |dir_name: &str, step: u64| -> f64 {
        let text = std::fs::read_to_string(dir.path().join(dir_name).join("metrics.jsonl")).expect("reads");
        let rows = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).expect("a JSON row"));
        let find = |r: serde_json::Value| {
            (r["kind"] == "eval" && r["step"] == step).then(|| r["nll_token"].as_f64())
        };
        rows.filter_map(find).next().flatten().expect("an evaluation")
    };
    let (end, next) = (eval("run", 3), eval("again", 1));
    assert!((end - next).abs() < 0.2, "held-out loss {end}, then {next}");
    let other = espalier(dir.path(), &["train", "run.toml", "--set", "run.seed=2"]);
    refused(&other, 2, &["seed"], "a resume with another seed");
}
