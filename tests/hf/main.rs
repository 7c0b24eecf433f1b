//! Hugging Face directories. `tests/golden` holds directories that `transformers` wrote; everything read is compared
//! with what the safetensors crate reads from them, and everything written with the files themselves.

#![allow(clippy::unwrap_used)]

mod command;
mod configs;
mod damage;
mod dirs;
mod export;
mod import;
mod memory;
mod refusals;
mod variants;
