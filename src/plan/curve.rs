//! The learning rate over a run: sampled for a plot, and exactly at the ends of segments.

use crate::config::{PhaseConfig, RunConfig};
use crate::train::position::Position;
use serde::Serialize;

/// The rate of an update of the run, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Point {
    pub update: u64,
    pub lr: f64,
}

/// Columns of the plot.
pub const WIDTH: u64 = 60;
const ROWS: usize = 5;

/// The first update of a phase that begins after `before` updates, the last of each segment, and its own last.
pub fn boundaries(phase: &PhaseConfig, before: u64) -> Vec<Point> {
    let ends = phase.lr.ends().iter().map(|end| end.saturating_sub(phase.lr_first));
    let mut steps: Vec<u64> = ends.filter(|end| (1..phase.steps).contains(end)).collect();
    steps.extend([1, phase.steps]);
    steps.sort_unstable();
    steps.dedup();
    steps.into_iter().map(|n| Point { update: before + n, lr: phase.lr_at(n - 1) }).collect()
}

/// At most `WIDTH` rates over all updates, each of the middle of its column.
pub fn sample(config: &RunConfig) -> Vec<f64> {
    let total = Position::total_steps(config);
    let columns = total.min(WIDTH);
    let at = |column: u64| {
        let mut step = ((2 * column + 1) as u128 * total as u128 / (2 * columns) as u128) as u64;
        for phase in &config.phases {
            if step < phase.steps {
                return phase.lr_at(step);
            }
            step -= phase.steps;
        }
        0.0
    };
    (0..columns).map(at).collect()
}

/// Lines of bars from the top down, the highest value as high as the plot.
pub fn bars(values: &[f64]) -> Vec<String> {
    const EIGHTHS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = values.iter().copied().fold(0.0, f64::max);
    let height = |v: f64| if most > 0.0 { (v / most * (8 * ROWS) as f64).round() as usize } else { 0 };
    let row = |row: usize| {
        let cell = |v: &f64| EIGHTHS[height(*v).saturating_sub(8 * row).min(8)];
        values.iter().map(cell).collect::<String>().trim_end().to_string()
    };
    (0..ROWS).rev().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_high_as_their_share_of_the_largest() {
        assert_eq!(bars(&[0.0, 0.2, 0.5, 1.0]), ["   █", "   █", "  ▄█", "  ██", " ███"]);
        assert_eq!(bars(&[0.0, 0.0]), [""; 5]);
    }
}
