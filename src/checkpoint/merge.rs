//! A checkpoint of any number of ranks as one rank would have written it: the same tensors, bit by bit, in two files.

use super::open::Checkpoint;
use super::piece::Kind;
use super::save::Saved;
use super::whole::{Whole, write_whole};
use crate::Result;
use crate::device::DType;
use crate::params::ParamSpec;
use std::path::Path;

/// Writes the checkpoint `to`, a directory that is not there yet. Without `optimizer` only the weights, which can begin
/// a run (`init`) but not resume one.
pub fn merge(from: &Checkpoint, to: &Path, optimizer: bool) -> Result<Saved> {
    let old = from.manifest();
    let kinds = &Kind::ALL[..if optimizer { Kind::ALL.len() } else { 1 }];
    let sources: Vec<_> = kinds.iter().map(|&kind| from.values(kind)).collect();
    let types: Vec<_> = kinds
        .iter()
        .map(|&kind| move |spec: &ParamSpec| -> Result<Option<DType>> { from.dtype(kind, spec) })
        .collect();
    let whole = kinds.iter().zip(&sources).zip(&types);
    let whole: Vec<Whole> = whole.map(|((&kind, source), dtype)| Whole { kind, source, dtype }).collect();
    write_whole(to, &old.meta, &old.params, &whole, &from.texts()?)
}
