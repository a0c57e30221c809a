//! Making a listpack of many elements at once: one growing buffer, one exact allocation at the end.

use super::format::{COUNT, COUNT_UNKNOWN, END, Encoded, HEADER};
use super::{Listpack, header};

/// Collects elements for a [`Listpack`]. Can be cleared and used again.
#[derive(Debug)]
pub struct Builder {
    buf: Vec<u8>,
    count: usize,
}

impl Builder {
    /// Room for `bytes` bytes before the buffer grows.
    pub fn with_capacity(bytes: usize) -> Builder {
        let mut buf = Vec::with_capacity(bytes.max(HEADER + 1));
        buf.resize(HEADER, 0);
        Builder { buf, count: 0 }
    }

    pub fn push<'a>(&mut self, element: impl Into<Encoded<'a>>) {
        let element = element.into();
        let at = self.buf.len();
        self.buf.resize(at + element.size(), 0);
        element.write(&mut self.buf[at..]);
        self.count += 1;
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.count
    }

    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The bytes that the listpack will have.
    pub fn bytes(&self) -> usize {
        self.buf.len() + 1
    }

    /// The listpack of what was pushed; the builder is empty again and keeps its buffer.
    pub fn finish(&mut self) -> Listpack {
        self.buf.push(END);
        let head = header(self.buf.len(), self.count.min(COUNT_UNKNOWN));
        self.buf[..HEADER].copy_from_slice(&head);
        let listpack = Listpack::of_whole(&self.buf);
        self.clear();
        listpack
    }

    pub fn clear(&mut self) {
        self.buf.truncate(HEADER);
        self.count = 0;
    }
}

impl Default for Builder {
    fn default() -> Builder {
        Builder::with_capacity(256)
    }
}

const _: () = assert!(COUNT + 2 == HEADER);
