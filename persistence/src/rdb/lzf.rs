//! LZF, which RDB compresses strings with: the format of Marc Lehmann's liblzf.
//!
//! A compressed string is a row of
//!
//! | bytes | what |
//! | --- | --- |
//! | `000LLLLL`, then L + 1 bytes | those bytes as they are |
//! | `LLLOOOOO OOOOOOOO`, L in 1..=6 | L + 2 bytes from O + 1 bytes back in the output |
//! | `111OOOOO LLLLLLLL OOOOOOOO` | L + 9 bytes from O + 1 bytes back |
//!
//! Where a copy reaches into what it writes itself, it repeats. Nothing says how long the output is;
//! RDB keeps that beside it.
//!
//! Which matches a compressor takes is its own affair. This one remembers one place for each hash of
//! three bytes, and takes longer steps the longer it has found nothing, so what does not compress
//! costs little more than looking at it here and there.

use super::Corrupt;

/// As far back as a copy can reach, in bytes.
const MAX_DISTANCE: usize = 1 << 13;
const MIN_MATCH: usize = 3;
const MAX_MATCH: usize = 255 + 9;
const MAX_LITERALS: usize = 32;
/// What compression must save, in bytes, or a string is written as it is.
const MIN_SAVING: usize = 4;
const HASH_BITS: u32 = 13;

/// Where each hash of three bytes was last seen. Of 32 KiB, to stay in the first-level cache.
///
/// What an earlier string left in it does no harm, as matches are compared byte by byte: it never
/// has to be cleared, and one serves for all strings.
pub struct Table([u32; 1 << HASH_BITS]);

impl Table {
    pub const fn new() -> Table {
        Table([0; 1 << HASH_BITS])
    }
}

impl Default for Table {
    fn default() -> Table {
        Table::new()
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The hash of the low three bytes of `word`.
fn hash(word: u32) -> usize {
    ((word << 8).wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS)) as usize
}

/// Compresses `input` into `out` and returns how many bytes that took, or `None` if it would not
/// save at least four bytes, or not fit. `out` as long as `input` is always enough. What `out` holds
/// after `None` means nothing. Allocates nothing.
pub fn compress(input: &[u8], out: &mut [u8], table: &mut Table) -> Option<usize> {
    let room = input.len().checked_sub(MIN_SAVING)?.min(out.len());
    if u32::try_from(input.len()).is_err() {
        return None;
    }
    let mut out = Out { bytes: &mut out[..room], len: 0 };
    let (mut at, mut written, mut misses) = (0, 0, 0);
    while at + 4 <= input.len() {
        let here = word(input, at);
        let seen = &mut table.0[hash(here)];
        let from = *seen as usize;
        *seen = at as u32;
        if from >= at || at - from > MAX_DISTANCE || (word(input, from) ^ here) << 8 != 0 {
            misses += 1;
            at += 1 + (misses >> 5);
            continue;
        }
        let len = MIN_MATCH + same(input, from + MIN_MATCH, at + MIN_MATCH);
        out.literals(&input[written..at])?;
        out.copy(at - from, len)?;
        at += len;
        written = at;
        misses = 0;
        // The end of one match is often the beginning of the next.
        if at + 4 <= input.len() {
            let before = word(input, at - 2);
            table.0[hash(before)] = at as u32 - 2;
        }
    }
    out.literals(&input[written..])?;
    Some(out.len)
}

/// How many bytes at `a` and at `b`, which is behind it, are the same, up to what a copy can name.
fn same(input: &[u8], a: usize, b: usize) -> usize {
    let max = (input.len() - b).min(MAX_MATCH - MIN_MATCH);
    let mut len = 0;
    while len + 8 <= max {
        let difference = long(input, a + len) ^ long(input, b + len);
        if difference != 0 {
            return len + difference.trailing_zeros() as usize / 8;
        }
        len += 8;
    }
    while len < max && input[a + len] == input[b + len] {
        len += 1;
    }
    len
}

struct Out<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl Out<'_> {
    fn literals(&mut self, literals: &[u8]) -> Option<()> {
        let end = self.len + literals.len() + literals.len().div_ceil(MAX_LITERALS);
        let mut to = self.bytes.get_mut(self.len..end)?;
        for run in literals.chunks(MAX_LITERALS) {
            to[0] = run.len() as u8 - 1;
            to[1..=run.len()].copy_from_slice(run);
            to = &mut to[1 + run.len()..];
        }
        self.len = end;
        Some(())
    }

    fn copy(&mut self, distance: usize, len: usize) -> Option<()> {
        let (offset, len) = (distance - 1, len - 2);
        let to = self.bytes.get_mut(self.len..)?;
        if len < 7 {
            let [control, low, ..] = to else { return None };
            *control = (len as u8) << 5 | (offset >> 8) as u8;
            *low = offset as u8;
            self.len += 2;
        } else {
            let [control, more, low, ..] = to else { return None };
            *control = 7 << 5 | (offset >> 8) as u8;
            *more = (len - 7) as u8;
            *low = offset as u8;
            self.len += 3;
        }
        Some(())
    }
}

/// The most bytes that `compressed` bytes can stand for. What claims more is corrupt, which is worth
/// knowing before memory is asked for.
pub fn max_len(compressed: usize) -> usize {
    compressed.saturating_mul(MAX_MATCH / 3)
}

/// Decompresses `input` into a new allocation of exactly `len` bytes.
pub fn decompress_to_vec(input: &[u8], len: usize) -> Result<Vec<u8>, Corrupt> {
    if len > max_len(input.len()) {
        return Err(Corrupt("compressed string claims more than it can hold"));
    }
    let mut out = vec![0; len];
    decompress(input, &mut out)?;
    Ok(out)
}

/// Decompresses `input`, which must fill `out` exactly.
pub fn decompress(input: &[u8], out: &mut [u8]) -> Result<(), Corrupt> {
    const SHORT: Corrupt = Corrupt("compressed string ends inside of an instruction");
    const LONG: Corrupt = Corrupt("compressed string is longer than it says");
    let (mut input, mut at) = (input, 0);
    while let Some((&control, rest)) = input.split_first() {
        input = rest;
        let control = control as usize;
        if control < MAX_LITERALS {
            let len = control + 1;
            let (literals, rest) = input.split_at_checked(len).ok_or(SHORT)?;
            out.get_mut(at..at + len).ok_or(LONG)?.copy_from_slice(literals);
            input = rest;
            at += len;
            continue;
        }
        let mut len = (control >> 5) + 2;
        if len == 9 {
            let (&more, rest) = input.split_first().ok_or(SHORT)?;
            input = rest;
            len += more as usize;
        }
        let (&low, rest) = input.split_first().ok_or(SHORT)?;
        input = rest;
        let distance = ((control & 0x1f) << 8 | low as usize) + 1;
        let from = at
            .checked_sub(distance)
            .ok_or(Corrupt("compressed string copies from before its beginning"))?;
        if at + len > out.len() {
            return Err(LONG);
        }
        // What has been copied may be copied again: as the repeat grows, so do the pieces.
        let end = at + len;
        while at < end {
            let piece = (at - from).min(end - at);
            out.copy_within(from..from + piece, at);
            at += piece;
        }
    }
    if at < out.len() {
        return Err(Corrupt("compressed string is shorter than it says"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(input: &[u8], table: &mut Table) -> Option<usize> {
        let mut out = vec![0xaa; input.len()];
        let len = compress(input, &mut out, table)?;
        assert!(len + MIN_SAVING <= input.len());
        assert_eq!(decompress_to_vec(&out[..len], input.len()).as_deref(), Ok(input));
        Some(len)
    }

    /// Payloads of `DUMP` by Redis 7.0, without their frame.
    #[test]
    fn reads_what_redis_wrote() {
        let rows: [(Vec<u8>, &[u8]); 3] = [
            (b"a".repeat(300), b"\x01aa\xe0\xff\x00\xe0\x17\x00\x01aa"),
            (b"hello, world; ".repeat(3), b"\x0ehello, world; h\xe0\x10\x0d\x01; "),
            ((0..=255).chain(0..=255).collect(), b"\x1f\x00\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f\x10\x11\x12\x13\x14\x15\x16\x17\x18\x19\x1a\x1b\x1c\x1d\x1e\x1f\x1f !\x22#$%&'()*+,-./0123456789:;<=>?\x1f@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\x5c]^_\x1f`abcdefghijklmnopqrstuvwxyz{|}~\x7f\x1f\x80\x81\x82\x83\x84\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98\x99\x9a\x9b\x9c\x9d\x9e\x9f\x1f\xa0\xa1\xa2\xa3\xa4\xa5\xa6\xa7\xa8\xa9\xaa\xab\xac\xad\xae\xaf\xb0\xb1\xb2\xb3\xb4\xb5\xb6\xb7\xb8\xb9\xba\xbb\xbc\xbd\xbe\xbf\x1f\xc0\xc1\xc2\xc3\xc4\xc5\xc6\xc7\xc8\xc9\xca\xcb\xcc\xcd\xce\xcf\xd0\xd1\xd2\xd3\xd4\xd5\xd6\xd7\xd8\xd9\xda\xdb\xdc\xdd\xde\xdf\x1f\xe0\xe1\xe2\xe3\xe4\xe5\xe6\xe7\xe8\xe9\xea\xeb\xec\xed\xee\xef\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff\x00\x00\xe0\xf4\xff\x01\xfe\xff"),
        ];
        for (plain, compressed) in rows {
            assert_eq!(decompress_to_vec(compressed, plain.len()), Ok(plain));
        }
    }

    #[test]
    fn copies_repeat_themselves() {
        assert_eq!(decompress_to_vec(b"\x00a\x20\x00", 4).unwrap(), b"aaaa");
        assert_eq!(decompress_to_vec(b"\x01ab\xe0\x00\x01", 11).unwrap(), b"abababababa");
        assert_eq!(decompress_to_vec(b"\x00a\xe0\xff\x00", 265).unwrap(), [b'a'; 265]);
    }

    #[test]
    fn damage_is_an_error() {
        for (bytes, len) in [
            (&b"\x02ab"[..], 3), // literals cut off
            (b"\x00a\x20", 4),   // no offset
            (b"\x00a\xe0\x00", 10),
            (b"\x00a\xe0", 10),
            (b"\x00a\x20\x01", 4), // from before the beginning
            (b"\x20\x00", 3),
            (b"\x00a\x20\x00", 3), // longer and shorter than said
            (b"\x00a\x20\x00", 5),
            (b"\x01ab", 1),
            (b"", 1),
            (b"\x00a\xe0\xff\x00", usize::MAX), // would have to be allocated
        ] {
            assert!(decompress_to_vec(bytes, len).is_err(), "{bytes:?} {len}");
        }
        assert_eq!(decompress_to_vec(b"", 0).unwrap(), b"");
    }

    #[test]
    fn compresses_what_repeats_and_gives_up_on_what_does_not() {
        let mut table = Table::new();
        assert!(round_trip(&[b'a'; 100_000], &mut table).unwrap() < 1300);
        let text = b"the quick brown fox jumps over the lazy dog, ".repeat(20);
        assert!(round_trip(&text, &mut table).unwrap() < text.len() / 5);
        let far: Vec<u8> = [&b"0123456789"[..], &[7; MAX_DISTANCE - 10], b"0123456789"].concat();
        assert!(round_trip(&far, &mut table).is_some());

        let mut state = 1u64;
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        })
        .take(100_000)
        .collect();
        assert_eq!(round_trip(&noise, &mut table), None);
        for len in 0..8 {
            assert_eq!(round_trip(&vec![b'a'; len], &mut table), None);
        }
    }

    proptest! {
        #[test]
        fn round_trips(parts in prop::collection::vec(
            prop_oneof![
                ("[ab]{1,9}", 1usize..400).prop_map(|(s, n)| s.into_bytes().repeat(n)),
                prop::collection::vec(any::<u8>(), 0..200),
                prop::collection::vec(0u8..3, 0..3000),
            ],
            0..12,
        )) {
            let mut table = Table::new();
            let mut all = Vec::new();
            // Each through the table that the one before has used.
            for part in &parts {
                round_trip(part, &mut table);
                all.extend_from_slice(part);
            }
            round_trip(&all, &mut table);
        }

        #[test]
        fn little_room_is_no_panic(input in prop::collection::vec(0u8..3, 0..500), room in 0usize..100) {
            let mut out = vec![0; room];
            if let Some(len) = compress(&input, &mut out, &mut Table::new()) {
                prop_assert_eq!(decompress_to_vec(&out[..len], input.len()), Ok(input));
            }
        }

        #[test]
        fn any_bytes_decompress_or_fail(
            mut bytes in prop::collection::vec(prop_oneof![0u8..4, 0x20u8..0x24, 0xe0u8..0xe2, any::<u8>()], 0..100),
            len in 0usize..2000,
        ) {
            if let Ok(out) = decompress_to_vec(&bytes, len) {
                prop_assert_eq!(out.len(), len);
                bytes.push(0);
                prop_assert!(decompress_to_vec(&bytes, len).is_err());
            }
        }
    }
}
