//! A curve thinned to what a chart can show: per bucket of steps the mean, and the least and largest, so that a
//! spike of one step in a million stays visible.

use super::read::{Run, Step};

/// Buckets of a curve.
const POINTS: usize = 400;

/// What a run is plotted over.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Axis {
    Tokens,
    Flops,
    Time,
}

impl Axis {
    pub const ALL: [Axis; 3] = [Axis::Tokens, Axis::Flops, Axis::Time];

    pub fn id(self) -> &'static str {
        match self {
            Axis::Tokens => "tokens",
            Axis::Flops => "flops",
            Axis::Time => "time",
        }
    }
    pub fn title(self) -> &'static str {
        match self {
            Axis::Tokens => "tokens",
            Axis::Flops => "FLOPs",
            Axis::Time => "time",
        }
    }
    pub fn of(self, step: &Step) -> f64 {
        match self {
            Axis::Tokens => step.tokens,
            Axis::Flops => step.flops,
            Axis::Time => step.seconds,
        }
    }
    /// Where a phase that begins after `step` updates begins.
    pub fn at(self, run: &Run, step: u64) -> f64 {
        let before = run.steps.partition_point(|s| s.step <= step);
        before.checked_sub(1).map_or(0.0, |i| self.of(&run.steps[i]))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    pub x: f64,
    pub mean: f64,
    pub least: f64,
    pub most: f64,
}

/// The value under `key` of each step. Steps without a finite one leave no point.
pub fn of(run: &Run, key: &str, axis: Axis) -> Vec<Point> {
    let known: Vec<(f64, f64)> =
        run.steps.iter().filter_map(|s| Some((axis.of(s), s.number(key)?))).collect();
    let each = known.len().div_ceil(POINTS).max(1);
    known.chunks(each).map(bucket).collect()
}

fn bucket(steps: &[(f64, f64)]) -> Point {
    let mean = steps.iter().map(|s| s.1).sum::<f64>() / steps.len() as f64;
    let (least, most) = steps.iter().fold((f64::MAX, f64::MIN), |(a, b), s| (a.min(s.1), b.max(s.1)));
    Point { x: steps[steps.len() - 1].0, mean, least, most }
}

/// The middle value of `key`, over all steps but the first tenth.
pub fn median(run: &Run, key: &str) -> Option<f64> {
    let settled = &run.steps[run.steps.len() / 10..];
    let mut values: Vec<f64> = settled.iter().filter_map(|s| s.number(key)).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}
