//! A unit: the parameters of one block (or embedding, or head) in one flat buffer, which is stored, reduced and
//! updated at once. Weights, gradients, master and moments share one index space.

use super::spec::{LocalBox, ParamSpec};
use crate::Result;
use crate::device::{Category, DType, Device, Elem, Shared};
use crate::tape::{ParamId, profile};
use crate::tensor::Tensor;
use crate::with_dtype;
use std::ops::Range;

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
}

impl Placed {
    pub fn id(&self) -> ParamId {
        ParamId { start: self.start, rows: self.local.stored_rows, cols: self.local.cols }
    }
    /// The elements that are values, without padding.
    pub fn range(&self) -> Range<usize> {
        self.start..self.start + self.local.rows * self.local.cols
    }
}

/// Lays out a unit, tensor by tensor.
pub struct Declare {
    rank: usize,
    size: usize,
    params: Vec<Placed>,
    end: usize,
}

impl Declare {
    /// For rank `rank` of `size` in the tp group.
    pub fn new(rank: usize, size: usize) -> Declare {
        Declare { rank, size, params: vec![], end: 0 }
    }
    /// Appends tensors of equal width one below the other, so that one GEMM sees them as one matrix.
    pub fn group(&mut self, specs: Vec<ParamSpec>) -> ParamId {
        let start = self.end.next_multiple_of(GROUP_ALIGN);
        self.end = start;
        let mut id = ParamId { start, rows: 0, cols: 0 };
        for spec in specs {
            let local = spec.local(self.rank, self.size);
            assert!(id.rows == 0 || id.cols == local.cols, "widths in the group of {}", spec.name);
            id = ParamId { start, rows: id.rows + local.stored_rows, cols: local.cols };
            let placed = Placed { spec, start: self.end, local };
            self.end += placed.id().len();
            self.params.push(placed);
        }
        id
    }
    pub fn one(&mut self, spec: ParamSpec) -> ParamId {
        self.group(vec![spec])
    }
    pub fn rank(&self) -> usize {
        self.rank
    }
    pub fn size(&self) -> usize {
        self.size
    }
    /// The unit, its weights and gradients allocated but not filled.
    pub fn unit(self, name: impl ToString, dev: &Device, dtype: DType, dp: Dp) -> Unit {
        let len = self.end.next_multiple_of(dp.size * SLICE_ALIGN);
        let each = len / dp.size;
        let part = dp.rank * each..(dp.rank + 1) * each;
        let slice = if dp.zero >= 1 { part.clone() } else { 0..len };
        let acc = if dtype == DType::F64 { DType::F64 } else { DType::F32 };
        let master = match dtype {
            DType::Bf16 => Tensor::zeros(dev, 1, slice.len(), DType::F32, Category::Optimizer),
            _ => Tensor::default(),
        };
        Unit {
            name: name.to_string(),
            params: self.params,
            weights: Tensor::zeros(dev, 1, len, dtype, Category::Weights),
            grads: Tensor::zeros(dev, 1, len, acc, Category::Grads),
            master,
            len,
            slice,
            part,
        }
    }
}

/// The data-parallel group as a unit sees it.
#[derive(Clone, Copy, Debug)]
pub struct Dp {
    pub rank: usize,
    pub size: usize,
    /// ZeRO stage: from 1 on, the optimizer state is split over the group.
    pub zero: u8,
}

impl Dp {
    pub const SOLO: Dp = Dp { rank: 0, size: 1, zero: 0 };
}

/// One unit as this rank holds it.
pub struct Unit {
    pub name: String,
    pub params: Vec<Placed>,
    /// (1, len), what ops compute with; padding is 0
    pub weights: Tensor,
    /// (1, len), f32 (f64 for the oracle)
    pub grads: Tensor,
    /// (1, slice) f32, what the optimizer updates; exists for bf16 weights only
    pub master: Tensor,
    pub len: usize,
    /// What the optimizer of this rank updates: its part, or everything without ZeRO.
    pub slice: Range<usize>,
    /// Part `rank` of dp equal ones.
    pub part: Range<usize>,
}

/// Where values of parameters come from: initialisation, a checkpoint, a Hugging Face directory.
pub trait TensorSource: Sync {
    /// Fills `out` (rows · cols, row-major, without padding) with the box of the tensor.
    fn read(&self, spec: &ParamSpec, b: LocalBox, out: &mut [f32]) -> Result<()>;
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
    /// Reads all weights (and masters) of this rank.
    pub fn fill(&mut self, dev: &Device, source: &dyn TensorSource) -> Result<()> {
        if dev.is_meta() {
            return Ok(());
        }
        for unit in &mut self.units {
            let Unit { params, weights, master, slice, .. } = unit;
            for p in params {
                with_dtype!(weights.dtype(), T => fill_one::<T>(dev, source, p, weights.data_mut(), master, slice))?;
            }
        }
        Ok(())
    }
    /// Drops gradients and masters, which only an optimizer reads. Before `fill` they have taken no memory yet.
    pub fn forget_training(&mut self) {
        for unit in &mut self.units {
            unit.grads = Tensor::default();
            unit.master = Tensor::default();
        }
    }
    pub fn zero_grads(&mut self, dev: &Device) {
        if dev.is_meta() {
            return;
        }
        let bytes = |u: &Unit| u.len * u.grads.dtype().bytes();
        let all = self.units.iter().map(bytes).sum();
        let clear = || {
            for unit in &mut self.units {
                let len = bytes(unit);
                let grads = Shared::new(unit.grads.bytes_mut());
                // SAFETY: ranges of different tasks are disjoint.
                dev.pool().ranges(len, 1 << 20, |r| unsafe { grads.part(r) }.fill(0));
            }
        };
        profile::time(|| profile::pass("Zero gradients", all), clear);
    }
}

/// Elements read at a time: small enough to share, large enough for a file read.
const READ: usize = 1 << 16;

fn fill_one<T: Elem>(
    dev: &Device,
    source: &dyn TensorSource,
    p: &Placed,
    weights: &mut [T],
    master: &mut Tensor,
    slice: &Range<usize>,
) -> Result<()> {
    let (b, cols) = (p.local, p.local.cols.max(1));
    let failed = std::sync::Mutex::new(None);
    let weights = Shared::new(weights);
    let master = master.exists().then(|| Shared::new(master.data_mut::<f32>()));
    dev.pool().ranges(b.rows, (READ / cols).max(1), |rows| {
        let part = LocalBox { row: b.row + rows.start, rows: rows.len(), stored_rows: rows.len(), ..b };
        let mut values = vec![0.0; rows.len() * b.cols];
        if let Err(e) = source.read(&p.spec, part, &mut values) {
            *failed.lock().expect("no panic under the lock") = Some(e);
            return;
        }
        let first = p.start + rows.start * cols;
        // SAFETY: row ranges of different tasks are disjoint.
        let out = unsafe { weights.part(first..first + values.len()) };
        out.iter_mut()
            .zip(&values)
            .for_each(|(w, v)| *w = T::store(<T::Acc as crate::device::Real>::of(*v as f64)));
        if let Some(master) = &master {
            let own = slice.start.max(first)..slice.end.min(first + values.len());
            if own.start < own.end {
                // SAFETY: as above.
                let out = unsafe { master.part(own.start - slice.start..own.end - slice.start) };
                out.copy_from_slice(&values[own.start - first..own.end - first]);
            }
        }
    });
    match failed.into_inner().expect("no panic under the lock") {
        Some(e) => Err(e),
        None => Ok(()),
    }
}

/// Initial values: Philox(seed, name) at the global index, the same for every topology.
pub struct RandomInit {
    pub seed: u64,
}

impl TensorSource for RandomInit {
    fn read(&self, spec: &ParamSpec, b: LocalBox, out: &mut [f32]) -> Result<()> {
        spec.fill(self.seed, b, out);
        Ok(())
    }
}
