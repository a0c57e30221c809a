//! Names for states of the dataset: a history and an offset in it.
//!
//! Two nodes that agree on `(history, offset)` hold the same data, so these are types of their own:
//! a byte count into a file or a buffer must never be taken for a place in the history. They live
//! here, below the log, because the log, the manifest, RDB aux fields and replication all speak them.
//!
//! An offset counts the bytes *before* a place. A node at offset N holds N bytes, and the next one
//! to come is byte N. Redis counts the same in `master_repl_offset`, but names places by the ordinal
//! of the next byte where it asks for one (`PSYNC id N+1`) or bounds the second history
//! (`second_repl_offset`). Those two wire forms are made and read by [`Offset::to_wire_next`] and
//! [`Offset::from_wire_next`] only.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};

/// The number of bytes of the history before a place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

impl Offset {
    pub const ZERO: Offset = Offset(0);

    /// The furthest place that a peer or a file is believed. No history comes that far, and as much
    /// again can follow it before Redis's signed numbers end: past those no primary takes a `PSYNC`.
    const FURTHEST: Offset = Offset(i64::MAX as u64 / 2);

    /// The place that a peer or a file says its data are at; `None` past the furthest.
    pub fn claimed(bytes: u64) -> Option<Offset> {
        Some(Offset(bytes)).filter(|&place| place <= Offset::FURTHEST)
    }

    /// The ordinal of the next byte, counted from 1: what `PSYNC` asks for and what
    /// `second_repl_offset` shows.
    pub fn to_wire_next(self) -> u64 {
        self.0.saturating_add(1)
    }

    /// The place before the byte whose ordinal is `next`; `None` for 0 and below, which no byte has.
    pub fn from_wire_next(next: i64) -> Option<Offset> {
        (next > 0).then(|| Offset(next as u64 - 1))
    }
}

impl Add<u64> for Offset {
    type Output = Offset;

    fn add(self, bytes: u64) -> Offset {
        Offset(self.0 + bytes)
    }
}

impl AddAssign<u64> for Offset {
    fn add_assign(&mut self, bytes: u64) {
        self.0 += bytes;
    }
}

/// The bytes between two places; the left one must not be the earlier.
impl Sub for Offset {
    type Output = u64;

    fn sub(self, earlier: Offset) -> u64 {
        self.0 - earlier.0
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a history: 40 lower-case hexadecimal digits, Redis's replication id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HistoryId([u8; 40]);

impl HistoryId {
    /// The length of an id's text.
    pub const LEN: usize = 40;

    /// The id that Redis shows where there is none (`master_replid2` before any promotion).
    pub const NONE: HistoryId = HistoryId([b'0'; 40]);

    /// A new id from 160 random bits.
    pub fn from_random(bits: [u8; 20]) -> HistoryId {
        let mut text = [0; 40];
        for (pair, byte) in text.chunks_exact_mut(2).zip(bits) {
            pair[0] = b"0123456789abcdef"[(byte >> 4) as usize];
            pair[1] = b"0123456789abcdef"[(byte & 15) as usize];
        }
        HistoryId(text)
    }

    /// The id that `text` spells: exactly 40 hexadecimal digits of either case.
    pub fn parse(text: &[u8]) -> Option<HistoryId> {
        let mut id: [u8; 40] = text.try_into().ok()?;
        id.make_ascii_lowercase();
        id.iter().all(u8::is_ascii_hexdigit).then_some(HistoryId(id))
    }

    pub fn as_bytes(&self) -> &[u8; 40] {
        &self.0
    }

    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("an id is made of hexadecimal digits only")
    }
}

impl fmt::Display for HistoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for HistoryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HistoryId({self})")
    }
}

/// How many former names a node remembers.
const FORMER: usize = 8;

/// The histories that a node's data belongs to: the one it goes on with, and those that its log was
/// part of before, through promotions and changes of primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Histories {
    pub current: HistoryId,
    /// See [`Histories::former`]; those that are there come first.
    former: [Option<(HistoryId, Offset)>; FORMER],
}

impl Histories {
    /// A history with nothing before it.
    pub fn new(current: HistoryId) -> Histories {
        Histories { current, former: [None; FORMER] }
    }

    /// A history and its former names, newest first.
    pub fn with_former(
        current: HistoryId,
        former: impl IntoIterator<Item = (HistoryId, Offset)>,
    ) -> Histories {
        let mut histories = Histories::new(current);
        for (place, name) in histories.former.iter_mut().zip(former) {
            *place = Some(name);
        }
        histories
    }

    /// The former names, newest first, each with the offset up to which, included, its history is the
    /// same as the current one.
    pub fn former(&self) -> impl Iterator<Item = (HistoryId, Offset)> {
        self.former.iter().flatten().copied()
    }

    /// The name before the current one: Redis's `master_replid2`.
    pub fn second(&self) -> Option<(HistoryId, Offset)> {
        self.former[0]
    }

    /// How far the former history `id` is the same as the current one.
    pub fn shared(&self, id: HistoryId) -> Option<Offset> {
        self.former().find(|(former, _)| *former == id).map(|(_, shared)| shared)
    }

    /// Whether a node that holds `offset` bytes of `id` holds a beginning of this history. Whether
    /// the log reaches from there on is the log's to say.
    pub fn continues(&self, id: HistoryId, offset: Offset) -> bool {
        id == self.current || self.shared(id).is_some_and(|shared| offset <= shared)
    }

    /// Goes on under the name `id`, whose bytes are those of the present one up to `shared`: the present
    /// one is a former name then.
    pub fn shift(&mut self, id: HistoryId, shared: Offset) {
        let last = (self.current, shared);
        let others = self.former.into_iter().flatten();
        let others = others
            .filter(|(name, _)| *name != last.0 && *name != id)
            .map(|(name, upto)| (name, upto.min(shared)));
        *self = Histories::with_former(id, std::iter::once(last).chain(others));
    }

    /// Takes over what another knows of the names that the present one had before, newest first.
    pub fn learn(&mut self, former: Vec<(HistoryId, Offset)>) {
        let known = |id| former.iter().any(|(name, _)| *name == id);
        let own: Vec<_> = self.former().filter(|(id, _)| !known(*id)).collect();
        *self = Histories::with_former(self.current, former.into_iter().chain(own));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> HistoryId {
        HistoryId::from_random([byte; 20])
    }

    #[test]
    fn ids_read_back_in_either_case_and_nothing_else_is_one() {
        let a = HistoryId::from_random(*b"\x00\x01\xfe\xff0123456789abcdef");
        assert_eq!(HistoryId::parse(a.as_bytes()), Some(a));
        assert_eq!(HistoryId::parse(a.as_str().to_uppercase().as_bytes()), Some(a));
        assert_eq!(&a.as_str()[..8], "0001feff");
        for bad in [&b"?"[..], &[b'a'; 39], &[b'a'; 41], &[b'g'; 40], b""] {
            assert_eq!(HistoryId::parse(bad), None);
        }
    }

    #[test]
    fn a_place_that_no_history_comes_to_is_not_believed() {
        assert_eq!(Offset::claimed(0), Some(Offset(0)));
        assert_eq!(Offset::claimed(1 << 61), Some(Offset(1 << 61)));
        assert_eq!(Offset::claimed(i64::MAX as u64), None);
        assert_eq!(Offset::claimed(u64::MAX), None);
    }

    #[test]
    fn the_wire_counts_from_one() {
        assert_eq!(Offset(0).to_wire_next(), 1);
        assert_eq!(Offset::from_wire_next(1), Some(Offset(0)));
        assert_eq!(Offset::from_wire_next(i64::MAX), Some(Offset(i64::MAX as u64 - 1)));
        assert_eq!(Offset::from_wire_next(0), None);
        assert_eq!(Offset::from_wire_next(-1), None);
    }

    #[test]
    fn a_former_history_holds_up_to_where_it_was_shared() {
        let mut histories = Histories::new(id(1));
        assert!(histories.continues(id(1), Offset(500)));
        assert!(!histories.continues(id(2), Offset(0)));
        histories.shift(id(2), Offset(100));
        assert!(histories.continues(id(2), Offset(500)));
        assert!(histories.continues(id(1), Offset(100)));
        assert!(!histories.continues(id(1), Offset(101)));
        histories.shift(id(3), Offset(200));
        assert_eq!(histories.second(), Some((id(2), Offset(200))));
        assert!(histories.continues(id(2), Offset(200)));
        assert!(histories.continues(id(1), Offset(100)));
        assert!(!histories.continues(id(1), Offset(101)));
        histories.shift(id(4), Offset(150));
        assert!(!histories.continues(id(2), Offset(151)));
        assert_eq!(histories.shared(id(1)), Some(Offset(100)));
    }

    #[test]
    fn a_name_that_comes_back_is_named_once_and_old_ones_are_forgotten() {
        let mut histories = Histories::new(id(1));
        histories.shift(id(2), Offset(10));
        histories.shift(id(1), Offset(20));
        let former: Vec<_> = histories.former().collect();
        assert_eq!(former, [(id(2), Offset(20))]);
        for n in 3..30 {
            histories.shift(id(n), Offset(10 * n as u64));
        }
        assert_eq!(histories.former().count(), FORMER);
        assert_eq!(histories.second(), Some((id(28), Offset(290))));
        assert_eq!(histories.shared(id(1)), None);
    }
}
