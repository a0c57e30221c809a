//! A counted B+-tree: keys in order, each found by value or by rank.
//!
//! This is the ordered half of a large sorted set, where Redis keeps a skiplist. A skiplist node is
//! an allocation of its own and every step to the next one a cache miss; here about fifty neighbours
//! share a kilobyte, and a million keys are three steps from the root. Inner nodes hold, for each
//! child, its first key and how many keys are below it, so ranks cost no more than keys.
//!
//! Keys live in the leaves, and small `Copy` keys in plain arrays are all there is: no links
//! between leaves, no parent pointers, no `unsafe`. An iterator goes from one leaf to the next by
//! descending to the rank that it has reached, three warm nodes per fifty keys.
//!
//! What always holds: every leaf is at the same depth, no node is empty, and an inner node's counts
//! and first keys are exact, also in between calls to a callback that frees what a removed key
//! refers to.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `mod.rs` | the tree as its users see it |
//! | `node.rs` | what nodes have in common; balancing |
//! | `leaf.rs`, `inner.rs` | the two kinds of node |
//! | `tests.rs` | the tree against a sorted `Vec` |

mod inner;
mod leaf;
mod node;
#[cfg(test)]
mod tests;

use crate::size_class::size_class;
use std::cmp::Ordering;
use std::iter::Flatten;
use std::ops::{Bound, RangeBounds};

use inner::{Inner, Subtree};
use leaf::Leaf;
use node::{Edges, INNER, Node, Update};

/// What the tree can hold: small, copied at will, totally ordered.
pub trait TreeKey: Copy {
    fn cmp(&self, other: &Self) -> Ordering;

    /// `self < other`. A search does nothing else, so a version without branches pays.
    #[inline]
    fn less(&self, other: &Self) -> bool {
        self.cmp(other).is_lt()
    }
}

/// See the [module's page](self).
pub struct BTree<K: TreeKey> {
    root: Option<Subtree<K>>,
    len: usize,
}

/// The keys of a range of ranks, both ends at hand. Allocates nothing.
pub type Iter<'a, K> = Flatten<Runs<'a, K>>;

impl<K: TreeKey> Default for BTree<K> {
    fn default() -> BTree<K> {
        BTree::new()
    }
}

impl<K: TreeKey> BTree<K> {
    /// The most keys that a tree holds: the width of an inner node's counts.
    pub const MAX_LEN: usize = u32::MAX as usize;

    pub const fn new() -> BTree<K> {
        BTree { root: None, len: 0 }
    }

    /// A tree of `keys`, which must come in strictly ascending order. Every node is full but the
    /// last two of a level.
    ///
    /// Out of order, the tree answers wrongly; nothing worse.
    pub fn from_sorted(keys: impl IntoIterator<Item = K>) -> BTree<K> {
        let mut leaves: Vec<Subtree<K>> = Vec::new();
        let mut len = 0;
        for key in keys {
            match leaves.last_mut() {
                Some(Subtree::Leaf(leaf)) if !leaf.is_full() => {
                    debug_assert!(leaf.last().less(&key), "keys must ascend");
                    leaf.append(key);
                }
                _ => leaves.push(Subtree::Leaf(Leaf::new(key))),
            }
            len += 1;
        }
        assert!(len <= Self::MAX_LEN, "more keys than the counts can hold");
        even_last(&mut leaves);
        let mut level = leaves;
        while level.len() > 1 {
            let mut above: Vec<Subtree<K>> = Vec::with_capacity(level.len().div_ceil(INNER));
            for child in level {
                match above.last_mut() {
                    Some(Subtree::Inner(inner)) if !inner.is_full() => inner.append(child),
                    _ => above.push(Subtree::Inner(Inner::over(child))),
                }
            }
            even_last(&mut above);
            level = above;
        }
        BTree { root: level.pop(), len }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds `key`; `false` if it is there already.
    ///
    /// # Panics
    /// If the tree holds [`BTree::MAX_LEN`] keys.
    pub fn insert(&mut self, key: K) -> bool {
        assert!(self.len < Self::MAX_LEN, "more keys than the counts can hold");
        let inserted = match &mut self.root {
            None => {
                self.root = Some(Subtree::Leaf(Leaf::new(key)));
                true
            }
            Some(Subtree::Leaf(leaf)) if !leaf.is_full() => leaf.insert(&key),
            Some(Subtree::Inner(inner)) if !inner.is_full() => inner.insert(&key, Edges::BOTH),
            Some(_) => {
                let mut above = Inner::over(self.root.take().expect("matched above"));
                let inserted = above.insert(&key, Edges::BOTH);
                self.root = Some(Subtree::Inner(above));
                inserted
            }
        };
        self.len += inserted as usize;
        inserted
    }

    /// Removes `key`; `false` if it is not there.
    pub fn remove(&mut self, key: &K) -> bool {
        let removed = match &mut self.root {
            None => None,
            Some(Subtree::Leaf(leaf)) => leaf.remove(key),
            Some(Subtree::Inner(inner)) => inner.remove(key),
        };
        if removed.is_none() {
            return false;
        }
        self.len -= 1;
        self.shrink();
        true
    }

    /// Removes and returns the key at `rank`.
    pub fn remove_at(&mut self, rank: usize) -> Option<K> {
        if rank >= self.len {
            return None;
        }
        let key = match self.root.as_mut()? {
            Subtree::Leaf(leaf) => leaf.remove_at(rank),
            Subtree::Inner(inner) => inner.remove_at(rank).0,
        };
        self.len -= 1;
        self.shrink();
        Some(key)
    }

    pub fn pop_first(&mut self) -> Option<K> {
        self.remove_at(0)
    }

    pub fn pop_last(&mut self) -> Option<K> {
        self.remove_at(self.len.checked_sub(1)?)
    }

    /// Removes the ranks in `ranks` (cut to what exists) and hands each key, in order, to `f`, which
    /// may free what the key refers to: no key is compared before the tree is in order again.
    /// Returns how many there were. Costs O(log n) and the removed keys.
    pub fn remove_range(&mut self, ranks: impl RangeBounds<usize>, mut f: impl FnMut(K)) -> usize {
        let (start, end) = self.clamp(ranks);
        if start == end {
            return 0;
        }
        match &mut self.root {
            None => {}
            Some(Subtree::Leaf(leaf)) => leaf.remove_range(start, end, &mut f),
            Some(Subtree::Inner(inner)) => inner.remove_range(start, end, &mut f),
        }
        self.len -= end - start;
        self.shrink();
        end - start
    }

    /// Takes levels off the top that have become needless.
    fn shrink(&mut self) {
        if self.len == 0 {
            self.root = None;
        }
        while let Some(Subtree::Inner(inner)) = &mut self.root {
            match inner.take_only_child() {
                Some(child) => self.root = Some(child),
                None => break,
            }
        }
    }

    /// Removes `old` and adds `new`, which must not be there; `false`, and nothing done, if `old` is
    /// not there. Where both belong into one leaf, as with a score that changes a little, that is
    /// one descent and one move of memory.
    pub fn update(&mut self, old: &K, new: K) -> bool {
        let update = match &mut self.root {
            None => Update::Missing,
            Some(Subtree::Leaf(leaf)) => leaf.update(old, &new, true, None),
            Some(Subtree::Inner(inner)) => inner.update(old, &new, true, None),
        };
        match update {
            Update::Missing => false,
            Update::Done { .. } => true,
            Update::Elsewhere => {
                self.prefetch(|k| k.less(&new));
                self.remove(old) && self.insert(new)
            }
        }
    }

    pub fn clear(&mut self) {
        *self = BTree::new();
    }

    /// The leaf, the place in it, and the rank of the first key for which `before` is false.
    fn locate(&self, mut before: impl FnMut(&K) -> bool) -> (&[K], usize, usize) {
        match &self.root {
            None => (&[], 0, 0),
            Some(Subtree::Leaf(leaf)) => {
                let at = leaf.keys().partition_point(before);
                (leaf.keys(), at, at)
            }
            Some(Subtree::Inner(inner)) => inner.locate(&mut before),
        }
    }

    /// Asks the cache for the leaf with the first key for which `before` is false, for who is about
    /// to change something there and has something else to do first.
    pub fn prefetch(&self, mut before: impl FnMut(&K) -> bool) {
        if let Some(Subtree::Inner(inner)) = &self.root {
            inner.prefetch(&mut before);
        }
    }

    /// The rank of `key`, from 0, if it is there.
    pub fn rank(&self, key: &K) -> Option<usize> {
        let (leaf, at, rank) = self.locate(|k| !key.less(k));
        let found = leaf[..at].last()?;
        found.cmp(key).is_eq().then(|| rank - 1)
    }

    pub fn contains(&self, key: &K) -> bool {
        self.rank(key).is_some()
    }

    /// How many keys `before` holds for, which must be true for a prefix of the keys and false for
    /// the rest: the rank of the first key of the rest. The difference of two is a count between
    /// bounds.
    pub fn partition_point(&self, before: impl FnMut(&K) -> bool) -> usize {
        self.locate(before).2
    }

    /// The first key that `f` does not call `Less` than what is sought: its rank, and the keys from
    /// there on. For what lies above an exclusive bound, have `f` never say `Equal`.
    pub fn seek(&self, mut f: impl FnMut(&K) -> Ordering) -> (usize, Iter<'_, K>) {
        let rank = self.partition_point(|k| f(k).is_lt());
        (rank, self.range(rank..))
    }

    /// The leaf that holds `rank`, which must exist, and the place in it.
    fn leaf_at(&self, rank: usize) -> (&[K], usize) {
        match &self.root {
            None => (&[], 0),
            Some(Subtree::Leaf(leaf)) => (leaf.keys(), rank),
            Some(Subtree::Inner(inner)) => inner.leaf_at(rank),
        }
    }

    /// The key at `rank`, from 0.
    pub fn get(&self, rank: usize) -> Option<K> {
        if rank >= self.len {
            return None;
        }
        let (leaf, at) = self.leaf_at(rank);
        Some(leaf[at])
    }

    pub fn first(&self) -> Option<K> {
        self.get(0)
    }

    pub fn last(&self) -> Option<K> {
        self.get(self.len.checked_sub(1)?)
    }

    pub fn iter(&self) -> Iter<'_, K> {
        self.range(..)
    }

    /// The keys at `ranks`, cut to what exists; `rev()` for the other direction.
    pub fn range(&self, ranks: impl RangeBounds<usize>) -> Iter<'_, K> {
        self.runs(ranks).flatten()
    }

    /// The keys at `ranks` as slices of the leaves, for loops that look ahead: to prefetch what keys
    /// refer to, or to copy many at once.
    pub fn runs(&self, ranks: impl RangeBounds<usize>) -> Runs<'_, K> {
        let (start, end) = self.clamp(ranks);
        Runs { tree: self, start, end }
    }

    fn clamp(&self, ranks: impl RangeBounds<usize>) -> (usize, usize) {
        let start = match ranks.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match ranks.end_bound() {
            Bound::Included(end) => end.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => self.len,
        };
        let end = end.min(self.len);
        (start.min(end), end)
    }

    /// The bytes of the tree's nodes. Looks at inner nodes only, one in about fifteen hundred keys.
    pub fn memory(&self) -> usize {
        let (leaves, inners) = match &self.root {
            None => (0, 0),
            Some(Subtree::Leaf(_)) => (1, 0),
            Some(Subtree::Inner(inner)) => inner.nodes(),
        };
        leaves * size_class(size_of::<Leaf<K>>()) + inners * size_class(size_of::<Inner<K>>())
    }

    /// Asserts what the module's page says always holds.
    #[cfg(test)]
    pub fn check(&self) {
        match &self.root {
            None => assert_eq!(self.len, 0),
            Some(Subtree::Leaf(leaf)) => {
                leaf.check();
                assert_eq!(self.len, leaf.count() as usize);
            }
            Some(Subtree::Inner(inner)) => {
                inner.check();
                assert!(inner.len() > 1);
                assert_eq!(self.len, inner.count() as usize);
            }
        }
        assert!(self.iter().zip(self.iter().skip(1)).all(|(a, b)| a.cmp(b).is_lt()));
    }
}

/// Shares the items of a level's last two nodes, of which the last may be nearly empty.
fn even_last<K: TreeKey>(level: &mut [Subtree<K>]) {
    fn even<K, T: Node<K>>(a: &mut T, b: &mut T) {
        a.push(b, (a.len() - b.len()) / 2);
    }
    match level {
        [.., Subtree::Leaf(a), Subtree::Leaf(b)] => even(&mut **a, &mut **b),
        [.., Subtree::Inner(a), Subtree::Inner(b)] => even(&mut **a, &mut **b),
        _ => {}
    }
}

/// See [`BTree::runs`]. Runs from the back are slices in ascending order, too.
pub struct Runs<'a, K: TreeKey> {
    tree: &'a BTree<K>,
    start: usize,
    end: usize,
}

impl<'a, K: TreeKey> Iterator for Runs<'a, K> {
    type Item = &'a [K];

    fn next(&mut self) -> Option<&'a [K]> {
        if self.start == self.end {
            return None;
        }
        let (leaf, at) = self.tree.leaf_at(self.start);
        let run = &leaf[at..leaf.len().min(at + (self.end - self.start))];
        self.start += run.len();
        Some(run)
    }
}

impl<'a, K: TreeKey> DoubleEndedIterator for Runs<'a, K> {
    fn next_back(&mut self) -> Option<&'a [K]> {
        if self.start == self.end {
            return None;
        }
        let (leaf, at) = self.tree.leaf_at(self.end - 1);
        let run = &leaf[(at + 1).saturating_sub(self.end - self.start)..=at];
        self.end -= run.len();
        Some(run)
    }
}
