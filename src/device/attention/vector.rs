//! One register of numbers, so that the product of tiles is written once: the compiler does not reliably keep a block
//! of accumulators in registers when it has to find the vectors itself.

use super::gemm::LANES;
use crate::device::{Elem, Real};

/// # Safety
/// Pointers must allow `WIDTH` elements, of any alignment, and the machine must have the instructions.
pub trait Vector: Copy {
    type Item: Real;
    const WIDTH: usize;
    unsafe fn splat(x: Self::Item) -> Self;
    unsafe fn load(from: *const Self::Item) -> Self;
    /// As load, of numbers as they are stored.
    unsafe fn widen<T: Elem<Acc = Self::Item>>(from: *const T) -> Self;
    unsafe fn store(self, to: *mut Self::Item);
    /// self + a·b, rounded once; where a and b hold pairs, self + a₁·b₁ + a₀·b₀ of their halves, the high ones first.
    unsafe fn fma(self, a: Self, b: Self) -> Self;
    unsafe fn plus(self, other: Self) -> Self;
}

/// For any number and machine.
#[derive(Clone, Copy)]
pub struct Portable<A>([A; LANES]);

impl<A: Real> Vector for Portable<A> {
    type Item = A;
    const WIDTH: usize = LANES;
    #[inline(always)]
    unsafe fn splat(x: A) -> Self {
        Portable([x; LANES])
    }
    #[inline(always)]
    unsafe fn load(from: *const A) -> Self {
        // SAFETY: the caller's pointer allows LANES elements; they are aligned as elements.
        Portable(unsafe { *(from as *const [A; LANES]) })
    }
    #[inline(always)]
    unsafe fn widen<T: Elem<Acc = A>>(from: *const T) -> Self {
        // SAFETY: as in load.
        Portable(unsafe { *(from as *const [T; LANES]) }.map(T::load))
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut A) {
        // SAFETY: as in load.
        unsafe { *(to as *mut [A; LANES]) = self.0 }
    }
    #[inline(always)]
    unsafe fn fma(self, a: Self, b: Self) -> Self {
        Portable(std::array::from_fn(|l| a.0[l].mul_add(b.0[l], self.0[l])))
    }
    #[inline(always)]
    unsafe fn plus(self, other: Self) -> Self {
        Portable(std::array::from_fn(|l| self.0[l] + other.0[l]))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::Vector;
    use crate::device::{DType, Elem};
    use std::arch::x86_64::*;

    macro_rules! register {
        ($name:ident, $width:expr, $splat:ident, $load:ident, $store:ident, $fma:ident, $add:ident, $half:ident, $long:ident, $shift:ident, $cast:ident) => {
            impl Vector for $name {
                type Item = f32;
                const WIDTH: usize = $width;
                #[inline(always)]
                unsafe fn splat(x: f32) -> Self {
                    // SAFETY: the caller says that the machine has the instruction.
                    unsafe { $splat(x) }
                }
                #[inline(always)]
                unsafe fn load(from: *const f32) -> Self {
                    // SAFETY: as above, and the pointer allows WIDTH elements.
                    unsafe { $load(from) }
                }
                #[inline(always)]
                unsafe fn widen<T: Elem<Acc = f32>>(from: *const T) -> Self {
                    // SAFETY: as above; what is not f32 is bf16, the upper half of one.
                    unsafe {
                        match T::DTYPE {
                            DType::F32 => $load(from.cast()),
                            _ => $cast($shift::<16>($long($half(from.cast())))),
                        }
                    }
                }
                #[inline(always)]
                unsafe fn store(self, to: *mut f32) {
                    // SAFETY: as in load.
                    unsafe { $store(to, self) }
                }
                #[inline(always)]
                unsafe fn fma(self, a: Self, b: Self) -> Self {
                    // SAFETY: as in splat.
                    unsafe { $fma(a, b, self) }
                }
                #[inline(always)]
                unsafe fn plus(self, other: Self) -> Self {
                    // SAFETY: as in splat.
                    unsafe { $add(self, other) }
                }
            }
        };
    }
    register!(
        __m512,
        16,
        _mm512_set1_ps,
        _mm512_loadu_ps,
        _mm512_storeu_ps,
        _mm512_fmadd_ps,
        _mm512_add_ps,
        _mm256_loadu_si256,
        _mm512_cvtepu16_epi32,
        _mm512_slli_epi32,
        _mm512_castsi512_ps
    );
    register!(
        __m256,
        8,
        _mm256_set1_ps,
        _mm256_loadu_ps,
        _mm256_storeu_ps,
        _mm256_fmadd_ps,
        _mm256_add_ps,
        _mm_loadu_si128,
        _mm256_cvtepu16_epi32,
        _mm256_slli_epi32,
        _mm256_castsi256_ps
    );

    /// Numbers whose 32 bits are two bf16 (`tile::pair`); sums are f32.
    #[derive(Clone, Copy)]
    pub struct Pairs(__m512);

    impl Vector for Pairs {
        type Item = f32;
        const WIDTH: usize = 16;
        #[inline(always)]
        unsafe fn splat(x: f32) -> Self {
            // SAFETY: the caller says that the machine has the instruction.
            Pairs(unsafe { _mm512_set1_ps(x) })
        }
        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: as above, and the pointer allows WIDTH elements.
            Pairs(unsafe { _mm512_loadu_ps(from) })
        }
        #[inline(always)]
        unsafe fn widen<T: Elem<Acc = f32>>(_from: *const T) -> Self {
            unreachable!("pairs are not widened")
        }
        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: as in load.
            unsafe { _mm512_storeu_ps(to, self.0) }
        }
        #[inline(always)]
        unsafe fn fma(self, a: Self, b: Self) -> Self {
            // SAFETY: as in splat; both types are 512 bits without invalid values.
            unsafe {
                let [a, b]: [__m512bh; 2] = std::mem::transmute([a.0, b.0]);
                Pairs(_mm512_dpbf16_ps(self.0, a, b))
            }
        }
        #[inline(always)]
        unsafe fn plus(self, other: Self) -> Self {
            // SAFETY: as in splat.
            Pairs(unsafe { _mm512_add_ps(self.0, other.0) })
        }
    }
}

#[cfg(target_arch = "x86_64")]
pub use x86::Pairs;
