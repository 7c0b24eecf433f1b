//! Byte-pair merges within one word: the pair of neighbours with the least rank is joined first, the leftmost of equal
//! ones, until no pair has a rank (Sennrich et al. 2016, arXiv 1508.07909, section 3.2).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// (left, right) -> (rank, joined), open addressing with linear probing.
pub(super) struct Merges {
    keys: Vec<u64>,
    values: Vec<(u32, u32)>,
    shift: u32,
}

const FREE: u64 = u64::MAX;
/// Words of more symbols use a heap; below, scanning for the least rank is faster.
const SHORT: usize = 48;

impl Merges {
    /// In order of rank; of equal pairs the last one counts. Ids are below 2^31.
    pub fn new(merges: &[([u32; 2], u32)]) -> Merges {
        let slots = (merges.len().max(8) * 3).next_power_of_two();
        let mut table = Merges {
            keys: vec![FREE; slots],
            values: vec![(0, 0); slots],
            shift: 64 - slots.trailing_zeros(),
        };
        for (rank, &(pair, joined)) in merges.iter().enumerate() {
            let key = key(pair[0], pair[1]);
            let slot = table.slot(key);
            (table.keys[slot], table.values[slot]) = (key, (rank as u32, joined));
        }
        table
    }

    #[inline]
    fn slot(&self, key: u64) -> usize {
        let mut slot = (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift) as usize;
        while self.keys[slot] != key && self.keys[slot] != FREE {
            slot = (slot + 1) & (self.keys.len() - 1);
        }
        slot
    }

    #[inline]
    fn get(&self, left: u32, right: u32) -> Option<(u32, u32)> {
        let key = key(left, right);
        let slot = self.slot(key);
        (self.keys[slot] == key).then(|| self.values[slot])
    }

    /// Merges `symbols` in place.
    pub fn apply(&self, symbols: &mut Vec<u32>, scratch: &mut Scratch) {
        if symbols.len() <= SHORT { self.scan(symbols, scratch) } else { self.heap(symbols) }
    }

    fn scan(&self, symbols: &mut Vec<u32>, scratch: &mut Scratch) {
        let next = |a: u32, b: u32| self.get(a, b).unwrap_or(NONE);
        let pairs = &mut scratch.pairs;
        pairs.clear();
        pairs.extend(symbols.windows(2).map(|w| next(w[0], w[1])));
        loop {
            let mut least = (NONE.0, 0);
            for (i, pair) in pairs.iter().enumerate() {
                if pair.0 < least.0 {
                    least = (pair.0, i);
                }
            }
            let (rank, i) = least;
            if rank == NONE.0 {
                return;
            }
            symbols[i] = pairs[i].1;
            symbols.remove(i + 1);
            pairs.remove(i);
            if i < pairs.len() {
                pairs[i] = next(symbols[i], symbols[i + 1]);
            }
            if i > 0 {
                pairs[i - 1] = next(symbols[i - 1], symbols[i]);
            }
        }
    }

    fn heap(&self, symbols: &mut Vec<u32>) {
        let n = symbols.len();
        let mut after: Vec<u32> = (1..=n as u32).collect();
        let mut before: Vec<u32> = (0..n as u32).map(|i| i.wrapping_sub(1)).collect();
        // A symbol that was joined to the one before it is GONE.
        let mut queue = BinaryHeap::with_capacity(n);
        let push = |queue: &mut BinaryHeap<_>, symbols: &[u32], at: u32, next: u32| {
            if let Some((rank, joined)) = self.get(symbols[at as usize], symbols[next as usize]) {
                queue.push(Reverse((rank, at, joined)));
            }
        };
        for i in 1..n as u32 {
            push(&mut queue, symbols, i - 1, i);
        }
        while let Some(Reverse((_, at, joined))) = queue.pop() {
            let next = after[at as usize];
            if symbols[at as usize] == GONE || next as usize >= n {
                continue;
            }
            // What a pair joins to tells it apart from any later pair of the same place, which is longer.
            if self.get(symbols[at as usize], symbols[next as usize]).is_none_or(|(_, j)| j != joined) {
                continue;
            }
            symbols[at as usize] = joined;
            symbols[next as usize] = GONE;
            let beyond = after[next as usize];
            after[at as usize] = beyond;
            if (beyond as usize) < n {
                before[beyond as usize] = at;
                push(&mut queue, symbols, at, beyond);
            }
            if at > 0 {
                push(&mut queue, symbols, before[at as usize], at);
            }
        }
        symbols.retain(|&s| s != GONE);
    }
}

const NONE: (u32, u32) = (u32::MAX, 0);
const GONE: u32 = u32::MAX;

#[inline]
fn key(left: u32, right: u32) -> u64 {
    u64::from(left) << 32 | u64::from(right)
}

#[derive(Default)]
pub(super) struct Scratch {
    pairs: Vec<(u32, u32)>,
}
