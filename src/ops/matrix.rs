//! The weight of a linear layer and the three products with it, whichever form it has: dense, in panels (decoding), or kept
//! blocks alone.
//!
//!     forward  y = x·wᵀ,   dx (+)= dy·w,   dw += dyᵀ·x      x (N, I), w (O, I), y (N, O)

use crate::device::Elem;
use crate::device::gemm::{
    BlockMap, Blocks, Mat, MatMut, Out, Panels, blocks_forward, blocks_input, blocks_weight, gemm,
    gemm_panels, gemm_with,
};
use crate::tape::{Cx, Grads, ParamId};
use crate::tensor::Tensor;
use crate::with_dtype;
use std::sync::Arc;

/// A weight (O, I) as this rank stores it.
#[derive(Clone, Debug)]
pub struct Matrix {
    /// What is stored: (O, I), or (kept, block · block).
    pub id: ParamId,
    /// O and I.
    pub rows: usize,
    pub cols: usize,
    /// Where the kept blocks lie; on the Meta device, which multiplies nothing, the map of none.
    pub blocks: Option<Arc<BlockMap>>,
}

impl From<ParamId> for Matrix {
    fn from(id: ParamId) -> Matrix {
        Matrix { id, rows: id.rows, cols: id.cols, blocks: None }
    }
}

impl Matrix {
    /// c = a·wᵀ and the epilogue.
    #[inline(always)]
    pub fn forward<T: Elem>(
        &self,
        cx: &Cx,
        c: MatMut<T>,
        a: Mat<T>,
        epilogue: impl Fn(usize, usize, &mut [T::Acc]) + Sync,
    ) {
        match (&self.blocks, cx.past) {
            (Some(map), past) => {
                assert!(past.is_none(), "a weight in blocks has no panels");
                blocks_forward(cx.pool(), c, a, Blocks { data: cx.w.view::<T>(self.id), map }, epilogue);
            }
            (None, None) => gemm_with(cx.pool(), c, Out::Store, a, self.dense::<T>(cx).t(), epilogue),
            (None, Some(_)) => {
                let w = Panels { data: cx.w.view::<T>(self.id), rows: self.rows, cols: self.cols };
                gemm_panels(cx.pool(), c, a, w, epilogue);
            }
        }
    }

    fn dense<'a, T: Elem>(&self, cx: &Cx<'a>) -> Mat<'a, T> {
        Mat::new(cx.w.view::<T>(self.id), self.rows, self.cols)
    }

    /// dx (+)= dy·w
    pub fn input_gradient(&self, cx: &Cx, dy: &Tensor, dx: &mut Tensor, out: Out) {
        if cx.dev.is_meta() {
            return;
        }
        with_dtype!(dy.dtype(), T => {
            let n = dy.rows();
            let dx = MatMut::new(dx.data_mut::<T>(), n, self.cols);
            let dy = Mat::new(dy.data::<T>(), n, self.rows);
            match &self.blocks {
                Some(map) => blocks_input(cx.pool(), dx, out, dy, Blocks { data: cx.w.view::<T>(self.id), map }),
                None => gemm(cx.pool(), dx, out, dy, self.dense::<T>(cx)),
            }
        });
    }

    /// dw += dyᵀ·x, of kept blocks alone where w has these.
    pub fn weight_gradient(&self, cx: &Cx, dw: &mut Grads, dy: &Tensor, x: &Tensor) {
        with_dtype!(dy.dtype(), T => {
            let n = dy.rows();
            let (dy, x) = (Mat::new(dy.data::<T>(), n, self.rows), Mat::new(x.data::<T>(), n, self.cols));
            let grad = dw.view::<<T as Elem>::Acc>(self.id);
            match &self.blocks {
                Some(map) => blocks_weight(cx.pool(), grad, map, dy, x),
                None => gemm(cx.pool(), MatMut::new(grad, self.rows, self.cols), Out::Add, dy.t(), x),
            }
        });
    }
}
