//! The non-linearity of the MLP: GELU (arXiv 1606.08415) exact or by tanh, ReLU² (arXiv 2109.08668), and gated
//! linear units (arXiv 2002.05202).
//!
//!     plain  y = f(x)            x, y (N, F/R)
//!     gated  y = f(gate)∘up      x (N, 2F/R) as [gate | up], y (N, F/R)

use crate::Result;
use crate::config::Activation as Kind;
use crate::device::gemm::Out;
use crate::device::{Elem, Real, Shared, simd};
use crate::tape::{Back, Cx, Grads, Needs, Op, Shape};
use crate::tensor::Tensor;
use crate::with_dtype;

pub struct Activation(pub Kind);

impl Op for Activation {
    fn name(&self) -> &'static str {
        "Activation"
    }
    fn needs(&self) -> Needs {
        Needs { x: 0b1, y: 0 }
    }
    fn cheap(&self) -> bool {
        true
    }
    fn outputs(&self, x: &[Shape]) -> Vec<Shape> {
        vec![x[0].with_cols(if self.0.is_glu() { x[0].cols / 2 } else { x[0].cols })]
    }
    fn forward(&self, cx: &Cx, x: &[&Tensor], y: &mut [Tensor]) -> Result<()> {
        let cols = y[0].cols();
        with_dtype!(x[0].dtype(), T => {
            let (x, y) = (x[0].data::<T>(), y[0].data_mut::<T>());
            match self.0 {
                Kind::SwiGlu => gated::<T, Silu>(cx, x, y, cols),
                Kind::GeGlu => gated::<T, Gelu>(cx, x, y, cols),
                Kind::GeGluTanh => gated::<T, GeluTanh>(cx, x, y, cols),
                Kind::Gelu => plain::<T, Gelu>(cx, x, y),
                Kind::GeluTanh => plain::<T, GeluTanh>(cx, x, y),
                Kind::Relu2 => plain::<T, Relu2>(cx, x, y),
            }
        });
        Ok(())
    }
    fn backward(&self, cx: &Cx, _: &mut Grads, b: &mut Back) -> Result<()> {
        let (x, dy) = (b.x[0], &b.dy[0]);
        let cols = dy.cols();
        let (dx, out) = b.dx[0].target(cx.dev, Shape::of(x));
        with_dtype!(x.dtype(), T => {
            let (x, dy, dx) = (x.data::<T>(), dy.data::<T>(), dx.data_mut::<T>());
            match self.0 {
                Kind::SwiGlu => gated_back::<T, Silu>(cx, x, dy, dx, out, cols),
                Kind::GeGlu => gated_back::<T, Gelu>(cx, x, dy, dx, out, cols),
                Kind::GeGluTanh => gated_back::<T, GeluTanh>(cx, x, dy, dx, out, cols),
                Kind::Gelu => plain_back::<T, Gelu>(cx, x, dy, dx, out),
                Kind::GeluTanh => plain_back::<T, GeluTanh>(cx, x, dy, dx, out),
                Kind::Relu2 => plain_back::<T, Relu2>(cx, x, dy, dx, out),
            }
        });
        Ok(())
    }
}

/// A function and its derivative: f(x), f'(x).
trait Curve {
    fn value<A: Real>(x: A) -> A;
    fn both<A: Real>(x: A) -> (A, A);
}

/// x·σ(x)
struct Silu;
impl Curve for Silu {
    #[inline(always)]
    fn value<A: Real>(x: A) -> A {
        x * x.sigmoid()
    }
    #[inline(always)]
    fn both<A: Real>(x: A) -> (A, A) {
        let s = x.sigmoid();
        (x * s, s * (A::ONE + x * (A::ONE - s)))
    }
}

/// x·Φ(x), Φ the normal distribution function
struct Gelu;
impl Gelu {
    #[inline(always)]
    fn cdf<A: Real>(x: A) -> A {
        A::of(0.5) * (A::ONE + (x * A::of(std::f64::consts::FRAC_1_SQRT_2)).erf())
    }
}
impl Curve for Gelu {
    #[inline(always)]
    fn value<A: Real>(x: A) -> A {
        x * Gelu::cdf(x)
    }
    #[inline(always)]
    fn both<A: Real>(x: A) -> (A, A) {
        let (cdf, pdf) = (Gelu::cdf(x), A::of(0.398_942_280_401_432_7) * (A::of(-0.5) * x * x).exp());
        (x * cdf, cdf + x * pdf)
    }
}

/// x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))
struct GeluTanh;
impl GeluTanh {
    const SCALE: f64 = 0.797_884_560_802_865_4; // √(2/π)
    #[inline(always)]
    fn tanh<A: Real>(x: A) -> A {
        (A::of(Self::SCALE) * (x + A::of(0.044715) * x * x * x)).tanh()
    }
}
impl Curve for GeluTanh {
    #[inline(always)]
    fn value<A: Real>(x: A) -> A {
        A::of(0.5) * x * (A::ONE + GeluTanh::tanh(x))
    }
    #[inline(always)]
    fn both<A: Real>(x: A) -> (A, A) {
        let t = GeluTanh::tanh(x);
        let inner = A::of(Self::SCALE) * (A::ONE + A::of(3.0 * 0.044715) * x * x);
        let half = A::of(0.5);
        (half * x * (A::ONE + t), half * (A::ONE + t) + half * x * (A::ONE - t * t) * inner)
    }
}

/// max(x, 0)²
struct Relu2;
impl Curve for Relu2 {
    #[inline(always)]
    fn value<A: Real>(x: A) -> A {
        let r = x.max(A::ZERO);
        r * r
    }
    #[inline(always)]
    fn both<A: Real>(x: A) -> (A, A) {
        let r = x.max(A::ZERO);
        (r * r, r + r)
    }
}

/// Elements per task.
const GRAIN: usize = 8192;

fn plain<T: Elem, F: Curve>(cx: &Cx, x: &[T], y: &mut [T]) {
    let out = Shared::new(y);
    cx.pool().ranges(x.len(), GRAIN, |r| {
        // SAFETY: ranges of different tasks are disjoint.
        let y = unsafe { out.part(r.clone()) };
        simd(
            #[inline(always)]
            || {
                for (y, x) in y.iter_mut().zip(&x[r]) {
                    *y = T::store(F::value(x.load()));
                }
            },
        );
    });
}

/// dx += dy∘f'(x)
fn plain_back<T: Elem, F: Curve>(cx: &Cx, x: &[T], dy: &[T], dx: &mut [T], out: Out) {
    let dx = Shared::new(dx);
    cx.pool().ranges(x.len(), GRAIN, |r| {
        // SAFETY: ranges of different tasks are disjoint.
        let dx = unsafe { dx.part(r.clone()) };
        simd(
            #[inline(always)]
            || {
                for ((dx, x), dy) in dx.iter_mut().zip(&x[r.clone()]).zip(&dy[r]) {
                    let old = if out == Out::Add { dx.load() } else { T::Acc::ZERO };
                    *dx = T::store(old + dy.load() * F::both(x.load()).1);
                }
            },
        );
    });
}

fn gated<T: Elem, F: Curve>(cx: &Cx, x: &[T], y: &mut [T], cols: usize) {
    let out = Shared::new(y);
    cx.pool().ranges(x.len() / (2 * cols).max(1), (GRAIN / cols.max(1)).max(1), |rows| {
        for i in rows {
            let (gate, up) = x[2 * i * cols..2 * (i + 1) * cols].split_at(cols);
            // SAFETY: each row is written by one task.
            let y = unsafe { out.part(i * cols..(i + 1) * cols) };
            simd(
                #[inline(always)]
                || {
                    for ((y, gate), up) in y.iter_mut().zip(gate).zip(up) {
                        *y = T::store(F::value(gate.load()) * up.load());
                    }
                },
            );
        }
    });
}

/// dgate += dy∘up∘f'(gate),  dup += dy∘f(gate)
fn gated_back<T: Elem, F: Curve>(cx: &Cx, x: &[T], dy: &[T], dx: &mut [T], out: Out, cols: usize) {
    let dx = Shared::new(dx);
    cx.pool().ranges(x.len() / (2 * cols).max(1), (GRAIN / cols.max(1)).max(1), |rows| {
        for i in rows {
            let (gate, up) = x[2 * i * cols..2 * (i + 1) * cols].split_at(cols);
            // SAFETY: each row is written by one task.
            let (dgate, dup) = unsafe { dx.part(2 * i * cols..2 * (i + 1) * cols) }.split_at_mut(cols);
            let dy = &dy[i * cols..(i + 1) * cols];
            simd(
                #[inline(always)]
                || {
                    for ((((dgate, dup), gate), up), dy) in
                        dgate.iter_mut().zip(dup).zip(gate).zip(up).zip(dy)
                    {
                        let (f, slope) = F::both(gate.load());
                        let (mut g, mut u) = (dy.load() * up.load() * slope, dy.load() * f);
                        if out == Out::Add {
                            g += dgate.load();
                            u += dup.load();
                        }
                        *dgate = T::store(g);
                        *dup = T::store(u);
                    }
                },
            );
        }
    });
}
