//! The modules of espalier that read files, and what the fuzz targets share: files made of the fuzzer's bytes, and
//! everything that can be asked of what was opened. Errors are what damaged files should give; a panic or a fault is
//! a find. Modules are the sources themselves; of those that also need a network, only the files that read are here.

// The sources are those of the whole program, of which a target uses a part.
#![allow(dead_code, unused_imports)]

#[path = "../../src/config/mod.rs"]
pub mod config;
#[path = "../../src/data/mod.rs"]
pub mod data;
#[path = "../../src/device/mod.rs"]
mod device;
#[path = "../../src/error.rs"]
pub mod error;
#[path = "../../src/rng/mod.rs"]
mod rng;
#[path = "../../src/tensor.rs"]
mod tensor;

/// Without `open`, which loads into a network: `stored` stands for it.
#[path = "../../src/checkpoint"]
pub mod checkpoint {
    mod disk;
    pub mod file;
    pub mod index;
    pub mod manifest;
    pub mod piece;
}

/// Without the tensors of a network.
#[path = "../../src/hf"]
pub mod hf {
    mod atomic;
    mod bert;
    mod config;
    mod family;
    mod fields;
    mod files;
    mod gpt2;
    mod llama;
    mod map;
    mod qwen;
    mod rope;

    pub use config::{read_config, write_config};
    pub use files::Files;
}

#[path = "../../src/params"]
pub mod params {
    mod spec;

    pub use spec::{Init, LocalBox, ParamSpec, Shard};
}

pub use device::DType;
pub use error::{Error, Result};

use data::{Adopt, Corpus};
use std::collections::HashMap;
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

/// A checkpoint of manifest.json without its last line, the header of weights-r00000.safetensors and its values, divided
/// by bytes 0xff, which no JSON has. Sizes and checksums are put where the text says @bytes, @xxh3.
pub fn checkpoint_of(data: &[u8]) -> PathBuf {
    use xxhash_rust::xxh3::xxh3_64;
    let mut parts = data.splitn(3, |&b| b == 0xff);
    let mut part = || parts.next().unwrap_or_default();
    let (manifest, header, values) = (String::from_utf8_lossy(part()), part(), part());
    let file = safetensors(header, values);
    put("weights-r00000.safetensors", &file);
    let mut manifest = manifest.replace("@bytes", &file.len().to_string());
    manifest = manifest.replace("@xxh3", &format!("{:016x}", xxh3_64(&file)));
    manifest += &format!(",\n  \"xxh3\": \"{:016x}\"\n}}\n", xxh3_64(manifest.as_bytes()));
    put("manifest.json", manifest.as_bytes());
    folder()
}

/// The weights of Hugging Face: config.json, the index of shards (empty: there is none), the header of the safetensors
/// file and its values, divided as above.
pub fn weights_of(data: &[u8]) -> PathBuf {
    let mut parts = data.splitn(4, |&b| b == 0xff);
    let mut part = || parts.next().unwrap_or_default();
    put("config.json", part());
    let (index, header, values) = (part(), part(), part());
    let single = put("model.safetensors", &safetensors(header, values));
    put("model.safetensors.index.json", index);
    if !index.is_empty() {
        std::fs::rename(single, folder().join("a.safetensors")).expect("renamed");
    }
    folder()
}

fn safetensors(header: &[u8], values: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header, values].concat()
}

/// Opens a checkpoint and reads every tensor, as `Checkpoint` does.
pub fn stored(dir: &Path) -> Result<()> {
    use checkpoint::{file::StoredFile, index::Index, manifest::Manifest, piece::Area, piece::Kind};
    let manifest = Manifest::read(dir)?;
    let specs: HashMap<&str, _> = manifest.params.iter().map(|p| (p.name.as_str(), p)).collect();
    let open = |entry| StoredFile::open(dir, entry, &specs);
    let files = manifest.files.iter().map(open).collect::<Result<Vec<_>>>()?;
    let index = Index::new(dir, &files, &manifest.params)?;
    manifest.bytes();
    for spec in &manifest.params {
        for layout in Kind::ALL.into_iter().filter_map(|kind| index.get(kind, &spec.name)) {
            let all = Area::whole(spec);
            let mut values = vec![0.0; all.len()];
            layout.read(&files, all, 0..all.len(), &mut values)?;
            // The lower right quarter, where there is one: other boxes, other runs.
            let (row, col) = (spec.rows / 2, spec.cols / 2);
            let part = Area { row, rows: spec.rows - row, col, cols: spec.cols - col };
            let range = part.len() / 2..part.len();
            let mut again = vec![0.0f32; range.len()];
            layout.read(&files, part, range.clone(), &mut again)?;
            for (value, at) in again.iter().zip(range) {
                let from = (row + at / part.cols) * spec.cols + col + at % part.cols;
                assert_eq!(value.to_bits(), values[from].to_bits(), "an element has one value");
            }
        }
    }
    Ok(())
}
