//! Replies, written where they will be sent from.
//!
//! A [`Reply`] is a connection's output: a queue of byte chunks that the event loop hands to
//! `writev`. Commands append to the last chunk; a value too large to be worth moving again gets a
//! chunk of its own, and bytes that others own (a block of the log, a mapped file) are queued by
//! reference.

use crate::Error;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// A chunk this full is closed and a new one begun, so that no append moves more than this.
const CHUNK: usize = 64 * 1024;

/// Bytes that someone else owns and several readers share.
pub type SharedBytes = Arc<dyn AsRef<[u8]> + Send + Sync>;

enum Chunk {
    Owned(Vec<u8>),
    Shared(SharedBytes, Range<usize>),
    /// Of a key's value.
    Text(Arc<Vec<u8>>, Range<usize>),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Chunk::Owned(v) => v,
            Chunk::Shared(b, r) => &(**b).as_ref()[r.clone()],
            Chunk::Text(b, r) => &b[r.clone()],
        }
    }

    /// Allocated bytes. Of a value, all who hold it have an equal share: its key may let go of it at any time.
    fn memory(&self) -> usize {
        match self {
            Chunk::Owned(bytes) => bytes.capacity(),
            Chunk::Text(bytes, _) => bytes.capacity() / Arc::strong_count(bytes),
            Chunk::Shared(..) => 0,
        }
    }
}

/// A connection's output queue, and the writer of RESP into it.
#[derive(Default)]
pub struct Reply {
    closed: VecDeque<Chunk>,
    closed_bytes: usize,
    last: Vec<u8>,
    /// How much of the first chunk the socket has already taken.
    sent: usize,
    /// Whether the client asked for RESP 3 with `HELLO 3`.
    pub resp3: bool,
    /// While set, nothing is kept: `CLIENT REPLY OFF` and `SKIP`, and commands from the log.
    pub muted: bool,
    /// While more than this waits, a command's reply is cut: one command could ask for any amount. 0 is no limit.
    pub limit: usize,
    /// Whether something was cut: what follows makes no sense to the client, which is to be closed.
    pub cut: bool,
}

/// A place where an aggregate's header is still to be written: [`Reply::deferred`].
#[must_use]
pub struct Deferred {
    chunk: usize,
}

impl Reply {
    pub fn new() -> Reply {
        Reply::default()
    }

    /// An empty reply in the protocol of this one, to be [`Reply::append`]ed to it.
    pub fn alike(&self) -> Reply {
        Reply { resp3: self.resp3, ..Reply::default() }
    }

    /// A reply that keeps nothing.
    pub fn muted() -> Reply {
        Reply { muted: true, ..Reply::default() }
    }

    /// Bytes that wait to be sent.
    pub fn len(&self) -> usize {
        self.closed_bytes + self.last.len() - self.sent
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Memory held by the queue: of values its share, of other shared bytes nothing.
    pub fn memory(&self) -> usize {
        self.last.capacity() + self.closed.iter().map(Chunk::memory).sum::<usize>()
    }

    fn close_last(&mut self) {
        if !self.last.is_empty() {
            self.closed_bytes += self.last.len();
            self.closed.push_back(Chunk::Owned(std::mem::take(&mut self.last)));
            if self.limit > 0 && self.len() > self.limit {
                (self.cut, self.muted) = (true, true);
            }
        }
    }

    /// Bytes that are RESP already.
    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) {
        if self.muted {
            return;
        }
        if self.last.len() + bytes.len() > CHUNK && !self.last.is_empty() {
            self.close_last();
        }
        self.last.extend_from_slice(bytes);
    }

    /// Bytes that someone else owns; they are sent from where they are.
    pub fn shared(&mut self, bytes: SharedBytes, range: Range<usize>) {
        self.push_chunk(Chunk::Shared(bytes, range));
    }

    fn push_chunk(&mut self, chunk: Chunk) {
        let len = chunk.bytes().len();
        if self.muted || len == 0 {
            return;
        }
        self.close_last();
        self.closed_bytes += len;
        self.closed.push_back(chunk);
    }

    fn header(&mut self, kind: u8, n: i64) {
        let mut itoa = itoa::Buffer::new();
        let digits = itoa.format(n).as_bytes();
        let mut line = [0u8; 24];
        line[0] = kind;
        line[1..=digits.len()].copy_from_slice(digits);
        line[digits.len() + 1] = b'\r';
        line[digits.len() + 2] = b'\n';
        self.raw(&line[..digits.len() + 3]);
    }

    pub fn ok(&mut self) {
        self.raw(b"+OK\r\n");
    }

    /// A simple string: no CR or LF in it.
    pub fn simple(&mut self, text: &str) {
        self.raw(b"+");
        self.raw(text.as_bytes());
        self.raw(b"\r\n");
    }

    /// An error reply. Line breaks become spaces, as they would end the line.
    pub fn error(&mut self, error: &Error) {
        self.raw(b"-");
        for (i, line) in error.0.split(|b| matches!(b, b'\r' | b'\n')).enumerate() {
            if i > 0 {
                self.raw(b" ");
            }
            self.raw(line);
        }
        self.raw(b"\r\n");
    }

    #[inline]
    pub fn int(&mut self, n: i64) {
        match n {
            0 => self.raw(b":0\r\n"),
            1 => self.raw(b":1\r\n"),
            _ => self.header(b':', n),
        }
    }

    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        if self.muted {
            return;
        }
        self.header(b'$', bytes.len() as i64);
        if bytes.len() > CHUNK {
            // Its own chunk at its exact size, the ending included: it is copied once and never moved.
            self.close_last();
            let mut own = Vec::with_capacity(bytes.len() + 2);
            own.extend_from_slice(bytes);
            own.extend_from_slice(b"\r\n");
            self.last = own;
            self.close_last();
        } else {
            self.raw(bytes);
            self.raw(b"\r\n");
        }
    }

    /// A part of a key's value as a bulk string, sent from where it is.
    pub fn bulk_shared(&mut self, bytes: Arc<Vec<u8>>, range: Range<usize>) {
        self.header(b'$', range.len() as i64);
        self.push_chunk(Chunk::Text(bytes, range));
        self.raw(b"\r\n");
    }

    /// A bulk string that nobody else needs: a large one is not copied.
    pub fn bulk_vec(&mut self, bytes: Vec<u8>) {
        match bytes.len() <= CHUNK {
            true => self.bulk(&bytes),
            false => {
                let all = 0..bytes.len();
                self.bulk_shared(Arc::new(bytes), all);
            }
        }
    }

    /// An integer as a bulk string.
    pub fn bulk_int(&mut self, n: i64) {
        self.bulk(itoa::Buffer::new().format(n).as_bytes());
    }

    /// Nothing, where a single value was asked for.
    pub fn null(&mut self) {
        self.raw(if self.resp3 { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// Nothing, where an array was asked for.
    pub fn null_array(&mut self) {
        self.raw(if self.resp3 { b"_\r\n" } else { b"*-1\r\n" });
    }

    /// The header of an array of `n`; the elements follow.
    pub fn array(&mut self, n: usize) {
        self.header(b'*', n as i64);
    }

    /// The header of a map of `pairs`; keys and values follow in turn. A flat array in RESP 2.
    pub fn map(&mut self, pairs: usize) {
        match self.resp3 {
            true => self.header(b'%', pairs as i64),
            false => self.header(b'*', pairs as i64 * 2),
        }
    }

    /// The header of a set of `n`. An array in RESP 2.
    pub fn set(&mut self, n: usize) {
        self.header(if self.resp3 { b'~' } else { b'*' }, n as i64);
    }

    /// The header of a push message of `n`. An array in RESP 2.
    pub fn push(&mut self, n: usize) {
        self.header(if self.resp3 { b'>' } else { b'*' }, n as i64);
    }

    pub fn bool(&mut self, b: bool) {
        match (self.resp3, b) {
            (true, true) => self.raw(b"#t\r\n"),
            (true, false) => self.raw(b"#f\r\n"),
            (false, b) => self.int(b as i64),
        }
    }

    /// A double: `,1.5` in RESP 3, a bulk string in RESP 2, in the shortest digits that read back
    /// to the same number.
    pub fn double(&mut self, d: f64) {
        let mut room = crate::num::DoubleText::new();
        let text = room.format(d);
        if self.resp3 {
            self.raw(b",");
            self.raw(text);
            self.raw(b"\r\n");
        } else {
            self.bulk(text);
        }
    }

    /// Text for a person, `kind` being `txt` or `mkd`. A bulk string in RESP 2.
    pub fn verbatim(&mut self, kind: &str, text: &[u8]) {
        if !self.resp3 {
            return self.bulk(text);
        }
        self.header(b'=', text.len() as i64 + 4);
        self.raw(kind.as_bytes());
        self.raw(b":");
        self.raw(text);
        self.raw(b"\r\n");
    }

    /// What `<command> HELP` answers: a line of usage, `lines`, and the line for `HELP` itself.
    pub fn help(&mut self, command: &str, lines: &[&str]) {
        self.array(lines.len() + 3);
        self.simple(&format!("{command} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"));
        for line in lines {
            self.simple(line);
        }
        self.simple("HELP");
        self.simple("    Prints this help.");
    }

    /// Leaves room for an aggregate's header whose count is not known yet. Write the elements, then
    /// the header with [`Reply::end_array`] or its like. Deferred headers nest.
    pub fn deferred(&mut self) -> Deferred {
        if self.muted {
            return Deferred { chunk: 0 };
        }
        // The header will be appended to the chunk that ends here, so nothing moves.
        self.closed_bytes += self.last.len();
        self.closed.push_back(Chunk::Owned(std::mem::take(&mut self.last)));
        Deferred { chunk: self.closed.len() - 1 }
    }

    fn end_deferred(&mut self, place: Deferred, kind: u8, n: usize) {
        if self.muted {
            return;
        }
        if let Some(Chunk::Owned(v)) = self.closed.get_mut(place.chunk) {
            let before = v.len();
            v.push(kind);
            v.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
            v.extend_from_slice(b"\r\n");
            self.closed_bytes += v.len() - before;
        }
    }

    pub fn end_array(&mut self, place: Deferred, n: usize) {
        self.end_deferred(place, b'*', n);
    }

    pub fn end_set(&mut self, place: Deferred, n: usize) {
        let kind = if self.resp3 { b'~' } else { b'*' };
        self.end_deferred(place, kind, n);
    }

    pub fn end_map(&mut self, place: Deferred, pairs: usize) {
        match self.resp3 {
            true => self.end_deferred(place, b'%', pairs),
            false => self.end_deferred(place, b'*', pairs * 2),
        }
    }

    /// Moves all that `other` holds to the end of this queue.
    pub fn append(&mut self, other: &mut Reply) {
        if self.muted {
            other.clear();
            return;
        }
        debug_assert_eq!(other.sent, 0);
        if other.closed.is_empty() {
            self.raw(&other.last);
        } else {
            self.close_last();
            self.closed_bytes += other.closed_bytes;
            self.closed.append(&mut other.closed);
            self.last = std::mem::take(&mut other.last);
        }
        other.clear();
    }

    pub fn clear(&mut self) {
        self.closed.clear();
        self.closed_bytes = 0;
        self.last.clear();
        self.sent = 0;
    }

    /// The chunks that wait, first to last, for `writev`; at most `max` of them.
    pub fn slices<'a>(&'a self, max: usize, mut each: impl FnMut(&'a [u8])) {
        let mut skip = self.sent;
        let chunks = self.closed.iter().map(Chunk::bytes).chain(std::iter::once(&self.last[..]));
        for bytes in chunks.take(max) {
            if bytes.len() > skip {
                each(&bytes[skip..]);
            }
            skip = skip.saturating_sub(bytes.len());
        }
    }

    /// The socket took `n` bytes.
    pub fn advance(&mut self, n: usize) {
        self.sent += n;
        while let Some(first) = self.closed.front() {
            let len = first.bytes().len();
            if self.sent < len {
                return;
            }
            self.sent -= len;
            self.closed_bytes -= len;
            self.closed.pop_front();
        }
        if self.sent == self.last.len() {
            self.last.clear();
            self.sent = 0;
            if self.last.capacity() > CHUNK {
                self.last = Vec::new();
            }
        }
    }

    /// All that waits, as one vector: for tests and for replies that go elsewhere than a socket.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len());
        self.slices(usize::MAX, |s| all.extend_from_slice(s));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deferred_header_lands_before_its_elements() {
        let mut r = Reply::new();
        r.ok();
        let outer = r.deferred();
        r.int(1);
        let inner = r.deferred();
        r.bulk(b"x");
        r.end_array(inner, 1);
        r.end_array(outer, 2);
        assert_eq!(r.to_vec(), b"+OK\r\n*2\r\n:1\r\n*1\r\n$1\r\nx\r\n");
        assert_eq!(r.len(), r.to_vec().len());
    }

    #[test]
    fn a_bulk_given_away_is_sent_as_one_that_is_lent() {
        for len in [0, 5, CHUNK, CHUNK + 1, 200_000] {
            let (mut given, mut lent) = (Reply::new(), Reply::new());
            for _ in 0..2 {
                given.bulk_vec(vec![b'x'; len]);
                lent.bulk(&vec![b'x'; len]);
            }
            assert_eq!(given.to_vec(), lent.to_vec());
            assert_eq!(given.len(), lent.len());
        }
        let mut muted = Reply::muted();
        muted.bulk_vec(vec![b'x'; 200_000]);
        assert!(muted.is_empty());
    }

    #[test]
    fn what_is_sent_in_any_pieces_is_what_was_written() {
        for step in [1, 2, 3, 1000, 65_536, 1 << 20] {
            let mut r = Reply::new();
            r.bulk(&vec![b'a'; 200_000]);
            r.shared(Arc::new(b"0123456789".to_vec()), 2..5);
            r.simple("end");
            let want = r.to_vec();
            let mut got = Vec::new();
            while !r.is_empty() {
                let mut first: &[u8] = &[];
                r.slices(2, |s| {
                    if first.is_empty() {
                        first = s
                    }
                });
                let n = first.len().min(step);
                got.extend_from_slice(&first[..n]);
                r.advance(n);
            }
            assert_eq!(got, want);
        }
    }
}
