//! What the machine can do at most: multiply-adds on registers alone.

use super::kernel::{Kernel, Portable, Work};
use crate::device::{Pool, Real};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Independent sums, enough to cover the latency of two pipes of 16 lanes.
const SUMS: usize = 12;
const STEPS: usize = 1 << 18;
const ENOUGH: Duration = Duration::from_millis(100);

/// Peak GFLOP/s of f32 fused multiply-adds on all threads of the pool: the best of several attempts of some
/// milliseconds. A multiply-add is two operations.
pub fn peak(pool: &Pool) -> f64 {
    let threads = pool.threads();
    let flops = (threads * STEPS * SUMS * 16 * 2) as f64;
    let attempt = || {
        let start = Instant::now();
        pool.run(threads, |_| <Portable as Kernel<f32>>::enter(MultiplyAdds));
        flops / start.elapsed().as_secs_f64() / 1e9
    };
    // Some 40 ms where the loop is vectorised; a build without it must not keep every start of a run waiting.
    let began = Instant::now();
    let more = |i: &i32| *i == 0 || began.elapsed() < ENOUGH;
    (0..20).take_while(more).map(|_| attempt()).fold(0.0, f64::max)
}

struct MultiplyAdds;

impl Work for MultiplyAdds {
    #[inline(always)]
    fn run(self) {
        let mut sums = [[1.0f32; 16]; SUMS];
        let x = black_box([0.5f32; 16]);
        for _ in 0..STEPS {
            for sums in &mut sums {
                for (sum, &x) in sums.iter_mut().zip(&x) {
                    *sum = Real::mul_add(*sum, x, x);
                }
            }
        }
        black_box(sums);
    }
}
