//! Forward: a task owns some query rows of one document for one kv head, and streams the keys past them.
//!
//! Online softmax per query: with m the maximum so far and l = Σ exp(s − m), a tile with maximum m' > m first scales
//! l and the output by exp(m − m'). The probabilities that weigh v are rounded to the type of v, l is not.

use super::gemm::{LANES, Left, Shape, Triangle, gemm};
use super::tile::{Form, Out, Rows, SCRATCH, TILE, cut, padded, pair, rounded, transpose, with_buffer};
use super::{Elem, Heads, Mask, Pool, tokens};
use crate::device::{Real, simd};
use std::ops::Range;

/// Query tiles of a task, over all heads of the group, when the group is smaller: they share the packing of k and v.
const TILES: usize = 4;

/// o = softmax(q·kᵀ·scale)·v within each document, and lse, the natural log-sum-exp of each query's scores.
/// qkv (N, (H+2K)·D), o (N, H·D), lse (N, H); the same bits for any number of threads.
pub fn forward<T: Elem>(
    pool: &Pool,
    heads: Heads,
    mask: &Mask,
    scale: f64,
    qkv: &[T],
    o: &mut [T],
    lse: &mut [T::Acc],
) {
    tokens(heads, mask, qkv.len(), o.len(), lse.len());
    let span = TILE * (TILES / heads.group()).max(1);
    // The last rows of a document see the most keys: first, so that no thread begins with the longest task at the end.
    let spans = |document: Range<usize>| {
        let first = document.clone().step_by(span).rev();
        first.map(move |q| (document.clone(), q..document.end.min(q + span)))
    };
    let tasks: Vec<_> = mask.documents().rev().flat_map(spans).collect();
    let (o, lse) = (Out::new(o), Out::new(lse));
    pool.run(tasks.len() * heads.kv_heads, |i| {
        let (document, queries) = &tasks[i / heads.kv_heads];
        let task = Task { heads, causal: mask.causal, document, queries, kv: i % heads.kv_heads };
        task.run(scale, qkv, &o, &lse);
    });
}

struct Task<'a> {
    heads: Heads,
    causal: bool,
    document: &'a Range<usize>,
    queries: &'a Range<usize>,
    kv: usize,
}

/// One tile of queries of one head.
struct Tile<'a, A> {
    head: usize,
    rows: Range<usize>,
    /// (steps of D, TILE): qᵀ
    qt: &'a mut [A],
    /// (TILE, D padded): Σ_j exp(s_j − m)·v_j so far
    o: &'a mut [A],
    /// (TILE): the maximum of q·k so far
    max: &'a mut [A],
    /// (TILE): Σ_j exp(s_j − m) so far
    sum: &'a mut [A],
    scale: A,
    form: Form,
}

impl Task<'_> {
    fn run<T: Elem>(&self, scale: f64, qkv: &[T], o: &Out<T>, lse: &Out<T::Acc>) {
        let (dim, form) = (self.heads.head_dim, Form::of::<T>());
        let (wide, steps) = (padded(dim), form.steps(dim));
        let tiles = self.queries.len().div_ceil(TILE) * self.heads.group();
        let per_tile = steps * TILE + TILE * wide + 2 * TILE;
        let (of_k, of_v) = (TILE * padded(steps), form.steps(TILE) * wide);
        let len = tiles * per_tile + of_k + of_v + TILE * (TILE + 1);
        with_buffer::<T::Acc, _>(&SCRATCH, len, |mut rest| {
            let (k, v) = (cut(&mut rest, of_k), cut(&mut rest, of_v));
            let (s, alpha) = (cut(&mut rest, TILE * TILE), cut(&mut rest, TILE));
            let rows = |column| Rows { data: qkv, width: self.heads.qkv_width(), column, dim };
            let state =
                rest.chunks_exact_mut(per_tile).zip(self.tiles()).map(|(mut part, (head, queries))| {
                    let mut tile = Tile {
                        head,
                        rows: queries.clone(),
                        qt: cut(&mut part, steps * TILE),
                        o: cut(&mut part, TILE * wide),
                        max: cut(&mut part, TILE),
                        sum: part,
                        scale: T::Acc::of(scale),
                        form,
                    };
                    rows(self.heads.q(head)).pack(queries.clone(), form, k);
                    transpose(k, queries.len(), steps, tile.qt);
                    tile.reset();
                    tile
                });
            let mut state: Vec<_> = state.collect();
            let seen = if self.causal { self.queries.end } else { self.document.end };
            for first in (self.document.start..seen).step_by(TILE) {
                let keys = first..seen.min(first + TILE);
                rows(self.heads.k(self.kv)).pack(keys.clone(), form, k);
                rows(self.heads.v(self.kv)).pack_across(keys.clone(), form, v);
                for tile in state.iter_mut().filter(|t| !self.causal || first <= t.rows.start) {
                    tile.add::<T>(keys.len(), self.causal && first == tile.rows.start, k, v, s, alpha);
                }
            }
            state.iter().for_each(|tile| tile.store(self.heads, o, lse));
        })
    }

    /// (head, rows) of each tile of queries
    fn tiles(&self) -> impl Iterator<Item = (usize, Range<usize>)> {
        let (group, end) = (self.heads.group(), self.queries.end);
        let of_head =
            move |head| self.queries.clone().step_by(TILE).map(move |q| (head, q..end.min(q + TILE)));
        (self.kv * group..(self.kv + 1) * group).flat_map(of_head)
    }
}

impl<A: Real> Tile<'_, A> {
    fn reset(&mut self) {
        self.o.fill(A::ZERO);
        self.max.fill(A::NEG_INFINITY);
        self.sum.fill(A::ZERO);
    }

    /// Takes in one tile of keys; on the diagonal query i sees keys 0..=i.
    fn add<T: Elem<Acc = A>>(
        &mut self,
        keys: usize,
        diagonal: bool,
        k: &[A],
        v: &[A],
        s: &mut [A],
        alpha: &mut [A],
    ) {
        let (queries, steps, form) = (self.rows.len(), self.qt.len() / TILE, self.form);
        let wide = self.o.len() / TILE;
        let (upper, lower) = match diagonal {
            true => (Triangle::Upper, Triangle::TermsUpTo),
            false => (Triangle::Full, Triangle::Full),
        };
        // sᵀ (keys, queries) = k·qᵀ
        let shape = Shape { m: keys, n: padded(queries), k: steps, form, triangle: upper };
        gemm(shape, Left { data: k, row: padded(steps), col: 1 }, self.qt, TILE, s, TILE, false);
        if diagonal {
            (0..keys).for_each(|j| s[j * TILE..][..j].fill(A::NEG_INFINITY));
        }
        simd(
            #[inline(always)]
            || {
                let (s, queries) = (&mut s[..keys * TILE], padded(queries));
                softmax::<T>(s, queries, form, self.scale, self.max, self.sum, alpha)
            },
        );
        simd(
            #[inline(always)]
            || {
                for (o, &alpha) in self.o.chunks_exact_mut(wide).zip(&alpha[..queries]) {
                    if alpha != A::ONE {
                        o.iter_mut().for_each(|o| *o *= alpha);
                    }
                }
            },
        );
        // o (queries, D) += p·v
        let shape = Shape { m: queries, n: wide, k: form.steps(keys), form, triangle: lower };
        gemm(shape, Left { data: s, row: 1, col: TILE }, v, wide, self.o, wide, true);
    }

    fn store<T: Elem<Acc = A>>(&self, heads: Heads, o: &Out<T>, lse: &Out<A>) {
        let dim = heads.head_dim;
        let rows = self.o.chunks_exact(padded(dim)).zip(self.rows.clone());
        for ((acc, r), (&max, &sum)) in rows.zip(self.max.iter().zip(&*self.sum)) {
            // SAFETY: only this task has these rows of these heads, in o and in lse.
            let (o, lse) = unsafe {
                (o.at((r * heads.heads + self.head) * dim, dim), lse.at(r * heads.heads + self.head, 1))
            };
            let inverse = A::ONE / sum;
            for (o, &acc) in o.iter_mut().zip(acc) {
                *o = T::store(acc * inverse);
            }
            lse[0] = max * self.scale + sum.ln();
        }
    }
}

/// s (keys, TILE), q·k, becomes p = exp(scale·(s − m)), m the new maximum of each column: (steps of keys, TILE). `alpha`
/// is what the past must be scaled by. A NaN score is no maximum but makes the sum NaN, so that it is seen.
#[inline(always)]
fn softmax<T: Elem>(
    s: &mut [T::Acc],
    queries: usize,
    form: Form,
    scale: T::Acc,
    max: &mut [T::Acc],
    sum: &mut [T::Acc],
    alpha: &mut [T::Acc],
) {
    for i in (0..queries).step_by(LANES) {
        let lanes = |x: &[T::Acc]| -> [T::Acc; LANES] { std::array::from_fn(|l| x[i + l]) };
        let (old, mut new, mut total) = (lanes(max), lanes(max), [T::Acc::ZERO; LANES]);
        for row in s.chunks_exact(TILE) {
            let row = lanes(row);
            (0..LANES).for_each(|l| new[l] = row[l].max(new[l]));
        }
        let shift: [T::Acc; LANES] = std::array::from_fn(|l| -(new[l] * scale));
        match form {
            Form::Single => {
                for row in s.chunks_exact_mut(TILE) {
                    let p = probabilities(lanes(row), scale, &shift, &mut total);
                    for l in 0..LANES {
                        row[i + l] = rounded::<T>(p[l]);
                    }
                }
            }
            // Two rows at a time become one, at or before the first of them.
            Form::Pairs => {
                for (to, from) in (0..s.len()).step_by(2 * TILE).enumerate() {
                    let p = probabilities(lanes(&s[from..]), scale, &shift, &mut total);
                    let mut q = [T::Acc::ZERO; LANES];
                    if from + TILE < s.len() {
                        q = probabilities(lanes(&s[from + TILE..]), scale, &shift, &mut total);
                    }
                    let both = &mut s[to * TILE + i..][..LANES];
                    for l in 0..LANES {
                        both[l] = pair(T::store(p[l]), T::store(q[l]));
                    }
                }
            }
        }
        for l in 0..LANES {
            alpha[i + l] = (old[l] * scale + shift[l]).exp_of_negative();
            sum[i + l] = sum[i + l].mul_add(alpha[i + l], total[l]);
            max[i + l] = new[l];
        }
    }
}

/// exp(scale·s − m), added to the totals.
#[inline(always)]
fn probabilities<A: Real>(s: [A; LANES], scale: A, shift: &[A; LANES], total: &mut [A; LANES]) -> [A; LANES] {
    let mut p = s;
    for l in 0..LANES {
        p[l] = (s[l] * scale + shift[l]).exp_of_negative();
        total[l] += p[l];
    }
    p
}
