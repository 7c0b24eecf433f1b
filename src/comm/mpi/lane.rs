//! Which chunks of one transfer, from one rank to another, are posted and done. Several are under way at a time and
//! may end in any order; what follows them wants to know how many are done from the first on.

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lane {
    /// All chunks.
    pub total: u32,
    /// The next to post.
    pub posted: u32,
    /// Done without a gap.
    pub done: u32,
    /// Bit i: chunk done + i is done.
    beyond: u64,
}

impl Lane {
    pub fn new(total: usize) -> Lane {
        let total = u32::try_from(total).expect("chunks of one transfer");
        Lane { total, ..Lane::default() }
    }
    pub fn ended(&self) -> bool {
        self.done == self.total
    }
    /// The next chunk, if one may be posted: fewer than `window` are under way, and it lies below `limit`.
    pub fn post(&mut self, window: u32, limit: u32) -> Option<u32> {
        let free = self.posted < self.total.min(limit) && self.posted - self.done < window.min(64);
        free.then(|| {
            self.posted += 1;
            self.posted - 1
        })
    }
    pub fn complete(&mut self, chunk: u32) {
        assert!((self.done..self.posted).contains(&chunk), "chunk {chunk} of {self:?}");
        self.beyond |= 1 << (chunk - self.done);
        let whole = self.beyond.trailing_ones();
        self.done += whole;
        self.beyond = self.beyond.checked_shr(whole).unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_end_in_any_order_and_count_from_the_first() {
        let mut lane = Lane::new(5);
        assert_eq!(
            [lane.post(3, 9), lane.post(3, 9), lane.post(3, 9), lane.post(3, 9)],
            [Some(0), Some(1), Some(2), None]
        );
        lane.complete(1);
        assert_eq!((lane.done, lane.post(3, 9)), (0, None));
        lane.complete(0);
        assert_eq!(
            (lane.done, lane.post(3, 3), lane.post(3, 9), lane.post(3, 9)),
            (2, None, Some(3), Some(4))
        );
        [4, 2, 3].into_iter().for_each(|chunk| lane.complete(chunk));
        assert!(lane.ended() && lane.post(3, 9).is_none());
        let mut full = Lane::new(64);
        (0..64).for_each(|i| assert_eq!(full.post(64, 64), Some(i)));
        (0..64).rev().for_each(|i| full.complete(i));
        assert!(full.ended());
    }
}
