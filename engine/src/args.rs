//! A command's arguments.
//!
//! Arguments stay where the socket's bytes were read to: an argument is a [`Span`] of the read
//! buffer. Only a value large enough to deserve its own allocation is read straight into one, which
//! the command's key then shares: [`Args::text`].

use crate::effects::Part;
use crate::resp::request::LARGE;
use crate::text::Text;
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
    large: &'a [Text],
    raw: Option<&'a [u8]>,
    said: Option<&'a [u8]>,
}

impl<'a> Args<'a> {
    /// Arguments over `buf` and `large`. `raw` is the whole request as it came when those bytes are
    /// already the RESP array that the log wants.
    pub fn new(
        buf: &'a [u8],
        spans: &'a [Span],
        large: &'a [Text],
        raw: Option<&'a [u8]>,
    ) -> Args<'a> {
        Args { buf, spans, large, raw, said: None }
    }

    /// The command's name as the client said it.
    pub fn said(&self) -> &[u8] {
        self.said.unwrap_or(&self[0])
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

    /// The argument at `i` as a text of its own, which is no copy if it is long and was read as one.
    pub fn text(&self, i: usize) -> Text {
        match self.spans[i] {
            Span { start: Span::LARGE, len } => self.large[len as usize].clone(),
            _ => self[i].to_vec().into(),
        }
    }

    /// The argument at `i` as a part of an effect.
    pub fn part(&self, i: usize) -> Part<'_> {
        match self.spans[i] {
            Span { start: Span::LARGE, len } => Part::Text(&self.large[len as usize]),
            _ => Part::Bytes(&self[i]),
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
    pub fn skip(&self, n: usize) -> Args<'_> {
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
    large: Vec<Text>,
    /// What the client said, where that is another name than the command's own.
    said: Option<Box<[u8]>>,
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

    /// What `args` holds, with its large values.
    pub fn keep(args: &Args<'_>) -> OwnedArgs {
        let said = args.said.map(Box::from);
        let mut owned = OwnedArgs { said, ..OwnedArgs::default() };
        owned.keep_rest(args, 0);
        owned
    }

    /// As [`OwnedArgs::keep`], with another name than the one that was said.
    pub fn keep_as(name: &str, args: &Args<'_>) -> OwnedArgs {
        let mut owned = OwnedArgs::new([name]);
        owned.said = Some(args[0].into());
        owned.keep_rest(args, 1);
        owned
    }

    fn keep_rest(&mut self, args: &Args<'_>, n: usize) {
        for i in n..args.len() {
            if args.spans[i].start == Span::LARGE {
                self.push_large(args.text(i));
            } else {
                self.push(&args[i]);
            }
        }
    }

    /// Adds an argument. A large one has memory of its own, which the command can keep.
    pub fn push(&mut self, part: &[u8]) {
        if part.len() >= LARGE {
            return self.push_large(part.to_vec().into());
        }
        self.spans.push(Span { start: self.buf.len() as u32, len: part.len() as u32 });
        self.buf.extend_from_slice(part);
    }

    fn push_large(&mut self, part: Text) {
        self.spans.push(Span { start: Span::LARGE, len: self.large.len() as u32 });
        self.large.push(part);
    }

    /// Forgets all arguments, to be used again; the room of a long list or a large value is given back.
    pub fn clear(&mut self) {
        const KEPT: usize = 64 << 10;
        self.buf.clear();
        self.buf.shrink_to(KEPT);
        self.spans.clear();
        self.spans.shrink_to(KEPT / size_of::<Span>());
        self.large.clear();
        self.said = None;
    }

    /// Bytes of memory that these arguments hold, themselves apart.
    pub fn memory(&self) -> usize {
        self.buf.capacity()
            + self.spans.capacity() * size_of::<Span>()
            + self.large.capacity() * size_of::<Text>()
            + self.large.iter().map(Text::capacity).sum::<usize>()
            + self.said.as_ref().map_or(0, |said| said.len())
    }

    pub fn args(&self) -> Args<'_> {
        let said = self.said.as_deref();
        Args { said, ..Args::new(&self.buf, &self.spans, &self.large, None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_arguments_are_shared_and_small_ones_are_copied() {
        let spans = [Span { start: 0, len: 3 }, Span { start: Span::LARGE, len: 0 }];
        let large = [Text::from(vec![7u8; 100_000])];
        let args = Args::new(b"SET", &spans, &large, None);
        assert_eq!(&args[0], b"SET");
        let owned = OwnedArgs::keep(&args);
        let besides = owned.memory() - large[0].capacity();
        assert!((3..300).contains(&besides), "{besides} bytes besides the large value");
        assert_eq!(args[1].len(), 100_000);
        let value = owned.args().text(1);
        assert_eq!(value.as_ptr(), large[0].as_ptr(), "the large value was copied");
        let owned = OwnedArgs::new([&b"SET"[..], &value]);
        let first = owned.args().text(1);
        assert_eq!(first.as_ptr(), owned.args().text(1).as_ptr(), "it has no memory of its own");
        assert_eq!(&owned.args()[1], &value[..]);
    }
}
