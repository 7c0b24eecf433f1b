//! Attention forward and backward on one thread, f32 and bf16, against the f32 FMA peak of the core.
//!
//! `cargo bench --bench attention`

use espalier::device::attention::{Heads, Mask, backward, forward};
use espalier::device::simd::{Isa, force, isa};
use espalier::device::{Elem, Pool, Real};
use half::bf16;
use std::hint::black_box;

/// Processor seconds of this thread: other programs on the machine do not count.
fn seconds() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec to be written.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// The median of some runs.
fn median(repeats: usize, mut f: impl FnMut()) -> f64 {
    let mut time = || {
        let start = seconds();
        f();
        seconds() - start
    };
    time();
    let mut times: Vec<f64> = (0..repeats).map(|_| time()).collect();
    times.sort_by(f64::total_cmp);
    times[repeats / 2]
}

const LOOPS: usize = 1 << 19;
const SUMS: usize = 12;

/// FLOP/s of independent fused multiply-adds in registers.
#[cfg(target_arch = "x86_64")]
fn peak() -> f64 {
    use std::arch::x86_64::*;
    #[target_feature(enable = "avx512f")]
    fn avx512(x: f32) -> f32 {
        let x = _mm512_set1_ps(x);
        let mut sums = [x; SUMS];
        for _ in 0..LOOPS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, x, x);
            }
        }
        sums.into_iter().map(|sum| _mm512_reduce_add_ps(sum)).sum()
    }
    #[target_feature(enable = "avx2,fma")]
    fn avx2(x: f32) -> f32 {
        let x = _mm256_set1_ps(x);
        let mut sums = [x; SUMS];
        for _ in 0..LOOPS {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, x, x);
            }
        }
        sums.into_iter().map(|sum| _mm256_cvtss_f32(sum)).sum()
    }
    let (width, seconds) = match isa() {
        // SAFETY: `isa` says that the machine has the instructions.
        Isa::Avx512 => (16, median(15, || _ = black_box(unsafe { avx512(black_box(0.5)) }))),
        // SAFETY: as above.
        Isa::Avx2 => (8, median(15, || _ = black_box(unsafe { avx2(black_box(0.5)) }))),
        Isa::Portable => return f64::NAN,
    };
    (LOOPS * SUMS * width * 2) as f64 / seconds
}

#[cfg(not(target_arch = "x86_64"))]
fn peak() -> f64 {
    f64::NAN
}

/// Numbers in [−1, 1), in huge pages where the system allows, as the program's own buffers are.
fn values<T: Elem>(len: usize) -> Vec<T> {
    let mut x = vec![T::default(); len];
    // SAFETY: advice on whole pages inside an allocation that nobody has touched yet.
    unsafe {
        let start = x.as_mut_ptr().cast::<u8>();
        let skip = start.align_offset(4096);
        libc::madvise(
            start.add(skip).cast(),
            (len * size_of::<T>()).saturating_sub(skip) / 4096 * 4096,
            libc::MADV_HUGEPAGE,
        );
    }
    x.iter_mut()
        .enumerate()
        .for_each(|(i, x)| *x = T::store(T::Acc::of((i * 7919 % 1013) as f64 / 506.5 - 1.0)));
    x
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|x| x == "avx2") {
        force(Isa::Avx2);
    }
    let peak = peak();
    println!("peak {:.1} GFLOP/s", peak * 1e-9);
    println!(
        "dtype,batch,tokens,heads,kv_heads,head_dim,causal,forward_ms,backward_ms,forward_share,backward_share,share"
    );
    shapes::<f32>(peak);
    shapes::<bf16>(peak);
}

fn shapes<T: Elem>(peak: f64) {
    let pool = Pool::new(1);
    for (batch, tokens, heads, kv_heads, head_dim, causal) in [
        (4, 512, 12, 12, 64, true),
        (4, 512, 12, 4, 64, true),
        (4, 512, 12, 12, 64, false),
        (1, 2048, 12, 12, 64, true),
        (2, 512, 8, 8, 128, true),
        (16, 128, 12, 12, 64, true),
    ] {
        let h = Heads { heads, kv_heads, head_dim };
        let cu_seqlens: Vec<u32> = (0..=batch).map(|i| i * tokens as u32).collect();
        let mask = Mask { cu_seqlens: &cu_seqlens, causal };
        let n = batch as usize * tokens;
        let (qkv, dy) = (values::<T>(n * h.qkv_width()), values(n * heads * head_dim));
        let (mut o, mut lse, mut dqkv) = (values::<T>(dy.len()), values(n * heads), values(qkv.len()));
        let scale = 1.0 / (head_dim as f64).sqrt();
        let f = median(9, || forward(&pool, h, &mask, scale, &qkv, &mut o, &mut lse));
        let b = median(9, || backward(&pool, h, &mask, scale, &qkv, &o, &lse, &dy, &mut dqkv));
        let flops = (2 * n * tokens * heads * head_dim) as f64 * if causal { 0.5 } else { 1.0 };
        println!(
            "{},{batch},{tokens},{heads},{kv_heads},{head_dim},{causal},{:.2},{:.2},{:.3},{:.3},{:.3}",
            T::DTYPE,
            f * 1e3,
            b * 1e3,
            2.0 * flops / f / peak,
            5.0 * flops / b / peak,
            7.0 * flops / (f + b) / peak
        );
    }
}
