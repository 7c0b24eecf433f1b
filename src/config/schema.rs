//! Every key of a run file: what it takes, what it is when absent, what it means. `keys` refuses what is not here,
//! `reference` prints it, and tests hold the readers to it.

mod grow;
mod model;
mod numerics;
mod run;
mod salt;
mod train;

use super::read;
use std::ops::RangeInclusive;

pub struct Table {
    /// `*` stands for a name the user gives or the number of a list entry; "" is the top of the file.
    pub path: &'static str,
    /// How its head is written in a file.
    pub head: &'static str,
    pub about: &'static str,
    pub keys: &'static [Key],
}

pub struct Key {
    pub name: &'static str,
    pub takes: Takes,
    pub absent: Absent,
    pub about: &'static str,
}

pub enum Takes {
    /// A table with keys of its own.
    Table,
    /// `[[key]]`, or a list of `{ }`.
    Tables,
    /// A list of other things; what they are.
    List(&'static str),
    Bool,
    /// A whole number between these.
    Whole(u64, u64),
    /// A number; in words, which.
    Number(&'static str),
    /// A string; in words, which.
    Text(&'static str),
    /// One of these strings.
    Words(fn() -> Vec<&'static str>),
}

/// What a key is that the file leaves out.
pub enum Absent {
    Required,
    /// The same as this value, in TOML.
    Is(&'static str),
    /// In words.
    Means(&'static str),
}

impl Takes {
    /// What the key takes, in the words of the reader that refuses anything else.
    pub fn wants(&self) -> String {
        match self {
            Takes::Table => "a table".into(),
            Takes::Tables => "a list of tables".into(),
            Takes::List(what) => what.to_string(),
            Takes::Bool => "true or false".into(),
            Takes::Whole(low, u64::MAX) => format!("a whole number of at least {low}"),
            Takes::Whole(low, high) => format!("a whole number from {low} to {high}"),
            Takes::Number(wants) | Takes::Text(wants) => wants.to_string(),
            Takes::Words(words) => words().join(", "),
        }
    }
}

const fn need(name: &'static str, takes: Takes, about: &'static str) -> Key {
    Key { name, takes, absent: Absent::Required, about }
}

const fn key(name: &'static str, takes: Takes, default: &'static str, about: &'static str) -> Key {
    Key { name, takes, absent: Absent::Is(default), about }
}

const fn may(name: &'static str, takes: Takes, absent: &'static str, about: &'static str) -> Key {
    Key { name, takes, absent: Absent::Means(absent), about }
}

const fn size(max: usize) -> Takes {
    Takes::Whole(1, max as u64)
}

const fn sizes(range: &RangeInclusive<usize>) -> Takes {
    Takes::Whole(*range.start() as u64, *range.end() as u64)
}

const fn whole(range: &RangeInclusive<u64>) -> Takes {
    Takes::Whole(*range.start(), *range.end())
}

fn words<T>(list: &[(&'static str, T)]) -> Vec<&'static str> {
    list.iter().map(|(word, _)| *word).collect()
}

const CADENCE: Takes = Takes::Text("a string such as \"500 steps\" or \"20 min\"");
const Z_LOSS: Takes = Takes::Number("a number from 0 to 1, such as 1e-4");
const DECAY: Takes = Takes::Number("a number from 0 to 1");
const SHARE: &str = "a share of at least 0 and less than 1";
const ATTENTION: Takes = Takes::Words(|| words(read::ATTENTION));
const PRECISION: Takes = Takes::Words(|| words(read::PRECISIONS));

const EVALUATION: &[Key] = &[
    need(
        "on",
        Takes::List("corpora as in [\"web:heldout\"]"),
        "`NAME:heldout` is what `holdout` (or the second share of `split`) keeps out of training, `NAME` all of a corpus.",
    ),
    key("every", CADENCE, "\"500 steps\"", "How often, besides the end of each phase."),
    key("tokens", whole(&read::TOKENS), "1_000_000", "Predictions scored on each corpus at most."),
    key(
        "weights",
        Takes::Words(|| words(read::EVAL_WEIGHTS)),
        "\"trained\"",
        "The weights as they are, or their moving average of `optim.ema`.",
    ),
];

/// In the order of a run file.
pub const TABLES: &[Table] = &[
    run::TOP,
    run::EVAL,
    run::CHECKPOINT,
    run::RUN,
    model::MODEL,
    model::MODEL_ROPE,
    model::MODEL_ROPE_SCALING,
    run::DATA,
    run::PARALLEL,
    train::OPTIM,
    train::OPTIM_ADAMW,
    train::OPTIM_ADAM,
    train::OPTIM_SGD,
    train::OPTIM_MUON,
    train::OPTIM_MUON_ADAMW,
    train::OPTIM_EMA,
    train::OPTIM_GROUP,
    numerics::NUMERICS,
    train::PHASE,
    train::PHASE_RAMP,
    train::PHASE_EVAL,
    train::PHASE_SPDF,
    salt::SALT,
    salt::WEIGHT,
    grow::PHASE_GROW,
    grow::PHASE_GROW_TO,
    train::PHASE_LR,
];
