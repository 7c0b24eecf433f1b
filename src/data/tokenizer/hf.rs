//! A tokenizer.json: the `tokenizers` crate, and the shorter way where there is one.

use super::Cuts;
use super::bytelevel::{ByteLevel, Words, bytes_of_chars};
use crate::data::meta::Tokenizer as Id;
use crate::{Error, Result};
use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::str::FromStr;
use std::sync::OnceLock;
use tokenizers::Tokenizer as Crate;
use unicode_normalization_alignments::is_nfc_quick;
use xxhash_rust::xxh3::xxh3_64;

/// There may be so many ids for each token, and so many more.
const MOST_HOLES: u64 = 8;
const SPARE: u64 = 1 << 16;

pub(super) struct Hf {
    slow: Crate,
    fast: Option<ByteLevel>,
    added: Added,
    /// Of each id; made when it is first asked for.
    bytes: OnceLock<Option<Bytes>>,
    definition: String,
    parsed: Parsed,
    vocab: u32,
    id: Id,
}

/// What of the definition later questions need.
struct Parsed {
    cuts: Cuts,
    /// The decoder is byte-level: each id stands for fixed bytes.
    byte_level: bool,
    /// Those bytes are all of the text: no normal form but C, no space put before it.
    exact: bool,
}

impl Hf {
    pub fn new(definition: &str, source: &Path) -> Result<Hf> {
        let remedy = "name the tokenizer.json of the model, as `tokenizers` 0.13 to 0.23 writes it";
        let bad = |problem: String| Error::data(source, problem, remedy);
        let value: Value = serde_json::from_str(definition).map_err(|e| bad(format!("is not JSON: {e}")))?;
        if overstated(&value["normalizer"]) {
            return Err(bad("has a precompiled_charsmap that states a table larger than itself".into()));
        }
        let mut slow = guarded(|| Crate::from_str(definition))
            .map_err(|e| bad(format!("is not a tokenizer that `tokenizers` 0.23 reads: {e}")))?;
        if value["model"]["dropout"].as_f64().is_some_and(|d| d > 0.0) {
            return Err(bad(format!("drops merges by chance (dropout {})", value["model"]["dropout"])));
        }
        // A document is taken whole, whatever a model's own limits are.
        slow.with_padding(None);
        slow.with_truncation(None).map_err(|e| bad(e.to_string()))?;
        let tokens = slow.get_vocab(true);
        let vocab = tokens.values().max().map_or(0, |&id| u64::from(id) + 1);
        // Tables are as long as the ids reach, and so is the model's embedding.
        if vocab == 0 || vocab > MOST_HOLES * tokens.len() as u64 + SPARE {
            return Err(bad(format!("has {} tokens and ids below {vocab}", tokens.len())));
        }
        let vocab = vocab as u32;
        let kind = match value["model"]["type"].as_str() {
            Some(kind) => kind.to_lowercase(),
            None => "unstated".into(),
        };
        // The same definition with other white space is the same tokenizer.
        let hash = xxh3_64(value.to_string().as_bytes());
        Ok(Hf {
            fast: ByteLevel::new(&value),
            added: Added::new(&value, &slow),
            parsed: Parsed::new(&value),
            bytes: OnceLock::new(),
            definition: definition.into(),
            id: Id { kind, hash },
            slow,
            vocab,
        })
    }

    pub fn id(&self) -> Id {
        self.id.clone()
    }
    pub fn vocab(&self) -> u32 {
        self.vocab
    }
    pub fn definition(&self) -> &str {
        &self.definition
    }
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.slow.token_to_id(token)
    }
    pub fn cuts(&self) -> Cuts {
        self.parsed.cuts
    }
    pub fn is_fast(&self) -> bool {
        self.fast.is_some()
    }
    pub fn slow(&self) -> &Crate {
        &self.slow
    }
    pub fn special_as_text(&mut self, yes: bool) {
        self.slow.set_encode_special_tokens(yes);
        self.added.as_text = yes;
    }

    pub fn encode(&self, text: &str, words: &mut Words, out: &mut Vec<u32>) -> Result<(), String> {
        let ready = |fast: &&ByteLevel| {
            !fast.nfc
                || text.is_ascii()
                || is_nfc_quick(text.chars()) == unicode_normalization_alignments::IsNormalized::Yes
        };
        let Some(fast) = self.fast.as_ref().filter(ready) else { return self.encode_slow(text, out) };
        let Some(search) = &self.added.search else {
            fast.encode(text, words, out);
            return Ok(());
        };
        let mut from = 0;
        for found in search.find_iter(text) {
            if !self.added.simple || (self.added.as_text && !self.added.one_kind) {
                // At the first match: nothing has been appended yet.
                return self.encode_slow(text, out);
            }
            let (id, special) = self.added.tokens[found.pattern().as_usize()];
            if special && self.added.as_text {
                continue;
            }
            fast.encode(&text[from..found.start()], words, out);
            out.push(id);
            from = found.end();
        }
        fast.encode(&text[from..], words, out);
        Ok(())
    }

    /// Through the crate.
    pub fn encode_slow(&self, text: &str, out: &mut Vec<u32>) -> Result<(), String> {
        let encoding = guarded(|| self.slow.encode_fast(text, false))?;
        out.extend_from_slice(encoding.get_ids());
        Ok(())
    }

    /// The bytes of each id, where the decoder is byte-level.
    pub fn bytes(&self) -> Option<&Bytes> {
        self.bytes.get_or_init(|| self.parsed.byte_level.then(|| self.all_bytes())).as_ref()
    }

    fn all_bytes(&self) -> Bytes {
        let of_char = bytes_of_chars();
        let added = self.slow.get_added_tokens_decoder();
        let mut bytes = Bytes { all: Vec::new(), ends: Vec::with_capacity(self.vocab as usize) };
        for id in 0..self.vocab {
            if let Some(token) = added.get(&id) {
                bytes.all.extend(token.content.as_bytes());
            } else if let Some(token) = self.slow.id_to_token(id) {
                match token.chars().map(|c| of_char.get(&c).copied()).collect::<Option<Vec<u8>>>() {
                    Some(known) => bytes.all.extend(known),
                    None => bytes.all.extend(token.as_bytes()),
                }
            }
            bytes.ends.push(bytes.all.len());
        }
        bytes
    }

    /// As `bytes`, where they add up to the text.
    pub fn exact_bytes(&self) -> Option<&Bytes> {
        self.bytes().filter(|_| self.parsed.exact)
    }
}

/// Bytes of the ids 0, 1, ..., one after the other.
pub(super) struct Bytes {
    all: Vec<u8>,
    ends: Vec<usize>,
}

impl Bytes {
    pub fn of(&self, id: u32) -> Option<&[u8]> {
        let end = *self.ends.get(id as usize)?;
        let start = if id == 0 { 0 } else { self.ends[id as usize - 1] };
        Some(&self.all[start..end])
    }
    pub fn lengths(&self) -> Vec<u16> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| (end - start).min(u16::MAX.into()) as u16).collect()
    }
}

/// What the crate makes of a file from anywhere, which may bring it to panic.
pub(super) fn guarded<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(_) => Err("the `tokenizers` crate panics, with the message above".into()),
    }
}

/// Whether the crate would ask for gigabytes: a Precompiled normalizer begins with the bytes of its table, a u32 in base64.
fn overstated(normalizer: &Value) -> bool {
    let map = normalizer["precompiled_charsmap"].as_str().unwrap_or_default();
    let digit = |c: u8| match c {
        b'A'..=b'Z' => c - b'A',
        b'a'..=b'z' => c - b'a' + 26,
        b'0'..=b'9' => c - b'0' + 52,
        b'+' => 62,
        _ => 63,
    };
    let bits = map.bytes().take(6).fold(0u64, |bits, c| bits << 6 | u64::from(digit(c)));
    (map.len() >= 6 && ((bits >> 4) as u32).swap_bytes() as usize > map.len())
        || normalizer["normalizers"].as_array().is_some_and(|steps| steps.iter().any(overstated))
}

/// The tokens that are found in the text before anything else happens to it.
struct Added {
    search: Option<AhoCorasick>,
    /// Id, and whether it is special, in the order of the search's patterns.
    tokens: Vec<(u32, bool)>,
    /// All are found in one search and take no white space with them.
    simple: bool,
    /// All are special, or none is: skipping special ones cannot hide another.
    one_kind: bool,
    as_text: bool,
}

impl Added {
    fn new(definition: &Value, slow: &Crate) -> Added {
        let list = definition["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
        let list: Vec<&Value> = list.iter().filter(|t| t["content"].as_str() != Some("")).collect();
        let is = |token: &Value, key: &str| token[key] == true;
        let content = |token: &Value| token["content"].as_str().unwrap_or_default().to_string();
        let plain = |t: &&&Value| !is(t, "single_word") && !is(t, "lstrip") && !is(t, "rstrip");
        let one_kind = list.iter().all(|t| is(t, "special")) || list.iter().all(|t| !is(t, "special"));
        let one_search =
            list.iter().all(|t| is(t, "normalized")) || list.iter().all(|t| !is(t, "normalized"));
        let ascii = list.iter().all(|t| content(t).is_ascii());
        let mut builder = AhoCorasick::builder();
        builder.match_kind(MatchKind::LeftmostLongest);
        let search =
            (!list.is_empty()).then(|| builder.build(list.iter().map(|t| content(t))).ok()).flatten();
        Added {
            simple: list.iter().filter(plain).count() == list.len()
                && one_search
                && ascii
                && search.is_some(),
            // The ids of the crate, which passes over those of the file.
            tokens: list
                .iter()
                .map(|t| (slow.token_to_id(&content(t)).unwrap_or(0), is(t, "special")))
                .collect(),
            one_kind,
            as_text: false,
            search,
        }
    }
}

impl Parsed {
    fn new(definition: &Value) -> Parsed {
        let kind = |key: &str| definition[key]["type"].as_str();
        let byte_level = kind("decoder") == Some("ByteLevel");
        let normal = matches!(kind("normalizer"), None | Some("NFC"));
        Parsed {
            cuts: cuts(definition),
            byte_level,
            exact: byte_level && normal && !spaced(&definition["pre_tokenizer"]),
        }
    }
}

/// Whether a space is put before the text.
fn spaced(pre: &Value) -> bool {
    pre["add_prefix_space"] == true
        || pre["type"] == "Metaspace"
        || pre["pretokenizers"].as_array().is_some_and(|steps| steps.iter().any(spaced))
}

/// `Lines` for the tokenizers of which it is known: no step looks across such a place.
fn cuts(definition: &Value) -> Cuts {
    let tokens = definition["added_tokens"].as_array().map_or(&[][..], Vec::as_slice);
    let across = |token: &Value| {
        let content = token["content"].as_str().unwrap_or_default();
        let begins = content.starts_with(|c: char| c.is_ascii_alphabetic());
        content.contains('\n') || (begins && token["lstrip"] == true)
    };
    let normal = match definition["normalizer"]["type"].as_str() {
        None => definition["normalizer"].is_null(),
        Some(kind) => matches!(kind, "NFC" | "BertNormalizer" | "Lowercase"),
    };
    let pre = &definition["pre_tokenizer"];
    let words = matches!(pre["type"].as_str(), Some("BertPreTokenizer" | "Whitespace" | "WhitespaceSplit"));
    let known = words || super::bytelevel::pattern(pre).is_some();
    if normal && known && !tokens.iter().any(across) { Cuts::Lines } else { Cuts::Nowhere }
}
