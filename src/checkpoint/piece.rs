//! What is stored where: a piece is a flat range of one rank's box of a logical tensor.
//!
//! A tp rank holds a box of a tensor (all of it, some rows, or some columns), row-major; under ZeRO a dp rank holds a
//! range of that box. One entry of a safetensors file is one piece, and the pieces of a file are listed in its header,
//! so that any topology finds the elements it needs.

use crate::device::DType;
use crate::params::{LocalBox, ParamSpec};
use crate::tensor::Tensor;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::Range;

/// What the values of a piece are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// What the model computes with.
    Weight,
    /// The f32 weights that the optimizer updates, where they are not the weights themselves.
    Master,
    /// First moment.
    M,
    /// Second moment.
    V,
    /// Moving average of the weights, f32.
    Ema,
}

impl Kind {
    pub const ALL: [Kind; 5] = [Kind::Weight, Kind::Master, Kind::M, Kind::V, Kind::Ema];
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Weight => "weight",
            Kind::Master => "master",
            Kind::M => "m",
            Kind::V => "v",
            Kind::Ema => "ema",
        }
    }
    /// The entry of a safetensors file that holds all of the tensor.
    pub fn entry(self, tensor: &str) -> String {
        match self {
            Kind::Weight => tensor.to_string(),
            Kind::Master | Kind::M | Kind::V | Kind::Ema => format!("{}/{tensor}", self.name()),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A box of a tensor in global indices, without padding; [row, rows, col, cols] in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "[usize; 4]", into = "[usize; 4]")]
pub struct Area {
    pub row: usize,
    pub rows: usize,
    pub col: usize,
    pub cols: usize,
}

impl From<[usize; 4]> for Area {
    fn from([row, rows, col, cols]: [usize; 4]) -> Area {
        Area { row, rows, col, cols }
    }
}

impl From<Area> for [usize; 4] {
    fn from(a: Area) -> [usize; 4] {
        [a.row, a.rows, a.col, a.cols]
    }
}

impl From<LocalBox> for Area {
    fn from(b: LocalBox) -> Area {
        Area { row: b.row, rows: b.rows, col: b.col, cols: b.cols }
    }
}

impl Area {
    pub fn whole(spec: &ParamSpec) -> Area {
        Area { row: 0, rows: spec.rows, col: 0, cols: spec.cols }
    }
    pub fn len(&self) -> usize {
        self.rows * self.cols
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    pub fn row_range(&self) -> Range<usize> {
        self.row..self.row + self.rows
    }
    pub fn col_range(&self) -> Range<usize> {
        self.col..self.col + self.cols
    }
    /// Whether the box lies in the tensor; no overflow whatever the numbers are.
    pub fn lies_in(&self, spec: &ParamSpec) -> bool {
        let within =
            |start: usize, len: usize, all: usize| start.checked_add(len).is_some_and(|end| end <= all);
        within(self.row, self.rows, spec.rows) && within(self.col, self.cols, spec.cols)
    }
    pub fn overlaps(&self, other: &Area) -> bool {
        !overlap(&self.row_range(), &other.row_range()).is_empty()
            && !overlap(&self.col_range(), &other.col_range()).is_empty()
    }
}

impl fmt::Display for Area {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        // Of a box that a damaged file states, too.
        let end = |start: usize, len: usize| start.saturating_add(len);
        let (rows, cols) = (end(self.row, self.rows), end(self.col, self.cols));
        write!(f, "rows {}..{rows}, columns {}..{cols}", self.row, self.col)
    }
}

/// What two ranges share; empty (of length 0) where they share nothing.
pub fn overlap(a: &Range<usize>, b: &Range<usize>) -> Range<usize> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}

/// One entry of a safetensors file, as its header lists it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Piece {
    pub entry: String,
    pub tensor: String,
    pub kind: Kind,
    #[serde(rename = "box")]
    pub area: Area,
    /// Elements [a, b) of the box, row-major.
    pub range: [usize; 2],
}

/// A piece on its way to a file. It shares the buffer of the live state: no second copy of that is made, and while one
/// is there nobody can write into it (`Tensor::data_mut` would panic).
#[derive(Clone)]
pub struct Outgoing {
    pub piece: Piece,
    pub dtype: DType,
    pub shape: Vec<usize>,
    /// Elements `own` of it are the values.
    pub buffer: Tensor,
    pub own: Range<usize>,
}

/// How the values of a piece lie in memory.
pub enum Content<'a> {
    /// As they will be stored.
    Stored(&'a [u8]),
    /// Masters whose weights, rounded to bf16, are nowhere in memory (ZeRO 3).
    Rounded(&'a [f32]),
}

impl Outgoing {
    /// The part of a tensor in elements `slice` of its unit, if any; the tensor lies at `range` of the unit. `buffer` holds
    /// the unit from element `held` on, in `dtype` or, rounded when it is written, as masters. Names of parts end in `@rank`, so
    /// that no reader takes a part for the tensor.
    pub fn new(
        kind: Kind,
        (spec, local, range): (&ParamSpec, LocalBox, Range<usize>),
        slice: &Range<usize>,
        (buffer, held, dtype): (&Tensor, usize, DType),
        rank: usize,
    ) -> Option<Outgoing> {
        let own = overlap(&range, slice);
        if own.is_empty() {
            return None;
        }
        let (area, flat) = (Area::from(local), [own.start - range.start, own.end - range.start]);
        let full = flat == [0, area.len()];
        let whole = full && area == Area::whole(spec);
        let mut entry = kind.entry(&spec.name);
        if !whole {
            entry = format!("{entry}@{rank}");
        }
        let shape = match (whole, full && !spec.vector) {
            (true, _) => spec.shape(),
            (false, true) => vec![area.rows, area.cols],
            (false, false) => vec![own.len()],
        };
        let own = own.start - held..own.end - held;
        let piece = Piece { entry, tensor: spec.name.clone(), kind, area, range: flat };
        Some(Outgoing { piece, dtype, shape, buffer: buffer.clone(), own })
    }

    pub fn content(&self) -> Content<'_> {
        let Outgoing { dtype, buffer, own, .. } = self;
        match (dtype, buffer.dtype()) {
            (DType::Bf16, DType::F32) => Content::Rounded(&buffer.data()[own.clone()]),
            _ => Content::Stored(&buffer.bytes()[own.start * dtype.bytes()..own.end * dtype.bytes()]),
        }
    }
}
