//! Typed reading of one table: each getter returns `None` for an absent key and an error for a value that is not
//! what the key takes.

use super::doc::{Doc, Node, Value};
use super::keys::{join, nearest};
use crate::{Error, Result};
use std::ops::RangeInclusive;

#[derive(Clone)]
pub(super) struct Table<'a> {
    pub doc: &'a Doc,
    pub path: String,
    /// Empty for a table that is absent.
    pub entries: &'a [(String, Node)],
}

impl<'a> Table<'a> {
    pub fn root(doc: &'a Doc) -> Table<'a> {
        let entries = match &doc.root.value {
            Value::Table(entries) => entries.as_slice(),
            _ => &[],
        };
        Table { doc, path: String::new(), entries }
    }

    pub fn get(&self, key: &str) -> Option<&'a Node> {
        self.entries.iter().find(|(k, _)| k == key).map(|(_, n)| n)
    }

    pub fn error(&self, key: &str, problem: impl ToString, remedy: impl ToString) -> Error {
        self.doc.error(&join(&self.path, key), problem, remedy)
    }

    pub fn not_built(&self, key: &str, what: &str, instead: &str) -> Error {
        self.error(key, format!("{what} is not built yet"), instead)
    }

    /// For a required key that is absent; `line` is what to write.
    pub fn missing(&self, key: &str, line: &str) -> Error {
        self.error(key, "this required key is missing", format!("add `{line}`"))
    }

    fn wrong<T>(&self, key: &str, node: &Node, wants: &str) -> Result<T> {
        Err(self.error(key, format!("this is {}", node.describe()), format!("give {wants}")))
    }

    /// The table under `key`, or `None`.
    pub fn opt_table(&self, key: &str) -> Result<Option<Table<'a>>> {
        let Some(node) = self.get(key) else { return Ok(None) };
        let path = join(&self.path, key);
        match &node.value {
            Value::Table(entries) => Ok(Some(Table { doc: self.doc, path, entries })),
            _ => self.wrong(key, node, &format!("a table, such as [{path}] with its keys below")),
        }
    }

    /// The table under `key`, empty if absent.
    pub fn table(&self, key: &str) -> Result<Table<'a>> {
        let empty = Table { doc: self.doc, path: join(&self.path, key), entries: &[] };
        Ok(self.opt_table(key)?.unwrap_or(empty))
    }

    pub fn list(&self, key: &str) -> Result<Option<&'a [Node]>> {
        let Some(node) = self.get(key) else { return Ok(None) };
        match &node.value {
            Value::Array(items) => Ok(Some(items)),
            _ => self.wrong(key, node, "a list in [ ]"),
        }
    }

    /// A list of tables: `[[key]]` or `[{ .. }, { .. }]`.
    pub fn tables(&self, key: &str) -> Result<Option<Vec<Table<'a>>>> {
        let Some(items) = self.list(key)? else { return Ok(None) };
        let each = items.iter().enumerate().map(|(i, node)| {
            let name = format!("{key}.{i}");
            match &node.value {
                Value::Table(entries) => Ok(Table { doc: self.doc, path: join(&self.path, &name), entries }),
                _ => self.wrong(&name, node, "a table in { }"),
            }
        });
        each.collect::<Result<Vec<_>>>().map(Some)
    }

    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        let Some(node) = self.get(key) else { return Ok(None) };
        match node.value {
            Value::Bool(b) => Ok(Some(b)),
            _ => self.wrong(key, node, "true or false"),
        }
    }

    pub fn str(&self, key: &str, wants: &str) -> Result<Option<&'a str>> {
        let Some(node) = self.get(key) else { return Ok(None) };
        match &node.value {
            Value::Str(s) if !s.is_empty() && !s.contains('\0') => Ok(Some(s)),
            _ => self.wrong(key, node, wants),
        }
    }

    pub fn strs(&self, key: &str, wants: &str) -> Result<Option<Vec<&'a str>>> {
        let Some(items) = self.list(key)? else { return Ok(None) };
        let each = items.iter().enumerate().map(|(i, node)| match &node.value {
            Value::Str(s) if !s.is_empty() => Ok(s.as_str()),
            _ => self.wrong(&format!("{key}.{i}"), node, wants),
        });
        each.collect::<Result<Vec<_>>>().map(Some)
    }

    pub fn int(&self, key: &str, range: RangeInclusive<u64>) -> Result<Option<u64>> {
        let Some(node) = self.get(key) else { return Ok(None) };
        let wants = match (*range.start(), *range.end()) {
            (low, u64::MAX) => format!("a whole number of at least {low}"),
            (low, high) => format!("a whole number from {low} to {high}"),
        };
        match node.value {
            Value::Int(i) => match u64::try_from(i).ok().filter(|n| range.contains(n)) {
                Some(n) => Ok(Some(n)),
                None => Err(self.error(key, format!("{i} is out of range"), format!("give {wants}"))),
            },
            Value::Float(f) if f.fract() == 0.0 && (0.0..1e15).contains(&f) => {
                self.wrong(key, node, &format!("{wants}, written without a fraction or exponent: {f:.0}"))
            }
            _ => self.wrong(key, node, &wants),
        }
    }

    pub fn usize(&self, key: &str, range: RangeInclusive<usize>) -> Result<Option<usize>> {
        let range = *range.start() as u64..=*range.end() as u64;
        Ok(self.int(key, range)?.map(|n| n as usize))
    }

    /// A finite number for which `ok` holds; `wants` names the condition.
    pub fn float(&self, key: &str, wants: &str, ok: impl Fn(f64) -> bool) -> Result<Option<f64>> {
        let Some(node) = self.get(key) else { return Ok(None) };
        match number(node) {
            Some(x) if x.is_finite() && ok(x) => Ok(Some(x)),
            Some(x) => Err(self.error(key, format!("{x:?} is out of range"), format!("give {wants}"))),
            None => self.wrong(key, node, wants),
        }
    }

    /// One of a few words.
    pub fn choice<T: Copy>(&self, key: &str, choices: &[(&str, T)]) -> Result<Option<T>> {
        let Some(node) = self.get(key) else { return Ok(None) };
        let words: Vec<&str> = choices.iter().map(|(w, _)| *w).collect();
        let Value::Str(s) = &node.value else {
            return self.wrong(key, node, &format!("one of the strings {}", words.join(", ")));
        };
        if let Some((_, value)) = choices.iter().find(|(w, _)| w == s) {
            return Ok(Some(*value));
        }
        let near = nearest(s, &words).map_or(String::new(), |w| format!(", nearest is \"{w}\""));
        Err(self.error(key, format!("unknown value {s:?}{near}"), format!("allowed: {}", words.join(", "))))
    }
}

pub(super) fn number(node: &Node) -> Option<f64> {
    match node.value {
        Value::Int(i) => Some(i as f64),
        Value::Float(f) => Some(f),
        _ => None,
    }
}
