//! The record of one forward through one unit: a list of coarse fused ops, run in reverse for the backward.
//!
//! The author of a block writes its forward; the tape derives the rest: the backward, which values may be dropped,
//! which must be computed again. No higher-order gradients, no in-place ops on taped values.

mod cx;
mod op;
pub mod profile;

pub use cx::{At, Cx, Grads, ParamId, Past, Seq, Weights};
pub use op::{Back, Cost, Needs, Op, Shape, Slot};

use crate::Result;
use crate::tensor::Tensor;

/// Which of the values that a backward reads `seal` drops: none, those that a cheap op brings back and that take
/// more room than what it reads, or all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recompute {
    Keep,
    Cheap,
    Full,
}

/// A value on the tape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Var(usize);

struct Node {
    op: Box<dyn Op>,
    x: Vec<Var>,
    y: Vec<Var>,
    /// Values that the backward reads.
    needs: Vec<Var>,
}

#[derive(Default)]
pub struct Tape {
    nodes: Vec<Node>,
    /// Those that were dropped do not exist.
    values: Vec<Tensor>,
    shapes: Vec<Shape>,
    cost: Cost,
    /// Ops run again in the backward, by name.
    pub reruns: Vec<&'static str>,
}

impl Tape {
    pub fn input(&mut self, x: Tensor) -> Var {
        self.shapes.push(Shape::of(&x));
        self.values.push(x);
        Var(self.values.len() - 1)
    }

    /// Records an op with Y outputs and runs it.
    pub fn push<const Y: usize>(&mut self, cx: &Cx, op: impl Op + 'static, x: &[Var]) -> Result<[Var; Y]> {
        let shapes: Vec<_> = x.iter().map(|v| self.shapes[v.0]).collect();
        let outputs = op.outputs(&shapes);
        assert_eq!(outputs.len(), Y, "outputs of {}", op.name());
        let twice = x.iter().enumerate().find(|(i, v)| x[..*i].contains(v));
        assert!(twice.is_none(), "{} is given one value twice: it would lose a gradient", op.name());
        let cost = op.cost(&shapes);
        self.cost = Cost { flops: self.cost.flops + cost.flops, bytes: self.cost.bytes + cost.bytes };
        let first = self.values.len();
        let y = std::array::from_fn(|i| Var(first + i));
        self.values.resize(first + Y, Tensor::default());
        self.shapes.extend(outputs);
        let Needs { x: xs, y: ys } = op.needs();
        let picked = |mask: u32, vars: &[Var]| {
            vars.iter().enumerate().filter(|(i, _)| mask >> i & 1 == 1).map(|(_, v)| *v).collect::<Vec<_>>()
        };
        let needs = [picked(xs, x), picked(ys, &y)].concat();
        self.nodes.push(Node { op: Box::new(op), x: x.into(), y: y.into(), needs });
        self.run(cx, self.nodes.len() - 1)?;
        Ok(y)
    }

    fn run(&mut self, cx: &Cx, n: usize) -> Result<()> {
        let Node { op, x, y, .. } = &self.nodes[n];
        let mut out: Vec<_> = y.iter().map(|v| self.shapes[v.0].empty(cx.dev)).collect();
        if cx.dev.is_meta() {
            self.note(cx, n, "forward");
            let shapes: Vec<_> = x.iter().map(|v| self.shapes[v.0]).collect();
            op.meta_forward(cx, &shapes, &mut out)?;
        } else {
            let x: Vec<_> = x.iter().map(|v| &self.values[v.0]).collect();
            let what = || (self.label(n, "forward"), self.cost_of(n));
            profile::time(what, || op.forward(cx, &x, &mut out))?;
        }
        y.iter().zip(out).for_each(|(v, y)| self.values[v.0] = y);
        Ok(())
    }

    pub fn shape(&self, v: Var) -> Shape {
        self.shapes[v.0]
    }

    pub fn value(&self, v: Var) -> &Tensor {
        &self.values[v.0]
    }

    /// Name and widths of op n, for the profile.
    fn label(&self, n: usize, pass: &str) -> String {
        let Node { op, x, y, .. } = &self.nodes[n];
        let cols = |v: Option<&Var>| v.map_or(0, |v| self.shapes[v.0].cols);
        format!("{} {}->{} {pass}", op.name(), cols(x.first()), cols(y.first()))
    }

    fn cost_of(&self, n: usize) -> Cost {
        let x: Vec<_> = self.nodes[n].x.iter().map(|v| self.shapes[v.0]).collect();
        self.nodes[n].op.cost(&x)
    }

    /// What the forward did.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// Ends the forward: drops what no backward reads and what `policy` would rather compute again.
    pub fn seal(&mut self, policy: Recompute) {
        let mut wanted = vec![false; self.values.len()];
        self.nodes.iter().flat_map(|n| &n.needs).for_each(|v| wanted[v.0] = true);
        // Last op first: an op that drops its outputs wants its inputs, and the ops that made those come later. So
        // what a rerun reads is kept, or is itself made by a rerun.
        for Node { op, x, y, .. } in self.nodes.iter().rev() {
            let bytes = |vars: &[Var], state: bool| -> usize {
                vars.iter().filter(|v| wanted[v.0] == state).map(|v| self.shapes[v.0].bytes()).sum()
            };
            let (frees, costs) = (bytes(y, true), bytes(x, false));
            let rerun = match policy {
                Recompute::Keep => false,
                Recompute::Cheap => op.cheap() && frees > costs,
                Recompute::Full => true,
            };
            if rerun && frees > 0 {
                y.iter().for_each(|v| wanted[v.0] = false);
                x.iter().for_each(|v| wanted[v.0] = true);
            }
        }
        let values = self.values.iter_mut().zip(wanted);
        values.filter(|(_, wanted)| !wanted).for_each(|(value, _)| *value = Tensor::default());
    }

    /// Brings dropped values back by running their ops again, inputs first.
    fn restore(&mut self, cx: &Cx, vars: &[Var]) -> Result<()> {
        for v in vars {
            if !self.values[v.0].exists() {
                let n = self.nodes.iter().position(|n| n.y.contains(v)).expect("made by an op");
                self.restore(cx, &self.nodes[n].x.clone())?;
                self.run(cx, n)?;
                self.reruns.push(self.nodes[n].op.name());
            }
        }
        Ok(())
    }

    /// Strictly in reverse, freeing each value once nobody reads it any more. `dy` is the gradient of y; returns
    /// the gradient of `x`, which does not exist if x was not used.
    pub fn backward(
        &mut self,
        cx: &Cx,
        dw: &mut Grads,
        y: Var,
        dy: Tensor,
        x: Option<Var>,
    ) -> Result<Tensor> {
        let mut slots: Vec<Slot> = self.values.iter().map(|_| Slot::Empty).collect();
        slots[y.0].put(cx.dev, dy);
        for n in (0..self.nodes.len()).rev() {
            if self.nodes[n].y.iter().all(|v| matches!(slots[v.0], Slot::Empty)) {
                continue; // nobody consumed what this op made
            }
            self.restore(cx, &self.nodes[n].needs.clone())?;
            self.free_unread(n, x);
            let (Node { op, x: ins, y: outs, needs }, hidden) = (&self.nodes[n], Tensor::default());
            let show = |v: &Var| if needs.contains(v) { &self.values[v.0] } else { &hidden };
            let mut b = Back {
                x: ins.iter().map(show).collect(),
                y: outs.iter().map(show).collect(),
                dy: outs.iter().map(|v| slots[v.0].take()).collect(),
                dx: ins.iter().map(|v| std::mem::take(&mut slots[v.0])).collect(),
            };
            if cx.dev.is_meta() {
                self.note(cx, n, "backward");
                let shapes: Vec<_> = ins.iter().map(|v| self.shapes[v.0]).collect();
                op.meta_backward(cx, &shapes, &mut b)?;
            } else {
                let what = || (self.label(n, "backward"), self.cost_of(n).backward());
                profile::time(what, || op.backward(cx, dw, &mut b))?;
            }
            let dx: Vec<_> = std::mem::take(&mut b.dx);
            drop(b);
            ins.iter().zip(dx).for_each(|(v, dx)| slots[v.0] = dx);
            outs.clone().iter().for_each(|v| self.values[v.0] = Tensor::default());
        }
        Ok(x.map_or(Tensor::default(), |x| slots[x.0].take()))
    }

    /// Frees what a rerun made in passing and no backward up to node n reads. (If a later rerun reads it, it is
    /// made again.)
    fn free_unread(&mut self, n: usize, input: Option<Var>) {
        for v in 0..self.values.len() {
            let made = self.nodes.iter().any(|node| node.y.contains(&Var(v)));
            let read = self.nodes[..=n].iter().any(|node| node.needs.contains(&Var(v)));
            if made && !read && input != Some(Var(v)) && !self.reruns.is_empty() {
                self.values[v] = Tensor::default();
            }
        }
    }

    /// On the Meta device: op n becomes a line of the program.
    fn note(&self, cx: &Cx, n: usize, pass: &str) {
        let Node { op, x, y, .. } = &self.nodes[n];
        let shapes: Vec<_> = x.iter().chain(y).map(|v| self.shapes[v.0]).collect();
        cx.dev.arena().note(format_args!("{} {pass} {shapes:?}", op.name()));
    }
}
