//! What the machine can do at most: multiply-adds on registers alone.

use super::kernel::{Kernel, Portable, Work};
#[cfg(target_arch = "x86_64")]
use crate::device::simd::{Isa, isa};
use crate::device::{Pool, Real};
use std::hint::black_box;
#[cfg(target_arch = "x86_64")]
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Independent sums, enough to cover the latency of two pipes of 16 lanes.
pub(super) const SUMS: usize = 12;
const STEPS: usize = 1 << 18;
const ENOUGH: Duration = Duration::from_millis(100);

/// Peak GFLOP/s of f32 fused multiply-adds on all threads of the pool: the best of several attempts of some
/// milliseconds. A multiply-add is two operations.
pub fn peak(pool: &Pool) -> f64 {
    best(pool, (STEPS * SUMS * 16 * 2) as f64, || {
        <Portable as Kernel<f32>>::enter(MultiplyAdds { steps: STEPS })
    })
}

/// Peak GFLOP/s of dot products of two bf16 pairs added to f32 (`vdpbf16ps`), likewise; None without that instruction.
pub fn bf16_dot_peak(pool: &Pool) -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    if isa() == Isa::Avx512 && is_x86_feature_detected!("avx512bf16") {
        // SAFETY: the machine has the feature.
        return Some(best(pool, (STEPS * SUMS * 32 * 2) as f64, || unsafe { super::x86::bf16_dots(STEPS) }));
    }
    let _ = pool;
    None
}

/// Whether a core does more multiply-adds as dot products of bf16 pairs than in f32: looked up once, in a
/// millisecond. Either way gives the same bits, so a mistake on a busy machine costs speed alone.
#[cfg(target_arch = "x86_64")]
pub(super) fn dots_are_faster() -> bool {
    static FASTER: OnceLock<bool> = OnceLock::new();
    const FEW: usize = 1 << 13;
    let time = |work: &dyn Fn()| {
        let began = Instant::now();
        work();
        began.elapsed()
    };
    // In turn, and many times: wide vectors take a while to wake up, and others may use the core.
    let both = |_| {
        // SAFETY: asked only where the machine has the feature.
        let dots = time(&|| unsafe { super::x86::bf16_dots(FEW) });
        (dots, time(&|| <Portable as Kernel<f32>>::enter(MultiplyAdds { steps: FEW })))
    };
    *FASTER.get_or_init(|| {
        is_x86_feature_detected!("avx512bf16") && {
            let times: Vec<_> = (0..20).map(both).collect();
            let dots = times.iter().map(|t| t.0).min().expect("attempts");
            // A dot is two multiply-adds.
            dots < 2 * times.iter().map(|t| t.1).min().expect("attempts")
        }
    })
}

/// GFLOP/s of all threads at `work`, which has so many operations: the best attempt.
fn best(pool: &Pool, flops: f64, work: impl Fn() + Sync) -> f64 {
    let attempt = || {
        let start = Instant::now();
        pool.run(pool.threads(), |_| work());
        pool.threads() as f64 * flops / start.elapsed().as_secs_f64() / 1e9
    };
    // Some 40 ms where the loop is vectorised; a build without it must not keep every start of a run waiting.
    let began = Instant::now();
    let more = |i: &i32| *i == 0 || began.elapsed() < ENOUGH;
    (0..20).take_while(more).map(|_| attempt()).fold(0.0, f64::max)
}

struct MultiplyAdds {
    steps: usize,
}

impl Work for MultiplyAdds {
    #[inline(always)]
    fn run(self) {
        let mut sums = [[1.0f32; 16]; SUMS];
        let x = black_box([0.5f32; 16]);
        for _ in 0..self.steps {
            for sums in &mut sums {
                for (sum, &x) in sums.iter_mut().zip(&x) {
                    *sum = Real::mul_add(*sum, x, x);
                }
            }
        }
        black_box(sums);
    }
}
