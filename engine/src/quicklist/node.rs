//! One node of a quicklist, and how much it may hold.

use crate::listpack::{Deque, Encoded, Entry, Pos, Slice};
use crate::size_class::size_class;

/// A node as RDB's quicklist holds it.
#[derive(Clone, Copy, Debug)]
pub enum Container<'a> {
    /// An element alone (container 1).
    Plain(&'a [u8]),
    /// A listpack of elements (container 2).
    Packed(&'a Slice),
}

#[derive(Clone)]
pub(super) enum Node {
    /// A listpack and the number of its elements.
    Packed(Deque, u32),
    Plain(Box<[u8]>),
}

const _: () = assert!(size_of::<Node>() == 24);

impl Node {
    /// A packed node of one element.
    pub fn single(element: &Encoded<'_>) -> Node {
        let mut listpack = Deque::new();
        listpack.push_back(*element);
        Node::Packed(listpack, 1)
    }

    /// Takes room at the front until it has as much as `other`, both being packed.
    pub fn make_room_as(&mut self, other: &Node) {
        if let (Node::Packed(listpack, _), Node::Packed(full, _)) = (self, other) {
            let room = full.memory();
            listpack.make_room_in_front(room.saturating_sub(listpack.bytes()), room);
        }
    }

    pub fn container(&self) -> Container<'_> {
        match self {
            Node::Packed(listpack, _) => Container::Packed(listpack),
            Node::Plain(element) => Container::Plain(element),
        }
    }

    pub fn listpack(&self) -> Option<&Slice> {
        match self {
            Node::Packed(listpack, _) => Some(listpack),
            Node::Plain(_) => None,
        }
    }

    pub fn count(&self) -> usize {
        match self {
            Node::Packed(_, count) => *count as usize,
            Node::Plain(_) => 1,
        }
    }

    pub fn memory(&self) -> usize {
        match self {
            Node::Packed(listpack, _) => listpack.memory(),
            Node::Plain(element) => size_class(element.len()),
        }
    }

    pub fn first(&self) -> Entry<'_> {
        self.get(0)
    }

    pub fn last(&self) -> Entry<'_> {
        self.get(self.count() - 1)
    }

    /// The element at `index`, which there is.
    pub fn get(&self, index: usize) -> Entry<'_> {
        match self {
            Node::Packed(listpack, _) => listpack.at(seek(listpack, index)),
            Node::Plain(element) => Entry::Str(element),
        }
    }

    /// The index of the first element that is `text`, or `needle`, which is the same.
    pub fn position(&self, text: &[u8], needle: &Encoded<'_>) -> Option<usize> {
        match self {
            Node::Packed(listpack, _) => {
                let pos = listpack.find(*needle, 0)?;
                Some(listpack.iter_to(pos).count() - 1)
            }
            Node::Plain(element) => (**element == *text).then_some(0),
        }
    }

    /// Appends to a packed node.
    pub fn push_back(&mut self, element: &Encoded<'_>) {
        if let Node::Packed(listpack, count) = self {
            listpack.push_back(*element);
            *count += 1;
        }
    }

    /// Puts an element before the first of a packed node.
    #[inline]
    pub fn push_front(&mut self, element: &Encoded<'_>, limits: &Limits) {
        if let Node::Packed(listpack, count) = self {
            listpack.make_room_in_front(element.size(), limits.bytes);
            listpack.push_front(*element);
            *count += 1;
        }
    }

    /// Gives back what is kept for elements to come at the front.
    pub fn shrink_to_fit(&mut self) {
        if let Node::Packed(listpack, _) = self {
            listpack.shrink_to_fit();
        }
    }

    /// Inserts into a packed node, where `index` is at most its count.
    pub fn insert(&mut self, index: usize, element: &Encoded<'_>) {
        if let Node::Packed(listpack, count) = self {
            match listpack.seek(index as i64) {
                Some(pos) => _ = listpack.insert_before(pos, *element),
                None => listpack.push_back(*element),
            }
            *count += 1;
        }
    }

    /// Removes `n` elements at `index` from a packed node, which keeps some.
    pub fn remove(&mut self, index: usize, n: usize) {
        if let Node::Packed(listpack, count) = self {
            *count -= listpack.remove_range(index as i64, n) as u32;
        }
    }

    /// Removes up to `limit` elements that are `text` (`needle` is the same), the last ones if
    /// `from_tail`, and returns how many. The node can be empty then.
    pub fn remove_equal(
        &mut self,
        text: &[u8],
        needle: &Encoded<'_>,
        limit: usize,
        from_tail: bool,
        places: &mut Vec<Pos>,
    ) -> usize {
        match self {
            Node::Packed(listpack, count) => {
                places.clear();
                let mut found = listpack.find(*needle, 0);
                while let Some(pos) = found {
                    places.push(pos);
                    if !from_tail && places.len() == limit {
                        break;
                    }
                    found =
                        listpack.next(pos).and_then(|next| listpack.find_from(next, *needle, 0));
                }
                let skip = places.len().saturating_sub(limit); // not 0 only from the tail
                let removed = listpack.remove_each(&places[skip..], 1);
                *count -= removed as u32;
                removed
            }
            Node::Plain(element) if **element == *text => {
                *self = Node::Packed(Deque::new(), 0);
                1
            }
            Node::Plain(_) => 0,
        }
    }

    /// Appends `other`, both being packed.
    pub fn append(&mut self, other: &Node) {
        if let (Node::Packed(listpack, count), Node::Packed(more, added)) = (self, other) {
            listpack.append(more);
            *count += added;
        }
    }

    /// Keeps `index` elements and returns the others; of a packed node, which has more.
    pub fn split_off(&mut self, index: usize) -> Option<Node> {
        let Node::Packed(listpack, count) = self else { return None };
        let rest = Node::Packed(listpack.split_off(index).into(), *count - index as u32);
        *count = index as u32;
        Some(rest)
    }
}

fn seek(listpack: &Slice, index: usize) -> Pos {
    listpack.seek(index as i64).expect("a node's count is that of its listpack")
}

/// How much a node may hold.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    bytes: usize,
    count: usize,
}

impl Limits {
    /// What `list-max-listpack-size` says.
    pub fn of_fill(fill: i32) -> Limits {
        let (bytes, count) = match fill {
            ..0 => (2048 << fill.unsigned_abs().min(5), usize::MAX),
            _ => (8192, fill.max(1) as usize),
        };
        Limits { bytes, count }
    }

    /// Whether the element has to be a plain node.
    pub fn too_large(&self, element: &Encoded<'_>) -> bool {
        const EMPTY: usize = 7;
        element.size() + EMPTY > self.bytes
    }

    /// A node of one element.
    pub fn node(&self, element: &Encoded<'_>) -> Node {
        match self.too_large(element) {
            true => Node::Plain(element.text().into()),
            false => Node::single(element),
        }
    }

    /// Whether `element` may come into `node`.
    pub fn admits(&self, node: &Node, element: &Encoded<'_>) -> bool {
        let size = node.listpack().map(Slice::bytes);
        size.is_some_and(|size| size + element.size() <= self.bytes) && node.count() < self.count
    }

    /// Whether an element of `new` bytes may come in place of one of `old` bytes in `node`.
    pub fn admits_instead(&self, node: &Node, old: usize, new: usize) -> bool {
        let size = node.listpack().map(Slice::bytes);
        size.is_some_and(|size| new <= old || size - old + new <= self.bytes)
    }

    /// Whether a packed node may have these bytes and elements.
    #[cfg(test)]
    pub fn bounds(&self, bytes: usize, count: usize) -> bool {
        bytes <= self.bytes && count <= self.count
    }

    /// Whether two nodes may be one.
    pub fn admits_both(&self, a: &Node, b: &Node) -> bool {
        let (Some(x), Some(y)) = (a.listpack(), b.listpack()) else { return false };
        x.bytes() + y.bytes() <= self.bytes && a.count() + b.count() <= self.count
    }
}
