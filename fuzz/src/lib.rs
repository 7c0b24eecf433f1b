//! The modules of espalier that read corpora, and what the fuzz targets share: files made of the fuzzer's bytes, and
//! everything that can be asked of a corpus. Errors are what damaged files should give; a panic or a fault is a find.

#[path = "../../src/config/mod.rs"]
#[allow(dead_code, unused_imports)]
pub mod config;
#[path = "../../src/error.rs"]
pub mod error;

#[allow(dead_code, unused_imports)]
#[path = "../../src/data"]
pub mod data {
    mod corpus;
    mod idx;
    mod meta;
    pub mod side;
    mod store;

    pub use corpus::Corpus;
    pub use meta::{Meta, Part, PartType, Tokenizer};
    pub use store::{Adopt, Adopted, adopt, compress_corpus, merge, split};
}

pub use error::{Error, Result};

use data::{Adopt, Corpus};
use std::path::{Path, PathBuf};

/// A folder of this process, in memory where there is one.
pub fn folder() -> PathBuf {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_path_buf() } else { std::env::temp_dir() };
    let folder = parent.join(format!("espalier-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

/// A file of it.
pub fn put(name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder().join(name);
    std::fs::write(&path, bytes).expect("written");
    path
}

/// A description that fits `tokens` and `documents`, without the sum of samples.
pub fn json(tokens: u64, documents: u64) -> String {
    format!(
        "{{\"format\": \"espalier-corpus\", \"version\": 1, \"vocab\": 60000, \"tokenizer\": {{\"kind\": \"x\", \"hash\": \
         \"0000000000000001\"}}, \"end_of_document\": null, \"tokens\": {tokens}, \"documents\": {documents}, \
         \"source_bytes\": 0, \"bin_xxh3\": \"0000000000000000\", \"idx_xxh3\": \"0000000000000000\"}}"
    )
}

/// The bytes of an index of u16 tokens.
pub fn index(lengths: &[i32], documents: &[i64]) -> Vec<u8> {
    let mut bytes = b"MMIDIDX\0\0".to_vec();
    bytes.extend(1u64.to_le_bytes());
    bytes.push(8);
    bytes.extend([lengths.len() as u64, documents.len() as u64].map(u64::to_le_bytes).concat());
    lengths.iter().for_each(|length| bytes.extend(length.to_le_bytes()));
    let mut at = 0i64;
    for &length in lengths {
        bytes.extend(at.to_le_bytes());
        at += 2 * i64::from(length);
    }
    documents.iter().for_each(|document| bytes.extend(document.to_le_bytes()));
    bytes
}

/// Asks for everything, at ends and in the middle.
pub fn use_all(prefix: &Path) -> Result<()> {
    let c = Corpus::open(prefix)?;
    let n = c.tokens();
    let mut tokens = vec![0; n.min(5000) as usize];
    let _ = c.read(0, &mut tokens);
    let _ = c.read(n - tokens.len() as u64, &mut tokens);
    let _ = c.read(n / 2, &mut tokens);
    for token in [0, n / 3, n / 2, n - 1, n, u64::MAX] {
        if let Ok(doc) = c.document_at(token) {
            assert!(doc < c.documents());
        }
    }
    for doc in [0, c.documents() / 2, c.documents() - 1, c.documents(), u64::MAX] {
        if let Ok(range) = c.document_range(doc) {
            assert!(range.start <= range.end && range.end <= n);
        }
        let _ = c.document_hash(doc);
    }
    for sequence in [0, c.sequences() / 2, c.sequences(), u64::MAX] {
        if let Ok(range) = c.sequence_range(sequence) {
            assert!(range.start <= range.end && range.end <= n);
        }
    }
    let mut starts = vec![0; (c.documents() + 1).min(5000) as usize];
    let _ = c.document_starts(0, &mut starts);
    let _ = c.document_sequences(0, &mut starts);
    let mut lengths = vec![0; c.sequences().min(5000) as usize];
    let _ = c.sequence_lengths(0, &mut lengths);
    c.unchanged()?;
    c.verify()
}

/// Adopts a file and uses what came out.
pub fn adopt_all(input: PathBuf, eod: Option<u32>, dtype: Option<data::PartType>) {
    let out = folder().join("adopted");
    let what = Adopt {
        inputs: vec![input],
        out: Some(out.clone()),
        tokenizer: "x".into(),
        vocab: Some(1 << 31),
        eod,
        dtype,
    };
    if data::adopt(&what, &mut |_, _| {}).is_ok() {
        use_all(&out).expect("what was adopted is sound");
    }
}
