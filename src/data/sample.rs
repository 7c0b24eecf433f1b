//! One sample on its own, and where it was taken from.

use super::row::Piece;
use serde::Serialize;

/// Where a sample is taken from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// Its number in the run, of this cursor.
    pub id: u64,
    pub domain: usize,
    /// Its number among the samples of the domain.
    pub index: u64,
    /// The pass over the domain that it is in. Megatron's order shuffles passes together and counts none: 0.
    pub pass: u64,
    /// Which of the rows of a pass it is, before they are shuffled.
    pub row: u64,
    /// What it is made of. In a joined row, which Megatron's order has, the tokens of all pieces and one more, the last
    /// target, are one text; otherwise each piece has the token after it as its last target.
    pub pieces: Vec<Piece>,
    pub joined: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sample {
    #[serde(flatten)]
    pub origin: Origin,
    /// T, as are targets and weights.
    pub tokens: Vec<u32>,
    pub targets: Vec<u32>,
    pub weights: Vec<f32>,
    /// Where documents begin among the T inputs: first 0, strictly increasing.
    pub documents: Vec<u32>,
}
