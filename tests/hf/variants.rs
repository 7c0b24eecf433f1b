//! Files as they are found: other types, no prefix, buffers, old names, copies of tied tensors, no head.

use super::dirs::*;
use espalier::hf::{HfSource, Options};
use half::{bf16, f16};
use safetensors::tensor::Dtype;
use serde_json::json;

/// All values are those of the golden directory.
fn assert_same_values(dir: &std::path::Path, case: &str) -> HfSource {
    let (source, want) = (HfSource::open(dir).unwrap(), HfSource::open(&golden(case)).unwrap());
    for spec in specs(want.config()) {
        assert_values(&read(&source, &spec, whole(&spec)), &read(&want, &spec, whole(&spec)), &spec.name);
    }
    source
}

fn renamed(t: &mut Tensors, rename: impl Fn(&str) -> String) {
    *t = std::mem::take(t).into_iter().map(|(name, tensor)| (rename(&name), tensor)).collect();
}

#[test]
fn bf16_and_f16_become_the_f32_of_the_same_value() {
    type Convert = fn(f32) -> (u16, f32);
    let cases: [(Dtype, Convert); 2] = [
        (Dtype::BF16, |x| (bf16::from_f32(x).to_bits(), bf16::from_f32(x).to_f32())),
        (Dtype::F16, |x| (f16::from_f32(x).to_bits(), f16::from_f32(x).to_f32())),
    ];
    for (dtype, convert) in cases {
        for case in ["llama", "gpt2"] {
            let dir = altered(case, |_, t| {
                for (d, _, bytes) in t.values_mut() {
                    *d = dtype;
                    *bytes = floats(bytes).into_iter().flat_map(|x| convert(x).0.to_le_bytes()).collect();
                }
            });
            let (source, full) =
                (HfSource::open(dir.path()).unwrap(), HfSource::open(&golden(case)).unwrap());
            for spec in specs(full.config()) {
                let want: Vec<_> =
                    read(&full, &spec, whole(&spec)).into_iter().map(|x| convert(x).1).collect();
                assert_values(
                    &read(&source, &spec, whole(&spec)),
                    &want,
                    &format!("{case} {dtype} {}", spec.name),
                );
            }
        }
    }
}

#[test]
fn gpt2_without_prefix_and_with_mask_buffers_is_read() {
    let dir = altered("gpt2", |_, t| {
        renamed(t, |name| name.strip_prefix("transformer.").unwrap().to_string());
        t.insert("h.0.attn.bias".into(), (Dtype::U8, vec![1, 1, 4, 4], vec![1; 16]));
        t.insert("h.1.attn.masked_bias".into(), (Dtype::F32, vec![], vec![0; 4]));
    });
    let source = assert_same_values(dir.path(), "gpt2");
    assert_eq!(source.unused(), ["h.0.attn.bias", "h.1.attn.masked_bias"]);
}

#[test]
fn llama_with_frequency_buffers_is_read() {
    let dir = altered("llama", |_, t| {
        let name = "model.layers.0.self_attn.rotary_emb.inv_freq";
        t.insert(name.into(), (Dtype::F32, vec![6], vec![0; 24]));
    });
    assert_eq!(assert_same_values(dir.path(), "llama").unused().len(), 1);
}

#[test]
fn bert_with_old_names_and_other_heads_is_read() {
    let dir = altered("bert", |config, t| {
        config["architectures"] = json!(["BertForPreTraining"]);
        let old = |name: &str| match name.contains("LayerNorm") {
            true => name
                .replace("LayerNorm.weight", "LayerNorm.gamma")
                .replace("LayerNorm.bias", "LayerNorm.beta"),
            false => name.to_string(),
        };
        renamed(t, old);
        t.insert("bert.embeddings.position_ids".into(), (Dtype::I64, vec![1, 1], vec![0; 8]));
        t.insert("bert.pooler.dense.bias".into(), (Dtype::F32, vec![72], vec![0; 288]));
        t.insert("cls.seq_relationship.bias".into(), (Dtype::F32, vec![2], vec![0; 8]));
        let bias = t["cls.predictions.bias"].clone();
        t.insert("cls.predictions.decoder.bias".into(), bias);
        let words = t["bert.embeddings.word_embeddings.weight"].clone();
        t.insert("cls.predictions.decoder.weight".into(), words);
    });
    assert_eq!(assert_same_values(dir.path(), "bert").unused().len(), 3);
}

#[test]
fn a_tied_file_may_hold_either_tensor_or_two_equal_ones() {
    for (case, words) in [("llama-tied", "model.embed_tokens.weight"), ("gpt2", "transformer.wte.weight")] {
        let both = |t: &mut Tensors| t.insert("lm_head.weight".into(), t[words].clone());
        let dir = altered(case, |_, t| drop(both(t)));
        assert_same_values(dir.path(), case);
        let dir = altered(case, |_, t| {
            both(t);
            t.remove(words);
        });
        assert_same_values(dir.path(), case);
        let dir = altered(case, |_, t| {
            both(t);
            t.get_mut("lm_head.weight").unwrap().2[17] ^= 1;
        });
        let error = HfSource::open(dir.path()).err().unwrap();
        assert_says(&error, &[words, "lm_head.weight", "differ", "tie_word_embeddings"]);
    }
}

#[test]
fn an_untied_model_without_its_head_says_what_to_do() {
    let dir = altered("llama", |_, t| drop(t.remove("lm_head.weight")));
    let error = HfSource::open(dir.path()).err().unwrap();
    assert_says(&error, &["missing: lm_head.weight", "tie_word_embeddings"]);
}

#[test]
fn an_encoder_without_head_is_read_only_when_asked_for() {
    let dir = altered("bert", |config, t| {
        config["architectures"] = json!(["BertModel"]);
        t.retain(|name, _| !name.starts_with("cls."));
        renamed(t, |name| name.strip_prefix("bert.").unwrap().to_string());
    });
    let error = HfSource::open(dir.path()).err().unwrap();
    assert_says(
        &error,
        &["cls.predictions.bias", "cls.predictions.transform.dense.weight", "must be asked for"],
    );

    let options = Options { allow_missing_head: true, seed: 5 };
    let source = HfSource::open_with(dir.path(), options).unwrap();
    let initial = ["head.dense.weight", "head.dense.bias", "head.norm.weight", "head.norm.bias", "head.bias"];
    assert_eq!(source.missing(), initial);
    let full = HfSource::open(&golden("bert")).unwrap();
    for spec in specs(full.config()) {
        let mut want = read(&full, &spec, whole(&spec));
        if initial.contains(&spec.name.as_str()) {
            spec.fill(5, whole(&spec), &mut want);
        }
        assert_values(&read(&source, &spec, whole(&spec)), &want, &spec.name);
    }

    // Anything else that is missing stays an error.
    let dir = altered("bert", |_, t| {
        t.retain(|name, _| !name.starts_with("cls.") && name != "bert.embeddings.LayerNorm.bias");
    });
    let error = HfSource::open_with(dir.path(), options).err().unwrap();
    assert_says(&error, &["missing: bert.embeddings.LayerNorm.bias)"]);
}

#[test]
fn all_that_does_not_fit_is_named_in_one_error() {
    let dir = altered("gpt2", |_, t| {
        t.remove("transformer.h.1.ln_2.bias");
        t.insert("transformer.h.0.attn.rotary".into(), (Dtype::F32, vec![1], vec![0; 4]));
        let (_, shape, bytes) = t.get_mut("transformer.h.0.attn.c_attn.weight").unwrap();
        (*shape, *bytes) = (vec![72, 72], vec![0; 72 * 72 * 4]);
        let (dtype, _, bytes) = t.get_mut("transformer.wpe.weight").unwrap();
        (*dtype, *bytes) = (Dtype::F64, vec![0; 96 * 72 * 8]);
    });
    let error = HfSource::open(dir.path()).err().unwrap();
    let wanted = [
        "missing: transformer.h.1.ln_2.bias;",
        "of another form: transformer.h.0.attn.c_attn.weight is [72, 72] instead of [72, 216], \
         transformer.wpe.weight is F64 instead of F32, BF16 or F16;",
        "unknown: transformer.h.0.attn.rotary)",
    ];
    assert_says(&error, &wanted);
    assert_eq!(error.exit_code(), 4);

    let dir = altered("llama", |config, _| config["num_hidden_layers"] = json!(4));
    let error = HfSource::open(dir.path()).err().unwrap();
    assert_says(&error, &["model.layers.2.input_layernorm.weight", "and 6 more"]);
}
