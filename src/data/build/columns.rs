//! Metadata of documents on its way to the columns PREFIX.col.X.
//!
//! What type a column has is known when all documents are: values wait in a file of rows. Then
//!
//! - all true or false, none missing: u8;
//! - all whole numbers, none missing: i64;
//! - all numbers, true or false: f64, missing ones NaN (unless a whole number would lose digits: utf8);
//! - anything else: utf8, missing ones empty, numbers as JSON writes them.

use super::json::Scalar;
use crate::data::side::{ColumnWriter, SideType, Value};
use crate::data::writer::Output;
use crate::{Error, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

/// More columns than this are refused.
pub(super) const MOST: usize = 64;
/// Whole numbers up to this are exact in f64.
const EXACT: u64 = 1 << 53;

pub(super) struct Columns {
    rows: Output,
    seen: Seen,
    row: Vec<u8>,
}

/// What has been seen so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Seen {
    bytes: u64,
    documents: u64,
    columns: Vec<Column>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Column {
    name: String,
    bools: u64,
    ints: u64,
    floats: u64,
    texts: u64,
    /// Whether a whole number is not exact in f64.
    wide: bool,
}

impl Columns {
    pub fn resume(path: PathBuf, seen: Seen) -> Result<Columns> {
        Ok(Columns { rows: Output::resume(path, seen.bytes)?, seen, row: Vec::new() })
    }

    /// The values of the next document.
    pub fn push(&mut self, values: &[(String, Scalar)]) -> Result<()> {
        self.row.clear();
        self.row.push(values.len() as u8);
        for (name, value) in values {
            let number = match self.seen.columns.iter().position(|c| c.name == *name) {
                Some(number) => number,
                None if self.seen.columns.len() < MOST && values.len() <= MOST => {
                    self.seen.columns.push(Column { name: name.clone(), ..Column::default() });
                    self.seen.columns.len() - 1
                }
                None => {
                    let problem =
                        format!("the documents have more than {MOST} keys, the last one \"{name}\"");
                    let remedy = "name those that are to be document columns with --columns a,b (or --columns \"\" for none)";
                    return Err(Error::config("corpus build", "--columns", problem, remedy));
                }
            };
            self.row.push(number as u8);
            let column = &mut self.seen.columns[number];
            match value {
                Scalar::Bool(x) => {
                    column.bools += 1;
                    self.row.extend([0, u8::from(*x)]);
                }
                Scalar::Int(x) => {
                    column.ints += 1;
                    column.wide |= x.unsigned_abs() > EXACT;
                    self.row.push(1);
                    self.row.extend(x.to_le_bytes());
                }
                Scalar::Float(x) => {
                    column.floats += 1;
                    self.row.push(2);
                    self.row.extend(x.to_le_bytes());
                }
                Scalar::Text(x) => {
                    column.texts += 1;
                    self.row.push(3);
                    self.row.extend((x.len() as u32).to_le_bytes());
                    self.row.extend(x.as_bytes());
                }
            }
        }
        self.seen.documents += 1;
        self.seen.bytes += self.row.len() as u64;
        self.rows.write(&self.row)
    }

    pub fn sync(&mut self) -> Result<Seen> {
        self.rows.sync()?;
        Ok(self.seen.clone())
    }

    /// Writes the columns of the corpus `prefix`, whose hash is `corpus`.
    pub fn finish(mut self, prefix: &Path, corpus: u64) -> Result<()> {
        self.rows.sync()?;
        let documents = self.seen.documents;
        let mut writers = Vec::new();
        for column in &self.seen.columns {
            let dtype = column.dtype(documents);
            writers.push((dtype, ColumnWriter::create(prefix, &column.name, dtype)?));
        }
        let path = self.rows.path();
        let file = File::open(path).map_err(Error::io(path, "open"))?;
        let mut rows = BufReader::with_capacity(1 << 16, file);
        let mut values = vec![None; writers.len()];
        for _ in 0..documents {
            values.fill(None);
            read_row(&mut rows, &mut values).map_err(Error::io(path, "read"))?;
            for ((dtype, writer), value) in writers.iter_mut().zip(&values) {
                writer.push(&stored(value.as_ref(), *dtype))?;
            }
        }
        for (_, writer) in writers {
            writer.finish(corpus)?;
        }
        Ok(())
    }
}

impl Seen {
    pub fn names(&self) -> Vec<String> {
        self.columns.iter().map(|c| c.name.clone()).collect()
    }
}

impl Column {
    fn dtype(&self, documents: u64) -> SideType {
        let numbers = self.bools + self.ints + self.floats;
        if self.texts == 0 && self.bools == documents {
            SideType::U8
        } else if self.texts == 0 && self.ints == documents {
            SideType::I64
        } else if self.texts == 0 && numbers > 0 && !self.wide {
            SideType::F64
        } else {
            SideType::Utf8
        }
    }
}

fn stored(value: Option<&Scalar>, dtype: SideType) -> Value {
    match (dtype, value) {
        (SideType::U8, Some(Scalar::Bool(x))) => Value::U8(u8::from(*x)),
        (SideType::I64, Some(Scalar::Int(x))) => Value::I64(*x),
        (SideType::F64, value) => Value::F64(match value {
            Some(Scalar::Bool(x)) => f64::from(u8::from(*x)),
            Some(Scalar::Int(x)) => *x as f64,
            Some(Scalar::Float(x)) => *x,
            Some(Scalar::Text(_)) | None => f64::NAN,
        }),
        (_, value) => Value::Utf8(match value {
            Some(Scalar::Bool(x)) => x.to_string(),
            Some(Scalar::Int(x)) => x.to_string(),
            Some(Scalar::Float(x)) => serde_json::Value::from(*x).to_string(),
            Some(Scalar::Text(x)) => x.clone(),
            None => String::new(),
        }),
    }
}

fn read_row(rows: &mut impl Read, values: &mut [Option<Scalar>]) -> std::io::Result<()> {
    let mut byte = [0; 1];
    rows.read_exact(&mut byte)?;
    for _ in 0..byte[0] {
        let mut head = [0; 2];
        rows.read_exact(&mut head)?;
        let mut word = [0; 8];
        values[head[0] as usize] = Some(match head[1] {
            0 => {
                rows.read_exact(&mut byte)?;
                Scalar::Bool(byte[0] != 0)
            }
            1 => {
                rows.read_exact(&mut word)?;
                Scalar::Int(i64::from_le_bytes(word))
            }
            2 => {
                rows.read_exact(&mut word)?;
                Scalar::Float(f64::from_le_bytes(word))
            }
            _ => {
                rows.read_exact(&mut word[..4])?;
                let mut text = vec![0; u64::from_le_bytes(word) as usize];
                rows.read_exact(&mut text)?;
                Scalar::Text(String::from_utf8(text).map_err(std::io::Error::other)?)
            }
        });
    }
    Ok(())
}
