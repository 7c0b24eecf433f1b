//! The movement of values in a flight: chunks between the ranks' buffers and through staging, sums in rank order, and
//! what came along with the heads.

use super::by_library;
use super::cut::is_staged;
use super::engine::{Event, Token, Wires};
use super::ffi::Outcome;
use super::flight::{Flight, SLOT, Values};
use super::wire::HEAD;
use crate::comm::Kind;
use crate::comm::call::Call;
use crate::comm::reduce::reduce;
use std::ops::Range;

impl Flight {
    /// Posts the next chunks from and to p.
    pub fn post(&mut self, id: u32, p: usize, wires: &mut Wires) -> Outcome<()> {
        let (me, rank) = (self.group.me, self.group.members[p]);
        // Before its head is here, p's messages may not be what they should.
        let agreed = self.heads[p].as_ref() == Some(&self.call);
        let staged = is_staged(self.call.kind);
        // A broadcast hands on what has arrived.
        let parent = if self.call.kind == Kind::Broadcast { self.parent(me) } else { None };
        let ready = parent.map_or(u32::MAX, |q| self.peers[q].into[0].done);
        for stage in 0..2u8 {
            let s = stage as usize;
            let tag = wires.tag(&self.group, self.sequence, stage);
            let limit = if stage == 0 { ready } else { self.summed };
            while let Some(chunk) = self.peers[p].out[s].post(self.cut.window(wires.far), limit) {
                let range = self.range(p, stage, chunk, false);
                // SAFETY: the values are not written before the send is done: they are this rank's own slice after
                // its sum, or what p needs, which is overwritten when the send is known to be done.
                let send = unsafe {
                    let at = self.base.add(range.start);
                    wires.data.send_as(at, range.len(), rank, tag, self.cut.matched)?
                };
                wires.requests.add(send, Token::Flight(id, Event::Out(p, stage, chunk)));
                self.open += 1;
                wires.far += self.cut.matched as u32;
            }
            let limit = match (stage, staged) {
                _ if !agreed => 0,
                (0, true) if self.call.kind == Kind::AllToAll => self.peers[p].taken + self.slots as u32,
                (0, true) => self.summed + self.slots as u32,
                (0, false) => u32::MAX,
                _ => self.peers[p].out[0].done,
            };
            while let Some(chunk) = self.peers[p].into[s].post(self.cut.window(0), limit) {
                let range = self.range(p, stage, chunk, true);
                let at = match stage == 0 && staged {
                    true => self.slot(p, chunk),
                    // SAFETY: within the buffer.
                    false => unsafe { self.base.add(range.start) },
                };
                // SAFETY: the place is free: a slot of staging whose values were taken, or values that come from p
                // alone.
                let receive = unsafe { wires.data.receive(at, range.len(), Some(rank), tag)? };
                wires.requests.add(receive, Token::Flight(id, Event::Into(p, stage, chunk)));
                self.open += 1;
            }
        }
        Ok(())
    }

    /// Bytes of the buffer that a chunk to or from p is of.
    fn range(&self, p: usize, stage: u8, chunk: u32, into: bool) -> Range<usize> {
        let me = self.group.me;
        let slice = match (self.call.kind, stage, into) {
            (Kind::Broadcast, ..) => 0..self.call.len,
            (Kind::AllGather, _, false) => self.slice(me),
            (Kind::AllGather, _, true) => self.slice(p),
            (Kind::AllToAll, ..) => self.slice(p),
            (_, 0, false) | (_, 1, true) => self.slice(p),
            _ => self.slice(me),
        };
        let r = self.of_slice(slice, chunk);
        self.bytes(r.start)..self.bytes(r.end)
    }

    fn of_slice(&self, slice: Range<usize>, chunk: u32) -> Range<usize> {
        let start = slice.start + chunk as usize * self.chunk;
        start..(start + self.chunk).min(slice.end)
    }

    /// Where a chunk from p waits.
    fn slot(&mut self, p: usize, chunk: u32) -> *mut u8 {
        let (n, me) = (self.n(), self.group.me);
        let place = (p + n - me - 1) % n * self.slots + chunk as usize % self.slots;
        let offset = place * self.bytes(self.chunk);
        // SAFETY: there are slots for all others.
        unsafe { self.staged().add(offset) }
    }

    /// Sums the chunks that have come from all ranks, or puts in place what an all_to_all had to wait with.
    pub fn fold(&mut self) {
        let me = self.group.me;
        let total = self.slice(me).len().div_ceil(self.chunk) as u32;
        match self.call.kind {
            Kind::AllReduce | Kind::ReduceScatter => {
                while self.summed < total && self.others().all(|p| self.peers[p].into[0].done > self.summed) {
                    let range = self.of_slice(self.slice(me), self.summed);
                    // SAFETY: within the buffer.
                    let own = unsafe { self.base.add(self.bytes(range.start)) };
                    let chunk = self.summed;
                    let sources: Vec<*mut u8> =
                        (0..self.n()).map(|r| if r == me { own } else { self.slot(r, chunk) }).collect();
                    let Call { dtype, reduce: by, .. } = self.call;
                    // SAFETY: the receives into these slots are done, and the slice is this rank's alone.
                    unsafe { reduce(&[own], &sources, 0..range.len(), dtype, by) };
                    self.summed += 1;
                }
            }
            Kind::AllToAll => {
                for p in self.others() {
                    let (sent, come) = (self.peers[p].out[0].done, self.peers[p].into[0].done);
                    while self.peers[p].taken < sent.min(come) {
                        let chunk = self.peers[p].taken;
                        let range = self.range(p, 0, chunk, true);
                        let from = self.slot(p, chunk);
                        // SAFETY: what lay there is sent, what comes there has arrived in another place.
                        unsafe {
                            std::ptr::copy_nonoverlapping(from, self.base.add(range.start), range.len());
                        }
                        self.peers[p].taken += 1;
                    }
                }
            }
            _ => {}
        }
    }

    /// Works on what came along with the heads.
    pub fn finish(&mut self) {
        let (n, me) = (self.n(), self.group.me);
        if self.library.is_some() {
            let staging = self.staged();
            // SAFETY: the library is done with both.
            unsafe { by_library::finish(&self.call, (me, n), self.base, staging) };
        }
        if !self.small {
            return;
        }
        let own = self.base;
        let inbox = self.inbox.as_mut_ptr().cast::<u8>();
        // SAFETY: the slot of a rank; its part begins after the head.
        let came = |r: usize| unsafe { inbox.add(8 * SLOT * r + HEAD) };
        let Call { kind, dtype, reduce: by, root, .. } = self.call;
        match kind {
            Kind::AllReduce | Kind::ReduceScatter => {
                let at = self.along(me, me);
                // SAFETY: within the buffer.
                let own = unsafe { own.add(at.start) };
                let sources: Vec<*mut u8> = (0..n).map(|r| if r == me { own } else { came(r) }).collect();
                // SAFETY: each source has the values of `at`; parts are aligned to eight bytes.
                unsafe { reduce(&[own], &sources, 0..at.len() / dtype.bytes(), dtype, by) };
            }
            Kind::AllGather | Kind::AllToAll | Kind::Broadcast => {
                for r in self.others().filter(|&r| kind != Kind::Broadcast || r == root) {
                    let at = match kind {
                        Kind::AllGather | Kind::AllToAll => {
                            let s = self.slice(r);
                            self.bytes(s.start)..self.bytes(s.end)
                        }
                        _ => 0..self.call.bytes(),
                    };
                    // SAFETY: r sent as many bytes as these.
                    unsafe { std::ptr::copy_nonoverlapping(came(r), own.add(at.start), at.len()) };
                }
            }
            Kind::Split => {
                // SAFETY: as above; every rank gave as many words.
                let words = |r: usize| unsafe {
                    let at = if r == me { own } else { came(r) };
                    std::slice::from_raw_parts(at.cast::<u64>(), self.call.len)
                };
                self.values = Some(Values::Words((0..n).flat_map(words).copied().collect()));
            }
            Kind::Barrier => {}
        }
    }
}
