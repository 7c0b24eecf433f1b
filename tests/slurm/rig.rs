//! A Slurm of two nodes on this machine and runs that are jobs of it.

use espalier::data::build_bytes;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub const STEPS: u64 = 300;
/// A checkpoint is written every so many updates.
pub const EVERY: u64 = 50;
const RUN: &str = r#"
schema = 1
checkpoint = { every = "50 steps" }
[run]
dir = "run"
seed = 7
seq_len = 64
global_batch = 8
[model]
preset = "llama-tiny"
vocab = 257
layers = 2
dim = 64
heads = 4
kv_heads = 2
ffn_dim = 128
[data]
text = { path = "../text" }
[parallel]
tp = 2
zero = 1
[[phase]]
name = "one"
steps = 300
mix = { text = 1.0 }
lr = [{ kind = "linear", to = 2e-3, frac = 0.1 }, { kind = "cosine", to = 1e-4 }]
"#;

/// Nothing here takes as long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits for something to be there.
pub fn until<T>(run: &Run, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}; {}", run.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The rig, which ends with this value, and a folder with a corpus that its nodes see.
pub struct Rig {
    folder: TempDir,
    rig: String,
}

impl Rig {
    /// None where it cannot run; a line says why.
    pub fn up() -> Option<Rig> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text = project().join("tests/text");
        let files = ["1821-Monroe-1.txt", "1829-Jackson-1.txt", "1845-Polk-1.txt"].map(|f| text.join(f));
        build_bytes(&files, &folder.path().join("text")).expect("a corpus");
        let program = Path::new(env!("CARGO_BIN_EXE_espalier")).parent().expect("it lies in a folder");
        let out = Command::new(project().join("tools/slurm-rig"))
            .args(["up", "--minutes", "10", "--share"])
            .arg(folder.path())
            .arg("--share")
            .arg(program)
            .output()
            .expect("the rig's tool starts");
        if out.status.code() == Some(77) {
            eprint!("{}", String::from_utf8_lossy(&out.stderr));
            return None;
        }
        let printed = text_of(&out);
        let rig = printed.trim().strip_prefix("export SLURM_RIG=").expect("where the rig is").to_string();
        Some(Rig { folder, rig })
    }

    /// What `tools/slurm-rig` prints.
    pub fn tool(&self, args: &[&str]) -> String {
        text_of(&self.try_tool(args, &self.folder.path().to_path_buf()))
    }

    fn try_tool(&self, args: &[&str], dir: &PathBuf) -> Output {
        Command::new(project().join("tools/slurm-rig"))
            .args(args)
            .current_dir(dir)
            .env("SLURM_RIG", &self.rig)
            .env("ESPALIER", env!("CARGO_BIN_EXE_espalier"))
            .env_remove("RUST_LOG")
            .output()
            .expect("the rig's tool starts")
    }

    /// Bytes that a node sent since the rig came up, as the kernel counts them on its link.
    pub fn sent(&self, node: &str) -> u64 {
        let all = self.tool(&["bytes"]);
        let line = all.lines().find(|line| line.starts_with(node)).expect("a line for each node");
        line.split(' ').nth(2).and_then(|n| n.parse().ok()).expect("node, received, sent")
    }

    /// A run that has not begun.
    pub fn run(&self, name: &str) -> Run<'_> {
        let folder = self.folder.path().join(name);
        std::fs::create_dir(&folder).expect("a new folder");
        std::fs::write(folder.join("run.toml"), RUN).expect("write");
        Run { rig: self, folder }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.try_tool(&["down"], &project().to_path_buf());
    }
}

fn text_of(out: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(out.status.success(), "{}: {}{}", out.status, text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}

/// A run directory beside its run file and the output of its jobs.
pub struct Run<'a> {
    rig: &'a Rig,
    pub folder: PathBuf,
}

impl<'a> Run<'a> {
    /// Two ranks on each of two nodes. The same command begins and goes on.
    pub fn submit(&self) -> Job<'a> {
        self.train(2, &[])
    }

    /// So many ranks on each of two nodes, with more options of `train`.
    pub fn train(&self, ranks_per_node: usize, options: &[&str]) -> Job<'a> {
        let train = ["run.toml", "--threads", "1", "--deadline", "5"];
        self.sbatch("train", ranks_per_node, &[&train, options].concat())
    }

    /// One of the scripts in slurm/.
    pub fn sbatch(&self, script: &str, ranks_per_node: usize, args: &[&str]) -> Job<'a> {
        let script = format!("{}/slurm/{script}.sbatch", project().display());
        let (dir, ranks) = (format!("--chdir={}", self.folder.display()), ranks_per_node.to_string());
        let sbatch = ["exec", "sbatch", "--parsable", "--nodes=2", "--time=10", "--output=log"];
        let what = [&dir, "--ntasks-per-node", &ranks, script.as_str()];
        let id = self.rig.tool(&[&sbatch[..], &what, args].concat());
        Job { rig: self.rig, id: id.trim().to_string() }
    }

    /// What all its jobs printed.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.folder.join("log")).unwrap_or_default()).into_owned()
    }

    /// Rows of metrics.jsonl; what broke off in the middle of a line is none.
    pub fn rows(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.join("run/metrics.jsonl")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// The last update that has a row.
    pub fn step(&self) -> u64 {
        let rows = self.rows();
        rows.iter().rev().find(|r| r["kind"] == "step").and_then(|r| r["step"].as_u64()).unwrap_or(0)
    }

    pub fn await_step(&self, step: u64) {
        until(self, &format!("step {step}"), || (self.step() >= step).then_some(()));
    }

    /// That what disturbed it came before its end.
    pub fn assert_disturbed(&self) {
        assert!(!self.log().contains("done: "), "the run was over before it was disturbed: {}", self.log());
    }

    /// How often it was started.
    pub fn attempts(&self) -> u64 {
        self.rows().iter().filter_map(|r| r["attempt"].as_u64()).max().map_or(0, |last| last + 1)
    }

    /// The loss of every step by the highest attempt.
    pub fn losses(&self) -> BTreeMap<u64, f64> {
        let mut best: BTreeMap<u64, (u64, f64)> = BTreeMap::new();
        for row in self.rows().iter().filter(|r| r["kind"] == "step") {
            let number = |key: &str| row[key].as_u64().expect("a number");
            let (step, attempt) = (number("step"), number("attempt"));
            if best.get(&step).is_none_or(|(a, _)| attempt >= *a) {
                best.insert(step, (attempt, row["loss"].as_f64().expect("a loss")));
            }
        }
        best.into_iter().map(|(step, (_, loss))| (step, loss)).collect()
    }
}

/// A job of Slurm.
pub struct Job<'a> {
    rig: &'a Rig,
    id: String,
}

impl Job<'_> {
    /// One of the fields of `scontrol show job`: "JobState", "ExitCode", "Restarts".
    pub fn field(&self, key: &str) -> String {
        let all = self.rig.tool(&["exec", "scontrol", "--oneliner", "show", "job", &self.id]);
        let key = format!("{key}=");
        all.split_whitespace().find_map(|f| f.strip_prefix(&key)).expect("Slurm says it").to_string()
    }

    pub fn await_state(&self, wanted: &str, run: &Run) {
        until(run, &format!("job in state {wanted}"), || {
            let state = self.field("JobState");
            let over = ["COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT"].contains(&state.as_str());
            assert!(!over || state == wanted, "{state} instead of {wanted}: {}", run.log());
            (state == wanted).then_some(())
        });
    }

    /// Waits until it has ended well.
    pub fn complete(&self, run: &Run) {
        self.await_state("COMPLETED", run);
        assert_eq!(self.field("ExitCode"), "0:0");
    }

    pub fn cancel(&self, how: &[&str]) {
        let args: Vec<&str> =
            ["exec", "scancel"].iter().chain(how).copied().chain([self.id.as_str()]).collect();
        self.rig.tool(&args);
    }
}
