//! A cursor: phases of a run that read on from one another. A phase with `cursor = "new"` begins the next one.
//!
//! Every cursor begins at sample 0 of passes that no cursor before it has read, so with the same sequence length it
//! meets the same windows in another order. What `max_epochs` allows is counted over all cursors.

use super::batch::Attention;
use super::domain::Domain;
use super::megatron::Blend;
use super::mixture::{Entry, Ledger, Mixture};
use super::source::per_pass;
use crate::config::{self, Order, RunConfig};
use crate::{Error, Result};

pub(super) const FILE: &str = "run file";

#[derive(Debug, Clone)]
pub struct Cursor {
    pub seed: u64,
    /// T.
    pub seq_len: usize,
    pub attention: Attention,
    pub ledger: Ledger,
    /// Samples it gives in all. Only Megatron's order depends on it and must know it.
    pub samples: Option<u64>,
    /// How many cursors came before it.
    pub number: u64,
    /// Passes that these made over each domain.
    pub passed: Vec<f64>,
}

/// The first phase of those that phase `phase` shares its cursor with.
fn begin(config: &RunConfig, phase: usize) -> usize {
    (1..=phase).rev().find(|&p| config.phases[p].cursor == config::Cursor::New).unwrap_or(0)
}

/// Samples that the cursor of phase `phase` has passed when the phase begins.
pub fn first_sample(config: &RunConfig, phase: usize) -> u64 {
    (begin(config, phase)..phase).map(|p| config.phases[p].all_samples()).sum()
}

impl Cursor {
    /// The first cursor of a run that has one mix.
    pub fn new(seed: u64, seq_len: usize, attention: Attention, ledger: Ledger) -> Cursor {
        Cursor { seed, seq_len, attention, ledger, samples: None, number: 0, passed: vec![] }
    }

    /// The cursor that phase `phase` reads, with the attention of that phase.
    pub fn of_phase(config: &RunConfig, domains: &[Domain], phase: usize) -> Result<Cursor> {
        let mut passed = vec![0.0; domains.len()];
        let first = begin(config, phase);
        let mut number = 0;
        let mut earlier = 0;
        while earlier < first {
            let cursor = Cursor::phases(config, earlier);
            if domains.iter().any(|d| d.max_epochs.is_some()) {
                cursor.add_passes(domains, &mut passed)?;
            }
            (number, earlier) = (number + 1, end(config, earlier));
        }
        let p = &config.phases[phase];
        let attention = match p.attention {
            config::Attention::Document => Attention::Document,
            config::Attention::Full => Attention::Full,
        };
        Ok(Cursor { attention, number, passed, ..Cursor::phases(config, first) })
    }

    /// The phases from `first`, which begins a cursor, to its end.
    fn phases(config: &RunConfig, first: usize) -> Cursor {
        let end = end(config, first);
        let weights = |p: usize| config.phases[p].mix.clone();
        let entry = |p| Entry { first_sample: first_sample(config, p), weights: weights(p) };
        let entries = (first..end).map(entry).collect();
        let last = &config.phases[end - 1];
        let samples = first_sample(config, end - 1) + last.all_samples();
        let (seed, seq_len) = (config.run.seed, config.phases[first].seq_len);
        Cursor { samples: Some(samples), ..Cursor::new(seed, seq_len, Attention::Full, Ledger { entries }) }
    }

    fn add_passes(&self, domains: &[Domain], passed: &mut [f64]) -> Result<()> {
        let mixture = self.mixture(domains)?;
        let expected = mixture.expected(self.samples.unwrap_or(0));
        for (d, domain) in domains.iter().enumerate() {
            if mixture.draws(d) && domain.max_epochs.is_some() {
                passed[d] += expected[d] / per_pass(domain, self.seq_len)?.max(1) as f64;
            }
        }
        Ok(())
    }

    /// Which domain each sample comes from, by the rule of the order that the domains have.
    pub(super) fn mixture(&self, domains: &[Domain]) -> Result<Mixture> {
        let names: Vec<String> = domains.iter().map(|domain| domain.name.clone()).collect();
        let mixture = Mixture::new(&self.ledger, &names)?;
        let mut drawn = (0..domains.len()).filter(|&d| mixture.draws(d));
        let first = drawn.next().expect("a mixture draws from something");
        if let Some(other) = drawn.find(|&d| domains[d].order != domains[first].order) {
            let name = |d: usize| match domains[d].order {
                Order::Stream => "stream",
                Order::Megatron => "megatron",
            };
            let problem = format!(
                "it is \"{}\", but corpus \"{}\" of the same mix has \"{}\"",
                name(other),
                domains[first].name,
                name(first)
            );
            let key = format!("data.{}.order", domains[other].name);
            return Err(Error::config(FILE, key, problem, "give all corpora of a mix one order"));
        }
        match domains[first].order {
            Order::Stream => Ok(mixture),
            Order::Megatron => Ok(Mixture::megatron(&names, Blend::new(&self.one_mix(&names)?, 0).share)),
        }
    }

    /// The weight of each domain in the one mix that Megatron's order has.
    pub(super) fn one_mix(&self, names: &[String]) -> Result<Vec<f64>> {
        let of = |entry: &Entry| -> Vec<f64> {
            let weight =
                |name: &String| entry.weights.iter().find(|(n, _)| n == name).map_or(0.0, |(_, w)| *w);
            names.iter().map(weight).collect()
        };
        let first = of(&self.ledger.entries[0]);
        match self.ledger.entries.iter().find(|entry| of(entry) != first) {
            None => Ok(first),
            Some(entry) => {
                let problem = format!(
                    "it changes at sample {}, but Megatron's order is built for one mix",
                    entry.first_sample
                );
                let remedy = "give that phase cursor = \"new\", or set order = \"stream\"";
                Err(Error::config(FILE, "phase.mix", problem, remedy))
            }
        }
    }
}

/// The first phase after `phase` that begins a cursor of its own.
fn end(config: &RunConfig, phase: usize) -> usize {
    let new = |&p: &usize| config.phases[p].cursor == config::Cursor::New;
    (phase + 1..config.phases.len()).find(new).unwrap_or(config.phases.len())
}
