//! X.ds and X.ds.index: the first two bytes are how many there are of the first.
#![no_main]
use espalier::{adopt_all, put};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((len, rest)) = data.split_first_chunk() else { return };
    let (ds, index) = rest.split_at(usize::from(u16::from_le_bytes(*len)).min(rest.len()));
    put("x.ds.index", index);
    adopt_all(put("x.ds", ds), Some(0), None);
});
