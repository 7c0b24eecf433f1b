//! Collectives over MPI beside those of threads, bit by bit.

use super::launcher::{SCENARIO, scenario};
use super::{failures, memory, reshard};
use espalier::Result;
use espalier::comm::{Mesh, Reduce, Setup, World, processes, run_ranks};
use espalier::config::Reductions;
use espalier::device::{Category, DType, Device, Elem, Real};
use espalier::tensor::Tensor;
use espalier::with_dtype;
use std::time::Duration;

pub const LONG: Duration = Duration::from_secs(60);

/// What `mpirun` starts; alone it has nothing to do.
#[test]
fn worker() {
    let Ok(name) = std::env::var(SCENARIO) else { return };
    let work = || -> Result<()> {
        processes::begin(true)?;
        let ranks = processes::ranks(None)?;
        match name.as_str() {
            "bits" => bits_of_threads(ranks),
            "small messages" => {
                espalier::comm::mpi::process().unwrap().set_largest(1000);
                bits_of_threads(ranks)
            }
            "library" => near_threads(ranks),
            "memory" => memory::work(ranks),
            "reshard" => reshard::work(ranks),
            other => failures::cause(other, ranks),
        }
    };
    std::process::exit(processes::end(&work()));
}

/// What rank r holds at i: sizes from 2^-12 to 2^12 and both signs, so that sums depend on their order.
fn value(rank: usize, i: usize) -> f64 {
    let mut z = (rank * 1_000_003 + i + 1) as u64;
    for _ in 0..3 {
        z = (z ^ (z >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    }
    let unit = (z >> 11) as f64 / (1u64 << 53) as f64 - 0.5;
    unit * f64::powi(2.0, (z % 25) as i32 - 12)
}

fn tensor<T: Elem>(rank: usize, len: usize) -> Tensor {
    let values: Vec<T> = (0..len).map(|i| T::store(T::Acc::of(value(rank, i)))).collect();
    Tensor::from_slice(&Device::cpu(1), 1, len, &values, Category::Comm)
}

/// Bytes of what a collective left; of a reduce_scatter the own slice.
type Left = Vec<(String, DType, Vec<u8>)>;

/// All collectives × dtypes × sizes: none, one value, odd, what fits beside a head, one chunk, several.
fn everything(world: &World) -> Result<Left> {
    let (n, r) = (world.size(), world.rank());
    let mut left = vec![];
    for dtype in [DType::F32, DType::Bf16, DType::F64] {
        with_dtype!(dtype, T => {
            let mut keep = |what: &str, len: usize, bytes: &[u8]| left.push((format!("{what} of {len} {dtype}"), dtype, bytes.to_vec()));
            for len in [0, 1, 7, 700, 100_003, 700_001] {
                for by in [Reduce::Sum, Reduce::Max] {
                    let t = world.all_reduce(tensor::<T>(r, len), by, "x")?.wait()?;
                    keep(by.name(), len, t.bytes());
                }
                let t = world.broadcast(tensor::<T>(r, len), len % n, "x")?.wait()?;
                keep("broadcast", len, t.bytes());
            }
            for each in [0, 1, 5, 301, 20_001, 300_007] {
                let (len, size) = (n * each, T::DTYPE.bytes());
                let t = world.reduce_scatter(tensor::<T>(r, len), "x")?.wait()?;
                keep("reduce_scatter", len, &t.bytes()[r * each * size..(r + 1) * each * size]);
                let t = world.all_gather(tensor::<T>(r, len), "x")?.wait()?;
                keep("all_gather", len, t.bytes());
                let t = world.all_to_all(tensor::<T>(r, len), "x")?.wait()?;
                keep("all_to_all", len, t.bytes());
            }
        });
    }
    Ok(left)
}

/// Collectives of two groups under way at once, waited for in another order.
fn several(world: &World) -> Result<Left> {
    let (n, r) = (world.size(), world.rank());
    let mesh = Mesh::new(world.clone(), if n.is_multiple_of(2) { 2 } else { 1 })?;
    let back = world.split(0, n - r, "back")?;
    let a = mesh.dp.all_reduce(tensor::<f32>(r, 300_000), Reduce::Sum, "a")?;
    let b = mesh.dp.all_reduce(tensor::<f64>(r, 3), Reduce::Sum, "b")?;
    let c = mesh.tp.all_reduce(tensor::<f64>(r, 70_000), Reduce::Sum, "c")?;
    let d = back.broadcast(tensor::<f32>(r, 200_000), n - 1, "d")?;
    let e = world.all_gather(tensor::<f32>(r, n * 50_000), "e")?;
    let (c, a) = (c.wait()?, a.wait()?);
    world.barrier("between")?;
    let (e, b, d) = (e.wait()?, b.wait()?, d.wait()?);
    let name = |i: usize, t: &Tensor| {
        (format!("{} of several", ["a", "b", "c", "d", "e"][i]), t.dtype(), t.bytes().to_vec())
    };
    let mut left: Left = [a, b, c, d, e].iter().enumerate().map(|(i, t)| name(i, t)).collect();
    let place = [back.rank(), mesh.dp.rank(), mesh.tp.size()].map(|x| x as u8);
    left.push(("place".into(), DType::F64, place.to_vec()));
    // Many small ones, more than there are sequence numbers in tags.
    let mut sum = 0.0;
    for i in 0..600 {
        let len = if i % 10 == 9 { 3000 } else { 3 };
        sum += mesh.dp.all_reduce(tensor::<f32>(r + i, len), Reduce::Sum, "small")?.wait()?.to_f64()[len - 1];
    }
    left.push(("small".into(), DType::F64, sum.to_le_bytes().to_vec()));
    Ok(left)
}

fn both(world: World) -> Result<Left> {
    Ok([everything(&world)?, several(&world)?].concat())
}

fn bits_of_threads(ranks: usize) -> Result<()> {
    let got = processes::run(ranks, &Setup::new(LONG), both)?.remove(0);
    let rank = processes::joined().unwrap().0;
    let want = run_ranks(ranks, LONG, both)?.remove(rank);
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(&want) {
        assert!(got == want, "{} on rank {rank} of {ranks}", want.0);
    }
    Ok(())
}

/// The library sums in another order: near, and gathers exact.
fn near_threads(ranks: usize) -> Result<()> {
    let setup = Setup { reductions: Reductions::Library, ..Setup::new(LONG) };
    let got = processes::run(ranks, &setup, both)?.remove(0);
    let rank = processes::joined().unwrap().0;
    let want = run_ranks(ranks, LONG, both)?.remove(rank);
    for ((name, dtype, got), (_, _, want)) in got.into_iter().zip(want) {
        if name == "place" {
            assert_eq!(got, want);
            continue;
        }
        with_dtype!(dtype, T => {
            let values = |bytes: &[u8]| bytes.chunks(T::DTYPE.bytes()).map(|b| bytemuck::pod_read_unaligned::<T>(b).load().f64()).collect::<Vec<f64>>();
            // Terms are up to 2^12; bf16 rounds each partial sum.
            let bound = if dtype == DType::Bf16 { 64.0 } else { 1e-2 };
            let far = values(&got).iter().zip(values(&want)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(got.len() == want.len() && far < bound, "{name} on rank {rank}: {far}");
            let summed = name.starts_with("sum") || name.starts_with("reduce_scatter") || name.contains("several") || name == "small";
            assert!(summed || got == want, "{name} on rank {rank}");
        });
    }
    Ok(())
}

#[test]
fn collectives_have_the_bits_of_threads() {
    for ranks in [2, 3, 4] {
        let e = scenario("bits", ranks);
        assert_eq!(e.code, Some(0), "{ranks} ranks: {}\n{}", e.stdout, e.stderr);
    }
}

#[test]
fn values_beyond_the_largest_message_come_in_several() {
    let e = scenario("small messages", 3);
    assert_eq!(e.code, Some(0), "{}\n{}", e.stdout, e.stderr);
}

#[test]
fn the_library_reduces_where_it_is_asked_to() {
    for ranks in [2, 3] {
        let e = scenario("library", ranks);
        assert_eq!(e.code, Some(0), "{ranks} ranks: {}\n{}", e.stdout, e.stderr);
    }
}
