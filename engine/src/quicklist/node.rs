//! One node of a quicklist, and how much it may hold.

use crate::listpack::{Encoded, Entry, Listpack, Pos};

/// A node as RDB's quicklist holds it.
#[derive(Clone, Copy, Debug)]
pub enum Container<'a> {
    /// An element alone (container 1).
    Plain(&'a [u8]),
    /// A listpack of elements (container 2).
    Packed(&'a Listpack),
}

#[derive(Clone)]
pub(super) enum Node {
    /// A listpack and the number of its elements.
    Packed(Listpack, u32),
    Plain(Vec<u8>),
}

const _: () = assert!(size_of::<Node>() == 24);

impl Node {
    /// A packed node of one element.
    pub fn single(element: &Encoded<'_>) -> Node {
        let mut listpack = Listpack::new();
        listpack.push_back(*element);
        Node::Packed(listpack, 1)
    }

    pub fn container(&self) -> Container<'_> {
        match self {
            Node::Packed(listpack, _) => Container::Packed(listpack),
            Node::Plain(element) => Container::Plain(element),
        }
    }

    pub fn listpack(&self) -> Option<&Listpack> {
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
            Node::Plain(element) => element.capacity(),
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
            Node::Plain(element) => (element == text).then_some(0),
        }
    }

    /// Appends to a packed node.
    pub fn push_back(&mut self, element: &Encoded<'_>) {
        if let Node::Packed(listpack, count) = self {
            listpack.push_back(*element);
            *count += 1;
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
            Node::Plain(element) if element == text => {
                *self = Node::Packed(Listpack::new(), 0);
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

    /// Puts `other` before the first element, both being packed.
    pub fn prepend(&mut self, other: &Node) {
        if let (Node::Packed(listpack, count), Node::Packed(more, added)) = (self, other) {
            listpack.prepend(more);
            *count += added;
        }
    }

    /// Keeps `index` elements and returns the others; of a packed node, which has more.
    pub fn split_off(&mut self, index: usize) -> Option<Node> {
        let Node::Packed(listpack, count) = self else { return None };
        let rest = Node::Packed(listpack.split_off(index), *count - index as u32);
        *count = index as u32;
        Some(rest)
    }
}

fn seek(listpack: &Listpack, index: usize) -> Pos {
    listpack.seek(index as i64).expect("a node's count is that of its listpack")
}

/// How much a node may hold, and how much a short node at the head.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    bytes: usize,
    count: usize,
    short_bytes: usize,
    short_count: usize,
}

impl Limits {
    /// What `list-max-listpack-size` says.
    pub fn of_fill(fill: i32) -> Limits {
        let (bytes, count) = match fill {
            ..0 => (2048 << fill.unsigned_abs().min(5), usize::MAX),
            _ => (8192, fill.max(1) as usize),
        };
        // Below this many elements a node is short as it is.
        let short_count = if count < 64 { count } else { count / 8 };
        Limits { bytes, count, short_bytes: (bytes / 8).min(1024), short_count }
    }

    /// Whether the element has to be a plain node.
    pub fn too_large(&self, element: &Encoded<'_>) -> bool {
        const EMPTY: usize = 7;
        element.size() + EMPTY > self.bytes
    }

    /// A node of one element.
    pub fn node(&self, element: &Encoded<'_>) -> Node {
        match self.too_large(element) {
            true => Node::Plain(element.text().to_vec()),
            false => Node::single(element),
        }
    }

    /// Whether `element` may come into `node`.
    pub fn admits(&self, node: &Node, element: &Encoded<'_>) -> bool {
        let size = node.listpack().map(Listpack::bytes);
        size.is_some_and(|size| size + element.size() <= self.bytes) && node.count() < self.count
    }

    /// Whether an element of `new` bytes may come in place of one of `old` bytes in `node`.
    pub fn admits_instead(&self, node: &Node, old: usize, new: usize) -> bool {
        let size = node.listpack().map(Listpack::bytes);
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

    /// Whether a short node may have these bytes and elements.
    pub fn short_admits(&self, bytes: usize, count: usize) -> bool {
        bytes <= self.short_bytes && count <= self.short_count
    }

    /// Cuts a short node off the front of a long one.
    pub fn cut_short(&self, node: &mut Node) -> Option<Node> {
        let Node::Packed(listpack, count) = node else { return None };
        if listpack.bytes() < 2 * self.short_bytes {
            return None;
        }
        let mut bytes = 0;
        let enough = |entry: Entry<'_>| {
            bytes += Encoded::from(entry).size();
            bytes > self.short_bytes
        };
        let cut = listpack.iter().position(enough).unwrap_or(0);
        if cut < 2 {
            return None;
        }
        let rest = Node::Packed(listpack.split_off(cut), *count - cut as u32);
        *count = cut as u32;
        Some(std::mem::replace(node, rest))
    }
}
