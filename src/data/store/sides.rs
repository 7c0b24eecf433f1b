//! Side streams and document columns of corpora that are made of other corpora.

use crate::Result;
use crate::data::Corpus;
use crate::data::side::{self, Column, ColumnWriter, SideType, Stream, StreamWriter};
use std::ops::Range;
use std::path::Path;

/// Names and types.
pub struct Sides {
    streams: Vec<(String, SideType)>,
    columns: Vec<(String, SideType)>,
}

/// Those of one corpus, open.
pub struct Readers {
    streams: Vec<Stream>,
    columns: Vec<Column>,
}

/// Those that are written; removed unless they are finished.
#[derive(Default)]
pub struct Writers {
    streams: Vec<StreamWriter>,
    columns: Vec<ColumnWriter>,
}

impl Sides {
    /// What all corpora have in one type, and the names of the rest.
    pub fn shared(corpora: &[Corpus]) -> Result<(Sides, Vec<String>)> {
        let (mut streams, mut columns) = (Vec::new(), Vec::new());
        for corpus in corpora {
            let names = side::list(corpus.prefix())?;
            streams.push(typed(names.streams, |name| Ok(Stream::open(corpus, name)?.side_type()))?);
            columns.push(typed(names.columns, |name| Ok(Column::open(corpus, name)?.side_type()))?);
        }
        let mut left_out = Vec::new();
        let sides = Sides {
            streams: intersection(&streams, "stream", &mut left_out),
            columns: intersection(&columns, "col", &mut left_out),
        };
        Ok((sides, left_out))
    }

    pub fn has_stream(&self, name: &str) -> bool {
        self.streams.iter().any(|(stream, _)| stream == name)
    }

    pub fn open(&self, corpus: &Corpus) -> Result<Readers> {
        Ok(Readers {
            streams: self
                .streams
                .iter()
                .map(|(name, _)| Stream::open(corpus, name))
                .collect::<Result<_>>()?,
            columns: self
                .columns
                .iter()
                .map(|(name, _)| Column::open(corpus, name))
                .collect::<Result<_>>()?,
        })
    }
}

fn typed(names: Vec<String>, of: impl Fn(&str) -> Result<SideType>) -> Result<Vec<(String, SideType)>> {
    names
        .into_iter()
        .map(|name| {
            let side_type = of(&name)?;
            Ok((name, side_type))
        })
        .collect()
}

fn intersection(
    all: &[Vec<(String, SideType)>],
    kind: &str,
    left_out: &mut Vec<String>,
) -> Vec<(String, SideType)> {
    let mut shared = Vec::new();
    let mut every: Vec<&(String, SideType)> = all.iter().flatten().collect();
    every.sort_by(|a, b| (&a.0, a.1.name()).cmp(&(&b.0, b.1.name())));
    every.dedup();
    for side in every {
        if all.iter().all(|own| own.contains(side)) {
            shared.push(side.clone());
        } else {
            left_out.push(format!("{kind}.{}", side.0));
        }
    }
    left_out.dedup();
    shared
}

impl Writers {
    pub fn create(prefix: &Path, sides: &Sides) -> Result<Writers> {
        let mut writers = Writers::default();
        for (name, side_type) in &sides.streams {
            writers.streams.push(StreamWriter::create(prefix, name, *side_type)?);
        }
        for (name, side_type) in &sides.columns {
            writers.columns.push(ColumnWriter::create(prefix, name, *side_type)?);
        }
        Ok(writers)
    }

    /// Appends the values of tokens and documents.
    pub fn copy(&mut self, from: &Readers, tokens: Range<u64>, docs: Range<u64>) -> Result<()> {
        let mut values = Vec::new();
        for (stream, to) in from.streams.iter().zip(&mut self.streams) {
            let mut at = tokens.start;
            while at < tokens.end {
                values.resize((tokens.end - at).min(1 << 16) as usize, 0.0);
                stream.read(at, &mut values)?;
                to.push(&values)?;
                at += values.len() as u64;
            }
        }
        for (column, to) in from.columns.iter().zip(&mut self.columns) {
            docs.clone().try_for_each(|doc| to.push(&column.get(doc)?))?;
        }
        Ok(())
    }

    /// Binds them to the corpus of this hash and gives them their names.
    pub fn finish(mut self, hash: u64) -> Result<()> {
        std::mem::take(&mut self.streams).into_iter().try_for_each(|stream| stream.finish(hash))?;
        std::mem::take(&mut self.columns).into_iter().try_for_each(|column| column.finish(hash))
    }
}

impl Drop for Writers {
    fn drop(&mut self) {
        // Nothing is lost when this fails: the next run overwrites the files.
        for stream in self.streams.drain(..) {
            let _ = stream.discard();
        }
        for column in self.columns.drain(..) {
            let _ = column.discard();
        }
    }
}
