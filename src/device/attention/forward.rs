//! Forward: a task owns some query rows of one document for one kv head, and streams the keys past them.
//!
//! Online softmax per query: with m the maximum so far and l = Σ exp(s − m), a tile with maximum m' > m first scales
//! l and the output by exp(m − m').

use super::gemm::{LANES, Left, Shape, Triangle, gemm};
use super::tile::{Out, Rows, SCRATCH, TILE, cut, exp, padded, transpose, with_buffer};
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
    /// (D, TILE): scale·qᵀ
    qt: &'a mut [A],
    /// (TILE, D padded): Σ_j exp(s_j − m)·v_j so far
    o: &'a mut [A],
    /// (TILE): the maximum score so far
    max: &'a mut [A],
    /// (TILE): Σ_j exp(s_j − m) so far
    sum: &'a mut [A],
}

impl Task<'_> {
    fn run<T: Elem>(&self, scale: f64, qkv: &[T], o: &Out<T>, lse: &Out<T::Acc>) {
        let dim = self.heads.head_dim;
        let wide = padded(dim);
        let tiles = self.queries.len().div_ceil(TILE) * self.heads.group();
        let per_tile = dim * TILE + TILE * wide + 2 * TILE;
        let len = tiles * per_tile + TILE * (2 * wide + TILE + 1);
        with_buffer::<T::Acc, _>(&SCRATCH, len, |mut rest| {
            let (k, v) = (cut(&mut rest, TILE * wide), cut(&mut rest, TILE * wide));
            let (s, alpha) = (cut(&mut rest, TILE * TILE), cut(&mut rest, TILE));
            let rows = |column| Rows { data: qkv, width: self.heads.qkv_width(), column, dim };
            let state =
                rest.chunks_exact_mut(per_tile).zip(self.tiles()).map(|(mut part, (head, queries))| {
                    let mut tile = Tile {
                        head,
                        rows: queries.clone(),
                        qt: cut(&mut part, dim * TILE),
                        o: cut(&mut part, TILE * wide),
                        max: cut(&mut part, TILE),
                        sum: part,
                    };
                    rows(self.heads.q(head)).pack(queries.clone(), T::Acc::of(scale), k);
                    transpose(k, queries.len(), dim, tile.qt);
                    tile.reset();
                    tile
                });
            let mut state: Vec<_> = state.collect();
            let seen = if self.causal { self.queries.end } else { self.document.end };
            for first in (self.document.start..seen).step_by(TILE) {
                let keys = first..seen.min(first + TILE);
                rows(self.heads.k(self.kv)).pack(keys.clone(), T::Acc::ONE, k);
                rows(self.heads.v(self.kv)).pack(keys.clone(), T::Acc::ONE, v);
                for tile in state.iter_mut().filter(|t| !self.causal || first <= t.rows.start) {
                    tile.add(keys.len(), self.causal && first == tile.rows.start, k, v, s, alpha);
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
    fn add(&mut self, keys: usize, diagonal: bool, k: &[A], v: &[A], s: &mut [A], alpha: &mut [A]) {
        let (queries, dim) = (self.rows.len(), self.qt.len() / TILE);
        let wide = padded(dim);
        let (upper, lower) = match diagonal {
            true => (Triangle::Upper, Triangle::TermsUpTo),
            false => (Triangle::Full, Triangle::Full),
        };
        // sᵀ (keys, queries) = k·qᵀ
        let shape = Shape { m: keys, n: padded(queries), k: dim, triangle: upper };
        gemm(shape, Left { data: k, row: wide, col: 1 }, self.qt, TILE, s, TILE, false);
        if diagonal {
            (0..keys).for_each(|j| s[j * TILE..][..j].fill(A::NEG_INFINITY));
        }
        simd(
            #[inline(always)]
            || softmax(&mut s[..keys * TILE], padded(queries), self.max, self.sum, alpha),
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
        let shape = Shape { m: queries, n: wide, k: keys, triangle: lower };
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
            lse[0] = max + sum.ln();
        }
    }
}

/// s (keys, TILE) becomes exp(s − m), m the new maximum of each column; `alpha` is what the past must be scaled by.
/// A NaN score is no maximum but makes the sum NaN, so that it is seen.
#[inline(always)]
fn softmax<A: Real>(s: &mut [A], queries: usize, max: &mut [A], sum: &mut [A], alpha: &mut [A]) {
    for i in (0..queries).step_by(LANES) {
        let lanes = |x: &[A]| -> [A; LANES] { std::array::from_fn(|l| x[i + l]) };
        let (old, mut new, mut total) = (lanes(max), lanes(max), [A::ZERO; LANES]);
        for row in s.chunks_exact(TILE) {
            let row = lanes(row);
            (0..LANES).for_each(|l| new[l] = row[l].max(new[l]));
        }
        for row in s.chunks_exact_mut(TILE) {
            let row = &mut row[i..i + LANES];
            for l in 0..LANES {
                row[l] = exp(row[l] - new[l]);
                total[l] += row[l];
            }
        }
        for l in 0..LANES {
            alpha[i + l] = exp(old[l] - new[l]);
            sum[i + l] = sum[i + l].mul_add(alpha[i + l], total[l]);
            max[i + l] = new[l];
        }
    }
}
