//! One collective of this rank while it is under way.
//!
//! Every rank sends every other a head that says what it called. If what one rank needs of another fits beside it
//! (`SMALL`), the values go along and each rank works alone. Else the values follow in chunks, straight between the
//! buffers where they are only moved, and through staging where they are summed: rank r sums slice r of all ranks,
//! chunk by chunk in rank order, while the next chunk arrives; in an all_reduce it sends each chunk on when it is summed.
//!
//! Lanes of a pair of ranks: `out[0]` and `into[0]` are the first movement, `out[1]` and `into[1]` the sums of an
//! all_reduce on their way back. A sum from rank p comes into slice p of this rank's buffer, whose values p has had
//! by then: its receive is posted when their send is done.

use super::by_library;
use super::cut::{Cut, FAR, NEAR, most, part};
use super::engine::{Event, Token, Wires};
use super::ffi::Outcome;
use super::group::Group;
use super::lane::Lane;
use super::wire::{HEAD, SMALL, read_head, write_head};
use crate::comm::Kind;
use crate::comm::call::{Call, disagreement};
use crate::device::arena::Buffer;
use crate::tensor::Tensor;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

/// A head and what goes along, in words of eight bytes.
pub(super) const SLOT: usize = (HEAD + SMALL) / 8;

/// What a collective works on.
pub enum Values {
    Tensor(Tensor),
    Words(Vec<u64>),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Stage {
    /// Heads or values are missing.
    Moving,
    Done,
    /// The ranks did not call the same: who, and what.
    Failed(usize, String),
}

#[derive(Clone, Copy, Default)]
pub(super) struct Peer {
    pub(super) out: [Lane; 2],
    pub(super) into: [Lane; 2],
    /// Chunks taken out of staging.
    pub(super) taken: u32,
}

pub struct Flight {
    pub group: Arc<Group>,
    pub sequence: u64,
    pub call: Call,
    pub stage: Stage,
    /// When something last arrived.
    pub moved: Instant,
    /// Nobody will come for it.
    pub dropped: bool,
    /// None when it was taken back.
    pub(super) values: Option<Values>,
    pub(super) base: *mut u8,
    pub(super) heads: Box<[Option<Call>]>,
    pub(super) small: bool,
    /// A slot for each rank: heads to send, heads that arrived.
    outbox: Vec<u64>,
    pub(super) inbox: Vec<u64>,
    pub(super) peers: Box<[Peer]>,
    /// Values of a chunk.
    pub(super) chunk: usize,
    /// Chunks of each other rank that staging holds.
    pub(super) slots: usize,
    pub(super) cut: Cut,
    staging: Option<Buffer>,
    /// Chunks of the own slice that are summed.
    pub(super) summed: u32,
    /// Requests under way.
    pub(super) open: usize,
    /// Its turn, if the library does it, and whether the library has it.
    pub(super) library: Option<u64>,
    given: bool,
}
// SAFETY: `base` points into `values`, which the flight owns and MPI alone touches while requests are open.
unsafe impl Send for Flight {}

impl Flight {
    /// `largest`: bytes of a message at most.
    pub fn new(group: Arc<Group>, sequence: u64, call: Call, mut values: Values, largest: usize) -> Flight {
        let (n, me) = (group.members.len(), group.me);
        let base = match &mut values {
            Values::Tensor(t) => t.bytes_mut().as_mut_ptr(),
            Values::Words(words) => words.as_mut_ptr().cast(),
        };
        let possible = call.refusal(n).is_none();
        let small = part(&call, n) <= SMALL;
        let library = group.library.is_some()
            && by_library::does(&call, n)
            && group.process.share().has(&group.axis, &call);
        let cut = if group.spans_hosts() { FAR } else { NEAR };
        let ours = possible && !library;
        let (chunk, slots) = if ours { cut.sizes(&call, n, largest) } else { (0, 0) };
        let staged = match (library, ours) {
            (true, _) => by_library::staging(&call, n),
            (_, true) => most(&call, n, largest),
            _ => 0,
        };
        let staging = match &values {
            Values::Tensor(t) if staged > 0 => Some(t.staging(staged)),
            _ => None,
        };
        let mut flight = Flight {
            sequence,
            stage: Stage::Moving,
            moved: Instant::now(),
            dropped: false,
            values: Some(values),
            base,
            heads: (0..n).map(|_| None).collect(),
            small,
            outbox: vec![],
            inbox: vec![],
            peers: vec![Peer::default(); n].into(),
            chunk,
            slots,
            cut,
            staging,
            summed: 0,
            open: 0,
            library: library.then(|| group.queue()),
            given: false,
            group,
            call,
        };
        flight.heads[me] = Some(flight.call.clone());
        if chunk > 0 {
            (0..n).filter(|&p| p != me).for_each(|p| flight.peers[p] = flight.lanes(p));
        }
        flight
    }

    pub(super) fn n(&self) -> usize {
        self.group.members.len()
    }
    pub(super) fn bytes(&self, values: usize) -> usize {
        values * self.call.dtype.bytes()
    }
    pub(super) fn slice(&self, r: usize) -> Range<usize> {
        self.call.slice(r, self.n())
    }
    /// The others, each rank beginning with its neighbour, so that no rank is everyone's first.
    pub(super) fn others(&self) -> impl Iterator<Item = usize> + use<> {
        let (n, me) = (self.n(), self.group.me);
        (1..n).map(move |i| (me + i) % n)
    }

    /// What is moved between this rank and p.
    fn lanes(&self, p: usize) -> Peer {
        let chunks = |values: usize| Lane::new(values.div_ceil(self.chunk));
        let none = Lane::default();
        let (mine, theirs) = (chunks(self.slice(self.group.me).len()), chunks(self.slice(p).len()));
        let (out, into) = match self.call.kind {
            Kind::AllReduce => ([theirs, mine], [mine, theirs]),
            Kind::ReduceScatter => ([theirs, none], [mine, none]),
            Kind::AllGather => ([mine, none], [theirs, none]),
            Kind::AllToAll => ([theirs, none], [theirs, none]),
            Kind::Broadcast => {
                let all = chunks(self.call.len);
                let lane = |is: bool| [if is { all } else { none }, none];
                (lane(self.parent(p) == Some(self.group.me)), lane(self.parent(self.group.me) == Some(p)))
            }
            Kind::Barrier | Kind::Split => ([none; 2], [none; 2]),
        };
        Peer { out, into, taken: 0 }
    }

    /// Whom a rank has a broadcast from: the tree in which rank root + i hears from root + i without i's lowest bit.
    pub(super) fn parent(&self, r: usize) -> Option<usize> {
        let i = (r + self.n() - self.call.root) % self.n();
        (i != 0).then(|| ((i & (i - 1)) + self.call.root) % self.n())
    }

    /// Bytes of the part that goes along with the head from rank a to rank b.
    pub(super) fn along(&self, a: usize, b: usize) -> Range<usize> {
        let of = |r: Range<usize>| self.bytes(r.start)..self.bytes(r.end);
        if !self.small || self.call.refusal(self.n()).is_some() {
            return 0..0;
        }
        match self.call.kind {
            Kind::AllReduce | Kind::Split => of(0..self.call.len),
            Kind::ReduceScatter | Kind::AllToAll => of(self.slice(b)),
            Kind::AllGather => of(self.slice(a)),
            Kind::Broadcast if a == self.call.root => of(0..self.call.len),
            Kind::Broadcast | Kind::Barrier => 0..0,
        }
    }

    /// Sends this rank's heads and prepares for those of the others.
    pub fn begin(&mut self, id: u32, wires: &mut Wires) -> Outcome<()> {
        let (n, me) = (self.n(), self.group.me);
        (self.outbox, self.inbox) = (wires.words(n * SLOT), wires.words(n * SLOT));
        let tag = wires.tag(&self.group, self.sequence, 0);
        for p in self.others() {
            let rank = self.group.members[p];
            let along = self.along(me, p);
            let slot: &mut [u8] = bytemuck::cast_slice_mut(&mut self.outbox[p * SLOT..][..SLOT]);
            write_head(self.group.id, self.sequence, &self.call, slot);
            // SAFETY: the range lies in the buffer, which nobody writes now.
            let values = unsafe { std::slice::from_raw_parts(self.base.add(along.start), along.len()) };
            slot[HEAD..HEAD + along.len()].copy_from_slice(values);
            let at = slot.as_ptr();
            // SAFETY: outbox and inbox stay as long as the flight, which stays until no request is open.
            unsafe {
                let head = self.inbox.as_mut_ptr().add(p * SLOT).cast();
                let receive = wires.data.receive(head, 8 * SLOT, Some(rank), tag)?;
                wires.requests.add(receive, Token::Flight(id, Event::Head(p)));
                self.open += 1;
                let send = wires.data.send(at, HEAD + along.len(), rank, tag)?;
                wires.requests.add(send, Token::Flight(id, Event::Sent));
                self.open += 1;
            }
        }
        self.advance(id, wires)
    }

    /// A request is done.
    pub fn on(&mut self, event: Event) -> Outcome<()> {
        self.open -= 1;
        match event {
            Event::Sent => return Ok(()),
            Event::Head(p) => {
                let slot: &[u8] = bytemuck::cast_slice(&self.inbox[p * SLOT..][..SLOT]);
                let head = read_head(self.group.id, self.sequence, slot);
                let rank = self.group.members[p];
                self.heads[p] = Some(head.ok_or_else(|| {
                    format!("a message from rank {rank} is not of collective {}", self.sequence)
                })?);
            }
            Event::Out(p, stage, chunk) => self.peers[p].out[stage as usize].complete(chunk),
            Event::Into(p, stage, chunk) => self.peers[p].into[stage as usize].complete(chunk),
            Event::Library => {}
        }
        self.moved = Instant::now();
        Ok(())
    }

    /// Whether a rank has said what it called.
    pub fn head(&self, r: usize) -> Option<&Call> {
        self.heads[r].as_ref()
    }

    /// Ranks of the group for which this one waits, and whether they have started it.
    pub fn missing(&self) -> Vec<(usize, bool)> {
        let behind = |&p: &usize| self.heads[p].is_none() || !self.peers[p].into.iter().all(Lane::ended);
        let found: Vec<usize> = self.others().filter(behind).collect();
        // Sends that nobody takes.
        let unsent = |&p: &usize| !self.peers[p].out.iter().all(Lane::ended);
        let found = if found.is_empty() { self.others().filter(unsent).collect() } else { found };
        // Who has not started keeps those waiting who have.
        let absent = found.iter().any(|&p| self.heads[p].is_none());
        let mut found: Vec<_> = found.into_iter().map(|p| (p, self.heads[p].is_some())).collect();
        found.retain(|&(_, started)| !(absent && started));
        found.sort_unstable();
        found
    }

    /// Does what can be done now.
    pub fn advance(&mut self, id: u32, wires: &mut Wires) -> Outcome<()> {
        if self.stage != Stage::Moving {
            return Ok(());
        }
        if self.chunk > 0 {
            self.fold();
            for p in self.others() {
                self.post(id, p, wires)?;
            }
        }
        if self.heads.iter().any(|h| h.is_none()) {
            return Ok(());
        }
        let calls: Vec<&Call> = self.heads.iter().flatten().collect();
        if let Some((rank, problem)) = disagreement(&calls, &self.group.members) {
            let problem = format!("{problem}, as collective {} of {}", self.sequence, self.group.axis);
            self.stage = Stage::Failed(rank, problem);
            return Ok(());
        }
        if !self.given && self.library.is_some_and(|turn| self.group.is_turn(turn)) {
            self.start_library(id, wires)?;
        }
        let lanes = |p: &Peer| p.out.iter().chain(&p.into).all(Lane::ended);
        let taken = |p: &Peer| self.call.kind != Kind::AllToAll || p.taken == p.into[0].total;
        if self.open == 0
            && self.given == self.library.is_some()
            && self.peers.iter().all(|p| lanes(p) && taken(p))
        {
            self.finish();
            wires.recycle([&mut self.outbox, &mut self.inbox].map(std::mem::take));
            self.staging = None;
            self.stage = Stage::Done;
        }
        Ok(())
    }

    fn start_library(&mut self, id: u32, wires: &mut Wires) -> Outcome<()> {
        let Some(link) = self.group.library else {
            return Err("the group has no link of the library".into());
        };
        let (place, staging) = ((self.group.me, self.n()), self.staged());
        // SAFETY: buffer and staging have the sizes of the call, and stay until the request is done.
        let request = unsafe { by_library::start(link, &self.call, place, self.base, staging)? };
        wires.requests.add(request, Token::Flight(id, Event::Library));
        self.open += 1;
        self.given = true;
        self.group.next_turn();
        Ok(())
    }

    pub(super) fn staged(&mut self) -> *mut u8 {
        self.staging.as_mut().expect("it was taken at the start").bytes_mut().as_mut_ptr()
    }

    /// The buffer, or for a split what all ranks gave, by rank. Once.
    pub fn values(&mut self) -> Option<Values> {
        self.values.take()
    }
}
