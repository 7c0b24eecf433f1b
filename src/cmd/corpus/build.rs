//! `corpus build`: text to a corpus.

use crate::Result;
use crate::data::build_bytes;
use std::path::PathBuf;

/// Text files (one document each) and JSONL files (one document a line, key "text") to a byte-level corpus
#[derive(clap::Args)]
pub struct Build {
    /// Files, or directories that are searched for *.txt, *.md and *.jsonl
    #[arg(required = true)]
    input: Vec<PathBuf>,
    /// Prefix of the files to write: OUT.bin, OUT.idx, OUT.json
    #[arg(long)]
    out: PathBuf,
}

impl Build {
    pub fn run(self) -> Result<()> {
        let s = build_bytes(&self.input, &self.out)?;
        println!(
            "{}: {} documents, {} tokens from {} bytes in {} files",
            self.out.display(),
            s.documents,
            s.tokens,
            s.source_bytes,
            s.files
        );
        Ok(())
    }
}
