//! Every op against central finite differences in f64, with two consumers of its input (so that a gradient is both
//! stored and added), under every recompute policy. Then the sign of each gradient is flipped, and the same check
//! must catch it.
//!
//! In `ops/`: every forward against its formula, several ranks against one, the loss in chunks and at its extremes, and
//! what an op says of its cost and memory. `mutants.md` lists the changes to `src/ops/` that all of these let pass.

#[path = "ops/account.rs"]
mod account;
#[path = "ops/forward.rs"]
mod forward;
#[path = "ops/loss.rs"]
mod loss;
#[path = "ops/ranks.rs"]
mod ranks;
#[path = "ops/rig.rs"]
mod rig;

use espalier::Result;
use espalier::comm::Solo;
use espalier::config::{Activation as Kind, Norm as NormKind, RopeScaling};
use espalier::device::attention::Heads;
use espalier::device::{Category, DType, Device};
use espalier::ops::activation::Activation;
use espalier::ops::attention::Attention;
use espalier::ops::embedding::Embedding;
use espalier::ops::head_norm::HeadNorm;
use espalier::ops::linear::{ColumnLinear, RowLinear};
use espalier::ops::loss::{Targets, Vocab, VocabGrads, cross_entropy};
use espalier::ops::norm::Norm;
use espalier::ops::rope::{Rope, RopeTable};
use espalier::params::{Declare, Dp, Init, ParamSpec, Shard, Unit};
use espalier::tape::*;
use espalier::tensor::Tensor;
use std::sync::Arc;

/// In (−1, 1), irregular, from a name and an index.
fn draw(name: &str, i: usize) -> f64 {
    let key = name.bytes().fold(17.0, |k, b| 1.7 * k + b as f64) + i as f64 * 12.9898;
    (key.sin() * 43758.5453).fract()
}

fn values(name: &str, n: usize) -> Vec<f64> {
    (0..n).map(|i| draw(name, i)).collect()
}

fn tensor(dev: &Device, rows: usize, cols: usize, v: &[f64]) -> Tensor {
    Tensor::from_slice(dev, rows, cols, v, Category::Activations)
}

/// loss = Σ y∘g over all inputs: makes one number of several outputs.
struct Dot;
impl Op for Dot {
    fn name(&self) -> &'static str {
        "Dot"
    }
    fn needs(&self) -> Needs {
        Needs { x: !0, y: 0 }
    }
    fn outputs(&self, x: &[Shape]) -> Vec<Shape> {
        vec![Shape { rows: 1, cols: 1, dtype: x[0].dtype }]
    }
    fn forward(&self, _: &Cx, x: &[&Tensor], y: &mut [Tensor]) -> Result<()> {
        let dot = |(i, x): (usize, &&Tensor)| -> f64 {
            x.data::<f64>().iter().zip(values(&format!("g{i}"), x.len())).map(|(x, g)| x * g).sum()
        };
        y[0].data_mut::<f64>()[0] = x.iter().enumerate().map(dot).sum();
        Ok(())
    }
    fn backward(&self, cx: &Cx, _: &mut Grads, b: &mut Back) -> Result<()> {
        for (i, x) in b.x.iter().enumerate() {
            let (dx, _) = b.dx[i].target(cx.dev, Shape::of(x));
            dx.data_mut::<f64>().copy_from_slice(&values(&format!("g{i}"), x.len()));
        }
        Ok(())
    }
}

type Build = Box<dyn Fn(&mut Tape, &Cx, &[Var]) -> Result<Vec<Var>>>;

struct Case {
    name: &'static str,
    unit: Unit,
    inputs: Vec<(usize, usize)>,
    seq: Seq,
    build: Build,
}

/// Documents of 3, 1 and 4 tokens.
fn seq() -> Seq {
    let mut s = Seq::packed(&[3, 1, 4, 1, 5, 9, 2, 6], &[3, 1, 4]);
    s.token_types = vec![0, 1, 1, 0, 0, 0, 1, 0];
    s
}

const N: usize = 8;

impl Case {
    fn new(
        dev: &Device,
        name: &'static str,
        inputs: &[(usize, usize)],
        declare: impl FnOnce(&mut Declare) -> Build,
    ) -> Case {
        let mut u = Declare::new(0, 1);
        let build = declare(&mut u);
        let mut unit = u.unit(name, dev, DType::F64, Dp::SOLO);
        let len = unit.len;
        // Gains around 1, everything else around 0.
        let filled: Vec<f64> = values("w", len).iter().map(|w| 0.3 + 0.7 * w).collect();
        unit.weights.data_mut::<f64>().copy_from_slice(&filled);
        Case { name, unit, inputs: inputs.into(), seq: seq(), build }
    }

    /// The loss, and the gradient of input `wrt` and of all weights.
    fn run(
        &mut self,
        dev: &Device,
        x: &[Vec<f64>],
        wrt: usize,
        policy: Recompute,
        back: bool,
    ) -> (f64, Vec<f64>, Vec<f64>) {
        let tp = Solo::new();
        let cx = Cx {
            dev,
            tp: &tp,
            w: Weights(&self.unit.weights),
            seq: &self.seq,
            at: At::default(),
            past: None,
        };
        let mut t = Tape::default();
        let vars: Vec<_> =
            self.inputs.iter().zip(x).map(|(&(r, c), x)| t.input(tensor(dev, r, c, x))).collect();
        let outputs = (self.build)(&mut t, &cx, &vars).expect("forward");
        let [loss] = t.push(&cx, Dot, &outputs).expect("dot");
        let value = t.value(loss).data::<f64>()[0];
        if !back {
            return (value, vec![], vec![]);
        }
        t.seal(policy);
        self.unit.grads.data_mut::<f64>().fill(0.0);
        let (one, input) = (tensor(dev, 1, 1, &[1.0]), vars.get(wrt).copied());
        let dx = t.backward(&cx, &mut Grads(&mut self.unit.grads), loss, one, input).expect("backward");
        let dx = if dx.exists() { dx.to_f64() } else { vec![] };
        (value, dx, self.unit.grads.to_f64())
    }
}

/// Whether two gradients agree to what central differences can show.
fn agrees(a: &[f64], b: &[f64]) -> bool {
    let scale = b.iter().fold(1e-3f64, |m, x| m.max(x.abs()));
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-7 * scale)
}

/// Compares and then flips: a gradient of the wrong sign must not pass.
fn check(what: &str, analytic: &[f64], numeric: &[f64]) {
    assert!(agrees(analytic, numeric), "{what}: {analytic:?} is not {numeric:?}");
    let flipped: Vec<_> = analytic.iter().map(|x| -x).collect();
    assert!(!agrees(&flipped, numeric), "{what}: a flipped sign was not caught (all zero?)");
}

fn central(mut loss: impl FnMut(f64) -> f64) -> f64 {
    const H: f64 = 1e-5;
    (loss(H) - loss(-H)) / (2.0 * H)
}

fn cases(dev: &Device) -> Vec<Case> {
    let vector =
        |u: &mut Declare, name: &str, n| u.one(ParamSpec::vector(name, n, Shard::Replicated, Init::Ones));
    let matrix =
        |u: &mut Declare, name: &str, r, c| u.one(ParamSpec::matrix(name, r, c, Shard::Replicated, 1.0));
    let mut all = vec![];
    for (name, kind) in [("LayerNorm", NormKind::Layer), ("RmsNorm", NormKind::Rms)] {
        all.push(Case::new(dev, name, &[(N, 21)], |u| {
            let w = vector(u, "w", 21);
            let bias = (kind == NormKind::Layer).then(|| vector(u, "b", 21));
            let norm = Norm { kind, eps: 1e-5, w, bias };
            Box::new(move |t, cx, x| {
                let ([a, _], [b, _]) = (t.push(cx, norm, x)?, t.push(cx, norm, x)?);
                Ok(vec![a, b])
            })
        }));
    }
    for split in [true, false] {
        all.push(Case::new(dev, "ColumnLinear", &[(N, 5)], |u| {
            let (w, bias) = (matrix(u, "w", 7, 5), vector(u, "b", 7));
            let op = move || ColumnLinear { w: w.into(), bias: Some(bias), split, parts: 1 };
            Box::new(move |t, cx, x| {
                let ([a], [b]) = (t.push(cx, op(), x)?, t.push(cx, op(), x)?);
                Ok(vec![a, b])
            })
        }));
    }
    all.push(Case::new(dev, "RowLinear", &[(N, 5), (N, 7)], |u| {
        let (w, bias) = (matrix(u, "w", 7, 5), vector(u, "b", 7));
        let op = move || RowLinear { w: w.into(), bias: Some(bias) };
        Box::new(move |t, cx, x| {
            let ([a], [b]) = (t.push(cx, op(), x)?, t.push(cx, op(), x)?);
            Ok(vec![a, b])
        })
    }));
    let kinds = [
        ("SwiGlu", Kind::SwiGlu),
        ("GeGlu", Kind::GeGlu),
        ("GeGluTanh", Kind::GeGluTanh),
        ("Gelu", Kind::Gelu),
        ("GeluTanh", Kind::GeluTanh),
        ("Relu2", Kind::Relu2),
    ];
    for (name, kind) in kinds {
        all.push(Case::new(dev, name, &[(N, 10)], |_| {
            Box::new(move |t, cx, x| {
                let ([a], [b]) = (t.push(cx, Activation(kind), x)?, t.push(cx, Activation(kind), x)?);
                Ok(vec![a, b])
            })
        }));
    }
    let heads = Heads { heads: 4, kv_heads: 2, head_dim: 6 };
    let width = (heads.heads + 2 * heads.kv_heads) * heads.head_dim;
    for scaling in [None, Some(RopeScaling { factor: 8.0, low_freq: 1.0, high_freq: 4.0, original_max: 16 })]
    {
        let table = Arc::new(RopeTable::new(6, N, 100.0, scaling.as_ref()));
        all.push(Case::new(dev, "Rope", &[(N, width)], |_| {
            let op = move || Rope { heads, table: table.clone() };
            Box::new(move |t, cx, x| {
                let ([a], [b]) = (t.push(cx, op(), x)?, t.push(cx, op(), x)?);
                Ok(vec![a, b])
            })
        }));
    }
    all.push(Case::new(dev, "HeadNorm", &[(N, width)], |u| {
        let (q, k) = (vector(u, "q", 6), vector(u, "k", 6));
        let op = move || HeadNorm { heads, eps: 1e-6, q, k };
        Box::new(move |t, cx, x| {
            let ([a, _], [b, _]) = (t.push(cx, op(), x)?, t.push(cx, op(), x)?);
            Ok(vec![a, b])
        })
    }));
    for causal in [true, false] {
        all.push(Case::new(dev, "Attention", &[(N, width)], |_| {
            let op = move || Attention { heads, causal, scale: 0.4, seq_len: N };
            Box::new(move |t, cx, x| {
                let ([a, _], [b, _]) = (t.push(cx, op(), x)?, t.push(cx, op(), x)?);
                Ok(vec![a, b])
            })
        }));
    }
    all.push(Case::new(dev, "Embedding", &[], |u| {
        let (tokens, positions, types) = (matrix(u, "t", 10, 5), matrix(u, "p", 4, 5), matrix(u, "s", 2, 5));
        Box::new(move |t, cx, x| {
            let shape = Shape { rows: N, cols: 5, dtype: DType::F64 };
            let (positions, types) = (Some(positions), Some(types));
            let op = Embedding { tokens, first: 0, valid: 10, positions, types, shape };
            let [a] = t.push(cx, op, x)?;
            Ok(vec![a])
        })
    }));
    all
}

#[test]
fn every_op_matches_finite_differences_and_a_flipped_sign_is_caught() {
    let dev = Device::cpu(1);
    let mut gradients = 0;
    for mut case in cases(&dev) {
        let x: Vec<Vec<f64>> =
            case.inputs.iter().enumerate().map(|(i, (r, c))| values(&format!("x{i}"), r * c)).collect();
        let mut weights_done = false;
        for wrt in 0..x.len().max(1) {
            let (_, dx, dw) = case.run(&dev, &x, wrt, Recompute::Keep, true);
            if wrt < x.len() {
                let numeric: Vec<f64> = (0..x[wrt].len())
                    .map(|i| {
                        central(|h| {
                            let mut x = x.clone();
                            x[wrt][i] += h;
                            case.run(&dev, &x, wrt, Recompute::Keep, false).0
                        })
                    })
                    .collect();
                check(&format!("{} dx[{wrt}]", case.name), &dx, &numeric);
                gradients += 1;
            }
            for policy in [Recompute::Cheap, Recompute::Full] {
                let again = case.run(&dev, &x, wrt, policy, true);
                assert!(again.1 == dx && again.2 == dw, "{}: {policy:?} gives other bits", case.name);
            }
            if !std::mem::replace(&mut weights_done, true) {
                for p in case.unit.params.clone() {
                    let numeric: Vec<f64> = p
                        .range()
                        .map(|i| {
                            central(|h| {
                                case.unit.weights.data_mut::<f64>()[i] += h;
                                let loss = case.run(&dev, &x, wrt, Recompute::Keep, false).0;
                                case.unit.weights.data_mut::<f64>()[i] -= h;
                                loss
                            })
                        })
                        .collect();
                    check(&format!("{} d{}", case.name, p.spec.name), &dw[p.range()], &numeric);
                    gradients += 1;
                }
            }
        }
    }
    assert!(gradients > 25, "only {gradients} gradients were checked");
    println!("{gradients} gradients checked and flipped");
}

#[test]
fn the_loss_matches_finite_differences_and_a_flipped_sign_is_caught() {
    let dev = Device::cpu(2);
    let tp = Solo::new();
    let (n, c, v) = (N, 5, 11);
    let (h, w, b) = (values("h", n * c), values("w", v * c), values("b", v));
    let ids: Vec<u32> = (0..n as u32).map(|i| i * 7 % v as u32).collect();
    let weights: Vec<f32> = (0..n).map(|i| [1.0, 0.0, 0.5][i % 3]).collect();
    let scale = 1.0 / weights.iter().sum::<f32>() as f64;
    for (cap, z) in [(None, 0.0), (Some(0.7), 0.0), (None, 0.03), (Some(0.7), 0.03)] {
        let run = |h: &[f64], w: &[f64], b: &[f64]| {
            let vocab = Vocab { w, bias: Some(b), first: 0, valid: v, widest: v, cap };
            let targets = Targets { ids: &ids, weights: &weights, scale, z };
            let (mut dw, mut db, mut nll) = (vec![0.0; v * c], vec![0.0; v], vec![0.0f32; n]);
            let mut dh = tensor(&dev, n, c, &vec![0.0; n * c]);
            let grads = VocabGrads { w: &mut dw, bias: Some(&mut db) };
            let back = Some((grads, &mut dh));
            let h = tensor(&dev, n, c, h);
            let squares =
                cross_entropy::<f64>(&dev, &tp, &h, vocab, targets, None, &mut nll, back).expect("loss");
            (nll, z * squares.z * scale, dh.to_f64(), dw, db)
        };
        // The loss by the textbook, in f64; nll comes back in f32.
        let loss = |h: &[f64], w: &[f64], b: &[f64]| -> f64 {
            (0..n)
                .map(|i| {
                    let plain = |o: usize| b[o] + (0..c).map(|k| h[i * c + k] * w[o * c + k]).sum::<f64>();
                    let logit = |o: usize| cap.map_or(plain(o), |cap: f64| cap * (plain(o) / cap).tanh());
                    let lse = (0..v).map(|o| logit(o).exp()).sum::<f64>().ln();
                    weights[i] as f64 * scale * (lse - logit(ids[i] as usize) + z * lse * lse)
                })
                .sum()
        };
        let (nll, z_term, dh, dw, db) = run(&h, &w, &b);
        let mean: f64 = nll.iter().zip(&weights).map(|(l, w)| *l as f64 * *w as f64 * scale).sum();
        assert!((mean + z_term - loss(&h, &w, &b)).abs() < 1e-6);
        let numeric = |which: usize| -> Vec<f64> {
            (0..[&h, &w, &b][which].len())
                .map(|i| {
                    central(|step| {
                        let mut p = [h.clone(), w.clone(), b.clone()];
                        p[which][i] += step;
                        loss(&p[0], &p[1], &p[2])
                    })
                })
                .collect()
        };
        let what = |part: &str| format!("loss {part} with cap {cap:?} and z {z}");
        check(&what("dh"), &dh, &numeric(0));
        check(&what("dw"), &dw, &numeric(1));
        check(&what("db"), &db, &numeric(2));
    }
}
