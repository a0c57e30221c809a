//! The command log: one stream of bytes that every write is appended to, once.
//!
//! [`Log`] is the end that the loop thread owns. [`Log::append`] copies a write's bytes into the
//! memory tail, where [`Log::append_part`] may share a large value, and does nothing else; [`Log::flush`],
//! at the end of a loop turn, sees to it that they get as safe as the policy says; [`Log::released`] says up to where replies and replicas may go.
//! Without `appendonly` the tail is all there is, and is the replication backlog.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `ahead.rs` | space on disk ahead of the end |
//! | `aside.rs` | bytes that leave the log, in a file of their own |
//! | `rollback.rs` | cutting off an end that no other node shares |
//! | `syncs.rs` | when `everysec` syncs, and how much it may acknowledge meanwhile |
//! | `block.rs`, `tail.rs` | the memory tail: blocks that one appends and many read |
//! | `pool.rs`, `mapping.rs` | blocks of the tail that outlive the process, and their memory |
//! | `on_disk.rs` | the loop's part of keeping it on disk: what is handed over, and when |
//! | `writer.rs` | the log's threads: writes, syncs, rotation, bases |
//! | `sink.rs` | from pieces of the tail to a segment's file, however writes end |
//! | `marks.rs`, `index.rs` | the sidecar index: the loop's part, and the file |
//! | `history.rs`, `lz4.rs` | segments older than the base: which are kept, in which form |
//! | `folder.rs`, `manifest.rs`, `lock.rs` | the folder and the formats in it |
//! | `recover.rs`, `replay.rs` | what a folder holds at start |
//! | `strays.rs` | files in it that belong to no log |
//! | `reader.rs` | segments, read by offset, for a replica that the tail has left behind |
//! | `disk.rs`, `error.rs` | the file system behind a trait; what can go wrong |

mod ahead;
mod aside;
pub mod block;
pub mod disk;
pub mod error;
#[cfg(any(test, feature = "fake-disk"))]
pub mod fake;
mod folder;
mod history;
#[cfg(test)]
mod history_tests;
pub mod index;
mod lock;
pub mod lz4;
pub mod manifest;
mod mapping;
mod marks;
mod on_disk;
mod pool;
pub mod reader;
pub mod recover;
pub mod replay;
pub mod rollback;
mod sink;
mod strays;
mod syncs;
pub mod tail;
#[cfg(test)]
mod tests;
mod writer;

pub use aside::{Ending, TailFile};
pub use block::Block;
pub use disk::{Disk, OsDisk};
pub use error::Error;
pub use folder::{NewBase, SegmentInfo};
pub use lock::{DirLock, LOCK_FILE, is_locked, lock_dir};
pub use reader::SegmentReader;
pub use recover::{Base, BaseKind, Recovered, Replayed, recover};
pub use rollback::{NotRolledBack, roll_back};
pub use tail::{Cursor, Piece};

use crate::offset::{Histories, HistoryId, Offset};
use aside::Places;
use folder::Folder;
use manifest::{FileType, Manifest};
use marks::Marks;
use on_disk::{Cut, OnDisk};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use syncs::Syncs;
use tail::Tail;
use varve_engine::effects::Part;
use writer::{Reset, WriteJob, lock};

/// Called, from another thread, when the log has got further or something happened to it.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// A primary says again which database is selected after this many bytes, so that a segment may
/// begin there, on a replica too.
const SELECT_EVERY: u64 = 4 << 20;
/// An argument up to this long is copied once more before it is appended with what surrounds it.
const SMALL_PART: usize = 1024;
/// With more than this to be written, the log is behind: a pool does not hold it.
const MOST_UNWRITTEN: u64 = (pool::MOST_BLOCKS * block::BLOCK_BYTES) as u64;
/// More than this at once is added in pieces.
const LONG: usize = 1024 * 1024;

/// When written bytes are made durable: `appendfsync`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    Always,
    EverySec,
    No,
}

impl Fsync {
    /// The word that the configuration uses.
    pub fn as_str(self) -> &'static str {
        match self {
            Fsync::Always => "always",
            Fsync::EverySec => "everysec",
            Fsync::No => "no",
        }
    }

    /// The policy that the configuration's word means.
    pub fn parse(word: &str) -> Option<Fsync> {
        [Fsync::Always, Fsync::EverySec, Fsync::No].into_iter().find(|f| f.as_str() == word)
    }
}

/// How to keep a log on disk.
#[derive(Clone)]
pub struct Options {
    /// The folder of the log's files (`dir` joined with `appenddirname`).
    pub dir: PathBuf,
    /// What the files' names begin with: `appendfilename`.
    pub base_name: OsString,
    pub fsync: Fsync,
    /// How much history to keep in memory, in bytes: `repl-backlog-size`.
    pub tail_bytes: u64,
    /// A segment this long is ended at the next chance ([`Log::rotate_if_large`]).
    pub max_segment_bytes: u64,
    /// Whether an incomplete command at the log's end is dropped at start: `aof-load-truncated`.
    pub load_truncated: bool,
    /// How much of what is older than the base is kept, in bytes of the compressed files:
    /// `repl-history-size`; 0 for none.
    pub history_bytes: u64,
    /// How old that may be: `repl-history-ttl`, in whole seconds; 0 for none.
    pub history_ttl: Duration,
    /// How many segments of it, however small: each is a file or two, and a line of a manifest that every
    /// snapshot writes anew.
    pub history_segments: usize,
    /// How many blocks of 64 KiB the pool has; 0 for none.
    pub pool_blocks: usize,
    /// Whether this process has the folder to itself ([`lock_dir`]). If not, [`recover()`] changes nothing,
    /// and reads what a daemon may be writing as it is at one moment.
    pub alone: bool,
    /// Without threads every job is done by the call that asks for it: for simulations.
    pub threads: bool,
    pub disk: Arc<dyn Disk>,
}

impl Options {
    /// The usual choices for a folder and a name.
    pub fn new(dir: PathBuf, base_name: impl Into<OsString>) -> Options {
        Options {
            dir,
            base_name: base_name.into(),
            fsync: Fsync::EverySec,
            tail_bytes: 1 << 20,
            max_segment_bytes: 1 << 30,
            load_truncated: true,
            history_bytes: 1 << 30,
            history_ttl: Duration::from_secs(24 * 3600),
            history_segments: 2048, // one a minute makes 1,440 in a day
            pool_blocks: pool::MOST_BLOCKS,
            alone: true,
            threads: true,
            disk: Arc::new(OsDisk),
        }
    }
}

/// Something that the log's threads have finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A segment begins at `at`, as [`Log::begin_rotation`] asked.
    Rotated { at: Offset, result: Result<(), String> },
    /// The base given to [`Log::install_base`] or [`Log::reset`] is in force.
    BaseInstalled { at: Offset, result: Result<(), String> },
}

/// What `INFO persistence` shows of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Base and live segments, in bytes: `aof_current_size`.
    pub current_bytes: u64,
    /// `current_bytes` after the last new base or the start: `aof_base_size`.
    pub base_bytes: u64,
    /// Appended and not yet in a segment: `aof_buffer_length`.
    pub unwritten_bytes: u64,
    /// `aof_pending_bio_fsync`.
    pub pending_syncs: u64,
    /// `aof_delayed_fsync`.
    pub delayed_syncs: u64,
    /// The oldest offset in memory.
    pub first_in_memory: Offset,
    /// The oldest offset in a live segment, if the log is on disk.
    pub first_live: Option<Offset>,
    /// The oldest offset in the history, if there is any.
    pub first_in_history: Option<Offset>,
    /// Live segments, in bytes.
    pub live_bytes: u64,
    pub history_segments: u64,
    /// The history's files, in bytes, without old bases.
    pub history_bytes: u64,
    pub old_bases: u64,
    pub old_bases_bytes: u64,
}

/// A new, random name for a history.
pub fn random_history() -> io::Result<HistoryId> {
    let mut bits = [0; 20];
    File::open("/dev/urandom")?.read_exact(&mut bits)?;
    Ok(HistoryId::from_random(bits))
}

/// The loop thread's end of the log.
pub struct Log {
    tail: Tail,
    /// Where commands begin in the tail.
    places: Places,
    histories: Histories,
    /// Whether this node took the current name itself.
    own: bool,
    /// The database that is selected at the end.
    db: u32,
    /// Whether the next write must say its database all the same.
    select_due: bool,
    last_select: Offset,
    in_multi: bool,
    scratch: Vec<u8>,
    /// What [`Log::hold`] keeps in the tail.
    held: Option<Offset>,
    on_disk: Option<OnDisk>,
    waker: Waker,
}

impl Log {
    /// A log without files: the tail is the replication backlog.
    pub fn in_memory(histories: Histories, start: Offset, tail_bytes: u64, waker: Waker) -> Log {
        let mut places = Places::default();
        places.note(start, 0);
        Log {
            tail: Tail::new(start, tail_bytes),
            places,
            histories,
            own: true,
            db: 0,
            select_due: true,
            last_select: start,
            in_multi: false,
            scratch: Vec::new(),
            held: None,
            on_disk: None,
            waker,
        }
    }

    /// A log in a folder that has none, for a dataset that is empty at `start`.
    pub fn create(
        options: Options,
        histories: Histories,
        start: Offset,
        waker: Waker,
    ) -> Result<Log, Error> {
        let dir = options.dir.clone();
        options.disk.create_dir(&dir).map_err(Error::io("create", &dir))?;
        let recovered = Recovered::nothing(&options, histories, start)?;
        Log::resume(recovered, histories, options, waker)
    }

    /// Goes on with a log that was recovered and replayed (one that was not is read now, and its
    /// commands are dropped). `histories` is what the log is from now
    /// on: [`Recovered::histories_after_restart`], or for a replica the ones it had.
    pub fn resume(
        mut recovered: Recovered,
        histories: Histories,
        options: Options,
        waker: Waker,
    ) -> Result<Log, Error> {
        if !recovered.is_replayed() {
            recovered.replay::<Error>(&mut |_| Ok(()))?;
        }
        let mut log = Log::in_memory(histories, recovered.end(), options.tail_bytes, waker);
        // Under a name whose end was lost, this node too may not go on: others may hold that end.
        log.own = recovered.histories() != Some(histories)
            || (recovered.owns_name() && recovered.is_lossless());
        log.attach(OnDisk::open(recovered, options, (histories, log.own), log.waker.clone())?);
        Ok(log)
    }

    fn attach(&mut self, disk: OnDisk) {
        self.tail.set_pool(disk.pool.clone(), disk.segment_start, disk.flushed);
        self.on_disk = Some(disk);
    }

    /// Adds bytes to the history: one or more whole RESP commands, or, on a replica, what its
    /// primary sent. Only copies them; returns the offset after them.
    #[inline]
    pub fn append(&mut self, bytes: &[u8]) -> Offset {
        match bytes.len() <= LONG {
            true => self.tail.append(bytes),
            false => self.append_long(bytes),
        }
        self.tail.end()
    }

    /// Adds what may be more than is kept: where memory alone has it, its beginning makes room for its end.
    #[cold]
    fn append_long(&mut self, mut bytes: &[u8]) {
        if self.on_disk.is_none() && self.held.is_none() {
            let kept = bytes.len().min(self.tail.keep() as usize);
            self.tail.jump((bytes.len() - kept) as u64);
            bytes = &bytes[bytes.len() - kept..];
        }
        for piece in bytes.chunks(LONG) {
            self.tail.append(piece);
            self.trim();
        }
    }

    /// As [`Log::append`], of a part of a command. Where memory alone has the log, a value that is shared is not copied,
    /// unless it is more than is kept: it would stay until as much has come again.
    pub fn append_part(&mut self, part: Part<'_>) {
        match &part {
            Part::Text(text) if self.on_disk.is_none() && text.len() as u64 <= self.tail.keep() => {
                match text.shared() {
                    Some(shared) => self.tail.append_text(shared.clone()),
                    None => self.tail.append(text),
                }
                self.trim();
            }
            _ => _ = self.append(&part),
        }
    }

    /// Adds whole commands that act on database `db`, preceded by `SELECT` where that is needed.
    #[inline]
    pub fn append_in_db(&mut self, db: u32, bytes: &[u8]) -> Offset {
        self.select(db);
        self.append(bytes)
    }

    /// Adds one command, encoded here.
    pub fn append_command<'a>(
        &mut self,
        db: u32,
        parts: impl IntoIterator<Item: Into<Part<'a>>, IntoIter: ExactSizeIterator>,
    ) -> Offset {
        let parts = parts.into_iter();
        self.select(db);
        let mut number = itoa::Buffer::new();
        // Small pieces are gathered first: an append to the tail has a fixed price.
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        scratch.push(b'*');
        scratch.extend_from_slice(number.format(parts.len()).as_bytes());
        for part in parts {
            let part = part.into();
            scratch.extend_from_slice(b"\r\n$");
            scratch.extend_from_slice(number.format(part.len()).as_bytes());
            scratch.extend_from_slice(b"\r\n");
            if part.len() <= SMALL_PART {
                scratch.extend_from_slice(&part);
            } else {
                self.tail.append(&scratch);
                scratch.clear();
                self.append_part(part);
            }
        }
        scratch.extend_from_slice(b"\r\n");
        self.tail.append(&scratch);
        self.scratch = scratch;
        self.tail.end()
    }

    #[inline]
    fn select(&mut self, db: u32) {
        let due = self.tail.end().0 - self.last_select.0 >= SELECT_EVERY && !self.in_multi;
        if self.db != db || self.select_due || due {
            self.append_select(db);
        }
    }

    #[cold]
    fn append_select(&mut self, db: u32) {
        self.last_select = self.tail.end();
        self.db = db;
        self.select_due = false;
        let mut number = itoa::Buffer::new();
        let mut length = itoa::Buffer::new();
        let db = number.format(db);
        self.tail.append(b"*2\r\n$6\r\nSELECT\r\n$");
        self.tail.append(length.format(db.len()).as_bytes());
        self.tail.append(b"\r\n");
        self.tail.append(db.as_bytes());
        self.tail.append(b"\r\n");
    }

    /// Says that what is appended next is inside (or after) `MULTI`, where the history can not be
    /// cut and `SELECT` is only written for another database.
    pub fn set_in_multi(&mut self, in_multi: bool) {
        self.in_multi = in_multi;
    }

    /// The database selected at the end.
    pub fn current_db(&self) -> u32 {
        self.db
    }

    /// Says which database is selected at the end, after [`Log::append`] of bytes that selected it.
    pub fn set_current_db(&mut self, db: u32) {
        self.db = db;
        self.select_due = false;
        self.note_place();
    }

    /// Makes the next write say its database, for readers who begin here.
    pub fn select_again(&mut self) {
        self.select_due = true;
    }

    /// To be called between commands.
    fn note_place(&mut self) {
        if !self.in_multi {
            self.places.note(self.tail.end(), self.db);
        }
    }

    /// The histories that the log belongs to.
    pub fn histories(&self) -> &Histories {
        &self.histories
    }

    /// Gives what is appended from now on another name: one that this node takes itself (a
    /// promotion).
    pub fn take_histories(&mut self, histories: Histories) {
        self.rename(histories, true);
    }

    /// Gives what is appended from now on the name that the primary has for it.
    pub fn set_histories(&mut self, histories: Histories) {
        self.rename(histories, false);
    }

    fn rename(&mut self, histories: Histories, own: bool) {
        self.hand_over();
        (self.histories, self.own) = (histories, own);
        self.select_due = true;
        if let Some(disk) = &mut self.on_disk {
            disk.begin_change();
            disk.writer.write(WriteJob::Rename(Box::new((histories, own))));
        }
    }

    /// The offset after the last byte.
    pub fn end(&self) -> Offset {
        self.tail.end()
    }

    /// Up to where the segments have the log's bytes, on disk or not. Without files, [`Log::end`].
    pub fn written(&self) -> Offset {
        self.on_disk.as_ref().map_or(self.tail.end(), OnDisk::written)
    }

    fn unwritten(&self) -> u64 {
        self.tail.end().0.saturating_sub(self.written().0)
    }

    /// Whether so much waits to be written that no more should be appended: what the disk does not take
    /// stays in memory.
    pub fn is_behind(&self) -> bool {
        self.unwritten() > MOST_UNWRITTEN
    }

    /// Up to where the disk has the log's bytes. Without files, nothing is ever synced, and nothing is while
    /// they are those of before a [`Log::reset`].
    pub fn synced(&self) -> Option<Offset> {
        self.on_disk.as_ref().filter(|disk| disk.is_begun()).map(OnDisk::synced)
    }

    /// Up to where the log is as safe as the policy promises: what a reply must wait for, and a
    /// replica may be sent.
    pub fn released(&self) -> Offset {
        self.on_disk.as_ref().map_or(self.tail.end(), OnDisk::released)
    }

    /// Whether the log is kept on disk.
    pub fn is_on_disk(&self) -> bool {
        self.on_disk.is_some()
    }

    /// The last error, while it lasts. Writes must be refused meanwhile (`-MISCONF`); what was
    /// appended stays in memory and is tried again at each [`Log::tick`].
    #[inline]
    pub fn error(&self) -> Option<String> {
        if self.is_failing() { self.error_text() } else { None }
    }

    #[cold]
    fn error_text(&self) -> Option<String> {
        let shared = &self.on_disk.as_ref()?.writer.shared;
        Some(lock(&shared.error).clone().unwrap_or_default())
    }

    /// Whether [`Log::error`] has something to say.
    #[inline]
    pub fn is_failing(&self) -> bool {
        let failing = |disk: &OnDisk| disk.writer.shared.failing.load(Ordering::Acquire);
        self.on_disk.as_ref().is_some_and(failing)
    }

    /// Whether a sync has failed: nothing that is appended counts as synced before there is a new base.
    pub fn needs_base(&self) -> bool {
        self.on_disk.as_ref().is_some_and(|disk| disk.writer.shared.needs_base())
    }

    /// Gets what was appended on its way to where it is safe: at the end of a loop turn. Never waits.
    pub fn flush(&mut self) {
        self.flush_with(false);
    }

    /// As [`Log::flush`], and leaves nothing to be handed over later.
    fn hand_over(&mut self) {
        self.flush_with(true);
    }

    fn flush_with(&mut self, all: bool) {
        if let Some(disk) = &mut self.on_disk {
            disk.flush(&mut self.tail, all);
        }
        self.trim();
        self.note_place();
    }

    /// Drops from memory what neither files nor replicas need.
    fn trim(&mut self) {
        let needed = self.on_disk.as_ref().map_or(self.tail.end(), |disk| disk.written());
        self.tail.trim(self.held.map_or(needed, |held| held.min(needed)));
        self.tail.relieve_pool(needed);
        self.places.trim(self.tail.first());
    }

    /// Does what is due with time: `everysec`'s sync, another attempt after an error. To be called
    /// about ten times a second.
    pub fn tick(&mut self, now: Instant) {
        if let Some(disk) = &mut self.on_disk {
            disk.tick(now, &mut self.tail);
        }
        self.hand_over();
    }

    /// What was finished since the last call, of the log since [`Log::reset`].
    pub fn take_events(&mut self) -> Vec<Event> {
        let Some(disk) = &mut self.on_disk else { return Vec::new() };
        let events = std::mem::take(&mut *lock(&disk.writer.shared.events)).into_iter();
        let epoch = disk.epoch;
        let events: Vec<Event> =
            events.filter(|(of, _)| *of == epoch).map(|(_, event)| event).collect();
        let base_bytes = || disk.writer.shared.base_bytes.load(Ordering::Relaxed);
        if disk.base_size.is_none()
            && disk.writer.shared.epoch.load(Ordering::Acquire) == disk.epoch
        {
            disk.base_size = Some(base_bytes());
        }
        for event in &events {
            match event {
                Event::BaseInstalled { at, result: Ok(()) } => {
                    disk.log_start = *at;
                    disk.base_size = Some(base_bytes() + self.tail.end().0.saturating_sub(at.0));
                }
                Event::BaseInstalled { .. } => {}
                Event::Rotated { at, .. } => disk.is_rotating &= *at != disk.segment_start,
            }
        }
        events
    }

    /// The file of the base in force.
    pub fn base_path(&self) -> Option<PathBuf> {
        lock(&self.on_disk.as_ref()?.writer.shared.base_path).clone()
    }

    /// A reader's place at `offset`, if the tail has it.
    pub fn cursor_at(&self, offset: Offset) -> Option<Cursor> {
        (self.tail.first() <= offset && offset <= self.tail.end()).then_some(Cursor { offset })
    }

    /// The next bytes for a reader, at most `max_bytes` and none beyond `upto`; moves the cursor
    /// behind them. `None` if there are none yet, or the tail has left the reader behind
    /// ([`Log::first_in_memory`] is past it).
    pub fn next(&self, cursor: &mut Cursor, max_bytes: usize, upto: Offset) -> Option<Piece> {
        let piece = self.tail.piece(cursor.offset, max_bytes, upto)?;
        cursor.offset = piece.end();
        Some(piece)
    }

    /// The oldest offset in memory.
    pub fn first_in_memory(&self) -> Offset {
        self.tail.first()
    }

    /// The oldest offset that can be had: in memory, in a live segment or in the history.
    pub fn first_available(&self) -> Offset {
        let segments = self.segments();
        segments.first().map_or(self.tail.first(), |s| s.start.min(self.tail.first()))
    }

    /// The segments, oldest first and without a gap: those of the history, then the live ones. Those
    /// up to one that could not be read are left out. None while a [`Log::reset`] changes the files.
    pub fn segments(&self) -> Arc<Vec<SegmentInfo>> {
        let begun = self.on_disk.as_ref().filter(|disk| disk.is_begun());
        let shared = begun.map(|disk| &disk.writer.shared);
        let listed = shared.map_or_else(Default::default, |shared| lock(&shared.segments).clone());
        match listed.iter().rposition(|segment| segment.unreadable.is_set()) {
            Some(last) => Arc::new(listed[last + 1..].to_vec()),
            None => listed,
        }
    }

    /// Changes how much history is kept: `CONFIG SET repl-history-size` and `repl-history-ttl`.
    pub fn set_history(&mut self, bytes: u64, ttl: Duration) {
        if let Some(disk) = &mut self.on_disk
            && (disk.options.history_bytes, disk.options.history_ttl) != (bytes, ttl)
        {
            (disk.options.history_bytes, disk.options.history_ttl) = (bytes, ttl);
            disk.writer.shared.retention.set(bytes, ttl);
            disk.writer.shared.history_due();
        }
    }

    /// The oldest offset that log and data can be brought back to by [`roll_back`]: that of the oldest
    /// base. `None` without the log on disk, and while the files change after a [`Log::reset`].
    pub fn oldest_base(&self) -> Option<Offset> {
        let disk = self.on_disk.as_ref().filter(|disk| disk.is_begun())?;
        lock(&disk.writer.shared.bases).oldest
    }

    /// Says that somebody reads from `from` on: history that ends after it stays, however much and
    /// however old, unless the disk is full. `None` if nobody reads.
    pub fn protect(&mut self, from: Option<Offset>) {
        if let Some(disk) = &self.on_disk {
            disk.writer.shared.retention.protect(from);
        }
    }

    /// What the daemon's log file should say of the history: a line each, since the last call.
    pub fn take_notes(&mut self) -> Vec<String> {
        let Some(disk) = &self.on_disk else { return Vec::new() };
        std::mem::take(&mut *lock(&disk.writer.shared.notes))
    }

    /// A reader of the segments from `offset` on; it reads files, so not on the loop thread.
    pub fn segment_reader(&self, offset: Offset) -> Option<SegmentReader> {
        let disk = self.on_disk.as_ref()?;
        SegmentReader::new(disk.options.disk.clone(), self.segments(), offset)
    }

    /// Keeps at least `tail_bytes` of history in memory from now on.
    pub fn set_tail_bytes(&mut self, tail_bytes: u64) {
        self.tail.set_keep(tail_bytes);
        self.flush();
    }

    /// Keeps everything from `from` on in memory until told otherwise: somebody still needs it who
    /// could not find it elsewhere.
    pub fn hold(&mut self, from: Option<Offset>) {
        self.held = from;
    }

    /// Begins a segment at the present end, where a snapshot is being forked; the result comes as
    /// [`Event::Rotated`]. Only between commands and outside `MULTI`. Returns the end.
    ///
    /// The next write says which database it means, so that the segment stands alone. On a replica,
    /// whose bytes come as they are, the manifest notes the database selected here.
    pub fn begin_rotation(&mut self) -> Offset {
        debug_assert!(!self.in_multi, "the log is cut inside MULTI");
        let end = self.tail.end();
        let db = self.db;
        self.select_due = true;
        if let Some(disk) = &mut self.on_disk {
            disk.flush(&mut self.tail, true);
            self.tail.cut();
            disk.marks.cut(); // no record spans two segments
            (disk.segment_start, disk.is_rotating) = (end, true);
            disk.cuts.push_back(Cut::Rotate { at: end, db });
        }
        self.hand_over();
        end
    }

    /// Whether the segment that was asked for last is still to begin. Until then its file lacks what was written
    /// since, which is copied when it does.
    pub fn is_rotating(&self) -> bool {
        self.on_disk.as_ref().is_some_and(|disk| disk.is_rotating)
    }

    /// Begins a segment if the present one has grown to `max_segment_bytes`: to be called between
    /// commands, outside `MULTI`.
    pub fn rotate_if_large(&mut self) {
        let end = self.tail.end();
        if self
            .on_disk
            .as_ref()
            .is_some_and(|disk| end - disk.segment_start >= disk.options.max_segment_bytes)
        {
            self.begin_rotation();
        }
    }

    /// Makes a finished snapshot that stands where a segment begins the log's base; what is older
    /// becomes history. The result comes as [`Event::BaseInstalled`].
    pub fn install_base(&mut self, base: NewBase) {
        if let Some(disk) = &mut self.on_disk {
            disk.cuts.push_back(Cut::Install(base)); // perhaps its segment has not begun yet
            disk.cut();
        }
    }

    /// Leaves everything and goes on at `offset` of other histories, where database `db` is selected:
    /// after a full resync, whose RDB file becomes the base. Nothing is released beyond `offset`
    /// until the files have changed.
    pub fn reset(&mut self, histories: Histories, offset: Offset, db: u32, base: Option<NewBase>) {
        self.hand_over();
        let keep = self.tail.keep();
        self.tail = Tail::new(offset, keep);
        (self.histories, self.own) = (histories, false);
        self.db = db;
        self.select_due = false;
        self.in_multi = false;
        self.last_select = offset;
        self.places = Places::default();
        self.note_place();
        if let Some(disk) = &mut self.on_disk {
            disk.refuse_bases();
            disk.epoch += 1;
            disk.is_rotating = false;
            disk.epoch_start = offset;
            disk.syncs = Syncs::new(Instant::now());
            (disk.flushed, disk.safe, disk.sync_wanted) = (offset, offset, None);
            (disk.changed_at, disk.leaves_at) = (offset, None);
            disk.segment_start = offset;
            disk.marks = Marks::new(offset);
            disk.log_start = offset;
            disk.base_size = None;
            let stream = disk.pool.as_ref().map(|pool| {
                let stream = pool::new_stream();
                pool.begin_stream(stream, offset);
                stream
            });
            self.tail.set_pool(disk.pool.clone(), offset, offset);
            let reset = Reset { histories, offset, db, base, epoch: disk.epoch, pool: stream };
            disk.writer.write(WriteJob::Reset(Box::new(reset)));
        }
    }

    /// Changes the policy: `CONFIG SET appendfsync`, and [`Fsync::No`] while a child works and
    /// `no-appendfsync-on-rewrite` is set. From `always` to a laxer one the manifest says so first,
    /// and replies wait for syncs until then.
    pub fn set_fsync(&mut self, fsync: Fsync) {
        self.hand_over();
        if let Some(disk) = &mut self.on_disk
            && disk.options.fsync != fsync
        {
            disk.options.fsync = fsync;
            disk.begin_change();
            disk.writer.write(WriteJob::SetFsync(fsync));
        }
    }

    /// Makes the files that a log in memory is to go on in, in a folder whose files of another time become history: the
    /// finished snapshot `base`, and behind it what was appended since `base.at`, where database `db` is selected.
    /// Takes as long as the disk does, and is no part of the log before [`Log::go_to_disk`]: until then a start that
    /// finds the files goes on under another name than `histories`.
    pub fn make_files(
        options: Options,
        mut base: NewBase,
        db: u32,
        histories: Histories,
        waker: Waker,
    ) -> Result<Files, Error> {
        let at = base.at;
        let (disk, dir) = (options.disk.clone(), options.dir.clone());
        disk.create_dir(&dir).map_err(Error::io("create", &dir))?;
        let old = recover::read_manifest(&options)?.unwrap_or_default();
        let mut folder = Folder::new(disk, &dir, &options.base_name, old);
        let mut manifest = Manifest { entries: vec![folder.place_base(&mut base)?], state: None };
        let (_, segment) = folder.create_segment(at, db)?;
        manifest.entries.push(segment);
        for mut entry in folder.manifest.entries.clone() {
            (entry.kind, entry.sealed_s) = (FileType::History, None);
            manifest.entries.push(entry);
        }
        let recovered = Recovered::from_parts(&options, manifest, at)?;
        let disk = OnDisk::open(recovered, options, (histories, false), waker)?;
        Ok(Files { disk: Box::new(disk), end: at, db })
    }

    /// Goes on in the files, which get what was appended since they begin. They come back if the memory tail does not
    /// reach back to there.
    pub fn go_to_disk(&mut self, files: Files) -> Result<(), Files> {
        if files.end < self.tail.first() || files.end > self.tail.end() {
            return Err(files);
        }
        self.attach(*files.disk);
        self.rename(self.histories, self.own);
        Ok(())
    }

    /// `CONFIG SET appendonly no`: once all that was appended before the first call is as safe as it was to be, gives
    /// the files away, to be closed beside the loop. What others are given from then on the files do not have: a
    /// start that finds them goes on under another name. `None` until then, and for a log in memory.
    pub fn leave_in_good_order(&mut self) -> Option<Files> {
        if self.on_disk.as_ref()?.leaves_at.is_none() {
            let (own, end) = (self.own, self.end());
            self.rename(self.histories, false);
            self.own = own;
            self.on_disk.as_mut()?.leaves_at = Some(end);
        }
        let disk = self.on_disk.as_ref()?;
        let is_safe = Some(disk.released()) >= disk.leaves_at && !disk.is_change_pending();
        if is_safe || self.is_failing() { self.leave_disk() } else { None }
    }

    /// Takes [`Log::leave_in_good_order`] back, if the log is on disk still: whether it is.
    pub fn stay_on_disk(&mut self) -> bool {
        let left = self.on_disk.as_mut().and_then(|disk| disk.leaves_at.take());
        if left.is_some() {
            self.rename(self.histories, self.own);
        }
        self.is_on_disk()
    }

    /// Goes on in memory, and gives away the files as they are.
    pub fn leave_disk(&mut self) -> Option<Files> {
        self.hand_over();
        let (end, db) = (self.end(), self.db);
        let mut disk = self.on_disk.take()?;
        disk.refuse_bases();
        self.tail.set_pool(None, end, end);
        Some(Files { disk: Box::new(disk), end, db })
    }

    /// Closes the files in good order and goes on in memory.
    pub fn stop_disk(&mut self) -> Result<(), Error> {
        self.leave_disk().map_or(Ok(()), Files::close)
    }

    /// Writes and syncs everything, and notes that the log ends here: a start in any boot may go on
    /// with the history.
    pub fn close(mut self) -> Result<(), Error> {
        self.stop_disk()
    }

    /// What is allocated for the tail, in bytes: its blocks, and the places where commands begin in them; for what the
    /// index does not have yet; and to compress history with, while that goes on.
    pub fn memory(&self) -> usize {
        let working =
            |disk: &OnDisk| disk.writer.shared.retention.working_bytes() + disk.marks.memory();
        self.tail.memory() + self.places.memory() + self.on_disk.as_ref().map_or(0, working)
    }

    /// Figures for `INFO` and for deciding on a new base.
    pub fn stats(&self) -> Stats {
        let first_in_memory = self.tail.first();
        let Some(disk) = &self.on_disk else {
            return Stats { first_in_memory, ..Stats::default() };
        };
        let shared = &disk.writer.shared;
        let log = self.tail.end().0.saturating_sub(disk.log_start.0);
        let segments = self.segments();
        let history = segments.iter().filter(|segment| segment.is_history);
        let current_bytes = shared.base_bytes.load(Ordering::Relaxed) + log;
        let bases = *lock(&shared.bases);
        Stats {
            current_bytes,
            base_bytes: disk.base_size.unwrap_or(current_bytes),
            unwritten_bytes: self.unwritten(),
            pending_syncs: u64::from(shared.syncing.load(Ordering::Relaxed)),
            delayed_syncs: disk.syncs.delayed,
            first_in_memory,
            first_live: segments.iter().find(|s| !s.is_history).map(|s| s.start),
            first_in_history: history.clone().next().map(|s| s.start),
            live_bytes: log,
            history_segments: history.clone().count() as u64,
            history_bytes: history.map(|s| s.disk_bytes).sum(),
            old_bases: bases.old,
            old_bases_bytes: bases.old_bytes,
        }
    }
}

/// Open files of a log that is in memory: it has left them, or is to go on in them.
pub struct Files {
    disk: Box<OnDisk>,
    /// Where the log left them, or they begin, and the database selected there.
    end: Offset,
    db: u32,
}

impl Files {
    /// Whether the manifest says that the log goes on elsewhere: a start that finds the files then does so under
    /// another name.
    pub fn are_renamed(&self) -> bool {
        !self.disk.is_change_pending()
    }

    /// Writes and syncs everything, and closes them in good order: takes as long as the disk does.
    pub fn close(self) -> Result<(), Error> {
        self.disk.writer.close()
    }
}
