//! Collectives between ranks: time and bus bandwidth by size, and the line time = alpha + bytes / beta through them.
//!
//! Bus bandwidth is what each link would have to carry in a ring, so that figures of different collectives and numbers
//! of ranks compare: bytes · 2 (R − 1) / R for an all-reduce, bytes · (R − 1) / R for a reduce-scatter or an all-gather, with
//! bytes those of the whole buffer.

use super::median;
use crate::Result;
use crate::comm::{Kind, Reduce, Setup, World, processes};
use crate::device::{Category, DType, Device};
use crate::tensor::Tensor;
use serde::Serialize;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Serialize)]
pub struct Row {
    pub collective: Kind,
    /// "espalier", or "library" for the MPI library's own
    pub by: &'static str,
    pub bytes: usize,
    pub us: f64,
    /// GB/s
    pub bus: f64,
}

/// Least squares through the times of one collective.
#[derive(Debug, Clone, Serialize)]
pub struct Fit {
    pub collective: Kind,
    pub by: &'static str,
    pub alpha_us: f64,
    /// GB/s
    pub beta: f64,
}

const COLLECTIVES: [Kind; 3] = [Kind::AllReduce, Kind::ReduceScatter, Kind::AllGather];
const BY: [&str; 2] = ["espalier", "library"];

/// f32 buffers of these sizes in bytes, over all ranks. Where these are processes, beside the MPI library's own, in turn.
pub fn run(ranks: usize, sizes: &[usize], rounds: usize, deadline: Duration) -> Result<(Vec<Row>, Vec<Fit>)> {
    let all = processes::run(ranks, &Setup::new(deadline), |world| rank(world, sizes, rounds))?;
    // Of threads, rank 0; of processes, this one.
    let rows = all.into_iter().next().expect("this process has a rank");
    let fits = BY.iter().flat_map(|by| COLLECTIVES.map(|c| fit(c, by, &rows)));
    let fits = fits.filter(|f| rows.iter().any(|r| r.by == f.by)).collect();
    Ok((rows, fits))
}

fn rank(world: World, sizes: &[usize], rounds: usize) -> Result<Vec<Row>> {
    let (dev, ranks) = (Device::cpu(1), world.size());
    let mut rows = vec![];
    for &size in sizes {
        let len = (size / 4).max(1).next_multiple_of(ranks);
        let zeros = |len| Tensor::zeros(&dev, 1, len, DType::F32, Category::Comm);
        for collective in COLLECTIVES {
            let (mut ours, mut library) = (vec![], vec![]);
            let mut t = zeros(len);
            // What a rank gives and gets, apart.
            let (give, get) = match collective {
                Kind::AllGather => (len / ranks, len),
                Kind::ReduceScatter => (len, len / ranks),
                _ => (len, len),
            };
            let (mut from, mut to) = (zeros(give), zeros(get));
            let timed = |f: &mut dyn FnMut() -> Result<bool>| -> Result<Option<f64>> {
                world.barrier("bench")?;
                let began = Instant::now();
                let did = f()?;
                world.barrier("bench")?;
                Ok(did.then(|| began.elapsed().as_secs_f64()))
            };
            for round in 0..rounds + 1 {
                // Values lie where a rank that has just computed them has them.
                t.data_mut::<f32>().fill(round as f32);
                let time = timed(&mut || {
                    let given = std::mem::take(&mut t);
                    t = match collective {
                        Kind::AllReduce => world.all_reduce(given, Reduce::Sum, "bench")?,
                        Kind::ReduceScatter => world.reduce_scatter(given, "bench")?,
                        _ => world.all_gather(given, "bench")?,
                    }
                    .wait()?;
                    Ok(true)
                })?;
                ours.extend(time.filter(|_| round > 0));
                from.data_mut::<f32>().fill(round as f32);
                let time = timed(&mut || {
                    let did = processes::library(collective, from.data(), to.data_mut());
                    did.transpose().map(|did| did.is_some())
                })?;
                library.extend(time.filter(|_| round > 0));
            }
            let way =
                (ranks - 1) as f64 / ranks as f64 * if collective == Kind::AllReduce { 2.0 } else { 1.0 };
            for (by, times) in BY.into_iter().zip([ours, library]).filter(|(_, times)| !times.is_empty()) {
                let seconds = median(times);
                let bus = (4 * len) as f64 * way / seconds / 1e9;
                rows.push(Row { collective, by, bytes: 4 * len, us: seconds * 1e6, bus });
            }
        }
    }
    Ok(rows)
}

/// Relative errors count, so that small sizes weigh as much as large ones.
fn fit(collective: Kind, by: &'static str, rows: &[Row]) -> Fit {
    let points = rows.iter().filter(|r| r.collective == collective && r.by == by);
    let (mut a, mut b, mut d, mut p, mut q) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for r in points {
        // Weighted normal equations of us = alpha + bytes · slope, weights 1 / us².
        let (x, y, w) = (r.bytes as f64, r.us, 1.0 / (r.us * r.us));
        (a, b, d) = (a + w, b + w * x, d + w * x * x);
        (p, q) = (p + w * y, q + w * x * y);
    }
    let det = a * d - b * b;
    let (alpha, slope) = ((p * d - q * b) / det, (a * q - b * p) / det);
    Fit { collective, by, alpha_us: alpha, beta: 1e-3 / slope }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fit_finds_the_line_and_bandwidths_follow_from_times() {
        let row = |bytes: usize| Row {
            collective: Kind::AllGather,
            by: BY[0],
            bytes,
            us: 5.0 + bytes as f64 / 2e3,
            bus: 0.0,
        };
        let f = fit(Kind::AllGather, BY[0], &[100, 10_000, 1_000_000].map(row));
        assert!((f.alpha_us - 5.0).abs() < 1e-6 && (f.beta - 2.0).abs() < 1e-6, "{f:?}");
        let (rows, fits) = run(2, &[1 << 10, 1 << 14], 3, Duration::from_secs(60)).unwrap();
        assert_eq!((rows.len(), fits.len()), (6, 3));
        for r in &rows {
            let way = if r.collective == Kind::AllReduce { 1.0 } else { 0.5 };
            assert!((r.bus / (way * r.bytes as f64 / r.us / 1e3) - 1.0).abs() < 1e-9, "{r:?}");
        }
    }
}
