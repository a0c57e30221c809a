//! One connection read, or written: by the loop, or by an I/O thread that it was handed to. There
//! is one function for each, so that it makes no difference who does it. What the rest of the net
//! has to know of it (the end, an error, a full socket) is left in the connection's flags.

use crate::conn::{Closed, Conn, Mode, OutputLimit, Peer};
use crate::net::Stats;
use crate::sys;
use std::io;
use std::os::fd::AsFd;
use std::time::Instant;

impl<S> Conn<S> {
    /// Whether a read may be made before anything else is done with it.
    pub(crate) fn wants_read(&self) -> bool {
        let held_up = self.hold || self.pause_read || self.connecting || self.attempted;
        self.readable && !self.received && !held_up && !self.ending() && self.input.waiting() == 0
    }

    /// Whether all that is to be done with its output is to write it.
    pub(crate) fn wants_write(&self) -> bool {
        let OutputLimit { hard, soft, .. } = self.output_limit;
        let len = self.output.len();
        let within = (hard == 0 || len <= hard) && (soft == 0 || len <= soft);
        within && !self.feeds && !self.blocked && !self.close_asap
    }

    /// Whether it may be something else than a socket.
    fn is_pipe(&self) -> bool {
        self.peer == Peer::Adopted
    }

    /// Reads once and finds the requests. The input has a buffer.
    pub(crate) fn receive(&mut self, now: Instant, stats: &mut Stats) {
        stats.reads += 1;
        match sys::read(self.fd.as_fd(), self.is_pipe(), &mut self.input) {
            Ok((n, room)) => {
                stats.bytes_in += n as u64;
                self.budget = self.budget.saturating_sub(n);
                self.last_read = now;
                // Less than there was room for: that was all. If the peer had closed its side
                // before, it was all for ever.
                if n < room {
                    self.readable = false;
                    self.eof = n == 0 || self.read_closed;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            Err(e) => self.fail(e),
        }
        if self.mode == Mode::Requests && !self.hold {
            // What is no request is found again when its turn comes to be answered.
            let _ = self.input.parse(&self.limits);
        }
    }

    /// Writes what it may send, as far as the socket and the budget go.
    pub(crate) fn transmit(&mut self, now: Instant, stats: &mut Stats) {
        while self.may_send > 0 && self.budget > 0 && !self.blocked && !self.close_asap {
            stats.writes += 1;
            let most = self.may_send.min(self.budget);
            match sys::write(self.fd.as_fd(), self.is_pipe(), &mut self.output, most) {
                Ok(n) => {
                    stats.bytes_out += n as u64;
                    self.last_write = now;
                    self.sent += n as u64;
                    self.may_send -= n;
                    self.budget -= n;
                    if self.output.is_empty() {
                        self.marks.clear();
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.blocked = true,
                Err(e) => self.fail(e),
            }
        }
    }

    pub(crate) fn fail(&mut self, error: io::Error) {
        self.why = Some(Closed::Error(error));
        self.close_asap = true;
    }
}
