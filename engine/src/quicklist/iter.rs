//! Walking over a quicklist, from any index and in both directions.

use std::iter::FusedIterator;

use super::Quicklist;
use super::node::Node;
use crate::listpack::{self, Entry};

/// The elements of a range. Each end is looked up when it is first asked for.
#[derive(Clone)]
pub struct Iter<'a> {
    list: &'a Quicklist,
    front: usize,
    back: usize,
    ahead: Option<Walk<'a>>,
    behind: Option<Walk<'a>>,
}

/// What is left of the node that one end is in.
#[derive(Clone)]
struct Walk<'a> {
    node: usize,
    rest: Rest<'a>,
}

#[derive(Clone)]
enum Rest<'a> {
    Packed(listpack::Iter<'a>),
    Plain(Option<&'a [u8]>),
}

impl<'a> Iter<'a> {
    /// `front` to `back`, which is not included, both within the list.
    pub(super) fn new(list: &'a Quicklist, front: usize, back: usize) -> Iter<'a> {
        Iter { list, front, back, ahead: None, behind: None }
    }

    #[cold]
    fn next_node(&mut self) {
        let (node, within) = match &self.ahead {
            Some(walk) => (walk.node + 1, 0),
            None => self.list.locate(self.front),
        };
        let rest = match &self.list.nodes[node] {
            Node::Plain(element) => Rest::Plain(Some(element)),
            Node::Packed(listpack, _) => Rest::Packed(match listpack.seek(within as i64) {
                Some(pos) => listpack.iter_from(pos),
                None => listpack.iter(),
            }),
        };
        self.ahead = Some(Walk { node, rest });
    }

    #[cold]
    fn previous_node(&mut self) {
        let (node, within) = match &self.behind {
            Some(walk) => (walk.node - 1, -1),
            None => {
                let (node, within) = self.list.locate(self.back - 1);
                (node, within as i64)
            }
        };
        let rest = match &self.list.nodes[node] {
            Node::Plain(element) => Rest::Plain(Some(element)),
            Node::Packed(listpack, _) => Rest::Packed(match listpack.seek(within) {
                Some(pos) => listpack.iter_to(pos),
                None => listpack.iter(),
            }),
        };
        self.behind = Some(Walk { node, rest });
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = Entry<'a>;

    #[inline]
    fn next(&mut self) -> Option<Entry<'a>> {
        while self.front < self.back {
            let entry = self.ahead.as_mut().and_then(|walk| match &mut walk.rest {
                Rest::Packed(iter) => iter.next(),
                Rest::Plain(element) => element.take().map(Entry::Str),
            });
            if entry.is_some() {
                self.front += 1;
                return entry;
            }
            self.next_node();
        }
        None
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.back - self.front, Some(self.back - self.front))
    }
}

impl<'a> DoubleEndedIterator for Iter<'a> {
    #[inline]
    fn next_back(&mut self) -> Option<Entry<'a>> {
        while self.front < self.back {
            let entry = self.behind.as_mut().and_then(|walk| match &mut walk.rest {
                Rest::Packed(iter) => iter.next_back(),
                Rest::Plain(element) => element.take().map(Entry::Str),
            });
            if entry.is_some() {
                self.back -= 1;
                return entry;
            }
            self.previous_node();
        }
        None
    }
}

impl ExactSizeIterator for Iter<'_> {}
impl FusedIterator for Iter<'_> {}
