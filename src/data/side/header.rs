//! The first 64 bytes of a side stream or document column.

use crate::{Error, Result};
use std::path::Path;

pub(super) const HEADER: u64 = 64;
const MAGIC: [u8; 8] = *b"ESPSIDE\0";
const VERSION: u32 = 1;
pub(super) const REMEDY: &str = "copy it again or make it again for this corpus";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Stream,
    Column,
}

impl Kind {
    /// Between the prefix of the corpus and the name.
    pub fn infix(self) -> &'static str {
        match self {
            Kind::Stream => ".stream.",
            Kind::Column => ".col.",
        }
    }
    /// What there is one value for.
    pub fn counted(self) -> &'static str {
        match self {
            Kind::Stream => "tokens",
            Kind::Column => "documents",
        }
    }
    pub fn allows(self, dtype: SideType) -> bool {
        self == Kind::Column || matches!(dtype, SideType::U8 | SideType::F16)
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(match self {
            Kind::Stream => "side stream",
            Kind::Column => "document column",
        })
    }
}

/// How values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SideType {
    U8,
    F16,
    F32,
    F64,
    I64,
    Utf8,
}

impl SideType {
    const ALL: [SideType; 6] =
        [SideType::U8, SideType::F16, SideType::F32, SideType::F64, SideType::I64, SideType::Utf8];

    pub const fn name(self) -> &'static str {
        match self {
            SideType::U8 => "u8",
            SideType::F16 => "f16",
            SideType::F32 => "f32",
            SideType::F64 => "f64",
            SideType::I64 => "i64",
            SideType::Utf8 => "utf8",
        }
    }
    /// Of a value; of a text, of the number that says where it ends.
    pub(super) const fn bytes(self) -> u64 {
        match self {
            SideType::U8 => 1,
            SideType::F16 => 2,
            SideType::F32 => 4,
            SideType::F64 | SideType::I64 | SideType::Utf8 => 8,
        }
    }
    fn of(code: u8) -> Option<SideType> {
        SideType::ALL.get(usize::from(code)).copied()
    }
}

impl std::fmt::Display for SideType {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub kind: Kind,
    pub dtype: SideType,
    /// Hash of the corpus.
    pub corpus: u64,
    /// Number of values.
    pub count: u64,
    pub checksum: u64,
}

impl Header {
    pub fn encode(&self) -> [u8; HEADER as usize] {
        let mut bytes = [0; HEADER as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12] = self.kind as u8;
        bytes[13] = self.dtype as u8;
        for (i, field) in [self.corpus, self.count, self.checksum].into_iter().enumerate() {
            bytes[16 + 8 * i..24 + 8 * i].copy_from_slice(&field.to_le_bytes());
        }
        bytes
    }

    /// Errors name the file, the offset and the value.
    pub fn decode(path: &Path, bytes: &[u8; HEADER as usize]) -> Result<Header> {
        let bad = |offset, problem: String| Err(damaged(path, offset, problem));
        if bytes[..8] != MAGIC {
            return bad(0, "does not begin with ESPSIDE: neither a side stream nor a document column".into());
        }
        let version = u32::from_le_bytes(bytes[8..12].try_into().expect("four bytes"));
        if version != VERSION {
            return bad(8, format!("version {version}; this program reads {VERSION}"));
        }
        let kind = match bytes[12] {
            0 => Kind::Stream,
            1 => Kind::Column,
            code => {
                return bad(12, format!("kind {code}; allowed are 0 (side stream) and 1 (document column)"));
            }
        };
        let Some(dtype) = SideType::of(bytes[13]).filter(|&t| kind.allows(t)) else {
            let all = SideType::ALL.into_iter().filter(|&t| kind.allows(t));
            let all: Vec<String> = all.map(|t| format!("{} ({t})", t as u8)).collect();
            return bad(13, format!("number type {} of a {kind}; allowed are {}", bytes[13], all.join(", ")));
        };
        if let Some(i) = (14..16).chain(40..64).find(|&i| bytes[i] != 0) {
            return bad(i as u64, format!("has {} where version {VERSION} has 0", bytes[i]));
        }
        let field = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Ok(Header { kind, dtype, corpus: field(16), count: field(24), checksum: field(32) })
    }
}

pub(super) fn damaged(path: &Path, offset: u64, problem: String) -> Error {
    Error::Data { path: path.into(), offset: Some(offset), problem, remedy: REMEDY.into() }
}
