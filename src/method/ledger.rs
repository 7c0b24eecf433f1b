//! What a token costs by the rules of the papers, and what it costs here: FLOPs of forward and backward, a multiply-add being
//! two. Norms, softmax, biases and the optimizer count nothing.
//!
//!     forward = 2 · (weights in products − zeros) + 4 · S · H · D · L,  training = 3 · forward
//!
//! Attention is counted over all pairs of tokens, or half of it where the mask is causal. SPDF's "2.5x fewer FLOPs" is of all
//! pairs and does not count the embedding; Chinchilla and the table of Cerebras-GPT count that as a product with V · d
//! weights too.

use super::spdf::About;
use crate::config::ModelConfig;
use serde::Serialize;

/// Whether the look-up of embeddings counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Embedding {
    /// As nothing: SPDF.
    LookUp,
    /// As a matrix product: Chinchilla, Cerebras-GPT.
    Product,
}

/// FLOPs of a token in training where so many weights of products are zero and cost nothing.
pub fn flops_per_token(
    m: &ModelConfig,
    seq_len: usize,
    causal: bool,
    embedding: Embedding,
    zeros: u64,
) -> f64 {
    let looked_up = match embedding {
        Embedding::LookUp => 0.0,
        Embedding::Product => 6.0 * (m.vocab * m.dim) as f64,
    };
    m.flops_per_token(seq_len, causal) + looked_up - 6.0 * zeros as f64
}

/// FLOPs of a token with attention over all pairs, and with half of it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Both {
    pub full: f64,
    pub causal: f64,
}

/// FLOPs of a token of a phase.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ledger {
    pub dense: Both,
    /// Zeros cost nothing.
    pub sparse: Both,
    /// The two with the embedding counted as a product.
    pub dense_with_embedding: Both,
    pub sparse_with_embedding: Both,
    /// What is computed here: zeros are multiplied like all others, or nothing of them is.
    pub executed: Both,
}

/// Of a phase with these zeros.
pub fn of_phase(m: &ModelConfig, seq_len: usize, masks: &About) -> Ledger {
    let both = |embedding, zeros| {
        let [full, causal] =
            [false, true].map(|causal| flops_per_token(m, seq_len, causal, embedding, zeros));
        Both { full, causal }
    };
    Ledger {
        dense: both(Embedding::LookUp, 0),
        sparse: both(Embedding::LookUp, masks.zeros),
        dense_with_embedding: both(Embedding::Product, 0),
        sparse_with_embedding: both(Embedding::Product, masks.zeros),
        executed: both(Embedding::LookUp, masks.left_out()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Pattern, Positions, Spdf};

    /// A GPT with sequences of 2048 tokens.
    fn gpt(layers: usize, dim: usize) -> ModelConfig {
        let base = ModelConfig::preset("gpt3-xl").expect("a preset");
        ModelConfig {
            layers,
            dim,
            heads: dim / 64,
            kv_heads: dim / 64,
            head_dim: 64,
            ffn_dim: 4 * dim,
            vocab: 50257,
            positions: Positions::Learned { max: 2048 },
            max_positions: 2048,
            ..base
        }
    }

    fn zeros(m: &ModelConfig, sparsity: f64) -> u64 {
        let spdf = Spdf { matches: vec![], pattern: Pattern::Unstructured, sparsity, seed: 0 };
        spdf.zeros(m.block_matrix_params())
    }

    fn forward(m: &ModelConfig, sparsity: f64) -> f64 {
        flops_per_token(m, 2048, false, Embedding::LookUp, zeros(m, sparsity)) / 3.0
    }

    fn close(got: f64, want: f64, relative: f64) {
        assert!((got / want - 1.0).abs() < relative, "{got:e}, not {want:e}");
    }

    #[test]
    fn sparse_models_cost_what_the_paper_says_in_its_own_counting() {
        // GPT-2 small, GPT-3 XL and 6.7B: dense forward, and the share at 25, 50, 75 and 90 %.
        let small = (gpt(12, 768), 3.2256e8, [0.868, 0.737, 0.605, 0.526]);
        let xl = (gpt(24, 2048), 3.0244e9, [0.800, 0.601, 0.401, 0.281]);
        let large = (gpt(32, 4096), 1.4370e10, [0.776, 0.552, 0.328, 0.193]);
        for (m, dense, shares) in [&small, &xl, &large] {
            close(forward(m, 0.0), *dense, 1e-4);
            for (s, share) in [0.25, 0.5, 0.75, 0.9].into_iter().zip(shares) {
                assert!((forward(m, s) / forward(m, 0.0) - share).abs() < 6e-4, "{s}");
            }
        }
        let fewer = |m: &ModelConfig| forward(m, 0.0) / forward(m, 0.75);
        assert_eq!(format!("{:.2} {:.2}", fewer(&small.0), fewer(&xl.0)), "1.65 2.49");
        // Causal attention in half is more favourable, the embedding as a product less.
        let count = |causal, embedding, s| flops_per_token(&xl.0, 2048, causal, embedding, zeros(&xl.0, s));
        let ratio = |causal, embedding| count(causal, embedding, 0.0) / count(causal, embedding, 0.75);
        assert_eq!(format!("{:.2}", ratio(true, Embedding::LookUp)), "2.79");
        assert_eq!(format!("{:.2}", ratio(false, Embedding::Product)), "2.28");
        // 6.7B in two phases, 90 % sparse for 133.17 G tokens, dense for 19.98 G.
        let two = 133.17 * forward(&large.0, 0.9) + 19.98 * forward(&large.0, 0.0);
        assert_eq!(format!("{:.3}", two / (133.17 * forward(&large.0, 0.0))), "0.343");
        // Whole trainings at 75 %.
        close(3.0 * 2.5e9 * forward(&small.0, 0.75), 1.464e18, 1e-3);
        close(3.0 * 26e9 * forward(&xl.0, 0.75), 9.457e19, 1e-3);
    }

    #[test]
    fn with_the_embedding_as_a_product_it_is_the_table_of_cerebras_gpt() {
        // Layers, width, tokens (sequences · updates · 2048), FLOPs of the table.
        for (layers, dim, sequences, updates, table) in [
            (10, 768, 120.0, 9_037.0, 2.5e18),
            (14, 1088, 264.0, 9_468.0, 1.1e19),
            (18, 1536, 264.0, 21_836.0, 5.3e19),
            (24, 2048, 528.0, 24_334.0, 2.5e20),
            (32, 2560, 528.0, 49_041.0, 9.8e20),
            (32, 4096, 1040.0, 62_522.0, 5.9e21),
            (40, 5120, 720.0, 174_335.0, 2.1e22),
        ] {
            let each = flops_per_token(&gpt(layers, dim), 2048, false, Embedding::Product, 0);
            close(each * sequences * updates * 2048.0, table, 0.05);
        }
    }

    #[test]
    fn weights_and_zeros_are_counted_to_the_integer() {
        for (m, all, sparse, left) in [
            (gpt(24, 2048), 1_315_723_264, 1_207_959_552, 409_753_600),
            (gpt(12, 768), 125_226_240, 84_934_656, 61_525_248),
        ] {
            assert_eq!((m.params(), m.block_matrix_params()), (all, sparse));
            assert_eq!(m.params() - zeros(&m, 0.75), left);
        }
    }
}
