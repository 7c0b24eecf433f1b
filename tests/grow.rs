//! Growth (`src/method/grow`): what is lossless is so to rounding, in every family and for sizes at random; what is not says
//! so; gradients of copies follow the rule by which moments are carried.

#![allow(clippy::unwrap_used)]

#[path = "common/batch.rs"]
mod batch;
#[path = "grow/command.rs"]
mod command;
#[path = "grow/exact.rs"]
mod exact;
#[path = "grow/gradients.rs"]
mod gradients;
#[path = "grow/models.rs"]
mod models;
#[path = "grow/operators.rs"]
mod operators;
#[allow(dead_code)] // what tests of resumes need besides
#[path = "common/process.rs"]
mod process;
#[path = "common/random.rs"]
mod random;
#[path = "common/replica.rs"]
mod replica;
