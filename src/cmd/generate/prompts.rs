//! The prompts of a command line: `--prompt` one by one, then `--prompts FILE`.

use crate::{Error, Result};
use std::path::Path;

/// All prompts in order. Without any, one that is empty.
pub fn all(given: &[String], file: Option<&Path>) -> Result<Vec<String>> {
    let mut all = given.to_vec();
    if let Some(path) = file {
        let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
        let text = String::from_utf8(bytes).map_err(|e| {
            let at = e.utf8_error().valid_up_to();
            Error::data(path, format!("is not UTF-8 from byte {at} on"), "prompts are text")
        })?;
        let jsonl = path.extension().is_some_and(|e| e == "jsonl" || e == "ndjson");
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        let before = all.len();
        for (i, line) in lines {
            all.push(if jsonl { field(path, i + 1, line)? } else { line.into() });
        }
        if all.len() == before {
            return Err(Error::data(path, "has no prompt", "write one a line"));
        }
    } else if all.is_empty() {
        all.push(String::new());
    }
    Ok(all)
}

/// The field `prompt` of a line of JSON.
fn field(path: &Path, number: usize, line: &str) -> Result<String> {
    let wrong = |problem: String| {
        Error::data(path, format!("line {number} {problem}"), "write {\"prompt\": \"TEXT\"}")
    };
    let value: serde_json::Value =
        serde_json::from_str(line).map_err(|e| wrong(format!("is not JSON ({e})")))?;
    match value.get("prompt").and_then(|p| p.as_str()) {
        Some(text) => Ok(text.into()),
        None => Err(wrong("has no text under the key prompt".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_come_from_the_command_line_from_lines_and_from_jsonl() {
        let dir = tempfile::tempdir().expect("a directory");
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("writes");
            path
        };
        let lines = file("lines.txt", "one\n\n two \r\nthree");
        let want = ["zero", "one", " two ", "three"];
        assert_eq!(all(&["zero".into()], Some(&lines)).expect("prompts"), want);
        let json = file("p.jsonl", "{\"prompt\": \"a\\nb\", \"id\": 3}\n{\"prompt\": \"\"}\n");
        assert_eq!(all(&[], Some(&json)).expect("prompts"), ["a\nb", ""]);
        assert_eq!(all(&[], None).expect("one"), [""]);
        let bad =
            [("x.jsonl", "{\"prompt\": \"a\"}\n{\"text\": 1}\n", "line 2"), ("y.jsonl", "{", "not JSON")];
        for (name, text, says) in bad.into_iter().chain([("z.txt", "\n \n", "no prompt")]) {
            let error = all(&[], Some(&file(name, text))).expect_err(name).to_string();
            assert!(error.contains(says), "{name}: {error}");
        }
    }
}
