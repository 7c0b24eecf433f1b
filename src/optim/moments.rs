//! Moments in bf16: computed in f32 and rounded up or down at random, in proportion to the distance, so that their mean is right
//! (stochastic rounding, as in arXiv 2010.06192). Rounded to nearest, a second moment with β₂ = 0.999 would stand still:
//! it moves by a thousandth of itself, and bf16 has steps of 1/256.
//!
//! The random bits are those of (tensor, global index, update) and of nothing else, so every topology rounds alike, and a
//! resumed run as one that went on. They do not depend on the seed: they are noise of the arithmetic.

use crate::device::simd;
use crate::rng::Philox;
use half::bf16;
use std::ops::Range;

/// Values widened at a time.
const BLOCK: usize = 512;

/// Calls f(elements, m, v) with the moments in f32, block by block, and rounds what it leaves. `first` is the global index
/// of element 0 of m and v, `update` the update clock.
pub fn widened(
    stream: &Philox,
    first: u64,
    update: u64,
    m: &mut [bf16],
    v: &mut [bf16],
    mut f: impl FnMut(Range<usize>, &mut [f32], &mut [f32]),
) {
    let (mut wide_m, mut wide_v, mut words) = ([0f32; BLOCK], [0f32; BLOCK], [0u32; BLOCK]);
    for start in (0..m.len()).step_by(BLOCK) {
        let n = BLOCK.min(m.len() - start);
        let range = start..start + n;
        let (m, v) = (&mut m[range.clone()], &mut v[range.clone()]);
        let (wide_m, wide_v, words) = (&mut wide_m[..n], &mut wide_v[..n], &mut words[..n]);
        simd(
            #[inline(always)]
            || {
                wide_m.iter_mut().zip(m.iter()).for_each(|(w, x)| *w = widen(*x));
                wide_v.iter_mut().zip(v.iter()).for_each(|(w, x)| *w = widen(*x));
                stream.fill_words(first + start as u64, update, words);
            },
        );
        f(range, wide_m, wide_v);
        simd(
            #[inline(always)]
            || {
                for (((m, v), (wm, wv)), word) in
                    m.iter_mut().zip(v).zip(wide_m.iter().zip(wide_v.iter())).zip(words.iter())
                {
                    *m = round(*wm, word & 0xffff);
                    *v = round(*wv, word >> 16);
                }
            },
        );
    }
}

/// The same with m alone: the random bits are those that it has beside a v.
pub fn widened_one(
    stream: &Philox,
    first: u64,
    update: u64,
    m: &mut [bf16],
    mut f: impl FnMut(Range<usize>, &mut [f32]),
) {
    let mut unused = [bf16::ZERO; BLOCK];
    for (i, m) in m.chunks_mut(BLOCK).enumerate() {
        let (start, v) = (i * BLOCK, &mut unused[..m.len()]);
        widened(stream, first + start as u64, update, m, v, |r, m, _| f(start + r.start..start + r.end, m));
    }
}

#[inline(always)]
fn widen(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

/// To one of the two neighbours in bf16; `random` has 16 bits.
#[inline(always)]
fn round(x: f32, random: u32) -> bf16 {
    let bits = x.to_bits();
    // Infinities and NaN stay what they are.
    let finite = bits & 0x7f80_0000 != 0x7f80_0000;
    let quiet = if bits & 0x007f_ffff != 0 && !finite { 0x0040_0000 } else { 0 };
    bf16::from_bits(((if finite { bits + random } else { bits | quiet }) >> 16) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{Declare, ParamSpec, Shard};

    #[test]
    fn the_mean_of_many_roundings_is_the_value_and_each_is_a_neighbour() {
        let stream = Philox::new(0, "test");
        for x in [1.0f32, 1.001, -3.3e-7, 2.5e12, 1.0e-39, 0.0] {
            let (low, high) = (round(x, 0).to_f32(), round(x, 0xffff).to_f32());
            assert!(low.abs() <= x.abs() && x.abs() <= high.abs() && low.abs() <= high.abs());
            let n = 100_000;
            let sum: f64 =
                (0..n).map(|i| f64::from(round(x, stream.at(i, 0) & 0xffff).to_f32())).sum::<f64>()
                    / n as f64;
            let step = f64::from(high - low).abs();
            assert!((sum - f64::from(x)).abs() <= 0.01 * step, "{x}: {sum}, between {low} and {high}");
        }
        for (x, y) in [(f32::INFINITY, f32::INFINITY), (f32::NEG_INFINITY, f32::NEG_INFINITY)] {
            assert_eq!(round(x, 0xffff).to_f32(), y);
        }
        assert!(round(f32::NAN, 0xffff).is_nan() && round(f32::from_bits(0x7f80_0001), 0).is_nan());
        // Exact values stay, whatever the bits.
        assert!((0..=0xffff).all(|r| round(1.5, r) == bf16::from_f32(1.5)));
    }

    #[test]
    fn every_topology_rounds_an_element_alike() {
        let spec = |shard| ParamSpec::matrix("w", 6, 8, shard, 1.0);
        let values: Vec<f32> = (0..48).map(|i| 0.1 + i as f32 * 0.37).collect();
        let rounded = |shard, rank, size| -> Vec<(u64, bf16)> {
            let mut u = Declare::new(rank, size);
            u.one(spec(shard));
            let dev = crate::device::Device::cpu(1);
            let unit = u.unit("test", &dev, crate::device::DType::F32, crate::params::Dp::SOLO);
            let (p, stream) = (&unit.params[0], Philox::new(0, "w"));
            let mut out = vec![];
            // In two pieces, as tasks cut it.
            let cut = p.range().start + 5;
            for piece in [p.range().start..cut, cut..p.range().end] {
                for (run, first) in p.runs(piece) {
                    let mut m = vec![bf16::ZERO; run.len()];
                    let mut v = m.clone();
                    widened(&stream, first, 9, &mut m, &mut v, |r, m, v| {
                        let own = &values[first as usize + r.start..first as usize + r.end];
                        m.copy_from_slice(own);
                        v.copy_from_slice(own);
                    });
                    out.extend(m.into_iter().enumerate().map(|(i, x)| (first + i as u64, x)));
                }
            }
            out
        };
        let want = rounded(Shard::Replicated, 0, 1);
        assert_eq!(want.iter().map(|w| w.0).collect::<Vec<_>>(), (0..48).collect::<Vec<_>>());
        for shard in [Shard::Rows { unit: 1 }, Shard::Cols { unit: 1 }] {
            let mut got: Vec<_> = (0..2).flat_map(|rank| rounded(shard, rank, 2)).collect();
            got.sort_by_key(|g| g.0);
            assert_eq!(got, want, "{shard:?}");
        }
    }
}
