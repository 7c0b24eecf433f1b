//! How the documents of a corpus become rows of T inputs: rows 0..R of one pass, each a list of pieces. Which row comes
//! when is left to the order.
//!
//! - `window`: row w is the tokens w·T to w·T + T, whatever documents they are of. R = ⌊(n − 1) / T⌋ for n tokens.
//! - `best-fit`: as many rows of the same tokens, but documents stay whole where they can (`best_fit`).
//! - `one-doc`: row j is the beginning of a document (`one_doc`).

mod best_fit;
mod one_doc;

pub(super) use best_fit::Packer;
pub use one_doc::OneDoc;
