//! Weights of Hugging Face: config.json, the index of shards and safetensors. A config that is read is written and read.
#![no_main]
use espalier::hf::{Files, read_config, write_config};
use espalier::{DType, weights_of};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let dir = weights_of(data);
    if let Ok(files) = Files::open(&dir) {
        for tensor in &files.tensors {
            let middle = tensor.bytes / 2;
            let whole = files.bytes(tensor, 0, tensor.bytes);
            assert_eq!(&whole[middle..], files.bytes(tensor, middle, tensor.bytes - middle));
        }
    }
    if let Ok((family, model)) = read_config(&dir) {
        write_config(&dir, family, &model, DType::F32, None).expect("what was read can be written");
        assert_eq!(read_config(&dir).expect("what was written is read"), (family, model));
    }
});
