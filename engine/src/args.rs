//! A command's arguments.
//!
//! Arguments stay where the socket's bytes were read to: an argument is a [`Span`] of the read
//! buffer. Only a value large enough to deserve its own allocation is read straight into a `Vec`,
//! which a command then takes as it is: [`Args::take`].

use std::ops::Index;

/// Where one argument lies: `len` bytes at `start` of the buffer, or, with `start ==`
/// [`Span::LARGE`], the `len`-th of the large arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub len: u32,
}

impl Span {
    /// Marks a span that names a large argument instead of a part of the buffer.
    pub const LARGE: u32 = u32::MAX;
}

/// The arguments of one command, its name first.
pub struct Args<'a> {
    buf: &'a [u8],
    spans: &'a [Span],
    large: &'a mut [Vec<u8>],
    raw: Option<&'a [u8]>,
    taken: Vec<Taken>,
}

/// What is known of a large argument after it was taken.
struct Taken {
    arg: usize,
    head: Vec<u8>,
    len: usize,
}

impl<'a> Args<'a> {
    /// The bytes of an argument that can still be shown after it was taken: what Redis's slow log shows.
    pub const HEAD: usize = 128;

    /// Arguments over `buf` and `large`. `raw` is the whole request as it came when those bytes are
    /// already the RESP array that the log wants.
    pub fn new(
        buf: &'a [u8],
        spans: &'a [Span],
        large: &'a mut [Vec<u8>],
        raw: Option<&'a [u8]>,
    ) -> Args<'a> {
        Args { buf, spans, large, raw, taken: Vec::new() }
    }

    /// The number of arguments, the command's name included.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The request's own bytes, if they are the RESP array of exactly these arguments.
    pub fn raw(&self) -> Option<&'a [u8]> {
        self.raw
    }

    /// The argument at `i`, if there is one.
    #[inline]
    pub fn get(&self, i: usize) -> Option<&[u8]> {
        let span = self.spans.get(i)?;
        Some(match span.start {
            Span::LARGE => &self.large[span.len as usize],
            start => &self.buf[start as usize..start as usize + span.len as usize],
        })
    }

    /// The argument at `i` as an allocation of its own: moved if it was large (and empty from then
    /// on), copied if it was not.
    pub fn take(&mut self, i: usize) -> Vec<u8> {
        let span = self.spans[i];
        match span.start {
            Span::LARGE => {
                let whole = std::mem::take(&mut self.large[span.len as usize]);
                let head = whole[..whole.len().min(Self::HEAD)].to_vec();
                self.taken.push(Taken { arg: i, head, len: whole.len() });
                whole
            }
            start => self.buf[start as usize..start as usize + span.len as usize].to_vec(),
        }
    }

    /// The first [`Args::HEAD`] bytes of the argument at `i`, and how many it has or had.
    pub fn head(&self, i: usize) -> (&[u8], usize) {
        match self.taken.iter().find(|taken| taken.arg == i) {
            Some(taken) => (&taken.head, taken.len),
            None => (&self[i][..self[i].len().min(Self::HEAD)], self[i].len()),
        }
    }

    /// All arguments in order, the command's name first.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> + DoubleEndedIterator {
        self.rest(0)
    }

    /// The arguments from the `n`th on, of which there may be none.
    #[inline]
    pub fn rest(&self, n: usize) -> impl ExactSizeIterator<Item = &[u8]> + DoubleEndedIterator {
        (n..self.len()).map(|i| &self[i])
    }

    /// The same arguments from `n` on: `CONFIG GET x` seen as `GET x`.
    pub fn skip(&mut self, n: usize) -> Args<'_> {
        Args::new(self.buf, &self.spans[n..], self.large, None)
    }
}

impl Index<usize> for Args<'_> {
    type Output = [u8];

    #[inline]
    fn index(&self, i: usize) -> &[u8] {
        self.get(i).expect("arity was checked against the command table")
    }
}

/// A command that outlives the buffer it was read into: queued by `MULTI`, held by a pause, or made
/// by the server itself.
#[derive(Clone, Debug, Default)]
pub struct OwnedArgs {
    buf: Vec<u8>,
    spans: Vec<Span>,
    large: Vec<Vec<u8>>,
}

impl OwnedArgs {
    /// A copy of `parts`.
    pub fn new<T: AsRef<[u8]>>(parts: impl IntoIterator<Item = T>) -> OwnedArgs {
        let mut owned = OwnedArgs::default();
        for part in parts {
            owned.push(part.as_ref());
        }
        owned
    }

    /// What `args` holds; its large values move and are empty there from then on.
    pub fn take_from(args: &mut Args<'_>) -> OwnedArgs {
        let mut owned = OwnedArgs::default();
        for i in 0..args.len() {
            if args.spans[i].start == Span::LARGE {
                owned.spans.push(Span { start: Span::LARGE, len: owned.large.len() as u32 });
                owned.large.push(args.take(i));
            } else {
                owned.push(&args[i]);
            }
        }
        owned
    }

    /// Adds an argument.
    pub fn push(&mut self, part: &[u8]) {
        self.spans.push(Span { start: self.buf.len() as u32, len: part.len() as u32 });
        self.buf.extend_from_slice(part);
    }

    /// Forgets all arguments, to be used again.
    pub fn clear(&mut self) {
        self.buf.clear();
        self.spans.clear();
        self.large.clear();
    }

    /// The bytes that these arguments hold.
    pub fn bytes(&self) -> usize {
        self.buf.len() + self.large.iter().map(Vec::len).sum::<usize>()
    }

    pub fn args(&mut self) -> Args<'_> {
        Args::new(&self.buf, &self.spans, &mut self.large, None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_arguments_move_and_small_ones_are_copied() {
        let spans = [Span { start: 0, len: 3 }, Span { start: Span::LARGE, len: 0 }];
        let mut large = vec![vec![7u8; 100_000]];
        let address = large[0].as_ptr();
        let mut args = Args::new(b"SET", &spans, &mut large, None);
        assert_eq!(&args[0], b"SET");
        let mut owned = OwnedArgs::take_from(&mut args);
        assert_eq!(args.head(1), (&[7u8; Args::HEAD][..], 100_000));
        assert_eq!(owned.bytes(), 100_003);
        let value = owned.args().take(1);
        assert_eq!(value.as_ptr(), address, "the large value was copied");
    }
}
