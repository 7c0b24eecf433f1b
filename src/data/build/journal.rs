//! What a build needs to go on after it was killed: what it was asked for (`plan.json`, written once) and how far it
//! came (`state.json`). A file is on the disk before it gets its name, and what a state counts on is before the state.

use super::columns::Seen;
use super::inputs::Input;
use super::reader::Place;
use crate::data::staging::{sync, sync_folder};
use crate::data::writer::Mark;
use crate::{Error, Result};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::File;
use std::io::Write;
use std::path::Path;

pub(super) const VERSION: u64 = 1;

/// Everything that decides what the corpus will hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Plan {
    pub version: u64,
    /// Options by the name they have on the command line.
    pub options: serde_json::Map<String, Value>,
    pub inputs: Vec<Input>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct State {
    /// Where the next chunk begins.
    pub place: Place,
    pub mark: Mark,
    /// Bytes of text of the document being written.
    pub document_bytes: u64,
    pub empty: u64,
    pub bad: u64,
    /// The first few bad lines.
    pub bad_examples: Vec<String>,
    pub columns: Seen,
}

impl Plan {
    /// Fails if `earlier`, which lies in `folder`, was to make another corpus.
    pub fn check(&self, earlier: &Plan, folder: &Path) -> Result<()> {
        let differs = |what: String| {
            let problem = format!("an unfinished build lies there that differs: {what}");
            Err(Error::data(
                folder,
                problem,
                "give the same options and input to finish it, or --restart to throw it away",
            ))
        };
        if earlier.version != self.version {
            return differs(format!("version {}, this program writes {}", earlier.version, self.version));
        }
        for (key, value) in &self.options {
            let then = earlier.options.get(key).unwrap_or(&Value::Null);
            if then != value {
                return differs(format!("{key} was {then}, now it is {value}"));
            }
        }
        if self.inputs == earlier.inputs {
            return Ok(());
        }
        let changed = self.inputs.iter().zip(&earlier.inputs).find(|(now, then)| now != then);
        differs(match changed {
            Some((now, then)) if now.path == then.path => {
                format!("{} was changed since", now.path.display())
            }
            Some((now, then)) => {
                format!("the input had {} where now is {}", then.path.display(), now.path.display())
            }
            None => format!("the input had {} files, now it has {}", earlier.inputs.len(), self.inputs.len()),
        })
    }
}

/// None if there is no such file.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let bytes = match std::fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(Error::io(path, "read"))?,
    };
    serde_json::from_slice(&bytes).map(Some).map_err(|e| {
        Error::data(path, format!("is not the journal of a build: {e}"), "start over with --restart")
    })
}

/// Writes `value` so that after a failure at any moment either it or what was there before is read.
pub(super) fn write<T: Serialize>(folder: &Path, name: &str, value: &T) -> Result<()> {
    let text = serde_json::to_vec(value).expect("plain data");
    write_text(folder, name, &text)
}

pub(super) fn write_text(folder: &Path, name: &str, text: &[u8]) -> Result<()> {
    let temporary = folder.join("state.json.tmp");
    let to = folder.join(name);
    let mut file = File::create(&temporary).map_err(Error::io(&temporary, "create"))?;
    file.write_all(text).map_err(Error::io(&temporary, "write"))?;
    sync(&file, &temporary)?;
    std::fs::rename(&temporary, &to).map_err(Error::io(&to, "rename"))?;
    sync_folder(folder)
}
