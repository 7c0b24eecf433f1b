//! The own byte-level BPE against the `tokenizers` crate, id by id, and the vocabularies that are carried or trained.

use super::*;
use crate::rng::Philox;
use serde_json::Value;

fn hf(tokenizer: &Tokenizer) -> &hf::Hf {
    match &tokenizer.inner {
        Inner::Hf(hf) => hf,
        Inner::Byte => panic!("not a tokenizer.json"),
    }
}

/// The own way and the crate's on one text.
fn both(tokenizer: &Tokenizer, encoder: &mut Encoder, text: &str) -> (Vec<u32>, Vec<u32>) {
    let (mut own, mut crates) = (Vec::new(), Vec::new());
    encoder.encode(text, &mut own).unwrap();
    hf(tokenizer).encode_slow(text, &mut crates).unwrap();
    (own, crates)
}

fn sample() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/text");
    let folder = if folder.exists() {
        folder
    } else {
        Path::new(file!()).ancestors().nth(4).unwrap().join("tests/text")
    };
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

/// Words, contractions, numbers, white space of every kind, letters and marks of all planes, runs of one character.
fn odd_text(seed: u64, length: usize) -> String {
    let random = Philox::new(seed, "odd text");
    let pick = |i: u64, site: u64, n: usize| (random.uniform(i, site) * n as f64) as usize % n;
    let parts = [
        "the",
        " The",
        "'s",
        "'S",
        "'ſ",
        "'re",
        "'LL",
        "'Ve",
        "'d",
        "'",
        "''",
        "don't",
        " ",
        "  ",
        "   ",
        "\n",
        "\n\n",
        "\r\n",
        "\t",
        " \n ",
        "\u{a0}",
        "\u{2003}",
        "\u{3000}",
        "\u{85}",
        "\u{200b}",
        "\u{feff}",
        "1",
        "12",
        "1234567",
        "٣",
        "Ⅷ",
        "½",
        "x²",
        "é",
        "e\u{301}",
        "ﬁ",
        "ǅ",
        "ß",
        "İ",
        "дом",
        "語",
        "한국어",
        "각",
        "אב",
        "ا",
        "क्ष",
        "😀",
        "👩\u{200d}👩",
        "\u{1d400}",
        "\u{10ffff}",
        "\u{0}",
        "\u{7f}",
        "!",
        "?!",
        "...",
        "-",
        "--",
        "_",
        "<|endoftext|>",
        "<|",
        "|>",
        "http://a.b/c?d=e&f",
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "=====",
        "    x",
    ];
    let mut text = String::new();
    let mut i = 0;
    while text.len() < length {
        i += 1;
        match pick(i, 0, 8) {
            0 => {
                let any = char::from_u32((random.uniform(i, 1) * f64::from(0x11_0000)) as u32);
                text.extend(any);
            }
            1 => text.extend(char::from_u32(pick(i, 1, 0x3000) as u32)),
            _ => text += parts[pick(i, 2, parts.len())],
        }
    }
    text
}

/// GPT-2's vocabulary behind another pre-tokenizer and normalizer.
fn variant(change: impl FnOnce(&mut Value)) -> Tokenizer {
    let mut value: Value = serde_json::from_str(&gpt2::definition()).unwrap();
    change(&mut value);
    Tokenizer::from_json(&value.to_string(), Path::new("variant")).unwrap()
}

fn gpt4(digits: &str) -> Value {
    let regex = format!(
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    );
    serde_json::json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated", "invert": false },
        { "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false }
    ] })
}

#[test]
fn own_ids_are_those_of_the_crate() {
    let tokenizers = [
        ("gpt2", Tokenizer::gpt2().unwrap()),
        ("llama3", variant(|v| v["pre_tokenizer"] = gpt4("{1,3}"))),
        (
            "qwen2",
            variant(|v| {
                v["pre_tokenizer"] = gpt4("");
                v["normalizer"] = serde_json::json!({ "type": "NFC" });
            }),
        ),
        ("whole words", variant(|v| v["model"]["ignore_merges"] = true.into())),
        (
            "another id is stated than the vocabulary has",
            variant(|v| v["added_tokens"][0]["id"] = 99_999.into()),
        ),
    ];
    let texts = sample();
    for (name, tokenizer) in &tokenizers {
        assert!(tokenizer.is_fast(), "{name}");
        let mut encoder = tokenizer.encoder();
        for seed in 0..15 {
            let text = odd_text(seed, 8000);
            let (own, crates) = both(tokenizer, &mut encoder, &text);
            if own != crates {
                let at = own.iter().zip(&crates).position(|(a, b)| a != b).unwrap_or(0);
                let near = &crates[at.saturating_sub(3)..(at + 3).min(crates.len())];
                panic!("{name}, seed {seed}, id {at}: {:?}", tokenizer.decode(near));
            }
            // GPT-2 loses nothing.
            if *name == "gpt2" {
                assert_eq!(tokenizer.decode(&own).unwrap(), text.replace("<|endoftext|>", ""));
            }
        }
        for text in texts.iter().step_by(4) {
            let (own, crates) = both(tokenizer, &mut encoder, text);
            assert!(own == crates, "{name}");
        }
    }
}

#[test]
fn gpt2_is_the_published_vocabulary() {
    let tokenizer = Tokenizer::gpt2().unwrap();
    assert_eq!((tokenizer.vocab(), tokenizer.end_of_document()), (50257, Some(50256)));
    assert_eq!(tokenizer.padded_vocab(128), 50304);
    let mut ids = Vec::new();
    // Ids that OpenAI's encoder.py gives.
    tokenizer.encoder().encode("Hello world! It's 2024.", &mut ids).unwrap();
    assert_eq!(ids, [15496, 995, 0, 632, 338, 48609, 13]);
    for (token, id) in [("Ġthe", 262), ("ĠSolidGoldMagikarp", 43453), ("<|endoftext|>", 50256)] {
        assert_eq!(tokenizer.token_id(token), Some(id));
    }
    let merges: Value = serde_json::from_str(tokenizer.definition().unwrap()).unwrap();
    let merges = merges["model"]["merges"].as_array().unwrap();
    assert_eq!(merges.len(), 50_000);
    assert_eq!((&merges[0], &merges[1]), (&serde_json::json!(["Ġ", "t"]), &serde_json::json!(["Ġ", "a"])));
}

#[test]
fn text_cut_after_a_line_has_the_ids_of_the_whole() {
    let tokenizer = Tokenizer::gpt2().unwrap();
    assert_eq!(tokenizer.cuts(), Cuts::Lines);
    let qwen = variant(|v| v["pre_tokenizer"] = gpt4(""));
    for tokenizer in [&tokenizer, &qwen] {
        let text = "One.\nTwo \n three\n\nFour\nfive!!\r\nsix's\nSeven\n\tx\ny".repeat(3);
        let (mut whole, mut parts) = (Vec::new(), Vec::new());
        let mut encoder = tokenizer.encoder();
        encoder.encode(&text, &mut whole).unwrap();
        let (mut from, mut cuts) = (0, 0);
        for at in (0..=text.len()).filter(|&at| Cuts::Lines.allows(text.as_bytes(), at)) {
            encoder.encode(&text[from..at], &mut parts).unwrap();
            (from, cuts) = (at, cuts + 1);
        }
        encoder.encode(&text[from..], &mut parts).unwrap();
        assert_eq!((whole, cuts > 3), (parts, true));
    }
}

#[test]
fn special_tokens_in_text_are_ids_or_text_as_asked() {
    let text = "a<|endoftext|>b";
    let mut tokenizer = Tokenizer::gpt2().unwrap();
    let ids = |tokenizer: &Tokenizer| {
        let (own, crates) = both(tokenizer, &mut tokenizer.encoder(), text);
        assert_eq!(own, crates);
        own
    };
    assert_eq!(ids(&tokenizer), [64, 50256, 65]);
    tokenizer.special_as_text(true);
    assert!(!ids(&tokenizer).contains(&50256));
    let lengths = tokenizer.byte_lengths().unwrap();
    let sum: usize = ids(&tokenizer).iter().map(|&id| lengths[id as usize] as usize).sum();
    assert_eq!(sum, text.len());
    assert_eq!(lengths[50256], 0);
}

#[test]
fn decoding_id_by_id_never_shows_half_a_character() {
    let tokenizer = Tokenizer::gpt2().unwrap();
    let text = "naïve 語 😀👩\u{200d}👩 end";
    let mut ids = Vec::new();
    tokenizer.encoder().encode(text, &mut ids).unwrap();
    let mut decoder = tokenizer.decoder();
    let shown: Vec<String> = ids.iter().map(|&id| decoder.push(id).unwrap()).collect();
    assert!(shown.iter().any(String::is_empty) && !shown.concat().contains('\u{fffd}'));
    assert_eq!(shown.concat() + &decoder.finish(), text);
    // Bytes that can be no character show at once, one that might when it is over.
    let bytes = Tokenizer::byte();
    let mut decoder = bytes.decoder();
    assert_eq!(decoder.push(0xff).unwrap(), "\u{fffd}");
    assert_eq!(
        (decoder.push(0xe2).unwrap(), decoder.push(b'x'.into()).unwrap()),
        ("".into(), "\u{fffd}x".into())
    );
    assert_eq!((decoder.push(0xc3).unwrap(), decoder.finish()), ("".into(), "\u{fffd}".into()));
}

#[test]
fn training_gives_the_same_vocabulary_every_time() {
    let texts = sample();
    for (kind, size) in [(TrainKind::Bpe, 1000), (TrainKind::WordPiece, 600)] {
        let definition = train(kind, size, &texts, Path::new("text")).unwrap();
        let again = train(kind, size, &texts, Path::new("text")).unwrap();
        assert!(again == definition, "{kind:?}");
        let tokenizer = Tokenizer::from_json(&definition, Path::new("trained")).unwrap();
        assert_eq!(tokenizer.vocab(), size);
        let mut ids = Vec::new();
        tokenizer.encoder().encode(&texts[0], &mut ids).unwrap();
        assert!(ids.len() * 2 < texts[0].len(), "{kind:?}: {} ids", ids.len());
        match kind {
            TrainKind::Bpe => {
                assert_eq!(tokenizer.decode(&ids).unwrap(), texts[0]);
                assert_eq!((tokenizer.is_fast(), tokenizer.end_of_document()), (true, Some(0)));
            }
            TrainKind::WordPiece => {
                assert_eq!(tokenizer.end_of_document(), tokenizer.token_id("[SEP]"));
                assert!(tokenizer.byte_lengths().is_none());
                let words = |text: &str| text.split_whitespace().collect::<String>()[..100].to_string();
                assert_eq!(words(&tokenizer.decode(&ids).unwrap()), words(&texts[0]));
            }
        }
        let error = train(kind, 900_000, &texts[..1], Path::new("text")).unwrap_err().to_string();
        assert!(error.contains("900000 were asked for"), "{error}");
    }
}

#[test]
fn a_tokenizer_that_cannot_be_used_says_why() {
    let source = Path::new("t.json");
    let words = |vocab: &str, rest: &str| {
        format!(r#"{{{rest} "model": {{"type": "WordLevel", "unk_token": "a", "vocab": {vocab}}}}}"#)
    };
    // Normalizers of no bytes, with a token for it to normalize, and of 2^32 - 1 bytes.
    let huge = r#""normalizer": {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap":
        "/////w=="}]},"#;
    let empty = r#""normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="}, "added_tokens": [{"id": 1,
        "content": "b", "single_word": false, "lstrip": false, "rstrip": false, "normalized": true, "special": false}],"#;
    for (text, says) in [
        ("{".into(), "is not JSON"),
        ("{}".into(), "is not a tokenizer that"),
        ("[1]".into(), "is not a tokenizer that"),
        (words("{}", ""), "has 0 tokens and ids below 0"),
        (words(r#"{"a": 0, "b": 2000000000}"#, ""), "has 2 tokens and ids below 2000000001"),
        (words(r#"{"a": 0}"#, huge), "states a table larger than itself"),
        (words(r#"{"a": 0}"#, empty), "`tokenizers` 0.23 reads: the `tokenizers` crate panics"),
    ] {
        let text = text.as_str();
        let Err(error) = Tokenizer::from_json(text, source) else { panic!("{text} was taken") };
        assert!(error.to_string().contains(says), "{error}");
    }
    let mut tokenizer = variant(|v| v["added_tokens"] = serde_json::json!([]));
    tokenizer.end_with(&EndOfDocument::Usual, "x").unwrap();
    let mut value: Value = serde_json::from_str(&gpt2::definition()).unwrap();
    value["model"]["vocab"].as_object_mut().unwrap().remove("<|endoftext|>");
    value["added_tokens"] = serde_json::json!([]);
    tokenizer = Tokenizer::from_json(&value.to_string(), source).unwrap();
    for (end, says) in [
        (EndOfDocument::Usual, "has none of <|endoftext|>"),
        (EndOfDocument::Token("<eot>".into()), "\"<eot>\" is not a token of x"),
    ] {
        let error = tokenizer.end_with(&end, "x").unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("--no-eod"), "{error}");
    }
    tokenizer.end_with(&EndOfDocument::None, "x").unwrap();
    assert_eq!(tokenizer.end_of_document(), None);
}
