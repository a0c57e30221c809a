//! Glob patterns as `KEYS`, `SCAN ... MATCH`, `PSUBSCRIBE` and `CONFIG GET` read them.
//!
//! Clients choose the pattern and the server's one thread runs it, so the matcher must not be
//! something a client can stop the server with. Every token but `*` takes exactly one byte, hence
//! only the last `*` seen ever needs to be tried again: no recursion, and at worst
//! `pattern.len() * text.len()` steps.
//!
//! | token | takes |
//! | --- | --- |
//! | `*` | any bytes, also none |
//! | `?` | any one byte |
//! | `[abc]` `[a-z]` `[^a]` | one byte that is (with `^`: is not) in the set; `\` escapes inside; a set that is never closed ends with the pattern |
//! | `\x` | the byte `x` |
//! | any other | itself |

/// Whether the whole of `text` matches `pattern`; with `nocase`, ASCII letters match either case.
///
/// As in Redis, an empty text matches only an empty pattern, not even a star (where a star alone
/// stands for no pattern, the caller sees to it).
pub fn matches(pattern: &[u8], text: &[u8], nocase: bool) -> bool {
    if text.is_empty() {
        return pattern.is_empty();
    }
    let (mut p, mut t) = (0, 0);
    // Where to go on when a byte does not fit: the pattern after the last star, and the first byte
    // of text that the star has not taken yet.
    let mut retry: Option<(usize, usize)> = None;
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            p += 1;
            if p == pattern.len() {
                return true;
            }
            retry = Some((p, t));
            continue;
        }
        if p < pattern.len() {
            let (fits, next) = token(pattern, p, text[t], nocase);
            if fits {
                (p, t) = (next, t + 1);
                continue;
            }
        }
        match &mut retry {
            Some((after_star, taken)) => {
                *taken += 1;
                (p, t) = (*after_star, *taken);
            }
            None => return false,
        }
    }
    pattern[p..].iter().all(|&b| b == b'*')
}

/// Whether `pattern` has no token that matches anything but itself, so that a lookup can replace
/// the search. A backslash counts as such a token.
pub fn is_literal(pattern: &[u8]) -> bool {
    !pattern.iter().any(|b| matches!(b, b'*' | b'?' | b'[' | b'\\'))
}

/// Tries the token (never a star) that begins at `pattern[p]` on one byte; the second value is
/// where the token after it begins.
fn token(pattern: &[u8], p: usize, byte: u8, nocase: bool) -> (bool, usize) {
    match pattern[p] {
        b'?' => (true, p + 1),
        b'[' => set(pattern, p + 1, byte, nocase),
        b'\\' if p + 1 < pattern.len() => (same(pattern[p + 1], byte, nocase), p + 2),
        literal => (same(literal, byte, nocase), p + 1),
    }
}

/// The set whose first byte (after the bracket) is at `pattern[p]`.
fn set(pattern: &[u8], mut p: usize, byte: u8, nocase: bool) -> (bool, usize) {
    let negated = pattern.get(p) == Some(&b'^');
    if negated {
        p += 1;
    }
    let mut found = false;
    while p < pattern.len() {
        match &pattern[p..] {
            [b'\\', escaped, ..] => {
                found |= *escaped == byte;
                p += 2;
            }
            [b']', ..] => {
                p += 1;
                break;
            }
            [from, b'-', to, ..] => {
                let (mut low, mut high) = (*from.min(to), *from.max(to));
                let mut byte = byte;
                if nocase {
                    low.make_ascii_lowercase();
                    high.make_ascii_lowercase();
                    byte.make_ascii_lowercase();
                }
                found |= low <= byte && byte <= high;
                p += 3;
            }
            [one, ..] => {
                found |= same(*one, byte, nocase);
                p += 1;
            }
            [] => break,
        }
    }
    (found != negated, p)
}

fn same(a: u8, b: u8, nocase: bool) -> bool {
    a == b || (nocase && a.eq_ignore_ascii_case(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn m(pattern: &str, text: &str) -> bool {
        matches(pattern.as_bytes(), text.as_bytes(), false)
    }

    #[test]
    fn tokens() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("a", "", false),
            ("*", "", false),
            ("**", "", false),
            ("*?", "", false),
            ("*", "anything", true),
            ("h?llo", "hallo", true),
            ("h?llo", "hllo", false),
            ("h*llo", "hllo", true),
            ("h*llo", "heeeello", true),
            ("*llo", "llollo", true),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("h[ae]llo", "hello", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-b]llo", "hbllo", true),
            ("h[b-a]llo", "hbllo", true),
            ("h[a-b]llo", "hcllo", false),
            ("[\\]]", "]", true),
            ("[a\\-z]", "-", true),
            ("[a\\-z]", "b", false),
            ("[abc", "b", true),
            ("[abc", "bc", false),
            ("[^", "x", true),
            ("a[]", "a]", false),
            ("[a-]", "^", true),
            ("\\*", "*", true),
            ("\\*", "a", false),
            ("\\", "\\", true),
            ("a\\", "a\\", true),
            ("*\\?", "what?", true),
        ] {
            assert_eq!(m(pattern, text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn case_is_ignored_when_asked() {
        assert!(matches(b"MaxM*[A-Z]?", b"maxmemory", true));
        assert!(!matches(b"MaxM*", b"maxmemory", false));
    }

    #[test]
    fn many_stars_stay_cheap() {
        let pattern = b"a*".repeat(1000);
        let mut text = vec![b'a'; 20_000];
        text.push(b'b');
        let mut pattern_and_end = pattern.clone();
        pattern_and_end.push(b'c');
        assert!(!matches(&pattern_and_end, &text, false));
        assert!(matches(&pattern, &text, false));
    }

    /// The definition, with all its branches: what the matcher must agree with.
    fn model(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|taken| model(rest, &text[taken..])),
            _ => match text {
                [] => false,
                [first, others @ ..] => {
                    let (fits, next) = token(pattern, 0, *first, false);
                    fits && model(&pattern[next..], others)
                }
            },
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition(pattern in r"[ab*?\[\]^\\-]{0,10}", text in "[ab-]{0,10}") {
            prop_assert_eq!(
                matches(pattern.as_bytes(), text.as_bytes(), false),
                if text.is_empty() {
                    pattern.is_empty()
                } else {
                    model(pattern.as_bytes(), text.as_bytes())
                }
            );
        }

        #[test]
        fn any_bytes_are_fine(pattern: Vec<u8>, text: Vec<u8>, nocase: bool) {
            matches(&pattern, &text, nocase);
            prop_assert_eq!(matches(b"*", &text, nocase), !text.is_empty());
        }
    }
}
