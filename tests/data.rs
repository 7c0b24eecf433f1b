//! Corpora and sampling through the public interface: files, hostile files, batches, held-out evaluation.

#![allow(clippy::unwrap_used)] // here it is how a test fails

#[path = "data/building.rs"]
mod building;
#[path = "data/files.rs"]
mod files;
#[path = "data/heldout.rs"]
mod heldout;
#[path = "data/hostile.rs"]
mod hostile;
#[path = "data/killed.rs"]
mod killed;
#[path = "data/sampling.rs"]
mod sampling;
#[path = "data/side.rs"]
mod side;

use espalier::data::{BYTE_END, BYTE_VOCAB, Corpus, CorpusWriter, Domain, Tokenizer};
use std::path::Path;
use std::sync::Arc;

/// A byte corpus of documents with these lengths (end of document included), with varied text.
fn corpus(folder: &Path, name: &str, lengths: &[usize]) -> Arc<Corpus> {
    let prefix = folder.join(name);
    let mut writer = CorpusWriter::create(&prefix, BYTE_VOCAB, Tokenizer::byte(), Some(BYTE_END)).unwrap();
    let mut state = 12345u32;
    for &length in lengths {
        let text: Vec<u32> = (1..length)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                state >> 24
            })
            .collect();
        writer.push(&text).unwrap();
        writer.end_document(text.len() as u64).unwrap();
    }
    writer.finish().unwrap();
    Arc::new(Corpus::open(&prefix).unwrap())
}

fn domain(name: &str, corpus: &Arc<Corpus>, holdout: f64) -> Domain {
    Domain { name: name.into(), corpus: corpus.clone(), holdout, max_epochs: None }
}

/// Lengths of many documents, from 2 tokens to a few windows of 16.
fn varied(documents: usize) -> Vec<usize> {
    (0..documents).map(|i| 2 + (i * i * 7 + i * 13) % 61).collect()
}

/// All tokens, and for each the document it is in.
fn flat(corpus: &Corpus) -> (Vec<u32>, Vec<u64>) {
    let mut tokens = vec![0; corpus.tokens() as usize];
    corpus.read(0, &mut tokens).unwrap();
    let mut documents = Vec::new();
    for doc in 0..corpus.documents() {
        let range = corpus.document_range(doc).unwrap();
        documents.resize(range.end as usize, doc);
    }
    (tokens, documents)
}
