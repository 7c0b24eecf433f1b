//! Truncated and hostile weight files end in one sentence, never in a panic.

use super::dirs::*;
use espalier::hf::HfSource;
use std::path::Path;

fn refused(dir: &Path, wanted: &[&str]) {
    let error = HfSource::open(dir).err().unwrap();
    assert_says(&error, wanted);
}

#[test]
fn a_truncated_file_is_refused_at_every_length() {
    let dir = altered("llama", |_, _| ());
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let lengths = (0..16).chain((16..header).step_by(97)).chain([header, header + 1, bytes.len() - 1]);
    for len in lengths {
        std::fs::write(&path, &bytes[..len]).unwrap();
        refused(dir.path(), &["model.safetensors", "not a sound", &format!("{len} bytes")]);
    }
    std::fs::write(&path, [&bytes[..], b"more"].concat()).unwrap();
    refused(dir.path(), &["not a sound"]);
}

#[test]
fn headers_that_lie_are_refused() {
    let dir = altered("llama", |_, _| ());
    let path = dir.path().join("model.safetensors");
    let t = |info: &str| format!("{{\"t\":{{\"dtype\":\"F32\",{info}}}}}");
    let headers = [
        "not json".to_string(),
        t("\"shape\":[4],\"data_offsets\":[0,12]"),
        t("\"shape\":[4],\"data_offsets\":[16,0]"),
        t("\"shape\":[4],\"data_offsets\":[0,18446744073709551615]"),
        t("\"shape\":[4294967296,4294967296,4294967296],\"data_offsets\":[0,16]"),
        t("\"shape\":[-4],\"data_offsets\":[0,16]"),
        t("\"shape\":[4],\"data_offsets\":[4,20]"),
        "{\"t\":{\"dtype\":\"Q9\",\"shape\":[4],\"data_offsets\":[0,16]}}".to_string(),
        "[".repeat(100_000),
    ];
    for header in headers {
        let len = (header.len() as u64).to_le_bytes();
        std::fs::write(&path, [&len, header.as_bytes(), &[0; 16]].concat()).unwrap();
        refused(dir.path(), &["model.safetensors"]);
    }
    for len in [u64::MAX, u64::MAX - 7, 1 << 40] {
        std::fs::write(&path, [&len.to_le_bytes()[..], &[b' '; 64]].concat()).unwrap();
        refused(dir.path(), &["model.safetensors"]);
    }
    std::fs::write(&path, "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n").unwrap();
    refused(dir.path(), &["git lfs pull"]);
}

#[test]
fn a_changed_byte_anywhere_in_a_header_never_panics() {
    let dir = altered("gpt2", |_, _| ());
    let path = dir.path().join("model.safetensors");
    let bytes = std::fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut refused = 0;
    for at in (0..header).step_by(5) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 7);
        std::fs::write(&path, &bytes).unwrap();
        if let Err(e) = HfSource::open(dir.path()) {
            assert_says(&e, &[]);
            refused += 1;
        }
    }
    assert!(refused * 5 > header * 9 / 10, "{refused} of {} changes were noticed", header / 5);
}

#[test]
fn an_index_that_lies_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden("llama-sharded")).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = dir.path().join("model.safetensors.index.json");
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(HfSource::open(dir.path()).is_ok());
    let cases = [
        ("model-00002-of-00005.safetensors", "../model.safetensors", "not the name of a file"),
        ("model-00002-of-00005.safetensors", "/etc/passwd", "not the name of a file"),
        ("model-00002-of-00005.safetensors", "model-00009-of-00005.safetensors", "cannot open"),
        ("model.norm.weight", "model.norms.weight", "model.norms.weight is not in model-00005"),
        (
            "\"model.norm.weight\": \"model-00005",
            "\"model.norm.weight\": \"model-00001",
            "is not in model-00001",
        ),
        ("weight_map", "weights", "not an index"),
        ("{", "", "not an index"),
    ];
    for (from, to, want) in cases {
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        refused(dir.path(), &[want]);
    }
    std::fs::remove_file(&path).unwrap();
    refused(dir.path(), &["holds neither model.safetensors nor model.safetensors.index.json"]);
}
