//! Where the kept blocks of a block-sparse matrix lie: index lists for the products with it and with its transpose.

use std::ops::Range;

/// A matrix (rows · block, cols · block) of which only some blocks (block, block) are kept, each stored row-major, one
/// behind the other in the order of their numbers.
#[derive(Debug)]
pub struct BlockMap {
    pub block: usize,
    /// Rows and columns of blocks.
    pub rows: usize,
    pub cols: usize,
    pub(super) by_row: Lines,
    pub(super) by_col: Lines,
}

/// The kept blocks of each row (or column) of blocks, in ascending order of the other index.
#[derive(Debug)]
pub(super) struct Lines {
    starts: Vec<u32>,
    /// The column (or row) of blocks of each.
    pub(super) other: Vec<u32>,
    /// Its number.
    pub(super) number: Vec<u32>,
}

impl Lines {
    fn new(count: usize, mut all: Vec<(u32, u32, u32)>) -> Lines {
        all.sort_unstable();
        let before = |line: usize| all.partition_point(|b| (b.0 as usize) < line) as u32;
        Lines {
            starts: (0..=count).map(before).collect(),
            other: all.iter().map(|b| b.1).collect(),
            number: all.iter().map(|b| b.2).collect(),
        }
    }
    pub(super) fn len(&self) -> usize {
        self.starts.len() - 1
    }
    /// The entries of some lines.
    pub(super) fn of(&self, lines: Range<usize>) -> Range<usize> {
        self.starts[lines.start] as usize..self.starts[lines.end] as usize
    }
}

impl BlockMap {
    /// Of the blocks at these (row, column) of blocks, in the order in which they are stored. `block` is a multiple of 16.
    pub fn new(block: usize, rows: usize, cols: usize, kept: &[(u32, u32)]) -> BlockMap {
        assert!(block > 0 && block.is_multiple_of(16), "blocks of {block}");
        assert!(
            kept.iter().all(|&(r, c)| (r as usize) < rows && (c as usize) < cols),
            "a block lies outside"
        );
        let numbered = |of: fn((u32, u32)) -> (u32, u32)| {
            let one = |(i, &at): (usize, &(u32, u32))| {
                let (line, other) = of(at);
                (line, other, i as u32)
            };
            kept.iter().enumerate().map(one).collect()
        };
        let by_row = Lines::new(rows, numbered(|(r, c)| (r, c)));
        let by_col = Lines::new(cols, numbered(|(r, c)| (c, r)));
        let twice = |i: usize| by_row.of(i..i + 1).skip(1).any(|e| by_row.other[e] == by_row.other[e - 1]);
        assert!(!(0..rows).any(twice), "a block is stored twice");
        BlockMap { block, rows, cols, by_row, by_col }
    }

    /// Kept blocks.
    pub fn kept(&self) -> usize {
        self.by_row.other.len()
    }
    /// Bytes of the index lists.
    pub fn bytes(&self) -> usize {
        let of = |l: &Lines| 4 * (l.starts.len() + l.other.len() + l.number.len());
        of(&self.by_row) + of(&self.by_col)
    }
}
