//! Checkpoints: RUN/ckpt/step-00000500 with `weights-r00000.safetensors` (one per tp rank), `optim-r00000.safetensors`
//! (master, m, v, ema; one per rank that keeps some), texts such as `run.toml`, and, last, `manifest.json`.
//!
//! - A directory is a checkpoint when its manifest is there; the manifest has the size and checksum of every file, and
//!   its own. Values are checked before they are used, so a checkpoint is read as it was written or not at all.
//! - Files hold pieces of logical tensors (`piece.rs`), so any topology reads what any other wrote; padding of the flat
//!   buffers never gets here.
//! - Equal states give equal bytes.

mod behind;
mod disk;
mod file;
mod folder;
mod index;
mod manifest;
mod merge;
mod open;
mod piece;
mod save;
mod state;
#[cfg(test)]
mod tests;
mod whole;

pub use disk::replace;
pub use folder::{Found, Search, discard, list, newest, prunable, prune, remove, resolve, search, step_dir};
pub use manifest::{Clocks, CorpusId, FORMAT_VERSION, FileEntry, Manifest, Meta, Topology};
pub use merge::merge;
pub use open::{Checkpoint, OfKind, Values, Weights};
pub use piece::{Area, Kind};
pub use save::{Saved, Saving, begin, save};
pub use state::SaveState;
pub use whole::{Whole, write_whole};
