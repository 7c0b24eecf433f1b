//! `espalier eval`: the loss a run reports itself, on any topology; n-gram models beside it; multiple choice.

#![allow(clippy::unwrap_used)] // here it is how a test fails

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const RUN: &str = r#"
schema = 1
eval = { on = ["web:heldout"], every = "200 steps", tokens = 3000 }
[run]
dir = "RUN"
seed = 3
seq_len = 32
global_batch = 8
[model]
preset = "llama-tiny"
vocab = 257
layers = 1
dim = 32
heads = 4
kv_heads = 2
ffn_dim = 64
max_positions = 64
[data]
web = { path = "WEB", holdout = 0.2 }
[[phase]]
name = "only"
steps = 200
mix = { web = 1.0 }
lr = [{ kind = "const", to = 5e-3 }]
"#;

/// What the program printed, or how it failed.
fn espalier(args: &[&str]) -> (i32, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_espalier")).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (out.status.code().unwrap(), text(out.stdout), text(out.stderr))
}

fn good(args: &[&str]) -> String {
    let (code, out, err) = espalier(args);
    assert_eq!(code, 0, "{args:?}: {err}");
    out
}

/// A language in which a colour is always followed by its thing.
fn text(i: usize) -> String {
    let pairs = [("red", "apple"), ("green", "leaf"), ("blue", "sea"), ("white", "snow")];
    let mut x = i as u32 + 1;
    let mut out = String::new();
    for _ in 0..30 {
        x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (colour, thing) = pairs[(x >> 20) as usize % 4];
        out += &format!("{colour} {thing}. ");
    }
    out
}

/// A corpus and a model that was trained on it.
fn site() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let texts = folder.path().join("texts");
    std::fs::create_dir(&texts).unwrap();
    for i in 0..60 {
        std::fs::write(texts.join(format!("{i:02}.txt")), text(i)).unwrap();
    }
    let (web, run) = (folder.path().join("web"), folder.path().join("run"));
    good(&["corpus", "build", texts.to_str().unwrap(), "--out", web.to_str().unwrap()]);
    let file = folder.path().join("run.toml");
    let toml = RUN.replace("RUN", run.to_str().unwrap()).replace("WEB", web.to_str().unwrap());
    std::fs::write(&file, toml).unwrap();
    good(&["train", file.to_str().unwrap(), "--threads", "1"]);
    (folder, run)
}

fn json(args: &[&str]) -> Value {
    serde_json::from_str(&good(args)).unwrap()
}

/// The last evaluation the run wrote down.
fn reported(run: &Path) -> f64 {
    let rows = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let rows: Vec<Value> = rows.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    rows.iter().rfind(|r| r["kind"] == "eval").unwrap()["nll_token"].as_f64().unwrap()
}

#[test]
fn evaluations_are_those_of_the_run_on_any_topology_and_stand_beside_ngrams_and_questions() {
    let (folder, run) = site();
    let run_name = run.to_str().unwrap();
    let want = reported(&run);
    for topology in [&["--ranks", "1"][..], &["--ranks", "3"], &["--ranks", "4", "--tp", "2"]] {
        let e = json(&[&["eval", run_name, "--json"], topology].concat());
        let line = &e["results"][0];
        assert_eq!((line["corpus"].as_str(), line["by"].as_str()), (Some("web:heldout"), Some("model")));
        let got = line["nll_token"].as_f64().unwrap();
        assert!((got / want - 1.0).abs() < 1e-5, "{topology:?}: {got}, the run said {want}");
    }

    // Text whose only surprise is which of four pairs comes next: log2(4) bits each of 10.5 bytes on average.
    let e = json(&["eval", run_name, "--json", "--baselines"]);
    let by = |name: &str| {
        let lines = e["results"].as_array().unwrap();
        let line = lines.iter().find(|l| l["by"] == name).unwrap();
        assert_eq!(line["tokens"], lines[0]["tokens"]);
        line["bits_byte"].as_f64().unwrap()
    };
    let (model, trigram, bigram) = (by("model"), by("trigram"), by("bigram"));
    assert!(
        0.17 < model && model < trigram && trigram < bigram && bigram < 2.0,
        "{model} {trigram} {bigram}"
    );

    let questions = folder.path().join("q.jsonl");
    let ask = |context: &str, right: usize| {
        format!(
            "{{\"ctx\": \"red apple. {context}\", \"endings\": [\"apple.\", \"leaf.\", \"sea.\", \"snow.\"], \"label\": {right}}}\n"
        )
    };
    let colours = ["red", "green", "blue", "white"];
    let all: String = colours.iter().enumerate().map(|(i, c)| ask(c, i)).collect();
    std::fs::write(&questions, &all).unwrap();
    let q = questions.to_str().unwrap();
    for ranks in ["1", "2"] {
        let e = json(&["eval", run_name, "--json", "--choices", q, "--ranks", ranks]);
        assert_eq!((e["choices"]["questions"].as_u64(), e["choices"]["acc"].as_f64()), (Some(4), Some(1.0)));
        assert_eq!(e["results"].as_array().unwrap().len(), 0);
    }
    let wrong: String = colours.iter().enumerate().map(|(i, c)| ask(c, (i + 1) % 4)).collect();
    std::fs::write(&questions, wrong).unwrap();
    assert_eq!(json(&["eval", run_name, "--json", "--choices", q])["choices"]["acc"].as_f64(), Some(0.0));
    let shown = good(&["eval", run_name, "--on", "web:heldout", "--on", "web", "--choices", q]);
    for want in ["nats/token", "web:heldout", "web  ", "4 questions: acc 0.0000, acc_norm"] {
        assert!(shown.contains(want), "{want} in {shown}");
    }

    for (args, code, want) in [
        (&["--on", "wob"][..], 2, "the run has no corpus \"wob\""),
        (&["--baselines", "--on", "web"], 2, "web has no training part"),
        (&["--seq-len", "65"], 2, "give 1 to 64"),
        (&["--ranks", "3", "--tp", "2"], 2, "multiple of --tp"),
        (&["--choices", "none.jsonl"], 3, "none.jsonl"),
    ] {
        let (status, _, err) = espalier(&[&["eval", run_name], args].concat());
        assert_eq!((status, err.lines().count()), (code, 1), "{args:?}: {err}");
        assert!(err.contains(want), "{want} in {err}");
    }
}
