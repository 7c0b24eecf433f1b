//! Every way to spread a run over ranks trains like one rank: all legal cells of mesh × ZeRO stage × micro-batches ×
//! accumulation × recompute, one after the other in the same ranks. Not a libtest program: the ranks may be processes.
//!
//!     cargo test --test cells                     a pairwise cover on thread ranks, as CI runs it
//!     cargo test --test cells -- --all            every cell, on 2, 3, 4, 6, 8 and 16 thread ranks
//!     cargo test --test cells -- --all --ranks 8  every cell of 8 ranks
//!     cargo test --features mpi --test cells      (with `tools/cells`) the same over Open MPI and MPICH
//!
//! Of each cell: gradients of every tensor and weights after updates 1 and 5, the norms and 20 losses, all beside
//! one rank's; and bit by bit equal, by a digest, to the cells that differ from it only in the ZeRO stage. The digests are
//! printed with --digests, for transports to be compared.

#[path = "../common/batch.rs"]
mod batch;
mod cell;
#[path = "../common/gather.rs"]
mod gather;
#[path = "../common/muon.rs"]
mod muon;
mod pairs;
#[path = "../common/random.rs"]
mod random;
#[path = "../common/replica.rs"]
mod replica;
mod run;

use cell::Cell;
use espalier::comm::{Setup, processes, run_ranks};
use espalier::{Error, Result};
use std::process::ExitCode;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(120);
/// Ranks as threads.
const RANKS: [usize; 6] = [2, 3, 4, 6, 8, 16];

struct Args {
    all: bool,
    digests: bool,
    ranks: Option<usize>,
}

fn args() -> Result<Args, String> {
    let mut args = Args { all: false, digests: false, ranks: None };
    let mut given = std::env::args().skip(1);
    while let Some(arg) = given.next() {
        match arg.as_str() {
            "--all" => args.all = true,
            "--digests" => args.digests = true,
            "--ranks" => args.ranks = Some(given.next().and_then(|n| n.parse().ok()).ok_or("--ranks N")?),
            // Of libtest, as `cargo test -- --nocapture` gives them to every program.
            "--nocapture" | "--test-threads" | "-q" => {}
            other => return Err(format!("{other}: known are --all, --digests, --ranks N")),
        }
    }
    Ok(args)
}

fn main() -> ExitCode {
    let args = match args() {
        Ok(args) => args,
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::from(2);
        }
    };
    let mut counts = Counts::default();
    let done = processes::begin(true).and_then(|()| match processes::joined() {
        Some((_, size)) => of_processes(&args, size, &mut counts),
        None => {
            for ranks in RANKS.into_iter().filter(|n| args.ranks.is_none_or(|only| only == *n)) {
                of_threads(&args, ranks, &mut counts);
            }
            Ok(())
        }
    });
    let Counts { passed, failed } = counts;
    if done.is_ok() && processes::is_first() {
        let word = if failed == 0 { "ok" } else { "FAILED" };
        println!(
            "\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; 0 filtered out"
        );
    }
    match processes::end(&done) {
        0 => ExitCode::from(u8::from(failed > 0)),
        code => ExitCode::from(code as u8),
    }
}

#[derive(Default)]
struct Counts {
    passed: usize,
    failed: usize,
}

fn chosen(args: &Args, ranks: usize) -> (Vec<Cell>, usize) {
    let legal = cell::legal(ranks);
    let all = legal.len();
    (if args.all { legal } else { pairs::cover(legal) }, all)
}

fn of_threads(args: &Args, ranks: usize, counts: &mut Counts) {
    let (cells, legal) = chosen(args, ranks);
    let began = Instant::now();
    let reports = run_ranks(ranks, DEADLINE, |world| run::cells(world, &cells));
    let reports = reports.map(|mut of_rank| of_rank.swap_remove(0));
    tell(args, ranks, "threads", legal, reports, began, counts);
}

fn of_processes(args: &Args, ranks: usize, counts: &mut Counts) -> Result<()> {
    let (cells, legal) = chosen(args, ranks);
    let began = Instant::now();
    let reports = processes::run(ranks, &Setup::new(DEADLINE), |world| run::cells(world, &cells))?;
    if processes::is_first() {
        let own = reports.into_iter().next().ok_or_else(|| Error::launch("no result", ""))?;
        tell(args, ranks, &processes::transport(), legal, Ok(own), began, counts);
    }
    Ok(())
}

fn tell(
    args: &Args,
    ranks: usize,
    transport: &str,
    legal: usize,
    reports: Result<Vec<run::Report>>,
    began: Instant,
    counts: &mut Counts,
) {
    let reports = match reports {
        Ok(reports) => reports,
        Err(e) => {
            println!("{ranks} ranks: {e}");
            counts.failed += 1;
            return;
        }
    };
    let mut worst = run::Gaps::default();
    let mut failed = 0;
    for report in &reports {
        worst = worst.max(report.gaps);
        if args.digests {
            println!("digest {ranks} {} {:016x}", report.name, report.digest);
        }
        for problem in &report.problems {
            println!("FAILED {ranks} ranks, {}: {problem}", report.name);
        }
        failed += usize::from(!report.problems.is_empty());
    }
    println!(
        "{ranks} ranks ({transport}): {} of {legal} cells, {failed} failed, {:.0} s; worst: {worst}",
        reports.len(),
        began.elapsed().as_secs_f64(),
    );
    counts.passed += reports.len() - failed;
    counts.failed += failed;
}
