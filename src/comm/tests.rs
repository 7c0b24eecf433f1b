//! Collectives of threads against straightforward computations.

mod failures;
mod groups;

use super::*;
use crate::device::{Category, DType, Device, Elem, Real};
use crate::with_dtype;
use half::bf16;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(100);
const DTYPES: [DType; 3] = [DType::F32, DType::Bf16, DType::F64];
const RANKS: [usize; 5] = [1, 2, 3, 4, 7];

fn tensor<T: Elem>(values: &[T]) -> Tensor {
    Tensor::from_slice(&Device::cpu(1), 1, values.len(), values, Category::Comm)
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

fn values<T: Elem>(rank: usize, len: usize) -> Vec<T> {
    (0..len).map(|i| T::store(T::Acc::of(value(rank, i)))).collect()
}

fn bits<T: Elem>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

/// The sum over ranks, from rank 0 upwards, rounded once at the end.
fn serial_sum<T: Elem>(ranks: usize, len: usize) -> Vec<T> {
    let all: Vec<Vec<T>> = (0..ranks).map(|r| values(r, len)).collect();
    (0..len)
        .map(|i| {
            let mut sum = all[0][i].load();
            for x in &all[1..] {
                sum += x[i].load();
            }
            T::store(sum)
        })
        .collect()
}

/// By value and in place, with and without a remainder.
fn lengths(multiple_of: usize) -> Vec<usize> {
    [0, 1, 5, 64, 1000, 10_007].map(|n| n * multiple_of).to_vec()
}

#[test]
fn all_reduce_is_the_serial_sum_in_rank_order_to_the_bit_on_every_rank() {
    for ranks in RANKS {
        for dtype in DTYPES {
            with_dtype!(dtype, T => for len in lengths(1) {
                let got = run_ranks(ranks, LONG, |world| {
                    let t = tensor::<T>(&values(world.rank(), len));
                    Ok(bits(world.all_reduce(t, Reduce::Sum, "x")?.wait()?.data::<T>()))
                });
                let want = bits(&serial_sum::<T>(ranks, len));
                for got in got.unwrap() {
                    assert!(got == want, "{ranks} ranks, {len} {dtype}");
                }
            })
        }
    }
}

#[test]
fn the_order_of_a_sum_matters_in_these_tests() {
    let all: Vec<Vec<f32>> = (0..4).map(|r| values(r, 1000)).collect();
    let backwards = |i: usize| all.iter().rev().map(|x| x[i]).reduce(|a, b| a + b).unwrap();
    assert_ne!(serial_sum::<f32>(4, 1000), (0..1000).map(backwards).collect::<Vec<f32>>());
}

#[test]
fn a_bf16_sum_is_rounded_once() {
    // 256 + 1 + 1 = 258; rounding after each addition leaves 256 (8 bits of mantissa).
    for len in [3, 5000] {
        let got = run_ranks(3, LONG, |world| {
            let x = bf16::from_f32([256.0, 1.0, 1.0][world.rank()]);
            let t = world.all_reduce(tensor(&vec![x; len]), Reduce::Sum, "x")?.wait()?;
            Ok(t.to_f64())
        });
        assert!(got.unwrap().iter().flatten().all(|&x| x == 258.0));
    }
}

#[test]
fn all_reduce_max_is_the_largest_value_or_nan_if_there_is_one() {
    for ranks in RANKS {
        for len in lengths(1) {
            let got = run_ranks(ranks, LONG, |world| {
                let mut x: Vec<f64> = values(world.rank(), len);
                if world.rank() == ranks / 2 && len > 2 {
                    x[2] = f64::NAN;
                }
                Ok(world.all_reduce(tensor(&x), Reduce::Max, "x")?.wait()?.to_f64())
            });
            for got in got.unwrap() {
                for (i, got) in got.into_iter().enumerate() {
                    let want = (0..ranks).map(|r| value(r, i)).fold(f64::NEG_INFINITY, f64::max);
                    assert!(if i == 2 { got.is_nan() } else { got == want }, "{ranks} ranks, {i} of {len}");
                }
            }
        }
    }
}

#[test]
fn reduce_scatter_leaves_the_sum_in_the_own_slice() {
    for ranks in RANKS {
        for dtype in DTYPES {
            with_dtype!(dtype, T => for len in lengths(ranks) {
                let got = run_ranks(ranks, LONG, |world| {
                    let t = tensor::<T>(&values(world.rank(), len));
                    let t = world.reduce_scatter(t, "x")?.wait()?;
                    let each = len / ranks;
                    Ok(bits(&t.data::<T>()[world.rank() * each..][..each]))
                });
                assert!(got.unwrap().concat() == bits(&serial_sum::<T>(ranks, len)), "{ranks} ranks, {len} {dtype}");
            })
        }
    }
}

#[test]
fn all_gather_collects_the_slices_of_all_ranks() {
    for ranks in RANKS {
        for dtype in DTYPES {
            with_dtype!(dtype, T => for len in lengths(ranks) {
                let each = len / ranks;
                let got = run_ranks(ranks, LONG, |world| {
                    let r = world.rank();
                    let mut x = vec![T::default(); len];
                    x[r * each..][..each].copy_from_slice(&values(r, each));
                    Ok(bits(world.all_gather(tensor(&x), "x")?.wait()?.data::<T>()))
                });
                let want: Vec<T> = (0..ranks).flat_map(|r| values(r, each)).collect();
                assert!(got.unwrap().iter().all(|got| *got == bits(&want)), "{ranks} ranks, {len} {dtype}");
            })
        }
    }
}

#[test]
fn broadcast_gives_everyone_the_values_of_the_root() {
    for ranks in RANKS {
        for dtype in DTYPES {
            with_dtype!(dtype, T => for (i, len) in lengths(1).into_iter().enumerate() {
                let root = i % ranks;
                let got = run_ranks(ranks, LONG, |world| {
                    let t = tensor::<T>(&values(world.rank(), len));
                    Ok(bits(world.broadcast(t, root, "x")?.wait()?.data::<T>()))
                });
                let want = bits(&values::<T>(root, len));
                assert!(got.unwrap().iter().all(|got| *got == want), "{ranks} ranks, {len} {dtype}");
            })
        }
    }
}

#[test]
fn all_to_all_is_the_transpose_of_slices() {
    for ranks in RANKS {
        for dtype in DTYPES {
            with_dtype!(dtype, T => for len in lengths(ranks) {
                let each = len / ranks;
                let got = run_ranks(ranks, LONG, |world| {
                    let t = tensor::<T>(&values(world.rank(), len));
                    Ok(bits(world.all_to_all(t, "x")?.wait()?.data::<T>()))
                });
                for (me, got) in got.unwrap().into_iter().enumerate() {
                    let slice = |r| values::<T>(r, len)[me * each..][..each].to_vec();
                    let want: Vec<T> = (0..ranks).flat_map(slice).collect();
                    assert!(got == bits(&want), "rank {me} of {ranks}, {len} {dtype}");
                }
            })
        }
    }
}

#[test]
fn two_thousand_small_collectives_on_eight_ranks() {
    let got = run_ranks(8, LONG, |world| {
        let mut sum = 0.0;
        for i in 0..2000 {
            let len = if i % 10 == 9 { 3000 } else { 3 };
            let x = vec![(world.rank() + i) as f32; len];
            let t = world.all_reduce(tensor(&x), Reduce::Sum, "small")?.wait()?;
            sum += t.data::<f32>()[len - 1] as f64;
        }
        Ok(sum)
    });
    let want = (0..2000).map(|i| 28.0 + 8.0 * i as f64).sum::<f64>();
    assert_eq!(got.unwrap(), vec![want; 8]);
}

#[test]
fn traffic_counts_calls_and_ring_volume() {
    let got = run_ranks(4, LONG, |world| {
        let before = world.traffic();
        world.all_reduce(tensor(&[0f32; 100]), Reduce::Sum, "x")?.wait()?;
        world.all_gather(tensor(&[0f32; 100]), "x")?.wait()?;
        world.barrier("x")?;
        Ok(world.traffic() - before)
    });
    for t in got.unwrap() {
        assert_eq!((t.of(Kind::AllReduce).calls, t.of(Kind::AllReduce).bytes), (1, 600));
        assert_eq!((t.of(Kind::AllGather).calls, t.of(Kind::AllGather).bytes), (1, 300));
        assert_eq!((t.calls(), t.bytes()), (3, 900));
    }
}
