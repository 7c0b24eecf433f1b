//! The command line: plain parsed arguments in, one call each.

pub mod bench;
pub mod ckpt;
pub mod corpus;
pub mod doctor;
pub mod eval;
pub mod export;
pub mod generate;
pub mod import;
pub mod report;
pub mod score;
pub mod train;

use crate::Result;
use crate::checkpoint::{self, Checkpoint};
use crate::comm::launch::require_single_process;
use clap::{Parser, Subcommand};
use std::path::Path;

#[derive(Parser)]
#[command(
    name = "espalier",
    version,
    about = "Pretrains language models on many nodes",
    max_term_width = 110
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make and look at corpora: memory-mapped token files
    #[command(subcommand)]
    Corpus(corpus::Corpus),
    /// Train what a run file describes; the same command again resumes
    Train(train::Train),
    /// Continue a text with a trained model
    Generate(generate::Generate),
    Eval(eval::Eval),
    /// Losses of every token and document of a corpus under a checkpoint
    Score(score::Score),
    /// Look at checkpoints
    #[command(subcommand)]
    Ckpt(ckpt::Ckpt),
    /// Check a Hugging Face directory and say what it holds (a run reads it by init = "hf:DIR")
    Import(import::ImportArgs),
    /// Write a checkpoint as a Hugging Face directory
    Export(export::ExportArgs),
    Report(report::Report),
    #[command(subcommand)]
    Bench(bench::Bench),
    Doctor(doctor::Doctor),
}

impl Cli {
    pub fn run(self) -> Result<()> {
        require_single_process(|name| std::env::var(name).ok())?;
        match self.command {
            Command::Corpus(c) => c.run(),
            Command::Train(c) => c.run(),
            Command::Generate(c) => c.run(),
            Command::Eval(c) => c.run(),
            Command::Score(c) => c.run(),
            Command::Ckpt(c) => c.run(),
            Command::Import(c) => c.run(),
            Command::Export(c) => c.run(),
            Command::Report(c) => c.run(),
            Command::Bench(c) => c.run(),
            Command::Doctor(c) => c.run(),
        }
    }
}

/// What PATH[@STEP] names: a run directory, a checkpoint, or a directory of checkpoints.
fn open_checkpoint(name: &str) -> Result<Checkpoint> {
    let parsed = name.rsplit_once('@').and_then(|(path, step)| Some((path, step.parse().ok()?)));
    let (path, step) = parsed.map_or((name, None), |(path, step)| (path, Some(step)));
    Checkpoint::open(&checkpoint::resolve(Path::new(path), step)?)
}
