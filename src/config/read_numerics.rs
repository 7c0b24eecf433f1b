//! `[numerics]`: what happens to updates that go wrong.

use super::read::every;
use super::run::{Every, NumericsConfig, OnFault};
use super::table::Table;
use crate::Result;
use std::ops::RangeInclusive;

pub(super) const ON_FAULT: &[(&str, OnFault)] = &[("stop", OnFault::Stop), ("skip", OnFault::Skip)];
pub(super) const ON_SPIKE: &[(&str, Option<OnFault>)] =
    &[("off", None), ("stop", Some(OnFault::Stop)), ("skip", Some(OnFault::Skip))];
pub(super) const WINDOW: RangeInclusive<usize> = 2..=1 << 16;
pub(super) const MAX_SKIPS: RangeInclusive<usize> = 1..=1 << 20;
pub(super) const REPLAYS: RangeInclusive<usize> = 0..=1 << 10;

pub(super) fn numerics(t: &Table) -> Result<NumericsConfig> {
    let compare_replicas = match every(t, "compare_replicas")? {
        Some(Every::Minutes(_)) => {
            return Err(t.error(
                "compare_replicas",
                "comparisons are counted in steps",
                "give it like \"500 steps\"",
            ));
        }
        Some(Every::Steps(n)) => Some(n),
        None => None,
    };
    Ok(NumericsConfig {
        nonfinite: t.choice("nonfinite", ON_FAULT)?.unwrap_or(OnFault::Stop),
        spike: t.choice("spike", ON_SPIKE)?.unwrap_or(None),
        sigma: t.float("sigma", "a number > 0", |x| x > 0.0)?.unwrap_or(6.0),
        window: t.usize("window", WINDOW)?.unwrap_or(128),
        max_skips: t.usize("max_skips", MAX_SKIPS)?.unwrap_or(10),
        replays: t.usize("replays", REPLAYS)?.unwrap_or(2),
        compare_replicas,
    })
}
