//! PREFIX.idx of Megatron's indexed dataset. All numbers little-endian, no padding:
//!
//! | offset | type | field |
//! |---|---|---|
//! | 0 | 9 bytes | "MMIDIDX\0\0" |
//! | 9 | u64 | version, 1 |
//! | 17 | u8 | number type of the tokens in .bin: 8 = u16, 4 = i32 |
//! | 18 | u64 | S, number of sequences |
//! | 26 | u64 | E, entries of the document array = documents + 1 |
//! | 34 | i32\[S\] | tokens of each sequence |
//! | 34 + 4S | i64\[S\] | byte offset of each sequence in .bin |
//! | 34 + 12S | i64\[E\] | document boundaries as sequence numbers, first 0, last S |
//! | 34 + 12S + 8E | i8\[S\] | optional "mode", not read |
//!
//! Source: Megatron-LM, `megatron/core/datasets/indexed_dataset.py`. Nothing read from the file is trusted: `open`
//! checks the header, the ends and a spread of entries, `verify` every entry, and each access its own numbers.

use crate::{Error, Result};
use memmap2::Mmap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub(super) const MAGIC: [u8; 9] = *b"MMIDIDX\0\0";
pub(super) const VERSION: u64 = 1;
const HEADER: u64 = 34;
const SPREAD: u64 = 64;
const REMEDY: &str = "copy the corpus again or rebuild it with `espalier corpus build`";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenType {
    U16,
    I32,
}

impl TokenType {
    /// As Megatron chooses it.
    pub fn for_vocab(vocab: u32) -> TokenType {
        if vocab < 65_500 { TokenType::U16 } else { TokenType::I32 }
    }
    pub fn code(self) -> u8 {
        match self {
            TokenType::U16 => 8,
            TokenType::I32 => 4,
        }
    }
    pub fn bytes(self) -> u64 {
        match self {
            TokenType::U16 => 2,
            TokenType::I32 => 4,
        }
    }
}

pub(super) struct Index {
    pub path: PathBuf,
    pub map: Mmap,
    pub token_type: TokenType,
    /// S and E.
    sequences: u64,
    entries: u64,
    bin_bytes: u64,
}

impl Index {
    /// `bin_bytes`: length of the .bin file, which the index must describe exactly.
    pub fn open(path: &Path, bin_bytes: u64) -> Result<Index> {
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        // SAFETY: the mapping is only read, through bounds-checked slices; corpora are written under temporary names
        // and renamed, so a file that has this name is not written to.
        let map = unsafe { Mmap::map(&file) }.map_err(Error::io(path, "map"))?;
        let length = map.len() as u64;
        let bad = |offset, problem: String| Err(damaged(path, offset, problem));
        if length < HEADER {
            return bad(length, format!("ends before its header of {HEADER} bytes does"));
        }
        if map[..9] != MAGIC {
            return bad(0, "does not begin with MMIDIDX: not an index of a corpus".into());
        }
        let mut index =
            Index { path: path.into(), map, token_type: TokenType::U16, sequences: 0, entries: 0, bin_bytes };
        let version = index.u64_at(9);
        if version != VERSION {
            return bad(9, format!("version {version}; this program reads {VERSION}"));
        }
        index.token_type = match index.map[17] {
            8 => TokenType::U16,
            4 => TokenType::I32,
            code => return bad(17, format!("number type {code}; allowed are 8 (u16) and 4 (i32)")),
        };
        (index.sequences, index.entries) = (index.u64_at(18), index.u64_at(26));
        let (s, e) = (index.sequences, index.entries);
        let arrays = s.checked_mul(12).zip(e.checked_mul(8)).and_then(|(s, e)| s.checked_add(e));
        let Some(expected) = arrays.and_then(|bytes| bytes.checked_add(HEADER)) else {
            return bad(18, format!("counts of {s} sequences and {e} document entries overflow"));
        };
        if length != expected && Some(length) != expected.checked_add(s) {
            return bad(
                18,
                format!("{s} sequences and {e} document entries need {expected} bytes, not {length}"),
            );
        }
        if s == 0 || e < 2 {
            return bad(18, format!("has {s} sequences and {} documents: no text", e.saturating_sub(1)));
        }
        index.check_ends()?;
        for i in 0..SPREAD.min(s) {
            index.check_sequence(i * s / SPREAD.min(s))?;
        }
        for i in 0..SPREAD.min(e - 1) {
            index.check_document(i * (e - 1) / SPREAD.min(e - 1))?;
        }
        Ok(index)
    }

    pub fn tokens(&self) -> u64 {
        self.bin_bytes / self.token_type.bytes()
    }

    pub fn documents(&self) -> u64 {
        self.entries - 1
    }

    pub fn sequences(&self) -> u64 {
        self.sequences
    }

    /// Tokens of sequence `i` < S.
    pub fn sequence_range(&self, i: u64) -> Result<Range<u64>> {
        self.check_sequence(i)?;
        let (begin, item) = (self.offset(i), self.token_type.bytes());
        if begin % item != 0 {
            let problem = format!("sequence {i} begins at byte {begin}, within a token");
            return Err(damaged(&self.path, self.offset_at(i), problem));
        }
        let first = begin / item;
        Ok(first..first + self.length(i) as u64)
    }

    /// First token of document `i`; for `i` = documents, the number of tokens.
    pub fn document_start(&self, i: u64) -> Result<u64> {
        let (sequence, at) = (self.entry(i), self.entry_at(i));
        if sequence > self.sequences {
            let problem = format!("document {i} begins at sequence {sequence} of {}", self.sequences);
            return Err(damaged(&self.path, at, problem));
        }
        let (bytes, item) = (self.offset(sequence), self.token_type.bytes());
        if bytes > self.bin_bytes || bytes % item != 0 {
            let problem =
                format!("sequence {sequence} begins at byte {bytes} of a .bin of {}", self.bin_bytes);
            return Err(damaged(&self.path, self.offset_at(sequence), problem));
        }
        Ok(bytes / item)
    }

    /// Every entry, for `verify`.
    pub fn check_all(&self) -> Result<()> {
        (0..self.sequences).try_for_each(|i| self.check_sequence(i))?;
        (0..self.documents()).try_for_each(|i| self.check_document(i))
    }

    fn check_ends(&self) -> Result<()> {
        let (first, last) = (self.entry(0), self.entry(self.entries - 1));
        if first != 0 {
            let problem = format!("the first document begins at sequence {first}, not 0");
            return Err(damaged(&self.path, self.entry_at(0), problem));
        }
        if last != self.sequences {
            let problem = format!("the last document ends at sequence {last}, not {}", self.sequences);
            return Err(damaged(&self.path, self.entry_at(self.entries - 1), problem));
        }
        let (at, first) = (self.offset_at(0), self.offset(0));
        if first != 0 {
            return Err(damaged(&self.path, at, format!("the first sequence begins at byte {first}, not 0")));
        }
        self.check_sequence(self.sequences - 1)
    }

    /// A sequence ends where the next one begins, the last one at the end of .bin.
    fn check_sequence(&self, i: u64) -> Result<()> {
        let (begin, length, item) = (self.offset(i), self.length(i), self.token_type.bytes());
        let end = u64::try_from(length).ok().and_then(|length| begin.checked_add(length * item));
        let next = if i + 1 < self.sequences { self.offset(i + 1) } else { self.bin_bytes };
        if end == Some(next) {
            return Ok(());
        }
        let what = if i + 1 < self.sequences { "the next one begins at" } else { ".bin has" };
        let problem = format!(
            "sequence {i} of {length} tokens of {item} bytes begins at byte {begin}, but {what} {next}"
        );
        Err(damaged(&self.path, self.offset_at(i), problem))
    }

    fn check_document(&self, i: u64) -> Result<()> {
        let (begin, end) = (self.entry(i), self.entry(i + 1));
        if begin <= end && end <= self.sequences {
            return Ok(());
        }
        let problem = format!("document {i} runs from sequence {begin} to {end} of {}", self.sequences);
        Err(damaged(&self.path, self.entry_at(i), problem))
    }

    fn length(&self, i: u64) -> i32 {
        let at = (HEADER + 4 * i) as usize;
        i32::from_le_bytes(self.map[at..at + 4].try_into().expect("four bytes"))
    }
    /// Negative numbers read as ones above 2^63 and fail the checks. `i` = S gives the length of .bin.
    fn offset(&self, i: u64) -> u64 {
        if i == self.sequences { self.bin_bytes } else { self.u64_at(self.offset_at(i)) }
    }
    fn offset_at(&self, i: u64) -> u64 {
        HEADER + 4 * self.sequences + 8 * i
    }
    fn entry(&self, i: u64) -> u64 {
        self.u64_at(self.entry_at(i))
    }
    fn entry_at(&self, i: u64) -> u64 {
        HEADER + 12 * self.sequences + 8 * i
    }
    fn u64_at(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.map[at as usize..at as usize + 8].try_into().expect("eight bytes"))
    }
}

pub(super) fn damaged(path: &Path, offset: u64, problem: String) -> Error {
    Error::Data { path: path.into(), offset: Some(offset), problem, remedy: REMEDY.into() }
}
