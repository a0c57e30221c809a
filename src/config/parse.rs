//! Text to words and back: one line of a configuration file, memory sizes, quoting.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Why a line cannot be split.
#[derive(Debug, PartialEq, Eq)]
pub struct Unbalanced;

/// Splits a line into words as Redis does: words are separated by blanks; `"..."` knows the escapes
/// `\n \r \t \b \a \" \\ \xHH`, `'...'` only `\'`; a closing quote must be followed by a blank or
/// the end.
pub fn words(line: &[u8]) -> Result<Vec<OsString>, Unbalanced> {
    let mut words = Vec::new();
    let mut rest = line;
    loop {
        let blanks = rest.iter().take_while(|&&b| is_blank(b)).count();
        rest = &rest[blanks..];
        if rest.is_empty() {
            return Ok(words);
        }
        let mut word = Vec::new();
        rest = one_word(rest, &mut word)?;
        words.push(OsString::from_vec(word));
    }
}

/// Reads one word, which may consist of bare and quoted pieces; returns what follows it.
fn one_word<'a>(mut rest: &'a [u8], word: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    loop {
        match rest {
            [] => return Ok(rest),
            [b, ..] if is_blank(*b) => return Ok(rest),
            [quote @ (b'"' | b'\''), tail @ ..] => {
                rest = quoted(tail, *quote, word)?;
                return match rest {
                    [b, ..] if !is_blank(*b) => Err(Unbalanced),
                    _ => Ok(rest),
                };
            }
            [b, tail @ ..] => {
                word.push(*b);
                rest = tail;
            }
        }
    }
}

/// Reads up to the closing `quote`; returns what follows it.
fn quoted<'a>(mut rest: &'a [u8], quote: u8, word: &mut Vec<u8>) -> Result<&'a [u8], Unbalanced> {
    loop {
        rest = match rest {
            [] => return Err(Unbalanced),
            [b, tail @ ..] if *b == quote => return Ok(tail),
            [b'\\', b'\'', tail @ ..] if quote == b'\'' => {
                word.push(b'\'');
                tail
            }
            [b'\\', b'x', high, low, tail @ ..]
                if quote == b'"' && high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                word.push(hex(*high) << 4 | hex(*low));
                tail
            }
            [b'\\', escaped, tail @ ..] if quote == b'"' => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => *other,
                });
                tail
            }
            [b, tail @ ..] => {
                word.push(*b);
                tail
            }
        }
    }
}

fn is_blank(b: u8) -> bool {
    b.is_ascii_whitespace() || b == 0x0b || b == 0
}

fn hex(digit: u8) -> u8 {
    (digit as char).to_digit(16).unwrap_or(0) as u8
}

/// `value` so that [`words`] reads it back as one word: as it is where that is possible, quoted
/// where it is not, with escapes for what is not UTF-8.
pub fn quote(value: impl AsRef<OsStr>) -> String {
    let value = value.as_ref().as_bytes();
    let bare = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\'' | b'\\' | b'#');
    let mut out = String::with_capacity(value.len() + 2);
    if !value.is_empty() && value.iter().copied().all(bare) {
        out.extend(value.iter().map(|&b| b as char));
        return out;
    }
    out.push('"');
    for chunk in value.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c {
                '"' | '\\' => out.extend(['\\', c]),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{7}' => out.push_str("\\a"),
                c if c.is_ascii_control() => out.push_str(&escaped(c as u8)),
                c => out.push(c),
            }
        }
        out.extend(chunk.invalid().iter().map(|&b| escaped(b)));
    }
    out.push('"');
    out
}

/// `bytes` for a message, with what is not UTF-8 as `\xHH`.
pub fn shown(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        out.push_str(chunk.valid());
        out.extend(chunk.invalid().iter().map(|&b| escaped(b)));
    }
    out
}

fn escaped(b: u8) -> String {
    format!("\\x{b:02x}")
}

/// A size in bytes: digits and a unit (`b`, `k` = 1000, `kb` = 1024, and so for `m` and `g`; either
/// case).
pub fn memory(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" => 1000,
        "kb" => 1 << 10,
        "m" => 1_000_000,
        "mb" => 1 << 20,
        "g" => 1_000_000_000,
        "gb" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A size in the largest unit that leaves no remainder: what CONFIG REWRITE writes.
pub fn show_memory(bytes: u64) -> String {
    for (unit, shift) in [("gb", 30), ("mb", 20), ("kb", 10)] {
        if bytes > 0 && bytes.trailing_zeros() >= shift {
            return format!("{}{unit}", bytes >> shift);
        }
    }
    bytes.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(line: &str) -> Result<Vec<String>, Unbalanced> {
        Ok(words(line.as_bytes())?.into_iter().map(|w| w.into_string().unwrap()).collect())
    }

    #[test]
    fn words_and_quotes() {
        for (line, expected) in [
            ("", vec![]),
            ("  port\t6379 \r\n", vec!["port", "6379"]),
            (r#"save """#, vec!["save", ""]),
            (r#"a "b c" 'd e'"#, vec!["a", "b c", "d e"]),
            (r#""\x41\n\t\"\\\q""#, vec!["A\n\t\"\\q"]),
            (r#""\xZZ""#, vec!["xZZ"]),
            (r#"'it\'s \n'"#, vec![r"it's \n"]),
            (r#"a"b c""#, vec!["ab c"]),
            ("\0a\0\x0b b\x0c", vec!["a", "b"]),
        ] {
            assert_eq!(split(line).unwrap(), expected, "{line}");
        }
        for bad in [r#""open"#, "'open", r#""a"b"#, "'a''b'", r#""a\"#] {
            assert_eq!(split(bad), Err(Unbalanced), "{bad}");
        }
    }

    #[test]
    fn memory_units() {
        for (text, bytes) in [
            ("0", 0),
            ("1b", 1),
            ("1k", 1000),
            ("1kb", 1024),
            ("2M", 2_000_000),
            ("2Mb", 2 << 20),
            ("3g", 3_000_000_000),
            ("3GB", 3 << 30),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(memory(text), Some(bytes), "{text}");
        }
        for bad in ["", "k", "-1", "1.5gb", "1x", "1 kb", "99999999999999999999", "99999999999gb"] {
            assert_eq!(memory(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn quoting_reads_back(text in any::<String>(), bytes: Vec<u8>) {
            for value in [OsString::from(text), OsString::from_vec(bytes)] {
                prop_assert_eq!(words(quote(&value).as_bytes()).unwrap(), vec![value]);
            }
        }

        #[test]
        fn any_line_is_fine(line: Vec<u8>) {
            let _ = words(&line);
        }

        #[test]
        fn sizes_read_back(bytes: u64) {
            prop_assert_eq!(memory(&show_memory(bytes)), Some(bytes));
        }
    }
}
