//! Golden directories, and altered copies of them.

use espalier::config::ModelConfig;
use espalier::device::{DType, Device};
use espalier::model::Network;
use espalier::params::{Dp, LocalBox, ParamSpec, TensorSource};
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

pub const CASES: [&str; 7] = ["gpt2", "llama", "llama-tied", "llama-sharded", "qwen2", "qwen3", "bert"];

pub fn golden(case: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case)
}

pub fn specs(c: &ModelConfig) -> Vec<ParamSpec> {
    let (_, params) = Network::build(c, &Device::meta(), DType::F32, (0, 1), Dp::SOLO, 8);
    params.iter().map(|(_, p)| p.spec.clone()).collect()
}

pub fn whole(spec: &ParamSpec) -> LocalBox {
    LocalBox { row: 0, rows: spec.rows, stored_rows: spec.rows, col: 0, cols: spec.cols }
}

pub fn read(source: &dyn TensorSource, spec: &ParamSpec, b: LocalBox) -> Vec<f32> {
    let mut out = vec![f32::NAN; b.rows * b.cols];
    source.read(spec, b, &mut out).unwrap();
    out
}

pub type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Every tensor of every weight file of a directory.
pub fn tensors(dir: &Path) -> Tensors {
    let mut out = Tensors::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if name.starts_with("model") && name.ends_with(".safetensors") {
            let bytes = std::fs::read(&path).unwrap();
            for (name, t) in safetensors::SafeTensors::deserialize(&bytes).unwrap().iter() {
                out.insert(name.into(), (t.dtype(), t.shape().to_vec(), t.data().to_vec()));
            }
        }
    }
    assert!(!out.is_empty(), "no weights in {}", dir.display());
    out
}

pub fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

pub fn config(dir: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap()
}

pub fn write(tensors: &Tensors, config: &Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let views = tensors.iter().map(|(n, (d, s, b))| (n, TensorView::new(*d, s.clone(), b).unwrap()));
    std::fs::write(dir.path().join("model.safetensors"), safetensors::serialize(views, None).unwrap())
        .unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

/// A copy of a golden directory with its config and tensors changed.
pub fn altered(case: &str, change: impl FnOnce(&mut Value, &mut Tensors)) -> TempDir {
    let (mut config, mut tensors) = (config(&golden(case)), tensors(&golden(case)));
    change(&mut config, &mut tensors);
    write(&tensors, &config)
}

/// A directory with this config alone.
pub fn only_config(config: &Value) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    dir
}

/// The message of an error: one line that holds all of these.
pub fn assert_says(error: &espalier::Error, wanted: &[&str]) {
    let text = error.to_string();
    assert!(!text.contains('\n'), "one line: {text:?}");
    for want in wanted {
        assert!(text.contains(want), "{want:?} in {text:?}");
    }
}

/// Equal bits; names the first difference instead of printing all values.
pub fn assert_values(got: &[f32], want: &[f32], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    if let Some(i) = (0..got.len()).find(|&i| got[i].to_bits() != want[i].to_bits()) {
        panic!("{what}: value {i} is {}, not {}", got[i], want[i]);
    }
}

/// Equal names, types, shapes and bytes; names the first difference.
pub fn assert_tensors(got: &Tensors, want: &Tensors, what: &str) {
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>(), "{what}");
    for (name, (dtype, shape, bytes)) in got {
        assert_eq!((dtype, shape), (&want[name].0, &want[name].1), "{what} {name}");
        assert!(*bytes == want[name].2, "{what}: the bytes of {name}");
    }
}
