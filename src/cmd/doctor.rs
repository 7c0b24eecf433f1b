//! `doctor`: what this machine has, what a run can expect of it, and the fix for what is missing.

mod cluster;

use crate::bench::{self, gemm, rates};
use crate::comm::processes;
use crate::config::ModelConfig;
use crate::device::Pool;
use crate::device::simd::{self, Isa, isa};
use crate::{Error, Result};
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What this machine has, what a run can expect of it, and the fix for what is missing; exit code 1 if something keeps
/// runs from working
#[derive(clap::Args)]
#[command(after_help = "Examples:
  espalier doctor                        a few seconds; measures arithmetic, memory and the disk here
  espalier doctor --dir /scratch/me      the file system that corpora and checkpoints will lie on
  espalier doctor --no-measure --json    for scripts
  mpirun -n 4 espalier doctor            where are the ranks of a launcher, which is slow, which pair has a slow link")]
pub struct Doctor {
    /// Where corpora and checkpoints will lie
    #[arg(long, default_value = ".")]
    dir: PathBuf,
    /// MiB written to and read from that directory, by each rank of a launcher
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=65536))]
    mib: u64,
    /// Only look
    #[arg(long)]
    no_measure: bool,
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    Fine,
    /// Works, and would be better otherwise.
    Note,
    /// Keeps runs from working.
    Wrong,
}

#[derive(Debug, Serialize)]
struct Finding {
    what: &'static str,
    found: String,
    state: State,
    /// What to do about it.
    fix: Option<String>,
}

fn fine(what: &'static str, found: impl Into<String>) -> Finding {
    Finding { what, found: found.into(), state: State::Fine, fix: None }
}

fn note(what: &'static str, found: impl Into<String>, fix: &str) -> Finding {
    Finding { what, found: found.into(), state: State::Note, fix: Some(fix.into()) }
}

impl Doctor {
    pub fn run(self) -> Result<()> {
        if !self.dir.is_dir() {
            return Err(Error::config(
                "doctor",
                "--dir",
                format!("{} is no directory", self.dir.display()),
                "name one",
            ));
        }
        let mib = self.mib as usize;
        let together = if self.no_measure { None } else { bench::cluster::run(&self.dir, mib)? };
        if !processes::is_first() {
            return Ok(()); // the first of several processes looks, and says what all measured
        }
        let mut all = vec![program(), vectors(), processor(), memory(), huge_pages(), files()];
        all.extend([space(&self.dir), temporary(), mpi(), slurm(), gpu()]);
        all.extend(ranks());
        match &together {
            Some(c) => all.extend(cluster::findings(c)),
            None if self.no_measure => {}
            None => all.extend(self.measure()),
        }
        let wrong = all.iter().any(|f| f.state == State::Wrong);
        match self.json {
            true => println!(
                "{}",
                serde_json::json!({ "host": read("/proc/sys/kernel/hostname"), "findings": all, "cluster": together })
            ),
            false => all.iter().for_each(show),
        }
        if wrong {
            processes::end(&Ok(()));
            std::process::exit(1);
        }
        Ok(())
    }

    fn measure(&self) -> Vec<Finding> {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let pool = Pool::new(threads);
        let peak = rates::arithmetic(&pool);
        let small = ModelConfig::preset("small").expect("a preset of this program");
        let (_, rows) = gemm::run(&ModelConfig { vocab: 4096, ..small }, 1024, threads, false, |_| ());
        let (ms, work) = rows.iter().fold((0.0, 0.0), |(ms, work), r| (ms + r.ms, work + r.ms * r.gflops));
        let attained = work / ms;
        let share = 100.0 * attained / peak;
        let found = format!(
            "{attained:.0} GFLOP/s in products of training, {share:.0} % of the {peak:.0} of multiply-adds ({threads} threads, f32)"
        );
        let mut all = vec![match share < 50.0 {
            true => note(
                "arithmetic",
                found,
                "other programs may be using the cores; look with top, and bind the process to cores of its own",
            ),
            false => fine("arithmetic", found),
        }];
        all.push(fine("memory speed", format!("{:.1} GB/s read and written by a copy", rates::copy(&pool))));
        all.push(match rates::file(&self.dir, self.mib as usize) {
            Ok((write, read)) => fine(
                "file system",
                format!(
                    "{}: {write:.0} MB/s written, {read:.0} MB/s read ({} MiB)",
                    self.dir.display(),
                    self.mib
                ),
            ),
            Err(e) => Finding {
                what: "file system",
                found: e.to_string(),
                state: State::Wrong,
                fix: Some("give a directory you may write to: --dir".into()),
            },
        });
        all
    }
}

fn show(f: &Finding) {
    let mark = match f.state {
        State::Fine => "ok  ",
        State::Note => "note",
        State::Wrong => "FIX ",
    };
    println!("{mark}  {:<13} {}", f.what, f.found);
    if let Some(fix) = &f.fix {
        println!("{:>19} {fix}", "->");
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).map_or(String::new(), |s| s.trim().into())
}

/// The value of a line "name: value" or "name   value unit".
fn field(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find(|l| l.starts_with(name))?;
    Some(line[name.len()..].trim_start_matches([':', ' ', '\t']).trim().into())
}

fn program() -> Finding {
    let build = if cfg!(debug_assertions) { ", built without --release" } else { "" };
    let found = format!("espalier {} (git {}){build}", env!("CARGO_PKG_VERSION"), crate::GIT);
    match cfg!(debug_assertions) {
        true => note("program", found, "build with cargo build --release: it is faster"),
        false => fine("program", found),
    }
}

fn vectors() -> Finding {
    if let Ok(Some(limit)) = simd::limit() {
        let found = format!("{:?} at most: {} is set", limit, simd::LIMIT);
        return note("vectors", found, "unset it to use what the machine has");
    }
    match isa() {
        Isa::Avx512 => fine("vectors", "AVX-512"),
        Isa::Avx2 => fine("vectors", "AVX2 and FMA"),
        Isa::Portable => note(
            "vectors",
            "none that kernels are written for",
            "runs work and are slow; use x86-64 with AVX2 or better",
        ),
    }
}

fn processor() -> Finding {
    let info = read("/proc/cpuinfo");
    let name = field(&info, "model name").unwrap_or_else(|| std::env::consts::ARCH.into());
    let all = info.lines().filter(|l| l.starts_with("processor")).count();
    let ours = std::thread::available_parallelism().map_or(1, |n| n.get());
    let found = format!("{name}, {ours} of {all} processors for this process");
    match ours < all {
        true => note(
            "processor",
            found,
            "a cpuset, an affinity or a quota holds the rest back; under Slurm ask for --cpus-per-task",
        ),
        false => fine("processor", found),
    }
}

fn memory() -> Finding {
    let info = read("/proc/meminfo");
    let kib =
        |name| field(&info, name).and_then(|v| v.split(' ').next()?.parse::<f64>().ok()).unwrap_or(f64::NAN);
    let (all, free) = (kib("MemTotal") / 1048576.0, kib("MemAvailable") / 1048576.0);
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit =
        limits.iter().find_map(|path| read(path).parse::<f64>().ok()).map(|b| b / (1u64 << 30) as f64);
    let found = format!("{free:.1} of {all:.1} GiB available");
    match limit.filter(|limit| *limit < all) {
        Some(limit) => note(
            "memory",
            format!("{found}, and a limit of {limit:.1} GiB"),
            "train --dry-run says what a run needs; raise the job's memory if that is more",
        ),
        None => fine("memory", found),
    }
}

fn huge_pages() -> Finding {
    let state = read("/sys/kernel/mm/transparent_hugepage/enabled");
    let chosen = state.split(['[', ']']).nth(1).unwrap_or("unknown").to_string();
    match chosen.as_str() {
        "never" => note(
            "huge pages",
            "never",
            "steps are some percent faster with: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled",
        ),
        _ => fine("huge pages", chosen),
    }
}

fn files() -> Finding {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a place to write to.
    unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    match limit.rlim_cur < 1024 {
        true => {
            note("open files", limit.rlim_cur.to_string(), "corpora of many parts need more: ulimit -n 65536")
        }
        false => fine("open files", limit.rlim_cur.to_string()),
    }
}

fn space(dir: &Path) -> Finding {
    let text = std::os::unix::ffi::OsStrExt::as_bytes(dir.as_os_str());
    let Ok(path) = std::ffi::CString::new(text) else {
        return note("disk", "a name that cannot be asked for", "give another --dir");
    };
    // SAFETY: a struct of numbers, all of which may be zero, that the call fills.
    let (done, stat) = unsafe {
        let mut stat: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &mut stat), stat)
    };
    let gib = stat.f_bavail as f64 * stat.f_frsize as f64 / (1u64 << 30) as f64;
    match (done, gib) {
        (0, gib) if gib < 1.0 => Finding {
            what: "disk",
            found: format!("{}: {gib:.2} GiB free", dir.display()),
            state: State::Wrong,
            fix: Some("checkpoints will not fit: make room or give another directory".into()),
        },
        (0, gib) => fine("disk", format!("{}: {gib:.1} GiB free", dir.display())),
        _ => note("disk", "the file system does not say what is free", "look with df"),
    }
}

fn temporary() -> Finding {
    let dir = std::env::temp_dir();
    match dir.is_dir() {
        true => fine(
            "scratch",
            format!(
                "{} (io = \"stage\" copies corpora to [data] stage_dir, by default there)",
                dir.display()
            ),
        ),
        false => note("scratch", format!("{} is no directory", dir.display()), "set TMPDIR"),
    }
}

/// The first line that a program prints when asked for its version.
fn version(program: &str) -> Option<String> {
    let out = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let line = text.lines().find(|l| !l.trim().is_empty())?.trim().to_string();
    Some(line)
}

fn mpi() -> Finding {
    let launcher = version("mpirun");
    let fix =
        "ranks are threads of one process: train --ranks N; for several nodes build with --features mpi";
    match (processes::mpi_library(), launcher) {
        (Some(library), Some(v)) => fine("MPI", format!("built with {library}; mpirun here: {v}")),
        (Some(library), None) => fine("MPI", format!("built with {library}; no mpirun here")),
        (None, Some(v)) => note("MPI", format!("{v}; this build does not use it"), fix),
        (None, None) => note("MPI", "not found; this build does not use it", fix),
    }
}

/// Where the ranks are that a launcher started.
fn ranks() -> Option<Finding> {
    let (_, size) = processes::joined()?;
    let mut hosts: Vec<(String, usize)> = vec![];
    for host in (0..size).filter_map(processes::host) {
        match hosts.iter_mut().find(|h| h.0 == host) {
            Some(known) => known.1 += 1,
            None => hosts.push((host, 1)),
        }
    }
    let each: Vec<String> = hosts.iter().map(|(host, n)| format!("{host} {n}")).collect();
    Some(fine("ranks", format!("{size} processes on {} hosts: {}", hosts.len(), each.join(", "))))
}

fn slurm() -> Finding {
    match (version("sbatch"), std::env::var("SLURM_JOB_ID")) {
        (Some(v), Ok(job)) => fine("Slurm", format!("{v}, inside job {job}")),
        (Some(v), Err(_)) => fine("Slurm", v),
        (None, _) => fine("Slurm", "not found, and not needed on one machine"),
    }
}

fn gpu() -> Finding {
    match version("nvidia-smi") {
        Some(_) => {
            note("GPU", "there is an NVIDIA driver; this build computes on processors only", "nothing to do")
        }
        None => fine("GPU", "none found, and not needed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_from_the_kernels_tables() {
        let info = "processor\t: 0\nmodel name\t: A 1\nMemTotal:       24638464 kB\n";
        assert_eq!(field(info, "model name").as_deref(), Some("A 1"));
        assert_eq!(field(info, "MemTotal").as_deref(), Some("24638464 kB"));
        assert_eq!(field(info, "Memory"), None);
    }

    #[test]
    fn every_finding_that_is_not_fine_has_a_fix() {
        let doctor = Doctor { dir: std::env::temp_dir(), mib: 1, no_measure: true, json: true };
        let looks: [fn() -> Finding; 9] =
            [program, vectors, processor, memory, huge_pages, files, temporary, mpi, gpu];
        let all = looks.iter().map(|look| look()).chain([space(&doctor.dir), slurm()]);
        for f in all {
            assert!(!f.found.is_empty() && (f.state == State::Fine) == f.fix.is_none(), "{f:?}");
        }
        let missing = Doctor { dir: "/no/such/place".into(), ..doctor };
        assert!(missing.run().unwrap_err().to_string().contains("/no/such/place is no directory"));
    }
}
