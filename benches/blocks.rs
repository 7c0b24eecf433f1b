//! The three products of a linear layer with a block-sparse weight against the dense ones, side by side: how many times
//! faster, medians of single products taken in turn. With one thread the time is the processor's, so that other programs on
//! the machine count little; with more it is that of the clock.
//!
//! `cargo bench --bench blocks -- [threads] [tokens] [repeats]`

use espalier::device::gemm::{
    BlockMap, Blocks, Mat, MatMut, Out, blocks_forward, blocks_input, blocks_weight, gemm, gemm_with,
};
use espalier::device::{Elem, Pool, Real};
use half::bf16;

fn values<T: Elem>(len: usize) -> Vec<T> {
    (0..len).map(|i| T::store(T::Acc::of((i * 7919 % 1013) as f64 / 506.5 - 1.0))).collect()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Seconds of this thread, or of the clock.
fn seconds(threads: usize) -> f64 {
    let clock = if threads == 1 { libc::CLOCK_THREAD_CPUTIME_ID } else { libc::CLOCK_MONOTONIC };
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec to be written.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

/// The medians of two pieces of work that take turns, seconds.
fn in_turn(
    (threads, repeats): (usize, usize),
    mut first: impl FnMut(),
    mut second: impl FnMut(),
) -> (f64, f64) {
    let time = |f: &mut dyn FnMut()| {
        let start = seconds(threads);
        f();
        seconds(threads) - start
    };
    first();
    second();
    let both = (0..repeats).map(|_| (time(&mut first), time(&mut second)));
    let (a, b) = both.unzip();
    (median(a), median(b))
}

/// k of each row of blocks, spread evenly: as many in each column.
fn map(block: usize, rows: usize, cols: usize, sparsity: f64) -> BlockMap {
    let k = ((1.0 - sparsity) * cols as f64).round().max(1.0) as usize;
    let of_row = |r: usize| (0..k).map(move |i| (r as u32, ((r * 5 + i * cols / k) % cols) as u32));
    BlockMap::new(block, rows, cols, &(0..rows).flat_map(of_row).collect::<Vec<_>>())
}

fn main() {
    let number = |n: usize, or: usize| std::env::args().filter_map(|a| a.parse().ok()).nth(n).unwrap_or(or);
    let (threads, tokens, repeats) = (number(0, 1), number(1, 1024), number(2, 9));
    println!("{threads} threads, {tokens} tokens, medians of {repeats}");
    println!("dtype,out,in,block,sparsity,dense_gflops,forward,input,weight,all");
    of::<f32>(threads, tokens, repeats);
    of::<bf16>(threads, tokens, repeats);
}

fn of<T: Elem>(threads: usize, n: usize, repeats: usize)
where
    T::Acc: Elem<Acc = T::Acc>,
{
    let pool = Pool::new(threads);
    for (o, i) in [(1024, 1024), (4096, 1024), (1024, 4096)] {
        let (x, dy, w, bias) = (values::<T>(n * i), values::<T>(n * o), values::<T>(o * i), values::<T>(o));
        let (mut y, mut dx) = (vec![T::default(); n * o], vec![T::default(); n * i]);
        let mut dw = vec![<T::Acc as Real>::ZERO; o * i];
        let add = |_: usize, col: usize, sums: &mut [T::Acc]| {
            sums.iter_mut().zip(&bias[col..]).for_each(|(s, b)| *s += b.load());
        };
        for sparsity in [0.5, 0.75, 0.9] {
            for block in [16, 32, 64, 128] {
                let map = map(block, o / block, i / block, sparsity);
                let kept = Blocks { data: &w[..map.kept() * block * block], map: &map };
                let [mut ys, mut dxs] = [y.clone(), dx.clone()];
                let mut dws = dw[..kept.data.len()].to_vec();
                let (xm, dym, wm) = (Mat::new(&x, n, i), Mat::new(&dy, n, o), Mat::new(&w, o, i));
                let times = [
                    in_turn(
                        (threads, repeats),
                        || gemm_with(&pool, MatMut::new(&mut y, n, o), Out::Store, xm, wm.t(), add),
                        || blocks_forward(&pool, MatMut::new(&mut ys, n, o), xm, kept, add),
                    ),
                    in_turn(
                        (threads, repeats),
                        || gemm(&pool, MatMut::new(&mut dx, n, i), Out::Store, dym, wm),
                        || blocks_input(&pool, MatMut::new(&mut dxs, n, i), Out::Store, dym, kept),
                    ),
                    in_turn(
                        (threads, repeats),
                        || gemm(&pool, MatMut::new(&mut dw, o, i), Out::Add, dym.t(), xm),
                        || blocks_weight(&pool, &mut dws, &map, dym, xm),
                    ),
                ];
                let (dense, sparse) =
                    (times.iter().map(|t| t.0).sum::<f64>(), times.iter().map(|t| t.1).sum::<f64>());
                let [f, d, w] = times.map(|(dense, sparse)| dense / sparse);
                println!(
                    "{},{o},{i},{block},{:.3},{:.1},{f:.2},{d:.2},{w:.2},{:.2}",
                    T::DTYPE,
                    1.0 - kept.data.len() as f64 / (o * i) as f64,
                    6.0 * (n * o * i) as f64 / dense * 1e-9,
                    dense / sparse
                );
            }
        }
    }
}
