//! G1, G3: the operators that promise it keep the function, in f64 to 1e-12, in f32 to 2e-5, in bf16 the loss to 1e-3.

use crate::models::{apart, bert, both, families, gpt, grow, growth, is_bert, qwen2, qwen3};
use crate::random::Random;
use espalier::config::{Depth, Grow, ModelConfig, Width};
use espalier::device::DType;

/// Sizes at random that a lossless operator reaches.
fn random_sizes(random: &mut Random, m: &ModelConfig, width: Width) -> Grow {
    let dim = match width {
        Width::Tile => m.dim * (1 + random.below(3)),
        _ if is_bert(m) => m.dim * (1 + random.below(2)),
        _ => m.dim + random.below(2 * m.dim + 1),
    };
    let group = m.heads / m.kv_heads;
    let kv_heads = m.kv_heads + random.below(3);
    let heads = kv_heads * (group + random.below(2));
    let mut to = vec![
        ("dim", dim),
        ("kv_heads", kv_heads),
        ("heads", heads),
        ("ffn_dim", m.ffn_dim + random.below(m.ffn_dim + 30)),
        ("vocab", m.vocab + random.below(70)),
        ("layers", m.layers + random.below(3)),
    ];
    if !m.qk_norm {
        to.push(("head_dim", m.head_dim * (1 + random.below(2))));
    }
    grow(&to, width, Depth::Identity)
}

#[test]
fn lossless_operators_are_lossless_for_sizes_at_random() {
    let mut random = Random(17);
    for (name, model) in families() {
        for width in [Width::ZeroPad, Width::Tile] {
            for _ in 0..4 {
                let grow = random_sizes(&mut random, &model, width);
                let growth = growth(&grow, &model);
                assert!(growth.losses().is_empty(), "{name} {grow:?}");
                let off = apart(&both(&growth, DType::F64));
                assert!(off < 1e-12, "{name} {width:?} {:?}: {off:e} in f64", grow.to);
            }
        }
    }
}

#[test]
fn each_axis_alone_is_lossless() {
    for (name, model) in families() {
        let m = &model;
        let mut cases = vec![
            ("dim", vec![("dim", 2 * m.dim)]),
            ("dim by 3", vec![("dim", 3 * m.dim)]),
            ("ffn", vec![("ffn_dim", m.ffn_dim + 7)]),
            ("heads", vec![("heads", 2 * m.heads), ("kv_heads", m.kv_heads)]),
            ("kv heads", vec![("heads", 2 * m.heads), ("kv_heads", 2 * m.kv_heads)]),
            ("layers", vec![("layers", 5)]),
            ("vocab", vec![("vocab", m.vocab + 13)]),
        ];
        if !m.qk_norm {
            cases.push(("head_dim", vec![("head_dim", 2 * m.head_dim)]));
        }
        for width in [Width::ZeroPad, Width::Tile] {
            for (axis, to) in &cases {
                let off = apart(&both(&growth(&grow(to, width, Depth::Identity), m), DType::F64));
                assert!(off < 1e-12, "{name}, {axis} by {width:?}: {off:e}");
            }
        }
    }
}

/// G3: dims that are no multiple, for both norms; the smallest step too.
#[test]
fn zero_pad_reaches_any_dim_with_eps_in_its_place() {
    for model in [gpt(), qwen2(), qwen3()] {
        for dim in [model.dim + 1, model.dim + 13, 2 * model.dim + 5, 3 * model.dim - 1] {
            let growth = growth(&grow(&[("dim", dim)], Width::ZeroPad, Depth::Identity), &model);
            assert!(growth.to.norm_eps < model.norm_eps);
            let off = apart(&both(&growth, DType::F64));
            assert!(off < 1e-12, "{:?} {dim}: {off:e}", model.norm);
            // The test sees a wrong ε.
            let mut wrong = growth;
            wrong.to.norm_eps = model.norm_eps;
            let off = apart(&both(&wrong, DType::F64));
            assert!(off > 1e-6, "{:?} {dim} with the old ε: {off:e}", model.norm);
        }
    }
}

#[test]
fn in_f32_logits_agree_to_2e_5_and_in_bf16_to_what_bf16_gives() {
    for (name, model) in families() {
        for width in [Width::ZeroPad, Width::Tile] {
            let dim = if width == Width::Tile || is_bert(&model) { 2 * model.dim } else { model.dim + 21 };
            let to = [
                ("dim", dim),
                ("layers", model.layers + 1),
                ("ffn_dim", model.ffn_dim + 19),
                ("heads", 2 * model.heads),
                ("kv_heads", 2 * model.kv_heads),
            ];
            let growth = growth(&grow(&to, width, Depth::Identity), &model);
            let off = apart(&both(&growth, DType::F32));
            assert!(off < 2e-5, "{name} {width:?}: {off:e} in f32");
            let rows = both(&growth, DType::Bf16).map(|logits| mean_nll(&logits, model.vocab));
            assert!((rows[0] - rows[1]).abs() < 1e-3 * rows[0], "{name} {width:?}: {rows:?} nats in bf16");
        }
    }
}

/// −log p of one token of each row, the mean.
fn mean_nll(logits: &[f64], vocab: usize) -> f64 {
    let of = |(i, l): (usize, &[f64])| {
        let most = l.iter().fold(f64::MIN, |m, x| m.max(*x));
        most + l.iter().map(|x| (x - most).exp()).sum::<f64>().ln() - l[i * 31 % vocab]
    };
    let rows = logits.len() / vocab;
    logits.chunks(vocab).enumerate().map(of).sum::<f64>() / rows as f64
}

/// Post-norm: idle blocks norm twice, which is as exact as ε is small.
#[test]
fn idle_blocks_of_a_post_norm_model_are_as_exact_as_its_eps_is_small() {
    let model = ModelConfig { norm_eps: 1e-3, ..bert() };
    let growth = growth(&grow(&[("layers", 3)], Width::ZeroPad, Depth::Identity), &model);
    assert!(growth.losses().is_empty() && growth.nearly());
    let off = apart(&both(&growth, DType::F64));
    assert!(off > 1e-8 && off < 1e-2, "{off:e}");
}
