//! From one layout of a tensor to another: a block-sparse matrix out of a dense one, and the dense one, zeros and all, out of
//! a block-sparse one. This is all that a switch between them is.

use super::fill::TensorSource;
use super::layout::{Grid, Layout};
use super::spec::{LocalBox, ParamSpec, Shard};
use crate::Result;
use std::ops::Range;

/// Reads box b of `spec` where the tensor is stored as `stored`; `read` fills a box of that.
pub fn read_as(
    spec: &ParamSpec,
    b: LocalBox,
    stored: &ParamSpec,
    read: &dyn Fn(LocalBox, &mut [f32]) -> Result<()>,
    out: &mut [f32],
) -> Result<()> {
    match (&spec.layout, &stored.layout) {
        (ours, theirs) if ours == theirs => read(b, out),
        (Layout::Dense, Layout::Dense) => read(b, out),
        (Layout::BlockSparse(grid), _) => {
            let dense = spec.dense();
            gather(grid, &spec.name, b, &|b, out| read_as(&dense, b, stored, read, out), out)
        }
        (Layout::Dense, Layout::BlockSparse(grid)) => scatter(grid, &spec.name, b, read, out),
    }
}

/// Stored blocks of a grid, out of the dense matrix.
fn gather(
    grid: &Grid,
    name: &str,
    b: LocalBox,
    read: &dyn Fn(LocalBox, &mut [f32]) -> Result<()>,
    out: &mut [f32],
) -> Result<()> {
    let (kept, size) = (grid.kept(name), grid.block);
    assert_eq!((b.col, b.cols), (0, size * size), "whole blocks of {name}");
    for (i, out) in (b.row..b.row + b.rows).zip(out.chunks_exact_mut(size * size)) {
        let (row, col) = grid.place(&kept, i);
        read(LocalBox { row: row * size, rows: size, stored_rows: size, col: col * size, cols: size }, out)?;
    }
    Ok(())
}

/// A box of the dense matrix, out of the stored blocks that it touches.
fn scatter(
    grid: &Grid,
    name: &str,
    b: LocalBox,
    read: &dyn Fn(LocalBox, &mut [f32]) -> Result<()>,
    out: &mut [f32],
) -> Result<()> {
    let (kept, size) = (grid.kept(name), grid.block);
    let (rows, cols) = (b.row..b.row + b.rows, b.col..b.col + b.cols);
    let blocks = |r: &Range<usize>| r.start / size..r.end.div_ceil(size);
    let (lines, places) =
        if grid.by_columns { (blocks(&cols), blocks(&rows)) } else { (blocks(&rows), blocks(&cols)) };
    out.fill(0.0);
    let mut values = vec![];
    for line in lines {
        let all = line * grid.each;
        let of_line = &kept[all..all + grid.each];
        let touched = of_line.partition_point(|&at| (at as usize) < places.start)
            ..of_line.partition_point(|&at| (at as usize) < places.end);
        if touched.is_empty() {
            continue;
        }
        values.resize(touched.len() * size * size, 0.0);
        let (row, n) = (all + touched.start, touched.len());
        read(LocalBox { row, rows: n, stored_rows: n, col: 0, cols: size * size }, &mut values)?;
        for (i, values) in (row..row + n).zip(values.chunks_exact(size * size)) {
            let (block_row, block_col) = grid.place(&kept, i);
            let shared =
                |of: &Range<usize>, block: usize| of.start.max(block * size)..of.end.min((block + 1) * size);
            let (own_rows, own_cols) = (shared(&rows, block_row), shared(&cols, block_col));
            for r in own_rows {
                let from = (r - block_row * size) * size + own_cols.start - block_col * size;
                let to = (r - b.row) * b.cols + own_cols.start - b.col;
                out[to..to + own_cols.len()].copy_from_slice(&values[from..from + own_cols.len()]);
            }
        }
    }
    Ok(())
}

/// A source of dense tensors as one of tensors of any layout.
pub struct Gathered<'a>(pub &'a dyn TensorSource);

impl TensorSource for Gathered<'_> {
    fn read(&self, spec: &ParamSpec, b: LocalBox, out: &mut [f32]) -> Result<()> {
        let dense = ParamSpec { shard: Shard::Replicated, ..spec.dense() };
        read_as(spec, b, &dense, &|b, out| self.0.read(&dense, b, out), out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::RandomInit;

    #[test]
    fn blocks_have_the_initial_values_of_the_dense_tensor_and_the_dense_tensor_out_of_them_has_zeros_elsewhere()
     {
        let dense = ParamSpec::matrix("w", 96, 64, Shard::Rows { unit: 1 }, 1.0);
        let source = RandomInit { seed: 4 };
        let mut whole = vec![0.0; dense.len()];
        source.read(&dense, dense.local(0, 1), &mut whole).unwrap();
        for shard in [Shard::Rows { unit: 1 }, Shard::Cols { unit: 1 }] {
            let spec = ParamSpec { shard, ..dense.clone() }.in_blocks(16, 0.5, 9);
            let (mut own, mut gathered) = (vec![0.0; spec.len()], vec![0.0; spec.len()]);
            source.read(&spec, spec.local(0, 1), &mut own).unwrap();
            Gathered(&source).read(&spec, spec.local(0, 1), &mut gathered).unwrap();
            assert_eq!(own, gathered);
            // Boxes that cut blocks, of the whole matrix with zeros.
            let stored = |b: LocalBox, out: &mut [f32]| {
                out.copy_from_slice(&own[b.row * 256..(b.row + b.rows) * 256]);
                Ok(())
            };
            let mut seen = 0;
            for (row, rows, col, cols) in [(0, 96, 0, 64), (5, 30, 17, 40), (95, 1, 0, 64)] {
                let b = LocalBox { row, rows, stored_rows: rows, col, cols };
                let mut out = vec![1.0; rows * cols];
                read_as(&dense, b, &spec, &stored, &mut out).unwrap();
                for (at, x) in out.iter().enumerate() {
                    let want = whole[(row + at / cols) * 64 + col + at % cols];
                    assert!(*x == 0.0 || *x == want);
                    seen += usize::from(*x != 0.0);
                }
                if rows == 96 {
                    assert_eq!(seen, 96 * 64 / 2);
                }
            }
            // Another choice of blocks out of this one: what both keep, and zeros.
            let mut expanded = vec![1.0; dense.len()];
            read_as(&dense, dense.local(0, 1), &spec, &stored, &mut expanded).unwrap();
            let other = ParamSpec { shard, ..dense.clone() }.in_blocks(32, 0.5, 9);
            let mut out = vec![1.0; other.len()];
            read_as(&other, other.local(0, 1), &spec, &stored, &mut out).unwrap();
            let grid = other.layout.grid().unwrap();
            for (at, x) in out.iter().enumerate() {
                let ((row, col), at) = (grid.place(&grid.kept("w"), at / 1024), at % 1024);
                assert_eq!(*x, expanded[(row * 32 + at / 32) * 64 + col * 32 + at % 32]);
            }
        }
    }
}
