//! Files that only grow, and whose disk may be full for a while: what cannot be written waits in memory, and a run does
//! not end for it.

use crate::{Error, Result};
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

/// Bytes that may wait; what comes then is lost.
const MOST: usize = 64 << 20;

pub struct Appender<W: Write = File> {
    path: PathBuf,
    file: W,
    /// What is not in the file yet, perhaps from the middle of a record on.
    waiting: Vec<u8>,
    /// Whether it was said that the file cannot be written.
    said: bool,
    lost: u64,
}

impl<W: Write> Appender<W> {
    pub fn new(path: &Path, file: W) -> Appender<W> {
        Appender { path: path.into(), file, waiting: vec![], said: false, lost: 0 }
    }

    #[cfg(test)]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends a record whole, now or when there is room again. What happens to the file is said, once.
    pub fn append(&mut self, record: &[u8]) {
        if self.waiting.len() + record.len() > MOST {
            self.lost += 1;
        } else {
            self.waiting.extend_from_slice(record);
        }
        let done = self.drain();
        match (done, self.said) {
            (Err(e), false) => {
                self.said = true;
                let e = Error::io(&self.path, "append to")(e);
                tracing::warn!("{e}; the run goes on, and what belongs there waits in memory");
            }
            (Ok(()), true) => {
                let lost = match std::mem::take(&mut self.lost) {
                    0 => "nothing was lost".into(),
                    n => format!("{n} records were lost"),
                };
                tracing::warn!("{} can be written again, {lost}", self.path.display());
                self.said = false;
            }
            _ => {}
        }
    }

    fn drain(&mut self) -> std::io::Result<()> {
        let (mut done, mut end) = (0, Ok(()));
        while end.is_ok() && done < self.waiting.len() {
            match self.file.write(&self.waiting[done..]) {
                Ok(0) => end = Err(ErrorKind::WriteZero.into()),
                Ok(n) => done += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => end = Err(e),
            }
        }
        self.waiting.drain(..done);
        end
    }

    /// Error: something still waits, and nobody would write it after this.
    pub fn end(&mut self) -> Result<()> {
        self.drain().map_err(Error::io(&self.path, "append to"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk with room for so many bytes.
    struct Small {
        room: usize,
        held: Vec<u8>,
    }

    impl Write for Small {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let n = bytes.len().min(self.room);
            if n == 0 && !bytes.is_empty() {
                return Err(ErrorKind::StorageFull.into());
            }
            self.room -= n;
            self.held.extend_from_slice(&bytes[..n]);
            Ok(n)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn records_wait_for_room_and_stay_whole_and_in_order() {
        let mut a = Appender::new(Path::new("rows"), Small { room: 9, held: vec![] });
        ["first\n", "second\n", "third\n"].iter().for_each(|r| a.append(r.as_bytes()));
        assert_eq!((a.file.held.as_slice(), a.said), (&b"first\nsec"[..], true));
        assert!(a.end().is_err());
        a.file.room = 1000;
        a.append(b"fourth\n");
        assert_eq!((a.file.held.as_slice(), a.said), (&b"first\nsecond\nthird\nfourth\n"[..], false));
        assert!(a.waiting.is_empty() && a.end().is_ok());
    }

    #[test]
    fn what_exceeds_the_memory_for_it_is_lost_whole_and_counted() {
        let mut a = Appender::new(Path::new("rows"), Small { room: 0, held: vec![] });
        let record = vec![b'x'; MOST / 2];
        (0..3).for_each(|_| a.append(&record));
        assert_eq!((a.waiting.len(), a.lost), (MOST, 1));
    }
}
