//! The text a tokenizer is trained on: every k-th chunk of the input, k the least that keeps it within its size.

use super::encode::path_of;
use super::inputs::Input;
use super::json::{Keys, Wanted, parse};
use super::reader::{Kind, Place, Reader};
use crate::data::tokenizer::Cuts;
use crate::{Error, Result};

/// Texts of at most `most` bytes in all. Lines that are no JSON are passed over: the build will name them.
pub(super) fn sample(inputs: &[Input], keys: &Keys, longest: usize, most: u64) -> Result<Vec<String>> {
    let total: u64 = inputs.iter().map(|input| input.bytes).sum();
    let every = total.div_ceil(most.max(1)).max(1);
    let mut reader = Reader::new(inputs, Cuts::Lines, longest, Place::default());
    let mut texts = Vec::new();
    let (mut number, mut taken) = (0, 0);
    // Compressed input holds more than its size says: then the last part is not looked at.
    while taken < most {
        let Some(chunk) = reader.next()? else { break };
        number += 1;
        if (number - 1) % every != 0 {
            continue;
        }
        let mut add = |text: &str| {
            taken += text.len() as u64;
            texts.push(text.to_string());
        };
        for part in &chunk.parts {
            let bytes = &chunk.bytes[part.range.clone()];
            match part.kind {
                Kind::Text { .. } => {
                    let text = std::str::from_utf8(bytes).map_err(|e| Error::Data {
                        path: path_of(inputs)(part.place.file),
                        offset: Some(part.place.offset + e.valid_up_to() as u64),
                        problem: "the text is not UTF-8 from here on".into(),
                        remedy: "convert the file to UTF-8, leave it out, or use --tokenizer byte".into(),
                    })?;
                    add(text);
                }
                Kind::Lines => {
                    for line in bytes.split(|&b| b == b'\n') {
                        if let Ok(line) = parse(line, keys, &Wanted::Named(vec![])) {
                            add(&line.text);
                            if let Some(completion) = &line.completion {
                                add(completion);
                            }
                        }
                    }
                }
            }
        }
    }
    Ok(texts)
}
