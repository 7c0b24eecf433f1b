//! Facts about a model that follow from its configuration.

use super::model::{Activation, Head, ModelConfig};

impl Activation {
    /// The MLP has a gate: [gate | up] in, half as wide out.
    pub fn is_glu(self) -> bool {
        matches!(self, Activation::SwiGlu | Activation::GeGlu | Activation::GeGluTanh)
    }
    /// The same curve without a gate, for a masked-LM head. (SwiGLU's curve has no plain form here: GELU.)
    pub fn ungated(self) -> Activation {
        match self {
            Activation::GeGluTanh => Activation::GeluTanh,
            Activation::SwiGlu | Activation::GeGlu => Activation::Gelu,
            plain => plain,
        }
    }
}

impl ModelConfig {
    /// Weights used in matrix products: the head once, also when tied; embedding look-ups, norms and biases not.
    pub fn matmul_params(&self) -> u64 {
        let transform = if self.head == Head::Mlm { self.dim * self.dim } else { 0 };
        self.block_matrix_params() + (transform + self.dim * self.vocab) as u64
    }
    /// Those of the matrices of blocks.
    pub fn block_matrix_params(&self) -> u64 {
        let attention = self.dim * self.head_dim * (2 * self.heads + 2 * self.kv_heads);
        let mlp = self.dim * self.ffn_dim * if self.is_glu() { 3 } else { 2 };
        (self.layers * (attention + mlp)) as u64
    }
    /// FLOPs of one token, forward and backward: 6 per weight in a product, and attention over `seq_len` tokens in
    /// full or, `causal`, half of it (Megatron's and nanoGPT's conventions).
    pub fn flops_per_token(&self, seq_len: usize, causal: bool) -> f64 {
        let attention = 12.0 * (self.layers * self.heads * self.head_dim * seq_len) as f64;
        6.0 * self.matmul_params() as f64 + if causal { attention / 2.0 } else { attention }
    }
}
