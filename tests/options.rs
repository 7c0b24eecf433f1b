//! Runs of the program with options of the loss and the optimizer: what they report, keep and hand on.

#[path = "common/process.rs"]
mod process;

use espalier::checkpoint::{Area, Checkpoint, Kind};
use process::{Run, STEPS, Site};
use serde_json::Value;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

const EMA: [&str; 2] = ["--set", "optim.ema={ decay = 0.9 }"];

fn rows(run: &Run, kind: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(run.folder.join("run/metrics.jsonl")).expect("metrics");
    let rows = text.lines().map(|l| serde_json::from_str::<Value>(l).expect("a row"));
    rows.filter(|row| row["kind"] == kind).collect()
}

/// All values of this kind, as bits.
fn values(run: &Run, step: u64, kind: Kind) -> Vec<u32> {
    let c = Checkpoint::open(&run.checkpoint(step)).expect("a checkpoint");
    let mut all = vec![];
    for spec in &c.manifest().params {
        let mut out = vec![0.0; spec.len()];
        if c.read(kind, spec, Area::whole(spec), &mut out).expect("readable").is_some() {
            all.extend(out.iter().map(|x| x.to_bits()));
        }
    }
    all
}

fn output(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_espalier"));
    command.args(args).current_dir(folder).output().expect("it starts")
}

/// The exit code and what it says on stderr.
fn espalier(folder: &Path, args: &[&str]) -> (Option<i32>, String) {
    let out = output(folder, args);
    (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
}

/// What it prints.
fn printed(folder: &Path, args: &[&str]) -> String {
    let out = output(folder, args);
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

#[test]
fn steps_report_the_terms_of_their_loss_and_a_phase_may_have_no_z_term() {
    let site = Site::in_memory();
    let options = [
        "--set",
        "run.z_loss=1e-3",
        "--set",
        "phase.1.z_loss=0",
        "--set",
        "model.logit_softcap=8",
        "--ranks",
        "2",
    ];
    let run = site.run("terms", &options);
    run.finish();
    let steps = rows(&run, "step");
    assert_eq!(steps.len() as u64, STEPS);
    for (i, row) in steps.iter().enumerate() {
        let [loss, ce] = [&row["loss"], &row["terms"]["ce"]].map(|x| x.as_f64().expect("a number"));
        match row["terms"].get("z").map(|z| z.as_f64().expect("a number")) {
            Some(z) => {
                assert!(
                    i < 33 && z > 0.0 && (loss - ce - z).abs() <= 1e-12,
                    "step {i}: {loss} is not {ce} + {z}"
                );
                // Logits are small at first: z is ln 257 everywhere.
                assert!(i > 0 || (z / (1e-3 * 257f64.ln().powi(2)) - 1.0).abs() < 0.02, "{z}");
            }
            None => assert!(i >= 33 && loss == ce, "step {i}"),
        }
    }
    let plain = site.run("plain", &options[2..]);
    plain.finish();
    assert!(values(&run, STEPS, Kind::Weight) != values(&plain, STEPS, Kind::Weight), "the z term trains");
    let message = espalier(&run.folder, &["export", "run", "--out", "hf"]);
    assert!(message.0 == Some(2) && message.1.contains("logit_softcap 8.0"), "{message:?}");
}

#[test]
fn an_average_is_kept_over_kills_and_changes_nothing_that_is_trained() {
    let site = Site::in_memory();
    let eval = |weights: &str| {
        format!("eval={{ on = [\"small\"], every = \"7 steps\", tokens = 900, weights = \"{weights}\" }}")
    };
    for dtype in ["run.dtype=f32", "run.dtype=bf16"] {
        let name = |rest: &str| format!("{dtype}-{rest}");
        let (ema, trained) = (eval("ema"), eval("trained"));
        let args = ["--ranks", "2", "--set", dtype, "--set", &ema, EMA[0], EMA[1]];
        let calm = site.run(&name("calm"), &args);
        calm.finish();
        let killed = site.run(&name("killed"), &args);
        let process = killed.start();
        while !killed.finished(10) {
            assert!(process.ended().is_none(), "{}", killed.stderr());
            std::thread::sleep(Duration::from_micros(200));
        }
        assert!(process.stop().is_none(), "it ended before it could be killed");
        process.signal(libc::SIGKILL);
        assert_eq!(process.wait().signal(), Some(libc::SIGKILL));
        killed.finish();
        killed.assert_ended_like(&calm);
        assert_eq!(killed.losses(), calm.losses());

        let plain = site.run(&name("plain"), &["--ranks", "2", "--set", dtype, "--set", &trained]);
        plain.finish();
        for kind in [Kind::Weight, Kind::Master, Kind::M, Kind::V] {
            assert!(values(&calm, STEPS, kind) == values(&plain, STEPS, kind), "{kind} of {dtype}");
        }
        let [average, weights] = [Kind::Ema, Kind::Weight].map(|kind| values(&calm, STEPS, kind));
        assert!(
            average.len() == weights.len()
                && average != weights
                && values(&plain, STEPS, Kind::Ema).is_empty()
        );
        let of =
            |run: &Run| rows(run, "eval").into_iter().map(|r| (r["weights"].clone(), r["nll_token"].clone()));
        assert!(of(&calm).all(|(w, _)| w == "ema") && of(&plain).all(|(w, _)| w == "trained"));
        assert!(of(&calm).zip(of(&plain)).all(|(a, b)| a.1 != b.1), "other weights have other losses");

        // The same numbers from outside; the run's last evaluation was at its last checkpoint.
        let outside = |which: &[&str]| -> Value {
            let eval = ["eval", "run", "--on", "small", "--tokens", "900", "--json", "--ranks", "2"];
            let eval = [&eval, which].concat();
            serde_json::from_str(&printed(&calm.folder, &eval)).expect("JSON")
        };
        for (run, which, name) in [(&calm, &["--ema"][..], "ema"), (&plain, &[], "trained")] {
            let (told, found) = (of(run).next_back().expect("an evaluation").1, outside(which));
            assert_eq!(found["weights"], name);
            assert_eq!(found["results"][0]["nll_token"], told, "{name} of {dtype}");
        }
    }
}

/// ZeRO 0, ZeRO 1 and tensor parallelism keep it in other pieces.
#[test]
fn an_average_resumes_on_another_topology() {
    let site = Site::in_memory();
    let one = site.run("one", &EMA);
    one.finish();
    let others =
        [("dp", vec!["--ranks", "2"]), ("dp-whole", vec!["--ranks", "2", "--set", "parallel.zero=0"])];
    for (name, args) in others {
        // From the end of the first phase on; nothing is trained but to rounding.
        let run = site.run_from(name, &[&args[..], &EMA].concat(), &one, &[55]);
        run.finish();
        let close = values(&run, STEPS, Kind::Ema).into_iter().zip(values(&one, STEPS, Kind::Ema));
        let gap = close.map(|(a, b)| (f32::from_bits(a) - f32::from_bits(b)).abs()).fold(0.0, f32::max);
        assert!(gap < 1e-4, "{name}: {gap}");
        let lost = values(&run, STEPS, Kind::Ema).into_iter().zip(values(&run, STEPS, Kind::Weight));
        assert!(lost.filter(|(a, b)| a != b).count() > 1000, "{name}: the average is not the weights");
    }
}

#[test]
fn a_run_begins_with_the_average_of_another_and_commands_use_it() {
    let site = Site::on_disk();
    let eval = "eval={ on = [\"large\"], every = \"1000 steps\", tokens = 2000, weights = \"ema\" }";
    let first = site.run("first", &["--set", eval, EMA[0], EMA[1]]);
    first.finish();
    let told = rows(&first, "eval").last().expect("one at the end")["nll_token"].as_f64().expect("a number");

    // It begins with the average and learns nothing.
    let stands = [
        "--set",
        "run.init=ema:../first/run",
        "--set",
        "phase.0.lr=[{ kind = \"const\", to = 0.0 }]",
        "--set",
        "phase.1.lr=[{ kind = \"const\", to = 0.0 }]",
        "--set",
        "eval={ on = [\"large\"], every = \"1000 steps\", tokens = 2000 }",
    ];
    let second = site.run("second", &stands);
    second.finish();
    let found =
        rows(&second, "eval").last().expect("one at the end")["nll_token"].as_f64().expect("a number");
    assert!((found / told - 1.0).abs() < 1e-6, "{found}, and {told} by the average");
    assert!(values(&second, STEPS, Kind::Weight) == values(&first, STEPS, Kind::Ema), "bit by bit");

    // What is exported of the first's average is what is exported of the second's weights.
    for (run, args) in [
        (&first, vec!["export", "run", "--out", "hf", "--ema"]),
        (&second, vec!["export", "run", "--out", "hf"]),
    ] {
        let (code, message) = espalier(&run.folder, &args);
        assert_eq!(code, Some(0), "{message}");
    }
    let file = |run: &Run| std::fs::read(run.folder.join("hf/model.safetensors")).expect("a file");
    assert!(file(&first) == file(&second));
    let alike = |args: &[&str]| {
        let ours = printed(&first.folder, &[args, &["--ema"]].concat());
        (ours, printed(&second.folder, args))
    };
    let (ours, theirs) =
        alike(&["generate", "run", "--prompt", "The people", "--tokens", "40", "--temperature", "0"]);
    assert_eq!(ours, theirs);
    let (ours, theirs) =
        alike(&["score", "run", "../small", "--as", "jsonl:scores.jsonl", "--tp", "2", "--ranks", "2"]);
    assert!(ours.starts_with("../small by the average of the weights: ") && theirs.starts_with("../small: "));
    let loss = |line: &str| Some(line.split_once(": ")?.1.split_once(" bits/byte")?.0.to_string());
    assert!(loss(&ours).is_some() && loss(&ours) == loss(&theirs), "{ours}{theirs}");
    let scores = |run: &Run| std::fs::read(run.folder.join("scores.jsonl")).expect("a file");
    assert!(scores(&first) == scores(&second) && !scores(&first).is_empty());
    let trained = ["score", "run", "../small", "--as", "jsonl:trained.jsonl"];
    assert!(!printed(&first.folder, &trained).contains("average"));
    assert!(scores(&first) != std::fs::read(first.folder.join("trained.jsonl")).expect("a file"));
    for (args, says) in [
        (&["eval", "run", "--ema", "--on", "small"][..], "step-00000060, by the average of its weights\n"),
        (&["ckpt", "merge", "run", "--out", "small", "--weights-only"], "without their moving average"),
    ] {
        assert!(printed(&first.folder, args).contains(says), "{args:?}");
    }
    assert!(
        !printed(&second.folder, &["ckpt", "merge", "run", "--out", "small", "--weights-only"])
            .contains("average")
    );
    // The second keeps none.
    let (code, message) = espalier(&second.folder, &["export", "run", "--out", "hf-2", "--ema"]);
    assert!(code == Some(4) && message.contains("it has no average of the weights"), "{message}");
    let third = site.run("third", &["--set", "run.init=ema:../second/run"]);
    assert_eq!(third.start().wait().code(), Some(4));
    assert!(third.stderr().contains("it has no average of the weights"), "{}", third.stderr());
}
