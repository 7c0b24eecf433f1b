//! `corpus build`: text to a corpus.
//!
//! Files (plain, gzip or zstd, by their content) are read as text, one document each, or as JSONL, one document a line.
//! A reader cuts them into chunks (`reader`), workers encode these (`encode`), one writer puts them in order
//! (`pipeline`); the output depends on the input and the options alone. A journal (`journal`) lets a build that was
//! killed go on. Documents without text are left out, or with `keep_empty` kept without tokens, as Megatron's preprocessing
//! does.
//!
//! Values of other JSON keys become document columns (`columns`); prompt and completion pairs get a side stream `loss`.

mod columns;
mod encode;
mod inputs;
mod journal;
mod json;
mod pipeline;
mod reader;
mod run;
mod sample;
mod source;

pub use inputs::Format;
pub use json::{Keys, Wanted};

use super::tokenizer::{EndOfDocument, Spec};
use crate::Result;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What to build.
#[derive(Debug, Clone)]
pub struct Options {
    pub inputs: Vec<PathBuf>,
    /// Prefix of the files to write.
    pub out: PathBuf,
    pub tokenizer: Spec,
    pub end: EndOfDocument,
    /// Special tokens written out in the text stay text.
    pub special_as_text: bool,
    /// The vocabulary is rounded up to a multiple of this.
    pub pad_vocab: Option<u32>,
    pub format: Format,
    pub keys: Keys,
    pub columns: Wanted,
    /// Documents without text become documents without tokens; otherwise they are left out.
    pub keep_empty: bool,
    /// Bad lines to pass over at most.
    pub skip_bad: u64,
    /// Bytes of a line, or of a stretch of text the tokenizer needs whole; by default 64 MiB, and 8 MiB for tokenizers
    /// that need documents whole.
    pub max_document: Option<usize>,
    /// Bytes of text a tokenizer is trained on at most.
    pub train_bytes: u64,
    pub threads: usize,
    /// Throw away what an earlier build left unfinished.
    pub restart: bool,
    /// How often the journal is written.
    pub journal_every: Duration,
}

impl Options {
    /// Bytes, all cores, everything else as the command line has it by default.
    pub fn new(inputs: &[PathBuf], out: &Path) -> Options {
        Options {
            inputs: inputs.into(),
            out: out.into(),
            tokenizer: Spec::Byte,
            end: EndOfDocument::Usual,
            special_as_text: false,
            pad_vocab: None,
            format: Format::Auto,
            keys: Keys::Text("text".into()),
            columns: Wanted::All,
            keep_empty: false,
            skip_bad: 0,
            max_document: None,
            train_bytes: 64 << 20,
            threads: std::thread::available_parallelism().map_or(1, |n| n.get()),
            restart: false,
            journal_every: Duration::from_secs(10),
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub files: u64,
    pub documents: u64,
    /// Including one end-of-document token for each document that has text.
    pub tokens: u64,
    pub source_bytes: u64,
    /// Documents without text, which are left out unless they were to be kept.
    pub empty: u64,
    /// Lines passed over, and the first few of them.
    pub bad: u64,
    pub bad_examples: Vec<String>,
    pub columns: Vec<String>,
    pub vocab: u32,
    /// Whether it went on from an earlier build's journal.
    pub resumed: bool,
}

/// How far a build is.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Bytes of the input files, compressed where they are, read and in all.
    pub read: u64,
    pub total: u64,
    /// Bytes of text encoded by this process.
    pub text: u64,
    pub tokens: u64,
    pub documents: u64,
}

/// What a build asks and tells while it runs.
pub struct Control<'a> {
    /// Whether it should stop; it then leaves what it needs to go on.
    pub stop: &'a dyn Fn() -> bool,
    pub show: &'a mut dyn FnMut(&Progress),
}

/// None if it was asked to stop: the same options go on.
pub fn build(options: &Options, control: Control) -> Result<Option<Summary>> {
    run::run(options, control)
}

/// Builds `out`.bin, .idx and .json of bytes from files and folders.
pub fn build_bytes(inputs: &[PathBuf], out: &Path) -> Result<Summary> {
    let control = Control { stop: &|| false, show: &mut |_| {} };
    let summary = build(&Options::new(inputs, out), control)?;
    Ok(summary.expect("nobody asked it to stop"))
}
