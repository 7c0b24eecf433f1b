//! total += x, over flat memory.

use crate::device::{Device, Elem, Shared, simd};
use crate::tensor::Tensor;
use crate::with_dtype;

/// Elements per task: enough to be worth a task, few enough to share.
pub const GRAIN: usize = 16 * 1024;

/// total += x, of equal shape and dtype.
pub fn add(dev: &Device, total: &mut Tensor, x: &Tensor) {
    assert_eq!((total.rows(), total.cols()), (x.rows(), x.cols()), "shapes of a sum");
    if !dev.is_meta() {
        with_dtype!(total.dtype(), T => add_slices::<T>(dev, total.data_mut(), x.data()));
    }
}

fn add_slices<T: Elem>(dev: &Device, total: &mut [T], x: &[T]) {
    let out = Shared::new(total);
    dev.pool().ranges(x.len(), GRAIN, |r| {
        // SAFETY: ranges of different tasks are disjoint.
        let total = unsafe { out.part(r.clone()) };
        simd(
            #[inline(always)]
            || {
                for (t, x) in total.iter_mut().zip(&x[r]) {
                    *t = T::store(t.load() + x.load());
                }
            },
        );
    });
}
