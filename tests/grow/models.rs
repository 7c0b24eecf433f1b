//! Small models of every family, what they compute, and growth of them in memory.

use crate::batch;
use crate::replica::{SEQ_LEN, Setup, VOCAB, gpt2, llama};
use espalier::config::{Depth, Grow, Head, ModelConfig, NormPlace, Sizes, Width};
use espalier::device::DType;
use espalier::method::grow::{Grown, Growth, Quantity};
use espalier::model::Network;
use espalier::params::{Init, LocalBox, ParamSpec, TensorSource};
use espalier::tape::{At, Seq};
use espalier::train::replica::Replica;
use espalier::train::step::forward;

/// ε large enough that a wrong one shows.
const EPS: f64 = 0.02;

pub fn qwen2() -> ModelConfig {
    ModelConfig { qk_norm: false, qkv_bias: true, tied: true, norm_eps: EPS, ..llama() }
}

pub fn qwen3() -> ModelConfig {
    ModelConfig { norm_eps: EPS, ..llama() }
}

pub fn gpt() -> ModelConfig {
    ModelConfig { norm_eps: EPS, ..gpt2() }
}

/// With a head of its own and no bias in its norms.
pub fn gpt_untied() -> ModelConfig {
    ModelConfig { tied: false, norm_bias: false, ..gpt() }
}

pub fn bert() -> ModelConfig {
    let base = ModelConfig::preset("bert-tiny").unwrap();
    ModelConfig {
        dim: 48,
        heads: 4,
        kv_heads: 4,
        head_dim: 12,
        ffn_dim: 96,
        vocab: VOCAB,
        positions: gpt2().positions,
        max_positions: SEQ_LEN,
        ..base
    }
}

pub fn families() -> [(&'static str, ModelConfig); 5] {
    [("gpt", gpt()), ("gpt untied", gpt_untied()), ("qwen2", qwen2()), ("qwen3", qwen3()), ("bert", bert())]
}

pub fn is_bert(m: &ModelConfig) -> bool {
    m.norm_place == NormPlace::Post && m.head == Head::Mlm
}

pub fn grow(to: &[(&str, usize)], width: Width, depth: Depth) -> Grow {
    let mut sizes = Sizes::default();
    to.iter().for_each(|(key, size)| assert!(sizes.set(key, *size)));
    Grow { to: sizes, width, depth, seed: 11 }
}

pub fn growth(grow: &Grow, from: &ModelConfig) -> Growth {
    Growth::resolve(grow, from, "test", "to.").unwrap()
}

/// A model's values: random everywhere, gains about 1 and biases not 0.
pub struct Varied;

impl TensorSource for Varied {
    fn read(&self, spec: &ParamSpec, b: LocalBox, out: &mut [f32]) -> espalier::Result<()> {
        let mut varied = spec.clone();
        varied.init = Init::Normal { std: 0.15 };
        varied.fill(5, b, out);
        if spec.init == Init::Ones {
            out.iter_mut().for_each(|x| *x += 1.0);
        }
        Ok(())
    }
}

pub fn sequence() -> Seq {
    batch::rows(3, 0, 2, SEQ_LEN, VOCAB).seq
}

/// A replica of one rank with the values that `fill` gives each tensor, in f64 unless it rounds.
pub fn with_model<R: Send>(
    model: &ModelConfig,
    dtype: DType,
    fill: &(dyn Fn(&ParamSpec, LocalBox, &mut [f64]) + Sync),
    f: impl Fn(&mut Replica) -> R + Sync,
) -> R {
    let setup = Setup { dtype, ..Setup::solo(model.clone()) };
    let one = setup.run(|r| {
        for u in &mut r.params.units {
            for p in &u.params {
                let mut values = vec![0.0; p.range().len()];
                fill(&p.spec, p.local, &mut values);
                match dtype {
                    DType::F64 => u.weights.data_mut::<f64>()[p.range()].copy_from_slice(&values),
                    DType::F32 => {
                        let out = &mut u.weights.data_mut::<f32>()[p.range()];
                        out.iter_mut().zip(&values).for_each(|(w, v)| *w = *v as f32);
                    }
                    DType::Bf16 => {
                        let out = &mut u.weights.data_mut::<half::bf16>()[p.range()];
                        out.iter_mut().zip(&values).for_each(|(w, v)| *w = half::bf16::from_f32(*v as f32));
                    }
                }
            }
        }
        Ok(f(r))
    });
    one.into_iter().next().unwrap()
}

/// The smaller model's values in f64.
pub fn small(spec: &ParamSpec, b: LocalBox, out: &mut [f64]) {
    let mut values = vec![0f32; out.len()];
    Varied.read(spec, b, &mut values).unwrap();
    out.iter_mut().zip(values).for_each(|(o, v)| *o = f64::from(v));
}

/// Logits (N, V) of a replica.
pub fn logits_of(r: &mut Replica, seq: &Seq) -> Vec<f64> {
    let (_, h) = forward(r, seq, At::default(), false).unwrap();
    let Replica { dev, mesh, net, params, .. } = r;
    net.head.logits(dev, mesh.tp.as_ref(), params, &net.embed, &h).unwrap().to_f64()
}

/// Logits of the smaller and of the larger model, those of the smaller one's vocabulary.
pub fn both(growth: &Growth, dtype: DType) -> [Vec<f64>; 2] {
    let seq = sequence();
    let grown = Grown::new(growth, &Varied, Quantity::Weight);
    let fill = |spec: &ParamSpec, b: LocalBox, out: &mut [f64]| grown.read_f64(spec, b, out).unwrap();
    let before = with_model(&growth.from, dtype, &small, |r| logits_of(r, &seq));
    let after = with_model(&growth.to, dtype, &fill, |r| logits_of(r, &seq));
    let after = after.chunks(growth.to.vocab).flat_map(|row| row[..growth.from.vocab].to_vec()).collect();
    [before, after]
}

/// The largest difference, over the largest value.
pub fn apart([before, after]: &[Vec<f64>; 2]) -> f64 {
    assert_eq!(before.len(), after.len());
    let most = before.iter().fold(0f64, |m, x| m.max(x.abs()));
    before.iter().zip(after).fold(0f64, |m, (a, b)| m.max((a - b).abs())) / most
}

/// A whole tensor of the larger model.
pub fn tensor(growth: &Growth, name: &str) -> (ParamSpec, Vec<f64>) {
    let spec = Network::specs(&growth.to).into_iter().find(|s| s.name == name).unwrap();
    let mut values = vec![0.0; spec.len()];
    Grown::new(growth, &Varied, Quantity::Weight).read_f64(&spec, spec.local(0, 1), &mut values).unwrap();
    (spec, values)
}
