//! Byte-level BPE without the detours: words from `split`, merges from `merge`, and a table of the words seen lately.
//!
//! `ByteLevel::new` takes a tokenizer.json it can reproduce id by id and declines any other, which then goes through the
//! `tokenizers` crate. Tests compare both on every tokenizer they know.

use super::merge::{Merges, Scratch};
use super::split::Pattern;
use serde_json::Value;
use std::collections::HashMap;

pub(super) struct ByteLevel {
    pattern: Pattern,
    merges: Merges,
    /// Id of each byte.
    bytes: [u32; 256],
    /// Whole words that are tokens whatever the merges say (`ignore_merges`), by their bytes.
    whole: HashMap<Box<[u8]>, u32>,
    /// Text is brought to normal form C first.
    pub nfc: bool,
}

impl ByteLevel {
    /// `definition`: a tokenizer.json.
    pub fn new(definition: &Value) -> Option<ByteLevel> {
        let model = &definition["model"];
        let unset = |key: &str| model[key].is_null() || model[key] == "" || model[key] == false;
        let plain = ["dropout", "continuing_subword_prefix", "end_of_word_suffix"];
        // Files of before 2021 do not state the type of their model.
        let bpe = model["type"] == "BPE" || (model["type"].is_null() && model["merges"].is_array());
        if !bpe || !plain.into_iter().all(unset) {
            return None;
        }
        let nfc = match &definition["normalizer"] {
            Value::Null => false,
            n if n["type"] == "NFC" => true,
            _ => return None,
        };
        let pattern = pattern(&definition["pre_tokenizer"])?;
        let of_char = bytes_of_chars();
        let mut ids = HashMap::new();
        for (token, id) in model["vocab"].as_object()? {
            ids.insert(token.as_str(), u32::try_from(id.as_u64()?).ok().filter(|id| id >> 31 == 0)?);
        }
        // Two tokens of one id would blur which pair a merge stands for.
        let distinct: std::collections::HashSet<u32> = ids.values().copied().collect();
        if distinct.len() != ids.len() {
            return None;
        }
        let mut bytes = [0; 256];
        for (&c, &byte) in &of_char {
            bytes[byte as usize] = *ids.get(c.to_string().as_str())?;
        }
        let mut merges = Vec::new();
        for merge in model["merges"].as_array()? {
            let (left, right) = match merge {
                Value::String(pair) => pair.split_once(' ')?,
                pair => (pair[0].as_str()?, pair[1].as_str()?),
            };
            let joined = ids.get(format!("{left}{right}").as_str())?;
            merges.push(([*ids.get(left)?, *ids.get(right)?], *joined));
        }
        let mut whole = HashMap::new();
        if model["ignore_merges"] == true {
            for (token, &id) in &ids {
                let word: Option<Box<[u8]>> = token.chars().map(|c| of_char.get(&c).copied()).collect();
                whole.extend(word.map(|word| (word, id)));
            }
        }
        Some(ByteLevel { pattern, merges: Merges::new(&merges), bytes, whole, nfc })
    }

    /// Appends the ids of `text`, which holds no special token and is in the normal form asked for.
    pub fn encode(&self, text: &str, words: &mut Words, out: &mut Vec<u32>) {
        self.pattern.each(text, |word| {
            let word = word.as_bytes();
            let Some(key) = Key::of(word) else {
                words.symbols.clear();
                self.merge(word, words);
                out.extend_from_slice(&words.symbols);
                return;
            };
            let slot = key.slot();
            if words.keys[slot] != key {
                self.merge(word, words);
                if words.symbols.len() > KEPT {
                    out.extend_from_slice(&words.symbols);
                    return;
                }
                let mut kept = Kept { ids: [0; KEPT], count: words.symbols.len() as u32 };
                kept.ids[..words.symbols.len()].copy_from_slice(&words.symbols);
                (words.keys[slot], words.kept[slot]) = (key, kept);
            }
            let kept = &words.kept[slot];
            out.extend_from_slice(&kept.ids[..kept.count as usize]);
        });
    }

    /// Leaves the ids of one word in `words.symbols`.
    fn merge(&self, word: &[u8], words: &mut Words) {
        words.symbols.clear();
        if let Some(&id) = self.whole.get(word) {
            words.symbols.push(id);
            return;
        }
        words.symbols.extend(word.iter().map(|&b| self.bytes[b as usize]));
        self.merges.apply(&mut words.symbols, &mut words.scratch);
    }
}

pub(super) fn pattern(pre: &Value) -> Option<Pattern> {
    let byte_level = |v: &Value, regex: bool| {
        let uses = v["use_regex"].as_bool().unwrap_or(true);
        v["type"] == "ByteLevel" && v["add_prefix_space"] == false && uses == regex
    };
    if byte_level(pre, true) {
        return Some(Pattern::Gpt2);
    }
    let steps = pre["pretokenizers"].as_array().filter(|_| pre["type"] == "Sequence")?;
    let [split, bytes] = &steps[..] else { return None };
    let isolated = split["type"] == "Split" && split["behavior"] == "Isolated" && split["invert"] == false;
    if !isolated || !byte_level(bytes, false) {
        return None;
    }
    Pattern::recognise(split["pattern"]["Regex"].as_str()?)
}

/// The printable characters that stand for bytes in the vocabulary (GPT-2, `encoder.py`): those that print stand for
/// themselves, the others are moved to 256 and on.
pub(super) fn bytes_of_chars() -> HashMap<char, u8> {
    let prints = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let moved = (0..=255u8).filter(|&b| !prints(b)).zip(256u32..);
    let kept = (0..=255u8).filter(|&b| prints(b)).map(|b| (b, u32::from(b)));
    kept.chain(moved).map(|(b, c)| (char::from_u32(c).expect("below 512"), b)).collect()
}

/// Words of at most this many bytes and ids are remembered.
const LONGEST: usize = 15;
const KEPT: usize = 5;
const SLOTS: usize = 1 << 15;

/// A short word as one number: its bytes and, on top, its length.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key(u128);

impl Key {
    #[inline]
    fn of(word: &[u8]) -> Option<Key> {
        if word.len() > LONGEST {
            return None;
        }
        let mut bytes = [0; 16];
        bytes[..word.len()].copy_from_slice(word);
        bytes[LONGEST] = word.len() as u8;
        Some(Key(u128::from_le_bytes(bytes)))
    }
    #[inline]
    fn slot(self) -> usize {
        let (low, high) = (self.0 as u64, (self.0 >> 64) as u64);
        let mixed = (low ^ high.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((mixed ^ high.wrapping_mul(0xc2b2_ae3d_27d4_eb4f)) >> 49) as usize & (SLOTS - 1)
    }
}

#[derive(Clone, Copy)]
struct Kept {
    ids: [u32; KEPT],
    count: u32,
}

/// What one thread remembers: each word in the one slot its hash says; a newcomer takes the place. Constant memory.
pub(super) struct Words {
    keys: Vec<Key>,
    kept: Vec<Kept>,
    symbols: Vec<u32>,
    scratch: Scratch,
}

impl Default for Words {
    fn default() -> Words {
        // No word has length 0, so no key is 0.
        let kept = vec![Kept { ids: [0; KEPT], count: 0 }; SLOTS];
        Words { keys: vec![Key(0); SLOTS], kept, symbols: Vec::new(), scratch: Scratch::default() }
    }
}
