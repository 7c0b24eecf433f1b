//! The commands as a user starts them.

use super::dirs::*;
use espalier::hf;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

fn import(dir: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_espalier")).arg("import").arg(dir).args(more).output().unwrap()
}

#[test]
fn import_says_what_a_directory_holds() {
    let (_, c) = hf::read_config(&golden("qwen2")).unwrap();
    let done = import(&golden("qwen2"), &["--json"]);
    let said: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&said["family"], &said["params"]), (&json!("qwen2"), &json!(c.params())));
    assert_eq!(said["types"], json!({ "F32": c.params() }));
    assert_eq!(said["model"], serde_json::to_value(&c).unwrap());
    let done = import(&golden("qwen2"), &[]);
    assert!(String::from_utf8(done.stdout).unwrap().contains("2 layers, dim 72, 6 heads (2 kv) of 12"));
}

#[test]
fn import_fails_with_one_sentence_and_the_code_of_its_kind() {
    let headless = altered("bert", |_, t| t.retain(|name, _| !name.starts_with("cls.")));
    let refused = altered("llama", |config, _| config["hidden_act"] = json!("relu"));
    for (dir, code, want) in [(&headless, 4, "cls.predictions.bias"), (&refused, 2, "hidden_act")] {
        let done = import(dir.path(), &[]);
        let text = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(code), "{text}");
        assert!(text.contains(want) && text.trim().lines().count() == 1, "{text}");
    }
    let done = import(headless.path(), &["--allow-missing-head", "--json"]);
    let said: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!(said["initial"].as_array().unwrap().len(), 5);
}
