//! `corpus adopt`: a corpus of files that other programs wrote.

use super::progress::Progress;
use crate::Result;
use crate::data::{Adopt as What, PartType, adopt};
use serde_json::json;
use std::path::PathBuf;

/// Make a corpus of files of other programs, which stay where they are: Megatron, llm.c, datatrove, bare numbers
#[derive(clap::Args)]
#[command(after_help = "Examples:
  espalier corpus adopt old/megatron_text_document --tokenizer tokenizer.json
  espalier corpus adopt fineweb_train_*.bin --out data/fineweb --tokenizer gpt2 --vocab 50257 --eod 50256")]
pub struct Adopt {
    /// Prefix of a Megatron .bin and .idx; or token files and folders of them, in their order
    #[arg(required = true)]
    input: Vec<PathBuf>,
    /// Prefix of the corpus: OUT.json and OUT.idx are written (Megatron: default is the same prefix)
    #[arg(long)]
    out: Option<PathBuf>,
    /// The tokenizer.json that made the ids, or a name for it
    #[arg(long)]
    tokenizer: String,
    /// Ids are below this (default: as the tokenizer.json says)
    #[arg(long)]
    vocab: Option<u32>,
    /// The id between documents; without it, each file that does not say where its documents end is one
    #[arg(long)]
    eod: Option<u32>,
    /// Type of the tokens in files without a header
    #[arg(long, value_parser = dtype)]
    dtype: Option<PartType>,
    #[arg(long)]
    json: bool,
}

fn dtype(text: &str) -> std::result::Result<PartType, String> {
    match text {
        "u16" => Ok(PartType::U16),
        "i32" => Ok(PartType::I32),
        "u32" => Ok(PartType::U32),
        _ => Err("allowed are u16, i32 and u32".into()),
    }
}

impl Adopt {
    pub fn run(self) -> Result<()> {
        let what = What {
            inputs: self.input,
            out: self.out,
            tokenizer: self.tokenizer,
            vocab: self.vocab,
            eod: self.eod,
            dtype: self.dtype,
        };
        let mut bar = Progress::new("tokens");
        let a = adopt(&what, &mut |done, all| bar.at(done, all))?;
        drop(bar);
        if self.json {
            let row = json!({
                "prefix": a.prefix, "format": a.format, "files": a.files, "tokens": a.tokens,
                "documents": a.documents, "eod_first": a.eod_first
            });
            println!("{row:#}");
            return Ok(());
        }
        let (prefix, format) = (a.prefix.display(), a.format);
        println!("{prefix}: {} tokens in {} documents, {} files of {format}", a.tokens, a.documents, a.files);
        if a.eod_first {
            println!("  the end-of-text id stands before each document, which therefore begins with it");
        }
        Ok(())
    }
}
