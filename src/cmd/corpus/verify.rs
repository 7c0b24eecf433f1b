//! `corpus verify`: every byte against the checksums, also of what lies beside a corpus.

use super::progress::Progress;
use crate::Result;
use crate::data::{Corpus, side};
use serde_json::json;
use std::path::PathBuf;

/// Read all of a corpus, its side streams and document columns and compare them with their checksums
#[derive(clap::Args)]
#[command(after_help = "Examples:
  espalier corpus verify data/web")]
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
        let sides = side::verify(&corpus)?;
        if self.json {
            let hash = format!("{:016x}", corpus.hash());
            let row = json!({
                "tokens": corpus.tokens(), "hash": hash, "sound": true,
                "streams": sides.streams, "columns": sides.columns,
            });
            println!("{row:#}");
        } else {
            println!("{}: {} tokens, every byte as it was written", self.prefix.display(), corpus.tokens());
            for (kind, names) in [("side streams", &sides.streams), ("document columns", &sides.columns)] {
                if !names.is_empty() {
                    println!("  {kind} too: {}", names.join(", "));
                }
            }
        }
        Ok(())
    }
}
