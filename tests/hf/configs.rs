use super::dirs::*;
use espalier::config::{Activation, Head, ModelConfig, Norm, NormPlace, Positions, RopeScaling};
use espalier::hf::{self, Family};
use serde_json::{Value, json};

fn llama() -> ModelConfig {
    ModelConfig {
        layers: 2,
        dim: 72,
        heads: 6,
        kv_heads: 2,
        head_dim: 12,
        ffn_dim: 200,
        vocab: 517,
        norm: Norm::Rms,
        norm_eps: 1e-5,
        norm_place: NormPlace::Pre,
        positions: Positions::Rope { theta: 5000.0, scaling: None },
        max_positions: 96,
        qk_norm: false,
        activation: Activation::SwiGlu,
        qkv_bias: false,
        out_bias: false,
        mlp_bias: false,
        norm_bias: false,
        head_bias: false,
        tied: false,
        causal: true,
        token_types: 0,
        embed_norm: false,
        head: Head::Lm,
        logit_softcap: None,
        init_std: 0.1,
        init_scale_residual: false,
    }
}

fn gpt2() -> ModelConfig {
    ModelConfig {
        kv_heads: 6,
        norm: Norm::Layer,
        norm_eps: 1e-4,
        positions: Positions::Learned { max: 96 },
        activation: Activation::GeluTanh,
        qkv_bias: true,
        out_bias: true,
        mlp_bias: true,
        norm_bias: true,
        tied: true,
        init_scale_residual: true,
        ..llama()
    }
}

fn bert() -> ModelConfig {
    ModelConfig {
        norm_place: NormPlace::Post,
        activation: Activation::Gelu,
        head_bias: true,
        causal: false,
        token_types: 2,
        embed_norm: true,
        head: Head::Mlm,
        init_scale_residual: false,
        ..gpt2()
    }
}

fn expected() -> Vec<(&'static str, Family, ModelConfig)> {
    let theta = |theta| Positions::Rope { theta, scaling: None };
    let scaling = Some(RopeScaling { factor: 8.0, low_freq: 1.0, high_freq: 4.0, original_max: 64 });
    let llama3 = Positions::Rope { theta: 20000.0, scaling };
    let tied = ModelConfig { kv_heads: 6, norm_eps: 1e-4, positions: llama3, tied: true, ..llama() };
    let qwen2 = ModelConfig { positions: theta(1e6), qkv_bias: true, tied: true, ..llama() };
    let qwen3 = ModelConfig { head_dim: 16, norm_eps: 1e-4, positions: theta(1e6), qk_norm: true, ..llama() };
    let minilm = ModelConfig {
        layers: 6,
        dim: 384,
        heads: 12,
        kv_heads: 12,
        head_dim: 32,
        ffn_dim: 1536,
        vocab: 30522,
        norm_eps: 1e-12,
        positions: Positions::Learned { max: 512 },
        max_positions: 512,
        logit_softcap: None,
        init_std: 0.02,
        ..bert()
    };
    vec![
        ("gpt2", Family::Gpt2, gpt2()),
        ("llama", Family::Llama, llama()),
        ("llama-sharded", Family::Llama, llama()),
        ("llama-tied", Family::Llama, tied),
        ("qwen2", Family::Qwen2, qwen2),
        ("qwen3", Family::Qwen3, qwen3),
        ("bert", Family::Bert, bert()),
        ("minilm", Family::Bert, minilm),
    ]
}

#[test]
fn every_golden_config_means_what_was_set_when_it_was_made() {
    for (case, family, want) in expected() {
        assert_eq!(hf::read_config(&golden(case)).unwrap(), (family, want), "{case}");
    }
}

#[test]
fn both_spellings_of_rotary_parameters_mean_the_same() {
    let v4 = std::fs::read_to_string(golden("llama-tied").join("config.v4.json")).unwrap();
    let v4 = only_config(&serde_json::from_str(&v4).unwrap());
    assert_eq!(hf::read_config(v4.path()).unwrap(), hf::read_config(&golden("llama-tied")).unwrap());

    // "type" for "rope_type", and both spellings at once as long as they agree.
    let mut both = config(&golden("llama-tied"));
    let mut old = both["rope_parameters"].clone();
    old["type"] = old.as_object_mut().unwrap().remove("rope_type").unwrap();
    both["rope_scaling"] = old;
    let dir = only_config(&both);
    assert_eq!(hf::read_config(dir.path()).unwrap(), hf::read_config(&golden("llama-tied")).unwrap());
}

#[test]
fn absent_keys_have_the_defaults_of_their_class() {
    let read = |case: &str, absent: &[&str]| {
        let mut config = config(&golden(case));
        absent.iter().for_each(|k| drop(config.as_object_mut().unwrap().remove(*k)));
        hf::read_config(only_config(&config).path()).unwrap().1
    };
    let rope = |c: &ModelConfig| c.positions;
    let c = read("llama", &["head_dim", "num_key_value_heads", "rope_parameters", "tie_word_embeddings"]);
    assert_eq!((c.head_dim, c.kv_heads, c.tied), (12, 6, false));
    assert_eq!(rope(&c), Positions::Rope { theta: 10000.0, scaling: None });
    assert!(!read("qwen2", &["tie_word_embeddings"]).tied);
    assert_eq!(read("qwen3", &["head_dim"]).head_dim, 128);
    let c = read("gpt2", &["n_inner", "tie_word_embeddings", "activation_function", "layer_norm_epsilon"]);
    assert_eq!((c.ffn_dim, c.tied, c.activation, c.norm_eps), (288, true, Activation::GeluTanh, 1e-5));
    let c = read("bert", &["tie_word_embeddings", "hidden_act", "type_vocab_size", "layer_norm_eps"]);
    assert_eq!((c.tied, c.activation, c.token_types, c.norm_eps), (true, Activation::Gelu, 2, 1e-12));
}

#[test]
fn flags_and_activations_reach_the_model() {
    type Change = (&'static str, Value);
    let cases: Vec<(&str, Vec<Change>, ModelConfig)> = vec![
        (
            "llama",
            vec![("attention_bias", json!(true))],
            ModelConfig { qkv_bias: true, out_bias: true, ..llama() },
        ),
        ("llama", vec![("mlp_bias", json!(true))], ModelConfig { mlp_bias: true, ..llama() }),
        (
            "llama",
            vec![("hidden_act", json!("gelu"))],
            ModelConfig { activation: Activation::GeGlu, ..llama() },
        ),
        (
            "llama",
            vec![("hidden_act", json!("gelu_pytorch_tanh"))],
            ModelConfig { activation: Activation::GeGluTanh, ..llama() },
        ),
        ("gpt2", vec![("n_inner", json!(null))], ModelConfig { ffn_dim: 288, ..gpt2() }),
        (
            "gpt2",
            vec![("activation_function", json!("gelu"))],
            ModelConfig { activation: Activation::Gelu, ..gpt2() },
        ),
        (
            "bert",
            vec![("hidden_act", json!("gelu_new"))],
            ModelConfig { activation: Activation::GeluTanh, ..bert() },
        ),
        (
            "bert",
            vec![("hidden_act", json!("relu2"))],
            ModelConfig { activation: Activation::Relu2, ..bert() },
        ),
        // A window that is switched off, or begins beyond the last layer, is not in use.
        ("llama", vec![("sliding_window", json!(4096))], llama()),
    ];
    for (case, changes, want) in cases {
        let mut config = config(&golden(case));
        changes.iter().for_each(|(k, v)| config[*k] = v.clone());
        assert_eq!(hf::read_config(only_config(&config).path()).unwrap().1, want, "{case} with {changes:?}");
    }
    let mut config = config(&golden("qwen2"));
    config.as_object_mut().unwrap().remove("layer_types");
    config["sliding_window"] = json!(4096);
    assert!(hf::read_config(only_config(&config).path()).is_ok(), "use_sliding_window is false");
    config["use_sliding_window"] = json!(true);
    assert!(hf::read_config(only_config(&config).path()).is_ok(), "max_window_layers is 28");
}

#[test]
fn every_preset_that_has_a_family_survives_a_config_in_its_words() {
    let families = [
        ("gpt2-124m", "gpt2"),
        ("llama-tiny", "llama"),
        ("llama-3-8b", "llama"),
        ("llama-3.2-1b", "llama"),
        ("qwen2.5-0.5b", "qwen2"),
        ("qwen3-0.6b", "qwen3"),
        ("bert-base", "bert"),
    ];
    for (preset, want) in families {
        let c = ModelConfig::preset(preset).unwrap();
        let family = Family::of(&c).unwrap();
        assert_eq!(family.model_type(), want, "{preset}");
        let dir = tempfile::tempdir().unwrap();
        hf::write_config(dir.path(), family, &c, espalier::device::DType::Bf16, None).unwrap();
        let (family, mut back) = hf::read_config(dir.path()).unwrap();
        back.init_scale_residual = c.init_scale_residual;
        assert_eq!((family.model_type(), back), (want, c), "{preset}");
    }
}

#[test]
fn a_shape_that_a_family_cannot_say_is_refused_with_the_key() {
    let c = ModelConfig { qkv_bias: true, ..llama() };
    assert_eq!(Family::of(&c).unwrap(), Family::Qwen2);
    assert_says(&Family::Llama.fits(&c).unwrap_err(), &["out_bias", "llama", "the family qwen2 can"]);
    let c = ModelConfig { qk_norm: true, mlp_bias: true, ..llama() };
    assert_says(&Family::of(&c).unwrap_err(), &["llama: ", "qk_norm", "mlp_bias", "gpt2: ", "bert: "]);
    let c = ModelConfig { activation: Activation::Relu2, ..llama() };
    assert_says(&Family::Llama.fits(&c).unwrap_err(), &["relu2"]);
    let c = ModelConfig { head_dim: 16, ..gpt2() };
    assert_says(&Family::Gpt2.fits(&c).unwrap_err(), &["head_dim", "16", "12"]);
    let c = ModelConfig { logit_softcap: Some(30.0), ..llama() };
    assert_says(&Family::Llama.fits(&c).unwrap_err(), &["model.logit_softcap", "30.0"]);
    assert_says(&Family::of(&c).unwrap_err(), &["logit_softcap 30.0"]);
}

#[test]
fn an_earlier_config_keeps_its_other_keys_and_loses_what_would_contradict() {
    let mut earlier = config(&golden("llama-tied"));
    earlier["_name_or_path"] = json!("kept");
    let c = ModelConfig { layers: 3, kv_heads: 6, ..llama() };
    let dir = tempfile::tempdir().unwrap();
    hf::write_config(dir.path(), Family::Llama, &c, espalier::device::DType::Bf16, Some(&earlier)).unwrap();
    let new = config(dir.path());
    assert_eq!((&new["_name_or_path"], &new["eos_token_id"]), (&json!("kept"), &json!(2)));
    assert_eq!((&new["rope_theta"], &new["rope_scaling"]), (&json!(5000.0), &Value::Null));
    assert_eq!((&new["num_hidden_layers"], &new["torch_dtype"]), (&json!(3), &json!("bfloat16")));
    assert!(new.get("rope_parameters").is_none() && new.get("dtype").is_none());
    assert_eq!(hf::read_config(dir.path()).unwrap().1, c);
}
