//! The loop's part of the index: what was appended, in stretches, each with its time and CRC-32C.
//!
//! The checksum is taken at the end of the turn that appended the bytes, while they are in the
//! processor's cache. Reading them back for it later cost three times as much.

use super::index::{CHUNK_BYTES, CRC};
use super::tail::Tail;
use super::writer::now_us;
use crate::offset::Offset;
use crc_fast::Digest;
use std::collections::VecDeque;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A stretch ends when it is this old.
const OLD_US: u64 = 1_000_000;
/// More than this at once is not looked at here: the loop would be held up.
const INLINE_BYTES: u64 = 1 << 20;

/// A stretch of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub start: Offset,
    pub end: Offset,
    /// When its last byte had been appended: microseconds since 1970.
    pub time_us: u64,
    /// CRC-32C of its bytes. Without one it may be longer than a record, and the bytes are to be read
    /// from the file.
    pub crc: Option<u32>,
}

/// Stretches that the index does not have yet.
pub struct Marks {
    start: Offset,
    end: Offset,
    crc: Digest,
    last_us: u64,
    done: VecDeque<Mark>,
    /// Bytes allocated for those that were taken and are not in the index yet.
    taken_bytes: Arc<AtomicUsize>,
}

/// Stretches on their way to the index.
pub struct Taken {
    marks: Vec<Mark>,
    bytes: Arc<AtomicUsize>,
}

impl Deref for Taken {
    type Target = [Mark];

    fn deref(&self) -> &[Mark] {
        &self.marks
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.bytes.fetch_sub(self.marks.capacity() * size_of::<Mark>(), Ordering::Relaxed);
    }
}

impl Marks {
    /// For a log that is about to be appended to at `at`.
    pub fn new(at: Offset) -> Marks {
        let crc = Digest::new(CRC);
        let (done, taken_bytes) = (VecDeque::new(), Arc::default());
        Marks { start: at, end: at, crc, last_us: now_us(), done, taken_bytes }
    }

    /// Takes in what was appended up to the tail's end.
    pub fn add(&mut self, tail: &Tail) {
        if tail.end() - self.end > INLINE_BYTES {
            self.cut();
            self.end = tail.end();
            self.push(None);
            return;
        }
        for piece in tail.pieces(self.end, tail.end()) {
            let mut bytes = piece.bytes();
            while !bytes.is_empty() {
                let room = CHUNK_BYTES - (self.end - self.start);
                let (now, later) = bytes.split_at(bytes.len().min(room as usize));
                self.crc.update(now);
                self.end += now.len() as u64;
                bytes = later;
                if self.end - self.start == CHUNK_BYTES {
                    self.cut();
                }
            }
        }
    }

    /// Ends the stretch that is being gathered if it is old enough. To be called several times a second.
    pub fn cut_old(&mut self) {
        if now_us().saturating_sub(self.last_us) >= OLD_US {
            self.cut();
        }
    }

    /// Ends the stretch that is being gathered.
    pub fn cut(&mut self) {
        if self.start < self.end {
            let crc = self.crc.finalize_reset() as u32;
            self.push(Some(crc));
        }
    }

    fn push(&mut self, crc: Option<u32>) {
        self.last_us = now_us();
        self.done.push_back(Mark { start: self.start, end: self.end, time_us: self.last_us, crc });
        self.start = self.end;
    }

    /// How many bytes the stretches hold that are not taken.
    pub fn bytes(&self) -> u64 {
        self.done.front().map_or(0, |oldest| self.start - oldest.start)
    }

    /// Whether a stretch waits that is old enough for the index.
    pub fn is_due(&self) -> bool {
        self.done.front().is_some_and(|mark| now_us().saturating_sub(mark.time_us) >= OLD_US)
    }

    /// The stretches up to `upto`.
    pub fn take(&mut self, upto: Offset) -> Taken {
        let ready = self.done.partition_point(|mark| mark.end <= upto);
        let marks: Vec<Mark> = self.done.drain(..ready).collect();
        self.taken_bytes.fetch_add(marks.capacity() * size_of::<Mark>(), Ordering::Relaxed);
        Taken { marks, bytes: self.taken_bytes.clone() }
    }

    /// What is allocated for the stretches that the index does not have yet, in bytes.
    pub fn memory(&self) -> usize {
        self.done.capacity() * size_of::<Mark>() + self.taken_bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::index::crc32c;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// However the log is appended to and cut, the stretches cover it without a gap and their
        /// checksums are those of its bytes.
        #[test]
        fn stretches_cover_the_log(
            appends in prop::collection::vec((0..200_000usize, any::<bool>()), 1..12),
            large in any::<bool>(),
        ) {
            let start = Offset(77);
            let mut tail = Tail::new(start, u64::MAX);
            let mut marks = Marks::new(start);
            let mut log = Vec::new();
            for (i, &(n, cut)) in appends.iter().enumerate() {
                let n = if large && i == 1 { n + (2 << 20) } else { n };
                let bytes: Vec<u8> = (0..n).map(|b| (b * 13 + i) as u8).collect();
                tail.append(&bytes);
                log.extend_from_slice(&bytes);
                marks.add(&tail);
                if cut {
                    marks.cut();
                    let taken: Vec<Mark> = marks.done.iter().copied().collect();
                    prop_assert_eq!(taken.last().map_or(start, |mark| mark.end), tail.end());
                }
            }
            let half = start + log.len() as u64 / 2;
            marks.cut();
            let mut taken = marks.take(half).to_vec();
            prop_assert!(taken.iter().all(|mark| mark.end <= half));
            let rest = marks.take(tail.end());
            prop_assert!(marks.memory() >= rest.len() * size_of::<Mark>());
            taken.extend_from_slice(&rest);
            drop(rest);
            prop_assert_eq!(marks.memory(), marks.done.capacity() * size_of::<Mark>());
            prop_assert_eq!(marks.bytes(), 0);
            let mut at = start;
            for mark in &taken {
                prop_assert_eq!(mark.start, at);
                at = mark.end;
                let bytes = &log[(mark.start - start) as usize..(mark.end - start) as usize];
                match mark.crc {
                    Some(crc) => {
                        prop_assert_eq!(crc, crc32c(bytes));
                        prop_assert!(bytes.len() as u64 <= CHUNK_BYTES);
                    }
                    None => prop_assert!(bytes.len() as u64 > INLINE_BYTES),
                }
            }
            prop_assert_eq!(at, tail.end());
        }
    }
}
