//! The log's folder: its files, their names, and the orders in which they change.
//!
//! Every change is prepared beside what is there and takes effect by renaming the manifest. What
//! the manifest does not name is not the log, and is removed at the next start.

use super::disk::{Disk, DiskFile};
use super::error::Error;
use super::index::{self, Indexer};
use super::lz4;
use super::manifest::{Entry, FileType, Manifest};
use super::writer::lock;
use crate::offset::Offset;
use crate::rdb;
use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// A snapshot to become the log's base.
#[derive(Clone, Debug)]
pub struct NewBase {
    /// The finished file, on the folder's own file system.
    pub path: PathBuf,
    /// The offset that it stands at.
    pub at: Offset,
    /// RDB; otherwise commands (`aof-use-rdb-preamble no`).
    pub rdb: bool,
    /// Whether the file keeps its own name as well.
    pub keep: bool,
}

/// A segment, for those who read the log from disk.
#[derive(Clone, Debug)]
pub struct SegmentInfo {
    pub path: PathBuf,
    pub start: Offset,
    /// Where it ends; `None` for the one that is being written.
    pub end: Option<Offset>,
    /// Whether it is older than the base.
    pub is_history: bool,
    /// What its file takes on disk, if it is history.
    pub disk_bytes: u64,
    /// Its number, which no other segment of the folder ever has.
    pub(super) seq: u64,
    /// Which log of the folder it belongs to: a reset begins another.
    pub(super) epoch: u64,
    pub(super) unreadable: Flag,
}

impl SegmentInfo {
    /// What `entry` says, if it says where the segment is in the history.
    pub(super) fn of(entry: &Entry, dir: &Path) -> Option<SegmentInfo> {
        Some(SegmentInfo {
            path: dir.join(&entry.name),
            start: entry.start?,
            end: entry.end,
            is_history: entry.kind == FileType::History,
            disk_bytes: 0,
            seq: entry.seq,
            epoch: 0,
            unreadable: Flag::default(),
        })
    }

    /// Whether the byte at `offset` is, or will be, in this segment.
    pub fn covers(&self, offset: Offset) -> bool {
        self.start <= offset && self.end.is_none_or(|end| offset < end)
    }
}

/// What there is to go back to.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bases {
    /// The offset of the oldest dataset.
    pub oldest: Option<Offset>,
    /// How many bases are old ones.
    pub old: u64,
    /// What those take on disk.
    pub old_bytes: u64,
}

/// Something that any of many threads may find out.
#[derive(Clone, Debug, Default)]
pub struct Flag(Arc<AtomicBool>);

impl Flag {
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// Why history goes when something else needs its room.
pub const FULL: &str = "the disk is full";

/// The files and the manifest that names them.
pub struct Folder {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub base_name: OsString,
    pub manifest: Manifest,
    /// The index of the segment that is written; `None` after it could not be written.
    pub indexer: Option<Indexer>,
    /// Counts resets.
    pub epoch: u64,
    /// Whether history was removed that the manifest on disk still names.
    pub is_stale: bool,
    /// For the daemon's log file.
    pub notes: Arc<Mutex<Vec<String>>>,
    /// What readers are told of the segments.
    pub listed: Arc<Mutex<Arc<Vec<SegmentInfo>>>>,
    /// What the log's owner is told of the bases.
    pub bases: Arc<Mutex<Bases>>,
    /// The sizes of compressed segments and of old bases, by name.
    sizes: HashMap<OsString, u64>,
    last_base: u64,
    last_segment: u64,
}

impl Folder {
    /// The folder that `manifest` describes.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, base_name: &OsStr, manifest: Manifest) -> Folder {
        let last_base = manifest.last_seq(FileType::Base);
        let last_segment = manifest.last_seq(FileType::Incr);
        let (dir, base_name) = (dir.to_owned(), base_name.to_owned());
        let mut folder = Folder {
            disk,
            dir,
            base_name,
            manifest,
            indexer: None,
            epoch: 0,
            is_stale: false,
            notes: Arc::default(),
            listed: Arc::default(),
            bases: Arc::default(),
            sizes: HashMap::new(),
            last_base,
            last_segment,
        };
        let compressed = folder.manifest.kept().filter(|entry| lz4::is_name(&entry.name));
        let measured: Vec<OsString> =
            compressed.chain(folder.manifest.old_bases()).map(|e| e.name.clone()).collect();
        measured.iter().for_each(|name| folder.measure(name));
        folder
    }

    /// Notes the size of a file of the history.
    pub fn measure(&mut self, name: &OsStr) {
        let size = self.disk.open(&self.path(name)).and_then(|file| file.size());
        self.sizes.insert(name.to_owned(), size.unwrap_or(0));
    }

    /// The manifest's place.
    pub fn manifest_path(dir: &Path, base_name: &OsStr) -> PathBuf {
        let mut name = base_name.to_owned();
        name.push(".manifest");
        dir.join(name)
    }

    /// The path of a file of the log.
    pub fn path(&self, name: &OsStr) -> PathBuf {
        self.dir.join(name)
    }

    fn name(&self, seq: u64, suffix: &str) -> OsString {
        let mut name = self.base_name.clone();
        name.push(format!(".{seq}.{suffix}"));
        name
    }

    /// Counts to the next number whose name no file of the log has: names in a manifest that is not
    /// ours, or was damaged, need not be those of their numbers.
    fn next_name(&mut self, last: impl Fn(&mut Folder) -> &mut u64, suffix: &str) -> OsString {
        loop {
            *last(self) += 1;
            let seq = *last(self);
            let name = self.name(seq, suffix);
            if self.manifest.entries.iter().all(|entry| entry.name != name) {
                return name;
            }
        }
    }

    /// Makes the file of the next segment, which is to begin at `start` with `db` selected. The
    /// entry is not in the manifest yet.
    pub fn create_segment(
        &mut self,
        start: Offset,
        db: u32,
    ) -> Result<(Arc<dyn DiskFile>, Entry), Error> {
        let name = self.next_name(|folder| &mut folder.last_segment, "incr.aof");
        let path = self.path(&name);
        let disk = self.disk.clone();
        let file = self.with_room(|| disk.create(&path)).map_err(Error::io("create", &path))?;
        let seq = self.last_segment;
        let kind = FileType::Incr;
        Ok((
            file,
            Entry {
                name,
                seq,
                kind,
                start: Some(start),
                end: None,
                db,
                sealed_s: None,
                size: None,
            },
        ))
    }

    /// Begins the index of `entry`. That it can not be made does not stop the log.
    pub fn begin_index(&mut self, entry: &Entry, file: &Arc<dyn DiskFile>, start: Offset) {
        let path = self.path(&entry.name);
        self.indexer = Indexer::create(&*self.disk, &path, file.clone(), start).ok();
    }

    /// Moves (or links) a finished snapshot into the folder under a base's name, durably. The entry
    /// is not in the manifest yet.
    pub fn place_base(&mut self, base: &mut NewBase) -> Result<Entry, Error> {
        // An attempt that failed later may have put it in force.
        if let Some(entry) =
            self.manifest.base().filter(|entry| self.path(&entry.name) == base.path)
        {
            return Ok(entry.clone());
        }
        let suffix = if base.rdb { "base.rdb" } else { "base.aof" };
        let name = self.next_name(|folder| &mut folder.last_base, suffix);
        let (from, to, disk) = (&base.path, self.path(&name), self.disk.clone());
        let file = disk.open(from).map_err(Error::io("open", from))?;
        file.sync().map_err(Error::io("sync", from))?;
        if base.keep {
            let _ = disk.remove(&to); // left by an attempt that failed after this step
            self.with_room(|| disk.link(from, &to)).map_err(Error::io("link", &to))?;
        } else {
            self.with_room(|| disk.rename(from, &to)).map_err(Error::io("rename", &to))?;
        }
        // Where another attempt finds it, should a later step fail.
        (base.path, base.keep) = (to, false);
        self.sync_dir()?;
        let (seq, kind) = (self.last_base, FileType::Base);
        let start = Some(base.at);
        let size = file.size().ok();
        Ok(Entry { name, seq, kind, start, end: None, db: 0, sealed_s: None, size })
    }

    /// Makes a base for a log that began without one, with nothing in it at `at`. The entry is not in
    /// the manifest yet.
    pub fn create_empty_base(&mut self, at: Offset) -> Result<Entry, Error> {
        let before = self.last_base;
        let name = self.next_name(|folder| &mut folder.last_base, "base.rdb");
        let (seq, kind) = (self.last_base, FileType::Base);
        let path = self.path(&name);
        let write = || {
            let file = self.disk.create(&path)?;
            super::disk::write_all_at(&*file, &rdb::empty(), 0)?;
            file.sync()?;
            file.size()
        };
        let size = write().map_err(|error| {
            let _ = self.disk.remove(&path);
            self.last_base = before;
            Error::io("write", &path)(error)
        })?;
        let (start, size) = (Some(at), Some(size));
        Ok(Entry { name, seq, kind, start, end: None, db: 0, sealed_s: None, size })
    }

    /// Writes `manifest` beside the one in force, durably, and returns its temporary path. If history
    /// has to go to make room for it, `manifest` is without that then.
    pub fn prepare(&mut self, manifest: &mut Manifest) -> Result<PathBuf, Error> {
        loop {
            let (path, error) = match self.prepare_once(manifest) {
                (path, Ok(())) => return Ok(path),
                (path, Err(error)) => (path, error),
            };
            match is_full(&error).then(|| self.remove_oldest(FULL)).flatten() {
                Some(removed) => manifest.entries.retain(|entry| *entry != removed),
                None => return Err(Error::io("write", &path)(error)),
            }
        }
    }

    fn prepare_once(&self, manifest: &mut Manifest) -> (PathBuf, io::Result<()>) {
        let mut name = OsString::from("temp_");
        name.push(&self.base_name);
        name.push(".manifest");
        let path = self.dir.join(name);
        let mut write = || {
            let file = self.disk.create(&path)?;
            if let Some(state) = &mut manifest.state {
                state.file = Some(self.disk.file_identity(&path)?);
            }
            super::disk::write_all_at(&*file, &manifest.to_bytes(), 0)?;
            file.sync()
        };
        let result = write();
        if result.is_err() {
            // Most likely the disk is full: what was written of it would stay and be of no use.
            let _ = self.disk.remove(&path);
        }
        (path, result)
    }

    /// Puts the prepared manifest in force. Durable after [`Folder::sync_dir`].
    pub fn put_in_force(&mut self, prepared: &Path, manifest: Manifest) -> Result<(), Error> {
        let path = Folder::manifest_path(&self.dir, &self.base_name);
        if let Err(error) = self.disk.rename(prepared, &path) {
            let _ = self.disk.remove(prepared);
            return Err(Error::io("rename", &path)(error));
        }
        self.manifest = manifest;
        self.is_stale = false;
        Ok(())
    }

    /// Makes the folder's names durable.
    pub fn sync_dir(&self) -> Result<(), Error> {
        self.disk.sync_dir(&self.dir).map_err(Error::io("sync", &self.dir))
    }

    /// Replaces the manifest, durably.
    pub fn store(&mut self, mut manifest: Manifest) -> Result<(), Error> {
        let prepared = self.prepare(&mut manifest)?;
        self.put_in_force(&prepared, manifest)?;
        self.sync_dir()
    }

    /// Removes the files that are neither of the log nor kept, and then their names from the manifest.
    pub fn remove_dead(&mut self) -> Result<(), Error> {
        let mut manifest = self.manifest.clone();
        let is_dead = |entry: &Entry| {
            entry.kind == FileType::History && !entry.is_kept() && !entry.is_old_base()
        };
        manifest.entries.retain(|entry| !is_dead(entry) || !self.remove_files(entry));
        match manifest == self.manifest && !self.is_stale {
            true => Ok(()),
            false => self.store(manifest),
        }
    }

    /// Removes a file that was to join the log, if the manifest does not name it.
    pub fn remove_unnamed(&self, path: &Path) {
        if self.manifest.entries.iter().all(|entry| self.path(&entry.name) != path) {
            let _ = self.disk.remove(path);
        }
    }

    /// Removes a file of the log and its index. Whether both are gone.
    fn remove_files(&self, entry: &Entry) -> bool {
        let path = self.path(&entry.name);
        let removed = [&path, &index::path_of(&path)].map(|path| self.disk.remove(path));
        removed.iter().flat_map(|removed| removed.as_ref().err()).all(is_missing)
    }

    /// Removes a file that is no history any more. If that can not be, the manifest says so: nobody else
    /// would know of it.
    fn remove_or_name(&mut self, entry: &Entry) {
        if !self.remove_files(entry) {
            self.manifest.entries.push(Entry { sealed_s: None, ..entry.clone() });
            self.is_stale = true;
        }
    }

    /// What goes first when room is needed: the oldest segment of the history, or an old base that
    /// stands where it begins.
    pub fn oldest(&self) -> Option<&Entry> {
        let segment = self.manifest.kept().next();
        let base = self.manifest.old_bases().pop();
        base.filter(|base| segment.is_none_or(|segment| base.start <= segment.start)).or(segment)
    }

    /// Removes the oldest history, whoever may want it, and says what it was.
    pub fn remove_oldest(&mut self, why: &str) -> Option<Entry> {
        let entry = self.oldest()?.clone();
        self.remove_history(&entry, Some(why));
        Some(entry)
    }

    /// Removes a file of the history; the log file is told if there is a `why`. The manifest on disk
    /// names it until the next [`Folder::store`]; a start in between finds it missing, and needs it
    /// for nothing.
    pub fn remove_history(&mut self, entry: &Entry, why: Option<&str>) {
        self.manifest.entries.retain(|other| other != entry);
        self.publish();
        self.remove_or_name(entry);
        self.sizes.remove(&entry.name);
        self.is_stale = true;
        let Some(why) = why else { return };
        let name = entry.name.display();
        let what = match (entry.end, entry.start.unwrap_or_default()) {
            (Some(end), _) => format!("the history up to offset {end}"),
            (None, start) => format!("an old base at offset {start}"),
        };
        lock(&self.notes).push(format!("Removed {name}, {what}: {why}"));
    }

    /// Does something that may need room on the disk; while there is none, history goes for it, the
    /// oldest first.
    pub fn with_room<T>(&mut self, mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        loop {
            match act() {
                Err(error) if is_full(&error) && self.remove_oldest(FULL).is_some() => {}
                other => return other,
            }
        }
    }

    /// What a kept segment or an old base takes on disk, in bytes.
    pub fn kept_bytes(&self, entry: &Entry) -> u64 {
        self.sizes.get(&entry.name).copied().unwrap_or(entry.covers())
    }

    /// Puts the compressed form of a kept segment, finished and synced at `temp`, in the place of its
    /// file.
    pub fn replace_kept(&mut self, old: &Entry, temp: &Path, bytes: u64) -> Result<(), Error> {
        let mut manifest = self.manifest.clone();
        let name = lz4::name_of(&old.name);
        if let Some(entry) = manifest.entries.iter_mut().find(|entry| *entry == old) {
            entry.name.clone_from(&name);
        }
        let path = self.path(&name);
        let renamed = self.disk.rename(temp, &path).map_err(Error::io("rename", temp));
        let in_force = renamed.and_then(|()| {
            self.sync_dir()?;
            // No history makes room for this: it could be the very segment.
            let (prepared, result) = self.prepare_once(&mut manifest);
            result.map_err(Error::io("write", &prepared))?;
            self.put_in_force(&prepared, manifest)
        });
        if in_force.is_err() {
            let _ = (self.disk.remove(temp), self.disk.remove(&path));
            return in_force;
        }
        self.sizes.insert(name, bytes);
        self.publish();
        // Nobody would remove the old file later. Where a power cut brings its name back, it is missing.
        let durable = self.sync_dir();
        self.remove_or_name(old);
        durable
    }

    /// Tells readers which segments there are. What was found out about a file stays known.
    pub fn publish(&self) {
        let old = self.manifest.old_bases();
        *lock(&self.bases) = Bases {
            oldest: self.manifest.oldest_base(),
            old: old.len() as u64,
            old_bytes: old.iter().map(|base| self.kept_bytes(base)).sum(),
        };
        let mut now = self.segments();
        let mut listed = lock(&self.listed);
        for old in listed.iter().filter(|old| old.unreadable.is_set()) {
            if let Some(same) = now.iter_mut().find(|now| now.path == old.path) {
                same.unreadable = old.unreadable.clone();
            }
        }
        *listed = Arc::new(now);
    }

    /// Takes from the readers' list what a manifest lacks that is about to be in force.
    /// [`Folder::publish`] brings it back, if it does not come to that.
    pub fn unlist(&self, coming: &Manifest) {
        let coming = coming.kept().chain(coming.segments());
        let names: HashSet<&OsStr> = coming.map(|entry| &*entry.name).collect();
        let is_coming =
            |info: &&SegmentInfo| info.path.file_name().is_some_and(|name| names.contains(name));
        let mut listed = lock(&self.listed);
        let stay = listed.iter().filter(is_coming).cloned().collect();
        *listed = Arc::new(stay);
    }

    /// The segments, history first.
    fn segments(&self) -> Vec<SegmentInfo> {
        let info = |entry: &Entry| {
            let mut info = SegmentInfo::of(entry, &self.dir)?;
            if info.is_history {
                info.disk_bytes = self.kept_bytes(entry);
            }
            info.epoch = self.epoch;
            Some(info)
        };
        self.manifest.kept().chain(self.manifest.segments()).filter_map(info).collect()
    }
}

/// Whether an error says that the disk has no room.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn is_missing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}
