//! A run file as a tree that remembers where each value was written, so that every message can say it.

use crate::{Error, Result};
use std::borrow::Cow;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub(super) struct Doc {
    pub file: String,
    /// The `--set` arguments, for messages.
    pub sets: Vec<String>,
    pub root: Node,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub value: Value,
    pub origin: Origin,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(String),
    Array(Vec<Node>),
    /// In the order of the file.
    Table(Vec<(String, Node)>),
    Date,
}

#[derive(Clone, Debug)]
pub(super) enum Origin {
    Line(usize),
    /// Index of the `--set` argument.
    Set(usize),
    Preset(&'static str),
}

impl Doc {
    pub fn parse(text: &str, file: &str) -> Result<Doc> {
        let table = DeTable::parse(text).map_err(|e| {
            let line = e.span().map_or(1, |s| line_of(text, s.start));
            let what = e.message().trim().replace('\n', ", ");
            Error::config(
                file,
                format!("line {line}"),
                format!("not TOML: {what}"),
                "strings need quotes, keys are written `key = value`",
            )
        })?;
        let root =
            table_node(table.get_ref(), &|at| Origin::Line(line_of(text, at)), 1).map_err(|(at, what)| {
                Error::config(
                    file,
                    format!("line {}", line_of(text, at)),
                    what,
                    "write a number that fits in 64 bits",
                )
            })?;
        Ok(Doc { file: file.into(), sets: Vec::new(), root })
    }

    /// The node at a dotted path; numbers index arrays.
    pub fn find(&self, path: &str) -> Option<&Node> {
        path.split('.').try_fold(&self.root, |node, part| node.get(part))
    }

    /// An error about the key at `path`, with the line, `--set` or preset that gave it, or else the place of the
    /// nearest table around it.
    pub fn error(&self, path: &str, problem: impl ToString, remedy: impl ToString) -> Error {
        let mut origin = None;
        let mut node = &self.root;
        for part in path.split('.') {
            let Some(next) = node.get(part) else { break };
            (node, origin) = (next, Some(&next.origin));
        }
        match origin {
            Some(Origin::Set(i)) => {
                let set = self.sets.get(*i).map_or("", |s| s.as_str());
                Error::config(format!("--set {set}"), path, problem, remedy)
            }
            Some(Origin::Line(line)) => {
                Error::config(&self.file, format!("{path} (line {line})"), problem, remedy)
            }
            Some(Origin::Preset(name)) => {
                Error::config(&self.file, format!("{path} (preset {name})"), problem, remedy)
            }
            None => Error::config(&self.file, path, problem, remedy),
        }
    }
}

impl Node {
    pub fn get(&self, part: &str) -> Option<&Node> {
        match &self.value {
            Value::Table(entries) => entries.iter().find(|(k, _)| k == part).map(|(_, n)| n),
            Value::Array(items) => items.get(part.parse::<usize>().ok()?),
            _ => None,
        }
    }

    /// What it is, with the value where that is short: "the string \"x\"".
    pub fn describe(&self) -> Cow<'static, str> {
        match &self.value {
            Value::Bool(b) => format!("the boolean {b}").into(),
            Value::Int(i) => format!("the integer {i}").into(),
            Value::Float(f) => format!("the number {f:?}").into(),
            Value::Str(s) if s.chars().count() <= 40 => format!("the string {s:?}").into(),
            Value::Str(_) => "a long string".into(),
            Value::Array(_) => "a list".into(),
            Value::Table(_) => "a table".into(),
            Value::Date => "a date".into(),
        }
    }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.as_bytes().iter().take(at).filter(|&&b| b == b'\n').count()
}

type Origins<'a> = &'a dyn Fn(usize) -> Origin;

fn table_node(table: &DeTable, origin: Origins, at: usize) -> Result<Node, (usize, String)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(k, _)| k.span().start);
    let entries = entries
        .into_iter()
        .map(|(k, v)| {
            let mut node = node(v, origin)?;
            node.origin = origin(k.span().start);
            Ok((k.get_ref().to_string(), node))
        })
        .collect::<Result<_, _>>()?;
    Ok(Node { value: Value::Table(entries), origin: origin(at) })
}

/// Converts a parsed value; the error is the offset and the problem.
pub(super) fn node(v: &Spanned<DeValue>, origin: Origins) -> Result<Node, (usize, String)> {
    let at = v.span().start;
    let value = match v.get_ref() {
        DeValue::String(s) => Value::Str(s.to_string()),
        DeValue::Integer(i) => match i128::from_str_radix(i.as_str(), i.radix()) {
            Ok(n) => Value::Int(n),
            Err(_) => return Err((at, format!("the integer {i} is too large"))),
        },
        DeValue::Float(f) => match f.as_str().parse::<f64>() {
            Ok(x) if x.is_finite() || f.as_str().contains("inf") || x.is_nan() => Value::Float(x),
            _ => return Err((at, format!("the number {f} is too large"))),
        },
        DeValue::Boolean(b) => Value::Bool(*b),
        DeValue::Datetime(_) => Value::Date,
        DeValue::Array(items) => {
            Value::Array(items.iter().map(|v| node(v, origin)).collect::<Result<_, _>>()?)
        }
        DeValue::Table(t) => return table_node(t, origin, at),
    };
    Ok(Node { value, origin: origin(at) })
}
