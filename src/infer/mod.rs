//! Text from a trained model: the engine that says what may come next, the sampler that chooses, and the loop that
//! carries several sequences of different lengths at once.
//!
//! A sequence gets the same tokens whatever else is in the batch: every row of every product has its own bits
//! (`device::gemm`), and a draw is a function of (seed, prompt, sample, position).

mod engine;
mod run;
mod sample;

pub use engine::{Engine, Piece, Setup};
pub use run::{Done, Event, Request, Run, Totals, window_start};
pub use sample::Sampling;
