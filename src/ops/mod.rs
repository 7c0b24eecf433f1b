//! The ops of a transformer, coarse and fused: forward above backward, one file each.

pub mod activation;
pub mod attention;
pub mod distill;
pub mod elementwise;
pub mod embedding;
pub mod head_norm;
pub mod linear;
pub mod loss;
pub mod matrix;
pub mod norm;
pub mod reduce;
pub mod rope;
pub mod sequence;
mod softmax;
