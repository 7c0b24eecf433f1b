//! Maps of axes: which channel of the smaller model stands at each place of the larger one.

use crate::config::{Grow, ModelConfig, Norm, Positions, Width, grow::averaged_copies};
use crate::rng::Philox;

/// What stands at an index of a grown axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    Copy(u32),
    New,
    /// A new channel of an old query head: zero, so that what is new in its keys counts for nothing.
    Blank,
}

/// The map of one axis.
#[derive(Clone, Debug, PartialEq)]
pub struct AxisMap {
    pub slots: Vec<Slot>,
    /// How often each source index is copied, C in bert2BERT.
    pub copies: Vec<u32>,
    /// Where each source index stands first.
    first: Vec<u32>,
}

impl AxisMap {
    fn new(source: usize, slots: Vec<Slot>) -> AxisMap {
        let (mut copies, mut first) = (vec![0; source], vec![u32::MAX; source]);
        for (i, slot) in slots.iter().enumerate() {
            if let Slot::Copy(of) = *slot {
                copies[of as usize] += 1;
                first[of as usize] = first[of as usize].min(i as u32);
            }
        }
        AxisMap { slots, copies, first }
    }

    /// The first `n` stay, the rest is new.
    pub fn padded(n: usize, to: usize) -> AxisMap {
        AxisMap::new(n, (0..to).map(|i| if i < n { Slot::Copy(i as u32) } else { Slot::New }).collect())
    }

    /// Whether index `i` is a copy beyond the first.
    pub fn is_extra(&self, i: usize) -> bool {
        matches!(self.slots[i], Slot::Copy(of) if self.first[of as usize] != i as u32)
    }

    /// Whether some index has copies.
    pub fn repeats(&self) -> bool {
        self.copies.iter().any(|c| *c > 1)
    }

    /// Whether all are copied equally often.
    pub fn is_even(&self) -> bool {
        self.copies.iter().all(|c| *c == self.copies[0])
    }
}

/// Of `n` things, which stand at `to` places: the first `n` themselves; beyond, what the operator puts there. Places at
/// random are drawn without replacement, so that counts differ by one at most, and a multiple of `n` is even.
fn places(width: Width, n: usize, to: usize, stream: impl Fn() -> String, seed: u64) -> Vec<Option<usize>> {
    let mut all: Vec<Option<usize>> = (0..n.min(to)).map(Some).collect();
    match width {
        Width::ZeroPad => all.resize(to, None),
        Width::Tile => all.extend((n..to).map(|i| Some(i % n))),
        Width::Fpi | Width::Aki => {
            let random = if to > n { Philox::new(seed, &stream()) } else { return all };
            for pass in 0.. {
                let left = to - all.len();
                if left == 0 {
                    break;
                }
                let mut order: Vec<usize> = (0..n).collect();
                order.sort_by_key(|i| (random.wide(*i as u64, pass), *i));
                all.extend(order.into_iter().take(left).map(Some));
            }
        }
    }
    all
}

fn slots(places: Vec<Option<usize>>) -> Vec<Slot> {
    places.into_iter().map(|p| p.map_or(Slot::New, |i| Slot::Copy(i as u32))).collect()
}

/// The residual stream, one map for the whole network: what one block writes another reads.
pub fn residual(grow: &Grow, from: &ModelConfig, to: &ModelConfig) -> AxisMap {
    let (n, m) = (from.dim, to.dim);
    let map = match (grow.width, from.norm) {
        (Width::ZeroPad, Norm::Layer) => {
            let whole = averaged_copies(n, m) * n;
            (0..m).map(|i| if i < whole { Slot::Copy((i % n) as u32) } else { Slot::New }).collect()
        }
        (width, _) => slots(places(width, n, m, || "grow/residual".into(), grow.seed)),
    };
    AxisMap::new(n, map)
}

/// The axes inside a block of the source.
#[derive(Clone, Debug, PartialEq)]
pub struct BlockMaps {
    /// (H·D)
    pub query: AxisMap,
    /// (K·D)
    pub kv: AxisMap,
    /// (F)
    pub ffn: AxisMap,
}

impl BlockMaps {
    /// Of block `layer` of the source. Query heads stay with their kv head: groups grow from within, and a copied kv head
    /// takes its group along.
    pub fn new(grow: &Grow, from: &ModelConfig, to: &ModelConfig, layer: usize) -> BlockMaps {
        let name = |what: &str| format!("grow/blocks.{layer}.{what}");
        let kv = places(grow.width, from.kv_heads, to.kv_heads, || name("kv_heads"), grow.seed);
        let (old, new) = (from.heads / from.kv_heads, to.heads / to.kv_heads);
        let heads = kv.iter().enumerate().flat_map(|(g, kv)| {
            let within = places(grow.width, old, new, || name(&format!("heads.{g}")), grow.seed);
            within.into_iter().map(move |j| Some((*kv)? * old + j?))
        });
        let channels = channels(from, to);
        let expand = |heads: &mut dyn Iterator<Item = Option<usize>>, blank: Slot| -> Vec<Slot> {
            let of = |head: Option<usize>| {
                channels.iter().map(move |c| match (head, c) {
                    (None, _) => Slot::New,
                    (Some(h), Some(c)) => Slot::Copy((h * from.head_dim + c) as u32),
                    (Some(_), None) => blank,
                })
            };
            heads.flat_map(of).collect()
        };
        let query = expand(&mut heads.into_iter(), Slot::Blank);
        let kv = expand(&mut kv.iter().copied(), Slot::New);
        let ffn = places(grow.width, from.ffn_dim, to.ffn_dim, || name("ffn"), grow.seed);
        BlockMaps {
            query: AxisMap::new(from.heads * from.head_dim, query),
            kv: AxisMap::new(from.kv_heads * from.head_dim, kv),
            ffn: AxisMap::new(from.ffn_dim, slots(ffn)),
        }
    }
}

/// Where the channels of a head go. With rotary positions pair e goes to pair m·e of m times as many, whose angle is the
/// same: θ^(−2me/mD).
fn channels(from: &ModelConfig, to: &ModelConfig) -> Vec<Option<usize>> {
    let (old, new) = (from.head_dim, to.head_dim);
    match from.positions {
        Positions::Rope { .. } => {
            let m = new / old;
            let half = |i: usize| (i / (new / 2), i % (new / 2));
            let old_of = |(side, e): (usize, usize)| e.is_multiple_of(m).then(|| side * (old / 2) + e / m);
            (0..new).map(|i| old_of(half(i))).collect()
        }
        Positions::Learned { .. } | Positions::None => (0..new).map(|i| (i < old).then_some(i)).collect(),
    }
}
