//! Who is behind in a collective that a rank waits for, and when to stop waiting.

use super::engine::Engine;
use super::flight::Flight;
use super::process::Process;
use crate::signal;
use std::time::{Duration, Instant};

/// How long a rank that returned may have said so before its head is missed: the two go different ways.
const STRAGGLE: Duration = Duration::from_millis(200);
/// Ranks find the same at the same time: each waits this much longer than the one before it, so that one says it.
const TURN: Duration = Duration::from_millis(60);
/// So many times longer at a deadline, where nobody is in a hurry any more.
const PATIENT: u32 = 8;
/// A wait this long after a signal to stop is worth a line.
const ASKED: Duration = Duration::from_millis(300);

pub struct Watch<'a> {
    process: &'a Process,
    began: Instant,
    asked: Option<Instant>,
    said: bool,
}

impl<'a> Watch<'a> {
    pub fn new(process: &'a Process) -> Watch<'a> {
        Watch { process, began: Instant::now(), asked: None, said: false }
    }

    /// The rank to give up for, if it is time to, and why. Only its own deadline, a process that is gone, or a rank
    /// that has returned is a reason.
    pub fn look(&mut self, engine: &mut Engine, id: u32) -> Option<(usize, String)> {
        let flight = engine.flight(id);
        let missing: Vec<(usize, bool)> = flight.missing();
        let (group, moved) = (flight.group.clone(), flight.moved);
        let first = *missing.first()?;
        let member = |(r, _): &(usize, bool)| group.members[*r];
        // Who is not missing takes turns.
        let place = (0..group.me).filter(|r| missing.iter().all(|m| m.0 != *r)).count() as u32;
        let turn = TURN * place.min(20);

        let (own, places) = (&self.process.places[self.process.rank], &self.process.places);
        let idle = moved.max(self.began).elapsed();
        if let Some(gone) = missing.iter().find(|m| places[member(m)].is_gone(own))
            && idle > turn
        {
            let rank = member(gone);
            let place = &places[rank];
            let problem =
                format!("its process {} on {} is gone; {}", place.pid, place.host, self.story(engine, id));
            return Some((rank, problem));
        }
        let returned = |m: &&(usize, bool)| {
            let peer = &engine.peers[member(m)];
            let run = peer.done >= group.run && peer.done_at.is_some_and(|at| at.elapsed() > STRAGGLE + turn);
            !m.1 && (run || (peer.end.is_some() && idle > STRAGGLE + turn))
        };
        if let Some(m) = missing.iter().find(returned).copied() {
            return Some((member(&m), self.story(engine, id)));
        }
        if idle > self.process.deadline().saturating_add(PATIENT * turn) {
            return Some((member(&first), self.story(engine, id)));
        }
        if signal::asked_to_stop() && !self.said && place == 0 {
            let asked = *self.asked.get_or_insert_with(Instant::now);
            if asked.elapsed() > ASKED {
                self.said = true;
                let story = self.story(engine, id);
                crate::terminal::say(&format!(
                    "espalier: asked to stop, and rank {} is {story}",
                    member(&first)
                ));
            }
        }
        None
    }

    /// A sentence about all who are missing.
    fn story(&self, engine: &mut Engine, id: u32) -> String {
        let flight: &Flight = engine.flight(id);
        let (missing, group, sequence) = (flight.missing(), flight.group.clone(), flight.sequence);
        let call = flight.call.clone();
        let story = |&(r, started): &(usize, bool)| {
            let member = group.members[r];
            let (place, peer) = (&self.process.places[member], &engine.peers[member]);
            let stand = match started {
                true => "has started it and its values do not come",
                false if peer.done >= group.run || peer.end.is_some() => "has returned",
                false => "has not started it",
            };
            let last = peer.last.as_ref().map_or("nothing was heard from it".into(), |(call, at)| {
                format!("its last call heard here was {call}, {:.1} s ago", at.elapsed().as_secs_f64())
            });
            format!("rank {member} (process {} on {}) {stand}, {last}", place.pid, place.host)
        };
        let stories: Vec<String> = missing.iter().take(8).map(story).collect();
        let more =
            if missing.len() > 8 { format!("; and {} more", missing.len() - 8) } else { String::new() };
        format!(
            "missing in collective {sequence} of {}, {call}, for which rank {} waits (deadline {:?}): {}{more}",
            group.axis,
            self.process.rank,
            self.process.deadline(),
            stories.join("; ")
        )
    }
}
