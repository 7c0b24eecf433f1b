//! All communication of this process, behind one lock: the collectives under way, what other ranks say on the control
//! link, and who failed. Whoever waits drives it; while nobody waits, a thread of its own does (`helper`).

use super::ffi::{Link, Outcome, Request, Requests};
use super::flight::{Flight, Stage};
use super::group::Group;
use super::wire::{CONTROL, Control};
use std::time::Instant;

/// What a request of a flight is.
#[derive(Clone, Copy, Debug)]
pub enum Event {
    /// The head of a rank.
    Head(usize),
    /// A head of ours.
    Sent,
    /// A chunk to or from a rank: stage, number.
    Out(usize, u8, u32),
    Into(usize, u8, u32),
    /// The library's collective.
    Library,
}

pub enum Token {
    Flight(u32, Event),
    /// A control message from any rank.
    Heard,
    /// A control message of ours; it stays until it is sent.
    Said(Box<[u8]>),
}

/// The links, and what is under way on them.
pub struct Wires {
    pub data: Link,
    pub requests: Requests<Token>,
    /// Chunks under way over a network.
    pub far: u32,
    /// How many tags a group has, in bits: stage and sequence.
    tag_bits: u32,
    spare: Vec<Vec<u64>>,
}

/// Collectives of one group that may be under way at once, in bits.
const SEQUENCES: u32 = 8;

impl Wires {
    pub fn new(data: Link) -> Wires {
        Wires { data, requests: Requests::new(), far: 0, tag_bits: data.most_tag().ilog2(), spare: vec![] }
    }
    /// Groups that can be told apart.
    pub fn groups(&self) -> u64 {
        1 << (self.tag_bits - SEQUENCES - 1)
    }
    pub fn tag(&self, group: &Group, sequence: u64, stage: u8) -> i32 {
        let sequence = (sequence & ((1 << SEQUENCES) - 1)) as i32;
        ((group.id as i32) << SEQUENCES | sequence) << 1 | stage as i32
    }
    /// Memory with arbitrary content.
    pub fn words(&mut self, len: usize) -> Vec<u64> {
        let found = self.spare.iter().position(|v| v.len() == len);
        found.map_or_else(|| vec![0; len], |i| self.spare.swap_remove(i))
    }
    pub fn recycle(&mut self, words: [Vec<u64>; 2]) {
        if self.spare.len() < 32 {
            self.spare.extend(words);
        }
    }
}

/// What is known of a rank of the world.
#[derive(Clone, Default)]
pub struct Peer {
    /// The last call heard of, and when.
    pub last: Option<(String, Instant)>,
    /// The last run that returned on it.
    pub done: u64,
    /// When it said so.
    pub done_at: Option<Instant>,
    /// Its program ends: code and error.
    pub end: Option<(i32, String)>,
}

/// Exit code of a run that lost a rank.
pub const LOST: i32 = 5;

/// Who ended the run.
#[derive(Clone, Debug)]
pub struct Lost {
    pub rank: usize,
    /// Exit code of all who only heard of it.
    pub code: i32,
    pub problem: String,
    /// Another rank said it.
    pub heard: bool,
}

pub struct Engine {
    pub wires: Wires,
    control: Link,
    rank: usize,
    /// By number; None where a number is free.
    flights: Vec<Option<Box<Flight>>>,
    /// Numbers of flights, in the order in which they began: what began first goes first.
    order: Vec<usize>,
    /// Not done or failed.
    pub active: usize,
    pub peers: Box<[Peer]>,
    pub lost: Option<Lost>,
    /// A person has been told of it.
    pub told: bool,
    pub closed: bool,
    pub next_group: u64,
    pub runs: u64,
    inbox: Box<[u8]>,
    done: Vec<(Token, Outcome<()>)>,
}

impl Engine {
    pub fn new(data: Link, control: Link, rank: usize, size: usize) -> Outcome<Engine> {
        let mut engine = Engine {
            wires: Wires::new(data),
            control,
            rank,
            flights: vec![],
            order: vec![],
            active: 0,
            peers: vec![Peer::default(); size].into(),
            lost: None,
            told: false,
            closed: false,
            next_group: 1,
            runs: 0,
            inbox: vec![0; CONTROL].into(),
            done: vec![],
        };
        engine.listen()?;
        Ok(engine)
    }

    /// The control message that may come next.
    fn listen(&mut self) -> Outcome<()> {
        // SAFETY: the inbox lives as long as the engine, which cancels the request before it ends.
        let request = unsafe { self.control.receive(self.inbox.as_mut_ptr(), CONTROL, None, 0)? };
        self.wires.requests.add(request, Token::Heard);
        Ok(())
    }

    /// Tells all other ranks. What cannot be told is not: who listens no more has ended.
    pub fn tell(&mut self, message: &Control) {
        for rank in (0..self.peers.len()).filter(|&r| r != self.rank) {
            let bytes = message.write(self.rank);
            // SAFETY: the bytes stay in the token until the request is done.
            let sent: Outcome<Request> = unsafe { self.control.send(bytes.as_ptr(), bytes.len(), rank, 0) };
            if let Ok(request) = sent {
                self.wires.requests.add(request, Token::Said(bytes));
            }
        }
    }

    /// Ends the run, unless it has ended, and tells all ranks. True if it did.
    pub fn lose(&mut self, rank: usize, code: i32, problem: String) -> bool {
        if self.lost.is_some() {
            return false;
        }
        self.tell(&Control::Lost { rank, code, problem: problem.clone() });
        self.lost = Some(Lost { rank, code, problem, heard: false });
        true
    }

    fn hear(&mut self, from: usize, message: Control) {
        match message {
            Control::Lost { rank, code, problem } => {
                self.lost.get_or_insert(Lost { rank, code, problem, heard: true });
            }
            Control::Done { run } => {
                (self.peers[from].done, self.peers[from].done_at) = (run, Some(Instant::now()));
            }
            Control::End { code, text } => {
                if code != 0 {
                    let lost = Lost { rank: from, code, problem: text.clone(), heard: true };
                    self.lost.get_or_insert(lost);
                }
                self.peers[from].end = Some((code, text));
            }
        }
    }

    pub fn add(&mut self, flight: Flight) -> Outcome<u32> {
        let free = self.flights.iter().position(Option::is_none);
        let id = free.unwrap_or_else(|| {
            self.flights.push(None);
            self.flights.len() - 1
        });
        self.active += 1;
        self.order.retain(|&other| other != id);
        self.order.push(id);
        let mut flight = Box::new(flight);
        let begun = flight.begin(id as u32, &mut self.wires);
        self.keep(id, flight);
        begun.map(|()| id as u32)
    }

    /// Puts a flight back and counts it out if it has ended.
    fn keep(&mut self, id: usize, flight: Box<Flight>) {
        let ended = flight.stage != Stage::Moving;
        self.active -= ended as usize;
        let gone = ended && flight.dropped && flight.stage == Stage::Done;
        self.flights[id] = (!gone).then_some(flight);
    }

    /// Lets MPI work and does what follows; whether anything happened.
    pub fn progress(&mut self) -> bool {
        let mut done = std::mem::take(&mut self.done);
        let mut trouble = self.wires.requests.test(&mut done).err();
        let any = !done.is_empty();
        for (token, outcome) in done.drain(..) {
            trouble = trouble.or(outcome.err());
            match token {
                Token::Said(_) => {}
                Token::Heard => {
                    if let Some((from, message)) = Control::read(&self.inbox) {
                        self.hear(from, message);
                    }
                    trouble = trouble.or(self.listen().err());
                }
                Token::Flight(id, event) => {
                    let flight = self.flights[id as usize].as_mut().expect("it has requests");
                    self.wires.far -= (matches!(event, Event::Out(..)) && flight.cut.matched) as u32;
                    trouble = trouble.or(flight.on(event).err());
                    if let Event::Head(p) = event
                        && let Some(call) = flight.head(p)
                    {
                        let said = format!("{call}, collective {} of {}", flight.sequence, flight.group.axis);
                        self.peers[flight.group.members[p]].last = Some((said, Instant::now()));
                    }
                }
            }
        }
        self.done = done;
        if any {
            for id in std::mem::take(&mut self.order) {
                // A number that nobody has is forgotten.
                let Some(mut flight) = self.flights[id].take() else { continue };
                self.order.push(id);
                if flight.stage == Stage::Moving {
                    trouble = trouble.or(flight.advance(id as u32, &mut self.wires).err());
                    self.keep(id, flight);
                } else {
                    self.flights[id] = Some(flight);
                }
            }
        }
        if let Some(problem) = trouble {
            self.lose(self.rank, LOST, format!("MPI failed: {problem}"));
        }
        any
    }

    pub fn flight(&mut self, id: u32) -> &mut Flight {
        self.flights[id as usize].as_mut().expect("it is there until it is taken")
    }

    /// A flight that has ended leaves.
    pub fn take(&mut self, id: u32) -> Box<Flight> {
        self.flights[id as usize].take().expect("it is there until it is taken")
    }

    /// Nobody will come for a flight: it leaves when it is done. MPI may write to its buffer until then.
    pub fn abandon(&mut self, id: u32) {
        let flight = self.flight(id);
        flight.dropped = true;
        if flight.stage == Stage::Done {
            self.flights[id as usize] = None;
        }
    }

    /// Stops listening, for the end of the program.
    pub fn close(&mut self) {
        self.wires.requests.cancel(|token| matches!(token, Token::Heard));
    }
}
