//! A run whose matrices are stored as blocks: kills, topologies, and what comes after it.

use super::assert_goes_on_like;
use super::process::{STEPS, Site};
use std::process::Command;

const SPDF: &str = "{ sparsity = 0.5, pattern = \"block:16\" }";

/// The run file with a model that has room for blocks of 16 on two ranks of tp.
fn set(more: &[&str], spdf: &str) -> Vec<String> {
    let mut args: Vec<String> = more.iter().map(|s| s.to_string()).collect();
    for key in ["model.dim=64".to_string(), format!("phase.0.spdf={spdf}"), format!("phase.1.spdf={spdf}")] {
        args.extend(["--set".into(), key]);
    }
    args
}

fn text(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[test]
fn a_run_in_blocks_resumes_to_the_same_bytes_and_on_another_topology() {
    let site = Site::in_memory();
    let (dp, tp) = (
        set(&["--ranks", "2"], SPDF),
        ["--ranks", "4", "--set", "parallel.tp=2", "--set", "parallel.zero=3"],
    );
    let (dp, tp) = (text(&dp), set(&tp, SPDF));
    let whole = site.run("blocks", &dp);
    whole.finish();
    assert!(whole.finished(STEPS));
    for step in [20, 40] {
        let again = site.run_from(&format!("again-{step}"), &dp, &whole, &[step]);
        again.finish();
        again.assert_ended_like(&whole);
        let other = site.run_from(&format!("tp-{step}"), &text(&tp), &whole, &[step]);
        other.finish();
        assert_goes_on_like(&other, &whole, step);
    }
    // Other blocks are another run.
    let other = site.run_from(
        "other",
        &text(&set(&["--ranks", "2"], "{ sparsity = 0.5, pattern = \"block:32\" }")),
        &whole,
        &[20],
    );
    let status = other.start().wait();
    assert_eq!(status.code(), Some(2), "{}", other.stderr());
}

/// The switch to dense, as a run of its own: the same weights, zeros where no block was kept.
#[test]
fn a_dense_run_begins_where_a_run_in_blocks_ended_and_tools_read_it() {
    let site = Site::in_memory();
    let whole = site.run("blocks", &text(&set(&[], SPDF)));
    whole.finish();
    let init =
        ["--set", "run.init=\"ckpt:../blocks/run\"", "--set", "phase.0.steps=1", "--set", "phase.1.steps=1"];
    let dense = site.run("dense", &[&init[..], &["--set", "model.dim=64"]].concat());
    dense.finish();
    let on = site.run("on", &text(&set(&init, SPDF)));
    on.finish();
    // From dense weights into blocks: of those that a run in blocks wrote, the same.
    let back =
        ["--set", "run.init=\"ckpt:../dense/run@1\"", "--set", "phase.0.steps=1", "--set", "phase.1.steps=1"];
    let back = site.run("back", &text(&set(&back, SPDF)));
    back.finish();
    let first = |run: &super::process::Run| run.losses()[&1];
    let gap = (first(&dense) / first(&on) - 1.0).abs();
    assert!(gap < 1e-6, "loss {} of the dense run, {} in blocks", first(&dense), first(&on));
    assert!(first(&back).is_finite());

    let espalier = |args: &[&str]| {
        let out = Command::new(env!("CARGO_BIN_EXE_espalier"))
            .args(args)
            .current_dir(&whole.folder)
            .env_clear()
            .output()
            .expect("the program starts");
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{args:?}: {said}");
        String::from_utf8(out.stdout).expect("text")
    };
    espalier(&["export", "run", "--out", "hf"]);
    let said = espalier(&["generate", "run", "--prompt", "We", "--tokens", "4"]);
    assert!(!said.is_empty());
    espalier(&["ckpt", "verify", "run"]);
    // As one rank would have written it, and still in blocks.
    let newest = format!("run/ckpt/step-{STEPS:08}");
    espalier(&["ckpt", "merge", &newest, "--out", "merged"]);
    assert!(espalier(&["ckpt", "diff", "merged", &newest]).contains("equal"));
}
