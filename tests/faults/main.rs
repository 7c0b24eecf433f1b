//! Faults done on purpose: each ends the run within its deadline or does not end it, says what happened, and the same
//! command goes on to the bytes of a run that nobody disturbed. Not a libtest program: it counts.
//!
//!     cargo test --test faults                         a few of each kind
//!     cargo test --test faults -- --moments 50         so many of each (`tools/faults --all`)
//!     cargo test --test faults -- kills damage         some kinds only
//!     cargo test --features mpi --test faults          also with ranks that are processes
//!
//! - `kills`: SIGKILL of the process (with ranks that are processes: of one of them) at random moments.
//! - `writes`: the process dies at a random byte of a file that it writes; by the limit of a file's size, which is exact.
//! - `stops`: SIGSTOP of one rank, which is a process. (A thread cannot be stopped alone: `src/comm/tests/failures.rs`.)
//! - `damage`: every file of the newest checkpoint cut short, with a bit flipped, and removed.
//! - `disk`: checkpoints that cannot be written, and a disk that is full (a small tmpfs; only where one may be mounted).

mod damage;
mod disk;
mod kills;
#[cfg(feature = "mpi")]
mod launched;
#[path = "../common/process.rs"]
mod process;
#[path = "../common/random.rs"]
mod random;
mod writes;

use process::{Run, Site};
use std::process::ExitCode;
use std::time::Instant;

/// How a run is spread, in turn: what is split and stored differs.
const SPREAD: [&[&str]; 4] = [
    &["--ranks", "2"],
    &["--set", "run.dtype=bf16"],
    &["--ranks", "2", "--set", "parallel.tp=2"],
    &["--ranks", "2", "--set", "parallel.zero=3"],
];

const KINDS: [&str; 5] = ["kills", "writes", "stops", "damage", "disk"];

struct Args {
    moments: usize,
    kinds: Vec<String>,
}

fn args() -> Result<Args, String> {
    let mut args = Args { moments: 4, kinds: vec![] };
    let mut given = std::env::args().skip(1);
    while let Some(arg) = given.next() {
        match arg.as_str() {
            "--all" => args.moments = 50,
            "--moments" => {
                args.moments = given.next().and_then(|n| n.parse().ok()).ok_or("--moments N")?;
            }
            // Of libtest, as `cargo test -- --nocapture` gives them to every program.
            "--nocapture" | "--test-threads" | "-q" => {}
            kind if KINDS.contains(&kind) => args.kinds.push(arg),
            other => return Err(format!("{other}: known are --all, --moments N and {}", KINDS.join(", "))),
        }
    }
    Ok(args)
}

/// What came of one kind of fault; a failed claim panics and is counted.
struct Campaign {
    kinds: Vec<String>,
    passed: usize,
    failed: usize,
}

impl Campaign {
    fn run(&mut self, kind: &str, name: &str, faults: impl FnOnce() -> String + std::panic::UnwindSafe) {
        if !self.kinds.is_empty() && !self.kinds.iter().any(|k| k == kind) {
            return;
        }
        let began = Instant::now();
        // The panic has said itself what was wrong.
        let outcome = std::panic::catch_unwind(faults);
        let seconds = began.elapsed().as_secs_f64();
        match outcome {
            Ok(said) => {
                println!("{name}: {said} ({seconds:.0} s)");
                self.passed += 1;
            }
            Err(_) => {
                println!("FAILED {name} ({seconds:.0} s)");
                self.failed += 1;
            }
        }
    }
}

fn main() -> ExitCode {
    let Args { moments, kinds } = match args() {
        Ok(args) => args,
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::from(2);
        }
    };
    let mut campaign = Campaign { kinds, passed: 0, failed: 0 };
    campaign.run("kills", "SIGKILL of a process whose ranks are threads", || kills::threads(moments));
    campaign.run("writes", "death at a byte of what is written", || writes::cut(moments));
    campaign.run("damage", "damage to the newest checkpoint", || damage::every_file(moments));
    campaign.run("disk", "checkpoints that cannot be written", disk::no_checkpoint);
    campaign.run("disk", "a full disk", || disk::full(moments));
    #[cfg(feature = "mpi")]
    {
        campaign.run("kills", "SIGKILL of a rank that is a process", || launched::kills(moments));
        campaign.run("stops", "SIGSTOP of a rank that is a process", || launched::stops(moments));
        campaign.run("damage", "damage, read by ranks that are processes", launched::damage);
    }
    let Campaign { passed, failed, .. } = campaign;
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out"
    );
    ExitCode::from(u8::from(failed > 0))
}

/// The undisturbed run of each spread, as far as it was needed.
struct Calm<'a> {
    site: &'a Site,
    runs: Vec<Option<(Run, f64)>>,
    begun: usize,
}

impl<'a> Calm<'a> {
    fn new(site: &'a Site) -> Calm<'a> {
        Calm { site, runs: SPREAD.iter().map(|_| None).collect(), begun: 0 }
    }

    /// A run that has not begun, the one it should end like, and how many seconds that took.
    fn next(&mut self) -> (Run, &Run, f64) {
        let i = self.begun % SPREAD.len();
        self.begun += 1;
        let (calm, seconds) = self.runs[i].get_or_insert_with(|| {
            let run = self.site.run(&format!("calm-{i}"), SPREAD[i]);
            let began = Instant::now();
            run.finish();
            (run, began.elapsed().as_secs_f64())
        });
        (self.site.run(&format!("round-{}", self.begun), SPREAD[i]), calm, *seconds)
    }
}

/// That a run ended like another: its last checkpoint byte for byte, and every loss.
fn assert_alike(run: &Run, calm: &Run) {
    run.assert_ended_like(calm);
    assert_eq!(run.losses(), calm.losses());
}
