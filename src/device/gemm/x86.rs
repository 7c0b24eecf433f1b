//! Register kernels for AVX-512 (8 × 48) and AVX2 with FMA (6 × 16), in f32; and with AVX512_BF16 for pairs of bf16.
//!
//! 8 × 48 is 24 accumulators of 16 lanes: each k costs 3 loads and 8 broadcasts for 24 multiply-adds, which one load
//! port with half the width of the multiply-adders can feed (Zen 4), and covers the latency of two of them (Intel).

use super::kernel::{Kernel, Work};
use crate::device::{DType, Elem, Real};
use std::arch::x86_64::*;
use std::hint::black_box;

pub(super) struct Avx512;
pub(super) struct Avx2;
/// Dot products of bf16 pairs: on some machines (Zen 4) twice as many multiply-adds as in f32, on others half as many.
pub(super) struct Dots;

/// One register tile of V vectors by M rows, kept in registers by unrolling both loops.
macro_rules! register_tile {
    ($name:ident, $chain:ident, $features:literal, $vector:ty, $lanes:literal, $mr:literal, $nr:literal,
     $zero:ident, $load:ident, $set1:ident, $fma:ident, $store:ident) => {
        /// # Safety
        /// As `Kernel::tile` with rows ≤ M and width = V vectors.
        #[target_feature(enable = $features)]
        unsafe fn $name<const M: usize, const V: usize>(
            depth: usize,
            mut a: *const f32,
            mut b: *const f32,
            tile: *mut f32,
        ) {
            let mut sums = [[$zero(); V]; M];
            for _ in 0..depth {
                // SAFETY: the caller's promise: MR values of a and V vectors of b for each k.
                unsafe {
                    let y: [$vector; V] = std::array::from_fn(|j| $load(b.add(j * $lanes)));
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let x = $set1(*a.add(i));
                        for (sum, &y) in sums.iter_mut().zip(&y) {
                            *sum = $fma(x, y, *sum);
                        }
                    }
                    a = a.add($mr);
                    b = b.add(V * $lanes);
                }
            }
            for (i, sums) in sums.iter().enumerate() {
                for (j, &sum) in sums.iter().enumerate() {
                    // SAFETY: tile holds MR·NR values.
                    unsafe { $store(tile.add(i * $nr + j * $lanes), sum) };
                }
            }
        }

        /// # Safety
        /// As `Kernel::chain` with rows ≤ M and width = V vectors.
        #[target_feature(enable = $features)]
        unsafe fn $chain<const M: usize, const V: usize>(
            depth: usize,
            parts: &[u32],
            a: *const f32,
            mut b: *const f32,
            tile: *mut f32,
        ) {
            let mut sums = [[$zero(); V]; M];
            for &part in parts {
                // SAFETY: the caller's promise: this part of a, and V vectors of b for each k.
                unsafe {
                    let mut a = a.add(part as usize * depth * $mr);
                    for _ in 0..depth {
                        let y: [$vector; V] = std::array::from_fn(|j| $load(b.add(j * $lanes)));
                        for (i, sums) in sums.iter_mut().enumerate() {
                            let x = $set1(*a.add(i));
                            for (sum, &y) in sums.iter_mut().zip(&y) {
                                *sum = $fma(x, y, *sum);
                            }
                        }
                        a = a.add($mr);
                        b = b.add(V * $lanes);
                    }
                }
            }
            for (i, sums) in sums.iter().enumerate() {
                for (j, &sum) in sums.iter().enumerate() {
                    // SAFETY: tile holds MR·NR values.
                    unsafe { $store(tile.add(i * $nr + j * $lanes), sum) };
                }
            }
        }
    };
}

register_tile!(
    tile512,
    chain512,
    "avx512f",
    __m512,
    16,
    8,
    48,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_set1_ps,
    _mm512_fmadd_ps,
    _mm512_storeu_ps
);
register_tile!(
    tile256,
    chain256,
    "avx2,fma",
    __m256,
    8,
    6,
    16,
    _mm256_setzero_ps,
    _mm256_loadu_ps,
    _mm256_set1_ps,
    _mm256_fmadd_ps,
    _mm256_storeu_ps
);

register_tile!(
    tile_dots,
    chain_dots,
    "avx512f,avx512bf16",
    __m512,
    16,
    8,
    48,
    _mm512_setzero_ps,
    _mm512_loadu_ps,
    _mm512_set1_ps,
    dots,
    _mm512_storeu_ps
);

/// sum + x₁·y₁ + x₀·y₀ of the halves of each lane.
#[target_feature(enable = "avx512f,avx512bf16")]
#[inline]
fn dots(x: __m512, y: __m512, sum: __m512) -> __m512 {
    // SAFETY: both types are 512 bits without invalid values.
    let [x, y]: [__m512bh; 2] = unsafe { std::mem::transmute([x, y]) };
    _mm512_dpbf16_ps(sum, x, y)
}

/// The tile of up to 8 rows and 48 columns, in as few registers as hold it.
macro_rules! tile_of {
    ($tile:ident, $depth:ident, $a:ident, $b:ident, $rows:ident, $width:ident, $to:ident) => {
        match ($rows, $width) {
            (5.., 33..) => $tile::<8, 3>($depth, $a, $b, $to),
            (5.., 17..) => $tile::<8, 2>($depth, $a, $b, $to),
            (5.., _) => $tile::<8, 1>($depth, $a, $b, $to),
            (3.., 33..) => $tile::<4, 3>($depth, $a, $b, $to),
            (3.., 17..) => $tile::<4, 2>($depth, $a, $b, $to),
            (3.., _) => $tile::<4, 1>($depth, $a, $b, $to),
            (_, 33..) => $tile::<2, 3>($depth, $a, $b, $to),
            (_, 17..) => $tile::<2, 2>($depth, $a, $b, $to),
            (_, _) => $tile::<2, 1>($depth, $a, $b, $to),
        }
    };
}

/// The chain of up to 8 rows and 32 columns.
macro_rules! chain_of {
    ($chain:ident, $depth:ident, $parts:ident, $a:ident, $b:ident, $rows:ident, $width:ident, $to:ident) => {
        match ($rows, $width) {
            (5.., 17..) => $chain::<8, 2>($depth, $parts, $a, $b, $to),
            (5.., _) => $chain::<8, 1>($depth, $parts, $a, $b, $to),
            (3.., 17..) => $chain::<4, 2>($depth, $parts, $a, $b, $to),
            (3.., _) => $chain::<4, 1>($depth, $parts, $a, $b, $to),
            (_, 17..) => $chain::<2, 2>($depth, $parts, $a, $b, $to),
            (_, _) => $chain::<2, 1>($depth, $parts, $a, $b, $to),
        }
    };
}

impl<R: Real> Kernel<R> for Avx512 {
    const MR: usize = 8;
    const NR: usize = 48;
    const LANES: usize = 16;
    const CHAIN: usize = 32;

    #[inline(always)]
    fn enter(work: impl Work) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        fn inner(work: impl Work) {
            work.run()
        }
        // SAFETY: this kernel is chosen only where `simd::isa` found these features.
        unsafe { inner(work) }
    }

    #[inline(always)]
    unsafe fn chain(
        depth: usize,
        parts: &[u32],
        a: *const R,
        b: *const R,
        rows: usize,
        width: usize,
        tile: *mut R,
    ) {
        assert_eq!(R::DTYPE, DType::F32);
        let (a, b, tile) = (a.cast(), b.cast(), tile.cast());
        // SAFETY: the caller's promise, and R is f32.
        unsafe { chain_of!(chain512, depth, parts, a, b, rows, width, tile) }
    }

    #[inline(always)]
    unsafe fn tile(depth: usize, a: *const R, b: *const R, rows: usize, width: usize, tile: *mut R) {
        assert_eq!(R::DTYPE, DType::F32);
        let (a, b, tile) = (a.cast(), b.cast(), tile.cast());
        // SAFETY: the caller's promise, and R is f32. Rows above the last are computed from the padding and dropped.
        unsafe { tile_of!(tile512, depth, a, b, rows, width, tile) }
    }

    #[inline(always)]
    unsafe fn transpose<T: Elem<Acc = R>>(
        src: *const T,
        pitch: usize,
        lines: usize,
        dst: *mut R,
        width: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe { transpose256(src, pitch, lines, dst, width) }
    }
}

impl<R: Real> Kernel<R> for Dots {
    const MR: usize = 8;
    const NR: usize = 48;
    const LANES: usize = 16;
    const CHAIN: usize = 32;
    const DEEP: usize = 2;

    #[inline(always)]
    fn enter(work: impl Work) {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
        fn inner(work: impl Work) {
            work.run()
        }
        // SAFETY: this kernel is chosen only where `peak::dots_are_faster` found this one.
        unsafe { inner(work) }
    }

    #[inline(always)]
    unsafe fn chain(
        depth: usize,
        parts: &[u32],
        a: *const R,
        b: *const R,
        rows: usize,
        width: usize,
        tile: *mut R,
    ) {
        assert_eq!(R::DTYPE, DType::F32);
        let (a, b, tile) = (a.cast(), b.cast(), tile.cast());
        // SAFETY: the caller's promise, what is packed are 32 bits, pairs of bf16.
        unsafe { chain_of!(chain_dots, depth, parts, a, b, rows, width, tile) }
    }

    #[inline(always)]
    unsafe fn tile(depth: usize, a: *const R, b: *const R, rows: usize, width: usize, tile: *mut R) {
        assert_eq!(R::DTYPE, DType::F32);
        let (a, b, tile) = (a.cast(), b.cast(), tile.cast());
        // SAFETY: the caller's promise; what is packed are 32 bits, pairs of bf16.
        unsafe { tile_of!(tile_dots, depth, a, b, rows, width, tile) }
    }
}

impl<R: Real> Kernel<R> for Avx2 {
    const MR: usize = 6;
    const NR: usize = 16;
    const LANES: usize = 8;

    #[inline(always)]
    fn enter(work: impl Work) {
        #[target_feature(enable = "avx2,fma")]
        fn inner(work: impl Work) {
            work.run()
        }
        // SAFETY: this kernel is chosen only where `simd::isa` found these features.
        unsafe { inner(work) }
    }

    #[inline(always)]
    unsafe fn chain(
        depth: usize,
        parts: &[u32],
        a: *const R,
        b: *const R,
        rows: usize,
        width: usize,
        tile: *mut R,
    ) {
        assert_eq!((R::DTYPE, width), (DType::F32, 16));
        let (a, b, tile) = (a.cast(), b.cast(), tile.cast());
        // SAFETY: the caller's promise, and R is f32.
        unsafe {
            match rows {
                4.. => chain256::<6, 2>(depth, parts, a, b, tile),
                _ => chain256::<3, 2>(depth, parts, a, b, tile),
            }
        }
    }

    #[inline(always)]
    unsafe fn tile(depth: usize, a: *const R, b: *const R, rows: usize, width: usize, tile: *mut R) {
        assert_eq!(R::DTYPE, DType::F32);
        let (a, b, tile) = (a.cast(), b.cast(), tile.cast());
        // SAFETY: the caller's promise, and R is f32. Rows above the last are computed from the padding and dropped.
        unsafe {
            match (rows, width) {
                (4.., 9..) => tile256::<6, 2>(depth, a, b, tile),
                (4.., _) => tile256::<6, 1>(depth, a, b, tile),
                (_, 9..) => tile256::<3, 2>(depth, a, b, tile),
                (_, _) => tile256::<3, 1>(depth, a, b, tile),
            }
        }
    }

    #[inline(always)]
    unsafe fn transpose<T: Elem<Acc = R>>(
        src: *const T,
        pitch: usize,
        lines: usize,
        dst: *mut R,
        width: usize,
    ) {
        // SAFETY: the caller's promise.
        unsafe { transpose256(src, pitch, lines, dst, width) }
    }
}

/// `steps` times as many independent dot products of bf16 pairs, all lanes, as `peak` has sums.
///
/// # Safety
/// The machine has AVX512_BF16.
#[target_feature(enable = "avx512f,avx512bf16")]
pub(super) unsafe fn bf16_dots(steps: usize) {
    let half: __m512bh = black_box(_mm512_cvtne2ps_pbh(_mm512_set1_ps(0.5), _mm512_set1_ps(0.5)));
    let mut sums = [_mm512_setzero_ps(); super::peak::SUMS];
    for _ in 0..steps {
        for sum in &mut sums {
            *sum = _mm512_dpbf16_ps(*sum, half, half);
        }
    }
    black_box(sums);
}

/// 8 values as f32.
///
/// # Safety
/// The machine has AVX2; src has 8 values.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn load8<T: Elem>(src: *const T) -> __m256 {
    // SAFETY: the caller's promise.
    unsafe {
        match T::DTYPE {
            DType::F32 => _mm256_loadu_ps(src.cast()),
            DType::Bf16 => {
                let bits = _mm256_cvtepu16_epi32(_mm_loadu_si128(src.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(bits))
            }
            DType::F64 => unreachable!("these kernels compute in f32"),
        }
    }
}

/// `Kernel::transpose` in three rounds of shuffles on 8 registers.
///
/// # Safety
/// As there; the machine has AVX2.
#[target_feature(enable = "avx2")]
unsafe fn transpose256<T: Elem>(src: *const T, pitch: usize, lines: usize, dst: *mut T::Acc, width: usize) {
    assert_eq!(T::Acc::DTYPE, DType::F32);
    // SAFETY: the caller's promise.
    unsafe {
        let mut r = [_mm256_setzero_ps(); 8];
        if lines >= 8 {
            for (i, r) in r.iter_mut().enumerate() {
                *r = load8(src.add(i * pitch));
            }
        } else {
            for (i, r) in r.iter_mut().enumerate().take(lines) {
                *r = load8(src.add(i * pitch));
            }
        }
        store_columns(r, dst.cast(), width);
    }
}

/// dst[p·width + i] = the steps 2p (high half) and 2p + 1 of line i, for p < 8 and i < 8; zeros for i ≥ lines.
///
/// # Safety
/// The machine has AVX2; `lines` lines of src have 16 values, and 8 values at each dst[p·width] may be written.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn transpose_pairs(
    src: *const u16,
    pitch: usize,
    lines: usize,
    dst: *mut u32,
    width: usize,
) {
    // SAFETY: the caller's promise.
    unsafe {
        let load = |i: usize| {
            // In memory the first step of a pair is the low half.
            let two = _mm256_loadu_si256(src.add(i * pitch).cast());
            _mm256_castsi256_ps(_mm256_or_si256(_mm256_slli_epi32::<16>(two), _mm256_srli_epi32::<16>(two)))
        };
        let mut r = [_mm256_setzero_ps(); 8];
        if lines >= 8 {
            for (i, r) in r.iter_mut().enumerate() {
                *r = load(i);
            }
        } else {
            for (i, r) in r.iter_mut().enumerate().take(lines) {
                *r = load(i);
            }
        }
        store_columns(r, dst.cast(), width);
    }
}

/// dst[k·width + i] = r[i][k].
///
/// # Safety
/// The machine has AVX2; 8 values at each dst[k·width] may be written, k < 8.
#[target_feature(enable = "avx2")]
#[inline]
unsafe fn store_columns(r: [__m256; 8], dst: *mut f32, width: usize) {
    // SAFETY: the caller's promise.
    unsafe {
        // Pairs of lines, then fours, then eights; indices are (lines, k within a half).
        let lo = |a, b| _mm256_unpacklo_ps(a, b);
        let hi = |a, b| _mm256_unpackhi_ps(a, b);
        let p = [
            lo(r[0], r[1]),
            hi(r[0], r[1]),
            lo(r[2], r[3]),
            hi(r[2], r[3]),
            lo(r[4], r[5]),
            hi(r[4], r[5]),
            lo(r[6], r[7]),
            hi(r[6], r[7]),
        ];
        let even = |a, b| _mm256_shuffle_ps::<0x44>(a, b);
        let odd = |a, b| _mm256_shuffle_ps::<0xee>(a, b);
        let q = [
            even(p[0], p[2]),
            odd(p[0], p[2]),
            even(p[1], p[3]),
            odd(p[1], p[3]),
            even(p[4], p[6]),
            odd(p[4], p[6]),
            even(p[5], p[7]),
            odd(p[5], p[7]),
        ];
        for k in 0..4 {
            _mm256_storeu_ps(dst.add(k * width), _mm256_permute2f128_ps::<0x20>(q[k], q[k + 4]));
        }
        for k in 0..4 {
            _mm256_storeu_ps(dst.add((k + 4) * width), _mm256_permute2f128_ps::<0x31>(q[k], q[k + 4]));
        }
    }
}
