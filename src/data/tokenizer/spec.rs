//! What `--tokenizer` names.

use super::TrainKind;
use crate::{Error, Result};
use std::path::PathBuf;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spec {
    Byte,
    Gpt2,
    /// tokenizer.json, or a folder that holds one.
    File(PathBuf),
    /// A vocabulary of this size, trained on the input.
    Train(TrainKind, u32),
}

impl Spec {
    /// `byte`, `gpt2`, `train-bpe:SIZE`, `train-wordpiece:SIZE`, or a path.
    pub fn parse(text: &str) -> Result<Spec> {
        match text {
            "byte" => return Ok(Spec::Byte),
            "gpt2" => return Ok(Spec::Gpt2),
            _ => {}
        }
        for (name, kind) in [("train-bpe", TrainKind::Bpe), ("train-wordpiece", TrainKind::WordPiece)] {
            let Some(rest) = text.strip_prefix(name) else { continue };
            let size = rest.strip_prefix(':').and_then(|size| size.replace('_', "").parse().ok());
            return match size.filter(|size| (300..=1_000_000).contains(size)) {
                Some(size) => Ok(Spec::Train(kind, size)),
                None => Err(Error::config(
                    "corpus build",
                    "--tokenizer",
                    format!("\"{text}\" states no vocabulary of 300 to 1000000 tokens"),
                    format!("write {name}:32000, for example"),
                )),
            };
        }
        let path = PathBuf::from(text);
        if path.exists() {
            return Ok(Spec::File(path));
        }
        Err(Error::config(
            "corpus build",
            "--tokenizer",
            format!(
                "\"{text}\" is neither a file nor one of byte, gpt2, train-bpe:SIZE, train-wordpiece:SIZE"
            ),
            "name a tokenizer.json or one of these",
        ))
    }
}

impl std::fmt::Display for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Spec::Byte => write!(f, "byte"),
            Spec::Gpt2 => write!(f, "gpt2"),
            Spec::File(path) => write!(f, "{}", path.display()),
            Spec::Train(TrainKind::Bpe, size) => write!(f, "train-bpe:{size}"),
            Spec::Train(TrainKind::WordPiece, size) => write!(f, "train-wordpiece:{size}"),
        }
    }
}
