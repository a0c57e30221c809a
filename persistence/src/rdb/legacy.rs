//! The blobs that small collections were before listpacks: ziplists (RDB versions up to 9) and
//! zipmaps (up to 3). Only read, never written.
//!
//! A ziplist, numbers little-endian but for the lengths of strings:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..4 | length of the whole, in bytes |
//! | 4..8 | where the last entry begins (10 if there is none) |
//! | 8..10 | number of entries; 65535 if there are that many or more |
//! | 10.. | entries |
//! | last | 255 |
//!
//! An entry is the length of the entry before it (one byte below 254, or 254 and a `u32`), then
//!
//! | first byte | what follows |
//! | --- | --- |
//! | `00LLLLLL` | a string of L bytes |
//! | `01LLLLLL LLLLLLLL` | a string of L bytes, L big-endian |
//! | `10......` | `u32` big-endian, and a string of so many bytes |
//! | `c0` `d0` `e0` | an `i16`, `i32`, `i64` |
//! | `f0` `fe` | an integer of 24 or 8 bits |
//! | `f1`..=`fd` | nothing: the integer is the low four bits less one |
//!
//! A zipmap is a byte with the number of pairs (254 or more: unknown), the pairs, and a 255. A pair
//! is a length and the field, a length, a byte with the number of unused bytes, the value, and the
//! unused bytes. A length is one byte below 254, or 254 and a `u32`.
//!
//! Both readers check everything that the formats let them check, and give an error instead of
//! whatever it is that does not fit.

use super::Corrupt;

/// An element of a ziplist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    Int(i64),
    Str(&'a [u8]),
}

/// Takes bytes off the front of what is left.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn bytes(&mut self, len: usize) -> Result<&'a [u8], Corrupt> {
        let (taken, rest) =
            self.rest.split_at_checked(len).ok_or(Corrupt("ends inside of an entry"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Corrupt> {
        Ok(self.bytes(N)?.try_into().expect("as many bytes as were asked for"))
    }

    fn byte(&mut self) -> Result<u8, Corrupt> {
        Ok(self.array::<1>()?[0])
    }

    fn u32(&mut self) -> Result<usize, Corrupt> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    /// One byte below 254, or 254 and a `u32`: how both formats write lengths.
    fn len(&mut self) -> Result<usize, Corrupt> {
        match self.byte()? {
            254 => self.u32(),
            END => Err(Corrupt("ends before its last entry")),
            len => Ok(len as usize),
        }
    }
}

const END: u8 = 255;
const HEADER: usize = 10;
const MANY: usize = u16::MAX as usize;

/// The entries of a ziplist, or one error and nothing more. The last item says whether the header
/// was right, so whoever stops early has not checked the whole.
pub struct Ziplist<'a> {
    reader: Reader<'a>,
    blob_len: usize,
    tail: usize,
    len: usize,
    read: usize,
    /// The last entry's place and length.
    last: (usize, usize),
    done: bool,
}

impl<'a> Ziplist<'a> {
    /// Reads the header of `blob`, which must be the ziplist exactly.
    pub fn new(blob: &'a [u8]) -> Result<Ziplist<'a>, Corrupt> {
        let mut reader = Reader { rest: blob };
        let (bytes, tail) = (reader.u32()?, reader.u32()?);
        let len = u16::from_le_bytes(reader.array()?) as usize;
        if bytes != blob.len() {
            return Err(Corrupt("ziplist is not as long as it says"));
        }
        let last = (HEADER, 0);
        Ok(Ziplist { reader, blob_len: blob.len(), tail, len, read: 0, last, done: false })
    }

    /// The number of entries, if the header knows it.
    pub fn entries(&self) -> Option<usize> {
        (self.len != MANY).then_some(self.len)
    }

    fn entry(&mut self) -> Result<Option<Entry<'a>>, Corrupt> {
        let start = self.blob_len - self.reader.rest.len();
        if self.reader.rest.first() == Some(&END) {
            return self.end().map(|()| None);
        }
        if self.reader.len()? != self.last.1 {
            return Err(Corrupt("ziplist entry disagrees about the one before it"));
        }
        let entry = value(&mut self.reader)?;
        self.last = (start, self.blob_len - self.reader.rest.len() - start);
        self.read += 1;
        Ok(Some(entry))
    }

    fn end(&self) -> Result<(), Corrupt> {
        if self.reader.rest.len() != 1 {
            return Err(Corrupt("ziplist ends before its last byte"));
        }
        if self.tail != self.last.0 {
            return Err(Corrupt("ziplist's last entry is not where it says"));
        }
        if self.len != MANY && self.len != self.read {
            return Err(Corrupt("ziplist has not as many entries as it says"));
        }
        Ok(())
    }
}

fn value<'a>(reader: &mut Reader<'a>) -> Result<Entry<'a>, Corrupt> {
    let encoding = reader.byte()?;
    let len = match encoding {
        0x00..=0x3f => encoding as usize,
        0x40..=0x7f => (encoding as usize & 0x3f) << 8 | reader.byte()? as usize,
        0x80..=0xbf => u32::from_be_bytes(reader.array()?) as usize,
        0xc0 => return Ok(Entry::Int(i16::from_le_bytes(reader.array()?).into())),
        0xd0 => return Ok(Entry::Int(i32::from_le_bytes(reader.array()?).into())),
        0xe0 => return Ok(Entry::Int(i64::from_le_bytes(reader.array()?))),
        0xf0 => {
            let [a, b, c] = reader.array()?;
            return Ok(Entry::Int((i32::from_le_bytes([0, a, b, c]) >> 8).into()));
        }
        0xf1..=0xfd => return Ok(Entry::Int(i64::from(encoding & 0x0f) - 1)),
        0xfe => return Ok(Entry::Int(i8::from_le_bytes(reader.array()?).into())),
        _ => return Err(Corrupt("ziplist entry is of no known encoding")),
    };
    Ok(Entry::Str(reader.bytes(len)?))
}

impl<'a> Iterator for Ziplist<'a> {
    type Item = Result<Entry<'a>, Corrupt>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let entry = self.entry();
        self.done = !matches!(entry, Ok(Some(_)));
        entry.transpose()
    }
}

/// A field and its value.
pub type Pair<'a> = (&'a [u8], &'a [u8]);

/// The pairs of field and value of a zipmap, or one error and nothing more.
pub struct Zipmap<'a> {
    reader: Reader<'a>,
    pairs: u8,
    read: usize,
    done: bool,
}

impl<'a> Zipmap<'a> {
    /// Reads the header of `blob`, which must be the zipmap exactly.
    pub fn new(blob: &'a [u8]) -> Result<Zipmap<'a>, Corrupt> {
        let mut reader = Reader { rest: blob };
        let pairs = reader.byte()?;
        Ok(Zipmap { reader, pairs, read: 0, done: false })
    }

    fn pair(&mut self) -> Result<Option<Pair<'a>>, Corrupt> {
        let reader = &mut self.reader;
        if reader.rest.first() == Some(&END) {
            if reader.rest.len() != 1 {
                return Err(Corrupt("zipmap ends before its last byte"));
            }
            if self.pairs < 254 && self.pairs as usize != self.read {
                return Err(Corrupt("zipmap has not as many pairs as it says"));
            }
            return Ok(None);
        }
        let len = reader.len()?;
        let field = reader.bytes(len)?;
        let len = reader.len()?;
        let unused = reader.byte()?;
        let value = reader.bytes(len)?;
        reader.bytes(unused as usize)?;
        self.read += 1;
        Ok(Some((field, value)))
    }
}

impl<'a> Iterator for Zipmap<'a> {
    type Item = Result<Pair<'a>, Corrupt>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.done {
            return None;
        }
        let pair = self.pair();
        self.done = !matches!(pair, Ok(Some(_)));
        pair.transpose()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ziplist(blob: &[u8]) -> Result<Vec<Entry<'_>>, Corrupt> {
        Ziplist::new(blob)?.collect()
    }

    fn zipmap(blob: &[u8]) -> Result<Vec<Pair<'_>>, Corrupt> {
        Zipmap::new(blob)?.collect()
    }

    /// Entries as they stand in a ziplist, each behind the length of the one before.
    fn build(entries: &[Vec<u8>], wide_lengths: bool) -> Vec<u8> {
        let (mut blob, mut tail, mut before) = (vec![0; HEADER], HEADER, 0);
        for entry in entries {
            tail = blob.len();
            if before < 254 && !wide_lengths {
                blob.push(before as u8);
            } else {
                blob.push(254);
                blob.extend((before as u32).to_le_bytes());
            }
            blob.extend(entry);
            before = blob.len() - tail;
        }
        blob.push(END);
        let len = blob.len() as u32;
        blob[..4].copy_from_slice(&len.to_le_bytes());
        blob[4..8].copy_from_slice(&(tail as u32).to_le_bytes());
        blob[8..10].copy_from_slice(&(entries.len().min(MANY) as u16).to_le_bytes());
        blob
    }

    fn string(bytes: &[u8], width: u8) -> Vec<u8> {
        let len = bytes.len();
        let mut entry = match width {
            0 if len < 1 << 6 => vec![len as u8],
            0 | 1 if len < 1 << 14 => vec![0x40 | (len >> 8) as u8, len as u8],
            _ => [&[0x80][..], &(len as u32).to_be_bytes()].concat(),
        };
        entry.extend(bytes);
        entry
    }

    /// `int` in the smallest encoding of at least `width` bytes.
    fn integer(int: i64, width: u8) -> Vec<u8> {
        let bytes = int.to_le_bytes();
        let bits = 65 - int.unsigned_abs().saturating_sub((int < 0) as u64).leading_zeros();
        match (width, bits) {
            (0, _) if (0..=12).contains(&int) => vec![0xf1 + int as u8],
            (0..=1, 0..=8) => vec![0xfe, bytes[0]],
            (0..=2, 0..=16) => [&[0xc0], &bytes[..2]].concat(),
            (0..=3, 0..=24) => [&[0xf0], &bytes[..3]].concat(),
            (0..=4, 0..=32) => [&[0xd0], &bytes[..4]].concat(),
            _ => [&[0xe0], &bytes[..]].concat(),
        }
    }

    #[test]
    fn known_ziplists() {
        let two_and_five = b"\x0f\0\0\0\x0c\0\0\0\x02\0\x00\xf3\x02\xf6\xff";
        assert_eq!(ziplist(two_and_five), Ok(vec![Entry::Int(2), Entry::Int(5)]));
        let hello = b"\x1c\0\0\0\x0e\0\0\0\x03\0\x00\xf3\x02\xf6\x02\x0bHello World\xff";
        let hello = Ziplist::new(hello).and_then(|z| z.collect::<Result<Vec<_>, _>>());
        assert_eq!(hello, Ok(vec![Entry::Int(2), Entry::Int(5), Entry::Str(b"Hello World")]));
        let empty = b"\x0b\0\0\0\x0a\0\0\0\0\0\xff";
        assert_eq!(ziplist(empty), Ok(vec![]));
        assert_eq!(Ziplist::new(empty).unwrap().entries(), Some(0));
    }

    #[test]
    fn every_integer_encoding() {
        for (bytes, int) in [
            (&[0xf1][..], 0),
            (&[0xfd], 12),
            (&[0xfe, 0x80], -128),
            (&[0xc0, 0x00, 0x80], -32768),
            (&[0xf0, 0xff, 0xff, 0x7f], (1 << 23) - 1),
            (&[0xf0, 0x00, 0x00, 0x80], -(1 << 23)),
            (&[0xd0, 0xff, 0xff, 0xff, 0xff], -1),
            (&[0xe0, 0, 0, 0, 0, 0, 0, 0, 0x80], i64::MIN),
        ] {
            assert_eq!(ziplist(&build(&[bytes.to_vec()], false)), Ok(vec![Entry::Int(int)]));
        }
        assert!(ziplist(&build(&[vec![0xff]], false)).is_err());
        assert!(ziplist(&build(&[vec![0xc1, 0, 0]], false)).is_err());
    }

    #[test]
    fn a_ziplist_of_unknown_length_is_read_to_its_end() {
        let blob = build(&vec![vec![0xf2]; 70_000], false);
        let list = Ziplist::new(&blob).unwrap();
        assert_eq!(list.entries(), None);
        assert_eq!(list.collect::<Result<Vec<_>, _>>().unwrap(), vec![Entry::Int(1); 70_000]);
    }

    #[test]
    fn a_header_that_lies_is_an_error() {
        let good = build(&[vec![0xf2], string(b"abc", 0), vec![0xf3]], false);
        assert!(ziplist(&good).is_ok());
        for (at, byte) in [(0, good[0] + 1), (4, good[4] - 1), (8, 2), (8, 4), (12, 9)] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(ziplist(&bad).is_err(), "byte {at}");
        }
        for end in 0..good.len() {
            assert!(ziplist(&good[..end]).is_err());
            let mut cut = good[..end].to_vec();
            if end >= HEADER {
                cut[..4].copy_from_slice(&(end as u32).to_le_bytes());
                assert!(ziplist(&cut).is_err());
            }
        }
    }

    #[test]
    fn an_error_is_the_last_item() {
        let mut bad = build(&[vec![0xf2], vec![0xf3]], false);
        bad[12] = 77;
        let items: Vec<_> = Ziplist::new(&bad).unwrap().collect();
        assert_eq!(items.len(), 2);
        assert!(items[0].is_ok() && items[1].is_err());
    }

    #[test]
    fn known_zipmaps() {
        let pairs: Vec<Pair<'_>> = vec![(b"foo", b"bar"), (b"hello", b"world")];
        assert_eq!(zipmap(b"\x02\x03foo\x03\0bar\x05hello\x05\0world\xff"), Ok(pairs));
        let unused: Vec<Pair<'_>> = vec![(b"k", b"v")];
        assert_eq!(zipmap(b"\x01\x01k\x01\x03vxyz\xff"), Ok(unused.clone()));
        assert_eq!(zipmap(b"\xfe\xfe\x01\0\0\0k\x01\0v\xff"), Ok(unused));
        assert_eq!(zipmap(b"\x00\xff"), Ok(vec![]));
        for bad in [
            &b""[..],
            b"\x00",
            b"\x01\xff",
            b"\x00\xff\xff",
            b"\x01\x01k\xff",
            b"\x01\x01k\x01\x00v",
            b"\x01\x01k\x01\x02vx\xff",
            b"\x01\xfe\xff\xff\xff\xffk\x01\x00v\xff",
        ] {
            assert!(zipmap(bad).is_err(), "{bad:?}");
        }
    }

    #[derive(Clone, Debug)]
    enum Made {
        Int(i64, u8),
        Str(Vec<u8>, u8),
    }

    fn made() -> impl Strategy<Value = Made> {
        let len = prop_oneof![8 => 0usize..80, 2 => 200usize..300, 1 => 16_300usize..16_500];
        prop_oneof![
            (any::<i64>(), 0u32..64, 0u8..9).prop_map(|(i, by, w)| Made::Int(i >> by, w)),
            (len, any::<u8>(), 0u8..3).prop_map(|(len, b, w)| Made::Str(vec![b; len], w)),
        ]
    }

    proptest! {
        #[test]
        fn ziplists_round_trip_and_survive_damage(
            made in prop::collection::vec(made(), 0..40),
            wide in any::<bool>(),
            damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..5),
        ) {
            let bytes: Vec<Vec<u8>> = made
                .iter()
                .map(|m| match m {
                    Made::Int(int, width) => integer(*int, *width),
                    Made::Str(bytes, width) => string(bytes, *width),
                })
                .collect();
            let entries: Vec<Entry<'_>> = made
                .iter()
                .map(|m| match m {
                    Made::Int(int, _) => Entry::Int(*int),
                    Made::Str(bytes, _) => Entry::Str(bytes),
                })
                .collect();
            let mut blob = build(&bytes, wide && !bytes.is_empty());
            prop_assert_eq!(ziplist(&blob), Ok(entries));
            for (index, byte) in damage {
                let at = index.index(blob.len());
                blob[at] = byte;
                // Whatever comes out is bounded by the blob: each entry is two bytes at least.
                let count = ziplist(&blob).map_or(0, |entries| entries.len());
                prop_assert!(count * 2 <= blob.len());
            }
        }

        #[test]
        fn any_zipmap_is_read_or_refused(
            bytes in prop::collection::vec(prop_oneof![0u8..4, 253u8..=255, any::<u8>()], 0..60),
        ) {
            let read: usize = zipmap(&bytes)
                .map_or(0, |pairs| pairs.iter().map(|(f, v)| f.len() + v.len() + 3).sum());
            prop_assert!(read <= bytes.len());
        }
    }
}
