//! The model: segments (embedding, block, head) and the network they make.

pub mod block;
pub mod embedding;
pub mod head;
pub mod network;

pub use network::Network;
