//! What `generate` prints: a single text as it comes; several in the order of the requests, each when it is complete.

use crate::Result;
use crate::data::tokenizer::{Decoder, Tokenizer};
use crate::infer::{Done, Request};
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{StdoutLock, Write};

pub struct Output<'a> {
    tokenizer: &'a Tokenizer,
    texts: &'a [String],
    requests: &'a [Request],
    json: bool,
    /// Of the only text, where it is printed as it comes.
    stream: Option<Decoder<'a>>,
    /// Complete, but after one that is not.
    held: BTreeMap<usize, String>,
    next: usize,
    out: StdoutLock<'static>,
}

impl<'a> Output<'a> {
    pub fn new(
        tokenizer: &'a Tokenizer,
        texts: &'a [String],
        requests: &'a [Request],
        json: bool,
    ) -> Output<'a> {
        let stream = (requests.len() == 1 && !json).then(|| tokenizer.decoder());
        let out = std::io::stdout().lock();
        Output { tokenizer, texts, requests, json, stream, held: BTreeMap::new(), next: 0, out }
    }

    /// The prompt of a text that is printed as it comes.
    pub fn begin(&mut self) {
        if self.stream.is_some() {
            self.put(&self.texts[0]);
        }
    }

    /// false if nobody listens any more.
    pub fn token(&mut self, _request: usize, id: u32) -> Result<bool> {
        match &mut self.stream {
            None => Ok(true),
            Some(decoder) => {
                let text = decoder.push(id)?;
                Ok(self.put(&text))
            }
        }
    }

    /// As `token`.
    pub fn done(&mut self, done: &Done) -> Result<bool> {
        if let Some(decoder) = &mut self.stream {
            let text = decoder.finish();
            return Ok(self.put(&text) && self.put("\n"));
        }
        let request = &self.requests[done.request];
        let (prompt, completion) =
            (&self.texts[request.prompt as usize], self.tokenizer.decode(&done.tokens)?);
        let text = match self.json {
            true => {
                let row = json!({
                    "prompt": prompt,
                    "sample": request.sample,
                    "completion": completion,
                    "tokens": done.tokens.len(),
                    "ended": done.ended,
                    "seconds": (done.seconds * 1e6).round() / 1e6,
                });
                format!("{row}\n")
            }
            false => {
                let (number, sample) = (request.prompt + 1, request.sample + 1);
                format!("--- prompt {number}, sample {sample}\n{prompt}{completion}\n")
            }
        };
        self.held.insert(done.request, text);
        let mut heard = true;
        while let Some(text) = self.held.remove(&self.next) {
            heard &= self.put(&text);
            self.next += 1;
        }
        Ok(heard)
    }

    fn put(&mut self, text: &str) -> bool {
        self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).is_ok()
    }
}
