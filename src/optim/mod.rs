//! Optimizers over the slices of units, and the gradient norm.

pub mod adamw;
pub mod ema;
mod fill;
mod moments;
pub mod muon;
pub mod norm;
pub mod state;
mod trained;

pub use muon::Ranks;
pub use state::{Hyper, Moment, Optimizer};
