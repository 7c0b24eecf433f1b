//! A file may not grow beyond a byte chosen at random: the system ends the process (SIGXFSZ) as it writes that byte,
//! with all before it in the file.

use super::process::{Run, STEPS, Site, files};
use super::random::Random;
use super::{Calm, assert_alike};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::Command;

/// The program as `Run::start` starts it, with files of at most so many bytes. `ends`: whether more is the end of it, or an
/// error that it gets.
pub fn limited(bytes: usize, ends: bool) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_espalier"));
    command.args(["train", "run.toml", "--threads", "1"]).env_clear();
    // SAFETY: what runs between fork and exec are system calls only.
    unsafe {
        command.pre_exec(move || {
            let limit = |what, n: usize| {
                let limit = libc::rlimit { rlim_cur: n as libc::rlim_t, rlim_max: n as libc::rlim_t };
                libc::setrlimit(what, &limit)
            };
            let action = if ends { libc::SIG_DFL } else { libc::SIG_IGN };
            libc::signal(libc::SIGXFSZ, action);
            match limit(libc::RLIMIT_CORE, 0) | limit(libc::RLIMIT_FSIZE, bytes) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            }
        });
    }
    command
}

/// Whether some checkpoint has files and no manifest.
fn unfinished(run: &Run) -> bool {
    (1..=STEPS).any(|step| run.checkpoint(step).exists() && !run.finished(step))
}

pub fn cut(moments: usize) -> String {
    let site = Site::on_disk();
    let (mut calm, mut random) = (Calm::new(&site), Random(12));
    let (mut inside, mut elsewhere, mut ends) = (0, 0, 0);
    while inside < moments {
        assert!(elsewhere < 20 * (moments + 5), "no checkpoint was ever cut");
        let (run, calm, _) = calm.next();
        let largest = files(&calm.checkpoint(STEPS)).values().map(Vec::len).max().expect("files");
        for _ in 0..6 {
            if inside == moments {
                break;
            }
            let status = run.start_as(limited(1 + random.below(largest), true)).wait();
            // Later attempts have longer metrics, and may be cut there.
            assert_eq!(status.signal(), Some(libc::SIGXFSZ), "{status}: {}", run.stderr());
            match unfinished(&run) {
                true => inside += 1,
                false => elsewhere += 1,
            }
        }
        run.finish();
        assert_alike(&run, calm);
        ends += 1;
    }
    format!("{inside} inside a checkpoint, {elsewhere} in metrics, in {ends} runs that then ended alike")
}
