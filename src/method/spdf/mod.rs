//! SPDF (sparse pre-training, dense fine-tuning, Thangarasa et al., arXiv 2303.10464): weights that are zero, and whose
//! gradients and moments are, until a phase without them.
//!
//! Masked: zeros are stored and multiplied like all others. It is what the paper did, and what faster forms are measured
//! by. A mask is a function of (seed, name, shape, sparsity): no topology enters, none is stored. The gradient is masked
//! before its norm is taken, or clipping would count what is not trained.
//!
//! Compact: a network whose matrices are stored as their kept blocks (`params/layout.rs`) has nothing to mask. The same
//! pattern over a dense network is the masked form of the same mask.

mod select;

use crate::Result;
use crate::comm::Comm;
use crate::config::Spdf;
use crate::device::{Category, DType, Device, Elem, Shared, simd};
use crate::optim::Optimizer;
use crate::params::{Grid, Layout, Params, Placed, Unit, reduced};
use crate::rng::Philox;
use crate::tape::profile;
use crate::tensor::Tensor;
use crate::with_dtype;
use select::Rule;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use xxhash_rust::xxh3::Xxh3;

/// Elements that share a word of a mask.
const BITS: usize = u32::BITS as usize;
/// Elements per task.
const GRAIN: usize = 1 << 16;

/// The zeros of a phase in what this rank updates.
pub struct Masks {
    /// Of each unit a bit for each element of its slice, 1 where it is zero; absent where none is.
    units: Vec<Tensor>,
    pub about: About,
}

/// What masks are, the same on all ranks.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct About {
    pub tensors: usize,
    /// Values of these tensors, and how many of them are zero.
    pub values: u64,
    pub zeros: u64,
    /// Of all that decides where they are.
    pub hash: u64,
    /// Zeros are neither stored nor multiplied.
    pub compact: bool,
    /// The different grids of blocks, if the pattern is blocks.
    pub grids: Vec<AboutGrid>,
}

impl About {
    /// Zeros that are neither stored nor multiplied.
    pub fn left_out(&self) -> u64 {
        if self.compact { self.zeros } else { 0 }
    }
}

/// What matrices of one shape keep.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct AboutGrid {
    /// Rows and columns of blocks.
    pub rows: usize,
    pub cols: usize,
    /// The fewest and the most kept blocks of a row of blocks, and of a column.
    pub of_row: (usize, usize),
    pub of_col: (usize, usize),
    /// Matrices like this.
    pub tensors: usize,
}

impl Masks {
    /// Collective over `world`.
    pub fn draw(dev: &Device, world: &dyn Comm, params: &Params, spdf: &Spdf) -> Result<Masks> {
        let covered = |p: &Placed| spdf.covers(&p.spec.name) && zeros(spdf, p) > 0;
        let names: Vec<&Placed> = params.iter().map(|(_, p)| p).filter(|p| covered(p)).collect();
        let compact = names.iter().any(|p| !p.spec.layout.is_dense());
        if compact {
            return Ok(Masks { units: vec![], about: about(spdf, &names, &[]) });
        }
        let rules = select::rules(dev, world, spdf, &names)?;
        let about = about(spdf, &names, &rules);
        let mut rules = rules.into_iter();
        let units = params.units.iter().map(|unit| {
            // In the order of `names`.
            let own: Vec<(&Placed, Rule)> =
                unit.params.iter().filter(|p| covered(p)).zip(rules.by_ref()).collect();
            if own.is_empty() { Tensor::default() } else { bits(dev, unit, &own) }
        });
        Ok(Masks { units: units.collect(), about })
    }

    /// Of the reduced gradients of this rank's part of each unit.
    pub fn grads(&self, dev: &Device, params: &mut Params) {
        if dev.is_meta() {
            return;
        }
        let masked = || params.units.iter().zip(&self.units).filter(|(_, mask)| mask.exists());
        let bytes = masked().map(|(u, _)| 8 * u.slice.len() + u.slice.len() / 8).sum();
        profile::time(
            || profile::pass("Masks of gradients", bytes),
            || {
                for (unit, mask) in params.units.iter_mut().zip(&self.units).filter(|(_, m)| m.exists()) {
                    // Without ZeRO the slice is all of it.
                    let (_, first) = reduced(&unit.grads, &unit.part_grads, &unit.part);
                    let own = unit.slice.start - first..unit.slice.end - first;
                    let t = if unit.part_grads.exists() { &mut unit.part_grads } else { &mut unit.grads };
                    with_dtype!(t.dtype(), T => { clear(dev, mask, &mut t.data_mut::<T>()[own]); });
                }
            },
        );
    }

    /// Of the weights, masters, moments and average of this rank's slices; how many of these were not zero.
    pub fn state(&self, dev: &Device, params: &mut Params, optim: &mut Optimizer) -> u64 {
        if dev.is_meta() {
            return 0;
        }
        let mut cleared = 0;
        for (i, (unit, mask)) in params.units.iter_mut().zip(&self.units).enumerate() {
            if !mask.exists() {
                continue;
            }
            let slice = unit.slice.clone();
            if unit.weights.exists() {
                with_dtype!(unit.dtype, T => {
                    cleared += clear(dev, mask, &mut unit.weights.data_mut::<T>()[slice.clone()]);
                });
            }
            let moments = optim.moments.get_mut(i).into_iter().flatten();
            let average = optim.ema.iter_mut().map(|ema| &mut ema.average[i]);
            for t in std::iter::once(&mut unit.master).chain(moments).chain(average).filter(|t| t.exists()) {
                with_dtype!(t.dtype(), T => { cleared += clear(dev, mask, t.data_mut::<T>()); });
            }
        }
        cleared
    }
}

/// The grid of blocks of a tensor, stored like that or not.
fn grid(spdf: &Spdf, p: &Placed) -> Option<Grid> {
    let block = spdf.pattern.block()?;
    Some(match &p.spec.layout {
        Layout::BlockSparse(grid) => grid.clone(),
        Layout::Dense => {
            let spec = p.spec.in_blocks(block, spdf.sparsity, spdf.seed);
            spec.layout.grid().expect("made of blocks").clone()
        }
    })
}

/// Zeros of a tensor of the model.
fn zeros(spdf: &Spdf, p: &Placed) -> u64 {
    match grid(spdf, p) {
        None => spdf.zeros(p.spec.len() as u64),
        Some(g) => (g.rows * g.cols - g.blocks() * g.block * g.block) as u64,
    }
}

fn about(spdf: &Spdf, names: &[&Placed], rules: &[Rule]) -> About {
    let (mut hash, mut grids) = (Xxh3::new(), Vec::<AboutGrid>::new());
    let (mut values, compact) = (0, names.iter().any(|p| !p.spec.layout.is_dense()));
    for (i, p) in names.iter().enumerate() {
        let dense = p.spec.dense();
        values += dense.len() as u64;
        hash.update(format!("{} {} {} ", dense.name, dense.rows, dense.cols).as_bytes());
        match grid(spdf, p) {
            None => hash.update(format!("{:?}\n", rules[i]).as_bytes()),
            Some(g) => {
                hash.update(format!("{} {} {}\n", g.block, g.by_columns, g.each).as_bytes());
                note(&mut grids, &g);
            }
        }
    }
    hash.update(&spdf.seed.to_le_bytes());
    let zeros = names.iter().map(|p| zeros(spdf, p)).sum();
    About { tensors: names.len(), values, zeros, hash: hash.digest(), compact, grids }
}

/// Counts a matrix among those of its shape.
fn note(grids: &mut Vec<AboutGrid>, g: &Grid) {
    let (line, place) = ((g.each, g.each), g.of_each_place());
    let (of_row, of_col) = if g.by_columns { (place, line) } else { (line, place) };
    let (rows, cols) = (g.rows / g.block, g.cols / g.block);
    match grids.iter_mut().find(|o| (o.rows, o.cols, o.of_row, o.of_col) == (rows, cols, of_row, of_col)) {
        Some(like) => like.tensors += 1,
        None => grids.push(AboutGrid { rows, cols, of_row, of_col, tensors: 1 }),
    }
}

/// The mask of a unit: (1, slice / 32), words of bits.
fn bits(dev: &Device, unit: &Unit, covered: &[(&Placed, Rule)]) -> Tensor {
    let words = unit.slice.len().div_ceil(BITS);
    let mut mask = Tensor::zeros(dev, 1, words, DType::F32, Category::Optimizer);
    if dev.is_meta() {
        return mask;
    }
    let out = Shared::new(bytemuck::cast_slice_mut::<u8, u32>(mask.bytes_mut()));
    dev.pool().ranges(words, GRAIN / BITS, |range| {
        // SAFETY: each word is one task's.
        let out = unsafe { out.part(range.clone()) };
        let start = unit.slice.start + range.start * BITS;
        let elements = start..unit.slice.end.min(unit.slice.start + range.end * BITS);
        for (p, rule) in covered {
            for (run, first) in p.runs(p.within(&elements)) {
                rule.each_zero(first..first + run.len() as u64, |index| {
                    let at = run.start + (index - first) as usize - start;
                    out[at / BITS] |= 1 << (at % BITS);
                });
            }
        }
    });
    mask
}

/// Sets what the mask says to zero; how many of them were not.
fn clear<T: Elem>(dev: &Device, mask: &Tensor, values: &mut [T]) -> u64 {
    let (n, words) = (values.len(), bytemuck::cast_slice::<u8, u32>(mask.bytes()));
    let (values, cleared) = (Shared::new(values), AtomicU64::new(0));
    dev.pool().ranges(n.div_ceil(BITS), GRAIN / BITS, |range| {
        let own = range.start * BITS..n.min(range.end * BITS);
        // SAFETY: ranges of different tasks are disjoint.
        let values = unsafe { values.part(own) };
        let count = simd(
            #[inline(always)]
            || words[range].iter().zip(values.chunks_mut(BITS)).map(|(&word, x)| clear_some(word, x)).sum(),
        );
        cleared.fetch_add(count, Relaxed);
    });
    cleared.into_inner()
}

/// The elements of one word.
#[inline(always)]
fn clear_some<T: Elem>(word: u32, values: &mut [T]) -> u64 {
    let zero = T::default();
    let mut count = 0;
    if let Ok(values) = <&mut [T; BITS]>::try_from(&mut *values) {
        for (i, x) in values.iter_mut().enumerate() {
            let off = word >> i & 1 == 1;
            count += u32::from(off && x.load() != zero.load());
            *x = if off { zero } else { *x };
        }
    } else {
        for (i, x) in values.iter_mut().enumerate().filter(|(i, _)| word >> i & 1 == 1) {
            let _ = i;
            count += u32::from(x.load() != zero.load());
            *x = zero;
        }
    }
    u64::from(count)
}

/// Where the random numbers of a tensor's mask come from.
fn stream(spdf: &Spdf, name: &str) -> Philox {
    Philox::new(spdf.seed, &format!("mask/{name}"))
}
