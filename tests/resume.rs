//! The program, killed at any moment and started again by the same command, ends as if nobody had disturbed it.

#[path = "resume/blocks.rs"]
mod blocks;
#[path = "resume/compose.rs"]
mod compose;
#[path = "resume/grow.rs"]
mod grow;
#[path = "common/layouts.rs"]
mod layouts;
#[path = "resume/muon.rs"]
mod muon;
#[path = "resume/numerics.rs"]
mod numerics;
#[path = "common/process.rs"]
mod process;
#[path = "resume/ramp.rs"]
mod ramp;
#[path = "common/random.rs"]
mod random;
#[path = "resume/reshard.rs"]
mod reshard;
#[path = "resume/salt.rs"]
mod salt;
#[path = "resume/spdf.rs"]
mod spdf;
#[path = "resume/stops.rs"]
mod stops;

use espalier::checkpoint::{Area, Checkpoint, Kind, Manifest};
use espalier::comm::{Mesh, run_ranks};
use espalier::config::RunConfig;
use espalier::data::{Entry, Ledger, Mixture};
use espalier::device::Device;
use espalier::train::position::Position;
use espalier::train::replica::Replica;
use espalier::train::resume::{self, Start};
use espalier::train::{corpora, run};
use process::{Process, RUN, Run, STEPS, Site};
use random::Random;
use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// Two data-parallel ranks that share the optimizer state: checkpoints of several files.
const RANKS: [&str; 2] = ["--ranks", "2"];
/// One rank, with f32 masters beside the weights.
const BF16: [&str; 2] = ["--set", "run.dtype=bf16"];

/// Checkpoints to be caught unfinished.
const HITS: usize = 3;

const PAUSE: Duration = Duration::from_micros(200);

/// Waits until the moment has come. False if the run was over before it was seen.
fn until(process: &Process, ready: impl Fn() -> bool) -> bool {
    while !ready() {
        if process.ended().is_some() {
            return false;
        }
        std::thread::sleep(PAUSE);
    }
    true
}

#[test]
fn killed_at_twenty_moments_it_ends_with_the_same_bytes() {
    let site = Site::in_memory();
    let calm = site.run("calm", &BF16);
    let began = Instant::now();
    calm.finish();
    let length = began.elapsed().as_secs_f64();
    let losses = calm.losses();
    assert_eq!(losses.len() as u64, STEPS);

    let mut random = Random(1);
    let (mut kills, mut ends) = (0, 0);
    let mut run = site.run("round-0", &BF16);
    while kills < 20 || ends == 0 {
        // From 5 ms to the length of the run.
        let delay = 0.005 + (length - 0.005).max(0.0) * random.below(1000) as f64 / 1000.0;
        let process = run.start();
        if kills < 20 {
            std::thread::sleep(Duration::from_secs_f64(delay));
            process.signal(libc::SIGKILL);
        }
        let status = process.wait();
        if status.signal() == Some(libc::SIGKILL) {
            kills += 1;
            continue;
        }
        assert!(status.success(), "{status}: {}", run.stderr());
        run.assert_ended_like(&calm);
        assert_eq!(run.losses(), losses, "losses of round {ends}");
        ends += 1;
        run = site.run(&format!("round-{ends}"), &BF16);
    }
    println!("{kills} kills, {ends} runs to the end, {length:.1} s each");
}

#[test]
fn killed_while_it_writes_a_checkpoint_it_ends_with_the_same_bytes() {
    let site = Site::on_disk();
    let calm = site.run("calm", &RANKS);
    calm.finish();
    let (mut hits, mut ends) = (0, 0);
    while hits < HITS {
        assert!(ends < 20, "no checkpoint was ever caught unfinished");
        let run = site.run(&format!("round-{ends}"), &RANKS);
        while !end_or_kill_in_a_save(&run, &mut hits) {}
        run.assert_ended_like(&calm);
        assert_eq!(run.losses(), calm.losses());
        ends += 1;
    }
    println!("{hits} checkpoints were left unfinished in {ends} runs");
}

/// Kills the run while a checkpoint has files and no manifest. True if it came to its end instead.
fn end_or_kill_in_a_save(run: &Run, hits: &mut usize) -> bool {
    let process = run.start();
    let caught = || {
        let unfinished = |step: &u64| run.checkpoint(*step).exists() && !run.finished(*step);
        (1..=STEPS).find(unfinished)
    };
    loop {
        if let Some(status) = process.ended() {
            assert!(status.success(), "{status}: {}", run.stderr());
            return true;
        }
        if *hits < HITS && caught().is_some() {
            // Looks again while it stands still.
            if let Some(status) = process.stop() {
                assert!(status.success(), "{status}: {}", run.stderr());
                return true;
            }
            if caught().is_some() {
                process.signal(libc::SIGKILL);
                process.wait();
                assert!(caught().is_some(), "it wrote on");
                *hits += 1;
                return false;
            }
            process.signal(libc::SIGCONT);
        }
        std::thread::sleep(PAUSE);
    }
}

#[test]
fn killed_at_the_switch_of_phases_it_ends_with_the_same_bytes() {
    let site = Site::in_memory();
    let calm = site.run("calm", &[]);
    calm.finish();
    for (i, delay_ms) in [0, 5, 20].into_iter().enumerate() {
        let run = site.run_from(&format!("round-{i}"), &[], &calm, &[20]);
        let process = run.start();
        if until(&process, || run.checkpoint(33).exists()) {
            std::thread::sleep(Duration::from_millis(delay_ms));
            process.signal(libc::SIGKILL);
            process.wait();
        }
        run.finish();
        run.assert_ended_like(&calm);
    }
}

#[test]
fn asked_to_stop_it_saves_exits_with_75_and_goes_on_to_the_same_bytes() {
    let site = Site::on_disk();
    let calm = site.run("calm", &RANKS);
    calm.finish();
    for (name, signal, step) in [("term", libc::SIGTERM, 10), ("usr1", libc::SIGUSR1, 35)] {
        let (run, status) = asked_to_stop(&site, name, signal, step);
        assert_eq!(status.code(), Some(75), "{status}: {}", run.stderr());
        let (last, _) = run.losses().pop_last().expect("steps");
        assert!(last < STEPS && run.finished(last), "a checkpoint of the last step, {last}");
        let said = format!("espalier: stopped at step {last} as asked; the same command resumes\n");
        assert!(run.stderr().ends_with(&said), "{}", run.stderr());
        run.finish();
        let resumed = format!("resuming at step {last} ");
        assert!(run.stderr().contains(&resumed), "{}", run.stderr());
        run.assert_ended_like(&calm);
        assert_eq!(run.losses(), calm.losses());
    }
}

#[test]
fn a_run_directory_in_use_is_refused_and_left_as_it_is() {
    let site = Site::on_disk();
    let run = site.run("two", &BF16);
    let folder = run.folder.join("run");
    std::fs::create_dir(&folder).expect("a new folder");
    let first = std::fs::File::create(folder.join("lock")).expect("a file");
    first.lock().expect("nobody else has it");
    let status = run.start().wait();
    assert_eq!(status.code(), Some(2), "{status}: {}", run.stderr());
    assert!(
        run.stderr().contains("is in use: another process trains in it; wait for it"),
        "{}",
        run.stderr()
    );
    let names: Vec<_> =
        std::fs::read_dir(&folder).expect("a folder").map(|e| e.expect("an entry").file_name()).collect();
    assert_eq!(names, ["lock"]);
    drop(first);
    run.finish();
}

/// A run that got the signal after a step, and how it ended. On a busy machine a run may be over before; then another.
fn asked_to_stop(site: &Site, name: &str, signal: libc::c_int, step: u64) -> (Run, ExitStatus) {
    for attempt in 0..20 {
        let run = site.run(&format!("{name}-{attempt}"), &RANKS);
        let process = run.start();
        if until(&process, || run.finished(step)) {
            process.signal(signal);
            let status = process.wait();
            if !status.success() {
                return (run, status);
            }
        }
    }
    panic!("20 runs were over before they got their signal, or did not heed it");
}

/// Resumes and stops before the first step: the checkpoint that the given topology writes of the state it read.
fn rewrite(from: &Run, tp: usize, zero: u8, to: &Run) {
    rewrite_with(from, tp, zero, to, &[]);
}

/// The same of a run with settings of its own.
fn rewrite_with(from: &Run, tp: usize, zero: u8, to: &Run, more: &[&str]) {
    let folder = |run: &Run| run.folder.join("run");
    let config = |run: &Run| {
        let text = RUN.replace("../", &format!("{}/../", run.folder.display()));
        let mut set = vec![
            format!("run.dir={}", folder(run).display()),
            format!("parallel.tp={tp}"),
            format!("parallel.zero={zero}"),
        ];
        set.extend(more.iter().map(|s| s.to_string()));
        RunConfig::parse(&text, "run.toml", &set).expect("a run file")
    };
    let (read, write) = (config(from), config(to));
    let domains = corpora::open(&read).expect("the corpora");
    // Not by `resume::find`: the stored run file names the corpora as seen from the run's folder.
    let checkpoint = Checkpoint::open(&from.checkpoint(20)).expect("a checkpoint");
    let start = Start::Resume(Box::new(checkpoint), Position { update: 20, phase: 0, phase_step: 20 });
    let done = run_ranks(2, Duration::from_secs(60), |world| {
        let mut r = Replica::new(Device::cpu(1), Mesh::new(world, tp)?, &run::plan(&read))?;
        let position = resume::load(&read, &start, &mut r)?;
        resume::save(
            &write,
            &domains,
            &r,
            position,
            resume::cursor(&start)?.as_ref(),
            &Default::default(),
            0.0,
        )
    });
    done.expect("a checkpoint is written");
}

/// All values of a checkpoint, by kind and tensor.
fn values(run: &Run, step: u64) -> Vec<(Kind, String, Vec<u32>)> {
    let c = Checkpoint::open(&run.checkpoint(step)).expect("a checkpoint");
    let mut all = vec![];
    for (kind, spec) in Kind::ALL.into_iter().flat_map(|k| c.manifest().params.iter().map(move |p| (k, p))) {
        let mut out = vec![0.0; spec.len()];
        if c.read(kind, spec, Area::whole(spec), &mut out).expect("readable").is_some() {
            all.push((kind, spec.name.clone(), out.iter().map(|x| x.to_bits()).collect()));
        }
    }
    all
}

/// The losses after `first` are the same up to rounding, and there is one for every step.
fn assert_goes_on_like(run: &Run, other: &Run, first: u64) {
    let (ours, theirs) = (run.losses(), other.losses());
    let steps: Vec<u64> = ours.keys().copied().collect();
    assert_eq!(steps, (first + 1..=STEPS).collect::<Vec<_>>());
    for (step, loss) in ours {
        let gap = (loss / theirs[&step] - 1.0).abs();
        assert!(gap <= 1e-5, "loss of step {step} is off by {gap:e}");
    }
}

#[test]
fn a_resume_on_another_topology_has_the_same_state_and_goes_on_alike() {
    let site = Site::in_memory();
    let tp2 = ["--ranks", "2", "--set", "parallel.tp=2"];
    let dp = site.run("dp", &RANKS);
    dp.finish();
    let state = values(&dp, 20);
    let kinds = |kind| state.iter().filter(|(k, ..)| *k == kind).count();
    assert!(kinds(Kind::Weight) > 10 && kinds(Kind::M) == kinds(Kind::Weight) && kinds(Kind::V) > 10);
    for (name, tp, zero) in [("as-tp", 2, 1), ("as-zero-0", 1, 0)] {
        let written = site.run(name, &[]);
        rewrite(&dp, tp, zero, &written);
        assert!(values(&written, 20) == state, "state of {name}");
    }
    let back = site.run("as-tp-and-back", &[]);
    let there = site.run("there", &[]);
    rewrite(&dp, 2, 1, &there);
    rewrite(&there, 1, 1, &back);
    assert!(values(&back, 20) == state, "state of dp 2, tp 2, dp 2");

    let tp = site.run_from("tp", &tp2, &dp, &[20]);
    tp.finish();
    assert_goes_on_like(&tp, &dp, 20);
    let back = site.run_from("back", &RANKS, &tp, &[40]);
    back.finish();
    assert_goes_on_like(&back, &dp, 40);
}

fn flip(run: &Run, step: u64, file: &str, random: &mut Random) {
    let path = run.checkpoint(step).join(file);
    let mut bytes = std::fs::read(&path).expect("a file");
    let at = random.below(bytes.len());
    bytes[at] ^= 1 << random.below(8);
    std::fs::write(&path, bytes).expect("write");
}

#[test]
fn of_damaged_checkpoints_it_says_so_and_uses_an_earlier_one() {
    let site = Site::in_memory();
    let calm = site.run("calm", &RANKS);
    calm.finish();
    let mut random = Random(2);
    for file in process::files(&calm.checkpoint(STEPS)).keys() {
        let run = site.run_from(&format!("damaged-{file}"), &RANKS, &calm, &[55, STEPS]);
        flip(&run, STEPS, file, &mut random);
        run.finish();
        let said = run.stderr();
        assert!(
            said.contains("step-00000060 is passed over") && said.contains("resuming at step 55"),
            "{said}"
        );
        run.assert_ended_like(&calm);
    }

    let lost = site.run_from("lost", &RANKS, &calm, &[40, 55, STEPS]);
    for step in [40, 55, STEPS] {
        flip(&lost, step, "optim-r00001.safetensors", &mut random);
    }
    let status = lost.start().wait();
    assert_eq!(status.code(), Some(4), "{status}: {}", lost.stderr());
    let said = lost.stderr();
    let sentences: Vec<&str> = said.lines().filter(|l| l.starts_with("espalier: ")).collect();
    assert_eq!(sentences.len(), 1, "{said}");
    assert!(sentences[0].contains("every checkpoint is damaged"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

/// The checkpoint of a step with another note of where the data cursor is.
fn note_cursor(run: &Run, step: u64, cursor: Value) {
    let folder = run.checkpoint(step);
    let mut manifest = Manifest::read(&folder).expect("a manifest");
    manifest.meta.data = cursor;
    manifest.write(&folder).expect("written");
}

#[test]
fn a_resume_goes_on_from_the_counts_of_the_checkpoint_and_refuses_those_of_another_moment() {
    let site = Site::in_memory();
    let calm = site.run("calm", &[]);
    calm.finish();
    // 40 updates of 4 samples; from update 33 on the second mix.
    let entry = |first_sample, large| {
        let weights = vec![("large".into(), large), ("small".into(), 1.0 - large)];
        Entry { first_sample, weights }
    };
    let ledger = Ledger { entries: vec![entry(0, 0.7), entry(4 * 33, 0.4)] };
    let mut mixture = Mixture::new(&ledger, &["large".into(), "small".into()]).expect("a mix");
    mixture.seek(160);
    let noted = |step| Manifest::read(&calm.checkpoint(step)).expect("a manifest").meta.data;
    let snapshot = mixture.snapshot();
    assert_eq!(noted(40), serde_json::to_value(&snapshot).expect("numbers"));
    let [(_, large), (_, small)] = &snapshot.counts[..] else { panic!("{snapshot:?}") };

    // A checkpoint without the note, as earlier programs wrote it.
    let none = site.run_from("none", &[], &calm, &[40]);
    note_cursor(&none, 40, Value::Null);
    none.finish();
    none.assert_ended_like(&calm);
    // Counts that the mix could have come to are believed: nothing before them was drawn again.
    let near = site.run_from("near", &[], &calm, &[40]);
    note_cursor(&near, 40, json!({ "sample": 160, "counts": [["large", large + 1], ["small", small - 1]] }));
    near.finish();
    let (ours, theirs) = (near.losses(), calm.losses());
    assert!(
        ours.iter().any(|(step, loss)| theirs[step] != *loss),
        "the counts of the checkpoint were not used"
    );

    for (name, cursor, says) in [
        (
            "sample",
            json!({ "sample": 156, "counts": [["large", large - 4], ["small", small]] }),
            "its data cursor is at sample 156, but the run is at sample 160",
        ),
        (
            "counts",
            json!({ "sample": 160, "counts": [["large", 160], ["small", 0]] }),
            "gave 160 of 160 samples",
        ),
        ("corpus", json!({ "sample": 160, "counts": [["other", 160]] }), "came from \"other\""),
        ("shape", json!([1]), "\"data\" of its manifest is no data cursor"),
    ] {
        let run = site.run_from(name, &[], &calm, &[40]);
        note_cursor(&run, 40, cursor);
        let status = run.start().wait();
        let said = run.stderr();
        assert_eq!(status.code(), Some(4), "{name}: {status}: {said}");
        assert!(said.contains(says) && !said.contains("panicked"), "{said}");
    }
}
