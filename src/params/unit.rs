//! A unit: the parameters of one block (or embedding, or head) in one flat buffer, which is stored, reduced and
//! updated at once. Weights, gradients, master and moments share one index space.

use super::layout::{Grid, Layout};
use super::spec::{LocalBox, ParamSpec, Shard};
use crate::config::Spdf;
use crate::device::gemm::BlockMap;
use crate::device::{Category, DType, Device, Shared};
use crate::ops::matrix::Matrix;
use crate::tape::{ParamId, profile};
use crate::tensor::Tensor;
use std::ops::Range;
use std::sync::Arc;

/// A group starts at a multiple of this many elements.
const GROUP_ALIGN: usize = 64;
/// A unit is padded to a multiple of this many elements per rank of the shard group.
const SLICE_ALIGN: usize = 1024;

/// A tensor and where this rank keeps its part.
#[derive(Clone, Debug)]
pub struct Placed {
    pub spec: ParamSpec,
    pub start: usize,
    pub local: LocalBox,
    pub covers: Covers,
    /// Of the tp ranks that hold the same part, the first: it stands for them where a value is counted or stored once.
    pub first: bool,
}

/// What the gradient of a tensor covers that a rank of tp computes, where others hold the same tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Covers {
    /// All: each of them computes the same.
    All,
    /// The rows of x of the rank: fewer than all with sequence parallelism.
    Rows,
    /// The heads of the rank.
    Heads,
}

impl Placed {
    pub fn id(&self) -> ParamId {
        ParamId { start: self.start, rows: self.local.stored_rows, cols: self.local.cols }
    }
    /// The elements that are values, without padding.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.local.rows * self.local.cols
    }
    /// Those of `range`, elements of its unit.
    pub fn within(&self, range: &Range<usize>) -> Range<usize> {
        let all = self.range();
        let start = all.start.max(range.start);
        start..all.end.min(range.end).max(start)
    }
    /// A part of it as elements of its unit and the global index of the first. A rank that holds some columns of a matrix
    /// has a run for each row.
    pub fn runs(&self, range: Range<usize>) -> impl Iterator<Item = (Range<usize>, u64)> + use<> {
        let (b, all, start) = (self.local, self.spec.cols, self.start);
        // Whole rows follow one another.
        let width = if b.cols == all { usize::MAX } else { b.cols };
        let mut at = range.start - start;
        let end = range.end - start;
        std::iter::from_fn(move || {
            if at >= end {
                return None;
            }
            let (row, col) = (at / b.cols, at % b.cols);
            let n = (end - at).min(width.saturating_sub(col));
            let global = (b.row + row) * all + b.col + col;
            let run = start + at..start + at + n;
            at += n;
            Some((run, global as u64))
        })
    }
}

/// Lays out a unit, tensor by tensor.
pub struct Declare {
    rank: usize,
    size: usize,
    /// Matrices that are stored as their kept blocks.
    blocks: Option<Spdf>,
    /// Whether where the blocks lie matters: not on the Meta device.
    located: bool,
    params: Vec<Placed>,
    end: usize,
}

impl Declare {
    /// For rank `rank` of `size` in the tp group.
    pub fn new(rank: usize, size: usize) -> Declare {
        Declare { rank, size, blocks: None, located: true, params: vec![], end: 0 }
    }
    /// Stores the matrices that `spdf` covers as blocks, if that is its pattern.
    pub fn in_blocks(self, dev: &Device, spdf: Option<&Spdf>) -> Declare {
        let blocks = spdf.filter(|s| s.pattern.block().is_some()).cloned();
        Declare { blocks, located: !dev.is_meta(), ..self }
    }
    /// The weight of a linear layer: matrices of equal width one below the other.
    pub fn matrix(&mut self, specs: Vec<ParamSpec>) -> Matrix {
        let Some((spdf, block)) = self.blocks.as_ref().and_then(|s| Some((s, s.pattern.block()?))) else {
            return self.group(specs).into();
        };
        let covered = |s: &&ParamSpec| spdf.covers(&s.name);
        if specs.iter().find(covered).is_none() {
            return self.group(specs).into();
        }
        assert!(specs.iter().all(|s| spdf.covers(&s.name)), "{} and its group go together", specs[0].name);
        let whole = specs.iter().map(|s| s.local(self.rank, self.size));
        let (rows, cols) = whole.fold((0, 0), |(rows, _), b| (rows + b.stored_rows, b.cols));
        let (sparsity, seed) = (spdf.sparsity, spdf.seed);
        let specs: Vec<ParamSpec> = specs.iter().map(|s| s.in_blocks(block, sparsity, seed)).collect();
        let mut kept = vec![];
        if self.located {
            let mut above = 0;
            for spec in &specs {
                let Layout::BlockSparse(grid) = &spec.layout else { unreachable!("made above") };
                let b = spec.local(self.rank, self.size);
                kept.extend(places(grid, &spec.name, b, above));
                above += b.rows / grid.each;
            }
        }
        let map = BlockMap::new(block, rows / block, cols / block, &kept);
        Matrix { id: self.group(specs), rows, cols, blocks: Some(Arc::new(map)) }
    }
    /// Appends tensors of equal width one below the other, so that one GEMM sees them as one matrix.
    pub fn group(&mut self, specs: Vec<ParamSpec>) -> ParamId {
        self.append(specs, Covers::All)
    }
    /// `matrix` of one tensor.
    pub fn one_matrix(&mut self, spec: ParamSpec) -> Matrix {
        self.matrix(vec![spec])
    }
    pub fn one(&mut self, spec: ParamSpec) -> ParamId {
        self.group(vec![spec])
    }
    /// A tensor that every rank of tp holds, of whose gradient each may have only a part.
    pub fn shared(&mut self, spec: ParamSpec, covers: Covers) -> ParamId {
        assert_eq!(spec.shard, Shard::Replicated, "{} is on every rank", spec.name);
        self.append(vec![spec], covers)
    }
    fn append(&mut self, specs: Vec<ParamSpec>, covers: Covers) -> ParamId {
        let start = self.end.next_multiple_of(GROUP_ALIGN);
        self.end = start;
        let mut id = ParamId { start, rows: 0, cols: 0 };
        for spec in specs {
            let local = spec.local(self.rank, self.size);
            assert!(id.rows == 0 || id.cols == local.cols, "widths in the group of {}", spec.name);
            id = ParamId { start, rows: id.rows + local.stored_rows, cols: local.cols };
            let covers = if matches!(spec.shard, Shard::Heads { .. }) { Covers::Heads } else { covers };
            let first = self.rank.is_multiple_of(spec.copies(self.size));
            let placed = Placed { spec, start: self.end, local, covers, first };
            self.end += placed.id().len();
            self.params.push(placed);
        }
        id
    }
    pub fn rank(&self) -> usize {
        self.rank
    }
    pub fn size(&self) -> usize {
        self.size
    }
    /// The unit, what this rank keeps of it allocated but not filled.
    pub fn unit(self, name: impl ToString, dev: &Device, dtype: DType, dp: Dp) -> Unit {
        let len = self.end.next_multiple_of(dp.size * SLICE_ALIGN);
        let each = len / dp.size;
        let part = dp.rank * each..(dp.rank + 1) * each;
        let slice = if dp.zero >= 1 { part.clone() } else { 0..len };
        let acc = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let zeros = |keeps: bool, len, dtype, category| match keeps {
            true => Tensor::zeros(dev, 1, len, dtype, category),
            false => Tensor::default(),
        };
        Unit {
            name: name.to_string(),
            params: self.params,
            dtype,
            weights: zeros(dp.zero < 3, len, dtype, Category::Weights),
            grads: zeros(dp.zero < 2, len, acc, Category::Grads),
            part_grads: zeros(dp.zero >= 2, each, acc, Category::Grads),
            master: zeros(dtype == DType::Bf16 || dp.zero == 3, slice.len(), acc, Category::Optimizer),
            len,
            slice,
            part,
        }
    }
}

/// Rows and columns of blocks of the stored blocks of a rank in its part of the matrix, below `above` other rows of blocks.
fn places(grid: &Grid, name: &str, b: LocalBox, above: usize) -> Vec<(u32, u32)> {
    let (kept, first) = (grid.kept(name), b.row / grid.each);
    let local = |i| {
        let (row, col) = grid.place(&kept, i);
        let (row, col) = if grid.by_columns { (row, col - first) } else { (row - first, col) };
        ((above + row) as u32, col as u32)
    };
    (b.row..b.row + b.rows).map(local).collect()
}

/// The data-parallel ranks as a unit sees them: replicas of a shard group, over which state is split.
#[derive(Clone, Copy, Debug)]
pub struct Dp {
    /// In the shard group.
    pub rank: usize,
    /// Of the shard group.
    pub size: usize,
    /// ZeRO stage: what is split over the shard group. The optimizer state from 1 on, gradients from 2 on, weights at 3.
    pub zero: u8,
    /// Which shard group of how many.
    pub replica: (usize, usize),
}

impl Dp {
    pub const SOLO: Dp = Dp { rank: 0, size: 1, zero: 0, replica: (0, 1) };
}

/// One unit as this rank holds it.
pub struct Unit {
    pub name: String,
    pub params: Vec<Placed>,
    /// Of the weights.
    pub dtype: DType,
    /// (1, len), what ops compute with; padding is 0. At stage 3 it exists only while it is gathered.
    pub weights: Tensor,
    /// (1, len), f32 (f64 for the oracle). From stage 2 on it exists only until it is reduced.
    pub grads: Tensor,
    /// (1, part), from stage 2 on: the reduced gradient.
    pub part_grads: Tensor,
    /// (1, slice) f32 (f64 for the oracle), what the optimizer updates: exists for bf16 weights and at stage 3.
    pub master: Tensor,
    pub len: usize,
    /// What the optimizer of this rank updates: its part, or everything without ZeRO.
    pub slice: Range<usize>,
    /// Part `rank` of the equal ones of the shard group.
    pub part: Range<usize>,
}

impl Unit {
    /// Of the gradients: f32, or f64 for the oracle.
    pub fn grad_dtype(&self) -> DType {
        if self.dtype == DType::F64 { DType::F64 } else { DType::F32 }
    }

    /// Room for gradients, which begin at 0 if there was none.
    pub fn open_grads(&mut self, dev: &Device) {
        if !self.grads.exists() {
            self.grads = Tensor::empty(dev, 1, self.len, self.grad_dtype(), Category::Grads);
            zero(dev, &mut self.grads);
        }
    }

    /// What the optimizer updates, (1, slice).
    pub fn trained(&self) -> &[f32] {
        match self.master.exists() {
            true => self.master.data(),
            false => &self.weights.data()[self.slice.clone()],
        }
    }
}

/// Where the reduced gradient of a rank's part lies (fields of its unit), and the element of the unit at which that begins.
pub fn reduced<'a>(grads: &'a Tensor, part_grads: &'a Tensor, part: &Range<usize>) -> (&'a Tensor, usize) {
    if part_grads.exists() { (part_grads, part.start) } else { (grads, 0) }
}

/// All units of a network, embedding first, head last.
pub struct Params {
    pub units: Vec<Unit>,
}

impl Params {
    /// Every tensor with its unit, in the order of the network.
    pub fn iter(&self) -> impl Iterator<Item = (&Unit, &Placed)> {
        self.units.iter().flat_map(|u| u.params.iter().map(move |p| (u, p)))
    }
    /// Values of the whole model, padding and copies not counted.
    pub fn count(&self) -> u64 {
        self.iter().map(|(_, p)| p.spec.len() as u64).sum()
    }
    /// Drops gradients and masters, which only an optimizer reads. Before `fill` they have taken no memory yet.
    pub fn forget_training(&mut self) {
        self.forget_gradients();
        for unit in &mut self.units {
            unit.master = Tensor::default();
        }
    }
    /// Drops gradients alone: at stage 3 the masters are the weights.
    pub fn forget_gradients(&mut self) {
        for unit in &mut self.units {
            (unit.grads, unit.part_grads) = (Tensor::default(), Tensor::default());
        }
    }
    /// Gradients begin at 0, those that are kept from update to update.
    pub fn zero_grads(&mut self, dev: &Device) {
        let all = self.units.iter_mut().flat_map(|u| [&mut u.grads, &mut u.part_grads]);
        let kept: Vec<&mut Tensor> = all.filter(|t| t.exists()).collect();
        if dev.is_meta() {
            return;
        }
        let bytes = kept.iter().map(|t| t.len() * t.dtype().bytes()).sum();
        let clear = || kept.into_iter().for_each(|t| zero(dev, t));
        profile::time(|| profile::pass("Zero gradients", bytes), clear);
    }
}

fn zero(dev: &Device, t: &mut Tensor) {
    if dev.is_meta() {
        return;
    }
    let bytes = t.bytes_mut();
    let (len, bytes) = (bytes.len(), Shared::new(bytes));
    // SAFETY: ranges of different tasks are disjoint.
    dev.pool().ranges(len, 1 << 20, |r| unsafe { bytes.part(r) }.fill(0));
}
