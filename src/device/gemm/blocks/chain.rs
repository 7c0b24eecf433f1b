//! c = a·W or a·Wᵀ over the kept blocks: what forward and the gradient of the input are.
//!
//!     for each group of lines of blocks (of c), ≤ 8 MiB of packed W:
//!     pack of each line its kept blocks, as panels of CHAIN columns, block behind block; then
//!     one task per (some rows of a, some lines): pack the rows unless this thread has them, then line by line,
//!         panel by panel, band by band: a tile over all kept blocks of the line, stored while in cache

use super::map::Lines;
use super::{Blocks, Product, spread};
use crate::device::gemm::block::{A_VALUES, B_VALUES, part, product_id};
use crate::device::gemm::kernel::{Kernel, Work};
use crate::device::gemm::pack::{self, Source};
use crate::device::gemm::store::{Step, Target};
use crate::device::gemm::task::{TILE, Tile};
use crate::device::gemm::{Epilogue, Mat, MatMut, Out, buffer};
use crate::device::{Elem, Pool};
use std::marker::PhantomData;

/// Rows of a that a task packs at most: beyond this they gain nothing from sharing W.
const ROWS: usize = 128;
/// Tasks there should be, so that none waits long for the last.
const TASKS: usize = 32;

pub(super) struct Job<'a, A, B, C, E> {
    pub(super) pool: &'a Pool,
    /// (N, lines · block)
    pub(super) c: MatMut<'a, C>,
    pub(super) out: Out,
    /// (N, others · block)
    pub(super) a: Mat<'a, A>,
    pub(super) w: Blocks<'a, B>,
    /// false: c = a·Wᵀ, whose lines are the rows of blocks. true: c = a·W, whose lines are the columns.
    pub(super) transposed: bool,
    pub(super) epilogue: Option<&'a E>,
}

impl<A, B, C, E> Product<A::Acc> for Job<'_, A, B, C, E>
where
    A: Elem,
    B: Elem<Acc = A::Acc>,
    C: Elem<Acc = A::Acc>,
    E: Epilogue<A::Acc>,
{
    fn run<K: Kernel<A::Acc>>(self) {
        let Job { pool, c, out, a, w, transposed, epilogue } = self;
        a.check();
        c.check();
        w.check();
        let (map, block) = (w.map, w.map.block);
        let (lines, others) = if transposed { (&map.by_col, map.rows) } else { (&map.by_row, map.cols) };
        let (m, n, k) = (c.rows, lines.len() * block, others * block);
        assert_eq!((c.cols, a.rows, a.cols), (n, m, k), "c (N, lines) and a (N, others) of blocks");
        if m == 0 || n == 0 {
            return;
        }
        let depth = block.div_ceil(K::DEEP);
        let most = (0..lines.len()).map(|l| lines.of(l..l + 1).len()).max().unwrap_or(0).max(1);
        let together = (B_VALUES / (most * block * depth)).clamp(1, lines.len());
        let mut lent = buffer::caller();
        let packed_w: *mut A::Acc = lent.b.get(together * most * block * depth + pack::SPILL);
        let w_at = w.data.as_ptr();
        let target = Target {
            c: c.data.as_mut_ptr(),
            c_pitch: c.row_stride,
            sums: std::ptr::null_mut(),
            sums_pitch: 0,
            step: Step::Only,
            out,
            epilogue,
            row: 0,
            col: 0,
        };
        let a = Source { at: a.data.as_ptr(), line_stride: a.row_stride, k_stride: a.col_stride };
        let rows = part(m, (A_VALUES / k.div_ceil(K::DEEP)).clamp(K::MR, ROWS), K::MR);
        let chunks = m.div_ceil(rows);
        let mut product =
            Rows { a, k, lines, first: 0, block, packed_w, target, id: product_id(), kernel: PhantomData };
        for start in (0..lines.len()).step_by(together) {
            let group = start..lines.len().min(start + together);
            let own = lines.of(group.clone());
            let packing = Weights {
                at: w_at,
                lines,
                first: own.start,
                block,
                transposed,
                packed_w,
                kernel: PhantomData,
            };
            spread(pool, group.len(), 16 * own.len() * block * block, &|line| {
                K::enter(Pack::<K, B> { weights: &packing, line: group.start + line })
            });
            product.first = own.start;
            let product: &Rows<K, A, B, C, E> = &product;
            let each = group.len().div_ceil(TASKS.div_ceil(chunks)).max(1);
            let groups = group.len().div_ceil(each);
            spread(pool, chunks * groups, m * own.len() * block * block, &|task| {
                let (row, line) = (task / groups * rows, group.start + task % groups * each);
                let (rows, lines) = (rows.min(m - row), line..group.end.min(line + each));
                K::enter(Multiply { product, row, rows, lines });
            });
        }
    }
}

/// W and where its packed panels go.
struct Weights<'a, K, B: Elem> {
    at: *const B,
    lines: &'a Lines,
    /// The first entry that is packed.
    first: usize,
    block: usize,
    transposed: bool,
    packed_w: *mut B::Acc,
    kernel: PhantomData<K>,
}

// SAFETY: tasks read W and write disjoint panels.
unsafe impl<K, B: Elem> Sync for Weights<'_, K, B> {}

/// Packs the panels of one line.
struct Pack<'a, 'b, K, B: Elem> {
    weights: &'a Weights<'b, K, B>,
    line: usize,
}

impl<K: Kernel<B::Acc>, B: Elem> Work for Pack<'_, '_, K, B> {
    #[inline(always)]
    fn run(self) {
        let &Weights { at, lines, first, block, transposed, packed_w, .. } = self.weights;
        let own = lines.of(self.line..self.line + 1);
        let (depth, width) = (block.div_ceil(K::DEEP), K::CHAIN.min(block));
        let to = packed_w.wrapping_add((own.start - first) * block * depth);
        for (i, entry) in own.clone().enumerate() {
            let at = at.wrapping_add(lines.number[entry] as usize * block * block);
            let (line_stride, k_stride) = if transposed { (1, block) } else { (block, 1) };
            let src = Source { at, line_stride, k_stride };
            for col in (0..block).step_by(width) {
                // Panel by panel, in each block behind block.
                let dst = to.wrapping_add(col * own.len() * depth + i * width * depth);
                // SAFETY: we are within K::enter; the block is there, and these panels are this task's alone.
                unsafe { pack::panels::<K, B>(src.at(col, 0), width, block, width, width, dst) };
            }
        }
    }
}

/// A product once W is packed.
struct Rows<'a, K, A, B: Elem, C: Elem, E> {
    a: Source<A>,
    /// Columns of a.
    k: usize,
    lines: &'a Lines,
    /// The first entry that is packed.
    first: usize,
    block: usize,
    packed_w: *mut B::Acc,
    target: Target<'a, C, E>,
    id: u64,
    kernel: PhantomData<(K, B)>,
}

// SAFETY: tasks read a and packed W, and write disjoint parts of the target.
unsafe impl<K, A, B: Elem, C: Elem, E: Sync> Sync for Rows<'_, K, A, B, C, E> {}

/// Some rows of c in some lines.
struct Multiply<'a, 'b, K, A, B: Elem, C: Elem, E> {
    product: &'a Rows<'b, K, A, B, C, E>,
    row: usize,
    rows: usize,
    lines: std::ops::Range<usize>,
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
        let Multiply { product, row, rows, lines } = self;
        let &Rows { a, k, lines: all, first, block, packed_w, ref target, id, .. } = product;
        let (depth, whole) = (block.div_ceil(K::DEEP), k.div_ceil(K::DEEP));
        let mut lent = buffer::worker();
        let packed_a: *mut A::Acc = lent.a.get(rows.next_multiple_of(K::MR) * whole + pack::SPILL);
        let name = Some((id, 0, row));
        if lent.a_holds != name {
            lent.a_holds = None;
            // SAFETY: we are within K::enter; a has these rows, the buffer room for whole bands.
            unsafe { pack::panels::<K, A>(a.at(row, 0), rows, k, K::MR, K::MR, packed_a) };
            lent.a_holds = name;
        }
        let mut tile = Tile([A::Acc::default(); TILE]);
        let width = K::CHAIN.min(block);
        for line in lines {
            let own = all.of(line..line + 1);
            let (parts, at) = (&all.other[own.clone()], (own.start - first) * block * depth);
            for col in (0..block).step_by(width) {
                let b = packed_w.wrapping_add(at + col * own.len() * depth);
                for band in (0..rows).step_by(K::MR) {
                    let band_rows = K::MR.min(rows - band);
                    let (at_row, at_col) = (row + band, line * block + col);
                    target.prefetch(at_row, band_rows, at_col);
                    let a = packed_a.wrapping_add(band * whole);
                    // SAFETY: packed a has all parts, packed W these blocks, and this part of c is this task's alone.
                    unsafe {
                        K::chain(depth, parts, a, b, band_rows, width, tile.0.as_mut_ptr());
                        target.take(&mut tile.0, K::NR, at_row, band_rows, at_col, width);
                    }
                }
            }
        }
    }
}
