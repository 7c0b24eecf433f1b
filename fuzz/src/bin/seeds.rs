//! Writes small good files to corpus/TARGET, from which the fuzzer begins: `cargo run --bin seeds` in this folder.

use espalier::data::compress_corpus;
use espalier::{folder, index, json, put};
use std::path::Path;

fn seed(target: &str, name: &str, parts: &[&[u8]]) {
    let folder = Path::new("corpus").join(target);
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join(name), parts.concat()).expect("written");
}

fn main() {
    seed("idx", "two", &[&10u16.to_le_bytes(), &index(&[4, 6], &[0, 1, 2])]);
    seed("idx", "empty", &[&10u16.to_le_bytes(), &index(&[4, 0, 6], &[0, 2, 2, 3])]);
    seed("meta", "plain", &[json(10, 2).as_bytes()]);
    let parts = json(10, 2).replace('}', "");
    let part = "\"parts\": [{\"path\": \"web.bin\", \"offset\": 4, \"tokens\": 8, \"dtype\": \"u16\"}, \
                {\"path\": \"web.bin\", \"offset\": 0, \"tokens\": 2, \"dtype\": \"u16\"}]";
    let parts = parts.replacen("\"0000000000000001\"", "\"0000000000000001\"}", 1);
    seed("meta", "parts", &[format!("{parts}, {part}}}").as_bytes()]);
    let mut sampled = json(10, 2).replacen("\"end", "\"sampled_xxh3\": \"0000000000000000\", \"end", 1);
    seed("meta", "sampled", &[sampled.as_bytes()]);

    let tokens: Vec<u8> = (0..20_000u32).flat_map(|i| ((i * i % 251) as u16).to_le_bytes()).collect();
    put("seed.bin", &tokens);
    put("seed.idx", &index(&[20_000], &[0, 1]));
    let sum = xxhash_rust::xxh3::xxh3_64(&tokens);
    sampled = json(20_000, 1).replacen("0000000000000000", &format!("{sum:016x}"), 1);
    put("seed.json", sampled.as_bytes());
    compress_corpus(&folder().join("seed"), 3, false, Some(1), &mut |_, _| {}).expect("compressed");
    let packed = std::fs::read(folder().join("seed.bin.zst")).expect("read");
    seed("zst", "ours", &[&20_000u16.to_le_bytes(), &packed]);
    let one = zstd::bulk::compress(&tokens, 3).expect("compressed");
    let table = [0x184D_2A5E, 17, one.len() as u32, tokens.len() as u32, 1].map(u32::to_le_bytes).concat();
    let end = [&[0][..], &0x8F92_EAB1u32.to_le_bytes()].concat();
    seed("zst", "foreign", &[&20_000u16.to_le_bytes(), &one, &table, &end]);

    let llmc = |magic: u32, version: u32, tokens: &[u8], item: u32| {
        let mut bytes = [magic, version, tokens.len() as u32 / item].map(u32::to_le_bytes).concat();
        bytes.resize(1024, 0);
        [&bytes, tokens].concat()
    };
    let numbers: Vec<u8> = (0..40u8).map(|i| if i % 2 == 0 { i % 7 } else { 0 }).collect();
    seed("llmc", "gpt2", &[&[33], &llmc(20_240_520, 1, &numbers, 2)]);
    seed("llmc", "llama3", &[&[0], &llmc(20_240_801, 7, &numbers, 4)]);
    seed("llmc", "raw", &[&[64 + 33], &numbers]);
    let ends = [3u64, 3, 20].map(u64::to_le_bytes).concat();
    seed("datatrove", "u16", &[&40u16.to_le_bytes(), &numbers, &ends]);
    let ends = [3u64, 10].map(u64::to_le_bytes).concat();
    seed("datatrove", "u32", &[&40u16.to_le_bytes(), &numbers, &ends]);

    let header = |kind: u8, dtype: u8, count: u64, payload: &[u8]| {
        let mut bytes = b"ESPSIDE\0".to_vec();
        bytes.extend(1u32.to_le_bytes());
        bytes.extend([kind, dtype, 0, 0]);
        bytes.extend([0, count, xxhash_rust::xxh3::xxh3_64(payload)].map(u64::to_le_bytes).concat());
        bytes.resize(64, 0);
        [&bytes, payload].concat()
    };
    seed("side", "u8", &[&header(0, 0, 10, &[1; 10])]);
    seed("side", "f16", &[&header(0, 1, 10, &[60; 20])]);
    seed("side", "f64", &[&header(1, 3, 2, &[60; 16])]);
    let texts = [&[0u64, 2, 3].map(u64::to_le_bytes).concat()[..], b"abc"].concat();
    seed("side", "utf8", &[&header(1, 5, 2, &texts)]);
}
