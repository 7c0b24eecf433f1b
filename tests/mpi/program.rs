//! The program itself under a launcher: runs, refusals, and what is said once.

use super::launcher::{Ended, is_open_mpi, run, wait};
use espalier::data::build_bytes;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

pub const ESPALIER: &str = env!("CARGO_BIN_EXE_espalier");

const RUN: &str = r#"
schema = 1
eval = { on = ["text:heldout"], every = "2 steps", tokens = 500 }
checkpoint = { every = "3 steps" }
[run]
dir = "run"
seed = 1
seq_len = 32
global_batch = 8
[model]
preset = "llama-tiny"
layers = 2
dim = 32
heads = 4
kv_heads = 4
ffn_dim = 64
vocab = 257
[data]
text = { path = "corpus", holdout = 0.3 }
[[phase]]
name = "only"
steps = 5
mix = { text = 1.0 }
lr = [{ kind = "const", to = 1e-3 }]
"#;

pub fn workplace() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/text");
    let texts = std::fs::read_dir(text).unwrap().map(|e| e.unwrap());
    let texts = texts.filter(|e| e.path().extension().is_some_and(|e| e == "txt"));
    let mut files: Vec<(u64, PathBuf)> = texts.map(|e| (e.metadata().unwrap().len(), e.path())).collect();
    // The shortest.
    files.sort();
    let files: Vec<PathBuf> = files.into_iter().take(10).map(|f| f.1).collect();
    build_bytes(&files, &dir.path().join("corpus")).unwrap();
    std::fs::write(dir.path().join("run.toml"), RUN).unwrap();
    dir
}

fn alone(dir: &Path, args: &[&str]) -> Ended {
    let mut command = Command::new(ESPALIER);
    command.env_clear().current_dir(dir).args(args);
    wait(command)
}

pub fn lines(dir: &Path, run: &str, kind: &str) -> Vec<String> {
    let text = std::fs::read_to_string(dir.join(run).join("metrics.jsonl")).unwrap();
    let rows = text.lines().map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap());
    rows.filter(|r| r["kind"] == kind)
        .map(|r| {
            format!(
                "{} {} {} {} {}",
                r["loss"], r["grad_norm"], r["comm_bytes"], r["nll_token"], r["program_hashes"]
            )
        })
        .collect()
}

#[test]
fn a_run_has_the_bits_of_one_whose_ranks_are_threads() {
    let dir = workplace();
    for (ranks, set) in [(2, ["parallel.tp=1", "parallel.zero=1"]), (4, ["parallel.tp=2", "parallel.zero=0"])]
    {
        let names = [format!("threads{ranks}"), format!("mpi{ranks}")];
        let dirs = names.clone().map(|name| format!("run.dir={name}"));
        let threads = ranks.to_string();
        let args = |i: usize| {
            ["train", "run.toml", "--threads", "1", "--set", &dirs[i], "--set", set[0], "--set", set[1]]
        };
        let e = alone(dir.path(), &[&args(0)[..], &["--ranks", &threads]].concat());
        assert_eq!(e.code, Some(0), "{}", e.stderr);
        let e = run(ranks, dir.path(), ESPALIER, &args(1), &[]);
        assert_eq!(e.code, Some(0), "{}", e.stderr);
        assert_eq!(e.stderr.matches("new run").count(), 1, "{}", e.stderr);
        for kind in ["step", "eval"] {
            let [want, got] = [0, 1].map(|i| lines(dir.path(), &names[i], kind));
            assert!(!want.is_empty());
            assert_eq!(got, want, "{kind} rows of {ranks} ranks");
        }
        let [a, b] = [0, 1].map(|i| format!("{}/ckpt/step-00000005", names[i]));
        let e = alone(dir.path(), &["ckpt", "diff", &a, &b]);
        assert_eq!(e.code, Some(0), "{}{}", e.stdout, e.stderr);
        // Scored and evaluated by processes as by one.
        let evaluated = run(ranks, dir.path(), ESPALIER, &["eval", &names[0], "--json"], &[]);
        assert_eq!(evaluated.code, Some(0), "{}", evaluated.stderr);
        assert_eq!(evaluated.stdout.matches("\"nll_token\"").count(), 1, "{}", evaluated.stdout);
        let file = |i: usize| dir.path().join(format!("{i}-of-{ranks}.jsonl"));
        let to = [0, 1].map(|i| format!("jsonl:{}", file(i).display()));
        let e = alone(dir.path(), &["score", &names[0], "corpus", "--as", &to[0], "--threads", "1"]);
        assert_eq!(e.code, Some(0), "{}", e.stderr);
        let e = run(
            ranks,
            dir.path(),
            ESPALIER,
            &["score", &names[0], "corpus", "--as", &to[1], "--threads", "1"],
            &[],
        );
        assert_eq!(e.code, Some(0), "{}", e.stderr);
        assert_eq!(e.stdout.matches("predictions").count(), 1, "{}", e.stdout);
        assert!(
            std::fs::read(file(0)).unwrap() == std::fs::read(file(1)).unwrap(),
            "scores of {ranks} ranks"
        );
    }
}

/// Args of a launcher for a run on pretended hosts, one after the other with so many ranks: each has a name of its own.
fn on_hosts(hosts: &[(&str, usize)], args: &str) -> Vec<String> {
    let mut all = vec![];
    for (i, (host, ranks)) in hosts.iter().enumerate() {
        let script = format!("hostname {host} && exec {ESPALIER} {args}");
        if i > 0 {
            all.extend([":".to_string(), "-n".into(), ranks.to_string(), "unshare".into()]);
        }
        all.extend(["--uts".to_string(), "sh".into(), "-c".into(), script]);
    }
    all
}

#[test]
fn state_is_split_over_the_ranks_of_a_node() {
    let may = Command::new("unshare").args(["--uts", "true"]).output().is_ok_and(|out| out.status.success());
    if !may {
        println!("host names of their own need root; nothing tested");
        return;
    }
    let dir = workplace();
    let set = "--threads 1 --set parallel.zero=2";
    let on = |hosts: &[(&str, usize)], name: &str| {
        let args =
            on_hosts(hosts, &format!("train run.toml {set} --set run.dir={name} --set parallel.shard=node"));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        run(hosts[0].1, dir.path(), "unshare", &args, &[])
    };
    let e = on(&[("one", 2), ("two", 2)], "mpi");
    assert_eq!(e.code, Some(0), "{}", e.stderr);
    let threads = format!("train run.toml {set} --ranks 4 --set run.dir=threads");
    let shard = ["--set", "parallel.shard=2 ranks"];
    let e = alone(dir.path(), &[&threads.split(' ').collect::<Vec<_>>()[..], &shard].concat());
    assert_eq!(e.code, Some(0), "{}", e.stderr);
    let [want, got] = ["threads", "mpi"].map(|name| lines(dir.path(), name, "step"));
    assert!(want.len() == 5 && got == want, "{got:?}\n{want:?}");
    let e = on(&[("one", 2), ("two", 1), ("three", 1)], "uneven");
    let said = e.said();
    assert!(e.code == Some(2) && said.len() == 1, "{}", e.stderr);
    assert!(said[0].contains("different numbers of ranks: one 2, two 1, three 1"), "{}", said[0]);
}

#[test]
fn the_faster_reductions_are_chosen_once_and_kept() {
    let dir = workplace();
    let train = |name: &str, reductions: &str, steps: usize| {
        let [name, reductions, steps] = [
            format!("run.dir={name}"),
            format!("parallel.reductions={reductions}"),
            format!("phase.0.steps={steps}"),
        ];
        let args = ["train", "run.toml", "--threads", "1", "--set", &name, "--set", &reductions, "--set"];
        let e = run(2, dir.path(), ESPALIER, &[&args[..], &[&steps]].concat(), &[]);
        assert_eq!(e.code, Some(0), "{}", e.stderr);
        e.stderr
    };
    let file = |name: &str| dir.path().join(name).join("reductions.json");
    let said = train("fast", "fastest", 3);
    assert!(said.contains("collectives, measured now; "), "{said}");
    let text = std::fs::read_to_string(file("fast")).unwrap();
    let mut chosen: serde_json::Value = serde_json::from_str(&text).unwrap();
    let all = chosen["collectives"].as_object_mut().unwrap();
    assert!(all.keys().any(|k| k.starts_with("dp reduce_scatter of ")), "{text}");
    assert!(train("fast", "fastest", 4).contains("collectives, as this run chose when it began"));
    assert_eq!(std::fs::read_to_string(file("fast")).unwrap(), text, "a resume measures nothing");
    let metrics = std::fs::read_to_string(dir.path().join("fast/metrics.jsonl")).unwrap();
    assert_eq!(metrics.matches("\"name\":\"reductions\"").count(), 2);
    // What the file says is what is done: nothing by the library are the bits of our own sums.
    let n = all.len();
    all.values_mut().for_each(|times| times["library"] = false.into());
    std::fs::create_dir(dir.path().join("none")).unwrap();
    std::fs::write(file("none"), chosen.to_string()).unwrap();
    assert!(train("none", "fastest", 3).contains(&format!("the library does 0 of {n} collectives")));
    train("ordered", "ordered", 3);
    assert_eq!(lines(dir.path(), "none", "step"), lines(dir.path(), "ordered", "step"));
}

#[test]
fn a_doctor_of_several_measures_each_rank_and_each_pair() {
    let dir = workplace();
    let e = run(3, dir.path(), ESPALIER, &["doctor", "--mib", "1", "--json"], &[]);
    assert_eq!(e.code, Some(0), "{}{}", e.stdout, e.stderr);
    let found: serde_json::Value = serde_json::from_str(&e.stdout).unwrap();
    let cluster = &found["cluster"];
    let above = |v: &serde_json::Value| v.as_f64().unwrap() > 0.0;
    let ranks = cluster["ranks"].as_array().unwrap();
    assert_eq!(ranks.len(), 3);
    for (i, rank) in ranks.iter().enumerate() {
        assert_eq!(rank["rank"], i);
        assert!(["gflops", "copy_gb_s", "write_mb_s", "read_mb_s"].iter().all(|k| above(&rank[k])), "{rank}");
    }
    let pairs: Vec<_> = cluster["pairs"].as_array().unwrap().iter().map(|p| p["ranks"].to_string()).collect();
    assert!(pairs.len() == 3 && ["[0,1]", "[0,2]", "[1,2]"].iter().all(|p| pairs.iter().any(|q| q == p)));
    assert!(above(&cluster["all_reduce_gb_s"]));
    let looks = run(2, dir.path(), ESPALIER, &["doctor", "--no-measure", "--json"], &[]);
    assert!(looks.stdout.contains("\"cluster\":null"), "{}{}", looks.stdout, looks.stderr);
}

#[test]
fn what_all_ranks_find_is_said_once() {
    let dir = workplace();
    std::fs::write(dir.path().join("bad.toml"), RUN.replace("steps = 5", "stepz = 5")).unwrap();
    let cases: [(&[&str], &str); 4] = [
        (&["train", "bad.toml"], "stepz"),
        (&["train", "nothere.toml"], "nothere.toml"),
        (&["train", "run.toml", "--ranks", "3"], "--ranks 3 where a launcher started 3 processes"),
        (&["ckpt", "inspect", "run"], "this command runs as one"),
    ];
    for (args, says) in cases {
        let e = run(3, dir.path(), ESPALIER, args, &[]);
        assert_eq!(e.code, Some(2), "{args:?}: {}", e.stderr);
        let said = e.said();
        assert!(said.len() == 1 && said[0].contains(says), "{args:?}: {}", e.stderr);
    }
    let e = run(3, dir.path(), ESPALIER, &["train", "--nope"], &[]);
    assert_eq!((e.code, e.stderr.matches("unexpected argument").count()), (Some(2), 1), "{}", e.stderr);
    let e = run(2, dir.path(), ESPALIER, &["train", "run.toml", "--dry-run"], &[]);
    assert_eq!(
        (e.code, e.stdout.matches("memory of a rank").count()),
        (Some(0), 1),
        "{}{}",
        e.stdout,
        e.stderr
    );
}

#[test]
fn a_world_of_one_where_the_launcher_announces_more_is_refused_by_both_names() {
    let dir = workplace();
    let announced = match is_open_mpi() {
        true => [("PMI_SIZE", "2"), ("PMI_RANK", "0")],
        false => [("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_RANK", "0")],
    };
    for rank in ["0", "1"] {
        let mut command = Command::new(ESPALIER);
        command.current_dir(dir.path()).args(["train", "run.toml"]).envs(announced).env(announced[1].0, rank);
        let e = wait(command);
        assert_eq!(e.code, Some(2), "{}", e.stderr);
        let said = e.said();
        // The others of such a world are alone too; the first speaks for them.
        assert_eq!(said.len(), (rank == "0") as usize, "{}", e.stderr);
        let library = espalier::comm::mpi::library();
        for part in [announced[0].0, "=2", "a world of 1", &library] {
            assert!(said.iter().all(|s| s.contains(part)), "no {part:?} in {said:?}");
        }
    }
}

#[test]
fn a_rank_that_was_given_something_else_is_named_with_what_differs() {
    let dir = workplace();
    let batch = "run.global_batch=6";
    let other = ["train", "run.toml", "--threads", "1", "--set", batch, "--set", "run.seed=2"];
    let args =
        [&["train", "run.toml", "--threads", "1", "--set", batch, ":", "-n", "1", ESPALIER][..], &other]
            .concat();
    let e = run(2, dir.path(), ESPALIER, &args, &[]);
    assert_eq!(e.code, Some(2), "{}", e.stderr);
    let said = e.said();
    assert!(said.len() == 1 && said[0].starts_with("espalier: rank 2 on "), "{}", e.stderr);
    assert!(
        said[0].contains(" differs from rank 0 on ") && said[0].contains(" in the run file; "),
        "{}",
        said[0]
    );
    assert!(!dir.path().join("run/metrics.jsonl").exists(), "it began");
}
