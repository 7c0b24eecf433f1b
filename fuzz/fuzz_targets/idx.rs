//! PREFIX.idx: the first two bytes are the tokens of .bin.
#![no_main]
use espalier::{folder, json, put, use_all};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((tokens, idx)) = data.split_first_chunk() else { return };
    let tokens = u64::from(u16::from_le_bytes(*tokens));
    let entries = idx.get(26..34).map_or(1, |b| u64::from_le_bytes(b.try_into().expect("eight")));
    put("web.bin", &vec![1; 2 * tokens as usize]);
    put("web.idx", idx);
    // The description fits, so that the index is what decides.
    let wide = idx.get(17) == Some(&4);
    put("web.json", json(if wide { tokens / 2 } else { tokens }, entries.saturating_sub(1)).as_bytes());
    let _ = use_all(&folder().join("web"));
});
