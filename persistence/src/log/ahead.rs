//! Space on disk ahead of the log's end, asked for in large steps.
//!
//! A write to where the file has its blocks already costs the kernel a quarter less than one that
//! takes each block by itself. The file's size stays what was written, so no reader sees a
//! difference; what is left over is given back when the segment ends and when the log is closed.

use super::writer::{NEVER, Shared, lock};
use crate::offset::Offset;
use std::sync::atomic::Ordering;

/// A segment takes its first bytes without: most servers write little.
const FIRST_BYTES: u64 = 1 << 20;
/// The most that is asked for at a time.
const MOST_BYTES: u64 = 256 << 20;
/// A step takes no more than this part of what is free.
const PART_OF_FREE: u64 = 16;

/// Where the first step of a segment is due that begins at `start`.
pub(super) fn first_step(start: Offset) -> Offset {
    start + FIRST_BYTES
}

impl Shared {
    /// Whether a step is due when the log is written up to `written`; then it is not again before
    /// [`Shared::reserve`].
    pub fn is_step_due(&self, written: Offset) -> bool {
        let due = written.0 >= self.step_due.load(Ordering::Relaxed);
        if due {
            self.step_due.store(NEVER, Ordering::Relaxed);
        }
        due
    }

    /// Asks for as much as the segment has, within bounds. Where that can not be had, the segment is
    /// written without.
    pub(super) fn reserve(&self) {
        let (open, epoch, position) = {
            let sink = lock(&self.sink);
            let Some(open) = sink.segment.clone() else { return };
            (open, sink.epoch, sink.position)
        };
        let size = position - open.start;
        let step = size.clamp(FIRST_BYTES, MOST_BYTES);
        let free = self.disk.free_bytes(&self.dir).unwrap_or(0);
        if step > free / PART_OF_FREE || open.file.reserve(size, step).is_err() {
            return;
        }
        let sink = lock(&self.sink);
        if sink.still_writes(&open, epoch) {
            self.step_due.store((position + step / 2).0, Ordering::Relaxed);
        }
    }
}
