//! `corpus build|inspect|verify|sample`

use crate::Result;
use crate::data::{Corpus as Open, build_bytes};
use serde_json::json;
use std::path::{Path, PathBuf};

#[derive(clap::Subcommand)]
pub enum Corpus {
    /// Text files (one document each) and JSONL files (one document a line, key "text") to a byte-level corpus
    Build {
        /// Files, or directories that are searched for *.txt, *.md and *.jsonl
        #[arg(required = true)]
        input: Vec<PathBuf>,
        /// Prefix of the files to write: OUT.bin, OUT.idx, OUT.json
        #[arg(long)]
        out: PathBuf,
    },
    /// What a corpus holds
    Inspect {
        /// Prefix of the .bin, .idx and .json files
        prefix: PathBuf,
        #[arg(long)]
        json: bool,
    },
    /// Read all of a corpus and compare it with its checksums
    Verify { prefix: PathBuf },
    /// Print one document
    Sample {
        prefix: PathBuf,
        #[arg(long, default_value_t = 0)]
        document: u64,
    },
}

impl Corpus {
    pub fn run(self) -> Result<()> {
        match self {
            Corpus::Build { input, out } => {
                let s = build_bytes(&input, &out)?;
                println!(
                    "{}: {} documents, {} tokens from {} bytes in {} files",
                    out.display(),
                    s.documents,
                    s.tokens,
                    s.source_bytes,
                    s.files
                );
                Ok(())
            }
            Corpus::Inspect { prefix, json } => inspect(&prefix, json),
            Corpus::Verify { prefix } => {
                let corpus = Open::open(&prefix)?;
                corpus.verify()?;
                println!("{}: {} tokens, every byte as it was written", prefix.display(), corpus.tokens());
                Ok(())
            }
            Corpus::Sample { prefix, document } => sample(&prefix, document),
        }
    }
}

fn inspect(prefix: &Path, as_json: bool) -> Result<()> {
    let c = Open::open(prefix)?;
    let (tokens, documents) = (c.tokens(), c.documents());
    if as_json {
        let hash = format!("{:016x}", c.hash());
        let row = json!({ "tokens": tokens, "documents": documents, "vocab": c.vocab(), "hash": hash, "meta": c.meta() });
        println!("{row:#}");
    } else {
        println!("{}", prefix.display());
        println!(
            "  {tokens} tokens in {documents} documents, {:.0} each",
            tokens as f64 / documents.max(1) as f64
        );
        println!("  vocabulary {} ({}), hash {:016x}", c.vocab(), c.meta().tokenizer.kind, c.hash());
    }
    Ok(())
}

fn sample(prefix: &Path, document: u64) -> Result<()> {
    let c = Open::open(prefix)?;
    let range = c.document_range(document)?;
    let mut ids = vec![0; (range.end - range.start) as usize];
    c.read(range.start, &mut ids)?;
    println!("{}", super::generate::text(&ids));
    Ok(())
}
