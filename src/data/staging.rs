//! The folder PREFIX.build, where the files of a corpus grow until all are complete, and how they get their names.
//!
//! A program that dies leaves the folder; nothing in it has the name of a corpus yet. When every byte is on the disk a
//! file `complete` says so, the files move to PREFIX.*, PREFIX.json last, and the folder goes. A death among the moves
//! is mended by moving the rest.

use super::meta::beside;
use crate::{Error, Result};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

/// What a corpus's files are called in the folder, before the dot.
const NAME: &str = "corpus";
/// The other files that may lie there.
const OWN: [&str; 8] =
    ["lengths", "documents", "columns", "plan.json", "state.json", "state.json.tmp", "complete", "lock"];

pub(super) struct Staging {
    prefix: PathBuf,
    folder: PathBuf,
    /// Held while this process writes.
    lock: Option<File>,
    /// Whether the folder stays when this is dropped before `publish`.
    pub keep: bool,
}

impl Staging {
    /// Makes the folder and takes its lock; what lies in it stays.
    pub fn open(prefix: &Path) -> Result<Staging> {
        let folder = beside(prefix, ".build");
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder, "make the folder"))?;
        let path = folder.join("lock");
        let lock = File::create(&path).map_err(Error::io(&path, "create"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let problem = "another process builds this corpus";
                return Err(Error::data(prefix, problem, "wait for it, or give another name with --out"));
            }
            // A file system without locks: two builds at once are then the user's to avoid.
            Err(TryLockError::Error(e)) if e.kind() == std::io::ErrorKind::Unsupported => {}
            Err(TryLockError::Error(e)) => return Err(Error::io(&path, "lock")(e)),
        }
        Ok(Staging { prefix: prefix.into(), folder, lock: Some(lock), keep: false })
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
    /// The prefix of the corpus while it grows.
    pub fn corpus(&self) -> PathBuf {
        self.folder.join(NAME)
    }
    /// What the corpus will be called.
    pub fn prefix(&self) -> &Path {
        &self.prefix
    }
    pub fn is_complete(&self) -> bool {
        self.file("complete").exists()
    }

    /// Removes what an earlier process left, but nothing that is not a build's.
    pub fn clear(&self) -> Result<()> {
        let entries = self.entries()?;
        // Without its plan the rest counts for nothing, so a death in between leaves no half of a journal.
        remove_if_there(&self.file("plan.json"))?;
        for (path, _) in entries.into_iter().filter(|(_, name)| name != "lock") {
            remove_if_there(&path)?;
        }
        Ok(())
    }

    /// The files of the folder, sorted.
    fn entries(&self) -> Result<Vec<(PathBuf, String)>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(&self.folder).map_err(Error::io(&self.folder, "list"))? {
            let path = entry.map_err(Error::io(&self.folder, "list"))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !OWN.contains(&name.as_str()) && !name.starts_with("corpus.") {
                let problem = "is not a file of a build, but the folder is where a build puts its files";
                return Err(Error::data(&path, problem, "move it elsewhere"));
            }
            entries.push((path, name));
        }
        entries.sort();
        Ok(entries)
    }

    /// Gives the files their names. They are complete and on the disk.
    pub fn publish(mut self) -> Result<()> {
        let mark = self.file("complete");
        if !mark.exists() {
            let file = File::create(&mark).map_err(Error::io(&mark, "create"))?;
            sync(&file, &mark)?;
            sync_folder(&self.folder)?;
        }
        // From here on a failure leaves what the next attempt needs.
        self.keep = true;
        let json = self.file("corpus.json");
        if json.exists() {
            // Replacing a corpus starts with its description, so that an interruption leaves none that seems whole.
            remove_if_there(&beside(&self.prefix, ".json"))?;
            for (path, name) in self.entries()? {
                if let Some(suffix) = name.strip_prefix(NAME).filter(|&s| s != ".json") {
                    rename(&path, &beside(&self.prefix, suffix))?;
                }
            }
            rename(&json, &beside(&self.prefix, ".json"))?;
        }
        let parent = self.folder.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync_folder(parent)?;
        self.keep = false;
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.keep && self.clear().is_ok() {
            self.lock = None;
            // Nothing is lost when this fails: the next build clears the folder.
            let _ = std::fs::remove_file(self.file("lock"));
            let _ = std::fs::remove_dir(&self.folder);
        }
    }
}

pub(super) fn sync(file: &File, path: &Path) -> Result<()> {
    file.sync_all().map_err(Error::io(path, "write"))
}

pub(super) fn sync_folder(folder: &Path) -> Result<()> {
    let file = File::open(folder).map_err(Error::io(folder, "open"))?;
    sync(&file, folder)
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    std::fs::rename(from, to).map_err(Error::io(to, "rename"))
}

fn remove_if_there(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io(path, "replace")(e)),
        _ => Ok(()),
    }
}
