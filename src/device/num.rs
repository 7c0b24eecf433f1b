//! The numbers kernels compute with. A kernel is written once, generic over what is stored (`Elem`) and what is
//! computed with (`Real`): f64 is the oracle for finite differences, f32 and bf16 are the product.
//!
//! `mul_add` and `exp` give the same bits on every instruction set, so a result does not depend on the machine's
//! vector width as long as the kernel fixes its lanes.

use half::bf16;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DType {
    F64,
    F32,
    Bf16,
}

impl DType {
    pub const fn bytes(self) -> usize {
        match self {
            DType::F64 => 8,
            DType::F32 => 4,
            DType::Bf16 => 2,
        }
    }
    pub const fn name(self) -> &'static str {
        match self {
            DType::F64 => "f64",
            DType::F32 => "f32",
            DType::Bf16 => "bf16",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A number type that arithmetic is done in: f32 or f64.
pub trait Real:
    Elem<Acc = Self>
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
    + std::iter::Sum
    + std::fmt::Debug
    + std::fmt::Display
{
    const ZERO: Self;
    const ONE: Self;
    const NEG_INFINITY: Self;
    fn of(x: f64) -> Self;
    fn f64(self) -> f64;
    /// self·a + b, rounded once.
    fn mul_add(self, a: Self, b: Self) -> Self;
    fn sqrt(self) -> Self;
    /// e^self. In f32: relative error below 2e-7, 0 below −87.3, vectorised by the compiler.
    fn exp(self) -> Self;
    /// The same for self ≤ 0, or a little above by rounding, in half the instructions. A NaN stays a NaN.
    fn exp_of_negative(self) -> Self;
    fn ln(self) -> Self;
    fn erf(self) -> Self;
    fn max(self, other: Self) -> Self;
    fn abs(self) -> Self;
    fn is_finite(self) -> bool;
    /// In f32 the absolute error is below 2e-7.
    #[inline(always)]
    fn tanh(self) -> Self {
        Self::ONE - Self::of(2.0) / ((self + self).exp() + Self::ONE)
    }
    /// 1/(1 + e^−self)
    #[inline(always)]
    fn sigmoid(self) -> Self {
        Self::ONE / (Self::ONE + (-self).exp())
    }
}

/// A number type that values are stored in: f32, f64 or bf16.
pub trait Elem: Copy + Default + Send + Sync + bytemuck::Pod + 'static {
    type Acc: Real;
    const DTYPE: DType;
    fn load(self) -> Self::Acc;
    /// Rounds to nearest, ties to even.
    fn store(x: Self::Acc) -> Self;
}

impl Elem for f32 {
    type Acc = f32;
    const DTYPE: DType = DType::F32;
    #[inline(always)]
    fn load(self) -> f32 {
        self
    }
    #[inline(always)]
    fn store(x: f32) -> f32 {
        x
    }
}

impl Elem for f64 {
    type Acc = f64;
    const DTYPE: DType = DType::F64;
    #[inline(always)]
    fn load(self) -> f64 {
        self
    }
    #[inline(always)]
    fn store(x: f64) -> f64 {
        x
    }
}

impl Elem for bf16 {
    type Acc = f32;
    const DTYPE: DType = DType::Bf16;
    #[inline(always)]
    fn load(self) -> f32 {
        f32::from_bits((self.to_bits() as u32) << 16)
    }
    /// Branch-free, so that loops over it vectorise; a NaN stays a NaN.
    #[inline(always)]
    fn store(x: f32) -> bf16 {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let nan = (bits >> 16) | 0x40;
        bf16::from_bits(if x.is_nan() { nan } else { rounded } as u16)
    }
}

impl Real for f32 {
    const ZERO: f32 = 0.0;
    const ONE: f32 = 1.0;
    const NEG_INFINITY: f32 = f32::NEG_INFINITY;
    #[inline(always)]
    fn of(x: f64) -> f32 {
        x as f32
    }
    #[inline(always)]
    fn f64(self) -> f64 {
        self as f64
    }
    #[inline(always)]
    fn mul_add(self, a: f32, b: f32) -> f32 {
        f32::mul_add(self, a, b)
    }
    #[inline(always)]
    fn sqrt(self) -> f32 {
        f32::sqrt(self)
    }
    #[inline(always)]
    fn exp(self) -> f32 {
        // x = n·ln 2 + r with |r| ≤ ln 2 / 2; e^r by its Taylor polynomial of degree 7; 2^n through the exponent bits.
        const ROUND: f32 = 12582912.0; // 1.5·2^23: adding it leaves the nearest integer in the low bits
        let x = if self > 88.72 { 88.72 } else { self };
        let x = if x < -87.33 { -87.33 } else { x };
        let shifted = f32::mul_add(x, std::f32::consts::LOG2_E, ROUND);
        let n = shifted - ROUND;
        let r = f32::mul_add(n, -0.693_359_4, x);
        let r = f32::mul_add(n, 2.121_944_4e-4, r);
        let mut p = 1.0 / 5040.0;
        p = f32::mul_add(p, r, 1.0 / 720.0);
        p = f32::mul_add(p, r, 1.0 / 120.0);
        p = f32::mul_add(p, r, 1.0 / 24.0);
        p = f32::mul_add(p, r, 1.0 / 6.0);
        p = f32::mul_add(p, r, 0.5);
        p = f32::mul_add(p, r, 1.0);
        p = f32::mul_add(p, r, 1.0);
        // Two factors, so that n = 128 does not overflow before the product does.
        let k = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
        let half = k >> 1;
        let scale = |k: i32| f32::from_bits(((k + 127) << 23) as u32);
        let y = p * scale(half) * scale(k - half);
        let y = if self < -87.33 { 0.0 } else { y };
        let y = if self > 88.72 { f32::INFINITY } else { y };
        if self.is_nan() { self } else { y }
    }
    #[inline(always)]
    fn exp_of_negative(self) -> f32 {
        // As `exp`; (e^r − 1 − r)/r² by its Chebyshev interpolant, which keeps e^0 = 1 exactly.
        const ROUND: f32 = 12582912.0;
        let shifted = f32::mul_add(self, std::f32::consts::LOG2_E, ROUND);
        let n = shifted - ROUND;
        let r = f32::mul_add(n, -0.693_359_4, self);
        let r = f32::mul_add(n, 2.121_944_4e-4, r);
        let mut p = 0.001_392_625;
        for c in [0.008_363_233, 0.041_666_552, 0.166_665_76, 0.5, 1.0, 1.0] {
            p = f32::mul_add(p, r, c);
        }
        // The shift drops all of ROUND. A product, since adding to the exponent would turn some NaN into numbers.
        let y = p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
        if self < -87.0 { 0.0 } else { y }
    }
    #[inline(always)]
    fn ln(self) -> f32 {
        f32::ln(self)
    }
    #[inline(always)]
    fn erf(self) -> f32 {
        // Chebyshev fit of erfc, fractional error 1.2e-7 (Numerical Recipes, section 6.2).
        const C: [f32; 10] = [
            0.170_872_77,
            -0.822_152_23,
            1.488_515_9,
            -1.135_204,
            0.278_868_07,
            -0.186_288_06,
            0.096_784_18,
            0.374_091_96,
            1.000_023_7,
            -1.265_512_2,
        ];
        let z = f32::abs(self);
        let t = 1.0 / f32::mul_add(0.5, z, 1.0);
        let mut p = C[0];
        for c in &C[1..] {
            p = f32::mul_add(p, t, *c);
        }
        let erfc = t * Real::exp(f32::mul_add(-z, z, p));
        // Near zero 1 − erfc cancels: there the Taylor series.
        let s = self * self;
        let mut q = 1.0 / 1320.0;
        q = f32::mul_add(-q, s, 1.0 / 216.0);
        q = f32::mul_add(-q, s, 1.0 / 42.0);
        q = f32::mul_add(-q, s, 0.1);
        q = f32::mul_add(-q, s, 1.0 / 3.0);
        q = f32::mul_add(-q, s, 1.0);
        let small = self * q * std::f32::consts::FRAC_2_SQRT_PI;
        let large = f32::copysign(1.0 - erfc, self);
        if z < 0.5 { small } else { large }
    }
    #[inline(always)]
    fn max(self, other: f32) -> f32 {
        if self > other { self } else { other }
    }
    #[inline(always)]
    fn abs(self) -> f32 {
        f32::abs(self)
    }
    #[inline(always)]
    fn is_finite(self) -> bool {
        f32::is_finite(self)
    }
}

impl Real for f64 {
    const ZERO: f64 = 0.0;
    const ONE: f64 = 1.0;
    const NEG_INFINITY: f64 = f64::NEG_INFINITY;
    #[inline(always)]
    fn of(x: f64) -> f64 {
        x
    }
    #[inline(always)]
    fn f64(self) -> f64 {
        self
    }
    #[inline(always)]
    fn mul_add(self, a: f64, b: f64) -> f64 {
        f64::mul_add(self, a, b)
    }
    #[inline(always)]
    fn sqrt(self) -> f64 {
        f64::sqrt(self)
    }
    #[inline(always)]
    fn exp(self) -> f64 {
        libm::exp(self)
    }
    #[inline(always)]
    fn exp_of_negative(self) -> f64 {
        libm::exp(self)
    }
    #[inline(always)]
    fn ln(self) -> f64 {
        libm::log(self)
    }
    #[inline(always)]
    fn erf(self) -> f64 {
        libm::erf(self)
    }
    #[inline(always)]
    fn max(self, other: f64) -> f64 {
        if self > other { self } else { other }
    }
    #[inline(always)]
    fn abs(self) -> f64 {
        f64::abs(self)
    }
    #[inline(always)]
    fn is_finite(self) -> bool {
        f64::is_finite(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f32_functions_are_close_to_f64_ones() {
        for i in -9000..8870 {
            let x = i as f64 * 0.01;
            let (e, want) = (Real::exp(x as f32) as f64, (x as f32 as f64).exp());
            assert!((e - want).abs() <= 3e-7 * want + 1e-37, "exp({x}) = {e}, not {want}");
            let (e, want) = (Real::erf(x as f32) as f64, libm::erf(x as f32 as f64));
            assert!((e - want).abs() <= 2e-7, "erf({x}) = {e}, not {want}");
            let (e, want) = (Real::tanh(x as f32) as f64, (x as f32 as f64).tanh());
            assert!((e - want).abs() <= 2e-7, "tanh({x}) = {e}, not {want}");
        }
        assert_eq!(Real::exp(f32::NEG_INFINITY), 0.0);
        assert!(Real::exp(f32::NAN).is_nan());
    }

    #[test]
    fn the_short_exponential_is_close_to_the_long_one() {
        let exp = |x: f32| x.exp_of_negative();
        for i in 0..870_000 {
            let x = i as f32 * -1e-4 + 0.1;
            let (got, want) = (exp(x) as f64, (x as f64).exp());
            assert!((got - want).abs() <= 2e-7 * want, "exp({x}) = {got}, not {want}");
        }
        assert_eq!([0.0, -1000.0, f32::NEG_INFINITY].map(exp), [1.0, 0.0, 0.0]);
        assert!(exp(f32::NAN).is_nan() && exp(f32::from_bits(0x7fc0_0001)).is_nan());
    }

    #[test]
    fn bf16_store_rounds_like_half() {
        for i in 0..200_000u32 {
            let x = f32::from_bits(i.wrapping_mul(21_491));
            if !x.is_nan() {
                assert_eq!(<bf16 as Elem>::store(x).to_bits(), bf16::from_f32(x).to_bits(), "{x}");
            }
        }
    }
}
