//! The real program, killed and stopped while it builds: the same command goes on and ends with the same bytes.

use super::building::{files, slow_input};
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

fn command(inputs: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_espalier"));
    command.args(["corpus", "build", "--input"]).arg(inputs).arg("--out").arg(out);
    command.arg("--tokenizer").arg(inputs.join("tokenizer.json"));
    command.args(["--prompt-key", "prompt", "--completion-key", "completion"]);
    command.args(["--journal-every", "0", "--threads", "2"]).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn start(inputs: &Path, out: &Path) -> Child {
    command(inputs, out, &[]).spawn().unwrap()
}

fn end(inputs: &Path, out: &Path, more: &[&str]) -> Output {
    command(inputs, out, more).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Sends `signal` after a while. What the child said, and whether it was done before.
fn interrupt(mut child: Child, signal: libc::c_int, after: Duration) -> (Output, bool) {
    std::thread::sleep(after);
    let done = child.try_wait().unwrap().is_some();
    if !done {
        // SAFETY: a signal to our own child, which was not waited for yet.
        unsafe { libc::kill(child.id() as libc::pid_t, signal) };
    }
    (child.wait_with_output().unwrap(), done)
}

#[test]
fn a_build_killed_at_any_moment_ends_with_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let inputs = folder.path().join("in");
    fs::create_dir(&inputs).unwrap();
    slow_input(&inputs);
    let calm = folder.path().join("calm/web");
    let began = Instant::now();
    let output = end(&inputs, &calm, &[]);
    assert!(output.status.success(), "{}", stderr(&output));
    let whole = began.elapsed();
    let calm = files(&calm);
    let names: Vec<&str> = calm.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["bin", "col.n", "col.odd", "idx", "json", "stream.loss", "tokenizer.json"]);
    let (mut kills, mut gone_on) = (0, 0);
    for round in 0..4u32 {
        let out = folder.path().join(format!("{round}/web"));
        // Kills at moments spread over the build, each a little later than the last, until one is done before.
        let mut last = None;
        for kill in 0..4u32 {
            let after = whole * (3 + 5 * kill + round) / 22;
            let (output, done) = interrupt(start(&inputs, &out), libc::SIGKILL, after);
            if done {
                last = Some(output);
                break;
            }
            assert!(!output.status.success());
            kills += 1;
        }
        let output = last.unwrap_or_else(|| end(&inputs, &out, &[]));
        assert!(output.status.success(), "{}", stderr(&output));
        gone_on += usize::from(String::from_utf8_lossy(&output.stdout).contains("went on"));
        assert!(files(&out) == calm, "round {round}");
    }
    println!("{kills} kills, {gone_on} builds went on from a journal");
    assert!(kills >= 4 && gone_on >= 1, "{kills} kills, {gone_on} went on");
}

#[test]
fn a_build_asked_to_stop_goes_on_and_one_of_other_input_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (inputs, out) = (folder.path().join("in"), folder.path().join("web"));
    fs::create_dir(&inputs).unwrap();
    let paths = slow_input(&inputs);
    let mut stopped = None;
    for wait in [100, 200, 400, 800, 1600, 50] {
        for signal in [libc::SIGTERM, libc::SIGINT] {
            let began = Instant::now();
            let (output, done) = interrupt(start(&inputs, &out), signal, Duration::from_millis(wait));
            if !done && out.with_extension("build").join("state.json").exists() {
                assert!(began.elapsed() < Duration::from_secs(60));
                stopped = Some(output);
            }
        }
        if stopped.is_some() {
            break;
        }
    }
    let stopped = stopped.expect("caught between the first chunk and the last");
    assert!(stderr(&stopped).contains("stopped as asked; the same command goes on"), "{}", stderr(&stopped));
    // Other options, other files and changed files are refused, and nothing is lost.
    let refused = |more: &[&str], says: &str| {
        let output = end(&inputs, &out, more);
        let error = stderr(&output);
        assert!(!output.status.success() && error.contains(says) && error.contains("--restart"), "{error}");
        assert!(!out.with_extension("json").exists());
    };
    refused(&["--special-as-text"], "special-as-text was false, now it is true");
    refused(&["--columns", "n"], "columns was \"all\", now it is {\"named\":[\"n\"]}");
    fs::write(inputs.join("d.jsonl"), "").unwrap();
    refused(&[], "the input had 3 files, now it has 4");
    fs::remove_file(inputs.join("d.jsonl")).unwrap();
    let output = end(&inputs, &out, &[]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).contains("went on"));
    let finished = files(&out);
    // A journal in the way of a changed file, and how to start over.
    let (_, done) = interrupt(start(&inputs, &out), libc::SIGKILL, Duration::from_millis(30));
    assert!(!done && out.with_extension("bin").exists(), "the finished corpus stays");
    let output = end(&inputs, &out, &["--restart"]);
    assert!(output.status.success() && !String::from_utf8_lossy(&output.stdout).contains("went on"));
    assert!(files(&out) == finished);
    fs::write(&paths[0], "{\"prompt\":\"a\",\"completion\":\"b\"}\n").unwrap();
    assert!(end(&inputs, &out, &[]).status.success());
}
