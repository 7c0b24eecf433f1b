//! Batches of a corpus drawn on one thread: tokens a second of its CPU time, and what opening and finding a far sample
//! cost.

use crate::Result;
use crate::config::Order;
use crate::data::{Attention, Corpus, Cursor, Domain, Ledger, Sampler};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

pub const ROWS: usize = 8;
/// The sample that "far" means.
pub const FAR: u64 = 1_000_000_000;

#[derive(Debug, Serialize)]
pub struct Found {
    pub order: &'static str,
    /// Of each round
    pub tokens_per_s: Vec<f64>,
    /// To open the corpus and draw sample `FAR`; None under Megatron's order, whose samples are counted
    pub open_and_far_ms: Option<f64>,
}

/// A sampler over all of a corpus; Megatron's order for two passes.
pub fn sampler(prefix: &Path, order: Order, seq_len: usize) -> Result<Sampler> {
    let mut domain = Domain::new("bench", Arc::new(Corpus::open(prefix)?));
    domain.order = order;
    let mut cursor = Cursor::new(1, seq_len, Attention::Document, Ledger::constant(&[("bench", 1.0)]));
    cursor.samples = (order == Order::Megatron).then(|| 2 * domain.corpus.tokens() / seq_len as u64);
    Sampler::open(&cursor, vec![domain])
}

/// Tokens a second of CPU time, drawing for `seconds`.
pub fn rate(sampler: &mut Sampler, seq_len: usize, seconds: f64) -> Result<f64> {
    let (mut first, mut tokens) = (0, 0);
    let most = 2 * sampler.domains().map(|d| d.corpus.tokens()).sum::<u64>() / seq_len as u64;
    let (began, clock) = (cpu_seconds(), Instant::now());
    while clock.elapsed().as_secs_f64() < seconds {
        tokens += sampler.batch(first, ROWS)?.tokens.len();
        first = (first + ROWS as u64) % most.saturating_sub(ROWS as u64).max(1);
    }
    Ok(tokens as f64 / (cpu_seconds() - began))
}

/// Milliseconds to open a corpus and draw sample `FAR` in stream order.
pub fn far(prefix: &Path, seq_len: usize) -> Result<f64> {
    let began = Instant::now();
    sampler(prefix, Order::Stream, seq_len)?.sample(FAR)?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

pub fn run(prefix: &Path, seq_len: usize, rounds: usize, seconds: f64) -> Result<Vec<Found>> {
    let mut all = vec![];
    for (name, order) in [("stream", Order::Stream), ("megatron", Order::Megatron)] {
        let mut sampler = sampler(prefix, order, seq_len)?;
        let rates = (0..rounds).map(|_| rate(&mut sampler, seq_len, seconds)).collect::<Result<_>>()?;
        let open_and_far_ms = (order == Order::Stream).then(|| far(prefix, seq_len)).transpose()?;
        all.push(Found { order: name, tokens_per_s: rates, open_and_far_ms });
    }
    Ok(all)
}

/// CPU time of this thread.
fn cpu_seconds() -> f64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a timespec to write to.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut now) };
    now.tv_sec as f64 + now.tv_nsec as f64 * 1e-9
}
