//! Backward: with p = exp(s − lse) and delta_i = Σ_d do·o,
//!
//! ```text
//! dv_j = Σ_i p_ij·do_i      dp_ij = do_i·v_j      ds_ij = p_ij·(dp_ij − delta_i)
//! dk_j = Σ_i ds_ij·scale·q_i      dq_i = scale·Σ_j ds_ij·k_j
//! ```
//!
//! dk and dv are sums over queries, dq over keys. A document is cut into chunks, and pairs (key chunk c, query chunk
//! c+w) are done in waves w = 0, 1, ...: the pairs of a wave share no row, so that they run side by side and add to dq,
//! dk and dv in place, in an order that no thread count changes, with each score computed once.

use super::gemm::{Left, Shape, Triangle, gemm};
use super::tile::{Buffer, Line, Out, Rows, SCRATCH, TILE, cut, exp, padded, transpose, with_buffer};
use super::{Elem, Heads, Mask, Pool, tokens};
use crate::device::{Real, simd};
use std::cell::RefCell;
use std::ops::Range;

/// Tokens of a chunk. Its k, v, dk, dv stay in the second-level cache: 512 KiB at D = 64 in f32.
const CHUNK: usize = 8 * TILE;

thread_local! {
    /// dqkv of the calling thread in the accumulation type, where that is not the type of dqkv itself.
    static SUMS: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// The gradient of qkv, stored to every element of dqkv (N, (H+2K)·D), from what `forward` took and gave and
/// dy (N, H·D), the gradient of o; the same bits for any number of threads.
pub fn backward<T: Elem>(
    pool: &Pool,
    heads: Heads,
    mask: &Mask,
    scale: f64,
    qkv: &[T],
    o: &[T],
    lse: &[T::Acc],
    dy: &[T],
    dqkv: &mut [T],
) {
    let n = tokens(heads, mask, qkv.len(), o.len(), lse.len());
    assert_eq!((dy.len(), dqkv.len()), (o.len(), qkv.len()), "elements of dy and dqkv");
    let inputs = Inputs { heads, causal: mask.causal, scale: T::Acc::of(scale), qkv, o, lse, dy };
    if T::DTYPE == <T::Acc as Elem>::DTYPE {
        return inputs.waves(pool, mask, bytemuck::cast_slice_mut(dqkv));
    }
    let sums: &'static Buffer = &SUMS;
    with_buffer::<T::Acc, _>(sums, dqkv.len(), |sums| {
        inputs.waves(pool, mask, sums);
        let width = heads.qkv_width();
        let dqkv = Out::new(dqkv);
        pool.ranges(n, TILE, |rows| {
            let (start, len) = (rows.start * width, rows.len() * width);
            // SAFETY: the ranges do not overlap.
            let out = unsafe { dqkv.at(start, len) };
            simd(
                #[inline(always)]
                || out.iter_mut().zip(&sums[start..][..len]).for_each(|(out, &x)| *out = T::store(x)),
            );
        });
    });
}

#[derive(Clone, Copy)]
struct Inputs<'a, T: Elem> {
    heads: Heads,
    causal: bool,
    scale: T::Acc,
    qkv: &'a [T],
    o: &'a [T],
    lse: &'a [T::Acc],
    dy: &'a [T],
}

/// The part of the gradient that these queries and keys of one document give each other, for one kv head.
struct Pair<'a, T: Elem> {
    inputs: Inputs<'a, T>,
    kv: usize,
    keys: Range<usize>,
    queries: Range<usize>,
    /// Nobody has written these rows of dq, dk and dv yet.
    first: bool,
}

impl<T: Elem> Inputs<'_, T> {
    fn waves(self, pool: &Pool, mask: &Mask, dqkv: &mut [T::Acc]) {
        let dqkv = Out::new(dqkv);
        let mut pairs = Vec::new();
        for wave in 0.. {
            pairs.clear();
            for document in mask.documents() {
                let chunk = |c: usize| {
                    let start = document.start + c * CHUNK;
                    start..document.end.min(start + CHUNK)
                };
                let chunks = document.len().div_ceil(CHUNK);
                let pair = |c: usize| (chunk(c), chunk((c + wave) % chunks));
                let live = match self.causal {
                    true => chunks.saturating_sub(wave),
                    false if wave < chunks => chunks,
                    false => 0,
                };
                pairs.extend((0..live).map(pair));
            }
            if pairs.is_empty() {
                return;
            }
            pool.run(pairs.len() * self.heads.kv_heads, |i| {
                let ((keys, queries), kv) = (pairs[i / self.heads.kv_heads].clone(), i % self.heads.kv_heads);
                Pair { inputs: self, kv, keys, queries, first: wave == 0 }.run(&dqkv);
            });
        }
    }

    fn rows(&self, column: usize) -> Rows<'_, T> {
        Rows { data: self.qkv, width: self.heads.qkv_width(), column, dim: self.heads.head_dim }
    }
}

/// What a tile of queries of one head brings, packed.
struct Queries<'a, A> {
    /// scale·q and do (TILE, D padded) and their transposes (D, TILE)
    q: &'a mut [A],
    dy: &'a mut [A],
    qt: &'a mut [A],
    dyt: &'a mut [A],
    /// (TILE)
    lse: &'a mut [A],
    delta: &'a mut [A],
    /// (TILE, D padded): Σ_j ds_j·k_j so far
    dq: &'a mut [A],
}

impl<T: Elem> Pair<'_, T> {
    fn run(&self, dqkv: &Out<T::Acc>) {
        let Inputs { heads, causal, scale, .. } = self.inputs;
        let dim = heads.head_dim;
        let wide = padded(dim);
        let side = self.keys.len() * wide;
        let len = 4 * side + TILE * (3 * wide + 2 * dim + 2 * TILE + 2);
        with_buffer::<T::Acc, _>(&SCRATCH, len, |mut rest| {
            let [k, v, dk, dv] = std::array::from_fn(|_| cut(&mut rest, side));
            self.inputs.rows(heads.k(self.kv)).pack(self.keys.clone(), T::Acc::ONE, k);
            self.inputs.rows(heads.v(self.kv)).pack(self.keys.clone(), T::Acc::ONE, v);
            dk.fill(T::Acc::ZERO);
            dv.fill(T::Acc::ZERO);
            let [p, ds] = std::array::from_fn(|_| cut(&mut rest, TILE * TILE));
            let mut tile = Queries {
                q: cut(&mut rest, TILE * wide),
                dy: cut(&mut rest, TILE * wide),
                dq: cut(&mut rest, TILE * wide),
                qt: cut(&mut rest, TILE * dim),
                dyt: cut(&mut rest, TILE * dim),
                lse: cut(&mut rest, TILE),
                delta: rest,
            };
            for head in self.kv * heads.group()..(self.kv + 1) * heads.group() {
                for first in self.queries.clone().step_by(TILE) {
                    let queries = first..self.queries.end.min(first + TILE);
                    self.load(head, queries.clone(), &mut tile);
                    let seen = if causal { self.keys.end.min(queries.end) } else { self.keys.end };
                    for key in (self.keys.start..seen).step_by(TILE) {
                        let count = TILE.min(seen - key);
                        let part = (key - self.keys.start) * wide..(key - self.keys.start + count) * wide;
                        let (k, v) = (&k[part.clone()], &v[part.clone()]);
                        let (dk, dv) = (&mut dk[part.clone()], &mut dv[part]);
                        tile.add(queries.len(), count, causal && key == first, k, v, dk, dv, p, ds);
                    }
                    self.put(dqkv, heads.q(head), queries, scale, tile.dq);
                }
            }
            self.put(dqkv, heads.k(self.kv), self.keys.clone(), T::Acc::ONE, dk);
            self.put(dqkv, heads.v(self.kv), self.keys.clone(), T::Acc::ONE, dv);
        })
    }

    fn load(&self, head: usize, rows: Range<usize>, tile: &mut Queries<T::Acc>) {
        let Inputs { heads, scale, o, lse, dy, .. } = self.inputs;
        let dim = heads.head_dim;
        let of_head = |data| Rows { data, width: heads.heads * dim, column: head * dim, dim };
        self.inputs.rows(heads.q(head)).pack(rows.clone(), scale, tile.q);
        of_head(dy).pack(rows.clone(), T::Acc::ONE, tile.dy);
        transpose(tile.q, rows.len(), dim, tile.qt);
        transpose(tile.dy, rows.len(), dim, tile.dyt);
        tile.dq.fill(T::Acc::ZERO);
        // Lanes beyond the last query: any finite probability will do, since no sum takes them in.
        tile.lse.fill(T::Acc::ZERO);
        tile.delta.fill(T::Acc::ZERO);
        simd(
            #[inline(always)]
            || {
                for (i, r) in rows.enumerate() {
                    tile.lse[i] = lse[r * heads.heads + head];
                    tile.delta[i] = dot(&tile.dy[i * padded(dim)..][..dim], of_head(o).row(r));
                }
            },
        );
    }

    /// Rows of dqkv, `dim` columns from `column`, get factor · packed rows: stored the first time, then added.
    fn put(&self, dqkv: &Out<T::Acc>, column: usize, rows: Range<usize>, factor: T::Acc, packed: &[T::Acc]) {
        let Heads { head_dim: dim, .. } = self.inputs.heads;
        let width = self.inputs.heads.qkv_width();
        simd(
            #[inline(always)]
            || {
                for (r, packed) in rows.zip(packed.chunks_exact(padded(dim))) {
                    // SAFETY: in this wave only this pair has these rows of this kv head and its query heads.
                    let out = unsafe { dqkv.at(r * width + column, dim) };
                    let pairs = out.iter_mut().zip(packed);
                    if self.first {
                        pairs.for_each(|(out, &x)| *out = factor * x);
                    } else {
                        pairs.for_each(|(out, &x)| *out += factor * x);
                    }
                }
            },
        );
    }
}

impl<A: Real> Queries<'_, A> {
    /// Takes in one tile of keys; on the diagonal query i sees keys 0..=i.
    fn add(
        &mut self,
        queries: usize,
        keys: usize,
        diagonal: bool,
        k: &[A],
        v: &[A],
        dk: &mut [A],
        dv: &mut [A],
        p: &mut [A],
        ds: &mut [A],
    ) {
        let dim = self.qt.len() / TILE;
        let wide = padded(dim);
        let (upper, up_to, from) = match diagonal {
            true => (Triangle::Upper, Triangle::TermsUpTo, Triangle::TermsFrom),
            false => (Triangle::Full, Triangle::Full, Triangle::Full),
        };
        // sᵀ and dpᵀ (keys, queries)
        let scores = Shape { m: keys, n: padded(queries), k: dim, triangle: upper };
        gemm(scores, Left { data: k, row: wide, col: 1 }, self.qt, TILE, p, TILE, false);
        gemm(scores, Left { data: v, row: wide, col: 1 }, self.dyt, TILE, ds, TILE, false);
        let (p, ds) = (&mut p[..keys * TILE], &mut ds[..keys * TILE]);
        simd(
            #[inline(always)]
            || probabilities(p, ds, padded(queries), self.lse, self.delta),
        );
        if diagonal {
            for j in 0..keys {
                p[j * TILE..][..j].fill(A::ZERO);
                ds[j * TILE..][..j].fill(A::ZERO);
            }
        }
        // dv and dk (keys, D) += pᵀ·do and dsᵀ·scale·q
        let sides = Shape { m: keys, n: wide, k: queries, triangle: from };
        gemm(sides, Left { data: p, row: TILE, col: 1 }, self.dy, wide, dv, wide, true);
        gemm(sides, Left { data: ds, row: TILE, col: 1 }, self.q, wide, dk, wide, true);
        // dq (queries, D) += ds·k
        let shape = Shape { m: queries, n: wide, k: keys, triangle: up_to };
        gemm(shape, Left { data: ds, row: 1, col: TILE }, k, wide, self.dq, wide, true);
    }
}

/// p (keys, TILE) holds s and becomes exp(s − lse); ds holds dp and becomes p·(dp − delta).
#[inline(always)]
fn probabilities<A: Real>(p: &mut [A], ds: &mut [A], queries: usize, lse: &[A], delta: &[A]) {
    let (lse, delta) = (&lse[..queries], &delta[..queries]);
    for (p, ds) in p.chunks_exact_mut(TILE).zip(ds.chunks_exact_mut(TILE)) {
        for (((p, ds), &lse), &delta) in p.iter_mut().zip(ds).zip(lse).zip(delta) {
            *p = exp(*p - lse);
            *ds = *p * (*ds - delta);
        }
    }
}

/// Σ a·b in 16 partial sums, added in order.
#[inline(always)]
fn dot<T: Elem>(a: &[T::Acc], b: &[T]) -> T::Acc {
    let mut sums = [T::Acc::ZERO; 16];
    for (a, b) in a.chunks(16).zip(b.chunks(16)) {
        for ((sum, &a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum = a.mul_add(b.load(), *sum);
        }
    }
    sums.into_iter().sum()
}
