//! Memory does not grow with the tensors: an allocator counts what each thread holds.

use super::dirs::*;
use espalier::config::ModelConfig;
use espalier::hf::{self, Export, Family, HfSource};
use espalier::params::{LocalBox, ParamSpec, TensorSource};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // A thread that is ending has no counters any more.
    let held = HELD.try_with(|h| {
        h.set(h.get() + bytes);
        h.get()
    });
    if let Ok(held) = held {
        PEAK.try_with(|p| p.set(p.get().max(held))).ok();
    }
}

// SAFETY: everything is passed on to the system's allocator; the counters allocate nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most bytes held at once by this thread during `f`, beyond what it held before.
fn peak(f: impl FnOnce()) -> usize {
    let before = HELD.get();
    PEAK.set(before);
    f();
    (PEAK.get() - before) as usize
}

/// Values without storage.
struct Formula;

impl TensorSource for Formula {
    fn read(&self, spec: &ParamSpec, b: LocalBox, out: &mut [f32]) -> espalier::Result<()> {
        for (i, row) in out.chunks_exact_mut(b.cols.max(1)).enumerate() {
            let first = (b.row + i) * spec.cols + b.col;
            row.iter_mut().enumerate().for_each(|(j, x)| *x = ((first + j) % 8191) as f32);
        }
        Ok(())
    }
}

#[test]
fn neither_direction_holds_a_large_tensor() {
    let (_, c) = hf::read_config(&golden("gpt2")).unwrap();
    // 43 MB of embedding, and fused and transposed matrices of 12 and 16 MB.
    let c = ModelConfig {
        layers: 1,
        dim: 1024,
        heads: 8,
        kv_heads: 8,
        head_dim: 128,
        ffn_dim: 4096,
        vocab: 10_500,
        ..c
    };
    let largest = specs(&c).iter().map(|s| s.len() * 4).max().unwrap();
    assert_eq!(largest, 10_500 * 1024 * 4);

    let dir = tempfile::tempdir().unwrap();
    let written = peak(|| hf::export(dir.path(), Family::Gpt2, &c, &Formula, Export::default()).unwrap());
    assert!(written < 6 << 20, "{written} bytes to write");

    let mut source = None;
    let opened = peak(|| source = Some(HfSource::open(dir.path()).unwrap()));
    assert!(opened < 1 << 20, "{opened} bytes to open");
    let source = source.unwrap();
    for spec in specs(&c) {
        let mut want = vec![0.0; spec.len()];
        Formula.read(&spec, whole(&spec), &mut want).unwrap();
        let mut got = vec![0.0; spec.len()];
        let used = peak(|| source.read(&spec, whole(&spec), &mut got).unwrap());
        assert!(used < 1 << 20, "{used} bytes to read {}", spec.name);
        assert!(got == want, "{}", spec.name);
    }
}
