//! When and how the array of buckets grows and shrinks: one bucket at a time.
//!
//! An insert splits a bucket when the table is full, a remove merges one when it is sparse. One step
//! each keeps up; only after a time in which the shape was left alone ([`ResizePolicy::Avoid`]) is
//! there more to do, and then each operation does a few steps until the table is in shape again, or
//! a timer does them with [`Table::rehash_some`].
//!
//! Splitting needs the entries' hashes and so reads the entries, which are likely in no cache. The
//! next bucket to be split is known, so its entries are prefetched a split ahead. Merging needs
//! neither: everything in the last bucket goes to one other bucket.

use super::bucket::tag_of;
use super::{Slot, Table};
use crate::cache::prefetch;
use std::cell::Cell;

/// Entries a bucket, on average, above which the table grows.
///
/// Measured from a quarter of a million entries to ten million: the table then takes 13.2 to 13.8
/// bytes an entry, chains included, and five entries in six lie in the first bucket of their chain.
pub const FULL: f64 = FULL_X2 as f64 / 2.0;

/// Bytes of the table that an entry takes on average.
pub const PLACE: usize = 14;

const FULL_X2: usize = 11;
/// The table shrinks below 7/4 entries a bucket.
const SPARSE_X4: usize = 7;
/// What the table bears instead while a child lives.
const FULL_AVOIDING: usize = 21;
const SPARSE_AVOIDING: usize = 8;
/// Steps an operation does when one is not enough to keep up.
const CATCHING_UP: usize = 4;

/// Whether tables may change their shape freely.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResizePolicy {
    Allow,
    /// Only when the load is extreme: above three entries a slot, or below one in eight buckets. For
    /// while a forked child shares the pages, since a page written to is a page copied.
    Avoid,
}

thread_local! {
    static POLICY: Cell<ResizePolicy> = const { Cell::new(ResizePolicy::Allow) };
}

/// Sets the policy for the tables that this thread changes: for the data's one owner, all tables.
pub fn set_resize_policy(policy: ResizePolicy) {
    POLICY.set(policy);
}

fn avoiding() -> bool {
    POLICY.get() == ResizePolicy::Avoid
}

impl<T: Slot> Table<T> {
    #[inline(always)]
    fn is_full(&self) -> bool {
        2 * self.len >= FULL_X2 * self.buckets
    }

    #[inline(always)]
    fn is_sparse(&self) -> bool {
        4 * self.len < SPARSE_X4 * self.buckets && self.buckets > 1
    }

    /// Fuller than one step an operation ever leaves it.
    fn is_far_too_full(&self) -> bool {
        8 * 2 * self.len > 9 * FULL_X2 * self.buckets && self.buckets > 1
    }

    fn is_far_too_sparse(&self) -> bool {
        9 * 4 * self.len < 8 * SPARSE_X4 * self.buckets && self.buckets > 1
    }

    fn may_grow(&self) -> bool {
        self.is_full() && (!avoiding() || self.len >= FULL_AVOIDING * self.buckets)
    }

    fn may_shrink(&self) -> bool {
        self.is_sparse() && (!avoiding() || SPARSE_AVOIDING * self.len < self.buckets)
    }

    /// What an insert does about the table's shape first.
    #[inline(always)]
    pub(super) fn make_room(&mut self) {
        if self.is_full() {
            self.grow();
        }
    }

    /// What a remove does about the table's shape afterwards.
    #[inline(always)]
    pub(super) fn give_room_back(&mut self) {
        if self.is_sparse() {
            self.shrink();
        }
    }

    #[cold]
    #[inline(never)]
    fn grow(&mut self) {
        if self.buckets == 0 {
            if !self.memory.ensure(0) {
                panic!("out of memory for the first bucket of a table");
            }
            self.buckets = 1;
            return;
        }
        // A table of one bucket fills that before it takes a second.
        if self.buckets == 1 && self.len < super::bucket::SLOTS {
            return;
        }
        for _ in 0..if self.is_far_too_full() { CATCHING_UP } else { 1 } {
            if !self.may_grow() || !self.split() {
                return;
            }
        }
    }

    #[cold]
    #[inline(never)]
    fn shrink(&mut self) {
        for _ in 0..if self.is_far_too_sparse() { CATCHING_UP } else { 1 } {
            if !self.may_shrink() {
                return;
            }
            self.merge();
        }
    }

    fn set_buckets(&mut self, buckets: usize) {
        self.buckets = buckets;
        self.mask = buckets.next_power_of_two() - 1;
    }

    /// The bucket from which bucket `i` is split and into which it is merged: the same without the
    /// top bit.
    fn parent_of(i: usize) -> usize {
        i ^ (1 << i.ilog2())
    }

    /// Makes the array one bucket longer. False if there is no memory for it: then chains grow
    /// instead.
    fn split(&mut self) -> bool {
        let new = self.buckets;
        if !self.memory.ensure(new) {
            return false;
        }
        let source = Self::parent_of(new);
        self.prefetch_entries(self.bucket(source).taken());
        self.set_buckets(new + 1);
        let mut child_bytes = self.child_bytes;
        let table = &*self;
        table.bucket(source).empty_into(&mut child_bytes, |child_bytes, tag, value| {
            let hash = value.key_hash();
            debug_assert_eq!(tag, tag_of(hash));
            let i = table.index_of(hash);
            debug_assert!(i == source || i == new);
            table.bucket(i).insert(tag, value, child_bytes);
        });
        self.child_bytes = child_bytes;
        // The line after `source` is the next to be split, except where a power of two is reached.
        if source + 2 < self.buckets {
            self.prefetch_entries(self.bucket(source + 1).taken());
            prefetch(self.bucket(source + 2).address());
        }
        true
    }

    /// Makes the array one bucket shorter.
    fn merge(&mut self) {
        let last = self.buckets - 1;
        let target = self.bucket(Self::parent_of(last));
        let mut longest = self.longest;
        self.bucket(last).empty_into(&mut self.child_bytes, |child_bytes, tag, value| {
            longest = longest.max(target.insert(tag, value, child_bytes).1);
        });
        self.longest = longest;
        self.set_buckets(last);
        self.memory.release(last);
    }

    /// Whether the table is out of shape by more than its next operation mends, and the policy lets
    /// it change.
    pub fn rehashing(&self) -> bool {
        self.is_far_too_full() && self.may_grow() || self.is_far_too_sparse() && self.may_shrink()
    }

    /// Splits or merges at most `max_buckets` buckets. True if there is more to do.
    pub fn rehash_some(&mut self, max_buckets: usize) -> bool {
        for _ in 0..max_buckets {
            if !self.rehashing() {
                return false;
            }
            if self.is_sparse() {
                self.merge();
            } else if !self.split() {
                return false;
            }
        }
        self.rehashing()
    }

    /// Makes room for `entries` in all, if the table is still empty; a hint otherwise ignored. The
    /// room stays until entries are removed or [`Table::rehash_some`] is called.
    pub fn reserve(&mut self, entries: usize) {
        /// So that a damaged file's count cannot ask for more than a large machine has.
        const MOST: usize = 1 << 31;
        let buckets = entries.min(MOST) * 2 / FULL_X2 + 1;
        if self.len != 0 || buckets <= self.buckets {
            return;
        }
        *self = Table::new();
        let buckets = self.memory.reserve(buckets);
        if buckets > 0 {
            self.set_buckets(buckets);
        }
    }
}
