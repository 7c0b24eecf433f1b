//! `corpus sample`: the text of one document.

use crate::Result;
use crate::data::Corpus;
use std::path::PathBuf;

/// Print one document
#[derive(clap::Args)]
pub struct Sample {
    prefix: PathBuf,
    #[arg(long, default_value_t = 0)]
    document: u64,
}

impl Sample {
    pub fn run(self) -> Result<()> {
        let c = Corpus::open(&self.prefix)?;
        let range = c.document_range(self.document)?;
        let mut ids = vec![0; (range.end - range.start) as usize];
        c.read(range.start, &mut ids)?;
        println!("{}", crate::data::tokenizer::text(&c, &ids)?);
        Ok(())
    }
}
