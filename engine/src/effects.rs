//! What commands changed, as the log will say it.
//!
//! A write leaves the engine here and nowhere else. An effect is a command as RESP bytes and the
//! database it applies to. Most writes are their own effect (the request as it came); those whose
//! outcome depends on time or chance say instead what they did: `SPOP` leaves an `SREM`, `EXPIRE` a
//! `PEXPIREAT`, a key that turned out to be expired a `DEL`.

use crate::text::Text;
use std::ops::{Deref, Range};

/// One effect: where its RESP bytes lie, and its database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    pub db: usize,
    range: Range<usize>,
    /// Those of its arguments that are shared.
    shared: Range<usize>,
}

/// A part of a command.
pub enum Part<'a> {
    Bytes(&'a [u8]),
    /// What is not copied.
    Text(&'a Text),
}

impl<'a, T: AsRef<[u8]> + ?Sized> From<&'a T> for Part<'a> {
    fn from(bytes: &'a T) -> Part<'a> {
        Part::Bytes(bytes.as_ref())
    }
}

impl Deref for Part<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Part::Bytes(bytes) => bytes,
            Part::Text(text) => text,
        }
    }
}

/// The effects of what ran since they were last taken, in order.
#[derive(Default)]
pub struct Effects {
    bytes: Vec<u8>,
    /// Shared arguments, and where in `bytes` each belongs.
    shared: Vec<(usize, Text)>,
    ops: Vec<Op>,
}

impl Effects {
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    pub fn len(&self) -> usize {
        self.ops.len()
    }

    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// The RESP bytes of an effect, piece by piece.
    pub fn each_piece(&self, op: &Op, mut piece: impl FnMut(Part<'_>)) {
        let mut at = op.range.start;
        for (place, text) in &self.shared[op.shared.clone()] {
            piece(Part::Bytes(&self.bytes[at..*place]));
            piece(Part::Text(text));
            at = *place;
        }
        piece(Part::Bytes(&self.bytes[at..op.range.end]));
    }

    /// Adds a command made of `parts`.
    pub fn push<'a>(&mut self, db: usize, parts: impl ExactSizeIterator<Item = &'a [u8]>) {
        self.push_parts(db, parts.map(Part::Bytes));
    }

    /// As [`Effects::push`], some of whose parts may be shared.
    pub fn push_parts<'a>(&mut self, db: usize, parts: impl ExactSizeIterator<Item = Part<'a>>) {
        let (start, shared) = (self.bytes.len(), self.shared.len());
        let out = &mut self.bytes;
        let mut itoa = itoa::Buffer::new();
        out.push(b'*');
        out.extend_from_slice(itoa.format(parts.len()).as_bytes());
        out.extend_from_slice(b"\r\n");
        for part in parts {
            out.push(b'$');
            out.extend_from_slice(itoa.format(part.len()).as_bytes());
            out.extend_from_slice(b"\r\n");
            match part {
                Part::Bytes(bytes) => out.extend_from_slice(bytes),
                Part::Text(text) => self.shared.push((out.len(), text.clone())),
            }
            out.extend_from_slice(b"\r\n");
        }
        self.ops.push(Op { db, range: start..self.bytes.len(), shared: shared..self.shared.len() });
    }

    /// Adds a command that is RESP already.
    pub fn push_raw(&mut self, db: usize, resp: &[u8]) {
        let (start, shared) = (self.bytes.len(), self.shared.len());
        self.bytes.extend_from_slice(resp);
        self.ops.push(Op { db, range: start..self.bytes.len(), shared: shared..shared });
    }

    pub fn clear(&mut self) {
        // One huge command or transaction must not pin its size for ever.
        const KEPT: usize = 1 << 20;
        self.ops.clear();
        self.ops.shrink_to(KEPT / size_of::<Op>());
        self.shared.clear();
        self.shared.shrink_to(KEPT / size_of::<(usize, Text)>());
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_parts_stand_where_bytes_would() {
        let long = Text::from(vec![b'x'; crate::text::SHARE]);
        let parts = |shared: bool| {
            let long = || if shared { Part::Text(&long) } else { Part::Bytes(&long) };
            [Part::Bytes(b"MSET"), Part::Bytes(b"a"), long(), Part::Bytes(b"b"), long()].into_iter()
        };
        let mut effects = Effects::default();
        effects.push_parts(0, parts(false));
        effects.push_raw(0, b"*1\r\n$4\r\nPING\r\n");
        effects.push_parts(0, parts(true));
        effects.push(0, [&b"PING"[..]].into_iter());
        let mut whole = vec![Vec::new(); 4];
        for (op, whole) in effects.ops().iter().zip(&mut whole) {
            effects.each_piece(op, |piece| whole.extend_from_slice(&piece));
        }
        assert!(whole[0] == whole[2] && whole[1] == whole[3]);
        assert!(whole[0].starts_with(b"*5\r\n$4\r\nMSET\r\n$1\r\na\r\n$16384\r\nxx"));
        assert!(effects.bytes.len() < 2 * crate::text::SHARE + 500, "the shared ones were copied");
    }
}
