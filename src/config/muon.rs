//! Muon as a run file gives it: what happens to the matrices of blocks, and AdamW for everything else.

use super::glob;
use super::read::{PRECISIONS, adam, decay};
use super::run::{OptimKind, Precision};
use super::table::Table;
use crate::Result;

/// Names of the matrices of blocks.
pub const MATRICES: [&str; 2] = ["blocks.*.attn.?.weight", "blocks.*.mlp.*.weight"];

pub(super) const ADJUST: &[(&str, Adjust)] =
    &[("match_rms_adamw", Adjust::MatchRmsAdamW), ("original", Adjust::Original)];
pub(super) const STEPS: std::ops::RangeInclusive<usize> = 1..=20;

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MuonConfig {
    pub momentum: f64,
    pub nesterov: bool,
    /// Of the Newton-Schulz iteration.
    pub steps: usize,
    /// Of the matrices.
    pub weight_decay: f64,
    pub adjust: Adjust,
    /// Of the momentum and of the moments of AdamW.
    pub moments: Precision,
    /// Of everything else.
    pub adamw: Rest,
}

/// AdamW of the tensors that are no matrices of blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rest {
    pub betas: [f64; 2],
    pub eps: f64,
    pub weight_decay: f64,
}

/// How the learning rate follows the shape of a matrix; named as in `torch.optim.Muon`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adjust {
    /// √max(1, rows/cols), Keller Jordan's.
    Original,
    /// 0.2 √max(rows, cols): updates as large as AdamW's (arXiv 2502.16982, section 2.2).
    MatchRmsAdamW,
}

impl Adjust {
    /// The factor of the learning rate of a (rows, cols) weight.
    pub fn factor(self, rows: usize, cols: usize) -> f64 {
        let (rows, cols) = (rows as f64, cols as f64);
        match self {
            Adjust::Original => (rows / cols).max(1.0).sqrt(),
            Adjust::MatchRmsAdamW => 0.2 * rows.max(cols).sqrt(),
        }
    }
}

/// Whether Muon would update the tensor of this name.
pub fn is_matrix_of_block(name: &str) -> bool {
    MATRICES.iter().any(|pattern| glob::matches(pattern, name))
}

/// `optim.muon`
pub(super) fn read(t: &Table) -> Result<OptimKind> {
    let momentum = t.float("momentum", "a number of at least 0 and less than 1", |x| (0.0..1.0).contains(&x));
    let (betas, eps, rest_decay, _) = adam(&t.table("adamw")?, 0.1)?;
    Ok(OptimKind::Muon(MuonConfig {
        momentum: momentum?.unwrap_or(0.95),
        nesterov: t.bool("nesterov")?.unwrap_or(true),
        steps: t.usize("steps", STEPS)?.unwrap_or(5),
        weight_decay: decay(t)?.unwrap_or(0.1),
        adjust: t.choice("adjust", ADJUST)?.unwrap_or(Adjust::MatchRmsAdamW),
        moments: t.choice("moments", PRECISIONS)?.unwrap_or(Precision::F32),
        adamw: Rest { betas, eps, weight_decay: rest_decay },
    }))
}
