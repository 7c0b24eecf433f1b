//! Killed at any moment, the same command goes on.

use super::process::Site;
use super::random::Random;
use super::{Calm, assert_alike};
use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

pub fn threads(moments: usize) -> String {
    let site = Site::in_memory();
    let (mut calm, mut random) = (Calm::new(&site), Random(11));
    let (mut kills, mut ends) = (0, 0);
    while kills < moments || ends == 0 {
        let (run, calm, seconds) = calm.next();
        // Runs that end between two kills would never show what many kills do.
        let mut of_run = 0;
        loop {
            let process = run.start();
            if kills < moments && of_run < 6 {
                let share = random.below(1000) as f64 / 1000.0;
                std::thread::sleep(Duration::from_secs_f64(0.003 + seconds * share));
                process.signal(libc::SIGKILL);
            }
            let status = process.wait();
            if status.signal() == Some(libc::SIGKILL) {
                (kills, of_run) = (kills + 1, of_run + 1);
                continue;
            }
            assert!(status.success(), "{status}: {}", run.stderr());
            break;
        }
        assert_alike(&run, calm);
        ends += 1;
    }
    format!("{kills} kills in {ends} runs, all of which ended with the bytes of undisturbed ones")
}
