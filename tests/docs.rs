//! What the documentation says is run: every ```sh block of README.md and docs/*.md, page by page, in a folder of its
//! own that has this repository's texts, sources and run files, with `espalier` in PATH.
//!
//! - "```sh" must succeed, "```sh exit 2" must end with that code, "```sh no-run: WHY" is not run.
//! - "```output" after it: each line must be in what the block printed, where any number stands for any other.
//! - An HTML comment that begins with "before:" is run before the first block.
//! - `espalier train` gets `SMALL` on top, so that it takes seconds. All else runs as written.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A network and budget that train in a moment; widths that the presets of the pages have in common.
const SMALL: &str = "--set model.layers=1 --set model.dim=32 --set model.ffn_dim=64 --set phase.0.steps=3 \
                     --set run.seq_len=32 --set run.global_batch=4 --set eval.tokens=300";

struct Block {
    line: usize,
    /// What follows the fence: "sh exit 2".
    info: String,
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The pages, README.md first.
fn pages() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join("docs")).expect("docs/");
    let mut pages: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    pages.retain(|p| p.extension().is_some_and(|e| e == "md"));
    pages.sort();
    pages.insert(0, root().join("README.md"));
    pages
}

fn blocks(page: &str) -> Vec<Block> {
    let (mut blocks, mut open): (Vec<Block>, Option<Block>) = (vec![], None);
    for (i, line) in page.lines().enumerate() {
        match (line.strip_prefix("```"), open.take()) {
            (Some(info), None) => {
                open = Some(Block { line: i + 1, info: info.trim().into(), text: String::new() })
            }
            (Some(_), Some(block)) => blocks.push(block),
            (None, Some(mut block)) => {
                block.text += &format!("{line}\n");
                open = Some(block);
            }
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block is not closed");
    blocks
}

/// The exit code a block must end with; none if it is not run.
fn exit_code(info: &str, at: &str) -> Option<i32> {
    match info.strip_prefix("sh")?.trim() {
        "" => Some(0),
        rest => match (rest.strip_prefix("exit "), rest.strip_prefix("no-run: ")) {
            (Some(code), _) => Some(code.parse().unwrap_or_else(|_| panic!("{at}: no exit code: {code}"))),
            (_, Some(why)) if !why.trim().is_empty() => None,
            _ => panic!("{at}: write sh, sh exit N or sh no-run: WHY, not {info:?}"),
        },
    }
}

/// A folder as the root of a clone with a built program, as far as pages look at it.
fn clone() -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    for name in ["tests", "src", "configs", "tools"] {
        std::os::unix::fs::symlink(root().join(name), dir.path().join(name)).expect("a link");
    }
    let program = env!("CARGO_BIN_EXE_espalier");
    let script = format!(
        "#!/bin/sh\ncase \"$1\" in\n  train) exec '{program}' \"$@\" {SMALL} ;;\n  *) exec '{program}' \"$@\" ;;\nesac\n"
    );
    let bin = dir.path().join("bin");
    std::fs::create_dir(&bin).expect("a folder");
    std::fs::write(bin.join("espalier"), script).expect("writes");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(bin.join("espalier"), mode).expect("executable");
    dir
}

fn run(dir: &Path, script: &str) -> Output {
    let path = format!("{}:{}", dir.join("bin").display(), std::env::var("PATH").unwrap_or_default());
    let mut bash = Command::new("bash");
    bash.current_dir(dir).env_clear().env("PATH", path).env("HOME", dir);
    bash.args(["-euo", "pipefail", "-c", script]).output().expect("bash starts")
}

/// Without its numbers and the width of its gaps.
fn shape(line: &str) -> String {
    let mut out = String::new();
    for word in line.split_whitespace() {
        let mut number = false;
        for c in word.chars() {
            let part = c.is_ascii_digit() || number && c == '.';
            match (part, number) {
                (true, false) => out.push('#'),
                (true, true) => {}
                (false, _) => out.push(c),
            }
            number = part;
        }
        out.push(' ');
    }
    out.trim_end().into()
}

/// Runs a page; what is wrong with it, and how many blocks were run.
fn check(page: &Path) -> (Vec<String>, usize) {
    let name = page.file_name().expect("a name").to_string_lossy().into_owned();
    let text = std::fs::read_to_string(page).expect("a page");
    let (dir, mut wrong, mut ran) = (clone(), vec![], 0);
    if let Some((_, rest)) = text.split_once("<!-- before:") {
        let script = rest.split_once("-->").expect("the comment ends").0;
        let out = run(dir.path(), script);
        assert!(out.status.success(), "{name}, before: {}", String::from_utf8_lossy(&out.stderr));
    }
    let mut printed: Option<String> = None;
    for block in blocks(&text) {
        let at = format!("{name} line {}", block.line);
        if block.info == "output" {
            let Some(printed) = &printed else { continue };
            let lines: Vec<String> = printed.lines().map(shape).collect();
            for line in block.text.lines().filter(|l| !l.trim().is_empty()) {
                if !lines.iter().any(|l| l.contains(&shape(line))) {
                    wrong.push(format!("{at}: nothing like {line:?} in\n{printed}"));
                }
            }
            continue;
        }
        printed = None;
        if let Some(code) = exit_code(&block.info, &at) {
            let out = run(dir.path(), &block.text);
            let all = [&out.stdout[..], &out.stderr[..]].concat();
            let all = String::from_utf8_lossy(&all).into_owned();
            if out.status.code() != Some(code) {
                wrong.push(format!("{at}: {:?}, not {code}\n{}{all}", out.status.code(), block.text));
            }
            (printed, ran) = (Some(all), ran + 1);
        }
    }
    (wrong, ran)
}

#[test]
fn every_command_of_the_documentation_works_and_prints_what_it_says() {
    let (mut wrong, mut ran) = (vec![], 0);
    for page in pages() {
        let (problems, blocks) = check(&page);
        wrong.extend(problems);
        ran += blocks;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    assert!(ran > 12, "only {ran} blocks were run: is this test blind?");
}

#[test]
fn a_command_that_fails_and_an_output_that_is_gone_are_noticed() {
    let dir = tempfile::tempdir().expect("a folder");
    let page = dir.path().join("page.md");
    let check = |text: &str| {
        std::fs::write(&page, text).expect("writes");
        check(&page).0.len()
    };
    assert_eq!(check("```sh\necho at 3: 1.5 nats\n```\n```output\nat 700:  22.25 nats\n```\n"), 0);
    assert_eq!(check("```sh\necho at 3: 1.5 nats\n```\n```output\nat 3: 1.5 bits\n```\n"), 1);
    assert_eq!(check("```sh\nespalier corpus inspect nowhere\n```\n"), 1);
    assert_eq!(check("```sh exit 3\nespalier corpus inspect nowhere\n```\n"), 0);
    assert_eq!(check("```sh\nfalse | true\n```\n"), 1);
    assert_eq!(check("```sh no-run: it fails\nfalse\n```\n"), 0);
}

#[test]
fn links_between_pages_lead_somewhere_and_the_list_has_every_page() {
    let list = std::fs::read_to_string(root().join("docs/README.md")).expect("docs/README.md");
    for page in pages() {
        let text = std::fs::read_to_string(&page).expect("a page");
        for (i, _) in text.match_indices("](") {
            let target = text[i + 2..].split([')', '#']).next().unwrap_or_default();
            if !target.is_empty() && !target.contains("://") {
                let path = page.parent().expect("a folder").join(target);
                assert!(path.exists(), "{}: {target} is not there", page.display());
            }
        }
        let name = page.file_name().expect("a name").to_string_lossy().into_owned();
        let own = page.parent() == Some(root()) || name == "README.md";
        assert!(own || list.contains(&format!("({name})")), "docs/README.md does not list {name}");
    }
}

/// The names in the first column of the tables of a section of a page.
fn keys(page: &str, section: &str) -> BTreeSet<String> {
    let (_, rest) = page.split_once(&format!("\n{section}\n")).expect("the section");
    let rows = rest.lines().take_while(|l| !l.starts_with("## ")).filter(|l| l.starts_with("| `"));
    let cells = rows.filter_map(|l| l.split('|').nth(1));
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).map(String::from).collect()
}

#[test]
fn the_rows_of_metrics_have_the_keys_of_their_page_and_no_others() {
    let dir = clone();
    let script =
        "espalier corpus build tests/text --out data/quickstart && espalier train configs/quickstart.toml";
    let out = run(dir.path(), script);
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let page = std::fs::read_to_string(root().join("docs/metrics.md")).expect("a page");
    let common = keys(&page, "Every row has:");
    let text = std::fs::read_to_string(dir.path().join("runs/quickstart/metrics.jsonl")).expect("rows");
    let mut kinds = BTreeSet::new();
    for line in text.lines() {
        let row: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let kind = row["kind"].as_str().expect("a kind");
        let got: BTreeSet<String> = row.as_object().expect("an object").keys().cloned().collect();
        let want: BTreeSet<String> = keys(&page, &format!("## {kind}")).union(&common).cloned().collect();
        assert_eq!(got, want, "a row of kind {kind}");
        kinds.insert(kind.to_string());
    }
    assert_eq!(kinds.len(), 5, "{kinds:?}");
}
