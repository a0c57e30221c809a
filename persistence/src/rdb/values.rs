//! Reading lengths, strings and values, of every type and encoding there ever was.
//!
//! The bytes may be damaged or made by an attacker, so each length is checked against what is left
//! before it is believed, and each small collection is looked at element by element: what the
//! engine's types promise (whole listpacks, distinct members, an order) is established here once,
//! and nowhere doubted after.

use super::Corrupt;
use super::format::*;
use super::legacy::{self, Ziplist, Zipmap};
use super::lzf;
use varve_engine::entry::{EMBED_MAX, Payload};
use varve_engine::hasher;
use varve_engine::intset::Intset;
use varve_engine::keyspace::Limits;
use varve_engine::listpack::{Builder, Entry, Listpack};
use varve_engine::member::Member;
use varve_engine::num;
use varve_engine::quicklist::Quicklist;
use varve_engine::types::{hash::Hash, list::List, set::Set, zset::Zset};
use varve_engine::value::Value;

type Result<T> = std::result::Result<T, Corrupt>;

const ENDS: Corrupt = Corrupt("it ends inside of what should be here");
const DUPLICATE: Corrupt = Corrupt("a field or member that is there twice");
const ODD: Corrupt = Corrupt("a field or member without its other half");
const NOT_A_LISTPACK: Corrupt = Corrupt("not a whole listpack");
const NOT_A_SCORE: Corrupt = Corrupt("a score that is not a number");

/// A place in the bytes. Where reading fails, it stays before what could not be read.
#[derive(Clone)]
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

enum Len {
    Plain(u64),
    Encoded(u8),
}

/// A string as it was written.
#[derive(Clone, Copy)]
pub enum Text<'a> {
    Int(i64),
    Bytes(&'a [u8]),
}

impl<'a> Text<'a> {
    /// Its bytes; an integer is printed into `room`.
    pub fn bytes<'r>(self, room: &'r mut itoa::Buffer) -> &'r [u8]
    where
        'a: 'r,
    {
        match self {
            Text::Int(n) => room.format(n).as_bytes(),
            Text::Bytes(bytes) => bytes,
        }
    }

    /// As the element of a collection.
    fn element(self) -> Entry<'a> {
        match self {
            Text::Int(n) => Entry::Int(n),
            Text::Bytes(bytes) => Entry::parse(bytes),
        }
    }

    /// The bytes of what can only be bytes.
    fn blob(self) -> Result<&'a [u8]> {
        match self {
            Text::Int(_) => Err(Corrupt("an integer where a small collection should be")),
            Text::Bytes(bytes) => Ok(bytes),
        }
    }
}

/// Room that is used again for each value: for what was compressed.
#[derive(Default)]
pub struct Room(Vec<u8>);

impl Room {
    fn of(&mut self, len: usize) -> &mut [u8] {
        /// So that one large value does not hold memory for the rest of the file.
        const KEPT: usize = 1 << 20;
        if self.0.len() > KEPT && len <= KEPT {
            self.0 = Vec::new();
        }
        if self.0.len() < len {
            self.0.resize(len, 0);
        }
        &mut self.0[..len]
    }
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8], at: usize) -> Cursor<'a> {
        Cursor { bytes, at }
    }

    pub fn position(&self) -> usize {
        self.at
    }

    pub fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    pub fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let taken = self.bytes[self.at..].get(..len).ok_or(ENDS)?;
        self.at += len;
        Ok(taken)
    }

    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as many as were asked for"))
    }

    pub fn byte(&mut self) -> Result<u8> {
        let byte = *self.bytes.get(self.at).ok_or(ENDS)?;
        self.at += 1;
        Ok(byte)
    }

    fn any_length(&mut self) -> Result<Len> {
        let first = self.byte()?;
        Ok(match first {
            ..LEN_14 => Len::Plain(first.into()),
            LEN_14..LEN_32 => Len::Plain(((first & 0x3f) as u64) << 8 | self.byte()? as u64),
            LEN_32 => Len::Plain(u32::from_be_bytes(self.array()?).into()),
            LEN_64 => Len::Plain(u64::from_be_bytes(self.array()?)),
            ENCODED.. => Len::Encoded(first & !ENCODED),
            _ => return Err(Corrupt("no length begins like this")),
        })
    }

    /// A length, or another number that is written as one.
    pub fn length(&mut self) -> Result<u64> {
        match self.any_length()? {
            Len::Plain(len) => Ok(len),
            Len::Encoded(_) => Err(Corrupt("a string where a length should be")),
        }
    }

    /// A number of things that take `bytes_each` at least.
    fn count(&mut self, bytes_each: usize) -> Result<usize> {
        let count = self.length()?;
        let most = (self.left() / bytes_each) as u64;
        (count <= most).then_some(count as usize).ok_or(Corrupt("more elements than bytes"))
    }

    /// A string; `room` is used if it is compressed.
    pub fn string<'r>(&mut self, room: &'r mut Room) -> Result<Text<'r>>
    where
        'a: 'r,
    {
        Ok(match self.any_length()? {
            Len::Plain(len) => Text::Bytes(self.take(usize::try_from(len).map_err(|_| ENDS)?)?),
            Len::Encoded(ENC_INT8) => Text::Int(i8::from_le_bytes(self.array()?).into()),
            Len::Encoded(ENC_INT16) => Text::Int(i16::from_le_bytes(self.array()?).into()),
            Len::Encoded(ENC_INT32) => Text::Int(i32::from_le_bytes(self.array()?).into()),
            Len::Encoded(ENC_LZF) => {
                let (compressed, len) = self.compressed()?;
                let text = room.of(len);
                lzf::decompress(compressed, text)?;
                Text::Bytes(text)
            }
            Len::Encoded(_) => return Err(Corrupt("a string of unknown encoding")),
        })
    }

    /// A string if it was written as its bytes; otherwise nothing is read.
    pub fn plain_string(&mut self) -> Result<Option<&'a [u8]>> {
        let start = self.at;
        match self.any_length()? {
            Len::Plain(len) => self.take(usize::try_from(len).map_err(|_| ENDS)?).map(Some),
            Len::Encoded(_) => {
                self.at = start;
                Ok(None)
            }
        }
    }

    /// The compressed bytes of a string, and its length.
    fn compressed(&mut self) -> Result<(&'a [u8], usize)> {
        let (compressed, len) = (self.length()?, self.length()?);
        let compressed = self.take(usize::try_from(compressed).map_err(|_| ENDS)?)?;
        match usize::try_from(len) {
            Ok(len) if len <= lzf::max_len(compressed.len()) => Ok((compressed, len)),
            _ => Err(Corrupt("a compressed string that claims too much")),
        }
    }

    /// A string as a value: a long one is made once, in its own allocation.
    fn string_value<'r>(&mut self, room: &'r mut Room) -> Result<Payload<'r>>
    where
        'a: 'r,
    {
        let start = self.at;
        if let Len::Encoded(ENC_LZF) = self.any_length()? {
            let (compressed, len) = self.compressed()?;
            if len > EMBED_MAX {
                let bytes = lzf::decompress_to_vec(compressed, len)?;
                return Ok(Payload::Value(Value::Str(bytes.into())));
            }
        }
        self.at = start;
        Ok(match self.string(room)? {
            Text::Int(n) => Payload::Int(n),
            Text::Bytes(bytes) => Payload::string(bytes),
        })
    }
}

/// What reading values needs beside the bytes.
#[derive(Default)]
pub struct Values {
    pub limits: Limits,
    room: Room,
    other_room: Room,
    hashes: Vec<u64>,
    small: Builder,
}

impl Values {
    /// The value of type `ty`. `None` if it is an empty collection, which is no value: old versions of
    /// Redis wrote them now and then.
    pub fn read<'r>(&'r mut self, ty: u8, from: &mut Cursor<'r>) -> Result<Option<Payload<'r>>> {
        let value = match ty {
            ty::STRING => return from.string_value(&mut self.room).map(Some),
            ty::LIST | ty::LIST_ZIPLIST | ty::LIST_QUICKLIST | ty::LIST_QUICKLIST_2 => {
                self.list(ty, from)?.map(Value::List)
            }
            ty::SET | ty::SET_INTSET | ty::SET_LISTPACK => self.set(ty, from)?.map(Value::Set),
            ty::ZSET | ty::ZSET_2 | ty::ZSET_ZIPLIST | ty::ZSET_LISTPACK => {
                self.zset(ty, from)?.map(Value::Zset)
            }
            ty::HASH | ty::HASH_ZIPMAP | ty::HASH_ZIPLIST | ty::HASH_LISTPACK => {
                self.hash(ty, from)?.map(Value::Hash)
            }
            _ => return Err(Corrupt("no value has this type")),
        };
        Ok(value.map(Payload::Value))
    }

    fn listpack(&mut self, from: &mut Cursor<'_>) -> Result<Listpack> {
        Listpack::from_bytes(from.string(&mut self.room)?.blob()?).ok_or(NOT_A_LISTPACK)
    }

    /// A ziplist, as the listpack of the same elements.
    fn ziplist(&mut self, from: &mut Cursor<'_>) -> Result<Listpack> {
        let bytes = from.string(&mut self.room)?.blob()?;
        let mut builder = Builder::with_capacity(bytes.len());
        for entry in Ziplist::new(bytes)? {
            match entry? {
                legacy::Entry::Int(n) => builder.push(n),
                legacy::Entry::Str(text) => builder.push(text),
            }
        }
        Ok(builder.finish())
    }

    fn list(&mut self, ty: u8, from: &mut Cursor<'_>) -> Result<Option<List>> {
        let mut list = Quicklist::new(self.limits.list_max_listpack_size);
        match ty {
            ty::LIST => {
                for _ in 0..from.count(1)? {
                    list.push_back(from.string(&mut self.room)?.element());
                }
            }
            ty::LIST_ZIPLIST => {
                for entry in self.ziplist(from)?.iter() {
                    list.push_back(entry);
                }
            }
            ty::LIST_QUICKLIST => {
                for _ in 0..from.count(1)? {
                    list.push_node_packed(self.ziplist(from)?);
                }
            }
            _ => {
                for _ in 0..from.count(2)? {
                    match from.length()? {
                        CONTAINER_PACKED => list.push_node_packed(self.listpack(from)?),
                        CONTAINER_PLAIN => {
                            let mut digits = itoa::Buffer::new();
                            let text = from.string(&mut self.room)?;
                            list.push_node_plain(text.bytes(&mut digits).to_vec());
                        }
                        _ => return Err(Corrupt("a list node of unknown kind")),
                    }
                }
            }
        }
        Ok((!list.is_empty()).then(|| List::from_quicklist(list, &self.limits)))
    }

    fn set(&mut self, ty: u8, from: &mut Cursor<'_>) -> Result<Option<Set>> {
        let set = match ty {
            ty::SET_INTSET => {
                let ints = Intset::from_bytes(from.string(&mut self.room)?.blob()?);
                Set::from_intset(ints.ok_or(Corrupt("not a whole intset"))?, &self.limits)
            }
            ty::SET_LISTPACK => {
                let members = self.listpack(from)?;
                self.distinct(members.iter())?;
                Set::from_listpack(members, &self.limits)
            }
            _ => {
                let count = from.count(1)?;
                let (mut set, gathered) = self.begin_set(count, from)?;
                for _ in gathered..count {
                    let member = from.string(&mut self.room)?.element();
                    if !set.insert_entry(member, &self.limits) {
                        return Err(DUPLICATE);
                    }
                }
                set
            }
        };
        Ok((!set.is_empty()).then_some(set))
    }

    /// The set of the first of `count` members, and how many of them it has: of a set that stays
    /// small all, gathered without looking for each among those before it.
    fn begin_set(&mut self, count: usize, from: &mut Cursor<'_>) -> Result<(Set, usize)> {
        let mut digits = itoa::Buffer::new();
        let mut gathered = 0;
        self.small.clear();
        let begin = from.clone();
        while gathered < count && count <= self.limits.set_max_listpack_entries {
            let before = from.clone();
            let member = from.string(&mut self.room)?.element();
            let ints = gathered == 0 && member.as_int().is_some();
            let text = member.text(&mut digits);
            if ints || text.len() > self.limits.set_max_listpack_value {
                *from = before;
                break;
            }
            self.small.push(text);
            gathered += 1;
        }
        if gathered > 0 {
            let members = self.small.finish();
            self.distinct(members.iter())?;
            return Ok((Set::from_listpack(members, &self.limits), gathered));
        }
        let set = match count {
            0 => Set::new(),
            _ => {
                let first = from.string(&mut self.room)?.element();
                let set = Set::fitting(first.text(&mut digits), count, &self.limits);
                *from = begin;
                set
            }
        };
        Ok((set, 0))
    }

    fn zset(&mut self, ty: u8, from: &mut Cursor<'_>) -> Result<Option<Zset>> {
        let mut members = Vec::new();
        match ty {
            ty::ZSET_LISTPACK | ty::ZSET_ZIPLIST => {
                let pairs = match ty {
                    ty::ZSET_LISTPACK => self.listpack(from)?,
                    _ => self.ziplist(from)?,
                };
                if pairs.len() % 2 != 0 {
                    return Err(ODD);
                }
                self.distinct(pairs.pairs().map(|(member, _)| member))?;
                if pairs.is_empty() {
                    return Ok(None);
                }
                if Zset::is_valid(&pairs) {
                    return Ok(Some(Zset::from_listpack(pairs, &self.limits)));
                }
                // Out of order, which costs a sort and loses nothing.
                let mut digits = itoa::Buffer::new();
                for (member, score) in pairs.pairs() {
                    let score = match score {
                        Entry::Int(n) => n as f64,
                        Entry::Str(text) => num::parse_double(text).ok_or(NOT_A_SCORE)?,
                    };
                    members.push(Member::new(score, member.text(&mut digits)));
                }
            }
            _ => {
                let score_bytes = if ty == ty::ZSET_2 { 8 } else { 1 };
                let count = from.count(1 + score_bytes)?;
                members.reserve_exact(count);
                let mut digits = itoa::Buffer::new();
                for _ in 0..count {
                    let member = from.string(&mut self.room)?;
                    let score = match ty {
                        ty::ZSET_2 => f64::from_le_bytes(from.array()?),
                        _ => text_score(from)?,
                    };
                    if score.is_nan() {
                        return Err(NOT_A_SCORE);
                    }
                    members.push(Member::new(score, member.bytes(&mut digits)));
                }
            }
        }
        let count = members.len();
        let zset = Zset::from_members(members, &self.limits);
        if zset.len() != count {
            return Err(DUPLICATE);
        }
        Ok((count > 0).then_some(zset))
    }

    fn hash(&mut self, ty: u8, from: &mut Cursor<'_>) -> Result<Option<Hash>> {
        let mut hash = Hash::new();
        match ty {
            ty::HASH_LISTPACK | ty::HASH_ZIPLIST => {
                let pairs = match ty {
                    ty::HASH_LISTPACK => self.listpack(from)?,
                    _ => self.ziplist(from)?,
                };
                if pairs.len() % 2 != 0 {
                    return Err(ODD);
                }
                self.distinct(pairs.pairs().map(|(field, _)| field))?;
                hash = Hash::from_listpack(pairs, &self.limits);
            }
            ty::HASH_ZIPMAP => {
                for pair in Zipmap::new(from.string(&mut self.room)?.blob()?)? {
                    let (field, value) = pair?;
                    if !hash.insert(field, value, &self.limits) {
                        return Err(DUPLICATE);
                    }
                }
            }
            _ => {
                let count = from.count(2)?;
                if count > self.limits.hash_max_listpack_entries {
                    hash = Hash::with_capacity(count);
                }
                let (mut digits, mut more_digits) = (itoa::Buffer::new(), itoa::Buffer::new());
                for _ in 0..count {
                    let field = from.string(&mut self.room)?;
                    let value = from.string(&mut self.other_room)?;
                    let (field, value) = (field.bytes(&mut digits), value.bytes(&mut more_digits));
                    if !hash.insert(field, value, &self.limits) {
                        return Err(DUPLICATE);
                    }
                }
            }
        }
        Ok((!hash.is_empty()).then_some(hash))
    }

    /// Refuses `keys` two of which are equal.
    fn distinct<'e>(&mut self, keys: impl Iterator<Item = Entry<'e>> + Clone) -> Result<()> {
        self.are_distinct(keys).then_some(()).ok_or(DUPLICATE)
    }

    /// Whether no two of `keys` are equal.
    fn are_distinct<'e>(&mut self, keys: impl Iterator<Item = Entry<'e>> + Clone) -> bool {
        /// Up to here comparing all with all is the fastest.
        const FEW: usize = 8;
        let mut few = [Entry::Int(0); FEW];
        let mut n = 0;
        for key in keys.clone().take(FEW) {
            if few[..n].contains(&key) {
                return false;
            }
            few[n] = key;
            n += 1;
        }
        if n < FEW {
            return true;
        }
        self.hashes.clear();
        self.hashes.extend(keys.clone().map(|key| match key {
            Entry::Int(n) => hasher::hash(&n.to_le_bytes()).rotate_left(1),
            Entry::Str(text) => hasher::hash(text),
        }));
        self.hashes.sort_unstable();
        if self.hashes.windows(2).all(|pair| pair[0] != pair[1]) {
            return true;
        }
        // Equal hashes are equal keys, but for one chance in 2^64 a pair.
        let mut seen = std::collections::HashSet::new();
        { keys }.all(|key| seen.insert(key.to_vec()))
    }
}

/// A score as versions up to 7 wrote it: a length and digits, or one byte for what has none.
fn text_score(from: &mut Cursor<'_>) -> Result<f64> {
    match from.byte()? {
        253 => Ok(f64::NAN),
        254 => Ok(f64::INFINITY),
        255 => Ok(f64::NEG_INFINITY),
        len => num::parse_double(from.take(len.into())?).ok_or(NOT_A_SCORE),
    }
}
