//! A vocabulary trained on sample text, the same for the same text on any machine.
//!
//! - BPE: byte-level in the manner of GPT-2 (its words, all 256 bytes), `<|endoftext|>` as id 0.
//! - WordPiece: in the manner of BERT (cased, words at white space and punctuation), [PAD] [UNK] [CLS] [SEP] [MASK]
//!   as ids 0 to 4.

use super::bytelevel::bytes_of_chars;
use crate::{Error, Result};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::normalizers::bert::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{
    AddedToken, Model, Normalizer, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper, Trainer,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Bpe,
    WordPiece,
}

const END: &str = "<|endoftext|>";
const BERT: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
/// Pairs seen less often than this are not merged.
const MIN_FREQUENCY: u64 = 2;
const PREFIX: &str = "##";

/// The tokenizer.json of `size` tokens trained on `sample`. Fails if the sample gives fewer.
pub fn train(kind: Kind, size: u32, sample: &[String], source: &Path) -> Result<String> {
    let special: &[&str] = match kind {
        Kind::Bpe => &[END],
        Kind::WordPiece => &BERT,
    };
    let failed = |e: tokenizers::Error| {
        Error::data(source, format!("training the tokenizer failed: {e}"), "give other text to train on")
    };
    let split = Splitter::new(kind);
    let mut trainer = BpeTrainer::builder()
        .show_progress(false)
        .vocab_size(size as usize)
        .min_frequency(MIN_FREQUENCY)
        .special_tokens(split.first_tokens(special, sample).map_err(failed)?);
    if kind == Kind::WordPiece {
        trainer = trainer.continuing_subword_prefix(PREFIX.into());
    }
    let mut trainer = trainer.build();
    trainer.feed(sample.iter(), |text| split.words(text)).map_err(failed)?;
    let mut bpe = BPE::default();
    trainer.train(&mut bpe).map_err(failed)?;
    let found = bpe.get_vocab_size();
    if found != size as usize {
        let problem = match found < size as usize {
            true => format!("the text has enough repetition for {found} tokens only, {size} were asked for"),
            false => format!("the text has {found} single characters, {size} tokens were asked for"),
        };
        return Err(Error::data(source, problem, format!("ask for {found} tokens, or give other text")));
    }
    Ok(definition(kind, special, &bpe)?.to_string())
}

/// Text to the words that merges stay within.
struct Splitter {
    kind: Kind,
    normalizer: Option<BertNormalizer>,
    pre: PreTokenizerWrapper,
}

impl Splitter {
    fn new(kind: Kind) -> Splitter {
        let (normalizer, pre) = match kind {
            Kind::Bpe => (None, ByteLevel::new(false, true, true).into()),
            Kind::WordPiece => (Some(BertNormalizer::new(true, true, None, false)), BertPreTokenizer.into()),
        };
        Splitter { kind, normalizer, pre }
    }

    fn words(&self, text: &str) -> tokenizers::Result<Vec<String>> {
        let mut pieces = PreTokenizedString::from(text);
        if let Some(normalizer) = &self.normalizer {
            pieces.normalize(|text| normalizer.normalize(text))?;
        }
        self.pre.pre_tokenize(&mut pieces)?;
        let words = pieces.get_splits(OffsetReferential::Normalized, OffsetType::None);
        Ok(words.into_iter().map(|(word, _, _)| word.to_string()).collect())
    }

    /// The tokens that come before all merges, in a fixed order: given to the trainer as special ones, since it would
    /// number continuing characters in the order of a random hash.
    fn first_tokens(&self, special: &[&str], sample: &[String]) -> tokenizers::Result<Vec<AddedToken>> {
        let mut tokens: Vec<String> = special.iter().map(|t| t.to_string()).collect();
        match self.kind {
            Kind::Bpe => {
                let all: BTreeSet<char> = bytes_of_chars().into_keys().collect();
                tokens.extend(all.into_iter().map(String::from));
            }
            Kind::WordPiece => {
                let (mut first, mut later) = (BTreeSet::new(), BTreeSet::new());
                for text in sample {
                    for word in self.words(text)? {
                        first.extend(word.chars());
                        later.extend(word.chars().skip(1));
                    }
                }
                tokens.extend(first.iter().map(|c| c.to_string()));
                tokens.extend(later.iter().map(|c| format!("{PREFIX}{c}")));
            }
        }
        Ok(tokens.into_iter().map(|t| AddedToken::from(t, true)).collect())
    }
}

fn definition(kind: Kind, special: &[&str], bpe: &BPE) -> Result<Value> {
    let mut tokens: Vec<(u32, String)> = bpe.get_vocab().into_iter().map(|(t, id)| (id, t)).collect();
    tokens.sort();
    let vocab: serde_json::Map<String, Value> = tokens.into_iter().map(|(id, t)| (t, id.into())).collect();
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(id, content)| {
            json!({
                "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true
            })
        })
        .collect();
    let byte_level = |space: bool| json!({ "type": "ByteLevel", "add_prefix_space": space, "trim_offsets": true, "use_regex": true });
    let (pre, decoder, model) = match kind {
        Kind::Bpe => {
            let mut model = serde_json::to_value(bpe).expect("a model is plain data");
            model["vocab"] = vocab.into();
            (byte_level(false), byte_level(true), model)
        }
        Kind::WordPiece => (
            json!({ "type": "BertPreTokenizer" }),
            json!({ "type": "WordPiece", "prefix": PREFIX, "cleanup": true }),
            json!({
                "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": PREFIX,
                "max_input_chars_per_word": 100, "vocab": vocab
            }),
        ),
    };
    let normalizer = match kind {
        Kind::Bpe => Value::Null,
        Kind::WordPiece => json!({
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": false
        }),
    };
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": normalizer,
        "pre_tokenizer": pre, "post_processor": null, "decoder": decoder, "model": model
    }))
}
