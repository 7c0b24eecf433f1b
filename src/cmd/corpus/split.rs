//! `corpus split`: one corpus as two.

use super::progress::Progress;
use crate::Result;
use crate::data::{Corpus, Share, split};
use std::path::PathBuf;

/// Split the documents of a corpus in two
#[derive(clap::Args)]
#[command(after_help = "Examples:
  espalier corpus split data/web --out data/most data/rest --share 0.9
  espalier corpus split data/web --out data/first data/rest --documents 1000")]
pub struct Split {
    prefix: PathBuf,
    /// Prefixes of the two new corpora
    #[arg(long, num_args = 2, value_names = ["A", "B"], required = true)]
    out: Vec<PathBuf>,
    /// A gets this share of the documents, chosen by the hash of their first bytes
    #[arg(long, conflicts_with = "documents", required_unless_present = "documents")]
    share: Option<f64>,
    /// A gets the first so many documents
    #[arg(long)]
    documents: Option<u64>,
}

impl Split {
    pub fn run(self) -> Result<()> {
        let corpus = Corpus::open(&self.prefix)?;
        let share = self.documents.map_or(Share::Hash(self.share.unwrap_or_default()), Share::Documents);
        let mut bar = Progress::new("documents");
        let halves = split(&corpus, share, &self.out[0], &self.out[1], &mut |done| {
            bar.at(done, corpus.documents());
        })?;
        drop(bar);
        for (out, meta) in self.out.iter().zip(halves) {
            println!("{}: {} tokens in {} documents", out.display(), meta.tokens, meta.documents);
        }
        Ok(())
    }
}
