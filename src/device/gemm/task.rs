//! The two kinds of task within a block of N and K: packing a panel of b, and multiplying some rows by some columns.

use super::kernel::{Kernel, Work};
use super::pack::{self, Source};
use super::store::Target;
use super::{Epilogue, buffer};
use crate::device::Elem;
use std::marker::PhantomData;

/// The largest value of K::MR · K::NR.
pub(super) const TILE: usize = 8 * 48;
#[repr(align(64))]
pub(super) struct Tile<R>(pub(super) [R; TILE]);

/// One block of N and K: the operands from its corner on.
pub(super) struct Block<'a, K, A, B: Elem, C: Elem, E> {
    pub(super) a: Source<A>,
    pub(super) b: Source<B>,
    pub(super) packed_b: *mut B::Acc,
    pub(super) rows: usize,
    pub(super) cols: usize,
    pub(super) depth: usize,
    pub(super) target: Target<'a, C, E>,
    /// Names its rows of a: (product, block of K, block of M).
    pub(super) id: (u64, usize, usize),
    pub(super) kernel: PhantomData<K>,
}

// SAFETY: tasks read a and b, and write disjoint parts of packed b and of the target.
unsafe impl<K, A, B: Elem, C: Elem, E: Sync> Sync for Block<'_, K, A, B, C, E> {}

/// Packs the panels of b for these columns, the first of which begins a panel.
pub(super) struct Pack<'a, 'b, K, A, B: Elem, C: Elem, E> {
    pub(super) block: &'a Block<'b, K, A, B, C, E>,
    pub(super) col: usize,
    pub(super) cols: usize,
}

impl<K, A, B, C, E> Work for Pack<'_, '_, K, A, B, C, E>
where
    K: Kernel<A::Acc>,
    A: Elem,
    B: Elem<Acc = A::Acc>,
    C: Elem<Acc = A::Acc>,
{
    #[inline(always)]
    fn run(self) {
        let Pack { block, col, cols } = self;
        let dst = block.packed_b.wrapping_add(col * block.depth.div_ceil(K::DEEP));
        // SAFETY: we are within K::enter; b has these columns over this depth, packed b has room for whole panels,
        // and these panels are packed by this task alone, before any is read.
        unsafe { pack::panels::<K, B>(block.b.at(col, 0), cols, block.depth, K::NR, K::LANES, dst) }
    }
}

/// Computes c (rows, cols) from this row and column of the block on, all of whose b is packed.
pub(super) struct Multiply<'a, 'b, K, A, B: Elem, C: Elem, E> {
    pub(super) block: &'a Block<'b, K, A, B, C, E>,
    pub(super) row: usize,
    pub(super) rows: usize,
    pub(super) col: usize,
    pub(super) cols: usize,
}

impl<K, A, B, C, E> Work for Multiply<'_, '_, K, A, B, C, E>
where
    K: Kernel<A::Acc>,
    A: Elem,
    B: Elem<Acc = A::Acc>,
    C: Elem<Acc = A::Acc>,
    E: Epilogue<A::Acc>,
{
    #[inline(always)]
    fn run(self) {
        let Multiply { block, row, rows, col, cols } = self;
        let depth = block.depth.div_ceil(K::DEEP);
        let mut kept = buffer::worker();
        let packed_a: *mut A::Acc = kept.a.get(rows.next_multiple_of(K::MR) * depth + pack::SPILL);
        let (product, at_k, at_row) = block.id;
        let id = Some((product, at_k, at_row + row));
        if kept.a_holds != id {
            kept.a_holds = None;
            // SAFETY: we are within K::enter; a has these rows over this depth, the buffer room for whole bands.
            unsafe { pack::panels::<K, A>(block.a.at(row, 0), rows, block.depth, K::MR, K::MR, packed_a) };
            kept.a_holds = id;
        }
        let mut tile = Tile([A::Acc::default(); TILE]);
        for panel in (col..col + cols).step_by(K::NR) {
            let panel_cols = K::NR.min(col + cols - panel);
            let width = panel_cols.next_multiple_of(K::LANES);
            let b = block.packed_b.wrapping_add(panel * depth);
            for band in (0..rows).step_by(K::MR) {
                let band_rows = K::MR.min(rows - band);
                block.target.prefetch(row + band, band_rows, panel);
                let a = packed_a.wrapping_add(band * depth);
                // SAFETY: packed a and b hold what the tile needs, and this part of c is this task's alone.
                unsafe {
                    K::tile(depth, a, b, band_rows, width, tile.0.as_mut_ptr());
                    block.target.take(&mut tile.0, K::NR, row + band, band_rows, panel, panel_cols);
                }
            }
        }
    }
}
