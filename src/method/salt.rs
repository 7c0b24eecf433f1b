//! SALT (a small model guides the training of a large one, arXiv 2410.18779): what a teacher costs.
//!
//! A forward of the teacher is 2·N_T FLOPs a token beside the student's 6·N_S, a share N_T/(3·N_S) while it teaches; the
//! attention of both counts here too.

use super::ledger::Both;
use crate::config::{ModelConfig, PhaseConfig};
use serde::Serialize;

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Costs {
    /// FLOPs of a token of the teacher's forward.
    pub teacher: Both,
    /// Beyond the student's, as a share of it, with attention over all pairs: of an update that is taught, and of all updates of
    /// the phase.
    pub while_taught: f64,
    pub of_phase: f64,
}

impl Costs {
    pub fn new(teacher: &ModelConfig, student: &ModelConfig, phase: &PhaseConfig) -> Costs {
        let seq_len = phase.seq_len;
        let forward = |causal| teacher.flops_per_token(seq_len, causal) / 3.0;
        let while_taught = forward(false) / student.flops_per_token(seq_len, false);
        let taught = phase.salt.as_ref().map_or(0, |salt| phase.samples(salt.ends()));
        let share = taught as f64 / phase.all_samples() as f64;
        let teacher = Both { full: forward(false), causal: forward(true) };
        Costs { teacher, while_taught, of_phase: while_taught * share }
    }
}

/// What a run costs that is taught in its first `taught` of `steps` updates and stops after `stop`, as a share of one of all
/// `steps` without a teacher. `while_taught`: what the teacher adds to an update, as a share of it.
pub fn stopped_early(while_taught: f64, taught: u64, steps: u64, stop: u64) -> f64 {
    (stop as f64 + while_taught * taught.min(stop) as f64) / steps as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes and steps that the paper gives, counted as it counts: 2 and 6 FLOPs a parameter.
    #[test]
    fn k7_a_teacher_costs_what_follows_from_the_papers_numbers() {
        let close = |got: f64, want: f64| assert!((got - want).abs() < 5e-4, "{got}, not {want}");
        let overhead = |teacher: f64, student: f64| teacher / (3.0 * student);
        close(overhead(1.5, 2.8), 0.179);
        close(overhead(2.8, 8.6), 0.109);
        close(stopped_early(overhead(1.5, 2.8), 36, 208, 208), 1.031);
        close(stopped_early(overhead(2.8, 8.6), 36, 208, 208), 1.019);
        close(1.0 - stopped_early(overhead(1.5, 2.8), 36, 208, 146), 0.267);
        close(1.0 - stopped_early(overhead(2.8, 8.6), 36, 208, 146), 0.279);
    }
}
