//! Keys of what happens to updates that go wrong.

use super::{CADENCE, Table, Takes, key, may, sizes, words};
use crate::config::read_numerics::{self, MAX_SKIPS, REPLAYS, WINDOW};

pub(super) const NUMERICS: Table = Table {
    path: "numerics",
    head: "[numerics]",
    about: "All ranks decide alike, by the loss and the gradient norm of the whole update. A resume may change these keys. \
            [faults.md](faults.md) explains them.",
    keys: &[
        key(
            "nonfinite",
            Takes::Words(|| words(read_numerics::ON_FAULT)),
            "\"stop\"",
            "An update whose loss or gradient norm is not finite: the run ends before it (exit code 6), or goes on without it.",
        ),
        key(
            "spike",
            Takes::Words(|| words(read_numerics::ON_SPIKE)),
            "\"off\"",
            "The same for one whose loss or gradient norm is above mean + `sigma` · standard deviation of the `window` updates before it.",
        ),
        key("sigma", Takes::Number("a number > 0"), "6.0", "How far above the mean a spike begins."),
        key(
            "window",
            sizes(&WINDOW),
            "128",
            "Updates that mean and deviation are of; a phase begins without, and has no spikes until it is full.",
        ),
        key(
            "max_skips",
            sizes(&MAX_SKIPS),
            "10",
            "Updates skipped one after the other; at the next the run ends.",
        ),
        key(
            "replays",
            sizes(&REPLAYS),
            "2",
            "Updates that went wrong of which the run keeps a checkpoint and a file for `train --replay`.",
        ),
        may(
            "compare_replicas",
            CADENCE,
            "never",
            "How often (in steps) the ranks compare checksums of the weights and states that they hold alike.",
        ),
    ],
};
