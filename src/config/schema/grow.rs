//! `grow` of a phase.

use super::{Key, Table, Takes, key, may, need, words};
use crate::config::grow::{DEPTHS, LIMITS, WIDTHS};

pub(super) const PHASE_GROW: Table = Table {
    path: "phase.*.grow",
    head: "grow = { .. }",
    about: "Growth (bert2BERT, arXiv 2110.07143; LEMON, arXiv 2310.07999; G_stack, arXiv 2405.15319): the phase begins with a \
            larger network made of that of the phase before, on any topology, from the checkpoint in between. Not in the first \
            phase. With `optimizer = \"keep\"` moments follow the gradients of copies; \"reset\" is the default here.",
    keys: &[
        need("to", Takes::Table, "The sizes that change."),
        key(
            "width",
            Takes::Words(|| words(WIDTHS)),
            "\"zero_pad\"",
            "\"zero_pad\" and \"tile\" keep what the network computes; \"fpi\" does for multiples of dim, \"aki\" does not.",
        ),
        key(
            "depth",
            Takes::Words(|| words(DEPTHS)),
            "\"identity\"",
            "\"identity\" keeps what the network computes; \"stack\" (G_stack) and \"interpolate\" repeat blocks.",
        ),
        may("seed", Takes::Whole(0, i64::MAX as u64), "`run.seed`", "Of what is new and of random maps."),
    ],
};

pub(super) const PHASE_GROW_TO: Table = Table {
    path: "phase.*.grow.to",
    head: "to = { .. }",
    about: "Sizes of the larger network; docs/grow.md says which are reached.",
    keys: &[
        to("layers", 0, "Blocks."),
        to("dim", 1, "Channels of the residual stream."),
        to("heads", 2, "Query heads; groups of a kv head grow from within."),
        Key {
            absent: super::Absent::Means("`heads`, if every head had its own; else as before"),
            ..to("kv_heads", 3, "Key-value heads.")
        },
        to("head_dim", 4, "Channels of a head; with rotary positions a multiple."),
        to("ffn_dim", 5, "Units of the MLP."),
        to("vocab", 6, "Entries; new ones get initial values."),
    ],
};

const fn to(name: &'static str, limit: usize, about: &'static str) -> Key {
    may(name, Takes::Whole(1, LIMITS[limit] as u64), "as before", about)
}
