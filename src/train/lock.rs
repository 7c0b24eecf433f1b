//! Two processes in one run directory would prune each other's checkpoints and mix their metrics.

use crate::{Error, Result};
use std::fs::{File, TryLockError};
use std::path::Path;

/// Keeps other processes out of `dir` for as long as the file is open; the system ends it with the process. None on
/// file systems without locks, which some shared ones are.
pub fn take(dir: &Path) -> Result<Option<File>> {
    let path = dir.join("lock");
    let file = File::create(&path).map_err(Error::io(&path, "create"))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Err(Error::launch(
            format!("{} is in use: another process trains in it", dir.display()),
            "wait for it or end it, or give another run.dir",
        )),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}
