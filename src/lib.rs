//! espalier pretrains language models on many nodes. Read `train/step.rs`, then `model/block.rs`, then one op.
//!
//! Letters in formulas and shape comments: B batch, T tokens of a sequence, N = B·T, C model dim, H heads,
//! K kv heads, D head dim, F ffn dim, V vocab, L layers, R tp size, P dp size. Matrices are row-major, a weight
//! is (out, in).
//!
//! A module may use only modules of its own layer or below (`tests/layers.rs`):
//! `cmd` > `plan` `report` `bench` > `train` > `method` `hf` > `checkpoint` `data` `optim` `infer` > `model` > `params` > `ops` > `tape` > `comm` >
//! `tensor` `device` > `config` `rng` `signal` `error` `terminal`.

pub mod bench;
pub mod checkpoint;
pub mod cmd;
pub mod comm;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod hf;
pub mod infer;
pub mod method;
pub mod model;
pub mod ops;
pub mod optim;
pub mod params;
pub mod plan;
pub mod report;
pub mod rng;
pub mod signal;
pub mod tape;
pub mod tensor;
pub mod terminal;
pub mod train;

pub use error::{Error, Result};

/// The commit this was built from, "unknown" where the build knew none.
pub const GIT: &str = env!("ESPALIER_GIT");

/// The version of the package, with the commit.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (git ", env!("ESPALIER_GIT"), ")");
