//! Numbers as Redis reads and writes them.

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
/// hexadecimal are taken; surrounding space and `nan` are not.
pub fn parse_double(text: &[u8]) -> Option<f64> {
    let s = std::str::from_utf8(text).ok()?;
    if s.is_empty() || s.starts_with(char::is_whitespace) {
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

/// A double in the digits that Redis prints: 17 significant digits at most, and as few as read back
/// to the same number; integers without a point.
pub fn format_double(d: f64) -> String {
    if d.is_nan() {
        return "nan".into();
    }
    if d.is_infinite() {
        return if d > 0.0 { "inf".into() } else { "-inf".into() };
    }
    if d == 0.0 {
        return if d.is_sign_negative() { "-0".into() } else { "0".into() };
    }
    // Rust prints the shortest digits; C's %.17g switches to an exponent below 1e-4 and from 1e17.
    let exponent = format!("{d:e}");
    let (digits, e) = exponent.split_once('e').expect("LowerExp always has an exponent");
    let e: i32 = e.parse().expect("LowerExp's exponent is an integer");
    if (-5..21).contains(&e) {
        format!("{d}")
    } else {
        format!("{digits}e{}{:02}", if e < 0 { '-' } else { '+' }, e.abs())
    }
}

/// The sum of two numbers given as text, as `INCRBYFLOAT` and `HINCRBYFLOAT` print it: no exponent,
/// no trailing zeros, 17 digits after the point at most. `None` if the sum is not finite.
///
/// Redis adds in 80-bit floating point, where the sum of short decimals prints as a short decimal.
/// Here short decimals are added as what they are, exactly; only what is too long or too large for
/// that is added in 64-bit floating point.
pub fn add_decimals(a: &[u8], a_value: f64, b: &[u8], b_value: f64) -> Option<String> {
    const SCALE: i128 = 10i128.pow(FRACTION);
    if let (Some(a), Some(b)) = (parse_fixed(a), parse_fixed(b)) {
        let sum = a + b;
        let (whole, fraction) =
            (sum.unsigned_abs() / SCALE as u128, sum.unsigned_abs() % SCALE as u128);
        let sign = if sum < 0 { "-" } else { "" };
        let text = format!("{sign}{whole}.{fraction:0width$}", width = FRACTION as usize);
        return Some(text.trim_end_matches('0').trim_end_matches('.').to_owned());
    }
    let sum = a_value + b_value;
    if !sum.is_finite() {
        return None;
    }
    let text = format!("{sum:.17}");
    let short = format!("{sum}");
    // The shortest digits that read back, unless they go beyond 17 places.
    let text = if short.split_once('.').is_none_or(|(_, f)| f.len() <= 17) { short } else { text };
    let text = match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    };
    Some(if text == "-0" { "0".into() } else { text })
}

/// Digits after the point that [`add_decimals`] keeps.
const FRACTION: u32 = 17;

/// A plain decimal (sign, digits, point, digits) of at most 18 digits before the point and 17 after
/// it, as a multiple of 10^-17.
fn parse_fixed(text: &[u8]) -> Option<i128> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let point = digits.iter().position(|&c| c == b'.').unwrap_or(digits.len());
    let (whole, fraction) = (&digits[..point], digits.get(point + 1..).unwrap_or(b""));
    if whole.len() > 18 || fraction.len() > FRACTION as usize || whole.len() + fraction.len() == 0 {
        return None;
    }
    let mut value: i128 = 0;
    for &digit in whole.iter().chain(fraction) {
        if !digit.is_ascii_digit() {
            return None;
        }
        value = value * 10 + (digit - b'0') as i128;
    }
    value *= 10i128.pow(FRACTION - fraction.len() as u32);
    Some(if negative { -value } else { value })
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
    fn short_decimals_add_up_to_short_decimals() {
        let add = |a: &str, b: &str| {
            let value = |s: &str| s.parse::<f64>().unwrap();
            add_decimals(a.as_bytes(), value(a), b.as_bytes(), value(b))
        };
        assert_eq!(add("0.1", "0.2").unwrap(), "0.3");
        assert_eq!(add("10.50", "-10.5").unwrap(), "0");
        assert_eq!(add("5.0e3", "200").unwrap(), "5200");
        assert_eq!(add("-1.25", "1").unwrap(), "-0.25");
        assert_eq!(add("1e308", "1e308"), None);
    }

    #[test]
    fn doubles_read_as_strtod_reads_them() {
        assert_eq!(parse_double(b"0x1.8p3"), Some(12.0));
        assert_eq!(parse_double(b"-inf"), Some(f64::NEG_INFINITY));
        assert_eq!(parse_double(b"1e400"), Some(f64::INFINITY));
        for bad in ["", " 1", "1 ", "nan", "abc", "1.2.3"] {
            assert_eq!(parse_double(bad.as_bytes()), None, "{bad}");
        }
    }
}
