//! What commands changed, as the log will say it.
//!
//! A write leaves the engine here and nowhere else. An effect is a command as RESP bytes and the
//! database it applies to. Most writes are their own effect (the request as it came); those whose
//! outcome depends on time or chance say instead what they did: `SPOP` leaves an `SREM`, `EXPIRE` a
//! `PEXPIREAT`, a key that turned out to be expired a `DEL`.

use std::ops::Range;

/// One effect: where its RESP bytes lie, and its database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    pub db: usize,
    pub range: Range<usize>,
}

/// The effects of what ran since they were last taken, in order.
#[derive(Default)]
pub struct Effects {
    bytes: Vec<u8>,
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

    /// The RESP bytes of an effect.
    pub fn bytes(&self, op: &Op) -> &[u8] {
        &self.bytes[op.range.clone()]
    }

    /// Adds a command made of `parts`.
    pub fn push<'a>(&mut self, db: usize, parts: impl ExactSizeIterator<Item = &'a [u8]>) {
        let start = self.bytes.len();
        encode(&mut self.bytes, parts);
        self.ops.push(Op { db, range: start..self.bytes.len() });
    }

    /// Adds a command that is RESP already.
    pub fn push_raw(&mut self, db: usize, resp: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(resp);
        self.ops.push(Op { db, range: start..self.bytes.len() });
    }

    pub fn clear(&mut self) {
        self.ops.clear();
        self.bytes.clear();
        // One huge command must not pin its size for ever.
        if self.bytes.capacity() > 1 << 20 {
            self.bytes = Vec::new();
        }
    }
}

/// Appends a command as a RESP array of bulk strings.
pub fn encode<'a>(out: &mut Vec<u8>, parts: impl ExactSizeIterator<Item = &'a [u8]>) {
    let mut itoa = itoa::Buffer::new();
    out.push(b'*');
    out.extend_from_slice(itoa.format(parts.len()).as_bytes());
    out.extend_from_slice(b"\r\n");
    for part in parts {
        out.push(b'$');
        out.extend_from_slice(itoa.format(part.len()).as_bytes());
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}
