//! The state of Muon in checkpoints: momentum of every tensor, second moments of those that AdamW updates.

use super::process::{Run, STEPS, Site};
use super::{assert_goes_on_like, rewrite_with, values};
use espalier::checkpoint::Kind;

const MUON: &str = "optim.muon={ moments = \"f32\" }";
/// Two data-parallel ranks that share the optimizer state.
const DP: [&str; 4] = ["--ranks", "2", "--set", MUON];
const TP: [&str; 6] = ["--ranks", "2", "--set", MUON, "--set", "parallel.tp=2"];

/// Of the first and the last five steps.
fn mean_losses(run: &Run) -> [f64; 2] {
    let losses: Vec<f64> = run.losses().into_values().collect();
    [&losses[..5], &losses[losses.len() - 5..]].map(|l| l.iter().sum::<f64>() / 5.0)
}

#[test]
fn muon_lowers_the_loss_and_resumes_to_the_same_bytes_and_on_another_topology() {
    let site = Site::in_memory();
    let dp = site.run("muon", &DP);
    dp.finish();
    let [first, last] = mean_losses(&dp);
    let adamw = site.run("adamw", &DP[..2]);
    adamw.finish();
    println!("loss {first:.3} to {last:.3}, by AdamW to {:.3}", mean_losses(&adamw)[1]);
    assert!(last < first - 1.0, "{first} to {last}");

    let again = site.run_from("again", &DP, &dp, &[20]);
    again.finish();
    again.assert_ended_like(&dp);

    // 2 blocks of q, k, v, o, gate, up, down.
    let state = values(&dp, 20);
    let kinds = |kind| state.iter().filter(|(k, ..)| *k == kind).count();
    assert_eq!((kinds(Kind::M), kinds(Kind::V)), (kinds(Kind::Weight), kinds(Kind::Weight) - 14));
    for (name, tp, zero) in [("as-tp", 2, 1), ("as-zero-0", 1, 0), ("as-zero-3", 1, 3)] {
        let written = site.run(name, &[]);
        rewrite_with(&dp, tp, zero, &written, &[MUON]);
        assert!(values(&written, 20) == state, "state of {name}");
    }

    let tp = site.run_from("tp", &TP, &dp, &[20]);
    tp.finish();
    assert_goes_on_like(&tp, &dp, 20);
    let back = site.run_from("back", &DP, &tp, &[40]);
    back.finish();
    assert_goes_on_like(&back, &dp, 40);
    assert!(dp.finished(STEPS));
}

#[test]
fn a_run_by_muon_is_not_resumed_by_adamw() {
    let site = Site::in_memory();
    let run = site.run("muon", &["--set", MUON, "--set", "phase.1.steps=1"]);
    run.finish();
    let other = site.run_from("adamw", &["--set", "phase.1.steps=1"], &run, &[20]);
    let status = other.start().wait();
    assert_eq!(status.code(), Some(2), "{}", other.stderr());
    let said = other.stderr();
    assert!(said.contains("optim.") && said.contains("differs from what the run was started with"), "{said}");
}
