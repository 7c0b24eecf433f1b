//! What each rank of a launcher attains while all work at once, each pair of ranks by itself, and all together: for the
//! one that is slower than the others.

use super::{gemm, median, rates};
use crate::Result;
use crate::comm::{Reduce, Setup, World, processes};
use crate::device::{Category, DType, Device, Pool, memory};
use crate::tensor::Tensor;
use serde::Serialize;
use std::path::Path;
use std::time::{Duration, Instant};

#[derive(Debug, Clone, Serialize)]
pub struct Rank {
    pub rank: usize,
    pub host: String,
    pub threads: usize,
    /// What the rank's processes may use on its node.
    pub memory_gib: f64,
    /// In a product of 256 rows with a weight of 512 x 512, f32.
    pub gflops: f64,
    /// Read and written by a copy.
    pub copy_gb_s: f64,
    /// Of a file; NaN, null in JSON, where the rank could not write.
    pub write_mb_s: f64,
    pub read_mb_s: f64,
}

/// Two ranks that send to each other at the same time.
#[derive(Debug, Clone, Serialize)]
pub struct Pair {
    pub ranks: [usize; 2],
    /// Each way.
    pub gb_s: f64,
}

#[derive(Debug, Clone, Serialize)]
pub struct Cluster {
    pub ranks: Vec<Rank>,
    /// Every pair, or of many ranks those of the first rounds.
    pub pairs: Vec<Pair>,
    /// Bus bandwidth of an all-reduce over all ranks.
    pub all_reduce_gb_s: f64,
}

/// Bytes that a rank of a pair sends, and of an all-reduce.
const SENT: usize = 8 << 20;
const REDUCED: usize = 32 << 20;
/// Timings, of which the best counts.
const TIMES: usize = 4;
/// Rounds of pairs; of n ranks n − 1 have every pair.
const ROUNDS: usize = 63;
/// Numbers of a rank.
const FIELDS: usize = 6;

/// Measures `mib` MiB of file on each rank, and the rest. Collective over the processes of a launcher; the same on all.
pub fn run(dir: &Path, mib: usize) -> Result<Option<Cluster>> {
    let Some((_, size)) = processes::joined() else { return Ok(None) };
    let found =
        processes::run(size, &Setup::new(Duration::from_secs(600)), |world| measure(world, dir, mib))?;
    Ok(found.into_iter().next())
}

fn measure(world: World, dir: &Path, mib: usize) -> Result<Cluster> {
    let (me, n, dev) = (world.rank(), world.size(), Device::cpu(1));
    let threads = processes::threads_per_rank(n);
    let pool = Pool::new(threads);
    world.barrier("doctor")?;
    let gflops = gemm::square(&pool, 256, 512);
    world.barrier("doctor")?;
    let copy = rates::copy(&pool);
    world.barrier("doctor")?;
    let (write, read) = rates::file(dir, mib).unwrap_or((f64::NAN, f64::NAN));
    let gib = memory::limit().map_or(f64::NAN, |l| l.bytes as f64 / (1u64 << 30) as f64);
    let mut all = Tensor::zeros(&dev, n, FIELDS, DType::F64, Category::Comm);
    let own = [threads as f64, gib, gflops, copy, write, read];
    all.data_mut::<f64>()[me * FIELDS..][..FIELDS].copy_from_slice(&own);
    let all = world.all_gather(all, "doctor")?.wait()?;
    let rank = |(rank, v): (usize, &[f64])| Rank {
        rank,
        host: processes::host(rank).unwrap_or_default(),
        threads: v[0] as usize,
        memory_gib: v[1],
        gflops: v[2],
        copy_gb_s: v[3],
        write_mb_s: v[4],
        read_mb_s: v[5],
    };
    let ranks = all.data::<f64>().chunks(FIELDS).enumerate().map(rank).collect();

    let mut times = Tensor::zeros(&dev, ROUNDS.min(n), n, DType::F64, Category::Comm);
    let rounds = rounds(n);
    for (i, partners) in rounds.iter().enumerate() {
        let with = partners[me];
        let pair = world.split(me.min(with), me, "pair")?;
        let mut t = Tensor::zeros(&dev, 2, SENT / 4, DType::F32, Category::Comm);
        let mut best = f64::INFINITY;
        for _ in 0..if with == me { 0 } else { TIMES } {
            pair.barrier("doctor")?;
            let began = Instant::now();
            t = pair.all_to_all(t, "doctor")?.wait()?;
            best = best.min(began.elapsed().as_secs_f64());
        }
        times.data_mut::<f64>()[i * n + me] = if with == me { 0.0 } else { best };
        world.barrier("doctor")?;
    }
    let times = world.all_reduce(times, Reduce::Max, "doctor")?.wait()?;
    let seconds = |i: usize, r: usize| times.data::<f64>()[i * n + r];
    let mut pairs = vec![];
    for (i, partners) in rounds.iter().enumerate() {
        for (a, &b) in partners.iter().enumerate().filter(|(a, b)| a < b) {
            let gb_s = SENT as f64 / seconds(i, a).max(seconds(i, b)) / 1e9;
            pairs.push(Pair { ranks: [a, b], gb_s });
        }
    }

    let mut t = Tensor::zeros(&dev, 1, REDUCED / 4, DType::F32, Category::Comm);
    let mut each = vec![];
    for _ in 0..TIMES {
        world.barrier("doctor")?;
        let began = Instant::now();
        t = world.all_reduce(t, Reduce::Sum, "doctor")?.wait()?;
        world.barrier("doctor")?;
        each.push(began.elapsed().as_secs_f64());
    }
    let way = 2.0 * (n - 1) as f64 / n as f64;
    let slowest = Tensor::from_slice(&dev, 1, 1, &[median(each)], Category::Comm);
    let slowest = world.all_reduce(slowest, Reduce::Max, "doctor")?.wait()?.data::<f64>()[0];
    Ok(Cluster { ranks, pairs, all_reduce_gb_s: REDUCED as f64 * way / slowest / 1e9 })
}

/// Whom each of n ranks meets, round by round, everyone everyone once; itself where their number is odd. The circle
/// method: the last stays, the others move on by one.
fn rounds(n: usize) -> Vec<Vec<usize>> {
    let even = n.next_multiple_of(2);
    let round = |r: usize| {
        let at = |place: usize| if place == even - 1 { place } else { (place + r) % (even - 1) };
        let mut partners: Vec<usize> = (0..n).collect();
        for place in 0..even / 2 {
            let (a, b) = (at(place), at(even - 1 - place));
            if a < n && b < n {
                (partners[a], partners[b]) = (b, a);
            }
        }
        partners
    };
    (0..(even - 1).min(ROUNDS)).map(round).collect()
}

/// The median, and whose value is below four fifths of it, or is none.
pub fn slow(values: &[f64]) -> (f64, Vec<usize>) {
    let known: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
    if known.is_empty() {
        return (f64::NAN, (0..values.len()).collect());
    }
    let middle = median(known);
    let is = |i: &usize| values[*i].is_nan() || values[*i] < 0.8 * middle;
    (middle, (0..values.len()).filter(is).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_rank_meets_every_other_once() {
        for n in [2, 3, 4, 7, 8] {
            let mut met = HashSet::new();
            for partners in rounds(n) {
                for (a, &b) in partners.iter().enumerate() {
                    assert_eq!(partners[b], a, "{n} ranks");
                    assert!(a == b || met.insert((a, b)), "{a} and {b} of {n} meet twice");
                }
            }
            assert_eq!(met.len(), n * (n - 1), "{n} ranks");
        }
    }

    #[test]
    fn what_is_a_fifth_slower_than_the_median_is_found() {
        assert_eq!(slow(&[10.0, 10.5, 7.9, 9.9]).1, [2]);
        assert_eq!(slow(&[10.0, f64::NAN, 10.0]), (10.0, vec![1]));
        assert_eq!(slow(&[f64::NAN]).1, [0]);
        assert_eq!(slow(&[5.0, 5.0]), (5.0, vec![]));
    }
}
