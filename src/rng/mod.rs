//! Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//!
//! A value is a function of (seed, stream name, index, update) and of nothing else: no state, rank, thread or
//! micro-batch enters, so any part of any tensor can be drawn alone, in any order, and gives the same bits.
//!
//! ```text
//! key     = mix64(seed xor xxh3_64(stream name)), low word first; mix64 is the finaliser of SplitMix64
//! counter = (block low, block high, update low, update high), block = index / 4, value = lane index % 4
//! ```
//!
//! `update` is the optimizer update or the epoch where a stream has one, else 0. Normals are `inverse_normal` of the
//! uniform, always computed here, also for a GPU.

mod normal;

pub use normal::inverse_normal;
use xxhash_rust::xxh3::xxh3_64;

const MULTIPLIER: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;
/// Blocks that a fill computes at a time, and their elements: enough for the widest vectors.
const BLOCKS: usize = 16;
const AT_ONCE: usize = 4 * BLOCKS;

/// Φ(−2) and Φ(2) − Φ(−2): what truncation at two standard deviations cuts off below and keeps.
const BELOW_2: f64 = 0.022_750_131_948_179_21;
const WITHIN_2: f64 = 0.954_499_736_103_641_6;

/// One named stream of random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Philox {
    key: [u32; 2],
}

impl Philox {
    /// Stream names are part of what a seed means: renaming a stream changes its numbers.
    pub fn new(seed: u64, stream: &str) -> Philox {
        let key = mix64(seed ^ xxh3_64(stream.as_bytes()));
        Philox { key: [key as u32, (key >> 32) as u32] }
    }

    /// The two key words, for a device that computes the same rounds.
    pub fn key(&self) -> [u32; 2] {
        self.key
    }

    /// Four words: those of the elements 4·block to 4·block + 3.
    #[inline]
    pub fn block(&self, block: u64, update: u64) -> [u32; 4] {
        let counter = [block as u32, (block >> 32) as u32, update as u32, (update >> 32) as u32];
        philox4x32_10(counter, self.key)
    }

    /// The word of one element.
    #[inline]
    pub fn at(&self, index: u64, update: u64) -> u32 {
        self.block(index / 4, update)[(index % 4) as usize]
    }

    /// 64 bits for one element: the words of the elements 2·index and 2·index + 1, low word first.
    pub fn wide(&self, index: u64, update: u64) -> u64 {
        let words = self.block(index / 2, update);
        let lane = (index % 2) as usize * 2;
        u64::from(words[lane]) | u64::from(words[lane + 1]) << 32
    }

    /// Uniform in (0, 1), ends excluded: (word + ½) / 2³².
    pub fn uniform(&self, index: u64, update: u64) -> f64 {
        open_unit(self.at(index, update))
    }

    /// Standard normal. A word has 2³² values, so |z| ≤ 6.34.
    pub fn normal(&self, index: u64, update: u64) -> f64 {
        normal_of(self.at(index, update))
    }

    /// Standard normal restricted to (−2, 2); its standard deviation is 0.8796, and is left so.
    pub fn truncated_normal(&self, index: u64, update: u64) -> f64 {
        truncated_normal_of(self.at(index, update))
    }

    /// `out[i]` = std · normal(first_index + i, update 0), scaled in f64 and rounded once.
    ///
    /// The fills are compiled for the vectors of their caller (`device::simd`); the bits are the same for all.
    #[inline(always)]
    pub fn fill_normal(&self, first_index: u64, std: f32, out: &mut [f32]) {
        self.fill(
            first_index,
            out,
            #[inline(always)]
            |x| {
                normal::inverse_normals(x);
                x.iter_mut().for_each(|z| *z *= f64::from(std));
            },
        );
    }

    /// `out[i]` = std · truncated_normal(first_index + i, update 0), scaled in f64 and rounded once.
    #[inline(always)]
    pub fn fill_truncated_normal(&self, first_index: u64, std: f32, out: &mut [f32]) {
        self.fill(
            first_index,
            out,
            #[inline(always)]
            |x| {
                x.iter_mut().for_each(|p| *p = BELOW_2 + *p * WITHIN_2);
                normal::inverse_normals(x);
                x.iter_mut().for_each(|z| *z = z.clamp(-2.0, 2.0) * f64::from(std));
            },
        );
    }

    /// `out[i]` = low + (high − low) · uniform(first_index + i, update 0), in f64 and rounded once.
    #[inline(always)]
    pub fn fill_uniform(&self, first_index: u64, low: f32, high: f32, out: &mut [f32]) {
        let (low, span) = (f64::from(low), f64::from(high) - f64::from(low));
        self.fill(
            first_index,
            out,
            #[inline(always)]
            |x| x.iter_mut().for_each(|x| *x = low + span * *x),
        );
    }

    /// `map` turns uniforms in (0, 1) into values, many at a time so that its loops vectorise.
    #[inline(always)]
    fn fill(&self, first_index: u64, out: &mut [f32], map: impl Fn(&mut [f64; AT_ONCE])) {
        let (mut block, mut skip, mut done) = (first_index / 4, (first_index % 4) as usize, 0);
        while done < out.len() {
            let mut values = self.uniforms(block);
            map(&mut values);
            let n = (AT_ONCE - skip).min(out.len() - done);
            for (o, x) in out[done..done + n].iter_mut().zip(&values[skip..]) {
                *o = *x as f32;
            }
            (done, skip, block) = (done + n, 0, block + BLOCKS as u64);
        }
    }

    /// `out[i]` = at(first_index + i, update).
    #[inline(always)]
    pub fn fill_words(&self, first_index: u64, update: u64, out: &mut [u32]) {
        let (mut block, mut skip, mut done) = (first_index / 4, (first_index % 4) as usize, 0);
        while done < out.len() {
            let words = self.words(block, update);
            let n = (AT_ONCE - skip).min(out.len() - done);
            for (i, o) in out[done..done + n].iter_mut().enumerate() {
                *o = words[(skip + i) % 4][(skip + i) / 4];
            }
            (done, skip, block) = (done + n, 0, block + BLOCKS as u64);
        }
    }

    /// Uniforms of the elements of `BLOCKS` blocks, update 0.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // loops over lanes, which vectorise
    fn uniforms(&self, first: u64) -> [f64; AT_ONCE] {
        let counter = self.words(first, 0);
        let mut out = [0.0; AT_ONCE];
        for i in 0..BLOCKS {
            for (lane, words) in counter.iter().enumerate() {
                out[4 * i + lane] = open_unit(words[i]);
            }
        }
        out
    }

    /// The words of `BLOCKS` blocks, lane by lane.
    #[inline(always)]
    #[allow(clippy::needless_range_loop)] // loops over lanes, which vectorise
    fn words(&self, first: u64, update: u64) -> [[u32; BLOCKS]; 4] {
        let block = |i: usize| first + i as u64;
        let (low, high) = (|i| block(i) as u32, |i| (block(i) >> 32) as u32);
        let update = [update as u32, (update >> 32) as u32].map(|word| [word; BLOCKS]);
        let mut counter = [std::array::from_fn(low), std::array::from_fn(high), update[0], update[1]];
        let mut key = self.key;
        for _ in 0..ROUNDS {
            let [c0, c1, c2, c3] = &mut counter;
            for i in 0..BLOCKS {
                [c0[i], c1[i], c2[i], c3[i]] = philox_round([c0[i], c1[i], c2[i], c3[i]], key);
            }
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        counter
    }
}

#[inline]
fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        counter = philox_round(counter, key);
        key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
    }
    counter
}

#[inline(always)]
fn philox_round(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let a = u64::from(MULTIPLIER[0]) * u64::from(counter[0]);
    let b = u64::from(MULTIPLIER[1]) * u64::from(counter[2]);
    [(b >> 32) as u32 ^ counter[1] ^ key[0], b as u32, (a >> 32) as u32 ^ counter[3] ^ key[1], a as u32]
}

/// The finaliser of SplitMix64 (a bijection): seeds of one stream never share a key.
fn mix64(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[inline(always)]
fn open_unit(word: u32) -> f64 {
    (f64::from(word) + 0.5) * (1.0 / 4_294_967_296.0)
}

fn normal_of(word: u32) -> f64 {
    inverse_normal(open_unit(word))
}

fn truncated_normal_of(word: u32) -> f64 {
    // The lowest word gives a p just above Φ(−2); rounding must not let the value leave the interval.
    inverse_normal(BELOW_2 + open_unit(word) * WITHIN_2).clamp(-2.0, 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn philox_gives_the_known_answers_of_random123() {
        // kat_vectors of Random123: philox4x32 10.
        let cases = [
            ([0; 4], [0; 2], [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]),
            (
                [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
                [0xa4093822, 0x299f31d0],
                [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1],
            ),
        ];
        for (counter, key, want) in cases {
            assert_eq!(philox4x32_10(counter, key), want);
        }
    }

    #[test]
    fn key_is_the_documented_mix_of_seed_and_name() {
        // SplitMix64 with state 0 first gives 0xe220a8397b1dcdaf, which is mix64 of its increment.
        assert_eq!(mix64(0x9E37_79B9_7F4A_7C15), 0xe220_a839_7b1d_cdaf);
        let name = xxh3_64(b"init/head.weight");
        assert_eq!(Philox::new(name, "init/head.weight").key(), [0, 0]);
        assert_ne!(Philox::new(1, "a").key(), Philox::new(1, "b").key());
        assert_ne!(Philox::new(1, "a").key(), Philox::new(2, "a").key());
    }

    #[test]
    fn truncation_constants_are_those_of_the_normal_distribution() {
        let below = 0.5 * libm::erfc(std::f64::consts::SQRT_2);
        assert!((BELOW_2 - below).abs() < 1e-17);
        assert!((WITHIN_2 - (1.0 - 2.0 * below)).abs() < 2e-16);
        assert!(truncated_normal_of(0) > -2.0 && truncated_normal_of(u32::MAX) < 2.0);
        assert!(truncated_normal_of(0) < -1.999_999 && truncated_normal_of(u32::MAX) > 1.999_999);
    }

    #[test]
    fn golden_values_do_not_change() {
        let p = Philox::new(1234, "init/blocks.0.attn.q.weight");
        assert_eq!(p.key(), GOLDEN_KEY);
        let words: Vec<u32> = (0..6).map(|i| p.at(i, 7)).collect();
        assert_eq!(words, GOLDEN_WORDS);
        let bits: Vec<u64> = (0..6).map(|i| p.normal(i, 0).to_bits()).collect();
        assert_eq!(bits, GOLDEN_NORMALS);
        let bits: Vec<u64> = (0..3).map(|i| p.truncated_normal(i, 0).to_bits()).collect();
        assert_eq!(bits, GOLDEN_TRUNCATED);
        // The far tails, which six draws do not reach.
        assert_eq!(normal_of(0).to_bits(), GOLDEN_LOWEST);
        assert_eq!(normal_of(1 << 20).to_bits(), GOLDEN_LOW);
    }
    // Computed once by another implementation: CPython's statistics.NormalDist and its xxhash package.
    const GOLDEN_KEY: [u32; 2] = [1296041981, 2935281904];
    const GOLDEN_WORDS: [u32; 6] = [3916537215, 3719407234, 1608334654, 2907868752, 1049855878, 810348561];
    const GOLDEN_NORMALS: [u64; 6] = [
        0xbfd94b38cbc679ca,
        0xbfe2a98cccd3ffa0,
        0xbffb3c672813f73a,
        0xbff14075c9e61d24,
        0xbfd593f9ca02fd9f,
        0x3fe13e4efe2494c1,
    ];
    const GOLDEN_TRUNCATED: [u64; 3] = [0xbfd815e7f85fff7c, 0xbfe1b7d210a29582, 0xbff836f7911f3bba];
    const GOLDEN_LOWEST: u64 = 0xc0195a1198fcf3d5;
    const GOLDEN_LOW: u64 = 0xc00be596c509b3ee;

    #[test]
    fn normals_have_the_moments_and_tails_of_the_normal_distribution() {
        let n = 1_000_000;
        let p = Philox::new(5, "moments");
        let mut z = vec![0f32; n];
        p.fill_normal(0, 1.0, &mut z);
        let moment = |k: i32| z.iter().map(|&z| f64::from(z).powi(k)).sum::<f64>() / n as f64;
        // Standard errors at n = 10⁶: mean 0.001, square 0.0014, cube 0.0039, fourth power 0.0098.
        assert!(moment(1).abs() < 0.004 && (moment(2) - 1.0).abs() < 0.006);
        assert!(moment(3).abs() < 0.016 && (moment(4) - 3.0).abs() < 0.04);
        for (limit, want) in [(1.0f32, 0.317_310_5), (2.0, 0.045_500_3), (3.0, 0.002_699_8), (4.0, 6.334e-5)]
        {
            let share = z.iter().filter(|z| z.abs() > limit).count() as f64 / n as f64;
            let error = libm::sqrt(want * (1.0 - want) / n as f64);
            assert!((share - want).abs() < 4.0 * error, "beyond {limit}: {share}, expected {want}");
        }
        // Neighbouring elements share a Philox block and must not be correlated.
        for lag in 1..=4 {
            let sum: f64 = z.windows(lag + 1).map(|w| f64::from(w[0]) * f64::from(w[lag])).sum();
            assert!((sum / n as f64).abs() < 0.004, "lag {lag}");
        }
        p.fill_truncated_normal(0, 1.0, &mut z);
        let square = z.iter().map(|&z| f64::from(z) * f64::from(z)).sum::<f64>() / n as f64;
        assert!(z.iter().all(|z| z.abs() <= 2.0));
        assert!((square - 0.773_741_3).abs() < 0.004, "variance of the truncated normal: {square}");
    }

    #[test]
    fn any_piece_of_a_fill_equals_the_whole() {
        let p = Philox::new(9, "pieces");
        let mut whole = vec![0f32; 64];
        p.fill_normal(1_000_003, 0.02, &mut whole);
        for start in 0..9 {
            for len in 0..12 {
                let mut piece = vec![0f32; len];
                p.fill_normal(1_000_003 + start as u64, 0.02, &mut piece);
                assert_eq!(piece, whole[start..start + len]);
            }
        }
        // Values drawn many at a time are those drawn alone, in the centre and in the tails.
        let mut many = vec![0f32; 5000];
        p.fill_normal(1_000_003, 0.02, &mut many);
        for (i, x) in many.iter().enumerate() {
            assert_eq!(*x, (p.normal(1_000_003 + i as u64, 0) * f64::from(0.02f32)) as f32);
        }
        p.fill_uniform(0, -2.0, 3.0, &mut whole);
        assert_eq!(whole[9], (-2.0 + 5.0 * p.uniform(9, 0)) as f32);
    }
}
