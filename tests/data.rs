//! Corpora and sampling through the public interface: files, hostile files, batches, held-out evaluation.

#![allow(clippy::unwrap_used)] // here it is how a test fails

#[path = "data/adopting.rs"]
mod adopting;
#[path = "data/building.rs"]
mod building;
#[path = "data/compressed.rs"]
mod compressed;
#[path = "data/empty.rs"]
mod empty;
#[path = "data/files.rs"]
mod files;
#[path = "data/heldout.rs"]
mod heldout;
#[path = "data/hostile.rs"]
mod hostile;
#[path = "data/killed.rs"]
mod killed;
#[path = "data/megatron.rs"]
mod megatron;
#[path = "data/merging.rs"]
mod merging;
#[path = "data/orders.rs"]
mod orders;
#[path = "data/sampling.rs"]
mod sampling;
#[path = "data/side.rs"]
mod side;
#[path = "data/sources.rs"]
mod sources;

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
    let mut domain = Domain::new(name, corpus.clone());
    domain.holdout = holdout;
    domain
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

/// The bytes of a .idx, put together from the published format.
fn index(dtype: u8, lengths: &[i32], documents: &[i64]) -> Vec<u8> {
    let item = if dtype == 8 { 2 } else { 4 };
    let mut bytes = b"MMIDIDX\0\0".to_vec();
    bytes.extend(1u64.to_le_bytes());
    bytes.push(dtype);
    bytes.extend([lengths.len() as u64, documents.len() as u64].map(u64::to_le_bytes).concat());
    lengths.iter().for_each(|length| bytes.extend(length.to_le_bytes()));
    let mut at = 0i64;
    for &length in lengths {
        bytes.extend(at.to_le_bytes());
        at += i64::from(length) * item;
    }
    documents.iter().for_each(|document| bytes.extend(document.to_le_bytes()));
    bytes
}
