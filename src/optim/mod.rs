//! Optimizers over the slices of units, and the gradient norm.

pub mod adamw;
pub mod ema;
mod moments;
pub mod norm;
pub mod state;

pub use state::{Hyper, Optimizer};
