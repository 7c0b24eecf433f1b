//! o = softmax(q·kᵀ/√D)·v within each document, as one streaming kernel (FlashAttention-2, arXiv 2307.08691).
//!
//! qkv (N, (H+2K)·D/R), o (N, H·D/R), lse (N, H/R); never a T × T matrix.

use crate::Result;
use crate::device::Elem;
use crate::device::attention::{Heads, Mask, Step, backward, forward};
use crate::tape::{Back, Cost, Cx, Grads, Needs, Op, Past, Shape};
use crate::tensor::Tensor;
use crate::with_dtype;

pub struct Attention {
    /// Of this rank.
    pub heads: Heads,
    /// Whether a token sees only earlier ones.
    pub causal: bool,
    /// Of q·k, usually 1/√D.
    pub scale: f64,
    /// T, for the cost.
    pub seq_len: usize,
}

impl Attention {
    /// Adds keys and values to the cache and, unless all sequences begin here, attends to it. lse is not filled.
    fn go_on<T: Elem>(&self, cx: &Cx, past: Past, begins: bool, qkv: &[T], o: &mut [T]) {
        let lengths = cx.seq.cu_seqlens.windows(2).map(|w| (w[1] - w[0]) as usize);
        assert_eq!(lengths.len(), past.slots.len(), "a slot for each sequence");
        let slots: Vec<usize> =
            lengths.zip(past.slots).flat_map(|(n, slot)| std::iter::repeat_n(*slot, n)).collect();
        let (pool, layer) = (cx.pool(), cx.at.layer.checked_sub(1).expect("attention is in a block"));
        let step = Step { slots: &slots, positions: &cx.seq.positions };
        let mut cache = past.cache.lock().expect("no panic under the lock");
        cache.append(pool, layer, &step, qkv);
        if !begins {
            cache.attend(pool, layer, &step, self.scale, qkv, o);
        }
    }

    fn mask<'a>(&self, cx: &'a Cx) -> Mask<'a> {
        Mask { cu_seqlens: &cx.seq.cu_seqlens, causal: self.causal }
    }
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "Attention"
    }
    fn needs(&self) -> Needs {
        Needs { x: 0b1, y: 0b11 } // qkv, o, lse
    }
    fn outputs(&self, x: &[Shape]) -> Vec<Shape> {
        vec![x[0].with_cols(self.heads.heads * self.heads.head_dim), x[0].stat(self.heads.heads)]
    }
    fn cost(&self, x: &[Shape]) -> Cost {
        let width = self.heads.heads * self.heads.head_dim;
        let seen = if self.causal { 0.5 } else { 1.0 };
        let flops = 4.0 * (x[0].rows * width) as f64 * self.seq_len as f64 * seen;
        Cost { flops, bytes: (x[0].bytes() + x[0].with_cols(width).bytes()) as f64 }
    }
    fn forward(&self, cx: &Cx, x: &[&Tensor], y: &mut [Tensor]) -> Result<()> {
        let [o, lse] = y else { panic!("two outputs") };
        // Sequences that begin here attend to themselves; their keys and values are kept for those that go on.
        let begins =
            cx.seq.cu_seqlens.windows(2).all(|w| cx.seq.positions.get(w[0] as usize).is_none_or(|p| *p == 0));
        if let Some(past) = cx.past {
            with_dtype!(x[0].dtype(), T => self.go_on::<T>(cx, past, begins, x[0].data(), o.data_mut()));
            if !begins {
                return Ok(());
            }
        }
        with_dtype!(x[0].dtype(), T => forward::<T>(
            cx.pool(), self.heads, &self.mask(cx), self.scale, x[0].data(), o.data_mut(), lse.data_mut()
        ));
        Ok(())
    }
    fn meta_backward(&self, cx: &Cx, x: &[Shape], b: &mut Back) -> Result<()> {
        b.dx[0].put(cx.dev, x[0].empty(cx.dev));
        Ok(())
    }
    fn backward(&self, cx: &Cx, _: &mut Grads, b: &mut Back) -> Result<()> {
        let (qkv, o, lse, dy) = (b.x[0], b.y[0], b.y[1], &b.dy[0]);
        // The kernel stores; a gradient that is there already is added to afterwards.
        let mut dx = Shape::of(qkv).empty(cx.dev);
        with_dtype!(qkv.dtype(), T => backward::<T>(
            cx.pool(), self.heads, &self.mask(cx), self.scale, qkv.data(), o.data(), lse.data(), dy.data(), dx.data_mut()
        ));
        b.dx[0].put(cx.dev, dx);
        Ok(())
    }
}
