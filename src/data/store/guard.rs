//! Keeps a mapped file that shrinks, or whose disk fails, from killing the process.
//!
//! Reading a page of a mapping that the file no longer has raises SIGBUS. One handler for the process looks the address
//! up in a fixed table of guarded ranges; inside one it notes the place, puts zero pages over the range from there to
//! its end, and the read goes on. Whoever reads a guarded range asks `fault` afterwards and throws away what it read.
//! Faults anywhere else go to the handler that was there before.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Once, OnceLock};

/// Ranges that can be guarded at once: the shards of a large adopted corpus, some corpora at a time.
const SLOTS: usize = 1 << 14;
/// In `begin`: nobody's, and being set up or taken down. No mapping begins at either address.
const FREE: usize = 0;
const CLAIMED: usize = 1;

struct Slot {
    begin: AtomicUsize,
    end: AtomicUsize,
    /// Bytes from `begin` to the first fault, plus 1; 0 = none.
    fault: AtomicU64,
}

static TABLE: [Slot; SLOTS] =
    [const { Slot { begin: AtomicUsize::new(FREE), end: AtomicUsize::new(0), fault: AtomicU64::new(0) } };
        SLOTS];
/// Slots at and above this were never used.
static USED: AtomicUsize = AtomicUsize::new(0);
static PAGE: AtomicUsize = AtomicUsize::new(0);
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

/// A guarded range. To be dropped before the range is unmapped.
#[derive(Debug)]
pub(super) struct Guard(usize);

impl Guard {
    /// Guards a range of whole mapped pages (its end may lie inside the last one). None: all slots are taken.
    pub fn new(range: Range<usize>) -> Option<Guard> {
        install();
        let at = TABLE.iter().position(|slot| {
            slot.begin.compare_exchange(FREE, CLAIMED, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })?;
        USED.fetch_max(at + 1, Ordering::AcqRel);
        TABLE[at].fault.store(0, Ordering::Relaxed);
        TABLE[at].end.store(range.end, Ordering::Relaxed);
        TABLE[at].begin.store(range.start, Ordering::Release);
        Some(Guard(at))
    }

    /// Bytes from the beginning of the range to the first place that could not be read.
    pub fn fault(&self) -> Option<u64> {
        TABLE[self.0].fault.load(Ordering::Acquire).checked_sub(1)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        TABLE[self.0].begin.store(FREE, Ordering::Release);
    }
}

fn install() {
    static ONCE: Once = Once::new();
    // SAFETY: plain system calls on actions that are fully set; `handler` has the signature that SA_SIGINFO asks for,
    // and what it reads is stored before it can run.
    ONCE.call_once(|| unsafe {
        PAGE.store(libc::sysconf(libc::_SC_PAGESIZE) as usize, Ordering::Release);
        let mut previous: libc::sigaction = std::mem::zeroed();
        libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut previous);
        PREVIOUS.get_or_init(|| previous);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as extern "C" fn(_, _, _) as libc::sighandler_t;
        // On the alternate stack, as the standard library's handler for stack overflows needs it.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&mut action.sa_mask);
        libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
    });
}

/// Calls nothing that is unsafe in a signal handler: atomics, and system calls without locks.
extern "C" fn handler(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the kernel passes a valid `info`, and for SIGBUS the address is set.
    let address = unsafe { (*info).si_addr() } as usize;
    if address == 0 || !covered(address) {
        delegate(signal, info, context);
    }
}

fn covered(address: usize) -> bool {
    let used = USED.load(Ordering::Acquire);
    let inside = |slot: &&Slot| {
        let begin = slot.begin.load(Ordering::Acquire);
        begin > CLAIMED && (begin..slot.end.load(Ordering::Relaxed)).contains(&address)
    };
    let Some(slot) = TABLE[..used].iter().find(inside) else { return false };
    let (begin, end) = (slot.begin.load(Ordering::Relaxed), slot.end.load(Ordering::Relaxed));
    // Before the zeros are there to be read, so that no thread takes them for the file's.
    let noted = (address - begin) as u64 + 1;
    let _ = slot.fault.compare_exchange(0, noted, Ordering::AcqRel, Ordering::Relaxed);
    let page = address & !(PAGE.load(Ordering::Acquire) - 1);
    // SAFETY: replaces pages inside a mapping that its owner only reads and, as `Guard` demands, has not unmapped.
    // errno is the interrupted code's.
    unsafe {
        let errno = *libc::__errno_location();
        let (flags, none) =
            (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_NORESERVE, -1);
        let zeros = libc::mmap(page as *mut libc::c_void, end - page, libc::PROT_READ, flags, none, 0);
        *libc::__errno_location() = errno;
        zeros != libc::MAP_FAILED
    }
}

/// What would have happened without this handler.
fn delegate(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    let previous = PREVIOUS.get();
    let target = previous.map_or(libc::SIG_DFL, |p| p.sa_sigaction);
    if target == libc::SIG_DFL || target == libc::SIG_IGN {
        // SAFETY: a plain system call. The access runs again on return and ends the process, as it would have.
        unsafe {
            let mut default: libc::sigaction = std::mem::zeroed();
            default.sa_sigaction = libc::SIG_DFL;
            libc::sigaction(signal, &default, std::ptr::null_mut());
        }
    } else if previous.is_some_and(|p| p.sa_flags & libc::SA_SIGINFO != 0) {
        type Informed = extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void);
        // SAFETY: the kernel would have called this address with these arguments: it was registered with SA_SIGINFO.
        unsafe { std::mem::transmute::<usize, Informed>(target)(signal, info, context) }
    } else {
        // SAFETY: as above, for a handler registered without SA_SIGINFO.
        unsafe { std::mem::transmute::<usize, extern "C" fn(libc::c_int)>(target)(signal) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use memmap2::Mmap;

    #[test]
    fn slots_are_used_again_and_a_new_guard_has_no_fault() {
        let file = tempfile::tempfile().expect("a file");
        file.set_len(3 << 12).expect("longer");
        for round in 0..SLOTS + 100 {
            // SAFETY: only read, and guarded while it is.
            let map = unsafe { Mmap::map(&file) }.expect("mapped");
            let begin = map.as_ptr() as usize;
            let guard = Guard::new(begin..begin + map.len()).expect("a slot");
            assert_eq!(guard.fault(), None);
            if round % 1000 == 0 {
                file.set_len(1 << 12).expect("shorter");
                assert_eq!(std::hint::black_box(&map)[(2 << 12) + 5], 0);
                assert_eq!(guard.fault(), Some((2 << 12) + 5));
                // The range is now zeros from there to its end, and the file's before.
                assert_eq!(std::hint::black_box(&map)[(2 << 12) + 6], 0);
                file.set_len(3 << 12).expect("longer");
            }
            drop(guard);
        }
        assert!(USED.load(Ordering::Relaxed) < SLOTS, "slots are given back");
    }
}
