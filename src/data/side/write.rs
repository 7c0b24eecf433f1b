//! Writes side streams and document columns in constant memory, value after value. They are named at the end, when
//! the hash of their corpus is known; until then they lie under temporary names, where a killed program finds them.

use super::header::{Header, Kind, SideType};
use super::out::Out;
use super::{Value, path};
use crate::data::meta::beside;
use crate::{Error, Result};
use half::f16;
use std::path::{Path, PathBuf};

/// `PREFIX.stream.NAME`, one number for each token.
pub struct StreamWriter {
    /// Its name once it is finished.
    path: PathBuf,
    dtype: SideType,
    out: Out,
    count: u64,
}

impl StreamWriter {
    /// `dtype`: U8 or F16. Replaces what an earlier attempt left unfinished; a finished stream of this name stays until
    /// `finish`.
    pub fn create(prefix: &Path, name: &str, dtype: SideType) -> Result<StreamWriter> {
        let path = stream_path(prefix, name, dtype)?;
        Ok(StreamWriter { out: Out::create(temporary(&path))?, path, dtype, count: 0 })
    }

    /// Goes on after the first `len` values that a killed program wrote; what it wrote beyond is dropped.
    pub fn resume(prefix: &Path, name: &str, dtype: SideType, len: u64) -> Result<StreamWriter> {
        let path = stream_path(prefix, name, dtype)?;
        let out = Out::resume(temporary(&path), bytes_of(&path, len, dtype)?)?;
        Ok(StreamWriter { out, path, dtype, count: len })
    }

    /// Values so far.
    pub fn len(&self) -> u64 {
        self.count
    }
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Appends the values of the next tokens. A u8 stream takes whole numbers from 0 to 255; an f16 stream rounds to the
    /// nearest f16 and takes NaN and infinities, but nothing finite beyond 65504.
    pub fn push(&mut self, values: &[f32]) -> Result<()> {
        let mut bytes = [0; 4096];
        let item = self.dtype.bytes() as usize;
        for values in values.chunks(bytes.len() / item) {
            let bytes = &mut bytes[..values.len() * item];
            for (&x, bytes) in values.iter().zip(bytes.chunks_exact_mut(item)) {
                let fits = match self.dtype {
                    SideType::U8 => {
                        bytes[0] = x as u8;
                        f32::from(bytes[0]) == x
                    }
                    _ => {
                        let half = if x.is_nan() { f16::NAN } else { f16::from_f32(x) };
                        bytes.copy_from_slice(&half.to_le_bytes());
                        half.is_finite() || !x.is_finite()
                    }
                };
                if !fits {
                    let problem = format!("the value {x} does not fit into {}", self.dtype);
                    let remedy = "u8 holds whole numbers from 0 to 255, f16 numbers up to 65504";
                    return Err(Error::data(&self.path, problem, remedy));
                }
            }
            self.out.write(bytes)?;
            self.count += values.len() as u64;
        }
        Ok(())
    }

    /// The same value for the next `tokens` tokens.
    pub fn fill(&mut self, value: f32, tokens: u64) -> Result<()> {
        let values = [value; 1024];
        let mut left = tokens;
        while left > 0 {
            let now = left.min(values.len() as u64);
            self.push(&values[..now as usize])?;
            left -= now;
        }
        Ok(())
    }

    /// Waits until the values so far are on the disk: after it, a `resume` to this length is safe from any failure.
    pub fn sync(&mut self) -> Result<()> {
        self.out.sync()
    }

    /// Binds the stream to the corpus of this hash and gives it its name.
    pub fn finish(mut self, corpus: u64) -> Result<()> {
        let header = Header { kind: Kind::Stream, dtype: self.dtype, corpus, count: self.count, checksum: 0 };
        self.out.finish(header, &self.path)
    }

    /// Removes what was written.
    pub fn discard(self) -> Result<()> {
        remove(self.out.path())
    }
}

/// `PREFIX.col.NAME`, one value for each document.
pub struct ColumnWriter {
    path: PathBuf,
    dtype: SideType,
    /// Values; of utf8 the offsets.
    out: Out,
    /// The texts, which follow the offsets at the end, and how long they are.
    texts: Option<(Out, u64)>,
    count: u64,
}

impl ColumnWriter {
    /// Replaces what an earlier attempt left unfinished; a finished column of this name stays until `finish`.
    pub fn create(prefix: &Path, name: &str, dtype: SideType) -> Result<ColumnWriter> {
        let path = path(prefix, Kind::Column, name)?;
        let mut out = Out::create(temporary(&path))?;
        let mut texts = None;
        if dtype == SideType::Utf8 {
            out.write(&0u64.to_le_bytes())?;
            texts = Some((Out::create(texts_path(&path))?, 0));
        }
        Ok(ColumnWriter { path, dtype, out, texts, count: 0 })
    }

    /// Goes on after the first `len` values that a killed program wrote; what it wrote beyond is dropped.
    pub fn resume(prefix: &Path, name: &str, dtype: SideType, len: u64) -> Result<ColumnWriter> {
        let path = path(prefix, Kind::Column, name)?;
        let items = len.saturating_add(u64::from(dtype == SideType::Utf8));
        let out = Out::resume(temporary(&path), bytes_of(&path, items, dtype)?)?;
        let mut texts = None;
        if dtype == SideType::Utf8 {
            let end = out.u64(8 * len)?;
            texts = Some((Out::resume(texts_path(&path), end)?, end));
        }
        Ok(ColumnWriter { path, dtype, out, texts, count: len })
    }

    /// Values so far.
    pub fn len(&self) -> u64 {
        self.count
    }
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Appends the value of the next document, which must have the column's type.
    pub fn push(&mut self, value: &Value) -> Result<()> {
        if value.side_type() != self.dtype {
            let problem = format!("a value of type {} for a column of {}", value.side_type(), self.dtype);
            return Err(Error::data(&self.path, problem, "give every document a value of one type"));
        }
        match value {
            Value::U8(x) => self.out.write(&[*x])?,
            Value::F16(x) => self.out.write(&x.to_le_bytes())?,
            Value::F32(x) => self.out.write(&x.to_le_bytes())?,
            Value::F64(x) => self.out.write(&x.to_le_bytes())?,
            Value::I64(x) => self.out.write(&x.to_le_bytes())?,
            Value::Utf8(x) => {
                let (texts, end) = self.texts.as_mut().expect("a column of texts has them");
                texts.write(x.as_bytes())?;
                *end += x.len() as u64;
                self.out.write(&end.to_le_bytes())?;
            }
        }
        self.count += 1;
        Ok(())
    }

    /// Waits until the values so far are on the disk: after it, a `resume` to this length is safe from any failure.
    pub fn sync(&mut self) -> Result<()> {
        if let Some((texts, _)) = &mut self.texts {
            texts.sync()?;
        }
        self.out.sync()
    }

    /// Binds the column to the corpus of this hash and gives it its name.
    pub fn finish(mut self, corpus: u64) -> Result<()> {
        if let Some((texts, _)) = &mut self.texts {
            self.out.append(texts)?;
        }
        let header = Header { kind: Kind::Column, dtype: self.dtype, corpus, count: self.count, checksum: 0 };
        self.out.finish(header, &self.path)?;
        match &self.texts {
            Some((texts, _)) => remove(texts.path()),
            None => Ok(()),
        }
    }

    /// Removes what was written.
    pub fn discard(self) -> Result<()> {
        if let Some((texts, _)) = &self.texts {
            remove(texts.path())?;
        }
        remove(self.out.path())
    }
}

fn stream_path(prefix: &Path, name: &str, dtype: SideType) -> Result<PathBuf> {
    let path = path(prefix, Kind::Stream, name)?;
    if !Kind::Stream.allows(dtype) {
        let problem = format!("a side stream of type {dtype}");
        return Err(Error::data(&path, problem, "side streams are u8 or f16"));
    }
    Ok(path)
}

/// Names cannot hold a dot, so no other stream or column has this file.
fn temporary(path: &Path) -> PathBuf {
    beside(path, ".tmp")
}
fn texts_path(path: &Path) -> PathBuf {
    beside(path, ".texts.tmp")
}

fn bytes_of(path: &Path, items: u64, dtype: SideType) -> Result<u64> {
    items.checked_mul(dtype.bytes()).ok_or_else(|| {
        let problem = format!("{items} values of type {dtype} overflow");
        Error::data(path, problem, "start from the beginning")
    })
}

fn remove(path: &Path) -> Result<()> {
    std::fs::remove_file(path).map_err(Error::io(path, "remove"))
}
