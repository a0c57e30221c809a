//! Changes in the middle of a quicklist: nodes are split to make room and merged when they are
//! small.

use super::Quicklist;
use super::node::Node;
use crate::listpack::Encoded;

impl Quicklist {
    /// Inserts an element before the one at `index`, which is at most `len`: at `index + 1` it comes
    /// after that one.
    pub fn insert<'a>(&mut self, index: usize, element: impl Into<Encoded<'a>>) {
        let element = element.into();
        if index == 0 {
            return self.push_front(element);
        }
        if index >= self.len {
            return self.push_back(element);
        }
        let (at, within) = self.locate(index);
        self.len += 1;
        if self.limits.admits(&self.nodes[at], &element) {
            return self.nodes[at].insert(within, &element);
        }
        // The element comes between two nodes: the one before is `at - 1`, or the front part of `at`.
        let after = match self.nodes[at].split_off_inside(within) {
            Some(rest) => {
                self.nodes.insert(at + 1, rest);
                at + 1
            }
            None => at,
        };
        if self.limits.admits(&self.nodes[after - 1], &element) {
            self.nodes[after - 1].push_back(&element);
        } else if self.limits.admits(&self.nodes[after], &element) {
            self.nodes[after].insert(0, &element);
        } else {
            let node = self.limits.node(&element);
            self.nodes.insert(after, node);
        }
    }

    /// Replaces the element at `index` (-1 being the last), and says whether there is one.
    pub fn set<'a>(&mut self, index: i64, element: impl Into<Encoded<'a>>) -> bool {
        let Some(index) = self.resolve(index) else { return false };
        let element = element.into();
        let (at, within) = self.locate(index);
        let large = self.limits.too_large(&element);
        let old = Encoded::from(self.nodes[at].get(within)).size();
        let fits = !large && self.limits.admits_instead(&self.nodes[at], old, element.size());
        match &mut self.nodes[at] {
            Node::Packed(listpack, _) if fits => {
                if let Some(pos) = listpack.seek(within as i64) {
                    listpack.replace(pos, element);
                }
            }
            Node::Plain(stored) if large => *stored = element.text().into(),
            _ => {
                self.remove_range(index, 1);
                self.insert(index, element);
            }
        }
        true
    }

    /// Removes `n` elements at `within` of a node, and the node if that was all. `len` is the
    /// caller's.
    pub(super) fn remove_in_node(&mut self, at: usize, within: usize, n: usize) {
        if self.nodes[at].count() == n {
            self.nodes.remove(at);
            self.shrink_ring();
        } else {
            self.nodes[at].remove(within, n);
        }
    }

    /// Removes up to `n` elements from `start` on, and returns how many.
    pub fn remove_range(&mut self, start: usize, n: usize) -> usize {
        let n = n.min(self.len.saturating_sub(start));
        if n == 0 {
            return 0;
        }
        let (mut at, within) = self.locate(start);
        let mut left = n;
        if within > 0 {
            let here = left.min(self.nodes[at].count() - within);
            self.nodes[at].remove(within, here);
            left -= here;
            at += 1;
        }
        let mut whole = at;
        while left > 0 && self.nodes[whole].count() <= left {
            left -= self.nodes[whole].count();
            whole += 1;
        }
        if left > 0 {
            self.nodes[whole].remove(0, left);
        }
        self.nodes.drain(at..whole);
        self.len -= n;
        self.merge(at);
        if at > 0 {
            self.merge(at - 1);
        }
        self.shrink_ring();
        n
    }

    /// Merges the node at `at` with the one behind it if they fit.
    fn merge(&mut self, at: usize) {
        if at + 1 < self.nodes.len()
            && self.limits.admits_both(&self.nodes[at], &self.nodes[at + 1])
            && let Some(next) = self.nodes.remove(at + 1)
        {
            self.nodes[at].append(&next);
        }
    }

    /// Keeps up to `n` elements from `start` on, and removes all others.
    pub fn trim(&mut self, start: usize, n: usize) {
        let start = start.min(self.len);
        self.remove_range(start.saturating_add(n), usize::MAX);
        self.remove_range(0, start);
    }

    pub fn clear(&mut self) {
        self.nodes.clear();
        self.len = 0;
    }

    /// Removes the first `count` elements whose text is `text`, the last ones if `count` is
    /// negative, all if it is 0, and returns how many it were.
    pub fn remove_equal(&mut self, text: &[u8], count: i64) -> usize {
        let needle = Encoded::from(text);
        let from_tail = count < 0;
        let limit = if count == 0 { usize::MAX } else { count.unsigned_abs() as usize };
        let (mut removed, mut places) = (0, Vec::new());
        let mut remove_in = |node: &mut Node| {
            let left = limit - removed;
            removed += node.remove_equal(text, &needle, left, from_tail, &mut places);
            removed < limit
        };
        if from_tail {
            self.nodes.iter_mut().rev().all(&mut remove_in);
        } else {
            self.nodes.iter_mut().all(&mut remove_in);
        }
        if removed > 0 {
            self.len -= removed;
            self.compact();
        }
        removed
    }

    /// Drops empty nodes and merges small neighbours, in one pass.
    fn compact(&mut self) {
        let room = self.nodes.len();
        let nodes = std::mem::take(&mut self.nodes);
        self.nodes.reserve(room);
        for node in nodes.into_iter().filter(|node| node.count() > 0) {
            match self.nodes.back_mut() {
                Some(last) if self.limits.admits_both(last, &node) => last.append(&node),
                _ => self.nodes.push_back(node),
            }
        }
        self.shrink_ring();
    }
}

impl Node {
    /// Splits between two elements; at the front there is nothing to split.
    fn split_off_inside(&mut self, index: usize) -> Option<Node> {
        if index == 0 { None } else { self.split_off(index) }
    }
}
