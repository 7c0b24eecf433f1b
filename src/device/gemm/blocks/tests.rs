//! The three products against the dense products with the same matrix, zeros and all; and their bits.

use super::*;
use crate::device::gemm::{gemm, tests::values, tests::ways};
use half::bf16;

/// A map that keeps about a third of (rows, cols) blocks, a row of them none, in an order of its own.
fn map(block: usize, rows: usize, cols: usize) -> BlockMap {
    let keeps = |&(r, c): &(u32, u32)| r != 1 && (r * 7 + c * 5) % 3 == 0;
    let all = (0..cols as u32).flat_map(|c| (0..rows as u32).map(move |r| (r, c)));
    BlockMap::new(block, rows, cols, &all.filter(keeps).collect::<Vec<_>>())
}

/// The whole matrix.
fn whole<T: Elem>(w: &[T], map: &BlockMap) -> Vec<T> {
    let (b, width) = (map.block, map.cols * map.block);
    let mut all = vec![T::default(); map.rows * b * width];
    for row in 0..map.rows {
        for e in map.by_row.of(row..row + 1) {
            let (col, number) = (map.by_row.other[e] as usize, map.by_row.number[e] as usize);
            for i in 0..b {
                let from = &w[(number * b + i) * b..][..b];
                all[(row * b + i) * width + col * b..][..b].copy_from_slice(from);
            }
        }
    }
    all
}

struct Shape {
    block: usize,
    n: usize,
    rows: usize,
    cols: usize,
}

const SHAPES: [Shape; 6] = [
    // More than is packed at a time.
    Shape { block: 128, n: 3, rows: 16, cols: 32 },
    Shape { block: 16, n: 37, rows: 5, cols: 7 },
    Shape { block: 32, n: 1, rows: 3, cols: 4 },
    Shape { block: 32, n: 1100, rows: 4, cols: 3 },
    Shape { block: 64, n: 131, rows: 3, cols: 2 },
    Shape { block: 128, n: 40, rows: 2, cols: 3 },
];

/// y, dx (added to what was there) and dW (likewise).
fn products<T: Elem>(how: How, threads: usize, s: &Shape) -> (Vec<T>, Vec<T>, Vec<T::Acc>)
where
    T::Acc: Elem<Acc = T::Acc>,
{
    let (pool, map) = (Pool::new(threads), map(s.block, s.rows, s.cols));
    let (o, i) = (s.rows * s.block, s.cols * s.block);
    let (x, dy) = (values::<T>(s.n * i, 1), values::<T>(s.n * o, 2));
    let w = values::<T>(map.kept() * s.block * s.block, 3);
    let w = Blocks { data: &w, map: &map };
    let (mut y, mut dx) = (vec![T::default(); s.n * o], values::<T>(s.n * i, 4));
    let mut dw = values::<T::Acc>(w.data.len(), 5);
    let bias = values::<T::Acc>(o, 6);
    let add = |_: usize, col: usize, sums: &mut [T::Acc]| {
        sums.iter_mut().zip(&bias[col..]).for_each(|(s, b)| *s += *b);
    };
    forward_on(how, &pool, MatMut::new(&mut y, s.n, o), Mat::new(&x, s.n, i), w, &add);
    input_on(how, &pool, MatMut::new(&mut dx, s.n, i), Out::Add, Mat::new(&dy, s.n, o), w);
    weight_on(how, &pool, &mut dw, &map, Mat::new(&dy, s.n, o), Mat::new(&x, s.n, i));
    (y, dx, dw)
}

fn assert_close<T: Elem>(got: &[T], want: impl Iterator<Item = f64>, terms: usize, what: &str) {
    let eps = match T::DTYPE {
        DType::F64 => 1e-14,
        DType::F32 => 1e-6,
        DType::Bf16 => 1e-2,
    };
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let got = got.load().f64();
        let most = eps * (want.abs() + (terms as f64).sqrt());
        assert!((got - want).abs() <= most, "{what} [{i}]: {got}, not {want}");
    }
}

fn check<T: Elem>()
where
    T::Acc: Elem<Acc = T::Acc>,
{
    for s in &SHAPES {
        let map = map(s.block, s.rows, s.cols);
        let (o, i) = (s.rows * s.block, s.cols * s.block);
        let wide = |v: Vec<T>| v.iter().map(|x| x.load().f64()).collect::<Vec<f64>>();
        let (x, dy) = (wide(values::<T>(s.n * i, 1)), wide(values::<T>(s.n * o, 2)));
        let w = wide(whole(&values::<T>(map.kept() * s.block * s.block, 3), &map));
        let pool = Pool::new(1);
        let (mut y, mut dx) = (vec![0.0; s.n * o], wide(values::<T>(s.n * i, 4)));
        let mut dw = vec![0.0; o * i];
        let [xm, dym] = [Mat::new(&x, s.n, i), Mat::new(&dy, s.n, o)];
        gemm(&pool, MatMut::new(&mut y, s.n, o), Out::Store, xm, Mat::new(&w, o, i).t());
        gemm(&pool, MatMut::new(&mut dx, s.n, i), Out::Add, dym, Mat::new(&w, o, i));
        gemm(&pool, MatMut::new(&mut dw, o, i), Out::Store, dym.t(), xm);
        let (got_y, got_dx, got_dw) =
            products::<T>(How { isa: crate::device::simd::Isa::Portable, dots: false }, 2, s);
        let bias: Vec<f64> = values::<T::Acc>(o, 6).iter().map(|b| b.load().f64()).collect();
        assert_close(&got_y, y.iter().enumerate().map(|(at, y)| y + bias[at % o]), i, "y");
        assert_close(&got_dx, dx.into_iter(), o, "dx");
        let before = values::<T::Acc>(got_dw.len(), 5);
        for row in 0..map.rows {
            for e in map.by_row.of(row..row + 1) {
                let (col, number) = (map.by_row.other[e] as usize, map.by_row.number[e] as usize);
                let range = number * s.block * s.block..(number + 1) * s.block * s.block;
                let want = range.clone().map(|at| {
                    let (r, c) = (at % (s.block * s.block) / s.block, at % s.block);
                    dw[(row * s.block + r) * i + col * s.block + c] + before[at].load().f64()
                });
                assert_close(&got_dw[range.clone()], want, s.n, "dw");
            }
        }
    }
}

#[test]
fn the_products_are_those_with_the_whole_matrix() {
    check::<f64>();
    check::<f32>();
    check::<bf16>();
}

fn same_bits<T: Elem>()
where
    T::Acc: Elem<Acc = T::Acc>,
{
    let bits = |(y, dx, dw): (Vec<T>, Vec<T>, Vec<T::Acc>)| {
        let of = |v: Vec<T>| v.into_iter().map(|x| x.load().f64().to_bits()).collect::<Vec<_>>();
        let dw: Vec<u64> = dw.into_iter().map(|x| x.load().f64().to_bits()).collect();
        (of(y), of(dx), dw)
    };
    for s in &SHAPES {
        let one = bits(products::<T>(How { isa: crate::device::simd::Isa::Portable, dots: false }, 1, s));
        for threads in [1, 2, 3] {
            for how in ways() {
                assert!(bits(products::<T>(how, threads, s)) == one, "{} {how:?} on {threads}", s.block);
            }
        }
    }
}

#[test]
fn bits_depend_on_neither_threads_nor_instruction_set() {
    same_bits::<f32>();
    same_bits::<bf16>();
}
