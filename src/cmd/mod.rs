//! The command line: plain parsed arguments in, one call each.

pub mod bench;
pub mod ckpt;
pub mod completions;
pub mod config;
pub mod corpus;
pub mod doctor;
pub mod eval;
pub mod export;
pub mod generate;
pub mod grow;
pub mod import;
pub mod ranks;
pub mod report;
pub mod score;
pub mod train;

use crate::checkpoint::{self, Checkpoint};
use crate::comm::{launch, out_of_memory, processes};
use crate::device::simd;
use crate::{Error, Result, signal};
use clap::{Parser, Subcommand};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::Duration;

#[derive(Parser)]
#[command(
    name = "espalier",
    version = crate::VERSION,
    about = "Pretrains language models on many nodes",
    max_term_width = 110,
    after_help = "Examples:
  espalier corpus build tests/text --out data/messages       text to tokens
  espalier train configs/quickstart.toml --ranks 2           the same command again resumes
  espalier generate runs/quickstart --prompt 'The people '
  espalier help train                                        what train takes, with examples

Exit codes: 0 done, 2 configuration, 3 data, 4 checkpoint, 5 rank lost, 6 numerics, 75 stopped by a signal with a
checkpoint written (the same command resumes)."
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
    #[command(after_help = "Examples:
  espalier generate runs/quickstart --prompt 'The people '
  espalier generate runs/quickstart --prompt 'The ' --temperature 0      always the likeliest token
  espalier generate runs/quickstart@100 --prompt 'The ' --seed 7         an earlier checkpoint
  espalier generate runs/averaged --prompt 'The ' --ema                  by the moving average of its weights")]
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
    /// Make a larger model of a smaller one: a checkpoint or a Hugging Face directory to start from
    Grow(grow::GrowArgs),
    Report(report::Report),
    #[command(subcommand)]
    Bench(bench::Bench),
    Doctor(doctor::Doctor),
    /// What a run file may say
    #[command(subcommand)]
    Config(config::Config),
    Completions(completions::Completions),
}

impl Cli {
    pub fn run(self) -> Result<()> {
        let together = match &self.command {
            Command::Train(_) | Command::Eval(_) | Command::Score(_) | Command::Doctor(_) => true,
            Command::Bench(b) => matches!(b, bench::Bench::Comm(_)),
            _ => false,
        };
        if let Command::Train(train) = &self.command
            && train.trains()
        {
            // A scheduler may ask as soon as the process is there, and MPI takes a while to start.
            signal::listen();
        }
        processes::begin(together)?;
        if let Err(text) = simd::limit() {
            let remedy = "set it to portable, avx2 or avx512, or not at all";
            return Err(Error::config("the environment", simd::LIMIT, format!("it is {text:?}"), remedy));
        }
        match self.command {
            Command::Corpus(c) => c.run(),
            Command::Train(c) => c.run(),
            Command::Generate(c) => c.run(),
            Command::Eval(c) => c.run(),
            Command::Score(c) => c.run(),
            Command::Ckpt(c) => c.run(),
            Command::Import(c) => c.run(),
            Command::Export(c) => c.run(),
            Command::Grow(c) => c.run(),
            Command::Report(c) => c.run(),
            Command::Bench(c) => c.run(),
            Command::Doctor(c) => c.run(),
            Command::Config(c) => c.run(),
            Command::Completions(c) => c.run(),
        }
    }
}

/// Does what the command line says, if it says something, and returns the exit code.
pub fn main(parsed: std::result::Result<Cli, clap::Error>) -> i32 {
    match parsed {
        Ok(cli) => {
            let done = catch_unwind(AssertUnwindSafe(|| cli.run()));
            processes::end(&done.unwrap_or_else(|panic| match out_of_memory(&*panic) {
                Some(e) => Err(e),
                None => resume_unwind(panic),
            }))
        }
        Err(e) => {
            // Said by the first of several processes, which were all started alike.
            let announced = launch::discover(|name| std::env::var(name).ok()).ok().flatten();
            if announced.and_then(|a| a.rank).is_none_or(|rank| rank == 0) {
                let _ = e.print(); // nobody listens
            } else if e.exit_code() != 0 {
                // A launcher ends all when the first fails, which must not be one that says nothing.
                std::thread::sleep(Duration::from_secs(1));
            }
            e.exit_code()
        }
    }
}

/// Prints to standard output. A reader that closed the pipe (`| head`) has seen what it wanted.
fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::io("standard output", "write")(e)),
        _ => Ok(()),
    }
}

/// What PATH[@STEP] names: a run directory, a checkpoint, or a directory of checkpoints.
fn open_checkpoint(name: &str) -> Result<Checkpoint> {
    let parsed = name.rsplit_once('@').and_then(|(path, step)| Some((path, step.parse().ok()?)));
    let (path, step) = parsed.map_or((name, None), |(path, step)| (path, Some(step)));
    Checkpoint::open(&checkpoint::resolve(Path::new(path), step)?)
}
