//! One op alone on a tape, in f64, on this rank of a group.

use super::{N, seq, tensor, values};
use espalier::comm::{Comm, Solo, run_ranks};
use espalier::device::attention::Heads;
use espalier::device::{Category, Device};
use espalier::tape::*;
use espalier::tensor::Tensor;
use std::time::Duration;

/// Four q heads and two k and v heads of six.
pub const HEADS: Heads = Heads { heads: 4, kv_heads: 2, head_dim: 6 };

/// A vector of n from `start` on in the weights.
pub fn vector(start: usize, n: usize) -> ParamId {
    ParamId { start, rows: n, cols: 1 }
}

pub fn matrix(start: usize, rows: usize, cols: usize) -> ParamId {
    ParamId { start, rows, cols }
}

/// Within rounding of the largest.
pub fn close(what: &str, got: &[f64], want: &[f64]) {
    assert_eq!(got.len(), want.len(), "{what}");
    let scale = want.iter().fold(1e-300f64, |m, x| m.max(x.abs()));
    for (i, (a, b)) in got.iter().zip(want).enumerate() {
        assert!((a - b).abs() <= 1e-12 * scale, "{what}: value {i} is {a}, not {b}");
    }
}

/// Values and gradients of an op.
pub struct Pass {
    /// Of each output.
    pub y: Vec<Vec<f64>>,
    /// Of the input that was asked for.
    pub dx: Vec<f64>,
    /// Of all weights.
    pub dw: Vec<f64>,
}

/// Runs an op on x, (columns, values) each, forward and then back from `dy`, the gradient of its first
/// output. With `twice` another op of its kind reads the same inputs, and all gradients come twice.
pub fn pass_on<const Y: usize, O: Op + 'static>(
    tp: &dyn Comm,
    weights: &[f64],
    op: impl Fn() -> O,
    x: &[(usize, Vec<f64>)],
    wrt: usize,
    dy: &[f64],
    twice: bool,
) -> Pass {
    let (dev, seq) = (Device::cpu(2), seq());
    let weights = tensor(&dev, 1, weights.len(), weights);
    let cx = Cx { dev: &dev, tp, w: Weights(&weights), seq: &seq, at: At::default(), past: None };
    let mut t = Tape::default();
    let vars: Vec<_> = x.iter().map(|(c, x)| t.input(tensor(&dev, x.len() / c, *c, x))).collect();
    let y: [Var; Y] = t.push(&cx, op(), &vars).expect("forward");
    let values = y.map(|v| t.value(v).to_f64()).into();
    let mut outputs = vec![y[0]];
    if twice {
        outputs.push(t.push::<Y>(&cx, op(), &vars).expect("forward")[0]);
    }
    let [end] = t.push(&cx, Total, &outputs).expect("a sum");
    let mut grads = Tensor::zeros(&dev, 1, weights.len(), weights.dtype(), Category::Grads);
    let rows = t.value(end).rows();
    let dy = tensor(&dev, rows, dy.len() / rows, dy);
    let dx = t.backward(&cx, &mut Grads(&mut grads), end, dy, vars.get(wrt).copied()).expect("backward");
    Pass { y: values, dx: if dx.exists() { dx.to_f64() } else { vec![] }, dw: grads.to_f64() }
}

/// On one rank, forward alone.
pub fn forward<const Y: usize, O: Op + 'static>(
    weights: &[f64],
    op: impl Fn() -> O,
    x: &[(usize, Vec<f64>)],
) -> Vec<Vec<f64>> {
    let (dev, tp, seq) = (Device::cpu(2), Solo::new(), seq());
    let weights = tensor(&dev, 1, weights.len(), weights);
    let cx = Cx { dev: &dev, tp: &tp, w: Weights(&weights), seq: &seq, at: At::default(), past: None };
    let mut t = Tape::default();
    let vars: Vec<_> = x.iter().map(|(c, x)| t.input(tensor(&dev, N, *c, x))).collect();
    let y: [Var; Y] = t.push(&cx, op(), &vars).expect("forward");
    y.map(|v| t.value(v).to_f64()).into()
}

/// y = Σ x: hands dy to each of its inputs.
struct Total;
impl Op for Total {
    fn name(&self) -> &'static str {
        "Total"
    }
    fn needs(&self) -> Needs {
        Needs { x: 0, y: 0 }
    }
    fn outputs(&self, x: &[Shape]) -> Vec<Shape> {
        vec![x[0]]
    }
    fn forward(&self, _: &Cx, _: &[&Tensor], y: &mut [Tensor]) -> espalier::Result<()> {
        y[0].data_mut::<f64>().fill(0.0); // nobody looks
        Ok(())
    }
    fn backward(&self, cx: &Cx, _: &mut Grads, b: &mut Back) -> espalier::Result<()> {
        for i in 0..b.dx.len() {
            let dy = &b.dy[0];
            let copy = tensor(cx.dev, dy.rows(), dy.cols(), dy.data());
            b.dx[i].put(cx.dev, copy);
        }
        Ok(())
    }
}

/// What each rank of a group returns.
pub fn ranks<R: Send>(n: usize, f: impl Fn(&dyn Comm) -> R + Sync) -> Vec<R> {
    run_ranks(n, Duration::from_secs(60), |world| Ok(f(world.as_ref()))).expect("all ranks return")
}

/// Columns `range` of a matrix of `cols`.
pub fn columns(x: &[f64], cols: usize, range: std::ops::Range<usize>) -> Vec<f64> {
    x.chunks(cols).flat_map(|row| row[range.clone()].to_vec()).collect()
}

/// x·wᵀ, x (n, I), w (O, I)
pub fn product(x: &[f64], w: &[f64], inner: usize) -> Vec<f64> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    x.chunks(inner).flat_map(|x| w.chunks(inner).map(move |w| dot(x, w))).collect()
}

/// Irregular values and their number of columns, as an input.
pub fn input(name: &str, cols: usize) -> (usize, Vec<f64>) {
    (cols, values(name, N * cols))
}
