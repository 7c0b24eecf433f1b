//! Ids to text, one at a time: what is put out is never taken back, and no character is put out by halves.

use super::hf::{Bytes, guarded};
use super::{Inner, Tokenizer};
use crate::data::meta::BYTE_END;
use crate::{Error, Result};
use tokenizers::{
    DecodeStream, DecoderWrapper, ModelWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
};

type Stream<'a> = DecodeStream<
    'a,
    ModelWrapper,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

pub struct Decoder<'a> {
    tokenizer: &'a Tokenizer,
    way: Way<'a>,
    /// Bytes that may yet become a character.
    pending: Vec<u8>,
}

enum Way<'a> {
    Byte,
    /// Each id has its bytes.
    Table(&'a Bytes),
    /// The crate looks at neighbours (WordPiece, Unigram).
    Crate(Box<Stream<'a>>),
}

impl<'a> Decoder<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Decoder<'a> {
        let way = match &tokenizer.inner {
            Inner::Byte => Way::Byte,
            Inner::Hf(hf) => match hf.bytes() {
                Some(bytes) => Way::Table(bytes),
                None => Way::Crate(Box::new(hf.slow().decode_stream(false))),
            },
        };
        Decoder { tokenizer, way, pending: Vec::new() }
    }

    /// The text that is certain with one more id; the end of a document and ids of the padding give none.
    pub fn push(&mut self, id: u32) -> Result<String> {
        if self.tokenizer.end == Some(id) || id >= self.tokenizer.vocab {
            return Ok(String::new());
        }
        match &mut self.way {
            Way::Byte => {
                debug_assert!(id < BYTE_END, "the end is handled above");
                self.pending.push(id as u8);
            }
            Way::Table(bytes) => self.pending.extend(bytes.of(id).unwrap_or_default()),
            Way::Crate(stream) => {
                let text = guarded(|| stream.step(id)).map_err(|e| {
                    let problem = format!("id {id} cannot be turned into text: {e}");
                    Error::data(
                        "tokenizer.json",
                        problem,
                        "the decoder of the tokenizer does not fit its vocabulary",
                    )
                })?;
                return Ok(text.unwrap_or_default());
            }
        }
        Ok(self.certain())
    }

    /// What is left at the end; bytes that are no character show as U+FFFD.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }

    /// Takes whole characters from `pending`, and U+FFFD for what can no longer become one.
    fn certain(&mut self) -> String {
        let mut text = String::new();
        let mut done = 0;
        for chunk in self.pending.utf8_chunks() {
            text += chunk.valid();
            done += chunk.valid().len();
            let rest = &self.pending[done..];
            let open =
                std::str::from_utf8(rest).is_err_and(|e| e.error_len().is_none() && e.valid_up_to() == 0);
            if open {
                break;
            }
            if !chunk.invalid().is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
                done += chunk.invalid().len();
            }
        }
        self.pending.drain(..done);
        text
    }
}
