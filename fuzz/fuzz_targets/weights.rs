//! Weights of Hugging Face: config.json, the index of shards (empty: there is none), the header of the safetensors file
//! and its values, divided by bytes 0xff, which no JSON has.
#![no_main]
use espalier::hf::{Files, read_config, write_config};
use espalier::{DType, folder, put};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(4, |&b| b == 0xff);
    let mut part = || parts.next().unwrap_or_default();
    let (config, index, header, values) = (part(), part(), part(), part());
    let file = [&(header.len() as u64).to_le_bytes()[..], header, values].concat();
    let single = folder().join("model.safetensors");
    if index.is_empty() {
        put("model.safetensors", &file);
    } else {
        put("a.safetensors", &file);
        put("model.safetensors.index.json", index);
        let _ = std::fs::remove_file(single);
    }
    if let Ok(files) = Files::open(&folder()) {
        for tensor in &files.tensors {
            let middle = tensor.bytes / 2;
            let whole = files.bytes(tensor, 0, tensor.bytes);
            assert_eq!(&whole[middle..], files.bytes(tensor, middle, tensor.bytes - middle));
        }
    }
    put("config.json", config);
    if let Ok((family, model)) = read_config(&folder()) {
        write_config(&folder(), family, &model, DType::F32, None).expect("what was read can be written");
        let again = read_config(&folder()).expect("what was written is read");
        assert_eq!(again, (family, model));
    }
});
