//! Draws a run's samples. Sample i is a function of (seed, ledger, i): any part can be drawn alone, in any order.
//!
//! A domain of n tokens has W = ⌊(n − 1) / T⌋ windows; window w covers the tokens w·T to w·T + T, the last one only
//! as a target, so one epoch predicts each token once. The j-th sample of a domain is the window at position j mod W
//! of epoch ⌊j / W⌋ in the domain's `Order`.

use super::batch::{Attention, Batch};
use super::mixture::{Ledger, Mixture, Snapshot};
use super::order::Order;
use super::sample::{Domain, Sample, spans, weight_sum};
use crate::{Error, Result};

const FILE: &str = "run file";

pub struct Sampler {
    seq_len: usize,
    attention: Attention,
    domains: Vec<(Domain, Order)>,
    mixture: Mixture,
}

impl Sampler {
    pub fn new(
        seed: u64,
        seq_len: usize,
        attention: Attention,
        corpora: Vec<Domain>,
        ledger: Ledger,
    ) -> Result<Sampler> {
        if seq_len == 0 || seq_len > 1 << 30 {
            let problem = format!("{seq_len} tokens per sequence");
            return Err(Error::config(FILE, "run.seq_len", problem, "allowed are 1 to 2^30"));
        }
        let names: Vec<String> = corpora.iter().map(|domain| domain.name.clone()).collect();
        let mixture = Mixture::new(&ledger, &names)?;
        for (i, domain) in corpora.iter().enumerate() {
            check(domain, &corpora[0], seq_len)?;
            if names[..i].contains(&domain.name) {
                let key = format!("data.{}", domain.name);
                return Err(Error::config(FILE, key, "there are two corpora of this name", "rename one"));
            }
        }
        if corpora.len() > usize::from(u16::MAX) {
            let problem = format!("{} corpora", corpora.len());
            return Err(Error::config(FILE, "data", problem, "at most 65535 are allowed"));
        }
        let domains = corpora.into_iter().map(|domain| {
            let windows = (domain.corpus.tokens() - 1) / seq_len as u64;
            let order = Order::new(seed, &domain.name, windows);
            (domain, order)
        });
        Ok(Sampler { seq_len, attention, domains: domains.collect(), mixture })
    }

    pub fn domains(&self) -> impl Iterator<Item = &Domain> {
        self.domains.iter().map(|(domain, _)| domain)
    }

    /// Windows of domain `domain`: the samples in one pass over it.
    pub fn windows(&self, domain: usize) -> u64 {
        self.domains[domain].1.windows()
    }

    /// Makes `sample` the next one.
    pub fn seek(&mut self, sample: u64) {
        self.mixture.seek(sample);
    }

    /// The samples first_sample to first_sample + rows, whatever was drawn before.
    pub fn batch(&mut self, first_sample: u64, rows: usize) -> Result<Batch> {
        self.seek(first_sample);
        let mut batch = Batch::with_capacity(rows, self.seq_len);
        for _ in 0..rows {
            batch.push(&self.next()?);
        }
        Ok(batch)
    }

    /// One sample of the run.
    pub fn sample(&mut self, id: u64) -> Result<Sample> {
        self.seek(id);
        self.next()
    }

    /// What `batch(..).weight_sum()` will be, without reading the tokens: the normaliser of the loss, known before
    /// the forward.
    pub fn weight_sum(&mut self, first_sample: u64, rows: usize) -> Result<f64> {
        self.seek(first_sample);
        let mut sum = 0;
        for _ in 0..rows {
            let (_, domain, first) = self.locate()?;
            let spans = spans(&self.domains[domain].0, first, self.seq_len + 1)?;
            sum += weight_sum(&spans, self.attention);
        }
        Ok(sum as f64)
    }

    /// Samples that each domain should have given before `sample`.
    pub fn expected(&self, sample: u64) -> Vec<f64> {
        self.mixture.expected(sample)
    }

    /// Refuses, before the first step, a run of `samples` samples that would pass a domain's `max_epochs`.
    pub fn check_budget(&self, samples: u64) -> Result<()> {
        let expected = self.mixture.expected(samples);
        for ((domain, order), expected) in self.domains.iter().zip(expected) {
            if domain.max_epochs.is_some_and(|most| expected > most as f64 * order.windows() as f64) {
                let epochs = expected / order.windows() as f64;
                return Err(spent(domain, &format!("{samples} samples read it {epochs:.2} times")));
            }
        }
        Ok(())
    }

    /// Where the run is; `restore` goes on from it at once.
    pub fn state(&self) -> Snapshot {
        self.mixture.snapshot()
    }
    pub fn restore(&mut self, state: &Snapshot) -> Result<()> {
        self.mixture.restore(state)
    }

    fn next(&mut self) -> Result<Sample> {
        let (id, domain, first) = self.locate()?;
        Sample::read(id, domain, &self.domains[domain].0, first, self.seq_len, self.attention)
    }

    /// Number, domain and first token of the next sample.
    fn locate(&mut self) -> Result<(u64, usize, u64)> {
        let id = self.mixture.sample();
        let (domain, index) = self.mixture.draw();
        let (d, order) = &self.domains[domain];
        let epoch = index / order.windows();
        if d.max_epochs.is_some_and(|most| epoch >= most) {
            return Err(spent(d, &format!("sample {id} would begin pass {} over it", epoch + 1)));
        }
        Ok((id, domain, order.window(epoch, index % order.windows()) * self.seq_len as u64))
    }
}

fn spent(domain: &Domain, what: &str) -> Error {
    let most = domain.max_epochs.unwrap_or_default();
    let remedy = "raise max_epochs, lower its weight in the mix or shorten the phase";
    let key = format!("data.{}.max_epochs", domain.name);
    Error::config(FILE, key, format!("it is {most}, but {what}"), remedy)
}

fn check(domain: &Domain, first: &Domain, seq_len: usize) -> Result<()> {
    let (name, corpus) = (&domain.name, &domain.corpus);
    if !(0.0..1.0).contains(&domain.holdout) {
        let problem = format!("it is {}", domain.holdout);
        return Err(Error::config(
            FILE,
            format!("data.{name}.holdout"),
            problem,
            "allowed is 0 up to, not with, 1",
        ));
    }
    if corpus.tokens() <= seq_len as u64 {
        let problem = format!(
            "corpus \"{name}\" has {} tokens, fewer than seq_len + 1 = {}",
            corpus.tokens(),
            seq_len + 1
        );
        return Err(Error::data(corpus.prefix(), problem, "add text or lower seq_len"));
    }
    let (a, b) = (corpus.meta(), first.corpus.meta());
    if (a.vocab, &a.tokenizer) != (b.vocab, &b.tokenizer) {
        let problem = format!(
            "corpus \"{name}\" has tokenizer {} {:016x} with {} ids, but \"{}\" has {} {:016x} with {}",
            a.tokenizer.kind,
            a.tokenizer.hash,
            a.vocab,
            first.name,
            b.tokenizer.kind,
            b.tokenizer.hash,
            b.vocab
        );
        return Err(Error::data(corpus.prefix(), problem, "build all corpora of a run with one tokenizer"));
    }
    Ok(())
}
