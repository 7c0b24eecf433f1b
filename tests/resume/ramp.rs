//! A batch that grows within a phase: the same training, to the bit, as its sizes written as phases of their own; resumed
//! anywhere in the middle; foretold by the dry run.

use super::process::{RUN, Run, Site, files};
use espalier::checkpoint::{Area, Checkpoint, Kind};
use serde_json::{Value, json};
use std::process::Command;

/// Sequences of each update of `ramped`, worked out by hand: 10 samples a size, to the end of the update that passes them.
const SIZES: [u64; 16] = [2, 2, 2, 2, 2, 4, 4, 4, 6, 6, 8, 8, 8, 8, 8, 8];
const STEPS: u64 = SIZES.len() as u64;
const LR: &str = "lr = [{ kind = \"linear\", to = 2e-3, steps = 4 }, { kind = \"cosine\", to = 2e-4 }]";

/// The run of `process::RUN` with other phases and a checkpoint after every update.
fn with_phases(phases: &str) -> String {
    let head = &RUN[..RUN.find("[[phase]]").expect("phases come last")];
    let cadence = "every = \"1 steps\", keep_last = 2, keep_every = \"1 steps\"";
    let head = head.replace("every = \"5 steps\", keep_last = 2, keep_every = \"20 steps\"", cadence);
    assert!(head.contains(cadence));
    head.replace("global_batch = 4", "global_batch = 8") + phases
}

/// Two corpora; and one, of which a phase draws on as if it had not begun anew.
const BOTH: &str = "mix = { large = 0.7, small = 0.3 }";
const LARGE: &str = "mix = { large = 1.0, small = 0.0 }";

fn ramped(mix: &str) -> String {
    let batch = "steps = 16\nbatch_ramp = { from = 2, by = 2, samples = 30 }";
    with_phases(&format!("[[phase]]\nname = \"all\"\n{mix}\n{batch}\n{LR}\n"))
}

fn in_phases() -> String {
    let phases = [(2, 5), (4, 3), (6, 2), (8, 6)].map(|(batch, steps)| {
        let schedule = if batch == 2 { LR } else { "schedule = \"keep\"" };
        format!(
            "[[phase]]\nname = \"{batch}\"\nsteps = {steps}\nglobal_batch = {batch}\n{LARGE}\n{schedule}\n"
        )
    });
    with_phases(&phases.concat())
}

fn start(site: &Site, name: &str, text: &str, args: &[&str]) -> Run {
    let run = site.run(name, args);
    std::fs::write(run.folder.join("run.toml"), text).expect("write");
    run
}

fn rows(run: &Run, kind: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(run.folder.join("run/metrics.jsonl")).expect("metrics");
    let rows = text.lines().map(|l| serde_json::from_str::<Value>(l).expect("a row"));
    rows.filter(|row| row["kind"] == kind).collect()
}

/// What an update was and what it did, without times and sizes of memory.
fn updates(run: &Run) -> Vec<Value> {
    let keys = ["step", "sample", "tokens", "global_batch", "loss", "grad_norm", "clip", "lr", "weight_sum"];
    let pick = |row: Value| keys.iter().map(|key| (key.to_string(), row[*key].clone())).collect::<Value>();
    rows(run, "step").into_iter().map(pick).collect()
}

/// All values of the last checkpoint, as bits.
fn values(run: &Run) -> Vec<(Kind, String, Vec<u32>)> {
    let c = Checkpoint::open(&run.checkpoint(STEPS)).expect("a checkpoint");
    let mut all = vec![];
    for (kind, spec) in Kind::ALL.into_iter().flat_map(|k| c.manifest().params.iter().map(move |p| (k, p))) {
        let mut out = vec![0.0; spec.len()];
        if c.read(kind, spec, Area::whole(spec), &mut out).expect("readable").is_some() {
            all.push((kind, spec.name.clone(), out.iter().map(|x| x.to_bits()).collect()));
        }
    }
    all
}

#[test]
fn a_ramp_trains_to_the_bit_what_its_sizes_train_as_phases() {
    let site = Site::in_memory();
    let topologies: [&[&str]; 4] = [
        &[],
        &["--ranks", "2", "--set", "parallel.micro_batch=1"],
        &["--ranks", "2", "--set", "parallel.tp=2", "--set", "run.dtype=bf16"],
        &["--ranks", "2", "--set", "parallel.zero=0"],
    ];
    let mut alone = vec![];
    for (i, args) in topologies.into_iter().enumerate() {
        let ramp = start(&site, &format!("ramp-{i}"), &ramped(LARGE), args);
        let phases = start(&site, &format!("phases-{i}"), &in_phases(), args);
        ramp.finish();
        phases.finish();
        let (ours, theirs) = (updates(&ramp), updates(&phases));
        assert_eq!(ours, theirs, "{args:?}");
        assert!(values(&ramp) == values(&phases), "weights and optimizer state of {args:?}");

        let (mut sample, tokens) = (0, 32);
        assert_eq!(ours.len(), SIZES.len());
        for (row, size) in ours.iter().zip(SIZES) {
            sample += size;
            let told = ["global_batch", "sample", "tokens"].map(|key| row[key].as_u64().expect("a number"));
            assert_eq!(told, [size, sample, sample * tokens]);
        }
        let phase = &rows(&ramp, "phase")[0];
        assert_eq!(phase["batch_ramp"], json!({ "from": 2, "by": 2, "samples": 30 }));
        assert_eq!((&phase["steps"], &phase["global_batch"]), (&json!(16), &json!(8)));
        assert_eq!(rows(&phases, "phase")[0]["batch_ramp"], Value::Null);

        if i == 0 {
            alone = ours;
        } else if !args.contains(&"run.dtype=bf16") {
            for (a, b) in alone.iter().zip(&ours) {
                let [a, b] = [a, b].map(|row| row["loss"].as_f64().expect("a loss"));
                assert!((a / b - 1.0).abs() < 1e-5, "{args:?}: {a} and {b}");
            }
        }
    }
}

#[test]
fn resumed_anywhere_in_a_ramp_it_ends_with_the_same_bytes() {
    let site = Site::in_memory();
    let dp2 = ["--ranks", "2"];
    let calm = start(&site, "calm", &ramped(BOTH), &dp2);
    calm.finish();
    let all = updates(&calm);
    // In the middle of a size, at its last and its first update, and beyond the ramp.
    for step in [1, 4, 5, 6, 8, 9, 10, 11, 15] {
        let run = site.run_from(&format!("from-{step}"), &dp2, &calm, &[step]);
        std::fs::write(run.folder.join("run.toml"), ramped(BOTH)).expect("write");
        run.finish();
        assert_eq!(updates(&run), all[step as usize..], "from {step}");
        let (ours, theirs) = (files(&run.checkpoint(STEPS)), files(&calm.checkpoint(STEPS)));
        assert!(ours == theirs, "the last checkpoint, resumed at {step}");
    }
    // Killed by surprise.
    let run = start(&site, "killed", &ramped(BOTH), &dp2);
    let process = run.start();
    while !run.finished(7) {
        assert!(process.ended().is_none(), "{}", run.stderr());
        std::thread::sleep(std::time::Duration::from_micros(200));
    }
    process.signal(libc::SIGKILL);
    process.wait();
    run.finish();
    assert!(files(&run.checkpoint(STEPS)) == files(&calm.checkpoint(STEPS)));
    assert_eq!(run.losses(), calm.losses());

    // Another ramp is another run.
    let other = site.run_from("other", &dp2, &calm, &[6]);
    std::fs::write(other.folder.join("run.toml"), ramped(BOTH).replace("samples = 30", "samples = 36"))
        .expect("write");
    assert_eq!(other.start().wait().code(), Some(2));
    assert!(other.stderr().contains("phase.0.batch_ramp"), "{}", other.stderr());
}

#[test]
fn a_dry_run_foretells_the_updates_of_a_ramp_and_ranks_that_cannot_share_one_are_refused() {
    let site = Site::in_memory();
    let run = start(&site, "plan", &ramped(BOTH), &[]);
    let dry = |args: &[&str]| {
        let all = [&["train", "run.toml", "--threads", "1", "--dry-run"], args].concat();
        let out = Command::new(env!("CARGO_BIN_EXE_espalier")).args(all).current_dir(&run.folder).output();
        let out = out.expect("the program starts");
        (out.status.code(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
    };
    let (code, text) = dry(&["--json", "--ranks", "2"]);
    assert_eq!(code, Some(0), "{text}");
    let plan: Value = serde_json::from_str(&text).expect("JSON");
    let phase = &plan["phases"][0];
    assert_eq!((&phase["steps"], &phase["tokens"]), (&json!(16), &json!(82 * 32)));
    let batch = |updates, batch, micro| json!({ "updates": updates, "global_batch": batch, "micro_batch": micro, "micro_steps": 1 });
    assert_eq!(phase["batches"], json!([batch(5, 2, 1), batch(3, 4, 2), batch(2, 6, 3), batch(6, 8, 4)]));

    let (_, page) = dry(&[]);
    for part in ["batch grows: 2 in 5 updates, 4 in 3, 6 in 2, 8 in 6", " 2..8 "] {
        assert!(page.contains(part), "{part:?} is not in\n{page}");
    }
    // The budget in tokens: 82 sequences of 32 are 16 updates, one token more is another.
    for (tokens, steps) in [(82 * 32, 16), (82 * 32 + 1, 17), (1, 1), (64, 1), (65, 2), (10 * 32 + 1, 6)] {
        let (_, text) = dry(&[
            "--json",
            "--set",
            &format!("phase.0.tokens={tokens}"),
            "--set",
            "phase.0.lr=[{ kind = \"const\", to = 1e-3 }]",
        ]);
        let plan: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert_eq!(plan["phases"][0]["steps"], steps, "{tokens} tokens");
    }

    let (code, text) = dry(&["--ranks", "4"]);
    assert_eq!(code, Some(2));
    assert_eq!(
        text,
        "espalier: run.toml: phase.0.batch_ramp: 2 sequences in phase \"all\", a size of its batch_ramp, do not split \
         into 4 data-parallel ranks with micro-batches of 1; make `from`, `by` and global_batch multiples of 4\n"
    );
}
