//! The three products of a linear layer whose weight W (O, I) is block-sparse: only the kept blocks are stored, read and,
//! as gradients, computed.
//!
//!     forward   y  = x · Wᵀ      for each row of blocks, over the columns of its kept blocks
//!     input     dx = dy · W      for each column of blocks, over the rows of its kept blocks
//!     weight    dW += dyᵀ · x    for each kept block, over all tokens
//!
//! x and dy are packed as in `block`, and the sums of a tile stay in registers while k runs from kept block to kept block.
//! An element of y (or dx) is one chain of fused multiply-adds over its kept blocks in ascending order; an element of dW
//! one chain per block of tokens, added in order. So bits depend neither on the number of threads nor on the
//! instruction set.

mod chain;
mod map;
mod sampled;
#[cfg(test)]
mod tests;

use super::kernel::{Kernel, Portable};
#[cfg(target_arch = "x86_64")]
use super::x86::{Avx2, Avx512, Dots};
use super::{Epilogue, How, Mat, MatMut, Nothing, Out};
#[cfg(target_arch = "x86_64")]
use crate::device::simd::Isa;
use crate::device::{DType, Elem, Pool, Real};
pub use map::BlockMap;

/// The kept blocks of a matrix: (kept, block · block).
#[derive(Clone, Copy)]
pub struct Blocks<'a, T> {
    pub data: &'a [T],
    pub map: &'a BlockMap,
}

impl<T> Blocks<'_, T> {
    fn check(&self) {
        let (have, map) = (self.data.len(), self.map);
        assert_eq!(have, map.kept() * map.block * map.block, "values of the kept blocks");
    }
}

/// y = x·Wᵀ through the epilogue, as [`super::gemm_with`]: x (N, I), y (N, O).
pub fn blocks_forward<A, B, C, E>(pool: &Pool, y: MatMut<C>, x: Mat<A>, w: Blocks<B>, epilogue: E)
where
    A: Elem,
    B: Elem<Acc = A::Acc>,
    C: Elem<Acc = A::Acc>,
    E: Fn(usize, usize, &mut [A::Acc]) + Sync,
{
    forward_on(How::here(), pool, y, x, w, &epilogue);
}

fn forward_on<A, B, C, E>(how: How, pool: &Pool, y: MatMut<C>, x: Mat<A>, w: Blocks<B>, epilogue: &E)
where
    A: Elem,
    B: Elem<Acc = A::Acc>,
    C: Elem<Acc = A::Acc>,
    E: Epilogue<A::Acc>,
{
    let job =
        chain::Job { pool, c: y, out: Out::Store, a: x, w, transposed: false, epilogue: Some(epilogue) };
    run(how, [A::DTYPE, B::DTYPE], job);
}

/// dx = dy·W or dx += dy·W: dy (N, O), dx (N, I).
pub fn blocks_input<A, B, C>(pool: &Pool, dx: MatMut<C>, out: Out, dy: Mat<A>, w: Blocks<B>)
where
    A: Elem,
    B: Elem<Acc = A::Acc>,
    C: Elem<Acc = A::Acc>,
{
    input_on(How::here(), pool, dx, out, dy, w);
}

fn input_on<A, B, C>(how: How, pool: &Pool, dx: MatMut<C>, out: Out, dy: Mat<A>, w: Blocks<B>)
where
    A: Elem,
    B: Elem<Acc = A::Acc>,
    C: Elem<Acc = A::Acc>,
{
    let job = chain::Job { pool, c: dx, out, a: dy, w, transposed: true, epilogue: None::<&Nothing> };
    run(how, [A::DTYPE, B::DTYPE], job);
}

/// dW += dyᵀ·x for the kept blocks, dW laid out as W: dy (N, O), x (N, I).
pub fn blocks_weight<A, B>(pool: &Pool, dw: &mut [A::Acc], map: &BlockMap, dy: Mat<A>, x: Mat<B>)
where
    A: Elem,
    B: Elem<Acc = A::Acc>,
    A::Acc: Elem<Acc = A::Acc>,
{
    weight_on(How::here(), pool, dw, map, dy, x);
}

fn weight_on<A, B>(how: How, pool: &Pool, dw: &mut [A::Acc], map: &BlockMap, dy: Mat<A>, x: Mat<B>)
where
    A: Elem,
    B: Elem<Acc = A::Acc>,
    A::Acc: Elem<Acc = A::Acc>,
{
    run(how, [A::DTYPE, B::DTYPE], sampled::Job { pool, dw, map, dy, x });
}

/// A product that is yet to be told its kernel.
trait Product<R: Real> {
    fn run<K: Kernel<R>>(self);
}

/// The product of operands of these types with the kernels of `how`, which this machine must have.
fn run<R: Real>(how: How, types: [DType; 2], product: impl Product<R>) {
    #[cfg(target_arch = "x86_64")]
    if R::DTYPE == DType::F32 {
        match how.isa {
            Isa::Avx512 if how.dots && types == [DType::Bf16; 2] => return product.run::<Dots>(),
            Isa::Avx512 => return product.run::<Avx512>(),
            Isa::Avx2 => return product.run::<Avx2>(),
            Isa::Portable => {}
        }
    }
    let _ = (how, types);
    product.run::<Portable>();
}

/// Runs tasks on the pool, or here if they are too little work to wake others.
fn spread(pool: &Pool, tasks: usize, work: usize, task: &(dyn Fn(usize) + Sync)) {
    match work < super::block::ALONE {
        true => (0..tasks).for_each(task),
        false => pool.run(tasks, task),
    }
}
