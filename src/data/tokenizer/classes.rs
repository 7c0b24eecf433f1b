//! Letter, number, white space or other: the four classes of characters that byte-level tokenizers split at.
//!
//! The tables are those of `regex-syntax` (\p{L}, \p{N}, \s), which the `tokenizers` crate matches with as well, so that
//! both agree on every character of Unicode.

use regex_syntax::hir::{Class, HirKind};
use std::sync::LazyLock;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Other,
    Letter,
    Number,
    Space,
}

/// One entry for each code point.
static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(|| {
    let mut kinds = vec![Kind::Other; char::MAX as usize + 1];
    for (pattern, kind) in [(r"\p{L}", Kind::Letter), (r"\p{N}", Kind::Number), (r"\s", Kind::Space)] {
        let hir = regex_syntax::parse(pattern).expect("a class of Unicode");
        let HirKind::Class(Class::Unicode(class)) = hir.kind() else { unreachable!("{pattern} is a class") };
        for range in class.iter() {
            kinds[range.start() as usize..=range.end() as usize].fill(kind);
        }
    }
    kinds
});

/// The table, looked up once by who asks for many characters.
pub(super) fn kinds() -> Kinds {
    Kinds(&KINDS)
}

#[derive(Clone, Copy)]
pub(super) struct Kinds(&'static [Kind]);

impl Kinds {
    #[inline]
    pub fn of(self, c: char) -> Kind {
        self.0[c as usize]
    }

    /// The character at byte `at` and its length; `at` is a boundary within the text.
    #[inline]
    pub fn at(self, text: &str, at: usize) -> (char, Kind, usize) {
        let byte = text.as_bytes()[at];
        if byte < 128 {
            return (byte as char, self.0[byte as usize], 1);
        }
        let c = text[at..].chars().next().expect("within the text");
        (c, self.of(c), c.len_utf8())
    }

    /// End of the run of `kind` that begins at `at`.
    #[inline]
    pub fn run(self, text: &str, mut at: usize, kind: Kind) -> usize {
        while at < text.len() {
            let (_, k, length) = self.at(text, at);
            if k != kind {
                break;
            }
            at += length;
        }
        at
    }
}
