//! The order `megatron`: that of Megatron-LM's GPT datasets, sample for sample.
//!
//! The training part of a corpus (`blend::split`, by sequences) is repeated for E epochs and its sequences are shuffled
//! into the document index. Read one after another they are a text that is cut every T tokens, each sample one token
//! longer than that: the sample index. The shuffle index says which of these is the k-th. A last epoch that is needed
//! for less than 80 % is shuffled apart. All three depend on the number of samples the run asks for, so a longer run is
//! another order from its beginning on.
//!
//! Source: `megatron/core/datasets/gpt_dataset.py`, `helpers.cpp`, `blended_dataset.py` of megatron-core 0.16.

mod arrays;
pub(super) mod blend;
mod open;
mod random;

pub(super) use arrays::{Arrays, Key, Size};
pub(super) use blend::Blend;
pub(super) use open::sources;
