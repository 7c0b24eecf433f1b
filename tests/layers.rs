//! A module uses only modules of its own layer or below, in the order that `src/lib.rs` states; and files stay short.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Lowest first; modules of one row may use each other only from right to left.
const LAYERS: &[&[&str]] = &[
    &["terminal", "error", "signal", "config", "rng"],
    &["device", "tensor"],
    &["comm"],
    &["tape", "ops"],
    &["params"],
    &["model"],
    &["checkpoint", "data", "optim", "infer"],
    &["hf", "method"],
    &["train"],
    &["plan", "report", "bench"],
    &["cmd"],
];

/// The tape's slots add gradients, and ops are what a tape records: the two are one layer, as are those below.
const TOGETHER: &[(&str, &str)] =
    &[("tape", "ops"), ("device", "tensor"), ("checkpoint", "optim"), ("config", "rng")];

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Top-level modules named after `crate::` in the text, also inside `use crate::{a, b::c}`.
fn used(text: &str) -> Vec<String> {
    let mut names = vec![];
    for (i, _) in text.match_indices("crate::") {
        let rest = &text[i + "crate::".len()..];
        let word = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        if let Some(group) = rest.strip_prefix('{') {
            let (mut depth, mut item) = (1, String::new());
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 1 => names.push(word(std::mem::take(&mut item).trim())),
                    _ => item.push(c),
                }
                if depth == 0 {
                    break;
                }
            }
            names.push(word(item.trim()));
        } else {
            names.push(word(rest));
        }
    }
    names
}

#[test]
fn modules_use_only_their_own_layer_and_those_below() {
    let level: HashMap<&str, (usize, usize)> = LAYERS
        .iter()
        .enumerate()
        .flat_map(|(i, row)| row.iter().enumerate().map(move |(j, name)| (*name, (i, j))))
        .collect();
    let mut files = vec![];
    sources(&root(), &mut files);
    let (mut bad, mut seen) = (vec![], 0);
    for file in &files {
        let relative = file.strip_prefix(root()).unwrap();
        let module =
            relative.components().next().unwrap().as_os_str().to_str().unwrap().trim_end_matches(".rs");
        let Some(own) = level.get(module) else {
            assert!(["lib", "main"].contains(&module), "{module} has no layer: add it to tests/layers.rs");
            continue;
        };
        let text = std::fs::read_to_string(file).unwrap();
        // Tests in a file may look up.
        let text = text.split("#[cfg(test)]").next().unwrap();
        let is_test = relative.components().any(|c| c.as_os_str() == "tests" || c.as_os_str() == "tests.rs");
        for name in used(text).iter().filter(|_| !is_test) {
            let Some(other) = level.get(name.as_str()) else { continue };
            seen += 1;
            let together = TOGETHER.iter().any(|p| *p == (module, name) || *p == (name.as_str(), module));
            if other.0 > own.0 || (other.0 == own.0 && name != module && !together) {
                bad.push(format!("{} uses {name}", relative.display()));
            }
        }
    }
    assert!(seen > 100, "only {seen} uses were found: is this test blind?");
    assert!(bad.is_empty(), "upward uses:\n{}", bad.join("\n"));
}

#[test]
fn one_file_says_what_asks_the_program_to_stop() {
    let mut files = vec![];
    sources(&root(), &mut files);
    let text = |file: &PathBuf| std::fs::read_to_string(file).unwrap();
    let of = |word: &str| files.iter().filter(|file| text(file).contains(word)).count();
    assert_eq!(["SIGTERM,", "SIGUSR1", "libc::SIGINT"].map(of), [1, 1, 1]);
}

#[test]
fn files_are_short() {
    let mut files = vec![];
    sources(&root(), &mut files);
    let mut lines: Vec<(usize, &PathBuf)> =
        files.iter().map(|f| (std::fs::read_to_string(f).unwrap().lines().count(), f)).collect();
    lines.sort();
    let at = |share: f64| lines[((lines.len() - 1) as f64 * share) as usize].0;
    println!(
        "{} files: median {}, 90 % {}, longest {:?}",
        lines.len(),
        at(0.5),
        at(0.9),
        lines[lines.len() - 1]
    );
    assert!(
        at(0.5) <= 150 && at(0.9) <= 400 && at(1.0) <= 600,
        "files have grown: {:?}",
        &lines[lines.len() - 5..]
    );
}
