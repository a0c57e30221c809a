//! Requests, found in the bytes as they arrive.
//!
//! A `Framer` walks over one request, a multibulk (`*2\r\n$3\r\nGET\r\n…`) or an inline command,
//! and marks its arguments as [`Span`]s; nothing is copied. It remembers where it stands, so a
//! request that arrives a byte at a time is still read once. [`Input`] is a connection's read side:
//! the buffer, the framer, and the queue of complete requests. [`Frame`] is the same framer over
//! bytes that lie in memory already: a log segment, a primary's stream.
//!
//! What the memory is bounded by is what came in, never what was announced: a peer that promises
//! 512 MB has to send them. A bulk of [`LARGE`] bytes or more that has not arrived in full gets a
//! `Vec` of its own, which the socket is read straight into and which a command can keep.
//!
//! A span counts from the start of its request, so the buffer can move under requests that wait.

use crate::Error;
use crate::args::{Args, Span};
use crate::num::parse_int;
use crate::text::Text;
use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Range;

/// From this size on, a bulk that has not fully arrived is read into its own allocation.
pub const LARGE: usize = 32 * 1024;
/// The capacity of a fresh read buffer.
pub const READ: usize = 64 * 1024;
/// Less free space than this is not worth a read.
const MIN_READ: usize = 4 * 1024;
/// Memory for so many times what has come of a large argument is reserved at once: a length that was announced is
/// not believed, and little is moved again.
const LARGE_STEP: usize = 4;
/// The longest inline request, and the longest line that announces a length.
const LINE_MAX: usize = 64 * 1024;
/// The bytes that [`short_line`] looks at together.
const WORD: usize = size_of::<u64>();
/// What a client may send before it has authenticated.
const UNAUTHENTICATED_ARGS: usize = 10;
const UNAUTHENTICATED_BULK: i64 = 16384;

/// What a peer may send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest bulk: `proto-max-bulk-len`.
    pub bulk_max: usize,
    /// The most arguments: Redis 7 takes up to `i32::MAX`.
    pub args_max: usize,
    /// Whether the peer may send more than what it takes to authenticate. While it may not,
    /// requests are parsed one at a time, as the next one's limits depend on the one before.
    pub authenticated: bool,
    /// How many requests are parsed ahead.
    pub batch: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            bulk_max: 512 * 1024 * 1024,
            args_max: i32::MAX as usize,
            authenticated: true,
            batch: 1024,
        }
    }
}

/// Bytes that are no request. Displays as Redis says it; the connection can only be closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProtocolError(Wrong);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wrong {
    Text(&'static str),
    /// Instead of the `$` of a bulk string.
    NoBulk(u8),
}

impl fmt::Display for ProtocolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Wrong::Text(text) => write!(f, "Protocol error: {text}"),
            Wrong::NoBulk(byte) => {
                write!(f, "Protocol error: expected '$', got '{}'", byte as char)
            }
        }
    }
}

impl From<&ProtocolError> for Error {
    fn from(error: &ProtocolError) -> Error {
        match error.0 {
            Wrong::Text(_) => Error::err(error),
            Wrong::NoBulk(byte) => {
                Error::quoting("Protocol error: expected '$', got '", &[byte], "'")
            }
        }
    }
}

impl std::error::Error for ProtocolError {}

fn fail<T>(text: &'static str) -> Result<T, ProtocolError> {
    Err(ProtocolError(Wrong::Text(text)))
}

/// What the framer came to.
enum Step {
    /// The end of the bytes.
    More,
    /// The end of something that asks for nothing: an empty line, `*0`.
    Skip,
    /// The end of a request.
    Request,
    /// The body of a large bulk of this length, which is not all there.
    Large(usize),
}

/// A line that announces a number.
enum Line {
    More,
    /// The number, if it is one, and where the line ends.
    Number(Option<i64>, usize),
}

/// Where in a request the parser stands. Positions count from the request's start.
#[derive(Default)]
struct Framer {
    /// All before this is parsed.
    pos: usize,
    /// No line ends between `pos` and this.
    scanned: usize,
    args_left: usize,
    /// The length of the bulk whose body is at `pos`.
    body: Option<usize>,
    /// That body went into an allocation of its own; its line end is at `pos`.
    diverted: bool,
    /// The bytes are not the one canonical multibulk of these arguments.
    odd: bool,
}

impl Framer {
    /// Goes on with the request that begins at `buf[0]`. With `divert`, stops at a large bulk that
    /// is not complete. The first `large_before` of `large` are those of requests before this one.
    /// After an error nothing has moved: the same bytes give the same error.
    fn step(
        &mut self,
        buf: &[u8],
        limits: &Limits,
        spans: &mut Vec<Span>,
        (large, large_before): (&mut Vec<Text>, usize),
        divert: bool,
    ) -> Result<Step, ProtocolError> {
        if self.args_left == 0
            && let Some((n, end)) = short_line(buf, 0, b'*')
            && (1..=limits.args_max.min(UNAUTHENTICATED_ARGS)).contains(&n)
        {
            (self.pos, self.args_left) = (end, n);
        } else if self.args_left == 0 {
            match buf.first() {
                None => return Ok(Step::More),
                Some(b'*') => {}
                Some(_) => return self.inline(buf, spans, large),
            }
            let Line::Number(n, end) = self.line(buf, "too big mbulk count string")? else {
                return Ok(Step::More);
            };
            let n = match n {
                Some(n) if n <= limits.args_max.min(i32::MAX as usize) as i64 => n,
                _ => return fail("invalid multibulk length"),
            };
            if n > UNAUTHENTICATED_ARGS as i64 && !limits.authenticated {
                return fail("unauthenticated multibulk length");
            }
            self.pos = end;
            if n <= 0 {
                return Ok(Step::Skip);
            }
            self.args_left = n as usize;
        }
        if self.body.is_none() {
            self.short_bulks(buf, limits, spans);
        }
        while self.args_left > 0 {
            let len = match self.body {
                Some(len) => len,
                None => {
                    let Line::Number(n, end) = self.line(buf, "too big bulk count string")? else {
                        return Ok(Step::More);
                    };
                    let first = buf[self.pos];
                    if first != b'$' {
                        return Err(ProtocolError(Wrong::NoBulk(first)));
                    }
                    let n = match n {
                        Some(n) if n >= 0 && n as u64 <= limits.bulk_max as u64 => n,
                        _ => return fail("invalid bulk length"),
                    };
                    if n > UNAUTHENTICATED_BULK && !limits.authenticated {
                        return fail("unauthenticated bulk length");
                    }
                    self.pos = end;
                    self.body = Some(n as usize);
                    n as usize
                }
            };
            let len_here = if self.diverted { 0 } else { len };
            let end = self.pos + len_here;
            let Some(line_end) = buf.get(end..end + 2) else {
                return Ok(match divert && len_here >= LARGE {
                    true => Step::Large(len),
                    false => Step::More,
                });
            };
            self.odd |= line_end != b"\r\n";
            if self.diverted {
                self.odd = true;
                self.diverted = false;
            } else if end < Span::LARGE as usize {
                spans.push(Span { start: self.pos as u32, len: len as u32 });
            } else {
                // A span can not reach so far into a request of gigabytes.
                let index = large.len() - large_before;
                spans.push(Span { start: Span::LARGE, len: index as u32 });
                large.push(buf[self.pos..end].to_vec().into());
            }
            self.pos = end + 2;
            self.body = None;
            self.args_left -= 1;
        }
        Ok(Step::Request)
    }

    /// Passes over bulks of less than 100 bytes in the usual form that are all there: nearly all
    /// that is ever sent. Stops at the first that is anything else, before looking at what is wrong.
    #[inline]
    fn short_bulks(&mut self, buf: &[u8], limits: &Limits, spans: &mut Vec<Span>) {
        while self.args_left > 0
            && let Some((len, start)) = short_line(buf, self.pos, b'$')
        {
            let end = start + len;
            let ends = buf.get(end..end + 2) == Some(b"\r\n");
            if !ends || len > limits.bulk_max || end >= Span::LARGE as usize {
                return;
            }
            spans.push(Span { start: start as u32, len: len as u32 });
            self.pos = end + 2;
            self.args_left -= 1;
        }
    }

    /// The number after the type byte at `pos`. Like Redis, takes any byte after the CR for the LF.
    fn line(&mut self, buf: &[u8], too_long: &'static str) -> Result<Line, ProtocolError> {
        let line = &buf[self.pos..];
        let mut n = 0;
        let mut at = 1;
        while let Some(digit) = line.get(at).map(|b| b.wrapping_sub(b'0'))
            && digit <= 9
            && at <= 9
        {
            n = n * 10 + digit as i64;
            at += 1;
        }
        // Nearly every line is a short number without a leading zero, all there.
        if at > 1 && line.get(at..at + 2) == Some(b"\r\n") && (line[1] != b'0' || at == 2) {
            return Ok(Line::Number(Some(n), self.pos + at + 2));
        }
        let from = self.scanned.max(self.pos);
        let Some(cr) = buf[from..].iter().position(|&b| b == b'\r').map(|i| from + i) else {
            if line.len() > LINE_MAX {
                return fail(too_long);
            }
            self.scanned = buf.len();
            return Ok(Line::More);
        };
        if cr - self.pos > LINE_MAX {
            return fail(too_long); // Whether or not its end came with its beginning.
        }
        self.scanned = cr;
        let Some(&lf) = buf.get(cr + 1) else { return Ok(Line::More) };
        self.odd |= lf != b'\n';
        // A CR in the place of the type byte leaves no digits.
        let digits = buf.get(self.pos + 1..cr).unwrap_or(b"");
        Ok(Line::Number(parse_int(digits), cr + 2))
    }

    /// A line of words as a person types it.
    fn inline(
        &mut self,
        buf: &[u8],
        spans: &mut Vec<Span>,
        large: &mut Vec<Text>,
    ) -> Result<Step, ProtocolError> {
        let Some(lf) = buf[self.scanned..].iter().position(|&b| b == b'\n') else {
            self.scanned = buf.len();
            return match buf.len() > LINE_MAX {
                true => fail("too big inline request"),
                false => Ok(Step::More),
            };
        };
        let lf = self.scanned + lf;
        if lf > LINE_MAX {
            return fail("too big inline request");
        }
        let line = buf[..lf].strip_suffix(b"\r").unwrap_or(&buf[..lf]);
        // Redis looks for the line's end no further, and waits for ever.
        if line.contains(&0) {
            return fail("NUL byte in inline request");
        }
        let spans_before = spans.len();
        let mut quoted = Vec::new(); // whose indexes count from this request's first
        if split_words(line, spans, &mut quoted).is_none() {
            spans.truncate(spans_before);
            return fail("unbalanced quotes in request");
        }
        large.append(&mut quoted);
        self.odd = true;
        self.pos = lf + 1;
        Ok(if spans.len() == spans_before { Step::Skip } else { Step::Request })
    }
}

/// The capacity for a large argument of `len` bytes of which `have` are there.
fn large_capacity(have: usize, len: usize) -> usize {
    let mut capacity = len;
    while capacity / LARGE_STEP > have.max(READ) {
        capacity /= LARGE_STEP;
    }
    capacity
}

/// A number below 100 in the usual form, behind `kind` at `pos`, and where its line ends. `None` if
/// the line is anything else, or if there are not [`WORD`] bytes to look at.
#[inline(always)]
fn short_line(buf: &[u8], pos: usize, kind: u8) -> Option<(usize, usize)> {
    const LINE_END: u16 = u16::from_le_bytes(*b"\r\n");
    let word = u64::from_le_bytes(buf.get(pos..pos + WORD)?.try_into().ok()?);
    let byte = |i: u32| (word >> (8 * i)) as u8;
    let ends_at = |i: u32| (word >> (8 * i)) as u16 == LINE_END;
    let (first, second) = (byte(1).wrapping_sub(b'0'), byte(2).wrapping_sub(b'0'));
    if byte(0) != kind || first > 9 {
        return None;
    }
    if ends_at(2) {
        return Some((first as usize, pos + 4));
    }
    let two = ends_at(3) && first != 0 && second <= 9;
    two.then(|| (first as usize * 10 + second as usize, pos + 5))
}

/// C's `isspace`.
fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t'..=b'\r')
}

/// Splits an inline request into words. A word without quotes is a span of the line; one with
/// quotes has to be rewritten and becomes a large argument. `None` if quotes do not match.
fn split_words(line: &[u8], spans: &mut Vec<Span>, large: &mut Vec<Text>) -> Option<()> {
    let mut at = 0;
    loop {
        at += line[at..].iter().take_while(|&&b| is_space(b)).count();
        if at == line.len() {
            return Some(());
        }
        let ends = |b: u8| matches!(b, b' ' | b'\n' | b'\r' | b'\t');
        let rest = &line[at..];
        let len = rest.iter().position(|&b| ends(b) || b == b'"' || b == b'\'');
        let len = len.unwrap_or(rest.len());
        match rest.get(len) {
            Some(b'"' | b'\'') => {
                let (word, len) = quoted_word(rest, ends)?;
                spans.push(Span { start: Span::LARGE, len: large.len() as u32 });
                large.push(word.into());
                at += len;
            }
            _ => {
                spans.push(Span { start: at as u32, len: len as u32 });
                at += len;
            }
        }
    }
}

/// The word at the start of `text`, unquoted, and how many bytes it takes there.
fn quoted_word(text: &[u8], ends: impl Fn(u8) -> bool) -> Option<(Vec<u8>, usize)> {
    let mut word = Vec::new();
    let mut at = 0;
    while let Some(&b) = text.get(at)
        && !ends(b)
    {
        at += 1;
        match b {
            b'"' | b'\'' => {
                at += match b {
                    b'"' => double_quoted(&text[at..], &mut word)?,
                    _ => single_quoted(&text[at..], &mut word)?,
                };
                // Nothing but space may follow a closing quote.
                return match text.get(at) {
                    Some(&b) if !is_space(b) => None,
                    _ => Some((word, at)),
                };
            }
            _ => word.push(b),
        }
    }
    Some((word, at))
}

fn double_quoted(text: &[u8], word: &mut Vec<u8>) -> Option<usize> {
    let hex = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    let mut at = 0;
    loop {
        match *text.get(at..)? {
            [b'\\', b'x', a, b, ..] if hex(a).is_some() && hex(b).is_some() => {
                word.push(hex(a)? << 4 | hex(b)?);
                at += 4;
            }
            [b'\\', escaped, ..] => {
                word.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 8,
                    b'a' => 7,
                    other => other,
                });
                at += 2;
            }
            [b'"', ..] => return Some(at + 1),
            [b, ..] => {
                word.push(b);
                at += 1;
            }
            [] => return None,
        }
    }
}

fn single_quoted(text: &[u8], word: &mut Vec<u8>) -> Option<usize> {
    let mut at = 0;
    loop {
        match *text.get(at..)? {
            [b'\\', b'\'', ..] => {
                word.push(b'\'');
                at += 2;
            }
            [b'\'', ..] => return Some(at + 1),
            [b, ..] => {
                word.push(b);
                at += 1;
            }
            [] => return None,
        }
    }
}

/// One request parsed out of bytes that lie in memory. Reused, it allocates nothing.
#[derive(Default)]
pub struct Frame {
    start: usize,
    end: usize,
    canonical: bool,
    spans: Vec<Span>,
    large: Vec<Text>,
}

impl Frame {
    /// Parses the first request in `bytes` and says where it ends. `None` if it is not complete:
    /// then only empty lines and a request's beginning are there.
    pub fn parse(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, ProtocolError> {
        self.spans.clear();
        self.large.clear();
        self.start = 0;
        loop {
            let mut framer = Framer::default();
            let rest = &bytes[self.start..];
            let large = (&mut self.large, 0);
            match framer.step(rest, limits, &mut self.spans, large, false)? {
                Step::Skip => self.start += framer.pos,
                Step::Request => {
                    self.end = self.start + framer.pos;
                    self.canonical = !framer.odd;
                    return Ok(Some(self.end));
                }
                Step::More | Step::Large(_) => return Ok(None),
            }
        }
    }

    /// The arguments of the request that was parsed out of `bytes`.
    pub fn args<'a>(&'a self, bytes: &'a [u8]) -> Args<'a> {
        let buf = &bytes[self.start..self.end];
        Args::new(buf, &self.spans, &self.large, self.canonical.then_some(buf))
    }
}

/// A complete request that waits.
#[derive(Clone)]
struct Request {
    /// Its bytes in the buffer.
    bytes: Range<usize>,
    spans: Range<usize>,
    large: Range<usize>,
    /// Its bytes in the stream: what was skipped before it, and what went into `large`, included.
    stream_len: usize,
    canonical: bool,
}

/// A connection's read side: bytes go in at one end, requests come out at the other.
///
/// [`Input::targets`] and [`Input::filled`] read, [`Input::parse`] finds the requests,
/// [`Input::pop`] gives them out. A peer that speaks something else than requests is read with
/// [`Input::bytes`] and [`Input::consume`].
#[derive(Default)]
pub struct Input {
    buf: Vec<u8>,
    /// Where in `buf` the request begins that is not complete.
    frame_start: usize,
    framer: Framer,
    /// Stream bytes since the last complete request that are not in `buf[frame_start..]`.
    frame_extra: usize,
    spans: Vec<Span>,
    large: Vec<Text>,
    /// Where in `spans` and `large` those of the incomplete request begin.
    frame_spans: usize,
    frame_large: usize,
    /// A large argument that has not arrived whole, and its length.
    filling: Option<(Vec<u8>, usize)>,
    queue: Vec<Request>,
    /// The first of `queue` that was not popped.
    head: usize,
    position: u64,
}

impl Input {
    pub fn new() -> Input {
        Input::default()
    }

    /// Forgets what was popped, and makes room to read into.
    fn make_room(&mut self) {
        self.settle();
        if let Some((own, len)) = &mut self.filling
            && own.len() == own.capacity()
        {
            own.reserve_exact(large_capacity(own.len(), *len) - own.len());
        }
        if self.buf.capacity() - self.buf.len() >= MIN_READ {
            return;
        }
        let used = self.used();
        if used >= self.buf.len() - used {
            self.compact(used);
        }
        if self.buf.capacity() - self.buf.len() < MIN_READ {
            self.buf.reserve(READ.max(self.buf.len()));
        }
    }

    /// The bytes at the start of the buffer that nothing needs any more.
    fn used(&self) -> usize {
        self.queue.get(self.head).map_or(self.frame_start, |r| r.bytes.start)
    }

    fn compact(&mut self, used: usize) {
        self.release_popped();
        self.buf.drain(..used);
        self.frame_start -= used;
        self.queue.drain(..self.head);
        self.head = 0;
        for request in &mut self.queue {
            request.bytes.start -= used;
            request.bytes.end -= used;
        }
    }

    /// Drops what popped requests left behind, if all were popped.
    fn settle(&mut self) {
        if self.head < self.queue.len() {
            return;
        }
        if self.head > 0 {
            self.release_popped();
            self.queue.clear();
            self.head = 0;
            self.spans.drain(..self.frame_spans);
            self.large.drain(..self.frame_large);
            self.frame_spans = 0;
            self.frame_large = 0;
        }
        if self.frame_start == self.buf.len() {
            self.buf.clear();
            self.frame_start = 0;
        }
    }

    /// How much of the large argument that is being read may be read into it now, and whether that
    /// is all of it.
    fn large_room(&self) -> (usize, bool) {
        match &self.filling {
            Some((own, len)) => {
                let room = own.capacity().min(*len) - own.len();
                (room, own.len() + room == *len)
            }
            None => (0, true),
        }
    }

    /// Where the next bytes belong, first part first, either part possibly empty: a large
    /// argument that is being read, and the buffer. At least one of them has room. A read that
    /// fills both may have left bytes in the socket; a shorter one has drained it.
    pub fn targets(&mut self) -> [&mut [MaybeUninit<u8>]; 2] {
        self.make_room();
        let (room, complete) = self.large_room();
        let first = match &mut self.filling {
            Some((own, _)) => &mut own.spare_capacity_mut()[..room],
            None => &mut [],
        };
        [first, if complete { self.buf.spare_capacity_mut() } else { &mut [] }]
    }

    /// Takes over `n` bytes that were written to the [`Input::targets`].
    ///
    /// # Safety
    /// The first `n` bytes of the targets, as the last call of `targets` returned them, are
    /// initialised, and nothing was called on this input since.
    pub unsafe fn filled(&mut self, n: usize) {
        let (room, _) = self.large_room();
        let into_large = n.min(room);
        if let Some((own, _)) = &mut self.filling {
            // SAFETY: `room` is within the capacity, and the caller wrote that many bytes.
            unsafe { own.set_len(own.len() + into_large) };
        }
        assert!(n - into_large <= self.buf.capacity() - self.buf.len());
        // SAFETY: within the capacity, and the caller wrote the rest of its bytes there.
        unsafe { self.buf.set_len(self.buf.len() + n - into_large) };
        self.end_large();
    }

    fn end_large(&mut self) {
        if let Some((own, _)) = self.filling.take_if(|(own, len)| own.len() == *len) {
            self.large.push(own.into());
        }
    }

    /// Takes bytes that are in memory already.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            self.make_room();
            let (room, complete) = self.large_room();
            let (first, rest) = bytes.split_at(room.min(bytes.len()));
            if let Some((own, _)) = &mut self.filling {
                own.extend_from_slice(first);
            }
            self.end_large();
            bytes = rest;
            if complete {
                self.buf.extend_from_slice(bytes);
                return;
            }
        }
    }

    /// Finds the complete requests, up to the batch limit.
    ///
    /// An error is reported when all requests before it were popped, and again by every later call.
    pub fn parse(&mut self, limits: &Limits) -> Result<(), ProtocolError> {
        self.settle();
        let batch = if limits.authenticated { limits.batch } else { 1 };
        while self.filling.is_none() && self.waiting() < batch {
            let frame = &self.buf[self.frame_start..];
            let large = (&mut self.large, self.frame_large);
            let step = self.framer.step(frame, limits, &mut self.spans, large, true);
            match step {
                Ok(Step::More) => break,
                Ok(Step::Skip) => {
                    self.frame_extra += self.framer.pos;
                    self.frame_start += self.framer.pos;
                    self.framer = Framer::default();
                }
                Ok(Step::Request) => {
                    let end = self.frame_start + self.framer.pos;
                    self.queue.push(Request {
                        bytes: self.frame_start..end,
                        spans: self.frame_spans..self.spans.len(),
                        large: self.frame_large..self.large.len(),
                        stream_len: self.framer.pos + self.frame_extra,
                        canonical: !self.framer.odd,
                    });
                    self.frame_extra = 0;
                    self.frame_start = end;
                    self.frame_spans = self.spans.len();
                    self.frame_large = self.large.len();
                    self.framer = Framer::default();
                }
                Ok(Step::Large(len)) => self.divert(len),
                Err(error) if self.waiting() == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(())
    }

    /// Gives the bulk whose body begins at the framer's position an allocation of its own.
    fn divert(&mut self, len: usize) {
        let body = self.frame_start + self.framer.pos;
        let here = len.min(self.buf.len() - body);
        let mut own = Vec::new();
        // What is asked for and given back at once lies behind it: there it grows, mostly, without being moved.
        let _ = own.try_reserve_exact(len);
        own.shrink_to(large_capacity(here, len));
        own.reserve_exact(large_capacity(here, len));
        own.extend_from_slice(&self.buf[body..body + here]);
        self.buf.drain(body..body + here);
        self.spans
            .push(Span { start: Span::LARGE, len: (self.large.len() - self.frame_large) as u32 });
        self.framer.diverted = true;
        self.frame_extra += len;
        self.filling = Some((own, len));
        self.end_large();
    }

    /// How many complete requests wait.
    pub fn waiting(&self) -> usize {
        self.queue.len() - self.head
    }

    /// The next request. Of the one before nothing is held any more.
    pub fn pop(&mut self) -> Option<Args<'_>> {
        self.release_popped();
        let request = self.queue.get(self.head)?;
        self.head += 1;
        self.position += request.stream_len as u64;
        let buf = &self.buf[request.bytes.clone()];
        Some(Args::new(
            buf,
            &self.spans[request.spans.clone()],
            &self.large[request.large.clone()],
            request.canonical.then_some(buf),
        ))
    }

    /// Lets go of the large arguments of the request that was popped last: a key may have them.
    #[inline]
    fn release_popped(&mut self) {
        if let Some(last) = self.head.checked_sub(1)
            && !self.queue[last].large.is_empty()
        {
            self.large[self.queue[last].large.clone()].fill_with(Text::default);
        }
    }

    /// Argument `i` of the request that is `n` places behind the next one.
    #[inline]
    pub fn peek(&self, n: usize, i: usize) -> Option<&[u8]> {
        let request = self.queue.get(self.head + n)?;
        let span = self.spans[request.spans.clone()].get(i)?;
        Some(match span.start {
            Span::LARGE => &self.large[request.large.clone()][span.len as usize],
            start => {
                let start = request.bytes.start + start as usize;
                &self.buf[start..start + span.len as usize]
            }
        })
    }

    /// The number of arguments of the request that is `n` places behind the next one.
    pub fn peek_len(&self, n: usize) -> usize {
        self.queue.get(self.head + n).map_or(0, |r| r.spans.len())
    }

    /// How many bytes of the stream were popped or consumed.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The bytes that no request was made of. Only for a peer whose requests are not parsed.
    pub fn bytes(&self) -> &[u8] {
        debug_assert!(self.framer.args_left == 0 && self.waiting() == 0);
        &self.buf[self.frame_start..]
    }

    /// Takes `n` of [`Input::bytes`] away.
    pub fn consume(&mut self, n: usize) {
        assert!(n <= self.buf.len() - self.frame_start);
        self.frame_start += n;
        self.framer = Framer::default();
        self.position += n as u64;
        self.settle();
    }

    /// Bytes of the next request, if it is there, or all that have arrived of none: what
    /// `client-query-buffer-limit` limits.
    pub fn next_len(&self) -> usize {
        self.queue.get(self.head).map_or_else(|| self.pending(), |next| next.stream_len)
    }

    /// Bytes that have arrived and were not served.
    pub fn pending(&self) -> usize {
        let large = self.large.iter().map(|text| text.len()).sum::<usize>();
        let filling = self.filling.as_ref().map_or(0, |(own, _)| own.len());
        self.buf.len() - self.used() + large + filling
    }

    /// Bytes of them that are no complete request.
    pub fn unparsed(&self) -> usize {
        self.buf.len() - self.frame_start
    }

    /// Allocated bytes.
    pub fn memory(&self) -> usize {
        self.buf.capacity()
            + self.large.iter().map(Text::capacity).sum::<usize>()
            + self.filling.as_ref().map_or(0, |(own, _)| own.capacity())
            + self.large.capacity() * size_of::<Text>()
            + self.spans.capacity() * size_of::<Span>()
            + self.queue.capacity() * size_of::<Request>()
    }

    /// Whether nothing has arrived that was not served.
    pub fn is_idle(&self) -> bool {
        self.waiting() == 0 && self.frame_start == self.buf.len() && self.filling.is_none()
    }

    /// Whether it has a buffer: an idle input needs none.
    pub fn has_buffer(&self) -> bool {
        self.buf.capacity() > 0
    }

    /// Lends a buffer to an input that has none.
    pub fn lend(&mut self, buffer: Vec<u8>) {
        debug_assert!(!self.has_buffer() && buffer.is_empty());
        self.buf = buffer;
    }

    /// Takes the buffer of an idle input, so that thousands of idle connections share a few; with
    /// it goes what serving an unusual request had grown.
    pub fn reclaim(&mut self) -> Option<Vec<u8>> {
        if !self.is_idle() || !self.has_buffer() {
            return None;
        }
        self.settle();
        if self.spans.capacity() > 8 * 1024 {
            self.spans = Vec::new();
        }
        if self.queue.capacity() > 4 * 1024 {
            self.queue = Vec::new();
        }
        if self.large.capacity() > 1024 {
            self.large = Vec::new();
        }
        Some(std::mem::take(&mut self.buf))
    }

    /// Gives back what a long request's beginning does not need: for a connection that has not
    /// sent for a while.
    pub fn shrink(&mut self) {
        self.settle();
        let used = self.used();
        self.compact(used);
        self.buf.shrink_to(self.buf.len() + MIN_READ);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;

    type Requests = Vec<Vec<Vec<u8>>>;

    fn encode(request: &[Vec<u8>]) -> Vec<u8> {
        let mut out = format!("*{}\r\n", request.len()).into_bytes();
        for arg in request {
            out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
            out.extend_from_slice(arg);
            out.extend_from_slice(b"\r\n");
        }
        out
    }

    /// Feeds `stream` cut into pieces of the `cuts` lengths, taking requests out as they come.
    fn run(stream: &[u8], cuts: &[usize], limits: &Limits) -> (Requests, Option<String>, u64) {
        let mut input = Input::new();
        let mut got = Vec::new();
        let mut rest = stream;
        let mut cuts = cuts.iter().copied();
        loop {
            loop {
                match input.parse(limits) {
                    Ok(()) if input.waiting() == 0 => break,
                    Ok(()) => {}
                    Err(e) => return (got, Some(e.to_string()), input.position()),
                }
                while let Some(args) = input.pop() {
                    let request: Vec<Vec<u8>> = args.iter().map(<[u8]>::to_vec).collect();
                    if let Some(raw) = args.raw() {
                        assert_eq!(raw, encode(&request));
                    }
                    got.push(request);
                }
            }
            if rest.is_empty() {
                return (got, None, input.position());
            }
            let n = cuts.next().unwrap_or(rest.len()).clamp(1, rest.len());
            input.feed(&rest[..n]);
            rest = &rest[n..];
        }
    }

    fn whole(stream: &[u8]) -> (Requests, Option<String>) {
        let (got, error, _) = run(stream, &[], &Limits::default());
        (got, error)
    }

    fn words(line: &str) -> Vec<Vec<u8>> {
        let (mut got, error) = whole(line.as_bytes());
        assert_eq!(error, None, "{line}");
        got.pop().unwrap_or_default()
    }

    #[test]
    fn inline_requests_follow_the_shell_like_rules() {
        assert_eq!(words("PING\r\n"), [b"PING"]);
        assert_eq!(words("set  a\tb \n"), [b"set".to_vec(), b"a".to_vec(), b"b".to_vec()]);
        assert_eq!(words("echo \"a\\x41\\n\\\"b\"\r\n")[1], b"aA\n\"b");
        assert_eq!(words("echo \"\\xZZ\\q\"\r\n")[1], b"xZZq");
        assert_eq!(words("echo 'it\\'s \\n'\r\n")[1], b"it's \\n");
        assert_eq!(words("echo ab\"c d\"\r\n")[1], b"abc d");
        assert_eq!(words("echo \"\" x\r\n"), [b"echo".to_vec(), b"".to_vec(), b"x".to_vec()]);
        for bad in ["a \"b\r\n", "a 'b\r\n", "a \"b\"c\r\n", "a 'b'c\r\n", "a \"b\\\"\r\n"] {
            let want = Some("Protocol error: unbalanced quotes in request".to_string());
            assert_eq!(whole(bad.as_bytes()), (vec![], want), "{bad}");
        }
        for bad in ["SET a b\0c\r\n", "\0\n", "ECHO \"a\0b\"\n", "ECHO \"a\0\n"] {
            let want = Some("Protocol error: NUL byte in inline request".to_string());
            assert_eq!(whole(bad.as_bytes()), (vec![], want), "{bad}");
        }
        assert_eq!(words("echo \"a\\x00b\"\n")[1], b"a\0b");
    }

    #[test]
    fn malformed_requests_get_redis_s_words() {
        let long = |first: &str, n: usize| format!("{first}{}", "1".repeat(n));
        for (stream, want) in [
            (long("x", 65_536), "too big inline request"),
            (long("*", 65_536), "too big mbulk count string"),
            (long("*1\r\n$", 65_536), "too big bulk count string"),
            ("*3000000000\r\n".into(), "invalid multibulk length"),
            ("*01\r\n".into(), "invalid multibulk length"),
            ("*a\r\n".into(), "invalid multibulk length"),
            ("*\r\n".into(), "invalid multibulk length"),
            ("*1\r\nfoo\r\n".into(), "expected '$', got 'f'"),
            ("*1\r\n\r\n".into(), "expected '$', got '\r'"),
            ("*1\r\n$-1\r\n".into(), "invalid bulk length"),
            ("*1\r\n$\r\n".into(), "invalid bulk length"),
            ("*1\r\n$536870913\r\n".into(), "invalid bulk length"),
        ] {
            let (got, error) = whole(stream.as_bytes());
            assert_eq!(error, Some(format!("Protocol error: {want}")));
            assert_eq!(got, Requests::new());
        }
    }

    #[test]
    fn quoted_words_of_pipelined_requests_stay_apart() {
        let line = "SET \"a\" 'b' c\r\n";
        let (got, error) = whole(line.repeat(3).as_bytes());
        assert_eq!((got, error), (vec![words("SET a b c\r\n"); 3], None));
    }

    #[test]
    fn a_line_is_too_long_whether_it_comes_whole_or_not() {
        for (head, tail, why) in [
            ("", "\n", "too big inline request"),
            ("*", "\r\n", "too big mbulk count string"),
            ("*1\r\n$", "\r\n", "too big bulk count string"),
        ] {
            for (len, refused) in [(LINE_MAX - 1, false), (LINE_MAX + 1, true)] {
                let stream = format!("{head}{}{tail}", "1".repeat(len)).into_bytes();
                let (_, error) = whole(&stream);
                let is_too_long = error.as_ref().is_some_and(|e| e.ends_with(why));
                assert_eq!(is_too_long, refused, "{head}: {error:?}");
                let (_, in_pieces, _) = run(&stream, &[1000; 100], &Limits::default());
                assert_eq!(in_pieces, error, "{head}");
            }
        }
    }

    #[test]
    fn what_asks_for_nothing_is_skipped() {
        let (got, error) = whole(b"\r\n\n*0\r\n*-1\r\n  \r\n*1\r\n$4\r\nPING\r\n*0\r\n");
        assert_eq!((got, error), (vec![vec![b"PING".to_vec()]], None));
    }

    #[test]
    fn requests_before_an_error_are_served_first() {
        let (got, error) = whole(b"PING\r\n*1\r\n$4\r\nPING\r\n*1\r\n!");
        assert_eq!((got.len(), error), (2, None));
        let (got, error) = whole(b"PING\r\n*1\r\n$4\r\nPING\r\n*1\r\n!\r\n");
        assert_eq!(got.len(), 2);
        assert_eq!(error.as_deref(), Some("Protocol error: expected '$', got '!'"));
    }

    #[test]
    fn an_unauthenticated_peer_may_send_little_and_is_parsed_one_request_at_a_time() {
        let limits = Limits { authenticated: false, ..Limits::default() };
        let error = |stream: &[u8]| run(stream, &[], &limits).1.unwrap_or_default();
        assert_eq!(error(b"*11\r\n"), "Protocol error: unauthenticated multibulk length");
        assert_eq!(error(b"*1\r\n$16385\r\n"), "Protocol error: unauthenticated bulk length");
        let mut input = Input::new();
        input.feed(b"AUTH x\r\n*2\r\n$16385\r\n");
        input.parse(&limits).expect("AUTH is fine");
        assert_eq!(input.waiting(), 1);
        input.pop();
        input.parse(&Limits::default()).expect("now it may send that much");
    }

    #[test]
    fn limits_hold_for_short_requests_too() {
        let limits = Limits { args_max: 2, bulk_max: 4, ..Limits::default() };
        let run = |stream: &[u8]| run(stream, &[], &limits);
        let sent = b"*2\r\n$3\r\nGET\r\n$4\r\nabcd\r\n";
        assert_eq!(run(sent).0, [words("GET abcd\r\n")]);
        let error = |stream: &[u8]| run(stream).1.unwrap_or_default();
        assert_eq!(
            error(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n"),
            "Protocol error: invalid multibulk length"
        );
        assert_eq!(
            error(b"*2\r\n$3\r\nGET\r\n$5\r\nabcde\r\n"),
            "Protocol error: invalid bulk length"
        );
    }

    #[test]
    fn an_announced_length_reserves_no_memory() {
        let mut input = Input::new();
        input.feed(b"*2\r\n$3\r\nGET\r\n$500000000\r\n");
        input.parse(&Limits::default()).expect("within limits");
        assert!(input.memory() < 4 * 1024 * 1024, "{}", input.memory());
        for _ in 0..2 {
            input.feed(&[b'x'; 1_000_000]);
            input.parse(&Limits::default()).expect("within limits");
        }
        assert!(input.memory() < 8 * 1024 * 1024, "{}", input.memory());
        let mut input = Input::new();
        input.feed(b"*2000000000\r\n");
        input.parse(&Limits::default()).expect("within limits");
        assert!(input.memory() < 4 * 1024 * 1024, "{}", input.memory());
    }

    #[test]
    fn a_large_value_is_moved_out_at_its_exact_size() {
        let value = vec![b'v'; 3_000_000];
        let stream = encode(&[b"SET".to_vec(), b"k".to_vec(), value.clone()]);
        let mut input = Input::new();
        for piece in stream.chunks(50_000) {
            input.feed(piece);
            input.parse(&Limits::default()).expect("well formed");
        }
        assert_eq!(input.peek(0, 2), Some(&value[..]));
        let Text::Shared(got) = input.pop().expect("complete").text(2) else { panic!("a copy") };
        assert_eq!((got.capacity(), *got == value), (value.len(), true));
        assert!(input.pop().is_none());
        assert_eq!(input.position(), stream.len() as u64);
        assert!(input.reclaim().is_some());
        assert_eq!(input.pending(), 0);
    }

    #[test]
    fn what_was_served_holds_no_large_argument() {
        let request = encode(&[b"SET".to_vec(), b"k".to_vec(), vec![7; 3 * LARGE]]);
        let mut input = Input::new();
        for piece in request.repeat(2).chunks(LARGE) {
            input.feed(piece);
            input.parse(&Limits::default()).expect("well formed");
        }
        let shared = |args: Args<'_>| match args.text(2) {
            Text::Shared(bytes) => bytes,
            Text::Own(_) => panic!("the value was copied"),
        };
        let first = shared(input.pop().expect("complete"));
        assert_eq!(Arc::strong_count(&first), 2);
        let second = shared(input.pop().expect("complete"));
        assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (1, 2));
        assert!(input.pop().is_none());
        assert_eq!(Arc::strong_count(&second), 1);
    }

    fn pipelines() -> impl Strategy<Value = Requests> {
        let arg = prop_oneof![
            8 => proptest::collection::vec(any::<u8>(), 0..40),
            1 => (LARGE - 2..LARGE * 2, any::<u8>()).prop_map(|(n, b)| vec![b; n]),
        ];
        proptest::collection::vec(proptest::collection::vec(arg, 1..6), 0..20)
    }

    fn cuts() -> impl Strategy<Value = Vec<usize>> {
        let cut = prop_oneof![4 => 1..20usize, 1 => 1..5000usize, 1 => 1..70_000usize];
        proptest::collection::vec(cut, 0..200)
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_requests(requests in pipelines(), cuts in cuts()) {
            let stream: Vec<u8> = requests.iter().flat_map(|r| encode(r)).collect();
            let (got, error, position) = run(&stream, &cuts, &Limits::default());
            prop_assert_eq!(error, None);
            prop_assert!(got == requests);
            prop_assert_eq!(position, stream.len() as u64);

            let mut frame = Frame::default();
            let mut rest = &stream[..];
            for request in &requests {
                let end = frame.parse(rest, &Limits::default()).unwrap().unwrap();
                let args = frame.args(rest);
                prop_assert_eq!(args.raw(), Some(&rest[..end]));
                prop_assert!(args.iter().eq(request.iter().map(|a| &a[..])));
                rest = &rest[end..];
            }
            prop_assert_eq!(frame.parse(rest, &Limits::default()), Ok(None));
        }

        #[test]
        fn any_bytes_in_any_split_give_the_same_answer(
            picks in proptest::collection::vec(0..24usize, 0..120),
            noise in proptest::collection::vec(any::<u8>(), 0..30),
            cuts in cuts(),
        ) {
            const PIECES: [&[u8]; 24] = [
                b"*", b"$", b"\r\n", b"\r\n", b"\n", b"\r", b"0", b"1", b"2", b"3", b"-", b"\"",
                b"'", b"\\", b"a", b" ", b"\0", b"*1\r\n", b"*2\r\n$1\r\n", b"$3\r\n", b"x41",
                b"GET", b"$1\r\na\r\n", b"*1\r\n$1\r\nb\r\n",
            ];
            let mut stream: Vec<u8> = picks.iter().flat_map(|&i| PIECES[i]).copied().collect();
            stream.extend_from_slice(&noise);
            let limits = Limits { bulk_max: 1000, ..Limits::default() };
            let all = run(&stream, &[], &limits);
            prop_assert_eq!(run(&stream, &cuts, &limits), all);
            let mut frame = Frame::default();
            let _ = frame.parse(&stream, &limits);
        }
    }
}
