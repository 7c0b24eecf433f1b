//! The schema as a page: `docs/run-file.md` is what this prints.

use super::schema::{Absent, Key, TABLES, Takes};
use super::{ModelConfig, keys};

const HEAD: &str = "\
# The run file

Printed by `espalier config reference` from the schema that reads run files; do not edit it here.

A run file is TOML. An unknown key is an error that names the nearest known one. `--set TABLE.KEY=VALUE` overrides a key
(`--set run.seed=7`, `--set phase.0.tokens=1_000_000`); lists are numbered from 0. `run.toml` in a run directory is the
resolved file, with every default written out, and is itself a run file. `configs/example.toml` is one with every key.
";

/// Every key with what it takes, its default and its meaning, as Markdown.
pub fn reference() -> String {
    let mut page = HEAD.to_string();
    for table in TABLES {
        let head = if table.path.is_empty() { "Top".into() } else { format!("`{}`", table.head) };
        page += &format!("\n## {head}\n\n");
        if !table.about.is_empty() {
            page += &format!("{}\n\n", table.about);
        }
        page += "| key | takes | default | meaning |\n|---|---|---|---|\n";
        table.keys.iter().for_each(|key| page += &row(key));
        if table.path == "model" {
            page += &format!("\nPresets: {}.\n", ModelConfig::presets().join(", "));
        }
    }
    page += "\n## Not built yet\n\nThese are refused by name:\n\n";
    for (table, names, _) in keys::NOT_BUILT {
        let names: Vec<String> = names.iter().map(|n| format!("`{}`", keys::join(table, n))).collect();
        page += &format!("- {}\n", names.join(", "));
    }
    page
}

fn row(key: &Key) -> String {
    let takes = match &key.takes {
        Takes::Words(words) => words().iter().map(|w| format!("`\"{w}\"`")).collect::<Vec<_>>().join(", "),
        other => other.wants(),
    };
    let absent = match key.absent {
        Absent::Required => "required".into(),
        Absent::Is(value) => format!("`{value}`"),
        Absent::Means(words) => words.to_string(),
    };
    format!("| `{}` | {takes} | {absent} | {} |\n", key.name, key.about)
}
