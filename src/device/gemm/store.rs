//! What happens to a finished tile: added to the sums of earlier blocks of K, through the epilogue, into c.

use super::pack::prefetch;
use super::{Epilogue, Out};
use crate::device::Elem;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Step {
    /// The first of several blocks of K: sums = tile
    Begin,
    /// sums += tile
    More,
    /// c = epilogue(sums + tile), or c +=
    Last,
    /// c = epilogue(tile), or c +=
    Only,
}

/// Where the tiles of a block go. Pointers are to the block's first element.
pub(super) struct Target<'a, C: Elem, E> {
    pub(super) c: *mut C,
    pub(super) c_pitch: usize,
    /// Sums over the blocks of K so far; c itself if it can hold them.
    pub(super) sums: *mut C::Acc,
    pub(super) sums_pitch: usize,
    pub(super) step: Step,
    pub(super) out: Out,
    pub(super) epilogue: Option<&'a E>,
    /// The block's first row and column within c.
    pub(super) row: usize,
    pub(super) col: usize,
}

impl<C: Elem, E: Epilogue<C::Acc>> Target<'_, C, E> {
    /// Stores the tile (rows, cols) with this pitch at (row, col) of the block.
    ///
    /// # Safety
    /// The place lies within c and the sums, and nobody else touches it.
    #[inline(always)]
    pub(super) unsafe fn take(
        &self,
        tile: &mut [C::Acc],
        pitch: usize,
        row: usize,
        rows: usize,
        col: usize,
        cols: usize,
    ) {
        for i in 0..rows {
            let x = &mut tile[i * pitch..i * pitch + cols];
            let sums = self.sums.wrapping_add((row + i) * self.sums_pitch + col);
            // SAFETY: the caller's promise. Where sums is c, it is read before c is written.
            unsafe {
                match self.step {
                    Step::Begin => sums.copy_from_nonoverlapping(x.as_ptr(), cols),
                    Step::More => {
                        for (j, x) in x.iter_mut().enumerate() {
                            *sums.add(j) += *x
                        }
                    }
                    Step::Last => {
                        for (j, x) in x.iter_mut().enumerate() {
                            *x = *sums.add(j) + *x
                        }
                    }
                    Step::Only => {}
                }
            }
            if matches!(self.step, Step::Begin | Step::More) {
                continue;
            }
            if let Some(epilogue) = self.epilogue {
                epilogue.finish(self.row + row + i, self.col + col, x);
            }
            let c = self.c.wrapping_add((row + i) * self.c_pitch + col);
            // SAFETY: the caller's promise.
            unsafe {
                match self.out {
                    Out::Store => {
                        for (j, x) in x.iter_mut().enumerate() {
                            *c.add(j) = C::store(*x)
                        }
                    }
                    Out::Add => {
                        for (j, x) in x.iter_mut().enumerate() {
                            *c.add(j) = C::store((*c.add(j)).load() + *x)
                        }
                    }
                }
            }
        }
    }

    /// Asks for the lines that `take` will read, so that they arrive while the tile is computed.
    #[inline(always)]
    pub(super) fn prefetch(&self, row: usize, rows: usize, col: usize) {
        for i in row..row + rows {
            let c = self.c.wrapping_add(i * self.c_pitch + col).cast::<u8>();
            for line in 0..3 {
                prefetch(c.wrapping_add(64 * line));
            }
        }
    }
}
