//! Every layout, type, instruction set and blocking edge against a plain product in f64.

use super::*;
use crate::device::{DType, Real, simd};
use half::bf16;

/// Pseudo-random values in [−1, 1).
pub(super) fn values<T: Elem>(n: usize, seed: u64) -> Vec<T> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as f64 / (1u64 << 30) as f64 - 1.0
    };
    (0..n).map(|_| T::store(T::Acc::of(next()))).collect()
}

fn at<T: Elem>(m: &Mat<T>, i: usize, j: usize) -> f64 {
    m.data[i * m.row_stride + j * m.col_stride].load().f64()
}

/// What an element may be off by: the chain of K roundings of values below 1, and the rounding to storage.
fn tolerance<C: Elem>(k: usize, want: f64) -> f64 {
    let eps = |d: DType| match d {
        DType::F64 => f64::EPSILON,
        DType::F32 => f32::EPSILON as f64,
        DType::Bf16 => 1.0 / 256.0,
    };
    let terms = (k + 2) as f64;
    eps(C::Acc::DTYPE) * terms * terms.sqrt() * 0.5 + eps(C::DTYPE) * want.abs()
}

/// The ways to run a product that a case goes through.
#[derive(Clone, Copy)]
struct Case {
    m: usize,
    n: usize,
    k: usize,
    a_transposed: bool,
    b_transposed: bool,
    /// Elements that a row is longer than its columns, in a, b and c.
    slack: usize,
    out: Out,
    epilogue: bool,
}

const PLAIN: Case = Case {
    m: 0,
    n: 0,
    k: 0,
    a_transposed: false,
    b_transposed: false,
    slack: 0,
    out: Out::Store,
    epilogue: false,
};

fn stored<T>(data: &[T], rows: usize, cols: usize, slack: usize, transposed: bool) -> Mat<'_, T> {
    if transposed {
        Mat::pitched(data, cols, rows, rows + slack).t()
    } else {
        Mat::pitched(data, rows, cols, cols + slack)
    }
}

struct HalfAndPlace;

impl<R: Real> Epilogue<R> for HalfAndPlace {
    #[inline(always)]
    fn finish(&self, row: usize, first: usize, sums: &mut [R]) {
        for (j, x) in sums.iter_mut().enumerate() {
            *x = *x * R::of(0.5) + R::of(row as f64 - (first + j) as f64 * 0.25);
        }
    }
}

/// Runs the case and gives c, pads included.
fn run<A: Elem, B: Elem<Acc = A::Acc>, C: Elem<Acc = A::Acc>>(how: How, pool: &Pool, case: Case) -> Vec<C> {
    let Case { m, n, k, a_transposed, b_transposed, slack, out, .. } = case;
    let a = values::<A>((m + slack) * (k + slack), 1);
    let b = values::<B>((n + slack) * (k + slack), 2);
    let mut c = values::<C>(m * (n + slack), 3);
    let a = stored(&a, m, k, slack, a_transposed);
    let b = stored(&b, k, n, slack, b_transposed);
    let view = MatMut::pitched(&mut c, m, n, n + slack);
    match case.epilogue {
        true => on(how, pool, view, out, a, b, Some(&HalfAndPlace)),
        false => on(how, pool, view, out, a, b, None::<&Nothing>),
    }
    c
}

/// Runs the case on this instruction set and compares with a sum in f64; the pads of c must stay as they were.
fn check<A: Elem, B: Elem<Acc = A::Acc>, C: Elem<Acc = A::Acc>>(how: How, pool: &Pool, case: Case) {
    let Case { m, n, k, a_transposed, b_transposed, slack, out, .. } = case;
    let got = run::<A, B, C>(how, pool, case);
    let a = values::<A>((m + slack) * (k + slack), 1);
    let b = values::<B>((n + slack) * (k + slack), 2);
    let old = values::<C>(m * (n + slack), 3);
    let a = stored(&a, m, k, slack, a_transposed);
    let b = stored(&b, k, n, slack, b_transposed);
    let columns: Vec<f64> = (0..n * k).map(|i| at(&b, i % k.max(1), i / k.max(1))).collect();
    for i in 0..m {
        let row: Vec<f64> = (0..k).map(|p| at(&a, i, p)).collect();
        for j in 0..n + slack {
            let (got, old) = (got[i * (n + slack) + j].load().f64(), old[i * (n + slack) + j].load().f64());
            if j >= n {
                assert_eq!(got, old, "a pad at ({i}, {j}) was written");
                continue;
            }
            let mut want: f64 = row.iter().zip(&columns[j * k..]).map(|(x, y)| x * y).sum();
            if case.epilogue {
                want = want * 0.5 + i as f64 - j as f64 * 0.25;
            }
            if out == Out::Add {
                want += old;
            }
            let room = tolerance::<C>(k, want) + 4.0 * f32::EPSILON as f64 * want.abs();
            assert!(
                (got - want).abs() <= room,
                "{how:?} {}x{}->{} ({m}, {n}, {k}) transposed ({a_transposed}, {b_transposed}) {out:?} at ({i}, {j}): \
                 {got}, not {want}",
                A::DTYPE,
                B::DTYPE,
                C::DTYPE
            );
        }
    }
}

/// All layouts, outputs and epilogues of one shape.
fn check_all<A: Elem, B: Elem<Acc = A::Acc>, C: Elem<Acc = A::Acc>>(
    how: How,
    pool: &Pool,
    (m, n, k): (usize, usize, usize),
) {
    for bits in 0..16 {
        let (a_transposed, b_transposed) = (bits & 1 != 0, bits & 2 != 0);
        let out = if bits & 4 != 0 { Out::Add } else { Out::Store };
        let slack = (m + bits) % 3;
        let case = Case { m, n, k, a_transposed, b_transposed, slack, out, epilogue: bits & 8 != 0 };
        check::<A, B, C>(how, pool, case);
    }
}

/// All kernels that this machine has, also those that it would not choose.
pub(super) fn ways() -> impl Iterator<Item = How> {
    let plain = [Isa::Portable, Isa::Avx2, Isa::Avx512].into_iter().filter(|&i| i <= simd::isa());
    #[cfg(target_arch = "x86_64")]
    let has_dots = simd::isa() == Isa::Avx512 && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    let has_dots = false;
    let dots = has_dots.then_some(How { isa: Isa::Avx512, dots: true });
    plain.map(|isa| How { isa, dots: false }).chain(dots)
}

#[test]
fn every_small_shape_layout_and_type_agrees_with_f64() {
    let pool = Pool::new(2);
    let sizes = values::<f64>(60, 9);
    for how in ways() {
        for shape in sizes.chunks_exact(3) {
            let size = |x: f64| ((x + 1.0) * 35.0) as usize;
            let shape = (size(shape[0]), size(shape[1]), size(shape[2]));
            check_all::<f32, f32, f32>(how, &pool, shape);
            check_all::<bf16, bf16, bf16>(how, &pool, shape);
            check_all::<bf16, bf16, f32>(how, &pool, shape);
            check_all::<f32, bf16, bf16>(how, &pool, shape);
            check_all::<f32, bf16, f32>(how, &pool, shape);
            check_all::<bf16, f32, f32>(how, &pool, shape);
            check_all::<f64, f64, f64>(how, &pool, shape);
        }
    }
}

#[test]
fn shapes_larger_than_a_block_agree_with_f64() {
    let pool = Pool::new(2);
    for how in ways() {
        for shape in [(66, 130, 1030), (3, 517, 2050), (140, 49, 1100), (20, 17, 3000)] {
            check_all::<f32, f32, f32>(how, &pool, shape);
            check_all::<bf16, bf16, bf16>(how, &pool, shape);
        }
        check_all::<f64, f64, f64>(how, &pool, (70, 70, 1030));
    }
}

#[test]
fn many_rows_and_many_columns_agree_with_f64() {
    let pool = Pool::new(2);
    let last = ways().last().expect("portable is always there");
    // More columns than packed b holds at once, more rows than one buffer of sums, several blocks of K.
    check::<f32, f32, f32>(last, &pool, Case { m: 5, n: 9000, k: 520, b_transposed: true, ..PLAIN });
    check::<bf16, bf16, bf16>(last, &pool, Case { m: 2100, n: 60, k: 1040, out: Out::Add, ..PLAIN });
    check::<f32, f32, f32>(last, &pool, Case { m: 2100, n: 60, k: 1040, a_transposed: true, ..PLAIN });
}

#[test]
fn empty_dimensions_give_zeros_through_the_epilogue() {
    let pool = Pool::new(2);
    for how in ways() {
        for shape in [(0, 5, 7), (5, 0, 7), (5, 7, 0), (0, 0, 0), (100, 100, 0)] {
            check_all::<f32, f32, f32>(how, &pool, shape);
            check_all::<f32, bf16, bf16>(how, &pool, shape);
            check_all::<f64, f64, f64>(how, &pool, shape);
        }
    }
}

/// The bits of all ways on one, two and three threads.
fn same_bits<A: Elem, B: Elem<Acc = A::Acc>, C: Elem<Acc = A::Acc>>(case: Case) {
    let bits = |how: How, threads: usize| -> Vec<u64> {
        let c = run::<A, B, C>(how, &Pool::new(threads), case);
        c.into_iter().map(|x| x.load().f64().to_bits()).collect()
    };
    let one = bits(How { isa: Isa::Portable, dots: false }, 1);
    for threads in [1, 2, 3] {
        for how in ways() {
            assert!(one == bits(how, threads), "{how:?} {threads}");
        }
    }
}

#[test]
fn bits_do_not_depend_on_threads_or_instruction_set() {
    for (i, k) in [1100, 1099, 2050, 37, 1].into_iter().enumerate() {
        for layout in 0..4 {
            let (a_transposed, b_transposed) = (layout & 1 != 0, layout & 2 != 0);
            let out = if (i + layout) % 2 == 0 { Out::Store } else { Out::Add };
            let case =
                Case { m: 61, n: 117, k, a_transposed, b_transposed, slack: 1, out, epilogue: i % 2 == 0 };
            same_bits::<f32, f32, f32>(case);
            same_bits::<bf16, bf16, bf16>(case);
            same_bits::<bf16, bf16, f32>(case);
        }
    }
    same_bits::<f32, f32, f32>(Case { m: 300, n: 517, k: 1100, b_transposed: true, epilogue: true, ..PLAIN });
    same_bits::<bf16, bf16, f32>(Case { m: 300, n: 517, k: 1100, b_transposed: true, ..PLAIN });
}

#[test]
fn an_element_depends_on_its_row_and_column_only() {
    let (m, n, k) = (150, 410, 1100);
    let (a, b) = (values::<f32>(m * k, 1), values::<bf16>(k * n, 2));
    let product = |rows: std::ops::Range<usize>, cols: std::ops::Range<usize>| {
        let mut c = vec![0.0f32; rows.len() * cols.len()];
        let view = MatMut::new(&mut c, rows.len(), cols.len());
        let a = Mat::new(&a[rows.start * k..rows.end * k], rows.len(), k);
        let b = Mat::pitched(&b[cols.start..], k, cols.len(), n);
        gemm(&Pool::new(1), view, Out::Store, a, b);
        c
    };
    let whole = product(0..m, 0..n);
    let (rows, cols) = (31..34, 97..101);
    let part = product(rows.clone(), cols.clone());
    for (i, row) in rows.enumerate() {
        for (j, col) in cols.clone().enumerate() {
            assert_eq!(part[i * 4 + j].to_bits(), whole[row * n + col].to_bits(), "({row}, {col})");
        }
    }
}

#[test]
fn epilogue_sees_each_column_of_each_row_once() {
    let (m, n, k) = (37, 301, 1500);
    let (a, b) = (vec![1.0f32; m * k], vec![bf16::ONE; k * n]);
    let mut c = vec![bf16::ZERO; m * n];
    let seen: Vec<_> = (0..m * n).map(|_| std::sync::atomic::AtomicU8::new(0)).collect();
    gemm_with(
        &Pool::new(2),
        MatMut::new(&mut c, m, n),
        Out::Store,
        Mat::new(&a, m, k),
        Mat::new(&b, k, n),
        |i, j, s| {
            assert!(s.iter().all(|&x| x == k as f32));
            for j in j..j + s.len() {
                seen[i * n + j].fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        },
    );
    assert!(seen.into_iter().all(|s| s.into_inner() == 1));
}

#[test]
#[should_panic(expected = "spans 13 elements, its data has 12")]
fn a_view_beyond_its_data_is_refused() {
    let data = [0.0f32; 12];
    Mat::pitched(&data, 3, 3, 5);
}

#[test]
fn peak_is_a_rate() {
    let rate = peak(&Pool::new(1));
    assert!(rate.is_finite() && rate > 0.0, "{rate}");
}
