//! The bytes of one input file, decompressed where its first bytes say so (gzip of several members, zstd of several
//! frames), from any offset on.

use super::inputs::Input;
use crate::{Error, Result};
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const BLOCK: usize = 1 << 18;

pub(super) struct Source {
    path: PathBuf,
    reader: Box<dyn Read + Send>,
    packing: Packing,
    /// Bytes of text from `offset` on that are read but not taken.
    pub buffer: Vec<u8>,
    pub offset: u64,
    pub ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Source {
    /// `read`: counts the bytes of the file as they are read, compressed ones where it is.
    pub fn open(input: &Input, offset: u64, read: &Arc<AtomicU64>) -> Result<Source> {
        input.check()?;
        let path = &input.path;
        let mut file = File::open(path).map_err(Error::io(path, "open"))?;
        let packing = Packing::of(&mut file).map_err(Error::io(path, "read"))?;
        let mut source = Source {
            path: path.clone(),
            reader: Box::new(std::io::empty()),
            packing,
            buffer: Vec::new(),
            offset: 0,
            ended: false,
        };
        if packing == Packing::Plain {
            file.seek(SeekFrom::Start(offset)).map_err(Error::io(path, "read"))?;
            read.fetch_add(offset, Relaxed);
            source.offset = offset;
        }
        let counted = BufReader::with_capacity(BLOCK, Counted { file, read: read.clone() });
        source.reader = match packing {
            Packing::Plain => Box::new(counted),
            Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(counted)),
            Packing::Zstd => {
                let decoder = zstd::stream::read::Decoder::with_buffer(counted);
                Box::new(decoder.map_err(Error::io(path, "decompress"))?)
            }
        };
        while source.offset < offset && !source.ended {
            source.fill((offset - source.offset).min(BLOCK as u64) as usize)?;
            let passed = source.buffer.len().min((offset - source.offset) as usize);
            source.skip(passed);
        }
        Ok(source)
    }

    /// Reads until `count` bytes are in the buffer or the file ends.
    pub fn fill(&mut self, count: usize) -> Result<()> {
        while self.buffer.len() < count && !self.ended {
            let from = self.buffer.len();
            self.buffer.resize(count.max(from + 4096), 0);
            let result = self.reader.read(&mut self.buffer[from..]);
            let got = match &result {
                Ok(got) => *got,
                Err(_) => 0,
            };
            self.buffer.truncate(from + got);
            match result {
                Ok(0) => self.ended = true,
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(self.failed(e)),
            }
        }
        Ok(())
    }

    /// Takes the first `count` bytes of the buffer.
    pub fn take(&mut self, count: usize, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.buffer[..count]);
        self.skip(count);
    }

    fn skip(&mut self, count: usize) {
        self.buffer.drain(..count);
        self.offset += count as u64;
    }

    fn failed(&self, e: std::io::Error) -> Error {
        let name = match self.packing {
            Packing::Plain => return Error::io(&self.path, "read")(e),
            Packing::Gzip => "gzip",
            Packing::Zstd => "zstd",
        };
        let problem = match e.kind() {
            ErrorKind::UnexpectedEof => format!("is cut short: its {name} data ends in the middle"),
            _ => format!("its {name} data is damaged: {e}"),
        };
        Error::Data {
            path: self.path.clone(),
            offset: Some(self.offset + self.buffer.len() as u64),
            problem: format!("{problem} (the offset is in the decompressed text)"),
            remedy: "fetch the file again or leave it out".into(),
        }
    }
}

impl Packing {
    /// By the first bytes; the file is left at its beginning.
    fn of(file: &mut File) -> std::io::Result<Packing> {
        let mut head = [0; 4];
        let mut got = 0;
        while got < head.len() {
            match file.read(&mut head[got..])? {
                0 => break,
                count => got += count,
            }
        }
        file.seek(SeekFrom::Start(0))?;
        Ok(match head {
            [0x1f, 0x8b, ..] => Packing::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd] | [0x50..=0x5f, 0x2a, 0x4d, 0x18] => Packing::Zstd,
            _ => Packing::Plain,
        })
    }
}

struct Counted {
    file: File,
    read: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.read.fetch_add(count as u64, Relaxed);
        Ok(count)
    }
}
