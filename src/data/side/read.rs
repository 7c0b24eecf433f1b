//! Side streams and document columns, read as their corpus is: mapped, by position, or from a copy.

use super::header::{HEADER, Header, Kind, REMEDY, SideType, damaged};
use super::{Value, list, path};
use crate::data::Corpus;
use crate::data::store::{Access, Source, Staged, stage_beside};
use crate::{Error, Result};
use half::f16;
use half::slice::HalfFloatSliceExt;
use std::path::Path;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// Bytes at a time: on the stack, and in the first-level cache.
const BLOCK: usize = 4096;

/// One number for each token of a corpus.
pub struct Stream(Side);

/// One value for each document of a corpus.
pub struct Column(Side);

impl Stream {
    /// `PREFIX.stream.NAME` of this corpus. Errors name the file and what is wrong with it: absent, damaged, made for
    /// another corpus.
    pub fn open(corpus: &Corpus, name: &str) -> Result<Stream> {
        Side::open(corpus, Kind::Stream, name, corpus.tokens()).map(Stream)
    }

    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// Names the content: after any change of values, their type or the corpus it is another. By the checksum in the
    /// header, which `verify` compares.
    pub fn hash(&self) -> u64 {
        xxh3_64(&self.0.header.encode())
    }

    /// U8 or F16.
    pub fn side_type(&self) -> SideType {
        self.0.header.dtype
    }

    /// The values of tokens first to first + out.len().
    pub fn read(&self, first: u64, out: &mut [f32]) -> Result<()> {
        self.0.check_range(first, out.len() as u64)?;
        let item = self.side_type().bytes() as usize;
        let mut at = HEADER + first * item as u64;
        let mut bytes = [0; BLOCK];
        let mut halves = [f16::ZERO; BLOCK / 2];
        for out in out.chunks_mut(BLOCK / item) {
            let bytes = &mut bytes[..out.len() * item];
            self.0.file.read_at(at, bytes)?;
            if item == 1 {
                out.iter_mut().zip(bytes.iter()).for_each(|(o, b)| *o = f32::from(*b));
            } else {
                let halves = &mut halves[..out.len()];
                let pairs = bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]));
                halves.iter_mut().zip(pairs).for_each(|(h, x)| *h = x);
                halves.convert_to_f32_slice(out);
            }
            at += bytes.len() as u64;
        }
        Ok(())
    }

    /// Whether the file is still the one that was opened: one `stat`.
    pub fn unchanged(&self) -> Result<()> {
        self.0.file.unchanged()
    }

    /// Reads everything and compares it with the checksum.
    pub fn verify(&self) -> Result<()> {
        self.0.verify()
    }
}

impl Column {
    /// `PREFIX.col.NAME` of this corpus. Errors as for `Stream::open`.
    pub fn open(corpus: &Corpus, name: &str) -> Result<Column> {
        Side::open(corpus, Kind::Column, name, corpus.documents()).map(Column)
    }

    pub fn side_type(&self) -> SideType {
        self.0.header.dtype
    }

    /// The value of document `doc`.
    pub fn get(&self, doc: u64) -> Result<Value> {
        let side = &self.0;
        side.check_range(doc, 1)?;
        let mut bytes = [0; 8];
        let item = self.side_type().bytes();
        side.file.read_at(HEADER + doc * item, &mut bytes[..item as usize])?;
        let [a, b, c, d, ..] = bytes;
        Ok(match self.side_type() {
            SideType::U8 => Value::U8(a),
            SideType::F16 => Value::F16(f16::from_le_bytes([a, b])),
            SideType::F32 => Value::F32(f32::from_le_bytes([a, b, c, d])),
            SideType::F64 => Value::F64(f64::from_le_bytes(bytes)),
            SideType::I64 => Value::I64(i64::from_le_bytes(bytes)),
            SideType::Utf8 => Value::Utf8(side.text(doc)?),
        })
    }

    /// Reads everything, each text too, and compares it with the checksum.
    pub fn verify(&self) -> Result<()> {
        if self.side_type() == SideType::Utf8 {
            (0..self.0.header.count).try_for_each(|doc| self.0.text(doc).map(drop))?;
        }
        self.0.verify()
    }
}

/// What both are.
struct Side {
    name: String,
    // Before the folder it may be copied to.
    file: Source,
    _staged: Option<Staged>,
    header: Header,
}

impl Side {
    fn open(corpus: &Corpus, kind: Kind, name: &str, count: u64) -> Result<Side> {
        let path = path(corpus.prefix(), kind, name)?;
        if !path.is_file() {
            return Err(Error::data(&path, "there is no such file", there_is(corpus.prefix(), kind)));
        }
        let file = Source::open(&path, corpus.access())?;
        let bad = |offset, problem: String| Err(damaged(&path, offset, problem));
        if file.len() < HEADER {
            return bad(file.len(), format!("ends before its header of {HEADER} bytes does"));
        }
        let mut bytes = [0; HEADER as usize];
        file.read_at(0, &mut bytes)?;
        let header = Header::decode(&path, &bytes)?;
        if header.kind != kind {
            return bad(12, format!("is a {}, but its name is that of a {kind}", header.kind));
        }
        if header.corpus != corpus.hash() {
            let (made, here) = (header.corpus, corpus.hash());
            return bad(16, format!("was made for corpus {made:016x}, but the one beside it is {here:016x}"));
        }
        if header.count != count {
            return bad(
                24,
                format!("has {} values for the corpus' {count} {}", header.count, kind.counted()),
            );
        }
        let mut side = Side { name: name.into(), file, _staged: None, header };
        side.check_size()?;
        // Columns are looked into, streams are read with every batch.
        if let Some(folder) = corpus.staged().filter(|_| kind == Kind::Stream) {
            let (staged, copy) = stage_beside(folder, xxh3_64(&bytes), &path)?;
            side.file = Source::open(&copy, corpus.access())?;
            side._staged = Some(staged);
            let mut copied = [0; HEADER as usize];
            side.file.read_at(0, &mut copied)?;
            if copied != bytes {
                return Err(damaged(&copy, 0, format!("is not a copy of {}", path.display())));
            }
        }
        Ok(side)
    }

    fn path(&self) -> &Path {
        self.file.path()
    }

    /// Where the texts begin; where the values end.
    fn texts(&self) -> Option<u64> {
        let Header { dtype, count, .. } = self.header;
        let items = count.checked_add(u64::from(dtype == SideType::Utf8))?;
        items.checked_mul(dtype.bytes())?.checked_add(HEADER)
    }

    fn check_size(&self) -> Result<()> {
        let (length, Header { dtype, count, .. }) = (self.file.len(), self.header);
        let bad = |offset, problem: String| Err(damaged(self.path(), offset, problem));
        let Some(end) = self.texts() else {
            return bad(24, format!("{count} values of type {dtype} overflow"));
        };
        if dtype != SideType::Utf8 {
            return match end == length {
                true => Ok(()),
                false => bad(24, format!("{count} values of type {dtype} need {end} bytes, not {length}")),
            };
        }
        if end > length {
            return bad(24, format!("{count} texts need {end} bytes or more, not {length}"));
        }
        let (first, last) = (self.file.u64_at(HEADER)?, self.file.u64_at(end - 8)?);
        if first != 0 {
            return bad(HEADER, format!("the first text begins at {first}, not 0"));
        }
        if last != length - end {
            return bad(end - 8, format!("the texts end at {last}, but the file has {} bytes", length - end));
        }
        Ok(())
    }

    fn check_range(&self, first: u64, count: u64) -> Result<()> {
        let Header { kind, count: all, .. } = self.header;
        if first.checked_add(count).is_some_and(|end| end <= all) {
            return Ok(());
        }
        let (what, end) = (kind.counted(), first.saturating_add(count));
        let problem = format!("values of {what} {first} to {end} were asked for, it has {all}");
        Err(Error::data(self.path(), problem, "ask for what the corpus has"))
    }

    fn text(&self, doc: u64) -> Result<String> {
        let at = HEADER + 8 * doc;
        let (begin, end) = (self.file.u64_at(at)?, self.file.u64_at(at + 8)?);
        let texts = HEADER + 8 * (self.header.count + 1);
        if begin > end || end > self.file.len() - texts {
            let problem = format!("text {doc} runs from {begin} to {end} of {}", self.file.len() - texts);
            return Err(damaged(self.path(), at, problem));
        }
        let mut bytes = vec![0; (end - begin) as usize];
        self.file.read_at(texts + begin, &mut bytes)?;
        String::from_utf8(bytes)
            .map_err(|e| damaged(self.path(), texts + begin, format!("text {doc} is not UTF-8: {e}")))
    }

    fn verify(&self) -> Result<()> {
        self.file.unchanged()?;
        // Not through the mapping, which the system does not read ahead.
        let file = Source::open(self.path(), Access::Positioned)?;
        let mut hash = Xxh3::new();
        let mut at = HEADER;
        while at < file.len() {
            let count = (file.len() - at).min(1 << 20);
            file.with(at, count as usize, |bytes| hash.update(bytes))?;
            at += count;
        }
        let (found, stated) = (hash.digest(), self.header.checksum);
        if found != stated {
            let problem =
                format!("its values have checksum {found:016x}, but the header states {stated:016x}");
            return Err(Error::data(self.path(), problem, REMEDY));
        }
        Ok(())
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "Stream({}, {})", self.0.path().display(), self.side_type())
    }
}

impl std::fmt::Debug for Column {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "Column({}, {})", self.0.path().display(), self.side_type())
    }
}

/// What can be asked for instead of what is missing.
fn there_is(prefix: &Path, kind: Kind) -> String {
    let names = list(prefix).unwrap_or_default();
    let names = if kind == Kind::Stream { names.streams } else { names.columns };
    match names.len() {
        0 => format!("this corpus has no {kind}"),
        _ => format!("this corpus has the {kind}s {}", names.join(", ")),
    }
}
