//! Stored numbers to f32. Mapped bytes need not be aligned.

use half::{bf16, f16};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    F32,
    Bf16,
    F16,
}

impl Kind {
    pub fn of(dtype: safetensors::Dtype) -> Option<Kind> {
        match dtype {
            safetensors::Dtype::F32 => Some(Kind::F32),
            safetensors::Dtype::BF16 => Some(Kind::Bf16),
            safetensors::Dtype::F16 => Some(Kind::F16),
            _ => None,
        }
    }
    pub const fn bytes(self) -> usize {
        match self {
            Kind::F32 => 4,
            Kind::Bf16 | Kind::F16 => 2,
        }
    }
    pub const fn name(self) -> &'static str {
        match self {
            Kind::F32 => "F32",
            Kind::Bf16 => "BF16",
            Kind::F16 => "F16",
        }
    }
}

/// Little-endian numbers of `kind` to `out`; the lengths match.
pub fn decode(kind: Kind, bytes: &[u8], out: &mut [f32]) {
    assert_eq!(bytes.len(), out.len() * kind.bytes(), "bytes of {} numbers", out.len());
    let pair = |b: &[u8]| u16::from_le_bytes([b[0], b[1]]);
    match kind {
        Kind::F32 => {
            let words = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
            out.iter_mut().zip(words).for_each(|(o, x)| *o = x);
        }
        Kind::Bf16 => {
            let words = bytes.chunks_exact(2).map(|b| bf16::from_bits(pair(b)).to_f32());
            out.iter_mut().zip(words).for_each(|(o, x)| *o = x);
        }
        Kind::F16 => {
            let words = bytes.chunks_exact(2).map(|b| f16::from_bits(pair(b)).to_f32());
            out.iter_mut().zip(words).for_each(|(o, x)| *o = x);
        }
    }
}
