//! Where a run is: its four clocks, kept apart. The optimizer's own t lives in `Optimizer`.

use super::corpora;
use crate::config::{PhaseConfig, RunConfig};

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Position {
    /// Updates made since the run began; never goes back.
    pub update: u64,
    pub phase: usize,
    /// Updates made in this phase.
    pub phase_step: u64,
}

impl Position {
    /// Sequences that the data cursor has passed.
    pub fn sample(&self, config: &RunConfig) -> u64 {
        let Some(phase) = config.phases.get(self.phase) else { return 0 };
        corpora::first_sample(config, self.phase) + phase.samples(self.phase_step)
    }
    /// Updates on the schedule's clock.
    pub fn schedule(&self, config: &RunConfig) -> u64 {
        config.phases.get(self.phase).map_or(0, |p| p.lr_first + self.phase_step)
    }
    /// Tokens trained on when the run is here.
    pub fn tokens(&self, config: &RunConfig) -> u64 {
        let of = |p: &PhaseConfig, steps: u64| p.samples(steps) * p.seq_len as u64;
        let before: u64 = config.phases.iter().take(self.phase).map(|p| of(p, p.steps)).sum();
        before + config.phases.get(self.phase).map_or(0, |p| of(p, self.phase_step))
    }
    /// The same moment, with the end of a phase written as the beginning of the next.
    pub fn normalised(mut self, config: &RunConfig) -> Position {
        while config.phases.get(self.phase).is_some_and(|p| self.phase_step >= p.steps) {
            self = Position { phase: self.phase + 1, phase_step: 0, ..self };
        }
        self
    }
    pub fn total_steps(config: &RunConfig) -> u64 {
        config.phases.iter().map(|p| p.steps).sum()
    }
    pub fn total_tokens(config: &RunConfig) -> u64 {
        config.phases.iter().map(|p| p.all_samples() * p.seq_len as u64).sum()
    }
}
