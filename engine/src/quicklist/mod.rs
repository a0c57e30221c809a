//! The quicklist: a list of any length, as a queue of listpacks.
//!
//! A *packed* node is a listpack of as many elements as `list-max-listpack-size` lets it hold; an
//! element that would fill a node alone is a *plain* node of its own bytes. These are the containers
//! of RDB's quicklist, so nodes are saved and loaded as they are. Nodes are kept in one ring of
//! three-word entries with their counts, so finding an index scans memory in order.
//!
//! A node's listpack is a [`Deque`]: what is pushed and taken at the front moves nothing else. The first
//! node, where the pushes come, is given room for them ahead, and gives back what is left when the next
//! one is begun. In a list of several nodes the next one has the room of the last from the start.
//!
//! What always holds: no node is empty, `len` is the sum of the nodes' counts, and an element in a
//! plain node is too large for a packed one.

mod edit;
mod iter;
mod node;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;

pub use iter::Iter;
pub use node::Container;

#[cfg(doc)]
use crate::listpack::Deque;
use crate::listpack::{Encoded, Entry, Listpack};
use crate::size_class::size_class;
use node::{Limits, Node};

/// A list of so many nodes is taken to grow on: what a new one has in room is a small part of it all.
const GROWS: usize = 2;

/// See the module's page.
#[derive(Clone)]
pub struct Quicklist {
    nodes: VecDeque<Node>,
    len: usize,
    limits: Limits,
}

impl Quicklist {
    /// An empty list. `fill` is `list-max-listpack-size`: the elements of a node (which is at most
    /// 8 KiB then), or -1 to -5 for nodes of 4, 8, 16, 32 or 64 KiB.
    pub fn new(fill: i32) -> Quicklist {
        Quicklist { nodes: VecDeque::new(), len: 0, limits: Limits::of_fill(fill) }
    }

    /// A list of `listpack`'s elements.
    pub fn from_listpack(listpack: Listpack, fill: i32) -> Quicklist {
        let mut list = Quicklist::new(fill);
        list.push_node_packed(listpack);
        list
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes allocated, this header included.
    pub fn memory(&self) -> usize {
        let ring = size_class(self.nodes.capacity() * size_of::<Node>());
        size_of::<Quicklist>() + ring + self.nodes.iter().map(Node::memory).sum::<usize>()
    }

    // Nodes, for loading and saving.

    /// The nodes in order, as RDB's quicklist holds them.
    pub fn nodes(&self) -> impl ExactSizeIterator<Item = Container<'_>> + DoubleEndedIterator {
        self.nodes.iter().map(Node::container)
    }

    /// Appends a whole node. An empty one leaves no trace.
    pub fn push_node_packed(&mut self, listpack: Listpack) {
        let count = listpack.len();
        if count > 0 {
            self.len += count;
            self.nodes.push_back(Node::Packed(listpack.into(), count as u32));
        }
    }

    /// Appends an element that was a node of its own.
    pub fn push_node_plain(&mut self, element: Vec<u8>) {
        let node = match self.limits.too_large(&Encoded::from(&element)) {
            true => Node::Plain(element.into()),
            false => Node::single(&Encoded::from(&element)),
        };
        self.len += 1;
        self.nodes.push_back(node);
    }

    /// The bytes that one listpack of all elements would have, if there are so few nodes that the
    /// list may have become small.
    pub fn as_listpack_bytes(&self) -> Option<usize> {
        const EMPTY: usize = 7;
        if self.nodes.len() > 2 {
            return None;
        }
        let sizes = self.nodes.iter().map(|node| Some(node.listpack()?.bytes() - EMPTY));
        sizes.sum::<Option<usize>>().map(|elements| elements + EMPTY)
    }

    /// All elements in one listpack, if [`Quicklist::as_listpack_bytes`] is known.
    pub fn into_listpack(mut self) -> Result<Listpack, Quicklist> {
        if self.as_listpack_bytes().is_none() {
            return Err(self);
        }
        let mut all = Listpack::new();
        for node in self.nodes.drain(..) {
            match node {
                Node::Packed(listpack, _) if all.is_empty() => all = listpack.into(),
                Node::Packed(listpack, _) => all.append(&listpack),
                Node::Plain(_) => unreachable!("plain nodes have no listpack size"),
            }
        }
        Ok(all)
    }

    // The two ends.

    /// Puts an element before the first.
    pub fn push_front<'a>(&mut self, element: impl Into<Encoded<'a>>) {
        let element = element.into();
        self.len += 1;
        if let Some(node) = self.nodes.front_mut()
            && self.limits.admits(node, &element)
        {
            return node.push_front(&element, &self.limits);
        }
        let (mut node, several) = (self.limits.node(&element), self.nodes.len() >= GROWS);
        if let Some(full) = self.nodes.front_mut() {
            full.shrink_to_fit();
            if several {
                node.make_room_as(full);
            }
        }
        self.nodes.push_front(node);
    }

    /// Appends an element.
    pub fn push_back<'a>(&mut self, element: impl Into<Encoded<'a>>) {
        let element = element.into();
        self.len += 1;
        if let Some(node) = self.nodes.back_mut()
            && self.limits.admits(node, &element)
        {
            node.push_back(&element);
            return;
        }
        let node = self.limits.node(&element);
        self.nodes.push_back(node);
    }

    /// [`Quicklist::push_front`] that keeps the allocation of a large element.
    pub fn push_front_vec(&mut self, element: Vec<u8>) {
        if self.limits.too_large(&Encoded::from(&element)) {
            self.len += 1;
            self.nodes.push_front(Node::Plain(element.into()));
        } else {
            self.push_front(&element);
        }
    }

    /// [`Quicklist::push_back`] that keeps the allocation of a large element.
    pub fn push_back_vec(&mut self, element: Vec<u8>) {
        if self.limits.too_large(&Encoded::from(&element)) {
            self.len += 1;
            self.nodes.push_back(Node::Plain(element.into()));
        } else {
            self.push_back(&element);
        }
    }

    pub fn front(&self) -> Option<Entry<'_>> {
        Some(self.nodes.front()?.first())
    }

    pub fn back(&self) -> Option<Entry<'_>> {
        Some(self.nodes.back()?.last())
    }

    /// Removes the first element after showing it to `look`, which can reply with it uncopied.
    pub fn pop_front_with<R>(&mut self, look: impl FnOnce(Entry<'_>) -> R) -> Option<R> {
        let seen = look(self.front()?);
        self.len -= 1;
        self.remove_in_node(0, 0, 1);
        Some(seen)
    }

    /// Removes the last element after showing it to `look`.
    pub fn pop_back_with<R>(&mut self, look: impl FnOnce(Entry<'_>) -> R) -> Option<R> {
        let seen = look(self.back()?);
        self.len -= 1;
        let last = self.nodes.len() - 1;
        self.remove_in_node(last, self.nodes[last].count() - 1, 1);
        Some(seen)
    }

    pub fn pop_front(&mut self) -> Option<Vec<u8>> {
        self.pop_front_with(|entry| entry.to_vec())
    }

    pub fn pop_back(&mut self) -> Option<Vec<u8>> {
        self.pop_back_with(|entry| entry.to_vec())
    }

    /// Gives back what the ring has from when there were far more nodes. It keeps room for as many again, so
    /// that a list that swings does not move it each time.
    fn shrink_ring(&mut self) {
        const KEPT: usize = 64;
        if self.nodes.capacity() > KEPT && self.nodes.len() < self.nodes.capacity() / 4 {
            self.nodes.shrink_to(2 * self.nodes.len());
        }
    }

    // Finding.

    /// `index` as a place from the front, if there is an element; -1 is the last.
    pub fn resolve(&self, index: i64) -> Option<usize> {
        let index = if index < 0 { index.checked_add(self.len as i64)? } else { index };
        usize::try_from(index).ok().filter(|&index| index < self.len)
    }

    /// The node that the element at `index` (less than `len`) is in, and its index there.
    fn locate(&self, index: usize) -> (usize, usize) {
        if index < self.len / 2 {
            let mut left = index;
            for (at, node) in self.nodes.iter().enumerate() {
                if left < node.count() {
                    return (at, left);
                }
                left -= node.count();
            }
        } else {
            let mut left = self.len - index;
            for (at, node) in self.nodes.iter().enumerate().rev() {
                if left <= node.count() {
                    return (at, node.count() - left);
                }
                left -= node.count();
            }
        }
        unreachable!("the length is the sum of the nodes' counts, and callers checked the index")
    }

    /// The element at `index`, -1 being the last.
    pub fn get(&self, index: i64) -> Option<Entry<'_>> {
        let (at, within) = self.locate(self.resolve(index)?);
        Some(self.nodes[at].get(within))
    }

    /// The index of the first element whose text is `text`.
    pub fn position(&self, text: &[u8]) -> Option<usize> {
        let needle = Encoded::from(text);
        let mut before = 0;
        for node in &self.nodes {
            if let Some(within) = node.position(text, &needle) {
                return Some(before + within);
            }
            before += node.count();
        }
        None
    }

    pub fn iter(&self) -> Iter<'_> {
        self.range(0, self.len)
    }

    /// Up to `n` elements from `start` on. `range(0, i + 1).rev()` walks back from `i`.
    pub fn range(&self, start: usize, n: usize) -> Iter<'_> {
        let start = start.min(self.len);
        Iter::new(self, start, start.saturating_add(n).min(self.len))
    }
}

impl PartialEq for Quicklist {
    fn eq(&self, other: &Quicklist) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl Eq for Quicklist {}

impl fmt::Debug for Quicklist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> IntoIterator for &'a Quicklist {
    type Item = Entry<'a>;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}
