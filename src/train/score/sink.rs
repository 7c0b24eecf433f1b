//! Where losses go, token after token in the order of the corpus: side streams, document columns, lines of JSON.

use super::cut::{Piece, Place};
use super::journal::Tally;
use crate::data::Corpus;
use crate::data::side::{self, ColumnWriter, SideType, StreamWriter, Value};
use crate::{Error, Result};
use serde_json::json;
use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What is to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// A side stream (f16): of each token −log p, in nats; NaN where there is none (the first token of a document,
    /// documents that were not asked for).
    Stream(String),
    /// Three document columns: NAME (f32, nats per prediction, NaN if there is none), NAME_sum (f32, nats), NAME_count
    /// (i64, predictions).
    Column(String),
    /// A file of one JSON object a line: document, tokens, predictions, nll_sum, nll (null if there is none).
    Lines(PathBuf),
}

impl Output {
    /// The files it becomes.
    pub fn files(&self, corpus: &Corpus) -> Result<Vec<PathBuf>> {
        let column = |name: &str| side::column_path(corpus.prefix(), name);
        match self {
            Output::Stream(name) => Ok(vec![side::stream_path(corpus.prefix(), name)?]),
            Output::Column(name) => columns(name).iter().map(|(name, _)| column(name)).collect(),
            Output::Lines(path) => Ok(vec![path.clone()]),
        }
    }
}

fn columns(name: &str) -> [(String, SideType); 3] {
    let of = |end: &str, dtype| (format!("{name}{end}"), dtype);
    [of("", SideType::F32), of("_sum", SideType::F32), of("_count", SideType::I64)]
}

/// The outputs of a scoring, and the document they are in.
pub struct Sink<'a> {
    corpus: &'a Corpus,
    documents: Range<u64>,
    outputs: Vec<Out>,
    pub tally: Tally,
}

#[allow(clippy::large_enum_variant)] // there are as many as outputs, a few
enum Out {
    Stream(StreamWriter),
    /// Mean, sum, count.
    Columns(Vec<ColumnWriter>),
    Lines(Lines),
}

impl<'a> Sink<'a> {
    pub fn create(corpus: &'a Corpus, documents: Range<u64>, outputs: &[Output]) -> Result<Sink<'a>> {
        let start = corpus.document_range(documents.start)?.start;
        let open = |output: &Output| -> Result<Out> {
            let prefix = corpus.prefix();
            Ok(match output {
                Output::Stream(name) => {
                    let mut stream = StreamWriter::create(prefix, name, SideType::F16)?;
                    stream.fill(f32::NAN, start)?;
                    Out::Stream(stream)
                }
                Output::Column(name) => {
                    let create = |(name, dtype): &(String, _)| ColumnWriter::create(prefix, name, *dtype);
                    let mut writers = columns(name).iter().map(create).collect::<Result<Vec<_>>>()?;
                    (0..documents.start).try_for_each(|_| push(&mut writers, 0.0, 0))?;
                    Out::Columns(writers)
                }
                Output::Lines(path) => Out::Lines(Lines::open(path, None)?),
            })
        };
        let outputs = outputs.iter().map(open).collect::<Result<_>>()?;
        let tally = Tally::new(Place { document: documents.start, made: 0 });
        Ok(Sink { corpus, documents, outputs, tally })
    }

    /// Goes on where a journal says. Outputs that a killed program had already finished are left alone.
    pub fn resume(
        corpus: &'a Corpus,
        documents: Range<u64>,
        outputs: &[Output],
        tally: &Tally,
    ) -> Result<Sink<'a>> {
        let Place { document, made } = tally.place;
        let (tokens, rows) = match tally.finishing || document == corpus.documents() {
            true => (corpus.tokens(), corpus.documents()),
            // With its first prediction a document's first token is written too.
            false => (corpus.document_range(document)?.start + if made > 0 { made + 1 } else { 0 }, document),
        };
        let open = |(i, output): (usize, &Output)| -> Option<Result<Out>> {
            let done = tally.finishing && output.files(corpus).is_ok_and(|f| f.iter().all(|f| f.exists()));
            let prefix = corpus.prefix();
            let out = || match output {
                Output::Stream(name) => {
                    StreamWriter::resume(prefix, name, SideType::F16, tokens).map(Out::Stream)
                }
                Output::Column(name) => {
                    let resume = |(name, dtype): &(String, _)| {
                        // Of three columns some may be finished.
                        let done = tally.finishing
                            && side::column_path(prefix, name).is_ok_and(|path| path.exists());
                        (!done).then(|| ColumnWriter::resume(prefix, name, *dtype, rows))
                    };
                    columns(name).iter().filter_map(resume).collect::<Result<_>>().map(Out::Columns)
                }
                Output::Lines(path) => {
                    Lines::open(path, Some(tally.lines.get(i).copied().unwrap_or(0))).map(Out::Lines)
                }
            };
            (!done).then(out)
        };
        let outputs = outputs.iter().enumerate().filter_map(open).collect::<Result<_>>()?;
        Ok(Sink { corpus, documents, outputs, tally: tally.clone() })
    }

    /// The losses of a window's predictions that count. Windows come in the order of the corpus.
    pub fn take(&mut self, piece: &Piece, nll: &[f32]) -> Result<()> {
        while self.tally.place.document < piece.document {
            self.close()?;
        }
        let range = self.corpus.document_range(piece.document)?;
        let made = self.tally.place.made;
        assert_eq!(range.start + made, piece.first + piece.context as u64, "windows come in order");
        for out in &mut self.outputs {
            if let Out::Stream(stream) = out {
                if made == 0 {
                    stream.push(&[f32::NAN])?;
                }
                stream.push(nll)?;
            }
        }
        let sum: f64 = nll.iter().map(|l| f64::from(*l)).sum();
        self.tally.sum += sum;
        self.tally.place.made += nll.len() as u64;
        self.tally.predictions += nll.len() as u64;
        if self.tally.place.made + 1 == range.end - range.start {
            self.close()?;
        }
        Ok(())
    }

    /// Ends the document that the tally is in.
    fn close(&mut self) -> Result<()> {
        let Place { document, made } = self.tally.place;
        let range = self.corpus.document_range(document)?;
        let (tokens, sum) = (range.end - range.start, self.tally.sum);
        for out in &mut self.outputs {
            match out {
                Out::Stream(stream) if made == 0 => stream.fill(f32::NAN, tokens)?,
                Out::Stream(_) => {}
                Out::Columns(columns) => push(columns, sum, made)?,
                Out::Lines(lines) => {
                    let mean = if made == 0 { f64::NAN } else { sum / made as f64 };
                    let row = json!({
                        "document": document, "tokens": tokens, "predictions": made, "nll_sum": sum, "nll": mean
                    });
                    lines.write(&row)?;
                }
            }
        }
        self.tally.total += sum;
        self.tally.sum = 0.0;
        self.tally.place = Place { document: document + 1, made: 0 };
        Ok(())
    }

    /// After it, all that the tally counts is on the disk.
    pub fn sync(&mut self) -> Result<()> {
        self.tally.lines.clear();
        for out in &mut self.outputs {
            self.tally.lines.push(match out {
                Out::Stream(stream) => stream.sync().map(|()| 0)?,
                Out::Columns(columns) => columns.iter_mut().try_for_each(|c| c.sync()).map(|()| 0)?,
                Out::Lines(lines) => lines.sync()?,
            });
        }
        Ok(())
    }

    /// Writes what follows the last prediction: documents without any, and those that were not asked for.
    pub fn end(&mut self) -> Result<()> {
        while self.tally.place.document < self.documents.end {
            self.close()?;
        }
        for out in &mut self.outputs {
            match out {
                Out::Stream(stream) => stream.fill(f32::NAN, self.corpus.tokens() - stream.len())?,
                Out::Columns(columns) => {
                    (self.documents.end..self.corpus.documents()).try_for_each(|_| push(columns, 0.0, 0))?;
                }
                Out::Lines(_) => {}
            }
        }
        self.tally.finishing = true;
        Ok(())
    }

    /// After `end`: gives all files their names.
    pub fn finish(self) -> Result<()> {
        let hash = self.corpus.hash();
        self.outputs.into_iter().try_for_each(|out| match out {
            Out::Stream(stream) => stream.finish(hash),
            Out::Columns(columns) => columns.into_iter().try_for_each(|column| column.finish(hash)),
            Out::Lines(lines) => lines.finish(),
        })
    }
}

/// A document's row of columns.
fn push(columns: &mut [ColumnWriter], sum: f64, count: u64) -> Result<()> {
    let mean = if count == 0 { f64::NAN } else { sum / count as f64 };
    let values = [Value::F32(mean as f32), Value::F32(sum as f32), Value::I64(count as i64)];
    columns.iter_mut().zip(&values).try_for_each(|(column, value)| column.push(value))
}

/// A file of lines under a temporary name.
struct Lines {
    path: PathBuf,
    temporary: PathBuf,
    file: BufWriter<File>,
    bytes: u64,
}

impl Lines {
    /// `keep`: the bytes to go on after; None begins.
    fn open(path: &Path, keep: Option<u64>) -> Result<Lines> {
        let mut name = path.file_name().unwrap_or_default().to_os_string();
        name.push(".tmp");
        let temporary = path.with_file_name(name);
        let mut options = File::options();
        options.write(true);
        let options = if keep.is_none() { options.create(true).truncate(true) } else { &mut options };
        let mut file = options.open(&temporary).map_err(Error::io(&temporary, "open"))?;
        let bytes = keep.unwrap_or(0);
        let length = file.metadata().map_err(Error::io(&temporary, "find"))?.len();
        if length < bytes {
            let problem = format!("has {length} bytes, fewer than the {bytes} it was to be continued after");
            return Err(Error::data(&temporary, problem, "remove it and start from the beginning"));
        }
        file.set_len(bytes).map_err(Error::io(&temporary, "truncate"))?;
        file.seek(SeekFrom::Start(bytes)).map_err(Error::io(&temporary, "write"))?;
        Ok(Lines { path: path.into(), temporary, file: BufWriter::new(file), bytes })
    }

    fn write(&mut self, row: &serde_json::Value) -> Result<()> {
        let line = format!("{row}\n");
        self.bytes += line.len() as u64;
        self.file.write_all(line.as_bytes()).map_err(Error::io(&self.temporary, "write"))
    }

    /// How long it is.
    fn sync(&mut self) -> Result<u64> {
        let flushed = self.file.flush().and_then(|()| self.file.get_ref().sync_data());
        flushed.map_err(Error::io(&self.temporary, "write"))?;
        Ok(self.bytes)
    }

    fn finish(mut self) -> Result<()> {
        self.sync()?;
        std::fs::rename(&self.temporary, &self.path).map_err(Error::io(&self.path, "rename"))
    }
}
