//! dW += dyᵀ·x for the kept blocks alone.
//!
//!     for each block of tokens: pack x, panel by panel; then one task per row of blocks:
//!         pack its columns of dy in bands, and for each kept block multiply them with the panels of its column

use super::map::{BlockMap, Lines};
use super::{Product, spread};
use crate::device::gemm::block::{B_VALUES, DEPTH, part};
use crate::device::gemm::kernel::{Kernel, Work};
use crate::device::gemm::pack::{self, Source};
use crate::device::gemm::store::{Step, Target};
use crate::device::gemm::task::{TILE, Tile};
use crate::device::gemm::{Mat, Nothing, Out, buffer};
use crate::device::{Elem, Pool};
use std::marker::PhantomData;

/// Columns of x that one task packs.
const PACK_COLS: usize = 256;

pub(super) struct Job<'a, A: Elem, B> {
    pub(super) pool: &'a Pool,
    /// (kept, block · block)
    pub(super) dw: &'a mut [A::Acc],
    pub(super) map: &'a BlockMap,
    /// (N, O)
    pub(super) dy: Mat<'a, A>,
    /// (N, I)
    pub(super) x: Mat<'a, B>,
}

impl<A, B> Product<A::Acc> for Job<'_, A, B>
where
    A: Elem,
    B: Elem<Acc = A::Acc>,
    A::Acc: Elem<Acc = A::Acc>,
{
    fn run<K: Kernel<A::Acc>>(self) {
        let Job { pool, dw, map, dy, x } = self;
        dy.check();
        x.check();
        let (block, n) = (map.block, x.rows);
        assert_eq!(dw.len(), map.kept() * block * block, "gradients of the kept blocks");
        assert_eq!(
            (dy.rows, dy.cols, x.cols),
            (n, map.rows * block, map.cols * block),
            "dy (N, O) and x (N, I)"
        );
        if n == 0 {
            return;
        }
        let depth = part(n, DEPTH.min(B_VALUES / x.cols).max(16), 8);
        let mut lent = buffer::caller();
        let packed_x: *mut A::Acc = lent.b.get(depth.min(n).div_ceil(K::DEEP) * x.cols + pack::SPILL);
        // Lines are columns, and k runs over tokens.
        let x_at = Source { at: x.data.as_ptr(), line_stride: x.col_stride, k_stride: x.row_stride };
        let dy_at = Source { at: dy.data.as_ptr(), line_stride: dy.col_stride, k_stride: dy.row_stride };
        for from in (0..n).step_by(depth) {
            let step = Tokens {
                x: x_at.at(0, from),
                dy: dy_at.at(0, from),
                depth: depth.min(n - from),
                lines: &map.by_row,
                block,
                packed_x,
                dw: dw.as_mut_ptr(),
                kernel: PhantomData::<K>,
            };
            let cols = PACK_COLS.next_multiple_of(block);
            spread(pool, x.cols.div_ceil(cols), 16 * x.cols * step.depth, &|task| {
                let col = task * cols;
                K::enter(Pack { tokens: &step, col, cols: cols.min(x.cols - col) });
            });
            spread(pool, map.rows, map.kept() * block * block * step.depth, &|line| {
                K::enter(Multiply { tokens: &step, line });
            });
        }
    }
}

/// A block of tokens.
struct Tokens<'a, K, A: Elem, B: Elem> {
    x: Source<B>,
    dy: Source<A>,
    depth: usize,
    lines: &'a Lines,
    block: usize,
    packed_x: *mut B::Acc,
    dw: *mut A::Acc,
    kernel: PhantomData<K>,
}

// SAFETY: tasks read x and dy, and write disjoint parts of packed x and of dW.
unsafe impl<K, A: Elem, B: Elem> Sync for Tokens<'_, K, A, B> {}

/// The width of a panel of x. The kernel takes any multiple of LANES up to NR.
fn width<K: Kernel<R>, R: crate::device::Real>(block: usize) -> usize {
    K::CHAIN.min(block)
}

/// Packs the panels of x for these columns.
struct Pack<'a, 'b, K, A: Elem, B: Elem> {
    tokens: &'a Tokens<'b, K, A, B>,
    col: usize,
    cols: usize,
}

impl<K: Kernel<B::Acc>, A: Elem, B: Elem> Work for Pack<'_, '_, K, A, B> {
    #[inline(always)]
    fn run(self) {
        let Pack { tokens, col, cols } = self;
        let width = width::<K, B::Acc>(tokens.block);
        let dst = tokens.packed_x.wrapping_add(col * tokens.depth.div_ceil(K::DEEP));
        // SAFETY: we are within K::enter; x has these columns, packed x has room, and they are this task's alone.
        unsafe { pack::panels::<K, B>(tokens.x.at(col, 0), cols, tokens.depth, width, width, dst) }
    }
}

/// The kept blocks of one row of blocks.
struct Multiply<'a, 'b, K, A: Elem, B: Elem> {
    tokens: &'a Tokens<'b, K, A, B>,
    line: usize,
}

impl<K, A, B> Work for Multiply<'_, '_, K, A, B>
where
    K: Kernel<A::Acc>,
    A: Elem,
    B: Elem<Acc = A::Acc>,
    A::Acc: Elem<Acc = A::Acc>,
{
    #[inline(always)]
    fn run(self) {
        let Multiply { tokens, line } = self;
        let &Tokens { dy, depth: tokens_deep, lines, block, packed_x, dw, .. } = tokens;
        let depth = tokens_deep.div_ceil(K::DEEP);
        let mut lent = buffer::worker();
        lent.a_holds = None;
        let packed_dy: *mut A::Acc = lent.a.get(block.next_multiple_of(K::MR) * depth + pack::SPILL);
        // SAFETY: we are within K::enter; dy has these columns, the buffer room for whole bands.
        unsafe { pack::panels::<K, A>(dy.at(line * block, 0), block, tokens_deep, K::MR, K::MR, packed_dy) };
        let mut tile = Tile([A::Acc::default(); TILE]);
        let width = width::<K, A::Acc>(block);
        for entry in lines.of(line..line + 1) {
            let target = Target {
                c: dw.wrapping_add(lines.number[entry] as usize * block * block),
                c_pitch: block,
                sums: std::ptr::null_mut(),
                sums_pitch: 0,
                step: Step::Only,
                out: Out::Add,
                epilogue: None::<&Nothing>,
                row: 0,
                col: 0,
            };
            for col in (0..block).step_by(width) {
                let x = packed_x.wrapping_add((lines.other[entry] as usize * block + col) * depth);
                for band in (0..block).step_by(K::MR) {
                    let rows = K::MR.min(block - band);
                    target.prefetch(band, rows, col);
                    // SAFETY: packed dy and x hold what the tile needs, and this block is this task's alone.
                    unsafe {
                        K::tile(
                            depth,
                            packed_dy.wrapping_add(band * depth),
                            x,
                            rows,
                            width,
                            tile.0.as_mut_ptr(),
                        );
                        target.take(&mut tile.0, K::NR, band, rows, col, width);
                    }
                }
            }
        }
    }
}
