//! What an op says of itself: its name, what it costs, whether it is cheap to run again, and what the Meta device
//! takes and sends for it.

use super::rig::*;
use super::{Build, N, seq};
use espalier::comm::{Comm, Solo};
use espalier::config::{Activation as Kind, Norm as NormKind};
use espalier::device::arena::MemoryUse;
use espalier::device::attention::Heads;
use espalier::device::{Category, DType, Device};
use espalier::ops::activation::Activation;
use espalier::ops::attention::Attention;
use espalier::ops::embedding::Embedding;
use espalier::ops::head_norm::HeadNorm;
use espalier::ops::linear::{ColumnLinear, RowLinear};
use espalier::ops::norm::Norm;
use espalier::ops::rope::{Rope, RopeTable};
use espalier::tape::*;
use espalier::tensor::Tensor;
use std::sync::Arc;

/// C of the linear layers.
const C: usize = 12;
/// Values of all weights together: none of the ops below has more.
const WEIGHTS: usize = 1000;

struct Sample {
    name: &'static str,
    cheap: bool,
    /// Columns of its inputs, and rows.
    inputs: Vec<usize>,
    rows: Vec<usize>,
    push: Build,
}

fn sample<const Y: usize, O: Op + 'static>(
    name: &'static str,
    cheap: bool,
    inputs: &[usize],
    op: impl Fn() -> O + 'static,
) -> Sample {
    let push = move |t: &mut Tape, cx: &Cx, x: &[Var]| t.push::<Y>(cx, op(), x).map(Vec::from);
    Sample { name, cheap, inputs: inputs.into(), rows: vec![N; inputs.len()], push: Box::new(push) }
}

/// Every op as one of `tp` ranks has it, for the rows of `seq`.
fn samples(tp: usize, dtype: DType) -> Vec<Sample> {
    let heads = Heads { heads: 4 / tp, kv_heads: 2 / tp, head_dim: 6 };
    let width = heads.qkv_width();
    let table = Arc::new(RopeTable::new(6, N, 100.0, None));
    let norm = |kind, bias| Norm { kind, eps: 1e-5, w: vector(0, C), bias };
    let (layer, rms) = (norm(NormKind::Layer, Some(vector(C, C))), norm(NormKind::Rms, None));
    let (w, bias) = (matrix(0, 14 / tp, C), Some(vector(900, 14 / tp)));
    let (w_row, bias_row) = (matrix(0, C, 14 / tp), Some(vector(900, C)));
    let shape = Shape { rows: N, cols: C, dtype };
    let tokens = matrix(0, 10, C);
    let positions = Some(matrix(500, 4, C));
    vec![
        sample::<2, _>("Norm", true, &[C], move || layer),
        sample::<2, _>("Norm", true, &[C], move || rms),
        sample::<1, _>("ColumnLinear", false, &[C], move || ColumnLinear {
            w: w.into(),
            bias,
            split: true,
            parts: 1,
        }),
        sample::<1, _>("ColumnLinear", false, &[C], move || ColumnLinear {
            w: w.into(),
            bias,
            split: false,
            parts: 1,
        }),
        sample::<1, _>("ColumnLinear", false, &[C], move || ColumnLinear {
            w: w.into(),
            bias: None,
            split: true,
            parts: 1,
        }),
        sample::<1, _>("RowLinear", false, &[14 / tp, C], move || RowLinear {
            w: w_row.into(),
            bias: bias_row,
        }),
        sample::<1, _>("RowLinear", false, &[14 / tp, C], move || RowLinear { w: w_row.into(), bias: None }),
        sample::<1, _>("Activation", true, &[C], || Activation(Kind::Gelu)),
        sample::<1, _>("Activation", true, &[C], || Activation(Kind::SwiGlu)),
        sample::<1, _>("Rope", true, &[width], move || Rope { heads, table: table.clone() }),
        sample::<2, _>("HeadNorm", true, &[width], move || HeadNorm {
            heads,
            eps: 1e-5,
            q: vector(0, 6),
            k: vector(6, 6),
        }),
        sample::<2, _>("Attention", false, &[width], move || Attention {
            heads,
            causal: true,
            scale: 0.4,
            seq_len: N,
        }),
        sample::<1, _>("Embedding", false, &[], move || Embedding {
            tokens,
            first: 0,
            valid: 10,
            positions,
            types: None,
            shape,
        }),
    ]
}

/// Those that know of sequence parallelism, with rows split over `tp` ranks.
fn split_samples(tp: usize) -> Vec<Sample> {
    let (w, bias) = (matrix(0, 14 / tp, C), Some(vector(900, 14 / tp)));
    let (w_row, bias_row) = (matrix(0, C, 14 / tp), Some(vector(900, C)));
    let shape = Shape { rows: N / tp, cols: C, dtype: DType::F64 };
    let (tokens, positions) = (matrix(0, 10, C), Some(matrix(500, 4, C)));
    vec![
        Sample {
            rows: vec![N / tp],
            ..sample::<1, _>("ColumnLinear", false, &[C], move || ColumnLinear {
                w: w.into(),
                bias,
                split: true,
                parts: tp,
            })
        },
        Sample {
            rows: vec![N, N / tp],
            ..sample::<1, _>("RowLinear", false, &[14 / tp, C], move || RowLinear {
                w: w_row.into(),
                bias: bias_row,
            })
        },
        sample::<1, _>("Embedding", false, &[], move || Embedding {
            tokens,
            first: 0,
            valid: 10,
            positions,
            types: None,
            shape,
        }),
    ]
}

/// Reads its inputs in the backward, and hands each a gradient of zeros.
struct Reader;
impl Op for Reader {
    fn name(&self) -> &'static str {
        "Reader"
    }
    fn needs(&self) -> Needs {
        Needs { x: !0, y: 0 }
    }
    fn outputs(&self, x: &[Shape]) -> Vec<Shape> {
        vec![x[0]]
    }
    fn forward(&self, _: &Cx, _: &[&Tensor], _: &mut [Tensor]) -> espalier::Result<()> {
        Ok(())
    }
    fn backward(&self, cx: &Cx, _: &mut Grads, b: &mut Back) -> espalier::Result<()> {
        for (dx, x) in b.dx.iter_mut().zip(&b.x) {
            dx.target(cx.dev, Shape::of(x)).0.data_mut::<f64>().fill(0.0);
        }
        Ok(())
    }
}

#[test]
fn the_tape_runs_again_by_name_what_is_cheap_and_under_the_full_policy_everything() {
    let (dev, tp, seq) = (Device::cpu(1), Solo::new(), seq());
    let weights = Tensor::zeros(&dev, 1, WEIGHTS, DType::F64, Category::Weights);
    let cx = Cx { dev: &dev, tp: &tp, w: Weights(&weights), seq: &seq, at: At::default(), past: None };
    for s in samples(1, DType::F64) {
        for (policy, reruns) in
            [(Recompute::Keep, false), (Recompute::Cheap, s.cheap), (Recompute::Full, true)]
        {
            let mut t = Tape::default();
            let zeros = |c: &usize| Tensor::zeros(&dev, N, *c, DType::F64, Category::Activations);
            let x: Vec<_> = s.inputs.iter().map(|c| t.input(zeros(c))).collect();
            let y = (s.push)(&mut t, &cx, &x).expect("forward")[0];
            // Reads what the op reads and what it makes, so that the tape has to keep the one to drop the other.
            let [end] = t.push(&cx, Reader, &[&[y], &x[..]].concat()).expect("forward");
            let dy = Shape::of(t.value(y)).empty(&dev);
            t.seal(policy);
            let mut grads = Tensor::zeros(&dev, 1, WEIGHTS, DType::F64, Category::Grads);
            t.backward(&cx, &mut Grads(&mut grads), end, dy, x.first().copied()).expect("backward");
            assert_eq!(t.reruns.contains(&s.name), reruns, "{} under {policy:?}: {:?}", s.name, t.reruns);
        }
    }
}

#[test]
fn a_product_costs_two_operations_for_each_pair_and_reads_and_writes_all_of_it_once() {
    let (n, i, o) = (100, 3, 7);
    let w = matrix(0, o, i);
    let shapes = |dtype| [Shape { rows: n, cols: i, dtype }, Shape { rows: n, cols: o, dtype }];
    for (dtype, size) in [(DType::F32, 4.0), (DType::Bf16, 2.0)] {
        // 100 · 3 · 7 products and as many sums; x, y and w
        let want = Cost { flops: 4200.0, bytes: (300.0 + 700.0 + 21.0) * size };
        assert_eq!(
            ColumnLinear { w: w.into(), bias: None, split: true, parts: 1 }.cost(&shapes(dtype)),
            want
        );
        assert_eq!(RowLinear { w: w.into(), bias: None }.cost(&shapes(dtype)), want);
    }
}

#[test]
fn attention_costs_two_products_of_what_each_token_sees() {
    let x = Shape { rows: 100, cols: HEADS.qkv_width(), dtype: DType::Bf16 };
    // 4 heads of 6: 24 columns of o, of 48 of qkv
    let bytes = 2.0 * 100.0 * (48.0 + 24.0);
    let cost = |causal| Attention { heads: HEADS, causal, scale: 0.4, seq_len: 50 }.cost(&[x]);
    // q·k and p·v, each 2 · 100 · 50 · 24
    assert_eq!(cost(false), Cost { flops: 480_000.0, bytes });
    assert_eq!(cost(true), Cost { flops: 240_000.0, bytes });
}

/// Memory and bytes sent after the forward, and after the backward, of two of an op with the same inputs.
fn used(dev: &Device, tp: &dyn Comm, s: &Sample) -> [(MemoryUse, u64); 2] {
    let mut seq = seq();
    seq.tokens.iter_mut().for_each(|t| *t %= 10);
    let weights = Tensor::zeros(dev, 1, WEIGHTS, DType::F64, Category::Weights);
    let mut grads = Tensor::zeros(dev, 1, WEIGHTS, DType::F64, Category::Grads);
    let cx = Cx { dev, tp, w: Weights(&weights), seq: &seq, at: At::default(), past: None };
    let mut t = Tape::default();
    let zeros = |(c, n): (&usize, &usize)| Tensor::zeros(dev, *n, *c, DType::F64, Category::Activations);
    let x: Vec<_> = s.inputs.iter().zip(&s.rows).map(|size| t.input(zeros(size))).collect();
    let now = || (dev.arena().used(), tp.traffic().bytes());
    let y = [0, 1].map(|_| (s.push)(&mut t, &cx, &x).expect("forward")[0]);
    let [end] = t.push(&cx, Reader, &y).expect("forward");
    let forward = now();
    t.seal(Recompute::Keep);
    let dy = Shape::of(t.value(y[0])).empty(dev);
    let dx = t.backward(&cx, &mut Grads(&mut grads), end, dy, x.first().copied()).expect("backward");
    assert_eq!(dx.exists(), !x.is_empty());
    [forward, now()]
}

#[test]
fn the_meta_device_takes_and_sends_what_each_op_does() {
    for tp in [1, 2] {
        let all = |tp: usize| {
            let mut all = samples(tp, DType::F64);
            all.extend(if tp > 1 { split_samples(tp) } else { vec![] });
            all
        };
        for i in 0..all(tp).len() {
            let real = ranks(tp, |tp| used(&Device::cpu(1), tp, &all(tp.size())[i]));
            for (rank, real) in real.into_iter().enumerate() {
                let s = &all(tp)[i];
                let told = used(&Device::meta(), &Solo::pretend(rank, tp, "tp"), s);
                assert_eq!(told[0], real[0], "forward of {}, sample {i}, tp {tp}", s.name);
                assert_eq!(told[1], real[1], "backward of {}, sample {i}, tp {tp}", s.name);
            }
        }
    }
}
