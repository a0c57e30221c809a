//! One connection.

use socket2::SockRef;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use varve_engine::Reply;
use varve_engine::resp::request::{Input, Limits};

/// Names a connection; counts up from 1 and is never used again. It is the client's id.
pub type ConnId = u64;

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    Tcp(SocketAddr),
    /// A client of the Unix socket at this path.
    Unix(PathBuf),
    /// A descriptor that was adopted.
    Adopted,
}

/// As `CLIENT LIST` shows it.
impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Tcp(addr) => addr.fmt(f),
            Peer::Unix(path) => write!(f, "{}:0", path.display()),
            Peer::Adopted => f.write_str("?:0"),
        }
    }
}

/// What a connection's input is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Requests, for [`crate::Service::requests`].
    Requests,
    /// Bytes, for [`crate::Service::bytes`]. Switch to it only where no request waits.
    Raw,
}

/// Why a connection ended.
#[derive(Debug)]
pub enum Closed {
    /// The peer closed it.
    Eof,
    /// The system did.
    Error(io::Error),
    /// The peer sent what is no request; it was told so.
    Protocol(String),
    /// [`crate::Net::kill`] or [`Conn::close_asap`].
    Killed,
    /// [`Conn::close_after_reply`]: all was sent.
    Done,
    /// Its output grew past [`Conn::output_limit`].
    OutputLimit,
    /// Its input grew past [`Conn::query_limit`].
    QueryLimit,
}

/// The bytes that may wait to be sent: `client-output-buffer-limit`. 0 is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OutputLimit {
    pub hard: usize,
    /// More than this for longer than `soft_for` closes the connection.
    pub soft: usize,
    pub soft_for: Duration,
}

/// A connection and what the service keeps about it.
pub struct Conn<S> {
    pub id: ConnId,
    pub session: S,
    pub input: Input,
    /// What is written here in a callback about this connection is sent at the end of the turn.
    /// From elsewhere, call [`crate::Net::mark_dirty`] too.
    pub output: Reply,
    pub peer: Peer,
    pub mode: Mode,
    /// What the peer may send.
    pub limits: Limits,
    /// Bytes of input that may wait: `client-query-buffer-limit`.
    pub query_limit: usize,
    pub output_limit: OutputLimit,
    /// Serves no more requests, and closes when all output was sent.
    pub close_after_reply: bool,
    /// Closes when the callback returns.
    pub close_asap: bool,
    /// Serves no requests until [`crate::Net::resume`]: the client is blocked. Its input is still
    /// read, within bounds, so that it is noticed if the peer goes away.
    pub hold: bool,
    /// Asks for [`crate::Service::bytes`] once more, in the next turn, though nothing comes.
    pub again: bool,
    /// Reads nothing until [`crate::Net::resume`]; the end of the stream is not noticed either.
    pub pause_read: bool,
    /// Its output waits for [`crate::Service::released`].
    pub gated: bool,
    /// [`crate::Service::drained`] is asked for more whenever little output is left.
    pub feeds: bool,
    /// When something was last read, or the connection was made.
    pub last_read: Instant,
    /// When something was last written, or the connection was made.
    pub last_write: Instant,

    pub(crate) fd: OwnedFd,
    pub(crate) slot: u32,
    /// The socket may have bytes to read.
    pub(crate) readable: bool,
    /// The peer will send nothing after what the socket holds.
    pub(crate) read_closed: bool,
    /// All that the peer sent was read.
    pub(crate) eof: bool,
    /// The socket takes no more bytes before the next event.
    pub(crate) blocked: bool,
    pub(crate) write_interest: bool,
    pub(crate) connecting: bool,
    /// The attempt to connect has come to its end.
    pub(crate) attempted: bool,
    /// Only written to: the writing end of a pipe.
    pub(crate) write_only: bool,
    /// Which of the loop's lists it is in.
    pub(crate) in_ready: bool,
    pub(crate) in_dirty: bool,
    pub(crate) in_gated: bool,
    pub(crate) in_soft: bool,
    /// It was read in this turn before it was served.
    pub(crate) received: bool,
    /// It was written in this turn by an I/O thread.
    pub(crate) transmitted: bool,
    /// Bytes that may still be read, or written, in this turn.
    pub(crate) budget: usize,
    /// Bytes of the output that may leave now.
    pub(crate) may_send: usize,
    pub(crate) why: Option<Closed>,
    /// Bytes sent since the beginning.
    pub(crate) sent: u64,
    /// Output up to these positions (in the measure of `sent`) waits for these offsets.
    pub(crate) marks: VecDeque<Mark>,
    pub(crate) over_soft_since: Option<Instant>,
}

/// Output up to `end` may leave when the log is released up to `gate`.
pub(crate) struct Mark {
    pub gate: u64,
    pub end: u64,
}

/// A connection whose requests are held is read until this much waits.
const HELD_INPUT: usize = 1024 * 1024;

impl<S> Conn<S> {
    /// The descriptor, for socket options and for a child.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// The address at this end; asked of the system each time.
    pub fn local(&self) -> Peer {
        match &self.peer {
            Peer::Tcp(_) => SockRef::from(&self.fd)
                .local_addr()
                .ok()
                .and_then(|a| a.as_socket())
                .map_or(Peer::Adopted, Peer::Tcp),
            other => other.clone(),
        }
    }

    /// For how long nothing has gone either way.
    pub fn silent_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.last_read.max(self.last_write))
    }

    /// Bytes that were sent to the peer.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Memory held for it, the session's own apart.
    pub fn memory(&self) -> usize {
        size_of::<Conn<S>>() + self.input.memory() + self.output.memory()
    }

    /// Whether it is held, and so much waits that nothing more is read.
    pub fn is_full(&self) -> bool {
        self.hold && self.input.pending() > HELD_INPUT
    }

    /// Whether no more requests are to be served.
    pub(crate) fn ending(&self) -> bool {
        self.close_asap || self.close_after_reply
    }

    /// How many bytes of the output may leave now, all of it being gated by `gate`.
    pub(crate) fn allowed(&mut self, gate: u64, released: u64) -> usize {
        let len = self.output.len();
        if !self.gated || (released >= gate && self.marks.is_empty()) {
            self.marks.clear();
            return len;
        }
        let end = self.sent + len as u64;
        // A gate that came down counts for all that still waits.
        if let Some(last) = self.marks.back().filter(|m| m.gate > gate).map(|m| m.end) {
            while self.marks.back().is_some_and(|m| m.gate >= gate) {
                self.marks.pop_back();
            }
            self.marks.push_back(Mark { gate, end: last });
        }
        if self.marks.back().is_none_or(|m| m.end < end) {
            match self.marks.back_mut() {
                Some(last) if last.gate == gate => last.end = end,
                _ => self.marks.push_back(Mark { gate, end }),
            }
        }
        let mut allowed = self.sent;
        // The last passed mark is kept while its bytes are not sent: it says how far they go.
        while let Some(first) = self.marks.front().filter(|m| m.gate <= released) {
            allowed = first.end;
            if self.marks.get(1).is_none_or(|m| m.gate > released) {
                break;
            }
            self.marks.pop_front();
        }
        allowed.saturating_sub(self.sent) as usize
    }
}
