//! An inner node, and the recursion of every change: down to the leaf, and on the way back the
//! counts, the first keys and the balance of what was touched.

use super::TreeKey;
use super::leaf::Leaf;
use super::node::{
    Edges, Head, INNER, Node, Slots, Update, attach, fix, kid, kid_mut, leaf_mut, make_room,
    refresh,
};
use crate::cache;

/// Children are all of one kind: every leaf is at the same depth.
enum Kids<K> {
    Leaves(Slots<Leaf<K>>),
    Inners(Slots<Inner<K>>),
}

/// A node with 1 to [`INNER`] children.
pub(super) struct Inner<K> {
    head: Head<K>,
    kids: Kids<K>,
}

/// A subtree of either kind.
pub(super) enum Subtree<K> {
    Leaf(Box<Leaf<K>>),
    Inner(Box<Inner<K>>),
}

/// Runs `$body` with `$kids` bound to the children, of whichever kind they are.
macro_rules! with_kids {
    ($of:expr, $kids:ident => $body:expr) => {
        match $of {
            Kids::Leaves($kids) => $body,
            Kids::Inners($kids) => $body,
        }
    };
}

impl<K: TreeKey> Inner<K> {
    /// A node with one child.
    pub fn over(child: Subtree<K>) -> Box<Inner<K>> {
        let (key, kids) = match &child {
            Subtree::Leaf(leaf) => (leaf.first(), Kids::Leaves([const { None }; INNER])),
            Subtree::Inner(inner) => (inner.first(), Kids::Inners([const { None }; INNER])),
        };
        let mut inner = Box::new(Inner { head: Head::new(key), kids });
        inner.append(child);
        inner
    }

    /// Adds a child behind all others; there must be a free slot.
    ///
    /// # Panics
    /// If the child is not of the kind of the others.
    pub fn append(&mut self, child: Subtree<K>) {
        let at = self.head.len();
        match (&mut self.kids, child) {
            (Kids::Leaves(kids), Subtree::Leaf(leaf)) => attach(&mut self.head, kids, at, leaf),
            (Kids::Inners(kids), Subtree::Inner(inner)) => attach(&mut self.head, kids, at, inner),
            _ => unreachable!("all leaves are at the same depth"),
        }
    }

    /// The only child of a node that has no other.
    pub fn take_only_child(&mut self) -> Option<Subtree<K>> {
        if self.head.len != 1 {
            return None;
        }
        match &mut self.kids {
            Kids::Leaves(kids) => kids[0].take().map(Subtree::Leaf),
            Kids::Inners(kids) => kids[0].take().map(Subtree::Inner),
        }
    }

    /// Adds `key` unless it is there. The node must have a free slot, so that a child can be split.
    pub fn insert(&mut self, key: &K, edges: Edges) -> bool {
        let head = &mut self.head;
        let mut i = head.child_for(key);
        if with_kids!(&self.kids, kids => kid(&kids[i]).is_full()) {
            with_kids!(&mut self.kids, kids => make_room(head, kids, i, key, edges));
            i = head.child_for(key);
        }
        let below = Edges { left: edges.left && i == 0, right: edges.right && i + 1 == head.len() };
        let inserted = match &mut self.kids {
            Kids::Leaves(kids) => leaf_mut(&mut kids[i]).insert(key),
            Kids::Inners(kids) => kid_mut(&mut kids[i]).insert(key, below),
        };
        if inserted {
            head.counts[i] += 1;
            if i == 0 && key.less(&head.keys[0]) {
                head.keys[0] = *key;
            }
        }
        inserted
    }

    /// Removes `key`; says whether it was the first below this node, or `None` if it is not there.
    pub fn remove(&mut self, key: &K) -> Option<bool> {
        let i = self.head.child_for(key);
        let first = match &mut self.kids {
            Kids::Leaves(kids) => leaf_mut(&mut kids[i]).remove(key)?,
            Kids::Inners(kids) => kid_mut(&mut kids[i]).remove(key)?,
        };
        self.removed_one(i, first);
        Some(first && i == 0)
    }

    /// Removes the key at `rank`, which must exist; says whether it was the first.
    pub fn remove_at(&mut self, rank: usize) -> (K, bool) {
        let (i, rest) = self.head.child_at(rank);
        let (key, first) = match &mut self.kids {
            Kids::Leaves(kids) => (kid_mut(&mut kids[i]).remove_at(rest), rest == 0),
            Kids::Inners(kids) => kid_mut(&mut kids[i]).remove_at(rest),
        };
        self.removed_one(i, first);
        (key, first && i == 0)
    }

    fn removed_one(&mut self, i: usize, first: bool) {
        let head = &mut self.head;
        head.counts[i] -= 1;
        with_kids!(&mut self.kids, kids => {
            if first && head.counts[i] > 0 {
                head.keys[i] = kid(&kids[i]).first();
            }
            fix(head, kids, i);
        });
    }

    /// Removes ranks `start..end` and hands each key to `f`. Compares no keys.
    pub fn remove_range(&mut self, start: usize, end: usize, f: &mut impl FnMut(K)) {
        let head = &mut self.head;
        let len = head.len();
        // Children `kept..i` are gone; `seam` is the first that lost something.
        let (mut base, mut kept, mut seam) = (0, 0, None);
        for i in 0..len {
            let count = head.counts[i] as usize;
            let (from, to) = (start.max(base), end.min(base + count));
            if from < to {
                seam.get_or_insert(kept);
                let (from, to) = (from - base, to - base);
                match &mut self.kids {
                    Kids::Leaves(kids) => kid_mut(&mut kids[i]).remove_range(from, to, f),
                    Kids::Inners(kids) => kid_mut(&mut kids[i]).remove_range(from, to, f),
                }
            }
            base += count;
            with_kids!(&mut self.kids, kids => {
                if to.saturating_sub(from) == count {
                    kids[i] = None;
                    continue;
                }
                kids.swap(kept, i);
                if from < to {
                    refresh(head, kids, kept);
                } else {
                    head.keys[kept] = head.keys[i];
                    head.counts[kept] = head.counts[i];
                }
            });
            kept += 1;
        }
        head.len = kept as u16;
        if let Some(seam) = seam {
            self.mend_seam(seam + 1);
        }
    }

    /// Puts `new` in the place of `old` if it belongs into the same leaf. `next` is the first key
    /// right of this subtree, `leftmost` whether there is none left of it.
    pub fn update(&mut self, old: &K, new: &K, leftmost: bool, next: Option<&K>) -> Update {
        let i = self.head.child_for(old);
        let leftmost = leftmost && i == 0;
        let next = self.head.keys[..self.head.len()].get(i + 1).or(next);
        let update = match &mut self.kids {
            Kids::Leaves(kids) => leaf_mut(&mut kids[i]).update(old, new, leftmost, next),
            Kids::Inners(kids) => kid_mut(&mut kids[i]).update(old, new, leftmost, next),
        };
        match update {
            Update::Done { first: true } => {
                self.head.keys[i] = with_kids!(&self.kids, kids => kid(&kids[i]).first());
                Update::Done { first: i == 0 }
            }
            other => other,
        }
    }

    /// The leaf and the place in it of the first key for which `before` is false, and its rank. The
    /// place may be the leaf's end.
    pub fn locate(&self, before: &mut impl FnMut(&K) -> bool) -> (&[K], usize, usize) {
        let (mut node, mut rank) = (self, 0);
        loop {
            let head = &node.head;
            let i = head.keys[1..head.len()].partition_point(&mut *before);
            rank += head.count_before(i);
            match &node.kids {
                Kids::Leaves(kids) => {
                    let leaf = kid(&kids[i]);
                    cache::prefetch_all(leaf);
                    let keys = leaf.keys();
                    let at = keys.partition_point(before);
                    return (keys, at, rank + at);
                }
                Kids::Inners(kids) => node = kid(&kids[i]),
            }
        }
    }

    /// Asks the cache for the leaf that [`Inner::locate`] would search.
    pub fn prefetch(&self, before: &mut impl FnMut(&K) -> bool) {
        let mut node = self;
        loop {
            let i = node.head.keys[1..node.head.len()].partition_point(&mut *before);
            match &node.kids {
                Kids::Leaves(kids) => return cache::prefetch_all(kid(&kids[i])),
                Kids::Inners(kids) => node = kid(&kids[i]),
            }
        }
    }

    /// The leaf that holds `rank`, and the place in it.
    pub fn leaf_at(&self, rank: usize) -> (&[K], usize) {
        let (mut node, mut rest) = (self, rank);
        loop {
            let (i, at) = node.head.child_at(rest);
            match &node.kids {
                Kids::Leaves(kids) => return (kid(&kids[i]).keys(), at),
                Kids::Inners(kids) => node = kid(&kids[i]),
            }
            rest = at;
        }
    }

    /// How many leaves and how many inner nodes there are, this one included.
    pub fn nodes(&self) -> (usize, usize) {
        let len = self.head.len();
        match &self.kids {
            Kids::Leaves(_) => (len, 1),
            Kids::Inners(kids) => kids[..len]
                .iter()
                .map(|slot| kid(slot).nodes())
                .fold((0, 1), |sum, nodes| (sum.0 + nodes.0, sum.1 + nodes.1)),
        }
    }
}

impl<K: TreeKey> Node<K> for Inner<K> {
    const CAPACITY: usize = INNER;

    fn len(&self) -> usize {
        self.head.len()
    }

    fn count(&self) -> u32 {
        self.head.counts[..self.head.len()].iter().sum()
    }

    fn first(&self) -> K {
        self.head.keys[0]
    }

    fn last(&self) -> K {
        self.head.keys[self.head.len() - 1]
    }

    fn pull(&mut self, right: &mut Self, n: usize) {
        let (a, b) = (&mut self.head, &mut right.head);
        let (len, right_len) = (a.len(), b.len());
        a.counts[len..len + n].copy_from_slice(&b.counts[..n]);
        a.keys[len..len + n].copy_from_slice(&b.keys[..n]);
        b.counts.copy_within(n..right_len, 0);
        b.keys.copy_within(n..right_len, 0);
        a.len += n as u16;
        b.len -= n as u16;
        fn pull<T>(a: &mut Slots<T>, len: usize, b: &mut Slots<T>, right_len: usize, n: usize) {
            a[len..len + n].swap_with_slice(&mut b[..n]);
            b[..right_len].rotate_left(n);
        }
        match (&mut self.kids, &mut right.kids) {
            (Kids::Leaves(a), Kids::Leaves(b)) => pull(a, len, b, right_len, n),
            (Kids::Inners(a), Kids::Inners(b)) => pull(a, len, b, right_len, n),
            _ => unreachable!("all leaves are at the same depth"),
        }
    }

    fn push(&mut self, right: &mut Self, n: usize) {
        let (a, b) = (&mut self.head, &mut right.head);
        let (len, right_len) = (a.len(), b.len());
        b.counts.copy_within(..right_len, n);
        b.keys.copy_within(..right_len, n);
        b.counts[..n].copy_from_slice(&a.counts[len - n..len]);
        b.keys[..n].copy_from_slice(&a.keys[len - n..len]);
        a.len -= n as u16;
        b.len += n as u16;
        fn push<T>(a: &mut Slots<T>, len: usize, b: &mut Slots<T>, right_len: usize, n: usize) {
            b[..right_len + n].rotate_right(n);
            b[..n].swap_with_slice(&mut a[len - n..len]);
        }
        match (&mut self.kids, &mut right.kids) {
            (Kids::Leaves(a), Kids::Leaves(b)) => push(a, len, b, right_len, n),
            (Kids::Inners(a), Kids::Inners(b)) => push(a, len, b, right_len, n),
            _ => unreachable!("all leaves are at the same depth"),
        }
    }

    fn split_off(&mut self, at: usize) -> Box<Self> {
        let kids = match &self.kids {
            Kids::Leaves(_) => Kids::Leaves([const { None }; INNER]),
            Kids::Inners(_) => Kids::Inners([const { None }; INNER]),
        };
        let mut right = Box::new(Inner { head: Head::new(self.head.keys[0]), kids });
        self.push(&mut right, self.head.len() - at);
        right
    }

    fn mend_seam(&mut self, at: usize) {
        let head = &mut self.head;
        with_kids!(&mut self.kids, kids => {
            fix(head, kids, at);
            fix(head, kids, at - 1);
        });
    }

    #[cfg(test)]
    fn check(&self) -> usize {
        let head = &self.head;
        assert!((1..=INNER).contains(&head.len()));
        let height = with_kids!(&self.kids, kids => {
            assert!(kids[head.len()..].iter().all(Option::is_none));
            let heights: Vec<usize> = kids[..head.len()]
                .iter()
                .enumerate()
                .map(|(i, slot)| {
                    let kid = kid(slot);
                    assert!(kid.count() > 0);
                    assert_eq!(head.counts[i], kid.count());
                    assert!(head.keys[i].cmp(&kid.first()).is_eq());
                    kid.check()
                })
                .collect();
            assert!(heights.windows(2).all(|w| w[0] == w[1]));
            heights[0]
        });
        height + 1
    }
}
