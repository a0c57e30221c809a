//! Behind the log's end: what was written lately goes to the disk, and the system's copy in memory
//! of what is there is given back.
//!
//! Otherwise a second's writes lie in the page cache until the sync, in memory that nothing used
//! before, and stay there until something else needs it, counting against a container's limit. Few
//! read them there: near replicas are fed from the log's tail. So every MiB the slow thread has the disk
//! begin with the newest and gives back what is older; the next writes find these pages again, some of
//! them still in the processor's cache. On a virtual machine memory that the system has never used, or
//! has left unused for some seconds, may have to come from the host first, for up to 11 µs a page.
//!
//! No promise rests on it: what a power cut may take is the sync's matter.

use super::writer::{NEVER, Shared, lock};
use std::sync::atomic::Ordering;

/// The loop asks for it each time that so many bytes were written. In larger pieces the work costs no
/// less, and keeps a core that the two threads share for longer.
pub(super) const STEP: u64 = if cfg!(test) { 10 } else { 1 << 20 };
/// This much stays: the disk is at work on it, and replicas may just have left the tail behind.
const NEWEST: u64 = if cfg!(test) { 100 } else { 4 << 20 };

impl Shared {
    /// Has the disk begin with the whole pieces that it has not, and gives back all but the newest. Waits for what the disk was given earlier: not for the loop or the log thread.
    pub(super) fn write_behind(&self) {
        let (open, position) = {
            let sink = lock(&self.sink);
            let Some(open) = sink.segment.clone() else { return };
            (open, sink.position)
        };
        // After a failed sync the only good copy may be the one in memory.
        if self.sync_failed_at.load(Ordering::Relaxed) != NEVER {
            return;
        }
        let size = position - open.start;
        // Whole pieces only: where a page must stay as it is while the disk takes it (RAID, checksums),
        // the loop's next write would wait for the one that it has begun.
        open.file.begin_sync(size / STEP * STEP);
        if size > NEWEST
            && let Err(error) = open.file.forget(size - NEWEST)
        {
            self.sync_failed(self.written.load(Ordering::Acquire), error);
        }
    }
}
