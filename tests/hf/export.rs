use super::dirs::*;
use espalier::config::ModelConfig;
use espalier::device::DType;
use espalier::hf::{self, Export, Family, HfSource};
use espalier::params::{LocalBox, ParamSpec, RandomInit, TensorSource};
use espalier::{Error, Result};
use safetensors::tensor::Dtype;
use std::path::Path;

fn copy(from: &Path, to: &Path, max_shard_bytes: u64, dtype: DType) {
    let source = HfSource::open(from).unwrap();
    let options = Export { dtype, max_shard_bytes, extra: Some(source.json()) };
    hf::export(to, source.family(), source.config(), &source, options).unwrap();
}

#[test]
fn what_was_read_is_written_byte_for_byte() {
    for case in CASES {
        let dir = tempfile::tempdir().unwrap();
        copy(&golden(case), dir.path(), u64::MAX, DType::F32);
        assert_tensors(&tensors(dir.path()), &tensors(&golden(case)), case);
        if case != "llama-sharded" {
            let file = |dir: &Path| std::fs::read(dir.join("model.safetensors")).unwrap();
            assert!(file(dir.path()) == file(&golden(case)), "{case}: the whole file, header included");
        }
        assert_eq!(hf::read_config(dir.path()).unwrap(), hf::read_config(&golden(case)).unwrap(), "{case}");
    }
}

#[test]
fn shards_are_those_that_transformers_writes() {
    let dir = tempfile::tempdir().unwrap();
    copy(&golden("llama"), dir.path(), 200_000, DType::F32);
    for entry in std::fs::read_dir(golden("llama-sharded")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        let (want, got) =
            (std::fs::read(&path).unwrap(), std::fs::read(dir.path().join(&name)).unwrap_or_default());
        match name.as_str() {
            "config.json" | "generation_config.json" => {}
            "model.safetensors.index.json" => {
                let value = |b: &[u8]| serde_json::from_slice::<serde_json::Value>(b).unwrap();
                assert_eq!(value(&got), value(&want));
            }
            _ => assert!(want == got, "{name}"),
        }
    }
    assert!(!dir.path().join("model.safetensors").exists());
    let source = HfSource::open(dir.path()).unwrap();
    let again = tempfile::tempdir().unwrap();
    hf::export(again.path(), Family::Llama, source.config(), &source, Export::default()).unwrap();
    assert_tensors(&tensors(again.path()), &tensors(&golden("llama")), "llama");
}

#[test]
fn bf16_weights_survive_a_round_trip_byte_for_byte() {
    for case in ["gpt2", "qwen3"] {
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        copy(&golden(case), first.path(), u64::MAX, DType::Bf16);
        copy(first.path(), second.path(), u64::MAX, DType::Bf16);
        let (first, full) = (tensors(first.path()), tensors(&golden(case)));
        assert_tensors(&first, &tensors(second.path()), case);
        for (name, (dtype, shape, bytes)) in &first {
            let rounded =
                floats(&full[name].2).into_iter().flat_map(|x| half::bf16::from_f32(x).to_le_bytes());
            assert_eq!((dtype, shape), (&Dtype::BF16, &full[name].1), "{name}");
            assert!(*bytes == rounded.collect::<Vec<_>>(), "{name}");
        }
    }
}

#[test]
fn heads_are_stored_as_each_family_stores_them() {
    let export = |case: &str, tied: bool| {
        let (family, c) = hf::read_config(&golden(case)).unwrap();
        let c = ModelConfig { tied, ..c };
        let dir = tempfile::tempdir().unwrap();
        hf::export(dir.path(), family, &c, &RandomInit { seed: 3 }, Export::default()).unwrap();
        let source = HfSource::open(dir.path()).unwrap();
        assert_eq!(source.config().tied, tied);
        for spec in specs(&c) {
            let mut want = vec![0.0; spec.len()];
            spec.fill(3, whole(&spec), &mut want);
            assert_values(&read(&source, &spec, whole(&spec)), &want, &format!("{case} {}", spec.name));
        }
        let names =
            tensors(dir.path()).into_keys().filter(|n| n.contains("lm_head") || n.contains("predictions."));
        names.filter(|n| !n.contains("transform")).collect::<Vec<_>>()
    };
    for case in ["gpt2", "llama", "qwen2", "qwen3"] {
        assert!(export(case, true).is_empty(), "{case}");
        assert_eq!(export(case, false), ["lm_head.weight"], "{case}");
    }
    assert_eq!(export("bert", true), ["cls.predictions.bias"]);
    let untied = ["cls.predictions.bias", "cls.predictions.decoder.bias", "cls.predictions.decoder.weight"];
    assert_eq!(export("bert", false), untied);
}

#[test]
fn a_directory_that_holds_a_model_is_not_written_over() {
    let source = HfSource::open(&golden("llama")).unwrap();
    for name in ["model.safetensors", "model-00007-of-00009.safetensors", "pytorch_model.bin", "config.json"]
    {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(name), "old").unwrap();
        let done = hf::export(dir.path(), Family::Llama, source.config(), &source, Export::default());
        assert_says(&done.unwrap_err(), &["already holds", name]);
        assert_eq!(std::fs::read(dir.path().join(name)).unwrap(), b"old");
    }
}

#[test]
fn what_cannot_be_exported_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("new");
    let source = HfSource::open(&golden("qwen3")).unwrap();
    let done = hf::export(&out, Family::Llama, source.config(), &source, Export::default());
    assert_says(&done.unwrap_err(), &["qk_norm"]);
    let options = Export { dtype: DType::F64, ..Export::default() };
    assert_says(&hf::export(&out, Family::Qwen3, source.config(), &source, options).unwrap_err(), &["f64"]);
    assert!(!out.exists());
}

#[test]
fn a_failing_source_leaves_no_model_behind() {
    struct Failing;
    impl TensorSource for Failing {
        fn read(&self, spec: &ParamSpec, b: LocalBox, out: &mut [f32]) -> Result<()> {
            match spec.name.as_str() {
                "blocks.1.mlp.up.weight" => Err(Error::checkpoint("ckpt", "is gone", "")),
                _ => RandomInit { seed: 0 }.read(spec, b, out),
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let (family, c) = hf::read_config(&golden("llama")).unwrap();
    assert_says(&hf::export(dir.path(), family, &c, &Failing, Export::default()).unwrap_err(), &["is gone"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}
