//! Reads all tokens of adopted files once: their checksum, that each is in the vocabulary, and where documents end.

use super::shard::Shard;
use crate::data::meta::PartType;
use crate::data::store::Source;
use crate::data::store::output::CorpusFiles;
use crate::{Error, Result};
use xxhash_rust::xxh3::Xxh3;

const BLOCK: u64 = 1 << 18;

/// How documents are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// As the file of ends says, or where the index has them.
    Stored,
    /// After or before each token of this id, across files.
    After(u32),
    Before(u32),
    /// Each file is one.
    File,
}

pub struct Scan<'a> {
    pub vocab: u32,
    pub cut: Cut,
    /// The id whose documents are counted if they end with it.
    pub eod: Option<u32>,
    pub hash: Xxh3,
    pub ended: u64,
    /// Where the documents that are found go; None if an index has them.
    pub files: Option<CorpusFiles>,
    progress: &'a mut dyn FnMut(u64),
    /// Tokens of the document that is being read, and of all.
    open: u64,
    read: u64,
    last: u32,
}

impl<'a> Scan<'a> {
    pub fn new(
        vocab: u32,
        cut: Cut,
        eod: Option<u32>,
        files: Option<CorpusFiles>,
        progress: &'a mut dyn FnMut(u64),
    ) -> Scan<'a> {
        Scan { vocab, cut, eod, hash: Xxh3::new(), ended: 0, files, progress, open: 0, read: 0, last: 0 }
    }

    pub fn shard(&mut self, shard: &Shard) -> Result<()> {
        let mut ends = shard.ends.as_ref().map(|source| Ends::new(source, shard.tokens));
        let mut next = self.next_end(&mut ends)?;
        let mut first = 0;
        let mut ids = Vec::new();
        while first < shard.tokens {
            let count = BLOCK.min(shard.tokens - first);
            self.block(shard, first, count, &mut ids)?;
            match self.cut {
                Cut::After(eod) => {
                    for &id in &ids {
                        self.open += 1;
                        self.last = id;
                        if id == eod {
                            self.end()?;
                        }
                    }
                }
                Cut::Before(eod) => {
                    for &id in &ids {
                        if id == eod && self.open > 0 {
                            self.end()?;
                        }
                        self.open += 1;
                        self.last = id;
                    }
                }
                Cut::File => {
                    self.open += count;
                    self.last = *ids.last().expect("a block has tokens");
                }
                Cut::Stored => {
                    let mut at = 0;
                    while let Some(end) = next.filter(|&end| end <= first + count) {
                        self.open += end - first - at;
                        at = end - first;
                        self.last = at.checked_sub(1).map_or(self.last, |i| ids[i as usize]);
                        self.end()?;
                        next = self.next_end(&mut ends)?;
                    }
                    self.open += count - at;
                }
            }
            first += count;
            self.read += count;
            (self.progress)(self.read);
        }
        if self.cut == Cut::File {
            self.end()?;
        }
        Ok(())
    }

    /// The tokens of one block, decoded and checked.
    fn block(&mut self, shard: &Shard, first: u64, count: u64, ids: &mut Vec<u32>) -> Result<()> {
        let item = shard.dtype.bytes();
        let at = shard.offset + first * item;
        ids.clear();
        shard.source.with(at, (count * item) as usize, |bytes| {
            self.hash.update(bytes);
            match shard.dtype {
                PartType::U16 => {
                    ids.extend(bytes.chunks_exact(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]]))));
                }
                PartType::I32 | PartType::U32 => {
                    ids.extend(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])));
                }
            }
        })?;
        let Some(i) = ids.iter().position(|&id| id >= self.vocab) else { return Ok(()) };
        let problem = match ids[i] {
            id if id >= 1 << 31 => format!("token {id} is above 2^31 - 1, the highest id there can be"),
            id => format!("token {id} is outside the vocabulary of {}", self.vocab),
        };
        let remedy = "say the right --vocab and --dtype, or restore the file".into();
        Err(Error::Data {
            path: shard.source.path().into(),
            offset: Some(at + i as u64 * item),
            problem,
            remedy,
        })
    }

    /// What is left when the files are at their end.
    pub fn finish(&mut self) -> Result<()> {
        if self.open > 0 { self.end() } else { Ok(()) }
    }

    fn end(&mut self) -> Result<()> {
        self.ended += u64::from(self.open > 0 && self.eod == Some(self.last));
        let tokens = std::mem::take(&mut self.open);
        let Some(files) = &mut self.files else { return Ok(()) };
        files.sequence(tokens)?;
        files.end_document()
    }

    /// The next end that a file of ends states.
    fn next_end(&self, ends: &mut Option<Ends>) -> Result<Option<u64>> {
        match ends {
            Some(ends) if self.cut == Cut::Stored => ends.next(),
            _ => Ok(None),
        }
    }
}

/// Document ends of a .index file, which must ascend.
struct Ends<'a> {
    source: &'a Source,
    block: Vec<u8>,
    at: u64,
    last: u64,
    tokens: u64,
}

impl<'a> Ends<'a> {
    fn new(source: &'a Source, tokens: u64) -> Ends<'a> {
        Ends { source, block: Vec::new(), at: 0, last: 0, tokens }
    }

    fn next(&mut self) -> Result<Option<u64>> {
        let within = (self.at % (8 * BLOCK)) as usize;
        if self.at >= self.source.len() {
            return Ok(None);
        }
        if within == 0 {
            self.block.resize((8 * BLOCK).min(self.source.len() - self.at) as usize, 0);
            self.source.read_at(self.at, &mut self.block)?;
        }
        let end = u64::from_le_bytes(self.block[within..within + 8].try_into().expect("eight bytes"));
        if end < self.last || end > self.tokens {
            let (last, tokens) = (self.last, self.tokens);
            return Err(Error::Data {
                path: self.source.path().into(),
                offset: Some(self.at),
                problem: format!("a document ends at token {end} of {tokens}, the one before it at {last}"),
                remedy: "copy the file again".into(),
            });
        }
        (self.last, self.at) = (end, self.at + 8);
        Ok(Some(end))
    }
}
