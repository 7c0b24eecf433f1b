//! A run file with random damage is accepted or refused, and whatever is accepted resolves to itself.

use super::{FULL, LEAST, message};
use espalier::config::RunConfig;

#[test]
fn no_damage_to_the_text_makes_it_panic() {
    let mut state = 0x9e37_79b9_7f4a_7c15u64; // xorshift64
    let mut below = move |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    let bits = [
        "-1",
        "1e308",
        "nan",
        "99999999999999999999",
        "\"",
        "[",
        "]",
        "{",
        "}",
        "=",
        ".",
        "\n",
        "[[phase]]",
        "0",
        "ü",
        "''",
    ];
    let (mut good, mut bad) = (0, 0);
    for round in 0..6000 {
        let base = if round % 2 == 0 { FULL } else { LEAST };
        let mut chars: Vec<char> = base.chars().collect();
        for _ in 0..1 + below(4) {
            let at = below(chars.len());
            match below(6) {
                0 => drop(chars.drain(at..(at + 1 + below(12)).min(chars.len()))),
                1 => chars[at] = char::from(below(128) as u8),
                2 => {
                    let bit: Vec<char> = bits[below(bits.len())].chars().collect();
                    chars.splice(at..at, bit);
                }
                3 | 4 => {
                    let digits = (0..chars.len()).filter(|&i| chars[i].is_ascii_digit());
                    let digits: Vec<usize> = digits.collect();
                    if !digits.is_empty() {
                        chars[digits[below(digits.len())]] = char::from(b'0' + below(10) as u8);
                    }
                }
                _ => {
                    // Another value in the place of one.
                    let Some(eq) = chars[at..].iter().position(|&c| c == '=') else { continue };
                    let end = (at + eq + 1 + below(8)).min(chars.len());
                    chars.splice(at + eq + 1..end, bits[below(bits.len())].chars());
                }
            }
        }
        let text: String = chars.into_iter().collect();
        let set: Vec<String> = if round % 3 == 0 {
            let line = text.lines().nth(below(text.lines().count().max(1))).unwrap_or("");
            vec![line.to_string()]
        } else {
            Vec::new()
        };
        match RunConfig::parse(&text, "run.toml", &set) {
            Ok(c) => {
                good += 1;
                let again = RunConfig::parse(&c.resolved_toml(), "run.toml", &[]).unwrap();
                assert_eq!(c, again, "{text}");
                let _ = (c.hash(), c.model.params(), c.check_ranks(3), c.phases[0].lr_at(u64::MAX));
            }
            Err(e) => {
                bad += 1;
                assert!(matches!(e, espalier::Error::Config { .. }), "{e}");
            }
        }
    }
    assert!(good > 100 && bad > 1000, "the damage is neither always nor never fatal: {good} good, {bad} bad");
    // Depth is the parser's to refuse, not the stack's to discover.
    for deep in [
        "a.".repeat(100_000) + "a = 1",
        format!("a = {}", "[".repeat(100_000)),
        format!("[{}a]", "a.".repeat(100_000)),
    ] {
        message(&deep, &[]);
    }
    message(LEAST, &[&("a.".repeat(1000) + "a=1")]);
}
