//! What leaves and inner nodes have in common, and how neighbours share what they hold.
//!
//! A full node first gives to a neighbour that has room; only when both are full are two nodes made
//! into three. That keeps nodes about 85 % full under random inserts, where halving leaves 69 %. At
//! the tree's two edges a node is split next to its end instead, so keys that come in order fill
//! every node.
//!
//! There is no strict lower bound on a node's length, only that it is not empty: an inner node with
//! one child has nothing to balance that child with. Such nodes arise at the edges and at the ends
//! of a removed range, and go when something near them changes.

use super::TreeKey;
use crate::cache;

/// Entries of a leaf: with keys of 16 bytes a leaf is 1016 bytes, and allocators have a step at 1024.
pub(super) const LEAF: usize = 63;
/// Children of an inner node: 1024 bytes with keys of 16.
pub(super) const INNER: usize = 36;

pub(super) type Slot<T> = Option<Box<T>>;
pub(super) type Slots<T> = [Slot<T>; INNER];

/// What the balancing below needs of a leaf and of an inner node alike. "Items" are a leaf's keys
/// or an inner node's children.
pub(super) trait Node<K>: Sized {
    const CAPACITY: usize;
    /// Items.
    fn len(&self) -> usize;
    /// Keys in the whole subtree.
    fn count(&self) -> u32;
    fn first(&self) -> K;
    /// The first key of the last item.
    fn last(&self) -> K;
    /// Moves the first `n` items of `right` to the end of `self`.
    fn pull(&mut self, right: &mut Self, n: usize);
    /// Moves the last `n` items of `self` to the front of `right`.
    fn push(&mut self, right: &mut Self, n: usize);
    /// A new right neighbour that takes all items from `at` on.
    fn split_off(&mut self, at: usize) -> Box<Self>;
    /// Called after two nodes became one: `at` is the first item that came from the right.
    fn mend_seam(&mut self, at: usize);
    /// Asserts what must hold here and below; returns the height above the leaves.
    #[cfg(test)]
    fn check(&self) -> usize;

    fn is_full(&self) -> bool {
        self.len() == Self::CAPACITY
    }
}

/// How an update in place went.
pub(super) enum Update {
    /// The old key is not in the tree.
    Missing,
    /// The new key belongs to another leaf; nothing was changed.
    Elsewhere,
    /// Done; `first` if the subtree's first key is another one now.
    Done { first: bool },
}

/// Whether a node lies at the tree's left and right end.
#[derive(Clone, Copy)]
pub(super) struct Edges {
    pub left: bool,
    pub right: bool,
}

impl Edges {
    /// The root's.
    pub const BOTH: Edges = Edges { left: true, right: true };
}

/// What an inner node knows of its children without looking at them.
///
/// `keys[i]` is, at all times, the very first key below child `i`, never an older one: a key may
/// refer to memory that is freed when its entry goes, so no copy may outlive the entry.
pub(super) struct Head<K> {
    pub len: u16,
    pub counts: [u32; INNER],
    pub keys: [K; INNER],
}

impl<K: TreeKey> Head<K> {
    pub fn new(key: K) -> Head<K> {
        Head { len: 0, counts: [0; INNER], keys: [key; INNER] }
    }

    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// The child that `key` is below, or would be.
    pub fn child_for(&self, key: &K) -> usize {
        self.keys[1..self.len()].partition_point(|k| !key.less(k))
    }

    /// The child that holds `rank`, and the rank within it; the last child if there is no such rank.
    pub fn child_at(&self, rank: usize) -> (usize, usize) {
        let mut rest = rank;
        for (i, count) in self.counts[..self.len() - 1].iter().enumerate() {
            if rest < *count as usize {
                return (i, rest);
            }
            rest -= *count as usize;
        }
        (self.len() - 1, rest)
    }

    /// Keys below the children before `i`.
    pub fn count_before(&self, i: usize) -> usize {
        self.counts[..i].iter().map(|c| *c as usize).sum()
    }

    fn insert(&mut self, at: usize, key: K, count: u32) {
        let len = self.len();
        self.counts.copy_within(at..len, at + 1);
        self.keys.copy_within(at..len, at + 1);
        self.counts[at] = count;
        self.keys[at] = key;
        self.len += 1;
    }

    fn remove(&mut self, at: usize) {
        let len = self.len();
        self.counts.copy_within(at + 1..len, at);
        self.keys.copy_within(at + 1..len, at);
        self.len -= 1;
    }
}

/// The node in a slot below the length.
pub(super) fn kid<T>(slot: &Slot<T>) -> &T {
    slot.as_deref().expect("slots below the length are taken")
}

/// As [`kid`].
pub(super) fn kid_mut<T>(slot: &mut Slot<T>) -> &mut T {
    slot.as_deref_mut().expect("slots below the length are taken")
}

/// As [`kid_mut`], for a leaf that is about to be searched and then moved about in.
///
/// A leaf is rarely in the cache. Asked for as a whole, it comes at the cost of one miss; a search
/// that waits for each line before it knows the next has four or five.
pub(super) fn leaf_mut<T>(slot: &mut Slot<T>) -> &mut T {
    let leaf = kid_mut(slot);
    cache::prefetch_all(leaf);
    leaf
}

fn pair<T>(kids: &mut Slots<T>, left: usize) -> (&mut T, &mut T) {
    let (a, b) = kids.split_at_mut(left + 1);
    (kid_mut(&mut a[left]), kid_mut(&mut b[0]))
}

/// Takes over child `i`'s first key and count.
pub(super) fn refresh<K: TreeKey, T: Node<K>>(head: &mut Head<K>, kids: &Slots<T>, i: usize) {
    let kid = kid(&kids[i]);
    head.keys[i] = kid.first();
    head.counts[i] = kid.count();
}

/// Puts a child at `at`; there must be a free slot.
pub(super) fn attach<K: TreeKey, T: Node<K>>(
    head: &mut Head<K>,
    kids: &mut Slots<T>,
    at: usize,
    node: Box<T>,
) {
    let len = head.len();
    head.insert(at, node.first(), node.count());
    kids[at..=len].rotate_right(1);
    kids[at] = Some(node);
}

fn detach<K: TreeKey, T: Node<K>>(head: &mut Head<K>, kids: &mut Slots<T>, at: usize) -> Slot<T> {
    let len = head.len();
    head.remove(at);
    let node = kids[at].take();
    kids[at..len].rotate_left(1);
    node
}

/// Shares the items of children `left` and `left + 1` evenly.
fn even<K: TreeKey, T: Node<K>>(head: &mut Head<K>, kids: &mut Slots<T>, left: usize) {
    let (a, b) = pair(kids, left);
    let half = (a.len() + b.len()) / 2;
    if a.len() > half {
        a.push(b, a.len() - half);
    } else {
        a.pull(b, half - a.len());
    }
    refresh(head, kids, left);
    refresh(head, kids, left + 1);
}

fn split<K: TreeKey, T: Node<K>>(head: &mut Head<K>, kids: &mut Slots<T>, i: usize, at: usize) {
    let right = kid_mut(&mut kids[i]).split_off(at);
    refresh(head, kids, i);
    attach(head, kids, i + 1, right);
}

/// Makes children `left` and `left + 1` into three.
fn split_two<K: TreeKey, T: Node<K>>(head: &mut Head<K>, kids: &mut Slots<T>, left: usize) {
    let (a, b) = pair(kids, left);
    let third = (a.len() + b.len()) / 3;
    let mut middle = a.split_off(third);
    middle.pull(b, b.len() - third);
    refresh(head, kids, left);
    refresh(head, kids, left + 1);
    attach(head, kids, left + 1, middle);
}

/// Makes room for `key` in child `i`, which is full. There must be a free slot. `key` may belong to
/// another child afterwards.
pub(super) fn make_room<K: TreeKey, T: Node<K>>(
    head: &mut Head<K>,
    kids: &mut Slots<T>,
    i: usize,
    key: &K,
    edges: Edges,
) {
    let roomy = |i: usize| kid(&kids[i]).len() + T::CAPACITY / 8 <= T::CAPACITY;
    let full = kid(&kids[i]);
    let (is_first, is_last) = (i == 0, i + 1 == head.len());
    if is_last && edges.right && !key.less(&full.last()) {
        split(head, kids, i, T::CAPACITY - 1);
    } else if is_first && edges.left && key.less(&full.first()) {
        split(head, kids, i, 1);
    } else if !is_first && roomy(i - 1) {
        even(head, kids, i - 1);
    } else if !is_last && roomy(i + 1) {
        even(head, kids, i);
    } else if !is_first {
        split_two(head, kids, i - 1);
    } else if !is_last {
        split_two(head, kids, i);
    } else {
        split(head, kids, i, T::CAPACITY / 2);
    }
}

/// Merges or evens out child `i` if it has become too small; drops it if it is empty.
pub(super) fn fix<K: TreeKey, T: Node<K>>(head: &mut Head<K>, kids: &mut Slots<T>, i: usize) {
    if i >= head.len() || kid(&kids[i]).len() >= T::CAPACITY / 3 {
        return;
    }
    if kid(&kids[i]).len() == 0 {
        detach(head, kids, i);
        return;
    }
    if head.len() == 1 {
        return;
    }
    let left = i.saturating_sub(1);
    let (a, b) = pair(kids, left);
    let seam = a.len();
    // Not up to the brim: the next insert would split it again.
    if seam + b.len() <= T::CAPACITY * 7 / 8 {
        a.pull(b, b.len());
        a.mend_seam(seam);
        detach(head, kids, left + 1);
        refresh(head, kids, left);
    } else {
        even(head, kids, left);
    }
}
