//! SPDF as a phase gives it: which weights are zero and stay zero (sparse pre-training and dense fine-tuning, arXiv 2303.10464).

use super::glob;
use super::muon::{MATRICES, is_matrix_of_block};
use super::table::Table;
use crate::Result;

const WANTS_PATTERN: &str =
    "\"unstructured\", \"2:4\", or \"block:16\", \"block:32\", \"block:64\", \"block:128\"";
const WANTS_SPARSITY: &str = "a number of at least 0 and less than 1";

#[derive(Clone, Debug, PartialEq)]
pub struct Spdf {
    /// Patterns of names; by default the matrices of blocks, which the paper's configurations sparsify.
    pub matches: Vec<String>,
    pub pattern: Pattern,
    /// Share of zeros in each matching tensor; of blocks the nearest whole number of each line.
    pub sparsity: f64,
    /// Of the masks; the same seed, name and sparsity is the same mask.
    pub seed: u64,
}

/// Where the zeros are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// Anywhere, uniformly at random: exactly ⌊sparsity · n⌋ of each tensor.
    Unstructured,
    /// Two at random of every four neighbours in a row.
    TwoOfFour,
    /// Whole blocks of so many rows and columns at random: equally many of each row (or, where the matrix is split over tp
    /// by columns, each column) of blocks. Only the others are stored.
    Block(usize),
}

impl Pattern {
    pub const fn name(self) -> &'static str {
        match self {
            Pattern::Unstructured => "unstructured",
            Pattern::TwoOfFour => "2:4",
            Pattern::Block(16) => "block:16",
            Pattern::Block(32) => "block:32",
            Pattern::Block(64) => "block:64",
            Pattern::Block(_) => "block:128",
        }
    }
    /// The size of blocks.
    pub const fn block(self) -> Option<usize> {
        match self {
            Pattern::Block(size) => Some(size),
            Pattern::Unstructured | Pattern::TwoOfFour => None,
        }
    }
}

impl Spdf {
    pub fn covers(&self, name: &str) -> bool {
        self.matches.iter().any(|pattern| glob::matches(pattern, name))
    }

    /// Zeros of a tensor of so many values: ⌊sparsity · n⌋, a product that misses a whole number by rounding counting as it.
    pub fn zeros(&self, values: u64) -> u64 {
        (self.sparsity * values as f64 + 1e-6).floor() as u64
    }

    /// Why it cannot be had for these parameters (name, rows, columns; a vector has one column), and what would help.
    pub fn problem(&self, params: &[(&str, usize, usize)]) -> Option<(&'static str, String, String)> {
        for pattern in &self.matches {
            let fits: Vec<_> = params.iter().filter(|p| glob::matches(pattern, p.0)).collect();
            if fits.is_empty() {
                let first = params.iter().find(|p| p.2 > 1).map_or("blocks.0.attn.q.weight", |p| p.0);
                let problem = format!("no parameter is called like {pattern}");
                return Some(("match", problem, format!("names look like {first}")));
            }
            if let Some((name, ..)) = fits.iter().find(|p| p.2 == 1) {
                let remedy = "name matrices only; norms and biases stay dense";
                return Some(("match", format!("{pattern} fits the vector {name}"), remedy.into()));
            }
        }
        let mut own = params.iter().filter(|p| self.covers(p.0));
        match self.pattern {
            Pattern::Unstructured => None,
            Pattern::Block(_) => own.find_map(|p| self.block_problem(p.0, params)),
            Pattern::TwoOfFour => {
                let (name, _, cols) = own.find(|p| !p.2.is_multiple_of(4))?;
                let problem = format!("2:4 for {name}, whose {cols} columns are no multiple of 4");
                Some(("pattern", problem, "leave it out with `match`, or use \"unstructured\"".into()))
            }
        }
    }
}

/// Matrices that are stored one below the other, and multiplied as one.
const TOGETHER: [&[&str]; 2] =
    [&["attn.q.weight", "attn.k.weight", "attn.v.weight"], &["mlp.gate.weight", "mlp.up.weight"]];

impl Spdf {
    /// Why this tensor cannot be stored as blocks, whatever their size.
    fn block_problem(
        &self,
        name: &str,
        params: &[(&str, usize, usize)],
    ) -> Option<(&'static str, String, String)> {
        if !is_matrix_of_block(name) {
            let problem = format!("blocks for {name}, which is no matrix of a block");
            return Some((
                "match",
                problem,
                "name attn and mlp matrices only, or use \"unstructured\"".into(),
            ));
        }
        let group = TOGETHER.iter().find(|group| group.iter().any(|end| name.ends_with(end)))?;
        let (start, _) = name.split_at(name.find(".attn.").or(name.find(".mlp."))? + 1);
        let left = group
            .iter()
            .map(|end| format!("{start}{end}"))
            .find(|other| params.iter().any(|p| p.0 == other.as_str()) && !self.covers(other))?;
        let problem = format!("blocks for {name} and not for {left}, which is stored with it");
        Some(("match", problem, "name both or neither".into()))
    }
}

/// `phase.spdf`; `seed` is the run's.
pub(super) fn read(t: &Table, seed: u64) -> Result<Spdf> {
    let pattern = match t.str("pattern", WANTS_PATTERN)? {
        None | Some("unstructured") => Pattern::Unstructured,
        Some("2:4") => Pattern::TwoOfFour,
        Some("block:16") => Pattern::Block(16),
        Some("block:32") => Pattern::Block(32),
        Some("block:64") => Pattern::Block(64),
        Some("block:128") => Pattern::Block(128),
        Some(other) => {
            return Err(t.error(
                "pattern",
                format!("{other:?} is no pattern"),
                format!("give {WANTS_PATTERN}"),
            ));
        }
    };
    let sparsity = t.float("sparsity", WANTS_SPARSITY, |x| (0.0..1.0).contains(&x))?;
    let sparsity = match (pattern, sparsity) {
        (Pattern::Unstructured | Pattern::Block(_), None) => {
            return Err(t.missing("sparsity", "sparsity = 0.75"));
        }
        (Pattern::TwoOfFour, Some(s)) if s != 0.5 => {
            let problem = format!("{s} where 2:4 leaves one half");
            return Err(t.error("sparsity", problem, "leave it out, or use \"unstructured\""));
        }
        (_, s) => s.unwrap_or(0.5),
    };
    let matches = t.strs("match", "a list of patterns such as \"blocks.*.mlp.*.weight\"")?;
    let matches =
        matches.map_or(MATRICES.map(String::from).to_vec(), |m| m.into_iter().map(String::from).collect());
    if matches.is_empty() {
        return Err(t.error(
            "match",
            "the list is empty",
            "name matrices, or leave it out for those of blocks",
        ));
    }
    let seed = t.int("seed", 0..=i64::MAX as u64)?.unwrap_or(seed);
    Ok(Spdf { matches, pattern, sparsity, seed })
}

/// As the run file has it.
pub(super) fn text(s: &Spdf) -> String {
    let quoted = |s: &str| toml::Value::from(s).to_string();
    let matches: Vec<String> = s.matches.iter().map(|m| quoted(m)).collect();
    format!(
        "{{ match = [{}], pattern = {}, sparsity = {:?}, seed = {} }}",
        matches.join(", "),
        quoted(s.pattern.name()),
        s.sparsity,
        s.seed
    )
}
