//! A logical tensor: the only place that says how a parameter is split. Checkpoints, import, export and growth
//! think in global tensors; ranks hold boxes of them.

use super::layout::{Grid, Layout};
use crate::device::simd;
use crate::rng::Philox;

/// How a tensor is split over tp. `unit` rows (or columns) stay together; a part is padded to a multiple of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Shard {
    Replicated,
    Rows {
        unit: usize,
    },
    /// Rows in heads of `unit`. Where ranks are more than heads, neighbours hold the same one.
    Heads {
        unit: usize,
    },
    Cols {
        unit: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub enum Init {
    Zeros,
    Ones,
    Normal { std: f64 },
}

/// Global shape (rows, cols) as [out, in]; a vector has `vector` set and one column. A block-sparse matrix has the shape in
/// which it is stored (`layout`).
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ParamSpec {
    pub name: String,
    pub rows: usize,
    pub cols: usize,
    pub vector: bool,
    pub shard: Shard,
    pub init: Init,
    #[serde(default, skip_serializing_if = "Layout::is_dense")]
    pub layout: Layout,
}

/// The part of a tensor that one tp rank holds, in global indices. `stored_rows` ≥ rows includes padding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalBox {
    pub row: usize,
    pub rows: usize,
    pub stored_rows: usize,
    pub col: usize,
    pub cols: usize,
}

impl ParamSpec {
    pub fn matrix(name: impl ToString, rows: usize, cols: usize, shard: Shard, std: f64) -> ParamSpec {
        let init = Init::Normal { std };
        ParamSpec { name: name.to_string(), rows, cols, vector: false, shard, init, layout: Layout::Dense }
    }
    pub fn vector(name: impl ToString, len: usize, shard: Shard, init: Init) -> ParamSpec {
        ParamSpec {
            name: name.to_string(),
            rows: len,
            cols: 1,
            vector: true,
            shard,
            init,
            layout: Layout::Dense,
        }
    }
    /// The shape as files and people see it.
    pub fn shape(&self) -> Vec<usize> {
        if self.vector { vec![self.rows] } else { vec![self.rows, self.cols] }
    }
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Ranks of `size` that hold the same part.
    pub fn copies(&self, size: usize) -> usize {
        match self.shard {
            Shard::Replicated => size,
            Shard::Heads { unit } => (size * unit / self.rows).max(1),
            Shard::Rows { .. } | Shard::Cols { .. } => 1,
        }
    }
    /// What rank `rank` of `size` holds.
    pub fn local(&self, rank: usize, size: usize) -> LocalBox {
        let part = |n: usize, unit: usize| {
            let each = n.div_ceil(size).div_ceil(unit) * unit;
            let first = (rank * each).min(n);
            (first, each.min(n - first), each)
        };
        match self.shard {
            Shard::Replicated => {
                LocalBox { row: 0, rows: self.rows, stored_rows: self.rows, col: 0, cols: self.cols }
            }
            Shard::Rows { unit } => {
                let (row, rows, stored_rows) = part(self.rows, unit);
                LocalBox { row, rows, stored_rows, col: 0, cols: self.cols }
            }
            Shard::Heads { unit } => {
                let (rank, size) = (rank / self.copies(size), size / self.copies(size));
                let rows = self.rows / size;
                assert_eq!(rows * size, self.rows, "heads of {} divide over {size} ranks", self.name);
                assert!(rows.is_multiple_of(unit), "heads of {} stay whole", self.name);
                LocalBox { row: rank * rows, rows, stored_rows: rows, col: 0, cols: self.cols }
            }
            Shard::Cols { unit } => {
                let (col, cols, each) = part(self.cols, unit);
                assert_eq!(cols, each, "columns of {} divide over {size} ranks", self.name);
                LocalBox { row: 0, rows: self.rows, stored_rows: self.rows, col, cols }
            }
        }
    }
    /// Fills the box (rows, cols), row-major, with initial values: the same numbers whatever the split.
    pub fn fill(&self, seed: u64, b: LocalBox, out: &mut [f32]) {
        match self.init {
            Init::Zeros => out.fill(0.0),
            Init::Ones => out.fill(1.0),
            Init::Normal { std } => {
                let stream = Philox::new(seed, &self.name);
                if let Layout::BlockSparse(grid) = &self.layout {
                    return self.fill_blocks(grid, &stream, std as f32, b, out);
                }
                // Whole rows follow one another, and one long fill is faster than many short ones.
                let run = if b.cols == self.cols { out.len() } else { b.cols };
                for (i, run) in out.chunks_exact_mut(run.max(1)).enumerate() {
                    let first = (b.row + i) * self.cols + b.col;
                    simd(
                        #[inline(always)]
                        || stream.fill_normal(first as u64, std as f32, run),
                    );
                }
            }
        }
    }
    /// Of kept blocks: the values that the dense tensor has there.
    fn fill_blocks(&self, grid: &Grid, stream: &Philox, std: f32, b: LocalBox, out: &mut [f32]) {
        let (kept, size) = (grid.kept(&self.name), grid.block);
        assert_eq!((b.col, b.cols), (0, size * size), "whole blocks of {}", self.name);
        for (i, block) in (b.row..b.row + b.rows).zip(out.chunks_exact_mut(size * size)) {
            let (row, col) = grid.place(&kept, i);
            for (r, run) in block.chunks_exact_mut(size).enumerate() {
                let first = (row * size + r) * grid.cols + col * size;
                simd(
                    #[inline(always)]
                    || stream.fill_normal(first as u64, std, run),
                );
            }
        }
    }
}
