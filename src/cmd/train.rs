//! `train RUN.toml`

use crate::Result;
use crate::config::RunConfig;
use crate::train::run::{Launch, train};
use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Train {
    /// The run file; run.toml of an earlier run is one
    file: PathBuf,
    /// Ranks, as threads of this process
    #[arg(long, default_value_t = 1)]
    ranks: usize,
    /// Threads of each rank [default: the machine's cores divided by ranks]
    #[arg(long)]
    threads: Option<usize>,
    /// Override a key of the run file: --set optim.clip=0.5 --set phase.0.steps=100
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Seconds a rank waits for another before it calls it lost
    #[arg(long, default_value_t = 600)]
    deadline: u64,
}

impl Train {
    pub fn run(self) -> Result<()> {
        let config = RunConfig::load(&self.file, &self.set)?;
        let launch =
            Launch { ranks: self.ranks, threads: self.threads, deadline: Duration::from_secs(self.deadline) };
        train(&config, &launch)
    }
}
