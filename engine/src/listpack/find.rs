//! Looking for an element.
//!
//! Small hashes, sets and sorted sets spend their time here, so the needle is encoded once and each
//! element is compared as bytes: by its first byte, which for a short string is its length, and then
//! by whole words, the last word first, for keys that count up (`field:17`) differ at their end.
//! Each shape of needle has its own copy of the loop, so nothing about the needle is asked inside.

use super::format::{Encoded, size_at};

/// Where an element with the needle's bytes begins, at `from` or `skip + 1`, 2 · (`skip + 1`), …
/// elements later. `from` is where an element begins, or the end.
pub(super) fn find(bytes: &[u8], from: usize, needle: &Encoded<'_>, skip: usize) -> Option<usize> {
    let head = needle.head;
    let data = needle.data;
    let first = head[0];
    if !data.is_empty() && needle.head_len == 1 {
        // A string of up to 63 bytes: its first byte says its length.
        return match data.len() {
            1..4 => scan(bytes, from, skip, |at| {
                bytes[at] == first && bytes[at + 1..].iter().zip(data).all(|(a, b)| a == b)
            }),
            4..8 => scan_words::<4>(bytes, from, skip, first, data),
            8..=16 => scan_words::<8>(bytes, from, skip, first, data),
            _ => {
                let tail = word::<8>(data, data.len() - 8);
                scan(bytes, from, skip, |at| {
                    bytes[at] == first
                        && word::<8>(bytes, at + 1 + data.len() - 8) == tail
                        && bytes[at + 1..at + 1 + data.len()] == *data
                })
            }
        };
    }
    match needle.head_len {
        1 => scan(bytes, from, skip, |at| bytes[at] == first), // 0..=127, or the empty string
        2 if data.is_empty() => scan_head::<2>(bytes, from, skip, &head),
        3 => scan_head::<3>(bytes, from, skip, &head),
        4 => scan_head::<4>(bytes, from, skip, &head),
        5 if data.is_empty() => scan_head::<5>(bytes, from, skip, &head),
        9 => scan_head::<9>(bytes, from, skip, &head),
        head_len => {
            let head = &head[..head_len as usize];
            scan(bytes, from, skip, |at| {
                bytes[at] == first
                    && bytes[at..].starts_with(head)
                    && bytes[at + head.len()..].starts_with(data)
            })
        }
    }
}

/// For an integer whose encoding and data are `N` bytes.
fn scan_head<const N: usize>(
    bytes: &[u8],
    from: usize,
    skip: usize,
    head: &[u8; 9],
) -> Option<usize> {
    let head = word::<N>(head, 0);
    scan(bytes, from, skip, |at| bytes[at] == head[0] && word::<N>(bytes, at) == head)
}

/// For a short string of `N` to 2 · `N` bytes: two words that may overlap are all of it.
fn scan_words<const N: usize>(
    bytes: &[u8],
    from: usize,
    skip: usize,
    first: u8,
    data: &[u8],
) -> Option<usize> {
    let last = data.len() - N;
    let (start, end) = (word::<N>(data, 0), word::<N>(data, last));
    scan(bytes, from, skip, |at| {
        bytes[at] == first
            && word::<N>(bytes, at + 1 + last) == end
            && word::<N>(bytes, at + 1) == start
    })
}

#[inline(always)]
fn scan(bytes: &[u8], from: usize, skip: usize, hit: impl Fn(usize) -> bool) -> Option<usize> {
    let end = bytes.len() - 1;
    let mut at = from;
    while at < end {
        if hit(at) {
            return Some(at);
        }
        at += size_at(bytes, at);
        for _ in 0..skip {
            if at >= end {
                return None;
            }
            at += size_at(bytes, at);
        }
    }
    None
}

#[inline(always)]
fn word<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice is N bytes")
}
