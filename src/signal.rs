//! Signals that ask the program to leave what it needs to go on and stop: SIGTERM, SIGUSR1, and the first Ctrl-C.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

static ASKED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: libc::c_int) {
    ASKED.store(true, SeqCst);
}

/// From now on these signals only set the flag; a second Ctrl-C ends the process at once.
pub fn listen() {
    for signal in [libc::SIGTERM, libc::SIGUSR1, libc::SIGINT] {
        // SAFETY: the handler only stores to an atomic, and the action is fully set.
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
