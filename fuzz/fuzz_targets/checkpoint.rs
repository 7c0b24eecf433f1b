//! manifest.json and weights-r00000.safetensors, with sizes and checksums that fit, so that the rest is what decides.
#![no_main]
use espalier::{checkpoint_of, stored};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let _ = stored(&checkpoint_of(data));
});
