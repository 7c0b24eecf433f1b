//! How transfers that do not go along with the heads are cut into chunks, and what waits in staging.

use super::wire::SMALL;
use crate::comm::Kind;
use crate::comm::call::Call;

/// Bytes of all staging together, before chunks get smaller.
const STAGING: usize = 8 << 20;

/// How large transfers are cut.
#[derive(Clone, Copy)]
pub struct Cut {
    /// Bytes that are summed at a time.
    chunk: usize,
    /// Bytes that are moved at a time without a sum.
    message: usize,
    /// Chunks of each other rank in staging at most; two at least.
    slots: usize,
    /// Chunks of a transfer under way.
    window: u32,
    /// Whether a chunk counts as sent when its receiver has a place for it.
    pub matched: bool,
}

/// Between ranks of one host.
pub const NEAR: Cut = Cut { chunk: 512 << 10, message: 1 << 20, slots: 2, window: 4, matched: false };
/// Over a network. MPI libraries ask the receiver before they send a long message, and over TCP that question and its
/// answer wait behind whatever goes the same way: two ways at a time, each has half of the link. Chunks short enough to
/// be sent unasked have all of it; that they count as sent only then bounds what waits in the library.
pub const FAR: Cut = Cut { chunk: 60 << 10, message: 60 << 10, slots: 64, window: 64, matched: true };

/// Largest part, in bytes, that one rank needs of another.
pub fn part(call: &Call, n: usize) -> usize {
    match call.kind {
        Kind::AllReduce | Kind::Broadcast | Kind::Split => call.bytes(),
        Kind::ReduceScatter | Kind::AllGather | Kind::AllToAll => call.bytes() / n,
        Kind::Barrier => 0,
    }
}

/// Bytes that a collective takes besides its buffer while it is under way, on one of n ranks.
pub fn staging(call: &Call, n: usize) -> usize {
    // The same for both, so that it is known before it is known who is where.
    most(call, n, NEAR.message)
}

/// The same with messages of so many bytes at most.
pub fn most(call: &Call, n: usize, largest: usize) -> usize {
    NEAR.staging(call, n, largest).max(FAR.staging(call, n, largest))
}

impl Cut {
    /// Chunks of a transfer that may be under way, if so many of this rank are over a network. What begins later must not
    /// slow down what is waited for first, but goes on a little: others may wait for it.
    pub fn window(&self, far: u32) -> u32 {
        if self.matched && far >= self.window { 2 } else { self.window }
    }

    /// Values of a chunk (0 where all goes along with the heads), and how many of each other rank staging holds.
    pub fn sizes(&self, call: &Call, n: usize, largest: usize) -> (usize, usize) {
        if n == 1 || part(call, n) <= SMALL {
            return (0, 0);
        }
        let size = call.dtype.bytes();
        let whole = |bytes: usize| bytes.min(largest).max(64) / 64 * 64;
        if !is_staged(call.kind) {
            return (whole(self.message) / size, 0);
        }
        let longest = (call.slice(0, n).len() * size).next_multiple_of(64);
        let slots = (STAGING / (self.chunk * (n - 1))).clamp(2, self.slots);
        let chunk = whole(self.chunk.min(STAGING / (slots * (n - 1)))).min(longest);
        (chunk / size, slots.min(longest.div_ceil(chunk)).max(2))
    }

    fn staging(&self, call: &Call, n: usize, largest: usize) -> usize {
        let (chunk, slots) = self.sizes(call, n, largest);
        chunk * call.dtype.bytes() * slots * (n - 1)
    }
}

/// Whether what comes waits in staging.
pub fn is_staged(kind: Kind) -> bool {
    matches!(kind, Kind::AllReduce | Kind::ReduceScatter | Kind::AllToAll)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comm::Reduce;
    use crate::device::DType;

    #[test]
    fn staging_is_bounded_and_enough_wherever_the_ranks_are() {
        for n in [2, 3, 5, 17, 64, 257] {
            for len in [1 << 10, 100 << 10, 3 << 20, 1 << 30].map(|len: usize| len.next_multiple_of(n)) {
                let kinds = [Kind::AllReduce, Kind::ReduceScatter, Kind::AllToAll, Kind::AllGather];
                for (kind, dtype) in kinds.into_iter().flat_map(|k| [(k, DType::F32), (k, DType::Bf16)]) {
                    let call = Call { kind, reduce: Reduce::Sum, root: 0, dtype, len, what: "".into() };
                    let own = call.slice(0, n).len();
                    for cut in [NEAR, FAR] {
                        let (chunk, slots) = cut.sizes(&call, n, 1 << 30);
                        if part(&call, n) <= SMALL {
                            assert_eq!((chunk, slots), (0, 0));
                            continue;
                        }
                        let bytes = chunk * slots * (n - 1) * dtype.bytes();
                        assert!(chunk > 0 && bytes <= staging(&call, n), "{call} over {n}");
                        if is_staged(kind) {
                            assert!(slots >= 2 && bytes <= STAGING.max(2 * 64 * (n - 1)), "{call} over {n}");
                            // No more than there is.
                            assert!(slots == 2 || (slots - 1) * chunk < own, "{call} over {n}");
                        }
                        // A lane can say of so many chunks that they are done.
                        assert!(cut.window(0) <= 64 && cut.window(u32::MAX) > 0);
                    }
                }
            }
        }
    }
}
