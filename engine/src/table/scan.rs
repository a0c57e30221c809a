//! Going through a table: scan cursors, iteration, random entries, statistics.
//!
//! **Cursors.** [`Table::scan`] keeps Redis's promise: what is in the table from the first call to
//! the last is returned at least once, whatever else is inserted and removed meanwhile, although the
//! cursor is a plain number and the table remembers nothing. Cursors count with their bits reversed
//! (Pieter Noordhuis's idea for Redis): think of every hash and cursor with its low bit first. With
//! `2^k` the power of two at or below the number of buckets, a call visits the class of all hashes
//! that share the cursor's low `k` bits: one bucket, and its sibling `2^k` further if that exists
//! yet. Reversed, a class is an interval that contains the cursor, and the next cursor is where it
//! ends. So whatever sizes the table had at the calls before, every hash below the reversed cursor
//! has been visited, and nothing above is forgotten.

use super::bucket::{Bucket, SLOTS, Taken};
use super::{Slot, Table};
use std::fmt;
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::NonNull;

/// Tries at a fair random entry. A table in shape needs a dozen at most on average, so that this
/// many fail once in millions of calls.
const TRIES: usize = 256;

impl<T: Slot> Table<T> {
    /// Visits the entries of one cursor, at most two chains, and returns the next cursor: 0 after
    /// the last. Begin with 0; any other number is taken as a cursor too.
    pub fn scan(&self, cursor: u64, mut visit: impl FnMut(&T)) -> u64 {
        if self.len == 0 {
            return 0;
        }
        let classes = 1 << self.buckets.ilog2();
        let class = cursor as usize & (classes - 1);
        for i in [class, class + classes] {
            if i < self.buckets {
                // SAFETY: `for_each` gives taken slots, and `&self` keeps them taken.
                self.bucket(i).for_each(|entry| visit(unsafe { entry.as_ref() }));
            }
        }
        // Reversed, the class is the interval of all numbers with these leading bits: set the rest
        // and add one to come to its end.
        let reversed = (class | !(classes - 1)) as u64;
        reversed.reverse_bits().wrapping_add(1).reverse_bits()
    }

    /// All entries, in no particular order. Writes nothing, anywhere.
    pub fn iter(&self) -> Iter<'_, T> {
        Iter { places: Places::new(self), table: PhantomData }
    }

    /// All entries, to be changed or replaced by ones with the same keys.
    pub fn iter_mut(&mut self) -> impl ExactSizeIterator<Item = &mut T> {
        // SAFETY: `Places` gives each taken slot once, and the result borrows the table exclusively.
        Places::new(self).map(|mut place| unsafe { place.as_mut() })
    }

    /// A random entry, each as likely as any other: `rng_word` gives 64 random bits a call.
    ///
    /// A random place is drawn among as many per bucket as the longest chain has entries, until one
    /// is taken. In a table so empty that this hopelessly often fails (deleted from while a child
    /// lives), the entries after long gaps are favoured.
    pub fn sample(&self, mut rng_word: impl FnMut() -> u64) -> Option<&T> {
        if self.len == 0 {
            return None;
        }
        for _ in 0..TRIES {
            let (i, rest) = scale(rng_word(), self.buckets);
            let (n, _) = scale(rest, self.longest);
            if let Some(entry) = self.bucket(i).nth(n) {
                // SAFETY: `nth` gives a taken slot, and `&self` keeps it taken.
                return Some(unsafe { entry.as_ref() });
            }
        }
        let (start, rest) = scale(rng_word(), self.buckets);
        let bucket = (start..self.buckets)
            .chain(0..start)
            .map(|i| self.bucket(i))
            .find(|bucket| bucket.taken().next().is_some())?;
        let (n, _) = scale(rest, bucket.shape().1);
        // SAFETY: as above.
        bucket.nth(n).map(|entry| unsafe { entry.as_ref() })
    }

    /// Up to `n` entries that lie together at a random place, none twice: cheap, and good enough to
    /// choose what to evict or to expire. Returns how many; fewer than `n` where the table is empty
    /// for long stretches.
    pub fn sample_some(
        &self,
        n: usize,
        mut rng_word: impl FnMut() -> u64,
        mut visit: impl FnMut(&T),
    ) -> usize {
        if self.len == 0 {
            return 0;
        }
        let mut found = 0;
        let (start, _) = scale(rng_word(), self.buckets);
        for i in (start..self.buckets).chain(0..start).take(10 * n) {
            if found == n {
                break;
            }
            self.bucket(i).for_each(|entry| {
                if found < n {
                    found += 1;
                    // SAFETY: `for_each` gives taken slots, and `&self` keeps them taken.
                    visit(unsafe { entry.as_ref() });
                }
            });
        }
        found
    }

    /// Counts everything: reads every bucket.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            entries: self.len,
            buckets: self.buckets,
            children: 0,
            longest_chain: 0,
            memory: self.memory(),
            by_chain_length: [0; Stats::LENGTHS],
        };
        for i in 0..self.buckets {
            let (children, entries) = self.bucket(i).shape();
            stats.children += children;
            stats.longest_chain = stats.longest_chain.max(entries);
            stats.by_chain_length[entries.min(Stats::LENGTHS - 1)] += 1;
        }
        stats
    }
}

/// `word` as a fraction of 2^64 times `n`: the whole part, and the fraction that is left.
fn scale(word: u64, n: usize) -> (usize, u64) {
    let product = word as u128 * n as u128;
    ((product >> 64) as usize, product as u64)
}

/// A table in numbers, for `DEBUG HTSTATS`: that is also how it prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stats {
    pub entries: usize,
    /// Buckets in the array, and those chained to them.
    pub buckets: usize,
    pub children: usize,
    /// Entries in the fullest chain.
    pub longest_chain: usize,
    /// Bytes.
    pub memory: usize,
    /// How many chains have 0, 1, 2... entries; the last count is of all that are as long or longer.
    pub by_chain_length: [usize; Stats::LENGTHS],
}

impl Stats {
    pub const LENGTHS: usize = 32;
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, " table size: {} buckets, {} slots", self.buckets, self.buckets * SLOTS)?;
        writeln!(f, " number of elements: {}", self.entries)?;
        writeln!(f, " child buckets: {}", self.children)?;
        writeln!(f, " max chain length: {}", self.longest_chain)?;
        writeln!(f, " memory: {} bytes", self.memory)?;
        writeln!(f, " Chain length distribution:")?;
        for (length, &count) in self.by_chain_length.iter().enumerate() {
            if count > 0 {
                let share = 100.0 * count as f64 / self.buckets as f64;
                writeln!(f, "   {length}: {count} ({share:.2}%)")?;
            }
        }
        Ok(())
    }
}

/// The places of all entries of a table that does not change meanwhile.
struct Places<T: Slot> {
    table: NonNull<Table<T>>,
    next_bucket: usize,
    bucket: Option<Bucket<T>>,
    taken: Option<Taken<T>>,
    left: usize,
}

impl<T: Slot> Places<T> {
    /// The caller keeps the table where it is, borrowed, for as long as it uses this.
    fn new(table: &Table<T>) -> Self {
        Places {
            table: NonNull::from(table),
            next_bucket: 0,
            bucket: None,
            taken: None,
            left: table.len,
        }
    }
}

impl<T: Slot> Iterator for Places<T> {
    type Item = NonNull<T>;

    #[inline]
    fn next(&mut self) -> Option<NonNull<T>> {
        loop {
            if let Some(place) = self.taken.as_mut().and_then(Taken::next) {
                self.left -= 1;
                return Some(place);
            }
            if self.left == 0 {
                return None;
            }
            self.bucket = self.bucket.and_then(Bucket::next).or_else(|| {
                // SAFETY: who made this keeps the table in place and does not change it.
                let table = unsafe { self.table.as_ref() };
                let i = self.next_bucket;
                self.next_bucket += 1;
                if i + 1 < table.buckets {
                    table.prefetch_entries(table.bucket(i + 1).taken());
                }
                (i < table.buckets).then(|| table.bucket(i))
            });
            self.taken = Some(self.bucket?.taken());
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl<T: Slot> ExactSizeIterator for Places<T> {}

/// All entries of a table: [`Table::iter`].
pub struct Iter<'a, T: Slot> {
    places: Places<T>,
    table: PhantomData<&'a Table<T>>,
}

impl<'a, T: Slot> Iterator for Iter<'a, T> {
    type Item = &'a T;

    #[inline]
    fn next(&mut self) -> Option<&'a T> {
        // SAFETY: the table is borrowed for `'a`, so the place stays taken.
        self.places.next().map(|place| unsafe { place.as_ref() })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.places.size_hint()
    }
}

impl<T: Slot> ExactSizeIterator for Iter<'_, T> {}

impl<'a, T: Slot> IntoIterator for &'a Table<T> {
    type Item = &'a T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

/// The entries of a table that is no more: [`Table::drain`].
pub struct IntoIter<T: Slot> {
    /// Boxed, so that `places` can hold its address. Its entries are dropped here and not by it.
    table: Box<ManuallyDrop<Table<T>>>,
    places: Places<T>,
}

// SAFETY: the table in its box goes along with the places in it, which nothing else has.
unsafe impl<T: Slot + Send> Send for IntoIter<T> {}

impl<T: Slot> IntoIterator for Table<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        let table = Box::new(ManuallyDrop::new(self));
        let places = Places::new(&table);
        IntoIter { table, places }
    }
}

impl<T: Slot> Iterator for IntoIter<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        // SAFETY: each place is given once, and nobody reads it afterwards: the slots stay marked,
        // but the table's own drop, which would look at them, runs only with its length at zero.
        self.places.next().map(|place| unsafe { place.read() })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.places.size_hint()
    }
}

impl<T: Slot> ExactSizeIterator for IntoIter<T> {}

impl<T: Slot> Drop for IntoIter<T> {
    fn drop(&mut self) {
        self.by_ref().for_each(drop);
        self.table.len = 0;
        // SAFETY: dropped once, here, and not used after.
        unsafe { ManuallyDrop::drop(&mut self.table) };
    }
}

impl<T: Slot> Drop for Table<T> {
    fn drop(&mut self) {
        if std::mem::needs_drop::<T>() {
            for place in Places::new(self) {
                // SAFETY: each place is given once, and the table is gone after this.
                unsafe { place.drop_in_place() };
            }
        }
        if self.child_bytes > 0 {
            for i in 0..self.buckets {
                self.bucket(i).forget_chain(&mut self.child_bytes);
            }
        }
    }
}
