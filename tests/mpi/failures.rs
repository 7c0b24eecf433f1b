//! A rank that does not play along: the others end, one of them says who and why, and nothing hangs.

use super::collectives::LONG;
use super::launcher::{is_open_mpi, scenario};
use espalier::comm::{Reduce, Setup, World, processes};
use espalier::device::{Category, Device};
use espalier::tensor::Tensor;
use espalier::{Error, Result};
use std::time::Duration;

const SHORT: Duration = Duration::from_secs(2);

fn sum(world: &World, len: usize, what: &str) -> Result<()> {
    let t = Tensor::from_slice(&Device::cpu(1), 1, len, &vec![1f32; len], Category::Comm);
    world.all_reduce(t, Reduce::Sum, what)?.wait().map(drop)
}

/// Both a small and a large collective are interrupted.
const LENGTHS: [(&str, usize); 2] = [("small", 10), ("large", 400_000)];

/// The part of a worker.
pub fn cause(name: &str, ranks: usize) -> Result<()> {
    let (size, name) = name.split_once(' ').unwrap();
    let len = LENGTHS.iter().find(|l| l.0 == size).unwrap().1;
    let deadline = if name == "stop" { SHORT } else { LONG };
    let raise = |signal| {
        // SAFETY: no preconditions.
        unsafe { libc::raise(signal) };
    };
    processes::run(ranks, &Setup::new(deadline), |world| {
        sum(&world, len, "start")?;
        let last = world.rank() == world.size() - 1;
        match (name, last) {
            ("length", true) => return sum(&world, len + 1, "loss"),
            ("call", true) => return world.barrier("loss"),
            ("return", true) => return Ok(()),
            ("late", false) if world.rank() == 0 => std::thread::sleep(Duration::from_millis(700)),
            ("error" | "late", true) => return Err(Error::data("corpus.bin", "is cut short", "")),
            ("panic", true) => panic!("index {} out of range", 7),
            ("abort", true) => {
                world.abort("disk full");
                return Err(Error::launch("own error", ""));
            }
            ("drop", true) => {
                let t = Tensor::from_slice(&Device::cpu(1), 1, len, &vec![1f32; len], Category::Comm);
                drop(world.all_reduce(t, Reduce::Sum, "loss")?);
                return Ok(());
            }
            ("kill", true) => raise(libc::SIGKILL),
            ("stop", true) => raise(libc::SIGSTOP),
            ("requeue", _) => return Err(Error::Requeue { step: 7 }),
            ("alike", _) => return Err(Error::data("corpus.bin", "is cut short", "")),
            _ => {}
        }
        sum(&world, len, "loss")
    })?;
    Ok(())
}

/// A scenario ends with this code, and a person is told exactly this, once.
fn ends(name: &str, code: i32, says: impl Fn(usize) -> Vec<String>) {
    for (size, len) in LENGTHS {
        let e = scenario(&format!("{size} {name}"), 3);
        assert_eq!(e.code, Some(code), "{size} {name}: {}\n{}", e.stdout, e.stderr);
        let said = e.said();
        assert_eq!(said.len(), 1, "{size} {name}: {}", e.stderr);
        for part in says(len) {
            assert!(said[0].contains(&part), "{size} {name}: no {part:?} in {}", said[0]);
        }
    }
}

#[test]
fn calls_that_differ_name_both() {
    ends("length", 5, |len| {
        vec![format!(
            "rank 2: called all_reduce sum of {} f32 (loss) where rank 0 called all_reduce sum of {len} f32 (loss), as \
             collective 1 of world",
            len + 1
        )]
    });
    ends("call", 5, |len| {
        vec![format!("rank 2: called barrier (loss) where rank 0 called all_reduce sum of {len} f32 (loss)")]
    });
}

#[test]
fn a_rank_that_returns_while_others_wait_is_named() {
    ends("return", 5, |len| {
        vec![
            format!("rank 2: missing in collective 1 of world, all_reduce sum of {len} f32 (loss)"),
            "has returned, its last call heard here was all_reduce".into(),
        ]
    });
}

#[test]
fn an_error_of_one_rank_is_said_once_and_is_the_exit_code_of_all() {
    ends("error", 3, |_| vec!["espalier: corpus.bin: is cut short".into()]);
    // The first rank looks late, when all others have ended, and may read what they say in any order.
    ends("late", 3, |_| vec!["espalier: corpus.bin: is cut short".into()]);
    ends("alike", 3, |_| vec!["espalier: corpus.bin: is cut short".into()]);
    ends("abort", 2, |_| vec!["espalier: own error".into()]);
    ends("requeue", 75, |_| vec!["stopped at step 7 as asked".into()]);
}

#[test]
fn a_panic_and_a_dropped_collective_end_all_ranks() {
    ends("panic", 5, |_| vec!["rank 2: panicked: index 7 out of range".into()]);
    ends("drop", 5, |len| {
        vec![format!(
            "rank 2: dropped all_reduce sum of {len} f32 (loss), collective 1 of world, without waiting for it"
        )]
    });
}

#[test]
fn a_rank_that_hangs_is_named_after_the_deadline_and_killed() {
    ends("stop", 5, |len| {
        vec![
            format!("rank 2: missing in collective 1 of world, all_reduce sum of {len} f32 (loss)"),
            "has not started it, its last call heard here was all_reduce".into(),
            "(start), collective 0 of world".into(),
            "(deadline 2s)".into(),
        ]
    });
}

#[test]
fn a_rank_that_is_killed_ends_the_run_at_once() {
    for (size, _) in LENGTHS {
        let e = scenario(&format!("{size} kill"), 3);
        assert!(e.code != Some(0), "{}", e.stderr);
        // The launcher may be faster, and kill the others before they can say it; that of Open MPI then does.
        let said = e.said();
        let named = e.stderr.contains("process rank 2 ") && e.stderr.contains("signal 9");
        assert!(said.len() == 1 || named || !is_open_mpi(), "{size}: {}", e.stderr);
        assert!(
            said.iter().all(|s| s.starts_with("espalier: rank 2: its process ") && s.contains(" is gone; ")),
            "{said:?}"
        );
    }
}
