//! The listpack: a small list of strings and integers in one allocation.
//!
//! Small hashes, sets, sorted sets and lists are kept in the bytes that RDB holds them in, so saving
//! one is a copy, and loading one is a check and a copy. `format.rs` has the byte table. The pointer
//! is one word, the allocation holds nothing but the bytes, and it follows their length up and down.
//!
//! Bytes from outside enter only by [`Listpack::from_bytes`], which checks every element, so the
//! rest of the code reads without looking for damage. It still reads through slices: the worst that
//! a [`Pos`] kept over a change can do is to find the wrong element or to panic.
//!
//! Changing an element costs a move of all that is behind it. The types that use listpacks bound
//! their size (`*-max-listpack-*`), and [`Slice::would_exceed`] is the last fence.

mod builder;
mod find;
mod format;
mod iter;
mod slice;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Deref;

pub use builder::Builder;
pub use format::{Encoded, Entry};
pub use iter::{Iter, Pairs};
pub use slice::{Pos, Slice};

use crate::thin::{Format, Gap, Thin};
use format::{COUNT_UNKNOWN, END, HEADER, check_at, size_at};
use slice::stored_count;

/// No listpack may grow beyond this many bytes.
pub const MAX_BYTES: usize = 1 << 30;

/// How a listpack says its length.
pub enum Bytes {}

// SAFETY: the length is the header's first four bytes and nothing else.
unsafe impl Format for Bytes {
    const HEAD: usize = HEADER;

    #[inline]
    fn byte_len(head: &[u8]) -> usize {
        let total = u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize;
        total.max(HEADER)
    }
}

#[inline]
fn header(total: usize, count: usize) -> [u8; HEADER] {
    let total = u32::try_from(total).expect("callers keep listpacks below the safe size");
    let [a, b, c, d] = total.to_le_bytes();
    let [e, f] = (count.min(COUNT_UNKNOWN) as u16).to_le_bytes();
    [a, b, c, d, e, f]
}

/// A listpack and what keeps its bytes; [`Slice`] has what reads them. See the module's page.
#[derive(Clone)]
pub struct Owned<G: Gap>(Thin<Bytes, G>);

/// A listpack in an allocation of its size.
pub type Listpack = Owned<()>;

/// A listpack that grows and shrinks at the front without moving the rest.
pub type Deque = Owned<u32>;

impl<G: Gap> Deref for Owned<G> {
    type Target = Slice;

    #[inline]
    fn deref(&self) -> &Slice {
        Slice::of(self.0.bytes())
    }
}

impl Listpack {
    /// An empty one.
    pub fn new() -> Listpack {
        Listpack::of_elements(b"", 0)
    }

    /// A listpack from a file or the network. `None` if its bytes are not exactly a listpack: a
    /// length or count that is wrong, an element that is cut, unknown or has a wrong back length.
    /// Elements that Redis would have written shorter are taken and written shorter.
    pub fn from_bytes(bytes: &[u8]) -> Option<Listpack> {
        let end = bytes.len().checked_sub(1).filter(|&end| end >= HEADER)?;
        let total = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
        if total != bytes.len() || bytes[end] != END {
            return None;
        }
        let (mut at, mut count, mut all_canonical) = (HEADER, 0, true);
        while at < end {
            let (next, canonical) = check_at(bytes, at, end)?;
            (at, count) = (next, count + 1);
            all_canonical &= canonical;
        }
        let said = stored_count(bytes);
        if said != count && said != COUNT_UNKNOWN {
            return None;
        }
        if all_canonical {
            return Some(Listpack::of_elements(&bytes[HEADER..end], count));
        }
        let mut builder = Builder::with_capacity(bytes.len());
        Iter::new(bytes, HEADER, end).for_each(|entry| builder.push(entry));
        Some(builder.finish())
    }

    /// A copy of a listpack that is known to be one.
    fn of_whole(bytes: &[u8]) -> Listpack {
        Owned(Thin::new(bytes))
    }

    /// A listpack of the `count` elements in `raw`.
    fn of_elements(raw: &[u8], count: usize) -> Listpack {
        let mut thin = Thin::zeroed(&header(HEADER + raw.len() + 1, count));
        let (last, elements) = thin.body_mut().split_last_mut().expect("it has an end byte");
        elements.copy_from_slice(raw);
        *last = END;
        Owned(thin)
    }
}

impl Deque {
    /// An empty one.
    pub fn new() -> Deque {
        Listpack::new().into()
    }

    /// Makes room for `add` bytes at the front, and for more while all is below `most` bytes.
    #[inline]
    pub fn make_room_in_front(&mut self, add: usize, most: usize) {
        self.0.make_gap(add, most);
    }

    /// Gives back the room that is left at the front.
    pub fn shrink_to_fit(&mut self) {
        self.0.shrink_to_fit();
    }
}

impl From<Listpack> for Deque {
    fn from(listpack: Listpack) -> Deque {
        Owned(listpack.0.into())
    }
}

impl From<Deque> for Listpack {
    fn from(deque: Deque) -> Listpack {
        Owned(deque.0.into())
    }
}

impl<G: Gap> Owned<G> {
    /// As `Thin::address`.
    #[inline]
    pub fn address(&self) -> *const u8 {
        self.0.address()
    }

    /// The bytes allocated.
    pub fn memory(&self) -> usize {
        self.0.memory()
    }

    /// Puts `add` bytes for the caller to fill in place of the `remove` bytes at `at`, where
    /// `removed` elements leave and `added` come.
    #[inline]
    fn splice(
        &mut self,
        at: usize,
        (remove, removed): (usize, usize),
        (add, added): (usize, usize),
    ) -> &mut [u8] {
        let bytes = self.as_bytes();
        let count = match stored_count(bytes) {
            COUNT_UNKNOWN => COUNT_UNKNOWN,
            count => count - removed + added,
        };
        let head = header(bytes.len() - remove + add, count);
        self.0.splice(&head, at, remove, add)
    }

    #[inline]
    fn insert_at(&mut self, at: usize, element: &Encoded<'_>) -> Pos {
        element.write(self.splice(at, (0, 0), (element.size(), 1)));
        Pos::new(at)
    }

    /// Appends an element.
    #[inline]
    pub fn push_back<'a>(&mut self, element: impl Into<Encoded<'a>>) {
        self.insert_at(self.end(), &element.into());
    }

    /// Appends two elements in one step: field and value, member and score.
    #[inline]
    pub fn push_pair<'a>(
        &mut self,
        first: impl Into<Encoded<'a>>,
        second: impl Into<Encoded<'a>>,
    ) -> Pos {
        self.insert_pair_at(self.end(), &first.into(), &second.into())
    }

    /// Puts an element before the first.
    #[inline]
    pub fn push_front<'a>(&mut self, element: impl Into<Encoded<'a>>) {
        self.insert_at(HEADER, &element.into());
    }

    /// Inserts an element before the one at `pos`, and returns its place.
    pub fn insert_before<'a>(&mut self, pos: Pos, element: impl Into<Encoded<'a>>) -> Pos {
        self.insert_at(pos.at(), &element.into())
    }

    /// Inserts an element after the one at `pos`, and returns its place.
    pub fn insert_after<'a>(&mut self, pos: Pos, element: impl Into<Encoded<'a>>) -> Pos {
        let at = pos.at() + size_at(self.as_bytes(), pos.at());
        self.insert_at(at, &element.into())
    }

    /// Inserts two elements before the one at `pos` in one step, and returns the first one's place.
    pub fn insert_pair_before<'a>(
        &mut self,
        pos: Pos,
        first: impl Into<Encoded<'a>>,
        second: impl Into<Encoded<'a>>,
    ) -> Pos {
        self.insert_pair_at(pos.at(), &first.into(), &second.into())
    }

    fn insert_pair_at(&mut self, at: usize, first: &Encoded<'_>, second: &Encoded<'_>) -> Pos {
        let split = first.size();
        let room = self.splice(at, (0, 0), (split + second.size(), 2));
        let (left, right) = room.split_at_mut(split);
        first.write(left);
        second.write(right);
        Pos::new(at)
    }

    /// Replaces the element at `pos`, whose place stays the same.
    pub fn replace<'a>(&mut self, pos: Pos, element: impl Into<Encoded<'a>>) {
        let element = element.into();
        let old = size_at(self.as_bytes(), pos.at());
        element.write(self.splice(pos.at(), (old, 1), (element.size(), 1)));
    }

    /// Removes the element at `pos`, and returns the place of the one that followed it.
    pub fn remove(&mut self, pos: Pos) -> Option<Pos> {
        self.remove_n(pos, 1)
    }

    /// Removes up to `n` elements from `pos` on, and returns the place of the one that followed.
    pub fn remove_n(&mut self, pos: Pos, n: usize) -> Option<Pos> {
        let (to, removed) = self.skip_from(pos.at(), n);
        self.splice(pos.at(), (to - pos.at(), removed), (0, 0));
        self.pos(pos.at())
    }

    /// Removes up to `n` elements from `index` on, -1 being the last, and returns how many it were.
    pub fn remove_range(&mut self, index: i64, n: usize) -> usize {
        let Some(pos) = self.seek(index) else { return 0 };
        let at = pos.at();
        let left = self.known_len().map(|len| match index {
            0.. => len - index as usize,
            _ => index.unsigned_abs() as usize,
        });
        let (to, removed) = match left {
            Some(left) if n >= left => (self.end(), left), // what is cut off need not be walked
            _ => self.skip_from(at, n),
        };
        self.splice(at, (to - at, removed), (0, 0));
        removed
    }

    /// Removes `n` elements at each of `places`, which ascend, in one pass, and returns how many
    /// elements went.
    pub fn remove_each(&mut self, places: &[Pos], n: usize) -> usize {
        let Some(first) = places.first() else { return 0 };
        let end = self.end();
        let (mut kept_to, mut read, mut removed) = (first.at(), first.at(), 0);
        for place in places {
            let from = place.at().max(read);
            self.move_down(read..from, kept_to);
            kept_to += from - read;
            let (to, passed) = self.skip_from(from, n);
            read = to;
            removed += passed;
        }
        self.move_down(read..end, kept_to);
        kept_to += end - read;
        self.splice(kept_to, (end - kept_to, removed), (0, 0));
        removed
    }

    fn move_down(&mut self, range: std::ops::Range<usize>, to: usize) {
        let body = self.0.body_mut();
        body.copy_within(range.start - HEADER..range.end - HEADER, to - HEADER);
    }

    /// Appends all of `other`'s elements.
    pub fn append(&mut self, other: &Slice) {
        let at = self.end();
        let raw = other.elements();
        // Only a count below the unknown one may be added to; the sum saturates in the header.
        if let (Some(_), Some(added)) = (self.known_len(), other.known_len()) {
            self.splice(at, (0, 0), (raw.len(), added)).copy_from_slice(raw);
        } else {
            let count = self.len() + other.len();
            let head = header(self.bytes() + raw.len(), count);
            self.0.splice(&head, at, 0, raw.len()).copy_from_slice(raw);
        }
    }

    /// Keeps the first `index` elements and returns the others.
    pub fn split_off(&mut self, index: usize) -> Listpack {
        let Some(pos) = self.seek(index as i64) else { return Listpack::new() };
        let (at, end) = (pos.at(), self.end());
        let count = self.len() - index;
        let rest = Listpack::of_elements(&self.as_bytes()[at..end], count);
        self.0.splice(&header(at + 1, index), at, end - at, 0);
        rest
    }
}

impl Default for Listpack {
    fn default() -> Listpack {
        Listpack::new()
    }
}

impl<'a, T: Into<Encoded<'a>>> FromIterator<T> for Listpack {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Listpack {
        let mut builder = Builder::default();
        elements.into_iter().for_each(|element| builder.push(element));
        builder.finish()
    }
}

impl<G: Gap> PartialEq for Owned<G> {
    fn eq(&self, other: &Owned<G>) -> bool {
        **self == **other
    }
}

impl<G: Gap> Eq for Owned<G> {}

impl<G: Gap> fmt::Debug for Owned<G> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}
