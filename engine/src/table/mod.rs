//! The engine's hash table: keyspace, expiry index, large hashes, sets and sorted sets.
//!
//! A [`Table`] holds words ([`Slot`]), each owning or naming an entry that knows its own key. What
//! it is built for:
//!
//! * **Few cache misses.** A bucket is one cache line of seven entries and their one-byte tags
//!   (`bucket.rs`). A lookup reads the bucket, and then only the entry whose tag matches. With
//!   [`Table::prefetch`] and [`Table::prefetch_entry`] a batch of lookups waits for both at once.
//! * **No pauses.** The array grows by linear hashing: whenever there are more than [`FULL`] entries
//!   a bucket, one bucket is split in two and the array is one bucket longer; when there are few,
//!   the last bucket is merged into the one that it came from. There is no second array, no moment
//!   at which the table doubles, and a lookup never has two places to look at. Memory per entry is
//!   the same at every size. The array itself never moves once it is large (`memory.rs`).
//! * **Scans that survive growth** (`scan.rs`), and fair random entries.
//! * **Forks.** Lookups and iteration never write, and while a child lives the table leaves its
//!   shape alone unless it is badly out of shape ([`set_resize_policy`]).
//!
//! With `n` buckets and `2^k` the power of two at or above `n`, a hash belongs to the bucket that
//! its low `k` bits name or, where that one does not exist yet, to the one that its low `k - 1` bits
//! name. So bucket `n` is filled from bucket `n` without its top bit, and from no other. (Witold
//! Litwin, "Linear hashing", VLDB 1980; the segments are Per-Åke Larson's.)
//!
//! | file | what is in it |
//! | --- | --- |
//! | `mod.rs` | looking up, inserting, removing |
//! | `bucket.rs` | one bucket, and the chain behind it |
//! | `memory.rs` | the array of buckets |
//! | `resize.rs` | when and how the array grows and shrinks |
//! | `scan.rs` | cursors, iteration, random entries, statistics |

mod bucket;
mod memory;
mod resize;
mod scan;
#[cfg(test)]
mod tests;

use crate::cache::{self, prefetch};
use crate::hasher;
use bucket::{Bucket, tag_of};
use memory::Memory;
pub use memory::mapped;
pub use resize::{FULL, PLACE, ResizePolicy, set_resize_policy};
pub use scan::{IntoIter, Iter, Stats};
use std::marker::PhantomData;
use std::ptr::NonNull;

/// One word that owns or names an entry.
///
/// An entry's key does not change while its word is in a table.
pub trait Slot {
    fn key(&self) -> &[u8];

    /// Where the entry's memory begins, as a hint to the processor's cache: computed from the word
    /// alone, without reading the entry.
    fn address(&self) -> *const u8;

    /// The hash under which the entry is in its table.
    fn key_hash(&self) -> u64 {
        hasher::hash(self.key())
    }
}

/// A table whatever it holds, as far as [`crate::ahead`] goes.
pub trait Fetch {
    /// See [`Table::prefetch`].
    fn prefetch(&self, hash: u64);
    /// See [`Table::prefetch_entry`].
    fn prefetch_entry(&self, hash: u64);
}

impl<T: Slot> Fetch for Table<T> {
    fn prefetch(&self, hash: u64) {
        Table::prefetch(self, hash);
    }

    fn prefetch_entry(&self, hash: u64) {
        Table::prefetch_entry(self, hash);
    }
}

/// A hash table of words. `T` must be 8 bytes, which is checked when the program is compiled.
///
/// Every `hash` that a method takes is [`Slot::key_hash`] of the key at hand: the caller computes it
/// once and uses it for the prefetch, the lookup and the expiry index alike.
///
/// Dropping a table drops its entries, which can take long: a large one is better sent to another
/// thread first.
pub struct Table<T: Slot> {
    len: usize,
    /// Buckets in use. Zero only before the first entry.
    buckets: usize,
    /// The power of two at or above `buckets`, less one.
    mask: usize,
    memory: Memory,
    /// Bytes of the chains' children.
    child_bytes: usize,
    /// No chain is longer than this. It follows growth at once and shrinks only with `clear`.
    longest: usize,
    owns: PhantomData<T>,
}

// SAFETY: a table owns its buckets and its entries and shares them with nobody; sending it sends
// them.
unsafe impl<T: Slot + Send> Send for Table<T> {}
// SAFETY: nothing that takes `&Table` writes to it or to the entries; it only hands out `&T`.
unsafe impl<T: Slot + Sync> Sync for Table<T> {}

impl<T: Slot> Default for Table<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Slot> Table<T> {
    /// A table without entries, which allocates nothing.
    pub const fn new() -> Self {
        Table {
            len: 0,
            buckets: 0,
            mask: 0,
            memory: Memory::new(),
            child_bytes: 0,
            longest: 0,
            owns: PhantomData,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Bytes of memory that the table itself occupies, entries not counted.
    pub fn memory(&self) -> usize {
        self.memory.bytes(self.buckets) + self.child_bytes
    }

    /// What the entries take together, from that of some of them: `samples`, or all if that is 0.
    pub fn entries_memory(&self, samples: usize, memory: impl Fn(&T) -> usize) -> usize {
        let samples = if samples == 0 { self.len } else { samples.min(self.len) };
        let bytes: usize = self.iter().take(samples).map(memory).sum();
        (bytes as u128 * self.len as u128).checked_div(samples as u128).unwrap_or(0) as usize
    }

    #[inline(always)]
    fn index_of(&self, hash: u64) -> usize {
        let i = hash as usize & self.mask;
        if i < self.buckets { i } else { i & (self.mask >> 1) }
    }

    #[inline(always)]
    fn bucket(&self, i: usize) -> Bucket<T> {
        assert!(i < self.buckets);
        // SAFETY: all buckets below `buckets` exist, since `resize.rs` calls `ensure` before it
        // raises `buckets` and `release` after it lowers it.
        unsafe { Bucket::at(self.memory.bucket(i)) }
    }

    #[inline(always)]
    fn head(&self, hash: u64) -> Bucket<T> {
        let i = self.index_of(hash);
        debug_assert!(i < self.buckets);
        // SAFETY: as in `bucket`; callers know that there is a bucket. `i` is below `buckets`, or it
        // has lost the top bit of `mask`, and `buckets` is above half of `mask`.
        unsafe { Bucket::at(self.memory.bucket(i)) }
    }

    #[inline(always)]
    fn find(&self, hash: u64, key: &[u8]) -> Option<Place<T>> {
        if self.len == 0 {
            return None;
        }
        let head = self.head(hash);
        let (bucket, slot) = head.find(tag_of(hash), |entry| entry.key() == key)?;
        Some(Place { head, bucket, slot })
    }

    #[inline]
    pub fn get(&self, hash: u64, key: &[u8]) -> Option<&T> {
        // SAFETY: a place that was found holds an entry, and `&self` keeps it there.
        self.find(hash, key).map(|place| unsafe { place.entry().as_ref() })
    }

    /// The entry of `key`, to be changed or replaced by one with the same key.
    #[inline]
    pub fn get_mut(&mut self, hash: u64, key: &[u8]) -> Option<&mut T> {
        // SAFETY: a place that was found holds an entry, and `&mut self` makes it ours alone.
        self.find(hash, key).map(|place| unsafe { place.entry().as_mut() })
    }

    #[inline]
    pub fn contains(&self, hash: u64, key: &[u8]) -> bool {
        self.find(hash, key).is_some()
    }

    /// Looks `key` up once, for whatever is to be done then.
    #[inline]
    pub fn find_slot(&mut self, hash: u64, key: &[u8]) -> Entry<'_, T> {
        match self.find(hash, key) {
            Some(place) => Entry::Occupied(Occupied { table: self, place }),
            None => Entry::Vacant(Vacant { table: self, hash }),
        }
    }

    /// Adds an entry whose key the caller knows to be absent.
    #[inline]
    pub fn insert_new(&mut self, hash: u64, value: T) -> &mut T {
        debug_assert_eq!(value.key_hash(), hash);
        self.make_room();
        let head = self.head(hash);
        let (mut slot, chain) = head.insert(tag_of(hash), value, &mut self.child_bytes);
        self.len += 1;
        self.longest = self.longest.max(chain);
        // SAFETY: `insert` gives the place of the entry, and `&mut self` makes it ours alone.
        unsafe { slot.as_mut() }
    }

    /// Puts `value` in the place of the entry with the same key, which is returned, or adds it.
    pub fn replace(&mut self, hash: u64, value: T) -> Option<T> {
        match self.find(hash, value.key()) {
            Some(place) => Some(Occupied { table: self, place }.replace(value)),
            None => {
                self.insert_new(hash, value);
                None
            }
        }
    }

    /// Takes the entry of `key` out.
    #[inline]
    pub fn remove(&mut self, hash: u64, key: &[u8]) -> Option<T> {
        let place = self.find(hash, key)?;
        Some(self.remove_at(place))
    }

    fn remove_at(&mut self, Place { head, bucket, slot }: Place<T>) -> T {
        let value = head.remove(bucket, slot, &mut self.child_bytes);
        self.len -= 1;
        self.give_room_back();
        value
    }

    /// Drops all entries and gives all memory back.
    pub fn clear(&mut self) {
        drop(std::mem::take(self));
    }

    /// Takes all entries out. The table is empty at once; entries that the iterator does not hand
    /// out are dropped with it.
    pub fn drain(&mut self) -> IntoIter<T> {
        std::mem::take(self).into_iter()
    }

    /// Asks for the bucket of `hash`, so that a lookup soon after finds it in the cache.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        if self.len != 0 {
            prefetch(self.head(hash).address());
        }
    }

    /// The entry that a lookup of `hash` most likely finds, if any: the first one whose tag fits.
    #[inline]
    pub fn guess(&self, hash: u64) -> Option<&T> {
        if self.len == 0 {
            return None;
        }
        let place = self.head(hash).tagged(tag_of(hash)).next()?;
        // SAFETY: the bucket's iterators give taken slots, and `&self` keeps them taken.
        Some(unsafe { place.as_ref() })
    }

    /// The entry whose key has this hash, for who has no key to compare: all but certainly the one that a
    /// lookup finds.
    pub fn by_hash(&self, hash: u64) -> Option<&T> {
        if self.len == 0 {
            return None;
        }
        let (bucket, slot) =
            self.head(hash).find(tag_of(hash), |entry| entry.key_hash() == hash)?;
        // SAFETY: `find` gives a taken slot, and `&self` keeps it taken.
        Some(unsafe { bucket.slot(slot).as_ref() })
    }

    /// The stage after [`Table::prefetch`]: asks for the entries that a lookup would compare, two cache
    /// lines of each: the key, and what is read or written behind it next.
    #[inline]
    pub fn prefetch_entry(&self, hash: u64) {
        if self.len != 0 {
            self.prefetch_entries(self.head(hash).tagged(tag_of(hash)));
        }
    }

    fn prefetch_entries(&self, places: impl Iterator<Item = NonNull<T>>) {
        for place in places {
            // SAFETY: the bucket's iterators give taken slots, and `&self` keeps them taken.
            let address = unsafe { place.as_ref() }.address();
            prefetch(address);
            prefetch(address.wrapping_add(cache::LINE));
        }
    }
}

/// Where an entry lies: its slot, and the bucket at which its chain begins.
struct Place<T> {
    head: Bucket<T>,
    bucket: Bucket<T>,
    slot: usize,
}

impl<T> Place<T> {
    #[inline(always)]
    fn entry(&self) -> NonNull<T> {
        self.bucket.slot(self.slot)
    }
}

/// What [`Table::find_slot`] found.
pub enum Entry<'a, T: Slot> {
    Occupied(Occupied<'a, T>),
    Vacant(Vacant<'a, T>),
}

/// A key that is in the table.
pub struct Occupied<'a, T: Slot> {
    table: &'a mut Table<T>,
    place: Place<T>,
}

/// A key that is not in the table.
pub struct Vacant<'a, T: Slot> {
    table: &'a mut Table<T>,
    hash: u64,
}

impl<'a, T: Slot> Occupied<'a, T> {
    #[inline]
    pub fn get(&self) -> &T {
        // SAFETY: the place holds an entry, and the table is borrowed by `self`.
        unsafe { self.place.entry().as_ref() }
    }

    #[inline]
    pub fn get_mut(&mut self) -> &mut T {
        // SAFETY: as in `get`, and the borrow is exclusive.
        unsafe { self.place.entry().as_mut() }
    }

    #[inline]
    pub fn into_mut(self) -> &'a mut T {
        // SAFETY: the table is borrowed exclusively for `'a`, and the handle ends here.
        unsafe { self.place.entry().as_mut() }
    }

    /// Swaps the word for one with the same key.
    #[inline]
    pub fn replace(&mut self, value: T) -> T {
        debug_assert!(self.get().key() == value.key());
        std::mem::replace(self.get_mut(), value)
    }

    #[inline]
    pub fn remove(self) -> T {
        self.table.remove_at(self.place)
    }
}

impl<'a, T: Slot> Vacant<'a, T> {
    /// Adds `value`, whose key is the one that was looked up.
    #[inline]
    pub fn insert(self, value: T) -> &'a mut T {
        self.table.insert_new(self.hash, value)
    }
}
