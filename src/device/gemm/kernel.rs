//! Register kernels: a tile of a·b from packed panels, up to (MR, NR), held in registers while k runs.

use crate::device::simd::{self, Isa};
use crate::device::{Elem, Real};

/// Code to compile for a kernel's instruction set. A trait and not a closure, because only a method can be
/// `inline(always)`: a closure that the compiler leaves outside is compiled for the baseline.
pub(super) trait Work {
    fn run(self);
}

/// A tile shape and how to compute it. Packed a holds MR values for each k, packed b `width` values for each k.
pub(super) trait Kernel<R: Real>: 'static {
    const MR: usize;
    const NR: usize;
    /// The width of a panel is a multiple of this and at most NR; a multiple of 8.
    const LANES: usize;
    /// The widest panel that `chain` takes: it takes those of 16, too.
    const CHAIN: usize = 16;
    /// Steps of k in one packed value: 2 where a packed value is a pair of bf16, as `pairs` packs them.
    const DEEP: usize = 1;

    /// Runs work compiled for this kernel's instruction set.
    fn enter(work: impl Work);

    /// tile[i·NR + j] = Σ_k a[k·MR + i] · b[k·width + j] for i < rows, j < width, k < depth; the rest of tile may
    /// change. `depth` is that of what is packed: in pairs it is half as deep.
    ///
    /// # Safety
    /// The machine has the instruction set; 1 ≤ rows ≤ MR; a holds depth·MR packed values, b depth·width, tile MR·NR.
    unsafe fn tile(depth: usize, a: *const R, b: *const R, rows: usize, width: usize, tile: *mut R);

    /// As `tile`, k running over some parts of a panel of a one after the other, each as deep as `depth`: part p begins at
    /// p·depth·MR. The terms of b follow one another.
    ///
    /// # Safety
    /// As `tile`; a has these parts, and b as many of depth·width packed values; width is 16 or `CHAIN`.
    unsafe fn chain(
        depth: usize,
        parts: &[u32],
        a: *const R,
        b: *const R,
        rows: usize,
        width: usize,
        tile: *mut R,
    );

    /// dst[k·width + i] = src[i·pitch + k] for k < 8 and i < 8, with zeros for i ≥ lines.
    ///
    /// # Safety
    /// The machine has the instruction set; `lines` lines of src have 8 values, and 8 values at each dst[k·width]
    /// may be written.
    #[inline(always)]
    unsafe fn transpose<T: Elem<Acc = R>>(
        src: *const T,
        pitch: usize,
        lines: usize,
        dst: *mut R,
        width: usize,
    ) {
        for k in 0..8 {
            for i in 0..8 {
                // SAFETY: the caller's promise.
                unsafe {
                    *dst.add(k * width + i) =
                        if i < lines { (*src.add(i * pitch + k)).load() } else { R::ZERO }
                };
            }
        }
    }
}

/// Plain Rust for any number type, vectorised by the compiler.
pub(super) struct Portable;

const ROWS: usize = 4;
const COLS: usize = 16;

impl<R: Real> Kernel<R> for Portable {
    const MR: usize = ROWS;
    const NR: usize = COLS;
    const LANES: usize = COLS;

    #[inline(always)]
    fn enter(work: impl Work) {
        #[cfg(target_arch = "x86_64")]
        match simd::isa() {
            Isa::Avx512 => return <super::x86::Avx512 as Kernel<f32>>::enter(work),
            Isa::Avx2 => return <super::x86::Avx2 as Kernel<f32>>::enter(work),
            Isa::Portable => {}
        }
        work.run()
    }

    #[inline(always)]
    unsafe fn tile(depth: usize, a: *const R, b: *const R, _rows: usize, _width: usize, tile: *mut R) {
        let mut sums = [[R::ZERO; COLS]; ROWS];
        // SAFETY: the caller's promise; LANES = NR, so width is NR, and tile holds MR·NR values.
        unsafe {
            add_terms(depth, a, b, &mut sums);
            tile.cast::<[[R; COLS]; ROWS]>().write_unaligned(sums);
        }
    }

    #[inline(always)]
    unsafe fn chain(
        depth: usize,
        parts: &[u32],
        a: *const R,
        b: *const R,
        _rows: usize,
        _width: usize,
        tile: *mut R,
    ) {
        let mut sums = [[R::ZERO; COLS]; ROWS];
        // SAFETY: as above; a has these parts.
        unsafe {
            for (i, &part) in parts.iter().enumerate() {
                add_terms(depth, a.add(part as usize * depth * ROWS), b.add(i * depth * COLS), &mut sums);
            }
            tile.cast::<[[R; COLS]; ROWS]>().write_unaligned(sums);
        }
    }
}

/// sums[i][j] += Σ_k a[k·ROWS + i] · b[k·COLS + j]
///
/// # Safety
/// a and b have these values.
#[inline(always)]
unsafe fn add_terms<R: Real>(depth: usize, a: *const R, b: *const R, sums: &mut [[R; COLS]; ROWS]) {
    // SAFETY: the caller's promise.
    let (a, b) =
        unsafe { (std::slice::from_raw_parts(a, depth * ROWS), std::slice::from_raw_parts(b, depth * COLS)) };
    for (a, b) in a.chunks_exact(ROWS).zip(b.chunks_exact(COLS)) {
        for (sums, &x) in sums.iter_mut().zip(a) {
            for (sum, &y) in sums.iter_mut().zip(b) {
                *sum = x.mul_add(y, *sum);
            }
        }
    }
}
