//! `corpus inspect`: what a corpus holds.

use crate::Result;
use crate::data::Corpus;
use serde_json::json;
use std::path::PathBuf;

/// What a corpus holds
#[derive(clap::Args)]
pub struct Inspect {
    /// Prefix of the .bin, .idx and .json files
    prefix: PathBuf,
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub fn run(self) -> Result<()> {
        let c = Corpus::open(&self.prefix)?;
        let (tokens, documents) = (c.tokens(), c.documents());
        if self.json {
            let hash = format!("{:016x}", c.hash());
            let row = json!({
                "tokens": tokens, "documents": documents, "vocab": c.vocab(), "hash": hash, "meta": c.meta()
            });
            println!("{row:#}");
            return Ok(());
        }
        println!("{}", self.prefix.display());
        println!(
            "  {tokens} tokens in {documents} documents, {:.0} each",
            tokens as f64 / documents.max(1) as f64
        );
        println!("  vocabulary {} ({}), hash {:016x}", c.vocab(), c.meta().tokenizer.kind, c.hash());
        Ok(())
    }
}
