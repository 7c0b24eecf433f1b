//! How the tokens of a corpus are stored and read.
//!
//! A `Source` is one file, mapped under a guard or read by position; `Parts` and `Frames` make of plain and compressed
//! files the bytes that PREFIX.bin would have, and `Tokens` is either. `open` finds the files, `stage` copies them to the
//! node first.

mod adopt;
mod compress;
mod divide;
mod frames;
mod guard;
mod join;
mod open;
mod output;
mod parts;
mod repack;
mod sides;
mod source;
mod stage;
mod table;
mod tokens;

pub use adopt::{Adopt, Adopted, adopt};
pub use divide::{Share, split};
pub use join::{Merged, merge};
pub(super) use open::{Form, describe, stage, stage_beside};
pub use repack::{Compressed, compress_corpus};
pub(super) use source::{Access, Source};
pub(super) use stage::Staged;
pub(super) use tokens::{Tokens, sampled_file};
