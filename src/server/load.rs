//! Reading data back: at start from the log's base and segments or from `dump.rdb`, and on a replica
//! from what its primary sent.
//!
//! A load may take long, so it comes up for air: every few milliseconds one turn of the event loop
//! runs, in which clients hear `LOADING` and `INFO` shows how far the load is.

use super::Server;
use super::client::{Client, Kind};
use super::progress::{Progress, Unit};
use super::registry::Run;
use super::snapshot::OnDisk;
use crate::config::types::PropagationError;
use crate::{log_notice, log_warning};
use memmap2::{Advice, Mmap};
use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use varve_engine::command::Ctx;
use varve_engine::entry::Entry;
use varve_engine::keyspace::{Db, Origin, event};
use varve_engine::{Args, Error, Keyspace};
use varve_net::Net;
use varve_persistence::log::{self, Base, BaseKind, Log};
use varve_persistence::offset::{Histories, HistoryId, Offset};
use varve_persistence::rdb::{self, Item};

/// A load at work, for `INFO persistence`.
pub struct Loading {
    pub started_ms: i64,
    pub progress: Progress,
    last_turn: Instant,
    /// Whether it is a primary's RDB rather than the start.
    pub from_primary: bool,
    /// What clients are served meanwhile, if the new data are loaded beside it:
    /// `repl-diskless-load swapdb`. In its place when the event loop runs.
    served: Option<Vec<Db>>,
    /// Whether commands that are not known here are left out.
    skips_unknown: bool,
}

/// Work between two turns of the event loop.
const TURN_EVERY: Duration = Duration::from_millis(5);
/// Who connects while a log is opened waits for so long before it hears `LOADING`: mostly the disk is quicker.
const OPENING: Duration = Duration::from_secs(1);
/// Items or commands between two looks at the clock.
const STEP: u64 = 256;
/// Entries that are decoded before the first of them is put in its place.
const AHEAD: usize = 8;
/// Pages behind the reader are given back in pieces of this size.
const RELEASE: usize = 8 << 20;

/// What an RDB file says of the log that it stands in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place {
    pub history: Option<HistoryId>,
    pub offset: Option<Offset>,
    pub db: u32,
}

/// Why a replay stopped.
enum Fault {
    Log(log::Error),
    /// A command of the log can not be run; where it stands, and why.
    Command(String),
}

/// Why a command that was decided elsewhere was not run here.
pub enum NotApplied {
    /// It is no command of this server, or acts on no database of it.
    Unknown(String),
    /// It answered with an error: the data are not what they were where it was decided.
    Failed(String),
}

impl std::fmt::Display for NotApplied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (NotApplied::Unknown(why) | NotApplied::Failed(why)) = self;
        f.write_str(why)
    }
}

impl From<log::Error> for Fault {
    fn from(error: log::Error) -> Fault {
        Fault::Log(error)
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Log(error) => error.fmt(f),
            Fault::Command(why) => write!(f, "a command of the log can not be run: {why}"),
        }
    }
}

impl Loading {
    fn new(total: u64, now_ms: i64, from_primary: bool) -> Loading {
        let now = Instant::now();
        Loading {
            started_ms: now_ms,
            progress: Progress::new(Unit::Bytes, Some(total)),
            last_turn: now,
            from_primary,
            served: None,
            skips_unknown: false,
        }
    }

    /// Whether clients are served the data that there were before.
    pub fn is_beside(&self) -> bool {
        self.served.is_some()
    }
}

impl Server {
    /// Loads what the disk has, and opens the log.
    pub fn load_at_start(&mut self, net: &mut Net<Client>) -> Result<(), String> {
        let started = Instant::now();
        self.clock.sync();
        self.ks.now_ms = self.clock.now_ms(); // what is loaded is as old as it is from now on
        if self.cfg.appendonly {
            // A replica did not know them either when they came.
            self.load_log(net, self.cfg.replicaof.is_some())?;
        } else {
            self.load_dump(net)?;
        }
        self.loading = None;
        self.apply_log_config();
        if self.stopping {
            return Ok(());
        }
        let keys: usize = self.ks.dbs.iter().map(|d| d.len()).sum();
        if keys > 0 {
            log_notice!("DB loaded: {keys} keys in {:.3} seconds", started.elapsed().as_secs_f64());
        }
        self.ks.dirty = 0;
        self.snapshots.dirty_saved = 0;
        Ok(())
    }

    /// Loads what the log's files hold, and goes on with them. `skips_unknown` is whether commands that this
    /// server does not have are left out.
    pub fn load_log(&mut self, net: &mut Net<Client>, skips_unknown: bool) -> Result<(), String> {
        let options = self.log_options();
        let recovered = log::recover(&options).map_err(|e| e.to_string())?;
        let Some(mut recovered) = recovered else {
            return self.begin_log(net, options);
        };
        let base_bytes =
            recovered.base().and_then(|b| std::fs::metadata(&b.path).ok()).map_or(0, |m| m.len());
        let total = base_bytes + (recovered.end() - recovered.start());
        let loading = Loading::new(total, self.clock.now_ms(), false);
        self.loading = Some(Loading { skips_unknown, ..loading });
        let mut base_place = None;
        if let Some(base) = recovered.base().cloned() {
            let place = self.load_base(net, &base, &mut recovered)?;
            place.is_of(&base, recovered.histories())?;
            base_place = place.offset.map(|at| (base.path, at));
        }
        let replayed = recovered
            .replay(&mut |command| self.replay(net, command))
            .map_err(|e: Fault| e.to_string())?;
        if self.stopping {
            return Ok(());
        }
        for note in recovered.notes() {
            log_warning!("{note}");
        }
        if replayed.dropped > 0 {
            log_warning!(
                "The log did not end in a whole command: its last {} bytes were cut off (aof-load-truncated is yes); it ends at offset {} now",
                replayed.dropped,
                replayed.end
            );
        }
        let fresh = log::random_history().map_err(|e| e.to_string())?;
        // A replica goes on with what it holds under the name that its primary knows.
        let histories = match recovered.histories() {
            Some(held) if self.cfg.replicaof.is_some() => held,
            _ => recovered.histories_after_restart(fresh),
        };
        log_notice!("The log ends at offset {} of history {}", replayed.end, histories.current);
        self.repl.end_is_unshared = recovered.owns_name() && !recovered.is_closed();
        let waker = self.waker.clone();
        let open = move || Log::resume(recovered, histories, options, waker);
        let opened = self.off_the_loop(net, "log-open", OPENING, open)?;
        self.log = opened.map_err(|e| e.to_string())?;
        self.log.set_current_db(replayed.db);
        self.histories = histories;
        self.repl.set_histories(histories);
        // A replica that comes with nothing can have the base as it is.
        self.snapshots.base = base_place
            .filter(|(_, at)| *at >= self.log.first_available())
            .map(|(path, at)| OnDisk::new(path, at));
        Ok(())
    }

    /// Reads the data back from the log on disk, into an empty keyspace: `DEBUG LOADAOF`. Replicas
    /// are sent away; they come back for the next byte.
    pub fn reload_log(&mut self, net: &mut Net<Client>) -> Result<(), String> {
        let replicas: Vec<u64> =
            net.iter().filter(|c| c.session.kind == Kind::Replica).map(|c| c.id).collect();
        for id in replicas {
            net.kill(id);
        }
        self.snapshots.installing = false;
        self.log.stop_disk().map_err(|e| e.to_string())?;
        let result = self.load_log(net, false);
        self.loading = None;
        result
    }

    /// The folder has no log: it begins here, from `dump.rdb` if there is one.
    fn begin_log(&mut self, net: &mut Net<Client>, options: log::Options) -> Result<(), String> {
        let dump = PathBuf::from(&self.cfg.dbfilename);
        if !dump.exists() {
            let (histories, waker) = (self.histories, self.waker.clone());
            let create = move || Log::create(options, histories, Offset(0), waker);
            let created = self.off_the_loop(net, "log-open", OPENING, create)?;
            self.log = created.map_err(|e| e.to_string())?;
            return Ok(());
        }
        // Turning the log on must not lose what was saved without it.
        log_notice!("There is no log yet: it begins from {}", dump.display());
        self.load_dump(net)?;
        if self.stopping {
            return Ok(());
        }
        let at = self.log.end();
        let base = log::NewBase { path: dump, at, rdb: true, keep: true };
        let (db, histories) = (self.log.current_db(), *self.log.histories());
        let waker = self.waker.clone();
        let make = move || Log::make_files(options, base, db, histories, waker);
        let files = self.off_the_loop(net, "log-open", OPENING, make)?;
        let begun = self.log.go_to_disk(files.map_err(|e| e.to_string())?);
        begun.map_err(|_| "the data was replaced meanwhile".to_owned())
    }

    /// Loads the base, and says where it stands if it is an RDB that tells.
    fn load_base(
        &mut self,
        net: &mut Net<Client>,
        base: &Base,
        recovered: &mut log::Recovered,
    ) -> Result<Place, String> {
        log_notice!("Loading the log's base {}", base.path.display());
        let rdb_end = match base.kind {
            BaseKind::Rdb => return self.load_rdb(net, &base.path, false).map(|(place, _)| place),
            BaseKind::Aof => 0,
            BaseKind::RdbThenAof => self.load_rdb(net, &base.path, false)?.1 as u64,
        };
        if self.stopping {
            return Ok(Place::default());
        }
        recovered
            .replay_base(rdb_end, &mut |command| self.replay(net, command))
            .map_err(|e: Fault| e.to_string())?;
        Ok(Place::default())
    }

    fn load_dump(&mut self, net: &mut Net<Client>) -> Result<(), String> {
        let path = PathBuf::from(&self.cfg.dbfilename);
        let len = match std::fs::metadata(&path) {
            Ok(meta) => meta.len(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(e) => {
                return Err(format!(
                    "Fatal error loading the DB, check server logs. Can't open {}: {e}",
                    path.display()
                ));
            }
        };
        self.loading = Some(Loading::new(len, self.clock.now_ms(), false));
        let (place, _) = self.load_rdb(net, &path, false)?;
        // The file says where it stood, so replicas of this server can go on with it.
        if let (Some(history), Some(offset)) = (place.history, place.offset) {
            let mut histories = Histories::new(history);
            if self.cfg.replicaof.is_none() {
                // What this primary wrote after the file was made is lost, and replicas may have it:
                // the old name holds only up to here.
                let fresh = log::random_history().map_err(|e| e.to_string())?;
                histories.shift(fresh, offset);
            }
            self.histories = histories;
            self.log =
                Log::in_memory(histories, offset, self.cfg.repl_backlog_size, self.waker.clone());
            self.log.set_current_db(place.db);
            self.repl.set_histories(histories);
            self.snapshots.base = Some(OnDisk::new(path, offset));
        }
        Ok(())
    }

    /// Loads an RDB file into the keyspace; with `merge`, its keys take the place of those that are there.
    /// Where it stands, and how long it is.
    pub fn load_rdb(
        &mut self,
        net: &mut Net<Client>,
        path: &Path,
        merge: bool,
    ) -> Result<(Place, usize), String> {
        let file = File::open(path).map_err(|e| format!("Can't open {}: {e}", path.display()))?;
        // SAFETY: the file is ours (the folder is locked) and RDB files are never changed in place.
        let map = unsafe { Mmap::map(&file) }
            .map_err(|e| format!("Can't map {}: {e}", path.display()))?;
        let _ = map.advise(Advice::Sequential);
        let wrong = |e: rdb::Error| format!("{}: {e}", path.display());
        let mut reader = rdb::Reader::new(&map).map_err(wrong)?;
        reader.set_limits(self.ks.limits.clone());
        if !self.cfg.rdbchecksum {
            reader.skip_checksum();
        }
        let mut place = Place::default();
        (self.snapshots.last_load_keys, self.snapshots.last_load_expired) = (0, 0);
        self.clock.sync();
        let now = self.clock.now_ms();
        let load = |ks: &mut Keyspace, (offset, db, entry, idle_s, freq)| {
            ks.load(db, entry, idle_s, freq, merge).map_err(|entry: Entry| {
                let text = format!("database {db} has it already").into();
                wrong(rdb::Error { offset, key: Some(entry.key().into()), text })
            })
        };
        let mut ahead = VecDeque::with_capacity(AHEAD + 1);
        let (mut n, mut released, mut base_loaded) = (0u64, 0usize, None);
        while let Some(item) = reader.next().map_err(wrong)? {
            match item {
                Item::Aux { key, value } => place.note(&key, &value),
                Item::Resize { db, keys, expires } => {
                    let Some(d) = self.ks.dbs.get_mut(db) else {
                        return Err(format!(
                            "{}: it has database {db}, and only {} are configured",
                            path.display(),
                            self.ks.dbs.len()
                        ));
                    };
                    // A lying file must not make us reserve more than it can hold.
                    d.reserve(keys.min(map.len()), expires.min(map.len()));
                }
                Item::Key { offset, db, entry, idle_s, freq } => {
                    if db >= self.ks.dbs.len() {
                        return Err(format!(
                            "{}: it has database {db}, and only {} are configured",
                            path.display(),
                            self.ks.dbs.len()
                        ));
                    }
                    // What has expired since is left out only where nobody else has it: the log's next
                    // command may give it more time, and a replica is to be told that it is deleted.
                    let alone = !self.cfg.appendonly && place.history.is_none();
                    if self.is_primary() && entry.expire().is_some_and(|at| at < now) {
                        self.snapshots.last_load_expired += 1;
                        if alone {
                            continue;
                        }
                    } else {
                        self.snapshots.last_load_keys += 1;
                    }
                    self.ks.prefetch_load(db, &entry);
                    ahead.push_back((offset, db, entry, idle_s, freq));
                    if ahead.len() > AHEAD {
                        ahead.drain(..1).try_for_each(|key| load(&mut self.ks, key))?;
                    }
                }
            }
            n += 1;
            let delay = Duration::from_micros(self.cfg.key_load_delay.into());
            if !delay.is_zero() {
                std::thread::sleep(delay);
            }
            if n.is_multiple_of(STEP) || !delay.is_zero() {
                ahead.drain(..).try_for_each(|key| load(&mut self.ks, key))?;
                let position = reader.position();
                if let Some(loading) = &mut self.loading {
                    let start = *base_loaded.get_or_insert(loading.progress.done);
                    loading.progress.done = start + position as u64;
                }
                if position - released > RELEASE {
                    release(&map, released, position);
                    released = position;
                }
                self.breathe(net);
                let from_primary = self.loading.as_ref().is_some_and(|l| l.from_primary);
                if self.stopping || from_primary && !self.still_receives() {
                    return Ok((place, 0));
                }
            }
        }
        ahead.drain(..).try_for_each(|key| load(&mut self.ks, key))?;
        Ok((place, reader.position()))
    }

    /// Runs a command of the log.
    fn replay(
        &mut self,
        net: &mut Net<Client>,
        command: log::replay::Command<'_>,
    ) -> Result<(), Fault> {
        if self.stopping {
            return Ok(());
        }
        let parts = command.args;
        match self.apply_parts(command.db as usize, parts) {
            Ok(()) => {}
            Err(why) if self.goes_on_after(&why) => {
                log_warning!("== CRITICAL == A command of the log failed: {command}: {why}");
                self.stats.unexpected_errors += 1;
            }
            Err(why) => return Err(Fault::Command(format!("{command}: {why}"))),
        }
        if let Some(loading) = &mut self.loading {
            loading.progress.done += parts.iter().map(|p| p.len() as u64 + 5).sum::<u64>() + 4;
            self.replayed += 1;
            if self.replayed.is_multiple_of(STEP) {
                self.breathe(net);
            }
        }
        Ok(())
    }

    /// Whether the log is loaded all the same.
    fn goes_on_after(&self, why: &NotApplied) -> bool {
        let skipped = match why {
            NotApplied::Failed(_) => true,
            NotApplied::Unknown(_) => self.loading.as_ref().is_some_and(|l| l.skips_unknown),
        };
        skipped && self.cfg.propagation_error_behavior != PropagationError::Panic
    }

    /// Runs a command that was decided elsewhere: from the log, or from the primary's stream.
    /// Nothing is answered and nothing appended. An error means that the two sides disagree.
    pub fn apply_parts(&mut self, db: usize, parts: &[&[u8]]) -> Result<(), NotApplied> {
        let mut owned = std::mem::take(&mut self.apply_room);
        parts.iter().for_each(|p| owned.push(p));
        let result = self.apply(db, &mut owned.args());
        owned.clear();
        self.apply_room = owned;
        result
    }

    /// As [`Server::apply_parts`].
    pub fn apply(&mut self, db: usize, args: &mut Args<'_>) -> Result<(), NotApplied> {
        let id = match self.commands.find_for_log(args) {
            Some(id) if self.commands.get(id).spec.takes(args.len()) => id,
            _ => {
                return Err(NotApplied::Unknown(format!(
                    "unknown command '{}' or wrong number of arguments",
                    String::from_utf8_lossy(&args[0])
                )));
            }
        };
        if db >= self.ks.dbs.len() {
            return Err(NotApplied::Unknown(format!(
                "it selects database {db}, and only {} are configured",
                self.ks.dbs.len()
            )));
        }
        let Run::Data(run) = self.commands.get(id).run else {
            // PUBLISH, PING, REPLCONF and their like change no data.
            return Ok(());
        };
        let started = self.clock.now_ns();
        self.ks.origin = Origin::Log;
        let notify = self.ks.notify;
        if self.loading.is_some() {
            // Clients that cache have forgotten all, and read nothing meanwhile.
            self.ks.notify &= !event::TRACKED;
        }
        let mut reply = std::mem::take(&mut self.apply_reply);
        reply.muted = true;
        let mut ctx = Ctx::new(&mut self.ks, db, &mut reply);
        ctx.may_block = false;
        let (_, result) = varve_engine::command::call(&mut ctx, run, args);
        self.apply_reply = reply;
        self.ks.effects.clear();
        self.ks.emptied = false;
        self.ks.origin = Origin::Client;
        self.ks.notify = notify;
        if self.loading.is_none() {
            let spent_ns = self.clock.tick_ns() - started;
            self.count_call(id, spent_ns);
            self.stats.commands += 1;
        }
        if !self.ks.garbage.is_empty() {
            self.collect_garbage();
        }
        result.map_err(|e: Error| {
            NotApplied::Failed(format!("'{}': {e}", String::from_utf8_lossy(&args[0])))
        })
    }

    /// Has a thread do what waits for the disk, and runs turns of the event loop until that is done.
    /// Clients hear `LOADING` meanwhile, after `patience`: nothing is written, and the role stays what it is.
    pub fn off_the_loop<T: Send + 'static>(
        &mut self,
        net: &mut Net<Client>,
        name: &str,
        patience: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let waker = self.waker.clone();
        let (ended, end) = mpsc::channel::<()>();
        let worker = std::thread::Builder::new().name(name.into()).spawn(move || {
            let result = work();
            drop(ended);
            waker();
            result
        });
        let worker = worker.map_err(|e| format!("Can't start a thread: {e}"))?;
        let waits = end.recv_timeout(patience) == Err(mpsc::RecvTimeoutError::Timeout);
        let is_loading = self.loading.is_some();
        self.loading.get_or_insert_with(|| Loading::new(0, self.clock.now_ms(), false));
        while waits && !worker.is_finished() {
            self.clock.sync();
            let _ = varve_net::turn(net, self, Some(TURN_EVERY));
        }
        self.loading = self.loading.take().filter(|_| is_loading);
        worker.join().map_err(|_| "the thread that did it panicked".to_owned())
    }

    /// Lets go of all data and of the log: what is held then is nothing, under a name that nobody knows.
    pub fn hold_nothing(&mut self) {
        self.flush_all(true);
        let histories = Histories::new(log::random_history().unwrap_or(HistoryId::NONE));
        let keep = self.cfg.repl_backlog_size;
        self.log = Log::in_memory(histories, Offset(0), keep, self.waker.clone());
        self.histories = histories;
        self.repl.set_histories(histories);
        self.snapshots.base = None;
    }

    /// Lets the event loop run if it has waited long enough.
    fn breathe(&mut self, net: &mut Net<Client>) {
        let now = Instant::now();
        let Some(loading) = &mut self.loading else { return };
        if now - loading.last_turn < TURN_EVERY {
            return;
        }
        loading.progress.report("Loading:");
        self.clock.sync();
        self.exchange_served();
        let _ = varve_net::turn(net, self, Some(Duration::ZERO));
        self.repl_tick_while_loading(net);
        self.exchange_served();
        if let Some(loading) = &mut self.loading {
            loading.last_turn = Instant::now();
        }
    }

    /// Exchanges the data that is loaded and the data that clients are served, if they are two.
    fn exchange_served(&mut self) {
        if let Some(served) = self.loading.as_mut().and_then(|l| l.served.as_mut()) {
            std::mem::swap(&mut self.ks.dbs, served);
        }
    }

    /// Replaces the data by a primary's RDB; with `beside`, clients are served the old data until
    /// the new are whole, and keep them if they never are.
    pub fn load_from_primary(
        &mut self,
        net: &mut Net<Client>,
        path: &Path,
        beside: bool,
    ) -> Result<Place, String> {
        let len = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
        let lazy = self.cfg.replica_lazy_flush;
        let mut loading = Loading::new(len, self.clock.now_ms(), true);
        if beside {
            loading.served = Some(self.ks.dbs.iter().map(|_| Db::default()).collect());
        } else {
            self.flush_all(lazy);
        }
        self.loading = Some(loading);
        self.exchange_served();
        let loaded = self.load_rdb(net, path, false);
        self.exchange_served();
        let fresh = self.loading.take().and_then(|l| l.served);
        match (&loaded, fresh) {
            (Ok(_), Some(fresh)) if self.still_receives() => self.ks.replace(fresh, lazy),
            (_, Some(fresh)) => drop(fresh),
            (Ok(_), None) => {}
            (Err(_), None) => self.flush_all(true),
        }
        self.collect_garbage();
        loaded.map(|(place, _)| place)
    }

    pub fn flush_all(&mut self, lazy: bool) {
        for db in 0..self.ks.dbs.len() {
            self.ks.flush(db, lazy);
        }
        self.collect_garbage();
    }
}

/// Tells the kernel that the pages of `map` between two positions were read for the last time:
/// what they held is in the keyspace now.
fn release(map: &Mmap, from: usize, to: usize) {
    let (from, to) = (from & !4095, to & !4095);
    if from < to {
        // SAFETY: the range lies inside the mapping and nothing refers to it any more; a page that is
        // touched again is read from the file again.
        unsafe {
            let start = map.as_ptr().add(from) as *mut libc::c_void;
            libc::madvise(start, to - from, libc::MADV_DONTNEED);
        }
    }
}

impl Place {
    /// Refuses a base that says of itself that it stands elsewhere in this log's history. `dump.rdb` may be
    /// another name of it, and have been written over.
    fn is_of(&self, base: &Base, known: Option<Histories>) -> Result<(), String> {
        let (Some(history), Some(offset), Some(known)) = (self.history, self.offset, known) else {
            return Ok(());
        };
        match known.continues(history, Offset::ZERO) && offset != base.offset {
            true => Err(format!(
                "{} holds the data at offset {offset}, and the manifest says {}: another file was written over it",
                base.path.display(),
                base.offset
            )),
            false => Ok(()),
        }
    }

    fn note(&mut self, key: &[u8], value: &[u8]) {
        let text = std::str::from_utf8(value).ok();
        match key {
            b"repl-id" => self.history = HistoryId::parse(value),
            b"repl-offset" => {
                self.offset = text.and_then(|t| t.parse().ok()).and_then(Offset::claimed);
            }
            b"repl-stream-db" => self.db = text.and_then(|t| t.parse().ok()).unwrap_or(0),
            _ => {}
        }
    }
}
