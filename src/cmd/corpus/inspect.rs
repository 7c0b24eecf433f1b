//! `corpus inspect`: what a corpus holds.

use crate::Result;
use crate::data::{Corpus, Part, side};
use serde_json::json;
use std::path::PathBuf;

/// What a corpus holds
#[derive(clap::Args)]
#[command(after_help = "Examples:
  espalier corpus inspect data/web
  espalier corpus inspect data/web --json")]
pub struct Inspect {
    /// Prefix of the .bin, .idx and .json files
    prefix: PathBuf,
    #[arg(long)]
    json: bool,
}

/// Numbers of the documents, from their starts alone.
struct Documents {
    longest: u64,
    longest_at: u64,
    empty: u64,
}

impl Inspect {
    pub fn run(self) -> Result<()> {
        let c = Corpus::open(&self.prefix)?;
        let (tokens, documents, meta) = (c.tokens(), c.documents(), c.meta());
        let d = count(&c)?;
        let mean = tokens as f64 / documents.max(1) as f64;
        let dtype = match meta.parts.first() {
            Some(Part { dtype, .. }) => format!("{dtype:?}").to_lowercase(),
            None => if c.token_bytes() == 2 { "u16" } else { "i32" }.into(),
        };
        let files = c.files();
        let side::Names { streams, columns } = side::list(&self.prefix)?;
        let sampled = if meta.sampled_xxh3.is_some() { "sound" } else { "not stated" };
        if self.json {
            let files: Vec<_> =
                files.iter().map(|(path, bytes)| json!({ "path": path, "bytes": bytes })).collect();
            let row = json!({
                "tokens": tokens, "documents": documents, "sequences": c.sequences(), "vocab": c.vocab(),
                "hash": format!("{:016x}", c.hash()), "dtype": dtype, "mean_document": mean,
                "longest_document": d.longest, "longest_document_at": d.longest_at, "empty_documents": d.empty,
                "files": files, "streams": streams, "columns": columns, "sampled": sampled, "meta": meta
            });
            println!("{row:#}");
            return Ok(());
        }
        println!("{}", self.prefix.display());
        println!("  {tokens} tokens ({dtype}) in {documents} documents, {mean:.0} each");
        println!("  longest document {} tokens (number {}), {} empty", d.longest, d.longest_at, d.empty);
        println!("  vocabulary {} ({}), hash {:016x}", c.vocab(), meta.tokenizer.kind, c.hash());
        for (path, bytes) in files.iter().take(8) {
            println!("  {} {:.1} MB", path.display(), *bytes as f64 / 1e6);
        }
        if files.len() > 8 {
            println!("  and {} files more", files.len() - 8);
        }
        for (what, names) in [("streams", streams), ("columns", columns)] {
            if !names.is_empty() {
                println!("  {what}: {}", names.join(", "));
            }
        }
        println!("  checksum of sampled blocks: {sampled}");
        Ok(())
    }
}

fn count(c: &Corpus) -> Result<Documents> {
    let mut d = Documents { longest: 0, longest_at: 0, empty: 0 };
    let mut starts = Vec::new();
    let mut first = 0;
    while first < c.documents() {
        let block = (c.documents() - first).min(1 << 13);
        starts.resize(block as usize + 1, 0);
        c.document_starts(first, &mut starts)?;
        for (doc, ends) in (first..).zip(starts.windows(2)) {
            let length = ends[1] - ends[0];
            d.empty += u64::from(length == 0);
            if length > d.longest {
                (d.longest, d.longest_at) = (length, doc);
            }
        }
        first += block;
    }
    Ok(d)
}
