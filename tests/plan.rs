//! What `--dry-run` says against what a run does: the arena's book-keeping exactly, the process's memory within 10 %.

#[path = "plan/auto.rs"]
mod auto;
#[path = "plan/blocks.rs"]
mod blocks;
#[path = "plan/nodes.rs"]
mod nodes;
#[path = "plan/tensor.rs"]
mod tensor;

use espalier::comm::{Mesh, run_ranks};
use espalier::config::RunConfig;
use espalier::device::{Category, DType, Device, arena::MemoryUse};
use espalier::model::Network;
use espalier::params::{Dp, RandomInit};
use espalier::tape::Seq;
use espalier::train::agreement;
use espalier::train::corpora::{Split, splits};
use espalier::train::rehearsal::{Rehearsal, programs};
use espalier::train::replica::Replica;
use espalier::train::run::plan;
use espalier::train::step::{MicroBatch, Update, step};
use espalier::train::vote::Ballot;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

fn config(model: &str, rest: &str) -> RunConfig {
    config_with(model, rest, &[])
}

fn config_with(model: &str, rest: &str, set: &[String]) -> RunConfig {
    let text = format!(
        r#"schema = 1
        [run]
        dir = "unused"
        seq_len = 64
        global_batch = 8
        {rest}
        [model]
        {model}
        [data]
        text = {{ path = "unused" }}
        [[phase]]
        name = "main"
        steps = 4
        lr = [{{ kind = "const", to = 1e-3 }}]
        "#
    );
    RunConfig::parse(&text, "test.toml", set).expect("a run file")
}

/// Rows of different documents; which tokens does not matter.
fn batch(rows: usize, seq_len: usize, vocab: usize) -> MicroBatch {
    let n = rows * seq_len;
    let tokens: Vec<u32> = (0..n).map(|i| (i * 7919 % vocab) as u32).collect();
    let seq = Seq { rows, seq_len, ..Seq::packed(&tokens, &vec![seq_len; rows]) };
    let seq = Seq { sample_ids: (0..rows as u64).collect(), ..seq };
    MicroBatch { targets: tokens, weights: vec![1.0; n], domains: vec![0; rows], seq }
}

/// Memory and bytes sent on (dp, tp, world) by each rank after two updates.
fn real(config: &RunConfig, ranks: usize) -> Vec<(MemoryUse, [u64; 3])> {
    let run = run_ranks(ranks, Duration::from_secs(120), |world| {
        let dp = world.size() / config.parallel.tp;
        let mesh = Mesh::grid(world, config.parallel.tp, config.parallel.shard_size(dp))?;
        let before = mesh.world.traffic();
        let mut r = Replica::new(Device::cpu(1), mesh, &plan(config))?;
        r.params.fill(&r.dev, &RandomInit { seed: 1 })?;
        let phase = &config.phases[0];
        let dp = (r.mesh.dp.rank(), r.mesh.dp.size());
        let mut rows = None;
        for (n, (split, _)) in twice(config, dp).into_iter().enumerate() {
            if rows.replace(split.micro_batch).is_some_and(|rows| rows != split.micro_batch) {
                r.dev.arena().trim();
            }
            let micro = || batch(split.micro_batch, phase.seq_len, config.model.vocab);
            let batches: Vec<_> = (0..split.micro_steps).map(|_| micro()).collect();
            let update = Update {
                step: n as u64,
                lr: 1e-3,
                clip: Some(1.0),
                weight_sum: 512.0,
                z_loss: phase.z_loss,
                teacher: 0.0,
            };
            step(&mut r, &batches, &update, Ballot::new(config.data.len()))?;
        }
        r.flow.settle(&mut r.params)?;
        let m = &r.mesh;
        let [dp, tp] = m.sent();
        Ok((r.dev.arena().used(), [dp, tp, (m.world.traffic() - before).bytes()]))
    });
    run.expect("two updates")
}

/// Two updates of each size of the first phase.
fn twice(config: &RunConfig, dp: (usize, usize)) -> Vec<(Split, u64)> {
    splits(config, &config.phases[0], dp, 0).flat_map(|split| [split; 2]).collect()
}

fn check(name: &str, config: &RunConfig, ranks: usize) {
    let tp = config.parallel.tp;
    for (rank, (memory, sent)) in real(config, ranks).into_iter().enumerate() {
        let mut r = Rehearsal::new(config, rank, ranks / tp);
        for (i, kind) in r.kinds(&config.phases[0]).into_iter().enumerate() {
            if i > 0 {
                r.replica.dev.arena().trim();
            }
            r.update_of(&config.phases[0], kind).expect("a rehearsal");
            r.update_of(&config.phases[0], kind).expect("a rehearsal");
        }
        let mut all = Rehearsal::new(config, rank, ranks / tp);
        for (split, _) in twice(config, (rank / tp, ranks / tp)) {
            all.update_of(&config.phases[0], split).expect("a rehearsal");
        }
        let m = &all.replica.mesh;
        let told = r.replica.dev.arena().used();
        for c in Category::ALL {
            let (cpu, meta) = (memory.peak[c as usize], told.peak[c as usize]);
            println!("{name} rank {rank} {c}: {cpu} bytes, {meta} foretold");
        }
        assert_eq!(told, memory, "{name} rank {rank}: foretold, and what it was");
        let [dp, tp] = m.sent();
        assert_eq!([dp, tp, m.world.traffic().bytes()], sent, "{name} rank {rank}: bytes sent");
        assert!(memory.peak[Category::Workspace as usize] > 0 && memory.peak_total < memory.peak_fresh);
    }
}

#[test]
fn the_meta_arena_foretells_the_cpu_arena_of_a_gpt2_that_keeps_everything() {
    let c = config(
        "preset = \"gpt2-124m\"\nlayers = 3\ndim = 64\nheads = 4\nffn_dim = 256\nvocab = 500",
        "[parallel]\nmicro_batch = 8",
    );
    check("gpt2 keep", &c, 1);
}

#[test]
fn the_meta_arena_foretells_the_cpu_arena_and_the_bytes_sent_of_every_zero_stage() {
    let tied = "preset = \"gpt2-124m\"\nlayers = 3\ndim = 64\nheads = 4\nffn_dim = 256\nvocab = 500";
    let untied = "preset = \"llama-tiny\"\nlayers = 3\nvocab = 500\ntied = false";
    for (model, parallel, ranks) in [
        (tied, "zero = 1\nshard = \"2 ranks\"", 4),
        (tied, "zero = 2", 2),
        (untied, "zero = 2\naccumulate = \"sharded\"", 2),
        (tied, "zero = 3\nrecompute = \"full\"", 2),
        (untied, "zero = 3\naccumulate = \"sharded\"", 2),
        (untied, "zero = 3\ntp = 2\nshard = \"2 ranks\"", 8),
    ] {
        check(parallel, &config(model, &format!("[parallel]\nmicro_batch = 2\n{parallel}")), ranks);
    }
}

#[test]
fn between_updates_a_rank_keeps_the_bytes_per_parameter_that_its_zero_stage_says() {
    // Of a shard group of 4: weights, gradients, moments and (bf16) masters; arXiv 1910.02054, with f32 gradients.
    let d = 4.0;
    let table = [
        ("f32", [16.0, 8.0 + 8.0 / d, 4.0 + 12.0 / d, 16.0 / d]),
        ("bf16", [18.0, 6.0 + 12.0 / d, 2.0 + 16.0 / d, 16.0 / d]),
    ];
    for (dtype, stages) in table {
        for (zero, bytes) in stages.into_iter().enumerate() {
            for (parallel, ranks) in [("", 4), ("shard = \"4 ranks\"", 8)] {
                if zero == 0 && ranks == 8 {
                    continue; // shard groups are a matter of ZeRO
                }
                let parallel = format!("[parallel]\nmicro_batch = 1\nzero = {zero}\n{parallel}");
                let set = [format!("run.dtype={dtype}")];
                let c = config_with("preset = \"gpt2-124m\"", &parallel, &set);
                let mut r = Rehearsal::new(&c, 1, ranks);
                r.update(&c.phases[0]).expect("a rehearsal");
                r.update(&c.phases[0]).expect("a rehearsal");
                let live = r.replica.dev.arena().used().live;
                let state =
                    [Category::Weights, Category::Grads, Category::Optimizer].map(|c| live[c as usize]);
                let each = state.iter().sum::<usize>() as f64 / c.model.params() as f64;
                println!(
                    "{dtype} zero {zero}, {ranks} ranks: {each:.3} bytes per parameter, {bytes} by the table"
                );
                assert!((each / bytes - 1.0).abs() < 0.03, "{dtype} zero {zero}: {each} and not {bytes}");
            }
        }
    }
}

/// Elements of all units with their padding, for shard groups of this size.
fn padded(config: &RunConfig, shard: usize) -> u64 {
    let dp = Dp { size: shard, ..Dp::SOLO };
    let (_, params) = Network::build(&config.model, &Device::meta(), DType::F32, (0, 1), dp, 1);
    params.units.iter().map(|u| u.len as u64).sum()
}

#[test]
fn what_dp_sends_in_an_update_is_what_the_formulas_say() {
    // Two micro-batches of a model whose embedding is gathered once for each, like the head it is tied to, and its
    // blocks forward and backward.
    let model = "preset = \"gpt2-124m\"\nlayers = 3\ndim = 64\nheads = 4\nffn_dim = 256\nvocab = 500";
    let sent = |parallel: &str| {
        let c = config(model, &format!("[parallel]\nmicro_batch = 1\n{parallel}"));
        let mut r = Rehearsal::new(&c, 0, 4);
        r.update(&c.phases[0]).expect("a rehearsal");
        assert_eq!(
            r.splits(&c.phases[0])[0].0.micro_steps,
            2,
            "the formulas below are for two micro-batches"
        );
        (r.replica.mesh.sent()[0], c)
    };
    let (zero_0, c) = sent("zero = 0");
    let n = padded(&c, 4);
    let blocks = {
        let dp = Dp { size: 4, ..Dp::SOLO };
        let (_, params) = Network::build(&c.model, &Device::meta(), DType::F32, (0, 1), dp, 1);
        let blocks = params.units.iter().filter(|u| u.name.starts_with("blocks"));
        blocks.map(|u| u.len as u64).sum::<u64>()
    };
    // Of 4 ranks, each sends 3/4 of a buffer that it scatters or gathers; an element has 4 bytes.
    let quarter_less = |elements: u64| elements * 4 * 3 / 4;
    assert_eq!(zero_0, quarter_less(2 * n), "an all_reduce");
    assert_eq!(sent("zero = 1").0, quarter_less(2 * n), "a reduce_scatter and an all_gather");
    assert_eq!(sent("zero = 2").0, quarter_less(2 * n), "the same");
    let sharded = sent("zero = 2\naccumulate = \"sharded\"").0;
    assert_eq!(sharded, quarter_less(3 * n), "a reduce_scatter for each micro-batch");
    let gathers = 2 * n + 2 * blocks;
    assert_eq!(sent("zero = 3").0, quarter_less(n + gathers), "gathers forward and backward");
    let all = sent("zero = 3\naccumulate = \"sharded\"").0;
    assert_eq!(all, quarter_less(2 * n + gathers), "and a reduce_scatter for each micro-batch");
    // Two groups of two: half a buffer in the group, then an all_reduce of half the gradients between the groups.
    let n = padded(&c, 2);
    assert_eq!(sent("zero = 1\nshard = \"2 ranks\"").0, 4 * (n / 2 + n / 2 + n / 2));
}

#[test]
fn the_meta_arena_foretells_the_cpu_arena_of_a_llama_with_accumulation_and_cheap_recompute() {
    let c = config(
        "preset = \"llama-tiny\"\nlayers = 3\nvocab = 500\nqk_norm = true",
        "[parallel]\nmicro_batch = 2\nzero = 1\nrecompute = \"cheap\"",
    );
    check("llama cheap", &c, 2);
}

#[test]
fn the_meta_arena_foretells_the_cpu_arena_of_bf16_with_full_recompute_on_two_tensor_parallel_ranks() {
    let c = config(
        "preset = \"llama-tiny\"\nlayers = 3\nvocab = 300\nmlp_bias = true\nhead_bias = true\ntied = true\nlogit_softcap = 5.0",
        "dtype = \"bf16\"\nz_loss = 1e-3\n[parallel]\ntp = 2\nmicro_batch = 4\nrecompute = \"full\"\n[optim]\nema = { decay = 0.99 }",
    );
    check("bf16 full tp 2", &c, 2);
    check("bf16 full tp 2 dp 2", &c, 4);
}

#[test]
fn the_meta_arena_foretells_the_cpu_arena_and_the_bytes_that_muon_moves() {
    let gpt2 = "preset = \"gpt2-124m\"\nlayers = 3\ndim = 64\nheads = 4\nffn_dim = 256\nvocab = 500";
    let llama = "preset = \"llama-tiny\"\nlayers = 3\nvocab = 500\nkv_heads = 2";
    for (model, parallel, ranks) in [
        (gpt2, "zero = 0", 1),
        (gpt2, "zero = 0", 2),
        (llama, "zero = 0\ntp = 2", 4),
        (llama, "zero = 1\ntp = 4", 4),
        (gpt2, "zero = 1\nshard = \"2 ranks\"", 4),
        (llama, "zero = 2\naccumulate = \"sharded\"", 2),
        (llama, "zero = 3\ntp = 2\nshard = \"2 ranks\"", 8),
    ] {
        for dtype in ["f32", "bf16"] {
            let parallel = format!("[parallel]\nmicro_batch = 2\n{parallel}\n[optim]\nmuon = {{}}");
            let c = config_with(model, &parallel, &[format!("run.dtype={dtype}")]);
            check(&parallel, &c, ranks);
            let dp = ranks / c.parallel.tp;
            let hashes = |rank| programs(&c, rank, dp).expect("a rehearsal").0;
            assert!((0..ranks).all(|rank| hashes(rank) == hashes(0)), "{parallel}: ranks differ");
        }
    }
}

#[test]
fn muon_keeps_one_moment_of_a_matrix_and_two_of_the_rest() {
    for (moments, bytes) in [("f32", 4), ("bf16", 2)] {
        let optim = format!("[parallel]\nmicro_batch = 1\n[optim]\nmuon = {{ moments = \"{moments}\" }}");
        let c = config("preset = \"gpt2-124m\"", &optim);
        let r = Rehearsal::new(&c, 1, 4);
        let live = r.replica.dev.arena().used().live[Category::Optimizer as usize] as f64;
        let want = bytes * (2 * c.model.params() - c.model.block_matrix_params()) / 4;
        assert!((live / want as f64 - 1.0).abs() < 0.02, "{live} and not {want}");
    }
}

#[test]
fn the_kinds_of_updates_of_a_growing_batch_stand_for_all_of_them() {
    let model = "preset = \"llama-tiny\"\nlayers = 2\nvocab = 300";
    let set = |c: &RunConfig, set: &[&str]| {
        let set: Vec<String> = set.iter().map(|s| s.to_string()).collect();
        RunConfig::parse(&c.resolved_toml(), "test.toml", &set).expect("a run file")
    };
    let ramp = ["phase.0.batch_ramp={ from = 2, by = 2, samples = 30 }", "phase.0.steps=12"];
    // One micro-batch at first, then two, three and four; and micro-batches that grow.
    for (parallel, ranks, kinds) in [("micro_batch = 2", 1, 1), ("micro_batch = 1\ntp = 2", 4, 1), ("", 2, 4)]
    {
        let c = set(&config(model, &format!("[parallel]\n{parallel}")), &ramp);
        let r = Rehearsal::new(&c, 0, ranks / c.parallel.tp);
        assert_eq!((r.splits(&c.phases[0]).len(), r.kinds(&c.phases[0]).len()), (4, kinds), "{parallel}");
        check(parallel, &c, ranks);
        let hash = |c: &RunConfig| programs(c, 0, ranks / c.parallel.tp).expect("a rehearsal").0;
        assert_ne!(hash(&c), hash(&set(&c, &["phase.0.steps=13"])), "one more update is another program");
    }
}

#[test]
fn ranks_of_a_run_have_the_same_program_and_runs_that_differ_have_others() {
    // Parts of 12,608 and 12,480 rows of the vocabulary: for 4 x 672 tokens a rank of the smaller part alone would
    // take one chunk of logits where the others take two, and so call other collectives.
    let base = "[model]\npreset = \"llama-tiny\"\nlayers = 1\nkv_heads = 4\nvocab = 50304";
    let with = |parallel: &str| {
        let phase = "[[phase]]\nname = \"main\"\nsteps = 4\nlr = [{ kind = \"const\", to = 1e-3 }]";
        let run = "schema = 1\n[run]\ndir = \"unused\"\nseq_len = 672\nglobal_batch = 8";
        let text = format!("{run}\n{base}\n[data]\na = {{ path = \"unused\" }}\n{parallel}\n{phase}");
        RunConfig::parse(&text, "test.toml", &[]).expect("a run file")
    };
    let hashes = |c: &RunConfig, ranks: usize| -> Vec<u64> {
        let dp = ranks / c.parallel.tp;
        (0..ranks).map(|r| programs(c, r, dp).expect("a rehearsal").0[0]).collect()
    };
    let four = hashes(&with("[parallel]\ntp = 4\nmicro_batch = 4"), 8);
    assert_eq!(four, [four[0]; 8]);
    let others = [
        "tp = 2\nmicro_batch = 4",
        "tp = 4\nmicro_batch = 2",
        "tp = 4\nmicro_batch = 4\nrecompute = \"full\"",
    ];
    for other in others {
        assert_ne!(hashes(&with(&format!("[parallel]\n{other}")), 8)[0], four[0], "{other}");
    }
}

#[test]
fn a_run_whose_ranks_differ_is_refused_by_rank_and_by_what_differs() {
    let check = |ranks: usize, facts: &(dyn Fn(usize) -> Vec<(&'static str, u64)> + Sync)| {
        run_ranks(ranks, Duration::from_secs(10), |world| {
            let own = facts(world.rank()).into_iter().map(|(name, hash)| (name.to_string(), hash));
            agreement::check(&Device::cpu(1), world.as_ref(), &own.collect::<Vec<_>>())
        })
    };
    let phases = |rank: usize| vec![("the run file", 7 << 40), ("phase 1", 9 + rank as u64 / 2)];
    assert!(check(2, &phases).is_ok());
    let message = check(3, &phases).expect_err("the third differs").to_string();
    assert!(message.contains("rank 2 differs from rank 0 in phase 1"), "{message}");
    let more = |rank: usize| vec![("the run file", 7); 1 + (rank == 0) as usize];
    let message = check(3, &more).expect_err("the first has more").to_string();
    assert!(message.contains("rank 0 differs from rank 1"), "{message}");
}

fn espalier(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_espalier"));
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
    command
}

fn output(args: &[&str]) -> String {
    let out = espalier(args).output().expect("the program starts");
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("text")
}

/// A corpus of the sample texts and a run of two updates with an evaluation and a checkpoint.
fn run_file(dir: &Path, rest: &str) -> String {
    let (corpus, file) = (dir.join("text"), dir.join("run.toml"));
    output(&["corpus", "build", "tests/text", "--out", corpus.to_str().expect("a path")]);
    let text = format!(
        r#"schema = 1
        eval = {{ on = ["text:heldout"], every = "1000 steps", tokens = 4000 }}
        data = {{ text = {{ path = {corpus:?}, holdout = 0.2 }} }}
        [run]
        dir = {:?}
        seq_len = 256
        {rest}
        [[phase]]
        name = "main"
        steps = 2
        lr = [{{ kind = "linear", to = 1e-3, steps = 1 }}, {{ kind = "cosine", to = 1e-4 }}]
        "#,
        dir.join("run")
    );
    std::fs::write(&file, text).expect("a run file");
    file.to_str().expect("a path").into()
}

/// The most anonymous memory of a process while it runs, bytes.
#[cfg(target_os = "linux")]
fn peak_anonymous(mut command: Command) -> u64 {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let status = format!("/proc/{}/status", child.id());
    let mut most = 0;
    while child.try_wait().expect("a child").is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("RssAnon:"));
        let kib = line.and_then(|l| l.split_whitespace().next()?.parse::<u64>().ok());
        most = most.max(kib.unwrap_or(0) << 10);
        std::thread::sleep(Duration::from_millis(1));
    }
    let out = child.wait_with_output().expect("a child");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    most
}

#[cfg(target_os = "linux")]
#[test]
fn peak_anonymous_memory_is_within_a_tenth_of_what_the_dry_run_says() {
    let cases = [
        (
            "gpt2 keep",
            "1",
            "global_batch = 8
            [model]
            preset = \"gpt2-124m\"\nlayers = 4\ndim = 384\nheads = 6\nvocab = 257\nmax_positions = 256
            [parallel]
            micro_batch = 8",
            None,
        ),
        (
            "llama whose batch and micro-batches grow",
            "1",
            "global_batch = 8
            [model]
            preset = \"llama-tiny\"\nlayers = 4\nvocab = 257",
            Some("phase.0.batch_ramp={ from = 4, by = 4, samples = 4 }"),
        ),
        (
            "llama cheap, 2 ranks, accumulation",
            "2",
            "global_batch = 8
            [model]
            preset = \"llama-tiny\"\nlayers = 4\nvocab = 257
            [parallel]
            micro_batch = 2\nzero = 1\nrecompute = \"cheap\"",
            None,
        ),
        (
            "bf16 full, tp 2",
            "2",
            "global_batch = 4\ndtype = \"bf16\"
            [model]
            preset = \"llama-tiny\"\nlayers = 4\nvocab = 4096
            [parallel]
            micro_batch = 4\ntp = 2\nrecompute = \"full\"",
            None,
        ),
    ];
    for (name, ranks, rest, set) in cases {
        let dir = tempfile::tempdir().expect("a directory");
        let file = run_file(dir.path(), rest);
        let mut args = vec!["train", &file, "--ranks", ranks, "--threads", "1"];
        args.extend(set.into_iter().flat_map(|set| ["--set", set]));
        let plan: Value =
            serde_json::from_str(&output(&[&args[..], &["--dry-run", "--json"]].concat())).expect("JSON");
        let told = plan["memory"]["process"].as_u64().expect("bytes");
        let was = peak_anonymous(espalier(&args));
        let ratio = was as f64 / told as f64;
        println!(
            "{name}: {:.1} MiB, foretold {:.1}, {ratio:.3}",
            was as f64 / 1048576.0,
            told as f64 / 1048576.0
        );
        assert!(was > 100 << 20, "{name}: {was} bytes are too few to tell anything");
        assert!((0.9..=1.1).contains(&ratio), "{name}: {was} bytes, foretold {told}: {}", plan["memory"]);
    }
}

#[test]
fn the_page_has_every_part_in_few_lines_and_nothing_is_written() {
    let dir = tempfile::tempdir().expect("a directory");
    let rest = "global_batch = 8\n[model]\npreset = \"llama-tiny\"\nvocab = 257\n[parallel]\nmicro_batch = 2\nzero = 1";
    let file = run_file(dir.path(), rest);
    let page = output(&["train", &file, "--ranks", "2", "--dry-run"]);
    for part in [
        "3.21 M parameters",
        "2 ranks = dp 2 x tp 1",
        "863.2 k tokens, 21 documents",
        "2 x 2 x 2",
        "text 100 %, 4096 tokens, 0.00 epochs",
        "learning rate by update",
        "1: 1.00e-3        2: 1.00e-4",
        "memory of a rank, at its peak",
        "outside the arena",
        "an update sends, per rank: dp 12.4 MiB, tp 0 B, world 88 B",
        // 12 bytes for each parameter
        "checkpoint  36.8 MiB each",
    ] {
        assert!(page.contains(part), "{part:?} is not in\n{page}");
    }
    assert!(page.lines().count() <= 45 && page.lines().all(|l| l.chars().count() <= 130), "{page}");
    assert!(!dir.path().join("run").exists(), "a dry run writes nothing");
    let refused =
        espalier(&["train", &file, "--ranks", "3", "--dry-run"]).output().expect("the program starts");
    assert_eq!(refused.status.code(), Some(2), "3 ranks do not divide 8 sequences");
}

#[test]
fn a_dry_run_takes_every_evaluation_that_training_takes() {
    let dir = tempfile::tempdir().expect("a directory");
    let rest = "global_batch = 2\n[model]\npreset = \"llama-tiny\"\nvocab = 257\nlayers = 1";
    let file = run_file(dir.path(), rest);
    // All of a corpus that holds nothing out, and all of one that does.
    for (on, holdout, tokens) in [("text", "0.0", 3000), ("text", "0.2", 3000), ("text:heldout", "0.2", 3000)]
    {
        let set = [
            format!("eval.on=[\"{on}\"]"),
            format!("data.text.holdout={holdout}"),
            format!("eval.tokens={tokens}"),
        ];
        let mut args = vec!["train", &file];
        set.iter().for_each(|s| args.extend(["--set", s]));
        output(&[&args[..], &["--dry-run"]].concat());
        output(&args);
        let rows = std::fs::read_to_string(dir.path().join("run/metrics.jsonl")).expect("metrics");
        let mut rows = rows.lines().map(|l| serde_json::from_str::<Value>(l).expect("a row"));
        let last = rows.rfind(|row| row["kind"] == "eval").expect("an evaluation");
        assert_eq!((&last["corpus"], &last["tokens"]), (&Value::from(on), &Value::from(tokens)));
        std::fs::remove_dir_all(dir.path().join("run")).expect("removed");
    }
}
