//! An op: what it reads in its backward, what it makes, what it costs, its forward and its backward.

use super::cx::{Cx, Grads};
use crate::Result;
use crate::device::gemm::Out;
use crate::device::{Category, DType, Device};
use crate::tensor::Tensor;

/// Which inputs and outputs a backward reads: bit i stands for x[i] or y[i].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Needs {
    pub x: u32,
    pub y: u32,
}

/// The shape and type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub rows: usize,
    pub cols: usize,
    pub dtype: DType,
}

impl Shape {
    pub fn of(t: &Tensor) -> Shape {
        Shape { rows: t.rows(), cols: t.cols(), dtype: t.dtype() }
    }
    pub fn bytes(self) -> usize {
        self.rows * self.cols * self.dtype.bytes()
    }
    pub fn empty(self, dev: &Device) -> Tensor {
        Tensor::empty(dev, self.rows, self.cols, self.dtype, Category::Activations)
    }
    /// Statistics of values of this dtype, one row of `cols` each: f32, or f64 for the oracle.
    pub fn stat(self, cols: usize) -> Shape {
        let dtype = if self.dtype == DType::F64 { DType::F64 } else { DType::F32 };
        Shape { rows: self.rows, cols, dtype }
    }
    pub fn with_cols(self, cols: usize) -> Shape {
        Shape { cols, ..self }
    }
}

/// What one forward does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Cost {
    /// Multiplications and additions in matrix products; the backward does twice as many.
    pub flops: f64,
    /// Bytes read and written at least.
    pub bytes: f64,
}

impl Cost {
    /// Of the backward: two products for each one; x and dy read and dx written where x was read and y written.
    pub fn backward(self) -> Cost {
        Cost { flops: 2.0 * self.flops, bytes: 1.5 * self.bytes }
    }
}

/// The gradient of a value while its consumers add to it.
#[derive(Default)]
pub enum Slot {
    #[default]
    Empty,
    /// The sum so far.
    Total(Tensor),
}

impl Slot {
    /// The tensor to write dx into, and whether to store or to add: for a dx that is a formula.
    pub fn target(&mut self, dev: &Device, shape: Shape) -> (&mut Tensor, Out) {
        let out = match self {
            Slot::Empty => {
                *self = Slot::Total(shape.empty(dev));
                Out::Store
            }
            Slot::Total(_) => Out::Add,
        };
        let Slot::Total(total) = self else { unreachable!("filled above") };
        assert_eq!(Shape::of(total), shape, "gradient of a value");
        (total, out)
    }
    /// For a dx that is finished: the first one is moved in, a later one is added.
    pub fn put(&mut self, dev: &Device, dx: Tensor) {
        match self {
            Slot::Empty => *self = Slot::Total(dx),
            Slot::Total(total) => crate::ops::elementwise::add(dev, total, &dx),
        }
    }
    /// Empties the slot; the result does not exist if nobody added to it.
    pub fn take(&mut self) -> Tensor {
        match std::mem::take(self) {
            Slot::Empty => Tensor::default(),
            Slot::Total(total) => total,
        }
    }
}

/// What a backward gets. A value that `needs` does not list does not exist here under any policy, so that a wrong
/// mask fails at once; nor does the gradient of an output that nobody consumed.
pub struct Back<'a> {
    pub x: Vec<&'a Tensor>,
    pub y: Vec<&'a Tensor>,
    pub dy: Vec<Tensor>,
    pub dx: Vec<Slot>,
}

pub trait Op: Send {
    fn name(&self) -> &'static str;
    fn needs(&self) -> Needs;
    /// Bound by memory traffic: rerunning it costs less than the memory it frees.
    fn cheap(&self) -> bool {
        false
    }
    /// Shapes of all outputs. Statistics for the backward (rstd, lse) are outputs like any other.
    fn outputs(&self, x: &[Shape]) -> Vec<Shape>;
    fn cost(&self, x: &[Shape]) -> Cost {
        let moved = x.iter().chain(&self.outputs(x)).map(|s| s.bytes()).sum::<usize>();
        Cost { flops: 0.0, bytes: moved as f64 }
    }
    /// What `forward` does on the Meta device: its collectives and its workspace, in the same order.
    fn meta_forward(&self, _cx: &Cx, _x: &[Shape], _y: &mut [Tensor]) -> Result<()> {
        Ok(())
    }
    /// The same for `backward`; without collectives and workspace, only the gradients of the inputs come to exist.
    fn meta_backward(&self, cx: &Cx, x: &[Shape], b: &mut Back) -> Result<()> {
        for (i, shape) in x.iter().enumerate() {
            b.dx[i].target(cx.dev, *shape);
        }
        Ok(())
    }
    /// Fills y, allocated as `outputs` says.
    fn forward(&self, cx: &Cx, x: &[&Tensor], y: &mut [Tensor]) -> Result<()>;
    /// Adds to `b.dx` and to `dw`.
    fn backward(&self, cx: &Cx, dw: &mut Grads, b: &mut Back) -> Result<()>;
}
