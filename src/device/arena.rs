//! Memory of one rank: buffers by size class, reused and returned only by `trim`, counted by category.
//!
//! A step asks for the same sizes in the same order every time, so from the second step on every request is met
//! from the free lists and the operating system is not asked again (`fresh_bytes` stands still). The Meta device
//! uses the same book-keeping without memory, which is how the planner knows what a run will need.

use std::collections::HashMap;
use std::fmt;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard};
use xxhash_rust::xxh3::Xxh3;

/// What a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Category {
    Weights,
    Grads,
    Optimizer,
    Activations,
    Logits,
    Comm,
    Workspace,
    /// Keys and values of the tokens that a generation has read.
    Cache,
}

impl Category {
    pub const ALL: [Category; 8] = [
        Category::Weights,
        Category::Grads,
        Category::Optimizer,
        Category::Activations,
        Category::Logits,
        Category::Comm,
        Category::Workspace,
        Category::Cache,
    ];
    pub const fn name(self) -> &'static str {
        match self {
            Category::Weights => "weights",
            Category::Grads => "grads",
            Category::Optimizer => "optimizer",
            Category::Activations => "activations",
            Category::Logits => "logits",
            Category::Comm => "comm",
            Category::Workspace => "workspace",
            Category::Cache => "cache",
        }
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Bytes in use by category, and how they peaked.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize)]
pub struct MemoryUse {
    /// Now in use, in the order of `Category::ALL`.
    pub live: [usize; 8],
    /// The most each category ever used.
    pub peak: [usize; 8],
    /// The most all of them together used.
    pub peak_total: usize,
    /// What the operating system has given: in use or waiting in a free list.
    pub fresh_bytes: usize,
    /// The most of it at any time.
    pub peak_fresh: usize,
}

/// From this size on, a buffer is mapped on its own, in huge pages where the system allows.
const MAP_FROM: usize = 1 << 20;
const ALIGN: usize = 64;

struct State {
    free: HashMap<usize, Vec<NonNull<u8>>>,
    used: MemoryUse,
}
// SAFETY: the free list owns its pointers; nothing else refers to them.
unsafe impl Send for State {}

pub struct Arena {
    /// false on the Meta device: sizes are counted, nothing is allocated.
    backed: bool,
    state: Mutex<State>,
    /// What was noted on the Meta device.
    program: Mutex<Xxh3>,
}

impl Arena {
    pub fn new(backed: bool) -> Arc<Arena> {
        let state = State { free: HashMap::new(), used: MemoryUse::default() };
        Arc::new(Arena { backed, state: Mutex::new(state), program: Mutex::default() })
    }

    /// On the Meta device: appends a line to the program, the list of all ops and collectives in their order.
    pub fn note(&self, line: fmt::Arguments) {
        if !self.backed {
            let line = format!("{line}\n");
            self.program.lock().expect("no panic under the lock").update(line.as_bytes());
        }
    }

    /// XXH3 of what was noted: equal for equal programs.
    pub fn program_hash(&self) -> u64 {
        self.program.lock().expect("no panic under the lock").digest()
    }

    /// A buffer with arbitrary content (zeros if it is fresh).
    pub fn take(self: &Arc<Self>, bytes: usize, category: Category) -> Buffer {
        let class = bytes.next_multiple_of(if bytes < MAP_FROM { ALIGN } else { 4096 }).max(ALIGN);
        let free = self.state().free.get_mut(&class).and_then(Vec::pop);
        let fresh = free.is_none();
        // Not under the lock: it may fail, and then other buffers still have to go back.
        let ptr = free.unwrap_or_else(|| if self.backed { allocate(class) } else { NonNull::dangling() });
        let (mut s, i) = (self.state(), category as usize);
        s.used.fresh_bytes += if fresh { class } else { 0 };
        s.used.peak_fresh = s.used.peak_fresh.max(s.used.fresh_bytes);
        s.used.live[i] += class;
        s.used.peak[i] = s.used.peak[i].max(s.used.live[i]);
        s.used.peak_total = s.used.peak_total.max(s.used.live.iter().sum());
        drop(s);
        Buffer { ptr, bytes, class, category, fresh, arena: self.clone() }
    }

    /// Gives what is not in use back to the operating system: before work that asks for other sizes, since a buffer
    /// serves requests of its own size only.
    pub fn trim(&self) {
        let mut s = self.state();
        for (class, list) in std::mem::take(&mut s.free) {
            s.used.fresh_bytes -= class * list.len();
            if self.backed {
                list.into_iter().for_each(|ptr| release(ptr, class));
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under the lock")
    }

    pub fn used(&self) -> MemoryUse {
        self.state().used.clone()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let state = self.state.get_mut().expect("no panic under the lock");
        if self.backed {
            for (class, list) in state.free.drain() {
                list.into_iter().for_each(|ptr| release(ptr, class));
            }
        }
    }
}

/// The system did not give this much. A panic of the rank that asked, which is told as an error of its run
/// (`comm::run_ranks`): no caller could go on.
pub struct OutOfMemory {
    pub bytes: usize,
}

fn allocate(class: usize) -> NonNull<u8> {
    let ptr = if class >= MAP_FROM {
        match map(class) {
            Ok(ptr) => {
                #[cfg(target_os = "linux")]
                // SAFETY: the range was mapped just now; the advice may be ignored.
                unsafe {
                    libc::madvise(ptr.as_ptr().cast(), class, libc::MADV_HUGEPAGE);
                }
                Some(ptr)
            }
            Err(_) => None,
        }
    } else {
        // SAFETY: the layout has a size above zero.
        NonNull::new(unsafe { std::alloc::alloc_zeroed(layout(class)) })
    };
    // Not by `panic!`, whose hook would print it.
    ptr.unwrap_or_else(|| std::panic::resume_unwind(Box::new(OutOfMemory { bytes: class })))
}

/// Anonymous memory, zeros.
fn map(bytes: usize) -> std::io::Result<NonNull<u8>> {
    // SAFETY: an anonymous private mapping has no preconditions.
    let ptr = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    match NonNull::new(ptr.cast()).filter(|_| ptr != libc::MAP_FAILED) {
        Some(ptr) => Ok(ptr),
        None => Err(std::io::Error::last_os_error()),
    }
}

/// Memory that the system promised and nobody has touched: given back when dropped.
pub struct Held {
    ptr: NonNull<u8>,
    bytes: usize,
}

/// Whether the system would give so much at once, before any of it is used. Error: what the system says.
pub fn hold(bytes: usize) -> std::io::Result<Held> {
    let bytes = bytes.next_multiple_of(4096).max(4096);
    map(bytes).map(|ptr| Held { ptr, bytes })
}

impl Drop for Held {
    fn drop(&mut self) {
        // SAFETY: `hold` mapped it, and nobody refers to it.
        unsafe { libc::munmap(self.ptr.as_ptr().cast(), self.bytes) };
    }
}

fn release(ptr: NonNull<u8>, class: usize) {
    // SAFETY: `allocate` made it with the same class, and nobody refers to it any more.
    unsafe {
        if class >= MAP_FROM {
            libc::munmap(ptr.as_ptr().cast(), class);
        } else {
            std::alloc::dealloc(ptr.as_ptr(), layout(class));
        }
    }
}

fn layout(class: usize) -> std::alloc::Layout {
    std::alloc::Layout::from_size_align(class, ALIGN).expect("a valid size")
}

/// A piece of arena memory; goes back to its free list when dropped.
pub struct Buffer {
    ptr: NonNull<u8>,
    bytes: usize,
    class: usize,
    category: Category,
    /// Never used before.
    fresh: bool,
    arena: Arc<Arena>,
}
// SAFETY: a buffer owns its memory; shared access is read-only.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// Counted only: the Meta device's.
    pub fn is_meta(&self) -> bool {
        !self.arena.backed
    }
    /// Makes all bytes 0, as those of fresh memory are already: they stay untouched, and the pages are made by the
    /// threads that first write them.
    pub fn zero(&mut self) {
        if self.arena.backed && !self.fresh {
            self.bytes_mut().fill(0);
        }
    }
    pub fn arena(&self) -> &Arena {
        &self.arena
    }
    /// One from the same arena.
    pub fn another(&self, bytes: usize, category: Category) -> Buffer {
        self.arena.take(bytes, category)
    }
    /// Panics on the Meta device, which has no bytes: an op ran where it should only have been counted.
    pub fn bytes(&self) -> &[u8] {
        assert!(self.arena.backed, "the Meta device has no values");
        // SAFETY: `ptr` is valid for `bytes` initialised bytes (fresh memory is zeroed).
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.bytes) }
    }
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        assert!(self.arena.backed, "the Meta device has no values");
        // SAFETY: as above, and `&mut self` is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.bytes) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut s = self.arena.state();
        s.used.live[self.category as usize] -= self.class;
        s.free.entry(self.class).or_default().push(self.ptr);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_round_of_the_same_requests_allocates_nothing() {
        let arena = Arena::new(true);
        let round = || {
            let mut held: Vec<_> = [100, 5000, 3 << 20].map(|n| arena.take(n, Category::Activations)).into();
            held.iter_mut().for_each(|b| b.bytes_mut().fill(7));
            held.push(arena.take(100, Category::Workspace));
        };
        round();
        let first = arena.used();
        round();
        let second = arena.used();
        assert_eq!(first, second);
        assert_eq!(second.live, [0; 8]);
        assert_eq!(second.peak_total, second.fresh_bytes);
    }

    #[test]
    fn trim_gives_back_what_is_not_in_use_and_nothing_else() {
        for backed in [true, false] {
            let arena = Arena::new(backed);
            let kept = arena.take(2 << 20, Category::Weights);
            drop(arena.take(1 << 20, Category::Activations));
            drop(arena.take(100, Category::Activations));
            arena.trim();
            let used = arena.used();
            assert_eq!((used.fresh_bytes, used.peak_fresh), (2 << 20, (3 << 20) + 128));
            drop(arena.take(3 << 20, Category::Activations));
            drop(kept);
            assert_eq!((arena.used().fresh_bytes, arena.used().peak_fresh), (5 << 20, 5 << 20));
            arena.trim();
            assert_eq!(arena.used().fresh_bytes, 0);
        }
    }

    #[test]
    fn meta_counts_what_cpu_counts() {
        let [cpu, meta] = [true, false].map(|backed| {
            let arena = Arena::new(backed);
            let a = arena.take(77, Category::Weights);
            drop(arena.take(2 << 20, Category::Logits));
            let _b = arena.take(77, Category::Logits);
            drop(a);
            arena.used()
        });
        assert_eq!(cpu, meta);
    }
}
