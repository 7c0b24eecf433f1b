//! The options of a command that looks at a trained model: over which ranks it is spread, and with which weights.

use crate::Result;
use crate::comm::processes;
use crate::config::EvalWeights;
use crate::train::run::Launch;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Ranks {
    /// The moving average of the weights (optim.ema) instead of the trained ones
    #[arg(long)]
    ema: bool,
    /// Ranks, as threads of this process [default: 1; under mpirun or srun each process is a rank]
    #[arg(long)]
    ranks: Option<usize>,
    /// Ranks that split the model; the rest share the text
    #[arg(long, default_value_t = 1)]
    pub tp: usize,
    /// Threads of each rank [default: the machine's cores divided by ranks]
    #[arg(long)]
    threads: Option<usize>,
}

impl Ranks {
    pub fn launch(&self, deadline: Duration) -> Result<Launch> {
        let ranks = processes::ranks(self.ranks)?;
        Ok(Launch { ranks, threads: self.threads, deadline, ranks_per_node: None })
    }

    pub fn weights(&self) -> EvalWeights {
        if self.ema { EvalWeights::Ema } else { EvalWeights::Trained }
    }
}
