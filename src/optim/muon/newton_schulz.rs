//! The nearest orthogonal matrix, roughly: for X = U S Vᵀ something like U S' Vᵀ with all singular values near 1.
//!
//!     X ← X / ‖X‖,   then `steps` times   A = X Xᵀ,   X ← aX + (bA + cA²) X
//!
//! a, b, c = 3.4445, −4.7750, 2.0315: the quintic of Keller Jordan's Muon (kellerjordan.github.io/posts/muon), steepest
//! at 0, which takes singular values into 0.68..1.14 and leaves them there (five steps raise those below
//! 2e-3 of the norm by 3.4 a step, and not so far). For more rows than columns A = XᵀX multiplies from the right, which
//! is the same and cheaper. All in f32; torch computes it in bf16.

use crate::device::gemm::{Epilogue, Mat, MatMut, Out, gemm, gemm_fused};
use crate::device::{Category, DType, Device, Pool, Shared, simd};
use crate::ops::reduce::sum;
use crate::tensor::Tensor;

const A: f32 = 3.4445;
const B: f32 = -4.7750;
const C: f32 = 2.0315;
/// Smallest norm that is divided by.
const EPS: f64 = 1e-7;
/// Values per task.
pub(super) const GRAIN: usize = 1 << 14;

/// Multiplications and additions of a (rows, cols) matrix.
pub fn flops(rows: usize, cols: usize, steps: usize) -> f64 {
    let (r, c) = (rows.min(cols) as f64, rows.max(cols) as f64);
    steps as f64 * (4.0 * r * r * c + 2.0 * r * r * r)
}

/// Memory for matrices up to some size.
pub struct Work {
    /// (1, largest): the matrix, and where the next one is made.
    x: [Tensor; 2],
    /// (1, largest of min(rows, cols)²): A and bA + cA².
    gram: [Tensor; 2],
    /// (1, tasks) partial sums of squares.
    sums: Tensor,
}

impl Work {
    /// For matrices of up to `values` values and `short`² in their Gram matrix.
    pub fn new(dev: &Device, values: usize, short: usize) -> Work {
        let empty = |len, dtype| Tensor::empty(dev, 1, len, dtype, Category::Workspace);
        Work {
            x: [empty(values, DType::F32), empty(values, DType::F32)],
            gram: [empty(short * short, DType::F32), empty(short * short, DType::F32)],
            sums: empty(values.div_ceil(GRAIN), DType::F64),
        }
    }

    /// Where the (rows, cols) matrix is put, row-major, and is found afterwards.
    pub fn matrix(&mut self, rows: usize, cols: usize) -> &mut [f32] {
        &mut self.x[0].data_mut()[..rows * cols]
    }

    /// Orthogonalises the matrix.
    pub fn orthogonalise(&mut self, pool: &Pool, rows: usize, cols: usize, steps: usize) {
        let (len, short) = (rows * cols, rows.min(cols));
        let inverse = 1.0 / self.norm(pool, len).max(EPS);
        let x = Shared::new(&mut self.x[0].data_mut::<f32>()[..len]);
        pool.ranges(len, GRAIN, |r| {
            // SAFETY: ranges of different tasks are disjoint.
            let x = unsafe { x.part(r) };
            simd(
                #[inline(always)]
                || x.iter_mut().for_each(|x| *x = (f64::from(*x) * inverse) as f32),
            );
        });
        for _ in 0..steps {
            let ([x, y], [gram, poly]) = (&mut self.x, &mut self.gram);
            let x = &x.data::<f32>()[..len];
            let gram = &mut gram.data_mut::<f32>()[..short * short];
            let poly = &mut poly.data_mut::<f32>()[..short * short];
            let m = Mat::new(x, rows, cols);
            let (left, right) = if rows <= cols { (m, m.t()) } else { (m.t(), m) };
            gemm(pool, MatMut::new(gram, short, short), Out::Store, left, right);
            let a = Mat::new(gram, short, short);
            let sum = Combine { of_sums: C, of_other: B, other: gram, cols: short };
            gemm_fused(pool, MatMut::new(poly, short, short), Out::Store, a, a, &sum);
            let p = Mat::new(poly, short, short);
            let (left, right) = if rows <= cols { (p, m) } else { (m, p) };
            let sum = Combine { of_sums: 1.0, of_other: A, other: x, cols };
            let y = MatMut::new(&mut y.data_mut::<f32>()[..len], rows, cols);
            gemm_fused(pool, y, Out::Store, left, right, &sum);
            self.x.swap(0, 1);
        }
    }

    /// ‖X‖ (Frobenius) of the first `len` values.
    fn norm(&mut self, pool: &Pool, len: usize) -> f64 {
        let x = &self.x[0].data::<f32>()[..len];
        let tasks = len.div_ceil(GRAIN);
        let sums = &mut self.sums.data_mut::<f64>()[..tasks];
        let out = Shared::new(sums);
        pool.run(tasks, |i| {
            // SAFETY: each task has its own sum.
            let out = unsafe { out.part(i..i + 1) };
            let own = &x[i * GRAIN..len.min((i + 1) * GRAIN)];
            out[0] = simd(
                #[inline(always)]
                || own.chunks(256).map(|c| sum(c, |x| x * x) as f64).sum(),
            );
        });
        sums.iter().sum::<f64>().sqrt()
    }
}

/// of_sums · sums + of_other · other
struct Combine<'a> {
    of_sums: f32,
    of_other: f32,
    /// (rows, cols)
    other: &'a [f32],
    cols: usize,
}

impl Epilogue<f32> for Combine<'_> {
    #[inline(always)]
    fn finish(&self, row: usize, first: usize, sums: &mut [f32]) {
        let other = &self.other[row * self.cols + first..][..sums.len()];
        sums.iter_mut().zip(other).for_each(|(s, o)| *s = self.of_other.mul_add(*o, self.of_sums * *s));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Philox;

    fn random(rows: usize, cols: usize) -> Vec<f32> {
        let stream = Philox::new(5, &format!("{rows} x {cols}"));
        (0..rows * cols).map(|i| 1e-3 * stream.normal(i as u64, 0) as f32).collect()
    }

    fn ours(x: &[f32], rows: usize, cols: usize, threads: usize) -> Vec<f32> {
        let dev = Device::cpu(threads);
        let mut work = Work::new(&dev, rows * cols, rows.min(cols));
        work.matrix(rows, cols).copy_from_slice(x);
        work.orthogonalise(dev.pool(), rows, cols, 5);
        work.matrix(rows, cols).to_vec()
    }

    /// a (m, k) · b (k, n), each element by its index.
    fn product(
        m: usize,
        k: usize,
        n: usize,
        a: impl Fn(usize, usize) -> f64,
        b: impl Fn(usize, usize) -> f64,
    ) -> Vec<f64> {
        let element = |i: usize| (0..k).map(|l| a(i / n, l) * b(l, i % n)).sum();
        (0..m * n).map(element).collect()
    }

    /// The definition, in f64 and from the left always.
    fn plain(x: &[f32], rows: usize, cols: usize) -> Vec<f64> {
        let mut x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
        let norm = x.iter().map(|x| x * x).sum::<f64>().sqrt();
        x.iter_mut().for_each(|x| *x /= norm);
        let n = rows;
        for _ in 0..5 {
            let a = product(n, cols, n, |i, k| x[i * cols + k], |k, j| x[j * cols + k]);
            let a2 = product(n, n, n, |i, k| a[i * n + k], |k, j| a[k * n + j]);
            let p: Vec<f64> = a.iter().zip(&a2).map(|(a, a2)| f64::from(B) * a + f64::from(C) * a2).collect();
            let px = product(n, n, cols, |i, k| p[i * n + k], |k, j| x[k * cols + j]);
            x.iter_mut().zip(&px).for_each(|(x, p)| *x = f64::from(A) * *x + p);
        }
        x
    }

    /// The least and the greatest singular value, squared, by power iteration on the Gram matrix and on what lacks to its
    /// greatest.
    fn extremes(x: &[f32], rows: usize, cols: usize) -> [f64; 2] {
        let (n, long) = (rows.min(cols), rows.max(cols));
        let at = |i: usize, k: usize| f64::from(if rows <= cols { x[i * cols + k] } else { x[k * cols + i] });
        let g = product(n, long, n, at, |k, j| at(j, k));
        let power = |shift: f64| {
            let mut v: Vec<f64> = (0..n).map(|i| 1.0 + (i as f64 * 1.7).sin()).collect();
            let mut value = 0.0;
            for _ in 0..2000 {
                let w: Vec<f64> =
                    (0..n).map(|i| shift * v[i] - (0..n).map(|j| g[i * n + j] * v[j]).sum::<f64>()).collect();
                value = w.iter().map(|w| w * w).sum::<f64>().sqrt();
                if value == 0.0 {
                    break; // of one singular value nothing is left
                }
                v = w.iter().map(|w| w / value).collect();
            }
            value
        };
        let most = power(0.0);
        [most - power(most), most]
    }

    #[test]
    fn every_singular_value_of_a_random_matrix_comes_near_one() {
        for (rows, cols) in [(48, 120), (120, 48), (20, 64), (1, 7), (7, 1)] {
            let [least, most] =
                extremes(&ours(&random(rows, cols), rows, cols, 1), rows, cols).map(f64::sqrt);
            println!("{rows} x {cols}: {least:.3}..{most:.3}");
            assert!(least > 0.68 && most < 1.14, "{rows} x {cols}: {least} to {most}");
        }
    }

    #[test]
    fn it_is_the_iteration_of_the_definition_for_wide_and_for_tall_matrices() {
        for (rows, cols) in [(24, 40), (40, 24), (17, 17), (3, 70), (64, 5)] {
            let x = random(rows, cols);
            let (ours, plain) = (ours(&x, rows, cols, 1), plain(&x, rows, cols));
            let gap = ours.iter().zip(plain).fold(0.0, |m: f64, (a, b)| m.max((f64::from(*a) - b).abs()));
            assert!(gap < 5e-6, "{rows} x {cols}: off by {gap:e}");
        }
    }

    #[test]
    fn its_bits_do_not_depend_on_threads_and_zeros_stay_zeros() {
        let x = random(150, 230);
        let bits = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(ours(&x, 150, 230, 1)), bits(ours(&x, 150, 230, 3)));
        assert!(ours(&[0.0; 64], 8, 8, 1).iter().all(|x| *x == 0.0));
    }
}
