//! Updates that go wrong: skipped or the end of the run, as the run file says, and made again by one rank.

use super::RANKS;
use super::process::{RUN, Run, STEPS, Site};
use espalier::checkpoint::Manifest;
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Output};

const SPIKES: [&str; 6] =
    ["--set", "numerics.sigma=1.0", "--set", "numerics.window=4", "--set", "numerics.max_skips=1000"];

fn rows(run: &Run, kind: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(run.folder.join("run/metrics.jsonl")).expect("metrics");
    let rows = text.lines().map(|l| serde_json::from_str::<Value>(l).expect("a row"));
    rows.filter(|row| row["kind"] == kind).collect()
}

fn events(run: &Run, name: &str) -> usize {
    rows(run, "event").iter().filter(|row| row["name"] == name).count()
}

/// Names in the run directory, and its metrics.
fn listed(run: &Run) -> (Vec<PathBuf>, String) {
    let entries =
        ["run", "run/ckpt", "run/replay", "run/tb"].map(|dir| std::fs::read_dir(run.folder.join(dir)));
    let mut names: Vec<PathBuf> =
        entries.into_iter().flatten().flatten().flatten().map(|e| e.path()).collect();
    names.sort();
    (names, std::fs::read_to_string(run.folder.join("run/metrics.jsonl")).expect("metrics"))
}

/// `train RUN.toml --replay FILE` in the folder of the run.
fn replay(run: &Run, args: &[&str], step: u64) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_espalier"));
    command.env_clear().current_dir(&run.folder).args(["train", "run.toml", "--threads", "1"]).args(args);
    command
        .args(["--replay", &format!("run/replay/step-{step:08}.json")])
        .output()
        .expect("the program starts")
}

#[test]
fn spikes_are_skipped_by_all_ranks_and_a_resumed_run_skips_the_same() {
    let site = Site::in_memory();
    let args = [&RANKS[..], &SPIKES, &["--set", "numerics.spike=skip"]].concat();
    let calm = site.run("calm", &args);
    calm.finish();
    let steps = rows(&calm, "step");
    let skipped = |from: u64| {
        let of = |row: &&Value| row["skipped"] == true && row["step"].as_u64().expect("a step") > from;
        steps.iter().filter(of).count()
    };
    let (all, late) = (skipped(0), skipped(33));
    assert!(steps.len() as u64 == STEPS && (2..55).contains(&all) && late > 0, "{all} skips, {late} late");
    assert_eq!(events(&calm, "update_skipped"), all);
    assert_eq!(events(&calm, "replay"), 2, "so many are kept");
    // The second phase begins with a new optimizer, whose t counts the updates that were made.
    let clocks = Manifest::read(&calm.checkpoint(STEPS)).expect("a manifest").meta.clocks;
    assert_eq!((clocks.update, clocks.adam_t), (STEPS, STEPS - 33 - late as u64));
    // What it remembered of the updates before lies in the checkpoint.
    for step in [20, 40] {
        let run = site.run_from(&format!("from-{step}"), &args, &calm, &[step]);
        run.finish();
        run.assert_ended_like(&calm);
    }
}

#[test]
fn a_spike_stops_the_run_and_one_rank_makes_the_update_again() {
    let site = Site::in_memory();
    let stop = ["--set", "numerics.spike=stop"];
    for (name, ranks, same) in [("one", &[][..], true), ("two", &RANKS[..], false)] {
        let args = [ranks, &SPIKES, &stop].concat();
        let run = site.run(name, &args);
        let status = run.start().wait();
        assert_eq!(status.code(), Some(6), "{status}: {}", run.stderr());
        let said = run.stderr();
        assert!(said.contains("is above") && said.contains("nothing was updated"), "{said}");
        let step = rows(&run, "event")[0]["step"].as_u64().expect("a step");
        let before = listed(&run);
        let out = replay(&run, &[&SPIKES[..], &stop].concat(), step);
        let text = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert!(listed(&run) == before, "something was written");
        let numbers = |line: &str| -> Vec<f64> {
            let line = text.lines().find(|l| l.trim_start().starts_with(line)).expect("a line");
            line.split([' ', ',', ':']).filter_map(|word| word.parse().ok()).collect()
        };
        let (then, now) = (numbers("in the run"), numbers("here"));
        assert!(now.len() == 2 && then.len() >= 2, "{text}");
        for (then, now) in then.iter().zip(&now) {
            assert!((now / then - 1.0).abs() < 1e-5, "{text}");
        }
        assert!(!same || text.contains("the same bits"), "{text}");
        // Each unit, and each sample of the update.
        assert!(["embed ", "blocks.1 ", "0 of "].iter().all(|part| text.contains(part)), "{text}");
        let samples = (4 * step..4 * step + 4)
            .filter(|id| text.lines().any(|l| l.trim().starts_with(&format!("{id} "))));
        assert_eq!(samples.count(), 4, "{text}");
        let out = replay(&run, &["--ranks", "2"], step);
        assert_eq!(out.status.code(), Some(2), "{}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn what_is_not_finite_stops_the_run_or_is_skipped_so_many_times() {
    let site = Site::in_memory();
    let broken = |name: &str, args: &[&str]| {
        let run = site.run(name, args);
        std::fs::write(run.folder.join("run.toml"), RUN.replace("to = 2e-3, frac", "to = 1e6, frac"))
            .expect("write");
        run
    };
    let run = broken("stop", &RANKS);
    let status = run.start().wait();
    assert_eq!(status.code(), Some(6), "{status}: {}", run.stderr());
    assert!(
        run.stderr().contains("gradient norm ") && run.stderr().contains("; nothing was updated"),
        "{}",
        run.stderr()
    );
    let step = rows(&run, "event")[0]["step"].as_u64().expect("a step");
    let out = replay(&run, &[], step);
    let text = String::from_utf8_lossy(&out.stdout);
    let counted = text.lines().any(|l| l.contains(" of ") && !l.contains(" 0 of "));
    assert!(out.status.success() && counted, "{text}{}", String::from_utf8_lossy(&out.stderr));

    let run = broken("skip", &["--set", "numerics.nonfinite=skip", "--set", "numerics.max_skips=3"]);
    let status = run.start().wait();
    assert_eq!(status.code(), Some(6), "{status}: {}", run.stderr());
    assert!(run.stderr().contains("after 3 that were skipped (numerics.max_skips)"), "{}", run.stderr());
    assert_eq!((events(&run, "update_skipped"), events(&run, "replay")), (3, 2));
    // JSON has no NaN.
    assert!(rows(&run, "step").iter().any(|row| row["loss"].is_null() && row["skipped"] == true));
}
