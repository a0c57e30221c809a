//! Where the log's bytes enter a file: pieces of the tail in order, one segment open.
//!
//! The place of a byte in its segment is its offset minus the segment's start, so a write that was
//! cut short, or failed, is continued exactly where it stopped, and making one again does no harm.
//! Whoever writes (the loop at the end of a turn, or the log thread) does so under one lock.

use super::disk::DiskFile;
use super::tail::Piece;
use crate::offset::Offset;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// The most pieces in one write: 4 MiB.
const PIECES: usize = 64;

/// The segment that is written.
#[derive(Clone)]
pub struct Open {
    pub file: Arc<dyn DiskFile>,
    pub start: Offset,
}

/// What is between the tail and the segment.
pub struct Sink {
    /// `None` while a reset has not been able to make one.
    pub segment: Option<Open>,
    /// The offset after the last byte that the kernel took.
    pub position: Offset,
    /// Whether the manifest's newest name may still be lost in a power cut.
    pub dir_dirty: bool,
    /// Counts resets: what began in an earlier epoch must not touch this one's files.
    pub epoch: u64,
    queue: VecDeque<Piece>,
    /// Where the last whole turn that was pushed ends.
    turn_end: Offset,
}

impl Sink {
    /// A sink that has written all before `position`.
    pub fn new(segment: Option<Open>, position: Offset) -> Sink {
        Sink {
            segment,
            position,
            dir_dirty: false,
            epoch: 0,
            queue: VecDeque::new(),
            turn_end: position,
        }
    }

    /// Adds a piece, which must continue the one before; `ends_turn` if it is its turn's last.
    pub fn push(&mut self, piece: Piece, ends_turn: bool) {
        if ends_turn {
            self.turn_end = piece.end();
        }
        if let Some(last) = self.queue.back_mut()
            && Arc::ptr_eq(&last.block, &piece.block)
            && last.range.end == piece.range.start
        {
            last.range.end = piece.range.end;
            return;
        }
        self.queue.push_back(piece);
    }

    /// Whether `segment`, which was written in `epoch`, still is the one that is.
    pub fn still_writes(&self, segment: &Open, epoch: u64) -> bool {
        let same = |now: &Open| now.start == segment.start;
        self.epoch == epoch && self.segment.as_ref().is_some_and(same)
    }

    /// Whether everything pushed has been written.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether all is written, up to the end of a turn: never inside a command.
    pub fn is_at_turn_end(&self) -> bool {
        self.queue.is_empty() && self.position == self.turn_end
    }

    /// Forgets what was pushed and not written, and the segment; what comes next is at `position`
    /// of another epoch.
    pub fn abandon(&mut self, position: Offset, epoch: u64) {
        self.queue.clear();
        self.segment = None;
        self.position = position;
        self.turn_end = position;
        self.dir_dirty = false;
        self.epoch = epoch;
    }

    /// Writes all that was pushed. What is left after an error stays for the next call.
    pub fn drain(&mut self) -> io::Result<()> {
        while !self.queue.is_empty() {
            let Some(segment) = &self.segment else {
                return Err(io::Error::other("the log has no segment to write to"));
            };
            let mut slices = [IoSlice::new(&[]); PIECES];
            let mut count = 0;
            for (slice, piece) in slices.iter_mut().zip(&self.queue) {
                *slice = IoSlice::new(piece.bytes());
                count += 1;
            }
            let mut n = segment.file.write_at(&slices[..count], self.position - segment.start)?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.position += n as u64;
            while let Some(piece) = self.queue.front_mut() {
                let len = piece.range.len();
                if n < len {
                    piece.range.start += n;
                    break;
                }
                n -= len;
                self.queue.pop_front();
            }
        }
        Ok(())
    }
}
