//! slurm/train.sbatch under a real Slurm: two ranks on each of two nodes, over MPI. However a job is disturbed, the run
//! ends with the losses of one that was not, to the bit.
//!
//! Where the rig (`tools/slurm-rig`) cannot run, each test says so in a line and checks nothing.

mod rig;

use rig::{EVERY, Rig, STEPS};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, OnceLock};

/// One test at a time: four ranks are enough for a small machine.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(|failed| failed.into_inner())
}

/// The losses of a run that nobody disturbs.
fn calm(rig: &Rig) -> &'static BTreeMap<u64, f64> {
    static CALM: OnceLock<BTreeMap<u64, f64>> = OnceLock::new();
    CALM.get_or_init(|| {
        let run = rig.run("calm");
        run.submit().complete(&run);
        assert_eq!(run.attempts(), 1);
        let losses = run.losses();
        assert!(losses.keys().copied().eq(1..=STEPS), "a loss for each step: {:?}", losses.keys());
        losses
    })
}

#[test]
fn a_job_told_to_stop_saves_queues_itself_again_and_ends_with_the_same_losses() {
    let _turn = turn();
    let Some(rig) = Rig::up() else { return };
    let run = rig.run("stopped");
    let job = run.submit();
    run.await_step(30);
    // What --signal=USR1@N does when N seconds are left: to all tasks, not to the script.
    job.cancel(&["--signal=USR1"]);
    run.assert_disturbed();
    job.complete(&run);
    assert_eq!((job.field("Restarts").as_str(), run.attempts()), ("1", 2), "{}", run.log());
    let log = run.log();
    let stopped: u64 = between(&log, "stopped at step ", " as asked").parse().expect("a step");
    assert!((30..STEPS).contains(&stopped) && log.contains(&format!("resuming at step {stopped} ")), "{log}");
    assert_eq!(run.losses(), *calm(&rig));
}

#[test]
fn a_cancelled_job_leaves_a_checkpoint_with_which_the_next_ends_with_the_same_losses() {
    let _turn = turn();
    let Some(rig) = Rig::up() else { return };
    let run = rig.run("cancelled");
    let job = run.submit();
    run.await_step(30);
    job.cancel(&[]);
    run.assert_disturbed();
    job.await_state("CANCELLED", &run);
    let log = rig::until(&run, "the end of its tasks", || {
        let log = run.log();
        log.contains("as asked").then_some(log)
    });
    let stopped: u64 = between(&log, "stopped at step ", " as asked").parse().expect("a step");
    rig::until(&run, "its script ends", || (job.field("ExitCode") == "75:0").then_some(()));
    assert_eq!(job.field("JobState"), "CANCELLED", "it must not queue itself again");
    run.submit().complete(&run);
    assert!(run.log().contains(&format!("resuming at step {stopped} ")), "{}", run.log());
    assert_eq!(run.attempts(), 2);
    assert_eq!(run.losses(), *calm(&rig));
}

#[test]
fn a_node_that_vanishes_is_named_and_the_job_goes_on_when_it_is_back() {
    let _turn = turn();
    let Some(rig) = Rig::up() else { return };
    let run = rig.run("broken");
    let job = run.submit();
    run.await_step(EVERY + 5);
    rig.tool(&["cut", "n2"]);
    run.assert_disturbed();
    // The ranks of n1 find out after their deadline; Slurm would by its SlurmdTimeout.
    let log = rig::until(&run, "the ranks of n1 end", || {
        let log = run.log();
        // They end with 5, or are killed while they do.
        (log.contains("srun: error: n1: task") || log.contains("Node failure")).then_some(log)
    });
    let named = |rank: u32| log.contains(&format!("rank {rank} (process ")) && log.contains(" on n2) ");
    assert!(named(2) || named(3), "{log}");
    rig.tool(&["start", "n2"]);
    job.complete(&run);
    let log = run.log();
    let resumed: u64 = between(&log, "resuming at step ", " from").parse().expect("a step");
    assert!(resumed >= EVERY && resumed.is_multiple_of(EVERY) && run.attempts() == 2, "{log}");
    assert_eq!(run.losses(), *calm(&rig));
}

#[test]
fn a_killed_rank_takes_the_others_along_and_the_job_goes_on() {
    let _turn = turn();
    let Some(rig) = Rig::up() else { return };
    let run = rig.run("killed");
    let job = run.submit();
    run.await_step(EVERY + 5);
    rig.tool(&["exec", "bash", "-c", &format!("kill -KILL $({RANK_OF} 3)")]);
    run.assert_disturbed();
    job.complete(&run);
    assert_eq!(job.field("Restarts"), "1");
    let log = run.log();
    assert!(log.contains("task 3: Killed"), "{log}");
    assert_eq!(run.losses(), *calm(&rig));
}

#[test]
fn a_cluster_that_works_passes_the_check() {
    let _turn = turn();
    let Some(rig) = Rig::up() else { return };
    let run = rig.run("check");
    let job = run.sbatch("smoke", 1, &[]);
    job.complete(&run);
    let log = run.log();
    assert!(log.ends_with("smoke: passed\n") && log.contains("resuming at step 15 "), "{log}");
    for node in ["n1", "n2"] {
        assert!(rig.sent(node) > 100 << 20, "{node} took no part: {log}");
    }
}

#[test]
fn the_kernel_counts_what_metrics_say_was_sent() {
    let _turn = turn();
    let Some(rig) = Rig::up() else { return };
    let run = rig.run("counted");
    // Gradients of 10 MB and little arithmetic, one rank on each node.
    let larger =
        "parallel.tp=1 model.dim=256 model.layers=4 model.ffn_dim=512 run.seq_len=16 phase.0.steps=5";
    let options: Vec<&str> = larger.split(' ').flat_map(|set| ["--set", set]).collect();
    let before = rig.sent("n1");
    run.train(1, &options).complete(&run);
    let counted = rig.sent("n1") - before;
    let said: u64 = run.rows().iter().filter_map(|row| row["comm_bytes"]["dp"].as_u64()).sum();
    assert!(said > 40 << 20, "{said} bytes");
    let share = counted as f64 / said as f64;
    println!("{said} bytes said, {counted} counted: {share:.4}");
    assert!((0.97..1.03).contains(&share), "the kernel counted {counted} bytes, metrics say {said}");
}

/// A script that prints the process of a rank, as the controller counts processes.
const RANK_OF: &str = r#"f() {
    for p in /proc/[0-9]*; do
        [ "$(cat "$p/comm")" = espalier ] && tr '\0' '\n' <"$p/environ" | grep -qx "SLURM_PROCID=$1" && echo "${p#/proc/}"
    done
}; f"#;

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let rest = text.split_once(before).unwrap_or_else(|| panic!("no {before:?} in: {text}")).1;
    rest.split_once(after).unwrap_or_else(|| panic!("no {after:?} in: {text}")).0
}
