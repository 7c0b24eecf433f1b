//! Which weights of a tensor are zero: those with the smallest random words, so many as asked for to the one. Equal words go
//! by their place. With more sparsity the same weights and others are zero.
//!
//! The word below which they lie is found digit by digit (radix selection): each rank counts the digits in its share of a
//! tensor, and the counts are summed.

use super::stream;
use crate::Result;
use crate::comm::{Comm, Reduce};
use crate::config::{Pattern, Spdf};
use crate::device::{Category, DType, Device, simd};
use crate::params::Placed;
use crate::rng::Philox;
use crate::tensor::Tensor;
use std::ops::Range;
use std::sync::{Arc, Mutex};

/// Bits of the digits of a word, the highest first.
const DIGITS: [u32; 3] = [11, 11, 10];
/// Words drawn at a time.
const BLOCK: usize = 1024;
/// Elements per task.
const GRAIN: usize = 1 << 18;

/// What decides about the weights of a tensor.
#[derive(Clone)]
pub struct Rule {
    stream: Philox,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    /// Zero is what has a smaller word than this, or this one and no larger index.
    UpTo { word: u32, index: u64 },
    /// The two smallest of four neighbours.
    TwoOfFour,
    /// What lies in no kept block: for each block of a matrix so many columns wide, whether it is kept.
    Blocks { block: usize, cols: usize, kept: Arc<[bool]> },
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        self.kind.fmt(f)
    }
}

/// The rules of these tensors. Collective over `world`.
pub fn rules(dev: &Device, world: &dyn Comm, spdf: &Spdf, tensors: &[&Placed]) -> Result<Vec<Rule>> {
    let streams = tensors.iter().map(|p| stream(spdf, &p.spec.name));
    if spdf.pattern == Pattern::TwoOfFour || dev.is_meta() {
        return Ok(streams.map(|stream| Rule { stream, kind: Kind::TwoOfFour }).collect());
    }
    if let Some(block) = spdf.pattern.block() {
        let rule = |(stream, p): (Philox, &&Placed)| Rule { stream, kind: blocks(spdf, p, block) };
        return Ok(streams.zip(tensors).map(rule).collect());
    }
    let mut all: Vec<Search> = streams
        .zip(tensors)
        .map(|(stream, p)| {
            let len = p.spec.len() as u64;
            Search { stream, len, left: spdf.zeros(len), prefix: 0, equal: len }
        })
        .collect();
    let mut below = u32::BITS;
    for bits in DIGITS {
        below -= bits;
        let mut counts = Tensor::zeros(dev, all.len(), 1 << bits, DType::F64, Category::Workspace);
        let (rank, ranks) = (world.rank() as u64, world.size() as u64);
        for (search, counts) in all.iter().zip(counts.data_mut::<f64>().chunks_exact_mut(1 << bits)) {
            let share = |r: u64| (u128::from(search.len) * u128::from(r) / u128::from(ranks)) as u64;
            search.count(dev, share(rank)..share(rank + 1), below, counts);
        }
        let counts = world.all_reduce(counts, Reduce::Sum, "counts of a mask")?.wait()?;
        let of = counts.data::<f64>().chunks_exact(1 << bits);
        all.iter_mut().zip(of).for_each(|(search, counts)| search.choose(bits, counts));
    }
    Ok(all.into_iter().map(Search::end).collect())
}

/// The masked form of what `params/layout.rs` stores.
fn blocks(spdf: &Spdf, p: &Placed, block: usize) -> Kind {
    let spec = p.spec.in_blocks(block, spdf.sparsity, spdf.seed);
    let grid = spec.layout.grid().expect("made of blocks");
    let (places, wide) = (grid.kept(&spec.name), grid.cols / block);
    let mut kept = vec![false; grid.rows / block * wide];
    for i in 0..grid.blocks() {
        let (row, col) = grid.place(&places, i);
        kept[row * wide + col] = true;
    }
    Kind::Blocks { block, cols: grid.cols, kept: kept.into() }
}

/// The search for the word of one tensor.
struct Search {
    stream: Philox,
    len: u64,
    /// The digits found so far.
    prefix: u32,
    /// Zeros still to be found among the weights whose words begin with these, and how many of those there are.
    left: u64,
    equal: u64,
}

impl Search {
    /// Adds how often each digit follows the prefix, above `below` bits.
    fn count(&self, dev: &Device, share: Range<u64>, below: u32, counts: &mut [f64]) {
        let digits = counts.len();
        let (mask, high) = (digits as u32 - 1, below + digits.trailing_zeros());
        let sums = Mutex::new(counts);
        let len = (share.end - share.start) as usize;
        dev.pool().ranges(len, GRAIN, |range| {
            let mut own = vec![0u32; digits];
            let mut words = [0u32; BLOCK];
            for first in range.clone().step_by(BLOCK) {
                let words = &mut words[..BLOCK.min(range.end - first)];
                draw(&self.stream, share.start + first as u64, words);
                for &word in &*words {
                    if high == u32::BITS || word >> high == self.prefix {
                        own[(word >> below & mask) as usize] += 1;
                    }
                }
            }
            let mut sums = sums.lock().expect("no panic under the lock");
            sums.iter_mut().zip(&own).for_each(|(sum, n)| *sum += f64::from(*n));
        });
    }

    /// The digit in which the last zero lies.
    fn choose(&mut self, bits: u32, counts: &[f64]) {
        for (digit, count) in counts.iter().enumerate() {
            if self.left <= *count as u64 {
                (self.prefix, self.equal) = (self.prefix << bits | digit as u32, *count as u64);
                return;
            }
            self.left -= *count as u64;
        }
        unreachable!("there are fewer zeros than weights");
    }

    fn end(self) -> Rule {
        let Search { stream, len, prefix: word, left, equal } = self;
        let mut index = u64::MAX;
        if left < equal {
            // Rare: several weights have this word, and some of them stay.
            let mut words = [0u32; BLOCK];
            let mut seen = 0;
            'all: for first in (0..len).step_by(BLOCK) {
                let words = &mut words[..(len - first).min(BLOCK as u64) as usize];
                draw(&stream, first, words);
                for at in (0..words.len()).filter(|&at| words[at] == word) {
                    seen += 1;
                    if seen == left {
                        index = first + at as u64;
                        break 'all;
                    }
                }
            }
        }
        Rule { stream, kind: Kind::UpTo { word, index } }
    }
}

fn draw(stream: &Philox, first: u64, words: &mut [u32]) {
    simd(
        #[inline(always)]
        || stream.fill_words(first, 0, words),
    );
}

impl Rule {
    /// Calls f with each zero of these elements.
    pub fn each_zero(&self, range: Range<u64>, mut f: impl FnMut(u64)) {
        let mut words = [0u32; BLOCK];
        match self.kind {
            Kind::Blocks { block, cols, ref kept } => {
                for i in range {
                    let (row, col) = (i as usize / cols / block, i as usize % cols / block);
                    if !kept[row * (cols / block) + col] {
                        f(i);
                    }
                }
            }
            Kind::UpTo { word, index } => {
                for first in range.clone().step_by(BLOCK) {
                    let words = &mut words[..(range.end - first).min(BLOCK as u64) as usize];
                    draw(&self.stream, first, words);
                    for (at, &own) in words.iter().enumerate() {
                        let i = first + at as u64;
                        if own < word || (own == word && i <= index) {
                            f(i);
                        }
                    }
                }
            }
            Kind::TwoOfFour => {
                for i in range {
                    let (four, lane) = (self.stream.block(i / 4, 0), (i % 4) as usize);
                    let smaller = |&l: &usize| (four[l], l) < (four[lane], lane);
                    if (0..4).filter(smaller).count() < 2 {
                        f(i);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::run_ranks;
    use crate::params::{Declare, ParamSpec, Shard};
    use std::time::Duration;

    fn zeros(rule: &Rule, range: Range<u64>) -> Vec<u64> {
        let mut all = vec![];
        rule.each_zero(range, |i| all.push(i));
        all
    }

    fn spdf(sparsity: f64) -> Spdf {
        Spdf { matches: vec!["*".into()], pattern: Pattern::Unstructured, sparsity, seed: 9 }
    }

    /// Rules of matrices (rows, cols) on every one of so many ranks.
    fn found(shapes: &[(usize, usize)], sparsity: f64, ranks: usize) -> Vec<Vec<Rule>> {
        run_ranks(ranks, Duration::from_secs(60), |world| {
            let mut declare = Declare::new(0, 1);
            for (i, &(rows, cols)) in shapes.iter().enumerate() {
                declare.one(ParamSpec::matrix(format!("w{i}"), rows, cols, Shard::Replicated, 1.0));
            }
            let dev = Device::cpu(2);
            let unit = declare.unit("u", &dev, DType::F32, crate::params::Dp::SOLO);
            let params: Vec<&Placed> = unit.params.iter().collect();
            rules(&dev, world.as_ref(), &spdf(sparsity), &params)
        })
        .unwrap()
    }

    #[test]
    fn the_zeros_are_those_with_the_smallest_words_on_any_number_of_ranks() {
        let shapes = [(1, 1), (3, 5), (64, 64), (257, 1031)];
        for sparsity in [0.01, 0.5, 0.75, 0.999] {
            let all: Vec<_> =
                [1, 2, 3].map(|ranks| found(&shapes, sparsity, ranks)).into_iter().flatten().collect();
            for (i, &(rows, cols)) in shapes.iter().enumerate() {
                let n = (rows * cols) as u64;
                let want = spdf(sparsity).zeros(n);
                let stream = stream(&spdf(sparsity), &format!("w{i}"));
                let mut sorted: Vec<(u32, u64)> = (0..n).map(|i| (stream.at(i, 0), i)).collect();
                sorted.sort_unstable();
                let mut smallest: Vec<u64> = sorted[..want as usize].iter().map(|x| x.1).collect();
                smallest.sort_unstable();
                for rules in &all {
                    assert_eq!(rules[i].kind, all[0][i].kind);
                    if want > 0 {
                        assert_eq!(zeros(&rules[i], 0..n), smallest, "{rows} x {cols} at {sparsity}");
                    }
                }
            }
        }
    }

    #[test]
    fn equal_words_go_by_their_place() {
        // Among 2^18 words of 32 bits some are equal; the search is made to end at each of a few.
        let stream = Philox::new(1, "equal");
        let n = 1u64 << 18;
        let mut sorted: Vec<(u32, u64)> = (0..n).map(|i| (stream.at(i, 0), i)).collect();
        sorted.sort_unstable();
        let twice = sorted.windows(2).position(|w| w[0].0 == w[1].0).unwrap();
        for last in [twice, twice + 1] {
            let word = sorted[last].0;
            let first = sorted.iter().position(|x| x.0 == word).unwrap();
            let equal = sorted.iter().filter(|x| x.0 == word).count() as u64;
            let left = (last - first + 1) as u64;
            let rule = Search { stream, len: n, prefix: word, left, equal }.end();
            assert_eq!(zeros(&rule, 0..n).len(), last + 1);
            assert!(zeros(&rule, 0..n).contains(&sorted[last].1));
        }
    }

    #[test]
    fn two_of_four_leaves_two_of_each_four_wherever_a_part_begins() {
        let rule = Rule { stream: Philox::new(3, "mask/x"), kind: Kind::TwoOfFour };
        let all = zeros(&rule, 0..4096);
        let mut seen = std::collections::HashSet::new();
        for four in 0..1024u64 {
            let own: Vec<u64> = all.iter().filter(|i| **i / 4 == four).map(|i| i % 4).collect();
            assert_eq!(own.len(), 2);
            seen.insert(own);
        }
        assert_eq!(seen.len(), 6);
        let parts: Vec<u64> = [0..3, 3..1000, 1000..4096].into_iter().flat_map(|r| zeros(&rule, r)).collect();
        assert_eq!(parts, all);
    }
}
