//! The order `stream`: a keyed permutation of the windows 0..W of a corpus, another one for each epoch.
//!
//! A Feistel network over Z_a × Z_b with a = ⌈√W⌉, b = ⌈W / a⌉ (Black and Rogaway, "Ciphers with arbitrary finite
//! domains", CT-RSA 2002, generalised Feistel) permutes 0..a·b; a result ≥ W is sent through again until it is below
//! (cycle walking; a·b − W < a, so rarely). Round r adds F(half) to the other half, F from Philox(seed,
//! "order/NAME") at (half, 8·epoch + r). No arrays and no state: any position of any epoch costs the same.

use crate::rng::Philox;

const ROUNDS: u64 = 8;

#[derive(Debug, Clone)]
pub struct Order {
    stream: Philox,
    windows: u64,
    a: u64,
    b: u64,
}

impl Order {
    /// `windows`: W, from 1 to 2^48. Other corpora do not enter, so adding one leaves this order as it is.
    pub fn new(seed: u64, corpus: &str, windows: u64) -> Order {
        assert!((1..=1 << 48).contains(&windows), "an order of {windows} windows");
        let root = windows.isqrt();
        let a = if root * root == windows { root } else { root + 1 };
        Order { stream: Philox::new(seed, &format!("order/{corpus}")), windows, a, b: windows.div_ceil(a) }
    }

    pub fn windows(&self) -> u64 {
        self.windows
    }

    /// The window that is the `position`-th of its epoch, position < W.
    pub fn window(&self, epoch: u64, position: u64) -> u64 {
        assert!(position < self.windows, "position {position} of {} windows", self.windows);
        let mut x = position;
        loop {
            x = self.pass(epoch, x);
            if x < self.windows {
                return x;
            }
        }
    }

    fn pass(&self, epoch: u64, x: u64) -> u64 {
        let (mut left, mut right) = (x / self.b, x % self.b);
        for round in (0..ROUNDS).step_by(2) {
            left = (left + self.keyed(epoch, round, right, self.a)) % self.a;
            right = (right + self.keyed(epoch, round + 1, left, self.b)) % self.b;
        }
        left * self.b + right
    }

    /// F: uniform below `bound` to within bound / 2^64.
    fn keyed(&self, epoch: u64, round: u64, half: u64, bound: u64) -> u64 {
        let [low, high, ..] = self.stream.block(half, epoch * ROUNDS + round);
        let word = u64::from(low) | u64::from(high) << 32;
        ((u128::from(word) * u128::from(bound)) >> 64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_epoch_visits_each_window_once() {
        for windows in (1..200).chain([255, 256, 257, 999, 1000, 4096, 65_537]) {
            let order = Order::new(7, "web", windows);
            for epoch in [0, 1, 1 << 40] {
                let mut seen = vec![false; windows as usize];
                for i in 0..windows {
                    let w = order.window(epoch, i) as usize;
                    assert!(!std::mem::replace(&mut seen[w], true), "W {windows}: window {w} twice");
                }
            }
        }
    }

    #[test]
    fn windows_land_on_every_position_equally_often() {
        // Over 4000 epochs, where does window 0 (and the last) land? Chi-square with W − 1 degrees of freedom; the
        // bound is 5 standard deviations above its mean.
        for windows in [2u64, 3, 5, 8, 10, 37] {
            let order = Order::new(3, "web", windows);
            for target in [0, windows - 1] {
                let mut count = vec![0f64; windows as usize];
                for epoch in 0..4000 {
                    let at = (0..windows).find(|&i| order.window(epoch, i) == target).expect("a permutation");
                    count[at as usize] += 1.0;
                }
                let want = 4000.0 / windows as f64;
                let chi: f64 = count.iter().map(|c| (c - want) * (c - want) / want).sum();
                let freedom = (windows - 1) as f64;
                assert!(chi < freedom + 5.0 * (2.0 * freedom).sqrt(), "W {windows}: chi-square {chi}");
            }
        }
    }

    #[test]
    fn neighbours_are_scattered() {
        // Mean distance of two random windows is W / 3; Feistel networks with too few rounds keep neighbours near.
        let order = Order::new(3, "web", 100_000);
        let steps = (0..20_000).map(|i| order.window(0, i).abs_diff(order.window(0, i + 1)) as f64);
        let mean = steps.sum::<f64>() / 20_000.0;
        assert!((mean / 100_000.0 - 1.0 / 3.0).abs() < 0.01, "mean distance {mean}");
        let same_row =
            (0..20_000).filter(|&i| order.window(0, i) / 317 == order.window(0, i + 1) / 317).count();
        assert!((20..120).contains(&same_row), "{same_row} neighbours in one row of 317; about 63 expected");
    }

    #[test]
    fn epochs_seeds_and_names_give_different_orders() {
        let first = |seed, name, epoch| -> Vec<u64> {
            let order = Order::new(seed, name, 1000);
            (0..20).map(|i| order.window(epoch, i)).collect()
        };
        let base = first(1, "web", 0);
        assert_eq!(base, first(1, "web", 0));
        for other in [first(1, "web", 1), first(2, "web", 0), first(1, "laws", 0)] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn the_largest_corpus_works_and_golden_positions_do_not_change() {
        let order = Order::new(1234, "web", (1 << 48) - 59);
        let windows: Vec<u64> = (0..3).map(|i| order.window(5, i)).collect();
        assert!(windows.iter().all(|&w| w < order.windows()));
        assert_eq!(windows, GOLDEN_LARGE);
        let order = Order::new(1234, "web", 10);
        assert_eq!((0..10).map(|i| order.window(0, i)).collect::<Vec<_>>(), GOLDEN_TEN);
    }
    // Computed once by a separate implementation in another language.
    const GOLDEN_LARGE: [u64; 3] = [222152803310961, 124179810195877, 205260172482624];
    const GOLDEN_TEN: [u64; 10] = [5, 8, 2, 3, 7, 1, 6, 4, 9, 0];
}
