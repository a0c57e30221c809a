//! Where the log's bytes enter a file: pieces of the tail in order, one segment open.
//!
//! The place of a byte in its segment is its offset minus the segment's start, so a write that was
//! cut short, or failed, is continued exactly where it stopped, and making one again does no harm.
//!
//! Much at once goes to the disk from where it lies, in whole pages; little goes through the page cache, and
//! so does everything while the disk is slower than the log grows. After a power cut the file must have no
//! hole: a direct write may be there and a cached one before it not. So one is only made if a sync had
//! all before it, or it writes those bytes again, for which the newest of them are kept in sight.

use super::disk::DiskFile;
use super::tail::Piece;
use crate::offset::Offset;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::sync::Arc;

/// The most pieces in one write: 4 MiB.
const PIECES: usize = 64;
/// With more than this waiting, the disk is slower than the log grows, and the page cache takes it up.
const BEHIND_BYTES: u64 = 4 << 20;
/// Less than this goes through the page cache: the disk is asked once, by the sync, and not twice.
const DIRECT_BYTES: u64 = if cfg!(test) { 100 } else { 64 * 1024 };
/// As much is kept in sight of what went through the page cache, for a direct write to overwrite.
const AGAIN_BYTES: u64 = if cfg!(test) { 300 } else { 512 * 1024 };
/// Direct writes begin at a multiple of this in the file.
const UNIT: u64 = if cfg!(test) { 16 } else { super::block::PAGE as u64 };

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
    /// What is to be written, and before that the newest of what went through the page cache.
    queue: VecDeque<Piece>,
    /// From where on, and up to where, bytes went through the page cache that no sync had.
    cached: Option<(Offset, Offset)>,
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
            cached: None,
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
        self.drop_pieces(Offset(self.position.0.saturating_sub(AGAIN_BYTES)));
        self.queue.push_back(piece);
    }

    /// Whether `segment`, which was written in `epoch`, still is the one that is.
    pub fn still_writes(&self, segment: &Open, epoch: u64) -> bool {
        let same = |now: &Open| now.start == segment.start;
        self.epoch == epoch && self.segment.as_ref().is_some_and(same)
    }

    /// Whether everything pushed has been written.
    pub fn is_empty(&self) -> bool {
        self.waiting() == 0
    }

    /// How many bytes are to be written.
    fn waiting(&self) -> u64 {
        self.queue.back().map_or(0, |last| last.end() - self.position)
    }

    /// Whether all is written, up to the end of a turn: never inside a command.
    pub fn is_at_turn_end(&self) -> bool {
        self.is_empty() && self.position == self.turn_end
    }

    /// Forgets what was pushed and not written, and the segment; what comes next is at `position`
    /// of another epoch.
    pub fn abandon(&mut self, position: Offset, epoch: u64) {
        self.queue.clear();
        self.segment = None;
        self.cached = None;
        self.position = position;
        self.turn_end = position;
        self.dir_dirty = false;
        self.epoch = epoch;
    }

    /// What is written from `start` on goes into `file`, which has been given what there is already,
    /// through the page cache.
    pub fn begin_segment(&mut self, file: Arc<dyn DiskFile>, start: Offset) {
        self.segment = Some(Open { file, start });
        self.cached = (start < self.position).then_some((start, self.position));
        self.drop_pieces(start);
    }

    /// A sync had all before `upto`.
    pub fn note_synced(&mut self, upto: Offset) {
        self.cached =
            self.cached.filter(|(_, end)| *end > upto).map(|(at, end)| (at.max(upto), end));
        self.drop_pieces(upto.min(self.position));
    }

    /// Lets go what is before `upto`, but for the beginning of a page.
    fn drop_pieces(&mut self, upto: Offset) {
        while self.queue.front().is_some_and(|piece| piece.end() <= upto) {
            self.queue.pop_front();
        }
        if let (Some(first), Some(segment)) = (self.queue.front_mut(), &self.segment) {
            let page = upto.0.saturating_sub(upto.0.saturating_sub(segment.start.0) % UNIT);
            first.range.start += page.saturating_sub(first.start().0) as usize;
        }
    }

    /// Whether a sync would let the disk take what waits from where it lies. Else, after a power cut, that
    /// could be there and what is before it not.
    pub fn wants_sync(&self) -> bool {
        self.direct_from().is_some_and(|(from, _)| self.has_cached_before(from))
    }

    fn has_cached_before(&self, direct_from: Offset) -> bool {
        self.cached.is_some_and(|(from, _)| from < direct_from)
    }

    /// Where a direct write of what waits begins, if it is worth it, and how many bytes before the queue
    /// come with it: those of a page that is begun, from where they lie in memory.
    fn direct_from(&self) -> Option<(Offset, usize)> {
        let segment = self.segment.as_ref()?;
        if !(DIRECT_BYTES..=BEHIND_BYTES).contains(&self.waiting()) {
            return None;
        }
        let first = self.queue.front()?;
        let back = (first.start() - segment.start) % UNIT;
        let has_page = first.range.start as u64 >= back;
        has_page.then(|| (Offset(first.start().0 - back), back as usize))
    }

    /// Writes all that was pushed. What is left after an error stays for the next call.
    pub fn drain(&mut self) -> io::Result<()> {
        while !self.is_empty() {
            if !self.write_directly()? {
                self.write_cached()?;
            }
        }
        Ok(())
    }

    /// Whether the disk took something from where it lies.
    fn write_directly(&mut self) -> io::Result<bool> {
        let (Some(segment), Some((from, back))) = (&self.segment, self.direct_from()) else {
            return Ok(false);
        };
        if self.has_cached_before(from) {
            return Ok(false);
        }
        let (mut slices, count) = self.slices(0);
        if let Some(first) = self.queue.front() {
            let whole = (*first.block).as_ref();
            slices[0] = IoSlice::new(&whole[first.range.start - back..first.range.end]);
        }
        let n = segment.file.write_direct(&slices[..count], from - segment.start)?;
        let position = from + n.unwrap_or(0) as u64;
        if position <= self.position {
            return Ok(false);
        }
        self.position = position;
        self.cached = None;
        self.drop_pieces(position);
        Ok(true)
    }

    fn write_cached(&mut self) -> io::Result<()> {
        let Some(segment) = &self.segment else {
            return Err(io::Error::other("the log has no segment to write to"));
        };
        let (from, written) = (self.position, |piece: &Piece| piece.end() <= self.position);
        let skipped = self.queue.partition_point(written);
        let (mut slices, count) = self.slices(skipped);
        let first = &self.queue[skipped];
        slices[0] = IoSlice::new(&first.bytes()[(from - first.start()) as usize..]);
        let n = segment.file.write_at(&slices[..count], from - segment.start)?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.position += n as u64;
        let since = self.cached.map_or(from, |(since, _)| since);
        self.cached = Some((since, self.position));
        self.drop_pieces(Offset(self.position.0.saturating_sub(AGAIN_BYTES)));
        Ok(())
    }

    /// The pieces from number `first` on, as many as one write takes.
    fn slices(&self, first: usize) -> ([IoSlice<'_>; PIECES], usize) {
        let mut slices = [IoSlice::new(&[]); PIECES];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(self.queue.iter().skip(first)) {
            *slice = IoSlice::new(piece.bytes());
            count += 1;
        }
        (slices, count)
    }
}
