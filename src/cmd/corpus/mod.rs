//! `corpus build|inspect|verify|merge|split|sample|compress|adopt`

mod adopt;
mod build;
mod compress;
mod inspect;
mod merge;
mod progress;
mod sample;
mod split;
mod verify;

use crate::Result;

#[derive(clap::Subcommand)]
pub enum Corpus {
    Build(build::Build),
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
    Sample(sample::Sample),
    Compress(compress::Compress),
    Adopt(adopt::Adopt),
    Merge(merge::Merge),
    Split(split::Split),
}

impl Corpus {
    pub fn run(self) -> Result<()> {
        match self {
            Corpus::Build(c) => c.run(),
            Corpus::Inspect(c) => c.run(),
            Corpus::Verify(c) => c.run(),
            Corpus::Sample(c) => c.run(),
            Corpus::Compress(c) => c.run(),
            Corpus::Adopt(c) => c.run(),
            Corpus::Merge(c) => c.run(),
            Corpus::Split(c) => c.run(),
        }
    }
}
