//! The same with ranks that are processes of a launcher: one of them is killed or held.

use super::assert_alike;
use super::damage::{DAMAGE, assert_said, harm};
use super::process::{Run, STEPS, Site, files};
use super::random::Random;
use espalier::comm::mpi::library;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

/// Seconds that ranks wait for each other; longer than any of them is busy.
const DEADLINE: u64 = 4;
/// What ends with an error ends within this, launcher and all.
const END: Duration = Duration::from_secs(45);

const ESPALIER: &str = env!("CARGO_BIN_EXE_espalier");

/// `mpirun -n N` of the library that this was built with.
fn launcher(ranks: usize) -> Command {
    let open = library().starts_with("Open MPI");
    let names = if open { ["mpirun.openmpi", "mpirun"] } else { ["mpirun.mpich", "mpiexec.hydra"] };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let there = |name: &&str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    let mut command = Command::new(names.into_iter().find(there).expect("the launcher of the MPI library"));
    if open {
        command.args(["--oversubscribe", "--bind-to", "none", "--allow-run-as-root"]);
    }
    for (name, _) in std::env::vars() {
        if ["OMPI_", "PMIX_", "PMI_", "SLURM_", "RUST_LOG"].iter().any(|start| name.starts_with(start)) {
            command.env_remove(name);
        }
    }
    command.args(["-n", &ranks.to_string(), ESPALIER, "train", "run.toml", "--threads", "1"]);
    command.args(["--deadline", &DEADLINE.to_string()]).process_group(0);
    command
}

/// The processes of a run that are ranks, with their ranks.
fn ranks(run: &Run) -> Vec<(usize, libc::pid_t)> {
    let folder = run.folder.canonicalize().expect("the folder of the run");
    let program = PathBuf::from(ESPALIER).canonicalize().expect("the program");
    let mut found = vec![];
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let link = |name: &str| std::fs::read_link(entry.path().join(name)).ok();
        if link("exe").as_ref() != Some(&program) || link("cwd").as_ref() != Some(&folder) {
            continue;
        }
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let rank = environment.split(|byte| *byte == 0).find_map(|line| {
            let (name, value) = std::str::from_utf8(line).ok()?.split_once('=')?;
            ["OMPI_COMM_WORLD_RANK", "PMI_RANK"].contains(&name).then(|| value.parse().ok()).flatten()
        });
        found.extend(rank.map(|rank| (rank, pid)));
    }
    found
}

fn send(pid: libc::pid_t, signal: libc::c_int) {
    // SAFETY: no preconditions; a process that is gone already is none of a run any more.
    unsafe { libc::kill(pid, signal) };
}

/// What a signal to one of the ranks, after `delay`, made of a run.
enum End {
    /// It was over before.
    Well,
    /// It had saved its last checkpoint. Then ranks wait for each other to leave, as long as that takes.
    Late,
    /// With the signalled rank and what was said.
    Badly(usize, String),
}

fn disturb(run: &Run, ranks_of: usize, signal: libc::c_int, delay: Duration, random: &mut Random) -> End {
    let process = run.start_as(launcher(ranks_of));
    let began = Instant::now();
    let mut hit = None;
    loop {
        if let Some(status) = process.ended() {
            let Some((rank, _, _)) = hit else {
                assert!(status.success(), "{status}: {}", run.stderr());
                return End::Well;
            };
            if status.success() {
                return End::Well; // it had nothing left to do for the others
            }
            return End::Badly(rank, run.stderr());
        }
        // A rank that is held while MPI starts holds up the library, which has no deadline.
        let started = signal != libc::SIGSTOP || run.stderr().contains("phase one");
        if hit.is_none() && began.elapsed() > delay && started {
            let there = ranks(run);
            if there.len() == ranks_of {
                let (rank, pid) = there[random.below(there.len())];
                send(pid, signal);
                hit = Some((rank, pid, Instant::now()));
            }
        }
        if let Some((rank, pid, at)) = hit
            && at.elapsed() > END
        {
            let story = run.stderr();
            ranks(run).iter().for_each(|r| send(r.1, libc::SIGKILL));
            send(pid, libc::SIGKILL);
            process.signal(libc::SIGKILL);
            if run.finished(STEPS) {
                return End::Late;
            }
            panic!("rank {rank} got signal {signal}, and {END:?} later the run has not ended:\n{story}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How long an undisturbed run takes, and the run.
fn calm(site: &Site, name: &str, n: usize, spread: &[&str]) -> (Run, f64) {
    let run = site.run(name, spread);
    let began = Instant::now();
    let status = run.start_as(launcher(n)).wait();
    assert!(status.success(), "{status}: {}", run.stderr());
    (run, began.elapsed().as_secs_f64())
}

/// Ranks, and how the run is spread over them.
const WORLDS: [(usize, &[&str]); 3] =
    [(2, &["--set", "parallel.tp=2"]), (4, &["--set", "parallel.zero=3"]), (2, &["--set", "run.dtype=bf16"])];

pub fn kills(moments: usize) -> String {
    let site = Site::in_memory();
    let mut random = Random(14);
    let (mut kills, mut ends, mut told) = (0, 0, 0);
    for (i, (n, spread)) in WORLDS.into_iter().enumerate() {
        let share = (moments * (i + 1)).div_ceil(WORLDS.len());
        if kills >= share {
            continue;
        }
        let (calm, seconds) = calm(&site, &format!("calm-{i}"), n, spread);
        while kills < share {
            let run = site.run(&format!("round-{i}-{ends}"), spread);
            for attempt in 0.. {
                let wanted = kills < share && attempt < 6;
                let delay = if wanted { seconds * random.below(1000) as f64 / 1000.0 } else { 1e6 };
                match disturb(&run, n, libc::SIGKILL, Duration::from_secs_f64(delay), &mut random) {
                    End::Well | End::Late => break,
                    End::Badly(rank, said) => {
                        kills += 1;
                        // The launcher may be faster than the others, and names it itself.
                        let names = [
                            format!("rank {rank}: its process"),
                            format!("rank {rank} with PID"),
                            "KILLED".into(),
                        ];
                        assert!(
                            names.iter().any(|name| said.contains(name)),
                            "rank {rank} is not named:\n{said}"
                        );
                        told += usize::from(said.contains(&names[0]));
                    }
                }
            }
            assert_alike(&run, &calm);
            ends += 1;
        }
    }
    format!(
        "{kills} kills in {ends} runs under {}; {told} times the other ranks named it, else the launcher",
        library()
    )
}

pub fn stops(moments: usize) -> String {
    let site = Site::in_memory();
    let mut random = Random(15);
    let (calm, seconds) = calm(&site, "calm", 3, &["--set", "run.global_batch=6"]);
    let (mut stops, mut late, wanted) = (0, 0, moments.div_ceil(5).min(10));
    while stops < wanted {
        let run = site.run(
            &format!("round-{stops}-{late}-{}", random.below(1 << 30)),
            &["--set", "run.global_batch=6"],
        );
        loop {
            let delay = seconds * (0.3 + 0.5 * random.below(1000) as f64 / 1000.0);
            let delay = if stops < wanted { delay } else { 1e6 };
            match disturb(&run, 3, libc::SIGSTOP, Duration::from_secs_f64(delay), &mut random) {
                End::Well => break,
                End::Late => {
                    late += 1;
                    break;
                }
                End::Badly(rank, said) => {
                    let names = said.lines().filter(|l| l.starts_with("espalier: ")).collect::<Vec<_>>();
                    assert!(
                        names.len() == 1 && names[0].contains(&format!("rank {rank}")),
                        "rank {rank}:\n{said}"
                    );
                    stops += 1;
                    if stops == wanted {
                        let status = run.start_as(launcher(3)).wait();
                        assert!(status.success(), "{status}: {}", run.stderr());
                        break;
                    }
                }
            }
        }
        assert_alike(&run, &calm);
    }
    format!(
        "{stops} ranks held, each named when the deadline of {DEADLINE} s was over; {late} held after the last checkpoint"
    )
}

/// Each rank reads by itself, and all begin from the same.
pub fn damage() -> String {
    let site = Site::in_memory();
    let mut random = Random(16);
    let (calm, _) = calm(&site, "calm", 2, &[]);
    let all = files(&calm.checkpoint(STEPS));
    let harmed = ["optim-r00001.safetensors", "weights-r00000.safetensors", "manifest.json"];
    for (file, how) in harmed.into_iter().zip(DAMAGE) {
        assert!(all.contains_key(file), "{file}");
        let run = site.run_from(&format!("{file}-{how}"), &[], &calm, &[55, STEPS]);
        harm(&run, STEPS, file, how, &mut random);
        let status = run.start_as(launcher(2)).wait();
        assert!(status.success(), "{status}: {}", run.stderr());
        assert_said(&run, file, how);
        run.assert_ended_like(&calm);
    }
    format!("{} files, passed over by all ranks, said once", harmed.len())
}
