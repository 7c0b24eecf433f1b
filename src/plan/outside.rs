//! What a rank uses besides the arena, estimated from shapes: buffers that threads keep, and the data of two updates.

use crate::config::{Positions, Precision, RunConfig};
use crate::device::gemm::{A_VALUES, B_VALUES, DEPTH, SUM_ROWS};
use crate::train::corpora;
use crate::train::evaluate;
use serde::Serialize;

/// Bytes, per rank but for `process`.
#[derive(Serialize)]
pub struct Outside {
    /// Packed operands of matrix products (`device/gemm`): b up to 8 MiB, a up to half a MiB a thread, and in bf16 the
    /// f32 sums of a product deeper than one block.
    pub products: usize,
    /// Tiles of attention (`device/attention`), for each thread, and in bf16 one dqkv in f32.
    pub attention: usize,
    /// Tokens, targets, positions and weights of this update and the next, losses, angles of rotary positions.
    pub data: usize,
    /// Stacks, allocator, tables of parameters, the writer of checkpoints; once for the process.
    pub process: usize,
}

/// Tokens of a chunk and of a tile of `device/attention/backward.rs`.
const CHUNK: usize = 512;
const TILE: usize = 64;
/// A guess; `tests/plan.rs` compares the whole with real processes.
const PROCESS: usize = 3 << 20;

impl Outside {
    pub fn new(config: &RunConfig, dp: usize, threads: usize) -> Outside {
        let (m, tp) = (config.last_model(), config.parallel.tp);
        let bf16 = config.run.dtype == Precision::Bf16;
        let (mut tokens, mut drawn, mut longest) = (0, 0, 0);
        for p in &config.phases {
            let evaluated = if p.eval.is_some() { evaluate::batch_rows(p.seq_len) * p.seq_len } else { 0 };
            for (split, _) in corpora::splits(config, p, (0, dp), 0) {
                tokens = (split.micro_batch * p.seq_len).max(evaluated).max(tokens);
                drawn = (2 * split.micro_steps * split.micro_batch * p.seq_len + evaluated).max(drawn);
            }
            longest = p.seq_len.max(longest);
        }

        let heads = m.heads / tp * m.head_dim;
        let qkv = heads + 2 * (m.kv_heads / tp).max(1) * m.head_dim;
        let up = m.ffn_dim * if m.is_glu() { 2 } else { 1 } / tp;
        // (in, out) of each weight
        let weights = [
            (m.dim, qkv),
            (heads, m.dim),
            (m.dim, up),
            (m.ffn_dim / tp, m.dim),
            (m.dim, m.vocab.div_ceil(tp)),
        ];
        let packed = |k: usize, n: usize| (k.min(DEPTH) * n).min(B_VALUES);
        let b = weights.iter().map(|&(i, o)| packed(i, o).max(packed(o, i)).max(packed(tokens, i)));
        let deep = |k: usize, n: usize| {
            if bf16 && k > DEPTH { tokens.min(SUM_ROWS) * n.min(B_VALUES / DEPTH) } else { 0 }
        };
        let sums = weights.iter().map(|&(i, o)| deep(i, o).max(deep(o, i)));
        let largest = |values: &mut dyn Iterator<Item = usize>| values.max().unwrap_or(0);
        let products = largest(&mut { b }) + largest(&mut { sums }) + threads * A_VALUES.min(tokens * m.dim);

        let (d, keys) = (m.head_dim, longest.min(CHUNK));
        let tiles = 4 * keys * d + TILE * (5 * d + 2 * TILE + 2);
        let attention = threads * tiles + if bf16 { tokens * qkv } else { 0 };
        let angles = match m.positions {
            Positions::Rope { .. } => 24 * longest * d / 2,
            Positions::Learned { .. } | Positions::None => 0,
        };
        Outside {
            products: 4 * products,
            attention: 4 * attention,
            data: 16 * drawn + 4 * tokens + angles,
            process: PROCESS,
        }
    }

    /// Of one rank.
    pub fn rank(&self) -> usize {
        self.products + self.attention + self.data
    }
}
