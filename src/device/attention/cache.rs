//! Keys and values of what several sequences have read so far, and attention of their next tokens to it.
//!
//! Each sequence has a slot with room for `capacity` tokens in every layer. Keys lie transposed in tiles of 64, k[d][key],
//! so that the lanes of a vector are keys: scores need no sum across a vector. Values lie a row per token.
//!
//! The arithmetic is that of `forward`, tile by tile in the same order, so that a token attends with the same bits
//! whether it is read alone or in the middle of a long text.

use super::tile::{Rows, SCRATCH, TILE, cut, padded, rounded, with_buffer};
use super::{Heads, tokens};
use crate::device::{Category, DType, Device, Elem, Pool, Real, Shared, simd};
use crate::tensor::Tensor;

/// Of all layers: memory for layers · slots · capacity · 2 · K · D values, taken at once.
pub struct KvCache {
    heads: Heads,
    slots: usize,
    /// Tiles of 64 tokens in a slot.
    tiles: usize,
    /// By layer: keys (slots · K · tiles, D · 64) and values (slots · K · tiles, 64 · D padded).
    layers: Vec<[Tensor; 2]>,
}

/// Where the rows of a micro-batch belong: row i is token `positions[i]` of the sequence in slot `slots[i]`.
pub struct Step<'a> {
    pub slots: &'a [usize],
    pub positions: &'a [u32],
}

impl KvCache {
    /// Room for `slots` sequences of up to `capacity` tokens each.
    pub fn new(
        dev: &Device,
        dtype: DType,
        layers: usize,
        heads: Heads,
        slots: usize,
        capacity: usize,
    ) -> KvCache {
        let tiles = capacity.div_ceil(TILE).max(1);
        let rows = slots * heads.kv_heads * tiles;
        let tensor = |width: usize| Tensor::zeros(dev, rows, width * TILE, dtype, Category::Cache);
        let layers = (0..layers).map(|_| [tensor(heads.head_dim), tensor(padded(heads.head_dim))]).collect();
        KvCache { heads, slots, tiles, layers }
    }

    pub fn slots(&self) -> usize {
        self.slots
    }
    /// Tokens that a slot holds.
    pub fn capacity(&self) -> usize {
        self.tiles * TILE
    }

    /// Stores the keys and values in qkv (N, (H+2K)·D) at the places of `step`.
    pub fn append<T: Elem>(&mut self, pool: &Pool, layer: usize, step: &Step, qkv: &[T]) {
        self.check(step, qkv.len());
        let (heads, tiles) = (self.heads, self.tiles);
        let (dim, wide, width) = (heads.head_dim, padded(heads.head_dim), heads.qkv_width());
        let [keys, values] = &mut self.layers[layer];
        let (keys, values) = (Shared::new(keys.data_mut::<T>()), Shared::new(values.data_mut::<T>()));
        // A task owns a head, so that no two write one tile.
        pool.run(heads.kv_heads, |kv| {
            for (r, (&slot, &at)) in step.slots.iter().zip(step.positions).enumerate() {
                let row = &qkv[r * width..][..width];
                let tile = (slot * heads.kv_heads + kv) * tiles + at as usize / TILE;
                let lane = at as usize % TILE;
                // SAFETY: tiles of one head are this task's alone.
                let (k, v) = unsafe {
                    let v = tile * TILE * wide + lane * wide;
                    (keys.part(tile * TILE * dim..(tile + 1) * TILE * dim), values.part(v..v + dim))
                };
                let column = k[lane..].iter_mut().step_by(TILE);
                column.zip(&row[heads.k(kv)..]).for_each(|(k, x)| *k = *x);
                v.copy_from_slice(&row[heads.v(kv)..][..dim]);
            }
        });
    }

    /// o (N, H·D): each row's queries over the tokens of its sequence up to its own, which were appended before.
    pub fn attend<T: Elem>(
        &self,
        pool: &Pool,
        layer: usize,
        step: &Step,
        scale: f64,
        qkv: &[T],
        o: &mut [T],
    ) {
        let n = self.check(step, qkv.len());
        let heads = self.heads;
        assert_eq!(o.len(), n * heads.heads * heads.head_dim, "elements of o");
        let [keys, values] = &self.layers[layer];
        let (keys, values) = (keys.data::<T>(), values.data::<T>());
        let out = Shared::new(o);
        pool.run(n * heads.kv_heads, |i| {
            let (r, kv) = (i / heads.kv_heads, i % heads.kv_heads);
            let (group, dim) = (heads.group(), heads.head_dim);
            let first = (step.slots[r] * heads.kv_heads + kv) * self.tiles * TILE;
            let seen = step.positions[r] as usize + 1;
            let of_head = |data: &'_ [T], width: usize| -> std::ops::Range<usize> {
                assert!(data.len() >= (first + self.capacity()) * width);
                first * width..(first + seen.next_multiple_of(TILE)) * width
            };
            let one = One {
                keys: &keys[of_head(keys, dim)],
                values: &values[of_head(values, padded(dim))],
                seen,
                dim,
            };
            let queries =
                Rows { data: qkv, width: heads.qkv_width(), column: heads.q(kv * group), dim: group * dim };
            let at = (r * heads.heads + kv * group) * dim;
            // SAFETY: these heads of this row are this task's alone.
            let o = unsafe { out.part(at..at + group * dim) };
            one.run(queries.row(r), T::Acc::of(scale), o);
        });
    }

    /// N, after checking that the rows have places.
    fn check(&self, step: &Step, qkv: usize) -> usize {
        let (n, width) = (step.slots.len(), self.heads.heads * self.heads.head_dim);
        let mask = super::Mask { cu_seqlens: &[0, n as u32], causal: true };
        tokens(self.heads, &mask, qkv, n * width, n * self.heads.heads);
        assert_eq!(step.positions.len(), n, "positions of the rows");
        assert!(step.slots.iter().all(|&s| s < self.slots), "slots {:?} of {}", step.slots, self.slots);
        let capacity = self.capacity();
        assert!(step.positions.iter().all(|&p| (p as usize) < capacity), "positions within {capacity}");
        n
    }
}

/// The sequence of one row under one kv head.
struct One<'a, T> {
    /// (tiles, D, TILE)
    keys: &'a [T],
    /// (tiles · TILE, D padded)
    values: &'a [T],
    seen: usize,
    dim: usize,
}

impl<T: Elem> One<'_, T> {
    /// q and o (group, D)
    fn run(&self, q: &[T], scale: T::Acc, o: &mut [T]) {
        let wide = padded(self.dim);
        with_buffer::<T::Acc, _>(&SCRATCH, 2 * wide, |mut rest| {
            let (query, sums) = (cut(&mut rest, wide), rest);
            for (q, o) in q.chunks_exact(self.dim).zip(o.chunks_exact_mut(self.dim)) {
                simd(
                    #[inline(always)]
                    || self.head(q, scale, o, query, sums),
                );
            }
        });
    }

    #[inline(always)]
    fn head(&self, q: &[T], scale: T::Acc, o: &mut [T], query: &mut [T::Acc], sums: &mut [T::Acc]) {
        let (zero, one, wide) = (T::Acc::ZERO, T::Acc::ONE, padded(self.dim));
        query.iter_mut().zip(q).for_each(|(a, x)| *a = x.load());
        sums.fill(zero);
        let (mut max, mut sum) = (T::Acc::NEG_INFINITY, zero);
        let tiles = self.keys.chunks_exact(self.dim * TILE).zip(self.values.chunks_exact(wide * TILE));
        for (i, (keys, values)) in tiles.enumerate() {
            let count = TILE.min(self.seen - i * TILE);
            let mut s = [zero; TILE];
            for (&x, k) in query[..self.dim].iter().zip(keys.as_chunks::<TILE>().0) {
                for j in 0..TILE {
                    s[j] = k[j].load().mul_add(x, s[j]);
                }
            }
            let new = s[..count].iter().fold(max, |m, &x| x.max(m));
            let shift = -(new * scale);
            s.iter_mut().for_each(|x| *x = (*x * scale + shift).exp_of_negative());
            let total = s[..count].iter().fold(zero, |t, &x| t + x);
            s.iter_mut().for_each(|x| *x = rounded::<T>(*x));
            let alpha = (max * scale + shift).exp_of_negative();
            sum = sum.mul_add(alpha, total);
            max = new;
            if alpha != one {
                sums.iter_mut().for_each(|o| *o *= alpha);
            }
            let mut at = 0;
            while at + 4 * LANES <= wide {
                add_weighted::<T, { 4 * LANES }>(&s[..count], &values[at..], wide, &mut sums[at..]);
                at += 4 * LANES;
            }
            while at < wide {
                add_weighted::<T, LANES>(&s[..count], &values[at..], wide, &mut sums[at..]);
                at += LANES;
            }
        }
        let inverse = one / sum;
        o.iter_mut().zip(&*sums).for_each(|(o, s)| *o = T::store(*s * inverse));
    }
}

use super::gemm::LANES;

/// out (W) += Σ_j p_j·v_j, the first W values of rows of `pitch`
#[inline(always)]
fn add_weighted<T: Elem, const W: usize>(p: &[T::Acc], v: &[T], pitch: usize, out: &mut [T::Acc]) {
    let mut sums = [T::Acc::ZERO; W];
    for (j, &p) in p.iter().enumerate() {
        let v: &[T; W] = v[j * pitch..].first_chunk().expect("a row of values has whole vectors");
        for e in 0..W {
            sums[e] = p.mul_add(v[e].load(), sums[e]);
        }
    }
    out.iter_mut().zip(&sums).for_each(|(o, s)| *o += *s);
}
