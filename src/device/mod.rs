//! Where tensors live and ops run.

pub mod gemm;
pub mod num;
pub mod pool;
pub mod simd;

pub use num::{DType, Elem, Real};
pub use pool::Pool;
pub use simd::simd;
