//! From token ids to x (N, C): table look-ups and, in BERT, a norm.

use super::block::declare_norm;
use crate::Result;
use crate::config::{ModelConfig, Positions};
use crate::device::DType;
use crate::ops::embedding::Embedding as Lookup;
use crate::ops::norm::Norm;
use crate::params::{Declare, LocalBox, ParamSpec, Shard};
use crate::tape::{Cx, ParamId, Shape, Tape, Var};

/// Rows of the vocabulary that a rank holds are padded to a multiple of this.
pub const VOCAB_UNIT: usize = 64;

pub struct Embedding {
    dim: usize,
    dtype: DType,
    /// (V/R, C); a tied head borrows it
    pub tokens: ParamId,
    pub local: LocalBox,
    positions: Option<ParamId>,
    types: Option<ParamId>,
    norm: Option<Norm>,
}

impl Embedding {
    pub fn declare(c: &ModelConfig, dtype: DType, u: &mut Declare) -> Embedding {
        let table = |name: &str, rows, shard| ParamSpec::matrix(name, rows, c.dim, shard, c.init_std);
        let tokens = table("embed.tokens.weight", c.vocab, Shard::Rows { unit: VOCAB_UNIT });
        let local = tokens.local(u.rank(), u.size());
        let positions = match c.positions {
            Positions::Learned { max } => Some(table("embed.positions.weight", max, Shard::Replicated)),
            Positions::Rope { .. } | Positions::None => None,
        };
        let types =
            (c.token_types > 0).then(|| table("embed.types.weight", c.token_types, Shard::Replicated));
        Embedding {
            dim: c.dim,
            dtype,
            tokens: u.one(tokens),
            local,
            positions: positions.map(|p| u.one(p)),
            types: types.map(|p| u.one(p)),
            norm: c.embed_norm.then(|| declare_norm(c, "embed.norm", u)),
        }
    }

    pub(super) fn has_norm(&self) -> bool {
        self.norm.is_some()
    }

    /// x (N, C); with `split`, the rows of this rank of tp (N/R, C).
    pub fn forward(&self, t: &mut Tape, cx: &Cx, split: bool) -> Result<Var> {
        let rows = cx.seq.len() / if split { cx.tp.size() } else { 1 };
        let lookup = Lookup {
            tokens: self.tokens,
            first: self.local.row,
            valid: self.local.rows,
            positions: self.positions,
            types: self.types,
            shape: Shape { rows, cols: self.dim, dtype: self.dtype },
        };
        let [x] = t.push(cx, lookup, &[])?;
        let Some(norm) = self.norm else { return Ok(x) };
        let [x, _stats] = t.push(cx, norm, &[x])?;
        Ok(x)
    }
}
