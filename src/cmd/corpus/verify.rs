//! `corpus verify`: every byte against the checksums.

use super::progress::Progress;
use crate::Result;
use crate::data::Corpus;
use serde_json::json;
use std::path::PathBuf;

/// Read all of a corpus and compare it with its checksums
#[derive(clap::Args)]
pub struct Verify {
    prefix: PathBuf,
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub fn run(self) -> Result<()> {
        let corpus = Corpus::open(&self.prefix)?;
        let mut bar = Progress::new("tokens");
        corpus.verify_with(&mut |done| bar.at(done, corpus.tokens()))?;
        drop(bar);
        if self.json {
            let hash = format!("{:016x}", corpus.hash());
            println!("{:#}", json!({ "tokens": corpus.tokens(), "hash": hash, "sound": true }));
        } else {
            println!("{}: {} tokens, every byte as it was written", self.prefix.display(), corpus.tokens());
        }
        Ok(())
    }
}
