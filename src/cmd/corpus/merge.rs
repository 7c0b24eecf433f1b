//! `corpus merge`: several corpora as one.

use super::progress::Progress;
use crate::Result;
use crate::data::{Corpus, merge};
use std::path::PathBuf;

/// Merge corpora of one tokenizer, in the order of the arguments
#[derive(clap::Args)]
#[command(after_help = "Examples:
  espalier corpus merge data/a data/b --out data/both")]
pub struct Merge {
    #[arg(required = true)]
    prefix: Vec<PathBuf>,
    /// Prefix of the new corpus
    #[arg(long)]
    out: PathBuf,
}

impl Merge {
    pub fn run(self) -> Result<()> {
        let parts = self.prefix.iter().map(|p| Corpus::open(p)).collect::<Result<Vec<_>>>()?;
        let mut bar = Progress::new("tokens");
        let merged = merge(&parts, &self.out, &mut |done, all| bar.at(done, all))?;
        drop(bar);
        println!(
            "{}: {} tokens in {} documents",
            self.out.display(),
            merged.meta.tokens,
            merged.meta.documents
        );
        if !merged.left_out.is_empty() {
            println!("  left out, since not all have them in one type: {}", merged.left_out.join(", "));
        }
        Ok(())
    }
}
