//! PREFIX.bin.zst: tables and frames. The first two bytes are the tokens that the other files state.
#![no_main]
use espalier::{folder, index, json, put, use_all};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((tokens, zst)) = data.split_first_chunk() else { return };
    let tokens = u16::from_le_bytes(*tokens);
    put("zst.bin.zst", zst);
    put("zst.idx", &index(&[tokens.into()], &[0, 1]));
    put("zst.json", json(tokens.into(), 1).as_bytes());
    let _ = use_all(&folder().join("zst"));
});
