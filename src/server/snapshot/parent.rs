//! The server's side of a snapshot: forking the child, hearing what it reports, and putting what it
//! wrote where it belongs. The save that waits (`SAVE`) is here too, and the log that goes to disk
//! with a child's snapshot as its base.

use super::child::{Child, FAILED, Names, PROGRESS, RECORD, REPORT_EVERY, SYNCED};
use super::due::REST;
use super::unshare::Unshare;
use super::{OnDisk, Purpose, Running, base_of, sync_dir};
use crate::server::Server;
use crate::server::client::{Client, Kind};
use crate::server::progress::{Progress, Unit};
use crate::server::start::fsync;
use crate::server::stop::Insistence;
use crate::server::writeback::Writeback;
use crate::{log_notice, log_warning, service};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, fork};
use std::cell::RefCell;
use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use varve_engine::Error;
use varve_engine::table::{ResizePolicy, set_resize_policy};
use varve_net::{Conn, ConnId, Mode, Net};
use varve_persistence::log::{Fsync, NewBase};
use varve_persistence::offset::Offset;
use varve_persistence::rdb;

/// How far a child that nobody waits for stands back where it would share the loop's core: it gets a
/// tenth of it instead of half.
const BACKGROUND_NICE: libc::c_int = 10;

impl Server {
    /// What a snapshot taken now must say of itself.
    pub(in crate::server) fn save_options(&self, version: u32) -> rdb::SaveOptions {
        rdb::SaveOptions {
            version,
            compress: self.cfg.rdbcompression,
            checksum: self.cfg.rdbchecksum,
            now_ms: self.clock.now_ms(),
            used_memory: crate::allocator::used(),
            history: self.log.histories().current,
            offset: self.log.end(),
            db: self.log.current_db(),
            aof_base: self.log.is_on_disk(),
            lfu: self.ks.access_clock == varve_engine::keyspace::AccessClock::Lfu,
            evicts: crate::server::memory::uses_access_clock(self.cfg.maxmemory_policy),
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
        let insistence = Insistence::on(self.shutdown.as_ref());
        let goes_on = || match insistence.came_within(Duration::ZERO) {
            true => Err(std::io::Error::other("SIGINT came again")),
            false => Ok(()),
        };
        let key_delay = Duration::from_micros(self.cfg.rdb_key_save_delay.into());
        let keys = self.ks.dbs.iter().map(|d| d.len() as u64).sum();
        let shown = RefCell::new((Progress::new(Unit::Keys, Some(keys)), false));
        let show = |keys: Option<u64>| {
            let (progress, told) = &mut *shown.borrow_mut();
            progress.done = keys.unwrap_or(progress.done);
            *told |= progress.report("Saving:");
        };
        let result = File::create(&temp).and_then(|mut file| {
            let on = self.cfg.rdb_save_incremental_fsync;
            let mut writeback = Writeback::new(file.as_raw_fd(), on);
            let mut write = |bytes: &[u8]| {
                goes_on()?;
                show(None);
                file.write_all(bytes)?;
                writeback.wrote(bytes.len())
            };
            let mut progress = |keys| {
                if keys % REPORT_EVERY == 0 {
                    show(Some(keys));
                }
                if !key_delay.is_zero() {
                    insistence.came_within(key_delay);
                }
            };
            rdb::save(&self.ks, &options, &mut buffers, &mut write, &mut progress)?;
            file.sync_all()?;
            goes_on()?;
            std::fs::rename(&temp, &self.cfg.dbfilename)?;
            sync_dir(Path::new("."))
        });
        if shown.into_inner().1 && self.shutdown.is_none() {
            service::ready();
        }
        if let Err(error) = result {
            let _ = std::fs::remove_file(&temp);
            if insistence.came_within(Duration::ZERO) {
                self.insist();
            }
            return Err(error.to_string());
        }
        self.saved(self.ks.dirty, started.elapsed().as_secs() as i64);
        log_notice!("DB saved on disk");
        Ok(())
    }

    fn saved(&mut self, dirty: u64, seconds: i64) {
        self.snapshots.dirty_saved = dirty;
        self.snapshots.last_save_s = self.clock.now_ms() / 1000;
        self.snapshots.saved_at_ms = self.clock.steady_ms();
        self.snapshots.last_save_time_s = seconds;
        self.snapshots.last_ok = true;
    }

    /// Starts a child. The error is for the client or the log file.
    pub fn start_child(
        &mut self,
        net: &mut Net<Client>,
        purpose: Purpose,
    ) -> Result<Offset, Error> {
        debug_assert!(self.snapshots.running.is_none() && self.in_exec.is_none());
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
        let mut pipes = Vec::new();
        self.fork_child(net, purpose, path.as_deref(), &mut pipes).map_err(|(what, error)| {
            for pipe in &pipes {
                net.kill(pipe.read);
            }
            path.iter().for_each(|path| drop(std::fs::remove_file(path)));
            log_warning!("Can't save in background: {what}: {error}");
            Error::err(format_args!("Can't save in background: {what}: {error}"))
        })
    }

    /// Opens what the child writes to, and forks. An error leaves `path` and the pipes that there are.
    fn fork_child(
        &mut self,
        net: &mut Net<Client>,
        purpose: Purpose,
        path: Option<&Path>,
        pipes: &mut Vec<ChildPipe>,
    ) -> Result<Offset, (&'static str, std::io::Error)> {
        let as_commands = purpose == Purpose::Rewrite && !self.cfg.aof_use_rdb_preamble;
        // One for its reports, one for a stream.
        while pipes.len() < 1 + usize::from(path.is_none()) {
            pipes.push(ChildPipe::open(net).map_err(|e| ("pipe", e))?);
        }
        let file = path.map(File::create).transpose().map_err(|e| ("open", e))?;
        // Everything that the log holds up to here is the snapshot's; what comes after continues it.
        let rotated = self.log.is_on_disk() && path.is_some();
        self.log.flush();
        // As in Redis, what is saved for a replica is a save like any other.
        let to_dump = matches!(purpose, Purpose::Save | Purpose::SyncDisk);
        let dump = to_dump.then(|| PathBuf::from(&self.cfg.dbfilename));
        let name =
            |path: &Path| CString::new(path.as_os_str().as_bytes()).map_err(|e| ("name", e.into()));
        let names = match (path, &dump) {
            (Some(path), Some(dump)) => Some(Names {
                temp: name(path)?,
                base: rotated.then(|| name(&base_of(path))).transpose()?,
                dump: name(dump)?,
            }),
            _ => None,
        };
        let begins = self.snapshots.disk_begins.is_some();
        let at = if rotated || begins { self.log.begin_rotation() } else { self.log.end() };
        let mut options = self.save_options(self.cfg.rdb_version);
        options.aof_base |= purpose == Purpose::Rewrite;
        if self.is_primary() {
            // The file says which database is selected, but not all who sync with Redis read that.
            self.log.select_again();
        }
        let mut buffers = rdb::Buffers::new();
        let mut smaps = vec![0u8; 8192];
        let incremental = match purpose {
            Purpose::Rewrite => self.cfg.aof_rewrite_incremental_fsync,
            Purpose::Save | Purpose::SyncDisk => self.cfg.rdb_save_incremental_fsync,
            Purpose::SyncSocket { .. } => false,
        };
        let title = self.title(purpose.title());
        self.snapshots.unshare = None;
        let forking = Instant::now();
        let this = nix::unistd::getpid();
        // SAFETY: the child allocates nothing, takes no lock and calls nothing but plain system calls
        // and code that works on memory it owns or only reads; it ends with `_exit`.
        let forked = unsafe { fork() };
        let pid = match forked {
            Err(e) => return Err(("fork", e.into())),
            Ok(ForkResult::Child) => {
                // Without its parent it works for nobody.
                // SAFETY: plain integers.
                unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
                if nix::unistd::getppid() != this {
                    // SAFETY: as below. The signal would not come any more.
                    unsafe { libc::_exit(1) }
                }
                if matches!(purpose, Purpose::Save | Purpose::Rewrite) {
                    // SAFETY: a plain integer.
                    unsafe { libc::nice(BACKGROUND_NICE) };
                }
                if !title.is_empty() {
                    crate::title::set(&title);
                }
                let stream = || pipes[1].write.as_raw_fd();
                let out = file.as_ref().map_or_else(stream, File::as_raw_fd);
                let mark = match &purpose {
                    Purpose::SyncSocket { mark, .. } => Some(mark),
                    _ => None,
                };
                let child = Child {
                    out,
                    report: pipes[0].write.as_raw_fd(),
                    is_file: path.is_some(),
                    names,
                    incremental,
                    key_delay: Duration::from_micros(self.cfg.rdb_key_save_delay.into()),
                };
                child.let_go();
                let ok = child.run(&self.ks, &options, as_commands, mark, &mut buffers, &mut smaps);
                // SAFETY: ends this process without running anything of the parent's.
                unsafe { libc::_exit(if ok { 0 } else { 1 }) }
            }
            Ok(ForkResult::Parent { child }) => child,
        };
        let fork_us = forking.elapsed().as_micros() as u64;
        // The child has its own now; kept here they would count for `maxmemory`.
        drop(buffers);
        self.stats.forks += 1;
        self.stats.last_fork_us = fork_us;
        self.latency("fork", fork_us / 1000);
        self.ks.child_alive = true;
        net.child_lives = true;
        set_resize_policy(ResizePolicy::Avoid);
        drop(file);
        let mut conns = pipes.drain(..).map(|pipe| pipe.read);
        let (reports, stream) = (conns.next().expect("it was opened above"), conns.next());
        drop(conns);
        log_notice!("Background {} started by pid {pid} at offset {at}", purpose.name());
        let keys_total = self.ks.dbs.iter().map(|d| d.len() as u64).sum();
        self.snapshots.running = Some(Running {
            pid,
            purpose,
            path: path.map(Path::to_owned),
            dump,
            as_commands,
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
    pub(super) fn tell_progress(&mut self) {
        let Some(running) = &mut self.snapshots.running else { return };
        let text = format!("Saving ({}): {}", running.purpose.name(), running.progress);
        if running.progress.is_report_due() {
            log_notice!("{text}");
        }
        service::status(&text);
    }

    /// Tells the log when to sync: as `appendfsync` says, or not at all while a child works and
    /// `no-appendfsync-on-rewrite` is set.
    pub fn apply_fsync(&mut self) {
        let held = self.cfg.no_appendfsync_on_rewrite && self.snapshots.running();
        self.log.set_fsync(if held { Fsync::No } else { fsync(self.cfg.appendfsync) });
    }

    /// Tells the log what the configuration says: a client may have set it while the files were opened.
    pub fn apply_log_config(&mut self) {
        self.apply_fsync();
        let ttl = Duration::from_secs(self.cfg.repl_history_ttl.into());
        self.log.set_history(self.cfg.repl_history_size, ttl);
    }

    /// A fresh mark for the end of a streamed RDB.
    pub fn stream_mark(&mut self) -> [u8; 40] {
        self.snapshots.next_mark += 1;
        let mut mark = [0u8; 40];
        mark.iter_mut().for_each(|c| *c = b"0123456789abcdef"[self.ks.random_below(16)]);
        mark
    }

    /// Ends a child whose work nobody wants any more.
    pub fn abandon_child(&mut self, net: &mut Net<Client>, purpose: &Purpose) {
        if let Some(running) = &self.snapshots.running
            && running.purpose == *purpose
        {
            self.end_child(net);
        }
    }

    /// Ends the child that works, and tells the replicas that wait for what it writes.
    pub fn end_child(&mut self, net: &mut Net<Client>) {
        let Some(running) = &self.snapshots.running else { return };
        let purpose = running.purpose.clone();
        net.kill(running.reports);
        net.child_lives = false;
        self.kill_child();
        self.sync_child_ended(net, &purpose, false);
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
        // Another that began before this one's segment would have as much to copy once more, and so on: the log's
        // threads would never catch up.
        if ok && running.rotated && self.log.is_rotating() && !self.log.is_failing() {
            return;
        }
        let Some(running) = self.snapshots.running.take() else { return };
        net.kill(running.reports);
        self.ks.child_alive = false;
        net.child_lives = false;
        set_resize_policy(ResizePolicy::Allow);
        self.apply_fsync();
        self.child_ended(net, running, ok);
        // Its end may have begun the next.
        if !self.snapshots.running() {
            self.snapshots.unshare = Some(Unshare::begin());
            service::ready();
        }
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
                running.remove_files();
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
                if self.snapshots.disk_begins.take().is_some() && !ok {
                    self.keep_backlog_only();
                }
                self.snapshots.last_rewrite_time_s = seconds;
                let rest = running.started.elapsed() * REST;
                self.snapshots.rests_until_ms = self.clock.steady_ms() + rest.as_millis() as i64;
                self.snapshots.last_rewrite_cow = running.cow;
                match ok {
                    false => self.rewrite_failed(),
                    // Else that is known when the base is in force.
                    true if !self.snapshots.installing && self.files.is_none() => {
                        self.snapshots.rewrite_failures = 0;
                    }
                    true => {}
                }
            }
            Purpose::SyncDisk | Purpose::SyncSocket { .. } => self.snapshots.last_cow = running.cow,
        }
        self.sync_child_ended(net, &running.purpose, ok);
    }

    /// Puts a finished snapshot to use: as the log's base, and for replicas.
    fn keep_snapshot(&mut self, path: &Path, running: &Running) -> std::io::Result<()> {
        let installs = running.rotated && self.log.is_on_disk();
        let rdb = !running.as_commands;
        let mut path = path.to_owned();
        let mut base = path.clone();
        let mut keep = false;
        if let (Some(dump), Some(named)) = (&running.dump, running.base()) {
            match named.exists() {
                true if !installs => _ = std::fs::remove_file(named),
                true => base = named,
                false => (base, keep) = (dump.clone(), true),
            }
            self.snapshots.sync_file = running.purpose == Purpose::SyncDisk;
            path.clone_from(dump);
        }
        if running.purpose == Purpose::Rewrite
            && let Some(histories) = self.snapshots.disk_begins
        {
            let base = NewBase { path, at: running.at, rdb, keep: false };
            return self.make_files(base, running.db, histories);
        }
        if running.purpose != Purpose::Rewrite {
            self.snapshots.base = Some(OnDisk::new(path, running.at));
        }
        if installs {
            self.log.install_base(NewBase { path: base, at: running.at, rdb, keep });
            self.snapshots.installing = true;
        }
        Ok(())
    }

    /// Ends the child where nobody waits for it, or all ends.
    pub fn kill_child(&mut self) {
        if let Some(running) = self.snapshots.running.take() {
            if running.exited.is_none() {
                let _ = nix::sys::signal::kill(running.pid, nix::sys::signal::Signal::SIGKILL);
                let _ = waitpid(running.pid, None);
            }
            running.remove_files();
            self.ks.child_alive = false;
            set_resize_policy(ResizePolicy::Allow);
            self.apply_fsync();
            service::ready();
        }
    }
}

/// A pipe that a child writes to and the loop reads.
struct ChildPipe {
    read: ConnId,
    write: OwnedFd,
}

impl ChildPipe {
    fn open(net: &mut Net<Client>) -> std::io::Result<ChildPipe> {
        let (read, write) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let client = Client { kind: Kind::Child, ..Client::default() };
        Ok(ChildPipe { read: net.adopt(read, client, Mode::Raw)?, write })
    }
}
