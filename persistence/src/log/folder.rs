//! The log's folder: its files, their names, and the orders in which they change.
//!
//! Every change is prepared beside what is there and takes effect by renaming the manifest. What
//! the manifest does not name is not the log, and is removed at the next start.

use super::disk::{Disk, DiskFile};
use super::error::Error;
use super::index::{self, Indexer};
use super::manifest::{Entry, FileType, Manifest};
use crate::offset::Offset;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    pub path: PathBuf,
    pub start: Offset,
    /// Where it ends; `None` for the one that is being written.
    pub end: Option<Offset>,
}

/// The files and the manifest that names them.
pub struct Folder {
    pub disk: Arc<dyn Disk>,
    pub dir: PathBuf,
    pub base_name: OsString,
    pub manifest: Manifest,
    /// The index of the segment that is written; `None` after it could not be written.
    pub indexer: Option<Indexer>,
    last_base: u64,
    last_segment: u64,
}

impl Folder {
    /// The folder that `manifest` describes.
    pub fn new(disk: Arc<dyn Disk>, dir: &Path, base_name: &OsStr, manifest: Manifest) -> Folder {
        let last_base = manifest.last_seq(FileType::Base);
        let last_segment = manifest.last_seq(FileType::Incr);
        let (dir, base_name) = (dir.to_owned(), base_name.to_owned());
        Folder { disk, dir, base_name, manifest, indexer: None, last_base, last_segment }
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

    /// Makes the file of the next segment, which is to begin at `start` with `db` selected. The
    /// entry is not in the manifest yet.
    pub fn create_segment(
        &mut self,
        start: Offset,
        db: u32,
    ) -> Result<(Arc<dyn DiskFile>, Entry), Error> {
        self.last_segment += 1;
        let name = self.name(self.last_segment, "incr.aof");
        let path = self.path(&name);
        let file = self.disk.create(&path).map_err(Error::io("create", &path))?;
        let seq = self.last_segment;
        let kind = FileType::Incr;
        Ok((file, Entry { name, seq, kind, start: Some(start), end: None, db }))
    }

    /// Begins the index of `entry`. That it can not be made does not stop the log.
    pub fn begin_index(&mut self, entry: &Entry, file: &Arc<dyn DiskFile>, start: Offset) {
        let path = self.path(&entry.name);
        self.indexer = Indexer::create(&*self.disk, &path, file.clone(), start).ok();
    }

    /// Moves (or links) a finished snapshot into the folder under a base's name, durably. The entry
    /// is not in the manifest yet.
    pub fn place_base(&mut self, base: &mut NewBase) -> Result<Entry, Error> {
        self.last_base += 1;
        let name = self.name(self.last_base, if base.rdb { "base.rdb" } else { "base.aof" });
        let (from, to) = (&base.path, self.path(&name));
        let file = self.disk.open(from).map_err(Error::io("open", from))?;
        file.sync().map_err(Error::io("sync", from))?;
        if base.keep {
            let _ = self.disk.remove(&to); // left by an attempt that failed after this step
            self.disk.link(from, &to).map_err(Error::io("link", &to))?;
        } else {
            self.disk.rename(from, &to).map_err(Error::io("rename", &to))?;
            base.path = to; // where another attempt finds it, should a later step fail
        }
        self.sync_dir()?;
        let (seq, kind) = (self.last_base, FileType::Base);
        Ok(Entry { name, seq, kind, start: Some(base.at), end: None, db: 0 })
    }

    /// Writes `manifest` beside the one in force, durably, and returns its temporary path.
    pub fn prepare(&self, manifest: &Manifest) -> Result<PathBuf, Error> {
        let mut name = OsString::from("temp_");
        name.push(&self.base_name);
        name.push(".manifest");
        let path = self.dir.join(name);
        let write = || {
            let file = self.disk.create(&path)?;
            super::disk::write_all_at(&*file, &manifest.to_bytes(), 0)?;
            file.sync()
        };
        if let Err(error) = write() {
            // Most likely the disk is full: what was written of it would stay and be of no use.
            let _ = self.disk.remove(&path);
            return Err(Error::io("write", &path)(error));
        }
        Ok(path)
    }

    /// Puts the prepared manifest in force. Durable after [`Folder::sync_dir`].
    pub fn put_in_force(&mut self, prepared: &Path, manifest: Manifest) -> Result<(), Error> {
        let path = Folder::manifest_path(&self.dir, &self.base_name);
        self.disk.rename(prepared, &path).map_err(Error::io("rename", &path))?;
        self.manifest = manifest;
        Ok(())
    }

    /// Makes the folder's names durable.
    pub fn sync_dir(&self) -> Result<(), Error> {
        self.disk.sync_dir(&self.dir).map_err(Error::io("sync", &self.dir))
    }

    /// Replaces the manifest, durably.
    pub fn store(&mut self, manifest: Manifest) -> Result<(), Error> {
        let prepared = self.prepare(&manifest)?;
        self.put_in_force(&prepared, manifest)?;
        self.sync_dir()
    }

    /// Removes the files that are history, and then their names from the manifest.
    pub fn remove_history(&mut self) -> Result<(), Error> {
        let mut manifest = self.manifest.clone();
        for entry in manifest.entries.extract_if(.., |entry| entry.kind == FileType::History) {
            let path = self.path(&entry.name);
            let _ = self.disk.remove(&path);
            let _ = self.disk.remove(&index::path_of(&path));
        }
        match manifest == self.manifest {
            true => Ok(()),
            false => self.store(manifest),
        }
    }

    /// The segments, for readers.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        let info = |entry: &Entry| {
            let path = self.path(&entry.name);
            Some(SegmentInfo { path, start: entry.start?, end: entry.end })
        };
        self.manifest.segments().filter_map(info).collect()
    }
}
