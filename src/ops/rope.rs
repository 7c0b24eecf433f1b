//! Rotary position embedding (RoFormer, arXiv 2104.09864), with Llama 3's scaling of long wavelengths.
//!
//! Turns the pair (e, e + D/2) of each q and k head by the angle position·θ^(−2e/D); v passes.
//! qkv (N, (H+2K)·D/R). Linear: the backward turns dy back and reads no value.

use crate::Result;
use crate::config::RopeScaling;
use crate::device::attention::Heads;
use crate::device::gemm::Out;
use crate::device::{Elem, Real, Shared, simd};
use crate::tape::{Back, Cx, Grads, Needs, Op, Shape};
use crate::tensor::Tensor;
use crate::with_dtype;
use std::sync::Arc;

/// cos and sin of all angles, (positions, D/2) each, made once for a run.
pub struct RopeTable {
    half: usize,
    f32: [Vec<f32>; 2],
    f64: [Vec<f64>; 2],
}

impl RopeTable {
    pub fn new(head_dim: usize, positions: usize, theta: f64, scaling: Option<&RopeScaling>) -> RopeTable {
        let half = head_dim / 2;
        let inverse: Vec<f64> =
            (0..half).map(|e| scaled(theta.powf(-(e as f64) / half as f64), scaling)).collect();
        let angles = (0..positions).flat_map(|p| inverse.iter().map(move |f| p as f64 * f));
        let f64: [Vec<f64>; 2] =
            angles.map(|a| (a.cos(), a.sin())).unzip::<f64, f64, Vec<_>, Vec<_>>().into();
        let f32 = [0, 1].map(|i| f64[i].iter().map(|&x| x as f32).collect());
        RopeTable { half, f32, f64 }
    }
    /// cos and sin (D/2) of one position.
    fn at<A: Real>(&self, position: usize) -> [&[A]; 2] {
        let range = position * self.half..(position + 1) * self.half;
        if A::DTYPE == crate::device::DType::F64 {
            [0, 1].map(|i| bytemuck::cast_slice(&self.f64[i][range.clone()]))
        } else {
            [0, 1].map(|i| bytemuck::cast_slice(&self.f32[i][range.clone()]))
        }
    }
}

/// Llama 3.1: frequencies of long wavelengths are divided by `factor`, short ones kept, those between blended.
fn scaled(frequency: f64, scaling: Option<&RopeScaling>) -> f64 {
    let Some(s) = scaling else { return frequency };
    let turns = s.original_max as f64 * frequency / (2.0 * std::f64::consts::PI);
    let smooth = ((turns - s.low_freq) / (s.high_freq - s.low_freq)).clamp(0.0, 1.0);
    frequency * (smooth + (1.0 - smooth) / s.factor)
}

pub struct Rope {
    /// Of this rank.
    pub heads: Heads,
    pub table: Arc<RopeTable>,
}

impl Op for Rope {
    fn name(&self) -> &'static str {
        "Rope"
    }
    fn needs(&self) -> Needs {
        Needs { x: 0, y: 0 }
    }
    fn cheap(&self) -> bool {
        true
    }
    fn outputs(&self, x: &[Shape]) -> Vec<Shape> {
        vec![x[0]]
    }
    fn forward(&self, cx: &Cx, x: &[&Tensor], y: &mut [Tensor]) -> Result<()> {
        with_dtype!(x[0].dtype(), T => self.turn::<T>(cx, x[0], y[0].data_mut(), 1.0, Out::Store));
        Ok(())
    }
    fn backward(&self, cx: &Cx, _: &mut Grads, b: &mut Back) -> Result<()> {
        let dy = &b.dy[0];
        let (dx, out) = b.dx[0].target(cx.dev, Shape::of(dy));
        with_dtype!(dy.dtype(), T => self.turn::<T>(cx, dy, dx.data_mut(), -1.0, out));
        Ok(())
    }
}

impl Rope {
    fn turn<T: Elem>(&self, cx: &Cx, x: &Tensor, y: &mut [T], sign: f64, out: Out) {
        let (cols, d, x) = (x.cols(), self.heads.head_dim, x.data::<T>());
        let (turned, sign) = ((self.heads.heads + self.heads.kv_heads) * d, T::Acc::of(sign));
        let y = Shared::new(y);
        cx.pool().ranges(x.len() / cols.max(1), 16, |rows| {
            for i in rows {
                let [cos, sin] = self.table.at::<T::Acc>(cx.seq.positions[i] as usize);
                let x = &x[i * cols..(i + 1) * cols];
                // SAFETY: each row is written by one task.
                let y = unsafe { y.part(i * cols..(i + 1) * cols) };
                simd(
                    #[inline(always)]
                    || {
                        let old = |y: T| if out == Out::Add { y.load() } else { T::Acc::ZERO };
                        for (x, y) in x[..turned].chunks_exact(d).zip(y[..turned].chunks_exact_mut(d)) {
                            let ((x1, x2), (y1, y2)) = (x.split_at(d / 2), y.split_at_mut(d / 2));
                            for (((x1, x2), (y1, y2)), (c, s)) in
                                x1.iter().zip(x2).zip(y1.iter_mut().zip(y2)).zip(cos.iter().zip(sin))
                            {
                                let (a, b, s) = (x1.load(), x2.load(), sign * *s);
                                *y1 = T::store(old(*y1) + (a * *c - b * s));
                                *y2 = T::store(old(*y2) + (b * *c + a * s));
                            }
                        }
                        for (x, y) in x[turned..].iter().zip(&mut y[turned..]) {
                            *y = T::store(old(*y) + x.load());
                        }
                    },
                );
            }
        });
    }
}
