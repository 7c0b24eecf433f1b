//! Patterns over dotted parameter names: `*` is any run of characters, `?` one character that is not a dot.

/// Whether the whole of `name` fits `pattern`. Linear space, at most |pattern| · |name| steps.
pub fn matches(pattern: &str, name: &str) -> bool {
    let (p, n) = (pattern.as_bytes(), name.as_bytes());
    let (mut i, mut j) = (0, 0);
    let mut star: Option<(usize, usize)> = None; // the last `*`, and how far it reached
    while j < n.len() {
        match p.get(i) {
            Some(b'*') => {
                star = Some((i, j));
                i += 1;
            }
            Some(b'?') if n[j] != b'.' => (i, j) = (i + 1, j + 1),
            Some(&c) if c != b'?' && c == n[j] => (i, j) = (i + 1, j + 1),
            _ => match star {
                Some((at, reach)) => {
                    star = Some((at, reach + 1));
                    (i, j) = (at + 1, reach + 1);
                }
                None => return false,
            },
        }
    }
    p[i..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    /// The definition, spelled out recursively.
    fn naive(p: &[u8], n: &[u8]) -> bool {
        match (p.first(), n.first()) {
            (None, None) => true,
            (Some(b'*'), _) => naive(&p[1..], n) || !n.is_empty() && naive(p, &n[1..]),
            (Some(b'?'), Some(c)) => *c != b'.' && naive(&p[1..], &n[1..]),
            (Some(a), Some(b)) => a == b && naive(&p[1..], &n[1..]),
            _ => false,
        }
    }

    #[test]
    fn patterns_match_the_names_they_are_written_for() {
        assert!(matches("*.bias", "blocks.3.attn.q.bias"));
        assert!(!matches("*.bias", "blocks.3.attn.q.bias2"));
        assert!(matches("*norm*", "blocks.0.attn.q_norm.weight"));
        assert!(matches("embed.*", "embed.norm.weight"));
        assert!(matches("blocks.*.attn.?.weight", "blocks.11.attn.o.weight"));
        assert!(!matches("blocks.*.attn.?.weight", "blocks.11.attn.q_norm.weight"));
        assert!(!matches("a?b", "a.b"));
    }

    #[test]
    fn every_short_pattern_agrees_with_the_recursive_definition() {
        let strings = |letters: &[u8], len: usize| {
            let mut all = vec![Vec::new()];
            for at in 0..all.len() + len {
                let from: Vec<Vec<u8>> = all.iter().filter(|s| s.len() == at).cloned().collect();
                all.extend(
                    from.iter()
                        .filter(|s| s.len() < len)
                        .flat_map(|s| letters.iter().map(move |&c| [s.as_slice(), &[c]].concat())),
                );
            }
            all
        };
        let names = strings(b"a.b", 4);
        for p in strings(b"a.*?", 5) {
            for n in &names {
                let (ps, ns) = (std::str::from_utf8(&p).unwrap(), std::str::from_utf8(n).unwrap());
                assert_eq!(matches(ps, ns), naive(&p, n), "{ps} against {ns}");
            }
        }
    }
}
