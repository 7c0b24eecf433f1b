//! A signal in the middle of an evaluation: the run stops within a batch and makes the evaluation when it goes on.

use super::process::{RUN, Run, Site};
use super::{RANKS, until};
use serde_json::Value;

fn evaluating(site: &Site, name: &str) -> Run {
    let run = site.run(name, &RANKS);
    let eval = "eval = { on = [\"large\"], every = \"20 steps\", tokens = 1_000_000 }\n[run]\n";
    std::fs::write(run.folder.join("run.toml"), RUN.replacen("[run]\n", eval, 1)).expect("write");
    run
}

/// Step and loss of each evaluation.
fn evaluations(run: &Run) -> Vec<(u64, String)> {
    let text = std::fs::read_to_string(run.folder.join("run/metrics.jsonl")).expect("metrics");
    let rows = text.lines().filter_map(|l| serde_json::from_str::<Value>(l).ok());
    rows.filter(|row| row["kind"] == "eval")
        .map(|row| (row["step"].as_u64().expect("a step"), row["nll_token"].to_string()))
        .collect()
}

#[test]
fn asked_to_stop_in_an_evaluation_it_stops_and_makes_it_up() {
    let site = Site::in_memory();
    let calm = evaluating(&site, "calm");
    calm.finish();
    let all = evaluations(&calm);
    // Every 20 steps, and at the ends of the phases.
    assert_eq!(all.iter().map(|e| e.0).collect::<Vec<_>>(), [20, 33, 40, 60]);
    for step in [20, 33, 60] {
        let caught = (0..20).any(|attempt| {
            let run = evaluating(&site, &format!("at-{step}-{attempt}"));
            let metrics = run.folder.join("run/metrics.jsonl");
            let reached = || {
                let row = format!("\"kind\":\"step\",\"step\":{step},");
                std::fs::read_to_string(&metrics).is_ok_and(|text| text.contains(&row))
            };
            let process = run.start();
            if !until(&process, reached) {
                return false;
            }
            process.signal(libc::SIGTERM);
            let status = process.wait();
            if status.success() {
                return false; // it was over before the signal came
            }
            assert_eq!(status.code(), Some(75), "{status}: {}", run.stderr());
            let text = std::fs::read_to_string(&metrics).expect("metrics");
            let owed = text
                .lines()
                .any(|l| l.contains("\"evaluation_owed\"") && l.contains(&format!("\"step\":{step},")));
            assert!(run.finished(step) || !owed, "what it goes on from is not there");
            run.finish();
            run.assert_ended_like(&calm);
            assert_eq!(evaluations(&run), all, "evaluations, one of which was cut short at {step}");
            owed
        });
        assert!(caught, "20 evaluations at step {step} were over before they could be stopped");
    }
}
