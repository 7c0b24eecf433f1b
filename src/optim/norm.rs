//! The global gradient norm: sums of squares in f64 over fixed ranges, part by part of the dp group, whatever the
//! ZeRO stage, so that the result depends neither on threads nor on who keeps which slice.

use crate::device::{Category, DType, Device, Shared, simd};
use crate::ops::reduce::sum;
use crate::params::{Params, Unit, reduced};
use crate::tape::profile;
use crate::tensor::Tensor;

const GRAIN: usize = 1 << 14;

/// Σ g² over this dp rank's part of every unit. What several tp ranks hold is counted by the first of them.
pub fn part_square_sum(dev: &Device, params: &Params) -> f64 {
    let bytes = || params.units.iter().map(|u| u.part.len() * u.grad_dtype().bytes()).sum();
    let sum = || params.units.iter().map(|u| unit_square_sum(dev, u)).sum();
    profile::time(|| profile::pass("Gradient norm", bytes()), sum)
}

/// The same of one unit.
pub fn unit_square_sum(dev: &Device, unit: &Unit) -> f64 {
    let parts: Vec<std::ops::Range<usize>> = unit
        .params
        .iter()
        .filter(|p| p.first)
        .map(|p| p.range().start.max(unit.part.start)..p.range().end.min(unit.part.end))
        .flat_map(|r| (r.start..r.end).step_by(GRAIN).map(move |s| s..(s + GRAIN).min(r.end)))
        .collect();
    let mut sums = Tensor::zeros(dev, 1, parts.len(), DType::F64, Category::Workspace);
    if dev.is_meta() {
        return 0.0;
    }
    let out = Shared::new(sums.data_mut::<f64>());
    let (grads, first) = reduced(&unit.grads, &unit.part_grads, &unit.part);
    let grads = grads.data::<f32>();
    dev.pool().run(parts.len(), |i| {
        // SAFETY: each task has its own sum.
        let out = unsafe { out.part(i..i + 1) };
        out[0] = simd(
            #[inline(always)]
            || {
                grads[parts[i].start - first..parts[i].end - first]
                    .chunks(256)
                    .map(|c| sum(c, |g| g * g) as f64)
                    .sum()
            },
        );
    });
    sums.data::<f64>().iter().sum()
}
