//! Children that save: `BGSAVE`, the log's new base and full syncs are the same snapshot.
//!
//! A child is forked between two commands, so its memory is the dataset at one offset of the log.
//! It allocates nothing and locks nothing: its buffers were made before the fork, and it writes to
//! its own descriptors only. What it has to say (keys done, memory copied, an error) it says
//! through a pipe, in records short enough to be written whole.
//!
//! With the log on disk every snapshot becomes the log's base: the segment that begins where it was
//! forked continues it.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `child.rs` | the child's side: what runs after the fork |
//! | `parent.rs` | the server's side: starting a child, hearing it, what becomes of its snapshot |
//! | `due.rs` | when a child is started |
//! | `unshare.rs` | the memory that a child has left |

mod child;
mod due;
mod parent;
mod unshare;

use super::progress::Progress;
use nix::unistd::Pid;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;
use varve_net::ConnId;
use varve_persistence::offset::{Histories, Offset};
use varve_persistence::rdb;
use varve_replication::file::FileId;

/// What a child writes for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// `BGSAVE` and save points: `dump.rdb`.
    Save,
    /// `BGREWRITEAOF`: the log's base only.
    Rewrite,
    /// A full sync through a file.
    SyncDisk,
    /// A full sync down these connections, ended by the mark.
    SyncSocket { conns: Vec<ConnId>, mark: [u8; 40] },
}

impl Purpose {
    fn name(&self) -> &'static str {
        match self {
            Purpose::Save => "rdb",
            Purpose::Rewrite => "aof-rewrite",
            Purpose::SyncDisk | Purpose::SyncSocket { .. } => "sync",
        }
    }

    /// The name of the child in the process title.
    fn title(&self) -> &'static str {
        match self {
            Purpose::Save | Purpose::SyncDisk => "varve-rdb-bgsave",
            Purpose::Rewrite => "varve-aof-rewrite",
            Purpose::SyncSocket { .. } => "varve-rdb-to-replicas",
        }
    }
}

/// A child at work.
pub struct Running {
    pub pid: Pid,
    pub purpose: Purpose,
    /// Where it writes; a stream has no file.
    pub path: Option<PathBuf>,
    /// What it calls the finished file, if not that: `dbfilename` may change meanwhile.
    dump: Option<PathBuf>,
    /// Whether it writes commands rather than RDB: `aof-use-rdb-preamble` may change meanwhile.
    as_commands: bool,
    /// The state that it holds.
    pub at: Offset,
    /// The database selected there.
    db: u32,
    pub started: Instant,
    pub started_ms: i64,
    dirty_at_start: u64,
    /// In keys.
    pub progress: Progress,
    pub cow: u64,
    /// Bytes of the file so far.
    pub bytes: u64,
    /// Pieces of it that were synced on the way.
    synced: u64,
    reports: ConnId,
    /// The pipe on which a stream comes.
    pub stream: Option<ConnId>,
    stream_ended: bool,
    reports_ended: bool,
    error: String,
    /// Whether a new segment was begun for it, so that it can become the base.
    rotated: bool,
    exited: Option<bool>,
}

impl Running {
    /// The name besides `dump.rdb`'s under which the file can become the log's base.
    fn base(&self) -> Option<PathBuf> {
        self.dump.as_ref()?;
        self.path.as_ref().map(|path| base_of(path))
    }

    /// Removes what the child wrote, which is of no use.
    fn remove_files(&self) {
        for path in self.path.iter().chain(&self.base()) {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn base_of(path: &Path) -> PathBuf {
    path.with_extension("base.rdb")
}

/// Snapshots past, present and due.
pub struct Snapshots {
    pub running: Option<Running>,
    /// `BGSAVE SCHEDULE`, `BGREWRITEAOF` while a child ran.
    pub save_scheduled: bool,
    pub rewrite_scheduled: bool,
    /// Whether the last save went well: writes are refused otherwise.
    pub last_ok: bool,
    /// `LASTSAVE`: Unix s.
    pub last_save_s: i64,
    /// By the steady clock, as all that the next attempt waits for.
    saved_at_ms: i64,
    tried_at_ms: i64,
    pub last_save_time_s: i64,
    pub last_cow: u64,
    /// Rewrites that failed since the last that went well.
    pub rewrite_failures: u64,
    pub last_rewrite_time_s: i64,
    pub last_rewrite_cow: u64,
    pub saves: u64,
    pub rewrites: u64,
    pub dirty_saved: u64,
    /// Keys of the last RDB file that was read, and those that had expired.
    pub last_load_keys: u64,
    pub last_load_expired: u64,
    /// The newest snapshot file that the log still continues, for full syncs.
    pub base: Option<OnDisk>,
    /// The dump was written for replicas, to be removed when they have it if nothing is kept on
    /// disk: `rdb-del-sync-files`.
    pub sync_file: bool,
    /// The log has a new base to put in force, and is as long as before until then.
    pub installing: bool,
    /// A child writes the first base of a log that is to be on disk from then on: the histories at
    /// its start.
    pub disk_begins: Option<Histories>,
    rewrite_failed_at_ms: i64,
    /// Until when no rewrite begins for the log's size alone.
    rests_until_ms: i64,
    next_mark: u64,
    /// At work after a child, until the next.
    unshare: Option<unshare::Unshare>,
}

/// A finished snapshot. Names can come to mean another file (`SAVE`, a backup copied over it,
/// `CONFIG SET dir`), so it knows which file it is.
pub struct OnDisk {
    pub path: PathBuf,
    /// The state that it holds.
    pub at: Offset,
    identity: Option<Identity>,
    /// The CRC-64 that it ends with.
    crc: Option<u64>,
    /// Which RDB version it is of.
    pub version: Option<u32>,
}

/// Inode, length and time of change in ns.
type Identity = (u64, u64, i64);

fn identity(path: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.len(), meta.mtime() * 1_000_000_000 + meta.mtime_nsec()))
}

/// A file that was just written, or read to its end, has its last bytes in memory.
fn checksum(path: &Path) -> Option<u64> {
    rdb::last_checksum(&File::open(path).ok()?).ok()?
}

fn version(path: &Path) -> Option<u32> {
    let mut head = Vec::new();
    File::open(path).ok()?.take(16).read_to_end(&mut head).ok()?;
    rdb::Reader::new(&head).ok().map(|reader| reader.version())
}

impl OnDisk {
    pub fn new(path: PathBuf, at: Offset) -> OnDisk {
        let (identity, crc, version) = (identity(&path), checksum(&path), version(&path));
        OnDisk { identity, crc, version, path, at }
    }

    /// How a replica can tell that it is sent this file and no other; `None` if it has no checksum.
    pub fn file(&self) -> Option<FileId> {
        Some(FileId { size: self.bytes(), crc: self.crc?, offset: self.at })
    }

    /// The length of the file.
    pub fn bytes(&self) -> u64 {
        self.identity.map_or(0, |(_, len, _)| len)
    }

    /// Whether the file is still the one that was written.
    pub fn is_there(&self) -> bool {
        self.identity.is_some() && self.identity == identity(&self.path)
    }
}

impl Snapshots {
    pub fn new(now_ms: i64) -> Snapshots {
        Snapshots {
            running: None,
            save_scheduled: false,
            rewrite_scheduled: false,
            last_ok: true,
            last_save_s: now_ms / 1000,
            saved_at_ms: now_ms,
            tried_at_ms: 0,
            last_save_time_s: -1,
            last_cow: 0,
            rewrite_failures: 0,
            last_rewrite_time_s: -1,
            last_rewrite_cow: 0,
            saves: 0,
            rewrites: 0,
            dirty_saved: 0,
            last_load_keys: 0,
            last_load_expired: 0,
            base: None,
            sync_file: false,
            installing: false,
            disk_begins: None,
            rewrite_failed_at_ms: 0,
            rests_until_ms: 0,
            next_mark: 0,
            unshare: None,
        }
    }

    pub fn running(&self) -> bool {
        self.running.is_some()
    }

    pub fn running_for(&self, purpose: &Purpose) -> bool {
        let same =
            |r: &Running| std::mem::discriminant(&r.purpose) == std::mem::discriminant(purpose);
        self.running.as_ref().is_some_and(same)
    }
}

/// Makes renames in a folder durable.
pub fn sync_dir(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}
