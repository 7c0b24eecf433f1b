//! `parallel = "auto"`: what is chosen fits, is explained, becomes the run file, and is chosen again by other ranks.

use super::{espalier, output, run_file};
use serde_json::Value;

const MODEL: &str = "global_batch = 8\n[model]\npreset = \"llama-tiny\"\nvocab = 257\nlayers = 2";

fn dry(file: &str, gib: &str) -> Value {
    let args =
        ["train", file, "--ranks", "8", "--ranks-per-node", "4", "--threads", "1", "--dry-run", "--json"];
    let auto = ["--set", "parallel=auto", "--node-memory", gib];
    serde_json::from_str(&output(&[&args[..], &auto].concat())).expect("JSON")
}

#[test]
fn the_layout_fits_the_memory_of_a_node_and_little_memory_is_paid_for_in_time() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = run_file(dir.path(), MODEL);
    let number = |v: &Value| v.as_f64().expect("a number");
    let seconds = |fit: &Value| number(&fit["compute_s"]) + number(&fit["comm_s"]);
    let rich = dry(&file, "8");
    let chosen = &rich["auto"]["chosen"];
    let (tp, zero) = (&rich["layout"]["tp"], &rich["layout"]["zero"]);
    let name = chosen["layout"].as_str().expect("a name");
    assert!(name.starts_with(&format!("tp {tp}, zero {zero}")), "{name}");
    assert!(name.ends_with(&format!("micro_batch {}", rich["phases"][0]["micro_batch"])), "{name}");
    // What the dry run finds of the layout is what was counted when it was chosen.
    let memory = &rich["memory"];
    let want = number(&memory["rank"]) + (number(&memory["outside"]["process"]) / 8.0).floor();
    assert_eq!(number(&chosen["memory"]), want);
    assert!(seconds(&rich["auto"]["next"]) * 1.02 >= seconds(chosen), "the next best is not better");
    let rejected = rich["auto"]["rejected"].to_string();
    assert!(rich["auto"]["memory"] == 8u64 * (1 << 30) * 9 / 10 / 4, "{}", rich["auto"]["memory"]);

    // A little less than that takes.
    let gib = format!("{:.4}", 0.95 * want * 4.0 / 0.9 / (1u64 << 30) as f64);
    let poor = dry(&file, &gib);
    let less = &poor["auto"]["chosen"];
    assert!(number(&less["memory"]) <= number(&poor["auto"]["memory"]), "{less}");
    assert!(number(&less["memory"]) < want && less["layout"] != chosen["layout"], "{less}");
    assert!(poor["auto"]["fit"].as_u64() <= rich["auto"]["fit"].as_u64(), "{rejected}");

    let args = ["train", &file, "--ranks", "8", "--dry-run", "--set", "parallel=auto"];
    let page = output(&[&args[..], &["--node-memory", "16"]].concat());
    for part in [
        "\"auto\" for 8 ranks, 8 on a node; a rank may take 1.80 GiB (--node-memory)",
        "chosen    tp ",
        "next      tp ",
        "assumed   50 GFLOP/s",
    ] {
        assert!(page.contains(part), "{part:?} is not in\n{page}");
    }
    let refused = espalier(&[&args[..], &["--node-memory", "0.01"]].concat()).output().expect("it starts");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("no layout of 8 ranks fits into") && said.lines().count() == 1, "{said}");
}

#[test]
fn what_cannot_be_split_is_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let file =
        run_file(dir.path(), &MODEL.replace("layers = 2", "layers = 1\nheads = 6\nkv_heads = 6\ndim = 96"));
    let args = ["train", &file, "--ranks", "4", "--dry-run", "--json", "--set", "parallel=auto"];
    let plan: Value = serde_json::from_str(&output(&args)).expect("JSON");
    let rejected = plan["auto"]["rejected"].to_string();
    assert!(rejected.contains("\"tp 4\"") && rejected.contains("heads 6 is not divided by it"), "{rejected}");
    let args = ["train", &file, "--ranks", "5", "--dry-run", "--set", "parallel=auto"];
    let refused = espalier(&args).output().expect("it starts");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        refused.status.code() == Some(2) && said.contains("8 sequences are not divided by dp 5"),
        "{said}"
    );
}

#[test]
fn a_run_keeps_what_was_chosen_and_other_ranks_choose_again() {
    let dir = tempfile::tempdir().expect("a directory");
    let rest = MODEL.replace("vocab = 257", "vocab = 257\ndim = 32\nheads = 2\nkv_heads = 2\nffn_dim = 64");
    let file = run_file(dir.path(), &rest);
    for (ranks, steps) in [("2", "2"), ("1", "3")] {
        let steps = format!("phase.0.steps={steps}");
        let args =
            ["train", &file, "--threads", "1", "--ranks", ranks, "--set", "parallel=auto", "--set", &steps];
        let out = espalier(&args).output().expect("the program starts");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success() && said.contains(&format!("\"auto\" for {ranks} ranks")), "{said}");
        let resolved = std::fs::read_to_string(dir.path().join("run/run.toml")).expect("a run file");
        assert!(
            resolved.contains("\n[parallel]\ntp = ") && resolved.contains("\nmicro_batch = "),
            "{resolved}"
        );
        assert!(!resolved.contains("parallel = \"auto\""), "{resolved}");
    }
}
