//! Streaming attention over packed documents: softmax(q·kᵀ·scale)·v and its gradient, never holding a T×T matrix.
//!
//! qkv is (N, (H+2K)·D) with each row [q heads | k heads | v heads]; o and dy are (N, H·D); lse is (N, H), the natural
//! logarithm of Σ_j exp(s_ij). The sequences of a batch are documents too, so that no op needs to know B and T.
//!
//! Tiles of 64 queries × 64 keys live in per-thread scratch with the scores transposed, sᵀ[key][query]: each lane of a
//! vector is one query, so that row maxima and sums need no horizontal step and k is never transposed. Tiles start at
//! their document's first token, so whatever is computed for a document depends on its own tokens only, and the
//! diagonal of a causal mask is the diagonal of a tile.
//!
//! Closures given to `simd` are `#[inline(always)]`: a large one is else compiled once, outside, without the vectors.
//!
//! Dao, FlashAttention-2 (arXiv:2307.08691), algorithms 1 and 2.

mod backward;
mod cache;
mod forward;
mod gemm;
#[cfg(test)]
mod tests;
mod tile;
pub(super) mod vector;

use super::{Elem, Pool};
pub use backward::backward;
pub use cache::{KvCache, Step};
pub use forward::forward;

/// The heads of this rank: query head h reads kv head h·kv_heads/heads, and heads is a multiple of kv_heads.
#[derive(Clone, Copy, Debug)]
pub struct Heads {
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
}

impl Heads {
    /// Elements in a row of qkv: (H+2K)·D
    pub fn qkv_width(&self) -> usize {
        (self.heads + 2 * self.kv_heads) * self.head_dim
    }
    /// Query heads that share a kv head.
    fn group(&self) -> usize {
        self.heads / self.kv_heads
    }
    /// Columns of q head h, k head and v head in a row of qkv.
    fn q(&self, head: usize) -> usize {
        head * self.head_dim
    }
    fn k(&self, kv: usize) -> usize {
        (self.heads + kv) * self.head_dim
    }
    fn v(&self, kv: usize) -> usize {
        (self.heads + self.kv_heads + kv) * self.head_dim
    }
}

/// Who sees whom: document i is the tokens cu_seqlens[i]..cu_seqlens[i+1]. A token sees the tokens of its own document,
/// and if causal only those up to itself. cu_seqlens starts at 0, ends at N and never falls; equal neighbours are an
/// empty document.
#[derive(Clone, Copy, Debug)]
pub struct Mask<'a> {
    pub cu_seqlens: &'a [u32],
    pub causal: bool,
}

impl Mask<'_> {
    /// The token ranges of the documents.
    fn documents(&self) -> impl DoubleEndedIterator<Item = std::ops::Range<usize>> {
        self.cu_seqlens.windows(2).map(|w| w[0] as usize..w[1] as usize)
    }
}

/// N, after checking that every length fits.
fn tokens(heads: Heads, mask: &Mask, qkv: usize, o: usize, lse: usize) -> usize {
    let Heads { heads: h, kv_heads, head_dim } = heads;
    assert!(h > 0 && kv_heads > 0 && head_dim > 0 && h.is_multiple_of(kv_heads), "{heads:?}");
    let cu = mask.cu_seqlens;
    let n = cu.last().map_or(0, |&n| n as usize);
    assert!(cu.is_sorted() && cu.first().is_none_or(|&first| first == 0), "cu_seqlens {cu:?}");
    assert_eq!((qkv, o, lse), (n * heads.qkv_width(), n * h * head_dim, n * h), "elements of qkv, o and lse");
    n
}
