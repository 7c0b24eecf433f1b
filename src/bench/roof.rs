//! The roof over everything this machine computes (Williams, Waterman and Patterson, "Roofline", CACM 52(4), 2009):
//! arithmetic on registers, and bytes from each level of memory. An op that takes F FLOPs and moves B bytes cannot end
//! before max(F / arithmetic, B / bandwidth).

use super::seconds_each;
use crate::device::gemm::{bf16_dot_peak, peak};
use crate::device::{Pool, simd};
use crate::tape::Cost;
use serde::Serialize;

/// Accumulators of the read: enough to cover the latency of an addition.
const SUMS: usize = 4;
const LANES: usize = 16;
/// Seconds that each figure takes, about.
const LONG: f64 = 0.05;
/// Where the system does not say how large its caches are.
const CACHES: [usize; 3] = [32 << 10, 1 << 20, 16 << 20];

/// How fast the threads read from and write to buffers of a size.
#[derive(Clone, Debug, Serialize)]
pub struct Level {
    /// L1, L2, L3 or memory
    pub name: &'static str,
    /// Of all buffers of a thread
    pub bytes: usize,
    /// Read alone, all threads, GB/s
    pub read: f64,
    /// a = b + s·c, two reads and a write of f32, all threads, GB/s
    pub triad: f64,
}

/// What so many threads of this machine can do at most.
#[derive(Clone, Debug, Serialize)]
pub struct Roof {
    pub threads: usize,
    /// f32 fused multiply-adds, GFLOP/s
    pub f32_gflops: f64,
    /// Dot products of bf16 pairs added to f32, GFLOP/s; None where the machine has no such instruction
    pub bf16_dot_gflops: Option<f64>,
    pub levels: Vec<Level>,
}

impl Roof {
    /// Arithmetic and memory; with `caches` those too.
    pub fn measure(pool: &Pool, caches: bool) -> Roof {
        let threads = pool.threads();
        let [l1, l2, l3] = cache_bytes();
        // Half of a cache of one's own, half of a thread's share of the one for all, and far more than that.
        let sizes = [
            ("L1", l1 / 2),
            ("L2", l2 / 2),
            ("L3", (l3 / 2 / threads).max(l2)),
            ("memory", 4 * l3 / threads),
        ];
        let all = &sizes[if caches { 0 } else { 3 }..];
        Roof {
            threads,
            f32_gflops: peak(pool),
            bf16_dot_gflops: bf16_dot_peak(pool),
            levels: all.iter().map(|&(name, bytes)| level(pool, name, bytes)).collect(),
        }
    }

    /// Bytes from memory, GB/s: the better of reading and of the triad.
    pub fn memory(&self) -> f64 {
        self.levels.last().map_or(f64::NAN, |l| l.read.max(l.triad))
    }

    /// The shortest time of work of this cost whose operands lie in memory, in f32 arithmetic.
    pub fn seconds(&self, cost: Cost) -> f64 {
        (cost.flops / self.f32_gflops).max(cost.bytes / self.memory()) / 1e9
    }
}

/// Three buffers in `bytes` for each thread, passed over again and again.
fn level(pool: &Pool, name: &'static str, bytes: usize) -> Level {
    let (threads, block) = (pool.threads(), SUMS * LANES);
    let len = (bytes / 3 / size_of::<f32>()).next_multiple_of(block).max(block);
    // A pass of a small buffer is shorter than waking a thread: enough of them to take about a millisecond.
    let passes = ((16 << 20) / bytes).clamp(1, 4096);
    let mut all: Vec<[Vec<f32>; 3]> =
        (0..threads).map(|_| [vec![0.0; len], vec![1.0; len], vec![2.0; len]]).collect();
    let mine = crate::device::Shared::new(&mut all);
    let rate = |moved: usize, pass: &(dyn Fn(&mut [Vec<f32>; 3]) + Sync)| {
        let seconds = seconds_each(LONG, || {
            pool.run(threads, |t| {
                // SAFETY: each task has buffers of its own.
                let buffers = unsafe { &mut mine.part(t..t + 1)[0] };
                (0..passes).for_each(|_| pass(buffers));
            });
        });
        (threads * passes * moved * len * size_of::<f32>()) as f64 / seconds / 1e9
    };
    let read = rate(3, &|all| {
        for x in all.iter() {
            std::hint::black_box(sum(x));
        }
    });
    let triad = rate(3, &|[a, b, c]| add(a, b, c));
    Level { name, bytes: 3 * len * size_of::<f32>(), read, triad }
}

fn sum(x: &[f32]) -> f32 {
    simd(
        #[inline(always)]
        || {
            let mut sums = [0.0f32; SUMS * LANES];
            for x in x.chunks_exact(SUMS * LANES) {
                for i in 0..SUMS * LANES {
                    sums[i] += x[i];
                }
            }
            sums.iter().sum()
        },
    )
}

fn add(a: &mut [f32], b: &[f32], c: &[f32]) {
    let scale = std::hint::black_box(0.5f32);
    simd(
        #[inline(always)]
        || {
            for ((a, b), c) in a.iter_mut().zip(b).zip(c) {
                *a = b + scale * c;
            }
        },
    )
}

/// Bytes of L1 (data), L2 and L3 that a core sees.
fn cache_bytes() -> [usize; 3] {
    let read = |i: usize, what: &str| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{i}/{what}");
        std::fs::read_to_string(path).map(|s| s.trim().to_string()).unwrap_or_default()
    };
    let mut found = CACHES;
    for i in 0..8 {
        let (level, kind, size) = (read(i, "level"), read(i, "type"), read(i, "size"));
        let (number, unit) = size.split_at(size.trim_end_matches(['K', 'M', 'G']).len());
        let shift = ["", "K", "M", "G"].iter().position(|u| *u == unit).unwrap_or(0) * 10;
        if let (Ok(level @ 1..=3), Ok(n @ 1..)) = (level.parse::<usize>(), number.parse::<usize>())
            && kind != "Instruction"
        {
            found[level - 1] = n << shift;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_roof_is_measured_and_bounds_time_from_both_sides() {
        let mut roof = Roof::measure(&Pool::new(1), false);
        assert!(roof.f32_gflops > 0.0 && roof.memory() > 0.0 && roof.levels.len() == 1);
        assert!(roof.bf16_dot_gflops.is_none_or(|g| g > 0.0));
        (roof.f32_gflops, roof.levels[0].read, roof.levels[0].triad) = (100.0, 10.0, 8.0);
        let seconds = |flops, bytes| roof.seconds(Cost { flops, bytes });
        assert_eq!((seconds(2e11, 1e9), seconds(1e9, 3e10)), (2.0, 3.0));
    }

    #[test]
    fn sums_and_triads_are_computed() {
        let (b, c): (Vec<f32>, Vec<f32>) = (0..256).map(|i| (i as f32, 2.0)).unzip();
        assert_eq!(sum(&b), 255.0 * 128.0);
        let mut a = vec![0.0; 256];
        add(&mut a, &b, &c);
        assert!(a.iter().enumerate().all(|(i, a)| *a == i as f32 + 1.0));
        assert!(cache_bytes().iter().all(|b| *b >= 4 << 10));
    }
}
