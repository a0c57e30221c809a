//! What a folder holds at start: a base, the segments after it, and whose history that is.
//!
//! [`recover`] reads the manifest; the caller loads the base and then [`Recovered::replay`]s the
//! segments over it; [`super::Log::resume`] goes on from there. Folders that Redis made are taken
//! as they are, single files from before Redis 7 too.

use super::aside::Target;
use super::disk::{Contents, Disk, read_exact_at, write_all_at};
use super::error::Error;
use super::folder::Folder;
use super::index::{self, Record};
use super::lz4::{self, Compressed};
use super::manifest::{Entry, FileType, Manifest, State};
use super::pool::{self, Found};
use super::replay::{Command, Reading, Stop, without_zeros};
use super::writer::lock;
use super::{Fsync, Options, strays};
use crate::offset::{Histories, HistoryId, Offset};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a base holds the dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseKind {
    /// An RDB file.
    Rdb,
    /// Commands: [`Recovered::replay_base`] from position 0.
    Aof,
    /// An RDB file followed by commands: [`Recovered::replay_base`] from where the RDB part ends.
    RdbThenAof,
}

/// The snapshot that the log continues.
#[derive(Clone, Debug)]
pub struct Base {
    pub path: PathBuf,
    pub kind: BaseKind,
    /// The offset that it stands at.
    pub offset: Offset,
}

/// The outcome of a replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The offset after the last whole command.
    pub end: Offset,
    /// Commands applied.
    pub commands: u64,
    /// The database selected at the end.
    pub db: u32,
    /// Bytes that were cut off the last file, which ends in no whole command, for the log file.
    pub dropped: u64,
}

/// A log found in a folder.
pub struct Recovered {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    base_name: OsString,
    manifest_path: PathBuf,
    pool_path: PathBuf,
    load_truncated: bool,
    /// With every start known.
    manifest: Manifest,
    base: Option<Base>,
    /// The length of the last segment's file.
    last_len: u64,
    end: Offset,
    replayed: bool,
    same_place: bool,
    /// Whether the manifest is the file that was written here, and not put in its place.
    same_file: bool,
    same_boot: bool,
    /// Whether the pool of a process that was killed had all that it should.
    pool_is_whole: bool,
    /// Base and segments as they were found, for who is not alone with them.
    held: HashMap<PathBuf, Arc<Contents>>,
    waiting: Option<String>,
    notes: Vec<String>,
}

/// Reads the manifest, if there is one.
pub(super) fn read_manifest(options: &Options) -> Result<Option<Manifest>, Error> {
    let path = Folder::manifest_path(&options.dir, &options.base_name);
    let bytes = match options.disk.map(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", &path)(error)),
    };
    let parsed = Manifest::parse(&bytes);
    parsed.map(Some).map_err(|(line, what)| Error::Manifest { path, line, what })
}

/// Finds the log in a folder; `None` if it has none. Who is alone with it changes nothing but this: a
/// single-file AOF beside the folder moves into it as its base, as Redis 7 does it; and what a process that
/// was killed left in its pool is appended to the last segment, for which history is given up if the disk
/// is full.
pub fn recover(options: &Options) -> Result<Option<Recovered>, Error> {
    loop {
        let manifest = read_manifest(options)?;
        let found = find(options, manifest.clone());
        // A daemon may have ended the last segment meanwhile, or removed what was named.
        if options.alone || read_manifest(options)? == manifest {
            return found;
        }
    }
}

fn find(options: &Options, manifest: Option<Manifest>) -> Result<Option<Recovered>, Error> {
    let manifest = match manifest {
        Some(manifest) => {
            // Redis names the file there first, and may have been stopped before it moved it.
            if options.alone
                && manifest.base().is_some_and(|base| base.name == options.base_name)
                && !exists(&*options.disk, &options.dir.join(&options.base_name))?
            {
                move_single_file(options)?;
            }
            manifest
        }
        None => {
            strays::refuse_unnamed_segments(options)?;
            match if options.alone { adopt_single_file(options)? } else { None } {
                Some(manifest) => manifest,
                None => return Ok(None),
            }
        }
    };
    let start = manifest.base().and_then(|base| base.start).unwrap_or_default();
    let mut recovered = Recovered::from_parts(options, manifest, start)?;
    // Before the segments: what is moved there meanwhile is then seen twice, instead of nowhere.
    let pool = recovered.read_pool()?;
    recovered.open_base()?;
    recovered.measure_segments()?;
    if !options.alone {
        recovered.hold()?;
    }
    recovered.take_from_pool(options, pool.as_deref())?;
    recovered.check_history();
    Ok(Some(recovered))
}

/// Whether a file is there. One that can't be looked at is not taken for missing.
fn exists(disk: &dyn Disk, path: &Path) -> Result<bool, Error> {
    match disk.open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        other => other.map(|_| true).map_err(Error::io("open", path)),
    }
}

/// Moves the single-file AOF beside the folder into it, if there is one. Whether the folder has one now.
fn move_single_file(options: &Options) -> Result<bool, Error> {
    let (disk, dir) = (&options.disk, &options.dir);
    let inside = dir.join(&options.base_name);
    let outside = dir.parent().unwrap_or(Path::new("")).join(&options.base_name);
    if !exists(&**disk, &outside)? {
        return exists(&**disk, &inside);
    }
    disk.create_dir(dir).map_err(Error::io("create", dir))?;
    disk.rename(&outside, &inside).map_err(Error::io("move", &outside))?;
    Ok(true)
}

fn adopt_single_file(options: &Options) -> Result<Option<Manifest>, Error> {
    if !move_single_file(options)? {
        return Ok(None);
    }
    let (disk, dir) = (&options.disk, &options.dir);
    let (name, kind) = (options.base_name.clone(), FileType::Base);
    let entry =
        Entry { name, seq: 1, kind, start: None, end: None, db: 0, sealed_s: None, size: None };
    let manifest = Manifest { entries: vec![entry], state: None };
    let empty = Manifest::default();
    let mut folder = Folder::new(disk.clone(), dir, &options.base_name, empty);
    folder.store(manifest.clone())?;
    Ok(Some(manifest))
}

impl Recovered {
    /// A log that `manifest` describes and that ends at `end`.
    pub(super) fn from_parts(
        options: &Options,
        manifest: Manifest,
        end: Offset,
    ) -> Result<Recovered, Error> {
        let (disk, dir, state) = (&options.disk, &options.dir, manifest.state.as_ref());
        let manifest_path = Folder::manifest_path(dir, &options.base_name);
        let folder = disk.dir_identity(dir).map_err(Error::io("stat", dir))?;
        let file = match disk.file_identity(&manifest_path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            other => Some(other.map_err(Error::io("stat", &manifest_path))?),
        };
        Ok(Recovered {
            same_place: state.is_some_and(|state| state.folder == folder),
            same_file: state.is_some_and(|state| state.file.is_none() || state.file == file),
            same_boot: state.is_some_and(|state| {
                !state.boot.is_empty() && state.boot == options.disk.boot_id()
            }),
            pool_is_whole: true,
            disk: options.disk.clone(),
            dir: options.dir.clone(),
            base_name: options.base_name.clone(),
            pool_path: pool::path(&options.dir, &options.base_name),
            manifest_path,
            load_truncated: options.load_truncated,
            manifest,
            base: None,
            last_len: 0,
            end,
            replayed: true,
            held: HashMap::new(),
            waiting: None,
            notes: Vec::new(),
        })
    }

    /// The log of an empty folder.
    pub(super) fn nothing(
        options: &Options,
        histories: Histories,
        start: Offset,
    ) -> Result<Recovered, Error> {
        if read_manifest(options)?.is_some() {
            let exists = io::ErrorKind::AlreadyExists.into();
            return Err(Error::io("create a log in", &options.dir)(exists));
        }
        let state = State {
            histories,
            own: true,
            boot: String::new(),
            folder: options
                .disk
                .dir_identity(&options.dir)
                .map_err(Error::io("stat", &options.dir))?,
            file: None,
            fsync: Fsync::No,
            pool: None,
            unsynced: None,
            closed: Some(start),
        };
        let manifest = Manifest { entries: Vec::new(), state: Some(state) };
        Recovered::from_parts(options, manifest, start)
    }

    fn open_base(&mut self) -> Result<(), Error> {
        let Some(entry) = self.manifest.entries.iter_mut().find(|e| e.kind == FileType::Base)
        else {
            return Ok(());
        };
        let offset = *entry.start.get_or_insert_default();
        let path = self.dir.join(&entry.name);
        let file = self.disk.open(&path).map_err(Error::io("open", &path))?;
        let mut magic = [0; 5];
        let n = file.read_at(&mut magic, 0).map_err(Error::io("read", &path))?;
        // `dump.rdb` may be another name of it, and have been written over.
        let len = file.size().map_err(Error::io("read", &path))?;
        if let Some(size) = entry.size.filter(|size| *size != len) {
            let what = format!(
                "it has {len} bytes, and the manifest says {size}: another file was written over it, or a part is missing"
            );
            return Err(Error::Damaged { path, position: len.min(size), offset, what });
        }
        let kind = base_kind(&entry.name, &magic[..n]);
        self.base = Some(Base { path, kind, offset });
        Ok(())
    }

    /// Finds where each segment begins and ends, and that none is missing between.
    fn measure_segments(&mut self) -> Result<(), Error> {
        let (disk, dir, manifest) = (&self.disk, &self.dir, &self.manifest_path);
        let last = self.manifest.segments().next_back().map(|entry| entry.seq);
        let mut next = self.base.as_ref().map(|base| base.offset);
        let unsynced = self.manifest.state.as_ref().and_then(|state| state.unsynced);
        let mut is_cut = false;
        for entry in self.manifest.entries.iter_mut().filter(|e| e.kind == FileType::Incr) {
            if is_cut {
                (entry.kind, entry.sealed_s) = (FileType::History, None);
                continue;
            }
            let path = dir.join(&entry.name);
            let is_last = Some(entry.seq) == last;
            let len = match disk.open(&path).and_then(|file| file.size()) {
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(Error::Missing { path, manifest: manifest.clone() });
                }
                Err(error) => return Err(Error::io("open", &path)(error)),
            };
            let start = *entry.start.get_or_insert(next.unwrap_or_default());
            let damaged = |position: u64, offset, what| {
                Err(Error::Damaged { path: path.clone(), position, offset, what })
            };
            if let Some(next) = next.filter(|next| *next != start) {
                let what = format!("it begins here, what is before it ends at offset {next}");
                return damaged(0, start, what);
            }
            let mut len = len;
            if let (Some(end), Some(at)) =
                (entry.end.filter(|end| !is_last && *end >= start), unsynced)
                && at < end
            {
                let contents = disk.map(&path).map_err(Error::io("read", &path))?;
                let bytes = without_zeros(&contents[..len.min(end - start) as usize]);
                let there = start + bytes.len() as u64;
                if at <= there && there < end {
                    is_cut = true;
                    len = len.min(end - start);
                    self.notes.push(format!(
                        "{path:?} ends at offset {there}, before {end}: a sync had failed, and a power cut took the \
                         rest; what follows is left out"
                    ));
                }
            }
            let is_last = is_last || is_cut;
            let end = match (is_last, entry.end) {
                (false, Some(end)) if end < start || end - start > len => {
                    let what = format!("the file ends here, expected bytes up to offset {end}");
                    return damaged(len, start + len, what);
                }
                (false, Some(end)) => end,
                _ => start + len,
            };
            if is_last {
                entry.end = None;
                self.last_len = len;
            } else {
                entry.end = Some(end);
            }
            next = Some(end);
        }
        self.end = next.unwrap_or_default();
        self.replayed = false;
        Ok(())
    }

    /// Keeps base and segments as they are. A daemon may remove what is sealed, but does not change it; its
    /// last segment it writes, and cuts when the next has begun, so that one is copied.
    fn hold(&mut self) -> Result<(), Error> {
        let mut held = HashMap::new();
        let sealed = self.manifest.segments().filter(|entry| entry.end.is_some());
        let sealed = sealed.map(|entry| self.dir.join(&entry.name));
        for path in self.base.iter().map(|base| base.path.clone()).chain(sealed) {
            let contents = self.contents(&path)?;
            held.insert(path, contents);
        }
        if let Some(last) = self.manifest.segments().find(|entry| entry.end.is_none()) {
            let path = self.dir.join(&last.name);
            let bytes = read_first(&*self.disk, &path, Some(self.last_len));
            let bytes = bytes.map_err(Error::io("read", &path))?;
            held.insert(path, Arc::new(Contents::Owned(bytes)));
        }
        self.held = held;
        Ok(())
    }

    /// A copy of the pool's file, if a part of the log may be there. Its records and tags come before the
    /// blocks: what is in one that counts was there before the record, and stays until a segment has it.
    fn read_pool(&self) -> Result<Option<Vec<u8>>, Error> {
        if self.pool_stream().is_none() {
            return Ok(None);
        }
        match read_first(&*self.disk, &self.pool_path, None) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            // To start without what it holds would overwrite it.
            contents => contents.map(Some).map_err(Error::io("read", &self.pool_path)),
        }
    }

    /// Appends to the last segment what a process that was killed had not put there. After a power cut, and in
    /// a copy of the folder, too, that is appended if the pool has it whole, which it need not have then.
    fn take_from_pool(&mut self, options: &Options, pool: Option<&[u8]>) -> Result<(), Error> {
        let Some(stream) = self.pool_stream() else { return Ok(()) };
        let Some(entry) = self.manifest.segments().next_back() else { return Ok(()) };
        let (path, start) = (self.dir.join(&entry.name), entry.start.unwrap_or_default());
        let found = {
            let segment = self.contents(&path)?;
            let segment = &segment[..segment.len().min(self.last_len as usize)];
            let pool = pool.and_then(|contents| Found::open(contents, stream));
            let is_kernels = self.same_boot && self.same_place;
            pool.and_then(|pool| what_is_missing(segment, start, &pool, is_kernels))
        };
        let (pool, end) = (&self.pool_path, self.end);
        let Some((position, bytes)) = found else {
            self.pool_is_whole = false;
            self.notes.push(match self.same_boot || !self.same_place {
                true => format!("What was appended after offset {end} is not whole in {pool:?}"),
                false => format!(
                    "{pool:?} is not whole, as after a power cut: what was appended after offset {end} is \
                     missing, all that was synced is there"
                ),
            });
            return Ok(());
        };
        let n = bytes.len() as u64;
        if n > 0 && !options.alone {
            self.waiting = Some(format!("{pool:?} has {n} bytes that {path:?} does not have yet"));
        } else if n > 0 {
            let (disk, manifest) = (self.disk.clone(), self.manifest.clone());
            let mut folder = Folder::new(disk, &self.dir, &options.base_name, manifest);
            let append = || write_all_at(&*self.disk.open(&path)?, &bytes, position);
            let refuse = |error: io::Error| {
                let what = format!("{error}; {n} bytes that only {pool:?} has are to go there");
                Error::io("append to", &path)(io::Error::new(error.kind(), what))
            };
            folder.with_room(append).map_err(refuse)?;
            self.notes.append(&mut lock(&folder.notes));
            self.manifest = folder.manifest;
            self.last_len = self.last_len.max(position + n);
            self.end = start + self.last_len;
        }
        Ok(())
    }

    /// The stream whose newest bytes may be in the pool's file.
    pub(super) fn pool_stream(&self) -> Option<u64> {
        self.manifest.state.as_ref()?.pool
    }

    /// Finds how far back the history reaches: up to the segments without a gap. It is not needed to
    /// start, so what is wrong with it only means that there is less of it.
    fn check_history(&mut self) {
        let mut next = Some(self.start());
        let (disk, dir, notes) = (&self.disk, &self.dir, &mut self.notes);
        for entry in self.manifest.entries.iter_mut().rev().filter(|entry| entry.is_kept()) {
            let Some(at) = next else {
                entry.sealed_s = None;
                continue;
            };
            let path = dir.join(&entry.name);
            next = match look_at_kept(&**disk, &path, entry, at) {
                Ok(()) => entry.start,
                Err(why) => {
                    entry.sealed_s = None;
                    notes.push(format!("The history before offset {at} is left out: {why}"));
                    None
                }
            };
        }
        let starts: Vec<Option<Offset>> = self.manifest.kept().map(|entry| entry.start).collect();
        for entry in self.manifest.entries.iter_mut().filter(|entry| entry.is_old_base()) {
            let path = dir.join(&entry.name);
            match disk.open(&path) {
                Ok(_) if starts.contains(&entry.start) => {}
                Ok(_) => entry.sealed_s = None, // no history goes on from it
                Err(error) => {
                    entry.sealed_s = None;
                    notes.push(format!("An old base is left out: can't read {path:?}: {error}"));
                }
            }
        }
    }

    /// What an operator should know that is no reason not to start: a line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// What a start would take from the pool, in words.
    pub fn waiting(&self) -> Option<&str> {
        self.waiting.as_deref()
    }

    /// The snapshot to load first, if there is one; without it the dataset is empty at
    /// [`Recovered::start`].
    pub fn base(&self) -> Option<&Base> {
        self.base.as_ref()
    }

    /// Where the segments begin.
    pub fn start(&self) -> Offset {
        self.manifest.segments().next().and_then(|entry| entry.start).unwrap_or(self.end)
    }

    /// Where the log ends; before the replay, if its last command is whole.
    pub fn end(&self) -> Offset {
        self.end
    }

    pub(super) fn manifest(&self) -> Manifest {
        self.manifest.clone()
    }

    /// The names that the log bears on disk: what a replica asks its primary with.
    pub fn histories(&self) -> Option<Histories> {
        Some(self.manifest.state.as_ref()?.histories)
    }

    /// Whether the log was closed in good order, and ends where it did then.
    pub fn is_closed(&self) -> bool {
        self.manifest.state.as_ref().is_some_and(|state| state.closed == Some(self.end))
    }

    /// Whether the machine was off since the log was last written, without its having been closed.
    pub(super) fn lost_power(&self) -> bool {
        !self.same_boot && !self.is_closed()
    }

    /// Says what a power cut can have left of the last segment's bytes that were not synced: later ones without earlier
    /// ones. All that the index has was synced before. With `always` nobody was told of what was not, but much of what
    /// the index does not have was, so there zeros are not taken for a hole.
    fn doubt(&self, reading: &mut Reading<'_>) {
        let Some(state) = &self.manifest.state else { return };
        if state.closed.is_none() && self.lost_power() {
            let end = |last: &Record| (last.start - reading.start) as usize + last.len as usize;
            reading.doubtful = reading.records.last().map_or(0, end);
            if state.fsync != Fsync::Always {
                reading.unsynced = reading.doubtful;
            }
        }
    }

    /// Leaves the segments unread, if the log is as its process closed it at `end`: what they hold is
    /// known then.
    pub(super) fn skip_replay(&mut self, end: Offset) -> bool {
        self.replayed |= self.end == end && self.is_closed();
        self.replayed
    }

    /// Whether this is all that anybody can have seen of the history: the log was closed in good
    /// order; or the kernel that had all of it still runs; or every acknowledged byte was synced. A
    /// log that was copied proves nothing: others may have seen what came after the copy.
    pub fn is_lossless(&self) -> bool {
        let Some(state) = &self.manifest.state else { return false };
        let kernel_has_all = self.same_boot && self.pool_is_whole;
        self.same_place
            && self.same_file
            && match state.closed {
                Some(_) => self.is_closed(),
                None => kernel_has_all || state.fsync == Fsync::Always,
            }
    }

    /// Whether this node took the log's current name itself, rather than from a primary that may go on
    /// under it.
    pub fn owns_name(&self) -> bool {
        self.manifest.state.as_ref().is_some_and(|state| state.own)
    }

    /// The names under which a primary goes on: those it had if they are its own and
    /// [`Recovered::is_lossless`], else `new`, with the old name as the second up to the end.
    pub fn histories_after_restart(&self, new: HistoryId) -> Histories {
        match self.histories() {
            Some(histories) if self.is_lossless() && self.owns_name() => histories,
            Some(mut histories) => {
                histories.shift(new, self.end);
                histories
            }
            None => Histories::new(new),
        }
    }

    /// The bytes of the base or of a segment; where a daemon may be at work, as they were when they were found.
    pub fn contents(&self, path: &Path) -> Result<Arc<Contents>, Error> {
        match self.held.get(path) {
            Some(held) => Ok(held.clone()),
            None => self.disk.map(path).map(Arc::new).map_err(Error::io("read", path)),
        }
    }

    /// Gives the commands of a base to `apply`, from `position` on.
    pub fn replay_base<E: From<Error>>(
        &mut self,
        position: u64,
        apply: &mut dyn FnMut(Command<'_>) -> Result<(), E>,
    ) -> Result<Replayed, E> {
        let Some(base) = self.base.clone() else {
            let (end, db) = (self.end, 0);
            return Ok(Replayed { end, commands: 0, db, dropped: 0 });
        };
        let contents = self.contents(&base.path)?;
        let alone = self.manifest.segments().next().is_none();
        let bytes = if alone { without_zeros(&contents) } else { &contents };
        let zeros = (contents.len() - bytes.len()) as u64;
        let path = &base.path;
        let reading = Reading::new(path, bytes, base.offset, &[], 0);
        let cut = alone.then_some(zeros);
        let replayed = self.read(&reading, position as usize, cut, apply)?;
        Ok(Replayed { end: base.offset, ..replayed })
    }

    /// Gives the commands of all segments to `apply`. An incomplete end of the last segment is cut
    /// off its file, if that is allowed; anything else that is wrong is an error and changes
    /// nothing.
    pub fn replay<E: From<Error>>(
        &mut self,
        apply: &mut dyn FnMut(Command<'_>) -> Result<(), E>,
    ) -> Result<Replayed, E> {
        let entries: Vec<Entry> = self.manifest.segments().cloned().collect();
        let mut total = Replayed { end: self.end, commands: 0, db: 0, dropped: 0 };
        for (i, entry) in entries.iter().enumerate() {
            let path = self.dir.join(&entry.name);
            let contents = self.contents(&path)?;
            let start = entry.start.unwrap_or_default();
            let len = entry.end.map_or(self.last_len, |end| end - start);
            let bytes = contents.get(..len as usize).ok_or_else(|| Error::Damaged {
                path: path.clone(),
                position: contents.len() as u64,
                offset: start + contents.len() as u64,
                what: format!("the file ends here, expected {len} bytes"),
            })?;
            let is_last = i + 1 == entries.len();
            let bytes = if is_last { without_zeros(bytes) } else { bytes };
            let zeros = len - bytes.len() as u64;
            let records = index::read(&*self.disk, &path, start, bytes.len() as u64);
            let (path, records) = (&*path, &*records);
            let mut reading = Reading::new(path, bytes, start, records, entry.db);
            if is_last {
                self.doubt(&mut reading);
            }
            let replayed = self.read(&reading, 0, is_last.then_some(zeros), apply)?;
            total.commands += replayed.commands;
            total.dropped += replayed.dropped;
            (total.end, total.db) = (replayed.end, replayed.db);
        }
        self.end = total.end;
        self.replayed = true;
        self.miss_what_was_closed()?;
        Ok(total)
    }

    /// Says what the files lack of a log that was closed in good order. Where they end between two commands,
    /// nothing else shows it.
    fn miss_what_was_closed(&mut self) -> Result<(), Error> {
        let closed = self.manifest.state.as_ref().and_then(|state| state.closed);
        let Some(closed) = closed.filter(|closed| *closed > self.end) else { return Ok(()) };
        let missing = closed - self.end;
        let last = self.manifest.segments().next_back();
        let (Some(last), false) = (last, self.load_truncated) else {
            let end = self.end;
            self.notes.push(format!(
                "The log was closed at offset {closed}, and its files end at {end}: {missing} bytes are missing"
            ));
            return Ok(());
        };
        let (path, start) = (self.dir.join(&last.name), last.start.unwrap_or_default());
        let what = format!(
            "the file ends here, and the log was closed {missing} bytes later; aof-load-truncated is no"
        );
        Err(Error::Damaged { path, position: self.end - start, offset: self.end, what })
    }

    /// Reads one file. If it may be cut, `may_be_cut` is how many zeros follow what is read.
    fn read<E: From<Error>>(
        &mut self,
        reading: &Reading<'_>,
        position: usize,
        may_be_cut: Option<u64>,
        apply: &mut dyn FnMut(Command<'_>) -> Result<(), E>,
    ) -> Result<Replayed, E> {
        let mut commands = 0;
        let path = reading.path;
        let outcome = reading.replay(position, &mut |command| {
            commands += 1;
            apply(command)
        });
        let len = reading.bytes.len();
        let zeros = may_be_cut.unwrap_or(0);
        let outcome = match outcome {
            Ok(db) if zeros > 0 => Err(Stop::Cut { position: len, db }),
            other => other,
        };
        match outcome {
            Ok(db) => {
                let end = reading.start + len as u64;
                Ok(Replayed { end, commands, db, dropped: 0 })
            }
            Err(Stop::Refused(error)) => Err(error),
            Err(Stop::Damaged { position, what }) => Err(self.damaged(reading, position, what)),
            Err(Stop::Cut { position, .. }) if may_be_cut.is_none() => {
                let what = "the file ends inside a command, and is not the log's last".into();
                Err(self.damaged(reading, position, what))
            }
            Err(Stop::Cut { position, db }) => {
                let (position, dropped) = (position as u64, (len - position) as u64 + zeros);
                if !self.load_truncated {
                    let path = path.to_owned();
                    return Err(Error::Truncated { path, position, dropped }.into());
                }
                self.keep_what_is_cut(reading, position as usize, db);
                let cut = || {
                    let file = self.disk.open(path)?;
                    file.set_len(position)?;
                    file.sync()
                };
                cut().map_err(Error::io("truncate", path))?;
                let end = reading.start + position;
                Ok(Replayed { end, commands, db, dropped })
            }
        }
    }

    /// Sets aside what is about to be cut off, as far as the disk takes it: it may be more than a crash's trace.
    fn keep_what_is_cut(&mut self, reading: &Reading<'_>, position: usize, db: u32) {
        let mut bytes = &reading.bytes[position..];
        if bytes.is_empty() {
            return;
        }
        let from = reading.start + position as u64;
        let target = Target {
            disk: &*self.disk,
            dir: &self.dir,
            base_name: &self.base_name,
            history: self.histories().map(|histories| histories.current),
            from,
            to: from + bytes.len() as u64,
        };
        self.notes.push(match target.write(&mut bytes, from, db) {
            Ok(tail) => format!("What is cut off the log is kept in {:?}", tail.path),
            Err(error) => format!("What is cut off the log is not kept: {error}"),
        });
    }

    fn damaged<E: From<Error>>(&self, reading: &Reading<'_>, position: usize, what: String) -> E {
        let (path, position) = (reading.path.to_owned(), position as u64);
        let offset = reading.start + position;
        Error::Damaged { path, position, offset, what }.into()
    }

    /// Whether the end is known for certain: the segments were replayed.
    pub(super) fn is_replayed(&self) -> bool {
        self.replayed
    }
}

/// What the pool has that `segment`, which begins at `start`, has not, and at which position of the segment
/// that goes. `None` if some of it is missing, or the segment's end is not the stream's: another program may have
/// appended to it.
fn what_is_missing(
    segment: &[u8],
    start: Offset,
    pool: &Found<'_>,
    same_boot: bool,
) -> Option<(u64, Vec<u8>)> {
    let continued = |len: usize| {
        let end = start + len as u64;
        let missing = pool.read(end, pool.end())?;
        // What both have must be the same.
        let upto = pool.end().min(end);
        let shared = upto.0.saturating_sub(start.0) as usize;
        let in_both = [4096, 64, 1].into_iter().find_map(|n| {
            let n = shared.min(n);
            let bytes = pool.read(Offset(upto.0 - n as u64), upto)?;
            Some(bytes == segment[shared - n..shared])
        });
        (in_both != Some(false)).then_some((len as u64, missing))
    };
    // Zeros at its end may be what a power cut left of bytes that were not synced. After a kill they are the
    // log's.
    let len = without_zeros(segment).len();
    continued(len).or_else(|| continued(segment.len()).filter(|_| same_boot))
}

/// A copy of a file, or of its first `bytes`.
fn read_first(disk: &dyn Disk, path: &Path, bytes: Option<u64>) -> io::Result<Vec<u8>> {
    let file = disk.open(path)?;
    let mut contents = vec![0; bytes.map_or_else(|| file.size(), Ok)? as usize];
    read_exact_at(&*file, &mut contents, 0)?;
    Ok(contents)
}

/// What a base's name and its first bytes say of it.
pub(super) fn base_kind(name: &OsStr, bytes: &[u8]) -> BaseKind {
    match name.as_bytes().ends_with(b".base.rdb") {
        true => BaseKind::Rdb,
        false if bytes.starts_with(b"REDIS") => BaseKind::RdbThenAof,
        false => BaseKind::Aof,
    }
}

/// Whether the file of a kept segment is what the manifest says of it, and ends at `next`.
fn look_at_kept(disk: &dyn Disk, path: &Path, entry: &Entry, next: Offset) -> Result<(), String> {
    let wrong = |error: io::Error| format!("can't read {path:?}: {error}");
    let (start, end) = (entry.start.unwrap_or_default(), entry.end.unwrap_or_default());
    if end != next {
        return Err(format!("{path:?} ends at offset {end}"));
    }
    if lz4::is_name(&entry.name) {
        let file = Compressed::open(disk, path).map_err(wrong)?;
        if (file.start(), file.end()) != (start, end) {
            let (start, end) = (file.start(), file.end());
            return Err(format!("{path:?} holds offsets {start} to {end}"));
        }
        return Ok(());
    }
    let len = disk.open(path).and_then(|file| file.size()).map_err(wrong)?;
    match len >= end - start {
        true => Ok(()),
        false => Err(format!("{path:?} has {len} bytes, expected {}", end - start)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeDisk;
    use super::super::pool::Pool;
    use super::super::tail::Tail;
    use super::*;

    /// The pool has three bytes from offset 100 on, and the segment begins at 0.
    #[test]
    fn a_segments_end_is_compared_with_what_the_pool_has() {
        let (disk, path, at) = (FakeDisk::new(1), Path::new("p"), Offset(100));
        let pool = Pool::open(&*disk, path, 1, 7, at).unwrap();
        let mut tail = Tail::new(at, 0);
        tail.set_pool(Some(pool), at, at);
        tail.append(b"new");
        tail.publish(at, tail.end());
        let contents = disk.contents(path).unwrap();
        let pool = Found::open(&contents, 7).unwrap();
        let missing = |end: &[u8], same_boot| {
            let segment = [&[b'x'; 90][..], end].concat();
            what_is_missing(&segment, Offset(0), &pool, same_boot)
        };
        for (end, in_this_boot, in_another) in [
            (&b"0123456789"[..], Some((100, "new")), Some((100, "new"))),
            (b"0123456789ne", Some((102, "w")), Some((102, "w"))),
            (b"0123456789new", Some((103, "")), Some((103, ""))),
            (b"0123456789newer", Some((105, "")), Some((105, ""))),
            // Another program's.
            (b"0123456789old", None, None),
            (b"0123456789older", None, None),
            // Not there yet.
            (b"012345678", None, None),
            // What the power cut left, or bytes of the log: only before it one cannot know.
            (b"0123456789n\0\0", Some((101, "ew")), Some((101, "ew"))),
            (b"012345678\0", Some((100, "new")), None),
        ] {
            let expected = |bytes: Option<(u64, &str)>| bytes.map(|(at, new)| (at, new.into()));
            assert_eq!(missing(end, true), expected(in_this_boot), "{end:?}");
            assert_eq!(missing(end, false), expected(in_another), "{end:?}");
        }
    }
}
