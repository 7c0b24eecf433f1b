//! Which domain each sample of a run comes from.
//!
//! Sample n goes to the domain with the largest deficit E_d(n + 1) − drawn_d, ties to the first, where E_d(n) is the
//! sum of the weights of d (normalised to 1) over the samples before n, and only domains of positive weight compete.
//! Every sample has the same number of tokens, so the mix is per token. The state is one counter per domain; weights
//! change at the samples that the `Ledger` names and nowhere else.
//!
//! Megatron's blend, for its order, differs in one thing: the deficit is E_d(max(n, 1)) − drawn_d.

use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A counter row is kept every so many samples, so that going back does not replay the run.
const MARK: u64 = 1 << 12;
const FILE: &str = "run file";

/// The weights of a whole run: entries by first sample, the first of them at 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ledger {
    pub entries: Vec<Entry>,
}

/// From sample `first_sample` on, domains are drawn in these proportions; one that is not named is not drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    pub first_sample: u64,
    pub weights: Vec<(String, f64)>,
}

impl Ledger {
    /// One mix for the whole run.
    pub fn constant(weights: &[(&str, f64)]) -> Ledger {
        let weights = weights.iter().map(|&(name, weight)| (name.to_string(), weight)).collect();
        Ledger { entries: vec![Entry { first_sample: 0, weights }] }
    }
}

/// Where a run is in its mix: samples drawn so far, in all and from each domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    pub sample: u64,
    pub counts: Vec<(String, u64)>,
}

#[derive(Debug, Clone)]
pub struct Mixture {
    names: Vec<String>,
    megatron: bool,
    entries: Vec<Weights>,
    sample: u64,
    counts: Vec<u64>,
    marks: BTreeMap<u64, Vec<u64>>,
}

#[derive(Debug, Clone)]
struct Weights {
    first: u64,
    /// Expected draws of each domain before `first`, and its share from there on.
    before: Vec<f64>,
    share: Vec<f64>,
    /// The domain that has all of it, if one has.
    only: Option<usize>,
}

impl Mixture {
    /// `names`: all domains, in the order of their numbers.
    pub fn new(ledger: &Ledger, names: &[String]) -> Result<Mixture> {
        let mut entries: Vec<Weights> = Vec::new();
        for entry in &ledger.entries {
            let first = entry.first_sample;
            let before = match entries.last() {
                None if first != 0 => {
                    let problem = format!("the first weights begin at sample {first}");
                    return Err(Error::config(FILE, "mix", problem, "they must begin at sample 0"));
                }
                None => vec![0.0; names.len()],
                Some(last) if first <= last.first => {
                    let problem =
                        format!("weights from sample {first} follow weights from sample {}", last.first);
                    return Err(Error::config(FILE, "mix", problem, "entries must be in rising order"));
                }
                Some(last) => last.expected(first),
            };
            entries.push(Weights::new(first, before, shares(entry, names)?));
        }
        if entries.is_empty() {
            return Err(Error::config(FILE, "mix", "there are no weights", "give each phase a mix"));
        }
        Ok(Mixture::start(names, entries, false))
    }

    /// Megatron's blend of one mix. `share`: what its build of the indices is given, weights normalised twice.
    pub fn megatron(names: &[String], share: Vec<f64>) -> Mixture {
        Mixture::start(names, vec![Weights::new(0, vec![0.0; share.len()], share)], true)
    }

    fn start(names: &[String], entries: Vec<Weights>, megatron: bool) -> Mixture {
        let counts = vec![0; names.len()];
        let marks = BTreeMap::from([(0, counts.clone())]);
        Mixture { names: names.to_vec(), megatron, entries, sample: 0, counts, marks }
    }

    /// Whether a domain is ever drawn from.
    pub fn draws(&self, domain: usize) -> bool {
        self.entries.iter().any(|entry| entry.share[domain] > 0.0)
    }

    /// The sample that `draw` gives next.
    pub fn sample(&self) -> u64 {
        self.sample
    }

    /// Domain of the next sample and how many of that domain came before it.
    pub fn draw(&mut self) -> (usize, u64) {
        let weights = self.weights_at(self.sample);
        let clock = if self.megatron { self.sample.max(1) } else { self.sample + 1 };
        let mut best: Option<(usize, f64)> = None;
        for (d, &count) in self.counts.iter().enumerate() {
            let deficit = weights.expected_of(d, clock) - count as f64;
            if weights.share[d] > 0.0 && best.is_none_or(|(_, most)| deficit > most) {
                best = Some((d, deficit));
            }
        }
        let (domain, _) = best.expect("an entry has a positive weight");
        let index = self.counts[domain];
        self.counts[domain] += 1;
        self.sample += 1;
        if self.sample.is_multiple_of(MARK) {
            self.marks.insert(self.sample, self.counts.clone());
        }
        (domain, index)
    }

    /// Makes `sample` the next one. Free where one domain has all the weight; elsewhere forward costs the samples
    /// between, some nanoseconds each, and back at most 4096 of them if they were passed before.
    pub fn seek(&mut self, sample: u64) {
        let (&mark, counts) = self.marks.range(..=sample).next_back().expect("there is a mark at 0");
        if sample < self.sample || mark > self.sample {
            (self.sample, self.counts) = (mark, counts.clone());
        }
        while self.sample < sample {
            let after = self.entries.partition_point(|entry| entry.first <= self.sample);
            let Some(only) = self.entries[after - 1].only else {
                self.draw();
                continue;
            };
            let end = self.entries.get(after).map_or(sample, |next| next.first.min(sample));
            self.counts[only] += end - self.sample;
            self.sample = end;
        }
    }

    /// Samples each domain should have given before `sample`; it has given less than one more than this.
    pub fn expected(&self, sample: u64) -> Vec<f64> {
        self.weights_at(sample.saturating_sub(1)).expected(sample)
    }

    pub fn snapshot(&self) -> Snapshot {
        let counts = self.names.iter().cloned().zip(self.counts.iter().copied()).collect();
        Snapshot { sample: self.sample, counts }
    }

    /// Goes on from a snapshot without replaying what came before it. A snapshot of another run is an error.
    pub fn restore(&mut self, snapshot: &Snapshot) -> Result<()> {
        let remedy = "resume with the mix and data of the same run";
        let counts = self.counts_of(snapshot);
        let counts = counts.map_err(|problem| Error::config("checkpoint", "data cursor", problem, remedy))?;
        (self.sample, self.counts) = (snapshot.sample, counts.clone());
        self.marks.insert(snapshot.sample, counts);
        Ok(())
    }

    /// The counts of a snapshot by domain number, or why it cannot be one of this mix.
    pub fn counts_of(&self, snapshot: &Snapshot) -> std::result::Result<Vec<u64>, String> {
        let mut counts = vec![0; self.names.len()];
        for (name, count) in &snapshot.counts {
            match self.names.iter().position(|n| n == name) {
                Some(d) => counts[d] = *count,
                None if *count == 0 => {}
                None => {
                    return Err(format!("{count} samples came from \"{name}\", which this run has not"));
                }
            }
        }
        let total = counts.iter().try_fold(0u64, |sum, &count| sum.checked_add(count));
        if total != Some(snapshot.sample) {
            return Err(format!("the counts of the domains do not add up to sample {}", snapshot.sample));
        }
        let bound = (2 * self.names.len() + 1) as f64;
        for (d, expected) in self.expected(snapshot.sample).into_iter().enumerate() {
            if (counts[d] as f64 - expected).abs() > bound {
                let (name, count, sample) = (&self.names[d], counts[d], snapshot.sample);
                return Err(format!(
                    "\"{name}\" gave {count} of {sample} samples, its weights say {expected:.0}"
                ));
            }
        }
        Ok(counts)
    }

    fn weights_at(&self, sample: u64) -> &Weights {
        let after = self.entries.partition_point(|entry| entry.first <= sample);
        &self.entries[after - 1]
    }
}

impl Weights {
    fn new(first: u64, before: Vec<f64>, share: Vec<f64>) -> Weights {
        let mut drawn = (0..share.len()).filter(|&d| share[d] > 0.0);
        let only = drawn.next().filter(|_| drawn.next().is_none());
        Weights { first, before, share, only }
    }
    fn expected_of(&self, domain: usize, sample: u64) -> f64 {
        self.before[domain] + self.share[domain] * (sample - self.first) as f64
    }
    fn expected(&self, sample: u64) -> Vec<f64> {
        (0..self.share.len()).map(|d| self.expected_of(d, sample)).collect()
    }
}

/// One entry's weights by domain number, normalised to 1.
fn shares(entry: &Entry, names: &[String]) -> Result<Vec<f64>> {
    let bad = |name: &str, problem: String, remedy: &str| {
        Err(Error::config(FILE, format!("mix.{name}"), problem, remedy))
    };
    let mut share = vec![0.0; names.len()];
    let mut given = vec![false; names.len()];
    for (name, weight) in &entry.weights {
        let Some(d) = names.iter().position(|n| n == name) else {
            let known = names.join(", ");
            return bad(name, "there is no such corpus under [data]".into(), &format!("it has: {known}"));
        };
        if !(weight.is_finite() && *weight >= 0.0) {
            return bad(name, format!("the weight is {weight}"), "weights are finite and not negative");
        }
        if std::mem::replace(&mut given[d], true) {
            return bad(name, "the weight is given twice".into(), "give it once");
        }
        share[d] = *weight;
    }
    let total: f64 = share.iter().sum();
    if !(total.is_finite() && total > 0.0) {
        let problem = format!("the weights from sample {} add up to {total}", entry.first_sample);
        return Err(Error::config(FILE, "mix", problem, "give at least one corpus a positive weight"));
    }
    Ok(share.into_iter().map(|weight| weight / total).collect())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)] // here it is how a test fails
mod tests {
    use super::*;

    fn names(n: &[&str]) -> Vec<String> {
        n.iter().map(|n| n.to_string()).collect()
    }
    fn two_entries() -> Ledger {
        let second = Entry { first_sample: 1000, weights: vec![("a".into(), 1.0), ("c".into(), 9.0)] };
        let mut ledger = Ledger::constant(&[("a", 0.55), ("b", 0.3), ("c", 0.15)]);
        ledger.entries.push(second);
        ledger
    }

    #[test]
    fn draws_equal_the_published_example_of_megatron() {
        let mut m = Mixture::new(
            &Ledger::constant(&[("a", 0.5), ("b", 0.25), ("c", 0.25)]),
            &names(&["a", "b", "c"]),
        )
        .unwrap();
        assert_eq!((0..4).map(|_| m.draw()).collect::<Vec<_>>(), [(0, 0), (1, 0), (2, 0), (0, 1)]);
    }

    #[test]
    fn the_blend_of_megatron_draws_what_its_own_helpers_draw() {
        // megatron-core 0.16.1: helpers.build_blending_indices
        let cases = [([0.5, 0.25, 0.25], "01200120012001200120"), ([0.05, 0.9, 0.05], BLEND_UNEVEN)];
        for (share, want) in cases {
            let mut m = Mixture::megatron(&names(&["a", "b", "c"]), share.to_vec());
            let draws: Vec<(usize, u64)> = (0..20).map(|_| m.draw()).collect();
            let drawn: String = draws.iter().map(|(d, _)| d.to_string()).collect();
            assert_eq!(drawn, want);
            for (i, (d, index)) in draws.iter().enumerate() {
                assert_eq!(*index, draws[..i].iter().filter(|(other, _)| other == d).count() as u64);
            }
        }
    }
    const BLEND_UNEVEN: &str = "10111112111111111111";

    #[test]
    fn samples_of_one_domain_are_not_counted_one_by_one() {
        // 10^15 draws would not come back.
        let mut alone = Ledger::constant(&[("b", 2.0), ("a", 0.0)]);
        let far = 1_000_000_000_000_000;
        alone.entries.push(Entry {
            first_sample: far,
            weights: vec![("a", 1.0), ("b", 3.0)].into_iter().map(|(n, w)| (n.into(), w)).collect(),
        });
        let mut one = Mixture::new(&alone, &names(&["a", "b", "c"])).unwrap();
        for at in [far - 1, 0, far / 3, far] {
            one.seek(at);
            assert_eq!((one.sample(), &one.counts), (at, &vec![0, at, 0]));
        }
        assert_eq!(one.draw(), (1, far));
    }

    #[test]
    fn counts_stay_within_the_number_of_domains_of_their_share_and_below_one_more() {
        let mut m = Mixture::new(&two_entries(), &names(&["a", "b", "c"])).unwrap();
        for n in 1..5000 {
            m.draw();
            for (count, expected) in m.counts.iter().zip(m.expected(n)) {
                let excess = *count as f64 - expected;
                assert!(excess < 1.0 && excess > -2.0, "sample {n}: {count} drawn, {expected} expected");
            }
        }
        assert_eq!(m.counts[1], 300, "b has no weight after sample 1000");
    }

    #[test]
    fn seek_and_restore_give_what_replay_gives() {
        let (ledger, names) = (two_entries(), names(&["a", "b", "c"]));
        let mut replay = Mixture::new(&ledger, &names).unwrap();
        let draws: Vec<_> = (0..200_000).map(|_| replay.draw()).collect();
        let mut m = Mixture::new(&ledger, &names).unwrap();
        for at in [150_000, 3, 70_000, 999, 1000, 131_072, 0] {
            m.seek(at);
            assert_eq!(m.draw(), draws[at as usize], "sample {at}");
        }
        m.seek(123_456);
        let text = serde_json::to_string(&m.snapshot()).unwrap();
        let mut resumed = Mixture::new(&ledger, &names).unwrap();
        resumed.restore(&serde_json::from_str(&text).unwrap()).unwrap();
        for want in &draws[123_456..] {
            assert_eq!(resumed.draw(), *want);
        }
        resumed.seek(5);
        assert_eq!(resumed.draw(), draws[5]);
    }

    #[test]
    fn a_domain_without_weight_changes_nothing() {
        let ledger = Ledger::constant(&[("a", 0.7), ("b", 0.3)]);
        let mut two = Mixture::new(&ledger, &names(&["a", "b"])).unwrap();
        let mut three = Mixture::new(&ledger, &names(&["a", "b", "unused"])).unwrap();
        assert!((0..1000).all(|_| two.draw() == three.draw()));
    }

    #[test]
    fn a_domain_whose_weight_ends_is_not_drawn_for_what_it_still_lacks() {
        // After one sample b lacks half a draw, which after five more is as much as c lacks.
        let mut ledger = Ledger::constant(&[("a", 0.5), ("b", 0.5)]);
        ledger.entries.push(Entry { first_sample: 1, weights: vec![("a".into(), 0.1), ("c".into(), 0.9)] });
        let mut m = Mixture::new(&ledger, &names(&["a", "b", "c"])).unwrap();
        m.seek(1000);
        assert_eq!(m.counts[1], 0);
    }

    #[test]
    fn bad_ledgers_and_foreign_snapshots_are_refused_with_the_value() {
        let all = names(&["a", "b", "c"]);
        let entry = |first_sample, weights: &[(&str, f64)]| Entry {
            first_sample,
            weights: weights.iter().map(|&(n, w)| (n.to_string(), w)).collect(),
        };
        let cases = [
            (vec![], "there are no weights"),
            (vec![entry(5, &[("a", 1.0)])], "begin at sample 5"),
            (vec![entry(0, &[("a", 1.0)]), entry(0, &[("b", 1.0)])], "rising order"),
            (vec![entry(0, &[("z", 1.0)])], "mix.z: there is no such corpus under [data]; it has: a, b, c"),
            (vec![entry(0, &[("a", -0.5)])], "the weight is -0.5"),
            (vec![entry(0, &[("a", f64::NAN)])], "the weight is NaN"),
            (vec![entry(0, &[("a", 0.0)])], "add up to 0"),
            (vec![entry(0, &[("a", 0.5), ("a", 0.5)])], "given twice"),
        ];
        for (entries, want) in cases {
            let error = Mixture::new(&Ledger { entries }, &all).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
        let mut m = Mixture::new(&two_entries(), &all).unwrap();
        let count = |name: &str, n| (name.to_string(), n);
        let cases = [
            (vec![count("z", 10)], "came from \"z\""),
            (vec![count("a", 9)], "do not add up to sample 10"),
            (vec![count("a", u64::MAX), count("b", 11)], "do not add up"),
            (vec![count("c", 10)], "\"c\" gave 10 of 10 samples, its weights say 2"),
        ];
        for (counts, want) in cases {
            let error = m.restore(&Snapshot { sample: 10, counts }).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
