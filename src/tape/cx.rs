//! What an op may use besides its inputs: the device, the tensor-parallel group, the weights of its unit, and what
//! is known about the sequences. A forward gets `&Cx` and so cannot touch a gradient.

use crate::comm::Comm;
use crate::device::attention::KvCache;
use crate::device::{Device, Elem, Pool, Real};
use crate::tensor::Tensor;
use std::sync::Mutex;

/// A fused matrix in the flat buffer of a unit: (rows, cols) as this rank stores it. A vector has one column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamId {
    pub start: usize,
    pub rows: usize,
    pub cols: usize,
}

impl ParamId {
    pub fn len(self) -> usize {
        self.rows * self.cols
    }
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
    /// The elements in the unit's flat buffers.
    pub fn range(self) -> std::ops::Range<usize> {
        self.start..self.start + self.len()
    }
}

/// The flat weights of one unit.
#[derive(Clone, Copy)]
pub struct Weights<'a>(pub &'a Tensor);

impl<'a> Weights<'a> {
    pub fn view<T: Elem>(self, p: ParamId) -> &'a [T] {
        &self.0.data::<T>()[p.range()]
    }
}

/// The flat gradients of one unit, f32 (f64 for the oracle), to which backwards add over all micro-batches.
pub struct Grads<'a>(pub &'a mut Tensor);

impl Grads<'_> {
    pub fn view<A: Real>(&mut self, p: ParamId) -> &mut [A] {
        &mut self.0.data_mut::<A>()[p.range()]
    }
}

/// A micro-batch of packed documents: N = rows · seq_len tokens. Not on the tape: integers have no gradient.
#[derive(Clone, Debug, Default)]
pub struct Seq {
    pub rows: usize,
    pub seq_len: usize,
    /// (N) token ids
    pub tokens: Vec<u32>,
    /// (N) position in the document, from 0
    pub positions: Vec<u32>,
    /// first token of each document, then N; every row starts one
    pub cu_seqlens: Vec<u32>,
    /// (N) token types (BERT's segments); empty means all 0
    pub token_types: Vec<u32>,
    /// (rows) run-global sample ids, the key of every random draw
    pub sample_ids: Vec<u64>,
}

impl Seq {
    /// Documents one behind the other in one row, positions from 0 in each.
    pub fn packed(tokens: &[u32], lengths: &[usize]) -> Seq {
        assert_eq!(lengths.iter().sum::<usize>(), tokens.len(), "lengths of the documents");
        Seq {
            rows: 1,
            seq_len: tokens.len(),
            tokens: tokens.into(),
            positions: lengths.iter().flat_map(|&n| 0..n as u32).collect(),
            cu_seqlens: (0..=lengths.len()).map(|n| lengths[..n].iter().sum::<usize>() as u32).collect(),
            token_types: vec![],
            sample_ids: vec![0],
        }
    }
    /// N
    pub fn len(&self) -> usize {
        self.rows * self.seq_len
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where the run is, for what an op reports or draws; `layer` counts units, the embedding is 0.
#[derive(Clone, Copy, Debug, Default)]
pub struct At {
    pub step: u64,
    pub layer: usize,
}

/// What a forward without a backward goes on from. The weights of its linear layers lie in panels
/// (`device::gemm::to_panels`), and attention reads and writes the cache.
#[derive(Clone, Copy)]
pub struct Past<'a> {
    pub cache: &'a Mutex<KvCache>,
    /// The slot of each document of the sequence.
    pub slots: &'a [usize],
    /// The head borrows the table of tokens, so that too lies in panels.
    pub tied: bool,
}

pub struct Cx<'a> {
    pub dev: &'a Device,
    pub tp: &'a dyn Comm,
    pub w: Weights<'a>,
    pub seq: &'a Seq,
    pub at: At,
    /// None in training.
    pub past: Option<Past<'a>>,
}

impl<'a> Cx<'a> {
    pub fn pool(&self) -> &'a Pool {
        self.dev.pool()
    }
}
