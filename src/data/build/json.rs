//! One line of JSONL to its text and its metadata, without a copy of what is not wanted.

use super::columns::MOST;
use crate::data::side;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;

/// Where in a line the text is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keys {
    Text(String),
    /// Tokens of the prompt get loss weight 0, those of the completion and the end of the document 1.
    Pair {
        prompt: String,
        completion: String,
    },
}

/// Which other keys become document columns.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wanted {
    /// All whose values are numbers, strings, true or false.
    #[default]
    All,
    /// These; lists and objects become JSON text.
    Named(Vec<String>),
}

/// A value of a column as the line has it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scalar {
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Line<'a> {
    /// The text, or prompt and completion.
    pub text: Cow<'a, str>,
    pub completion: Option<Cow<'a, str>>,
    pub columns: Vec<(String, Scalar)>,
}

/// The error says what is wrong with the line.
pub(super) fn parse<'a>(line: &'a [u8], keys: &Keys, wanted: &Wanted) -> Result<Line<'a>, String> {
    let mut json = serde_json::Deserializer::from_slice(line);
    let found = Seed { keys, wanted }.deserialize(&mut json).and_then(|found| json.end().map(|()| found));
    let found = found.map_err(|e| format!("this line is not a JSON object: {e}"))?;
    let take = |value: Option<Value<'a>>, key: &str| match value {
        Some(Value::Text(text)) => Ok(text),
        Some(Value::Other) => Err(format!("this line has something else than a string under \"{key}\"")),
        None => Err(format!("this line has no \"{key}\"")),
    };
    let columns = found.columns;
    Ok(match keys {
        Keys::Text(key) => Line { text: take(found.text, key)?, completion: None, columns },
        Keys::Pair { prompt, completion } => Line {
            text: take(found.text, prompt)?,
            completion: Some(take(found.completion, completion)?),
            columns,
        },
    })
}

enum Value<'a> {
    Text(Cow<'a, str>),
    Other,
}

#[derive(Default)]
struct Found<'a> {
    text: Option<Value<'a>>,
    completion: Option<Value<'a>>,
    columns: Vec<(String, Scalar)>,
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

struct Seed<'k> {
    keys: &'k Keys,
    wanted: &'k Wanted,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Found<'de>;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Found<'de>, D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Found<'de>;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Found<'de>, A::Error> {
        let (text, completion) = match self.keys {
            Keys::Text(text) => (text, None),
            Keys::Pair { prompt, completion } => (prompt, Some(completion)),
        };
        let mut found = Found::default();
        // Of a key that occurs twice the last one counts, as in other readers of JSON.
        while let Some(Key(key)) = map.next_key()? {
            if key == *text {
                found.text = Some(map.next_value_seed(TextSeed)?);
            } else if Some(key.as_ref()) == completion.map(String::as_str) {
                found.completion = Some(map.next_value_seed(TextSeed)?);
            } else if found.columns.len() > MOST {
                // Too many already, which is for the columns to say; looking among more would take for ever.
                map.next_value::<IgnoredAny>()?;
            } else {
                let value = match self.wanted {
                    Wanted::All if side::allowed(&key) => map.next_value_seed(ScalarSeed)?,
                    Wanted::Named(names) if names.iter().any(|name| *name == key) => {
                        scalar(map.next_value::<serde_json::Value>()?)
                    }
                    _ => {
                        map.next_value::<IgnoredAny>()?;
                        None
                    }
                };
                found.columns.retain(|(name, _)| *name != key);
                found.columns.extend(value.map(|value| (key.into_owned(), value)));
            }
        }
        Ok(found)
    }
}

/// Null is no value.
fn scalar(value: serde_json::Value) -> Option<Scalar> {
    use serde_json::Value::*;
    Some(match value {
        Null => return None,
        Bool(x) => Scalar::Bool(x),
        Number(x) => match (x.as_i64(), x.as_f64()) {
            (Some(x), _) => Scalar::Int(x),
            (None, Some(y)) if !x.is_u64() => Scalar::Float(y),
            _ => Scalar::Text(x.to_string()),
        },
        String(x) => Scalar::Text(x),
        nested => Scalar::Text(nested.to_string()),
    })
}

/// A string, or the knowledge that it is none.
struct TextSeed;
/// A scalar; None for null, lists and objects.
struct ScalarSeed;

impl<'de> DeserializeSeed<'de> for TextSeed {
    type Value = Value<'de>;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value<'de>, D::Error> {
        d.deserialize_any(Any(|scalar| match scalar {
            Some(Borrowed::Text(text)) => Value::Text(text),
            _ => Value::Other,
        }))
    }
}

impl<'de> DeserializeSeed<'de> for ScalarSeed {
    type Value = Option<Scalar>;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Option<Scalar>, D::Error> {
        d.deserialize_any(Any(|scalar| {
            Some(match scalar? {
                Borrowed::Text(text) => Scalar::Text(text.into_owned()),
                Borrowed::Other(scalar) => scalar,
            })
        }))
    }
}

enum Borrowed<'a> {
    Text(Cow<'a, str>),
    Other(Scalar),
}

/// Takes whatever comes and hands scalars to `f`.
struct Any<F>(F);

impl<'de, T, F: FnOnce(Option<Borrowed<'de>>) -> T> Visitor<'de> for Any<F> {
    type Value = T;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<T, E> {
        Ok(self.0(Some(Borrowed::Text(Cow::Borrowed(text)))))
    }
    fn visit_str<E>(self, text: &str) -> Result<T, E> {
        Ok(self.0(Some(Borrowed::Text(Cow::Owned(text.into())))))
    }
    fn visit_bool<E>(self, x: bool) -> Result<T, E> {
        Ok(self.0(Some(Borrowed::Other(Scalar::Bool(x)))))
    }
    fn visit_i64<E>(self, x: i64) -> Result<T, E> {
        Ok(self.0(Some(Borrowed::Other(Scalar::Int(x)))))
    }
    fn visit_u64<E>(self, x: u64) -> Result<T, E> {
        let scalar = i64::try_from(x).map_or_else(|_| Scalar::Text(x.to_string()), Scalar::Int);
        Ok(self.0(Some(Borrowed::Other(scalar))))
    }
    fn visit_f64<E>(self, x: f64) -> Result<T, E> {
        Ok(self.0(Some(Borrowed::Other(Scalar::Float(x)))))
    }
    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(self.0(None))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<T, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(self.0(None))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(self.0(None))
    }
}
