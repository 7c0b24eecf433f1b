//! G2, G5, G8, and sizes that no operator reaches.

use crate::models::{Varied, apart, bert, both, families, gpt, grow, growth, qwen2, qwen3, tensor};
use espalier::config::{Depth, ModelConfig, Width};
use espalier::device::DType;
use espalier::method::grow::stack_after;
use espalier::model::Network;
use espalier::params::TensorSource;

#[test]
fn fpi_is_exact_where_all_channels_have_as_many_copies_and_says_where_not() {
    for (name, m) in families() {
        let to = [
            ("dim", 2 * m.dim),
            ("ffn_dim", m.ffn_dim * 3 / 2),
            ("heads", m.heads + m.heads / m.kv_heads),
            ("kv_heads", m.kv_heads + 1),
        ];
        let even = growth(&grow(&to, Width::Fpi, Depth::Identity), &m);
        assert!(even.losses().is_empty(), "{name}: {:?}", even.losses());
        let off = apart(&both(&even, DType::F64));
        assert!(off < 1e-12, "{name}: {off:e}");
        let uneven = growth(&grow(&[("dim", m.dim * 3 / 2)], Width::Fpi, Depth::Identity), &m);
        assert!(uneven.losses()[0].contains("some channels 1 times and others 2"), "{:?}", uneven.losses());
        let off = apart(&both(&uneven, DType::F64));
        assert!(off > 1e-3 && off < 1.0, "{name}: uneven {off:e}");
    }
}

#[test]
fn depth_operators_take_the_blocks_of_their_rule_and_only_identity_keeps_the_function() {
    let m = ModelConfig { layers: 3, ..qwen2() };
    let source = |layer: usize| {
        let name = format!("blocks.{layer}.mlp.up.weight");
        let spec = Network::specs(&m).into_iter().find(|s| s.name == name).unwrap();
        let mut values = vec![0f32; spec.len()];
        Varied.read(&spec, spec.local(0, 1), &mut values).unwrap();
        values.into_iter().map(f64::from).collect::<Vec<_>>()
    };
    let sources: Vec<_> = (0..3).map(source).collect();
    let cases = [
        (Depth::Stack, vec![0, 1, 2, 0, 1, 2, 1, 2]),
        (Depth::Interpolate, vec![0, 0, 0, 1, 1, 1, 2, 2]),
        (Depth::Identity, vec![0, 0, 0, 1, 1, 1, 2, 2]),
    ];
    for (depth, want) in cases {
        let growth = growth(&grow(&[("layers", 8)], Width::ZeroPad, depth), &m);
        for (layer, want) in want.iter().enumerate() {
            let up = tensor(&growth, &format!("blocks.{layer}.mlp.up.weight")).1;
            assert!(up == sources[*want], "{depth:?}: block {layer} is not block {want}");
            let zeros =
                tensor(&growth, &format!("blocks.{layer}.mlp.down.weight")).1.iter().all(|x| *x == 0.0);
            let idle = depth == Depth::Identity && ![0, 3, 6].contains(&layer);
            assert_eq!(zeros, idle, "{depth:?}: block {layer}");
        }
        let off = apart(&both(&growth, DType::F64));
        assert_eq!(off < 1e-12, depth == Depth::Identity, "{depth:?}: {off:e}");
        assert_eq!(growth.losses().is_empty(), depth == Depth::Identity);
    }
}

/// G5, rows: beyond the first copies they are those of the next block, expanded by FPI.
#[test]
fn aki_takes_extra_rows_from_the_next_block_and_the_last_from_itself() {
    let m = ModelConfig { layers: 3, ..gpt() };
    let to = [("dim", 96), ("ffn_dim", 200), ("heads", 6)];
    let fpi = growth(&grow(&to, Width::Fpi, Depth::Identity), &m);
    let aki = growth(&grow(&to, Width::Aki, Depth::Identity), &m);
    assert_eq!(aki.losses()[0], "aki fills new rows from the next block");
    for part in ["mlp.up.weight", "mlp.down.weight", "mlp.up.bias", "attn.q.weight", "attn.o.weight"] {
        for layer in 0..3 {
            let name = |l: usize| format!("blocks.{l}.{part}");
            let (spec, ours) = tensor(&aki, &name(layer));
            let own = tensor(&fpi, &name(layer)).1;
            let next = tensor(&fpi, &name((layer + 1).min(2))).1;
            let old = Network::specs(&m).into_iter().find(|s| s.name == name(layer)).unwrap().rows;
            let (kept, extra) = (0..old * spec.cols, old * spec.cols..spec.len());
            assert!(ours[kept.clone()] == own[kept], "{part} {layer}: old rows");
            assert!(ours[extra.clone()] == next[extra.clone()], "{part} {layer}: new rows");
            assert_eq!(layer < 2, ours[extra.clone()] != own[extra], "{part} {layer}: next is not own");
        }
    }
    let [source, _] = both(&fpi, DType::F64);
    let norm = |x: &[f64]| x.iter().map(|x| x * x).sum::<f64>();
    let off = |g| {
        let [a, b]: [Vec<f64>; 2] = both(g, DType::F64);
        norm(&a.iter().zip(&b).map(|(a, b)| a - b).collect::<Vec<_>>()) / norm(&source)
    };
    assert!(off(&fpi) < off(&aki), "FPI {} is nearer than AKI {}", off(&fpi), off(&aki));
}

/// G2: one map for the whole network. What a block writes by one map and the next reads by another is another function.
#[test]
fn a_residual_map_of_its_own_for_a_tensor_changes_the_function() {
    use crate::models::{logits_of, sequence, with_model};
    use espalier::method::grow::{Grown, Quantity};
    let m = qwen2();
    let one = grow(&[("dim", 2 * m.dim)], Width::Fpi, Depth::Identity);
    let other = espalier::config::Grow { seed: 12, ..one.clone() };
    let (one, other) = (growth(&one, &m), growth(&other, &m));
    let [a, b] = [&one, &other].map(|g| Grown::new(g, &Varied, Quantity::Weight));
    let seq = sequence();
    let before = with_model(&m, DType::F64, &crate::models::small, |r| logits_of(r, &seq));
    let after = |mixed: bool| {
        with_model(
            &one.to,
            DType::F64,
            &|spec, b_, out| {
                let from = if mixed && spec.name.starts_with("blocks.1.attn") { &b } else { &a };
                from.read_f64(spec, b_, out).unwrap()
            },
            |r| logits_of(r, &seq),
        )
    };
    assert!(apart(&[before.clone(), after(false)]) < 1e-12);
    assert!(apart(&[before, after(true)]) > 1e-2, "another map in one block goes unnoticed");
}

#[test]
fn sizes_that_cannot_be_reached_are_refused_with_the_nearest_that_can() {
    let refused = |m: &ModelConfig, to: &[(&str, usize)], width| {
        let (key, problem, remedy) = grow(to, width, Depth::Identity).target(m).unwrap_err();
        format!("{key}: {problem}; {remedy}")
    };
    let (gpt, qwen2, qwen3, bert) = (gpt(), qwen2(), qwen3(), bert());
    let pad = Width::ZeroPad;
    let cases: &[(String, &[&str])] = &[
        (refused(&gpt, &[("dim", 60)], pad), &["dim: 60 is smaller than 64", "64 or more"]),
        (refused(&gpt, &[("layers", 1)], pad), &["layers: 1 is smaller than 2"]),
        (refused(&gpt, &[("dim", 100)], Width::Tile), &["100 is no multiple", "give 64 or 128"]),
        (refused(&bert, &[("dim", 50)], pad), &["post-norm", "give 48 or 96", "fpi or aki"]),
        (refused(&qwen2, &[("heads", 10)], pad), &["10 heads", "groups of at least 2 for 4 kv", "8 or 12"]),
        (refused(&qwen2, &[("kv_heads", 8)], pad), &["8 heads", "give 16, or another kv_heads"]),
        (refused(&qwen3, &[("head_dim", 32)], pad), &["norm of each head", "stays 16"]),
        (refused(&qwen2, &[("head_dim", 24)], pad), &["rotary", "give 16 or 32"]),
        (refused(&gpt, &[("head_dim", 20)], Width::Fpi), &["whole heads", "stays 16"]),
        (refused(&gpt, &[("vocab", 1 << 40)], pad), &["vocab: 1099511627776 is out of range"]),
    ];
    for (text, words) in cases {
        for word in *words {
            assert!(text.contains(word), "{word:?} is not in: {text}");
        }
    }
}

/// G8: the four published figures, in billions of tokens.
#[test]
fn the_time_to_stack_is_the_published_one() {
    let cases = [(8e9, 15e12, 6.58), (7e9, 2e12, 11.11), (13e9, 2e12, 15.84), (70e9, 2e12, 42.48)];
    for (params, tokens, want) in cases {
        let got = stack_after(params, tokens) / 1e9;
        assert!((got - want).abs() < 0.005, "{params:e} parameters: {got} instead of {want}");
    }
}
