//! How the values of a tensor are stored: all of them, or the kept blocks of a block-sparse matrix.
//!
//! A block-sparse matrix (rows, cols) is a grid of blocks (block, block). Stored are its kept blocks alone, as a plain
//! matrix (kept, block · block): a row is a block, row-major. Blocks follow one another line by line, where lines are the
//! rows of blocks if the matrix is split over tp by rows, the columns if it is split by columns. Each line keeps equally
//! many, so equal parts of the lines are equal parts of the stored rows: units, ZeRO, moments, norms, collectives and
//! checkpoints see a matrix like any other, and only products and conversions to the dense form know the grid.

use super::spec::{LocalBox, ParamSpec, Shard};
use crate::rng::Philox;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, OnceLock};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    #[default]
    Dense,
    BlockSparse(Grid),
}

impl Layout {
    pub fn is_dense(&self) -> bool {
        *self == Layout::Dense
    }
    pub fn grid(&self) -> Option<&Grid> {
        match self {
            Layout::Dense => None,
            Layout::BlockSparse(grid) => Some(grid),
        }
    }
}

/// Which blocks of a matrix are kept: a function of (seed, name, shape, block, kept of each line) alone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Grid {
    pub block: usize,
    /// Of the whole matrix.
    pub rows: usize,
    pub cols: usize,
    /// Lines are columns of blocks, not rows.
    pub by_columns: bool,
    /// Kept blocks of each line.
    pub each: usize,
    pub seed: u64,
    /// Found once: for each line its kept blocks, ascending.
    #[serde(skip)]
    kept: OnceLock<Arc<[u32]>>,
}

impl PartialEq for Grid {
    /// Equal grids of tensors of one name keep the same blocks.
    fn eq(&self, other: &Grid) -> bool {
        let facts = |g: &Grid| (g.block, g.rows, g.cols, g.by_columns, g.each, g.seed);
        facts(self) == facts(other)
    }
}

/// The sizes of blocks.
pub const BLOCKS: [usize; 4] = [16, 32, 64, 128];

impl Grid {
    /// Of a matrix whose sides are multiples of `block`, keeping a share of 1 − sparsity of each line: the nearest whole
    /// number, at least one block.
    pub fn new(rows: usize, cols: usize, by_columns: bool, block: usize, sparsity: f64, seed: u64) -> Grid {
        assert!(
            rows.is_multiple_of(block) && cols.is_multiple_of(block),
            "({rows}, {cols}) in blocks of {block}"
        );
        let across = if by_columns { rows } else { cols } / block;
        // A product that misses a half by rounding counts as it.
        let each = (((1.0 - sparsity) * across as f64 + 1e-9).round() as usize).clamp(1, across);
        Grid { block, rows, cols, by_columns, each, seed, kept: OnceLock::new() }
    }
    pub fn lines(&self) -> usize {
        if self.by_columns { self.cols / self.block } else { self.rows / self.block }
    }
    /// Blocks of a line, kept or not.
    pub fn across(&self) -> usize {
        if self.by_columns { self.rows / self.block } else { self.cols / self.block }
    }
    /// Stored blocks.
    pub fn blocks(&self) -> usize {
        self.lines() * self.each
    }
    /// The fewest and the most kept blocks at one place of all lines: equal where `lines · each / across` is whole.
    pub fn of_each_place(&self) -> (usize, usize) {
        (self.blocks() / self.across(), self.blocks().div_ceil(self.across()))
    }
    /// Whether the numbers fit together, as those of a file need not.
    pub fn is_sound(&self) -> bool {
        let divides = |n: usize| n > 0 && n.is_multiple_of(self.block);
        BLOCKS.contains(&self.block)
            && divides(self.rows)
            && divides(self.cols)
            && (1..=self.across()).contains(&self.each)
    }
    /// For each line the kept places, ascending: (lines · each).
    pub fn kept(&self, name: &str) -> Arc<[u32]> {
        self.kept
            .get_or_init(|| choose(self, &Philox::new(self.seed, &format!("blocks/{name}"))).into())
            .clone()
    }
    /// The row and column of blocks of stored block `i`.
    pub fn place(&self, kept: &[u32], i: usize) -> (usize, usize) {
        let (line, at) = (i / self.each, kept[i] as usize);
        if self.by_columns { (at, line) } else { (line, at) }
    }
}

/// Exchanges for each kept block: enough to forget where they began.
const EXCHANGES: usize = 8;

/// Begins with a regular pattern, in which places differ by one block at most, and exchanges places of random pairs of
/// blocks where each may have the other's: counts of lines and of places stay, and in the limit all patterns with these
/// counts are equally likely (the switch chain, Rao, Jana and Bandyopadhyay, 1996).
fn choose(grid: &Grid, stream: &Philox) -> Vec<u32> {
    let (lines, across, each) = (grid.lines(), grid.across(), grid.each);
    let kept = lines * each;
    // Block i at place i mod across: runs of `each` ≤ across are different places, and each place is met in turn.
    let mut places: Vec<u32> = (0..kept).map(|i| (i % across) as u32).collect();
    let mut has = vec![false; lines * across];
    places.iter().enumerate().for_each(|(i, &at)| has[i / each * across + at as usize] = true);
    let pick = |word: u32| ((u64::from(word) * kept as u64) >> 32) as usize;
    for pair in 0..(EXCHANGES * kept).div_ceil(2) {
        let words = stream.block(pair as u64, 0);
        for [a, b] in [[words[0], words[1]], [words[2], words[3]]] {
            let (a, b) = (pick(a), pick(b));
            let (line_a, line_b) = (a / each * across, b / each * across);
            let (at_a, at_b) = (places[a] as usize, places[b] as usize);
            if has[line_a + at_b] || has[line_b + at_a] {
                continue;
            }
            for (cell, now) in
                [(line_a + at_a, false), (line_a + at_b, true), (line_b + at_b, false), (line_b + at_a, true)]
            {
                has[cell] = now;
            }
            places.swap(a, b);
        }
    }
    places.chunks_exact_mut(each).for_each(<[u32]>::sort_unstable);
    places
}

impl ParamSpec {
    /// The same tensor with only some blocks stored. A matrix that is not split over tp has rows for lines.
    pub fn in_blocks(&self, block: usize, sparsity: f64, seed: u64) -> ParamSpec {
        let by_columns = matches!(self.shard, Shard::Cols { .. });
        let grid = Grid::new(self.rows, self.cols, by_columns, block, sparsity, seed);
        let each = grid.each;
        let shard = match self.shard {
            Shard::Replicated => Shard::Replicated,
            Shard::Rows { .. } | Shard::Cols { .. } => Shard::Rows { unit: each },
            // A head of several lines stays whole; a line of several heads is the unit.
            Shard::Heads { unit } if unit.is_multiple_of(block) => Shard::Heads { unit: unit / block * each },
            Shard::Heads { .. } => Shard::Heads { unit: each },
        };
        let (rows, cols) = (grid.blocks(), block * block);
        ParamSpec { rows, cols, shard, layout: Layout::BlockSparse(grid), ..self.clone() }
    }

    /// The matrix that a block-sparse one stands for, whole on each rank; any other tensor itself.
    pub fn dense(&self) -> ParamSpec {
        match &self.layout {
            Layout::Dense => self.clone(),
            Layout::BlockSparse(g) => ParamSpec {
                rows: g.rows,
                cols: g.cols,
                shard: Shard::Replicated,
                layout: Layout::Dense,
                ..self.clone()
            },
        }
    }

    /// Why rank after rank of a tp group of `size` cannot hold whole lines of blocks of this dense matrix.
    pub fn block_problem(&self, block: usize, size: usize) -> Option<String> {
        let LocalBox { rows, cols, .. } = self.local(0, size);
        let side = |what: &str, n: usize| {
            let parts = if size > 1 { format!(" of a rank of tp {size}") } else { String::new() };
            (!n.is_multiple_of(block)).then(|| {
                format!(
                    "blocks of {block} for {}, whose {n} {what}{parts} are no multiple of {block}",
                    self.name
                )
            })
        };
        side("rows", rows).or_else(|| side("columns", cols))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(grid: &Grid, kept: &[u32]) -> (Vec<usize>, Vec<usize>) {
        let (mut rows, mut cols) = (vec![0; grid.rows / grid.block], vec![0; grid.cols / grid.block]);
        for i in 0..grid.blocks() {
            let (r, c) = grid.place(kept, i);
            rows[r] += 1;
            cols[c] += 1;
        }
        (rows, cols)
    }

    /// S5
    #[test]
    fn each_row_and_column_of_blocks_keeps_equally_many_where_that_is_whole() {
        for (rows, cols, block, sparsity, of_row, of_col) in [
            (1024, 1024, 16, 0.75, 16, 16),
            (4096, 1024, 32, 0.75, 8, 32),
            (1024, 4096, 64, 0.9, 6, 2),
            (1024, 1024, 128, 0.5, 4, 4),
            (512, 512, 128, 0.0, 4, 4),
        ] {
            for by_columns in [false, true] {
                let grid = Grid::new(rows, cols, by_columns, block, sparsity, 3);
                let kept = grid.kept("w");
                assert!(kept.chunks(grid.each).all(|line| line.windows(2).all(|w| w[0] < w[1])));
                let (r, c) = counts(&grid, &kept);
                let even = |n: &[usize]| n.iter().max() == n.iter().min();
                assert!(even(if by_columns { &c } else { &r }), "{rows} x {cols}");
                let (least, most) = grid.of_each_place();
                assert!((if by_columns { &r } else { &c }).iter().all(|n| (least..=most).contains(n)));
                if sparsity != 0.9 {
                    assert!(r.iter().all(|n| *n == of_row) && c.iter().all(|n| *n == of_col), "{r:?} {c:?}");
                }
            }
        }
        // A tenth of 64 places is 6.4: six of each line, and 96 blocks at 64 places are one or two of each.
        let grid = Grid::new(1024, 4096, false, 64, 0.9, 3);
        assert_eq!((grid.each, grid.of_each_place()), (6, (1, 2)));
    }

    #[test]
    fn which_blocks_are_kept_follows_from_seed_name_and_shape_and_looks_random() {
        let grid = |seed| Grid::new(1024, 1024, false, 16, 0.75, seed);
        let kept = grid(1).kept("w");
        assert_eq!(kept, grid(1).kept("w"));
        let same = |other: &[u32]| {
            let both = kept.chunks(16).zip(other.chunks(16));
            both.map(|(a, b)| a.iter().filter(|x| b.contains(x)).count()).sum::<usize>() as f64
        };
        // Two independent quarters of 4096 share a sixteenth, give or take five standard deviations.
        for other in [grid(2).kept("w"), grid(1).kept("v")] {
            assert!((same(&other) - 256.0).abs() < 5.0 * 15.0, "{}", same(&other));
        }
        // So do neighbouring lines, which a regular pattern would not.
        let rotated: Vec<u32> = kept[16..].iter().chain(&kept[..16]).copied().collect();
        assert!((same(&rotated) - 256.0).abs() < 5.0 * 15.0, "{}", same(&rotated));
    }
}
