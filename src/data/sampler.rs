//! Draws a run's samples. Sample i is a function of (seed, ledger, i) and, under Megatron's order, of the run's length:
//! any part can be drawn alone, in any order.

use super::batch::{Attention, Batch};
use super::cursor::{Cursor, FILE};
use super::domain::Domain;
use super::megatron;
use super::mixture::{Ledger, Mixture, Snapshot};
use super::row::Row;
use super::sample::{Origin, Sample};
use super::source::Source;
use crate::config::Order;
use crate::{Error, Result};

pub struct Sampler {
    seq_len: usize,
    attention: Attention,
    pub(super) sources: Vec<Source>,
    /// Samples that each source may give in this cursor.
    most: Vec<u64>,
    mixture: Mixture,
    row: Row,
}

impl Sampler {
    /// The samples of a run of one mix in stream order.
    pub fn new(
        seed: u64,
        seq_len: usize,
        attention: Attention,
        corpora: Vec<Domain>,
        ledger: Ledger,
    ) -> Result<Sampler> {
        Sampler::open(&Cursor::new(seed, seq_len, attention, ledger), corpora)
    }

    /// The samples of a cursor. Errors: settings that do not fit one another, a corpus with weight that has no row,
    /// and, under Megatron's order, more memory than it may take.
    pub fn open(cursor: &Cursor, corpora: Vec<Domain>) -> Result<Sampler> {
        let (seq_len, count) = (cursor.seq_len, corpora.len());
        if seq_len == 0 || seq_len > 1 << 30 {
            let problem = format!("{seq_len} tokens per sequence");
            return Err(Error::config(FILE, "run.seq_len", problem, "allowed are 1 to 2^30"));
        }
        if count > usize::from(u16::MAX) {
            let problem = format!("{count} corpora");
            return Err(Error::config(FILE, "data", problem, "at most 65535 are allowed"));
        }
        for (i, domain) in corpora.iter().enumerate() {
            if corpora[..i].iter().any(|other| other.name == domain.name) {
                let key = format!("data.{}", domain.name);
                return Err(Error::config(FILE, key, "there are two corpora of this name", "rename one"));
            }
        }
        let mixture = cursor.mixture(&corpora)?;
        for (i, domain) in corpora.iter().enumerate() {
            check(domain, &corpora[0])?;
            if mixture.draws(i) {
                check_drawn(domain, seq_len)?;
            }
        }
        let megatron = (0..count).any(|i| mixture.draws(i) && corpora[i].order == Order::Megatron);
        let sources = match megatron {
            true => megatron::sources(cursor, corpora, &mixture)?,
            false => {
                let source = |(i, domain): (usize, Domain)| match mixture.draws(i) {
                    true => Source::stream(domain, cursor.seed, seq_len, cursor.number),
                    false => Ok(Source::none(domain, seq_len)),
                };
                corpora.into_iter().enumerate().map(source).collect::<Result<_>>()?
            }
        };
        let most = sources.iter().enumerate().map(|(i, source)| {
            let passed = cursor.passed.get(i).copied().unwrap_or(0.0);
            allowed(source, passed)
        });
        let (most, row) = (most.collect(), Row::new(seq_len));
        Ok(Sampler { seq_len, attention: cursor.attention, sources, most, mixture, row })
    }

    pub fn domains(&self) -> impl Iterator<Item = &Domain> {
        self.sources.iter().map(|source| &source.domain)
    }

    /// Rows of domain `domain`: the samples in one pass over it; at least 1.
    pub fn windows(&self, domain: usize) -> u64 {
        self.sources[domain].per_pass()
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
            let (id, domain) = self.lay_next()?;
            self.row.append(&self.sources[domain].domain, id, domain as u16, &mut batch)?;
        }
        Ok(batch)
    }

    /// One sample of the run, with where it was taken from.
    pub fn sample(&mut self, id: u64) -> Result<Sample> {
        let origin = self.origin(id)?;
        let domain = &self.sources[origin.domain].domain;
        let mut batch = Batch::with_capacity(1, self.seq_len);
        self.row.lay_out(domain, self.attention)?;
        self.row.append(domain, id, origin.domain as u16, &mut batch)?;
        Ok(Sample {
            origin,
            tokens: batch.tokens,
            targets: batch.targets,
            weights: batch.weights,
            documents: self.row.documents.clone(),
        })
    }

    /// Where a sample is taken from, without reading tokens.
    pub fn origin(&mut self, id: u64) -> Result<Origin> {
        self.seek(id);
        let (id, domain, index) = self.next_place()?;
        let place = self.sources[domain].place(index);
        self.sources[domain].lay(place, &mut self.row)?;
        let (pieces, joined) = (self.row.pieces.clone(), self.row.joined);
        Ok(Origin { id, domain, index, pass: place.pass, row: place.row, pieces, joined })
    }

    /// What `batch(..).weight_sum()` will be, without reading the tokens: the normaliser of the loss, known before
    /// the forward.
    pub fn weight_sum(&mut self, first_sample: u64, rows: usize) -> Result<f64> {
        self.seek(first_sample);
        let mut sum = 0.0;
        for _ in 0..rows {
            let (_, domain) = self.lay_next()?;
            sum += self.row.weight(&self.sources[domain].domain)?;
        }
        Ok(sum)
    }

    /// Samples that each domain should have given before `sample`.
    pub fn expected(&self, sample: u64) -> Vec<f64> {
        self.mixture.expected(sample)
    }

    /// Refuses, before the first step, a run of `samples` samples that would pass a domain's `max_epochs`.
    pub fn check_budget(&self, samples: u64) -> Result<()> {
        let expected = self.mixture.expected(samples);
        for ((source, &most), expected) in self.sources.iter().zip(&self.most).zip(expected) {
            if source.domain.max_epochs.is_some() && expected > most as f64 {
                let passes = expected / source.per_pass() as f64;
                let left = most as f64 / source.per_pass() as f64;
                let what = format!("{samples} samples read it {passes:.2} times, where {left:.2} are left");
                return Err(spent(&source.domain, &what));
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
    /// Why `restore` would refuse a state.
    pub fn check_state(&self, state: &Snapshot) -> std::result::Result<(), String> {
        self.mixture.counts_of(state).map(drop)
    }

    /// Lays the next sample out in `row`: its number and its domain.
    fn lay_next(&mut self) -> Result<(u64, usize)> {
        let (id, domain, index) = self.next_place()?;
        let source = &mut self.sources[domain];
        source.lay(source.place(index), &mut self.row)?;
        self.row.lay_out(&source.domain, self.attention)?;
        Ok((id, domain))
    }

    /// The number of the next sample, its domain and its number there.
    fn next_place(&mut self) -> Result<(u64, usize, u64)> {
        let id = self.mixture.sample();
        let (domain, index) = self.mixture.draw();
        if index < self.most[domain] {
            return Ok((id, domain, index));
        }
        let source = &self.sources[domain];
        if index >= source.limit() {
            let (name, limit) = (&source.domain.name, source.limit());
            let problem = format!("sample {id} is number {index} of corpus \"{name}\", which has {limit}");
            let remedy = "Megatron's order ends with the run it was built for";
            return Err(Error::config(FILE, format!("data.{name}"), problem, remedy));
        }
        let passes = index as f64 / source.per_pass() as f64;
        Err(spent(&source.domain, &format!("sample {id} comes after {passes:.2} passes, all that are left")))
    }
}

/// Samples that `max_epochs` leaves a cursor when `passed` passes were made before it.
fn allowed(source: &Source, passed: f64) -> u64 {
    let Some(most) = source.domain.max_epochs else { return source.limit() };
    let before = (passed * source.per_pass() as f64).ceil() as u64;
    source.limit().min(most.saturating_mul(source.per_pass()).saturating_sub(before))
}

fn spent(domain: &Domain, what: &str) -> Error {
    let most = domain.max_epochs.unwrap_or_default();
    let remedy = "raise max_epochs, lower its weight in the mix or shorten the phase";
    let key = format!("data.{}.max_epochs", domain.name);
    Error::config(FILE, key, format!("it is {most}, but {what}"), remedy)
}

/// What every domain must satisfy, also one that is only evaluated.
fn check(domain: &Domain, first: &Domain) -> Result<()> {
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

/// What a domain that is trained on must satisfy.
fn check_drawn(domain: &Domain, seq_len: usize) -> Result<()> {
    use crate::config::Packing;
    let name = &domain.name;
    let tokens = domain.corpus.tokens();
    if domain.order == Order::Megatron && (domain.packing != Packing::Window || domain.holdout != 0.0) {
        let problem =
            format!("corpus \"{name}\" has packing or holdout, which Megatron's order does not know");
        return Err(Error::config(FILE, format!("data.{name}.order"), problem, "remove them"));
    }
    if domain.packing == Packing::BestFit && !(1..=1 << 12).contains(&domain.pack_group) {
        let problem = format!("it is {}", domain.pack_group);
        return Err(Error::config(FILE, format!("data.{name}.pack_group"), problem, "allowed are 1 to 4096"));
    }
    let windows = domain.order == Order::Stream && domain.packing != Packing::OneDoc;
    if windows && tokens <= seq_len as u64 {
        let problem =
            format!("corpus \"{name}\" has {tokens} tokens, fewer than seq_len + 1 = {}", seq_len + 1);
        return Err(Error::data(domain.corpus.prefix(), problem, "add text or lower seq_len"));
    }
    Ok(())
}
