//! SIGTERM and SIGUSR1 ask a run to write a checkpoint and stop.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

static ASKED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: libc::c_int) {
    ASKED.store(true, SeqCst);
}

/// From now on the two signals (and Ctrl-C once) only set the flag.
pub fn listen() {
    for signal in [libc::SIGTERM, libc::SIGUSR1, libc::SIGINT] {
        // SAFETY: the handler only stores to an atomic; with RESETHAND a second Ctrl-C ends the process at once.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = note as *const () as usize;
            action.sa_flags = libc::SA_RESTART | if signal == libc::SIGINT { libc::SA_RESETHAND } else { 0 };
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

pub fn asked_to_stop() -> bool {
    ASKED.load(SeqCst)
}
