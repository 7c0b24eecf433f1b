//! `corpus build|inspect|verify|sample|compress`

mod build;
mod compress;
mod inspect;
mod progress;
mod sample;
mod verify;

use crate::Result;

#[derive(clap::Subcommand)]
pub enum Corpus {
    Build(build::Build),
    Inspect(inspect::Inspect),
    Verify(verify::Verify),
    Sample(sample::Sample),
    Compress(compress::Compress),
}

impl Corpus {
    pub fn run(self) -> Result<()> {
        match self {
            Corpus::Build(c) => c.run(),
            Corpus::Inspect(c) => c.run(),
            Corpus::Verify(c) => c.run(),
            Corpus::Sample(c) => c.run(),
            Corpus::Compress(c) => c.run(),
        }
    }
}
