//! A rank that does not play along: every other rank hears who and why, at once or after the deadline.

use super::*;
use crate::Error;
use std::sync::Mutex;
use std::thread::sleep;

const SHORT: Duration = Duration::from_millis(200);

/// Runs f, which some rank does not survive; the error of the run and what each rank's f returned.
fn fail(
    ranks: usize,
    deadline: Duration,
    f: impl Fn(&World) -> Result<()> + Sync,
) -> (Error, Vec<Option<String>>) {
    let heard = Mutex::new(vec![None; ranks]);
    let run = run_ranks(ranks, deadline, |world| {
        let result = f(&world);
        heard.lock().unwrap()[world.rank()] = result.as_ref().err().map(|e| e.to_string());
        result
    });
    (run.unwrap_err(), heard.into_inner().unwrap())
}

fn sum(world: &World, len: usize, what: &str) -> Result<()> {
    world.all_reduce(tensor(&vec![1f32; len]), Reduce::Sum, what)?.wait().map(drop)
}

#[test]
fn calls_that_differ_are_an_error_on_every_rank_that_names_both() {
    for len in [10, 5000] {
        let (e, heard) = fail(4, LONG, |world| {
            world.barrier("start")?;
            if world.rank() == 2 { sum(world, len + 1, "loss") } else { sum(world, len, "loss") }
        });
        let want = format!(
            "rank 2: called all_reduce sum of {} f32 (loss) where rank 0 called all_reduce sum of {len} f32 \
             (loss), as collective 1 of world",
            len + 1
        );
        assert_eq!(e.to_string(), want);
        assert_eq!(heard, vec![Some(want); 4]);
    }
    type Call = fn(&World) -> Result<Pending>;
    let one = || tensor(&[1f32; 6]);
    let others: [Call; 6] = [
        |w| w.all_reduce(tensor(&[1f64; 6]), Reduce::Sum, "x"),
        |w| w.all_reduce(tensor(&[1f32; 6]), Reduce::Max, "x"),
        |w| w.all_reduce(tensor(&[1f32; 6]), Reduce::Sum, "y"),
        |w| w.all_gather(tensor(&[1f32; 6]), "x"),
        |w| w.broadcast(tensor(&[1f32; 6]), 0, "x"),
        |w| w.barrier("x").map(|_| Pending::ready(tensor(&[1f32; 6]))),
    ];
    for other in others {
        let (e, heard) = fail(3, LONG, |world| {
            if world.rank() == 0 { other(world)? } else { world.all_reduce(one(), Reduce::Sum, "x")? }
                .wait()
                .map(drop)
        });
        assert!(e.to_string().starts_with("rank 0: called "), "{e}");
        assert_eq!(heard, vec![Some(e.to_string()); 3]);
    }
}

#[test]
fn lengths_and_roots_that_do_not_fit_the_group_are_refused() {
    let (e, _) = fail(2, LONG, |w| w.reduce_scatter(tensor(&[1f32; 5]), "x")?.wait().map(drop));
    assert!(e.to_string().contains("reduce_scatter of 5 f32 (x) over 2 ranks, which do not divide"), "{e}");
    let (e, _) = fail(2, LONG, |w| w.broadcast(tensor(&[1f32; 5]), 2, "x")?.wait().map(drop));
    assert!(e.to_string().contains("no such root"), "{e}");
}

#[test]
fn after_the_deadline_the_report_names_the_missing_rank_and_its_last_call() {
    let (e, heard) = fail(3, SHORT, |world| {
        sum(world, 3, "step vote")?;
        if world.rank() == 1 {
            while world.recent().last().unwrap().at.elapsed() < 3 * SHORT {
                sleep(SHORT);
            }
            return world.barrier("late");
        }
        sum(world, 6000, "blocks.3 grads")
    });
    let text = e.to_string();
    assert!(matches!(e, Error::RankLost { rank: 1, .. }), "{text}");
    for part in [
        "collective 1 of world, all_reduce sum of 6000 f32 (blocks.3 grads)",
        "rank 1 has not started it, its last call was all_reduce 0 of world (step vote, 12 bytes), done",
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(heard, vec![Some(text); 3]);
}

#[test]
fn a_rank_that_starts_and_does_not_come_back_is_told_from_one_that_does_not_start() {
    let (e, _) = fail(3, SHORT, |world| {
        let p = world.all_reduce(tensor(&[1f32; 6000]), Reduce::Sum, "x")?;
        if world.rank() == 2 {
            sleep(4 * SHORT);
        }
        p.wait().map(drop)
    });
    assert!(e.to_string().contains("rank 2 has started it and not come back to wait for it"), "{e}");
}

#[test]
fn abort_releases_all_groups_with_the_reason_and_later_calls_fail_too() {
    let (e, heard) = fail(4, LONG, |world| {
        let mesh = Mesh::new(world.clone(), 2)?;
        if world.rank() == 3 {
            mesh.tp.abort("disk full");
            return Err(Error::launch("own error", ""));
        }
        let first = [&mesh.dp, &mesh.tp, world][world.rank()].barrier("never").unwrap_err();
        let later = world.barrier("later").unwrap_err();
        assert_eq!(first.to_string(), later.to_string());
        Err(first)
    });
    assert_eq!(e.to_string(), "own error");
    assert_eq!(heard[..3], vec![Some("rank 3: disk full".to_string()); 3]);
}

#[test]
fn an_error_a_panic_and_an_early_return_release_the_others() {
    for len in [3, 100_000] {
        let (e, heard) = fail(4, LONG, |world| {
            sum(world, len, "a")?;
            if world.rank() == 1 {
                return Err(Error::data("corpus.bin", "is cut short", ""));
            }
            sum(world, len, "b")
        });
        assert_eq!(e.to_string(), "corpus.bin: is cut short");
        assert_eq!(heard[0].as_deref(), Some("rank 1: corpus.bin: is cut short"));

        let (e, heard) = fail(4, LONG, |world| {
            sum(world, len, "a")?;
            assert!(world.rank() != 2, "index {} out of range", 7);
            sum(world, len, "b")
        });
        assert_eq!(e.to_string(), "rank 2: panicked: index 7 out of range");
        assert_eq!(heard[3].as_ref(), Some(&e.to_string()));

        let (e, heard) = fail(4, LONG, |world| {
            sum(world, len, "a")?;
            if world.rank() == 0 { Ok(()) } else { sum(world, len, "b") }
        });
        assert!(e.to_string().starts_with("rank 0: missing in collective 1 of world, all_reduce"), "{e}");
        assert!(e.to_string().contains("rank 0 has returned, its last call was all_reduce 0"), "{e}");
        assert_eq!((&heard[0], &heard[1]), (&None, &Some(e.to_string())));
    }
}

#[test]
fn an_error_while_a_collective_is_in_flight_is_heard_as_that_error() {
    let (e, heard) = fail(3, LONG, |world| {
        let p = world.all_reduce(tensor(&[1f32; 6000]), Reduce::Sum, "x")?;
        if world.rank() == 2 {
            return Err(Error::data("corpus.bin", "is cut short", ""));
        }
        p.wait().map(drop)
    });
    assert_eq!(e.to_string(), "corpus.bin: is cut short");
    assert_eq!(heard[..2], vec![Some("rank 2: corpus.bin: is cut short".to_string()); 2]);
}

#[test]
fn a_collective_dropped_unwaited_fails_the_run() {
    let (e, _) = fail(2, LONG, |world| {
        let p = world.all_reduce(tensor(&[1f32; 6000]), Reduce::Sum, "x")?;
        if world.rank() == 0 {
            drop(p);
            return world.barrier("next");
        }
        p.wait().map(drop)
    });
    let dropped =
        "rank 0: dropped all_reduce sum of 6000 f32 (x), collective 0 of world, without waiting for it";
    assert_eq!(e.to_string(), dropped);
    let (e, _) = fail(2, LONG, |world| {
        drop(world.all_reduce(tensor(&[1f32; 6000]), Reduce::Sum, "x")?);
        Ok(())
    });
    assert!(e.to_string().contains("dropped all_reduce"), "{e}");
}

#[test]
fn one_rank_panics_like_many() {
    let e = run_ranks(1, LONG, |_| -> Result<()> { panic!("oh") }).unwrap_err();
    assert_eq!(e.to_string(), "rank 0: panicked: oh");
    assert!(run_ranks(0, LONG, |_| Ok(())).is_err());
    let (e, _) = fail(1, LONG, |world| {
        world.abort("no");
        sum(world, 1, "x")
    });
    assert_eq!(e.to_string(), "rank 0: no");
}

#[test]
fn memory_that_the_system_does_not_give_is_an_error_of_the_run_and_no_panic() {
    for ranks in [1, 3] {
        let e = run_ranks(ranks, LONG, |world| {
            let dev = Device::cpu(1);
            if world.rank() + 1 == ranks {
                drop(Tensor::empty(&dev, 1, 1 << 50, DType::F32, Category::Comm));
            }
            sum(&world, 1, "x")
        });
        let e = e.expect_err("it has no room");
        assert_eq!(e.exit_code(), 2);
        let said = e.to_string();
        assert!(
            said.starts_with("out of memory: the system does not give 4503599627370496 bytes more"),
            "{said}"
        );
    }
}
