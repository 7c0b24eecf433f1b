use super::dirs::*;
use espalier::hf::{Family, HfSource};
use espalier::params::{LocalBox, ParamSpec};

/// The value that the files hold for element (row, col) of ours, by names written down a second time.
fn stored(t: &Tensors, family: Family, spec: &ParamSpec, row: usize, col: usize) -> f32 {
    let renames: &[(&str, &str)] = match family {
        Family::Gpt2 => &[
            ("blocks.", "transformer.h."),
            ("norm1", "ln_1"),
            ("norm2", "ln_2"),
            ("attn.q", "attn.c_attn"),
            ("attn.k", "attn.c_attn"),
            ("attn.v", "attn.c_attn"),
            ("attn.o", "attn.c_proj"),
            ("mlp.up", "mlp.c_fc"),
            ("mlp.down", "mlp.c_proj"),
            ("embed.tokens", "transformer.wte"),
            ("embed.positions", "transformer.wpe"),
            ("norm.", "transformer.ln_f."),
        ],
        Family::Bert => &[
            ("blocks.", "bert.encoder.layer."),
            ("norm1", "attention.output.LayerNorm"),
            ("norm2", "output.LayerNorm"),
            ("attn.q", "attention.self.query"),
            ("attn.k", "attention.self.key"),
            ("attn.v", "attention.self.value"),
            ("attn.o", "attention.output.dense"),
            ("mlp.up", "intermediate.dense"),
            ("mlp.down", "output.dense"),
            ("embed.tokens", "bert.embeddings.word_embeddings"),
            ("embed.positions", "bert.embeddings.position_embeddings"),
            ("embed.types", "bert.embeddings.token_type_embeddings"),
            ("embed.norm", "bert.embeddings.LayerNorm"),
            ("head.bias", "cls.predictions.bias"),
            ("head.dense", "cls.predictions.transform.dense"),
            ("head.norm", "cls.predictions.transform.LayerNorm"),
        ],
        Family::Llama | Family::Qwen2 | Family::Qwen3 => &[
            ("blocks.", "model.layers."),
            ("norm1", "input_layernorm"),
            ("norm2", "post_attention_layernorm"),
            ("attn.q_norm", "self_attn.q_norm"),
            ("attn.k_norm", "self_attn.k_norm"),
            ("attn.q.", "self_attn.q_proj."),
            ("attn.k.", "self_attn.k_proj."),
            ("attn.v.", "self_attn.v_proj."),
            ("attn.o.", "self_attn.o_proj."),
            ("mlp.gate", "mlp.gate_proj"),
            ("mlp.up", "mlp.up_proj"),
            ("mlp.down", "mlp.down_proj"),
            ("embed.tokens", "model.embed_tokens"),
            ("head.", "lm_head."),
            ("norm.weight", "model.norm.weight"),
        ],
    };
    let mut name = spec.name.clone();
    // Each tensor has one module; a block's also has the prefix.
    for (ours, theirs) in renames {
        let inside = name.contains("layer") || name.contains(".h.");
        if (name.starts_with(ours) || (inside && name.contains(ours))) && !name.contains(theirs) {
            name = name.replacen(ours, theirs, 1);
            if *ours != "blocks." {
                break;
            }
        }
    }
    let (_, shape, bytes) = t.get(&name).unwrap_or_else(|| panic!("{} as {name}", spec.name));
    let value = |i: usize| f32::from_le_bytes(bytes[4 * i..4 * i + 4].try_into().unwrap());
    if family != Family::Gpt2 || spec.name.starts_with("embed") || spec.name.contains("norm") {
        assert_eq!(shape, &spec.shape(), "{name}");
        return value(row * spec.cols + col);
    }
    let third = ["attn.q.", "attn.k.", "attn.v."].iter().position(|m| spec.name.contains(m));
    let out = row + third.map_or(0, |i| i * 72);
    if spec.vector { value(out) } else { value(col * shape[1] + out) }
}

#[test]
fn every_tensor_is_read_as_the_safetensors_crate_reads_it() {
    for case in CASES {
        let (source, t) = (HfSource::open(&golden(case)).unwrap(), tensors(&golden(case)));
        assert!(source.missing().is_empty() && source.unused().is_empty(), "{case}");
        let specs = specs(source.config());
        assert_eq!(specs.iter().map(|s| s.len() as u64).sum::<u64>(), source.config().params(), "{case}");
        for spec in &specs {
            let got = read(&source, spec, whole(spec));
            for (i, x) in got.iter().enumerate() {
                let want = stored(&t, source.family(), spec, i / spec.cols, i % spec.cols);
                assert_eq!(x.to_bits(), want.to_bits(), "{case} {} {i}", spec.name);
            }
        }
    }
}

#[test]
fn a_box_is_that_part_of_the_whole_tensor() {
    for case in CASES {
        let source = HfSource::open(&golden(case)).unwrap();
        for spec in specs(source.config()) {
            let all = read(&source, &spec, whole(&spec));
            let check = |b: LocalBox| {
                let part = read(&source, &spec, b);
                for (i, x) in part.iter().enumerate() {
                    let (row, col) = (b.row + i / b.cols, b.col + i % b.cols);
                    assert_eq!(
                        x.to_bits(),
                        all[row * spec.cols + col].to_bits(),
                        "{case} {} {b:?}",
                        spec.name
                    );
                }
            };
            (0..2).for_each(|rank| check(spec.local(rank, 2)));
            for (row, col) in [(0, 0), (spec.rows / 3, spec.cols / 2), (spec.rows - 1, spec.cols - 1)] {
                let (rows, cols) = ((spec.rows - row).min(37), (spec.cols - col).min(17));
                check(LocalBox { row, rows, stored_rows: rows, col, cols });
            }
            let empty = LocalBox { rows: 0, stored_rows: 0, ..whole(&spec) };
            assert!(read(&source, &spec, empty).is_empty());
        }
    }
}

#[test]
fn shards_and_one_file_hold_the_same_model() {
    let (one, many) = (tensors(&golden("llama")), tensors(&golden("llama-sharded")));
    assert_eq!(one.keys().collect::<Vec<_>>(), many.keys().collect::<Vec<_>>());
    let (one, many) =
        (HfSource::open(&golden("llama")).unwrap(), HfSource::open(&golden("llama-sharded")).unwrap());
    assert_eq!(one.config(), many.config());
    for spec in specs(one.config()) {
        assert_values(&read(&one, &spec, whole(&spec)), &read(&many, &spec, whole(&spec)), &spec.name);
    }
}

#[test]
fn a_tensor_of_another_model_is_refused() {
    let source = HfSource::open(&golden("llama")).unwrap();
    let mut spec = specs(source.config()).into_iter().find(|s| s.name == "blocks.1.mlp.up.weight").unwrap();
    let mut out = vec![0.0; spec.len()];
    spec.cols = 36;
    let b = whole(&spec);
    let error =
        espalier::params::TensorSource::read(&source, &spec, b, &mut out[..b.rows * b.cols]).unwrap_err();
    assert_says(&error, &["blocks.1.mlp.up.weight", "[200, 72]", "[200, 36]"]);
    spec.name = "blocks.2.mlp.up.weight".into();
    let error =
        espalier::params::TensorSource::read(&source, &spec, b, &mut out[..b.rows * b.cols]).unwrap_err();
    assert_says(&error, &["has no blocks.2.mlp.up.weight"]);
}
