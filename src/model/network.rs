//! A network: embedding, blocks, head, and one unit of parameters for each.

use super::block::{Block, rope_table};
use super::embedding::Embedding;
use super::head::Head;
use crate::config::ModelConfig;
use crate::device::{DType, Device};
use crate::params::{Declare, Dp, Params};

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
        let declare = || Declare::new(tp.0, tp.1);
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
}
