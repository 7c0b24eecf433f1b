//! The loop: sequences take free slots, are read in one pass each, and go on together, a token each per forward. A
//! sequence that ends gives its slot to the next request.

use super::engine::{Engine, Piece, rows};
use super::sample::{Sampling, uniform};
use crate::{Error, Result};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Tokens of new sequences read at a time: enough for the products, little memory.
const READ: usize = 2048;

/// A text to go on with.
#[derive(Clone, Debug)]
pub struct Request {
    /// Number of the prompt and of its sample: with the seed and the position they decide every draw.
    pub prompt: u32,
    pub sample: u32,
    /// At least one.
    pub tokens: Vec<u32>,
    /// Tokens to add at most.
    pub limit: usize,
}

/// How all requests are answered.
pub struct Run<'a> {
    pub sampling: Sampling,
    pub seed: u64,
    /// Ids that end a sequence; they are not part of it.
    pub ends: &'a [u32],
    /// Ids from here on are padding of the vocabulary.
    pub vocab: usize,
    /// Tokens a prediction sees at most.
    pub context: usize,
}

/// What a request has come to.
#[derive(Clone, Debug)]
pub struct Done {
    /// Index of the request.
    pub request: usize,
    /// What was added.
    pub tokens: Vec<u32>,
    /// An end was drawn, which is not among the tokens.
    pub ended: bool,
    /// From its first reading to its end.
    pub seconds: f64,
}

pub enum Event<'a> {
    Token { request: usize, id: u32 },
    Done(&'a Done),
}

/// Tokens and times of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    pub read: usize,
    pub reading: Duration,
    pub made: usize,
    /// Of the forwards that read one token of each sequence, and of the choices.
    pub making: Duration,
}

/// The first token that the prediction after n tokens sees. A text that outgrows the context loses its oldest quarter
/// at a time, so that most tokens need one forward of one row: the window slides in steps, and is read again at each.
pub fn window_start(n: usize, context: usize) -> usize {
    let step = (context / 4).max(1);
    n.saturating_sub(context).div_ceil(step) * step
}

/// A sequence in a slot.
struct Live {
    request: usize,
    /// Prompt and what was added.
    tokens: Vec<u32>,
    prompt: usize,
    /// The part that the slot's cache holds.
    cached: std::ops::Range<usize>,
    began: Instant,
}

impl Live {
    /// What the next prediction needs read: (position of the first, tokens).
    fn piece(&self, context: usize, cache: bool) -> (usize, std::ops::Range<usize>) {
        let (n, start) = (self.tokens.len(), window_start(self.tokens.len(), context));
        match cache && self.cached.start == start && self.cached.end > start {
            true => (self.cached.end - start, self.cached.end..n),
            false => (0, start..n),
        }
    }
}

impl Run<'_> {
    /// Answers all requests; `tell` hears of every token as it comes and stops the run by returning false.
    ///
    /// # Errors
    /// Logits that are not numbers.
    pub fn go(
        &self,
        engine: &mut Engine,
        requests: &[Request],
        mut tell: impl FnMut(Event) -> Result<bool>,
    ) -> Result<Totals> {
        let mut totals = Totals::default();
        let mut waiting: VecDeque<usize> = (0..requests.len()).collect();
        let mut slots: Vec<Option<Live>> = (0..engine.slots()).map(|_| None).collect();
        loop {
            for slot in slots.iter_mut().filter(|s| s.is_none()) {
                let Some(request) = waiting.pop_front() else { break };
                let tokens = requests[request].tokens.clone();
                let live =
                    Live { request, prompt: tokens.len(), tokens, cached: 0..0, began: Instant::now() };
                *slot = Some(live);
            }
            // Those that take no token, at once.
            let idle = |l: &Live| l.tokens.len() - l.prompt >= requests[l.request].limit;
            for slot in slots.iter_mut().filter(|s| s.as_ref().is_some_and(idle)) {
                let live = slot.take().expect("filtered");
                if !tell(Event::Done(&live.done(false)))? {
                    return Ok(totals);
                }
            }
            let Some(group) = self.next_group(engine, &slots) else {
                match waiting.is_empty() {
                    true => return Ok(totals),
                    false => continue,
                }
            };
            let began = Instant::now();
            let (ids, read) = self.forward(engine, requests, &mut slots, &group)?;
            let took = began.elapsed();
            match read == group.len() {
                true => totals.making += took,
                false => totals.reading += took,
            }
            totals.read += if read == group.len() { 0 } else { read };
            for (slot, id) in group.into_iter().zip(ids) {
                let live = slots[slot].as_mut().expect("of the group");
                let ended = self.ends.contains(&id);
                let mut more = true;
                if !ended {
                    live.tokens.push(id);
                    totals.made += 1;
                    more = tell(Event::Token { request: live.request, id })?;
                }
                if ended || live.tokens.len() - live.prompt >= requests[live.request].limit {
                    let done = slots[slot].take().expect("of the group").done(ended);
                    more &= tell(Event::Done(&done))?;
                }
                if !more {
                    return Ok(totals);
                }
            }
        }
    }

    /// The slots of the next forward: those with much to read, up to READ tokens; if there are none, all.
    fn next_group(&self, engine: &Engine, slots: &[Option<Live>]) -> Option<Vec<usize>> {
        let live = || slots.iter().enumerate().filter_map(|(i, s)| Some((i, s.as_ref()?)));
        let piece = |l: &Live| l.piece(self.context, engine.has_cache());
        let (mut group, mut tokens) = (vec![], 0);
        for (slot, l) in live().filter(|(_, l)| piece(l).0 == 0) {
            let n = piece(l).1.len();
            if tokens > 0 && tokens + n > READ {
                break;
            }
            tokens += n;
            group.push(slot);
        }
        if group.is_empty() {
            group = live().map(|(slot, _)| slot).collect();
        }
        (!group.is_empty()).then_some(group)
    }

    /// One token for each slot of the group, and how many were read for it.
    fn forward(
        &self,
        engine: &mut Engine,
        requests: &[Request],
        slots: &mut [Option<Live>],
        group: &[usize],
    ) -> Result<(Vec<u32>, usize)> {
        let (context, cache) = (self.context, engine.has_cache());
        let live: Vec<&Live> = group.iter().map(|&s| slots[s].as_ref().expect("of the group")).collect();
        let pieces: Vec<_> = live.iter().map(|l| l.piece(context, cache)).collect();
        let given = pieces.iter().zip(&live).zip(group).map(|(((first, range), l), &slot)| Piece {
            slot,
            first: *first,
            tokens: &l.tokens[range.clone()],
        });
        let logits = engine.read(&given.collect::<Vec<_>>())?;
        let logits: Vec<&[f32]> = rows(&logits).map(|row| &row[..self.vocab.min(row.len())]).collect();
        let ids: Vec<_> = live.iter().map(|_| std::sync::atomic::AtomicU32::new(u32::MAX)).collect();
        engine.device().pool().run(live.len(), |i| {
            let (l, request) = (live[i], &requests[live[i].request]);
            if logits[i].iter().all(|x| !x.is_nan()) {
                let u = uniform(self.seed, request.prompt, request.sample, l.tokens.len() - l.prompt);
                let id = self.sampling.draw(logits[i], u);
                ids[i].store(id, std::sync::atomic::Ordering::Relaxed);
            }
        });
        let ids: Vec<u32> = ids.into_iter().map(|id| id.into_inner()).collect();
        if let Some(i) = ids.iter().position(|id| *id == u32::MAX) {
            return Err(Error::Numerics {
                step: live[i].tokens.len() as u64,
                problem: "the model's logits are not numbers".into(),
                remedy: "look at its weights with `espalier ckpt inspect`".into(),
            });
        }
        let mut read = 0;
        for (&slot, (_, range)) in group.iter().zip(pieces) {
            let live = slots[slot].as_mut().expect("of the group");
            read += range.len();
            live.cached = window_start(live.tokens.len(), context)..range.end;
        }
        Ok((ids, read))
    }
}

impl Live {
    fn done(self, ended: bool) -> Done {
        Done {
            request: self.request,
            tokens: self.tokens[self.prompt..].to_vec(),
            ended,
            seconds: self.began.elapsed().as_secs_f64(),
        }
    }
}
