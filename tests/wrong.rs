//! Wrong invocations of every command: exactly one sentence on stderr, which names the file, key or option and says what
//! to do, and the exit code of its kind. (Wrong run files: `tests/cli.rs` and `tests/config/wrong.rs`.)

use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

const RUN: &str = r#"
schema = 1
eval = { on = ["text:heldout"], tokens = 100 }
[run]
dir = "run"
seq_len = 16
global_batch = 4
[model]
preset = "llama-tiny"
layers = 1
dim = 16
ffn_dim = 32
vocab = 257
[data]
text = { path = "corpus", holdout = 0.3 }
[[phase]]
name = "only"
steps = 1
lr = [{ kind = "const", to = 1e-3 }]
"#;

fn espalier(dir: &Path, args: &str) -> Output {
    let mut c = Command::new(env!("CARGO_BIN_EXE_espalier"));
    c.env_clear().current_dir(dir).args(args.split_whitespace());
    c.output().expect("the program starts")
}

/// A folder with texts, a corpus, a run of one update, what it exports, and files that are none of these.
fn workplace() -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/text");
    std::fs::create_dir(at("none")).expect("a folder");
    std::fs::write(at("run.toml"), RUN).expect("writes");
    std::fs::write(at("keyless.jsonl"), "{\"txt\": \"a\"}\n").expect("writes");
    std::fs::write(at("broken.jsonl"), "{\"text\": \"a\"}\nno JSON\n").expect("writes");
    std::fs::write(at("questions.jsonl"), "{\"context\": \"a\", \"endings\": [\"b\"]}\n").expect("writes");
    for args in [
        &format!("corpus build {} --out corpus", text.display()),
        "train run.toml --threads 1",
        "export run --out hf",
    ] {
        let out = espalier(dir.path(), args);
        assert!(out.status.success(), "{args}: {}", String::from_utf8_lossy(&out.stderr));
    }
    dir
}

/// What is typed, the exit code, and what the sentence must say.
const WRONG: &[(&str, i32, &[&str])] = &[
    ("corpus build nowhere --out x", 3, &["nowhere", "check the path"]),
    ("corpus build none --out x", 3, &["none", ".jsonl", "give files"]),
    ("corpus build keyless.jsonl --out x", 3, &["keyless.jsonl at byte 0", "\"text\"", "--skip-bad"]),
    ("corpus build broken.jsonl --out x", 3, &["broken.jsonl at byte 14", "not a JSON object", "mend"]),
    ("corpus build run.toml --out x --tokenizer nope", 2, &["--tokenizer", "\"nope\"", "train-bpe:SIZE"]),
    ("corpus build run.toml --out x --tokenizer train-bpe:10", 2, &["--tokenizer", "300 to 1000000"]),
    ("corpus build run.toml --out x --format xml", 2, &["--format", "\"xml\"", "jsonl"]),
    ("corpus build run.toml --out x --threads 0", 2, &["--threads", "1 or more"]),
    ("corpus inspect nowhere", 3, &["nowhere.json", "PREFIX.bin"]),
    ("corpus inspect corpus.json", 3, &["corpus.json.json", "without .json"]),
    ("corpus sample corpus --document 99", 3, &["document 99 of 21"]),
    ("corpus sample corpus --at 5", 2, &["--seq-len", "--run FILE.toml"]),
    ("corpus sample --run run.toml --phase other --at 1", 2, &["run.toml", "\"other\"", "only"]),
    ("corpus compress corpus --level 99", 2, &["--level", "99", "1 to 22"]),
    ("corpus merge corpus nowhere --out both", 3, &["nowhere.json"]),
    ("corpus split corpus --out a b --share 1.5", 2, &["--share", "1.5", "between 0 and 1"]),
    ("corpus split corpus --out a b --documents 9999", 2, &["--documents", "9999", "21"]),
    ("corpus adopt nowhere --tokenizer gpt2", 2, &["--vocab"]),
    ("train nowhere.toml", 2, &["nowhere.toml", "give the path of a TOML file"]),
    ("train none", 2, &["none", "TOML"]),
    ("train hf/config.json", 2, &["hf/config.json", "line 1", "not TOML"]),
    ("train run.toml --ranks 0", 2, &["--ranks 0", "1 or more"]),
    ("train run.toml --ranks 3", 2, &["run.global_batch", "3 data-parallel ranks", "set global_batch"]),
    (
        "train run.toml --ranks 4 --set phase.0.batch_ramp={from=2,by=2,samples=4}",
        2,
        &["phase.0.batch_ramp", "2 sequences", "multiples of 4"],
    ),
    (
        "train run.toml --set phase.0.batch_ramp={from=4,by=2,samples=4}",
        2,
        &["phase.0.batch_ramp.from", "not below global_batch: 4", "leave batch_ramp out"],
    ),
    ("train run.toml --threads 0", 2, &["--threads 0", "give 1"]),
    ("train run.toml --set run.seqlen=5", 2, &["--set run.seqlen=5", "nearest is `seq_len`"]),
    (
        "train run.toml --replay nowhere.json",
        4,
        &["nowhere.json", "cannot be read", "RUN/replay/step-N.json"],
    ),
    (
        "train run.toml --replay run.toml",
        4,
        &["run.toml", "not the file of a replay", "RUN/replay/step-N.json"],
    ),
    ("train run.toml --ranks 2 --replay run.toml", 2, &["--replay on 2 ranks", "leave --ranks out"]),
    ("train run.toml --set numerics.spike=jump", 2, &["numerics.spike", "\"jump\"", "off, stop, skip"]),
    ("train run.toml --set numerics.window=1", 2, &["numerics.window", "2 to 65536"]),
    (
        "train run.toml --set numerics.compare_replicas=5min",
        2,
        &["numerics.compare_replicas", "\"500 steps\""],
    ),
    ("train run.toml --set run.seed=7", 2, &["run.seed", "started with: 1234", "change it back"]),
    ("train run.toml --set data.text.path=nope", 3, &["nope.json", "corpus build"]),
    (
        "train run.toml --set run.dir=new --set run.init=hf:nowhere",
        3,
        &["nowhere/config.json", "check the path"],
    ),
    ("train run.toml --set run.dir=new --set run.init=ckpt:nowhere", 4, &["nowhere", "name RUN"]),
    (
        "train run.toml --set run.dir=new --set run.init=ckpt:run --set model.dim=32",
        2,
        &["model.dim", "trained with 16", "make [model]"],
    ),
    ("train run.toml --set run.dir=run.toml", 3, &["run.toml", "choose another path"]),
    ("generate nowhere", 4, &["nowhere", "name RUN"]),
    ("generate run@7", 4, &["no checkpoint of step 7", "steps there: 1"]),
    ("eval run --on txt", 2, &["--on", "\"txt\"", "it has text"]),
    ("eval run --on text --baselines", 2, &["--baselines", "--on NAME:heldout"]),
    ("eval run --corpus nowhere", 3, &["nowhere.json"]),
    ("eval run --choices nowhere.jsonl", 3, &["nowhere.jsonl", "check the path"]),
    ("eval run --choices questions.jsonl", 3, &["questions.jsonl", "label"]),
    ("eval run --tp 3", 2, &["--tp", "heads", "common divisor"]),
    ("eval hf", 4, &["hf", "name RUN"]),
    ("eval run --ema", 4, &["run/ckpt/step-00000001", "no average of the weights", "optim.ema"]),
    ("score run corpus --ema", 4, &["run/ckpt/step-00000001", "no average of the weights", "optim.ema"]),
    ("generate run --ema", 4, &["run/ckpt/step-00000001", "no average of the weights", "optim.ema"]),
    ("generate hf --ema", 4, &["hf", "it is a Hugging Face directory", "leave --ema out"]),
    ("export run --out x --ema", 4, &["run/ckpt/step-00000001", "no average of the weights", "optim.ema"]),
    ("score run corpus --as nowhere", 2, &["--as", "stream:NAME"]),
    ("score run corpus --documents 5..2", 2, &["--documents", "5..2", "0..21"]),
    ("score run corpus --stride 0", 2, &["--stride", "1 up to"]),
    ("export run --out hf", 4, &["hf", "choose a new directory"]),
    ("export run --out x --family nope", 2, &["--family", "\"nope\"", "llama"]),
    ("export run --out x --max-shard many", 2, &["--max-shard", "\"many\"", "500MB"]),
    ("import nowhere", 3, &["nowhere/config.json", "check the path"]),
    ("ckpt inspect nowhere", 4, &["nowhere", "RUN/ckpt/step-"]),
    ("ckpt diff run nowhere", 4, &["nowhere", "RUN/ckpt/step-"]),
    ("ckpt merge run --out run", 4, &["run", "is there already"]),
    ("ckpt prune run/ckpt --keep-last 1", 4, &["run/ckpt", "directory of a run"]),
    ("report nowhere", 2, &["nowhere/metrics.jsonl", "give directories"]),
];

#[test]
fn each_wrong_invocation_gets_one_sentence_with_the_remedy_and_the_exit_code_of_its_kind() {
    let dir = workplace();
    let mut wrong = vec![];
    for (args, code, says) in WRONG {
        let out = espalier(dir.path(), args);
        let text = String::from_utf8_lossy(&out.stderr);
        let one = text.starts_with("espalier: ") && text.ends_with('\n') && text.lines().count() == 1;
        let helps = says.iter().all(|part| text.contains(part));
        if out.status.code() != Some(*code) || !one || !helps || !out.stdout.is_empty() {
            wrong.push(format!("{args}\n  ends with {:?}, not {code}, and says: {text}", out.status.code()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn wrong_usage_names_the_option_and_ends_with_2() {
    let dir = tempfile::tempdir().expect("a directory");
    for (args, says) in [
        ("", "Usage: espalier"),
        ("trian run.toml", "train"),
        ("train", "<FILE>"),
        ("train run.toml --rank 2", "--ranks"),
        ("train run.toml --ranks two", "--ranks"),
        ("train run.toml --json", "--dry-run"),
        ("train run.toml --ranks-per-node 2", "--dry-run"),
        ("train run.toml --dry-run --node-memory 0", "0.001 to 1000000"),
        ("corpus build text", "--out"),
        ("corpus build text --out x --eod END --no-eod", "--no-eod"),
        ("corpus sample corpus --prove 5..5", "A below B"),
        ("ckpt prune run --keep-last 0", "--keep-last"),
        ("completions tcsh", "zsh"),
    ] {
        let out = espalier(dir.path(), args);
        let text = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.code() == Some(2) && text.contains(says), "{args}: {:?}: {text}", out.status);
    }
}

#[test]
fn every_command_shows_examples_that_it_would_accept() {
    use clap::{CommandFactory, Parser};
    use espalier::cmd::Cli;

    fn walk(command: &clap::Command, seen: &mut usize) {
        let help = command.get_after_help().map(|h| h.to_string()).unwrap_or_default();
        let name = command.get_name();
        assert!(command.has_subcommands() || help.contains("Examples:"), "{name} has no examples in --help");
        for line in help.lines().filter(|l| l.starts_with("  espalier ")) {
            // What a comment or the shell has no part in.
            let line = line.trim().split("  ").next().unwrap_or_default();
            let line = line.split([';', '|', '>']).next().unwrap_or_default().replace('\'', "");
            let words: Vec<String> = match line.split_once("--prompt ") {
                Some((before, _)) => before.split_whitespace().map(String::from).collect(),
                None => line.split_whitespace().map(String::from).collect(),
            };
            if words.get(1).is_some_and(|w| w != "help")
                && let Err(e) = Cli::try_parse_from(&words)
            {
                panic!("{name}: {line}: {e}");
            }
            *seen += 1;
        }
        command.get_subcommands().for_each(|c| walk(c, seen));
    }
    let mut seen = 0;
    walk(&Cli::command(), &mut seen);
    assert!(seen > 30, "only {seen} examples");
}

#[test]
fn the_version_names_a_commit_and_completions_know_the_commands() {
    let dir = tempfile::tempdir().expect("a directory");
    let version = String::from_utf8_lossy(&espalier(dir.path(), "--version").stdout).into_owned();
    let git = version.trim().strip_prefix(concat!("espalier ", env!("CARGO_PKG_VERSION"), " (git "));
    let git = git.and_then(|rest| rest.strip_suffix(')')).expect("espalier VERSION (git COMMIT)");
    let known = git.len() >= 7 && git.bytes().all(|b| b.is_ascii_hexdigit());
    assert!(known || git == "unknown" || cfg!(debug_assertions) && git == "debug", "{version}");
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let out = espalier(dir.path(), &format!("completions {shell}"));
        let script = String::from_utf8_lossy(&out.stdout);
        assert!(out.status.success(), "{shell}");
        for word in ["corpus", "train", "dry-run", "keep-last", "baselines"] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn a_run_that_memory_does_not_hold_is_refused_before_it_begins() {
    let dir = workplace();
    // 34 million parameters, 16 bytes each; on two ranks of tp half of it each, and so too much for their process.
    let model = "--set model.layers=8 --set model.dim=512 --set model.heads=8 --set model.kv_heads=8 \
                 --set model.head_dim=64 --set model.ffn_dim=2048";
    for (limit_mib, ranks, rank) in [(400, "", 0), (400, "--ranks 2 --set parallel.tp=2", 1)] {
        let line = format!("train run.toml --threads 1 --set run.dir=large {model} {ranks}");
        let mut c = Command::new("sh");
        let script = format!("ulimit -d {}; exec \"$@\"", limit_mib << 10);
        c.args(["-c", &script, "sh", env!("CARGO_BIN_EXE_espalier")]).args(line.split_whitespace());
        let out = c.env_clear().current_dir(dir.path()).output().expect("the program starts");
        let said = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{line}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        let parts = [
            "needs ",
            " MiB of memory and the system refuses them",
            "ulimit -d is 400 MiB",
            "raise the limit",
        ];
        assert!(parts.iter().all(|part| said.contains(part)), "{said}");
        // Of two ranks either may be the one that gets nothing.
        assert!(
            said.starts_with("espalier: rank 0: it ")
                || (rank == 1 && said.starts_with("espalier: rank 1: it ")),
            "{said}"
        );
        assert!(!dir.path().join("large/metrics.jsonl").exists(), "it began");
    }
}

#[test]
fn a_limit_of_vectors_that_means_nothing_is_refused_before_anything_runs() {
    let start = |limit: &str| {
        let mut c = Command::new(env!("CARGO_BIN_EXE_espalier"));
        let out = c.args(["completions", "bash"]).env("ESPALIER_SIMD", limit).output();
        out.expect("the program starts")
    };
    let out = start("sse");
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!((out.status.code(), text.lines().count()), (Some(2), 1), "{text}");
    for part in ["ESPALIER_SIMD", "\"sse\"", "portable, avx2 or avx512"] {
        assert!(text.contains(part), "{text}");
    }
    for limit in ["", "portable", "avx2", "avx512"] {
        assert!(start(limit).status.success(), "{limit}");
    }
}
