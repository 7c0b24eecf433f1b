//! AdamW (arXiv 1711.05101), Adam with coupled decay (arXiv 1412.6980, L2) and plain SGD, one fused pass over a slice.
//!
//!     g ← g + λw (coupled only)
//!     m ← β₁m + (1−β₁)g,  v ← β₂v + (1−β₂)g²
//!     w ← w·(1 − lr·λ) (decoupled only) − lr/(1−β₁ᵗ) · m / (√v/√(1−β₂ᵗ) + ε)
//!
//! The gradient is clipped before the coupled decay joins it, as in torch.

use crate::device::{Elem, simd};
use std::ops::Range;

/// What one update of one range uses; all factors in the form the loop needs them.
#[derive(Clone, Copy, Debug)]
pub struct AdamStep {
    pub lr: f32,
    pub beta1: f32,
    pub beta2: f32,
    pub eps: f32,
    pub weight_decay: f32,
    /// 1 − β₁ᵗ
    pub correction1: f32,
    /// √(1 − β₂ᵗ)
    pub correction2: f32,
    /// of the gradient: the clip
    pub scale: f32,
}

/// Updates master weights, and the stored weights if they are others (bf16). Decay is `COUPLED` to the gradient or not.
pub fn adam<T: Elem<Acc = f32>, const COUPLED: bool>(
    s: AdamStep,
    g: &[f32],
    m: &mut [f32],
    v: &mut [f32],
    w: Master<T>,
) {
    simd(
        #[inline(always)]
        || {
            let (step, decay) =
                (s.lr / s.correction1, if COUPLED { 1.0 } else { 1.0 - s.lr * s.weight_decay });
            let inverse = 1.0 / s.correction2;
            let one = |g: f32, m: &mut f32, v: &mut f32, w: &mut f32| {
                let g = if COUPLED { s.weight_decay.mul_add(*w, g * s.scale) } else { g * s.scale };
                *m = s.beta1.mul_add(*m, (1.0 - s.beta1) * g);
                *v = s.beta2.mul_add(*v, (1.0 - s.beta2) * g * g);
                *w = *w * decay - step * (*m / v.sqrt().mul_add(inverse, s.eps));
            };
            match w {
                Master::Same(w) => {
                    for (((g, m), v), w) in g.iter().zip(m).zip(v).zip(w) {
                        one(*g, m, v, w);
                    }
                }
                Master::Apart(w, stored) => {
                    for ((((g, m), v), w), stored) in g.iter().zip(m).zip(v).zip(w).zip(stored) {
                        one(*g, m, v, w);
                        *stored = T::store(*w);
                    }
                }
            }
        },
    );
}

/// w ← w·(1 − lr·λ) − lr·g
pub fn sgd<T: Elem<Acc = f32>>(lr: f32, weight_decay: f32, scale: f32, g: &[f32], w: Master<T>) {
    simd(
        #[inline(always)]
        || {
            let decay = 1.0 - lr * weight_decay;
            match w {
                Master::Same(w) => {
                    for (g, w) in g.iter().zip(w) {
                        *w = *w * decay - lr * (g * scale);
                    }
                }
                Master::Apart(w, stored) => {
                    for ((g, w), stored) in g.iter().zip(w).zip(stored) {
                        *w = *w * decay - lr * (g * scale);
                        *stored = T::store(*w);
                    }
                }
            }
        },
    );
}

/// The weights that are updated: the stored ones themselves, or an f32 master beside them.
pub enum Master<'a, T> {
    Same(&'a mut [f32]),
    Apart(&'a mut [f32], &'a mut [T]),
}

impl<T> Master<'_, T> {
    /// A part of them.
    pub fn cut(&mut self, range: Range<usize>) -> Master<'_, T> {
        match self {
            Master::Same(w) => Master::Same(&mut w[range]),
            Master::Apart(w, stored) => Master::Apart(&mut w[range.clone()], &mut stored[range]),
        }
    }
}
