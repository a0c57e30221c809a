//! Reading a listpack's bytes, whoever owns them.

use std::fmt;
use std::num::NonZeroU32;

use super::format::{COUNT, COUNT_UNKNOWN, Encoded, Entry, HEADER, before, read_at, size_at};
use super::{Iter, MAX_BYTES, Pairs, find};

/// Where an element begins. Good until the listpack changes at or before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pos(NonZeroU32);

impl Pos {
    #[inline]
    pub(super) fn new(at: usize) -> Pos {
        Pos(NonZeroU32::new(at as u32).expect("the header is before every element"))
    }

    #[inline]
    pub(super) fn at(self) -> usize {
        self.0.get() as usize
    }
}

/// The bytes of a listpack, borrowed: to a [`super::Listpack`] what `str` is to `String`.
#[repr(transparent)]
pub struct Slice([u8]);

impl Slice {
    /// `bytes` have to be a listpack's.
    #[inline]
    pub(super) fn of(bytes: &[u8]) -> &Slice {
        // SAFETY: a `Slice` is a `[u8]` (`repr(transparent)`), and any bytes may be in one.
        unsafe { &*(std::ptr::from_ref(bytes) as *const Slice) }
    }

    /// The bytes, as RDB holds them.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The number of bytes.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.as_bytes().len()
    }

    /// The number of elements; counted one by one if there are or were 65535 or more.
    pub fn len(&self) -> usize {
        self.known_len().unwrap_or_else(|| self.iter().count())
    }

    #[inline]
    pub(super) fn known_len(&self) -> Option<usize> {
        Some(stored_count(self.as_bytes())).filter(|&count| count != COUNT_UNKNOWN)
    }

    /// The bytes of the elements.
    pub(super) fn elements(&self) -> &[u8] {
        &self.0[HEADER..self.end()]
    }

    pub fn is_empty(&self) -> bool {
        self.bytes() == HEADER + 1
    }

    /// Whether `extra` more bytes would make it larger than a listpack may be. Sizes are those of
    /// [`Encoded::size`].
    #[inline]
    pub fn would_exceed(&self, extra: usize) -> bool {
        self.bytes().saturating_add(extra) > MAX_BYTES
    }

    /// Where the end byte is.
    #[inline]
    pub(super) fn end(&self) -> usize {
        self.bytes() - 1
    }

    #[inline]
    pub(super) fn pos(&self, at: usize) -> Option<Pos> {
        (at < self.end()).then(|| Pos::new(at))
    }

    // Finding places.

    /// The element at `pos`.
    #[inline]
    pub fn at(&self, pos: Pos) -> Entry<'_> {
        read_at(self.as_bytes(), pos.at()).0
    }

    pub fn first(&self) -> Option<Pos> {
        self.pos(HEADER)
    }

    pub fn last(&self) -> Option<Pos> {
        (!self.is_empty()).then(|| Pos::new(before(self.as_bytes(), self.end())))
    }

    #[inline]
    pub fn next(&self, pos: Pos) -> Option<Pos> {
        self.pos(pos.at() + size_at(self.as_bytes(), pos.at()))
    }

    #[inline]
    pub fn prev(&self, pos: Pos) -> Option<Pos> {
        (pos.at() > HEADER).then(|| Pos::new(before(self.as_bytes(), pos.at())))
    }

    /// The place of the element at `index`, -1 being the last; found from the nearer end.
    pub fn seek(&self, index: i64) -> Option<Pos> {
        let bytes = self.as_bytes();
        let (mut forward, mut steps) = (index >= 0, index);
        if let Some(len) = self.known_len() {
            let len = len as i64;
            let index = if index < 0 { index.checked_add(len)? } else { index };
            if index < 0 || index >= len {
                return None;
            }
            forward = index < len / 2;
            steps = if forward { index } else { index - len };
        }
        let end = self.end();
        if forward {
            let mut at = HEADER;
            while steps > 0 && at < end {
                at += size_at(bytes, at);
                steps -= 1;
            }
            self.pos(at)
        } else {
            let mut at = end;
            while steps < 0 {
                if at == HEADER {
                    return None;
                }
                at = before(bytes, at);
                steps += 1;
            }
            Some(Pos::new(at))
        }
    }

    /// The element at `index`, -1 being the last.
    pub fn get(&self, index: i64) -> Option<Entry<'_>> {
        Some(self.at(self.seek(index)?))
    }

    /// The `index`-th pair of elements.
    pub fn pair(&self, index: usize) -> Option<(Entry<'_>, Entry<'_>)> {
        let pos = self.seek(i64::try_from(index).ok()?.checked_mul(2)?)?;
        Some((self.at(pos), self.at(self.next(pos)?)))
    }

    /// Finds an element among the first, the `skip + 2`-th, and so on: with `skip` 1 a field or
    /// member among pairs, with 0 any element.
    #[inline]
    pub fn find<'a>(&self, needle: impl Into<Encoded<'a>>, skip: usize) -> Option<Pos> {
        find::find(self.as_bytes(), HEADER, &needle.into(), skip).map(Pos::new)
    }

    /// [`Slice::find`] that begins at `from`.
    pub fn find_from<'a>(
        &self,
        from: Pos,
        needle: impl Into<Encoded<'a>>,
        skip: usize,
    ) -> Option<Pos> {
        find::find(self.as_bytes(), from.at(), &needle.into(), skip).map(Pos::new)
    }

    pub fn iter(&self) -> Iter<'_> {
        Iter::new(self.as_bytes(), HEADER, self.end())
    }

    /// The elements from `pos` to the last.
    pub fn iter_from(&self, pos: Pos) -> Iter<'_> {
        Iter::new(self.as_bytes(), pos.at(), self.end())
    }

    /// The elements from the first to `pos`, `pos` included; reversed, a walk back from `pos`.
    pub fn iter_to(&self, pos: Pos) -> Iter<'_> {
        let bytes = self.as_bytes();
        Iter::new(bytes, HEADER, pos.at() + size_at(bytes, pos.at()))
    }

    /// The elements two by two.
    pub fn pairs(&self) -> Pairs<'_> {
        Pairs(self.iter())
    }

    /// Where the `n`-th element after `at` begins or the end is, and how many elements are between.
    pub(super) fn skip_from(&self, at: usize, n: usize) -> (usize, usize) {
        let (bytes, end) = (self.as_bytes(), self.end());
        let (mut to, mut passed) = (at, 0);
        while passed < n && to < end {
            to += size_at(bytes, to);
            passed += 1;
        }
        (to, passed)
    }
}

#[inline]
pub(super) fn stored_count(bytes: &[u8]) -> usize {
    u16::from_le_bytes([bytes[COUNT], bytes[COUNT + 1]]) as usize
}

impl PartialEq for Slice {
    fn eq(&self, other: &Slice) -> bool {
        self.elements() == other.elements()
    }
}

impl Eq for Slice {}

impl fmt::Debug for Slice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for &'a Slice {
    type Item = Entry<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}
