//! Ranks that are processes started by MPI: one host or many. MPI moves the bytes, by messages that do not block; what
//! is summed where, and in which order, is ours, so that sums are the same bits as those of ranks that are threads, and
//! so that a rank that waits knows for whom.
//!
//! `ffi` calls MPI; `flight` is one collective under way, whose `lane`s and `moves` carry the values; `engine` holds all of them behind one lock;
//! `process` waits and drives; `watch` says who is behind; `group` is the `Comm`; `wire` is what ranks tell each other;
//! `place` is where they are; `by_library` has the collectives of the MPI library itself.
//!
//! MPI is a matter of the whole process, and so is what is here: `start` once, then `run`s, then `end`.

mod by_library;
mod cut;
mod end;
mod engine;
mod ffi;
mod flight;
mod group;
mod lane;
mod moves;
mod place;
mod process;
mod watch;
mod wire;

pub use by_library::Share;
pub use end::end;
pub use ffi::library;
pub use process::Process;

use super::call::Call;
use super::launch::Announced;
use super::solo::Staging;
use super::threads::guarded;
use super::{Job, Kind, Reduce, Setup, World};
use crate::config::Reductions;
use crate::{Error, Result};
use engine::{Engine, LOST};
use ffi::Link;
use group::{Group, Mpi};
use mpi::Threading;
use mpi::environment::Universe;
use mpi::traits::Communicator;
use place::Place;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;
use wire::Control;

static PROCESS: OnceLock<Arc<Process>> = OnceLock::new();
/// MPI ends when it is dropped.
static UNIVERSE: Mutex<Option<Universe>> = Mutex::new(None);

/// This process as a rank, if MPI was started.
pub fn process() -> Option<&'static Arc<Process>> {
    PROCESS.get()
}

/// Starts MPI and meets the other ranks. Errors: `Launch`, if the library gives no threads, if it finds another number
/// of ranks than the launcher announced, or if ranks run different programs.
pub fn start(announced: &Announced) -> Result<()> {
    let refuse = |problem: String, remedy: &str| Err(Error::launch(problem, remedy));
    let Some((universe, threads)) = mpi::initialize_with_threading(Threading::Serialized) else {
        return refuse("MPI was started before".into(), "");
    };
    let world = universe.world();
    let (rank, size) = (world.rank() as usize, world.size() as usize);
    *UNIVERSE.lock().expect("no panic under the lock") = Some(universe);
    let library = library();
    if threads < Threading::Serialized {
        let problem = format!("{library} serves one thread of a process only ({threads:?})");
        return refuse(problem, "use an MPI library built with threads");
    }
    if announced.size.is_some_and(|n| n != size) {
        let problem = format!(
            "{} announces {}, but {library}, which this program was built with, finds a world of {size}: launcher and \
             library do not belong together",
            announced.launcher, announced.shown
        );
        return refuse(
            problem,
            "start it with the launcher of that library, or build it with this launcher's mpicc",
        );
    }
    let places = Place::exchange(&world);
    place::same_program(&places)?;
    let engine = || {
        let link = Link::world()?;
        let (data, control) = (link.copy()?, link.copy()?);
        Ok((link, Engine::new(data, control, rank, size)?))
    };
    let (link, engine) = engine().map_err(|e: String| Error::launch(format!("{library}: {e}"), ""))?;
    let process = Process::new(rank, places, link, engine);
    let helper = process.clone();
    let thread = std::thread::Builder::new().name("mpi".into()).spawn(move || helper.help());
    thread.map_err(|e| Error::launch(format!("cannot start a thread for MPI: {e}"), ""))?;
    PROCESS.get_or_init(|| process);
    Ok(())
}

/// What a collective takes besides its buffer.
pub fn staging(reductions: Reductions) -> Staging {
    match reductions {
        Reductions::Ordered => cut::staging,
        Reductions::Library => |call, n| match by_library::does(call, n) {
            true => by_library::staging(call, n),
            false => cut::staging(call, n),
        },
        // Whichever it will be.
        Reductions::Fastest => |call, n| match by_library::does(call, n) {
            true => by_library::staging(call, n).max(cut::staging(call, n)),
            false => cut::staging(call, n),
        },
    }
}

/// Whether the library could do it.
pub fn library_can(job: &Job, n: usize) -> bool {
    let Job { kind, dtype, len, .. } = *job;
    by_library::does(&Call { kind, reduce: Reduce::Sum, root: 0, dtype, len, what: "".into() }, n)
}

/// The library's own blocking collective, with nothing of ours around it.
pub fn library_does(process: &Process, kind: Kind, from: &[f32], to: &mut [f32]) -> Result<()> {
    let _engine = process.engine();
    let lost = |problem| Error::RankLost { rank: process.rank, problem };
    process.link.blocking(kind, from, to).map_err(lost)
}

/// Threads that this rank may run, if the ranks of its host share their cores.
pub fn threads(process: &Process) -> usize {
    place::threads(&process.places, process.rank)
}

/// Runs f as this rank of the world and returns what it returned, when it has returned on all ranks. An error of one
/// rank ends all.
pub fn run<R>(process: &Arc<Process>, setup: &Setup, f: impl FnOnce(World) -> Result<R>) -> Result<R> {
    process.set_deadline(setup.deadline);
    let mut engine = process.engine();
    engine.runs += 1;
    let (run, id) = (engine.runs, engine.next_group);
    engine.next_group += 1;
    process.set_share(match setup.reductions {
        Reductions::Library => Share::All,
        Reductions::Ordered | Reductions::Fastest => Share::These(vec![]),
    });
    let library = (setup.reductions != Reductions::Ordered).then(|| process.link.copy()).transpose();
    drop(engine);
    let library = library.map_err(|e| Error::launch(e, ""))?;
    let members = (0..process.size()).collect();
    let world = Group::new(process.clone(), (id, run), members, "world", library);
    let result = guarded(process.rank, || f(Arc::new(Mpi::new(world))));
    match &result {
        // All ranks stop together.
        Ok(_) | Err(Error::Requeue { .. } | Error::Stopped { .. }) => {}
        Err(e) => {
            let (rank, problem) = match e {
                Error::RankLost { rank, problem } => (*rank, problem.clone()),
                e => (process.rank, e.to_string()),
            };
            process.engine().lose(rank, e.exit_code(), problem);
        }
    }
    let unwaited = process.unwaited().take();
    if let Some(what) = unwaited {
        process.engine().lose(process.rank, LOST, format!("dropped {what}, without waiting for it"));
    }
    process.engine().tell(&Control::Done { run });
    let (rank, own) = (process.rank, &process.places[process.rank]);
    let since = Instant::now();
    process.until(|engine, naps| {
        let back = |r: usize| r == rank || engine.peers[r].done >= run || engine.peers[r].end.is_some();
        if engine.lost.is_some() || (0..process.size()).all(back) {
            return Some(());
        }
        if !naps {
            return None;
        }
        // The others may take their time, if they are there and it is not for ever.
        let late = since.elapsed() > setup.deadline;
        let gone = |r: &usize| !back(*r) && (late || process.places[*r].is_gone(own));
        if let Some(r) = (0..process.size()).find(gone) {
            let (place, deadline) = (&process.places[r], setup.deadline);
            let problem = match place.is_gone(own) {
                true => format!("its process {} on {} is gone", place.pid, place.host),
                false => format!(
                    "its process {} on {} has not come to the end of the run in {deadline:?}",
                    place.pid, place.host
                ),
            };
            crate::terminal::say(&format!("espalier: rank {r}: {problem}"));
            engine.told = true;
            engine.lose(r, LOST, problem);
        }
        None
    });
    let lost = process.engine().lost.clone();
    match (result, lost) {
        (Ok(_), Some(lost)) => Err(lost.error()),
        (result, _) => result,
    }
}
