//! Typed access to the keys of config.json. A key that is null counts as absent, as in `transformers`.

use crate::{Error, Result};
use serde_json::{Map, Value};

/// Sizes beyond this are damage, not models; it also keeps products of sizes far from overflow.
const MAX_SIZE: u64 = 1 << 24;

/// An object of the file, whose keys are named `prefix` + key in errors.
pub struct Fields<'a> {
    file: &'a str,
    prefix: String,
    map: &'a Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub fn new(file: &'a str, map: &'a Map<String, Value>) -> Fields<'a> {
        Fields { file, prefix: String::new(), map }
    }

    pub fn error(&self, key: &str, problem: impl ToString, remedy: impl ToString) -> Error {
        Error::config(self.file, format!("{}{key}", self.prefix), problem, remedy)
    }

    /// "VALUE is not supported; REMEDY"
    pub fn refuse(&self, key: &str, remedy: &str) -> Error {
        let value = self.get(key).map_or("null".into(), Value::to_string);
        self.error(key, format!("{} is not supported", shorten(value)), remedy)
    }

    fn wrong(&self, key: &str, v: &Value, want: &str) -> Error {
        self.error(key, format!("{} is not {want}", shorten(v.to_string())), "")
    }

    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub fn has(&self, key: &str) -> bool {
        self.map.contains_key(key)
    }

    pub fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.map.keys().map(String::as_str)
    }

    pub fn size_opt(&self, key: &str) -> Result<Option<usize>> {
        let Some(v) = self.get(key) else { return Ok(None) };
        match v.as_u64() {
            Some(n) if (1..=MAX_SIZE).contains(&n) => Ok(Some(n as usize)),
            _ => Err(self.wrong(key, v, &format!("a whole number from 1 to {MAX_SIZE}"))),
        }
    }

    pub fn size(&self, key: &str) -> Result<usize> {
        self.size_opt(key)?
            .ok_or_else(|| self.error(key, "is missing", "the shape cannot be known without it"))
    }

    /// A count that may be 0.
    pub fn count(&self, key: &str, default: usize) -> Result<usize> {
        match self.get(key) {
            Some(v) if v.as_u64() == Some(0) => Ok(0),
            _ => Ok(self.size_opt(key)?.unwrap_or(default)),
        }
    }

    pub fn float_opt(&self, key: &str) -> Result<Option<f64>> {
        let Some(v) = self.get(key) else { return Ok(None) };
        match v.as_f64() {
            Some(x) if x.is_finite() && x >= 0.0 => Ok(Some(x)),
            _ => Err(self.wrong(key, v, "a finite number that is not negative")),
        }
    }

    pub fn float(&self, key: &str, default: f64) -> Result<f64> {
        Ok(self.float_opt(key)?.unwrap_or(default))
    }

    pub fn positive(&self, key: &str, default: f64) -> Result<f64> {
        match self.float(key, default)? {
            0.0 => Err(self.error(key, "0 is not allowed", "it must be above 0")),
            x => Ok(x),
        }
    }

    pub fn flag(&self, key: &str, default: bool) -> Result<bool> {
        let Some(v) = self.get(key) else { return Ok(default) };
        v.as_bool().ok_or_else(|| self.wrong(key, v, "true or false"))
    }

    pub fn text(&self, key: &str) -> Result<Option<&'a str>> {
        let Some(v) = self.get(key) else { return Ok(None) };
        v.as_str().map(Some).ok_or_else(|| self.wrong(key, v, "a text"))
    }

    /// The texts of a list; an absent list is `None`.
    pub fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        let Some(v) = self.get(key) else { return Ok(None) };
        let texts = v.as_array().and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        texts.map(Some).ok_or_else(|| self.wrong(key, v, "a list of texts"))
    }

    /// A nested object; an empty one counts as absent.
    pub fn object(&self, key: &str) -> Result<Option<Fields<'a>>> {
        let Some(v) = self.get(key) else { return Ok(None) };
        let map = v.as_object().ok_or_else(|| self.wrong(key, v, "an object"))?;
        let prefix = format!("{}{key}.", self.prefix);
        Ok((!map.is_empty()).then_some(Fields { file: self.file, prefix, map }))
    }

    /// Refuses a flag that is not `value`, which is also the default.
    pub fn only(&self, key: &str, value: bool) -> Result<()> {
        if self.flag(key, value)? == value {
            Ok(())
        } else {
            Err(self.refuse(key, &format!("only {value} is")))
        }
    }
}

/// Values can be whole tables; a message shows their beginning.
fn shorten(text: String) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}
