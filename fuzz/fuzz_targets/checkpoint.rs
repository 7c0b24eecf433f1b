//! manifest.json without its last line, the header of weights-r00000.safetensors and its values, divided by bytes 0xff,
//! which no JSON has. Sizes and checksums are put where the text says @bytes, @xxh3, so that the rest is what decides.
#![no_main]
use espalier::{folder, put, stored};
use xxhash_rust::xxh3::xxh3_64;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut parts = data.splitn(3, |&b| b == 0xff);
    let mut part = || parts.next().unwrap_or_default();
    let (manifest, header, values) = (String::from_utf8_lossy(part()), part(), part());
    let file = [&(header.len() as u64).to_le_bytes()[..], header, values].concat();
    put("weights-r00000.safetensors", &file);
    let mut manifest = manifest.replace("@bytes", &file.len().to_string());
    manifest = manifest.replace("@xxh3", &format!("{:016x}", xxh3_64(&file)));
    manifest += &format!(",\n  \"xxh3\": \"{:016x}\"\n}}\n", xxh3_64(manifest.as_bytes()));
    put("manifest.json", manifest.as_bytes());
    let _ = stored(&folder());
});
