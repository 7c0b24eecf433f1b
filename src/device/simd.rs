//! Run-time dispatch: the same Rust loop, compiled for the widest vectors this machine has.

use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Isa {
    Portable = 1,
    /// AVX2 and FMA
    Avx2 = 2,
    /// AVX-512 F, BW, DQ, VL
    Avx512 = 3,
}

static CHOSEN: AtomicU8 = AtomicU8::new(0);

/// What kernels use: what the machine has, unless `LIMIT` or `force` lowered it.
#[inline]
pub fn isa() -> Isa {
    match CHOSEN.load(Relaxed) {
        1 => Isa::Portable,
        2 => Isa::Avx2,
        3 => Isa::Avx512,
        _ => {
            let isa = detect();
            CHOSEN.store(isa as u8, Relaxed);
            isa
        }
    }
}

/// Uses at most `limit` from now on; tests force the slower paths with it.
pub fn force(limit: Isa) {
    CHOSEN.store(limit.min(detect()) as u8, Relaxed);
}

/// The variable of the environment that keeps to slower vectors: a comparison, a fault in search.
pub const LIMIT: &str = "ESPALIER_SIMD";

/// What `LIMIT` says; none if it is not set, an error with its text if it means nothing.
pub fn limit() -> Result<Option<Isa>, String> {
    match std::env::var(LIMIT).unwrap_or_default().as_str() {
        "" => Ok(None),
        "portable" => Ok(Some(Isa::Portable)),
        "avx2" => Ok(Some(Isa::Avx2)),
        "avx512" => Ok(Some(Isa::Avx512)),
        other => Err(other.into()),
    }
}

fn detect() -> Isa {
    limit().ok().flatten().map_or(machine(), |limit| limit.min(machine()))
}

#[cfg(target_arch = "x86_64")]
fn machine() -> Isa {
    let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
    let avx512 = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (avx2, avx512) {
        (true, true) => Isa::Avx512,
        (true, false) => Isa::Avx2,
        _ => Isa::Portable,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn machine() -> Isa {
    Isa::Portable
}

/// Runs f compiled for this machine's vectors. Write `simd(#[inline(always)] || ...)`, and mark what f calls likewise:
/// what is not inlined is compiled for the oldest x86-64, where even `mul_add` is a call into a library.
#[inline]
pub fn simd<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
        unsafe fn avx512<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        #[target_feature(enable = "avx2,fma")]
        unsafe fn avx2<R>(f: impl FnOnce() -> R) -> R {
            f()
        }
        match isa() {
            // SAFETY: `isa` says that the machine has these features.
            Isa::Avx512 => return unsafe { avx512(f) },
            // SAFETY: as above.
            Isa::Avx2 => return unsafe { avx2(f) },
            Isa::Portable => {}
        }
    }
    f()
}
