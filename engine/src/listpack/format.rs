//! The listpack's bytes: how one element is written and read.
//!
//! ```text
//! listpack  u32 LE total bytes · u16 LE elements (65535: not known) · elements · 0xFF
//! element   encoding and data · back length
//! ```
//!
//! | first byte | then | element |
//! | --- | --- | --- |
//! | `0vvvvvvv` | | integer 0..=127 |
//! | `10llllll` | data | string of up to 63 bytes |
//! | `110vvvvv` | 1 byte | integer of 13 bits, high bits first |
//! | `1110llll` | 1 byte of length, data | string of up to 4095 bytes, high bits first |
//! | `11110000` | u32 LE length, data | string |
//! | `0xF1` `0xF2` `0xF3` `0xF4` | 2, 3, 4, 8 bytes LE | integer of that width |
//!
//! The back length is the size of encoding and data in groups of seven bits, most significant first;
//! every byte but the first has its top bit set, so that it can be read from its end. Redis moves to
//! the next width one early (16383 takes three bytes), and checks that when it loads.
//!
//! Every element here is *canonical*: the shortest encoding, and an integer wherever the text is
//! one. Two elements are then equal exactly when their bytes are.

use std::cmp::Ordering;

use crate::num;

/// Total bytes and element count.
pub(super) const HEADER: usize = 6;
/// Where the element count is.
pub(super) const COUNT: usize = 4;
/// The byte after the last element.
pub(super) const END: u8 = 0xFF;
/// A count of this much or more is not kept.
pub(super) const COUNT_UNKNOWN: usize = 65535;

/// An element as it was stored: text that spells a canonical `i64` is an `Int`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    Int(i64),
    Str(&'a [u8]),
}

impl<'a> Entry<'a> {
    /// What `text` will be once it is stored. Entries made this way, and stored ones, are equal
    /// (`==`) exactly when their texts are.
    #[inline]
    pub fn parse(text: &'a [u8]) -> Entry<'a> {
        match could_be_int(text).then(|| num::parse_int(text)).flatten() {
            Some(value) => Entry::Int(value),
            None => Entry::Str(text),
        }
    }

    /// The bytes of its text.
    pub fn len(&self) -> usize {
        match *self {
            Entry::Int(value) => {
                let digits = value.unsigned_abs().checked_ilog10().unwrap_or(0) as usize + 1;
                digits + usize::from(value < 0)
            }
            Entry::Str(text) => text.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Entry::Str(b"")
    }

    /// Its text, printed into `buf` if it is an integer.
    pub fn text<'b>(&self, buf: &'b mut itoa::Buffer) -> &'b [u8]
    where
        'a: 'b,
    {
        match *self {
            Entry::Int(value) => buf.format(value).as_bytes(),
            Entry::Str(text) => text,
        }
    }

    /// Appends its text to `out`.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.text(&mut itoa::Buffer::new()));
    }

    pub fn to_vec(&self) -> Vec<u8> {
        self.text(&mut itoa::Buffer::new()).to_vec()
    }

    /// Whether its text is `text`. To compare one text with many entries, [`Entry::parse`] it once
    /// and use `==`.
    pub fn eq_bytes(&self, text: &[u8]) -> bool {
        match *self {
            Entry::Int(value) => num::parse_int(text) == Some(value),
            Entry::Str(stored) => stored == text,
        }
    }

    /// Orders by text, as `memcmp` does.
    pub fn cmp_bytes(&self, text: &[u8]) -> Ordering {
        self.text(&mut itoa::Buffer::new()).cmp(text)
    }

    /// The integer, if it is one. No stored `Str` spells an integer.
    pub fn as_int(&self) -> Option<i64> {
        match *self {
            Entry::Int(value) => Some(value),
            Entry::Str(_) => None,
        }
    }
}

/// Turns most text away before it is read as a number.
#[inline]
fn could_be_int(text: &[u8]) -> bool {
    matches!(text, [b'0'..=b'9' | b'-', ..]) && text.len() <= 20
}

/// An element as its bytes will be. Made once, it serves to look for the element and to store it.
#[derive(Clone, Copy, Debug)]
pub struct Encoded<'a> {
    /// The encoding, and an integer's data.
    pub(super) head: [u8; 9],
    pub(super) head_len: u8,
    /// A string's data.
    pub(super) data: &'a [u8],
}

impl<'a> Encoded<'a> {
    #[inline]
    pub fn int(value: i64) -> Encoded<'a> {
        let mut head = [0; 9];
        let le = value.to_le_bytes();
        let head_len = match value {
            0..=127 => {
                head[0] = value as u8;
                1
            }
            -4096..=4095 => {
                head[0] = 0xC0 | ((value >> 8) as u8 & 0x1F);
                head[1] = value as u8;
                2
            }
            _ => {
                let (code, width) = match value {
                    -0x8000..=0x7FFF => (0xF1, 2),
                    -0x80_0000..=0x7F_FFFF => (0xF2, 3),
                    -0x8000_0000..=0x7FFF_FFFF => (0xF3, 4),
                    _ => (0xF4, 8),
                };
                head[0] = code;
                head[1..].copy_from_slice(&le); // what is beyond `width` is never written out
                width + 1
            }
        };
        Encoded { head, head_len, data: b"" }
    }

    /// `text` as a string, which must not be an integer's.
    #[inline]
    fn string(text: &'a [u8]) -> Encoded<'a> {
        let mut head = [0; 9];
        let len = text.len();
        let head_len = match len {
            0..=63 => {
                head[0] = 0x80 | len as u8;
                1
            }
            64..=4095 => {
                head[0] = 0xE0 | (len >> 8) as u8;
                head[1] = len as u8;
                2
            }
            _ => {
                let len = u32::try_from(len).expect("callers keep elements below the safe size");
                head[0] = 0xF0;
                head[1..5].copy_from_slice(&len.to_le_bytes());
                5
            }
        };
        Encoded { head, head_len, data: text }
    }

    /// The bytes that it takes in a listpack.
    #[inline]
    pub fn size(&self) -> usize {
        with_back_len(self.head_len as usize + self.data.len())
    }

    /// The text of a string; an integer has none here.
    pub(crate) fn text(&self) -> &'a [u8] {
        self.data
    }

    /// Writes it to `out`, which is [`Encoded::size`] bytes.
    #[inline]
    pub(super) fn write(&self, out: &mut [u8]) {
        let head_len = self.head_len as usize;
        if head_len == 1 {
            out[0] = self.head[0];
        } else {
            out[..head_len].copy_from_slice(&self.head[..head_len]);
        }
        let len = head_len + self.data.len();
        if !self.data.is_empty() {
            out[head_len..len].copy_from_slice(self.data);
        }
        write_back_len(&mut out[len..], len);
    }
}

impl<'a> From<&'a [u8]> for Encoded<'a> {
    #[inline]
    fn from(text: &'a [u8]) -> Encoded<'a> {
        match Entry::parse(text) {
            Entry::Int(value) => Encoded::int(value),
            Entry::Str(text) => Encoded::string(text),
        }
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Encoded<'a> {
    fn from(text: &'a [u8; N]) -> Encoded<'a> {
        text.as_slice().into()
    }
}

impl<'a> From<&'a Vec<u8>> for Encoded<'a> {
    fn from(text: &'a Vec<u8>) -> Encoded<'a> {
        text.as_slice().into()
    }
}

impl<'a> From<i64> for Encoded<'a> {
    #[inline]
    fn from(value: i64) -> Encoded<'a> {
        Encoded::int(value)
    }
}

impl<'a> From<Entry<'a>> for Encoded<'a> {
    fn from(entry: Entry<'a>) -> Encoded<'a> {
        match entry {
            Entry::Int(value) => Encoded::int(value),
            Entry::Str(text) => text.into(),
        }
    }
}

/// `len` and the bytes that it takes as a back length.
#[inline]
pub(super) fn with_back_len(len: usize) -> usize {
    len + match len {
        0..=127 => 1,
        128..16383 => 2,
        16383..2097151 => 3,
        2097151..268435455 => 4,
        _ => 5,
    }
}

/// Fills `out` with `len`, as a back length of `out.len()` bytes.
#[inline]
fn write_back_len(out: &mut [u8], len: usize) {
    if let [only] = out {
        *only = len as u8;
        return;
    }
    let mut rest = len;
    for byte in out.iter_mut().rev() {
        *byte = rest as u8 | 0x80;
        rest >>= 7;
    }
    out[0] &= 0x7F;
}

/// The sizes of elements whose first byte says them; 0 for the other elements and for no element.
const SIZES: [u8; 256] = {
    let mut sizes = [0; 256];
    let mut first = 0;
    while first < 256 {
        sizes[first] = match first {
            0x00..=0x7F => 2,
            0x80..=0xBF => (first & 0x3F) as u8 + 2,
            0xC0..=0xDF => 3,
            0xF1 => 4,
            0xF2 => 5,
            0xF3 => 6,
            0xF4 => 10,
            _ => 0,
        };
        first += 1;
    }
    sizes
};

/// The size of the element at `at`, back length included.
#[inline(always)]
pub(super) fn size_at(bytes: &[u8], at: usize) -> usize {
    let first = bytes[at];
    if first & 0xC0 == 0x80 {
        return (first & 0x3F) as usize + 2; // sooner known than from the table
    }
    match SIZES[first as usize] {
        0 => long_size_at(bytes, at),
        size => size as usize,
    }
}

#[inline(never)]
fn long_size_at(bytes: &[u8], at: usize) -> usize {
    match bytes[at] {
        0xE0..=0xEF => with_back_len(2 + len12(bytes, at)),
        0xF0 => with_back_len(5 + len32(bytes, at)),
        first => unreachable!("no element begins with {first:#x}: it was stored or checked by us"),
    }
}

#[inline]
fn len12(bytes: &[u8], at: usize) -> usize {
    ((bytes[at] & 0x0F) as usize) << 8 | bytes[at + 1] as usize
}

#[inline]
fn len32(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(array(bytes, at + 1)) as usize
}

#[inline]
fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice is N bytes")
}

/// The element at `at`, and where the next one begins.
#[inline]
pub(super) fn read_at(bytes: &[u8], at: usize) -> (Entry<'_>, usize) {
    let first = bytes[at];
    if first & 0xC0 == 0x80 {
        let len = (first & 0x3F) as usize;
        (Entry::Str(&bytes[at + 1..at + 1 + len]), at + len + 2)
    } else if first < 0x80 {
        (Entry::Int(first as i64), at + 2)
    } else {
        read_wide_at(bytes, at)
    }
}

fn read_wide_at(bytes: &[u8], at: usize) -> (Entry<'_>, usize) {
    let string = |head: usize, len: usize| Entry::Str(&bytes[at + head..at + head + len]);
    let entry = match bytes[at] {
        0xC0..=0xDF => {
            let high = (bytes[at] << 3) as i8 >> 3; // five bits, sign extended
            Entry::Int((high as i64) << 8 | bytes[at + 1] as i64)
        }
        0xE0..=0xEF => string(2, len12(bytes, at)),
        0xF0 => string(5, len32(bytes, at)),
        0xF1 => Entry::Int(i16::from_le_bytes(array(bytes, at + 1)) as i64),
        0xF2 => {
            let [a, b, c] = array(bytes, at + 1);
            Entry::Int((i32::from_le_bytes([0, a, b, c]) >> 8) as i64)
        }
        0xF3 => Entry::Int(i32::from_le_bytes(array(bytes, at + 1)) as i64),
        _ => Entry::Int(i64::from_le_bytes(array(bytes, at + 1))),
    };
    (entry, at + size_at(bytes, at))
}

/// Where the element that ends before `at` begins.
#[inline]
pub(super) fn before(bytes: &[u8], at: usize) -> usize {
    let last = bytes[at - 1];
    if last < 0x80 {
        return at - 1 - last as usize;
    }
    let (mut len, mut shift, mut back) = (0usize, 0, at - 1);
    loop {
        len |= ((bytes[back] & 0x7F) as usize) << shift;
        if bytes[back] < 0x80 {
            return back - len;
        }
        shift += 7;
        back -= 1;
    }
}

/// Where the element at `at` ends if it is whole, lies before `end` and its back length is right.
/// The flag says whether it is canonical.
pub(super) fn check_at(bytes: &[u8], at: usize, end: usize) -> Option<(usize, bool)> {
    let head_len = match bytes[at] {
        0x00..=0xBF => 1,
        0xC0..=0xEF => 2,
        0xF0 => 5,
        0xF1 => 3,
        0xF2 => 4,
        0xF3 => 5,
        0xF4 => 9,
        _ => return None,
    };
    if end - at < head_len {
        return None;
    }
    let next = at.checked_add(size_at(bytes, at)).filter(|&next| next <= end)?;
    let (entry, _) = read_at(bytes, at);
    let data_len = if let Entry::Str(text) = entry { text.len() } else { 0 };
    let len = head_len + data_len;
    let mut back_len = [0; 5];
    let back_len = &mut back_len[..next - at - len];
    write_back_len(back_len, len);
    if bytes[at + len..next] != *back_len {
        return None;
    }
    let encoded = Encoded::from(entry);
    let canonical = encoded.head_len as usize + encoded.data.len() == len;
    Some((next, canonical))
}
