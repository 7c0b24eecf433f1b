//! A run whose second phase trains a larger network (issue of growth within a run): the switch, and kills around it.

use super::process::{Run, STEPS, Site};
use super::{assert_goes_on_like, until};
use espalier::checkpoint::Manifest;
use serde_json::Value;

/// From 2 blocks of (32, 4 heads of 8, 64).
const GROW: &str = "phase.1.grow={ to = { layers = 3, dim = 48, heads = 8, kv_heads = 4, ffn_dim = 96 } }";
/// The end of the first phase.
const SWITCH: u64 = 33;
const DP: [&str; 4] = ["--ranks", "2", "--set", GROW];
const TP: [&str; 8] = ["--ranks", "4", "--set", GROW, "--set", "parallel.tp=2", "--set", "parallel.zero=3"];

fn rows(run: &Run, kind: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(run.folder.join("run/metrics.jsonl")).expect("metrics");
    let rows = text.lines().map(|l| serde_json::from_str::<Value>(l).expect("a row"));
    rows.filter(|r| r["kind"] == kind).collect()
}

fn layers(run: &Run, step: u64) -> usize {
    Manifest::read(&run.checkpoint(step)).expect("a manifest").meta.model.layers
}

#[test]
fn a_grown_phase_resumes_to_the_same_bytes_and_on_another_topology_within_it_and_at_the_switch() {
    let site = Site::in_memory();
    let dp = site.run("grown", &DP);
    dp.finish();
    assert!(dp.finished(STEPS));
    assert_eq!((layers(&dp, 20), layers(&dp, 40), layers(&dp, STEPS)), (2, 3, 3));
    // 20 is before the switch, 40 behind it.
    for step in [20, 40] {
        let again = site.run_from(&format!("again-{step}"), &DP, &dp, &[step]);
        again.finish();
        again.assert_ended_like(&dp);
        let tp = site.run_from(&format!("tp-{step}"), &TP, &dp, &[step]);
        tp.finish();
        assert_goes_on_like(&tp, &dp, step);
    }
    let phases = rows(&dp, "phase");
    assert!(phases[0]["grow"].is_null());
    let grown = &phases[1]["grow"];
    assert_eq!((&grown["to"]["dim"], &grown["exact"]), (&48.into(), &true.into()), "{grown}");
    assert_eq!(rows(&dp, "event").iter().filter(|r| r["name"] == "grown").count(), 1);

    // The first loss of the larger network is the one that the smaller would have had.
    let plain = site.run("plain", &["--ranks", "2"]);
    plain.finish();
    let (ours, theirs) = (dp.losses()[&(SWITCH + 1)], plain.losses()[&(SWITCH + 1)]);
    assert!((ours / theirs - 1.0).abs() < 2e-5, "{ours} and {theirs}");
    assert_ne!(dp.losses()[&STEPS], plain.losses()[&STEPS]);
}

#[test]
fn killed_at_the_switch_it_goes_on_from_there_on_another_topology() {
    let site = Site::in_memory();
    let calm = site.run("calm", &TP);
    calm.finish();
    let run = site.run("killed", &DP);
    let process = run.start();
    assert!(until(&process, || run.finished(SWITCH)), "it ended: {}", run.stderr());
    process.signal(libc::SIGKILL);
    process.wait();
    let other = site.run_from("moved", &TP, &run, &[SWITCH]);
    assert_eq!(layers(&other, SWITCH), 2);
    other.finish();
    assert_goes_on_like(&other, &calm, SWITCH);
}

#[test]
fn moments_and_the_average_are_carried_by_every_topology_alike() {
    let site = Site::in_memory();
    for (name, more) in
        [("adamw", "optim.ema={ decay = 0.9 }"), ("muon", "optim.muon={ moments = \"bf16\" }")]
    {
        let more = ["--set", more, "--set", "phase.1.optimizer=keep", "--set", "run.dtype=bf16"];
        let dp = site.run(&format!("{name}-dp"), &[&DP[..], &more].concat());
        dp.finish();
        let at =
            |run: &Run, step| Manifest::read(&run.checkpoint(step)).expect("a manifest").meta.clocks.adam_t;
        assert_eq!(at(&dp, STEPS), STEPS, "t goes on");
        let again = site.run_from(&format!("{name}-again"), &[&DP[..], &more].concat(), &dp, &[20]);
        again.finish();
        again.assert_ended_like(&dp);
        let tp = site.run_from(&format!("{name}-tp"), &[&TP[..], &more].concat(), &dp, &[20]);
        tp.finish();
        let (ours, theirs) = (tp.losses(), dp.losses());
        for step in 21..=STEPS {
            let gap = (ours[&step] / theirs[&step] - 1.0).abs();
            assert!(gap < 5e-3, "{name}: loss of step {step} is off by {gap:e}");
        }
    }
}

#[test]
fn a_first_phase_that_grows_and_sizes_that_ranks_cannot_share_are_refused_before_the_run() {
    let site = Site::in_memory();
    let cases = [
        ("first", "phase.0.grow={ to = { layers = 3 } }", "phase.0.grow", "espalier grow"),
        ("odd", "phase.1.grow={ to = { ffn_dim = 65 } }", "does not divide model.ffn_dim: 65", "one of 1"),
    ];
    for (name, set, problem, remedy) in cases {
        let run = site.run(name, &["--ranks", "2", "--set", "parallel.tp=2", "--set", set]);
        let status = run.start().wait();
        let said = run.stderr();
        assert!(status.code() == Some(2) && said.contains(problem) && said.contains(remedy), "{said}");
    }
}
