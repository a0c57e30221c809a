//! How much history is kept, and in what form.
//!
//! Segments older than the base are not needed to start again. They stay for replicas that come back
//! late: compressed, up to a size and an age, a whole segment at a time and without a gap up to the
//! first live one. Nobody waits for any of this, and compressing takes long, so it has a thread of
//! its own, which holds the folder's lock only to change names.
//!
//! Bases from before the one in force stay beside them, for this node itself to go back to
//! (`rollback.rs`): while the history goes on from where they stand, and in a part of its room only.
//!
//! Room on the disk goes to the log first: [`Folder::with_room`] and [`Shared::make_room`] give up
//! history before a write is refused.

use super::Options;
use super::error::Error;
use super::folder::{FULL, Folder, is_full};
use super::lz4;
use super::manifest::Entry;
use super::writer::{NEVER, Shared, lock, now_us};
use crate::offset::Offset;
use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// What the names of unfinished files begin with.
pub const TEMPORARY: &str = "temp_";
/// With less room than this on the disk, history is given up ...
const LOW_BYTES: u64 = 64 << 20;
/// ... and with less than so many times the newest segment.
const LOW_SEGMENTS: u64 = 2;
/// Old bases may take one of so many parts of the history's room: segments are of use more often.
const BASES_PART: u64 = 2;
/// How far the history thread stands back where it would share the loop's core. Compressing took a
/// fifth of a busy server's processor time before.
const NICE: libc::c_int = 19;

/// What is to be kept, and the bell that the history thread waits for.
pub struct Retention {
    bytes: AtomicU64,
    ttl_s: AtomicU64,
    segments: usize,
    /// Segments that end after this offset are being read; [`NEVER`] if none is.
    protected: AtomicU64,
    due: Mutex<bool>,
    bell: Condvar,
    stop: AtomicBool,
    /// Bytes allocated to compress with, now.
    working_bytes: AtomicUsize,
    /// Whether there is a thread to do it.
    threaded: bool,
    /// What went wrong last, so that it is told once.
    failed: Mutex<String>,
}

impl Retention {
    pub fn new(options: &Options) -> Retention {
        Retention {
            bytes: AtomicU64::new(options.history_bytes),
            ttl_s: AtomicU64::new(options.history_ttl.as_secs()),
            segments: options.history_segments,
            protected: AtomicU64::new(NEVER),
            due: Mutex::new(false),
            bell: Condvar::new(),
            stop: AtomicBool::new(false),
            working_bytes: AtomicUsize::new(0),
            threaded: options.threads,
            failed: Mutex::default(),
        }
    }

    pub fn set(&self, bytes: u64, ttl: Duration) {
        self.bytes.store(bytes, Ordering::Relaxed);
        self.ttl_s.store(ttl.as_secs(), Ordering::Relaxed);
    }

    pub fn protect(&self, from: Option<Offset>) {
        self.protected.store(from.map_or(NEVER, |from| from.0), Ordering::Relaxed);
    }

    /// Bytes allocated to compress with, now.
    pub fn working_bytes(&self) -> usize {
        self.working_bytes.load(Ordering::Relaxed)
    }

    /// Whether there is to be any history at all.
    pub fn is_on(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > 0 && self.ttl_s.load(Ordering::Relaxed) > 0
    }

    /// Whether what comes before `at` is to be kept for now.
    pub fn keeps_before(&self, at: Offset) -> bool {
        self.is_on() || at.0 > self.protected.load(Ordering::Relaxed)
    }

    /// Whether a segment is being read. Nobody reads old bases.
    fn is_protected(&self, entry: &Entry) -> bool {
        entry.is_kept()
            && entry.end.is_none_or(|end| end.0 > self.protected.load(Ordering::Relaxed))
    }

    /// Ends the history thread at the next frame.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.ring();
    }

    fn ring(&self) {
        *lock(&self.due) = true;
        self.bell.notify_all();
    }
}

impl Shared {
    /// Has the history brought in order: soon by its thread, or, without threads, now. Not to be
    /// called with the folder's lock held.
    pub fn history_due(&self) {
        match self.retention.threaded {
            true => self.retention.ring(),
            false => self.keep_history(now_s()),
        }
    }

    pub fn run_history_thread(&self) {
        // SAFETY: a plain integer. On Linux it is this thread's, and a refusal does no harm.
        unsafe { libc::nice(NICE) };
        loop {
            let mut due = lock(&self.retention.due);
            while !std::mem::take(&mut *due) {
                due = self.retention.bell.wait(due).unwrap_or_else(|e| e.into_inner());
            }
            drop(due);
            if self.retention.stop.load(Ordering::Acquire) {
                return;
            }
            self.keep_history(now_s());
        }
    }

    /// Compresses what is not compressed yet and removes what is too much, at `now_s` seconds since
    /// 1970. The newest first: what is found to be too much need not be compressed.
    pub(super) fn keep_history(&self, now_s: u64) {
        loop {
            let next = {
                let mut folder = lock(&self.folder);
                self.trim(&mut folder, now_s, false);
                folder.manifest.kept().rev().find(|entry| !lz4::is_name(&entry.name)).cloned()
            };
            // What stays only until it is read is not worth it.
            let Some(entry) = next.filter(|_| self.retention.is_on()) else { break };
            match self.compress(&entry) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    self.note_failure(format!("A segment could not be compressed: {error}"));
                    break;
                }
            }
        }
        self.trim(&mut lock(&self.folder), now_s, true);
    }

    /// Compresses one segment; `false` if it was told to stop.
    fn compress(&self, entry: &Entry) -> Result<bool, Error> {
        let (path, temp) = {
            let folder = lock(&self.folder);
            let mut name = std::ffi::OsString::from(TEMPORARY);
            name.push(lz4::name_of(&entry.name));
            (folder.path(&entry.name), folder.path(&name))
        };
        let go_on = || !self.retention.stop.load(Ordering::Relaxed);
        let write = || -> io::Result<Option<u64>> {
            let segment = self.disk.open(&path)?;
            let target = self.disk.create(&temp)?;
            let start = entry.start.unwrap_or_default();
            let working_bytes = &self.retention.working_bytes;
            working_bytes.store(lz4::WORKING_BYTES, Ordering::Relaxed);
            let bytes = lz4::compress(&*segment, start, entry.covers(), &*target, &go_on);
            working_bytes.store(0, Ordering::Relaxed);
            bytes
        };
        let bytes = loop {
            match write() {
                Ok(Some(bytes)) => break bytes,
                Ok(None) => {
                    let _ = self.disk.remove(&temp);
                    return Ok(false);
                }
                Err(error) => {
                    let _ = self.disk.remove(&temp);
                    let mut folder = lock(&self.folder);
                    let oldest = folder.oldest();
                    let older = oldest.filter(|oldest| !self.retention.is_protected(oldest));
                    match older.is_some_and(|older| is_full(&error) && older != entry) {
                        true => drop(folder.remove_oldest(FULL)),
                        false => return Err(Error::io("compress", &path)(error)),
                    }
                }
            }
        };
        let mut folder = lock(&self.folder);
        if !folder.manifest.entries.contains(entry) {
            let _ = self.disk.remove(&temp); // a reset came between, or it had to make room
            return Ok(true);
        }
        folder.replace_kept(entry, &temp, bytes)?;
        Ok(true)
    }

    /// Removes what is not to be kept: what does not reach up to the live segments or can not be
    /// read, what is too old or too much and nobody reads, and what leaves too little room. The segment
    /// that is going to be compressed next has no size yet, unless `all_sizes` are to count.
    ///
    /// An old base counts before the segments that are older, and goes before them if it has too
    /// much: those are of use without it.
    fn trim(&self, folder: &mut Folder, now_s: u64, all_sizes: bool) {
        let retention = &self.retention;
        let unreadable: Vec<PathBuf> = {
            let listed = lock(&self.segments);
            listed.iter().filter(|s| s.unreadable.is_set()).map(|s| s.path.clone()).collect()
        };
        let most_bytes = retention.bytes.load(Ordering::Relaxed);
        let ttl_s = retention.ttl_s.load(Ordering::Relaxed);
        let mut next = folder.manifest.segments().next().and_then(|entry| entry.start);
        let (mut bytes, mut keep, mut why) = (0u64, 0, "");
        let mut has_size = all_sizes;
        let old_bases: Vec<Entry> = folder.manifest.old_bases().into_iter().cloned().collect();
        let (mut kept_bases, mut bases_bytes) = (HashSet::new(), 0u64);
        // Newest first, as the segments are gone through. Of two at one place the newer counts.
        let mut bases = old_bases.iter().peekable();
        for entry in folder.manifest.kept().rev() {
            if lz4::is_name(&entry.name) || std::mem::replace(&mut has_size, true) {
                bytes += folder.kept_bytes(entry);
            }
            let age_s = now_s.saturating_sub(entry.sealed_s.unwrap_or(0));
            why = if entry.end != next {
                "it ends before the log begins"
            } else if unreadable.contains(&folder.path(&entry.name)) {
                "it can not be read"
            } else if !retention.is_on() && !retention.is_protected(entry) {
                "no history is to be kept"
            } else if !retention.is_protected(entry) && age_s > ttl_s {
                "it is older than repl-history-ttl"
            } else if bytes > most_bytes && !retention.is_protected(entry) {
                "the history is larger than repl-history-size"
            } else if keep >= retention.segments && !retention.is_protected(entry) {
                "the history has too many segments"
            } else {
                next = entry.start;
                keep += 1;
                while bases.next_if(|base| base.start > next).is_some() {}
                if let Some(base) = bases.next_if(|base| base.start == next) {
                    let size = folder.kept_bytes(base);
                    if bases_bytes + size <= most_bytes / BASES_PART && bytes + size <= most_bytes {
                        kept_bases.insert(&base.name);
                        (bytes, bases_bytes) = (bytes + size, bases_bytes + size);
                    }
                }
                continue;
            };
            break;
        }
        let surplus = folder.manifest.kept().count() - keep;
        let segments: Vec<Entry> = folder.manifest.kept().take(surplus).cloned().collect();
        segments.iter().for_each(|entry| folder.remove_history(entry, Some(why)));
        for base in old_bases.iter().filter(|base| !kept_bases.contains(&base.name)) {
            // Without the segment that goes on from it, it goes untold.
            let goes_on = folder.manifest.kept().any(|entry| entry.start == base.start);
            let why = goes_on.then_some("it takes too much of repl-history-size");
            folder.remove_history(base, why);
        }
        self.leave_room(folder);
        if folder.is_stale {
            let manifest = folder.manifest.clone();
            if let Err(error) = folder.store(manifest) {
                self.note_failure(error.to_string());
            }
        }
    }

    /// Gives up history that nobody reads while the disk runs low.
    fn leave_room(&self, folder: &mut Folder) {
        let wanted = LOW_BYTES.max(self.newest_bytes(folder).saturating_mul(LOW_SEGMENTS));
        loop {
            let oldest = folder.oldest();
            let may_go = oldest.is_some_and(|oldest| !self.retention.is_protected(oldest));
            let is_low = || self.disk.free_bytes(&folder.dir).is_ok_and(|free| free < wanted);
            if !may_go || !is_low() {
                return;
            }
            folder.remove_oldest("the disk runs low");
        }
    }

    /// The size of the newest segment: the one that is written, or the last that is whole.
    fn newest_bytes(&self, folder: &Folder) -> u64 {
        let manifest = &folder.manifest;
        let begun = manifest.segments().next_back().and_then(|entry| entry.start);
        let written = self.written.load(Ordering::Relaxed);
        let begun_bytes = begun.map_or(0, |start| written.saturating_sub(start.0));
        let sealed = manifest.segments().rfind(|entry| entry.end.is_some());
        let sealed_bytes = sealed.or(manifest.kept().next_back()).map_or(0, Entry::covers);
        begun_bytes.max(sealed_bytes)
    }

    /// After an error: if the disk is full, gives up the oldest history, also such as somebody
    /// reads. Says whether there may be room now.
    pub(super) fn make_room(&self, error: &io::Error) -> bool {
        if !is_full(error) {
            return false;
        }
        let removed = lock(&self.folder).remove_oldest(FULL).is_some();
        if removed {
            self.retention.ring(); // the manifest is to be stored once there is room
        }
        removed
    }

    fn note_failure(&self, what: String) {
        let mut failed = lock(&self.retention.failed);
        if *failed != what {
            lock(&self.notes).push(what.clone());
            *failed = what;
        }
    }
}

/// Seconds since 1970.
pub fn now_s() -> u64 {
    now_us() / 1_000_000
}
