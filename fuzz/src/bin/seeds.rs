//! Writes small good files to corpus/TARGET, from which the fuzzer begins: `cargo run --bin seeds` in this folder.

use espalier::config::{ModelConfig, RunConfig};
use espalier::data::compress_corpus;
use espalier::data::tokenizer::{Tokenizer, TrainKind, train};
use espalier::{checkpoint_of, folder, hf, index, json, put, stored, weights_of};
use std::io::Write;
use std::path::Path;

fn seed(target: &str, name: &str, parts: &[&[u8]]) {
    let folder = Path::new("corpus").join(target);
    std::fs::create_dir_all(&folder).expect("a folder");
    std::fs::write(folder.join(name), parts.concat()).expect("written");
}

fn main() {
    corpora();
    runs();
    texts();
    tokenizers();
    checkpoints();
    weights();
    std::fs::remove_dir_all(folder()).expect("removed");
}

fn corpora() {
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

const RUN: &str = include_str!("../../../configs/quickstart.toml");
const ALL_KEYS: &str = include_str!("../../../configs/example.toml");

fn runs() {
    seed("run", "quickstart", &[RUN.as_bytes()]);
    seed("run", "example", &[ALL_KEYS.as_bytes()]);
    seed(
        "run",
        "set",
        &[RUN.as_bytes(), b"\xffphase.0.lr=2e-4\xffmodel.preset=gpt2-tiny\xffoptim.clip=none"],
    );
    let resolved = RunConfig::parse(ALL_KEYS, "example.toml", &[]).expect("it is sound").resolved_toml();
    seed("run", "resolved", &[resolved.as_bytes()]);
}

fn texts() {
    let lines = "{\"text\": \"a\\u00e9\", \"n\": 1, \"meta\": {\"x\": [1.5e3, null]}, \"ok\": true}\n\
                 {\"prompt\": \"p\", \"text\": \"\\ud83d\\ude00\", \"n\": -2.5}\n\n{\"text\": \"\"}\n";
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(lines.as_bytes()).expect("memory");
    let gzip = gzip.finish().expect("memory");
    let packed = zstd::bulk::compress(lines.as_bytes(), 3).expect("compressed");
    for (name, input) in [("plain", lines.as_bytes()), ("gzip", &gzip), ("zstd", &packed)] {
        seed("text", &format!("{name}-jsonl"), &[&[8], input]);
        seed("text", &format!("{name}-pairs"), &[&[8 + 2], input]);
        seed("text", &format!("{name}-named"), &[&[8 + 4], input]);
        seed("text", &format!("{name}-text"), &[&[1], input]);
    }
}

fn tokenizers() {
    let texts: Vec<String> = RUN.lines().chain(ALL_KEYS.lines()).map(String::from).collect();
    for (name, kind) in [("bpe", TrainKind::Bpe), ("wordpiece", TrainKind::WordPiece)] {
        let definition = train(kind, 300, &texts, Path::new("seeds")).expect("trained");
        let short = serde_json::from_str::<serde_json::Value>(&definition).expect("it is JSON").to_string();
        seed("tokenizer", name, &[short.as_bytes(), b"\xffun-heard of, 123 <|endoftext|>"]);
    }
    let rest = "\"normalizer\": {\"type\": \"NFC\"}, \"pre_tokenizer\": {\"type\": \"Metaspace\", \"replacement\": \"▁\", \
                \"prepend_scheme\": \"always\", \"split\": true}, \"post_processor\": null, \"decoder\": {\"type\": \
                \"Metaspace\", \"replacement\": \"▁\", \"prepend_scheme\": \"always\", \"split\": true}";
    let added = "{\"id\": 0, \"content\": \"<s>\", \"single_word\": false, \"lstrip\": false, \"rstrip\": true, \
                 \"normalized\": false, \"special\": true}";
    let models = [
        (
            "unigram",
            "\"type\": \"Unigram\", \"unk_id\": 0, \"vocab\": [[\"<s>\", 0.0], [\"▁\", -1.5], [\"a\", -2.0]]",
        ),
        (
            "words",
            "\"type\": \"WordLevel\", \"unk_token\": \"<s>\", \"vocab\": {\"<s>\": 0, \"The\": 1, \"un\": 5}",
        ),
        (
            "merges",
            "\"type\": \"BPE\", \"unk_token\": \"<s>\", \"vocab\": {\"<s>\": 0, \"a\": 1, \"b\": 2, \"ab\": 3}, \
                    \"merges\": [[\"a\", \"b\"]]",
        ),
    ];
    for (name, model) in models {
        let text =
            format!("{{\"version\": \"1.0\", \"added_tokens\": [{added}], {rest}, \"model\": {{{model}}}}}");
        Tokenizer::from_json(&text, Path::new(name)).expect("it is sound");
        seed("tokenizer", name, &[text.as_bytes()]);
    }
}

fn checkpoints() {
    use espalier::checkpoint::{file, manifest::*, piece::*};
    use espalier::params::{Init, ParamSpec, Shard};
    let model = RunConfig::parse(RUN, "quickstart.toml", &[]).expect("it is sound").model;
    let (w, b) = (
        ParamSpec::matrix("w", 4, 3, Shard::Rows { unit: 1 }, 0.02),
        ParamSpec::vector("b", 4, Shard::Replicated, Init::Ones),
    );
    let piece = |spec: &ParamSpec, area: [usize; 4], range: [usize; 2], rank: usize| Outgoing {
        piece: Piece {
            entry: format!("{}@{rank}", spec.name),
            tensor: spec.name.clone(),
            kind: Kind::Weight,
            area: area.into(),
            range,
        },
        dtype: espalier::DType::F32,
        shape: vec![range[1] - range[0]],
        content: espalier::checkpoint::piece::Content::Stored(&[63; 48][..4 * (range[1] - range[0])]),
    };
    let whole = vec![piece(&w, [0, 4, 0, 3], [0, 12], 0), piece(&b, [0, 4, 0, 1], [0, 4], 0)];
    let split = vec![
        piece(&w, [0, 2, 0, 3], [0, 6], 0),
        piece(&w, [2, 2, 0, 3], [0, 2], 1),
        piece(&w, [2, 2, 0, 3], [2, 6], 2),
        piece(&b, [0, 4, 0, 1], [0, 4], 0),
    ];
    for (name, pieces) in [("whole", whole), ("split", split)] {
        let path = folder().join("seed.safetensors");
        let mut entry = file::write(&path, &pieces).expect("written");
        entry.name = "weights-r00000.safetensors".into();
        let bytes = std::fs::read(path).expect("read");
        let end = 8 + u64::from_le_bytes(*bytes.first_chunk().expect("a length")) as usize;
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            topology: Topology { dp: 1, tp: 1, zero: 0 },
            meta: meta(&model),
            params: vec![w.clone(), b.clone()],
            files: vec![entry.clone()],
        };
        let mut text = serde_json::to_string(&manifest).expect("numbers and texts");
        text = text
            .replace(&entry.xxh3, "@xxh3")
            .replace(&format!("\"bytes\":{}", entry.bytes), "\"bytes\":@bytes");
        text.pop();
        let parts: [&[u8]; 5] = [text.as_bytes(), b"\xff", &bytes[8..end], b"\xff", &bytes[end..]];
        stored(&checkpoint_of(&parts.concat())).expect("it is sound");
        seed("checkpoint", name, &parts);
    }
}

fn meta(model: &ModelConfig) -> espalier::checkpoint::manifest::Meta {
    espalier::checkpoint::manifest::Meta {
        clocks: Default::default(),
        phase: 0,
        phase_step: 3,
        lr: 1e-3,
        ledger: serde_json::Value::Null,
        data: serde_json::Value::Null,
        corpora: vec![],
        numbers: serde_json::Value::Null,
        tokenizer_hash: "0".into(),
        end_of_document: None,
        seed: 1,
        config_hash: "0".into(),
        dtype: "f32".into(),
        model: model.clone(),
        git: "unknown".into(),
    }
}

fn weights() {
    let gpt2 = "{\"model_type\": \"gpt2\", \"n_embd\": 8, \"n_head\": 2, \"n_layer\": 1, \"n_positions\": 16, \
                \"vocab_size\": 11, \"architectures\": [\"GPT2LMHeadModel\"], \"activation_function\": \"gelu_new\"}";
    let llama = "{\"model_type\": \"llama\", \"hidden_size\": 8, \"num_attention_heads\": 2, \"num_hidden_layers\": 1, \
                 \"num_key_value_heads\": 1, \"intermediate_size\": 16, \"vocab_size\": 11, \"hidden_act\": \"silu\", \
                 \"max_position_embeddings\": 16, \"rms_norm_eps\": 1e-5, \"rope_theta\": 5e5, \"rope_scaling\": {\
                 \"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, \
                 \"original_max_position_embeddings\": 8}}";
    let bert = "{\"model_type\": \"bert\", \"hidden_size\": 8, \"num_attention_heads\": 2, \"num_hidden_layers\": 1, \
                \"intermediate_size\": 16, \"vocab_size\": 11, \"max_position_embeddings\": 16, \"type_vocab_size\": 2}";
    let header = "{\"__metadata__\":{\"format\":\"pt\"},\"wte.weight\":{\"dtype\":\"F32\",\"shape\":[2,3],\
                  \"data_offsets\":[0,24]},\"b\":{\"dtype\":\"BF16\",\"shape\":[2],\"data_offsets\":[24,28]}}";
    let index = "{\"weight_map\": {\"wte.weight\": \"a.safetensors\", \"b\": \"a.safetensors\"}}";
    for (name, config) in [("gpt2", gpt2), ("llama", llama), ("bert", bert)] {
        for (kind, index) in [("single", ""), ("shards", index)] {
            let mut text = [config, index, header, ""].map(|part| part.as_bytes().to_vec()).join(&0xff);
            text.extend([60; 28]);
            let dir = weights_of(&text);
            hf::read_config(&dir).expect("it is sound");
            assert_eq!(hf::Files::open(&dir).expect("it is sound").tensors.len(), 2);
            seed("weights", &format!("{name}-{kind}"), &[&text]);
        }
    }
}
