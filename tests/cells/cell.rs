//! A cell: one way to spread a run over ranks, and how it is trained.

use espalier::params::Accumulate;
use espalier::tape::Recompute;

/// Heads of the Llama, which has 4 key-value heads (with tp 8 two ranks hold each), and of the GPT-2.
const HEADS: [usize; 2] = [8, 4];

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cell {
    pub dp: usize,
    pub tp: usize,
    /// Data-parallel ranks of a shard group.
    pub shard: usize,
    pub zero: u8,
    /// Micro-batches of a rank in an update.
    pub micro: usize,
    pub accumulate: Accumulate,
    pub recompute: Recompute,
    pub sequence_parallel: bool,
    /// Llama by AdamW, else GPT-2 by SGD.
    pub llama: bool,
    pub how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum How {
    Plain,
    /// By Muon instead.
    Muon,
    /// Three quarters of the matrices of blocks are zero.
    Sparse,
    /// Beside a teacher, but for the last update.
    Taught,
    /// Half of the blocks of 16 of the matrices of blocks are stored.
    Blocks,
}

impl Cell {
    /// The values that a pairwise cover pairs.
    pub fn factors(&self) -> [usize; 9] {
        [
            self.tp,
            self.dp / self.shard,
            self.zero.into(),
            self.micro,
            usize::from(self.accumulate == Accumulate::Sharded),
            usize::from(self.recompute == Recompute::Full),
            usize::from(self.sequence_parallel),
            usize::from(self.llama),
            self.how as usize,
        ]
    }

    pub fn name(&self) -> String {
        let Cell { dp, tp, shard, zero, micro, .. } = self;
        let sums = if self.accumulate == Accumulate::Sharded { " sharded" } else { "" };
        let full = if self.recompute == Recompute::Full { " full" } else { "" };
        let rows = if self.sequence_parallel { " sp" } else { "" };
        let model = match (self.llama, self.how) {
            (true, How::Muon) => "llama-muon",
            (true, How::Plain) => "llama-adamw",
            (true, How::Sparse) => "llama-adamw-sparse",
            (true, How::Taught) => "llama-adamw-taught",
            (true, How::Blocks) => "llama-adamw-blocks",
            (false, How::Muon) => "gpt2-muon",
            (false, How::Plain) => "gpt2-sgd",
            (false, How::Sparse) => "gpt2-sgd-sparse",
            (false, How::Taught) => "gpt2-sgd-taught",
            (false, How::Blocks) => "gpt2-sgd-blocks",
        };
        format!("{}x{shard}x{tp} zero{zero} micro{micro}{sums}{full}{rows} {model}", dp / shard)
    }

    /// Of cells with the same, the results have the same bits: they differ in the ZeRO stage only (and recompute, which
    /// changes no bits).
    pub fn twin(&self) -> Cell {
        // Without ZeRO nothing is split, and the order of sums is that of one shard group.
        Cell { zero: 0, recompute: Recompute::Keep, ..*self }
    }
}

/// All cells that a run file may ask for, on this many ranks.
pub fn legal(ranks: usize) -> Vec<Cell> {
    let divisors = |n: usize| (1..=n).filter(move |d| n.is_multiple_of(*d));
    let mut cells = vec![];
    let both = [true, false];
    let ways = [How::Plain, How::Muon, How::Sparse, How::Taught, How::Blocks];
    for (llama, how) in both.into_iter().flat_map(|llama| ways.map(|how| (llama, how))) {
        let heads = if llama { HEADS[0] } else { HEADS[1] };
        // A quarter of the Llama's MLP is no multiple of a block.
        let most = if llama && how == How::Blocks { 2 } else { ranks };
        for tp in divisors(ranks).filter(|tp| heads.is_multiple_of(*tp) && *tp <= most) {
            let dp = ranks / tp;
            for shard in divisors(dp).filter(|s| *s > 1 || dp == 1) {
                for (zero, micro) in (0..=3).flat_map(|zero| [(zero, 1), (zero, 4)]) {
                    for accumulate in [Accumulate::Local, Accumulate::Sharded] {
                        for recompute in [Recompute::Keep, Recompute::Full] {
                            for sequence_parallel in both {
                                let sharded = accumulate == Accumulate::Sharded;
                                let nothing = (zero == 0 && shard != dp) || (zero < 2 && sharded);
                                if nothing || (sequence_parallel && tp == 1) {
                                    continue;
                                }
                                let cell = Cell {
                                    dp,
                                    tp,
                                    shard,
                                    zero,
                                    micro,
                                    accumulate,
                                    recompute,
                                    sequence_parallel,
                                    llama,
                                    how,
                                };
                                cells.push(cell);
                            }
                        }
                    }
                }
            }
        }
    }
    cells
}
