//! Where the frames of PREFIX.bin.zst lie. The file is in zstd's seekable format: independent frames, then the seek
//! table as a skippable frame at the very end. All numbers little-endian:
//!
//! | bytes | field |
//! |---|---|
//! | 4, 4 | 0x184D2A5E, size of what follows |
//! | 8n or 12n | per frame: u32 compressed size, u32 decompressed size, u32 low half of XXH64 if there are checksums |
//! | 4 | n |
//! | 1 | bit 7: checksums; bits 2 to 6 zero |
//! | 4 | 0x8F92EAB1 |
//!
//! Finding a frame by that table alone means adding up all sizes before it. Ours has one more skippable frame behind
//! the data, with an entry of its own in the seek table (decompressed size 0), which other readers pass over:
//!
//! | bytes | field |
//! |---|---|
//! | 4, 4 | 0x184D2A5D, size of what follows |
//! | 8 | "ESPOFFS\0" |
//! | 4, 4 | version 1; frames of a group, 64 |
//! | 8, 8 | decompressed bytes of every frame but the last, and of all |
//! | 8(g + 1) | place of the first frame of each of the g groups; end of the data |
//!
//! So opening reads a few numbers, and finding a frame at most 64 entries, whatever the size. For a file without it the
//! places of every 64th frame are added up on opening. Nothing is trusted: each group's entries must fill it exactly.
//!
//! Source: `contrib/seekable_format/zstd_seekable_compression_format.md` of zstd, version 0.1.0.

use super::source::Source;
use crate::{Error, Result};
use std::ops::Range;

pub(super) const SKIPPABLE: u32 = 0x184D_2A5E;
pub(super) const OURS: u32 = 0x184D_2A5D;
pub(super) const MAGIC: u32 = 0x8F92_EAB1;
pub(super) const OFFSETS: [u8; 8] = *b"ESPOFFS\0";
pub(super) const VERSION: u32 = 1;
pub(super) const GROUP: u64 = 64;
/// The format's own limit.
pub(super) const MAX_FRAMES: u64 = 1 << 27;
pub(super) const FOOTER: u64 = 9;
pub(super) const HEAD: u64 = 8;
pub(super) const FIXED: u64 = 32;
/// Frames above this are no use for random access, and a damaged table must not make us allocate any amount.
const MAX_FRAME: u64 = 1 << 26;

#[derive(Debug)]
pub(super) struct Table {
    /// Place of the first entry, bytes of each, and how many there are.
    begin: u64,
    entry: u64,
    frames: u64,
    /// Decompressed bytes.
    pub len: u64,
    places: Places,
}

#[derive(Debug)]
enum Places {
    /// In our frame: where its array lies, and how large each frame but the last is.
    Stored { array: u64, frame: u64 },
    /// Of each 64th frame and the end: place in the file, first decompressed byte.
    Summed(Vec<(u64, u64)>),
}

/// One frame: where it lies in the file, which bytes it holds, and what they add up to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub packed: Range<u64>,
    pub bytes: Range<u64>,
    pub checksum: Option<u32>,
}

struct Entry {
    packed: u64,
    bytes: u64,
    checksum: Option<u32>,
}

pub(super) fn damaged(source: &Source, at: u64, problem: String) -> Error {
    let remedy = "copy the corpus again or compress it anew with `espalier corpus compress`".into();
    Error::Data { path: source.path().into(), offset: Some(at), problem, remedy }
}

impl Table {
    pub fn open(source: &Source) -> Result<Table> {
        let end = source.len();
        let bad = |at, problem: String| Err(damaged(source, at, problem));
        if end < HEAD + FOOTER {
            return bad(end, "ends before a zstd seek table could: it is cut off".into());
        }
        let magic = source.u32_at(end - 4)?;
        if magic != MAGIC {
            return bad(end - 4, format!("ends with {magic:#010x}, not with a zstd seek table (0x8f92eab1)"));
        }
        let frames = u64::from(source.u32_at(end - FOOTER)?);
        let mut flags = [0];
        source.read_at(end - 5, &mut flags)?;
        if flags[0] & 0b0111_1100 != 0 {
            return bad(
                end - 5,
                format!("the seek table has flags {:#04x}, of which some are unknown", flags[0]),
            );
        }
        let entry = if flags[0] & 0x80 == 0 { 8 } else { 12 };
        let size = frames * entry + FOOTER;
        let Some(begin) = end.checked_sub(size + HEAD) else {
            return bad(
                end - FOOTER,
                format!("states {frames} frames, whose table of {size} bytes has no room"),
            );
        };
        let (magic, stated) = (source.u32_at(begin)?, u64::from(source.u32_at(begin + 4)?));
        if (magic, stated) != (SKIPPABLE, size) {
            let problem =
                format!("the seek table of {size} bytes begins with {magic:#010x} and states {stated} bytes");
            return bad(begin, problem);
        }
        let mut table = Table { begin: begin + HEAD, entry, frames, len: 0, places: Places::Summed(vec![]) };
        if !table.find_stored(source, begin)? {
            table.sum(source, begin)?;
        }
        Ok(table)
    }

    /// Reads our frame of offsets, if the last entry of the seek table leads to one.
    fn find_stored(&mut self, source: &Source, data_end: u64) -> Result<bool> {
        let Some(last) = self.frames.checked_sub(1) else { return Ok(false) };
        let (mut packed, mut bytes) = (0, 0);
        self.entries(source, last, 1, |entry| (packed, bytes) = (entry.packed, entry.bytes))?;
        let Some(at) = data_end.checked_sub(packed) else { return Ok(false) };
        if bytes != 0 || packed < HEAD + FIXED || source.u32_at(at)? != OURS {
            return Ok(false);
        }
        let mut fixed = [0; FIXED as usize];
        source.read_at(at + HEAD, &mut fixed)?;
        if fixed[..8] != OFFSETS {
            return Ok(false);
        }
        let word = |i: usize| u64::from_le_bytes(fixed[i..i + 8].try_into().expect("eight bytes"));
        let (version, group) = (word(8) as u32, word(8) >> 32);
        if (version, group) != (VERSION, GROUP) {
            let problem = format!(
                "offsets of version {version} for groups of {group}; this program reads version 1 of 64"
            );
            return Err(damaged(source, at + HEAD, problem));
        }
        let (frame, len) = (word(16), word(24));
        let array = at + HEAD + FIXED;
        let groups = last.div_ceil(GROUP);
        let fits = u64::from(source.u32_at(at + 4)?) == packed - HEAD
            && packed == HEAD + FIXED + 8 * (groups + 1)
            && (1..=MAX_FRAME).contains(&frame)
            && len.div_ceil(frame) == last;
        if !fits {
            let problem =
                format!("{len} bytes in frames of {frame} do not fit a seek table of {last} frames");
            return Err(damaged(source, at, problem));
        }
        let ends = (source.u64_at(array)?, source.u64_at(array + 8 * groups)?);
        if ends != (0, at) {
            let problem = format!("the frames run from byte {} to {}, not from 0 to {at}", ends.0, ends.1);
            return Err(damaged(source, array, problem));
        }
        (self.frames, self.len, self.places) = (last, len, Places::Stored { array, frame });
        Ok(true)
    }

    /// Adds up the sizes of all frames.
    fn sum(&mut self, source: &Source, data_end: u64) -> Result<()> {
        let (mut place, mut byte) = (0u64, 0u64);
        let mut places = Vec::with_capacity((self.frames / GROUP) as usize + 2);
        for first in (0..self.frames).step_by(GROUP as usize) {
            places.push((place, byte));
            self.entries(source, first, GROUP.min(self.frames - first), |entry| {
                // At most 2^32 numbers below 2^32: no overflow.
                place += entry.packed;
                byte += entry.bytes;
            })?;
        }
        places.push((place, byte));
        if place > data_end {
            let problem = format!("the frames take {place} bytes, and the seek table begins at {data_end}");
            return Err(damaged(source, self.begin, problem));
        }
        (self.len, self.places) = (byte, Places::Summed(places));
        Ok(())
    }

    /// The frame that holds decompressed byte `at`, which must be below `len`.
    pub fn frame(&self, source: &Source, at: u64) -> Result<Frame> {
        let (group, begin, end) = match &self.places {
            Places::Stored { array, frame } => {
                let group = at / frame / GROUP;
                let place = array + 8 * group;
                let first = group * GROUP * frame;
                let last = (first + GROUP * frame).min(self.len);
                (group, (source.u64_at(place)?, first), (source.u64_at(place + 8)?, last))
            }
            Places::Summed(places) => {
                // At least one group begins at or before any byte, and the end of all is behind it.
                let group = places.partition_point(|place| place.1 <= at) - 1;
                (group as u64, places[group], places[group + 1])
            }
        };
        let first = group * GROUP;
        let (mut place, mut byte) = begin;
        let mut found = None;
        self.entries(source, first, GROUP.min(self.frames - first), |entry| {
            let next = (place.saturating_add(entry.packed), byte.saturating_add(entry.bytes));
            if (byte..next.1).contains(&at) {
                found = Some(Frame { packed: place..next.0, bytes: byte..next.1, checksum: entry.checksum });
            }
            (place, byte) = next;
        })?;
        let entries = self.begin + first * self.entry;
        match found.filter(|_| (place, byte) == end && place <= self.begin) {
            Some(f)
                if f.bytes.end - f.bytes.start <= MAX_FRAME
                    && f.packed.end - f.packed.start <= 2 * MAX_FRAME =>
            {
                Ok(f)
            }
            Some(f) => {
                let problem = format!(
                    "a frame of {} bytes, {} compressed; at most {MAX_FRAME} can be read at random",
                    f.bytes.end - f.bytes.start,
                    f.packed.end - f.packed.start
                );
                Err(damaged(source, entries, problem))
            }
            None => {
                let problem = format!(
                    "frames {first} on lead to byte {place} of the file and {byte} of the tokens, not to {} and {}",
                    end.0, end.1
                );
                Err(damaged(source, entries, problem))
            }
        }
    }

    fn entries(&self, source: &Source, first: u64, count: u64, mut f: impl FnMut(Entry)) -> Result<()> {
        source.with(self.begin + first * self.entry, (count * self.entry) as usize, |bytes| {
            let word = |b: &[u8]| u32::from_le_bytes([b[0], b[1], b[2], b[3]]);
            for b in bytes.chunks_exact(self.entry as usize) {
                let checksum = (b.len() == 12).then(|| word(&b[8..]));
                f(Entry { packed: word(b).into(), bytes: word(&b[4..]).into(), checksum });
            }
        })
    }
}
