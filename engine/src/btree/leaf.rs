//! A leaf: up to [`LEAF`] keys in order.

use super::TreeKey;
use super::node::{LEAF, Node, Update};

/// Keys are filled in from the left; what is right of `len` are stale copies, never looked at.
pub(super) struct Leaf<K> {
    len: u16,
    entries: [K; LEAF],
}

impl<K: TreeKey> Leaf<K> {
    pub fn new(key: K) -> Box<Leaf<K>> {
        Box::new(Leaf { len: 1, entries: [key; LEAF] })
    }

    pub fn keys(&self) -> &[K] {
        &self.entries[..self.len as usize]
    }

    /// Adds a key behind all others; the leaf must not be full.
    pub fn append(&mut self, key: K) {
        self.entries[self.len as usize] = key;
        self.len += 1;
    }

    /// Where `key` is or would be.
    fn lower_bound(&self, key: &K) -> usize {
        self.keys().partition_point(|k| k.less(key))
    }

    fn find(&self, key: &K) -> Option<usize> {
        let at = self.lower_bound(key);
        self.keys().get(at).is_some_and(|k| k.cmp(key).is_eq()).then_some(at)
    }

    /// Adds `key` unless it is there; the leaf must not be full.
    pub fn insert(&mut self, key: &K) -> bool {
        let at = self.lower_bound(key);
        let len = self.len as usize;
        if at < len {
            if self.entries[at].cmp(key).is_eq() {
                return false;
            }
            self.entries.copy_within(at..len, at + 1);
        }
        self.entries[at] = *key;
        self.len += 1;
        true
    }

    pub fn remove_at(&mut self, at: usize) -> K {
        let key = self.entries[at];
        self.entries.copy_within(at + 1..self.len as usize, at);
        self.len -= 1;
        key
    }

    /// Removes `key`; says whether it was the first, or `None` if it is not here.
    pub fn remove(&mut self, key: &K) -> Option<bool> {
        let at = self.find(key)?;
        self.remove_at(at);
        Some(at == 0)
    }

    pub fn remove_range(&mut self, start: usize, end: usize, f: &mut impl FnMut(K)) {
        self.entries[start..end].iter().for_each(|k| f(*k));
        self.entries.copy_within(end..self.len as usize, start);
        self.len -= (end - start) as u16;
    }

    /// See [`super::inner::Inner::update`].
    pub fn update(&mut self, old: &K, new: &K, leftmost: bool, next: Option<&K>) -> Update {
        let Some(from) = self.find(old) else { return Update::Missing };
        let to = self.lower_bound(new);
        if (to == 0 && !leftmost) || (to == self.len as usize && next.is_some_and(|n| !new.less(n)))
        {
            return Update::Elsewhere;
        }
        if to > from {
            self.entries.copy_within(from + 1..to, from);
            self.entries[to - 1] = *new;
        } else {
            self.entries.copy_within(to..from, to + 1);
            self.entries[to] = *new;
        }
        Update::Done { first: from == 0 || to == 0 }
    }
}

impl<K: TreeKey> Node<K> for Leaf<K> {
    const CAPACITY: usize = LEAF;

    fn len(&self) -> usize {
        self.len as usize
    }

    fn count(&self) -> u32 {
        self.len as u32
    }

    fn first(&self) -> K {
        self.entries[0]
    }

    fn last(&self) -> K {
        self.entries[self.len as usize - 1]
    }

    fn pull(&mut self, right: &mut Self, n: usize) {
        let (len, right_len) = (self.len as usize, right.len as usize);
        self.entries[len..len + n].copy_from_slice(&right.entries[..n]);
        right.entries.copy_within(n..right_len, 0);
        self.len += n as u16;
        right.len -= n as u16;
    }

    fn push(&mut self, right: &mut Self, n: usize) {
        let (len, right_len) = (self.len as usize, right.len as usize);
        right.entries.copy_within(..right_len, n);
        right.entries[..n].copy_from_slice(&self.entries[len - n..len]);
        self.len -= n as u16;
        right.len += n as u16;
    }

    fn split_off(&mut self, at: usize) -> Box<Self> {
        let mut right = Box::new(Leaf { len: 0, entries: [self.entries[0]; LEAF] });
        self.push(&mut right, self.len as usize - at);
        right
    }

    fn mend_seam(&mut self, _at: usize) {}

    #[cfg(test)]
    fn check(&self) -> usize {
        assert!((1..=LEAF).contains(&self.len()));
        0
    }
}
