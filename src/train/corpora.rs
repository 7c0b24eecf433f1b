//! The corpora of a run, opened and checked, and the sampler of a phase.

use super::step::MicroBatch;
use crate::config::{DataConfig, Io, PhaseConfig, RunConfig};
pub use crate::data::first_sample;
use crate::data::{Batch, Cursor, Domain, Sampler};
use crate::tape::Seq;
use crate::{Error, Result};

/// All corpora of the run file, in its order. Refuses a vocabulary that the model does not have.
pub fn open(config: &RunConfig) -> Result<Vec<Domain>> {
    open_as(config, |d| d.clone())
}

/// The same without copies of those that `io = "stage"` copies: for a look that reads little.
pub fn look(config: &RunConfig) -> Result<Vec<Domain>> {
    open_as(config, |d| DataConfig { io: Io::Mmap, ..d.clone() })
}

fn open_as(config: &RunConfig, as_is: impl Fn(&DataConfig) -> DataConfig) -> Result<Vec<Domain>> {
    let mut domains: Vec<Domain> = vec![];
    for (name, d) in &config.data {
        let domain = Domain::open(name, &as_is(d))?;
        let corpus = &domain.corpus;
        if corpus.vocab() as usize > config.model.vocab {
            return Err(Error::data(
                &d.path,
                format!(
                    "corpus \"{name}\" has token ids below {}, the model's vocabulary is {}",
                    corpus.vocab(),
                    config.model.vocab
                ),
                format!("set model.vocab = {} or more", corpus.vocab()),
            ));
        }
        if let Some(first) = domains.first() {
            let (a, b) = (&first.corpus.meta().tokenizer.hash, &corpus.meta().tokenizer.hash);
            if a != b {
                return Err(Error::data(
                    &d.path,
                    format!(
                        "corpus \"{name}\" was made with tokenizer {b}, corpus \"{}\" with {a}",
                        first.name
                    ),
                    "build all corpora of a run with one tokenizer",
                ));
            }
        }
        domains.push(domain);
    }
    Ok(domains)
}

/// The order of data in phase `phase`: a function of the run file and the seed.
pub fn sampler(config: &RunConfig, domains: &[Domain], phase: usize) -> Result<Sampler> {
    let sampler = Sampler::open(&Cursor::of_phase(config, domains, phase)?, domains.to_vec())?;
    sampler.check_budget(first_sample(config, phase) + config.phases[phase].all_samples())?;
    Ok(sampler)
}

impl From<Batch> for MicroBatch {
    fn from(b: Batch) -> MicroBatch {
        let seq = Seq {
            rows: b.rows,
            seq_len: b.seq_len,
            tokens: b.tokens,
            positions: b.positions,
            cu_seqlens: b.cu_seqlens,
            token_types: b.token_types.unwrap_or_default(),
            sample_ids: b.sample_ids,
        };
        MicroBatch { seq, targets: b.targets, weights: b.weights, domains: b.domains }
    }
}

/// The updates of a phase from the one with index `step` on, as rank dp.0 of dp.1 sees them: those of one size, and how many.
pub fn splits(
    config: &RunConfig,
    phase: &PhaseConfig,
    dp: (usize, usize),
    step: u64,
) -> impl Iterator<Item = (Split, u64)> + Send + 'static {
    let (micro, seq_len) = (config.parallel.micro_batch, phase.seq_len);
    let runs = phase.batches.runs(step..phase.steps);
    runs.map(move |(batch, updates)| (Split::new(dp, micro, batch, seq_len), updates))
}

/// How an update's sequences fall to dp ranks and micro-batches: sample first + (m·P + r)·micro + i.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    pub dp_rank: usize,
    pub dp_size: usize,
    pub micro_batch: usize,
    pub micro_steps: usize,
}

/// Tokens in a micro-batch when the run file leaves its size open: enough for matrix products to be efficient.
const MICRO_TOKENS: usize = 8192;

impl Split {
    /// `global_batch` divides as the run file was checked to.
    pub fn new(dp: (usize, usize), micro: Option<usize>, global_batch: usize, seq_len: usize) -> Split {
        let each = global_batch / dp.1;
        let fits = |n: &usize| each.is_multiple_of(*n) && (n * seq_len <= MICRO_TOKENS || *n == 1);
        let micro_batch = micro.unwrap_or_else(|| (1..=each).rev().find(fits).unwrap_or(1));
        Split { dp_rank: dp.0, dp_size: dp.1, micro_batch, micro_steps: each / micro_batch }
    }

    /// Samples of an update, of all ranks.
    pub fn samples(&self) -> u64 {
        (self.dp_size * self.micro_batch * self.micro_steps) as u64
    }

    /// The micro-batches of this rank in the update whose first sample is `first`.
    pub fn draw(&self, sampler: &mut Sampler, first: u64) -> Result<Vec<MicroBatch>> {
        (0..self.micro_steps)
            .map(|m| {
                let own = (m * self.dp_size + self.dp_rank) * self.micro_batch;
                sampler.batch(first + own as u64, self.micro_batch).map(MicroBatch::from)
            })
            .collect()
    }
}

/// Σ weights of the targets.
pub fn weight_sum(batches: &[MicroBatch]) -> f64 {
    batches.iter().flat_map(|b| &b.weights).map(|w| *w as f64).sum()
}
