//! A model that reads tokens and says what may come next: with a cache, each token is computed once.

use crate::comm::{Comm, Solo};
use crate::config::ModelConfig;
use crate::device::attention::KvCache;
use crate::device::{Category, DType, Device, Elem};
use crate::model::Network;
use crate::params::{Dp, Params, TensorSource};
use crate::tape::{Past, Seq};
use crate::tensor::Tensor;
use crate::{Result, with_dtype};
use std::sync::Mutex;

/// Without a cache, rows are padded to a multiple of this, so that buffers serve many tokens.
const LENGTH: usize = 64;

pub struct Engine {
    dev: Device,
    tp: Solo,
    net: Network,
    params: Params,
    /// None: every token is computed from all before it, in the layout and with the products of training.
    cache: Option<Mutex<KvCache>>,
    slots: usize,
    /// Rows of the forward before this one, whose buffers wait in the arena.
    rows: usize,
}

/// What an engine is made for.
pub struct Setup {
    /// Of weights, activations and the cache; sums are f32.
    pub dtype: DType,
    /// Sequences at a time.
    pub slots: usize,
    /// Tokens of the longest.
    pub capacity: usize,
    /// false keeps nothing between forwards.
    pub cache: bool,
}

/// Tokens of one sequence, the first at position `first`. With a cache, those before it were read into the slot.
pub struct Piece<'a> {
    pub slot: usize,
    pub first: usize,
    pub tokens: &'a [u32],
}

impl Engine {
    /// Takes all memory of the weights and the cache, and reads the weights.
    pub fn new(model: &ModelConfig, source: &dyn TensorSource, dev: Device, setup: &Setup) -> Result<Engine> {
        let (net, mut params) =
            Network::build(model, &dev, setup.dtype, (0, 1), Dp::SOLO, setup.capacity.max(1));
        params.forget_training();
        dev.arena().trim();
        params.fill(&dev, source)?;
        let mut cache = None;
        if setup.cache {
            net.into_panels(&dev, &mut params);
            cache = Some(Mutex::new(net.cache(&dev, setup.slots, setup.capacity)));
        }
        Ok(Engine { dev, tp: Solo::new(), net, params, cache, slots: setup.slots, rows: 0 })
    }

    pub fn has_cache(&self) -> bool {
        self.cache.is_some()
    }
    /// Sequences at a time.
    pub fn slots(&self) -> usize {
        self.slots
    }
    pub fn device(&self) -> &Device {
        &self.dev
    }

    /// Logits (pieces, V) in f32 after the last token of each piece.
    pub fn read(&mut self, pieces: &[Piece]) -> Result<Tensor> {
        let lengths = pieces.iter().map(|p| p.tokens.len());
        assert!(lengths.clone().all(|n| n > 0), "a piece has tokens");
        let last: Vec<usize> = lengths
            .scan(0, |end, n| {
                *end += n;
                Some(*end - 1)
            })
            .collect();
        let seq = self.sequences(pieces);
        if seq.len() != self.rows {
            self.dev.arena().trim(); // the buffers of the last forward have another size
            self.rows = seq.len();
        }
        let slots: Vec<usize> = pieces.iter().map(|p| p.slot).collect();
        let past = self.cache.as_ref().map(|cache| Past { cache, slots: &slots, tied: self.net.config.tied });
        let (dev, tp) = (&self.dev, &self.tp as &dyn Comm);
        let h = self.net.forward(dev, tp, &self.params, &seq, past)?;
        let c = h.cols();
        let mut ends = Tensor::empty(dev, last.len(), c, h.dtype(), Category::Activations);
        with_dtype!(h.dtype(), T => {
            for (to, i) in ends.data_mut::<T>().chunks_exact_mut(c).zip(last) {
                to.copy_from_slice(&h.data::<T>()[i * c..(i + 1) * c]);
            }
        });
        match past {
            Some(_) => Ok(self.net.head.logits_in_panels(dev, &self.params, &self.net.embed, &ends)),
            None => self.net.head.logits(dev, tp, &self.params, &self.net.embed, &ends),
        }
    }

    /// The pieces one behind the other. Without a cache, rows of padding follow, each a document of its own.
    fn sequences(&self, pieces: &[Piece]) -> Seq {
        let mut tokens: Vec<u32> = pieces.iter().flat_map(|p| p.tokens).copied().collect();
        let mut lengths: Vec<usize> = pieces.iter().map(|p| p.tokens.len()).collect();
        if self.cache.is_none() {
            assert!(pieces.iter().all(|p| p.first == 0), "without a cache every token is read again");
            let padding = tokens.len().next_multiple_of(LENGTH) - tokens.len();
            tokens.resize(tokens.len() + padding, 0);
            lengths.resize(lengths.len() + padding, 1);
        }
        let mut seq = Seq::packed(&tokens, &lengths);
        for (piece, at) in pieces.iter().zip(seq.cu_seqlens.clone()) {
            let positions = &mut seq.positions[at as usize..][..piece.tokens.len()];
            positions.iter_mut().for_each(|p| *p += piece.first as u32);
        }
        seq
    }
}

/// The logits as f32 rows of V.
pub fn rows(logits: &Tensor) -> impl Iterator<Item = &[f32]> {
    debug_assert_eq!(logits.dtype(), <f32 as Elem>::DTYPE);
    logits.data::<f32>().chunks_exact(logits.cols())
}
