//! The inverse of the normal distribution function: Wichura, "Algorithm AS 241: the percentage points of the normal
//! distribution", Applied Statistics 37 (1988), PPND16, relative error about 1e-16.
//!
//! Plain f64 arithmetic, square root and the logarithm of the `libm` crate: the same bits on every platform, whatever
//! its mathematics library.

// The constants keep the digits that were published.
#![allow(clippy::excessive_precision)]

/// Where the centre ends: beyond it |q| = |p − ½| belongs to a tail.
const CENTRAL: f64 = 0.425;

/// The z with Φ(z) = p, for 0 < p < 1 (AS 241).
pub fn inverse_normal(p: f64) -> f64 {
    if (p - 0.5).abs() <= CENTRAL { centre(p - 0.5) } else { tail(p) }
}

/// Replaces each p by its z, the same bits as `inverse_normal`: the centre, six in seven of them, without branches.
#[inline(always)]
pub(super) fn inverse_normals<const N: usize>(x: &mut [f64; N]) {
    let p = *x;
    for (z, p) in x.iter_mut().zip(&p) {
        *z = centre(p - 0.5);
    }
    for (z, p) in x.iter_mut().zip(&p) {
        if (p - 0.5).abs() > CENTRAL {
            *z = tail(*p);
        }
    }
}

#[inline(always)]
fn centre(q: f64) -> f64 {
    ratio(q, 0.180_625 - q * q, &CENTRE)
}

fn tail(p: f64) -> f64 {
    let below = p < 0.5;
    let r = libm::sqrt(-libm::log(if below { p } else { 1.0 - p }));
    let z = if r <= 5.0 { ratio(1.0, r - 1.6, &MIDDLE) } else { ratio(1.0, r - 5.0, &FAR) };
    if below { -z } else { z }
}

#[inline(always)]
fn ratio(scale: f64, r: f64, [top, bottom]: &[[f64; 8]; 2]) -> f64 {
    let (mut above, mut below) = (top[7], bottom[7]);
    for i in (0..7).rev() {
        above = above * r + top[i];
        below = below * r + bottom[i];
    }
    scale * above / below
}

/// Numerators and denominators of AS 241, constant term first.
const CENTRE: [[f64; 8]; 2] = [
    [
        3.387_132_872_796_366_608_0e0,
        1.331_416_678_917_843_774_5e2,
        1.971_590_950_306_551_442_7e3,
        1.373_169_376_550_946_112_5e4,
        4.592_195_393_154_987_145_7e4,
        6.726_577_092_700_870_085_3e4,
        3.343_057_558_358_812_810_5e4,
        2.509_080_928_730_122_672_7e3,
    ],
    [
        1.0,
        4.231_333_070_160_091_125_2e1,
        6.871_870_074_920_579_083_0e2,
        5.394_196_021_424_751_107_7e3,
        2.121_379_430_158_659_586_7e4,
        3.930_789_580_009_271_061_0e4,
        2.872_908_573_572_194_267_4e4,
        5.226_495_278_852_854_561_0e3,
    ],
];
const MIDDLE: [[f64; 8]; 2] = [
    [
        1.423_437_110_749_683_577_34e0,
        4.630_337_846_156_545_295_90e0,
        5.769_497_221_460_691_405_50e0,
        3.647_848_324_763_204_605_04e0,
        1.270_458_252_452_368_382_58e0,
        2.417_807_251_774_506_117_70e-1,
        2.272_384_498_926_918_458_33e-2,
        7.745_450_142_783_414_076_40e-4,
    ],
    [
        1.0,
        2.053_191_626_637_758_821_87e0,
        1.676_384_830_183_803_849_40e0,
        6.897_673_349_851_000_045_50e-1,
        1.481_039_764_274_800_745_90e-1,
        1.519_866_656_361_645_719_66e-2,
        5.475_938_084_995_344_946_00e-4,
        1.050_750_071_644_416_843_24e-9,
    ],
];
const FAR: [[f64; 8]; 2] = [
    [
        6.657_904_643_501_103_777_20e0,
        5.463_784_911_164_114_369_90e0,
        1.784_826_539_917_291_335_80e0,
        2.965_605_718_285_048_912_30e-1,
        2.653_218_952_657_612_309_30e-2,
        1.242_660_947_388_078_438_60e-3,
        2.711_555_568_743_487_578_15e-5,
        2.010_334_399_292_288_132_65e-7,
    ],
    [
        1.0,
        5.998_322_065_558_879_376_90e-1,
        1.369_298_809_227_358_053_10e-1,
        1.487_536_129_085_061_485_25e-2,
        7.868_691_311_456_132_591_00e-4,
        1.846_318_317_510_054_681_80e-5,
        1.421_511_758_316_445_888_70e-7,
        2.044_263_103_389_939_785_64e-15,
    ],
];

#[cfg(test)]
mod tests {
    use super::inverse_normal;

    #[test]
    fn inverse_normal_agrees_with_the_error_function_everywhere() {
        let phi = |z: f64| 0.5 * libm::erfc(-z / std::f64::consts::SQRT_2);
        for i in 1..20_000 {
            let p = f64::from(i) / 20_000.0;
            let error = (phi(inverse_normal(p)) - p).abs() / p.min(1.0 - p);
            assert!(error < 2e-14, "p {p}: relative error {error}");
        }
        for exponent in 5..300 {
            let p = libm::pow(10.0, -f64::from(exponent));
            let error = (phi(inverse_normal(p)) / p - 1.0).abs();
            assert!(error < 1e-12, "p {p}: relative error {error}");
        }
        assert_eq!(inverse_normal(0.5), 0.0);
    }
}
