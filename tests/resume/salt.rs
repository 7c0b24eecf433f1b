//! A run whose first phase is taught for a part of it, and a teacher that is a run of its own: kills while it teaches, after it
//! has gone, and on another topology.

use super::process::{STEPS, Site};
use serde_json::Value;

/// 25 of 33 updates.
const SALT: &str = "phase.0.salt={ teacher = \"ckpt:../small/run@40\", temperature = 0.5, \
                    weight = [{ kind = \"const\", to = 0.6, steps = 25 }, { kind = \"const\", to = 0.0 }] }";
const SMALL: [&str; 8] = [
    "--set",
    "model.dim=16",
    "--set",
    "model.heads=2",
    "--set",
    "model.head_dim=8",
    "--set",
    "model.layers=1",
];
const DP: [&str; 4] = ["--ranks", "2", "--set", SALT];
const TP: [&str; 8] = ["--ranks", "4", "--set", SALT, "--set", "parallel.tp=2", "--set", "parallel.zero=3"];

#[test]
fn a_taught_phase_resumes_to_the_same_bytes_and_on_another_topology_with_and_after_its_teacher() {
    let site = Site::in_memory();
    let small = site.run("small", &SMALL);
    small.finish();
    let dp = site.run("taught", &DP);
    dp.finish();
    assert!(dp.finished(STEPS));

    // 20 is taught, at 40 there is no teacher any more.
    for step in [20, 40] {
        let again = site.run_from(&format!("again-{step}"), &DP, &dp, &[step]);
        again.finish();
        again.assert_ended_like(&dp);
        let tp = site.run_from(&format!("tp-{step}"), &TP, &dp, &[step]);
        tp.finish();
        // Later a rare token meets weights that Adam moved by what was rounding.
        let (ours, theirs) = (tp.losses(), dp.losses());
        for at in step + 1..=50 {
            let gap = (ours[&at] / theirs[&at] - 1.0).abs();
            assert!(gap <= 1e-5, "loss of step {at} is off by {gap:e}");
        }
    }

    let text = std::fs::read_to_string(dp.folder.join("run/metrics.jsonl")).expect("metrics");
    let rows: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("a row")).collect();
    let of = |kind: &str| rows.iter().filter(|r| r["kind"] == kind).collect::<Vec<_>>();
    let phases = of("phase");
    assert_eq!(phases[0]["salt"]["updates"], 25);
    assert!(phases[0]["salt"]["params"].as_u64().expect("a number") < 20_000 && phases[1]["salt"].is_null());
    for (i, row) in of("step").iter().enumerate() {
        let number = |at: &Value| at.as_f64().expect("a number");
        let (share, kd) = (number(&row["teacher"]), &row["terms"]["kd"]);
        assert_eq!((share, kd.is_null()), if i < 25 { (0.6, false) } else { (0.0, true) }, "update {i}");
        let kd = if kd.is_null() { 0.0 } else { number(kd) };
        let loss = (1.0 - share) * number(&row["terms"]["ce"]) + share * kd;
        assert!((loss - number(&row["loss"])).abs() < 1e-9, "update {i}");
    }
    let freed: Vec<&Value> = of("event").into_iter().filter(|r| r["name"] == "teacher_freed").collect();
    assert_eq!(freed.iter().map(|r| r["step"].as_u64()).collect::<Vec<_>>(), [Some(25)]);

    // Another teacher is another run.
    let other = SALT.replace("@40", "@60");
    let resumed = site.run_from("other", &["--set", &other], &dp, &[20]);
    assert_eq!(resumed.start().wait().code(), Some(2), "{}", resumed.stderr());
    assert!(resumed.stderr().contains("phase.0.salt"), "{}", resumed.stderr());
}

#[test]
fn a_student_that_passes_its_teacher_is_taught_no_more_and_a_resume_remembers_it() {
    let site = Site::in_memory();
    let small =
        site.run("small", &[&SMALL[..], &["--set", "phase.0.steps=2", "--set", "phase.1.steps=1"]].concat());
    small.finish();
    let args = |margin: &str| -> Vec<String> {
        let salt = format!(
            "phase.0.salt={{ teacher = \"ckpt:../small/run\", until = \"passed\", margin = {margin}, \
             weight = [{{ kind = \"const\", to = 0.5 }}] }}"
        );
        let eval = "eval={ on = [\"small\"], every = \"10 steps\", tokens = 500 }";
        ["--set", &salt, "--set", eval, "--set", "phase.1.steps=1"].map(String::from).to_vec()
    };
    let shares = |run: &super::process::Run| -> Vec<bool> {
        let text = std::fs::read_to_string(run.folder.join("run/metrics.jsonl")).expect("metrics");
        let rows = text.lines().map(|l| serde_json::from_str::<Value>(l).expect("a row"));
        rows.filter(|r| r["kind"] == "step").map(|r| r["teacher"] != 0.0).collect()
    };
    let run = |name: &str, margin: &str| {
        let args = args(margin);
        let run = site.run(name, &args.iter().map(String::as_str).collect::<Vec<_>>());
        run.finish();
        run
    };
    // Any student is within 10 nats, at the first look; none is 10 nats better.
    let soon = run("soon", "10.0");
    assert_eq!(shares(&soon), (0..34).map(|i| i < 10).collect::<Vec<_>>());
    assert!(soon.stderr().contains("has passed the teacher's"), "{}", soon.stderr());
    let never = run("never", "-10.0");
    assert_eq!(shares(&never), (0..34).map(|i| i < 33).collect::<Vec<_>>());
    let args = args("10.0");
    let again = site.run_from("again", &args.iter().map(String::as_str).collect::<Vec<_>>(), &soon, &[20]);
    again.finish();
    again.assert_same_at(&soon, 34);
    assert!(shares(&again).iter().all(|taught| !taught));
}

/// The loss is that of teacher and targets, and moves with the share: what is looked for in it is looked for in the targets' alone.
#[test]
fn a_teacher_is_no_spike_and_a_replay_has_it_as_the_run_had() {
    let site = Site::in_memory();
    let short = ["--set", "phase.0.steps=20", "--set", "phase.1.steps=1"];
    site.run("small", &[&SMALL[..], &short].concat()).finish();
    let salt = "phase.0.salt={ teacher = \"ckpt:../small/run\", loss = \"rkl\", \
                weight = [{ kind = \"const\", to = 0.667, frac = 0.5 }, { kind = \"const\", to = 0.0 }] }";
    let looks = |sigma: &str| format!("numerics={{ spike = \"stop\", window = 5, sigma = {sigma} }}");
    let calm = site.run("calm", &[&short[..], &["--set", salt, "--set", &looks("50.0")]].concat());
    calm.finish();
    // The first update after the window is one, with the teacher.
    let stops = site.run("stops", &[&short[..], &["--set", salt, "--set", &looks("1e-6")]].concat());
    let status = stops.start().wait();
    assert_eq!(status.code(), Some(6), "{}", stops.stderr());
    let said = stops.stderr();
    let how = said.lines().find_map(|l| l.split_once("looked at: espalier ")).expect("how to look at it").1;
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_espalier"))
        .args(how.split(' '))
        .current_dir(&stops.folder)
        .env_clear()
        .output()
        .expect("the program starts");
    let found = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(found.contains("the same bits"), "{how}: {found}{}", String::from_utf8_lossy(&out.stderr));
}

#[test]
fn a_teacher_that_does_not_fit_is_refused_before_anything_is_written() {
    let site = Site::in_memory();
    let small =
        site.run("small", &[&SMALL[..], &["--set", "phase.0.steps=2", "--set", "phase.1.steps=1"]].concat());
    small.finish();
    let refused = |name: &str, args: &[&str], code: i32, says: &str| {
        let run = site.run(name, args);
        let status = run.start().wait();
        assert_eq!(status.code(), Some(code), "{name}: {}", run.stderr());
        assert!(run.stderr().contains(says), "{name}: no {says:?} in {}", run.stderr());
        assert!(!run.folder.join("run").exists(), "{name}");
    };
    let salt = |teacher: &str| {
        format!("phase.0.salt={{ teacher = \"{teacher}\", weight = [{{ kind = \"const\", to = 0.5 }}] }}")
    };
    let here = salt("ckpt:../small/run");
    refused("absent", &["--set", &salt("ckpt:../no-such")], 4, "no checkpoint");
    refused(
        "step",
        &["--set", &salt("ckpt:../small/run@77")],
        4,
        "no checkpoint of step 77 (steps there: 2, 3)",
    );
    refused(
        "vocab",
        &["--set", &here, "--set", "model.vocab=300"],
        2,
        "its vocabulary is 257 and the student's 300",
    );
    let wide = ["--set", &here, "--set", "parallel.tp=4", "--ranks", "4"];
    refused("tp", &wide, 2, "tp = 4 does not divide its heads: 2");
    refused("average", &["--set", &salt("ema:../small/run")], 4, "no average of the weights");
}
