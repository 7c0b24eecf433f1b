//! The words that byte-level tokenizers merge within, found without a regular expression.
//!
//! Two families of patterns cover the common tokenizers; a tokenizer with another one goes through the `tokenizers`
//! crate. Alternatives are tried in order, the first that matches at a place wins (GPT-2, `encoder.py`):
//!
//!     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//!
//! and of GPT-4, Llama 3 (digits = 3) and Qwen 2 (digits = 1):
//!
//!     (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+

use super::classes::{Kind, Kinds, kinds};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pattern {
    Gpt2,
    Gpt4 { digits: usize },
}

const GPT4: [&str; 2] = [
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
];

pub(super) const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

impl Pattern {
    /// The pattern a tokenizer.json states, if it is one of those above.
    pub fn recognise(regex: &str) -> Option<Pattern> {
        if regex == GPT2 {
            return Some(Pattern::Gpt2);
        }
        match regex.strip_prefix(GPT4[0])?.strip_suffix(GPT4[1])? {
            "" => Some(Pattern::Gpt4 { digits: 1 }),
            "{1,3}" => Some(Pattern::Gpt4 { digits: 3 }),
            _ => None,
        }
    }

    /// Calls `f` with each word; together they are the text.
    pub fn each(self, text: &str, mut f: impl FnMut(&str)) {
        let kinds = kinds();
        let mut from = 0;
        while from < text.len() {
            let to = match self {
                Pattern::Gpt2 => gpt2(kinds, text, from),
                Pattern::Gpt4 { digits } => gpt4(kinds, text, from, digits),
            };
            f(&text[from..to]);
            from = to;
        }
    }
}

/// End of the word that begins at `from`.
#[inline]
fn gpt2(kinds: Kinds, text: &str, from: usize) -> usize {
    let bytes = text.as_bytes();
    if bytes[from] == b'\'' {
        match (bytes.get(from + 1), bytes.get(from + 2)) {
            (Some(b's' | b't' | b'm' | b'd'), _) => return from + 2,
            (Some(b'r' | b'v'), Some(b'e')) | (Some(b'l'), Some(b'l')) => return from + 3,
            _ => {}
        }
    }
    let body = from + usize::from(bytes[from] == b' ');
    if body < bytes.len() {
        let (_, kind, length) = kinds.at(text, body);
        if kind != Kind::Space {
            return kinds.run(text, body + length, kind);
        }
    }
    spaces(kinds, text, from)
}

#[inline]
fn gpt4(kinds: Kinds, text: &str, from: usize, digits: usize) -> usize {
    let bytes = text.as_bytes();
    let (c, kind, length) = kinds.at(text, from);
    if c == '\'' {
        // Without regard to case, where the long s counts as an s.
        let next = |at: usize| text[at..].chars().next().map(|c| c.to_ascii_lowercase());
        match next(from + 1) {
            Some('s' | 't' | 'm' | 'd') => return from + 2,
            Some('ſ') => return from + 3,
            Some('r' | 'v') if next(from + 2) == Some('e') => return from + 3,
            Some('l') if next(from + 2) == Some('l') => return from + 3,
            _ => {}
        }
    }
    let after = from + length;
    match kind {
        Kind::Letter => return kinds.run(text, after, Kind::Letter),
        Kind::Number => {
            let mut to = after;
            for _ in 1..digits {
                match (to < bytes.len()).then(|| kinds.at(text, to)) {
                    Some((_, Kind::Number, length)) => to += length,
                    _ => break,
                }
            }
            return to;
        }
        // One character of another kind may lead a word, but no line break.
        _ if c != '\r' && c != '\n' && after < bytes.len() => {
            let (_, next, length) = kinds.at(text, after);
            if next == Kind::Letter {
                return kinds.run(text, after + length, Kind::Letter);
            }
        }
        _ => {}
    }
    let body = from + usize::from(c == ' ');
    if body < bytes.len() && kinds.at(text, body).1 == Kind::Other {
        let to = kinds.run(text, body, Kind::Other);
        return to + bytes[to..].iter().take_while(|&&b| b == b'\r' || b == b'\n').count();
    }
    // White space: up to its last line break, if it has one.
    let to = kinds.run(text, from, Kind::Space);
    match bytes[from..to].iter().rposition(|&b| b == b'\r' || b == b'\n') {
        Some(last) => from + last + 1,
        None => before_last(text, from, to),
    }
}

fn spaces(kinds: Kinds, text: &str, from: usize) -> usize {
    before_last(text, from, kinds.run(text, from, Kind::Space))
}

/// `\s+(?!\S)|\s+` over the white space from..to: its last character is left to the word that follows, if one does
/// and it is not the only character.
fn before_last(text: &str, from: usize, to: usize) -> usize {
    if to == text.len() {
        return to;
    }
    let last = text[from..to].chars().next_back().map_or(1, char::len_utf8);
    if to - last > from { to - last } else { to }
}
