//! From pieces to tensors: proves that every element of a tensor is stored exactly once, and copies any part of it.

use super::file::StoredFile;
use super::piece::{Area, Kind, overlap};
use crate::config::is_matrix_of_block;
use crate::device::DType;
use crate::params::ParamSpec;
use crate::{Error, Result};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

/// All tensors of a checkpoint, by kind and name.
pub struct Index {
    layouts: HashMap<(Kind, String), Layout>,
}

/// Where the elements of one tensor lie. The boxes do not overlap and together are the tensor.
pub struct Layout {
    boxes: Vec<Tile>,
}

/// The box of one tp rank.
struct Tile {
    area: Area,
    /// In order; together they are the box, without overlap.
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    range: Range<usize>,
    file: usize,
    /// Offset of the first value in the file.
    offset: usize,
    dtype: DType,
}

impl Index {
    /// Weights must be complete; master, m, v and ema complete or absent, v (Muon has none) also for matrices of blocks
    /// alone.
    pub fn new(dir: &Path, files: &[StoredFile], specs: &[ParamSpec]) -> Result<Index> {
        let mut layouts: HashMap<(Kind, String), Layout> = HashMap::new();
        let mut present = Kind::ALL.map(|kind| kind == Kind::Weight);
        for (file, stored) in files.iter().enumerate() {
            for s in &stored.pieces {
                let p = &s.piece;
                present[p.kind as usize] = true;
                let layout =
                    layouts.entry((p.kind, p.tensor.clone())).or_insert_with(|| Layout { boxes: vec![] });
                let part =
                    Part { range: p.range[0]..p.range[1], file, offset: s.bytes.start, dtype: s.dtype };
                match layout.boxes.iter_mut().find(|b| b.area == p.area) {
                    Some(b) => b.parts.push(part),
                    None => layout.boxes.push(Tile { area: p.area, parts: vec![part] }),
                }
            }
        }
        for kind in Kind::ALL.into_iter().filter(|&k| present[k as usize]) {
            for spec in specs {
                let missing = || {
                    let problem = format!("no file holds {kind} of tensor {}", spec.name);
                    Error::checkpoint(dir, problem, "use an earlier checkpoint")
                };
                match layouts.get_mut(&(kind, spec.name.clone())) {
                    Some(layout) => layout.prove(kind, spec, files)?,
                    None if kind == Kind::V && is_matrix_of_block(&spec.name) => {}
                    None => return Err(missing()),
                }
            }
        }
        Ok(Index { layouts })
    }

    pub fn get(&self, kind: Kind, name: &str) -> Option<&Layout> {
        self.layouts.get(&(kind, name.to_string()))
    }
}

impl Layout {
    /// Sorts, and finds elements that are missing or stored twice.
    fn prove(&mut self, kind: Kind, spec: &ParamSpec, files: &[StoredFile]) -> Result<()> {
        let wrong = |file: usize, problem: String| {
            let problem = format!("{kind} of tensor {} {:?}: {problem}", spec.name, spec.shape());
            Error::checkpoint(&files[file].path, problem, "use an earlier checkpoint")
        };
        for b in &mut self.boxes {
            b.parts.sort_by_key(|p| (p.range.start, p.range.end));
            let mut end = 0;
            for p in &b.parts {
                if p.range.start > end {
                    let problem =
                        format!("elements {end}..{} of its box ({}) are in no file", p.range.start, b.area);
                    return Err(wrong(p.file, problem));
                }
                if p.range.start < end {
                    let problem =
                        format!("elements {}..{end} of its box ({}) are stored twice", p.range.start, b.area);
                    return Err(wrong(p.file, problem));
                }
                end = p.range.end;
            }
            if end < b.area.len() {
                let last = b.parts.last().expect("a box is made for a part").file;
                let problem =
                    format!("elements {end}..{} of its box ({}) are in no file", b.area.len(), b.area);
                return Err(wrong(last, problem));
            }
        }
        for (i, b) in self.boxes.iter().enumerate() {
            if let Some(twice) = self.boxes[..i].iter().find(|other| other.area.overlaps(&b.area)) {
                let other = files[twice.parts[0].file].path.display();
                return Err(wrong(
                    b.parts[0].file,
                    format!("its box ({}) overlaps one ({}) in {other}", b.area, twice.area),
                ));
            }
        }
        let stored: usize = self.boxes.iter().map(|b| b.area.len()).sum();
        if stored < spec.len() {
            let file = self.boxes[0].parts[0].file;
            return Err(wrong(file, format!("only {stored} of {} elements are in any file", spec.len())));
        }
        Ok(())
    }

    /// The type all values have, if they have one.
    pub fn dtype(&self) -> Option<DType> {
        let mut types = self.boxes.iter().flat_map(|b| &b.parts).map(|p| p.dtype);
        let first = types.next()?;
        types.all(|t| t == first).then_some(first)
    }

    /// Copies elements `range` of `area` (row-major) to `out`. The area lies in the tensor.
    pub fn read(&self, files: &[StoredFile], area: Area, range: Range<usize>, out: &mut [f32]) -> Result<()> {
        assert_eq!(out.len(), range.len(), "values to read");
        if range.is_empty() {
            return Ok(());
        }
        let mut filled = 0;
        let touched = area.row + range.start / area.cols..area.row + range.end.div_ceil(area.cols);
        for b in &self.boxes {
            let (rows, cols) =
                (overlap(&touched, &b.area.row_range()), overlap(&area.col_range(), &b.area.col_range()));
            let mut copy = |flat: Range<usize>, from: usize| -> Result<()> {
                let run = overlap(&flat, &range);
                if run.is_empty() {
                    return Ok(());
                }
                let out = &mut out[run.start - range.start..run.end - range.start];
                filled += run.len();
                b.copy(files, from + run.start - flat.start, out)
            };
            if rows.is_empty() || cols.is_empty() {
                continue;
            }
            let here = |row: usize| (row - area.row) * area.cols + cols.start - area.col;
            let there = |row: usize| (row - b.area.row) * b.area.cols + cols.start - b.area.col;
            if cols.len() == area.cols && cols.len() == b.area.cols {
                // The rows follow one another on both sides.
                copy(here(rows.start)..here(rows.end), there(rows.start))?;
            } else {
                for row in rows {
                    copy(here(row)..here(row) + cols.len(), there(row))?;
                }
            }
        }
        assert_eq!(filled, range.len(), "the boxes cover the tensor");
        Ok(())
    }
}

impl Tile {
    /// Copies the elements from `start` on.
    fn copy(&self, files: &[StoredFile], mut start: usize, mut out: &mut [f32]) -> Result<()> {
        let first = self.parts.partition_point(|p| p.range.end <= start);
        for part in &self.parts[first..] {
            if out.is_empty() {
                break;
            }
            let len = (part.range.end - start).min(out.len());
            let (now, rest) = std::mem::take(&mut out).split_at_mut(len);
            let bytes = part.dtype.bytes();
            let at = part.offset + (start - part.range.start) * bytes;
            decode(part.dtype, &files[part.file].data()?[at..at + now.len() * bytes], now);
            start += now.len();
            out = rest;
        }
        Ok(())
    }
}

/// Exact: bf16 is the upper half of f32, and f32 is copied bit by bit.
fn decode(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::F32 => bytemuck::cast_slice_mut::<f32, u8>(out).copy_from_slice(bytes),
        DType::Bf16 => {
            for (o, b) in out.iter_mut().zip(bytes.chunks_exact(2)) {
                *o = f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16);
            }
        }
        DType::F64 => unreachable!("not a stored type"),
    }
}
