//! Who takes the log's bytes to disk, and when.
//!
//! The **loop** only hands over what was appended. The **log thread** writes it, under `always`
//! syncs after each write (one sync serves everything
//! written before it began), and makes the changes that must come between two bytes: another
//! history's name, a reset, another fsync policy. The **sync thread** makes `everysec`'s syncs: on a slow disk
//! replies wait for them. The **slow thread** does what nobody waits for: new segments, new bases, the
//! index and room ahead of the log's end. A fifth, the **history thread**, compresses and removes old
//! segments (`history.rs`).
//!
//! They meet in [`Shared`]: three locks, taken in the order folder, sync, sink. The loop takes none.
//!
//! With `threads: false` every job is done at once by who hands it over. A simulation is then
//! reproduced by its seed.

use super::ahead;
use super::disk::{Disk, DiskFile};
use super::error::Error;
use super::folder::{Bases, Folder, NewBase, SegmentInfo};
use super::history::{Retention, now_s};
use super::manifest::{Entry, FileType, Manifest, State};
use super::marks::{Mark, Taken};
use super::pool::{self, Pool};
use super::sink::{Open, Sink};
use super::tail::Piece;
use super::{Event, Fsync, Waker};
use crate::offset::{Histories, Offset};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// So much of the newest the system keeps: replicas may just have left the tail behind.
pub const NEWEST: u64 = if cfg!(test) { 100 } else { 4 << 20 };
/// How much of a segment is moved at a time into the one that replaces its end.
const COPY_BYTES: usize = 256 * 1024;
pub(super) const NEVER: u64 = u64::MAX;
/// When the loop has not come round for so long, the sync thread begins `everysec`'s sync without it.
const HELD_UP: Duration = Duration::from_secs(1);

/// What the log thread does, in the order given.
pub enum WriteJob {
    Write {
        piece: Piece,
        ends_turn: bool,
    },
    Retry,
    /// The names, and whether the node took the current one itself.
    Rename(Box<(Histories, bool)>),
    SetFsync(Fsync),
    Reset(Box<Reset>),
}

/// Another log, to be begun in place of the present one.
pub struct Reset {
    pub histories: Histories,
    pub offset: Offset,
    /// The database selected there.
    pub db: u32,
    pub base: Option<NewBase>,
    pub epoch: u64,
    /// The pool's stream, if one is used.
    pub pool: Option<u64>,
}

/// What the slow thread does, in the order given.
pub enum SlowJob {
    /// Space ahead of the log's end.
    Reserve,
    /// The system's copies in memory of what segments hold, and the pool's pages.
    Memory(Option<Arc<Pool>>),
    /// A pool of so many blocks, for a log that has had no room for one.
    OpenPool {
        blocks: usize,
        epoch: u64,
    },
    Rotate {
        at: Offset,
        db: u32,
        /// Stretches before `at` that the index does not have yet.
        marks: Taken,
        epoch: u64,
    },
    Install {
        base: NewBase,
        epoch: u64,
    },
    Index {
        marks: Taken,
        /// Whether their records are to be on disk at once.
        sync: bool,
        epoch: u64,
    },
}

/// That the loop came round, under `everysec`.
pub struct Round {
    pub at: Instant,
    /// What it has acknowledged is there, as far as the segment does not have it.
    pub pool: Option<Arc<Pool>>,
}

/// What the three share.
pub struct Shared {
    pub sink: Mutex<Sink>,
    pub(super) folder: Mutex<Folder>,
    pub(super) disk: Arc<dyn Disk>,
    pub(super) dir: PathBuf,
    /// Where the log's end makes it time to ask for more space ahead, as an offset.
    pub(super) step_due: AtomicU64,
    /// The end of the last turn that segments have whole. Changes under the sink's lock.
    pub written: AtomicU64,
    /// The same for the disk.
    pub synced: AtomicU64,
    /// The epoch that the two belong to.
    pub epoch: AtomicU64,
    /// How many jobs the log thread has done.
    pub done: AtomicU64,
    /// How many names and policies the manifest has been given.
    pub changes: AtomicU64,
    pub syncing: AtomicBool,
    /// The policy in force; a change to a laxer one is in force once the manifest says so.
    pub always: AtomicBool,
    pub failing: AtomicBool,
    /// How far the log was written when a sync failed, else [`NEVER`]. What the kernel then held
    /// can not be trusted to reach the disk any more, so nothing counts as synced until a new base
    /// makes those bytes unnecessary.
    pub(super) sync_failed_at: AtomicU64,
    /// Held for a sync of what was written until its outcome is noted: the kernel tells of a failure once, and
    /// another sync that succeeds then is not to be believed.
    syncs: Mutex<()>,
    pub error: Mutex<Option<String>>,
    /// The last, unless what it left to be synced has been.
    pub round: Mutex<Option<Round>>,
    /// With the epoch that each is of.
    pub events: Mutex<Vec<(u64, Event)>>,
    pub segments: Arc<Mutex<Arc<Vec<SegmentInfo>>>>,
    pub bases: Arc<Mutex<Bases>>,
    pub base_bytes: AtomicU64,
    pub base_path: Mutex<Option<PathBuf>>,
    pub retention: Retention,
    /// A pool that the manifest has come to name, for the loop to take, and the epoch that it is of.
    pub opened: Mutex<Option<(u64, Arc<Pool>)>>,
    /// What the daemon's log file should say.
    pub notes: Arc<Mutex<Vec<String>>>,
    /// A change that could not be made yet, and what must not overtake it.
    stuck: Mutex<VecDeque<WriteJob>>,
    waker: Waker,
}

/// Locks, also after another thread's panic: what is behind these locks is consistent between any
/// two statements, and the log must still be closed.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Microseconds since 1970.
pub fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as u64)
}

impl Shared {
    pub fn new(
        folder: Folder,
        sink: Sink,
        fsync: Fsync,
        synced: Offset,
        retention: Retention,
        waker: Waker,
    ) -> Shared {
        folder.publish();
        let begun = sink.segment.as_ref().map_or(sink.position, |open| open.start);
        let shared = Shared {
            step_due: AtomicU64::new(ahead::first_step(begun).0),
            written: AtomicU64::new(sink.position.0),
            synced: AtomicU64::new(synced.0),
            epoch: AtomicU64::new(sink.epoch),
            done: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            syncing: AtomicBool::new(false),
            always: AtomicBool::new(fsync == Fsync::Always),
            failing: AtomicBool::new(false),
            sync_failed_at: AtomicU64::new(NEVER),
            syncs: Mutex::new(()),
            error: Mutex::new(None),
            round: Mutex::new(None),
            events: Mutex::new(Vec::new()),
            segments: folder.listed.clone(),
            bases: folder.bases.clone(),
            base_bytes: AtomicU64::new(0),
            base_path: Mutex::new(None),
            retention,
            opened: Mutex::new(None),
            notes: folder.notes.clone(),
            stuck: Mutex::new(VecDeque::new()),
            disk: folder.disk.clone(),
            dir: folder.dir.clone(),
            sink: Mutex::new(sink),
            folder: Mutex::new(folder),
            waker,
        };
        shared.measure_base(&lock(&shared.folder));
        shared
    }

    /// Publishes how far the sink has come, if that is the end of a turn. Under the sink's lock.
    pub fn publish_written(&self, sink: &Sink) {
        if sink.is_at_turn_end() && sink.epoch == self.epoch.load(Ordering::Relaxed) {
            self.written.store(sink.position.0, Ordering::Release);
        }
    }

    /// Notes the outcome of a write.
    pub fn note(&self, result: io::Result<()>) {
        match result {
            Ok(()) if self.failing.load(Ordering::Relaxed) => self.recover_from_failure(),
            Ok(()) => {}
            Err(error) => self.fail(error.to_string()),
        }
    }

    /// Forgets the last error if nothing is wrong any more.
    fn recover_from_failure(&self) {
        if !self.needs_base() && lock(&self.stuck).is_empty() && lock(&self.sink).is_empty() {
            *lock(&self.error) = None;
            self.failing.store(false, Ordering::Release);
        }
    }

    pub(super) fn needs_base(&self) -> bool {
        self.sync_failed_at.load(Ordering::Relaxed) != NEVER
    }

    fn fail(&self, what: String) {
        *lock(&self.error) = Some(what);
        self.failing.store(true, Ordering::Release);
    }

    fn event(&self, epoch: u64, event: Event) {
        lock(&self.events).push((epoch, event));
        (self.waker)();
    }

    fn measure_base(&self, folder: &Folder) {
        let base = folder.manifest.base().map(|base| folder.path(&base.name));
        let size = base.as_ref().and_then(|path| folder.disk.open(path).ok()?.size().ok());
        *lock(&self.base_path) = base;
        self.base_bytes.store(size.unwrap_or(0), Ordering::Relaxed);
    }

    /// Opens a pool and has the manifest name it, if there is room, and the manifest names none: one that broke may
    /// have what no segment has.
    fn open_pool(&self, blocks: usize, epoch: u64) {
        let mut folder = lock(&self.folder);
        let mut manifest = folder.manifest.clone();
        let Some(state) = manifest.state.as_mut().filter(|state| state.pool.is_none()) else {
            return;
        };
        if folder.epoch != epoch {
            return;
        }
        let (stream, path) = (pool::new_stream(), pool::path(&folder.dir, &folder.base_name));
        state.pool = Some(stream);
        // Nothing was appended in it: what a start finds in the segments is all, however much that is.
        let opened = Pool::open(&*self.disk, &path, blocks, stream, Offset(0));
        match opened.ok().filter(|_| folder.store(manifest).is_ok()) {
            Some(pool) => *lock(&self.opened) = Some((epoch, pool)),
            None => _ = self.disk.remove(&path),
        }
    }

    /// Makes durable all that is written. Whatever the segment does meanwhile, `synced` only comes
    /// to say what is on disk in files that the manifest on disk names.
    fn sync(&self) {
        let _one_at_a_time = lock(&self.syncs);
        loop {
            let (open, epoch, written, dir_dirty, position) = {
                let sink = lock(&self.sink);
                let Some(open) = sink.segment.clone() else { return };
                let written = self.written.load(Ordering::Acquire);
                (open, sink.epoch, written, sink.dir_dirty, sink.position)
            };
            if self.needs_base() || written == self.synced.load(Ordering::Relaxed) {
                return;
            }
            let dir = if dir_dirty { self.disk.sync_dir(&self.dir) } else { Ok(()) };
            if let Err(error) = dir.and_then(|()| open.file.sync()) {
                return self.sync_failed(written, error);
            }
            let mut sink = lock(&self.sink);
            if sink.still_writes(&open, epoch) {
                sink.note_synced(position);
                self.synced.fetch_max(written, Ordering::Release);
                return;
            }
        }
    }

    /// Notes that the disk did not take what was written up to `written`, or some of it.
    fn sync_failed(&self, written: u64, error: io::Error) {
        self.sync_failed_at.store(written, Ordering::Relaxed);
        self.fail(format!("Can't persist AOF for fsync error: {error}"));
    }

    /// Takes a job of the log thread's. Pieces are only queued: [`Shared::write_all`] writes those
    /// of many turns at once. A change that fails is tried again at each [`WriteJob::Retry`], and
    /// what comes after it waits.
    fn accept(&self, job: WriteJob) {
        let mut jobs = {
            let mut stuck = lock(&self.stuck);
            match job {
                WriteJob::Retry => std::mem::take(&mut *stuck),
                job if stuck.is_empty() => VecDeque::from([job]),
                job => return stuck.push_back(job),
            }
        };
        while let Some(job) = jobs.pop_front() {
            if let Err((job, error)) = self.try_job(job) {
                self.fail(error.to_string());
                jobs.push_front(job);
                *lock(&self.stuck) = jobs;
                return;
            }
        }
    }

    fn try_job(&self, job: WriteJob) -> Result<(), (WriteJob, Error)> {
        match job {
            WriteJob::Write { piece, ends_turn } => {
                lock(&self.sink).push(piece, ends_turn);
                Ok(())
            }
            WriteJob::Retry => Ok(()),
            WriteJob::Rename(names) => {
                self.write_all();
                let change = self.change_state(|state| (state.histories, state.own) = *names);
                change.map_err(|error| (WriteJob::Rename(names), error))?;
                self.changes.fetch_add(1, Ordering::Release);
                Ok(())
            }
            WriteJob::SetFsync(fsync) => {
                self.write_all();
                if fsync == Fsync::Always {
                    self.sync();
                    // What is acknowledged and has no room on disk yet may be in the pool alone.
                    if !lock(&self.sink).is_at_turn_end() {
                        let waits = io::Error::other("what came before is not written");
                        return Err((
                            WriteJob::SetFsync(fsync),
                            Error::io("sync", &self.dir)(waits),
                        ));
                    }
                }
                // After a failed sync that would be too much said, of what was acknowledged before.
                if fsync != Fsync::Always || !self.needs_base() {
                    let change = self.change_state(|state| state.fsync = fsync);
                    change.map_err(|error| (WriteJob::SetFsync(fsync), error))?;
                }
                self.always.store(fsync == Fsync::Always, Ordering::Release);
                self.changes.fetch_add(1, Ordering::Release);
                Ok(())
            }
            WriteJob::Reset(mut reset) => {
                self.write_all(); // what a start needs that finds the files as they are
                let result = self.reset(&mut reset);
                result.map_err(|error| (WriteJob::Reset(reset), error))
            }
        }
    }

    /// Writes what was accepted; under `always`, syncs it.
    fn write_all(&self) {
        let wants_sync = lock(&self.sink).wants_sync();
        if wants_sync {
            self.sync();
        }
        let result = self.drain();
        self.note(result);
        if self.always.load(Ordering::Relaxed) {
            self.sync();
        }
    }

    /// Writes what was accepted; history makes room for it.
    fn drain(&self) -> io::Result<()> {
        loop {
            let result = {
                let mut sink = lock(&self.sink);
                let result = sink.drain();
                self.publish_written(&sink);
                result
            };
            match result {
                Err(error) if self.make_room(&error) => {}
                other => return other,
            }
        }
    }

    /// Changes what the manifest says of the history. Bytes that follow a new name must not reach
    /// a file that still bears the old one, so this is durable when it returns.
    fn change_state(&self, change: impl FnOnce(&mut State)) -> Result<(), Error> {
        let mut folder = lock(&self.folder);
        let mut manifest = folder.manifest.clone();
        if let Some(state) = &mut manifest.state {
            change(state);
        }
        folder.store(manifest)
    }

    fn slow(&self, job: SlowJob) {
        match job {
            SlowJob::Reserve => self.reserve(),
            SlowJob::Memory(pool) => {
                pool.iter().for_each(|pool| pool.warm());
                let sink = lock(&self.sink);
                if let Some(Open { file, start }) = sink.segment.clone()
                    && sink.position - start > NEWEST
                {
                    let bytes = sink.position - start - NEWEST;
                    drop(sink);
                    file.forget(bytes);
                }
            }
            SlowJob::OpenPool { blocks, epoch } => self.open_pool(blocks, epoch),
            SlowJob::Rotate { at, db, marks, epoch } => {
                let result = loop {
                    match self.rotate(at, db, &marks, epoch) {
                        Err(Error::Io { source, .. }) if self.make_room(&source) => {}
                        other => break other.map_err(|error| error.to_string()),
                    }
                };
                self.event(epoch, Event::Rotated { at, result });
                self.history_due();
            }
            SlowJob::Install { base, epoch } => {
                let at = base.at;
                let result = self.install(base, epoch).map_err(|error| error.to_string());
                if self.always.load(Ordering::Relaxed) {
                    self.sync(); // for who waits since a sync failed, if this base makes that good
                }
                self.event(epoch, Event::BaseInstalled { at, result });
                self.history_due();
            }
            SlowJob::Index { marks, sync, epoch } => {
                let mut folder = lock(&self.folder);
                if lock(&self.sink).epoch == epoch
                    && let Some(indexer) = &mut folder.indexer
                    && indexer
                        .add(&marks)
                        .and_then(|()| if sync { indexer.sync() } else { Ok(()) })
                        .is_err()
                {
                    folder.indexer = None;
                }
            }
        }
    }

    /// The sync that the loop asked for.
    fn sync_for_all(&self) {
        self.sync();
        self.syncing.store(false, Ordering::Release);
        (self.waker)();
    }

    /// `everysec`'s sync for a loop that one command holds up: what it acknowledged before is not to grow
    /// older than two seconds. Of that, it cannot hand over any more what the pool alone has.
    fn sync_for_loop(&self) {
        let left = lock(&self.round).take_if(|round| round.at.elapsed() >= HELD_UP);
        if let Some(Round { pool, .. }) = left {
            let _ = pool.map(|pool| pool.sync()); // a disk that fails tells with the segment
            self.sync();
        }
    }

    /// Ends the segment at `at` and begins another there. All before `at` is written.
    ///
    /// The loop and the log thread go on writing to the old segment while the new one is made: what
    /// they add after `at` is copied over, and only the last of it under the lock. So a rotation
    /// on a busy disk delays nobody. Until the old file is cut it holds bytes beyond its end; the
    /// manifest says where that is.
    fn rotate(&self, at: Offset, db: u32, marks: &[Mark], epoch: u64) -> Result<(), Error> {
        let mut folder = lock(&self.folder);
        let old = {
            let sink = lock(&self.sink);
            match &sink.segment {
                Some(open) if sink.epoch == epoch && open.start < at => open.clone(),
                _ => return Ok(()), // a reset came between, or a segment begins here already
            }
        };
        // A failure is noted, and the new segment is begun all the same, for a new base to stand on.
        let one_at_a_time = lock(&self.syncs);
        if let Err(error) = old.file.sync()
            && !self.needs_base()
        {
            self.sync_failed(at.0, error);
        }
        drop(one_at_a_time);
        let (file, entry) = folder.create_segment(at, db)?;
        let path = folder.path(&entry.name);
        self.switch(&mut folder, &old, &file, &entry, epoch)
            .inspect_err(|_| folder.remove_unnamed(&path))?;
        if lock(&self.sink).epoch != epoch {
            let _ = self.disk.remove(&path);
            return Ok(());
        }
        let durable = folder.sync_dir();
        if durable.is_ok() {
            lock(&self.sink).dir_dirty = false;
            let _ = old.file.set_len(at - old.start);
        }
        // The index tells of what was synced.
        if let Some(indexer) = folder.indexer.as_mut().filter(|_| !self.needs_base()) {
            let _ = indexer.add(marks).and_then(|()| indexer.advance(at, now_us()));
        }
        folder.begin_index(&entry, &file, at);
        folder.publish();
        durable
    }

    /// Gives the new segment what was written after its beginning, and has the log go on there.
    /// Changes nothing if a reset came between.
    fn switch(
        &self,
        folder: &mut Folder,
        old: &Open,
        file: &Arc<dyn DiskFile>,
        entry: &Entry,
        epoch: u64,
    ) -> Result<(), Error> {
        let path = folder.path(&entry.name);
        let at = entry.start.unwrap_or_default();
        let mut copied = at;
        let mut copy = |upto: Offset| -> io::Result<()> {
            let mut buf = vec![0; COPY_BYTES.min((upto - copied) as usize)];
            while copied < upto {
                let part = &mut buf[..COPY_BYTES.min((upto - copied) as usize)];
                super::disk::read_exact_at(&*old.file, part, copied - old.start)?;
                super::disk::write_all_at(&**file, part, copied - at)?;
                copied += part.len() as u64;
            }
            Ok(())
        };
        let mut new_synced = at;
        for _ in 0..8 {
            let upto = lock(&self.sink).position;
            folder.with_room(|| copy(upto)).map_err(Error::io("write", &path))?;
            if upto.0 - new_synced.0 < COPY_BYTES as u64 {
                break;
            }
            new_synced = upto;
        }
        folder.with_room(|| file.sync()).map_err(Error::io("sync", &path))?;

        let mut manifest = folder.manifest.clone();
        if let Some(last) = manifest.entries.iter_mut().rfind(|e| e.kind == FileType::Incr) {
            last.end = Some(at);
            last.sealed_s = Some(now_s());
        }
        manifest.entries.push(entry.clone());
        if let Some(state) = manifest.state.as_mut().filter(|_| self.needs_base()) {
            state.unsynced.get_or_insert(Offset(self.synced.load(Ordering::Relaxed)));
        }
        let prepared = folder.prepare(&mut manifest)?;
        let mut sink = lock(&self.sink);
        let is_current = sink.epoch == epoch;
        let mut finish = || {
            copy(sink.position).map_err(Error::io("write", &path))?;
            // What the disk was said to have, it must have in the file that is about to count.
            match self.synced.load(Ordering::Relaxed) > at.0 {
                true => file.sync().map_err(Error::io("sync", &path)),
                false => Ok(()),
            }
        };
        let finished = if is_current { finish() } else { Ok(()) };
        if !is_current || finished.is_err() {
            let _ = self.disk.remove(&prepared);
            return finished;
        }
        folder.put_in_force(&prepared, manifest)?;
        self.begin_segment(&mut sink, file.clone(), at);
        sink.dir_dirty = true;
        Ok(())
    }

    /// What is written from `start` on goes into `file`.
    fn begin_segment(&self, sink: &mut Sink, file: Arc<dyn DiskFile>, start: Offset) {
        sink.begin_segment(file, start);
        self.step_due.store(ahead::first_step(start).0, Ordering::Relaxed);
    }

    /// Makes `base` the log's base. What is older becomes history, or goes. If that fails, the file goes: it
    /// may be what fills the disk.
    fn install(&self, mut base: NewBase, epoch: u64) -> Result<(), Error> {
        let mut folder = lock(&self.folder);
        let mut empty = None;
        let result = self.try_install(&mut folder, &mut base, &mut empty, epoch);
        if result.is_err() {
            let empty = empty.map(|entry| folder.path(&entry.name));
            let snapshot = (!base.keep).then_some(base.path);
            empty.iter().chain(&snapshot).for_each(|path| folder.remove_unnamed(path));
        }
        result
    }

    fn try_install(
        &self,
        folder: &mut Folder,
        base: &mut NewBase,
        empty: &mut Option<Entry>,
        epoch: u64,
    ) -> Result<(), Error> {
        let at = base.at;
        let begins = |e: &Entry| e.start == Some(base.at);
        if lock(&self.sink).epoch != epoch || !folder.manifest.segments().any(begins) {
            let what = "no segment of the log begins where the base stands";
            return Err(Error::io("install", &base.path)(io::Error::other(what)));
        }
        let failed_at = self.sync_failed_at.load(Ordering::Relaxed);
        // What may not have reached the disk is no history for anybody.
        let keeps = self.retention.keeps_before(at) && failed_at == NEVER;
        // A log that began without a base began with nothing.
        let first = folder.manifest.segments().next().and_then(|entry| entry.start);
        let begun_at = first.filter(|_| keeps && folder.manifest.base().is_none());
        *empty = begun_at.and_then(|at| folder.create_empty_base(at).ok());
        let entry = folder.place_base(base)?;
        let mut manifest = folder.manifest.clone();
        manifest.entries.extend(empty.clone());
        for old in &mut manifest.entries {
            let keeps = match old.kind {
                FileType::Base => keeps && old.is_named_base() && old.start < Some(at),
                FileType::Incr if old.start.is_some_and(|start| start >= at) => continue,
                FileType::Incr => keeps,
                FileType::History => keeps && old.sealed_s.is_some(),
            };
            old.kind = FileType::History;
            old.sealed_s = keeps.then(|| old.sealed_s.unwrap_or_else(now_s));
        }
        manifest.entries.insert(0, entry);
        let makes_good = failed_at == NEVER || failed_at <= at.0;
        if let Some(state) = manifest.state.as_mut().filter(|_| makes_good) {
            state.unsynced = None;
        }
        // Nobody is to count on what a crash may now take.
        folder.unlist(&manifest);
        folder.store(manifest).inspect_err(|_| folder.publish())?;
        let superseded = folder.manifest.old_bases().first().map(|base| base.name.clone());
        superseded.iter().for_each(|name| folder.measure(name));
        self.measure_base(folder);
        folder.publish();
        if failed_at != NEVER && makes_good {
            self.sync_failed_at.store(NEVER, Ordering::Relaxed);
            self.recover_from_failure();
        }
        folder.remove_dead()
    }

    /// Leaves the present log and begins another, at `offset` of another history. After an error,
    /// `reset` is what is to be tried again.
    fn reset(&self, reset: &mut Reset) -> Result<(), Error> {
        let Reset { histories, offset, db, base, epoch, pool } = reset;
        let (histories, offset, db, epoch, pool) = (*histories, *offset, *db, *epoch, *pool);
        let mut folder = lock(&self.folder);
        // No byte of the log that is left reaches a file any more, whatever happens next.
        lock(&self.sink).abandon(offset, epoch);
        folder.indexer = None;
        let (file, segment) = folder.create_segment(offset, db)?;
        let path = folder.path(&segment.name);
        let mut change = || -> Result<(), Error> {
            file.sync().map_err(Error::io("sync", &path))?;
            let mut manifest = Manifest {
                entries: Vec::new(),
                state: folder.manifest.state.clone().map(|s| State {
                    histories,
                    own: false,
                    pool,
                    unsynced: None,
                    ..s
                }),
            };
            if let Some(base) = base {
                manifest.entries.push(folder.place_base(base)?);
            }
            manifest.entries.push(segment.clone());
            let base = manifest.base().cloned();
            for old in folder.manifest.entries.iter().filter(|old| Some(*old) != base.as_ref()) {
                let mut old = old.clone();
                (old.kind, old.sealed_s) = (FileType::History, None);
                manifest.entries.push(old);
            }
            folder.store(manifest)?;
            folder.epoch = epoch;
            folder.begin_index(&segment, &file, offset);
            Ok(())
        };
        change().inspect_err(|_| folder.remove_unnamed(&path))?;
        // Before the epoch: who sees that sees the new base's size and the new segments.
        self.measure_base(&folder);
        folder.publish();
        let mut sink = lock(&self.sink);
        self.begin_segment(&mut sink, file, offset);
        self.written.store(offset.0, Ordering::Release);
        self.synced.store(offset.0, Ordering::Release);
        self.sync_failed_at.store(NEVER, Ordering::Relaxed);
        self.epoch.store(epoch, Ordering::Release);
        drop(sink);
        if folder.manifest.base().is_some() {
            self.event(epoch, Event::BaseInstalled { at: offset, result: Ok(()) });
        }
        let _ = folder.remove_dead();
        Ok(())
    }

    /// Writes and syncs everything and notes in the manifest that nothing is missing.
    fn close(&self) -> Result<(), Error> {
        self.accept(WriteJob::Retry);
        if !lock(&self.stuck).is_empty() {
            let what = lock(&self.error).clone().unwrap_or_default();
            return Err(Error::io("close", &self.dir)(io::Error::other(what)));
        }
        self.drain().map_err(Error::io("write", &self.dir))?;
        let (position, segment) = {
            let sink = lock(&self.sink);
            (sink.position, sink.segment.clone())
        };
        if let Some(open) = segment {
            let _ = open.file.set_len(position - open.start); // gives back what was reserved
        }
        self.sync();
        if self.synced.load(Ordering::Acquire) != position.0 {
            let what = lock(&self.error).clone().unwrap_or_default();
            return Err(Error::io("sync", &self.dir)(io::Error::other(what)));
        }
        let mut folder = lock(&self.folder);
        if let Some(indexer) = &mut folder.indexer {
            let _ = indexer.advance(position, now_us());
        }
        let mut manifest = folder.manifest.clone();
        if let Some(state) = &mut manifest.state {
            (state.closed, state.pool) = (Some(position), None);
        }
        folder.store(manifest)?;
        let _ = self.disk.remove(&pool::path(&folder.dir, &folder.base_name));
        Ok(())
    }

    fn run_slow_thread(&self, jobs: Receiver<SlowJob>) {
        for job in jobs {
            self.slow(job);
        }
    }

    fn run_sync_thread(&self, asked: Receiver<()>) {
        loop {
            let since =
                lock(&self.round).as_ref().map_or(Duration::ZERO, |round| round.at.elapsed());
            match asked.recv_timeout(HELD_UP.saturating_sub(since)) {
                Ok(()) => self.sync_for_all(),
                Err(RecvTimeoutError::Timeout) => self.sync_for_loop(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn run_log_thread(&self, jobs: Receiver<WriteJob>) {
        while let Ok(first) = jobs.recv() {
            let before =
                (self.written.load(Ordering::Relaxed), self.synced.load(Ordering::Relaxed));
            let was_failing = self.failing.load(Ordering::Relaxed);
            let mut count = 1;
            self.accept(first);
            while let Ok(job) = jobs.try_recv() {
                self.accept(job);
                count += 1;
            }
            self.write_all();
            self.done.fetch_add(count, Ordering::Release);
            let after = (self.written.load(Ordering::Relaxed), self.synced.load(Ordering::Relaxed));
            if before != after || was_failing != self.failing.load(Ordering::Relaxed) {
                (self.waker)();
            }
        }
    }
}

/// The way to the threads, or, without threads, to the work itself.
pub struct Writer {
    pub shared: Arc<Shared>,
    threads: Option<Threads>,
    sent: u64,
}

struct Threads {
    log: Sender<WriteJob>,
    slow: Sender<SlowJob>,
    sync: Sender<()>,
    handles: [JoinHandle<()>; 4],
}

impl Writer {
    pub fn start(shared: Shared, threads: bool) -> io::Result<Writer> {
        let shared = Arc::new(shared);
        let spawn = || -> io::Result<Threads> {
            let (log, log_jobs) = unbounded();
            let (slow, slow_jobs) = unbounded();
            let (sync, sync_asked) = unbounded();
            let named = |name: &str| std::thread::Builder::new().name(name.into());
            let (for_log, for_slow) = (shared.clone(), shared.clone());
            let log_handle = named("log").spawn(move || for_log.run_log_thread(log_jobs))?;
            let slow_handle =
                named("log-slow").spawn(move || for_slow.run_slow_thread(slow_jobs))?;
            let for_sync = shared.clone();
            let sync_handle =
                named("log-sync").spawn(move || for_sync.run_sync_thread(sync_asked))?;
            let for_history = shared.clone();
            let history_handle =
                named("log-history").spawn(move || for_history.run_history_thread())?;
            let handles = [log_handle, slow_handle, sync_handle, history_handle];
            Ok(Threads { log, slow, sync, handles })
        };
        let threads = if threads { Some(spawn()?) } else { None };
        Ok(Writer { shared, threads, sent: 0 })
    }

    /// Whether the log thread has done all that it was given.
    pub fn idle(&self) -> bool {
        self.shared.done.load(Ordering::Acquire) == self.sent
    }

    pub fn write(&mut self, job: WriteJob) {
        match &self.threads {
            // A thread that is gone has panicked; the loop finds the log not advancing.
            Some(threads) => {
                self.sent += 1;
                let _ = threads.log.send(job);
            }
            None => {
                self.shared.accept(job);
                self.shared.write_all();
            }
        }
    }

    pub fn slow(&self, job: SlowJob) {
        match &self.threads {
            Some(threads) => {
                let _ = threads.slow.send(job);
            }
            None => self.shared.slow(job),
        }
    }

    /// Begins a sync of all that is written.
    pub fn sync(&self) {
        match &self.threads {
            Some(threads) => {
                let _ = threads.sync.send(());
            }
            None => self.shared.sync_for_all(),
        }
    }

    /// Lets the threads do all that they were given, and closes the files in good order.
    pub fn close(mut self) -> Result<(), Error> {
        self.join();
        self.shared.close()
    }

    fn join(&mut self) {
        self.shared.retention.stop();
        if let Some(Threads { log, slow, sync, handles }) = self.threads.take() {
            drop((log, slow, sync));
            for handle in handles {
                let _ = handle.join();
            }
        }
    }
}

impl Drop for Writer {
    /// Without [`Writer::close`] the files are left as they are; the threads end on their own.
    fn drop(&mut self) {
        self.shared.retention.stop();
    }
}
