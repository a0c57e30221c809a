//! Numbers as Redis reads and writes them.

mod extended;

pub use extended::Extended;

/// The integer that `text` spells, if it is spelled the one canonical way: no spaces, no `+`, no
/// leading zeros, no `-0`. So that a value kept as an integer reads back to the same bytes.
pub fn parse_int(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    match digits {
        [b'0'] if !negative => return Some(0),
        [b'1'..=b'9', ..] if digits.len() <= 19 => {}
        _ => return None,
    }
    let mut value: u64 = 0;
    for &digit in digits {
        let digit = digit.wrapping_sub(b'0');
        if digit > 9 {
            return None;
        }
        value = value.wrapping_mul(10) + digit as u64; // 19 digits fit in a u64
    }
    match negative {
        false => i64::try_from(value).ok(),
        true if value <= 1 << 63 => Some((value as i64).wrapping_neg()),
        true => None,
    }
}

/// The double that `text` spells, as `strtod` reads it: `inf`, `-inf`, `infinity`, exponents and
/// hexadecimal are taken; surrounding space, `nan`, and what is too large or too small to be a
/// double are not.
pub fn parse_double(text: &[u8]) -> Option<f64> {
    let value = parse_double_lossy(text)?;
    let digit = |c: &u8| matches!(c, b'1'..=b'9');
    if value.is_infinite() && text.iter().any(u8::is_ascii_digit) {
        return None;
    }
    if value == 0.0 && text.iter().take_while(|c| !matches!(c, b'e' | b'E')).any(digit) {
        return None;
    }
    Some(value)
}

/// As [`parse_double`], but what is too large is infinite and what is too small is zero: the bounds
/// of score ranges.
pub fn parse_double_lossy(text: &[u8]) -> Option<f64> {
    let s = std::str::from_utf8(text).ok()?;
    if s.is_empty() {
        return None;
    }
    let value: f64 = match s.parse() {
        Ok(value) => value,
        Err(_) => parse_hex_double(s)?,
    };
    (!value.is_nan()).then_some(value)
}

/// `0x1.8p3` and its like.
fn parse_hex_double(s: &str) -> Option<f64> {
    let (sign, s) = match s.as_bytes()[0] {
        b'-' => (-1.0, &s[1..]),
        b'+' => (1.0, &s[1..]),
        _ => (1.0, s),
    };
    let s = s.strip_prefix("0x").or_else(|| s.strip_prefix("0X"))?;
    let (mantissa, exponent) = match s.find(['p', 'P']) {
        Some(i) => (&s[..i], s[i + 1..].parse::<i32>().ok()?),
        None => (s, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let mut value = 0.0f64;
    for c in whole.chars().chain(fraction.chars()) {
        value = value * 16.0 + c.to_digit(16)? as f64;
    }
    Some(sign * value * 2f64.powi(exponent - 4 * fraction.len() as i32))
}

/// The integer that `d` is, if it is one that Redis keeps and prints as such: up to half of what 63
/// bits hold. Negative zero counts as zero.
pub fn as_integer(d: f64) -> Option<i64> {
    const MOST: f64 = (i64::MAX / 2) as f64;
    let value = d as i64;
    ((-MOST..=MOST).contains(&d) && value as f64 == d).then_some(value)
}

/// Room to print a double in. See [`DoubleText::format`].
pub struct DoubleText {
    text: [u8; DoubleText::LEN],
}

impl Default for DoubleText {
    fn default() -> DoubleText {
        DoubleText::new()
    }
}

impl DoubleText {
    /// 17 digits, seven zeros on either side, sign, point and exponent.
    const LEN: usize = 40;

    pub fn new() -> DoubleText {
        DoubleText { text: [0; DoubleText::LEN] }
    }

    /// `d` as Redis 7.2 prints it: the shortest digits that read back to the same number; integers
    /// up to 2^62 in full. With `k` the power of ten of the last digit, others are written out if
    /// `0 <= k < 8`, or `-7 < k < 0`, or if `k < 0` and the first digit's power of ten is between
    /// -3 and 3; else they get an exponent, signed and without leading zeros (`1e+20`, `1.5e-7`).
    pub fn format(&mut self, d: f64) -> &[u8] {
        if let Some(value) = as_integer(d).filter(|_| d != 0.0 || d.is_sign_positive()) {
            let mut room = itoa::Buffer::new();
            return self.put(&[room.format(value).as_bytes()]);
        }
        if d.is_nan() {
            return b"nan";
        }
        let sign: &[u8] = if d.is_sign_negative() { b"-" } else { b"" };
        if d.is_infinite() || d == 0.0 {
            return self.put(&[sign, if d == 0.0 { b"0" } else { b"inf" }]);
        }
        let mut shortest = Shortest { digits: [0; 24], len: 0 };
        std::fmt::write(&mut shortest, format_args!("{:e}", d.abs()))
            .expect("17 digits and an exponent fit");
        let (digits, first) = shortest.split();
        let n = digits.len() as i32;
        let last = first - n + 1;
        const ZEROS: &[u8] = b"00000000";
        if (0..8).contains(&last) {
            self.put(&[sign, digits, &ZEROS[..last as usize]])
        } else if last < 0 && (last > -7 || first.abs() < 4) {
            match first {
                0.. => {
                    let (whole, fraction) = digits.split_at(first as usize + 1);
                    self.put(&[sign, whole, b".", fraction])
                }
                _ => self.put(&[sign, b"0.", &ZEROS[..(-first - 1) as usize], digits]),
            }
        } else {
            let (whole, fraction) = digits.split_at(1);
            let point: &[u8] = if fraction.is_empty() { b"" } else { b"." };
            let e: &[u8] = if first < 0 { b"e-" } else { b"e+" };
            let mut room = itoa::Buffer::new();
            let exponent = room.format(first.unsigned_abs()).as_bytes();
            self.put(&[sign, whole, point, fraction, e, exponent])
        }
    }

    fn put(&mut self, parts: &[&[u8]]) -> &[u8] {
        let mut len = 0;
        for part in parts {
            self.text[len..len + part.len()].copy_from_slice(part);
            len += part.len();
        }
        &self.text[..len]
    }
}

/// A positive double's shortest digits, from the standard library's `d.ddde±x`.
struct Shortest {
    digits: [u8; 24],
    len: usize,
}

impl std::fmt::Write for Shortest {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        let end = self.len + s.len();
        self.digits.get_mut(self.len..end).ok_or(std::fmt::Error)?.copy_from_slice(s.as_bytes());
        self.len = end;
        Ok(())
    }
}

impl Shortest {
    /// The digits alone, and the first one's power of ten.
    fn split(&mut self) -> (&[u8], i32) {
        let text = &self.digits[..self.len];
        let e = text.iter().position(|&c| c == b'e').expect("this form has an exponent");
        let exponent = parse_int(&text[e + 1..]).expect("the exponent is an integer") as i32;
        if e == 1 {
            return (&self.digits[..1], exponent);
        }
        self.digits.copy_within(2..e, 1); // the point goes
        (&self.digits[..e - 1], exponent)
    }
}

/// [`DoubleText::format`] as a string of its own.
pub fn format_double(d: f64) -> String {
    let mut room = DoubleText::new();
    String::from_utf8_lossy(room.format(d)).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_canonical() {
        assert_eq!(parse_int(b"0"), Some(0));
        assert_eq!(parse_int(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(parse_int(b"9223372036854775807"), Some(i64::MAX));
        for bad in [
            "",
            "-",
            "+1",
            "01",
            "-0",
            " 1",
            "1 ",
            "9223372036854775808",
            "1a",
            "99999999999999999999",
        ] {
            assert_eq!(parse_int(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn doubles_read_as_strtod_reads_them() {
        assert_eq!(parse_double(b"0x1.8p3"), Some(12.0));
        assert_eq!(parse_double(b"-inf"), Some(f64::NEG_INFINITY));
        assert_eq!(parse_double(b"0e-9"), Some(0.0));
        assert_eq!(parse_double_lossy(b"1e400"), Some(f64::INFINITY));
        for bad in ["", " 1", "1 ", "nan", "abc", "1.2.3", "1e400", "-1e400", "1e-400"] {
            assert_eq!(parse_double(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn doubles_print_as_redis_prints_them() {
        for (d, text) in [
            (0.0, "0"),
            (-0.0, "-0"),
            (f64::INFINITY, "inf"),
            (f64::NEG_INFINITY, "-inf"),
            (3.0, "3"),
            (-17179869184.0, "-17179869184"),
            (1e18, "1000000000000000000"),
            (1e20, "1e+20"),
            (1e21, "1e+21"),
            (12345678901234567000.0, "12345678901234567000"),
            (1.5e300, "1.5e+300"),
            (-1e100, "-1e+100"),
            (0.1, "0.1"),
            (3.25, "3.25"),
            (0.30000000000000004, "0.30000000000000004"),
            (0.0001, "0.0001"),
            (0.00001, "0.00001"),
            (0.000001, "0.000001"),
            (0.0000001, "1e-7"),
            (0.000015, "0.000015"),
            (0.0000123, "1.23e-5"),
            (0.0123456789, "0.0123456789"),
            (0.00012345678, "1.2345678e-4"),
            (1234.123456789, "1234.123456789"),
            (12345.123456789, "1.2345123456789e+4"),
            (12345.5, "12345.5"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
        ] {
            assert_eq!(format_double(d), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn doubles_read_back(bits: u64) {
            let d = f64::from_bits(bits);
            proptest::prop_assume!(!d.is_nan());
            let text = format_double(d);
            proptest::prop_assert_eq!(parse_double(text.as_bytes()), Some(d), "{}", text);
        }
    }
}
