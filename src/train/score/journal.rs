//! What a scoring that was stopped or killed needs to go on: FILE.journal beside its first output, and FILE.lock, which
//! keeps a second process out.

use super::cut::Place;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::{File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// What has been counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tally {
    pub place: Place,
    /// −log p over the predictions made in the document that `place` is in, nats.
    pub sum: f64,
    /// The same over the documents before it.
    pub total: f64,
    pub predictions: u64,
    /// How long each output is if it is a file of lines, else 0.
    pub lines: Vec<u64>,
    /// Everything is written and outputs are getting their names.
    pub finishing: bool,
}

impl Tally {
    pub fn new(place: Place) -> Tally {
        Tally { place, sum: 0.0, total: 0.0, predictions: 0, lines: vec![], finishing: false }
    }
}

#[derive(Serialize, Deserialize)]
struct Content {
    /// All that values depend on, and the outputs.
    key: serde_json::Value,
    tally: Tally,
}

/// What an earlier attempt left.
pub enum Found {
    Nothing,
    /// Of the same scoring.
    Same(Tally),
    /// Of another one, or unreadable.
    Other,
}

pub struct Journal {
    path: PathBuf,
    key: serde_json::Value,
    lock: (PathBuf, Option<File>),
}

impl Journal {
    /// `output`: the first file of the scoring. Error: `Launch` while another process writes it.
    pub fn open(output: &Path, key: serde_json::Value) -> Result<Journal> {
        let beside = |end: &str| {
            let mut name = output.file_name().unwrap_or_default().to_os_string();
            name.push(end);
            output.with_file_name(name)
        };
        let path = beside(".lock");
        let file = File::create(&path).map_err(Error::io(&path, "create"))?;
        let held = match file.try_lock() {
            Ok(()) => Some(file),
            Err(TryLockError::WouldBlock) => {
                let problem = format!("another process writes {}", output.display());
                return Err(Error::launch(problem, "wait for it or end it, or give another name"));
            }
            // Some shared file systems have no locks.
            Err(TryLockError::Error(_)) => None,
        };
        Ok(Journal { path: beside(".journal"), key, lock: (path, held) })
    }

    pub fn find(&self) -> Result<Found> {
        match std::fs::read(&self.path) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Found::Nothing),
            Err(e) => Err(Error::io(&self.path, "read")(e)),
            Ok(bytes) => Ok(match serde_json::from_slice::<Content>(&bytes) {
                Ok(content) if content.key == self.key => Found::Same(content.tally),
                _ => Found::Other,
            }),
        }
    }

    /// What the tally counts must be on the disk before.
    pub fn write(&self, tally: &Tally) -> Result<()> {
        let content = Content { key: self.key.clone(), tally: tally.clone() };
        let text = serde_json::to_vec(&content).expect("plain data");
        let temporary = self.path.with_extension("journal.tmp");
        let write = || -> std::io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&temporary, &self.path)
        };
        write().map_err(Error::io(&self.path, "write"))
    }

    /// When all outputs have their names.
    pub fn remove(self) -> Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(e) if e.kind() != ErrorKind::NotFound => Err(Error::io(&self.path, "remove")(e)),
            _ => Ok(()),
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if self.lock.1.is_some() {
            // What is left of it hinders nobody.
            let _ = std::fs::remove_file(&self.lock.0);
        }
    }
}
