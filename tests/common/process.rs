//! Runs of the real program in directories of their own, which can be stopped, killed and compared.

use espalier::data::build_bytes;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use tempfile::TempDir;

/// Two phases, the second with a new optimizer state and another mix. Corpus `small` is read several times over, and
/// the phases meet in the middle of a pass.
pub const RUN: &str = r#"
schema = 1
checkpoint = { every = "5 steps", keep_last = 2, keep_every = "20 steps" }
[run]
dir = "run"
seed = 7
seq_len = 32
global_batch = 4
[model]
preset = "llama-tiny"
vocab = 257
layers = 2
dim = 32
heads = 4
kv_heads = 2
ffn_dim = 64
[data]
large = { path = "../large" }
small = { path = "../small" }
[[phase]]
name = "one"
steps = 33
mix = { large = 0.7, small = 0.3 }
lr = [{ kind = "linear", to = 2e-3, frac = 0.2 }, { kind = "const" }]
[[phase]]
name = "two"
steps = 27
mix = { large = 0.4, small = 0.6 }
optimizer = "reset"
lr = [{ kind = "linear", to = 2e-4 }]
"#;
pub const STEPS: u64 = 60;

/// A folder with the corpora and, each in its own folder, runs.
pub struct Site(TempDir);

impl Site {
    /// On a disk, where a save takes a while.
    pub fn on_disk() -> Site {
        Site::new(TempDir::new())
    }

    /// In memory where the system has it: what the program waits for at a disk protects from more than a kill.
    pub fn in_memory() -> Site {
        let memory = Path::new("/dev/shm");
        Site::new(if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() })
    }

    fn new(folder: std::io::Result<TempDir>) -> Site {
        let site = Site(folder.expect("a temporary folder"));
        let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/text");
        let files = ["1821-Monroe-1.txt", "1829-Jackson-1.txt", "1845-Polk-1.txt"].map(|f| text.join(f));
        build_bytes(&files, &site.0.path().join("large")).expect("a corpus");
        let speech = std::fs::read(text.join("1790-Washington-1.txt")).expect("a text");
        let part = site.0.path().join("part.txt");
        std::fs::write(&part, &speech[..1500]).expect("write");
        build_bytes(&[part], &site.0.path().join("small")).expect("a corpus");
        site
    }

    /// A run that has not begun.
    pub fn run(&self, name: &str, args: &[&str]) -> Run {
        let folder = self.0.path().join(name);
        std::fs::create_dir(&folder).expect("a new folder");
        std::fs::write(folder.join("run.toml"), RUN).expect("write");
        Run { folder, args: args.iter().map(|a| a.to_string()).collect() }
    }

    /// A run that has begun as `other`, of whose checkpoints it has those of `steps`.
    pub fn run_from(&self, name: &str, args: &[&str], other: &Run, steps: &[u64]) -> Run {
        let run = self.run(name, args);
        for step in steps {
            let to = run.checkpoint(*step);
            std::fs::create_dir_all(&to).expect("a new folder");
            for (name, bytes) in files(&other.checkpoint(*step)) {
                std::fs::write(to.join(name), bytes).expect("write");
            }
        }
        run
    }
}

/// A run in its folder; the same command starts and resumes it.
pub struct Run {
    pub folder: PathBuf,
    args: Vec<String>,
}

impl Run {
    pub fn start(&self) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_espalier"));
        // Neither RUST_LOG nor the variables of a launcher around the tests.
        command.args(["train", "run.toml", "--threads", "1"]).env_clear();
        self.start_as(command)
    }

    /// By another command, to which the arguments of the run are added.
    #[allow(clippy::zombie_processes)] // `Process` waits
    pub fn start_as(&self, mut command: Command) -> Process {
        let stderr = File::create(self.folder.join("stderr")).expect("a file");
        command.args(&self.args).current_dir(&self.folder);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        Process(command.spawn().expect("the program starts").id() as libc::pid_t)
    }

    pub fn finish(&self) {
        let status = self.start().wait();
        assert!(status.success(), "{status}: {}", self.stderr());
    }

    /// Of the last start.
    pub fn stderr(&self) -> String {
        String::from_utf8(std::fs::read(self.folder.join("stderr")).expect("a file")).expect("text")
    }

    pub fn checkpoint(&self, step: u64) -> PathBuf {
        self.folder.join(format!("run/ckpt/step-{step:08}"))
    }

    pub fn finished(&self, step: u64) -> bool {
        self.checkpoint(step).join("manifest.json").exists()
    }

    /// The loss of every step by the highest attempt. A kill may cut a line, which then ends nowhere.
    pub fn losses(&self) -> BTreeMap<u64, f64> {
        let text = std::fs::read_to_string(self.folder.join("run/metrics.jsonl")).expect("metrics");
        let mut best: BTreeMap<u64, (u64, f64)> = BTreeMap::new();
        for line in text.lines().filter(|l| !l.is_empty()) {
            let Ok(row) = serde_json::from_str::<Value>(line) else {
                assert!(!line.ends_with('}'), "a line that does not parse: {line}");
                continue;
            };
            if row["kind"] == "step" {
                let number = |key: &str| row[key].as_u64().expect("a number");
                let (step, attempt) = (number("step"), number("attempt"));
                let loss = row["loss"].as_f64().expect("a loss");
                if best.get(&step).is_none_or(|(a, _)| attempt >= *a) {
                    best.insert(step, (attempt, loss));
                }
            }
        }
        best.into_iter().map(|(step, (_, loss))| (step, loss)).collect()
    }

    /// That it ended as if nobody had disturbed it.
    pub fn assert_ended_like(&self, other: &Run) {
        self.assert_same_at(other, STEPS);
    }

    /// That both wrote the same checkpoint of a step.
    pub fn assert_same_at(&self, other: &Run, step: u64) {
        let (ours, theirs) = (files(&self.checkpoint(step)), files(&other.checkpoint(step)));
        let names = |f: &BTreeMap<String, Vec<u8>>| f.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&ours), names(&theirs));
        for (name, bytes) in &ours {
            assert!(*bytes == theirs[name], "{name} of the checkpoint of step {step} differs");
        }
    }
}

/// The files of a folder.
pub fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let paths = entries.map(|e| e.expect("an entry").path());
    let name = |p: &Path| p.file_name().expect("a name").to_string_lossy().into_owned();
    paths.map(|p| (name(&p), std::fs::read(&p).expect("a file"))).collect()
}

/// A run under way.
pub struct Process(libc::pid_t);

impl Process {
    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: the child has not been waited for, so the number is its own.
        let done = unsafe { libc::kill(self.0, signal) };
        assert_eq!(done, 0, "the signal is sent");
    }

    /// Waits for the end.
    pub fn wait(self) -> ExitStatus {
        self.poll(0).expect("it ended")
    }

    /// Whether it has ended.
    pub fn ended(&self) -> Option<ExitStatus> {
        self.poll(libc::WNOHANG)
    }

    /// Holds it where it is. Its status if it has ended.
    pub fn stop(&self) -> Option<ExitStatus> {
        self.signal(libc::SIGSTOP);
        self.poll(libc::WUNTRACED).filter(|status| status.stopped_signal().is_none())
    }

    fn poll(&self, options: libc::c_int) -> Option<ExitStatus> {
        let mut status = 0;
        // SAFETY: `status` is valid for a write.
        let pid = unsafe { libc::waitpid(self.0, &mut status, options) };
        assert!(pid >= 0, "{}", std::io::Error::last_os_error());
        (pid > 0).then(|| ExitStatus::from_raw(status))
    }
}
