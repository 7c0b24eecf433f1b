//! How many sequences each update of a phase has: always `global_batch`, or from a few to that many.
//!
//! The rule of a ramp is that of Megatron-LM's `--rampup-batch-size FROM BY SAMPLES`
//! (`megatron/core/num_microbatches_calculator.py`), counted from the beginning of the phase and in whole numbers: with
//! K = (global_batch − from) / by, an update before which the phase has read c samples has
//!
//!     b(c) = from + by · ⌊c K / samples⌋    while c < samples,    b(c) = global_batch from there on
//!
//! so each of the K smaller sizes lasts for samples / K, to the end of the update that passes them. A size that one
//! update of the size before it passes altogether does not occur.

/// `batch_ramp = { from = 16, by = 16, samples = 200_000 }`
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Ramp {
    /// Sequences of the first update.
    pub from: usize,
    /// So many more at a time.
    pub by: usize,
    /// Sequences over which it grows.
    pub samples: u64,
}

/// Updates of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stage {
    /// The first of them, counted from the beginning of the phase.
    pub step: u64,
    /// Samples of the phase before it.
    pub sample: u64,
    /// Sequences of each.
    pub batch: usize,
}

/// The sizes of all updates of a phase; the last stage has no end.
#[derive(Clone, Debug, PartialEq)]
pub struct Batches {
    stages: Vec<Stage>,
    ramp: Option<Ramp>,
}

/// Sizes that a ramp may have.
pub(super) const MOST_STAGES: usize = 4096;

impl Batches {
    pub fn fixed(global_batch: usize) -> Batches {
        Batches { stages: vec![Stage { step: 0, sample: 0, batch: global_batch }], ramp: None }
    }

    /// The error is the key of the ramp that is wrong, the problem and the remedy.
    pub fn growing(ramp: Ramp, global_batch: usize) -> Result<Batches, (&'static str, String, String)> {
        let Ramp { from, by, samples } = ramp;
        let Some(growth) = global_batch.checked_sub(from).filter(|growth| *growth > 0) else {
            let problem = format!("{from} is not below global_batch: {global_batch}");
            return Err(("from", problem, "start with fewer sequences, or leave batch_ramp out".into()));
        };
        if !growth.is_multiple_of(by) {
            let problem = format!("steps of {by} do not lead from {from} to global_batch: {global_batch}");
            return Err((
                "by",
                problem,
                format!("give a divisor of {growth}, or set global_batch to {}", {
                    let below = from + growth / by * by;
                    if below > from {
                        format!("{below} or {}", below + by)
                    } else {
                        format!("{}", below + by)
                    }
                }),
            ));
        }
        let sizes = growth / by;
        if sizes > MOST_STAGES {
            let problem = format!("{sizes} sizes below global_batch are too many");
            let remedy = format!("give {} or more", growth.div_ceil(MOST_STAGES));
            return Err(("by", problem, remedy));
        }

        let (all, k) = (samples as u128, sizes as u128);
        let (mut stages, mut step, mut sample) = (vec![], 0, 0u64);
        loop {
            let grown = (sample as u128 * k / all).min(k);
            let batch = from + by * grown as usize;
            stages.push(Stage { step, sample, batch });
            if grown == k {
                return Ok(Batches { stages, ramp: Some(ramp) });
            }
            // The least c with ⌊c K / samples⌋ > grown.
            let end = ((grown + 1) * all).div_ceil(k) as u64;
            let updates = (end - sample).div_ceil(batch as u64);
            (step, sample) = (step + updates, sample + updates * batch as u64);
        }
    }

    pub fn ramp(&self) -> Option<Ramp> {
        self.ramp
    }

    fn stage(&self, step: u64) -> Stage {
        self.stages[self.stages.partition_point(|s| s.step <= step) - 1]
    }

    /// Sequences of the update with index `step` (0-based) of the phase.
    pub fn at(&self, step: u64) -> usize {
        self.stage(step).batch
    }

    /// Samples of the first `steps` updates; None beyond what can be counted.
    pub fn samples(&self, steps: u64) -> Option<u64> {
        let stage = self.stage(steps);
        (steps - stage.step).checked_mul(stage.batch as u64)?.checked_add(stage.sample)
    }

    /// The fewest updates that have `samples` samples or more.
    pub fn steps_for(&self, samples: u64) -> u64 {
        let stage = self.stages[self.stages.partition_point(|s| s.sample < samples).max(1) - 1];
        stage.step + (samples - stage.sample).div_ceil(stage.batch as u64)
    }

    /// The updates of `range` as runs of one size: (sequences, updates).
    pub fn runs(&self, range: std::ops::Range<u64>) -> impl Iterator<Item = (usize, u64)> + Send + 'static {
        let ends = self.stages.iter().skip(1).map(|s| s.step).chain([u64::MAX]);
        let part = |(s, end): (&Stage, u64)| {
            let updates = end.min(range.end).saturating_sub(s.step.max(range.start));
            (updates > 0).then_some((s.batch, updates))
        };
        self.stages.iter().zip(ends).filter_map(part).collect::<Vec<_>>().into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rule itself, update after update.
    fn size(ramp: Ramp, full: usize, c: u64) -> usize {
        let k = ((full - ramp.from) / ramp.by) as u128;
        if c >= ramp.samples {
            full
        } else {
            ramp.from + ramp.by * (c as u128 * k / ramp.samples as u128) as usize
        }
    }

    #[test]
    fn every_update_has_the_size_of_the_rule_and_the_sums_are_those_of_counting() {
        let ramps = [
            (16, 16, 200_000, 256),
            (1, 1, 10, 4),
            (2, 2, 7, 12),
            (1, 3, 1000, 10),
            (3, 5, 1, 98),
            (8, 8, 100, 16),
        ];
        for (from, by, samples, full) in ramps {
            let ramp = Ramp { from, by, samples };
            let b = Batches::growing(ramp, full).unwrap();
            let (mut c, mut step) = (0, 0);
            let mut counted = vec![];
            while c < samples + 5 * full as u64 {
                let want = size(ramp, full, c);
                assert_eq!((b.at(step), b.samples(step)), (want, Some(c)), "{ramp:?} at {step}");
                for samples in c + 1..=c + want as u64 {
                    assert_eq!(b.steps_for(samples), step + 1, "{ramp:?}: {samples} samples");
                }
                counted.push(want);
                (c, step) = (c + want as u64, step + 1);
            }
            assert_eq!(b.at(step), full);
            for range in [0..step, 0..1, step / 3..step / 2, step - 1..step, step..step] {
                let runs = b.runs(range.clone());
                let sizes: Vec<usize> =
                    runs.flat_map(|(n, times)| std::iter::repeat_n(n, times as usize)).collect();
                assert_eq!(sizes, counted[range.start as usize..range.end as usize], "{ramp:?} {range:?}");
            }
        }
    }

    #[test]
    fn a_ramp_worked_out_by_hand_has_its_stages() {
        // K = 3, a size lasts for 10 samples: 5 updates of 2 (10), 3 of 4 (22, beyond 20), 2 of 6 (34, beyond 30), then 8.
        let b = Batches::growing(Ramp { from: 2, by: 2, samples: 30 }, 8).unwrap();
        assert_eq!(b.runs(0..12).collect::<Vec<_>>(), [(2, 5), (4, 3), (6, 2), (8, 2)]);
        assert_eq!((b.samples(10), b.steps_for(34), b.steps_for(35)), (Some(34), 10, 11));
        // 40 samples at a time pass over sizes: after one update of 2 nothing of the ramp is left.
        let b = Batches::growing(Ramp { from: 2, by: 2, samples: 2 }, 8).unwrap();
        assert_eq!(b.runs(0..3).collect::<Vec<_>>(), [(2, 1), (8, 2)]);
    }

    #[test]
    fn a_fixed_batch_has_one_stage_and_what_cannot_be_counted_is_none() {
        let b = Batches::fixed(8);
        assert_eq!((b.at(1 << 40), b.samples(5), b.steps_for(40), b.steps_for(41)), (8, Some(40), 5, 6));
        assert_eq!(b.runs(3..10).collect::<Vec<_>>(), [(8, 7)]);
        assert_eq!(b.samples(u64::MAX), None);
        let long = Ramp { from: 1, by: 1, samples: 1 << 62 };
        let b = Batches::growing(long, 4097).unwrap();
        assert_eq!((b.at(0), b.at(u64::MAX)), (1, 4097));
    }

    #[test]
    fn a_ramp_that_leads_nowhere_is_refused_with_what_would_work() {
        let refused = |from, by, full| Batches::growing(Ramp { from, by, samples: 100 }, full).unwrap_err();
        assert_eq!(refused(8, 4, 8).0, "from");
        let (key, _, remedy) = refused(4, 8, 16);
        assert_eq!((key, &remedy[..]), ("by", "give a divisor of 12, or set global_batch to 12 or 20"));
        assert_eq!(refused(4, 8, 8).2, "give a divisor of 4, or set global_batch to 12");
        assert!(refused(1, 1, 5001).2.contains("give 2 or more"));
    }
}
