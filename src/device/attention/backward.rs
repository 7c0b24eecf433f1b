//! Backward: with p = exp(s − lse) and delta_i = Σ_d do·o,
//!
//! ```text
//! dv_j = Σ_i p_ij·do_i      dp_ij = do_i·v_j      ds_ij = p_ij·(dp_ij − delta_i)
//! dk_j = scale·Σ_i ds_ij·q_i      dq_i = scale·Σ_j ds_ij·k_j
//! ```
//!
//! p and ds are rounded to the type of qkv before they weigh do, q and k.
//!
//! dk and dv are sums over queries, dq over keys. A document is cut into chunks, and pairs (key chunk c, query chunk
//! c+w) are done in waves w = 0, 1, ...: the pairs of a wave share no row, so that they run side by side and add to dq,
//! dk and dv in place, in an order that no thread count changes, with each score computed once.

use super::gemm::{LANES, Left, Shape, Triangle, gemm};
use super::tile::{
    Buffer, Form, Line, Out, Rows, SCRATCH, TILE, cut, padded, pair, rounded, transpose, with_buffer,
};
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

/// Rows of a matrix, packed for sums along them and for sums over them. In the form `Single` these are the same.
struct Both<'a, A> {
    /// (rows, steps of D padded)
    along: &'a mut [A],
    /// (steps of rows, D padded), or nothing
    across: &'a mut [A],
}

impl<'a, A: Real> Both<'a, A> {
    /// Numbers of both, for so many rows.
    fn len(form: Form, rows: usize, dim: usize) -> [usize; 2] {
        let across = if form == Form::Single { 0 } else { form.steps(rows) * padded(dim) };
        [rows * padded(form.steps(dim)), across]
    }
    fn cut(rest: &mut &'a mut [A], [along, across]: [usize; 2]) -> Both<'a, A> {
        Both { along: cut(rest, along), across: cut(rest, across) }
    }
    fn pack<T: Elem<Acc = A>>(&mut self, form: Form, from: Rows<T>, rows: Range<usize>) {
        from.pack(rows.clone(), form, self.along);
        if form != Form::Single {
            from.pack_across(rows, form, self.across);
        }
    }
    fn across(&self, form: Form) -> &[A] {
        if form == Form::Single { self.along } else { self.across }
    }
}

/// What a tile of queries of one head brings.
struct Queries<'a, A> {
    form: Form,
    scale: A,
    /// q and do and, for sums along D, their transposes (steps of D, TILE)
    q: Both<'a, A>,
    dy: Both<'a, A>,
    qt: &'a mut [A],
    dyt: &'a mut [A],
    /// (TILE): −lse, delta
    shift: &'a mut [A],
    delta: &'a mut [A],
    /// (TILE, D padded): Σ_j ds_j·k_j so far
    dq: &'a mut [A],
    scores: Scores<'a, A>,
}

/// Of a tile of keys by queries.
struct Scores<'a, A> {
    /// (TILE, TILE): sᵀ, then p, in steps of queries
    p: &'a mut [A],
    /// (TILE, TILE): dpᵀ, then ds, in steps of queries
    ds: &'a mut [A],
    /// (steps of TILE, TILE): ds in steps of keys, or nothing in the form `Single`, where these are the same
    across: &'a mut [A],
}

/// A tile of keys.
struct Keys<'a, A> {
    count: usize,
    /// k and v along D; k over keys
    k: &'a [A],
    v: &'a [A],
    across: &'a [A],
    /// (count, D padded): gradients so far
    dk: &'a mut [A],
    dv: &'a mut [A],
}

impl<T: Elem> Pair<'_, T> {
    fn run(&self, dqkv: &Out<T::Acc>) {
        let Inputs { heads, causal, scale, .. } = self.inputs;
        let (dim, form) = (heads.head_dim, Form::of::<T>());
        let (wide, steps) = (padded(dim), form.steps(dim));
        let (side, of_k) = (self.keys.len() * wide, Both::<T::Acc>::len(form, self.keys.len(), dim));
        let of_q = Both::<T::Acc>::len(form, TILE, dim);
        let of_ds = if form == Form::Single { 0 } else { form.steps(TILE) * TILE };
        let len = [
            2 * side + 2 * of_k[0] + of_k[1],
            2 * (of_q[0] + of_q[1]) + 2 * steps * TILE,
            TILE * (wide + 2 * TILE + 2) + of_ds,
        ];
        with_buffer::<T::Acc, _>(&SCRATCH, len.iter().sum(), |mut rest| {
            let [dk, dv] = std::array::from_fn(|_| cut(&mut rest, side));
            let (mut k, v) = (Both::cut(&mut rest, of_k), cut(&mut rest, of_k[0]));
            k.pack(form, self.inputs.rows(heads.k(self.kv)), self.keys.clone());
            self.inputs.rows(heads.v(self.kv)).pack(self.keys.clone(), form, v);
            dk.fill(T::Acc::ZERO);
            dv.fill(T::Acc::ZERO);
            let mut tile = Queries {
                form,
                scale,
                q: Both::cut(&mut rest, of_q),
                dy: Both::cut(&mut rest, of_q),
                qt: cut(&mut rest, steps * TILE),
                dyt: cut(&mut rest, steps * TILE),
                shift: cut(&mut rest, TILE),
                delta: cut(&mut rest, TILE),
                dq: cut(&mut rest, TILE * wide),
                scores: Scores {
                    p: cut(&mut rest, TILE * TILE),
                    ds: cut(&mut rest, TILE * TILE),
                    across: rest,
                },
            };
            for head in self.kv * heads.group()..(self.kv + 1) * heads.group() {
                for first in self.queries.clone().step_by(TILE) {
                    let queries = first..self.queries.end.min(first + TILE);
                    self.load(head, queries.clone(), &mut tile);
                    let seen = if causal { self.keys.end.min(queries.end) } else { self.keys.end };
                    for key in (self.keys.start..seen).step_by(TILE) {
                        let (at, count) = (key - self.keys.start, TILE.min(seen - key));
                        let along = at * padded(steps)..(at + count) * padded(steps);
                        let sums = at * wide..(at + count) * wide;
                        let keys = Keys {
                            count,
                            k: &k.along[along.clone()],
                            v: &v[along],
                            across: &k.across(form)[form.steps(at) * wide..form.steps(at + count) * wide],
                            dk: &mut dk[sums.clone()],
                            dv: &mut dv[sums],
                        };
                        tile.add::<T>(queries.len(), causal && key == first, keys);
                    }
                    self.put(dqkv, heads.q(head), queries, scale, tile.dq);
                }
            }
            self.put(dqkv, heads.k(self.kv), self.keys.clone(), scale, dk);
            self.put(dqkv, heads.v(self.kv), self.keys.clone(), T::Acc::ONE, dv);
        })
    }

    fn load(&self, head: usize, rows: Range<usize>, tile: &mut Queries<T::Acc>) {
        let Inputs { heads, o, lse, dy, .. } = self.inputs;
        let (dim, form) = (heads.head_dim, tile.form);
        let of_head = |data| Rows { data, width: heads.heads * dim, column: head * dim, dim };
        tile.q.pack(form, self.inputs.rows(heads.q(head)), rows.clone());
        tile.dy.pack(form, of_head(dy), rows.clone());
        transpose(tile.q.along, rows.len(), form.steps(dim), tile.qt);
        transpose(tile.dy.along, rows.len(), form.steps(dim), tile.dyt);
        tile.dq.fill(T::Acc::ZERO);
        // Lanes beyond the last query: any finite probability will do, since no sum takes them in, or times zero.
        tile.shift.fill(T::Acc::ZERO);
        tile.delta.fill(T::Acc::ZERO);
        simd(
            #[inline(always)]
            || {
                for (i, r) in rows.enumerate() {
                    tile.shift[i] = -lse[r * heads.heads + head];
                    tile.delta[i] = dot(of_head(dy).row(r), of_head(o).row(r));
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
    fn add<T: Elem<Acc = A>>(&mut self, queries: usize, diagonal: bool, keys: Keys<A>) {
        let (form, count, steps) = (self.form, keys.count, self.qt.len() / TILE);
        let wide = self.dq.len() / TILE;
        let (upper, up_to, from) = match diagonal {
            true => (Triangle::Upper, Triangle::TermsUpTo, Triangle::TermsFrom),
            false => (Triangle::Full, Triangle::Full, Triangle::Full),
        };
        let Scores { p, ds, across } = &mut self.scores;
        // sᵀ and dpᵀ (keys, queries)
        let scores = Shape { m: count, n: padded(queries), k: steps, form, triangle: upper };
        let along = |data| Left { data, row: padded(steps), col: 1 };
        gemm(scores, along(keys.k), self.qt, TILE, p, TILE, false);
        gemm(scores, along(keys.v), self.dyt, TILE, ds, TILE, false);
        let (p, ds) = (&mut p[..count * TILE], &mut ds[..count * TILE]);
        if diagonal {
            for j in 0..count {
                p[j * TILE..][..j].fill(A::NEG_INFINITY);
                ds[j * TILE..][..j].fill(A::ZERO);
            }
        }
        let (shift, delta) = (&*self.shift, &*self.delta);
        let columns = Columns { queries: padded(queries), scale: self.scale, shift, delta };
        simd(
            #[inline(always)]
            || match form {
                Form::Single => each::<T>(columns, p, ds),
                Form::Pairs => each_in_pairs::<T>(columns, p, ds, across),
            },
        );
        // dv and dk (keys, D) += pᵀ·do and dsᵀ·q
        let sides = Shape { m: count, n: wide, k: form.steps(queries), form, triangle: from };
        let over_queries = |data| Left { data, row: TILE, col: 1 };
        gemm(sides, over_queries(p), self.dy.across(form), wide, keys.dv, wide, true);
        gemm(sides, over_queries(ds), self.q.across(form), wide, keys.dk, wide, true);
        // dq (queries, D) += ds·k
        let shape = Shape { m: queries, n: wide, k: form.steps(count), form, triangle: up_to };
        let over_keys = if form == Form::Single { ds } else { across };
        gemm(shape, Left { data: over_keys, row: 1, col: TILE }, keys.across, wide, self.dq, wide, true);
    }
}

/// What each column of a tile of scores has of its query.
#[derive(Clone, Copy)]
struct Columns<'a, A> {
    /// Whole vectors of them.
    queries: usize,
    scale: A,
    /// −lse
    shift: &'a [A],
    delta: &'a [A],
}

impl<A: Real> Columns<'_, A> {
    /// p = exp(scale·s − lse) and ds = p·(dp − delta) of columns i.. of a row.
    #[inline(always)]
    fn at(&self, i: usize, s: &[A], dp: &[A]) -> [[A; LANES]; 2] {
        let lanes = |x: &[A]| -> [A; LANES] { std::array::from_fn(|l| x[i + l]) };
        let (s, dp, shift, delta) = (lanes(s), lanes(dp), lanes(self.shift), lanes(self.delta));
        let p: [A; LANES] = std::array::from_fn(|l| (s[l] * self.scale + shift[l]).exp_of_negative());
        [p, std::array::from_fn(|l| p[l] * (dp[l] - delta[l]))]
    }
}

/// p (keys, TILE) holds q·k and becomes p; ds holds dp and becomes ds.
#[inline(always)]
fn each<T: Elem>(columns: Columns<T::Acc>, p: &mut [T::Acc], ds: &mut [T::Acc]) {
    for (p, ds) in p.chunks_exact_mut(TILE).zip(ds.chunks_exact_mut(TILE)) {
        for i in (0..columns.queries).step_by(LANES) {
            let [new_p, new_ds] = columns.at(i, p, ds);
            p[i..i + LANES].copy_from_slice(&new_p.map(rounded::<T>));
            ds[i..i + LANES].copy_from_slice(&new_ds.map(rounded::<T>));
        }
    }
}

/// The same, with two queries in each number, at the beginning of each row; and ds with two keys in each number.
#[inline(always)]
fn each_in_pairs<T: Elem>(
    columns: Columns<T::Acc>,
    p: &mut [T::Acc],
    ds: &mut [T::Acc],
    across: &mut [T::Acc],
) {
    const HALF: usize = LANES / 2;
    let halves = |x: &[T; LANES]| -> [T::Acc; HALF] { std::array::from_fn(|l| pair(x[2 * l], x[2 * l + 1])) };
    let twos = p.chunks_mut(2 * TILE).zip(ds.chunks_mut(2 * TILE)).zip(across.chunks_exact_mut(TILE));
    for ((p, ds), across) in twos {
        for i in (0..columns.queries).step_by(LANES) {
            let mut both = [[T::default(); LANES]; 2];
            let rows = p.chunks_exact_mut(TILE).zip(ds.chunks_exact_mut(TILE));
            for (both, (p, ds)) in both.iter_mut().zip(rows) {
                let [new_p, new_ds] = columns.at(i, p, ds);
                *both = new_ds.map(T::store);
                p[i / 2..][..HALF].copy_from_slice(&halves(&new_p.map(T::store)));
                ds[i / 2..][..HALF].copy_from_slice(&halves(both));
            }
            let [first, second] = both;
            let ds: [T::Acc; LANES] = std::array::from_fn(|l| pair(first[l], second[l]));
            across[i..i + LANES].copy_from_slice(&ds);
        }
    }
}

/// Σ a·b in 16 partial sums, added in order.
#[inline(always)]
fn dot<T: Elem>(a: &[T], b: &[T]) -> T::Acc {
    let mut sums = [T::Acc::ZERO; 16];
    for (a, b) in a.chunks(16).zip(b.chunks(16)) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum = a.load().mul_add(b.load(), *sum);
        }
    }
    sums.into_iter().sum()
}
