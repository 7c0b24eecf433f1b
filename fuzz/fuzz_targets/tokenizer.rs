//! tokenizer.json, and after a byte 0xff, which no text has, text for it.
#![no_main]
use espalier::data::tokenizer::Tokenizer;
use std::path::Path;

const TEXT: &str = "The naïve King's 1789 语 <s> don't\r\n\n  stop </s> 😀 un ab\t";

fn read_and_use(data: &[u8]) {
    let mut parts = data.splitn(2, |&b| b == 0xff).map(String::from_utf8_lossy);
    let mut part = || parts.next().unwrap_or_default();
    let (definition, text) = (part(), part());
    let Ok(mut tokenizer) = Tokenizer::from_json(&definition, Path::new("tokenizer.json")) else { return };
    let vocab = tokenizer.vocab();
    if let Some(lengths) = tokenizer.byte_lengths() {
        assert_eq!(lengths.len(), vocab as usize);
    }
    for as_text in [false, true] {
        tokenizer.special_as_text(as_text);
        for text in [TEXT, &text] {
            let mut ids = Vec::new();
            if tokenizer.encoder().encode(text, &mut ids).is_ok() {
                assert!(ids.iter().all(|&id| id < vocab), "{ids:?} of {vocab}");
                let _ = tokenizer.decode(&ids);
            }
        }
    }
    let _ = tokenizer.decode(&[0, vocab / 2, vocab - 1, vocab, u32::MAX]);
}

libfuzzer_sys::fuzz_target!(
    // The `tokenizers` crate panics now and then, which is caught; a panic that is not caught still ends the process.
    init: std::panic::set_hook(Box::new(|panic| eprintln!("{panic}"))),
    |data: &[u8]| read_and_use(data)
);
