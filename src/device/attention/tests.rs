//! Against attention written out in f64 with a whole T×T matrix, and against finite differences.

use super::{Heads, Mask, backward, forward};
use crate::device::simd::{Isa, force};
use crate::device::{Elem, Pool, Real};
use half::bf16;
use std::ops::Range;

/// Documents, and the heads they are tried with: lengths below, at and beyond the edges of a tile (64), of a forward
/// task (256) and of a backward chunk (512); head dims of part of a vector, of one, and of several.
const CASES: &[(&[usize], &[Heads])] = &[
    (&[1, 0, 5, 1], &[FULL, GROUPED, SINGLE, WIDE]),
    (&[63, 64, 0, 65], &[FULL, GROUPED, SINGLE, WIDE]),
    (&[130, 17, 257], &[GROUPED, WIDE]),
    (&[600, 3], &[GROUPED]),
    (&[1030], &[GROUPED]),
];
const FULL: Heads = Heads { heads: 2, kv_heads: 2, head_dim: 16 };
const GROUPED: Heads = Heads { heads: 4, kv_heads: 2, head_dim: 9 };
const SINGLE: Heads = Heads { heads: 3, kv_heads: 1, head_dim: 12 };
const WIDE: Heads = Heads { heads: 2, kv_heads: 1, head_dim: 128 };

struct Case {
    heads: Heads,
    cu_seqlens: Vec<u32>,
    causal: bool,
    scale: f64,
    qkv: Vec<f64>,
    dy: Vec<f64>,
}

struct Answer {
    o: Vec<f64>,
    lse: Vec<f64>,
    dqkv: Vec<f64>,
}

fn random(len: usize, seed: u64, size: f64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        ((state >> 11) as f64 / (1u64 << 52) as f64 - 1.0) * size
    };
    std::iter::repeat_with(next).take(len).collect()
}

impl Case {
    fn new(heads: Heads, documents: &[usize], causal: bool, size: f64) -> Case {
        let mut cu_seqlens = vec![0];
        for len in documents {
            cu_seqlens.push(cu_seqlens[cu_seqlens.len() - 1] + *len as u32);
        }
        let n = cu_seqlens[cu_seqlens.len() - 1] as usize;
        let scale = 1.0 / (heads.head_dim as f64).sqrt();
        let qkv = random(n * heads.qkv_width(), 1 + n as u64, size);
        let dy = random(n * heads.heads * heads.head_dim, 2 + n as u64, 1.0);
        Case { heads, cu_seqlens, causal, scale, qkv, dy }
    }

    fn all(size: f64) -> impl Iterator<Item = Case> {
        let shapes = CASES.iter().flat_map(|(documents, heads)| heads.iter().map(move |h| (*documents, *h)));
        shapes
            .flat_map(move |(documents, h)| [true, false].map(|causal| Case::new(h, documents, causal, size)))
    }

    fn mask(&self) -> Mask<'_> {
        Mask { cu_seqlens: &self.cu_seqlens, causal: self.causal }
    }

    /// This module, with values stored as T.
    fn run<T: Elem>(&self, threads: usize) -> Answer {
        let pool = Pool::new(threads);
        let store = |x: &[f64]| -> Vec<T> { x.iter().map(|x| T::store(T::Acc::of(*x))).collect() };
        let load = |x: &[T]| -> Vec<f64> { x.iter().map(|x| x.load().f64()).collect() };
        let (qkv, dy) = (store(&self.qkv), store(&self.dy));
        // Outputs start as NaN: whatever is not stored is seen.
        let nan = T::Acc::of(f64::NAN);
        let (mut o, mut dqkv) = (vec![T::store(nan); dy.len()], vec![T::store(nan); qkv.len()]);
        let mut lse = vec![nan; dy.len() / self.heads.head_dim];
        forward(&pool, self.heads, &self.mask(), self.scale, &qkv, &mut o, &mut lse);
        backward(&pool, self.heads, &self.mask(), self.scale, &qkv, &o, &lse, &dy, &mut dqkv);
        Answer { o: load(&o), lse: lse.iter().map(|x| x.f64()).collect(), dqkv: load(&dqkv) }
    }

    /// The definition.
    fn reference(&self) -> Answer {
        let Heads { heads, kv_heads, head_dim: dim } = self.heads;
        let width = (heads + 2 * kv_heads) * dim;
        let n = self.qkv.len() / width;
        let mut answer =
            Answer { o: vec![0.0; n * heads * dim], lse: vec![0.0; n * heads], dqkv: vec![0.0; n * width] };
        let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
        let at = |row: usize, column: usize| row * width + column * dim..row * width + (column + 1) * dim;
        for (document, h) in self.cu_seqlens.windows(2).flat_map(|w| (0..heads).map(move |h| (w, h))) {
            let (k, v) = (heads + h * kv_heads / heads, heads + kv_heads + h * kv_heads / heads);
            let (start, end) = (document[0] as usize, document[1] as usize);
            for i in start..end {
                let seen = start..if self.causal { i + 1 } else { end };
                let q = &self.qkv[at(i, h)];
                let s: Vec<f64> = seen.clone().map(|j| dot(q, &self.qkv[at(j, k)]) * self.scale).collect();
                let max = s.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let lse = max + s.iter().map(|s| (s - max).exp()).sum::<f64>().ln();
                answer.lse[i * heads + h] = lse;
                let p: Vec<f64> = s.iter().map(|s| (s - lse).exp()).collect();
                let dy = &self.dy[(i * heads + h) * dim..][..dim];
                let dp: Vec<f64> = seen.clone().map(|j| dot(dy, &self.qkv[at(j, v)])).collect();
                let delta = dot(&p, &dp);
                for (j, (p, dp)) in seen.zip(p.iter().zip(&dp)) {
                    let ds = p * (dp - delta) * self.scale;
                    let (o, v_j) = (&mut answer.o[(i * heads + h) * dim..][..dim], &self.qkv[at(j, v)]);
                    o.iter_mut().zip(v_j).for_each(|(o, v)| *o += p * v);
                    let mut add = |place: Range<usize>, factor: f64, x: &[f64]| {
                        answer.dqkv[place].iter_mut().zip(x).for_each(|(sum, x)| *sum += factor * x)
                    };
                    add(at(j, v), *p, dy);
                    add(at(j, k), ds, q);
                    add(at(i, h), ds, &self.qkv[at(j, k)]);
                }
            }
        }
        answer
    }
}

/// Largest |a − b| over the larger of 1 and the largest |b|.
fn difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    let size = b.iter().fold(1.0, |m: f64, x| m.max(x.abs()));
    // NaN must not pass: f64::max would drop it.
    a.iter().zip(b).map(|(a, b)| (a - b).abs() / size).fold(0.0, |m, x| if x <= m { m } else { x })
}

fn check<T: Elem>(size: f64, lse: f64, o: f64, dqkv: f64) {
    for case in Case::all(size) {
        let (got, want) = (case.run::<T>(2), case.reference());
        for (name, got, want, limit) in [
            ("lse", &got.lse, &want.lse, lse),
            ("o", &got.o, &want.o, o),
            ("dqkv", &got.dqkv, &want.dqkv, dqkv),
        ] {
            let error = difference(got, want);
            let place = (case.heads, &case.cu_seqlens, case.causal);
            assert!(error <= limit, "{name} differs by {error:e} in {} for {place:?}", T::DTYPE);
        }
    }
}

#[test]
fn f64_equals_the_definition_to_twelve_digits() {
    check::<f64>(2.0, 1e-12, 1e-12, 1e-12);
}

#[test]
fn f32_equals_the_definition_to_rounding() {
    check::<f32>(2.0, 3e-6, 3e-6, 1e-5);
}

#[test]
fn bf16_equals_the_definition_to_its_eight_bits() {
    // Inputs, o and dqkv each round to 2^-9 relative; |s| stays below about 4, so that p moves by about 4·2^-9, and
    // the o that delta is taken from is rounded too.
    check::<bf16>(1.0, 0.01, 0.01, 0.03);
}

#[test]
fn the_gradient_equals_finite_differences_of_the_forward() {
    let mut case = Case::new(Heads { heads: 4, kv_heads: 2, head_dim: 5 }, &[3, 70, 1], true, 1.0);
    for causal in [true, false] {
        case.causal = causal;
        let gradient = case.run::<f64>(1).dqkv;
        let loss = |case: &Case| -> f64 {
            let y = case.run::<f64>(1).o;
            y.iter().zip(&case.dy).map(|(y, dy)| y * dy).sum()
        };
        for i in (0..case.qkv.len()).step_by(37) {
            let (x, step) = (case.qkv[i], 1e-5);
            case.qkv[i] = x + step;
            let up = loss(&case);
            case.qkv[i] = x - step;
            let slope = (up - loss(&case)) / (2.0 * step);
            case.qkv[i] = x;
            assert!((slope - gradient[i]).abs() < 1e-8, "element {i}: {slope}, not {}", gradient[i]);
        }
    }
}

fn bits(answer: &Answer) -> Vec<u64> {
    answer.o.iter().chain(&answer.lse).chain(&answer.dqkv).map(|x| x.to_bits()).collect()
}

#[test]
fn threads_do_not_change_bits() {
    for documents in [&[130, 17, 0, 257, 1, 64][..], &[1600][..]] {
        for causal in [true, false] {
            let case = Case::new(GROUPED, documents, causal, 2.0);
            let one = (bits(&case.run::<f32>(1)), bits(&case.run::<bf16>(1)));
            for threads in [2, 3] {
                assert!(one == (bits(&case.run::<f32>(threads)), bits(&case.run::<bf16>(threads))));
            }
        }
    }
}

#[test]
fn a_document_neither_sees_nor_moves_its_neighbours() {
    for causal in [true, false] {
        let mut case = Case::new(GROUPED, &[70, 600, 33], causal, 2.0);
        let before = case.run::<f32>(2);
        let Heads { heads, head_dim, .. } = case.heads;
        let (width, out) = (case.heads.qkv_width(), heads * head_dim);
        case.qkv[70 * width..670 * width].iter_mut().for_each(|x| *x = 1.5 - *x * 7.0);
        case.dy[70 * out..670 * out].iter_mut().for_each(|x| *x = -*x + 0.25);
        let after = case.run::<f32>(2);
        for (a, b, row) in
            [(&before.o, &after.o, out), (&before.lse, &after.lse, heads), (&before.dqkv, &after.dqkv, width)]
        {
            assert_eq!(a[..70 * row], b[..70 * row]);
            assert_eq!(a[670 * row..], b[670 * row..]);
            assert_ne!(a[70 * row..670 * row], b[70 * row..670 * row]);
        }
    }
}

#[test]
fn scores_of_three_hundred_do_not_overflow() {
    for causal in [true, false] {
        let mut case = Case::new(FULL, &[130, 1], causal, 1.0);
        // Rows of equal sign make every score ±300.
        let (dim, size) = (case.heads.head_dim, (300.0 / (16.0 * case.scale)).sqrt());
        let width = case.heads.qkv_width();
        for (i, x) in case.qkv.iter_mut().enumerate().filter(|(i, _)| i % width < 4 * dim) {
            *x = if (i / width / 3 + i % width / dim / 2).is_multiple_of(2) { size } else { -size };
        }
        let (got, want) = (case.run::<f32>(2), case.reference());
        assert!(want.lse.iter().any(|x| *x > 299.0) && want.lse.iter().any(|x| *x < -250.0));
        // Scores near 300 carry a rounding error of 300·2^-24·√16 that exp turns into a relative error of p.
        assert!(difference(&got.lse, &want.lse) < 1e-6);
        assert!(difference(&got.o, &want.o) < 2e-4, "{}", difference(&got.o, &want.o));
        assert!(difference(&got.dqkv, &want.dqkv) < 2e-4, "{}", difference(&got.dqkv, &want.dqkv));
    }
}

#[test]
fn scores_of_any_size_give_numbers() {
    for size in [1e6, 1e12, 1e17] {
        let mut case = Case::new(GROUPED, &[130, 1], true, 1.0);
        let (width, reach) = (case.heads.qkv_width(), 6 * case.heads.head_dim);
        case.qkv.iter_mut().enumerate().filter(|(i, _)| i % width < reach).for_each(|(_, x)| *x *= size);
        for Answer { o, lse, dqkv } in [case.run::<f32>(2), case.run::<bf16>(2)] {
            let largest = o.iter().fold(0.0, |m: f64, x| m.max(x.abs()));
            // A weighted mean of values below 1.
            assert!(
                largest > 0.5 && largest < 1.01 && lse.iter().all(|x| x.is_finite()),
                "{size}: {largest}"
            );
            assert!(dqkv.iter().all(|x| x.is_finite()), "{size}");
        }
    }
}

#[test]
fn instruction_sets_do_not_change_bits() {
    let case = Case::new(GROUPED, &[70, 9], true, 2.0);
    let [widest, others @ ..] = [Isa::Avx512, Isa::Avx2, Isa::Portable].map(|isa| {
        force(isa);
        (bits(&case.run::<f32>(1)), bits(&case.run::<bf16>(1)), bits(&case.run::<f64>(1)))
    });
    force(Isa::Avx512);
    assert!(others.iter().all(|other| *other == widest));
}
