//! `io = "stage"`: copies the files of a corpus to a disk of the node and reads them there.
//!
//! The copy lies in STAGE_DIR/espalier-USER-HASH, HASH being the corpus's, so that all processes of the node share one
//! and the next run finds it. Each holds a shared lock on the folder while it reads, an exclusive one while it copies;
//! the last one to leave removes it, and what a killed process left behind is used again.

use crate::{Error, Result};
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Part of a file, and the name of its copy.
#[derive(Debug)]
pub(super) struct Piece {
    pub from: PathBuf,
    pub offset: u64,
    pub len: u64,
    pub name: String,
}

/// A complete copy, which stays at least as long as this.
#[derive(Debug)]
pub struct Staged {
    folder: PathBuf,
    lock: File,
}

impl Staged {
    /// Copies what is not there yet; waits while another process copies the same. `parent`: None is the system's folder
    /// for temporary files.
    pub(super) fn new(parent: Option<&Path>, hash: u64, pieces: &[Piece]) -> Result<Staged> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_path_buf);
        // SAFETY: a system call without arguments that cannot fail.
        let user = unsafe { libc::getuid() };
        let folder = parent.join(format!("espalier-{user}-{hash:016x}"));
        loop {
            std::fs::create_dir_all(&folder).map_err(Error::io(&folder, "make the folder"))?;
            let lock = File::open(&folder).map_err(Error::io(&folder, "open"))?;
            if !taken(&folder, lock.try_lock_shared())? {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
            // It may have been removed, and made anew, between opening and locking.
            if !is_at(&lock, &folder) {
                continue;
            }
            let missing: Vec<&Piece> = pieces.iter().filter(|piece| !complete(&folder, piece)).collect();
            if missing.is_empty() {
                return Ok(Staged { folder, lock });
            }
            // Only one of those that saw it incomplete gets the exclusive lock; whoever does looks again at the top.
            lock.unlock().map_err(Error::io(&folder, "unlock"))?;
            if !taken(&folder, lock.try_lock())? || !is_at(&lock, &folder) {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
            let missing: Vec<&Piece> = pieces.iter().filter(|piece| !complete(&folder, piece)).collect();
            check_space(&folder, missing.iter().map(|piece| piece.len).sum())?;
            missing.into_iter().try_for_each(|piece| copy(&folder, piece))?;
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
    /// The folder that copies are made in.
    pub(super) fn parent(&self) -> Option<&Path> {
        self.folder.parent()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // Fails while others read, who will remove it. If removing fails, the next run uses it.
        if self.lock.try_lock().is_ok() && is_at(&self.lock, &self.folder) {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

fn taken(folder: &Path, result: std::result::Result<(), TryLockError>) -> Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(e)) => Err(Error::io(folder, "lock")(e)),
    }
}

fn is_at(open: &File, path: &Path) -> bool {
    let ends = (open.metadata(), std::fs::metadata(path));
    matches!(ends, (Ok(a), Ok(b)) if (a.dev(), a.ino()) == (b.dev(), b.ino()))
}

/// Copies get their name when they are whole.
fn complete(folder: &Path, piece: &Piece) -> bool {
    std::fs::metadata(folder.join(&piece.name)).is_ok_and(|m| m.len() == piece.len)
}

fn check_space(folder: &Path, needed: u64) -> Result<()> {
    let name = std::ffi::CString::new(folder.as_os_str().as_bytes())
        .map_err(|e| Error::io(folder, "use")(e.into()))?;
    // SAFETY: `name` ends with NUL and `space` is where the call writes.
    let space = unsafe {
        let mut space: libc::statvfs = std::mem::zeroed();
        match libc::statvfs(name.as_ptr(), &mut space) {
            0 => space,
            _ => return Err(Error::io(folder, "ask for free space")(std::io::Error::last_os_error())),
        }
    };
    let free = (space.f_bavail as u64).saturating_mul(space.f_frsize as u64);
    if free < needed {
        let problem = format!("the copy of the corpus needs {needed} bytes, and {free} are free");
        return Err(Error::data(folder, problem, "set stage_dir to a larger disk or io = \"mmap\""));
    }
    Ok(())
}

fn copy(folder: &Path, piece: &Piece) -> Result<()> {
    let (temporary, end) = (folder.join(format!("{}.tmp", piece.name)), folder.join(&piece.name));
    let mut from = File::open(&piece.from).map_err(Error::io(&piece.from, "open"))?;
    from.seek(SeekFrom::Start(piece.offset)).map_err(Error::io(&piece.from, "read"))?;
    let mut to = File::create(&temporary).map_err(Error::io(&temporary, "create"))?;
    let mut buffer = vec![0; 1 << 20];
    let mut left = piece.len;
    while left > 0 {
        let most = left.min(buffer.len() as u64) as usize;
        let count = from.read(&mut buffer[..most]).map_err(Error::io(&piece.from, "read"))?;
        if count == 0 {
            let problem = format!("ends {left} bytes before the {} from {} do", piece.len, piece.offset);
            return Err(Error::data(&piece.from, problem, "copy the corpus again"));
        }
        to.write_all(&buffer[..count]).map_err(Error::io(&temporary, "write"))?;
        left -= count as u64;
    }
    to.sync_all().map_err(Error::io(&temporary, "write"))?;
    std::fs::rename(&temporary, &end).map_err(Error::io(&end, "rename"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_would_not_fit_is_refused_with_both_numbers() {
        let folder = tempfile::tempdir().expect("a folder");
        check_space(folder.path(), 1).expect("a byte is free");
        let error = check_space(folder.path(), u64::MAX).expect_err("refused").to_string();
        let want = "the copy of the corpus needs 18446744073709551615 bytes, and ";
        assert!(
            error.contains(want) && error.ends_with("set stage_dir to a larger disk or io = \"mmap\""),
            "{error}"
        );
        let piece = Piece { from: folder.path().join("x"), offset: 0, len: 1 << 60, name: "bin".into() };
        std::fs::write(&piece.from, b"x").expect("written");
        let error = Staged::new(Some(folder.path()), 7, &[piece]).expect_err("refused").to_string();
        assert!(
            error.contains("-0000000000000007: the copy of the corpus needs 1152921504606846976"),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_shrinks_while_it_is_copied_is_refused_and_the_copy_has_no_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let piece = Piece { from: folder.path().join("x"), offset: 1, len: 5, name: "bin".into() };
        std::fs::write(&piece.from, b"four").expect("written");
        let error = Staged::new(Some(folder.path()), 7, std::slice::from_ref(&piece)).expect_err("refused");
        assert!(error.to_string().contains("/x: ends 2 bytes before the 5 from 1 do"), "{error}");
        std::fs::write(&piece.from, b"longer").expect("written");
        let staged = Staged::new(Some(folder.path()), 7, std::slice::from_ref(&piece)).expect("staged");
        assert_eq!(std::fs::read(staged.path("bin")).expect("read"), b"onger");
    }
}
