//! Memory of ranks that are processes: what ZeRO leaves each of them, and a model that is too large for one.

use super::collectives::LONG;
use super::launcher::{SCENARIO, run};
use super::program::{ESPALIER, lines, workplace};
use espalier::Result;
use espalier::comm::{Mesh, Setup, processes};
use espalier::config::RunConfig;
use espalier::device::Device;
use espalier::params::RandomInit;
use espalier::tape::Seq;
use espalier::train::replica::Replica;
use espalier::train::run::plan;
use espalier::train::step::{MicroBatch, Update, step};
use espalier::train::vote::Ballot;
use std::process::Command;

/// 21 million parameters: 325 MiB on a rank without ZeRO.
const LARGE: &[&str] = &[
    "model.layers=12",
    "model.dim=384",
    "model.heads=6",
    "model.kv_heads=6",
    "model.head_dim=64",
    "model.ffn_dim=1024",
];

fn anonymous() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:")).unwrap();
    line.split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
}

/// The part of a worker: after two updates, the anonymous memory that its state takes, which is what it has less of without.
pub fn work(ranks: usize) -> Result<()> {
    for zero in 0..=3 {
        let set = [LARGE.iter().map(|s| s.to_string()).collect(), vec![format!("parallel.zero={zero}")]];
        let config = RunConfig::load("run.toml".as_ref(), &set.concat())?;
        let bytes = processes::run(ranks, &Setup::new(LONG), |world| {
            let mut r = Replica::new(Device::cpu(1), Mesh::new(world, 1)?, &plan(&config))?;
            r.params.fill(&r.dev, &RandomInit { seed: 1 })?;
            for n in 0..2 {
                let update =
                    Update { step: n, lr: 1e-3, clip: None, weight_sum: 64.0, z_loss: 0.0, teacher: 0.0 };
                step(&mut r, &[batch()], &update, Ballot::new(1))?;
            }
            r.flow.settle(&mut r.params)?;
            r.dev.arena().trim();
            let with = anonymous();
            drop(r);
            Ok(with - anonymous())
        })?;
        let each = bytes[0] as f64 / config.model.params() as f64;
        println!("zero {zero}: {each:.3} bytes per parameter");
    }
    Ok(())
}

/// A row of one document; which tokens does not matter.
fn batch() -> MicroBatch {
    let tokens: Vec<u32> = (0..16).collect();
    let seq = Seq { rows: 1, seq_len: 16, ..Seq::packed(&tokens, &[16]) };
    let seq = Seq { sample_ids: vec![0], ..seq };
    MicroBatch { targets: tokens, weights: vec![1.0; 16], domains: vec![0], seq }
}

#[test]
fn the_state_of_a_process_takes_the_anonymous_memory_that_its_zero_stage_says() {
    let dir = workplace();
    let own = std::env::current_exe().unwrap();
    let args = ["--exact", "collectives::worker", "--nocapture"];
    let e = run(4, dir.path(), own.to_str().unwrap(), &args, &[(SCENARIO, "memory")]);
    assert_eq!(e.code, Some(0), "{}\n{}", e.stdout, e.stderr);
    // arXiv 1910.02054, with gradients in f32, of d ranks.
    let d = 4.0;
    for (zero, table) in [16.0, 8.0 + 8.0 / d, 4.0 + 12.0 / d, 16.0 / d].into_iter().enumerate() {
        let start = format!("zero {zero}: ");
        // Lines of several ranks may come as one.
        let of_ranks: Vec<f64> =
            e.stdout.match_indices(&start).map(|(i, _)| number(&e.stdout[i + start.len()..])).collect();
        println!("ZeRO {zero}: {of_ranks:?} bytes per parameter on 4 processes, {table} by the table");
        assert_eq!(of_ranks.len(), 4, "{}", e.stdout);
        assert!(
            of_ranks.iter().all(|each| (each / table - 1.0).abs() < 0.03),
            "ZeRO {zero}: {of_ranks:?} and not {table}"
        );
    }
}

fn number(text: &str) -> f64 {
    text.split(' ').next().unwrap().parse().unwrap()
}

#[test]
fn a_model_too_large_for_one_process_is_refused_there_and_trains_on_four_with_zero_3() {
    let dir = workplace();
    // An evaluation takes more tokens at once than these updates.
    let text = std::fs::read_to_string(dir.path().join("run.toml")).unwrap();
    let rest: Vec<&str> = text.lines().filter(|l| !l.starts_with("eval = ")).collect();
    std::fs::write(dir.path().join("run.toml"), rest.join("\n")).unwrap();
    // Of a process, KiB. State and buffers of one rank alone take more.
    let limited = format!("ulimit -d {}; exec \"$@\"", 300 << 10);
    let set: Vec<&str> = LARGE.iter().flat_map(|s| ["--set", s]).collect();
    let start = |ranks: usize, run_dir: &str| {
        let rest = ["train", "run.toml", "--threads", "1", "--set", "parallel.zero=3", "--set", run_dir];
        let args =
            [&["-c", &limited, "sh", ESPALIER][..], &rest, &set, &["--set", "phase.0.steps=3"]].concat();
        run(ranks, dir.path(), "sh", &args, &[])
    };
    let e = start(1, "run.dir=one");
    assert_eq!(e.code, Some(2), "{}", e.stderr);
    let said = e.said();
    assert!(said.len() == 1 && !e.stderr.contains("panicked"), "{}", e.stderr);
    for part in ["MiB of memory and the system refuses them", "ulimit -d is 300 MiB", "parallel.zero = 3"] {
        assert!(said[0].contains(part), "no {part:?} in {}", said[0]);
    }
    assert!(!dir.path().join("one/metrics.jsonl").exists(), "it began");

    let e = start(4, "run.dir=four");
    assert_eq!(e.code, Some(0), "{}", e.stderr);
    // The losses of one without the limit.
    let args = ["train", "run.toml", "--threads", "2", "--set", "run.dir=free", "--set", "phase.0.steps=3"];
    let out =
        Command::new(ESPALIER).env_clear().current_dir(dir.path()).args(args).args(&set).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let [four, free] = ["four", "free"].map(|run| {
        let losses = lines(dir.path(), run, "step");
        losses.iter().map(|l| number(l)).collect::<Vec<_>>()
    });
    assert_eq!(four.len(), 3);
    assert!(four.iter().zip(&free).all(|(a, b)| (a / b - 1.0).abs() < 1e-5), "{four:?} {free:?}");
}
