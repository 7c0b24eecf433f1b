//! The loss in several chunks, on several ranks and of extreme logits.

use super::rig::{close, product, ranks};
use super::{tensor, values};
use espalier::comm::{Comm, Solo};
use espalier::config::Distance;
use espalier::device::{Category, DType, Device};
use espalier::ops::distill::Soft;
use espalier::ops::loss::{Targets, Teacher, Vocab, VocabGrads, cross_entropy, logits, meta_cross_entropy};
use espalier::tape::Shape;
use std::ops::Range;

/// Most bytes of logits at a time.
const CHUNK: usize = 128 << 20;

/// A head of v rows for n tokens of width c, all values irregular.
struct Problem {
    n: usize,
    c: usize,
    v: usize,
    h: Vec<f64>,
    w: Vec<f64>,
    b: Vec<f64>,
    ids: Vec<u32>,
    weights: Vec<f32>,
    cap: Option<f64>,
    z: f64,
    soft: Option<Soft>,
    /// Logits of the teacher (n, v).
    teacher: Vec<f64>,
    /// Each rank has its rows of h and dh only.
    split: bool,
}

/// Soft-cap, coefficient of the z term, teacher.
type Terms = (Option<f64>, f64, Option<Soft>);

const fn soft(distance: Distance, weight: f64, temperature: f64) -> Option<Soft> {
    Some(Soft { distance, weight, temperature })
}

const TEACHERS: [Option<Soft>; 6] = [
    None,
    soft(Distance::Kd, 0.3, 1.0),
    soft(Distance::Kd, 1.0, 0.25),
    soft(Distance::Rkl, 0.5, 2.0),
    soft(Distance::Js, 0.7, 0.5),
    soft(Distance::Js, 1.0, 1.0),
];

fn terms() -> impl Iterator<Item = Terms> {
    let own = [(None, 0.0), (Some(0.7), 0.0), (None, 0.03), (Some(0.7), 0.03)];
    own.into_iter().flat_map(|(cap, z)| TEACHERS.map(|soft| (cap, z, soft)))
}

/// nll, dh, dw, db, Σ weight·lse², Σ weight·D
type Solved = [Vec<f64>; 6];

impl Problem {
    fn new(n: usize, c: usize, v: usize) -> Problem {
        Problem {
            n,
            c,
            v,
            h: values("h", n * c),
            w: values("w", v * c),
            b: values("b", v),
            ids: (0..n).map(|i| (i * 7 % v) as u32).collect(),
            weights: (0..n).map(|i| [1.0, 0.0, 0.5][i % 3]).collect(),
            cap: None,
            z: 0.0,
            soft: None,
            teacher: values("teacher", n * v).iter().map(|t| 3.0 * t).collect(),
            split: false,
        }
    }

    fn with((cap, z, soft): Terms) -> Problem {
        Problem { cap, z, soft, ..Problem::new(150, 5, 11) }
    }

    /// What the rank that has these rows of the vocabulary computes.
    fn solve(&self, tp: &dyn Comm, rows: Range<usize>, widest: usize, train: bool) -> Solved {
        let (dev, c) = (Device::cpu(2), self.c);
        let vocab = Vocab {
            w: &self.w[rows.start * c..rows.end * c],
            bias: Some(&self.b[rows.clone()]),
            first: rows.start,
            valid: rows.len(),
            widest,
            cap: self.cap,
        };
        let targets = Targets { ids: &self.ids, weights: &self.weights, scale: 0.25, z: self.z };
        let (mut dw, mut db) = (vec![0.0; vocab.w.len()], vec![0.0; rows.len()]);
        let n = if self.split { self.n / tp.size() } else { self.n };
        let first = if self.split { tp.rank() * n } else { 0 };
        let (mut nll, mut dh) = (vec![9.0f32; self.n], tensor(&dev, n, c, &vec![9.0; n * c]));
        let back = train.then(|| (VocabGrads { w: &mut dw, bias: Some(&mut db) }, &mut dh));
        let h = tensor(&dev, n, c, &self.h[first * c..(first + n) * c]);
        let logits = |tokens: Range<usize>, out: &mut [f64]| self.teacher_logits(tokens, rows.clone(), out);
        let teacher = self.soft.map(|soft| Teacher { logits: &logits, soft });
        let sums = cross_entropy::<f64>(&dev, tp, &h, vocab, targets, teacher, &mut nll, back);
        let sums = sums.expect("a loss");
        [nll.iter().map(|l| *l as f64).collect(), dh.to_f64(), dw, db, vec![sums.z], vec![sums.kd]]
    }

    fn teacher_logits(&self, tokens: Range<usize>, rows: Range<usize>, out: &mut [f64]) {
        assert_eq!(out.len(), tokens.len() * rows.len());
        for (token, out) in tokens.zip(out.chunks_mut(rows.len().max(1))) {
            out.copy_from_slice(&self.teacher[token * self.v..][rows.clone()]);
        }
    }

    fn logits(&self) -> Vec<f64> {
        let mut l = product(&self.h, &self.w, self.c);
        l.iter_mut().enumerate().for_each(|(i, l)| *l += self.b[i % self.v]);
        if let Some(cap) = self.cap {
            l.iter_mut().for_each(|l| *l = cap * (*l / cap).tanh());
        }
        l
    }

    /// By the textbook.
    fn expected(&self) -> Solved {
        let (c, v) = (self.c, self.v);
        let [mut nll, mut dh, mut dw, mut db, mut squares, mut kd] =
            [self.n, self.n * c, v * c, v, 1, 1].map(|n| vec![0.0; n]);
        for (i, l) in self.logits().chunks(v).enumerate() {
            let most = l.iter().fold(f64::NEG_INFINITY, |m, l| m.max(*l));
            let lse = most + l.iter().map(|l| (l - most).exp()).sum::<f64>().ln();
            let (target, weight) = (self.ids[i] as usize, self.weights[i] as f64);
            // It comes back in f32.
            nll[i] = if weight == 0.0 { 0.0 } else { (lse - l[target]) as f32 as f64 };
            squares[0] += if self.z > 0.0 { weight * lse * lse } else { 0.0 };
            let taught = self.soft.map(|soft| distance(soft, l, &self.teacher[i * v..(i + 1) * v]));
            kd[0] += taught.as_ref().map_or(0.0, |(d, _)| weight * d);
            let share = self.soft.map_or(0.0, |soft| soft.weight);
            for o in 0..v {
                let slope = self.cap.map_or(1.0, |cap| 1.0 - (l[o] / cap).powi(2));
                let q = (l[o] - lse).exp();
                let hard = (1.0 - share) * (q - f64::from(o == target)) + 2.0 * self.z * lse * q;
                let soft = taught.as_ref().map_or(0.0, |(_, g)| share * g[o]);
                let dl = 0.25 * weight * (hard + soft) * slope;
                db[o] += dl;
                for k in 0..c {
                    dh[i * c + k] += dl * self.w[o * c + k];
                    dw[o * c + k] += dl * self.h[i * c + k];
                }
            }
        }
        [nll, dh, dw, db, squares, kd]
    }
}

/// D of the distributions that these logits of student and teacher give, and its derivatives by the logits of the student.
fn distance(soft: Soft, l: &[f64], t: &[f64]) -> (f64, Vec<f64>) {
    let value = |l: &[f64]| {
        let log_softmax = |x: Vec<f64>| {
            let most = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let lse = most + x.iter().map(|x| (x - most).exp()).sum::<f64>().ln();
            x.into_iter().map(|x| x - lse).collect::<Vec<_>>()
        };
        let q = log_softmax(l.to_vec());
        let p = log_softmax(t.iter().map(|t| t / soft.temperature).collect());
        let over = |f: &dyn Fn(f64, f64) -> f64| p.iter().zip(&q).map(|(p, q)| f(*p, *q)).sum::<f64>();
        let mean = |p: f64, q: f64| (0.5 * (p.exp() + q.exp())).ln();
        match soft.distance {
            Distance::Kd => -over(&|p, q| p.exp() * q),
            Distance::Rkl => over(&|p, q| q.exp() * (q - p)),
            Distance::Js => 0.5 * over(&|p, q| p.exp() * (p - mean(p, q)) + q.exp() * (q - mean(p, q))),
        }
    };
    // Four points: the error is of the fourth order in the step.
    let by = |i: usize| {
        let at = |step: f64| {
            let mut l = l.to_vec();
            l[i] += step;
            value(&l)
        };
        let h = 1e-3;
        (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h)
    };
    (value(l), (0..l.len()).map(by).collect())
}

fn same(p: &Problem, got: &Solved, want: &Solved) {
    // The derivatives of a distance are by differences.
    let bound = if p.soft.is_some() { 1e-10 } else { 1e-12 };
    for (i, what) in ["nll", "dh", "dw", "db", "Σ weight·lse²", "Σ weight·D"].iter().enumerate() {
        let scale = want[i].iter().fold(0.0f64, |m, x| m.max(x.abs()));
        // nll is rounded to f32
        let bound = if i == 0 { 1e-6 } else { bound } * scale;
        assert_eq!(got[i].len(), want[i].len());
        for (j, (a, b)) in got[i].iter().zip(&want[i]).enumerate() {
            assert!((a - b).abs() <= bound, "{what}: value {j} is {a}, not {b}");
        }
    }
}

#[test]
fn chunks_of_the_logits_give_the_loss_and_the_gradients_of_the_whole() {
    // As if another rank had this many rows: three chunks of 64, 64 and 22 tokens.
    for (terms, widest) in terms().flat_map(|t| [(t, 11), (t, CHUNK)]) {
        let p = Problem::with(terms);
        same(&p, &p.solve(&Solo::new(), 0..p.v, widest, true), &p.expected());
        assert_eq!(
            p.solve(&Solo::new(), 0..p.v, widest, false)[0],
            p.solve(&Solo::new(), 0..p.v, widest, true)[0]
        );
    }
}

#[test]
fn logits_of_thousands_neither_overflow_nor_vanish() {
    let mut p = Problem::new(24, 1, 11);
    for (i, h) in p.h.iter_mut().enumerate() {
        *h = if i % 2 == 0 { 5000.0 } else { -5000.0 };
    }
    p.w.iter_mut().enumerate().for_each(|(o, w)| *w = 1.0 + 1e-4 * o as f64);
    let got = p.solve(&Solo::new(), 0..p.v, p.v, true);
    assert!(got.iter().flatten().all(|x| x.is_finite()));
    // The larger the logits, the fewer digits their differences have.
    let want = p.expected();
    for (a, b) in got.iter().flatten().zip(want.iter().flatten()) {
        assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{a} is not {b}");
    }
}

#[test]
fn a_student_that_is_its_teacher_learns_nothing_from_it() {
    for distance in [Distance::Kd, Distance::Rkl, Distance::Js] {
        let mut p = Problem::with((None, 0.0, soft(distance, 1.0, 1.0)));
        p.teacher = p.logits();
        let [_, dh, dw, db, _, kd] = p.solve(&Solo::new(), 0..p.v, p.v, true);
        let most = [dh, dw, db].concat().iter().fold(0.0f64, |m, x| m.max(x.abs()));
        assert!(most < 1e-14, "{distance:?}: {most:e}");
        assert_eq!(distance == Distance::Kd, kd[0] > 1.0, "{distance:?}: {kd:?}");
    }
}

/// The rows of each rank.
fn parts(borders: &[usize]) -> Vec<Range<usize>> {
    borders.windows(2).map(|b| b[0]..b[1]).collect()
}

/// One part of three is empty, and targets lie on both sides of each border.
#[test]
fn a_vocabulary_over_ranks_gives_the_loss_the_gradients_and_the_logits_of_one_rank() {
    let borders = [&[0, 6, 11][..], &[0, 6, 11, 11]];
    for (terms, borders) in terms().flat_map(|t| borders.map(|b| (t, b))) {
        let mut p = Problem::with(terms);
        let want = p.expected();
        let parts = parts(borders);
        for widest in [6, CHUNK] {
            let got = ranks(parts.len(), |tp| p.solve(tp, parts[tp.rank()].clone(), widest, true));
            let joined = |i: usize| got.iter().flat_map(|g| g[i].clone()).collect::<Vec<_>>();
            for rank in &got {
                let [nll, dh, .., squares, kd] = rank.clone();
                same(&p, &[nll, dh, joined(2), joined(3), squares, kd], &want);
            }
        }
        p.split = true;
        let got = ranks(parts.len(), |tp| p.solve(tp, parts[tp.rank()].clone(), 6, true));
        let joined = |i: usize| got.iter().flat_map(|g| g[i].clone()).collect::<Vec<_>>();
        for rank in &got {
            let [nll, .., squares, kd] = rank.clone();
            same(&p, &[nll, joined(1), joined(2), joined(3), squares, kd], &want);
        }
        let all = ranks(parts.len(), |tp| {
            let (dev, rows) = (Device::cpu(2), parts[tp.rank()].clone());
            let (w, bias) = (&p.w[rows.start * p.c..rows.end * p.c], Some(&p.b[rows.clone()]));
            let vocab = Vocab { w, bias, first: rows.start, valid: rows.len(), widest: 6, cap: p.cap };
            logits::<f64>(&dev, tp, &tensor(&dev, p.n, p.c, &p.h), vocab, p.v).expect("logits").to_f64()
        });
        all.iter().for_each(|l| close("logits", l, &p.logits()));
    }
}

#[test]
fn logits_take_as_few_equal_chunks_as_their_limit_allows() {
    // Tokens, rows of the vocabulary, bytes of a logit; tokens of a chunk.
    let cases = [
        (1000, 50304, DType::F32, 512),
        (4096, 50304, DType::F32, 640),
        (1000, 1000, DType::F32, 1000),
        (1000, 50304, DType::F64, 256),
        (2688, 12608, DType::Bf16, 1344),
        (300, 1 << 30, DType::F32, 64),
        (300, 0, DType::F32, 300),
        (5, 11, DType::F64, 5),
    ];
    for (rows, widest, dtype, chunk) in cases {
        let (dev, tp) = (Device::meta(), Solo::new());
        let h = Shape { rows, cols: 1, dtype };
        // As wide as the widest: a logit for each row.
        meta_cross_entropy(&dev, &tp, h, rows, (1, widest), false, None, None).expect("a loss");
        // A buffer is a multiple of 64 bytes.
        let bytes = (chunk * h.stat(1).dtype.bytes()).next_multiple_of(64);
        let peak = dev.arena().used().peak[Category::Logits as usize];
        assert_eq!(peak, bytes, "{rows} tokens and {widest} rows of {dtype}");
    }
}

#[test]
fn the_meta_device_takes_and_sends_what_the_loss_does() {
    let borders = [&[0, 11][..], &[0, 6, 11], &[0, 6, 11, 11]];
    let some =
        [(None, 0.0, None), (Some(0.7), 0.03, None), (None, 0.0, TEACHERS[1]), (None, 0.03, TEACHERS[4])];
    for (terms, borders) in some.into_iter().flat_map(|t| borders.map(|b| (t, b))) {
        let p = Problem::with(terms);
        let parts = parts(borders);
        let cases = [(6, true, true), (CHUNK, true, true), (CHUNK, false, true), (6, true, false)];
        for ((widest, bias, train), split) in cases.into_iter().flat_map(|c| [(c, 1), (c, parts.len())]) {
            let n = p.n / split;
            let real = ranks(parts.len(), |tp| {
                let (dev, rows) = (Device::cpu(1), parts[tp.rank()].clone());
                let w = &p.w[rows.start * p.c..rows.end * p.c];
                let b = bias.then(|| &p.b[rows.clone()]);
                let vocab = Vocab { w, bias: b, first: rows.start, valid: rows.len(), widest, cap: p.cap };
                let targets = Targets { ids: &p.ids, weights: &p.weights, scale: 0.25, z: p.z };
                let (mut dw, mut db) = (vec![0.0; w.len()], vec![0.0; rows.len()]);
                let h = tensor(&dev, n, p.c, &p.h[..n * p.c]);
                let mut dh = Shape::of(&h).empty(&dev);
                let bias = bias.then_some(&mut *db);
                let back = train.then_some((VocabGrads { w: &mut dw, bias }, &mut dh));
                let mut nll = vec![0.0; p.n];
                let logits =
                    |tokens: Range<usize>, out: &mut [f64]| p.teacher_logits(tokens, rows.clone(), out);
                let teacher = p.soft.map(|soft| Teacher { logits: &logits, soft });
                cross_entropy::<f64>(&dev, tp, &h, vocab, targets, teacher, &mut nll, back).expect("a loss");
                (dev.arena().used(), tp.traffic().bytes())
            });
            for (rank, real) in real.into_iter().enumerate() {
                let (dev, tp) = (Device::meta(), Solo::pretend(rank, parts.len(), "tp"));
                let h = Shape { rows: n, cols: p.c, dtype: DType::F64 };
                let (_h, mut dh) = (h.empty(&dev), h.empty(&dev));
                let part = (parts[rank].len(), widest);
                meta_cross_entropy(&dev, &tp, h, p.n, part, bias, p.soft, train.then_some(&mut dh))
                    .expect("a loss");
                assert_eq!((dev.arena().used(), tp.traffic().bytes()), real, "rank {rank} of {parts:?}");
            }
        }
    }
}
