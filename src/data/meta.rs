//! PREFIX.json: what the numbers in a corpus mean, how many there are, and the checksums of its files.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// Tokens of the byte vocabulary: the 256 bytes and the end of a document.
pub const BYTE_VOCAB: u32 = 257;
/// The end-of-document token of the byte vocabulary.
pub const BYTE_END: u32 = 256;

const FORMAT: &str = "espalier-corpus";
const VERSION: u64 = 1;
/// Of PREFIX.json: room for a hundred thousand parts.
const MAX_BYTES: u64 = 1 << 24;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Meta {
    pub format: String,
    pub version: u64,
    /// Token ids are below this.
    pub vocab: u32,
    pub tokenizer: Tokenizer,
    /// The token that ends each document, if the tokenizer appends one.
    pub end_of_document: Option<u32>,
    /// The side stream that weighs each target, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
    pub tokens: u64,
    pub documents: u64,
    /// Bytes of text the tokens stand for; 0 = not known.
    pub source_bytes: u64,
    /// XXH3 (64 bits) of the whole files, in hexadecimal.
    #[serde(with = "hex")]
    pub bin_xxh3: u64,
    #[serde(with = "hex")]
    pub idx_xxh3: u64,
    /// `sampled` of the tokens, which opening compares.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "maybe_hex")]
    pub sampled_xxh3: Option<u64>,
    /// Where the tokens lie, one after another, if not in PREFIX.bin; `bin_xxh3` is of what that would hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<Part>,
}

/// A stretch of a file that somebody else wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Part {
    /// Relative paths begin at the folder of PREFIX.json.
    pub path: PathBuf,
    /// Its first byte in the file.
    pub offset: u64,
    pub tokens: u64,
    pub dtype: PartType,
}

/// Number type of a part's tokens, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PartType {
    U16,
    I32,
    /// Read as i32: ids above 2^31 are in no vocabulary.
    U32,
}

impl PartType {
    pub fn bytes(self) -> u64 {
        if self == PartType::U16 { 2 } else { 4 }
    }
}

/// Which tokenizer made the ids: `byte`, or another kind with the hash of its definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokenizer {
    pub kind: String,
    #[serde(with = "hex")]
    pub hash: u64,
}

impl Tokenizer {
    pub fn byte() -> Tokenizer {
        Tokenizer { kind: "byte".into(), hash: xxh3_64(b"bytes 0-255, end of document 256") }
    }
}

impl Meta {
    pub(super) fn new(vocab: u32, tokenizer: Tokenizer, end_of_document: Option<u32>) -> Meta {
        Meta {
            format: FORMAT.into(),
            version: VERSION,
            vocab,
            tokenizer,
            end_of_document,
            weights: None,
            tokens: 0,
            documents: 0,
            source_bytes: 0,
            bin_xxh3: 0,
            idx_xxh3: 0,
            sampled_xxh3: None,
            parts: Vec::new(),
        }
    }

    /// The same tokenizer and meaning, for a corpus of other tokens.
    pub(super) fn like(&self) -> Meta {
        let mut meta = Meta::new(self.vocab, self.tokenizer.clone(), self.end_of_document);
        meta.weights = self.weights.clone();
        meta
    }

    /// Reads and checks one file. Errors name it and what is wrong with it.
    pub fn read(path: &Path) -> Result<Meta> {
        let bad =
            |problem: String| Error::data(path, problem, "rebuild the corpus with `espalier corpus build`");
        let length = std::fs::metadata(path).map_err(Error::io(path, "find"))?.len();
        if length > MAX_BYTES {
            return Err(bad(format!("is {length} bytes long; a corpus description has at most {MAX_BYTES}")));
        }
        let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
        // The format and version come first, so that a newer file is called that and not "unknown field".
        let value: serde_json::Value =
            serde_json::from_slice(&bytes).map_err(|e| bad(format!("is not JSON: {e}")))?;
        if value["format"] != FORMAT {
            return Err(bad(format!("\"format\" is {}, not \"{FORMAT}\"", value["format"])));
        }
        if value["version"] != VERSION {
            return Err(bad(format!("\"version\" is {}; this program reads {VERSION}", value["version"])));
        }
        let meta: Meta =
            serde_json::from_value(value).map_err(|e| bad(format!("is not a corpus description: {e}")))?;
        meta.check().map_err(bad)?;
        Ok(meta)
    }

    /// Writes the description under a temporary name first, so that one of this name is always whole.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let temporary = beside(path, ".tmp");
        let text = serde_json::to_string_pretty(self).expect("plain data") + "\n";
        let mut file = File::create(&temporary).map_err(Error::io(&temporary, "create"))?;
        let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
        written.map_err(Error::io(&temporary, "write"))?;
        std::fs::rename(&temporary, path).map_err(Error::io(path, "rename"))
    }

    /// What the fields must satisfy whatever the other files say.
    pub(super) fn check(&self) -> std::result::Result<(), String> {
        if self.vocab == 0 || self.vocab > 1 << 31 {
            return Err(format!("\"vocab\" is {}; allowed are 1 to 2^31", self.vocab));
        }
        if let Some(end) = self.end_of_document.filter(|&end| end >= self.vocab) {
            return Err(format!("\"end_of_document\" is {end}, outside the vocabulary of {}", self.vocab));
        }
        let byte = (self.vocab, self.end_of_document) == (BYTE_VOCAB, Some(BYTE_END));
        if self.tokenizer.kind == "byte" && !(byte && self.tokenizer == Tokenizer::byte()) {
            return Err(format!(
                "calls the tokenizer \"byte\" but \"vocab\", \"end_of_document\" or the tokenizer hash differ from \
                 {BYTE_VOCAB}, {BYTE_END} and {:016x}",
                Tokenizer::byte().hash
            ));
        }
        let mut sum = 0u64;
        for (i, part) in self.parts.iter().enumerate() {
            if part.dtype.bytes() != self.parts[0].dtype.bytes() {
                return Err(format!(
                    "part {i} has numbers of {} bytes, the first of {}",
                    part.dtype.bytes(),
                    self.parts[0].dtype.bytes()
                ));
            }
            let bytes = part.tokens.checked_mul(4).and_then(|bytes| bytes.checked_add(part.offset));
            sum = match bytes.and(sum.checked_add(part.tokens)) {
                Some(sum) => sum,
                None => {
                    return Err(format!(
                        "part {i} has {} tokens from byte {}, which overflows",
                        part.tokens, part.offset
                    ));
                }
            };
        }
        if !self.parts.is_empty() && sum != self.tokens {
            return Err(format!("\"parts\" have {sum} tokens, and \"tokens\" is {}", self.tokens));
        }
        Ok(())
    }
}

/// PREFIX + suffix. (`with_extension` would cut a prefix such as `web.v2`.)
pub(super) fn beside(prefix: &Path, suffix: &str) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// JSON numbers are not safe above 2^53, so hashes are strings of 16 hexadecimal digits.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(hash: &u64, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&format!("{hash:016x}"))
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<u64, D::Error> {
        let text = String::deserialize(d)?;
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_hexdigit());
        let value = u64::from_str_radix(&text, 16).ok().filter(|_| digits);
        value.ok_or_else(|| D::Error::custom(format!("a hash is 16 hexadecimal digits, not \"{text}\"")))
    }
}

mod maybe_hex {
    use serde::{Deserializer, Serializer};

    pub fn serialize<S: Serializer>(hash: &Option<u64>, s: S) -> Result<S::Ok, S::Error> {
        match hash {
            Some(hash) => super::hex::serialize(hash, s),
            None => s.serialize_none(),
        }
    }
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Option<u64>, D::Error> {
        super::hex::deserialize(d).map(Some)
    }
}
