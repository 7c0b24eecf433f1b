//! Whether an update goes wrong, by its loss and gradient norm and those of the updates before it. All ranks have the
//! same numbers from the vote of the step, so all decide alike without another word.

use crate::config::{NumericsConfig, OnFault, PhaseConfig};
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// What a run remembers of its updates in order to judge the next; a part of its checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Numbers {
    /// Loss and gradient norm of the last updates of the phase that were made, the oldest first; empty unless spikes are
    /// looked for.
    recent: VecDeque<[f64; 2]>,
    /// Updates skipped since the last that was made.
    skipped: usize,
    /// In this phase the student has passed its teacher, who has gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub passed_teacher: bool,
}

/// What is wrong with an update.
#[derive(Clone, Debug, PartialEq)]
pub struct Fault {
    pub what: String,
    /// Whether it ends the run.
    pub stops: bool,
}

impl Numbers {
    pub fn judge(&self, policy: &NumericsConfig, loss: f64, norm: f64) -> Option<Fault> {
        let (what, on) = match finite(loss, norm) {
            Err(what) => (what, policy.nonfinite),
            Ok(()) => (self.spike(policy, loss, norm)?, policy.spike?),
        };
        let stops = on == OnFault::Stop || self.skipped >= policy.max_skips;
        let before = match (on, self.skipped) {
            (OnFault::Skip, n) if stops => format!(", after {n} that were skipped (numerics.max_skips)"),
            _ => String::new(),
        };
        Some(Fault { what: what + &before, stops })
    }

    fn spike(&self, policy: &NumericsConfig, loss: f64, norm: f64) -> Option<String> {
        policy.spike?;
        if self.recent.len() < policy.window {
            return None;
        }
        ["loss", "gradient norm"].into_iter().zip([loss, norm]).enumerate().find_map(|(i, (name, x))| {
            let n = self.recent.len() as f64;
            let mean = self.recent.iter().map(|r| r[i]).sum::<f64>() / n;
            let deviation = (self.recent.iter().map(|r| (r[i] - mean).powi(2)).sum::<f64>() / n).sqrt();
            // Equal values have no deviation, and rounding is no spike.
            let bound = mean + policy.sigma * deviation.max(1e-9 * mean.abs());
            (x > bound).then(|| {
                format!(
                    "{name} {x:.6e} is above {bound:.6e}, mean {mean:.6e} + {} sigma of the last {n}",
                    policy.sigma
                )
            })
        })
    }

    /// An update was made.
    pub fn made(&mut self, policy: &NumericsConfig, loss: f64, norm: f64) {
        self.skipped = 0;
        if policy.spike.is_some() {
            self.recent.push_back([loss, norm]);
            while self.recent.len() > policy.window {
                self.recent.pop_front();
            }
        }
    }

    pub fn skipped(&mut self) {
        self.skipped += 1;
    }

    /// Another phase has other losses.
    pub fn begin_phase(&mut self) {
        self.recent.clear();
        self.passed_teacher = false;
    }

    /// ω of an update of a phase: none of a teacher who has gone.
    pub fn teachers_share(&self, phase: &PhaseConfig, step: u64) -> f64 {
        if self.passed_teacher { 0.0 } else { phase.teacher_at(step) }
    }

    /// As checkpoints note it; null if there is nothing to note.
    pub fn note(&self) -> serde_json::Value {
        match *self == Numbers::default() {
            true => serde_json::Value::Null,
            false => serde_json::to_value(self).expect("numbers"),
        }
    }

    pub fn from_note(note: &serde_json::Value) -> Result<Numbers, String> {
        match note.is_null() {
            true => Ok(Numbers::default()),
            false => Numbers::deserialize(note).map_err(|e| e.to_string()),
        }
    }
}

/// Refuses what cannot be trained on.
pub fn finite(loss: f64, norm: f64) -> Result<(), String> {
    match loss.is_finite() && norm.is_finite() {
        true => Ok(()),
        false => Err(format!("loss {loss}, gradient norm {norm}")),
    }
}

/// The end of a run at an update that was not made.
pub fn error(step: u64, problem: String) -> Error {
    Error::Numerics {
        step,
        problem,
        remedy: "nothing was updated; look at it with --replay, go on without such updates (numerics.nonfinite or spike = \
                 \"skip\"), or start a new run.dir with init = \"ckpt:RUN\" and a lower lr"
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(nonfinite: OnFault, spike: Option<OnFault>) -> NumericsConfig {
        NumericsConfig {
            nonfinite,
            spike,
            sigma: 3.0,
            window: 4,
            max_skips: 2,
            replays: 0,
            compare_replicas: None,
        }
    }

    #[test]
    fn what_is_not_finite_is_a_fault_by_either_number() {
        let skip = policy(OnFault::Skip, None);
        let n = Numbers::default();
        assert_eq!(n.judge(&skip, 1.0, 2.0), None);
        for (loss, norm) in [(f64::NAN, 1.0), (1.0, f64::INFINITY), (f64::NEG_INFINITY, f64::NAN)] {
            let fault = n.judge(&skip, loss, norm).unwrap();
            assert_eq!(fault, Fault { what: format!("loss {loss}, gradient norm {norm}"), stops: false });
            assert!(n.judge(&policy(OnFault::Stop, None), loss, norm).unwrap().stops);
        }
    }

    #[test]
    fn a_spike_is_above_mean_and_sigma_of_a_full_window_only() {
        let p = policy(OnFault::Stop, Some(OnFault::Skip));
        let mut n = Numbers::default();
        // Losses 1, 2, 3, 4 have mean 2.5 and deviation √1.25: the bound is 5.854.
        for loss in [1.0, 2.0, 3.0, 4.0] {
            assert_eq!(n.judge(&p, 100.0, 100.0), None, "the window is not full");
            n.made(&p, loss, 1.0);
        }
        assert_eq!(n.judge(&p, 5.85, 1.0), None);
        let fault = n.judge(&p, 5.86, 1.0).unwrap();
        assert!(fault.what.starts_with("loss 5.86") && !fault.stops, "{fault:?}");
        assert!(n.judge(&p, 1.0, 1.001).unwrap().what.starts_with("gradient norm"));
        assert_eq!(n.judge(&p, -100.0, 1.0 + 1e-10), None, "rounding of equal norms");
        assert_eq!(n.judge(&policy(OnFault::Stop, None), 1e9, 1.0), None, "off");
        let again = Numbers::from_note(&n.note()).unwrap();
        assert_eq!(again, n);
        n.begin_phase();
        assert_eq!(n.judge(&p, 1e9, 1.0), None);
        assert_eq!(Numbers::default().note(), serde_json::Value::Null);
    }

    #[test]
    fn so_many_skips_in_a_row_end_the_run_and_an_update_that_is_made_begins_anew() {
        let p = policy(OnFault::Skip, None);
        let mut n = Numbers::default();
        for _ in 0..2 {
            assert!(!n.judge(&p, f64::NAN, 1.0).unwrap().stops);
            n.skipped();
        }
        let fault = n.judge(&p, f64::NAN, 1.0).unwrap();
        assert!(fault.stops && fault.what.contains("after 2 that were skipped"), "{fault:?}");
        n.made(&p, 1.0, 1.0);
        assert!(!n.judge(&p, f64::NAN, 1.0).unwrap().stops);
    }
}
