//! The larger model as a source of tensors: each box is computed from what it needs of the smaller model, so any rank of any
//! topology fills its own part, and nobody holds either model.

use super::Growth;
use super::axis::{AxisMap, Slot};
use super::class::{Axis, Class, NormOf, Part, Side, split};
use crate::Result;
use crate::config::{Norm, NormPlace, Width};
use crate::device::simd;
use crate::params::{LocalBox, ParamSpec, TensorSource};
use crate::rng::Philox;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};

/// What the values are: they grow by different rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// Weights, or an average of them.
    Weight,
    /// Gradients and first moments: a copied output has 1/C of the gradient, a value that is s times the old has 1/s of it;
    /// what is new has none. Exact where readers split equally (FPI).
    Gradient,
    /// Squares of gradients: the same squared.
    Square,
}

/// How far unequal shares are from equal: a share is (1 ± SPREAD)/C.
const SPREAD: f64 = 0.5;
/// Values of the source read at a time.
const READ: usize = 1 << 18;

/// The larger model over the values of the smaller one.
pub struct Grown<'a> {
    growth: &'a Growth,
    source: &'a dyn TensorSource,
    quantity: Quantity,
    /// Mean rows of the source's matrices, by name: what new channels of the stream get.
    means: Mutex<HashMap<String, Arc<Vec<f64>>>>,
}

/// Where a row of the larger tensor comes from.
#[derive(Clone, Copy, PartialEq)]
enum Row<'a> {
    /// Row of a tensor of the source.
    Of(&'a ParamSpec, usize),
    /// Drawn.
    New,
    /// One value for all.
    Const(f64),
    /// The mean of all rows.
    Mean(&'a ParamSpec),
}

/// A tensor of the larger model.
struct Tensor<'a> {
    spec: &'a ParamSpec,
    class: Class,
    rows: Option<&'a AxisMap>,
    cols: Option<&'a AxisMap>,
    own: &'a ParamSpec,
    /// Of AKI: the tensor of the next block, with its maps of rows and columns.
    next: Option<(&'a ParamSpec, Option<&'a AxisMap>, Option<&'a AxisMap>)>,
    /// All values are this.
    all: Option<f64>,
    /// Of a block that changes nothing yet.
    idle: bool,
    /// Every value of the source is multiplied by this.
    scale: f64,
}

impl<'a> Tensor<'a> {
    /// The tensor of the next block, if row `o` is from there.
    fn next_at(&self, o: usize) -> Option<(&'a ParamSpec, Option<&'a AxisMap>, Option<&'a AxisMap>)> {
        self.next.filter(|_| self.rows.is_some_and(|rows| rows.is_extra(o)))
    }
}

impl<'a> Grown<'a> {
    /// `source` has the smaller model's tensors, of the kind that `quantity` says.
    pub fn new(growth: &'a Growth, source: &'a dyn TensorSource, quantity: Quantity) -> Grown<'a> {
        Grown { growth, source, quantity, means: Mutex::default() }
    }

    /// Fills `out` (rows · cols, row-major) with the box of a tensor of the larger model, before rounding.
    pub fn read_f64(&self, spec: &ParamSpec, b: LocalBox, out: &mut [f64]) -> Result<()> {
        assert_eq!(out.len(), b.rows * b.cols, "values of a box of {}", spec.name);
        let t = self.growth.tensor(spec);
        let rows: Vec<Row> = (b.row..b.row + b.rows).map(|o| self.row(&t, o)).collect();
        let mut at = 0;
        while at < rows.len() {
            // Rows that follow one another in the source are read at once.
            let run = match rows[at] {
                Row::Of(spec, first) => {
                    let follows = |(i, row): &(usize, &Row)| **row == Row::Of(spec, first + i);
                    let most = (READ / spec.cols.max(1)).max(1);
                    rows[at..].iter().enumerate().take(most).take_while(follows).count()
                }
                _ => 1,
            };
            let values = self.values(&t, rows[at], run, b.row + at)?;
            let width = values.len() / run;
            for i in 0..run {
                let out = &mut out[(at + i) * b.cols..(at + i + 1) * b.cols];
                self.columns(&t, b.row + at + i, b.col, &values[i * width..(i + 1) * width], rows[at], out);
            }
            at += run;
        }
        Ok(())
    }

    /// Row `o` of the larger tensor.
    fn row(&self, t: &Tensor<'a>, o: usize) -> Row<'a> {
        let next = t.next_at(o);
        if self.quantity != Quantity::Weight && (t.idle || t.all.is_some() || next.is_some()) {
            return Row::Const(0.0);
        }
        if let Some(value) = t.all {
            return Row::Const(value);
        }
        let Some(rows) = t.rows else { return Row::Of(t.own, o) };
        let (own, map) = next.map_or((t.own, rows), |(next, map, _)| (next, map.expect("like its own")));
        match (map.slots[o], t.class.rows) {
            (Slot::Copy(i), _) => Row::Of(own, i as usize),
            (Slot::Blank, _) => Row::Const(0.0),
            (Slot::New, _) if self.quantity != Quantity::Weight => Row::Const(0.0),
            (Slot::New, Axis::Residual) if !matches!(t.class.part, Part::Norm { .. }) => {
                if self.growth.averages() { Row::Mean(own) } else { Row::Const(0.0) }
            }
            (Slot::New, _) => Row::New,
        }
    }

    /// `run` rows of the source's width from `row` on; `o` is the first of the larger tensor.
    fn values(&self, t: &Tensor<'a>, row: Row, run: usize, o: usize) -> Result<Vec<f64>> {
        let width = t.own.cols;
        match row {
            Row::Const(value) => Ok(vec![value; width]),
            Row::Mean(spec) => self.mean(spec).map(|mean| mean.to_vec()),
            Row::New => {
                // The first of its values in the larger tensor.
                let mut values = vec![0.0; width];
                self.draw(t.spec, o, 0, &mut values);
                Ok(values)
            }
            Row::Of(spec, first) => {
                let b = LocalBox { row: first, rows: run, stored_rows: run, col: 0, cols: spec.cols };
                let mut values = vec![0f32; run * spec.cols];
                self.source.read(spec, b, &mut values)?;
                Ok(values.into_iter().map(f64::from).collect())
            }
        }
    }

    /// Values of the larger tensor's row `o` from column `col` on, out of a row of the source's width.
    fn columns(&self, t: &Tensor, o: usize, col: usize, from: &[f64], row: Row, out: &mut [f64]) {
        let scale = t.scale * self.row_scale(t, o);
        let factor = match (row, self.quantity) {
            (Row::Const(_), _) if t.all.is_none() => 1.0,
            (_, Quantity::Weight) => scale,
            (_, Quantity::Gradient) => self.row_share(t, o) / scale,
            (_, Quantity::Square) => (self.row_share(t, o) / scale).powi(2),
        };
        let Some(cols) = t.next_at(o).map_or(t.cols, |(.., cols)| cols) else {
            out.iter_mut().zip(&from[col..]).for_each(|(y, x)| *y = x * factor);
            return;
        };
        let own = col..col + out.len();
        let shares = self.shares(t, cols, o);
        let fresh = self.fresh(t, cols, o, own.clone(), from);
        for (n, (y, i)) in out.iter_mut().zip(own).enumerate() {
            *y = match cols.slots[i] {
                Slot::Copy(of) => {
                    let share = shares.as_ref().map_or(1.0, |s| s[i]);
                    from[of as usize] * factor * share
                }
                Slot::New | Slot::Blank => fresh.at(n),
            };
        }
    }

    /// What stands in the columns of new channels.
    fn fresh(
        &self,
        t: &Tensor,
        cols: &AxisMap,
        o: usize,
        own: std::ops::Range<usize>,
        from: &[f64],
    ) -> Fresh {
        let new = cols.slots[own.clone()].contains(&Slot::New);
        match (t.class.cols, t.class.side) {
            _ if !new || self.quantity != Quantity::Weight || t.all.is_some() => Fresh::Const(0.0),
            (Axis::Residual, Side::Reads) => {
                // What they read is zero; their gradient is not.
                let mut values = vec![0.0; own.len()];
                self.draw(t.spec, o, own.start, &mut values);
                Fresh::Values(values)
            }
            (Axis::Residual, Side::Writes) if self.growth.averages() => {
                Fresh::Const(from.iter().sum::<f64>() / from.len() as f64)
            }
            _ => Fresh::Const(0.0),
        }
    }

    /// What each column of row `o` takes of the old weight, which copies of a channel share.
    fn shares(&self, t: &Tensor, cols: &AxisMap, o: usize) -> Option<Vec<f64>> {
        let splits = t.class.side == Side::Reads && cols.repeats();
        if self.quantity != Quantity::Weight {
            // Whoever reads a copy sees what it saw before; where rows are copies of a channel, each has its part of the gradient.
            return (t.class.side == Side::Writes && cols.repeats()).then(|| {
                let power = if self.quantity == Quantity::Square { 2 } else { 1 };
                let of = |slot: &Slot| match slot {
                    Slot::Copy(i) => (1.0 / f64::from(cols.copies[*i as usize])).powi(power),
                    Slot::New | Slot::Blank => 0.0,
                };
                cols.slots.iter().map(of).collect()
            });
        }
        if !splits {
            return None;
        }
        let copies = |i: u32| f64::from(cols.copies[i as usize]);
        let equal = matches!(self.growth.grow.width, Width::Fpi | Width::Aki);
        let mut noise = vec![0f32; cols.slots.len()];
        let mut sums = vec![0.0; cols.copies.len()];
        if !equal {
            let stream = Philox::new(self.growth.grow.seed, &format!("grow/shares/{}", t.spec.name));
            let first = (o * cols.slots.len()) as u64;
            let half = SPREAD as f32 / 2.0;
            simd(
                #[inline(always)]
                || stream.fill_uniform(first, -half, half, &mut noise),
            );
            for (slot, x) in cols.slots.iter().zip(&noise) {
                if let Slot::Copy(i) = slot {
                    sums[*i as usize] += f64::from(*x);
                }
            }
        }
        let share = |(slot, x): (&Slot, &f32)| match slot {
            Slot::Copy(i) => (1.0 + f64::from(*x) - sums[*i as usize] / copies(*i)) / copies(*i),
            Slot::New | Slot::Blank => 0.0,
        };
        Some(cols.slots.iter().zip(&noise).map(share).collect())
    }

    /// Of the gradient of the output, what row `o` has: one part of as many as there are copies.
    fn row_share(&self, t: &Tensor, o: usize) -> f64 {
        match t.rows.map(|map| (map, map.slots[o])) {
            Some((map, Slot::Copy(i))) => 1.0 / f64::from(map.copies[i as usize]),
            _ => 1.0,
        }
    }

    /// Into the last norm goes what a tied head counts twice.
    fn row_scale(&self, t: &Tensor, o: usize) -> f64 {
        match (t.class.part, t.rows.map(|map| (map, map.slots[o]))) {
            (Part::Norm { of: NormOf::Head, .. }, Some((map, Slot::Copy(i))))
                if self.growth.to.tied && self.growth.projects(t.spec) =>
            {
                1.0 / f64::from(map.copies[i as usize])
            }
            _ => 1.0,
        }
    }

    /// Initial values of the larger tensor: those of a stream of their own.
    fn draw(&self, spec: &ParamSpec, row: usize, col: usize, out: &mut [f64]) {
        let stream = ParamSpec { name: format!("grow/{}", spec.name), ..spec.clone() };
        let mut values = vec![0f32; out.len()];
        let b = LocalBox { row, rows: 1, stored_rows: 1, col, cols: out.len() };
        stream.fill(self.growth.grow.seed, b, &mut values);
        out.iter_mut().zip(values).for_each(|(y, x)| *y = f64::from(x));
    }

    /// The mean of all rows of a tensor of the source.
    fn mean(&self, spec: &ParamSpec) -> Result<Arc<Vec<f64>>> {
        if let Some(known) = self.means.lock().expect("no panic under the lock").get(&spec.name) {
            return Ok(known.clone());
        }
        let mut sum = vec![0.0; spec.cols];
        let rows = (READ / spec.cols).clamp(1, spec.rows);
        let mut values = vec![0f32; rows * spec.cols];
        for row in (0..spec.rows).step_by(rows) {
            let rows = rows.min(spec.rows - row);
            let values = &mut values[..rows * spec.cols];
            let b = LocalBox { row, rows, stored_rows: rows, col: 0, cols: spec.cols };
            self.source.read(spec, b, values)?;
            for row in values.chunks_exact(spec.cols) {
                sum.iter_mut().zip(row).for_each(|(s, x)| *s += f64::from(*x));
            }
        }
        sum.iter_mut().for_each(|s| *s /= spec.rows as f64);
        let mean = Arc::new(sum);
        self.means.lock().expect("no panic under the lock").insert(spec.name.clone(), mean.clone());
        Ok(mean)
    }
}

impl TensorSource for Grown<'_> {
    fn read(&self, spec: &ParamSpec, b: LocalBox, out: &mut [f32]) -> Result<()> {
        let mut values = vec![0.0; out.len()];
        self.read_f64(spec, b, &mut values)?;
        out.iter_mut().zip(values).for_each(|(y, x)| *y = x as f32);
        Ok(())
    }
}

enum Fresh {
    Const(f64),
    Values(Vec<f64>),
}

impl Fresh {
    fn at(&self, n: usize) -> f64 {
        match self {
            Fresh::Const(x) => *x,
            Fresh::Values(all) => all[n],
        }
    }
}

impl Growth {
    /// Whether new channels of the stream carry the mean of the old.
    fn averages(&self) -> bool {
        self.grow.width == Width::ZeroPad && self.from.norm == Norm::Layer
    }

    /// Whether a norm stands right before the projection to the vocabulary.
    fn projects(&self, spec: &ParamSpec) -> bool {
        let last = if self.from.head == crate::config::Head::Mlm { "head.norm." } else { "norm." };
        spec.name.starts_with(last)
    }

    fn tensor<'a>(&'a self, spec: &'a ParamSpec) -> Tensor<'a> {
        let (block, rest) = split(&spec.name);
        let class = Class::of(rest);
        let at = block.map(|l| self.blocks[l]);
        let of = |layer: Option<usize>| {
            let name = layer.map_or(rest.to_string(), |l| format!("blocks.{l}.{rest}"));
            self.source.get(&name).unwrap_or_else(|| panic!("the smaller model has {name}"))
        };
        let source = at.map(|b| b.source);
        let next =
            source.filter(|_| self.grow.width == Width::Aki).map(|l| (l + 1).min(self.from.layers - 1));
        let is_norm = matches!(class.part, Part::Norm { .. });
        Tensor {
            spec,
            class,
            rows: self.map(class.rows, source),
            cols: self.map(class.cols, source),
            own: of(source),
            next: next
                .filter(|_| !is_norm)
                .map(|l| (of(Some(l)), self.map(class.rows, Some(l)), self.map(class.cols, Some(l)))),
            idle: at.is_some_and(|b| b.idle),
            all: at.and_then(|b| self.constant(class.part, b.idle, b.before_idle)),
            scale: self.scale(class.part),
        }
    }

    fn map(&self, axis: Axis, block: Option<usize>) -> Option<&AxisMap> {
        let of_block = || &self.maps[block.expect("only blocks have this axis")];
        match axis {
            Axis::Fixed => None,
            Axis::Residual => Some(&self.residual),
            Axis::Vocab => Some(&self.vocab),
            Axis::Query => Some(&of_block().query),
            Axis::Kv => Some(&of_block().kv),
            Axis::Ffn => Some(&of_block().ffn),
        }
    }

    /// What all values of a tensor are around blocks that change nothing yet.
    fn constant(&self, part: Part, idle: bool, before_idle: bool) -> Option<f64> {
        let post = self.from.norm_place == NormPlace::Post;
        match part {
            Part::Output if idle => Some(0.0),
            // These norm what was normed, and leave it so.
            Part::Norm { of: NormOf::Block(1), bias } if post && idle => Some(if bias { 0.0 } else { 1.0 }),
            Part::Norm { of: NormOf::Block(2), bias } if post && before_idle => {
                Some(if bias { 0.0 } else { 1.0 })
            }
            _ => None,
        }
    }

    /// Of all values of a tensor.
    fn scale(&self, part: Part) -> f64 {
        let (from, to) = (&self.from, &self.to);
        // The norm of each head adds the same ε to less: queries and keys are less by as much.
        let keys = if from.qk_norm { (to.norm_eps / from.norm_eps).sqrt() } else { 1.0 };
        match part {
            Part::Norm { bias: false, .. } => self.norm_scale,
            Part::Query => keys * (to.head_dim as f64 / from.head_dim as f64).sqrt(),
            Part::Key => keys,
            Part::Norm { bias: true, .. } | Part::Output | Part::Plain => 1.0,
        }
    }
}
