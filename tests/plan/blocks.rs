//! What a run that stores blocks needs.

use super::{check, config_with, output, run_file};
use serde_json::Value;

const TIED: &str = "preset = \"gpt2-124m\"\nlayers = 3\ndim = 64\nheads = 4\nffn_dim = 256\nvocab = 500";
const SPDF: &str = "{ sparsity = 0.75, pattern = \"block:16\" }";

#[test]
fn the_meta_arena_foretells_the_cpu_arena_of_blocks_on_every_topology() {
    for (parallel, ranks) in
        [("", 1), ("zero = 2", 2), ("zero = 3\nrecompute = \"full\"", 2), ("zero = 1\ntp = 2", 4)]
    {
        let rest = format!("[parallel]\nmicro_batch = 2\n{parallel}");
        check(parallel, &config_with(TIED, &rest, &[format!("phase.0.spdf={SPDF}")]), ranks);
    }
}

#[test]
fn a_dry_run_counts_what_is_stored_and_computed() {
    let dir = tempfile::tempdir().expect("a directory");
    let rest = "global_batch = 8\n[model]\npreset = \"llama-tiny\"\nvocab = 257\n[parallel]\nmicro_batch = 2\nzero = 1";
    let file = run_file(dir.path(), rest);
    let json = |set: &[&str]| -> Value {
        let args = [&["train", &file, "--ranks", "2", "--dry-run", "--json"][..], set].concat();
        serde_json::from_str(&output(&args)).expect("JSON")
    };
    let set = format!("phase.0.spdf={SPDF}");
    let (dense, blocks) = (json(&[]), json(&["--set", &set]));
    let number = |v: &Value, path: &str| v.pointer(path).and_then(Value::as_f64).expect(path);
    let zeros = number(&blocks, "/phases/0/spdf/zeros");
    assert_eq!(zeros, 0.75 * number(&blocks, "/phases/0/spdf/values"));
    let less = |path: &str| number(&dense, path) - number(&blocks, path);
    // Forward and backward of two updates of 8 sequences of 256 tokens.
    assert_eq!(less("/phases/0/flops"), 6.0 * zeros * 4096.0);
    assert_eq!(less("/checkpoint_bytes"), 12.0 * zeros);
    // A unit is padded to a multiple of 2048 values.
    assert!((less("/memory/peak/weights") / (4.0 * zeros) - 1.0).abs() < 0.02);
    assert!(less("/phases/0/sent_bytes/dp") > 0.9 * 8.0 * zeros / 2.0);
    let page = output(&["train", &file, "--dry-run", "--set", &set]);
    for part in
        ["neither stored nor computed", "16 x 16 blocks keep 4 of each row, 4 of each column (8 matrices)"]
    {
        assert!(page.contains(part), "{part:?} is not in\n{page}");
    }
    // All checkpoints are what the page says, but for headers.
    output(&["train", &file, "--ranks", "2", "--set", &set]);
    let files = std::fs::read_dir(dir.path().join("run/ckpt/step-00000002")).expect("a checkpoint");
    let tensors = files.flatten().filter(|f| f.path().extension().is_some_and(|e| e == "safetensors"));
    let written: f64 = tensors.map(|f| f.metadata().expect("a file").len() as f64).sum();
    let told = number(&blocks, "/checkpoint_bytes");
    assert!((written / told - 1.0).abs() < 0.05, "{written} bytes, {told} foretold");
}
