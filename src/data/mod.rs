//! Corpora and what is drawn from them.
//!
//! Text becomes a corpus (`build`, `writer`): PREFIX.bin and PREFIX.idx in Megatron's indexed format and PREFIX.json,
//! which says what the tokens are. A `Corpus` maps the files. A run draws from several corpora (`Domain`): sample i of
//! a run is a function of (seed, ledger, i) alone. The `Ledger` says which domain sample i comes from (`mixture`), a
//! keyed permutation says which window of it (`order`), and a `Sampler` turns windows into a `Batch` with document
//! boundaries and target weights. Documents held out by their hash never get a target weight; `HeldOut` evaluates them.

mod batch;
pub mod build;
mod corpus;
mod heldout;
mod idx;
mod meta;
mod mixture;
mod order;
mod sample;
mod sampler;
pub mod side;
mod staging;
mod store;
pub mod tokenizer;
mod writer;

pub use batch::{Attention, Batch};
pub use build::{Summary, build_bytes};
pub use corpus::Corpus;
pub use heldout::HeldOut;
pub use meta::{BYTE_END, BYTE_VOCAB, Meta, Part, PartType, Tokenizer};
pub use mixture::{Entry, Ledger, Mixture, Snapshot};
pub use order::Order;
pub use sample::{Domain, Sample};
pub use sampler::Sampler;
pub use store::{Adopt, Adopted, Compressed, Merged, Share, adopt, compress_corpus, merge, split};
pub use writer::CorpusWriter;
