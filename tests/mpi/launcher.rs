//! Starts commands under the launcher of the MPI library that this was built with.

use espalier::comm::mpi::library;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Tells the worker of which scenario it is one.
pub const SCENARIO: &str = "ESPALIER_SCENARIO";

/// Nothing that is tested takes this long; a hang does.
const LIMIT: Duration = Duration::from_secs(120);

pub struct Ended {
    /// None for a launcher that was killed.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// Lines that the program wrote for a person.
    pub fn said(&self) -> Vec<&str> {
        self.stderr.lines().filter(|l| l.starts_with("espalier: ")).collect()
    }
}

pub fn is_open_mpi() -> bool {
    library().starts_with("Open MPI")
}

fn launcher() -> &'static str {
    let names: [&str; 3] = if is_open_mpi() {
        ["mpirun.openmpi", "mpirun", "mpiexec"]
    } else {
        ["mpirun.mpich", "mpiexec.hydra", "mpiexec"]
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_there = |name: &&str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    names
        .into_iter()
        .find(is_there)
        .unwrap_or_else(|| panic!("no launcher of {}: none of {names:?}", library()))
}

/// Runs a command as n processes in a folder.
pub fn run(n: usize, folder: &Path, program: &str, args: &[&str], env: &[(&str, &str)]) -> Ended {
    let mut command = Command::new(launcher());
    if is_open_mpi() {
        command.args(["--oversubscribe", "--bind-to", "none"]);
        // SAFETY: no preconditions.
        if unsafe { libc::geteuid() } == 0 {
            command.arg("--allow-run-as-root");
        }
    }
    command.args(["-n", &n.to_string(), program]).args(args).current_dir(folder);
    for (name, _) in std::env::vars() {
        if ["OMPI_", "PMIX_", "PMI_", "SLURM_", "RUST_LOG"].iter().any(|start| name.starts_with(start)) {
            command.env_remove(name);
        }
    }
    command.envs(env.iter().copied());
    wait(command)
}

/// Lets a command end, or fails.
pub fn wait(mut command: Command) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    let [out, err] = ["out", "err"].map(|name| dir.path().join(name));
    let file = |path| std::fs::File::create(path).unwrap();
    let mut child = command.stdin(Stdio::null()).stdout(file(&out)).stderr(file(&err)).spawn().unwrap();
    let began = Instant::now();
    let read = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Ended { code: status.code(), stdout: read(&out), stderr: read(&err) };
        }
        if began.elapsed() > LIMIT {
            let _ = child.kill();
            panic!("{command:?} hangs:\n{}\n{}", read(&out), read(&err));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a scenario on n ranks.
pub fn scenario(name: &str, n: usize) -> Ended {
    let own = std::env::current_exe().unwrap();
    let args = ["--exact", "collectives::worker", "--nocapture"];
    run(n, &std::env::temp_dir(), own.to_str().unwrap(), &args, &[(SCENARIO, name)])
}
