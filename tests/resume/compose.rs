//! Methods in one run: a network that changes at a switch is exact there on every topology, and a run goes on from the switch and
//! from within.

use super::process::{Run, STEPS, Site};
use serde_json::Value;

const BLOCKS: &str = "phase.0.spdf={ sparsity = 0.5, pattern = \"block:16\" }";
const ON_TP: [&str; 6] = ["--ranks", "4", "--set", "parallel.tp=2", "--set", "parallel.zero=3"];

fn sets(args: &[&str], keys: &[&str]) -> Vec<String> {
    let keys = keys.iter().flat_map(|key| ["--set", key]);
    args.iter().copied().chain(keys).map(String::from).collect()
}

fn run(site: &Site, name: &str, args: &[String]) -> Run {
    let run = site.run(name, &args.iter().map(String::as_str).collect::<Vec<_>>());
    run.finish();
    run
}

/// Resumed at the switch and within the second phase: to the same bytes, and on another topology to the same losses.
fn goes_on(site: &Site, keys: &[&str], name: &str) -> Run {
    let dp = sets(&["--ranks", "2"], keys);
    let whole = run(site, name, &dp);
    for step in [20, 40] {
        let from = |at: &str, args: &[String]| {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let again = site.run_from(&format!("{name}-{at}-{step}"), &args, &whole, &[step]);
            again.finish();
            again
        };
        from("again", &dp).assert_ended_like(&whole);
        let (ours, theirs) = (from("tp", &sets(&ON_TP, keys)).losses(), whole.losses());
        for at in step + 1..=step + 15 {
            let gap = (ours[&at] / theirs[&at] - 1.0).abs();
            assert!(gap <= 1e-5, "{name} from {step}: loss of step {at} is off by {gap:e}");
        }
    }
    whole
}

fn rows(run: &Run, kind: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(run.folder.join("run/metrics.jsonl")).expect("metrics");
    let rows = text.lines().map(|l| serde_json::from_str::<Value>(l).expect("a row"));
    rows.filter(|r| r["kind"] == kind).collect()
}

/// SPDF in blocks and its dense fine-tuning: what was no weight is zero at the switch, and trained after it.
#[test]
fn a_run_in_blocks_becomes_a_dense_one_within_the_run() {
    let site = Site::in_memory();
    let keys = ["model.dim=64", "phase.0.steps=20", "phase.1.steps=40", BLOCKS];
    let whole = goes_on(&site, &keys, "freed");
    let still = run(
        &site,
        "still",
        &sets(&["--ranks", "2"], &[&keys[..], &[&BLOCKS.replace("phase.0", "phase.1")]].concat()),
    );
    let (freed, kept) = (whole.losses(), still.losses());
    assert!((freed[&21] / kept[&21] - 1.0).abs() < 1e-6, "{} and {}", freed[&21], kept[&21]);
    assert!(freed[&30] != kept[&30]);
    let bytes = |run: &Run, step: u64| -> u64 {
        let all = rows(run, "checkpoint").into_iter().filter(|r| r["step"] == step);
        all.filter_map(|r| r["bytes"].as_u64()).max().expect("a checkpoint")
    };
    assert!(bytes(&whole, STEPS) as f64 > 1.3 * bytes(&whole, 20) as f64);
}

/// A model in blocks becomes whole and larger at once, and is taught by a third for a while. At the switch nothing is lost.
#[test]
fn a_model_in_blocks_grows_and_goes_on_with_a_teacher() {
    let site = Site::in_memory();
    run(&site, "teacher", &sets(&[], &["model.layers=1", "phase.0.steps=2", "phase.1.steps=1"]));
    let before = ["model.dim=64", "phase.0.steps=20", "phase.1.steps=40", BLOCKS];
    let salt = "phase.1.salt={ teacher = \"ckpt:../teacher/run\", weight = [{ kind = \"const\", to = 0.5, steps = 25 }, \
                { kind = \"const\", to = 0.0 }] }";
    let grow = "phase.1.grow={ to = { dim = 128, heads = 8, kv_heads = 4, ffn_dim = 128, layers = 3 } }";
    let whole = goes_on(&site, &[&before[..], &[grow, salt]].concat(), "composed");
    let phases = rows(&whole, "phase");
    assert_eq!((&phases[0]["spdf"]["compact"], &phases[1]["spdf"]), (&true.into(), &Value::Null));
    assert_eq!((&phases[1]["grow"]["to"]["dim"], &phases[1]["grow"]["exact"]), (&128.into(), &true.into()));
    assert_eq!(phases[1]["salt"]["updates"], 25);
    let small = run(&site, "ungrown", &sets(&["--ranks", "2"], &[&before[..], &[salt]].concat()));
    let first = |run: &Run, term: &str| {
        let step =
            rows(run, "step").into_iter().find(|r| r["step"] == 21).expect("the first after the switch");
        step["terms"][term].as_f64().expect("a term")
    };
    for term in ["ce", "kd"] {
        let (large, small) = (first(&whole, term), first(&small, term));
        assert!((large / small - 1.0).abs() < 1e-5, "{term}: {large} after growth, {small} without");
    }
}
