//! The end of the program on all ranks: one of them says what went wrong, all leave with the same exit code, and nobody
//! hangs.

use super::UNIVERSE;
use super::engine::{Engine, LOST, Lost, Token};
use super::process::Process;
use super::wire::Control;
use crate::{Error, Result};
use std::time::{Duration, Instant};

/// How long a rank that failed waits for the others to hear of it before MPI ends them.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long the launcher has to read what a rank said last: some drop what they have not read when MPI ends a run.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// What to tell a person, and the exit code of this process. Ranks that end well, or stop as asked, wait for all others;
/// those that fail wait a little.
pub fn end(process: &Process, result: &Result<()>) -> i32 {
    let (code, text) = match result {
        Ok(()) => (0, String::new()),
        Err(e) => (e.exit_code(), e.to_string()),
    };
    let calm = matches!(result, Ok(()) | Err(Error::Requeue { .. } | Error::Stopped { .. }));
    let (rank, size) = (process.rank, process.size());
    let (heard, told) = {
        let mut engine = process.engine();
        if !calm {
            engine.lose(rank, code, text.clone());
        }
        let by_others = engine.lost.as_ref().is_some_and(|lost| lost.heard);
        (by_others && matches!(result, Err(Error::RankLost { .. })), engine.told)
    };
    if !text.is_empty() && !heard && !told {
        // The first of those who found the same says it.
        let began = Instant::now();
        process.until(|engine, naps| {
            let all = (0..rank).all(|r| engine.peers[r].end.is_some());
            let lost = engine.lost.is_some() && began.elapsed() > PATIENCE / 2;
            (all || lost || engine.closed || (naps && gone(process, engine).is_some())).then_some(())
        });
        let engine = process.engine();
        let same = |r: usize| {
            engine.peers[r]
                .end
                .as_ref()
                .is_some_and(|(_, said)| !said.is_empty() && text.starts_with(said.as_str()))
        };
        let said = (0..rank).any(same);
        drop(engine);
        if !said {
            crate::terminal::say(&format!("espalier: {text}"));
        }
    }
    // Who only heard it has nothing to say of its own. It passes on what it heard: its end may be read before that.
    let mut engine = process.engine();
    let theirs = engine.lost.clone().filter(|_| heard);
    if let Some(Lost { rank, code, problem, .. }) = theirs.clone() {
        engine.tell(&Control::Lost { rank, code, problem });
    }
    engine.tell(
        &theirs.map_or(Control::End { code, text }, |l| Control::End { code: l.code, text: "".into() }),
    );
    drop(engine);

    let mut since = None;
    let all = process.until(|engine, naps| {
        if (0..size).all(|r| r == rank || engine.peers[r].end.is_some())
            && engine.wires.requests.count(|t| matches!(t, Token::Said(_))) == 0
        {
            return Some(true);
        }
        if engine.lost.is_some() || (naps && gone(process, engine).is_some()) {
            since.get_or_insert_with(Instant::now);
        }
        since.is_some_and(|since| since.elapsed() > PATIENCE).then_some(false)
    });
    let engine = process.engine();
    // Who only heard of a failure ends like the one that failed.
    let lost = engine.lost.as_ref().filter(|_| heard || calm);
    let theirs = lost.map(|lost| engine.peers[lost.rank].end.as_ref().map_or(lost.code, |end| end.0));
    let code = match theirs {
        Some(0) => LOST,
        Some(theirs) => theirs,
        None if !all && code == 0 => LOST,
        None => code,
    };
    // What a failed run left under way would keep MPI from ending.
    let failed = engine.lost.is_some() && engine.runs > 0;
    let first = (0..rank).all(|r| engine.peers[r].end.is_none());
    drop(engine);
    if !all || failed {
        // One rank ends them all, as launchers like it best.
        std::thread::sleep(if first { LAST_WORDS } else { PATIENCE });
        process.link.abort(code);
    }
    process.close();
    drop(UNIVERSE.lock().expect("no panic under the lock").take());
    code
}

/// A rank whose process is gone without having said that it ends.
fn gone(process: &Process, engine: &Engine) -> Option<usize> {
    let own = &process.places[process.rank];
    let is =
        |&r: &usize| r != process.rank && engine.peers[r].end.is_none() && process.places[r].is_gone(own);
    (0..process.size()).find(is)
}
