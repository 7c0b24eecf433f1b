//! Shards of llm.c, and bare numbers.
#![no_main]
use espalier::{adopt_all, data::PartType, put};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((&how, shard)) = data.split_first() else { return };
    let path = put("shard", shard);
    let dtype = [None, Some(PartType::U16), Some(PartType::U32), Some(PartType::I32)][usize::from(how >> 6)];
    adopt_all(path, (how & 32 != 0).then_some(u32::from(how & 31)), dtype);
});
