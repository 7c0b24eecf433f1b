//! `train RUN.toml`

use super::print;
use crate::Result;
use crate::comm::processes;
use crate::config::RunConfig;
use crate::plan::{DryRun, auto};
use crate::train::replay::replay;
use crate::train::run::{Launch, train};
use std::path::PathBuf;
use std::time::Duration;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  espalier train configs/quickstart.toml --ranks 2
  espalier train configs/quickstart.toml --ranks 2 --dry-run       phases, memory and traffic; trains nothing
  espalier train run.toml --ranks 64 --ranks-per-node 8 --dry-run  the same for nodes that are not here
  espalier train run.toml --ranks 4 --set parallel=auto            chooses how ranks share the work, and says why
  espalier train run.toml --set run.dir=runs/b --set optim.clip=0.5
  espalier train runs/quickstart/run.toml --ranks 2                what a run was, again; resumes it")]
pub struct Train {
    /// The run file; run.toml of an earlier run is one
    file: PathBuf,
    /// Ranks, as threads of this process [default: 1; under mpirun or srun each process is a rank]
    #[arg(long)]
    ranks: Option<usize>,
    /// Threads of each rank [default: the machine's cores divided by ranks]
    #[arg(long)]
    threads: Option<usize>,
    /// Override a key of the run file: --set optim.clip=0.5 --set phase.0.steps=100
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Seconds a rank waits for another before it calls it lost
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    deadline: u64,
    /// Say what the run is and needs (phases, learning rate, memory, traffic) and train nothing
    #[arg(long)]
    dry_run: bool,
    /// Ranks of a node of the cluster that the dry run is about [default: all on one; under mpirun or srun as they are]
    #[arg(long, value_name = "N", requires = "dry_run")]
    ranks_per_node: Option<usize>,
    /// GiB of memory of a node of that cluster, for parallel = "auto" [default: what this one may use]
    #[arg(long, value_name = "GIB", requires = "dry_run", value_parser = gib)]
    node_memory: Option<f64>,
    /// The dry run as one JSON object
    #[arg(long, requires = "dry_run")]
    json: bool,
    /// Make an update that went wrong again, on one rank, and say which units and samples it was: RUN/replay/step-N.json
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    replay: Option<PathBuf>,
}

/// A number of GiB.
fn gib(text: &str) -> std::result::Result<f64, String> {
    let n: f64 = text.parse().map_err(|_| "this is no number".to_string())?;
    if (1e-3..=1e6).contains(&n) { Ok(n) } else { Err("give 0.001 to 1000000".into()) }
}

impl Train {
    /// Whether it does more than say what it would do.
    pub fn trains(&self) -> bool {
        !self.dry_run && self.replay.is_none()
    }

    pub fn run(self) -> Result<()> {
        let config = RunConfig::load(&self.file, &self.set)?;
        let ranks = processes::ranks(self.ranks)?;
        let deadline = Duration::from_secs(self.deadline);
        let launch = Launch { ranks, threads: self.threads, deadline, ranks_per_node: self.ranks_per_node };
        if let Some(file) = &self.replay {
            return print(&replay(&config, &launch, file)?.to_string());
        }
        let memory = self.node_memory.map(|gib| (gib * (1u64 << 30) as f64) as u64);
        let (config, choice) = auto::resolve(&config, &launch, memory)?;
        if self.trains() {
            if let Some(choice) = choice {
                crate::terminal::say(choice.to_string().trim_end());
            }
            return train(&config, &launch);
        }
        if !processes::is_first() {
            return Ok(());
        }
        let mut plan = DryRun::new(&config, &launch)?;
        plan.auto = choice;
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(&plan).expect("numbers and strings")),
            false => print!("{plan}"),
        }
        Ok(())
    }
}
