//! NumPy's legacy generator and shuffle: `numpy.random.RandomState(seed).shuffle(array)`.
//!
//! MT19937 (Matsumoto and Nishimura 1998) with Knuth's initialiser; Fisher-Yates from the end, each index drawn as the
//! lowest bits of a word that cover the bound, again until it is not above it.

const N: usize = 624;
const M: usize = 397;

#[derive(Clone)]
pub struct RandomState {
    words: [u32; N],
    next: usize,
}

impl RandomState {
    pub fn new(seed: u32) -> RandomState {
        let mut words = [seed; N];
        for i in 1..N {
            let before = words[i - 1];
            words[i] = 1_812_433_253u32.wrapping_mul(before ^ (before >> 30)).wrapping_add(i as u32);
        }
        RandomState { words, next: N }
    }

    fn u32(&mut self) -> u32 {
        if self.next == N {
            self.twist();
        }
        let mut y = self.words[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..N {
            let y = (self.words[i] & 0x8000_0000) | (self.words[(i + 1) % N] & 0x7fff_ffff);
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.words[i] = self.words[(i + M) % N] ^ (y >> 1) ^ odd;
        }
        self.next = 0;
    }

    /// Uniform in 0..=most.
    fn interval(&mut self, most: u32) -> u32 {
        let mask = u32::MAX.checked_shr(most.leading_zeros()).unwrap_or(0);
        loop {
            let drawn = self.u32() & mask;
            if drawn <= most {
                return drawn;
            }
        }
    }

    /// At most 2^32 items. Indices are drawn some way ahead of the swaps, so that the swaps, which in a large array all
    /// miss the caches, wait for memory together and not one after another.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        assert!(items.len() <= 1 << 32, "NumPy draws 64-bit indices for {} items", items.len());
        let mut ahead = [0u32; 256];
        let mut left = items.len();
        while left > 1 {
            let count = (left - 1).min(ahead.len());
            for (i, index) in ahead[..count].iter_mut().enumerate() {
                *index = self.interval((left - 1 - i) as u32);
            }
            for (i, &index) in ahead[..count].iter().enumerate() {
                items.swap(left - 1 - i, index as usize);
            }
            left -= count;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xxhash_rust::xxh3::xxh3_64;

    #[test]
    fn shuffles_equal_those_of_numpy() {
        let shuffled = |seed, n: u32| -> Vec<u32> {
            let mut items: Vec<u32> = (0..n).collect();
            RandomState::new(seed).shuffle(&mut items);
            items
        };
        assert_eq!(shuffled(1234, 10), [7, 2, 9, 1, 0, 8, 4, 5, 6, 3]);
        assert!(shuffled(0, 0).is_empty());
        assert_eq!(shuffled(0, 1), [0]);
        for (seed, n, want) in NUMPY {
            let bytes: Vec<u8> = shuffled(seed, n).iter().flat_map(|x| x.to_le_bytes()).collect();
            assert_eq!(xxh3_64(&bytes), want, "seed {seed}, {n} items");
        }
    }

    #[test]
    fn a_second_shuffle_goes_on_where_the_first_stopped() {
        let mut random = RandomState::new(1234);
        let (mut first, mut second): (Vec<u32>, Vec<u32>) = ((0..1000).collect(), (0..10).collect());
        random.shuffle(&mut first);
        random.shuffle(&mut second);
        assert_eq!(second, NUMPY_SECOND);
    }
    // numpy 2.4.6: r = RandomState(seed); a = arange(n, dtype="<u4"); r.shuffle(a); xxhash.xxh3_64_intdigest(a)
    const NUMPY: [(u32, u32, u64); 5] = [
        (0, 2, 0x2fbc593564db792e),
        (1, 257, 0xae64f48fbbca75ea),
        (1234, 100_003, 0xbc0a3525c2c4ca25),
        (4_294_967_295, 65_536, 0xeff383f2093e60b4),
        (77, 1_000_000, 0x166a85dd23456aec),
    ];
    const NUMPY_SECOND: [u32; 10] = [0, 8, 1, 7, 4, 9, 6, 5, 3, 2];
}
