//! `--set a.b=v`: the value is TOML where it reads as TOML, else a string; numbers in the path index lists.

use super::doc::{Doc, Node, Origin, Value, node};
use crate::{Error, Result};
use toml::de::DeTable;

const SYNTAX: &str =
    "write --set table.key=value, for example --set run.seed=7 or --set phase.0.tokens=1_000_000";

impl Doc {
    /// Applies one `--set` argument over what the file says. Keys are judged later, with those of the file.
    pub fn set(&mut self, arg: &str) -> Result<()> {
        let refuse = |key: &str, problem: String, remedy: &str| {
            Err(Error::config(format!("--set {arg}"), key, problem, remedy))
        };
        let Some((path, text)) = arg.split_once('=') else {
            return refuse(arg, "there is no `=`".into(), SYNTAX);
        };
        let path = path.trim();
        let parts: Vec<&str> = path.split('.').map(str::trim).collect();
        if parts.iter().any(|p| p.is_empty()) || parts.len() > 16 {
            return refuse(path, "this is not a dotted path".into(), SYNTAX);
        }
        let origin = Origin::Set(self.sets.len());
        self.sets.push(arg.into());
        let value = parse(text.trim(), &origin);

        let mut at = &mut self.root;
        for (depth, part) in parts.iter().enumerate() {
            let here = parts[..depth].join(".");
            let what = at.describe();
            at = match &mut at.value {
                Value::Table(entries) => {
                    let found = entries.iter().position(|(k, _)| k == part).unwrap_or_else(|| {
                        let empty = Node { value: Value::Table(Vec::new()), origin: origin.clone() };
                        entries.push((part.to_string(), empty));
                        entries.len() - 1
                    });
                    &mut entries[found].1
                }
                Value::Array(items) => {
                    let len = items.len();
                    match part.parse::<usize>().ok().and_then(|i| items.get_mut(i)) {
                        Some(item) => item,
                        None => {
                            let problem = format!("`{here}` is a list of {len} and `{part}` is none of them");
                            return refuse(path, problem, "entries are numbered from 0");
                        }
                    }
                }
                _ => {
                    let problem = format!("`{here}` is {what}, so it has no `{part}`");
                    return refuse(path, problem, "give the path of a key");
                }
            };
        }
        *at = value;
        Ok(())
    }
}

fn parse(text: &str, origin: &Origin) -> Node {
    let string = || Node { value: Value::Str(text.into()), origin: origin.clone() };
    let line = format!("x = {text}");
    let Ok(table) = DeTable::parse(&line) else { return string() };
    let mut entries = table.get_ref().iter();
    match (entries.next(), entries.next()) {
        (Some((_, v)), None) => match node(v, &|_| origin.clone()) {
            Ok(Node { value: Value::Date, .. }) | Err(_) => string(),
            Ok(n) => n,
        },
        _ => string(),
    }
}
