//! The system's copy in memory of the log behind its end.
//!
//! What is written stays in the page cache until something else needs the memory, and counts against
//! a container's limit meanwhile. Few read it there: near replicas are fed from the log's tail. So
//! what is on disk is given back but for the newest of it, and the next writes find these pages
//! again. On a virtual machine that matters for speed too: memory that the system has never used, or
//! has left unused for some seconds, may have to come from the host first, for up to 11 µs a page.

use super::sink::Open;
use super::writer::Shared;
use std::sync::atomic::Ordering;

/// This much stays, for replicas that have just left the tail behind.
const NEWEST: u64 = if cfg!(test) { 100 } else { 16 << 20 };
/// Given back by so many bytes at a time, so that under `always` not every sync does it.
const STEP: u64 = if cfg!(test) { 10 } else { 4 << 20 };

impl Shared {
    /// Gives back what a step makes due, `open` being on disk up to the offset `synced`.
    pub(super) fn forget_behind(&self, open: &Open, synced: u64) {
        let upto = synced.saturating_sub(NEWEST);
        // After a reset the offsets may be smaller ones.
        let step = upto.abs_diff(self.forgotten.load(Ordering::Relaxed));
        if step >= STEP && upto > open.start.0 {
            self.forgotten.store(upto, Ordering::Relaxed);
            open.file.forget(upto - open.start.0);
        }
    }
}
