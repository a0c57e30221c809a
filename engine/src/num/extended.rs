//! Numbers with a mantissa of 64 bits, as x86's 80-bit floating point has them: what `INCRBYFLOAT`
//! and `HINCRBYFLOAT` add in.
//!
//! Redis uses the C compiler's `long double` there, and clients see its digits. Rust has no such
//! type, so the little that is needed is done in integers: reading a decimal, one addition, writing
//! 17 places; each rounded once, to nearest, ties to even. Usual numbers need 128-bit integers only;
//! long ones go through [`Big`].

use std::cmp::Ordering;

/// Longer text is no number for Redis.
const TEXT_MAX: usize = 5 * 1024;
/// The exponent of the last bit of the smallest numbers.
const LEAST_EXPONENT: i32 = -16445;
/// The exponent of the first bit of the largest.
const MOST_EXPONENT: i32 = 16383;
/// Decimal places that are written.
const PLACES: u32 = 17;
/// Up to here a power of five fits in 64 bits.
const FIVES: i32 = 27;

/// `mantissa * 2^exponent`, or infinity. The mantissa's first bit is set unless the exponent is the
/// least there is, or the number is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extended {
    negative: bool,
    infinite: bool,
    exponent: i32,
    mantissa: u64,
}

impl Extended {
    const ZERO: Extended =
        Extended { negative: false, infinite: false, exponent: LEAST_EXPONENT, mantissa: 0 };

    /// The number that `text` spells, as `strtold` reads it: `inf`, `infinity`, exponents and
    /// hexadecimal are taken; surrounding space, `nan`, and what is too large or too small are not.
    pub fn parse(text: &[u8]) -> Option<Extended> {
        if text.len() >= TEXT_MAX {
            return None;
        }
        let (negative, text) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let value = match text {
            [b'0', b'x' | b'X', digits @ ..] => hexadecimal(digits)?,
            _ if [&b"inf"[..], b"infinity"].iter().any(|w| text.eq_ignore_ascii_case(w)) => {
                Extended { infinite: true, ..Extended::ZERO }
            }
            _ => decimal(text)?,
        };
        Some(Extended { negative, ..value })
    }

    pub fn is_infinite(self) -> bool {
        self.infinite
    }

    /// The sum; `None` if it is not finite.
    pub fn sum(self, other: Extended) -> Option<Extended> {
        if self.infinite || other.infinite {
            return None;
        }
        let (a, b) = match (self.exponent, self.mantissa) < (other.exponent, other.mantissa) {
            true => (other, self),
            false => (self, other),
        };
        if b.mantissa == 0 {
            return Some(a);
        }
        // A zero has the least exponent, so it was `b`; and if `b`'s bits are shifted out, `a` has
        // all of its 64: what is left has enough bits to round by.
        let apart = (a.exponent - b.exponent) as u32;
        let (x, whole) = ((a.mantissa as u128) << 63, (b.mantissa as u128) << 63);
        let y = whole.checked_shr(apart).unwrap_or(0);
        let sticky = y.checked_shl(apart).unwrap_or(0) != whole;
        let bits = match a.negative == b.negative {
            true => x + y,
            false => x - y - sticky as u128,
        };
        if bits == 0 {
            return Some(Extended::ZERO);
        }
        let sum = round(bits, sticky, a.exponent - 63);
        (!sum.infinite).then_some(Extended { negative: a.negative, ..sum })
    }

    /// As Redis prints it: no exponent, 17 places rounded, without zeros at the end.
    pub fn format(self) -> String {
        let mut text = String::from(if self.negative { "-" } else { "" });
        if self.infinite {
            return text + "inf";
        }
        let mut places = 0u64;
        if self.exponent >= 0 {
            text += &Big::from(self.mantissa as u128).shifted(self.exponent as u32).to_string();
        } else {
            const SCALE: u128 = 10u128.pow(PLACES);
            let below = -self.exponent as u32;
            let mantissa = self.mantissa as u128;
            let mut whole = mantissa.checked_shr(below).unwrap_or(0);
            let fraction = mantissa - whole.checked_shl(below).unwrap_or(0);
            // Less than 2^121: beyond 127 places nothing is left of it.
            let scaled = fraction * SCALE;
            if below < 128 {
                let (floor, half) = (scaled >> below, 1u128 << (below - 1));
                let rest = scaled - (floor << below);
                let up = rest > half || (rest == half && floor & 1 == 1);
                let rounded = floor + up as u128;
                whole += rounded / SCALE;
                places = (rounded % SCALE) as u64;
            }
            text += &whole.to_string();
        }
        if places > 0 {
            text += &format!(".{places:0width$}", width = PLACES as usize);
            text.truncate(text.trim_end_matches('0').len());
        }
        if text == "-0" { "0".into() } else { text }
    }
}

/// `(bits + less than one if sticky) * 2^exponent` with 64 bits, or as many as a very small number
/// has. `bits` is not 0, and has at least 66 bits if `sticky` is set.
fn round(bits: u128, sticky: bool, exponent: i32) -> Extended {
    let len = (128 - bits.leading_zeros()) as i32;
    let shift = (len - 64).max(LEAST_EXPONENT - exponent);
    let mut exponent = exponent + shift;
    let mut mantissa = match shift {
        ..=0 => bits << -shift,
        1..128 => {
            let (floor, half) = (bits >> shift, 1u128 << (shift - 1));
            let rest = bits - (floor << shift);
            let up = rest > half || (rest == half && (sticky || floor & 1 == 1));
            floor + up as u128
        }
        128 => (bits > 1 << 127 || (bits == 1 << 127 && sticky)) as u128,
        _ => 0,
    };
    if mantissa >> 64 != 0 {
        (mantissa, exponent) = (mantissa >> 1, exponent + 1);
    }
    let infinite = exponent + 63 > MOST_EXPONENT;
    Extended { negative: false, infinite, exponent, mantissa: mantissa as u64 }
}

/// What is neither too large, nor too small to be told from 0.
fn in_range(value: Extended) -> Option<Extended> {
    (!value.infinite && value.mantissa != 0).then_some(value)
}

/// A signed decimal exponent, held within what can matter.
fn exponent(text: &[u8]) -> Option<i32> {
    let (sign, digits) = match text {
        [b'-', rest @ ..] => (-1, rest),
        [b'+', rest @ ..] => (1, rest),
        rest => (1, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let add = |n: i32, digit: &u8| (n * 10 + (digit - b'0') as i32).min(1_000_000);
    Some(sign * digits.iter().fold(0, add))
}

/// The digits before and after the point, and the exponent after one of `marks`.
fn split(text: &[u8], marks: [u8; 2]) -> Option<(&[u8], &[u8], i32)> {
    let (digits, exponent) = match text.iter().position(|c| marks.contains(c)) {
        Some(at) => (&text[..at], exponent(&text[at + 1..])?),
        None => (text, 0),
    };
    let point = digits.iter().position(|&c| c == b'.').unwrap_or(digits.len());
    let (whole, fraction) = (&digits[..point], digits.get(point + 1..).unwrap_or(b""));
    (!whole.is_empty() || !fraction.is_empty()).then_some((whole, fraction, exponent))
}

fn decimal(text: &[u8]) -> Option<Extended> {
    let (whole, fraction, exponent) = split(text, [b'e', b'E'])?;
    let digits = || whole.iter().chain(fraction).map(|c| c.wrapping_sub(b'0'));
    if digits().any(|digit| digit > 9) {
        return None;
    }
    let Some(first) = digits().position(|digit| digit != 0) else { return Some(Extended::ZERO) };
    let zeros = digits().rev().take_while(|&digit| digit == 0).count();
    let count = whole.len() + fraction.len() - first - zeros;
    let digits = || digits().skip(first).take(count);
    // The value is that of the digits as a whole number, times this power of ten.
    let power = exponent + zeros as i32 - fraction.len() as i32;
    if !(-4970..4940).contains(&(power + count as i32)) {
        return None;
    }
    if count <= 19 && power.abs() <= FIVES {
        let number = digits().fold(0u64, |n, digit| n * 10 + digit as u64) as u128;
        let fives = 5u128.pow(power.unsigned_abs());
        return in_range(if power >= 0 {
            round(number * fives, false, power)
        } else {
            // The first bit of the one is the top one and the other has 63 at most: 65 are left.
            let shift = number.leading_zeros();
            let number = number << shift;
            round(number / fives, !number.is_multiple_of(fives), power - shift as i32)
        });
    }
    let mut number = Big::default();
    digits().for_each(|digit| number.multiply_and_add(10, digit as u32));
    let mut fives = Big::from(1);
    let scaled = if power >= 0 { &mut number } else { &mut fives };
    (0..power.unsigned_abs()).for_each(|_| scaled.multiply_and_add(5, 0));
    let (bits, sticky, exponent) = number.divided_by(fives);
    in_range(round(bits, sticky, exponent + power))
}

fn hexadecimal(text: &[u8]) -> Option<Extended> {
    let (whole, fraction, exponent) = split(text, [b'p', b'P'])?;
    let (mut bits, mut sticky, mut dropped) = (0u128, false, 0);
    for &c in whole.iter().chain(fraction) {
        let digit = (c as char).to_digit(16)?;
        if bits >> 124 == 0 {
            bits = bits << 4 | digit as u128;
        } else {
            sticky |= digit != 0;
            dropped += 4;
        }
    }
    if bits == 0 {
        return Some(Extended::ZERO);
    }
    in_range(round(bits, sticky, exponent + dropped - 4 * fraction.len() as i32))
}

/// A whole number of any size: its 32-bit digits, the least first, without zeros at the end.
#[derive(Clone, Default, PartialEq, Eq)]
struct Big(Vec<u32>);

impl From<u128> for Big {
    fn from(mut n: u128) -> Big {
        let mut digits = Vec::new();
        while n != 0 {
            digits.push(n as u32);
            n >>= 32;
        }
        Big(digits)
    }
}

impl Big {
    fn bits(&self) -> i32 {
        self.0.last().map_or(0, |last| self.0.len() as i32 * 32 - last.leading_zeros() as i32)
    }

    fn multiply_and_add(&mut self, factor: u32, add: u32) {
        let mut carry = add as u64;
        for digit in &mut self.0 {
            carry += *digit as u64 * factor as u64;
            *digit = carry as u32;
            carry >>= 32;
        }
        if carry != 0 {
            self.0.push(carry as u32);
        }
    }

    fn shifted(mut self, left: u32) -> Big {
        self.multiply_and_add(1 << (left % 32), 0);
        if !self.0.is_empty() {
            self.0.splice(..0, std::iter::repeat_n(0, (left / 32) as usize));
        }
        self
    }

    fn halve(&mut self) {
        let mut carry = 0;
        for digit in self.0.iter_mut().rev() {
            (*digit, carry) = (*digit >> 1 | carry << 31, *digit & 1);
        }
        self.trim();
    }

    fn trim(&mut self) {
        let len = self.0.iter().rposition(|&digit| digit != 0).map_or(0, |last| last + 1);
        self.0.truncate(len);
    }

    /// Takes away `other`, which is not larger.
    fn subtract(&mut self, other: &Big) {
        let mut borrow = false;
        let others = other.0.iter().copied().chain(std::iter::repeat(0));
        for (digit, other) in self.0.iter_mut().zip(others) {
            let (rest, under) = digit.overflowing_sub(other);
            let (rest, again) = rest.overflowing_sub(borrow as u32);
            (*digit, borrow) = (rest, under || again);
        }
        self.trim();
    }

    fn compare(&self, other: &Big) -> Ordering {
        let digits = || self.0.iter().rev().cmp(other.0.iter().rev());
        self.0.len().cmp(&other.0.len()).then_with(digits)
    }

    /// The quotient as 66 or 67 bits, whether there is a rest, and the exponent of the last bit.
    fn divided_by(mut self, divisor: Big) -> (u128, bool, i32) {
        let shift = divisor.bits() + 66 - self.bits();
        let divisor = divisor.shifted(-shift.min(0) as u32);
        self = self.shifted(shift.max(0) as u32);
        let mut quotient = 0;
        let mut part = divisor.shifted(66);
        for _ in 0..=66 {
            quotient <<= 1;
            if self.compare(&part).is_ge() {
                self.subtract(&part);
                quotient |= 1;
            }
            part.halve();
        }
        (quotient, !self.0.is_empty(), -shift)
    }

    /// Divides by ten to the 9th in place; the rest.
    fn next_digits(&mut self) -> u32 {
        let mut rest = 0u64;
        for digit in self.0.iter_mut().rev() {
            rest = rest << 32 | *digit as u64;
            *digit = (rest / 1_000_000_000) as u32;
            rest %= 1_000_000_000;
        }
        self.trim();
        rest as u32
    }
}

impl std::fmt::Display for Big {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut rest = self.clone();
        let mut groups = Vec::new();
        while !rest.0.is_empty() {
            groups.push(rest.next_digits());
        }
        write!(f, "{}", groups.pop().unwrap_or(0))?;
        groups.iter().rev().try_for_each(|group| write!(f, "{group:09}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> Option<String> {
        Extended::parse(text.as_bytes()).map(Extended::format)
    }

    fn added(a: &str, b: &str) -> Option<String> {
        let parse = |text: &str| Extended::parse(text.as_bytes()).unwrap();
        parse(a).sum(parse(b)).map(Extended::format)
    }

    /// Each as `redis-server` 7.0 answers.
    #[test]
    fn sums_are_those_of_redis() {
        for (a, b, sum) in SUMS {
            assert_eq!(added(a, b).as_deref(), Some(*sum), "{a} + {b}");
            assert_eq!(added(b, a).as_deref(), Some(*sum), "{b} + {a}");
        }
        for (a, b) in [("inf", "1"), ("inf", "-inf"), ("1e4932", "1e4932"), ("-1e4932", "-1e4932")]
        {
            assert_eq!(added(a, b), None, "{a} + {b}");
        }
    }

    const SUMS: &[(&str, &str, &str)] = &[
        ("0.1", "0.2", "0.3"),
        ("10.50", "-10.5", "0"),
        ("5.0e3", "200", "5200"),
        ("-1.25", "1", "-0.25"),
        ("1e19", "0.1", "10000000000000000000"),
        ("18446744073709551615", "1", "18446744073709551616"),
        ("18446744073709551615", "0.5", "18446744073709551616"),
        ("36893488147419103233", "2", "36893488147419103232"),
        ("3.0000000000000000050", "0", "3"),
        ("1e-17", "4e-18", "0.00000000000000001"),
        ("1e-17", "5e-18", "0.00000000000000002"),
        ("-1e-18", "-1e-18", "0"),
        ("1e25", "-1e25", "0"),
        ("1e30", "1e-30", "1000000000000000000024696061952"),
        ("123456789.123456789", "0.000000001", "123456789.12345678999554366"),
        ("0.33333333333333333333333", "0.66666666666666666666666", "1"),
        ("9007199254740993", "0.1", "9007199254740993.099609375"),
        ("0x1.fffffffffffffffep63", "1", "18446744073709551616"),
        (
            "1.7976931348623157e308",
            "1",
            "179769313486231569995921046774104434048386446944329178485314420765176628523124396354701868608387085564428793419425520689308708363451136055357897278026477617073498977686288394835618163294045594434929537447290627480669417384648879122776218333598953852832103282504751611691208117720159985926376802466863339536384",
        ),
        ("3.6e-4951", "1", "1"),
        ("0.00000000000000000499", "0", "0"),
        ("17179869184.0000000001", "-17179869184", "0"),
        ("1e40", "12345678901234567890", "9999999999999999999783686092270256259072"),
    ];

    #[test]
    fn text_is_read_as_strtold_reads_it() {
        for (text, value) in [
            ("0x1.8p3", "12"),
            ("0X.8", "0.5"),
            ("0x1.00000000000000008p0", "1"),
            ("+1.", "1"),
            (".5", "0.5"),
            ("1E+002", "100"),
            ("-0", "0"),
            ("-1e-20", "0"),
            ("0e9999999999", "0"),
            ("Infinity", "inf"),
            ("-inf", "-inf"),
        ] {
            assert_eq!(shown(text).as_deref(), Some(value), "{text}");
        }
        for bad in [
            "",
            "-",
            "+",
            ".",
            "e5",
            "1e",
            "1e+",
            " 1",
            "1 ",
            "0x",
            "0x.",
            "0xg",
            "1.2.3",
            "--1",
            "nan",
            "infinit",
            "1e4933",
            "-1e99999999999",
            "1e-4952",
            "0x1p16384",
            "0x1p-99999",
            "1\0",
            "1_0",
        ] {
            assert_eq!(Extended::parse(bad.as_bytes()), None, "{bad:?}");
        }
        assert_eq!(Extended::parse("1".repeat(TEXT_MAX).as_bytes()), None);
    }

    /// The short way and the long way are one.
    #[test]
    fn long_numbers_round_as_short_ones_do() {
        let mut seed = 1u64;
        for _ in 0..20_000 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let digits = seed >> (seed % 64);
            let power = (seed >> 32) as i32 % 28;
            let short = format!("{digits}e{power}");
            // A power of ten more and a digit less is the same number, and takes the other way.
            let long = format!("{digits}.{}e{power}", "0".repeat(40));
            assert_eq!(Extended::parse(short.as_bytes()), Extended::parse(long.as_bytes()));
            let mut number = Big::from(digits as u128);
            let mut fives = Big::from(1);
            let scaled = if power >= 0 { &mut number } else { &mut fives };
            (0..power.unsigned_abs()).for_each(|_| scaled.multiply_and_add(5, 0));
            if digits == 0 {
                continue;
            }
            let (bits, sticky, exponent) = number.divided_by(fives);
            let value = round(bits, sticky, exponent + power);
            assert_eq!(Extended::parse(short.as_bytes()), Some(value), "{short}");
        }
    }

    /// A double's exact decimal digits read back to it, and 64 bits hold any of them.
    #[test]
    fn doubles_are_read_exactly() {
        let mut seed = 7u64;
        for _ in 0..2000 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let double = f64::from_bits(seed & !(1 << 63));
            if !double.is_normal() {
                continue;
            }
            let value = Extended::parse(format!("{double:.1080}").as_bytes()).unwrap();
            let mantissa = (double.to_bits() & ((1 << 52) - 1) | 1 << 52) << 11;
            let exponent = (double.to_bits() >> 52) as i32 - 1075 - 11;
            assert_eq!((value.mantissa, value.exponent), (mantissa, exponent), "{double:e}");
        }
    }
}
