//! A run whose first phase is sparse and whose second is dense (S7 and S9 of our list: the switch, and kills around it).

use super::assert_goes_on_like;
use super::process::{STEPS, Site};
use serde_json::Value;

const SPDF: &str = "phase.0.spdf={ sparsity = 0.75 }";
const DP: [&str; 4] = ["--ranks", "2", "--set", SPDF];
const TP: [&str; 8] = ["--ranks", "4", "--set", SPDF, "--set", "parallel.tp=2", "--set", "parallel.zero=3"];

#[test]
fn a_sparse_phase_resumes_to_the_same_bytes_and_on_another_topology_within_it_and_at_the_switch() {
    let site = Site::in_memory();
    let dp = site.run("sparse", &DP);
    dp.finish();
    assert!(dp.finished(STEPS));

    // 20 is within the sparse phase, which ends at 33; 40 lies behind it.
    for step in [20, 40] {
        let again = site.run_from(&format!("again-{step}"), &DP, &dp, &[step]);
        again.finish();
        again.assert_ended_like(&dp);
        let tp = site.run_from(&format!("tp-{step}"), &TP, &dp, &[step]);
        tp.finish();
        assert_goes_on_like(&tp, &dp, step);
    }

    let text = std::fs::read_to_string(dp.folder.join("run/metrics.jsonl")).expect("metrics");
    let rows: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("a row")).collect();
    let phases: Vec<&Value> = rows.iter().filter(|r| r["kind"] == "phase").collect();
    let spdf = &phases[0]["spdf"];
    // 2 blocks of 32: q, o, k and v of half the heads, and three of (64, 32).
    let values = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32);
    assert_eq!((spdf["values"].as_u64(), spdf["zeros"].as_u64()), (Some(values), Some(values / 4 * 3)));
    assert!(phases[1]["spdf"].is_null());
    let flops = |what: &str| spdf["flops_per_token"][what]["full"].as_f64().expect("a number");
    assert_eq!(flops("dense") - flops("sparse"), 6.0 * (values / 4 * 3) as f64);
}

#[test]
fn what_the_run_keeps_at_zero_must_be_zero_where_it_goes_on() {
    let site = Site::in_memory();
    let short = ["--set", "phase.0.steps=25", "--set", "phase.1.steps=1"];
    let run = site.run("sparse", &[&["--set", SPDF][..], &short].concat());
    run.finish();
    // Another seed: other zeros. The run file says so first.
    let seed = "phase.0.spdf={ sparsity = 0.75, seed = 8 }";
    let other = site.run_from("seed", &[&["--set", seed][..], &short].concat(), &run, &[20]);
    let status = other.start().wait();
    assert_eq!(status.code(), Some(2), "{}", other.stderr());
    assert!(other.stderr().contains("phase.0.spdf"), "{}", other.stderr());
    // A checkpoint whose run file lies: as if the program drew its zeros in another way.
    let lied = site.run_from("lied", &[&["--set", seed][..], &short].concat(), &run, &[20]);
    let file = lied.checkpoint(20).join("run.toml");
    let text = std::fs::read_to_string(&file).expect("its run file");
    std::fs::write(&file, text.replace("sparsity = 0.75, seed = 7", "sparsity = 0.75, seed = 8"))
        .expect("write");
    let status = lied.start().wait();
    let said = lied.stderr();
    assert!(status.code() == Some(4) || said.contains("run.toml"), "{status}: {said}");
    assert!(!status.success(), "{said}");
}
