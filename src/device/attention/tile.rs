//! What the forward and the backward share: per-thread scratch, packing, and outputs that tasks write side by side.

use super::gemm::LANES;
use crate::device::gemm::bf16_in_pairs;
use crate::device::{DType, Elem, Real, simd};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::thread::LocalKey;

/// Queries and keys of a tile: a tile of scores is 16 KiB in f32, half of a first-level cache.
pub const TILE: usize = 64;

/// One cache line; scratch is made of these so that every packed row starts on one.
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C, align(64))]
pub struct Line([u8; 64]);

pub type Buffer = LocalKey<RefCell<Vec<Line>>>;

thread_local! {
    /// What a task works in.
    pub static SCRATCH: RefCell<Vec<Line>> = const { RefCell::new(Vec::new()) };
}

/// Calls f with `len` elements of this thread's buffer, of any content; it grows when first needed and stays.
pub fn with_buffer<A: Real, R>(buffer: &'static Buffer, len: usize, f: impl FnOnce(&mut [A]) -> R) -> R {
    buffer.with_borrow_mut(|lines| {
        let need = (len * size_of::<A>()).div_ceil(size_of::<Line>());
        if lines.len() < need {
            lines.resize(need, Line([0; 64]));
        }
        f(&mut bytemuck::cast_slice_mut(&mut lines[..need])[..len])
    })
}

/// Cuts the first `len` elements off; lengths that are multiples of LANES keep the rest on a cache line.
pub fn cut<'a, A>(rest: &mut &'a mut [A], len: usize) -> &'a mut [A] {
    let (head, tail) = std::mem::take(rest).split_at_mut(len);
    *rest = tail;
    head
}

/// n rounded up to whole vectors.
pub fn padded(n: usize) -> usize {
    n.next_multiple_of(LANES)
}

/// How the factors of a product lie in scratch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// In the accumulation type.
    Single,
    /// bf16, two steps of the sum in the 32 bits of a number (`pair`), for machines that multiply these faster.
    Pairs,
}

impl Form {
    /// For numbers stored as T, on this machine.
    pub fn of<T: Elem>() -> Form {
        if T::DTYPE == DType::Bf16 && bf16_in_pairs() { Form::Pairs } else { Form::Single }
    }
    /// Steps of a sum in a number.
    pub fn deep(self) -> usize {
        match self {
            Form::Single => 1,
            Form::Pairs => 2,
        }
    }
    /// Numbers that hold n steps.
    pub fn steps(self, n: usize) -> usize {
        n.div_ceil(self.deep())
    }
}

/// Two bf16 in the bits of an f32, the first in the high half: `vdpbf16ps` adds its product first.
#[inline(always)]
pub fn pair<T: Elem>(first: T, second: T) -> T::Acc {
    let bits = |x: T| bytemuck::cast::<T, u16>(x) as u32;
    bytemuck::cast(bits(first) << 16 | bits(second))
}

/// x as it is when it was stored as T.
#[inline(always)]
pub fn rounded<T: Elem>(x: T::Acc) -> T::Acc {
    T::store(x).load()
}

/// Rows of a matrix in memory, of which one head's columns are read: row r is data[r·width + column..][..dim].
#[derive(Clone, Copy)]
pub struct Rows<'a, T> {
    pub data: &'a [T],
    pub width: usize,
    pub column: usize,
    pub dim: usize,
}

impl<'a, T: Elem> Rows<'a, T> {
    pub fn row(&self, r: usize) -> &'a [T] {
        &self.data[r * self.width + self.column..][..self.dim]
    }

    /// These rows for sums along them: out (rows, padded steps of dim), padded with zeros.
    pub fn pack(&self, rows: Range<usize>, form: Form, out: &mut [T::Acc]) {
        let steps = form.steps(self.dim);
        simd(
            #[inline(always)]
            || {
                for (out, r) in out.chunks_exact_mut(padded(steps)).zip(rows) {
                    let (body, pad) = out.split_at_mut(steps);
                    let row = self.row(r);
                    match form {
                        Form::Single => body.iter_mut().zip(row).for_each(|(o, x)| *o = x.load()),
                        Form::Pairs => {
                            let (twos, rest) = row.as_chunks::<2>();
                            body.iter_mut().zip(twos).for_each(|(o, x)| *o = pair(x[0], x[1]));
                            if let [x] = rest {
                                body[steps - 1] = pair(*x, T::default());
                            }
                        }
                    }
                    pad.fill(T::Acc::ZERO);
                }
            },
        )
    }

    /// These rows for sums over them: out (steps of rows, padded dim), padded with zeros.
    pub fn pack_across(&self, rows: Range<usize>, form: Form, out: &mut [T::Acc]) {
        if form == Form::Single {
            return self.pack(rows, form, out);
        }
        simd(
            #[inline(always)]
            || {
                for (out, r) in out.chunks_exact_mut(padded(self.dim)).zip(rows.clone().step_by(2)) {
                    let (body, pad) = out.split_at_mut(self.dim);
                    let first = body.iter_mut().zip(self.row(r));
                    if r + 1 < rows.end {
                        first.zip(self.row(r + 1)).for_each(|((o, x), y)| *o = pair(*x, *y));
                    } else {
                        first.for_each(|(o, x)| *o = pair(*x, T::default()));
                    }
                    pad.fill(T::Acc::ZERO);
                }
            },
        )
    }
}

/// out (dim, TILE) = the transpose of `Rows::pack`ed (rows, padded dim), dim in its numbers; columns from `rows` to whole vectors become zero.
pub fn transpose<A: Real>(packed: &[A], rows: usize, dim: usize, out: &mut [A]) {
    let width = padded(dim);
    simd(
        #[inline(always)]
        || {
            for i in (0..rows).step_by(LANES) {
                let live = LANES.min(rows - i);
                for d in (0..dim).step_by(LANES) {
                    let mut block = [[A::ZERO; LANES]; LANES];
                    for (r, block) in block[..live].iter_mut().enumerate() {
                        block.copy_from_slice(&packed[(i + r) * width + d..][..LANES]);
                    }
                    for c in 0..LANES.min(dim - d) {
                        let out = &mut out[(d + c) * TILE + i..][..LANES];
                        for (out, block) in out.iter_mut().zip(&block) {
                            *out = block[c];
                        }
                    }
                }
            }
        },
    )
}

/// A slice that the tasks of one `Pool::run` write at the same time, each its own elements.
#[derive(Clone, Copy)]
pub struct Out<'a, T> {
    data: *mut T,
    len: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: whoever calls `at` promises that no two tasks reach the same elements.
unsafe impl<T: Send> Sync for Out<'_, T> {}

impl<'a, T> Out<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Out<'a, T> {
        Out { data: slice.as_mut_ptr(), len: slice.len(), life: PhantomData }
    }

    /// Elements start..start+len.
    ///
    /// # Safety
    /// Nobody else may hold any of them.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn at(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start <= self.len && len <= self.len - start, "{start}..+{len} of {}", self.len);
        // SAFETY: in bounds, and the caller promises that it is alone.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(start), len) }
    }
}
