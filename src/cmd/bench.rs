//! `bench machine | gemm | step | loader | comm`: what this machine attains, beside what it could.

use crate::bench::roof::Roof;
use crate::bench::{comm, gemm, loader, median, step};
use crate::comm::processes;
use crate::config::{MATRICES, ModelConfig, Pattern, Spdf};
use crate::device::simd::isa;
use crate::device::{DType, Pool};
use crate::tape::Recompute;
use crate::{Error, Result};
use serde_json::json;
use std::path::PathBuf;
use std::time::Duration;

/// Time the parts of a run on this machine
#[derive(clap::Subcommand)]
pub enum Bench {
    /// What the machine can do at most: arithmetic, caches and memory, for each number of threads
    Machine(Machine),
    /// The matrix products of training at the shapes of a model, beside the peak of the machine
    Gemm(Gemm),
    /// One training step on random tokens; the last line is a JSON object
    Step(Step),
    /// Batches of a corpus drawn by one thread
    Loader(Loader),
    /// Collectives between ranks; where these are processes, beside those of the MPI library
    Comm(Comm),
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  espalier bench machine                     1, 2, 4, ... threads, a second each
  espalier bench machine --threads 8 --json")]
pub struct Machine {
    /// Only this number [default: 1, 2, 4, ... and all]
    #[arg(long)]
    threads: Option<usize>,
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  espalier bench gemm                                       GPT-2 124M, 2048 tokens, all cores
  espalier bench gemm --model llama-3.2-1b --dtype bf16 --threads 1")]
pub struct Gemm {
    /// A preset of configs/model
    #[arg(long, default_value = "gpt2-124m")]
    model: String,
    /// Tokens of a micro-batch
    #[arg(long, default_value_t = 2048, value_parser = clap::value_parser!(u64).range(1..))]
    tokens: u64,
    #[arg(long)]
    threads: Option<usize>,
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16"])]
    dtype: String,
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  espalier bench step --config small --threads 2
  espalier bench step --config wide --blocks 32                         three quarters of the blocks left out
  espalier bench step --config gpt2-t512 --recompute full --profile     and a table of its ops")]
pub struct Step {
    /// tiny, small, gpt2-t512, llama25, llama110, bert-base or wide
    #[arg(long, default_value = "tiny")]
    config: String,
    /// Tokens of a sequence [default: as the configuration has it]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    seq: Option<u64>,
    /// Sequences [default: as the configuration has it]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    batch: Option<u64>,
    #[arg(long)]
    threads: Option<usize>,
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16"])]
    dtype: String,
    #[arg(long, default_value = "keep", value_parser = ["keep", "cheap", "full"])]
    recompute: String,
    /// Stores the matrices of blocks as blocks of so many rows and columns (SPDF), of which --sparsity are left out
    #[arg(long, value_parser = ["16", "32", "64", "128"])]
    blocks: Option<String>,
    #[arg(long, default_value_t = 0.75)]
    sparsity: f64,
    /// Steps that count
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u64).range(1..))]
    steps: u64,
    /// Time each op of more steps, beside what the machine could do: a table on stderr, rows in the result
    #[arg(long)]
    profile: bool,
    /// All losses in the result
    #[arg(long)]
    losses: bool,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  espalier bench loader data/web
  espalier bench loader data/web --seq 4096 --json")]
pub struct Loader {
    /// Prefix of the corpus
    corpus: PathBuf,
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u64).range(1..))]
    seq: u64,
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Of each round
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  espalier bench comm --ranks 4                ranks that are threads of this process
  mpirun -n 4 espalier bench comm --json       processes, in a build with MPI; for scripts")]
pub struct Comm {
    /// Ranks, as threads of this process [default: 2; under mpirun or srun each process is a rank]
    #[arg(long, value_parser = clap::value_parser!(u64).range(2..=1024))]
    ranks: Option<u64>,
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    #[arg(long)]
    json: bool,
}

/// Threads as asked, or one for each core.
fn threads(asked: Option<usize>) -> Result<usize> {
    match asked {
        None => Ok(std::thread::available_parallelism().map_or(1, |n| n.get())),
        Some(n) if (1..=1024).contains(&n) => Ok(n),
        Some(n) => Err(Error::config("bench", "--threads", format!("it is {n}"), "give 1 to 1024")),
    }
}

impl Bench {
    pub fn run(self) -> Result<()> {
        match self {
            Bench::Machine(b) => b.run(),
            Bench::Gemm(b) => b.run(),
            Bench::Step(b) => b.run(),
            Bench::Loader(b) => b.run(),
            Bench::Comm(b) => b.run(),
        }
    }
}

impl Machine {
    fn run(self) -> Result<()> {
        let all = threads(self.threads)?;
        let mut counts: Vec<usize> =
            std::iter::successors(Some(1), |n| Some(2 * n)).take_while(|n| *n < all).collect();
        counts.push(all);
        if self.threads.is_some() {
            counts = vec![all];
        }
        let roofs: Vec<Roof> = counts.iter().map(|n| Roof::measure(&Pool::new(*n), true)).collect();
        if self.json {
            println!("{}", json!({ "vectors": format!("{:?}", isa()).to_lowercase(), "roofs": roofs }));
            return Ok(());
        }
        for roof in &roofs {
            let dot =
                roof.bf16_dot_gflops.map_or("no such instruction".into(), |g| format!("{g:.1} GFLOP/s"));
            println!(
                "{} thread{}, {:?}: f32 multiply-adds {:.1} GFLOP/s; bf16 dots {dot}",
                roof.threads,
                if roof.threads == 1 { "" } else { "s" },
                isa(),
                roof.f32_gflops
            );
            for l in &roof.levels {
                let kib = l.bytes as f64 / 1024.0;
                println!(
                    "  {:<7} {kib:>9.0} KiB each   read {:>7.1}   triad {:>7.1} GB/s",
                    l.name, l.read, l.triad
                );
            }
        }
        Ok(())
    }
}

impl Gemm {
    fn run(self) -> Result<()> {
        let model = ModelConfig::preset(&self.model)?;
        let threads = threads(self.threads)?;
        if !self.json {
            println!(
                "{:<32} {:>6} {:>6} {:>6} {:>9} {:>9}  of peak",
                "product", "M", "N", "K", "ms", "GFLOP/s"
            );
        }
        let (peak, rows) = gemm::run(&model, self.tokens as usize, threads, self.dtype == "bf16", |r| {
            if !self.json {
                println!(
                    "{:<32} {:>6} {:>6} {:>6} {:>9.2} {:>9.1}  {:>5.1} %",
                    r.what,
                    r.m,
                    r.n,
                    r.k,
                    r.ms,
                    r.gflops,
                    100.0 * r.share
                );
            }
        });
        let total: f64 = rows.iter().map(|r| r.ms).sum();
        let flops: f64 = rows.iter().map(|r| r.ms * r.gflops).sum();
        match self.json {
            true => println!(
                "{}",
                json!({ "threads": threads, "dtype": self.dtype, "peak_gflops": peak, "products": rows })
            ),
            false => println!(
                "{threads} threads: {:.1} of {peak:.1} GFLOP/s, {:.1} %",
                flops / total,
                100.0 * flops / total / peak
            ),
        }
        Ok(())
    }
}

impl Step {
    fn run(self) -> Result<()> {
        if !(0.0..1.0).contains(&self.sparsity) {
            let problem = format!("it is {}", self.sparsity);
            return Err(Error::config(
                "bench step",
                "--sparsity",
                problem,
                "give at least 0 and less than 1",
            ));
        }
        let spdf = self.blocks.and_then(|size| size.parse().ok()).map(|size| Spdf {
            matches: MATRICES.map(String::from).to_vec(),
            pattern: Pattern::Block(size),
            sparsity: self.sparsity,
            seed: 0,
        });
        let out = step::run(&step::Step {
            config: self.config,
            seq: self.seq.map(|n| n as usize),
            batch: self.batch.map(|n| n as usize),
            threads: threads(self.threads)?,
            dtype: if self.dtype == "bf16" { DType::Bf16 } else { DType::F32 },
            recompute: match self.recompute.as_str() {
                "cheap" => Recompute::Cheap,
                "full" => Recompute::Full,
                _ => Recompute::Keep,
            },
            spdf,
            steps: self.steps as usize,
            profile: self.profile,
            losses: self.losses,
        })?;
        println!("{out}");
        Ok(())
    }
}

impl Loader {
    fn run(self) -> Result<()> {
        if !(self.seconds > 0.0 && self.seconds.is_finite()) {
            let problem = format!("it is {}", self.seconds);
            return Err(Error::config("bench loader", "--seconds", problem, "give more than 0"));
        }
        let found = loader::run(&self.corpus, self.seq as usize, self.rounds as usize, self.seconds)?;
        if self.json {
            println!("{}", json!({ "corpus": self.corpus, "seq_len": self.seq, "orders": found }));
            return Ok(());
        }
        for f in found {
            let far = f.open_and_far_ms.map_or(String::new(), |ms| {
                format!("; opened and drew sample {} in {ms:.2} ms", loader::FAR)
            });
            println!("{:<9} {:>7.1} M tokens/s on one core{far}", f.order, median(f.tokens_per_s) / 1e6);
        }
        Ok(())
    }
}

impl Comm {
    fn run(self) -> Result<()> {
        let sizes: Vec<usize> = (10..=26).step_by(2).map(|n| 1 << n).collect();
        let asked = self.ranks.map(|n| n as usize);
        let ranks = if processes::joined().is_some() { processes::ranks(asked)? } else { asked.unwrap_or(2) };
        let (rows, fits) = comm::run(ranks, &sizes, self.rounds as usize, Duration::from_secs(600))?;
        if !processes::is_first() {
            return Ok(());
        }
        let transport = processes::transport();
        if self.json {
            println!(
                "{}",
                json!({ "ranks": ranks, "transport": transport, "collectives": rows, "fits": fits })
            );
            return Ok(());
        }
        println!("{:<15} {:<9} {:>10} {:>11} {:>11}", "collective", "by", "bytes", "us", "bus GB/s");
        for r in rows {
            let name = r.collective.name();
            println!("{name:<15} {:<9} {:>10} {:>11.1} {:>11.2}", r.by, r.bytes, r.us, r.bus);
        }
        for f in fits {
            let name = f.collective.name();
            println!("{name:<15} {:<9} {:.1} us + bytes / {:.2} GB/s", f.by, f.alpha_us, f.beta);
        }
        Ok(())
    }
}
