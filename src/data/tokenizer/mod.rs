//! Text to token ids and back: one type over bytes and every `tokenizer.json`.
//!
//! - byte: 256 bytes and the end of a document, 257 ids, any encoding of text.
//! - tokenizer.json of Hugging Face `tokenizers` (BPE, WordPiece, Unigram), read from a file, carried (`gpt2`) or
//!   trained (`train`). Its definition lies beside each corpus as PREFIX.tokenizer.json and in checkpoints.
//!
//! Ids are those of the `tokenizers` crate. Common byte-level BPE takes a shorter way to the same ids (`bytelevel`).
//! Tokens that a template would add ([CLS], <s>) are not added; an end-of-document token is, after each document.

mod bytelevel;
mod classes;
mod decode;
mod gpt2;
mod hf;
mod load;
mod merge;
mod spec;
mod split;
#[cfg(test)]
mod tests;
mod train;

pub use decode::Decoder;
pub use load::fingerprint;
pub use spec::Spec;
pub use train::{Kind as TrainKind, train};

use super::meta::{BYTE_END, BYTE_VOCAB, Tokenizer as Id, beside};
use crate::{Error, Result};
use std::path::Path;

/// Which token ends a document.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum EndOfDocument {
    /// The first of `<|endoftext|>`, `<|end_of_text|>`, `</s>`, `<eos>`, `[EOS]`, `[SEP]` the tokenizer has.
    #[default]
    Usual,
    Token(String),
    None,
}

const USUAL_ENDS: [&str; 6] = ["<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "[EOS]", "[SEP]"];

pub struct Tokenizer {
    inner: Inner,
    id: Id,
    vocab: u32,
    end: Option<u32>,
}

enum Inner {
    Byte,
    Hf(Box<hf::Hf>),
}

/// Where text may be cut without a change of its ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cuts {
    /// Between any two bytes.
    Anywhere,
    /// After a line break between a printing ASCII character and an ASCII letter.
    Lines,
    /// Nowhere: a document goes through the tokenizer in one piece.
    Nowhere,
}

impl Cuts {
    /// Whether `text` may be cut before its byte `at`, which has text on both sides.
    pub fn allows(self, text: &[u8], at: usize) -> bool {
        match self {
            Cuts::Anywhere => true,
            Cuts::Nowhere => false,
            Cuts::Lines => {
                let around = at.checked_sub(2).and_then(|from| text.get(from..=at));
                matches!(around, Some([b'!'..=b'~', b'\n', next]) if next.is_ascii_alphabetic())
            }
        }
    }
}

impl Tokenizer {
    pub fn byte() -> Tokenizer {
        Tokenizer { inner: Inner::Byte, id: Id::byte(), vocab: BYTE_VOCAB, end: Some(BYTE_END) }
    }

    /// The carried vocabulary of GPT-2: 50257 ids, the last one `<|endoftext|>`.
    pub fn gpt2() -> Result<Tokenizer> {
        Tokenizer::from_json(&gpt2::definition(), Path::new("gpt2"))
    }

    /// A tokenizer.json file, or a folder that holds one.
    pub fn read(path: &Path) -> Result<Tokenizer> {
        load::file(path)
    }

    /// `definition`: the text of a tokenizer.json; `source`: what errors call it.
    pub fn from_json(definition: &str, source: &Path) -> Result<Tokenizer> {
        let hf = hf::Hf::new(definition, source)?;
        let (id, vocab) = (hf.id(), hf.vocab());
        let mut tokenizer = Tokenizer { inner: Inner::Hf(Box::new(hf)), id, vocab, end: None };
        tokenizer.end = USUAL_ENDS.into_iter().find_map(|token| tokenizer.token_id(token));
        Ok(tokenizer)
    }

    /// The tokenizer of a corpus, from PREFIX.tokenizer.json where it is not bytes; `id` and `end` as PREFIX.json
    /// states them. None for a corpus that came without a definition.
    pub fn beside(prefix: &Path, id: &Id, end: Option<u32>) -> Result<Option<Tokenizer>> {
        if *id == Id::byte() {
            return Ok(Some(Tokenizer::byte()));
        }
        let path = beside(prefix, ".tokenizer.json");
        if !path.exists() {
            return Ok(None);
        }
        let mut tokenizer = Tokenizer::read(&path)?;
        if tokenizer.id != *id {
            let problem = format!(
                "defines the tokenizer {} {:016x}, but the corpus was made with {} {:016x}",
                tokenizer.id.kind, tokenizer.id.hash, id.kind, id.hash
            );
            return Err(Error::data(&path, problem, "copy the files of the corpus together again"));
        }
        tokenizer.end = end;
        Ok(Some(tokenizer))
    }

    /// Chooses the token that ends documents. `source` is what errors call the tokenizer.
    pub fn end_with(&mut self, end: &EndOfDocument, source: &str) -> Result<()> {
        let wrong =
            |problem: String, remedy: &str| Err(Error::config("corpus build", "--eod", problem, remedy));
        match (&self.inner, end) {
            (Inner::Byte, EndOfDocument::Usual) => {}
            (Inner::Byte, _) => {
                let problem = "the byte vocabulary ends documents with its own token 256";
                return wrong(problem.into(), "leave out --eod and --no-eod");
            }
            (Inner::Hf(_), EndOfDocument::None) => self.end = None,
            (Inner::Hf(_), EndOfDocument::Token(token)) => match self.token_id(token) {
                Some(id) => self.end = Some(id),
                None => {
                    let problem = format!("\"{token}\" is not a token of {source}");
                    return wrong(problem, "name one of its tokens, or say --no-eod");
                }
            },
            (Inner::Hf(_), EndOfDocument::Usual) if self.end.is_none() => {
                let problem = format!("{source} has none of {}", USUAL_ENDS.join(", "));
                return wrong(
                    problem,
                    "name the token that ends a document with --eod TOKEN, or say --no-eod",
                );
            }
            (Inner::Hf(_), EndOfDocument::Usual) => {}
        }
        Ok(())
    }

    /// Whether special tokens written out in text become their ids (as in `tokenizers`, the default) or stay text.
    pub fn special_as_text(&mut self, yes: bool) {
        if let Inner::Hf(hf) = &mut self.inner {
            hf.special_as_text(yes);
        }
    }

    /// Kind and hash, as PREFIX.json states them.
    pub fn id(&self) -> &Id {
        &self.id
    }
    /// The text of its tokenizer.json; none for bytes, which need none.
    pub fn definition(&self) -> Option<&str> {
        match &self.inner {
            Inner::Byte => None,
            Inner::Hf(hf) => Some(hf.definition()),
        }
    }
    /// Ids are below this.
    pub fn vocab(&self) -> u32 {
        self.vocab
    }
    /// The vocabulary rounded up, for a corpus whose model wants it so.
    pub fn padded_vocab(&self, multiple: u32) -> u32 {
        self.vocab.checked_next_multiple_of(multiple.max(1)).unwrap_or(self.vocab)
    }
    pub fn end_of_document(&self) -> Option<u32> {
        self.end
    }
    pub fn token_id(&self, token: &str) -> Option<u32> {
        match &self.inner {
            Inner::Byte => None,
            Inner::Hf(hf) => hf.token_id(token),
        }
    }
    pub fn cuts(&self) -> Cuts {
        match &self.inner {
            Inner::Byte => Cuts::Anywhere,
            Inner::Hf(hf) => hf.cuts(),
        }
    }
    /// Whether ids are found by this program's own byte-level BPE.
    pub fn is_fast(&self) -> bool {
        matches!(&self.inner, Inner::Hf(hf) if hf.is_fast())
    }

    /// Bytes of text each id stands for, the end of a document none; None where they are not known exactly (WordPiece
    /// and Unigram drop or change white space). Under normal form C: bytes of the text in that form.
    pub fn byte_lengths(&self) -> Option<Vec<u16>> {
        let mut lengths: Vec<u16> = match &self.inner {
            Inner::Byte => vec![1; BYTE_VOCAB as usize],
            Inner::Hf(hf) => hf.exact_bytes()?.lengths(),
        };
        if let Some(end) = self.end {
            lengths[end as usize] = 0;
        }
        Some(lengths)
    }

    /// What one thread encodes with.
    pub fn encoder(&self) -> Encoder<'_> {
        Encoder { tokenizer: self, words: Default::default() }
    }
    /// Ids to text, one at a time.
    pub fn decoder(&self) -> Decoder<'_> {
        Decoder::new(self)
    }
    /// Ids to text; the end of a document is left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String> {
        let mut decoder = self.decoder();
        let mut text = String::new();
        for &id in ids {
            text += &decoder.push(id)?;
        }
        Ok(text + &decoder.finish())
    }
}

/// A tokenizer and the words this thread saw lately.
pub struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    words: bytelevel::Words,
}

impl Encoder<'_> {
    /// Appends the ids of `text` to `out`. The error says why the tokenizer refuses.
    pub fn encode(&mut self, text: &str, out: &mut Vec<u32>) -> std::result::Result<(), String> {
        match &self.tokenizer.inner {
            Inner::Byte => out.extend(text.bytes().map(u32::from)),
            Inner::Hf(hf) => hf.encode(text, &mut self.words, out)?,
        }
        Ok(())
    }

    /// As `encode`, of bytes that only the byte vocabulary takes whatever they are. `Err` of the valid length
    /// otherwise.
    pub fn encode_bytes(&mut self, bytes: &[u8], out: &mut Vec<u32>) -> std::result::Result<(), Refused> {
        if let Inner::Byte = self.tokenizer.inner {
            out.extend(bytes.iter().map(|&b| u32::from(b)));
            return Ok(());
        }
        let text = std::str::from_utf8(bytes).map_err(|e| Refused::NotUtf8(e.valid_up_to()))?;
        self.encode(text, out).map_err(Refused::Tokenizer)
    }
}

/// Why bytes have no ids.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not UTF-8 from this byte on.
    NotUtf8(usize),
    Tokenizer(String),
}
