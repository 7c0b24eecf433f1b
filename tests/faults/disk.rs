//! Checkpoints and metrics that cannot be written: the run goes on with what it has, and saves when it can.

use super::assert_alike;
use super::process::{Process, Run, STEPS, Site, files};
use super::writes::limited;
use espalier::checkpoint::Checkpoint;
use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn rows(run: &Run, part: &str) -> usize {
    let metrics = std::fs::read_to_string(run.folder.join("run/metrics.jsonl")).expect("metrics");
    metrics.lines().filter(|line| line.contains(part)).count()
}

/// The sentences of the program: one, or none.
fn sentences(run: &Run) -> Vec<String> {
    run.stderr().lines().filter(|l| l.starts_with("espalier: ")).map(String::from).collect()
}

/// Every write of a checkpoint is refused by the system; needs no rights.
pub fn no_checkpoint() -> String {
    let site = Site::in_memory();
    let calm = site.run("calm", &[]);
    calm.finish();
    let size = |path: &Path| path.metadata().expect("a file").len() as usize;
    let board = std::fs::read_dir(calm.folder.join("run/tb")).expect("a folder").next();
    let board = board.expect("a file").expect("an entry").path();
    let limit = size(&calm.folder.join("run/metrics.jsonl")).max(size(&board)) + 20_000;
    let largest = files(&calm.checkpoint(STEPS)).values().map(Vec::len).max().expect("files");
    assert!(limit < largest, "{limit} bytes do not cut a file of {largest}");

    let run = site.run("refused", &[]);
    let status = run.start_as(limited(limit, false)).wait();
    assert_eq!(status.code(), Some(4), "{status}: {}", run.stderr());
    let said = sentences(&run);
    assert_eq!(said.len(), 1, "{}", run.stderr());
    for part in [
        "step 60 cannot be saved and is lost",
        "cannot write",
        "there is no checkpoint yet",
        "the same command",
    ] {
        assert!(said[0].contains(part), "no {part:?} in {}", said[0]);
    }
    let warned = run.stderr().lines().filter(|l| l.contains("is not saved: ")).count();
    assert_eq!(warned, 12, "each fifth step and the end of a phase, but not the last:\n{}", run.stderr());
    assert_eq!(rows(&run, r#""name":"checkpoint_failed""#), warned);
    assert_eq!(rows(&run, r#""kind":"step""#) as u64, STEPS);
    let left = std::fs::read_dir(run.folder.join("run/ckpt")).expect("a folder").count();
    assert_eq!(left, 0, "something is left of what failed");
    run.finish();
    assert_alike(&run, &calm);
    format!("{warned} refused in one run, which went on to its end and was told that it is lost")
}

/// A small file system in memory.
struct Disk(PathBuf);

impl Disk {
    /// None where this process may not.
    fn mount(at: &Path, bytes: usize) -> Option<Disk> {
        std::fs::create_dir_all(at).expect("a folder");
        tmpfs(at, bytes, 0).then(|| Disk(at.into()))
    }

    fn resize(&self, bytes: usize) {
        assert!(tmpfs(&self.0, bytes, libc::MS_REMOUNT), "another size");
    }
}

fn tmpfs(at: &Path, bytes: usize, flags: libc::c_ulong) -> bool {
    let text = |bytes: &[u8]| CString::new(bytes).expect("no zeros");
    let (kind, at, size) =
        (text(b"tmpfs"), text(at.as_os_str().as_bytes()), text(format!("size={bytes}").as_bytes()));
    // SAFETY: all strings end with a zero and live until the call returns.
    unsafe { libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), flags, size.as_ptr().cast()) == 0 }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let at = CString::new(self.0.as_os_str().as_bytes()).expect("no zeros");
        // SAFETY: as above.
        unsafe { libc::umount2(at.as_ptr(), libc::MNT_DETACH) };
    }
}

pub fn full(moments: usize) -> String {
    let site = Site::in_memory();
    let calm = site.run("calm", &[]);
    calm.finish();
    let of_checkpoint: usize = files(&calm.checkpoint(STEPS)).values().map(Vec::len).sum();
    let run = site.run("small", &[]);
    let Some(disk) = Disk::mount(&run.folder.join("run"), of_checkpoint * 5 / 2 + 60_000) else {
        return "skipped: no file system may be mounted here".into();
    };
    // Two checkpoints find room, the third never does.
    let status = run.start().wait();
    assert_eq!(status.code(), Some(4), "{status}: {}", run.stderr());
    let said = sentences(&run);
    assert!(
        said.len() == 1 && said[0].contains("the newest checkpoint is that of step 10"),
        "{}",
        run.stderr()
    );
    assert!(run.stderr().contains("No space left on device"), "{}", run.stderr());
    for step in [5, 10] {
        let kept = Checkpoint::open(&run.checkpoint(step)).and_then(|c| c.verify());
        assert!(kept.is_ok(), "step {step}: {kept:?}");
    }
    assert_eq!(rows(&run, r#""kind":"step""#) as u64, STEPS);
    disk.resize(1 << 28);
    run.finish();
    assert_alike(&run, &calm);
    drop(disk);

    // Full for a while: metrics wait in memory, checkpoints for the next time.
    let (mut freed, mut attempts) = (0, 0);
    while freed < if moments < 10 { 1 } else { 5 } {
        attempts += 1;
        assert!(attempts < 40, "no run was ever caught by a full disk, or none survived it");
        let run = site.run(&format!("full-{attempts}"), &[]);
        let _disk = Disk::mount(&run.folder.join("run"), of_checkpoint * 6).expect("as before");
        let process = run.start();
        let filler = run.folder.join("run/filler");
        if !wait_for(&process, || run.folder.join("run/ckpt").exists()) {
            continue;
        }
        // It stands still while its disk is filled.
        if process.stop().is_some() {
            continue;
        }
        fill(&filler);
        process.signal(libc::SIGCONT);
        if !wait_for(&process, || run.stderr().contains("is not saved: ")) {
            continue;
        }
        std::fs::remove_file(&filler).expect("removed");
        let status = process.wait();
        if status.code() == Some(4) && sentences(&run)[0].contains("step 60 cannot be saved") {
            continue; // it was faster than the room that it was given
        }
        assert!(status.success(), "{status}: {}", run.stderr());
        assert_alike(&run, &calm);
        freed += 1;
    }
    format!("a run to its end beside two checkpoints, {freed} that were given room and ended alike")
}

/// False if the run was over before it was seen.
fn wait_for(process: &Process, ready: impl Fn() -> bool) -> bool {
    while !ready() {
        if process.ended().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    true
}

fn fill(path: &Path) {
    let mut file = File::create(path).expect("a file");
    for size in [1 << 20, 1 << 12, 1] {
        let part = vec![0; size];
        while file.write_all(&part).is_ok() {}
    }
}
