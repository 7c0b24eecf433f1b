//! `corpus verify`: every byte against the checksums.

use crate::Result;
use crate::data::Corpus;
use std::path::PathBuf;

/// Read all of a corpus and compare it with its checksums
#[derive(clap::Args)]
pub struct Verify {
    prefix: PathBuf,
}

impl Verify {
    pub fn run(self) -> Result<()> {
        let corpus = Corpus::open(&self.prefix)?;
        corpus.verify()?;
        println!("{}: {} tokens, every byte as it was written", self.prefix.display(), corpus.tokens());
        Ok(())
    }
}
