//! Corpora and what is drawn from them.
//!
//! Text becomes a corpus (`build`, `writer`): PREFIX.bin and PREFIX.idx in Megatron's indexed format and PREFIX.json,
//! which says what the tokens are. A `Corpus` maps the files. A run draws from several corpora (`Domain`): sample i of
//! a run is a function of (seed, ledger, i). The `Ledger` says which domain sample i comes from (`mixture`), a keyed
//! permutation says which row of it (`order`; or Megatron's arrays, `megatron`), `packing` says which pieces of the
//! corpus are that row, and a `Sampler` turns them into a `Batch` with document boundaries and target weights (`row`).
//! A `Cursor` is what a sampler needs to know of the run file. Documents that are held out never get a target weight;
//! `HeldOut` evaluates them. `prove` checks that a range of samples repeats and skips nothing.

mod batch;
pub mod build;
mod corpus;
mod cursor;
mod domain;
mod heldout;
mod idx;
mod megatron;
mod meta;
mod mixture;
pub mod ngram;
mod order;
mod packing;
mod prove;
mod row;
mod sample;
mod sampler;
pub mod side;
mod source;
mod staging;
mod store;
pub mod tokenizer;
mod writer;

pub use batch::{Attention, Batch};
pub use build::{Summary, build_bytes};
pub use corpus::Corpus;
pub use cursor::{Cursor, first_sample};
pub use domain::Domain;
pub use heldout::HeldOut;
pub use meta::{BYTE_END, BYTE_VOCAB, Meta, Part, PartType, Tokenizer};
pub use mixture::{Entry, Ledger, Mixture, Snapshot};
pub use order::Order;
pub use prove::{DomainProof, Proof};
pub use row::Piece;
pub use sample::{Origin, Sample};
pub use sampler::Sampler;
pub use store::{Adopt, Adopted, Compressed, Merged, Share, adopt, compress_corpus, merge, split};
pub use writer::CorpusWriter;
