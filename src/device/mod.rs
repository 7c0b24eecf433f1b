//! Where tensors live and ops run: `Cpu` computes, `Meta` only counts (the planner's device).

pub mod arena;
pub mod attention;
pub mod gemm;
pub mod memory;
pub mod num;
pub mod pool;
pub mod shared;
pub mod simd;

use arena::Arena;
use std::sync::Arc;

pub use arena::Category;
pub use num::{DType, Elem, Real};
pub use pool::Pool;
pub use shared::Shared;
pub use simd::simd;

/// One rank's device. A clone is the same device.
#[derive(Clone)]
pub enum Device {
    Cpu(Arc<Cpu>),
    Meta(Arc<Arena>),
}

pub struct Cpu {
    pub pool: Pool,
    pub arena: Arc<Arena>,
}

impl Device {
    pub fn cpu(threads: usize) -> Device {
        Device::Cpu(Arc::new(Cpu { pool: Pool::new(threads), arena: Arena::new(true) }))
    }
    pub fn meta() -> Device {
        Device::Meta(Arena::new(false))
    }
    pub fn is_meta(&self) -> bool {
        matches!(self, Device::Meta(_))
    }
    pub fn arena(&self) -> &Arc<Arena> {
        match self {
            Device::Cpu(cpu) => &cpu.arena,
            Device::Meta(arena) => arena,
        }
    }
    /// The threads of the CPU. Panics on Meta, where nothing runs.
    pub fn pool(&self) -> &Pool {
        match self {
            Device::Cpu(cpu) => &cpu.pool,
            Device::Meta(_) => panic!("the Meta device runs nothing"),
        }
    }
}

/// Runs the body with `$T` standing for the element type of the dtype.
#[macro_export]
macro_rules! with_dtype {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            $crate::device::DType::F32 => {
                type $T = f32;
                $body
            }
            $crate::device::DType::Bf16 => {
                type $T = half::bf16;
                $body
            }
            $crate::device::DType::F64 => {
                type $T = f64;
                $body
            }
        }
    };
}
