//! The loop thread's part of keeping the log on disk: what is handed to the threads, and when.

use super::error::Error;
use super::folder::{Folder, NewBase, is_full};
use super::history::Retention;
use super::manifest::State;
use super::marks::Marks;
use super::pool::{self, Pool};
use super::recover::Recovered;
use super::sink::{Open, Sink};
use super::syncs::Syncs;
use super::tail::Tail;
use super::writer::{Round, Shared, SlowJob, WriteJob, Writer, lock};
use super::{Fsync, Options, Waker, index, strays};
use crate::offset::{Histories, Offset};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The index is brought up to date when a second has passed, or, where it does not wait for syncs, this much was
/// written: a thread that is woken for each record costs more than the record.
const INDEX_BYTES: u64 = 1 << 20;
/// So much is given to the log thread at a time, if the pool has it meanwhile: in larger pieces the
/// disk's work costs no less. The rest follows at the next [`super::Log::tick`].
const HAND_OVER: u64 = if cfg!(test) { 700 } else { 1 << 20 };
/// How often it is seen to what memory holds: the system is asked to forget the segment that is written, and
/// the pool's pages are made ready.
const MEMORY_PERIOD: Duration = Duration::from_secs(1);
/// How often the history is looked at for what has grown too old, and the disk for room for a pool.
const HISTORY_PERIOD: Duration = Duration::from_secs(10);

/// What is done in order, once the log is written so far.
pub enum Cut {
    Rotate { at: Offset, db: u32 },
    Install(NewBase),
}

/// The loop thread's part of keeping the log on disk.
pub struct OnDisk {
    pub writer: Writer,
    pub options: Options,
    pub pool: Option<Arc<Pool>>,
    /// How far the tail was handed over.
    pub flushed: Offset,
    /// All before it is in the pool or in a segment.
    pub safe: Offset,
    /// Names and policies given to the log, and where the first was that the manifest does not have: what
    /// follows it counts as safe once the manifest has it. A start would else take it for what the old
    /// name goes on with, or for synced.
    pub changes: u64,
    pub changed_at: Offset,
    /// A sync waits for all up to here to be written.
    pub sync_wanted: Option<Offset>,
    pub epoch: u64,
    /// Where the present epoch began.
    pub epoch_start: Offset,
    /// Where the newest segment began or will begin.
    pub segment_start: Offset,
    /// Whether that is still to come.
    pub is_rotating: bool,
    /// Rotations that wait for all before them to be written, and bases that wait for those.
    pub cuts: VecDeque<Cut>,
    pub marks: Marks,
    pub syncs: Syncs,
    /// When it was last seen to memory, and how far the log was written then and the time before.
    pub seen_to_memory: (Instant, [Offset; 2]),
    /// When the history was last looked at for what has grown too old.
    pub history_looked: Instant,
    /// Bytes of live history at the last base, beside the base itself.
    pub log_start: Offset,
    /// `None` until the log's threads have begun anew after a [`super::Log::reset`].
    pub base_size: Option<u64>,
    /// The log leaves the disk once that has what was appended before.
    pub leaves_at: Option<Offset>,
}

impl OnDisk {
    /// Opens the files of a log that was recovered, for what is named `histories` from here on; whether this node
    /// took the current name itself is what the manifest says of it.
    pub fn open(
        recovered: Recovered,
        options: Options,
        (histories, own): (Histories, bool),
        waker: Waker,
    ) -> Result<OnDisk, Error> {
        let disk = options.disk.clone();
        let end = recovered.end();
        let mut manifest = recovered.manifest();
        let identity = disk.dir_identity(&options.dir);
        manifest.state = Some(State {
            histories,
            own,
            boot: disk.boot_id(),
            folder: identity.map_err(Error::io("stat", &options.dir))?,
            file: None,
            fsync: options.fsync,
            pool: None,
            unsynced: None,
            closed: None,
        });
        let last = manifest.segments().next_back().cloned();
        let mut folder =
            Folder::new(disk.clone(), &options.dir, &options.base_name, manifest.clone());
        let (entry, file) = match last {
            Some(entry) => {
                let path = folder.path(&entry.name);
                let file = disk.open(&path).map_err(Error::io("open", &path))?;
                // Behind the file's end, in its last block and in those set aside, may be what the power cut
                // left of writes that are lost. The next cut could leave a longer file and that in it, in
                // place of what goes on here. This removes it, though the length stays.
                if recovered.lost_power()
                    && let Some(start) = entry.start
                {
                    file.set_len(end - start).map_err(Error::io("cut", &path))?;
                }
                // What was read back must be on disk before it is called recovered again.
                file.sync().map_err(Error::io("sync", &path))?;
                (entry, file)
            }
            None => {
                let (file, entry) = folder.create_segment(end, 0)?;
                manifest.entries.push(entry.clone());
                (entry, file)
            }
        };
        // From here on the file says that the segments have all, as they do: of the stream that the
        // manifest on disk names, and of the one that it will name.
        let (before, stream) = (recovered.pool_stream().unwrap_or_default(), pool::new_stream());
        let pool_path = pool::path(&options.dir, &options.base_name);
        let mut pool = Pool::open(&*disk, &pool_path, options.pool_blocks, before, end).ok();
        pool.iter().for_each(|pool| pool.begin_stream(stream, end));
        manifest.state.iter_mut().for_each(|state| state.pool = pool.as_ref().map(|_| stream));
        let stored = match folder.store(manifest.clone()) {
            // The segments have all that the pool had: its room is what there is.
            Err(Error::Io { source, .. }) if is_full(&source) && pool.take().is_some() => {
                let _ = disk.remove(&pool_path);
                let note = format!("The disk is full: {pool_path:?} makes room for the manifest");
                lock(&folder.notes).push(note);
                manifest.state.iter_mut().for_each(|state| state.pool = None);
                folder.store(manifest)
            }
            other => other,
        };
        stored?;
        if pool.is_none() {
            let _ = disk.remove(&pool_path);
        }
        let start = entry.start.unwrap_or(end);
        let path = folder.path(&entry.name);
        let records = index::read(&*disk, &path, start, end - start);
        let file_too = file.clone();
        folder.indexer = index::Indexer::resume(&*disk, &path, file_too, start, &records).ok();
        strays::remove(&folder);
        folder.remove_dead()?;

        let log_start = folder.manifest.segments().next().and_then(|e| e.start).unwrap_or(end);
        let sink = Sink::new(Some(Open { file, start }), end);
        let retention = Retention::new(&options);
        let shared = Shared::new(folder, sink, options.fsync, end, retention, waker);
        let base_size = shared.base_bytes.load(Ordering::Relaxed) + (end - log_start);
        let writer = Writer::start(shared, options.threads)
            .map_err(Error::io("start threads for", &options.dir))?;
        writer.shared.history_due();
        Ok(OnDisk {
            writer,
            options,
            pool,
            flushed: end,
            safe: end,
            changes: 0,
            changed_at: end,
            sync_wanted: None,
            epoch: 0,
            epoch_start: end,
            segment_start: start,
            is_rotating: false,
            cuts: VecDeque::new(),
            marks: Marks::new(end),
            syncs: Syncs::new(Instant::now()),
            seen_to_memory: (Instant::now(), [end; 2]),
            history_looked: Instant::now(),
            log_start,
            base_size: Some(base_size),
            leaves_at: None,
        })
    }

    /// Whether the files are those of the present log, and not yet of the one before a reset.
    pub fn is_begun(&self) -> bool {
        self.writer.shared.epoch.load(Ordering::Acquire) == self.epoch
    }

    fn published(&self, value: &AtomicU64) -> Offset {
        match self.is_begun() {
            true => Offset(value.load(Ordering::Acquire)),
            false => self.epoch_start,
        }
    }

    pub fn written(&self) -> Offset {
        self.published(&self.writer.shared.written)
    }

    pub fn synced(&self) -> Offset {
        self.published(&self.writer.shared.synced)
    }

    pub fn released(&self) -> Offset {
        match self.syncs.held {
            _ if self.is_always() => self.synced(),
            Some(held) => held,
            None => self.outlives(),
        }
    }

    /// All before it outlives the process.
    fn outlives(&self) -> Offset {
        match self.is_begun() {
            true => self.safe.max(self.written()),
            false => self.epoch_start,
        }
    }

    pub fn is_change_pending(&self) -> bool {
        self.writer.shared.changes.load(Ordering::Acquire) != self.changes
    }

    pub fn begin_change(&mut self) {
        if !self.is_change_pending() {
            self.changed_at = self.flushed;
        }
        self.changes += 1;
    }

    pub fn is_always(&self) -> bool {
        self.options.fsync == Fsync::Always || self.writer.shared.always.load(Ordering::Acquire)
    }

    /// At the end of a turn. With `all`, or where somebody waits for it, what was appended is given to
    /// the log thread; else in large pieces.
    pub fn flush(&mut self, tail: &mut Tail, all: bool) {
        let end = tail.end();
        if self.pool.take_if(|pool| pool.is_broken()).is_some() {
            let path = pool::path(&self.options.dir, &self.options.base_name);
            let note = format!("Can't write to {path:?}: replies wait for the segment from now on");
            lock(&self.writer.shared.notes).push(note);
        }
        let written = self.written();
        let limit = if self.is_change_pending() { self.changed_at } else { end };
        self.safe = tail.publish(written, limit);
        if self.flushed < end {
            self.marks.add(tail);
            if all || self.is_always() || self.safe < end || end - self.flushed >= HAND_OVER {
                for piece in tail.pieces(self.flushed, end) {
                    let ends_turn = piece.end() == end;
                    self.writer.write(WriteJob::Write { piece, ends_turn });
                }
                self.flushed = end;
            }
        }
        if self.options.fsync == Fsync::No && self.marks.bytes() >= INDEX_BYTES {
            self.index();
        }
        self.begin_wanted_sync();
        self.cut();
    }

    /// Does what waits for what is written now.
    pub fn cut(&mut self) {
        while let Some(cut) = self.cuts.pop_front() {
            let epoch = self.epoch;
            match cut {
                Cut::Rotate { at, .. } if at > self.written() => {
                    return self.cuts.push_front(cut);
                }
                Cut::Rotate { at, db } => {
                    let marks = self.marks.take(at);
                    self.writer.slow(SlowJob::Rotate { at, db, marks, epoch });
                }
                Cut::Install(base) => self.writer.slow(SlowJob::Install { base, epoch }),
            }
        }
    }

    /// Lets the bases go that wait for a segment, which will not begin.
    pub fn refuse_bases(&mut self) {
        for cut in std::mem::take(&mut self.cuts) {
            if let Cut::Install(base) = cut {
                self.writer.slow(SlowJob::Install { base, epoch: self.epoch });
            }
        }
    }

    /// Begins the sync that waits, when all that it is for is written, or is not going to be.
    fn begin_wanted_sync(&mut self) {
        let failing = self.writer.shared.failing.load(Ordering::Acquire);
        if self.sync_wanted.is_some_and(|upto| upto <= self.written() || failing) {
            self.sync_wanted = None;
            self.writer.shared.syncing.store(true, Ordering::Release);
            self.writer.sync();
        }
    }

    /// Has the index brought up to what is synced, or, where nothing is said to be, written.
    fn index(&mut self) {
        let upto = if self.options.fsync == Fsync::No { self.written() } else { self.synced() };
        let marks = self.marks.take(upto);
        if !marks.is_empty() {
            // What has no record is looked at for holes, where zeros that were written would be taken for one.
            let sync = self.options.fsync == Fsync::EverySec && self.syncs.is_quick();
            self.writer.slow(SlowJob::Index { marks, sync, epoch: self.epoch });
        }
    }

    pub fn tick(&mut self, now: Instant, tail: &mut Tail) {
        let end = tail.end();
        let opened = lock(&self.writer.shared.opened).take();
        if let Some((_, pool)) = opened.filter(|(epoch, _)| *epoch == self.epoch) {
            tail.set_pool(Some(pool.clone()), self.segment_start, self.written());
            self.pool = Some(pool);
        }
        let shared = &self.writer.shared;
        if shared.failing.load(Ordering::Acquire) && self.writer.idle() {
            self.writer.write(WriteJob::Retry);
        }
        self.marks.cut_old();
        if self.marks.is_due() {
            self.index();
        }
        if now.saturating_duration_since(self.history_looked) >= HISTORY_PERIOD {
            self.history_looked = now;
            self.writer.shared.history_due();
            if self.pool.is_none() && self.is_begun() {
                let (blocks, epoch) = (self.options.pool_blocks, self.epoch);
                self.writer.slow(SlowJob::OpenPool { blocks, epoch });
            }
        }
        // Twice for each byte: the first time begins to write what only the page cache has.
        let written = self.written();
        let (last, [latest, before]) = self.seen_to_memory;
        if now.saturating_duration_since(last) >= MEMORY_PERIOD {
            self.seen_to_memory = (now, [written, latest]);
            if [latest, before] != [written; 2] {
                self.writer.slow(SlowJob::Memory(self.pool.clone()));
            }
        }
        if self.writer.shared.is_step_due(self.written()) {
            self.writer.slow(SlowJob::Reserve);
        }
        let is_timed = self.options.fsync == Fsync::EverySec;
        let round = || Round { at: now, pool: self.pool.clone() };
        *lock(&self.writer.shared.round) = is_timed.then(round);
        if !is_timed {
            self.syncs = Syncs::new(now);
            return;
        }
        let syncing =
            self.sync_wanted.is_some() || self.writer.shared.syncing.load(Ordering::Acquire);
        let delayed = self.syncs.delayed;
        if self.syncs.is_due(self.outlives(), self.synced(), syncing, now) {
            self.sync_wanted = Some(end);
        }
        if self.syncs.delayed > delayed {
            let note = "Syncing the log takes longer than 2 seconds: the disk is slow or busy, and replies to writes wait";
            lock(&self.writer.shared.notes).push(note.into());
        }
    }
}
