//! `corpus compress`: PREFIX.bin, or the parts of an adopted corpus, to PREFIX.bin.zst. Description, index and hash of
//! the corpus stay what they are.

use super::compress::{FRAME, compress};
use super::frames::Frames;
use super::open::{Form, describe};
use super::source::{Access, Source};
use super::tokens::Tokens;
use crate::data::Corpus;
use crate::data::meta::{Meta, beside};
use crate::{Error, Result};
use std::path::Path;
use xxhash_rust::xxh3::Xxh3;

/// What a corpus took before and takes now, in bytes of its tokens' files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compressed {
    pub before: u64,
    pub after: u64,
}

/// Compresses a corpus with `threads` threads (None: one for each core); the same bytes for any number. The new file is
/// read back and compared before .bin is removed; `keep` leaves it there. Files of other programs are never removed.
/// `progress` gets the bytes read and those there are.
pub fn compress_corpus(
    prefix: &Path,
    level: i32,
    keep: bool,
    threads: Option<usize>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Compressed> {
    if !(1..=22).contains(&level) {
        return Err(Error::config(
            "command line",
            "--level",
            format!("it is {level}"),
            "zstd has levels 1 to 22",
        ));
    }
    // All checks of an open corpus, first.
    Corpus::open(prefix)?;
    let (mut meta, _, form) = describe(prefix)?;
    let (end, temporary) = (beside(prefix, ".bin.zst"), beside(prefix, ".bin.zst.tmp"));
    if let Form::Compressed(path) = &form {
        return Err(Error::data(
            path,
            "is compressed already, and there is no .bin",
            "there is nothing to do",
        ));
    }
    let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let tokens = form.open(Access::Positioned)?;
    let mut count = |read| progress(read, tokens.len());
    let written = compress(&tokens, &temporary, FRAME, level, threads, &mut count)
        .and_then(|written| check(&temporary, written.xxh3, &meta, &tokens).map(|()| written));
    let written = match written {
        Ok(written) => written,
        Err(e) => {
            // What is left of it is of no use; that it cannot be removed changes nothing.
            let _ = std::fs::remove_file(&temporary);
            return Err(e);
        }
    };
    std::fs::rename(&temporary, &end).map_err(Error::io(&end, "rename"))?;
    match &form {
        Form::Plain(bin) if !keep => std::fs::remove_file(bin).map_err(Error::io(bin, "remove"))?,
        Form::Parts(_) => {
            meta.parts.clear();
            meta.write(&beside(prefix, ".json"))?;
        }
        _ => {}
    }
    Ok(Compressed { before: tokens.len(), after: written.bytes })
}

/// What was read is what the description states, and what was written is what was read.
fn check(file: &Path, read: u64, meta: &Meta, tokens: &Tokens) -> Result<()> {
    if read != meta.bin_xxh3 {
        let problem =
            format!("has checksum {read:016x}, but the .json beside it states {:016x}", meta.bin_xxh3);
        let path = tokens.sources().first().map_or(file, |source| source.path()).to_path_buf();
        return Err(Error::data(path, problem, "restore the corpus before compressing it"));
    }
    let frames = Tokens::from(Frames::open(Source::open(file, Access::Positioned)?)?);
    let mut hash = Xxh3::new();
    let mut at = 0;
    while at < frames.len() {
        let count = (frames.len() - at).min(1 << 20);
        frames.with(at, count as usize, |bytes| hash.update(bytes))?;
        at += count;
    }
    if hash.digest() != read {
        return Err(Error::data(
            file,
            "does not read back as it was written",
            "check the disk and try again",
        ));
    }
    Ok(())
}
