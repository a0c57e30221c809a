//! The RDB of a full sync: received, kept where its link broke, made durable, loaded, and then this
//! server's own base.

use crate::config::types::DisklessLoad;
use crate::server::Server;
use crate::server::client::Client;
use crate::server::progress::{Progress, Unit};
use crate::server::snapshot::OnDisk;
use crate::{log_notice, log_warning};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use varve_net::{ConnId, Net};
use varve_persistence::log::{self, NewBase};
use varve_persistence::offset::{HistoryId, Offset};
use varve_replication::replica;

/// An RDB on its way here, or the part that was kept of one.
pub(super) struct Receiving {
    pub(super) path: PathBuf,
    /// The file is anonymous memory, which nothing but its descriptor holds.
    pub(super) in_memory: bool,
    pub(super) file: File,
    /// It came over more than one link.
    pub(super) parts: bool,
    /// The connection over which all of it has come.
    pub(super) whole: Option<ConnId>,
    pub(super) progress: Progress,
}

impl Receiving {
    /// Removes what was received.
    pub(super) fn discard(&self) {
        if !self.in_memory {
            let _ = std::fs::remove_file(&self.path);
        }
    }

    /// Whether it is a file of so many bytes, and the path still leads to it.
    fn holds(&self, bytes: u64) -> bool {
        use std::os::unix::fs::MetadataExt;
        let (Ok(here), Ok(there)) = (self.file.metadata(), std::fs::metadata(&self.path)) else {
            return false;
        };
        !self.in_memory && here.len() == bytes && here.ino() == there.ino()
    }
}

impl Server {
    pub(super) fn receive_rdb(
        &mut self,
        size: Option<u64>,
        place: Option<replica::Place>,
        out: &mut Vec<replica::Output>,
    ) {
        // A log on disk needs the file as its base.
        let in_memory = !self.cfg.appendonly
            && !self.uses_files()
            && match self.cfg.repl_diskless_load {
                DisklessLoad::Disabled => false,
                DisklessLoad::OnEmptyDb => self.ks.dbs.iter().all(|db| db.is_empty()),
                DisklessLoad::SwapDb => true,
            };
        let Some(link) = &mut self.repl.link else { return };
        link.drop_received();
        let (path, file) = match in_memory {
            true => {
                let file = memfd_create(c"varve-sync", MFdFlags::MFD_CLOEXEC).map(File::from);
                let path = file.as_ref().map_or(0, |file| file.as_raw_fd());
                (PathBuf::from(format!("/proc/self/fd/{path}")), file.map_err(io::Error::from))
            }
            false => {
                // The one before may still wait to become the log's base.
                let (pid, id) = (std::process::id(), link.conn.unwrap_or_default());
                let path = PathBuf::from(format!("temp-{pid}-{id}-sync.rdb"));
                let mut options = File::options();
                options.read(true).write(true).create(true).truncate(true);
                let file = options.open(&path);
                (path, file)
            }
        };
        match file {
            Ok(file) => {
                let (progress, whole) = (Progress::new(Unit::Bytes, size), None);
                let rdb = Receiving { path, in_memory, file, parts: false, whole, progress };
                link.rdb = Some(rdb);
                link.place = place;
            }
            Err(error) => {
                let why = format!("can't make {}: {error}", path.display());
                link.machine.rdb_failed(&why, true, self.clock.steady_ms() as u64, out);
            }
        }
    }

    /// The primary goes on with the file of which the first `from` bytes were received before.
    pub(super) fn receive_rest(
        &mut self,
        size: Option<u64>,
        place: Option<replica::Place>,
        from: u64,
        out: &mut Vec<replica::Output>,
    ) {
        let now = self.now_u64();
        let Some(link) = &mut self.repl.link else { return };
        match &mut link.rdb {
            Some(rdb) if rdb.holds(from) => {
                rdb.progress = Progress::resumed(Unit::Bytes, size, from);
                rdb.parts = true;
                link.place = place;
            }
            _ => {
                link.drop_received();
                let why = format!("the {from} bytes that were received before are gone");
                link.machine.rdb_failed(&why, true, now, out);
            }
        }
    }

    /// Ends what the link has begun, with the process.
    pub fn end_link(&mut self) {
        if let Some(link) = &mut self.repl.link {
            link.drop_received();
        }
    }

    /// All of the primary's RDB has come: it is made durable, off the loop, and then loaded.
    pub(super) fn sync_received(&mut self, out: &mut Vec<replica::Output>) {
        let now = self.now_u64();
        let Some(link) = &mut self.repl.link else { return };
        let (Some(rdb), Some(id)) = (&mut link.rdb, link.conn) else { return };
        rdb.whole = Some(id);
        if rdb.in_memory {
            link.received = Some(Ok(()));
            return;
        }
        match rdb.file.try_clone() {
            Ok(file) => self.repl.fetcher.sync(id, file, rdb.parts),
            Err(error) => {
                let why = format!("can't sync {}: {error}", rdb.path.display());
                link.machine.rdb_failed(&why, true, now, out);
            }
        }
    }

    /// What came over connection `id` is on disk, or can not be brought there.
    pub(in crate::server::replication) fn received_is_durable(
        &mut self,
        id: ConnId,
        result: io::Result<()>,
    ) {
        if let Some(link) = &mut self.repl.link
            && link.rdb.as_ref().is_some_and(|rdb| rdb.whole == Some(id))
        {
            link.received = Some(result);
        }
    }

    /// Whether an RDB is on its way here that is no file, and so can't become the base of a log on disk.
    pub fn receives_into_memory(&self) -> bool {
        let rdb = self.repl.link.as_ref().and_then(|link| link.rdb.as_ref());
        rdb.is_some_and(|rdb| rdb.in_memory)
    }

    /// Whether the RDB that is being loaded is still wanted: the role or the primary may change meanwhile.
    pub fn still_receives(&self) -> bool {
        self.repl.link.as_ref().is_some_and(|link| link.loading)
    }

    pub(super) fn report_receiving(&mut self) {
        let Some(rdb) = self.repl.link.as_mut().and_then(|l| l.rdb.as_mut()) else { return };
        rdb.progress.report("Full sync: received");
    }

    pub(super) fn load_and_adopt(&mut self, net: &mut Net<Client>, out: &mut Vec<replica::Output>) {
        let Some(link) = &mut self.repl.link else { return };
        let Some(synced) = link.received.take() else { return };
        // It stays the link's, who removes it if the load is wanted no more.
        let (Some(rdb), place) = (&link.rdb, link.place.take()) else { return };
        let path = rdb.path.clone();
        // `CONFIG SET dir` leads elsewhere: nothing is given up for what is not there.
        let synced = synced.and_then(|()| std::fs::metadata(&path).map(drop));
        // A primary that tells no place (`SYNC`) leaves us with a history of our own.
        let place = place.unwrap_or_else(|| {
            let id = log::random_history().unwrap_or(HistoryId::NONE);
            (id, Offset(0))
        });
        link.loading = true;
        let beside = self.cfg.repl_diskless_load == DisklessLoad::SwapDb;
        let kept = synced.is_err() || beside;
        let loaded = synced
            .map_err(|e| format!("{}: {e}", path.display()))
            .and_then(|()| self.load_from_primary(net, &path, beside));
        let now = self.now_u64();
        let Some(link) = self.repl.link.as_mut().filter(|link| link.loading) else { return };
        link.loading = false;
        let Some(rdb) = link.rdb.take() else { return };
        let stream_db = match loaded {
            Ok(loaded) => loaded.db,
            Err(why) => {
                rdb.discard();
                let kept = kept || self.restore(net);
                if self.stopping {
                    return;
                }
                let (place, now) = (self.repl.node.place(self.log.end()), self.now_u64());
                let Some(link) = &mut self.repl.link else { return };
                link.db = self.log.current_db() as usize;
                link.machine.set_place(Some(place));
                link.machine.rdb_failed(&why, kept, now, out);
                return;
            }
        };
        link.db = stream_db as usize;
        let former = link.machine.take_former();
        // Its snapshot is of other data, and would pass for one of the new history's.
        self.end_child(net);
        let followers = self.repl.node.adopted(place.0, former);
        let histories = self.repl.node.histories();
        self.histories = histories;
        let on_disk = self.log.is_on_disk();
        (self.snapshots.base, self.snapshots.installing) = (None, on_disk);
        let base = NewBase { path: rdb.path.clone(), at: place.1, rdb: true, keep: false };
        self.log.reset(histories, place.1, stream_db, on_disk.then_some(base));
        if !on_disk && !rdb.in_memory {
            self.keep_as_dump(&rdb.path, place.1);
        }
        self.ks.dirty = 0;
        self.snapshots.dirty_saved = 0;
        self.beside_log = false;
        if let Some(link) = &mut self.repl.link {
            link.machine.rdb_loaded(place, now, out);
        }
        self.drop_followers(net, followers);
    }

    /// Keeps a received RDB: a restart then knows where it stood, and this server's own replicas can
    /// have it.
    fn keep_as_dump(&mut self, received: &Path, at: Offset) {
        let dump = PathBuf::from(&self.cfg.dbfilename);
        if let Err(error) = std::fs::rename(received, &dump) {
            log_warning!("Can't keep the received RDB as {}: {error}", dump.display());
            let _ = std::fs::remove_file(received);
        } else if self.cfg.rdb_del_sync_files && self.keeps_nothing() {
            log_notice!("Removing the RDB file that the primary sent");
            self.remove_dump();
        } else {
            self.snapshots.base = Some(OnDisk::new(dump, at));
        }
    }
}
