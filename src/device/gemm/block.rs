//! Blocking: which part of the product is computed when, by whom, from which packed copies.
//!
//!     for each block of N (≤ 8 MiB of packed b) and each block of K (≤ 1024 deep):
//!         pack b together, then run one task per (block of M, group of panels):
//!             pack the rows of a unless this thread has them, then tile after tile, each stored while in cache
//!
//! A packed block of a stays in the L2 cache, packed b in L3. All block sizes follow from the shape.

use super::buffer;
use super::kernel::Kernel;
use super::pack::{self, Source};
use super::store::{Step, Target};
use super::task::{Block, Multiply, Pack};
use super::{Epilogue, Mat, MatMut, Out};
use crate::device::{Elem, Pool};
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Depth of a block of K: deeper blocks pass over c less often, but 128 rows of a deeper one would not fit L2.
pub const DEPTH: usize = 1024;
/// Values of a that a task packs: half a MiB, at least `ROWS` rows and at most `MOST_ROWS`.
pub const A_VALUES: usize = 128 << 10;
const ROWS: usize = 128;
const MOST_ROWS: usize = 512;
/// Blocks of rows there should be before they grow beyond `ROWS`.
const ROW_BLOCKS: usize = 16;
/// Values of packed b.
pub const B_VALUES: usize = 2 << 20;
/// Rows that share one pass over packed b when partial sums need a buffer of their own.
pub const SUM_ROWS: usize = 2048;
/// Columns of b that one task packs, rounded to panels: of a row-major b it reads half a page of each row.
const PACK_COLS: usize = 384;
/// A task has at least so many columns, so that packing its rows of a is cheap beside it,
const TASK_COLS: usize = 192;
/// and more if there are more tasks than this, enough for the threads of a node.
const TASKS: usize = 64;
/// Below so many multiply-adds, some ten microseconds, waking the others costs more than they help. Packing a value
/// counts as 16.
pub(super) const ALONE: usize = 1 << 19;

/// Tells products apart, so that a thread knows whose rows of a it has packed.
static PRODUCTS: AtomicU64 = AtomicU64::new(1);

/// The name of the next product.
pub(super) fn product_id() -> u64 {
    PRODUCTS.fetch_add(1, Relaxed)
}

/// n in equal parts of at most `most`: the length of a part, a multiple of `unit`.
pub(super) fn part(n: usize, most: usize, unit: usize) -> usize {
    n.div_ceil(n.div_ceil(most).max(1)).next_multiple_of(unit).max(unit)
}

/// c = a·b or c += a·b, for views that were checked.
pub(super) fn product<K, A, B, C, E>(
    pool: &Pool,
    c: MatMut<C>,
    out: Out,
    a: Mat<A>,
    b: Mat<B>,
    epilogue: Option<&E>,
) where
    K: Kernel<A::Acc>,
    A: Elem,
    B: Elem<Acc = A::Acc>,
    C: Elem<Acc = A::Acc>,
    E: Epilogue<A::Acc>,
{
    let (m, n, k) = (c.rows, c.cols, a.cols);
    if m == 0 || n == 0 {
        return;
    }
    let depth = part(k, DEPTH, 8);
    let cols = part(n, B_VALUES / depth, K::NR);
    let whole = k <= depth;
    let in_c = C::DTYPE == A::Acc::DTYPE;
    // c can take each block of K as it comes if it has the type of the sums and the epilogue does not come between.
    let add_each = in_c && out == Out::Add && epilogue.is_none();
    let own_sums = !whole && !add_each && (!in_c || out == Out::Add);
    let rows = if own_sums { part(m, SUM_ROWS, ROWS) } else { m };
    let product = product_id();
    let a = Source { at: a.data.as_ptr(), line_stride: a.row_stride, k_stride: a.col_stride };
    let b = Source { at: b.data.as_ptr(), line_stride: b.col_stride, k_stride: b.row_stride };
    let c_at = c.data.as_mut_ptr();
    let mut kept = buffer::caller();
    let packed_b: *mut A::Acc =
        kept.b.get(depth.min(k).div_ceil(K::DEEP) * n.min(cols).next_multiple_of(K::NR) + pack::SPILL);
    let own: *mut A::Acc = kept.sums.get(if own_sums { rows.min(m) * cols } else { 0 });
    for row in (0..m).step_by(rows) {
        for col in (0..n).step_by(cols) {
            for at_k in (0..k.max(1)).step_by(depth) {
                let at = c_at.wrapping_add(row * c.row_stride + col);
                let last = at_k + depth >= k;
                let step = match (add_each || whole, at_k == 0, last) {
                    (true, ..) => Step::Only,
                    (_, true, _) => Step::Begin,
                    (_, _, false) => Step::More,
                    (_, _, true) => Step::Last,
                };
                let block = Block::<K, A, B, C, E> {
                    a: a.at(row, at_k),
                    b: b.at(col, at_k),
                    packed_b,
                    rows: rows.min(m - row),
                    cols: cols.min(n - col),
                    depth: depth.min(k - at_k),
                    target: Target {
                        c: at,
                        c_pitch: c.row_stride,
                        sums: if own_sums { own } else { at.cast() },
                        sums_pitch: if own_sums { cols } else { c.row_stride },
                        step,
                        out,
                        epilogue,
                        row,
                        col,
                    },
                    id: (product, at_k, row),
                    kernel: PhantomData,
                };
                block.run(pool);
            }
        }
    }
}

impl<K, A, B, C, E> Block<'_, K, A, B, C, E>
where
    K: Kernel<A::Acc>,
    A: Elem,
    B: Elem<Acc = A::Acc>,
    C: Elem<Acc = A::Acc>,
    E: Epilogue<A::Acc>,
{
    fn run(&self, pool: &Pool) {
        let most = (A_VALUES / self.depth.div_ceil(K::DEEP).max(1))
            .min(self.rows / ROW_BLOCKS)
            .clamp(ROWS, MOST_ROWS);
        let rows = part(self.rows, most, K::MR);
        let row_blocks = self.rows.div_ceil(rows);
        let most = (self.cols / TASKS.div_ceil(row_blocks)).max(TASK_COLS);
        let cols = part(self.cols, most, K::NR);
        let col_groups = self.cols.div_ceil(cols);
        let pool = |tasks: usize, work: usize, task: &(dyn Fn(usize) + Sync)| match work < ALONE {
            true => (0..tasks).for_each(task),
            false => pool.run(tasks, task),
        };
        let pack = PACK_COLS.next_multiple_of(K::NR);
        pool(self.cols.div_ceil(pack), 16 * self.cols * self.depth, &|task| {
            let col = task * pack;
            K::enter(Pack { block: self, col, cols: pack.min(self.cols - col) });
        });
        pool(row_blocks * col_groups, self.rows * self.cols * self.depth, &|task| {
            let (row, col) = (task / col_groups * rows, task % col_groups * cols);
            K::enter(Multiply {
                block: self,
                row,
                rows: rows.min(self.rows - row),
                col,
                cols: cols.min(self.cols - col),
            });
        });
    }
}
