//! Children that save: `BGSAVE`, the log's new base and full syncs are the same snapshot.
//!
//! A child is forked between two commands, so its memory is the dataset at one offset of the log.
//! It allocates nothing and locks nothing: its buffers were made before the fork, and it writes to
//! its own descriptors only. What it has to say (keys done, memory copied, an error) it says
//! through a pipe, in records short enough to be written whole.
//!
//! With the log on disk every snapshot becomes the log's base: the segment that begins where it was
//! forked continues it.

use super::Server;
use super::client::{Client, Kind};
use super::progress::{Progress, Unit};
use super::start::fsync;
use super::writeback::Writeback;
use crate::{log_notice, log_warning, service};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;
use varve_engine::Error;
use varve_engine::table::{ResizePolicy, set_resize_policy};
use varve_net::{Conn, ConnId, Mode, Net};
use varve_persistence::log::{Fsync, NewBase};
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

/// Snapshots past, present and due.
pub struct Snapshots {
    pub running: Option<Running>,
    /// `BGSAVE SCHEDULE`, `BGREWRITEAOF` while a child ran.
    pub save_scheduled: bool,
    pub rewrite_scheduled: bool,
    /// Whether the last save went well: writes are refused otherwise.
    pub last_ok: bool,
    pub last_save_s: i64,
    pub last_try_s: i64,
    pub last_save_time_s: i64,
    pub last_cow: u64,
    pub last_rewrite_ok: bool,
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
    disk_begins: Option<Histories>,
    buffers: Option<rdb::Buffers>,
    rewrite_retry_s: i64,
    /// Until when no rewrite begins for the log's size alone.
    rests_until_ms: i64,
    next_mark: u64,
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

impl OnDisk {
    pub fn new(path: PathBuf, at: Offset) -> OnDisk {
        OnDisk { identity: identity(&path), crc: checksum(&path), path, at }
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

/// A record in the report pipe: kind, then two words.
const RECORD: usize = 24;
const PROGRESS: u64 = 1;
const FAILED: u64 = 2;
/// How many pieces were synced on the way.
const SYNCED: u64 = 3;
/// Keys between two reports.
const REPORT_EVERY: u64 = 1024;
/// How often the time of a rewrite must pass before the log's size alone begins the next: a child
/// shares the processor's time and has the loop copy pages, and so takes a tenth of the time at most...
const REST: u32 = 9;
/// ... unless the log is so many times as large as what calls for a rewrite.
const MOST_GROWTH: u128 = 4;
/// Seconds between two attempts of a save point after a failure.
const RETRY_S: i64 = 5;
/// How far a child that nobody waits for stands back where it would share the loop's core: it gets a
/// tenth of it instead of half.
const BACKGROUND_NICE: libc::c_int = 10;

impl Snapshots {
    pub fn new(now_ms: i64) -> Snapshots {
        Snapshots {
            running: None,
            save_scheduled: false,
            rewrite_scheduled: false,
            last_ok: true,
            last_save_s: now_ms / 1000,
            last_try_s: 0,
            last_save_time_s: -1,
            last_cow: 0,
            last_rewrite_ok: true,
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
            buffers: None,
            rewrite_retry_s: 0,
            rests_until_ms: 0,
            next_mark: 0,
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

/// The private memory that this process has copied, bytes: what copy-on-write cost so far.
fn copied_memory(room: &mut [u8]) -> u64 {
    // Read with plain calls into a buffer of the caller's: a child must not allocate.
    // SAFETY: the path is a C string; the descriptor is closed below; the buffer is as long as said.
    let n = unsafe {
        let fd = libc::open(c"/proc/self/smaps_rollup".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return 0;
        }
        let mut n = 0;
        loop {
            let got = libc::read(fd, room[n..].as_mut_ptr().cast(), room.len() - n);
            if got <= 0 {
                break;
            }
            n += got as usize;
        }
        libc::close(fd);
        n
    };
    let text = &room[..n];
    let field = b"Private_Dirty:";
    let Some(at) = text.windows(field.len()).position(|w| w == field) else { return 0 };
    let digits = text[at + field.len()..].iter().skip_while(|c| **c == b' ');
    let kb =
        digits.take_while(|c| c.is_ascii_digit()).fold(0u64, |n, c| n * 10 + (c - b'0') as u64);
    kb * 1024
}

impl Server {
    /// What a snapshot taken now must say of itself.
    fn save_options(&self, version: u32) -> rdb::SaveOptions {
        rdb::SaveOptions {
            version,
            compress: self.cfg.rdbcompression,
            checksum: self.cfg.rdbchecksum,
            now_ms: self.clock.now_ms(),
            used_memory: crate::allocator::used(),
            history: self.log.histories().current,
            offset: self.log.end(),
            db: self.log.current_db().unwrap_or(0),
            aof_base: self.log.is_on_disk(),
            lfu: self.ks.access_clock == varve_engine::keyspace::AccessClock::Lfu,
            evicts: super::memory::uses_access_clock(self.cfg.maxmemory_policy),
        }
    }

    /// Saves to `dump.rdb` and waits for it: `SAVE`, and the end of the process.
    pub fn save_now(&mut self) -> Result<(), String> {
        let result = self.save_in_foreground();
        self.snapshots.last_ok = result.is_ok();
        if let Err(why) = &result {
            log_warning!("Error saving DB on disk: {why}");
        }
        result
    }

    fn save_in_foreground(&mut self) -> Result<(), String> {
        let temp = format!("temp-{}.rdb", std::process::id());
        let started = Instant::now();
        let mut options = self.save_options(self.cfg.rdb_version);
        options.aof_base = false;
        let mut buffers = rdb::Buffers::new();
        let result = File::create(&temp).and_then(|mut file| {
            let on = self.cfg.rdb_save_incremental_fsync;
            let mut writeback = Writeback::new(file.as_raw_fd(), on);
            let mut write = |bytes: &[u8]| {
                file.write_all(bytes)?;
                writeback.wrote(bytes.len())
            };
            rdb::save(&self.ks, &options, &mut buffers, &mut write, &mut |_| {})?;
            file.sync_all()?;
            std::fs::rename(&temp, &self.cfg.dbfilename)?;
            sync_dir(Path::new("."))
        });
        if let Err(error) = result {
            let _ = std::fs::remove_file(&temp);
            return Err(error.to_string());
        }
        self.saved(self.ks.dirty, started.elapsed().as_secs() as i64);
        log_notice!("DB saved on disk");
        Ok(())
    }

    fn saved(&mut self, dirty: u64, seconds: i64) {
        self.snapshots.dirty_saved = dirty;
        self.snapshots.last_save_s = self.clock.now_ms() / 1000;
        self.snapshots.last_save_time_s = seconds;
        self.snapshots.last_ok = true;
    }

    /// Changes since the last save.
    pub fn unsaved_changes(&self) -> u64 {
        self.ks.dirty.saturating_sub(self.snapshots.dirty_saved)
    }

    /// Starts a child. The error is for the client or the log file.
    pub fn start_child(
        &mut self,
        net: &mut Net<Client>,
        purpose: Purpose,
    ) -> Result<Offset, Error> {
        debug_assert!(self.snapshots.running.is_none() && self.in_exec.is_none());
        let fault = |what: &str, e: &dyn std::fmt::Display| {
            log_warning!("Can't save in background: {what}: {e}");
            Error::err(format_args!("Can't save in background: {what}: {e}"))
        };
        let rewrite_as_commands = purpose == Purpose::Rewrite && !self.cfg.aof_use_rdb_preamble;
        let path = match purpose {
            Purpose::SyncSocket { .. } => None,
            Purpose::Save | Purpose::SyncDisk => {
                Some(PathBuf::from(format!("temp-{}-{}.rdb", std::process::id(), self.stats.forks)))
            }
            Purpose::Rewrite => Some(PathBuf::from(format!(
                "temp-rewriteaof-bg-{}-{}.aof",
                std::process::id(),
                self.stats.forks
            ))),
        };
        let mut file = match &path {
            Some(path) => Some(File::create(path).map_err(|e| fault("open", &e))?),
            None => None,
        };
        let (report_read, report_write) = pipe().map_err(|e| fault("pipe", &e))?;
        let stream = match path {
            None => Some(pipe().map_err(|e| fault("pipe", &e))?),
            Some(_) => None,
        };
        let (stream_read, stream_write) = match stream {
            Some((r, w)) => (Some(r), Some(w)),
            None => (None, None),
        };
        // Everything that the log holds up to here is the snapshot's; what comes after continues it.
        let rotated = self.log.is_on_disk() && path.is_some();
        self.log.flush();
        let begins = self.snapshots.disk_begins.is_some();
        let at = if rotated || begins { self.log.begin_rotation() } else { self.log.end() };
        let mut options = self.save_options(self.cfg.rdb_version);
        options.aof_base |= purpose == Purpose::Rewrite;
        let mut buffers = self.snapshots.buffers.take().unwrap_or_default();
        let mut smaps = vec![0u8; 8192];
        let incremental = match purpose {
            Purpose::Rewrite => self.cfg.aof_rewrite_incremental_fsync,
            Purpose::Save | Purpose::SyncDisk => self.cfg.rdb_save_incremental_fsync,
            Purpose::SyncSocket { .. } => false,
        };
        let title = self.title(purpose.title());
        let forking = Instant::now();
        // SAFETY: the child allocates nothing, takes no lock and calls nothing but plain system calls
        // and code that works on memory it owns or only reads; it ends with `_exit`.
        let forked = unsafe { fork() };
        let pid = match forked {
            Err(e) => {
                self.snapshots.buffers = Some(buffers);
                if let Some(path) = &path {
                    let _ = std::fs::remove_file(path);
                }
                return Err(fault("fork", &e));
            }
            Ok(ForkResult::Child) => {
                // Without its parent it works for nobody, and it would keep the folder locked.
                // SAFETY: plain integers.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                if matches!(purpose, Purpose::Save | Purpose::Rewrite) {
                    // SAFETY: a plain integer.
                    unsafe { libc::nice(BACKGROUND_NICE) };
                }
                if !title.is_empty() {
                    crate::title::set(&title);
                }
                let out = match (&mut file, &stream_write) {
                    (Some(file), _) => file.as_raw_fd(),
                    (None, Some(pipe)) => pipe.as_raw_fd(),
                    (None, None) => unreachable!("a file or a stream was opened above"),
                };
                let mark = match &purpose {
                    Purpose::SyncSocket { mark, .. } => Some(mark),
                    _ => None,
                };
                let child = Child {
                    out,
                    report: report_write.as_raw_fd(),
                    is_file: path.is_some(),
                    incremental,
                };
                let ok = child.run(
                    &self.ks,
                    &options,
                    rewrite_as_commands,
                    mark,
                    &mut buffers,
                    &mut smaps,
                );
                // SAFETY: ends this process without running anything of the parent's.
                unsafe { libc::_exit(if ok { 0 } else { 1 }) }
            }
            Ok(ForkResult::Parent { child }) => child,
        };
        let fork_us = forking.elapsed().as_micros() as u64;
        self.snapshots.buffers = Some(buffers);
        self.stats.forks += 1;
        self.stats.last_fork_us = fork_us;
        self.latency("fork", fork_us / 1000);
        self.ks.child_alive = true;
        net.child_lives = true;
        set_resize_policy(ResizePolicy::Avoid);
        drop((report_write, stream_write, file));
        let child_client = || Client { kind: Kind::Child, ..Client::default() };
        let reports =
            net.adopt(report_read, child_client(), Mode::Raw).map_err(|e| fault("adopt", &e))?;
        let stream = match stream_read {
            Some(fd) => {
                Some(net.adopt(fd, child_client(), Mode::Raw).map_err(|e| fault("adopt", &e))?)
            }
            None => None,
        };
        log_notice!("Background {} started by pid {pid} at offset {at}", purpose.name());
        let keys_total = self.ks.dbs.iter().map(|d| d.len() as u64).sum();
        self.snapshots.running = Some(Running {
            pid,
            purpose,
            path,
            at,
            db: options.db,
            started: Instant::now(),
            started_ms: self.clock.now_ms(),
            dirty_at_start: self.ks.dirty,
            progress: Progress::new(Unit::Keys, Some(keys_total)),
            cow: 0,
            bytes: 0,
            synced: 0,
            reports,
            stream,
            stream_ended: stream.is_none(),
            reports_ended: false,
            error: String::new(),
            rotated,
            exited: None,
        });
        self.apply_fsync();
        self.tell_progress();
        Ok(at)
    }

    /// Tells the service manager how far the child is, and the log file about once a second.
    fn tell_progress(&mut self) {
        let Some(running) = &mut self.snapshots.running else { return };
        let text = format!("Saving ({}): {}", running.purpose.name(), running.progress);
        if running.progress.is_report_due() {
            log_notice!("{text}");
        }
        service::status(self, &text);
    }

    /// Tells the log when to sync: as `appendfsync` says, or not at all while a child works and
    /// `no-appendfsync-on-rewrite` is set.
    pub fn apply_fsync(&mut self) {
        let held = self.cfg.no_appendfsync_on_rewrite && self.snapshots.running();
        self.log.set_fsync(if held { Fsync::No } else { fsync(self.cfg.appendfsync) });
    }

    /// A fresh mark for the end of a streamed RDB.
    pub fn stream_mark(&mut self) -> [u8; 40] {
        self.snapshots.next_mark += 1;
        let mut mark = [0u8; 40];
        mark.iter_mut().for_each(|c| *c = b"0123456789abcdef"[self.ks.random_below(16)]);
        mark
    }

    /// `BGSAVE`.
    pub fn bgsave(&mut self, net: &mut Net<Client>, schedule: bool) -> Result<&'static str, Error> {
        if self.snapshots.running_for(&Purpose::Save) {
            return Err(Error::new("ERR Background save already in progress"));
        }
        if self.snapshots.running() || self.in_exec.is_some() {
            if schedule || self.in_exec.is_some() {
                self.snapshots.save_scheduled = true;
                return Ok("Background saving scheduled");
            }
            return Err(Error::new(
                "ERR Another child process is active (AOF?): can't BGSAVE right now. Use BGSAVE SCHEDULE in order to schedule a BGSAVE whenever possible.",
            ));
        }
        self.snapshots.last_try_s = self.clock.now_ms() / 1000;
        self.snapshots.saves += 1;
        self.start_child(net, Purpose::Save).map(|_| "Background saving started")
    }

    /// `BGREWRITEAOF`: a new base for the log.
    pub fn bgrewriteaof(&mut self, net: &mut Net<Client>) -> Result<&'static str, Error> {
        if self.snapshots.running_for(&Purpose::Rewrite) {
            return Err(Error::new(
                "ERR Background append only file rewriting already in progress",
            ));
        }
        if self.snapshots.running() || self.in_exec.is_some() {
            self.snapshots.rewrite_scheduled = true;
            return Ok("Background append only file rewriting scheduled");
        }
        if self.disk_is_due() {
            return self.begin_disk(net).map(|_| "Background append only file rewriting started");
        }
        if !self.log.is_on_disk() {
            // Without a log on disk there is nothing to shorten: a snapshot is what was asked for.
            return self.bgsave(net, true).map(|_| "Background append only file rewriting started");
        }
        self.snapshots.rewrites += 1;
        self.start_child(net, Purpose::Rewrite)
            .map(|_| "Background append only file rewriting started")
    }

    /// Whether the log is to be on disk and is not yet.
    pub fn disk_is_due(&self) -> bool {
        self.cfg.appendonly && !self.log.is_on_disk() && self.loading.is_none()
    }

    /// `CONFIG SET appendonly yes`: a child writes the base that the log on disk begins with. If
    /// there is another child, this one comes after it.
    pub fn begin_disk(&mut self, net: &mut Net<Client>) -> Result<(), Error> {
        if self.snapshots.running() || self.in_exec.is_some() {
            return Ok(());
        }
        // The tail must reach back to the base when that is finished.
        self.log.set_tail_bytes(u64::MAX);
        self.snapshots.rewrites += 1;
        self.snapshots.disk_begins = Some(*self.log.histories());
        if let Err(error) = self.start_child(net, Purpose::Rewrite) {
            self.snapshots.disk_begins = None;
            self.log.set_tail_bytes(self.cfg.repl_backlog_size);
            return Err(error);
        }
        Ok(())
    }

    /// `CONFIG SET appendonly no`.
    pub fn end_disk(&mut self, net: &mut Net<Client>) {
        if let Some(running) = &self.snapshots.running
            && running.purpose == Purpose::Rewrite
        {
            net.kill(running.reports);
            net.child_lives = false;
            self.kill_child();
        }
        self.snapshots.disk_begins = None;
        self.snapshots.rewrite_scheduled = false;
        self.snapshots.installing = false;
        if let Err(why) = self.log.stop_disk() {
            log_warning!("The log could not be closed in good order: {why}");
        }
        self.log.set_tail_bytes(self.cfg.repl_backlog_size);
    }

    /// Goes on on disk from the base that a child has finished.
    fn start_disk(&mut self, base: NewBase, db: u32, histories: Histories) -> std::io::Result<()> {
        if *self.log.histories() != histories {
            return Err(std::io::Error::other("the data was replaced meanwhile"));
        }
        self.log
            .start_disk(self.log_options(), base, db)
            .map_err(|e| std::io::Error::other(e.to_string()))?;
        log_notice!("The log is on disk from offset {} on", self.log.end());
        Ok(())
    }

    /// Bytes from a child: reports, or the RDB that it streams.
    pub fn child_bytes(&mut self, net: &mut Net<Client>, conn: &mut Conn<Client>) {
        let Some(running) = &mut self.snapshots.running else {
            let n = conn.input.bytes().len();
            conn.input.consume(n);
            return;
        };
        if running.stream == Some(conn.id) {
            running.bytes += conn.input.bytes().len() as u64;
            self.stream_to_replicas(net, conn);
            return;
        }
        while let Some(record) = conn.input.bytes().first_chunk::<RECORD>() {
            let word = |i: usize| {
                u64::from_le_bytes(record[i * 8..i * 8 + 8].try_into().expect("eight bytes"))
            };
            match word(0) {
                PROGRESS => {
                    running.progress.done = word(1).min(running.progress.size());
                    running.cow = running.cow.max(word(2) & 0xffff_ffff_ffff);
                }
                SYNCED => running.synced = word(1),
                FAILED => {
                    running.error = std::io::Error::from_raw_os_error(word(1) as i32).to_string()
                }
                _ => {}
            }
            conn.input.consume(RECORD);
        }
    }

    /// A child's pipe came to its end.
    pub fn child_closed(&mut self, net: &mut Net<Client>, id: ConnId) {
        if let Some(running) = &mut self.snapshots.running {
            if running.stream == Some(id) {
                running.stream_ended = true;
            }
            running.reports_ended |= running.reports == id;
        }
        self.reap(net);
    }

    /// Looks whether the child has ended, and finishes what it began.
    pub fn reap(&mut self, net: &mut Net<Client>) {
        let Some(running) = &mut self.snapshots.running else { return };
        if running.exited.is_none() {
            running.exited = match waitpid(running.pid, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(_, 0)) => Some(true),
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => Some(false),
                Err(nix::errno::Errno::ECHILD) => Some(false),
                _ => None,
            };
        }
        // The pipes may still hold what the child said last.
        let Some(ok) = running.exited else { return };
        if !running.stream_ended || !running.reports_ended {
            return;
        }
        let Some(running) = self.snapshots.running.take() else { return };
        net.kill(running.reports);
        self.ks.child_alive = false;
        net.child_lives = false;
        set_resize_policy(ResizePolicy::Allow);
        self.apply_fsync();
        self.child_ended(net, running, ok);
    }

    fn child_ended(&mut self, net: &mut Net<Client>, running: Running, ok: bool) {
        let seconds = running.started.elapsed().as_secs() as i64;
        let name = running.purpose.name();
        let finished = match (&running.path, ok) {
            (_, false) => {
                let why =
                    if running.error.is_empty() { "the child was ended" } else { &running.error };
                Err(why.to_owned())
            }
            (None, true) => Ok(()),
            (Some(path), true) => self.keep_snapshot(path, &running).map_err(|e| e.to_string()),
        };
        match &finished {
            Ok(()) => log_notice!(
                "Background {name} terminated with success: {} keys in {:.2} s, {} MB of memory copied, {} pieces synced on the way",
                running.progress.size(),
                running.started.elapsed().as_secs_f64(),
                running.cow >> 20,
                running.synced
            ),
            Err(why) => {
                log_warning!("Background {name} error: {why}");
                if let Some(path) = &running.path {
                    let _ = std::fs::remove_file(path);
                }
            }
        }
        let ok = finished.is_ok();
        match running.purpose {
            Purpose::Save => {
                self.snapshots.last_cow = running.cow;
                if ok {
                    self.saved(running.dirty_at_start, seconds);
                } else {
                    self.snapshots.last_ok = false;
                }
            }
            Purpose::Rewrite => {
                if self.snapshots.disk_begins.take().is_some() {
                    self.log.set_tail_bytes(self.cfg.repl_backlog_size);
                }
                self.snapshots.last_rewrite_ok = ok;
                self.snapshots.last_rewrite_time_s = seconds;
                let rest = running.started.elapsed() * REST;
                self.snapshots.rests_until_ms = self.clock.now_ms() + rest.as_millis() as i64;
                self.snapshots.last_rewrite_cow = running.cow;
                if !ok {
                    self.snapshots.rewrite_retry_s = self.clock.now_ms() / 1000 + 60;
                }
            }
            Purpose::SyncDisk | Purpose::SyncSocket { .. } => self.snapshots.last_cow = running.cow,
        }
        self.sync_child_ended(net, &running.purpose, ok);
    }

    /// Puts a finished snapshot where it belongs: `dump.rdb`, and the log's base.
    fn keep_snapshot(&mut self, path: &Path, running: &Running) -> std::io::Result<()> {
        // As in Redis, what was saved for a replica is a save like any other.
        let to_dump = matches!(running.purpose, Purpose::Save | Purpose::SyncDisk);
        let installs = running.rotated && self.log.is_on_disk();
        let mut path = path.to_owned();
        let mut base = path.clone();
        let mut keep = false;
        if to_dump {
            let dump = PathBuf::from(&self.cfg.dbfilename);
            if installs {
                // The base takes a name of its own now: until it is in force, `dump.rdb` may
                // become another snapshot's.
                base.set_extension("base");
                if std::fs::hard_link(&path, &base).is_err() {
                    (base, keep) = (dump.clone(), true);
                }
            }
            std::fs::rename(&path, &dump)?;
            self.snapshots.sync_file = running.purpose == Purpose::SyncDisk;
            sync_dir(Path::new("."))?;
            path = dump;
        }
        if running.purpose == Purpose::Rewrite
            && let Some(histories) = self.snapshots.disk_begins
        {
            let rdb = self.cfg.aof_use_rdb_preamble;
            let base = NewBase { path, at: running.at, rdb, keep: false };
            return self.start_disk(base, running.db, histories);
        }
        if running.purpose != Purpose::Rewrite {
            self.snapshots.base = Some(OnDisk::new(path, running.at));
        }
        if installs {
            let rdb = running.purpose != Purpose::Rewrite || self.cfg.aof_use_rdb_preamble;
            self.log.install_base(NewBase { path: base, at: running.at, rdb, keep });
            self.snapshots.installing = true;
        }
        Ok(())
    }

    /// Ends a child that nobody needs any more.
    pub fn kill_child(&mut self) {
        if let Some(running) = self.snapshots.running.take() {
            let _ = nix::sys::signal::kill(running.pid, nix::sys::signal::Signal::SIGKILL);
            let _ = waitpid(running.pid, None);
            if let Some(path) = &running.path {
                let _ = std::fs::remove_file(path);
            }
            self.ks.child_alive = false;
            set_resize_policy(ResizePolicy::Allow);
            self.apply_fsync();
        }
    }

    fn rewrite_is_due(&self, base: u64, current: u64) -> bool {
        let percent = self.cfg.auto_aof_rewrite_percentage as u64;
        let rested = self.clock.now_ms() >= self.snapshots.rests_until_ms;
        is_too_large(base, current, percent, self.cfg.auto_aof_rewrite_min_size, rested)
    }

    /// Starts what is due: scheduled saves and rewrites, save points, a log grown too large.
    pub fn snapshot_round(&mut self, net: &mut Net<Client>) {
        self.reap(net);
        if self.snapshots.running() {
            self.tell_progress();
            return;
        }
        if self.loading.is_some() || self.in_exec.is_some() {
            return;
        }
        let now_s = self.clock.now_ms() / 1000;
        if std::mem::take(&mut self.snapshots.rewrite_scheduled) {
            let _ = self.bgrewriteaof(net);
            return;
        }
        if self.disk_is_due() && now_s >= self.snapshots.rewrite_retry_s {
            let _ = self.begin_disk(net);
            return;
        }
        let retry = self.snapshots.last_ok || now_s - self.snapshots.last_try_s >= RETRY_S;
        let changes = self.unsaved_changes();
        let due = self.cfg.save.iter().find(|p| {
            changes >= p.changes && now_s - self.snapshots.last_save_s > p.seconds as i64
        });
        if let Some(point) = due
            && retry
        {
            log_notice!("{} changes in {} seconds. Saving...", point.changes, point.seconds);
            let _ = self.bgsave(net, false);
            return;
        }
        if self.snapshots.save_scheduled && retry {
            self.snapshots.save_scheduled = false;
            let _ = self.bgsave(net, false);
            return;
        }
        let stats = self.log.stats();
        if self.log.is_on_disk()
            && !self.snapshots.installing
            && now_s >= self.snapshots.rewrite_retry_s
            && self.rewrite_is_due(stats.base_bytes, stats.current_bytes)
        {
            let growth = (stats.current_bytes * 100 / stats.base_bytes.max(1)).saturating_sub(100);
            log_notice!("Starting automatic rewriting of AOF on {growth}% growth");
            let _ = self.bgrewriteaof(net);
        }
    }
}

/// Whether a log of `current` bytes is to be rewritten, that was `base` bytes after the last time.
/// `rested` is whether [`REST`] is over.
fn is_too_large(base: u64, current: u64, percent: u64, min_size: u64, rested: bool) -> bool {
    let [base, current, percent, min_size] = [base, current, percent, min_size].map(u128::from);
    let called_for = (base * (100 + percent) / 100).max(min_size);
    let most = if rested { called_for } else { called_for * MOST_GROWTH };
    percent > 0 && current > most
}

/// The child's side. Nothing here allocates.
struct Child {
    out: i32,
    report: i32,
    is_file: bool,
    incremental: bool,
}

impl Child {
    fn run(
        &self,
        ks: &varve_engine::Keyspace,
        options: &rdb::SaveOptions,
        as_commands: bool,
        mark: Option<&[u8; 40]>,
        buffers: &mut rdb::Buffers,
        smaps: &mut [u8],
    ) -> bool {
        let mut writeback = Writeback::new(self.out, self.incremental);
        let mut write = |bytes: &[u8]| {
            self.write_all(self.out, bytes)?;
            writeback.wrote(bytes.len())
        };
        let mut reported = 0;
        let mut progress = |keys: u64| {
            if keys >= reported + REPORT_EVERY {
                reported = keys;
                self.say(PROGRESS, keys, 0);
            }
        };
        let mut result = match as_commands {
            false => rdb::save(ks, options, buffers, &mut write, &mut progress),
            true => rdb::save_as_commands(ks, options, buffers, &mut write, &mut progress),
        };
        if let (Ok(_), Some(mark)) = (&result, mark)
            && let Err(e) = write(mark)
        {
            result = Err(e);
        }
        if result.is_ok() && self.is_file {
            // SAFETY: a descriptor of ours.
            if unsafe { libc::fsync(self.out) } != 0 {
                result = Err(std::io::Error::last_os_error());
            }
        }
        self.say(SYNCED, writeback.pieces, 0);
        let copied = copied_memory(smaps);
        self.say(PROGRESS, u64::MAX >> 16, copied);
        if let Err(e) = &result {
            self.say(FAILED, e.raw_os_error().unwrap_or(libc::EIO) as u64, 0);
        }
        result.is_ok()
    }

    fn write_all(&self, fd: i32, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            // SAFETY: the slice is valid for its length.
            let n = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
            if n < 0 {
                let e = std::io::Error::last_os_error();
                if e.raw_os_error() == Some(libc::EINTR) {
                    continue;
                }
                return Err(e);
            }
            bytes = &bytes[n as usize..];
        }
        Ok(())
    }

    fn say(&self, kind: u64, a: u64, b: u64) {
        let mut record = [0u8; RECORD];
        record[..8].copy_from_slice(&kind.to_le_bytes());
        record[8..16].copy_from_slice(&a.to_le_bytes());
        record[16..].copy_from_slice(&b.to_le_bytes());
        let _ = self.write_all(self.report, &record);
    }
}

fn pipe() -> nix::Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)
}

/// Makes renames in a folder durable.
pub fn sync_dir(path: &Path) -> std::io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_rewritten_when_it_has_grown_and_the_last_time_is_some_way_back() {
        let due = |base, current, rested| is_too_large(base, current, 100, 64, rested);
        assert!(!due(10, 64, true) && due(10, 65, true));
        assert!(!due(100, 200, true) && due(100, 201, true));
        assert!(!due(10, 256, false) && due(10, 257, false));
        assert!(!due(100, 800, false) && due(100, 801, false));
        assert!(!is_too_large(10, u64::MAX, 0, 64, true));
        assert!(!is_too_large(u64::MAX / 2, u64::MAX, 1000, 64, false));
    }
}
