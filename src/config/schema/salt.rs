//! `phase.*.salt`.

use super::super::{read_phase, salt};
use super::{Table, Takes, key, may, need, whole, words};

pub(super) const SALT: Table = Table {
    path: "phase.*.salt",
    head: "salt = { .. }",
    about: "A small model guides the training (SALT, arXiv 2410.18779), or any other model with the same vocabulary: a share ω of \
            the loss of each token compares with the distribution of the teacher, which runs beside, and is freed when it has no \
            share any more. A teacher that keeps its share to the end is plain distillation.",
    keys: &[
        may(
            "teacher",
            Takes::Text("\"ckpt:PATH\", \"ckpt:PATH@STEP\", \"ema:PATH\", \"ema:PATH@STEP\" or \"hf:DIR\""),
            "required",
            "Its weights, as in `run.init`. Without a step those of the newest checkpoint as the run begins.",
        ),
        may(
            "weight",
            Takes::Tables,
            "required",
            "ω over the updates of the phase; \"current\" is 0 at its beginning.",
        ),
        key(
            "loss",
            Takes::Words(|| words(salt::LOSS)),
            "\"kd\"",
            "`kd`: cross-entropy of the student under the teacher's distribution. `rkl`: KL divergence of the student from it. \
             `js`: Jensen-Shannon divergence.",
        ),
        key(
            "temperature",
            Takes::Number("a number from 0.01 to 100"),
            "1.0",
            "Of the teacher's distribution: below 1 sharper. The student's is 1.",
        ),
        key(
            "until",
            Takes::Words(|| words(salt::UNTIL)),
            "\"weight\"",
            "When the teacher goes: with its share, or before that, when an evaluation of the phase finds the student's loss below \
             the teacher's (`passed`).",
        ),
        may(
            "margin",
            Takes::Number("a number from -10 to 10"),
            "0.0",
            "Nats per token that the student's loss may lie above the teacher's when it has passed it.",
        ),
        key(
            "source",
            Takes::Text("\"live\""),
            "\"live\"",
            "Where its distributions come from: it runs beside the student.",
        ),
    ],
};

pub(super) const WEIGHT: Table = Table {
    path: "phase.*.salt.weight.*",
    head: "weight = [{ .. }, ..]",
    about: "A segment of the teacher's share, shaped as one of `lr` is.",
    keys: &[
        need("kind", Takes::Words(|| words(read_phase::KINDS)), "The shape."),
        may(
            "from",
            Takes::Number("a share from 0 to 1"),
            "\"current\", the share before it; at the beginning of the phase 0",
            "a; `const` has none.",
        ),
        may(
            "to",
            Takes::Number("a share from 0 to 1"),
            "required, but `const` holds the share before it",
            "z.",
        ),
        may(
            "frac",
            Takes::Number("a share > 0 and at most 1"),
            "see `steps`",
            "Length as a share of the phase.",
        ),
        may(
            "steps",
            whole(&read_phase::STEPS),
            "the rest, for the last segment",
            "Length in updates, instead of `frac`.",
        ),
    ],
};
