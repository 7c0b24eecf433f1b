//! What would change the mathematics is refused with file, key and value.

use super::dirs::*;
use espalier::hf::{self, HfSource};
use serde_json::{Value, json};

#[test]
fn settings_that_change_the_mathematics_are_refused_by_name() {
    let rope = |extra: Value| {
        let mut table = json!({ "rope_theta": 5000.0 });
        table.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        table
    };
    let window = json!(["full_attention", "sliding_attention"]);
    let table: Vec<(&str, &str, Value, &[&str])> = vec![
        ("llama", "model_type", json!("mistral"), &["\"mistral\"", "llama, qwen2, qwen3, gpt2, bert"]),
        ("llama", "model_type", Value::Null, &["is missing"]),
        (
            "llama",
            "architectures",
            json!(["LlamaForSequenceClassification"]),
            &["LlamaForSequenceClassification"],
        ),
        ("llama", "quantization_config", json!({"bits": 4}), &["bits"]),
        ("llama", "auto_map", json!({"AutoModelForCausalLM": "m.py"}), &["m.py"]),
        ("llama", "is_encoder_decoder", json!(true), &["true"]),
        ("llama", "hidden_act", json!("relu"), &["\"relu\""]),
        (
            "llama",
            "rope_parameters",
            rope(json!({"rope_type": "yarn", "factor": 4.0})),
            &["rope_type", "\"yarn\""],
        ),
        ("llama", "rope_parameters", rope(json!({"rope_type": "linear", "factor": 2.0})), &["\"linear\""]),
        (
            "llama",
            "rope_parameters",
            rope(json!({"partial_rotary_factor": 0.5})),
            &["partial_rotary_factor", "0.5"],
        ),
        ("llama", "rope_parameters", rope(json!({"mrope_section": [1, 2]})), &["mrope_section"]),
        ("llama", "rope_parameters", json!({"full_attention": {"rope_theta": 1.0}}), &["full_attention"]),
        (
            "llama",
            "rope_parameters",
            rope(json!({"rope_type": "llama3", "factor": 8.0})),
            &["low_freq_factor"],
        ),
        (
            "llama",
            "rope_scaling",
            json!({"type": "dynamic", "factor": 2.0}),
            &["rope_scaling.type", "\"dynamic\""],
        ),
        ("llama", "rope_scaling", json!({"rope_theta": 7.0}), &["contradicts"]),
        ("llama", "rope_theta", json!(7.0), &["5000", "contradicts", "7"]),
        ("llama", "partial_rotary_factor", json!(0.25), &["0.25"]),
        ("llama", "num_key_value_heads", json!(4), &["does not divide"]),
        ("llama", "head_dim", json!(13), &["odd"]),
        ("qwen2", "layer_types", window.clone(), &["sliding_attention"]),
        ("qwen3", "layer_types", window, &["sliding_attention"]),
        ("gpt2", "scale_attn_by_inverse_layer_idx", json!(true), &["true"]),
        ("gpt2", "scale_attn_weights", json!(false), &["false"]),
        ("gpt2", "activation_function", json!("silu"), &["\"silu\""]),
        ("gpt2", "add_cross_attention", json!(true), &["true"]),
        ("gpt2", "n_head", json!(5), &["does not divide n_embd, 72"]),
        ("bert", "is_decoder", json!(true), &["true"]),
        ("bert", "position_embedding_type", json!("relative_key"), &["\"relative_key\""]),
        ("bert", "pruned_heads", json!({"0": [1]}), &["pruned_heads"]),
        ("bert", "hidden_act", json!("relu"), &["\"relu\""]),
        // Damage.
        ("llama", "hidden_size", Value::Null, &["is missing"]),
        ("llama", "hidden_size", json!(-72), &["-72"]),
        ("llama", "hidden_size", json!(72.5), &["72.5"]),
        ("llama", "hidden_size", json!("72"), &["\"72\""]),
        ("llama", "vocab_size", json!(0), &["0 is not"]),
        ("llama", "vocab_size", json!(u64::MAX), &["18446744073709551615"]),
        ("llama", "num_hidden_layers", json!(1_000_000), &["1000000"]),
        ("llama", "rms_norm_eps", json!(-1.0), &["-1.0"]),
        ("llama", "tie_word_embeddings", json!("yes"), &["\"yes\""]),
        ("llama", "rope_parameters", json!([]), &["[]"]),
        ("llama", "rope_parameters", json!({"rope_theta": 0}), &["above 0"]),
    ];
    for (case, key, value, wanted) in table {
        let mut config = config(&golden(case));
        config[key] = value.clone();
        let dir = only_config(&config);
        let Err(error) = hf::read_config(dir.path()) else { panic!("{case} took {key} = {value}") };
        assert_says(&error, &["config.json", key]);
        assert_says(&error, wanted);
        assert_eq!(error.exit_code(), 2, "{error}");
    }
}

#[test]
fn a_window_in_use_is_refused() {
    let mut config = config(&golden("qwen2"));
    config.as_object_mut().unwrap().remove("layer_types");
    (config["use_sliding_window"], config["max_window_layers"]) = (json!(true), json!(1));
    assert!(hf::read_config(only_config(&config).path()).is_ok(), "a null window is off");
    config["sliding_window"] = json!(4096);
    let error = hf::read_config(only_config(&config).path()).unwrap_err();
    assert_says(&error, &["use_sliding_window", "true"]);
}

#[test]
fn a_config_that_is_not_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = || HfSource::open(dir.path()).err().unwrap();
    assert_says(&open(), &["config.json", "cannot read"]);
    for text in ["", "{", "[]", "{\"model_type\": \"llama\",}", "\u{0}"] {
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        assert_says(&open(), &["config.json"]);
    }
    std::fs::write(dir.path().join("config.json"), b"\xff\xfe").unwrap();
    assert_says(&open(), &["config.json"]);
}
