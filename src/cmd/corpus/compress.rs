//! `corpus compress`: PREFIX.bin to PREFIX.bin.zst.

use super::progress::Progress;
use crate::Result;
use crate::data::compress_corpus;
use std::path::PathBuf;

/// Compress the tokens: PREFIX.bin becomes PREFIX.bin.zst, which is read at random as fast as training needs
#[derive(clap::Args)]
#[command(after_help = "Examples:
  espalier corpus compress data/web
  espalier corpus compress data/web --level 19 --keep")]
pub struct Compress {
    /// Prefix of the .bin, .idx and .json files
    prefix: PathBuf,
    /// Of zstd, 1 (fast) to 22 (small)
    #[arg(long, default_value_t = 6)]
    level: i32,
    /// Leave PREFIX.bin there
    #[arg(long)]
    keep: bool,
}

impl Compress {
    pub fn run(self) -> Result<()> {
        let mut bar = Progress::new("bytes");
        let c =
            compress_corpus(&self.prefix, self.level, self.keep, None, &mut |done, all| bar.at(done, all))?;
        drop(bar);
        let share = 100.0 * c.after as f64 / c.before as f64;
        println!("{}: {} bytes of tokens in {} ({share:.1} %)", self.prefix.display(), c.before, c.after);
        Ok(())
    }
}
