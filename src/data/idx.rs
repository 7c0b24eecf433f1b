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

use super::store::Source;
use crate::{Error, Result};
use std::ops::Range;
use std::path::Path;

pub(super) const MAGIC: [u8; 9] = *b"MMIDIDX\0\0";
pub(super) const VERSION: u64 = 1;
const HEADER: u64 = 34;
/// Entries that opening looks at, and that `verify` reads at once.
const SPREAD: u64 = 64;
const BLOCK: usize = 1 << 13;
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

#[derive(Debug)]
pub(super) struct Index {
    pub source: Source,
    pub token_type: TokenType,
    /// S and E.
    sequences: u64,
    entries: u64,
    bin_bytes: u64,
}

impl Index {
    /// `bin_bytes`: length of the .bin file, which the index must describe exactly.
    pub fn open(source: Source, bin_bytes: u64) -> Result<Index> {
        let path = source.path();
        let length = source.len();
        let bad = |offset, problem: String| Err(damaged(path, offset, problem));
        if length < HEADER {
            return bad(length, format!("ends before its header of {HEADER} bytes does"));
        }
        let mut header = [0; HEADER as usize];
        source.read_at(0, &mut header)?;
        if header[..9] != MAGIC {
            return bad(0, "does not begin with MMIDIDX: not an index of a corpus".into());
        }
        let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        let version = word(9);
        if version != VERSION {
            return bad(9, format!("version {version}; this program reads {VERSION}"));
        }
        let token_type = match header[17] {
            8 => TokenType::U16,
            4 => TokenType::I32,
            code => return bad(17, format!("number type {code}; allowed are 8 (u16) and 4 (i32)")),
        };
        let (s, e) = (word(18), word(26));
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
        let index = Index { source, token_type, sequences: s, entries: e, bin_bytes };
        index.check_ends()?;
        for i in 0..SPREAD.min(s) {
            index.check_sequences(i * s / SPREAD.min(s), 1)?;
        }
        for i in 0..SPREAD.min(e - 1) {
            index.check_documents(i * (e - 1) / SPREAD.min(e - 1), 1)?;
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
        self.check_sequences(i, 1)?;
        let (mut length, begin) = ([0], self.offset(i)?);
        self.lengths(i, &mut length)?;
        let item = self.token_type.bytes();
        if begin % item != 0 {
            let problem = format!("sequence {i} begins at byte {begin}, within a token");
            return Err(damaged(self.source.path(), self.offset_at(i), problem));
        }
        Ok(begin / item..begin / item + length[0] as u64)
    }

    /// First token of document `i`; for `i` = documents, the number of tokens.
    pub fn document_start(&self, i: u64) -> Result<u64> {
        let mut start = [0];
        self.document_starts(i, &mut start)?;
        Ok(start[0])
    }

    /// First tokens of the documents from `first` on; for the one after the last, the number of tokens. Each is at
    /// most that, and that they ascend is for the caller to see.
    pub fn document_starts(&self, first: u64, out: &mut [u64]) -> Result<()> {
        self.read_entries(first, out)?;
        let Some((&low, &high)) = out.first().zip(out.last()) else { return Ok(()) };
        // Nearly always a document is one sequence, and its neighbours' places are read at once.
        let dense = high >= low && high - low < 2 * out.len() as u64 && high <= self.sequences;
        let mut near = Vec::new();
        if dense && out.len() > 1 {
            near.resize((high - low + 1) as usize, 0);
            self.offsets(low, &mut near)?;
        }
        let item = self.token_type.bytes();
        for (i, out) in out.iter_mut().enumerate() {
            let (sequence, document) = (*out, first + i as u64);
            if sequence > self.sequences {
                let problem =
                    format!("document {document} begins at sequence {sequence} of {}", self.sequences);
                return Err(damaged(self.source.path(), self.entry_at(document), problem));
            }
            let bytes = match sequence.checked_sub(low).and_then(|i| near.get(i as usize)) {
                Some(&bytes) => bytes,
                None => self.offset(sequence)?,
            };
            if bytes > self.bin_bytes || bytes % item != 0 {
                let problem =
                    format!("sequence {sequence} begins at byte {bytes} of a .bin of {}", self.bin_bytes);
                return Err(damaged(self.source.path(), self.offset_at(sequence), problem));
            }
            *out = bytes / item;
        }
        Ok(())
    }

    /// Every entry, for `verify`.
    pub fn check_all(&self) -> Result<()> {
        for first in (0..self.sequences).step_by(BLOCK) {
            self.check_sequences(first, BLOCK.min((self.sequences - first) as usize))?;
        }
        for first in (0..self.documents()).step_by(BLOCK) {
            self.check_documents(first, BLOCK.min((self.documents() - first) as usize))?;
        }
        Ok(())
    }

    fn check_ends(&self) -> Result<()> {
        let path = self.source.path();
        let (mut first, mut last) = ([0], [0]);
        self.read_entries(0, &mut first)?;
        self.read_entries(self.entries - 1, &mut last)?;
        if first != [0] {
            let problem = format!("the first document begins at sequence {}, not 0", first[0]);
            return Err(damaged(path, self.entry_at(0), problem));
        }
        if last != [self.sequences] {
            let problem = format!("the last document ends at sequence {}, not {}", last[0], self.sequences);
            return Err(damaged(path, self.entry_at(self.entries - 1), problem));
        }
        let (at, first) = (self.offset_at(0), self.offset(0)?);
        if first != 0 {
            return Err(damaged(path, at, format!("the first sequence begins at byte {first}, not 0")));
        }
        self.check_sequences(self.sequences - 1, 1)
    }

    /// A sequence ends where the next one begins, the last one at the end of .bin.
    fn check_sequences(&self, first: u64, count: usize) -> Result<()> {
        let (mut lengths, mut offsets) = (vec![0; count], vec![0; count + 1]);
        self.lengths(first, &mut lengths)?;
        self.offsets(first, &mut offsets)?;
        let item = self.token_type.bytes();
        for (i, (&length, ends)) in (first..).zip(lengths.iter().zip(offsets.windows(2))) {
            let end = u64::try_from(length).ok().and_then(|length| ends[0].checked_add(length * item));
            if end == Some(ends[1]) {
                continue;
            }
            let what = if i + 1 < self.sequences { "the next one begins at" } else { ".bin has" };
            let problem = format!(
                "sequence {i} of {length} tokens of {item} bytes begins at byte {}, but {what} {}",
                ends[0], ends[1]
            );
            return Err(damaged(self.source.path(), self.offset_at(i), problem));
        }
        Ok(())
    }

    fn check_documents(&self, first: u64, count: usize) -> Result<()> {
        let mut entries = vec![0; count + 1];
        self.read_entries(first, &mut entries)?;
        for (i, ends) in (first..).zip(entries.windows(2)) {
            if ends[0] > ends[1] || ends[1] > self.sequences {
                let problem = format!(
                    "document {i} runs from sequence {} to {} of {}",
                    ends[0], ends[1], self.sequences
                );
                return Err(damaged(self.source.path(), self.entry_at(i), problem));
            }
        }
        Ok(())
    }

    /// Lengths of the sequences from `first` on, as they stand there.
    pub fn lengths(&self, first: u64, out: &mut [i32]) -> Result<()> {
        self.source.with(HEADER + 4 * first, 4 * out.len(), |bytes| {
            for (out, b) in out.iter_mut().zip(bytes.chunks_exact(4)) {
                *out = i32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            }
        })
    }

    /// Places of the sequences from `first` on in .bin; S gives its length. Negative ones read as above 2^63.
    fn offsets(&self, first: u64, out: &mut [u64]) -> Result<()> {
        let stored = out.len().min((self.sequences - first) as usize);
        self.words(self.offset_at(first), &mut out[..stored])?;
        out[stored..].fill(self.bin_bytes);
        Ok(())
    }
    fn offset(&self, i: u64) -> Result<u64> {
        if i == self.sequences { Ok(self.bin_bytes) } else { self.source.u64_at(self.offset_at(i)) }
    }
    fn offset_at(&self, i: u64) -> u64 {
        HEADER + 4 * self.sequences + 8 * i
    }

    /// The sequences that documents begin with, from document `first` on.
    pub fn read_entries(&self, first: u64, out: &mut [u64]) -> Result<()> {
        self.words(self.entry_at(first), out)
    }
    fn entry_at(&self, i: u64) -> u64 {
        HEADER + 12 * self.sequences + 8 * i
    }

    fn words(&self, at: u64, out: &mut [u64]) -> Result<()> {
        self.source.with(at, 8 * out.len(), |bytes| {
            for (out, b) in out.iter_mut().zip(bytes.chunks_exact(8)) {
                *out = u64::from_le_bytes(b.try_into().expect("eight bytes"));
            }
        })
    }
}

pub(super) fn damaged(path: &Path, offset: u64, problem: String) -> Error {
    Error::Data { path: path.into(), offset: Some(offset), problem, remedy: REMEDY.into() }
}
