//! This process among those of a run: alone, with ranks that are its threads, or one of several that MPI joins. What
//! depends on it is asked here, and only here does it matter whether this build has MPI.

use super::launch::{Announced, discover};
use super::solo::Staging;
use super::{Job, Kind, Setup, World, run_ranks};
use crate::config::Reductions;
use crate::{Error, Result};

/// Looks how this process was started and meets the others if there are any. `together`: whether what it is about to
/// do is a matter of several processes.
///
/// Errors: `Launch`, if it is one of several and this build has no MPI, if it should be alone, or as `mpi::start`.
pub fn begin(together: bool) -> Result<()> {
    match discover(|name| std::env::var(name).ok())? {
        None => Ok(()),
        Some(announced) if together => meet(&announced),
        Some(announced) => {
            let remedy =
                "start it without a launcher; train, eval, score, bench comm and doctor take several";
            Err(announced.refusal("this command runs as one", remedy))
        }
    }
}

#[cfg(not(feature = "mpi"))]
fn meet(announced: &Announced) -> Result<()> {
    let remedy = "build with --features mpi against the site's MPI, or start one process with --ranks N";
    Err(announced.refusal("this build has no MPI", remedy))
}

#[cfg(feature = "mpi")]
fn meet(announced: &Announced) -> Result<()> {
    super::mpi::start(announced)
}

/// Rank and number of the processes that MPI joined.
pub fn joined() -> Option<(usize, usize)> {
    #[cfg(feature = "mpi")]
    return super::mpi::process().map(|p| (p.rank, p.size()));
    #[cfg(not(feature = "mpi"))]
    None
}

/// What joins the ranks: "threads", or the MPI library by name.
pub fn transport() -> String {
    #[cfg(feature = "mpi")]
    if super::mpi::process().is_some() {
        return super::mpi::library();
    }
    "threads".into()
}

/// The MPI library of this build.
pub fn mpi_library() -> Option<String> {
    #[cfg(feature = "mpi")]
    return Some(super::mpi::library());
    #[cfg(not(feature = "mpi"))]
    None
}

/// Whether this process does what one process does for all: it writes files that belong to the run and prints results.
pub fn is_first() -> bool {
    joined().is_none_or(|(rank, _)| rank == 0)
}

/// Host of a rank, where ranks are processes.
pub fn host(rank: usize) -> Option<String> {
    #[cfg(feature = "mpi")]
    return super::mpi::process().map(|p| p.places[rank].host.clone());
    #[cfg(not(feature = "mpi"))]
    {
        let _ = rank;
        None
    }
}

/// Ranks of a node, where processes say on which host they are. Errors: as `nodes::ranks_per_node`.
pub fn ranks_per_node() -> Result<Option<usize>> {
    let Some((_, size)) = joined() else { return Ok(None) };
    let hosts: Vec<String> = (0..size).filter_map(host).collect();
    super::nodes::ranks_per_node(&hosts).map(Some)
}

/// The ranks of a run: as many as there are processes, else what `--ranks` says, else one. Error: `Launch` if both say.
pub fn ranks(asked: Option<usize>) -> Result<usize> {
    match (joined(), asked) {
        (Some((_, size)), Some(n)) => Err(Error::launch(
            format!("--ranks {n} where a launcher started {size} processes, each of which is a rank"),
            "leave --ranks out, or start one process without the launcher",
        )),
        (Some((_, size)), None) => Ok(size),
        (None, asked) => Ok(asked.unwrap_or(1)),
    }
}

/// Threads of each rank so that the ranks of this host share its cores.
pub fn threads_per_rank(ranks: usize) -> usize {
    #[cfg(feature = "mpi")]
    if let Some(process) = super::mpi::process() {
        return super::mpi::threads(process);
    }
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    (cores / ranks).max(1)
}

/// What collectives take besides their buffers, if ranks are processes.
pub fn staging(reductions: Reductions) -> Option<Staging> {
    #[cfg(feature = "mpi")]
    return joined().map(|_| super::mpi::staging(reductions));
    #[cfg(not(feature = "mpi"))]
    {
        let _ = reductions;
        None
    }
}

/// Whether the MPI library could do a collective over n ranks in our place, if it reduces or may.
pub fn library_can(job: &Job, n: usize) -> bool {
    #[cfg(feature = "mpi")]
    return super::mpi::library_can(job, n);
    #[cfg(not(feature = "mpi"))]
    {
        let _ = (job, n);
        false
    }
}

/// Has the MPI library do these, and only these, from here on in this run: under `Reductions::Fastest`. The same on all
/// ranks.
pub fn give_library(jobs: Vec<Job>) {
    #[cfg(feature = "mpi")]
    if let Some(process) = super::mpi::process() {
        process.set_share(super::mpi::Share::These(jobs));
    }
    #[cfg(not(feature = "mpi"))]
    let _ = jobs;
}

/// The MPI library's own collective on f32, to compare with: `None` where ranks are not processes. `to` has what a rank
/// gets, `from` what it gives. Collective over the world.
pub fn library(kind: Kind, from: &[f32], to: &mut [f32]) -> Option<Result<()>> {
    #[cfg(feature = "mpi")]
    return super::mpi::process().map(|p| super::mpi::library_does(p, kind, from, to));
    #[cfg(not(feature = "mpi"))]
    {
        let _ = (kind, from, to);
        None
    }
}

/// Runs f once per rank and returns what it returned on the ranks of this process, by rank: all of them where ranks are
/// threads, the one of this process where MPI joined several. Errors are those of `run_ranks`.
pub fn run<R: Send>(ranks: usize, setup: &Setup, f: impl Fn(World) -> Result<R> + Sync) -> Result<Vec<R>> {
    #[cfg(feature = "mpi")]
    if let Some(process) = super::mpi::process() {
        assert_eq!(ranks, process.size(), "ranks of the run");
        return Ok(vec![super::mpi::run(process, setup, f)?]);
    }
    run_ranks(ranks, setup.deadline, f)
}

/// The end of the program: tells a person what went wrong, once for all processes, and returns the exit code.
pub fn end(result: &Result<()>) -> i32 {
    #[cfg(feature = "mpi")]
    if let Some(process) = super::mpi::process() {
        return super::mpi::end(process, result);
    }
    let Err(e) = result else { return 0 };
    // Processes that could not meet all find the same; the first of them says it.
    let announced = discover(|name| std::env::var(name).ok()).ok().flatten();
    if announced.and_then(|a| a.rank).is_none_or(|rank| rank == 0) {
        crate::terminal::say(&format!("espalier: {e}"));
    }
    e.exit_code()
}
