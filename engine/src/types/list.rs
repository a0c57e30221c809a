//! The list: one listpack while it is small, a quicklist from then on.
//!
//! What a single node of the quicklist may hold is what a small list may hold, so the conversion is
//! a move of the listpack and not of its elements. A list that shrinks goes back at half of that, so
//! that one that swings around the limit is not converted at each turn.

use crate::keyspace::Limits;
use crate::listpack::{self, Encoded, Entry, Listpack, Pos};
use crate::quicklist::{self, Quicklist};

/// See the module's page.
#[derive(Clone)]
pub struct List(Repr);

#[derive(Clone)]
enum Repr {
    Small(Listpack),
    Large(Box<Quicklist>),
}

use Repr::{Large, Small};

/// One of a list's two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Left,
    Right,
}

/// The bytes that a small list may have; `fill` is `list-max-listpack-size`.
fn max_bytes(fill: i32) -> usize {
    match fill {
        ..0 => 2048 << fill.unsigned_abs().min(5),
        _ => 8192,
    }
}

/// The elements that a small list may have.
fn max_len(fill: i32) -> usize {
    if fill < 0 { usize::MAX } else { fill.max(1) as usize }
}

fn exceeds(fill: i32, bytes: usize, len: usize) -> bool {
    bytes > max_bytes(fill) || len > max_len(fill)
}

impl Default for List {
    fn default() -> List {
        List::new()
    }
}

impl List {
    /// An empty list.
    pub fn new() -> List {
        List(Small(Listpack::new()))
    }

    /// A list of a listpack's elements, in whichever form the limits ask for.
    pub fn from_listpack(listpack: Listpack, limits: &Limits) -> List {
        let mut list = List(Small(listpack));
        list.make_room(0, 0, limits.list_max_listpack_size);
        list
    }

    /// A list of a quicklist's elements, small if the limits let it be.
    pub fn from_quicklist(quicklist: Quicklist, limits: &Limits) -> List {
        let mut list = List(Large(Box::new(quicklist)));
        let fill = limits.list_max_listpack_size;
        list.become_small(max_bytes(fill), max_len(fill));
        list
    }

    /// The elements, if the list is small.
    pub fn as_listpack(&self) -> Option<&Listpack> {
        match &self.0 {
            Small(listpack) => Some(listpack),
            Large(_) => None,
        }
    }

    /// Where its own memory begins, for [`crate::ahead`].
    #[inline]
    pub fn address(&self) -> *const u8 {
        match &self.0 {
            Small(listpack) => listpack.address(),
            Large(quicklist) => (&raw const **quicklist).cast(),
        }
    }

    /// The elements, if the list is large.
    pub fn as_quicklist(&self) -> Option<&Quicklist> {
        match &self.0 {
            Small(_) => None,
            Large(quicklist) => Some(quicklist),
        }
    }

    pub fn encoding(&self) -> &'static str {
        match &self.0 {
            Small(_) => "listpack",
            Large(_) => "quicklist",
        }
    }

    pub fn memory(&self) -> usize {
        match &self.0 {
            Small(listpack) => listpack.memory(),
            Large(quicklist) => quicklist.memory(),
        }
    }

    pub fn free_effort(&self) -> usize {
        match &self.0 {
            Small(_) => 1,
            Large(quicklist) => quicklist.nodes().len(),
        }
    }

    pub fn len(&self) -> usize {
        match &self.0 {
            Small(listpack) => listpack.len(),
            Large(quicklist) => quicklist.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        match &self.0 {
            Small(listpack) => listpack.is_empty(),
            Large(quicklist) => quicklist.is_empty(),
        }
    }

    // Which form.

    /// Becomes large if `len` more elements with `bytes` bytes of text would not fit.
    pub fn make_room(&mut self, bytes: usize, len: usize, fill: i32) {
        if let Small(listpack) = &mut self.0
            && exceeds(fill, listpack.bytes().saturating_add(bytes), listpack.len() + len)
        {
            let elements = std::mem::take(listpack);
            self.0 = Large(Box::new(Quicklist::from_listpack(elements, fill)));
        }
    }

    /// Becomes small if it has shrunk to half of what a small list may be.
    pub fn shrunk(&mut self, fill: i32) {
        self.become_small(max_bytes(fill) / 2, max_len(fill) / 2);
    }

    fn become_small(&mut self, bytes: usize, len: usize) {
        if let Large(quicklist) = &mut self.0
            && quicklist.len() <= len
            && quicklist.as_listpack_bytes().is_some_and(|now| now <= bytes)
        {
            let elements = std::mem::replace(&mut **quicklist, Quicklist::new(-2));
            match elements.into_listpack() {
                Ok(listpack) => self.0 = Small(listpack),
                Err(same) => **quicklist = same,
            }
        }
    }

    // The two ends.

    /// Adds an element, for which [`List::make_room`] was called.
    #[inline]
    pub fn push<'a>(&mut self, end: End, element: impl Into<Encoded<'a>>) {
        match (&mut self.0, end) {
            (Small(listpack), End::Left) => listpack.push_front(element),
            (Small(listpack), End::Right) => listpack.push_back(element),
            (Large(quicklist), End::Left) => quicklist.push_front(element),
            (Large(quicklist), End::Right) => quicklist.push_back(element),
        }
    }

    /// Removes an element at an end after showing it to `look`. The caller ends with
    /// [`List::shrunk`].
    #[inline]
    pub fn pop<R>(&mut self, end: End, look: impl FnOnce(Entry<'_>) -> R) -> Option<R> {
        match (&mut self.0, end) {
            (Small(listpack), end) => {
                let pos = match end {
                    End::Left => listpack.first()?,
                    End::Right => listpack.last()?,
                };
                let seen = look(listpack.at(pos));
                listpack.remove(pos);
                Some(seen)
            }
            (Large(quicklist), End::Left) => quicklist.pop_front_with(look),
            (Large(quicklist), End::Right) => quicklist.pop_back_with(look),
        }
    }

    // Anywhere. Indexes may be negative, -1 being the last.

    /// `index` as a place from the front, if there is an element.
    fn resolve(&self, index: i64) -> Option<usize> {
        let len = self.len();
        let index = if index < 0 { index.checked_add(len as i64)? } else { index };
        usize::try_from(index).ok().filter(|&index| index < len)
    }

    pub fn get(&self, index: i64) -> Option<Entry<'_>> {
        match &self.0 {
            Small(listpack) => listpack.get(index),
            Large(quicklist) => quicklist.get(index),
        }
    }

    /// Up to `n` elements from `start` on.
    pub fn range(&self, start: usize, n: usize) -> Iter<'_> {
        match &self.0 {
            Small(listpack) => {
                let iter = match listpack.seek(start as i64) {
                    Some(pos) => listpack.iter_from(pos),
                    None => return Iter::Small(listpack.iter(), 0),
                };
                let n = n.min(listpack.len() - start);
                Iter::Small(iter, n)
            }
            Large(quicklist) => Iter::Large(quicklist.range(start, n)),
        }
    }

    /// Shows the elements from an end on, for as long as `each` says true.
    pub fn walk(&self, from: End, each: impl FnMut(Entry<'_>) -> bool) {
        match (&self.0, from) {
            (Small(listpack), End::Left) => listpack.iter().all(each),
            (Small(listpack), End::Right) => listpack.iter().rev().all(each),
            (Large(quicklist), End::Left) => quicklist.iter().all(each),
            (Large(quicklist), End::Right) => quicklist.iter().rev().all(each),
        };
    }

    /// Replaces an element, and says whether there is one. The caller has called
    /// [`List::make_room`] and ends with [`List::shrunk`].
    pub fn set(&mut self, index: i64, element: &[u8]) -> bool {
        match &mut self.0 {
            Small(listpack) => {
                let Some(pos) = listpack.seek(index) else { return false };
                listpack.replace(pos, element);
                true
            }
            Large(quicklist) => quicklist.set(index, element),
        }
    }

    /// Inserts an element beside the first one that is `pivot`, and says whether there is one. The
    /// caller has called [`List::make_room`].
    pub fn insert(&mut self, side: End, pivot: &[u8], element: &[u8]) -> bool {
        match &mut self.0 {
            Small(listpack) => {
                let Some(pos) = listpack.find(pivot, 0) else { return false };
                match side {
                    End::Left => listpack.insert_before(pos, element),
                    End::Right => listpack.insert_after(pos, element),
                };
                true
            }
            Large(quicklist) => {
                let Some(index) = quicklist.position(pivot) else { return false };
                quicklist.insert(index + usize::from(side == End::Right), element);
                true
            }
        }
    }

    /// Removes up to `n` elements from `start` on, and returns how many it were. The caller ends with
    /// [`List::shrunk`].
    pub fn remove_range(&mut self, start: usize, n: usize) -> usize {
        match &mut self.0 {
            Small(listpack) => listpack.remove_range(start as i64, n),
            Large(quicklist) => quicklist.remove_range(start, n),
        }
    }

    /// Removes the first `count` elements that are `text`, the last ones if `count` is negative, all
    /// if it is 0, and returns how many it were. The caller ends with [`List::shrunk`].
    pub fn remove_equal(&mut self, text: &[u8], count: i64) -> usize {
        let listpack = match &mut self.0 {
            Large(quicklist) => return quicklist.remove_equal(text, count),
            Small(listpack) => listpack,
        };
        let limit = if count == 0 { usize::MAX } else { count.unsigned_abs() as usize };
        let needle = Encoded::from(text);
        let mut places: Vec<Pos> = Vec::new();
        let mut found = listpack.find(needle, 0);
        while let Some(pos) = found {
            places.push(pos);
            if count > 0 && places.len() == limit {
                break;
            }
            found = listpack.next(pos).and_then(|next| listpack.find_from(next, needle, 0));
        }
        let skip = if count < 0 { places.len().saturating_sub(limit) } else { 0 };
        listpack.remove_each(&places[skip..], 1)
    }

    /// Moves an element from one end to the other (or the same) after showing it to `look`.
    pub fn rotate<R>(
        &mut self,
        from: End,
        to: End,
        fill: i32,
        look: impl FnOnce(Entry<'_>) -> R,
    ) -> Option<R> {
        if from == to {
            let index = self.resolve(if from == End::Left { 0 } else { -1 })?;
            return self.get(index as i64).map(look);
        }
        let (seen, element) = self.pop(from, |entry| (look(entry), entry.to_vec()))?;
        self.make_room(element.len(), 1, fill);
        self.push(to, &element);
        Some(seen)
    }
}

/// The elements of a range.
pub enum Iter<'a> {
    /// What follows the start, and how much of it is in the range.
    Small(listpack::Iter<'a>, usize),
    Large(quicklist::Iter<'a>),
}

impl<'a> Iterator for Iter<'a> {
    type Item = Entry<'a>;

    #[inline]
    fn next(&mut self) -> Option<Entry<'a>> {
        match self {
            Iter::Small(_, 0) => None,
            Iter::Small(iter, n) => {
                *n -= 1;
                iter.next()
            }
            Iter::Large(iter) => iter.next(),
        }
    }
}
