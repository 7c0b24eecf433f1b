//! PREFIX.json, beside files of ten tokens in two documents.
#![no_main]
use espalier::{folder, index, put, use_all};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    put("web.json", data);
    put("web.idx", &index(&[4, 6], &[0, 1, 2]));
    put("web.bin", &[1; 20]);
    let _ = use_all(&folder().join("web"));
});
