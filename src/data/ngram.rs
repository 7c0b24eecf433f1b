//! Interpolated Kneser-Ney bigram and trigram models: what a trained model should beat.
//!
//! With c the counts of the highest order and, below it, the number of different tokens seen before an n-gram
//! (its continuation count), d the discount of the order, n₁ and n₂ the n-grams counted once and twice:
//!
//!     P_n(w | h) = (max(c(h w) − d, 0) + d · |{v : c(h v) > 0}| · P_{n−1}(w | h')) / Σ_v c(h v)
//!     d = n₁ / (n₁ + 2 n₂),    P_0 = 1 / V
//!
//! h' is h without its first token; a context that was never seen leaves all to P_{n−1}. n-grams do not reach over document
//! boundaries. Sources: Kneser and Ney, ICASSP 1995; the interpolated form in Chen and Goodman, "An empirical study of
//! smoothing techniques for language modeling", 1998, section 2.7.

use super::{Domain, HeldOut};
use crate::{Error, Result};

/// Bits of a token: three of them, and so any n-gram, fit a u64.
const BITS: u32 = 21;
/// Most tokens that an n-gram model is fitted on: n-grams take 8 bytes a token, and as much again while they are sorted.
pub const MOST_TOKENS: u64 = 1 << 28;

/// One order: its n-grams in rising order of (context, word), and where each context's begin.
struct Table {
    grams: Vec<u64>,
    counts: Vec<u32>,
    contexts: Vec<u64>,
    /// The first n-gram of each context, and one past the last of all.
    starts: Vec<u32>,
    /// Σ counts of each context.
    totals: Vec<u64>,
    discount: f64,
}

/// Sorted n-grams with their counts.
fn tally(mut grams: Vec<u64>) -> (Vec<u64>, Vec<u32>) {
    grams.sort_unstable();
    let mut counts = Vec::new();
    let mut last = None;
    grams.retain(|&gram| {
        let new = last.replace(gram) != Some(gram);
        if new {
            counts.push(1);
        } else if let Some(count) = counts.last_mut() {
            *count += 1;
        }
        new
    });
    (grams, counts)
}

impl Table {
    fn new((grams, counts): (Vec<u64>, Vec<u32>)) -> Table {
        let times = |n: u32| counts.iter().filter(|&&c| c == n).count() as f64;
        let (once, twice) = (times(1), times(2));
        let discount = if once > 0.0 { once / (once + 2.0 * twice) } else { NO_SINGLES };
        let (mut contexts, mut starts, mut totals) = (Vec::new(), Vec::new(), Vec::new());
        for (i, (gram, &count)) in grams.iter().zip(&counts).enumerate() {
            if contexts.last() != Some(&(gram >> BITS)) {
                contexts.push(gram >> BITS);
                starts.push(i as u32);
                totals.push(0);
            }
            *totals.last_mut().expect("a context was pushed") += u64::from(count);
        }
        starts.push(grams.len() as u32);
        Table { grams, counts, contexts, starts, totals, discount }
    }

    /// P(w | context) for what the order below says.
    fn interpolate(&self, context: u64, word: u32, below: f64) -> f64 {
        let Ok(at) = self.contexts.binary_search(&context) else { return below };
        let own = self.starts[at] as usize..self.starts[at + 1] as usize;
        let (grams, counts) = (&self.grams[own.clone()], &self.counts[own]);
        let own = grams.binary_search(&(context << BITS | u64::from(word))).map_or(0, |i| counts[i]);
        let kept = (f64::from(own) - self.discount).max(0.0);
        (kept + self.discount * grams.len() as f64 * below) / self.totals[at] as f64
    }
}

/// A language of a few n-grams, each seen twice or more, has no n₁ to compute a discount from.
const NO_SINGLES: f64 = 0.5;

pub struct KneserNey {
    vocab: u32,
    /// Of unigrams, bigrams, ...
    tables: Vec<Table>,
}

impl KneserNey {
    /// Counts the n-grams of `documents`, n from 1 to `order` (2 or 3). Memory: about 8 bytes a token and order.
    /// `vocab` is at most 2^21.
    pub fn fit<'a>(
        documents: impl Iterator<Item = &'a [u32]> + Clone,
        vocab: u32,
        order: usize,
    ) -> KneserNey {
        assert!((2..=3).contains(&order) && u64::from(vocab) <= 1 << BITS, "order {order}, {vocab} ids");
        let all =
            |n: usize| documents.clone().flat_map(move |d| d.windows(n)).map(pack).collect::<Vec<u64>>();
        let mut tables = vec![Table::new(tally(all(order)))];
        let mut highest = tables[0].grams.clone();
        for n in (1..order).rev() {
            // Each n-gram once for each different token before it: the (n+1)-grams, without that token.
            let longer = if n + 1 == order { std::mem::take(&mut highest) } else { tally(all(n + 1)).0 };
            let ends = longer.into_iter().map(|gram| gram & ((1 << (BITS * n as u32)) - 1));
            tables.push(Table::new(tally(ends.collect())));
        }
        tables.reverse();
        KneserNey { vocab, tables }
    }

    /// P(word | the last tokens before it); of `before` as many are used as the order takes.
    pub fn probability(&self, before: &[u32], word: u32) -> f64 {
        let mut p = 1.0 / f64::from(self.vocab);
        for (n, table) in self.tables.iter().enumerate() {
            let Some(first) = before.len().checked_sub(n) else { break };
            p = table.interpolate(pack(&before[first..]), word, p);
        }
        p
    }
}

impl KneserNey {
    /// −Σ ln P of what `held` predicts, each token from all of its document before it.
    pub fn nll(&self, held: &HeldOut) -> Result<f64> {
        let mut nll = 0.0;
        let mut tokens = Vec::new();
        for (document, predicted) in held.predictions() {
            let first = predicted.start.saturating_sub(self.tables.len() as u64 - 1).max(document);
            tokens.resize((predicted.end - first) as usize, 0);
            held.domain().corpus.read(first, &mut tokens)?;
            let begin = (predicted.start - first) as usize;
            nll -= (begin..tokens.len()).map(|i| self.probability(&tokens[..i], tokens[i]).ln()).sum::<f64>();
        }
        Ok(nll)
    }
}

/// Text that n-gram models are fitted on: tokens, and where its documents end.
pub struct Text {
    tokens: Vec<u32>,
    ends: Vec<usize>,
    vocab: u32,
}

impl Text {
    /// What a run trains on of `domain`: the documents that are not held out, from the first on, at most `max_tokens`.
    pub fn of_training(domain: &Domain, max_tokens: u64) -> Result<Text> {
        let corpus = &domain.corpus;
        if u64::from(corpus.vocab()) > 1 << BITS {
            let problem = format!("has {} token ids, too many for an n-gram model", corpus.vocab());
            return Err(Error::data(corpus.prefix(), problem, "allowed are vocabularies of 2^21 ids"));
        }
        let mut text = Text { tokens: Vec::new(), ends: vec![0], vocab: corpus.vocab() };
        for range in domain.training_ranges() {
            let range = range?;
            let have = text.tokens.len();
            let length = (range.end - range.start).min(max_tokens - have as u64) as usize;
            text.tokens.resize(have + length, 0);
            corpus.read(range.start, &mut text.tokens[have..])?;
            text.ends.push(text.tokens.len());
            if text.tokens.len() as u64 == max_tokens {
                break;
            }
        }
        Ok(text)
    }

    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    pub fn documents(&self) -> impl Iterator<Item = &[u32]> + Clone {
        self.ends.windows(2).map(|e| &self.tokens[e[0]..e[1]])
    }

    pub fn fit(&self, order: usize) -> KneserNey {
        KneserNey::fit(self.documents(), self.vocab, order)
    }
}

fn pack(gram: &[u32]) -> u64 {
    gram.iter().fold(0, |key, &token| key << BITS | u64::from(token))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// A language of a few words that repeats itself.
    fn text(seed: u32, length: usize, vocab: u32) -> Vec<u32> {
        let mut x = seed;
        let mut next = || {
            x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            x >> 16
        };
        let mut tokens = vec![0, 1];
        while tokens.len() < length {
            let last = tokens[tokens.len() - 1] + 3 * tokens[tokens.len() - 2];
            let jump = if next() % 3 == 0 { next() % vocab } else { 0 };
            tokens.push((last + jump) % vocab);
        }
        tokens
    }

    #[test]
    fn probabilities_of_all_words_after_any_context_sum_to_one() {
        let documents = [text(1, 300, 17), text(2, 50, 17), vec![3], vec![]];
        for order in [2, 3] {
            let model = KneserNey::fit(documents.iter().map(Vec::as_slice), 20, order);
            for context in [&[][..], &[4], &[1, 2], &[16, 16], &[19, 3], &[3, 19], &[5, 6, 7]] {
                let sum: f64 = (0..20).map(|w| model.probability(context, w)).sum();
                assert!((sum - 1.0).abs() < 1e-12, "order {order}, {context:?}: {sum}");
                assert!((0..20).all(|w| model.probability(context, w) > 0.0));
            }
        }
    }

    /// The formula, read off the page: counts by maps, continuation counts by sets.
    fn by_the_formula(documents: &[Vec<u32>], vocab: u32, order: usize, before: &[u32], word: u32) -> f64 {
        let mut p = 1.0 / f64::from(vocab);
        for n in 1..=order.min(before.len() + 1) {
            let mut counts: BTreeMap<Vec<u32>, u32> = BTreeMap::new();
            if n == order {
                for gram in documents.iter().flat_map(|d| d.windows(n)) {
                    *counts.entry(gram.to_vec()).or_default() += 1;
                }
            } else {
                let longer: BTreeSet<&[u32]> = documents.iter().flat_map(|d| d.windows(n + 1)).collect();
                for gram in longer {
                    *counts.entry(gram[1..].to_vec()).or_default() += 1;
                }
            }
            let times = |k: u32| counts.values().filter(|&&c| c == k).count() as f64;
            let d = if times(1) > 0.0 { times(1) / (times(1) + 2.0 * times(2)) } else { 0.5 };
            let context = &before[before.len() - (n - 1)..];
            let after: Vec<(&Vec<u32>, f64)> = counts
                .iter()
                .filter(|(g, _)| &g[..n - 1] == context)
                .map(|(g, c)| (g, f64::from(*c)))
                .collect();
            let total: f64 = after.iter().map(|a| a.1).sum();
            if total > 0.0 {
                let own = after.iter().find(|a| a.0[n - 1] == word).map_or(0.0, |a| a.1);
                p = ((own - d).max(0.0) + d * after.len() as f64 * p) / total;
            }
        }
        p
    }

    #[test]
    fn probabilities_are_those_of_the_formula() {
        let documents = [text(3, 200, 11), text(4, 60, 11)];
        let held = text(5, 80, 11);
        for order in [2, 3] {
            let model = KneserNey::fit(documents.iter().map(Vec::as_slice), 12, order);
            for i in 1..held.len() {
                let before = &held[i.saturating_sub(order - 1)..i];
                let want = by_the_formula(&documents, 12, order, before, held[i]);
                let got = model.probability(&held[..i], held[i]);
                assert!((got / want - 1.0).abs() < 1e-12, "order {order}, {before:?}: {got} {want}");
            }
        }
    }
}
