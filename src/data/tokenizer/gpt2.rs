//! The tokenizer of GPT-2 as a tokenizer.json, made of the ranks that the crate `tiktoken-rs` carries.
//!
//! A token's rank is its id, and the order in which merges make it. Which two tokens a merge joins follows: merging the
//! token's bytes with lower ranks only leaves exactly those two.

use super::bytelevel::bytes_of_chars;
use serde_json::json;
use std::collections::HashMap;

const END: u32 = 50256;

pub(super) fn definition() -> String {
    let ranks = tiktoken_rs::r50k_base().expect("the crate's own table");
    let tokens: Vec<Vec<u8>> =
        (0..END).map(|id| ranks.decode_bytes(&[id]).expect("ids up to the end have bytes")).collect();
    let rank_of: HashMap<&[u8], u32> = tokens.iter().map(Vec::as_slice).zip(0..).collect();
    let mut char_of = ['\0'; 256];
    for (c, byte) in bytes_of_chars() {
        char_of[byte as usize] = c;
    }
    let name = |bytes: &[u8]| bytes.iter().map(|&b| char_of[b as usize]).collect::<String>();
    let mut merges = Vec::new();
    for (token, rank) in tokens.iter().zip(0..).filter(|(token, _)| token.len() > 1) {
        let (left, right) = halves(token, rank, &rank_of);
        merges.push([name(left), name(right)]);
    }
    let vocab = tokens.iter().map(|token| name(token)).chain(["<|endoftext|>".to_string()]);
    let vocab: serde_json::Map<String, serde_json::Value> =
        vocab.zip(0u32..).map(|(token, id)| (token, id.into())).collect();
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": [{
            "id": END, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": true
        }],
        "normalizer": null,
        "pre_tokenizer": { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true },
        "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": merges
        }
    })
    .to_string()
}

/// The two tokens of rank below `rank` that `token` is merged from.
fn halves<'a>(token: &'a [u8], rank: u32, rank_of: &HashMap<&[u8], u32>) -> (&'a [u8], &'a [u8]) {
    // Ends of the parts.
    let mut ends: Vec<usize> = (1..=token.len()).collect();
    while ends.len() > 2 {
        let start = |i: usize| if i == 0 { 0 } else { ends[i - 1] };
        let pairs = (0..ends.len() - 1).filter_map(|i| {
            let joined = rank_of.get(&token[start(i)..ends[i + 1]])?;
            (*joined < rank).then_some((*joined, i))
        });
        let (_, i) = pairs.min().expect("a token is merged from tokens");
        ends.remove(i);
    }
    token.split_at(ends[0])
}
