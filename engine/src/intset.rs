//! The intset: a small set of integers, sorted, in one allocation.
//!
//! Its bytes are those that RDB holds:
//!
//! ```text
//! u32 LE bytes per integer (2, 4 or 8) · u32 LE integers · the integers, LE, ascending
//! ```
//!
//! All integers are as wide as the widest has ever had to be: one that does not fit widens all of
//! them, and none narrows again.

use std::fmt;
use std::iter::FusedIterator;

use crate::thin::{Format, Thin};

const HEADER: usize = 8;

enum Bytes {}

// SAFETY: the length is made of the header's eight bytes and nothing else.
unsafe impl Format for Bytes {
    const HEAD: usize = HEADER;

    #[inline]
    fn byte_len(head: &[u8]) -> usize {
        let (width, len) = read_header(head);
        HEADER + width * len
    }
}

#[inline]
fn read_header(bytes: &[u8]) -> (usize, usize) {
    let width = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    let len = u32::from_le_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    (width as usize, len as usize)
}

#[inline]
fn header(width: usize, len: usize) -> [u8; HEADER] {
    let len = u32::try_from(len).expect("sets become tables long before");
    let mut head = [0; HEADER];
    head[..4].copy_from_slice(&(width as u32).to_le_bytes());
    head[4..].copy_from_slice(&len.to_le_bytes());
    head
}

/// The bytes that `value` needs.
#[inline]
fn width_of(value: i64) -> usize {
    match value {
        -0x8000..=0x7FFF => 2,
        -0x8000_0000..=0x7FFF_FFFF => 4,
        _ => 8,
    }
}

/// Reads one integer of `W` bytes.
#[inline(always)]
fn decode<const W: usize>(raw: &[u8; W]) -> i64 {
    let mut wide = [0; 8];
    wide[8 - W..].copy_from_slice(raw);
    i64::from_le_bytes(wide) >> (64 - 8 * W)
}

/// See the module's page.
#[repr(transparent)]
#[derive(Clone)]
pub struct Intset(Thin<Bytes>);

impl Intset {
    /// As `Thin::address`.
    #[inline]
    pub fn address(&self) -> *const u8 {
        self.0.address()
    }

    /// An empty one.
    pub fn new() -> Intset {
        Intset(Thin::zeroed(&header(2, 0)))
    }

    /// An intset from a file or the network. `None` if the width or the length is wrong, or the
    /// integers are not ascending and distinct.
    pub fn from_bytes(bytes: &[u8]) -> Option<Intset> {
        let (width, len) = read_header(bytes.get(..HEADER)?);
        let body = &bytes[HEADER..];
        let ascending = match width {
            2 => ascending::<2>(body),
            4 => ascending::<4>(body),
            8 => ascending::<8>(body),
            _ => return None,
        };
        (body.len() == width * len && ascending).then(|| Intset(Thin::new(bytes)))
    }

    /// The bytes, as RDB holds them.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// The number of bytes.
    pub fn bytes(&self) -> usize {
        self.as_bytes().len()
    }

    /// The bytes allocated.
    pub fn memory(&self) -> usize {
        self.0.memory()
    }

    /// The number of integers.
    #[inline]
    pub fn len(&self) -> usize {
        read_header(self.as_bytes()).1
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The integer at `index` in ascending order.
    #[inline]
    pub fn get(&self, index: usize) -> Option<i64> {
        let bytes = self.as_bytes();
        let (width, len) = read_header(bytes);
        (index < len).then(|| read(&bytes[HEADER..], width, index))
    }

    pub fn min(&self) -> Option<i64> {
        self.get(0)
    }

    pub fn max(&self) -> Option<i64> {
        self.get(self.len().checked_sub(1)?)
    }

    #[inline]
    pub fn contains(&self, value: i64) -> bool {
        self.search(value).is_ok()
    }

    /// Where `value` is, or would be.
    #[inline]
    fn search(&self, value: i64) -> Result<usize, usize> {
        let bytes = self.as_bytes();
        let body = &bytes[HEADER..];
        match read_header(bytes).0 {
            2 => search::<2>(body, value),
            4 => search::<4>(body, value),
            _ => search::<8>(body, value),
        }
    }

    /// Adds `value`, and says whether it was new.
    pub fn insert(&mut self, value: i64) -> bool {
        let (width, len) = read_header(self.as_bytes());
        let needed = width_of(value);
        if needed > width {
            *self = self.widened(needed, value);
            return true;
        }
        let Err(index) = self.search(value) else { return false };
        let at = HEADER + index * width;
        let gap = self.0.splice(&header(width, len + 1), at, 0, width);
        gap.copy_from_slice(&value.to_le_bytes()[..width]);
        true
    }

    /// These integers at `width` bytes each, and `value`, which is beyond them at either end.
    fn widened(&self, width: usize, value: i64) -> Intset {
        let (before, after) = if value < 0 { (Some(value), None) } else { (None, Some(value)) };
        let all = before.into_iter().chain(self.iter()).chain(after);
        Intset::of_ascending(width, self.len() + 1, all)
    }

    fn of_ascending(width: usize, len: usize, values: impl Iterator<Item = i64>) -> Intset {
        let mut thin = Thin::zeroed(&header(width, len));
        for (raw, value) in thin.body_mut().chunks_exact_mut(width).zip(values) {
            raw.copy_from_slice(&value.to_le_bytes()[..width]);
        }
        Intset(thin)
    }

    /// Removes `value`, and says whether it was there.
    pub fn remove(&mut self, value: i64) -> bool {
        let Ok(index) = self.search(value) else { return false };
        let (width, len) = read_header(self.as_bytes());
        self.0.splice(&header(width, len - 1), HEADER + index * width, width, 0);
        true
    }

    /// The integers, ascending.
    pub fn iter(&self) -> Iter<'_> {
        let bytes = self.as_bytes();
        let (width, len) = read_header(bytes);
        Iter { body: &bytes[HEADER..], width, front: 0, back: len }
    }
}

fn search<const W: usize>(body: &[u8], value: i64) -> Result<usize, usize> {
    let (all, _) = body.as_chunks::<W>();
    // Sets are often filled in ascending order, and then the place is the end.
    match all.last() {
        Some(last) if decode(last) >= value => {}
        _ => return Err(all.len()),
    }
    all.binary_search_by(|raw| decode(raw).cmp(&value))
}

fn ascending<const W: usize>(body: &[u8]) -> bool {
    body.as_chunks::<W>().0.is_sorted_by(|a, b| decode(a) < decode(b))
}

#[inline]
fn read(body: &[u8], width: usize, index: usize) -> i64 {
    match width {
        2 => decode(&body.as_chunks::<2>().0[index]),
        4 => decode(&body.as_chunks::<4>().0[index]),
        _ => decode(&body.as_chunks::<8>().0[index]),
    }
}

/// The integers of an [`Intset`], ascending.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    body: &'a [u8],
    width: usize,
    front: usize,
    back: usize,
}

impl Iterator for Iter<'_> {
    type Item = i64;

    #[inline]
    fn next(&mut self) -> Option<i64> {
        if self.front == self.back {
            return None;
        }
        self.front += 1;
        Some(read(self.body, self.width, self.front - 1))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.back - self.front, Some(self.back - self.front))
    }
}

impl DoubleEndedIterator for Iter<'_> {
    fn next_back(&mut self) -> Option<i64> {
        if self.front == self.back {
            return None;
        }
        self.back -= 1;
        Some(read(self.body, self.width, self.back))
    }
}

impl ExactSizeIterator for Iter<'_> {}
impl FusedIterator for Iter<'_> {}

impl<'a> IntoIterator for &'a Intset {
    type Item = i64;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

impl FromIterator<i64> for Intset {
    fn from_iter<I: IntoIterator<Item = i64>>(values: I) -> Intset {
        let mut values: Vec<i64> = values.into_iter().collect();
        values.sort_unstable();
        values.dedup();
        let ends = [values.first(), values.last()];
        let width = ends.into_iter().flatten().map(|&value| width_of(value)).max().unwrap_or(2);
        Intset::of_ascending(width, values.len(), values.into_iter())
    }
}

impl Default for Intset {
    fn default() -> Intset {
        Intset::new()
    }
}

impl PartialEq for Intset {
    fn eq(&self, other: &Intset) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Intset {}

impl fmt::Debug for Intset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn value() -> impl Strategy<Value = i64> {
        prop_oneof![
            8 => -20i64..20,
            2 => (0u32..63, -2i64..=2, any::<bool>()).prop_map(|(bit, near, negative)| {
                let value = (1i64 << bit).wrapping_add(near);
                if negative { value.wrapping_neg() } else { value }
            }),
            1 => any::<i64>(),
        ]
    }

    proptest! {
        #[test]
        fn behaves_as_a_sorted_set(ops in prop::collection::vec((any::<bool>(), value()), 1..300)) {
            let (mut set, mut model) = (Intset::new(), BTreeSet::new());
            for (add, value) in ops {
                if add {
                    prop_assert_eq!(set.insert(value), model.insert(value));
                } else {
                    prop_assert_eq!(set.remove(value), model.remove(&value));
                }
                prop_assert_eq!(set.contains(value), model.contains(&value));
                prop_assert_eq!(set.len(), model.len());
            }
            prop_assert!(set.iter().eq(model.iter().copied()));
            prop_assert!(set.iter().rev().eq(model.iter().rev().copied()));
            prop_assert_eq!((set.min(), set.max()), (model.first().copied(), model.last().copied()));
            for (i, &value) in model.iter().enumerate() {
                prop_assert_eq!(set.get(i), Some(value));
            }
            prop_assert_eq!(set.get(model.len()), None);
            let loaded = Intset::from_bytes(set.as_bytes()).unwrap();
            prop_assert_eq!(loaded.as_bytes(), set.as_bytes());
            prop_assert_eq!(&loaded.clone(), &model.iter().rev().copied().collect::<Intset>());
        }

        #[test]
        fn damaged_bytes_load_as_a_set_or_not_at_all(
            values in prop::collection::vec(value(), 0..20),
            flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            cut in prop::option::of(any::<prop::sample::Index>()),
        ) {
            let mut bytes = values.into_iter().collect::<Intset>().as_bytes().to_vec();
            for (at, xor) in flips {
                let at = at.index(bytes.len());
                bytes[at] ^= xor;
            }
            bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
            if let Some(set) = Intset::from_bytes(&bytes) {
                let all: Vec<i64> = set.iter().collect();
                prop_assert!(all.is_sorted_by(|a, b| a < b));
                prop_assert!(all.iter().all(|&value| set.contains(value)));
            }
        }
    }

    #[test]
    fn bytes_are_those_of_redis() {
        let set: Intset = [5, -1].into_iter().collect();
        assert_eq!(set.as_bytes(), [2, 0, 0, 0, 2, 0, 0, 0, 0xFF, 0xFF, 5, 0]);
        let mut set = set;
        assert!(set.insert(70_000));
        assert_eq!(set.as_bytes()[..8], [4, 0, 0, 0, 3, 0, 0, 0]);
        assert_eq!(set.as_bytes()[16..], [0x70, 0x11, 1, 0]);
        assert_eq!(size_of::<Option<Intset>>(), 8);
    }

    #[test]
    fn unsorted_repeated_and_cut_bytes_are_refused() {
        for bad in [
            &[][..],
            &[2, 0, 0, 0, 1, 0, 0, 0, 1],
            &[2, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0],
            &[3, 0, 0, 0, 0, 0, 0, 0],
            &[2, 0, 0, 0, 2, 0, 0, 0, 1, 0, 1, 0],
            &[2, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0],
            &[8, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF],
        ] {
            assert!(Intset::from_bytes(bad).is_none(), "{bad:?}");
        }
    }
}
