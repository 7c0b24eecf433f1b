//! Which block of the source each block of the larger model is, and when to stack.

use crate::config::Depth;

/// A block of the larger model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockOf {
    pub source: usize,
    /// It changes nothing yet: what it adds to the stream is zero.
    pub idle: bool,
    /// The block that follows is one of those, made from the same source.
    pub before_idle: bool,
}

/// For each block of the larger model, the one it is made from. `stack`: the whole stack ⌊L'/L⌋ times, then the top blocks
/// again (bert2BERT, section 3.3).
pub fn blocks(depth: Depth, layers: usize, to: usize) -> Vec<BlockOf> {
    let whole = to / layers * layers;
    let near = |i: usize| i * layers / to;
    let source = |i: usize| match depth {
        Depth::Stack if i < whole => i % layers,
        Depth::Stack => layers - (to - whole) + (i - whole),
        Depth::Interpolate | Depth::Identity => near(i),
    };
    let idle = |i: usize| depth == Depth::Identity && i > 0 && i < to && near(i) == near(i - 1);
    (0..to).map(|i| BlockOf { source: source(i), idle: idle(i), before_idle: idle(i + 1) }).collect()
}

/// Tokens after which a small model should be stacked to one of `params` that will have seen `tokens` in all (G_stack, arXiv
/// 2405.15319): log10 d = 0.88·log10 N + 163.27 / log10 C − 5.74 with C = 6·N·`tokens`. A fit to large models: for small
/// ones it says more tokens than a run has.
pub fn stack_after(params: f64, tokens: f64) -> f64 {
    let compute = 6.0 * params * tokens;
    10f64.powf(0.88 * params.log10() + 163.27 / compute.log10() - 5.74)
}
