//! A network: embedding, blocks, head, and one unit of parameters for each.

use super::block::{Block, rope_table};
use super::embedding::Embedding;
use super::head::Head;
use crate::Result;
use crate::comm::Comm;
use crate::config::{ModelConfig, Spdf};
use crate::device::attention::KvCache;
use crate::device::gemm::to_panels;
use crate::device::{DType, Device};
use crate::params::{Declare, Dp, ParamSpec, Params};
use crate::tape::{At, Cx, ParamId, Past, Seq, Tape, Weights};
use crate::tensor::Tensor;
use crate::with_dtype;

pub struct Network {
    pub config: ModelConfig,
    pub dtype: DType,
    pub embed: Embedding,
    pub blocks: Vec<Block>,
    pub head: Head,
}

impl Network {
    /// The structure and this rank's part of the parameters, allocated but not filled. `tp` is (rank, size)
    /// of the tensor-parallel group. `seq_len` is the longest sequence that will be seen.
    pub fn build(
        config: &ModelConfig,
        dev: &Device,
        dtype: DType,
        tp: (usize, usize),
        dp: Dp,
        seq_len: usize,
    ) -> (Network, Params) {
        Network::sparse(config, None, dev, dtype, tp, dp, seq_len)
    }

    /// As `build`, with matrices stored as their kept blocks where `spdf` says so: then whole lines of these divide over tp
    /// (checked with the run file).
    pub fn sparse(
        config: &ModelConfig,
        spdf: Option<&Spdf>,
        dev: &Device,
        dtype: DType,
        tp: (usize, usize),
        dp: Dp,
        seq_len: usize,
    ) -> (Network, Params) {
        let declare = || Declare::new(tp.0, tp.1).in_blocks(dev, spdf);
        let mut units = Vec::with_capacity(config.layers + 2);
        let mut u = declare();
        let embed = Embedding::declare(config, dtype, &mut u);
        units.push(u.unit("embed", dev, dtype, dp));
        let rope = rope_table(config, if dev.is_meta() { 0 } else { seq_len });
        let blocks = (0..config.layers)
            .map(|layer| {
                let mut u = declare();
                let block = Block::declare(config, layer, rope.clone(), &mut u);
                units.push(u.unit(format!("blocks.{layer}"), dev, dtype, dp));
                block
            })
            .collect();
        let mut u = declare();
        let head = Head::declare(config, &embed, &mut u);
        units.push(u.unit("head", dev, dtype, dp));
        (Network { config: config.clone(), dtype, embed, blocks, head }, Params { units })
    }

    /// Every tensor of a model, as the model itself declares them.
    pub fn specs(config: &ModelConfig) -> Vec<ParamSpec> {
        let (_, params) = Network::build(config, &Device::meta(), DType::F32, (0, 1), Dp::SOLO, 1);
        params.iter().map(|(_, placed)| placed.spec.clone()).collect()
    }

    /// The units whose weights the loss reads and whose gradients it begins: the head's, and the embedding's if it is
    /// tied.
    pub fn loss_units(&self) -> Vec<usize> {
        let last = self.blocks.len() + 1;
        if self.head.projection(&self.embed).1 { vec![last] } else { vec![0, last] }
    }

    /// Whether the backward of a unit reads its weights: a look-up has only gradients.
    pub fn backward_reads(&self, unit: usize) -> bool {
        unit > 0 || self.embed.has_norm()
    }

    /// What the projection reads (N, C), without a record for a backward. With a past, after `into_panels`.
    pub fn forward(
        &self,
        dev: &Device,
        tp: &dyn Comm,
        params: &Params,
        seq: &Seq,
        past: Option<Past>,
    ) -> Result<Tensor> {
        let mut x = Tensor::default();
        for (layer, u) in params.units.iter().enumerate() {
            let cx = Cx { dev, tp, w: Weights(&u.weights), seq, at: At { step: 0, layer }, past };
            let mut tape = Tape::default();
            let y = match layer {
                0 => self.embed.forward(&mut tape, &cx, false)?,
                layer => {
                    let x = tape.input(std::mem::take(&mut x));
                    match self.blocks.get(layer - 1) {
                        Some(block) => block.forward(&mut tape, &cx, x)?,
                        None => self.head.forward(&mut tape, &cx, x)?,
                    }
                }
            };
            x = tape.value(y).clone();
        }
        Ok(x)
    }

    /// Turns the weights of all linear layers and of the projection into panels, in place, for forwards with a past.
    /// Training reads them no more.
    pub fn into_panels(&self, dev: &Device, params: &mut Params) {
        let (projection, own) = self.head.projection(&self.embed);
        let last = params.units.len() - 1;
        let blocks = self.blocks.iter().enumerate().flat_map(|(i, b)| b.matrices().map(|w| (i + 1, w)));
        let head = self.head.dense().map(|w| (last, w));
        let all: Vec<(usize, ParamId)> =
            blocks.chain(head).chain([(if own { last } else { 0 }, projection)]).collect();
        for (unit, w) in all {
            let weights = &mut params.units[unit].weights;
            with_dtype!(weights.dtype(), T => {
                to_panels::<T>(dev.pool(), &mut weights.data_mut()[w.range()], w.rows, w.cols)
            });
        }
    }

    /// Room for the keys and values of `slots` sequences of up to `capacity` tokens.
    pub fn cache(&self, dev: &Device, slots: usize, capacity: usize) -> KvCache {
        let heads = self.blocks.first().expect("a model has layers").heads();
        KvCache::new(dev, self.dtype, self.blocks.len(), heads, slots, capacity)
    }
}
