//! The replica's side: the link to the primary, what comes over it, and where that goes.

use super::super::Server;
use super::super::client::{Client, Kind};
use super::super::progress::{Progress, Unit};
use super::super::pubsub::Listening;
use super::super::snapshot::OnDisk;
use crate::config::Config;
use crate::config::types::{
    DisklessLoad, Primary as PrimaryAddress, PropagationError, ReplCompression,
};
use crate::logger::{self, Role};
use crate::{log_debug, log_notice, log_verbose, log_warning, service};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::io::{self, Write};
use std::net::ToSocketAddrs;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use varve_engine::Error;
use varve_engine::hasher::hash;
use varve_net::{Conn, ConnId, Net};
use varve_persistence::log::{self, NewBase};
use varve_persistence::offset::{HistoryId, Offset};
use varve_replication::node::Followers;
use varve_replication::output::Level;
use varve_replication::replica::{self, Replica};

/// This server as a replica: the link's machine and what it is receiving.
pub struct Link {
    pub(super) machine: Replica,
    conn: Option<ConnId>,
    rdb: Option<Receiving>,
    place: Option<replica::Place>,
    /// The database that the stream has selected.
    db: usize,
    loading: bool,
    /// What was received is durable, or can not be made so: it is to be loaded.
    received: Option<io::Result<()>>,
    /// The place to go back to, as the primary shares no more.
    back_to: Option<Offset>,
}

struct Receiving {
    path: PathBuf,
    /// The file is anonymous memory, which nothing but its descriptor holds.
    in_memory: bool,
    file: File,
    /// It came over more than one link.
    parts: bool,
    /// The connection over which all of it has come.
    whole: Option<ConnId>,
    progress: Progress,
}

/// Bytes of a compressed link that are taken in before other connections get their turn.
const DECODED_A_TURN: usize = 1 << 20;

/// What the primary sent and the machine has not consumed: the machine's ranges are of this.
fn received(conn: &Conn<Client>) -> &[u8] {
    match &conn.session.decoder {
        Some(decoder) => decoder.bytes(),
        None => conn.input.bytes(),
    }
}

pub(super) fn link_config(cfg: &Config, to: &PrimaryAddress, node: HistoryId) -> replica::Config {
    let announced = match cfg.replica_announce_port {
        0 => cfg.port,
        port => port,
    };
    let mut config = replica::Config::new(&to.host, to.port, announced);
    let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    config.user = some(&cfg.masteruser);
    config.password = some(&cfg.masterauth);
    config.announce_ip = some(&cfg.replica_announce_ip);
    config.timeout_ms = cfg.repl_timeout as u64 * 1000;
    config.node = Some(node);
    config.lz4 = cfg.repl_compression == ReplCompression::Lz4;
    config.reconnect_ms = cfg.repl_reconnect_delay as u64 * 1000;
    config
}

impl Receiving {
    /// Removes what was received.
    fn discard(&self) {
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

impl Link {
    pub fn machine(&self) -> &Replica {
        &self.machine
    }

    /// The link's connection, if it is open.
    pub fn conn(&self) -> Option<ConnId> {
        self.conn
    }

    /// Removes what was received of an RDB.
    fn drop_received(&mut self) {
        self.rdb.take().inspect(Receiving::discard);
    }

    /// How far the RDB of a full sync came.
    pub fn receiving(&self) -> Option<&Progress> {
        self.rdb.as_ref().map(|rdb| &rdb.progress)
    }
}

impl Server {
    /// Follows what the configuration names, at start.
    pub fn start_replication(&mut self, net: &mut Net<Client>) {
        if let Some(to) = self.cfg.replicaof.clone() {
            self.follow(net, to);
        }
    }

    /// `REPLICAOF host port`.
    pub fn follow(&mut self, net: &mut Net<Client>, to: PrimaryAddress) {
        let followers = self.repl.node.follow(&to.host, to.port);
        self.drop_followers(net, followers);
        let mut config = link_config(&self.cfg, &to, self.repl.id);
        config.failover = self.repl.failover.is_some();
        self.cfg.replicaof = Some(to);
        logger::set_role(Role::Replica);
        self.unblock_all(net, "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)");
        let now = self.now_u64();
        let place = self.repl.node.place(self.log.end());
        match &mut self.repl.link {
            Some(link) => {
                let mut out = std::mem::take(&mut self.repl.outputs);
                link.machine.set_place(Some(place));
                link.machine.reconfigure(config, now, &mut out);
                self.act(net, None, &mut out);
            }
            None => {
                self.repl.link = Some(Link {
                    machine: Replica::new(config, Some(place), now),
                    conn: None,
                    rdb: None,
                    place: None,
                    db: self.log.current_db().unwrap_or(0) as usize,
                    loading: false,
                    received: None,
                    back_to: None,
                });
                self.tick_link(net);
            }
        }
    }

    /// `REPLICAOF NO ONE`.
    pub fn promote(&mut self, net: &mut Net<Client>) {
        let Some(mut link) = self.repl.link.take() else { return };
        let now = self.now_u64();
        let mut out = Vec::new();
        link.machine.stop(now, &mut out);
        if let Some(id) = link.conn {
            net.kill(id);
        }
        link.drop_received();
        let mut random = [0u8; 20];
        random.iter_mut().for_each(|b| *b = self.ks.random() as u8);
        let followers = self.repl.node.promote(self.log.end(), random);
        self.log.take_histories(self.repl.node.histories());
        self.log.set_current_db(None);
        self.cfg.replicaof = None;
        logger::set_role(Role::Primary);
        log_notice!(
            "Primary mode: history {} goes on at offset {}",
            self.repl.node.histories().current,
            self.log.end()
        );
        self.drop_followers(net, followers);
    }

    pub(super) fn tick_link(&mut self, net: &mut Net<Client>) {
        let now = self.now_u64();
        let synced = self.log.synced();
        let Some(link) = &mut self.repl.link else { return };
        let mut out = std::mem::take(&mut self.repl.outputs);
        link.machine.set_synced(synced);
        link.machine.tick(now, &mut out);
        self.act(net, None, &mut out);
    }

    pub fn repl_tick_while_loading(&mut self, net: &mut Net<Client>) {
        if self.loading.as_ref().is_some_and(|l| l.from_primary) {
            self.tick_link(net);
        }
    }

    pub fn primary_connected(
        &mut self,
        net: &mut Net<Client>,
        conn: &mut Conn<Client>,
        result: io::Result<()>,
    ) {
        let now = self.now_u64();
        let Some(link) = &mut self.repl.link else { return };
        if link.conn != Some(conn.id) {
            return;
        }
        let mut out = std::mem::take(&mut self.repl.outputs);
        match result {
            Ok(()) => link.machine.connected(now, &mut out),
            Err(error) => {
                link.conn = None;
                link.machine.connect_failed(&error.to_string(), now, &mut out);
            }
        }
        self.act(net, Some(conn), &mut out);
    }

    pub fn primary_closed(&mut self, net: &mut Net<Client>, id: ConnId) {
        let now = self.now_u64();
        let Some(link) = &mut self.repl.link else { return };
        if link.conn != Some(id) {
            return;
        }
        link.conn = None;
        let mut out = std::mem::take(&mut self.repl.outputs);
        link.machine.closed(now, &mut out);
        self.act(net, None, &mut out);
    }

    /// Bytes from the primary, or a call to go on with those that came before.
    pub fn primary_bytes(&mut self, net: &mut Net<Client>, conn: &mut Conn<Client>) {
        let now = self.now_u64();
        let mut decoded = 0;
        conn.pause_read = false;
        loop {
            let synced = self.log.synced();
            let Some(link) = &mut self.repl.link else { return };
            if link.conn != Some(conn.id) {
                conn.close_asap = true;
                return;
            }
            if link.machine.wanted() == 0 {
                // A load runs: nothing is read until it is over.
                conn.pause_read = true;
                return;
            }
            link.machine.set_synced(synced);
            let mut out = std::mem::take(&mut self.repl.outputs);
            let compressed = conn.session.decoder.is_some();
            let taken = link.machine.bytes(received(conn), now, &mut out);
            let acted = !out.is_empty();
            self.act(net, Some(conn), &mut out);
            match &mut conn.session.decoder {
                Some(decoder) if compressed => decoder.consume(taken),
                _ => {
                    conn.input.consume(taken);
                    self.stats.net_replication_in += taken as u64;
                }
            }
            if conn.close_asap {
                return;
            }
            if conn.session.decoder.is_none() {
                if taken == 0 && !acted || conn.input.bytes().is_empty() {
                    return;
                }
            } else if taken == 0 && !acted || received(conn).is_empty() {
                if decoded >= DECODED_A_TURN {
                    // The others get their turn. What is not read cannot pile up here.
                    (conn.again, conn.pause_read) = (true, true);
                    return;
                }
                match self.decode(net, conn) {
                    0 => return,
                    len => decoded += len,
                }
            }
        }
    }

    /// Decodes the next frame of a compressed link. Returns the bytes that it held, 0 if none is
    /// whole or the link has ended.
    fn decode(&mut self, net: &mut Net<Client>, conn: &mut Conn<Client>) -> usize {
        let now = self.now_u64();
        let (Some(link), Some(decoder)) = (&mut self.repl.link, &mut conn.session.decoder) else {
            return 0;
        };
        if !conn.input.bytes().is_empty() {
            link.machine.heard(now);
        }
        let before = decoder.bytes().len();
        match decoder.decode(conn.input.bytes()) {
            Ok(None) => 0,
            Ok(Some(taken)) => {
                conn.input.consume(taken);
                self.stats.net_replication_in += taken as u64;
                decoder.bytes().len() - before
            }
            Err(error) => {
                let mut out = std::mem::take(&mut self.repl.outputs);
                link.machine.damaged(error, now, &mut out);
                self.act(net, Some(conn), &mut out);
                0
            }
        }
    }

    /// Does what the link's machine asks for. `conn` is the link's connection when it is at hand.
    fn act(
        &mut self,
        net: &mut Net<Client>,
        mut conn: Option<&mut Conn<Client>>,
        out: &mut Vec<replica::Output>,
    ) {
        use replica::Output;
        let mut outputs = std::mem::take(out);
        for output in outputs.drain(..) {
            match output {
                Output::Log(level, text) => match level {
                    Level::Debug => log_debug!("{text}"),
                    Level::Verbose => log_verbose!("{text}"),
                    Level::Notice => log_notice!("{text}"),
                    Level::Warning => log_warning!("{text}"),
                },
                Output::Connect { host, port } => self.connect_to_primary(net, &host, port),
                Output::Disconnect => {
                    let id = self.repl.link.as_mut().and_then(|l| l.conn.take());
                    match &mut conn {
                        Some(conn) if id == Some(conn.id) => conn.close_asap = true,
                        _ => {
                            if let Some(id) = id {
                                net.kill(id);
                            }
                        }
                    }
                }
                Output::Send(bytes) => {
                    let id = self.repl.link.as_ref().and_then(|l| l.conn);
                    match &mut conn {
                        Some(conn) if id == Some(conn.id) => conn.output.raw(&bytes),
                        _ => {
                            if let Some(id) = id
                                && let Some(conn) = net.conn_mut(id)
                            {
                                conn.output.raw(&bytes);
                                net.mark_dirty(id);
                            }
                        }
                    }
                }
                Output::RdbBegin { size, place, from: 0 } => self.receive_rdb(size, place, out),
                Output::RdbBegin { size, place, from } => self.receive_rest(size, place, from, out),
                Output::RdbBytes(range) => {
                    if let (Some(conn), Some(link)) = (&conn, &mut self.repl.link)
                        && let Some(rdb) = &mut link.rdb
                    {
                        rdb.progress.done += range.len() as u64;
                        if let Err(error) = rdb.file.write_all(&received(conn)[range]) {
                            let why = format!("can't write {}: {error}", rdb.path.display());
                            let now = self.clock.now_ms() as u64;
                            link.machine.rdb_failed(&why, true, now, out);
                        }
                    }
                    self.report_receiving();
                }
                Output::RdbEnd => self.sync_received(out),
                Output::RdbAbort { keep } => {
                    if let Some(link) = &mut self.repl.link {
                        link.received = None;
                        // Memory is not held for a primary that may never come back.
                        if !keep || link.rdb.as_ref().is_none_or(|rdb| rdb.in_memory) {
                            link.drop_received();
                            link.machine.part_is_gone();
                        }
                    }
                }
                Output::Rollback { to } => {
                    if let Some(link) = &mut self.repl.link {
                        link.back_to = Some(to);
                    }
                }
                Output::Compressed => {
                    if let Some(conn) = &mut conn {
                        conn.session.decoder = Some(Box::default());
                    }
                }
                Output::Continue { history, former } => {
                    let followers = self.repl.node.continued(history, former, self.log.end());
                    self.log.set_histories(self.repl.node.histories());
                    let db = self.repl.link.as_ref().map(|l| l.db as u32);
                    self.log.set_current_db(db);
                    self.stats.sync_continued += 1;
                    self.drop_followers(net, followers);
                }
                Output::Stream(range) => {
                    if let Some(conn) = &conn {
                        let bytes = &received(conn)[range];
                        self.apply_stream(net, bytes);
                    }
                    if !self.ks.ready.is_empty() {
                        self.serve_ready(net);
                    }
                    if !self.ks.events.is_empty() {
                        self.publish_events(net);
                    }
                    self.fail_all_watchers(net);
                }
                Output::FailoverRefused { why } => {
                    self.abort_failover(net, &format!("the target refused: {why}"));
                }
                Output::LinkUp => {
                    service::ready();
                    log_notice!("The link to the primary is up");
                }
                Output::LinkDown { why } => log_warning!("The link to the primary is down: {why}"),
            }
        }
        // Acting may have brought more to do.
        if !out.is_empty() {
            let mut more = std::mem::take(out);
            self.act(net, conn, &mut more);
        }
        outputs.clear();
        self.repl.outputs = outputs;
    }

    fn connect_to_primary(&mut self, net: &mut Net<Client>, host: &str, port: u16) {
        let client = Client {
            kind: Kind::Primary,
            peer: format!("{host}:{port}"),
            authenticated: true,
            ..Client::default()
        };
        let source = self.cfg.bind_source_addr.parse().ok();
        let result = (host, port).to_socket_addrs().and_then(|mut addrs| {
            let addr = addrs.next().ok_or(io::Error::other("the name has no address"))?;
            net.connect(addr, client, source)
        });
        let now = self.now_u64();
        let Some(link) = &mut self.repl.link else { return };
        match result {
            Ok(id) => link.conn = Some(id),
            Err(error) => {
                let mut out = Vec::new();
                link.machine.connect_failed(&error.to_string(), now, &mut out);
                self.act(net, None, &mut out);
            }
        }
    }

    fn receive_rdb(
        &mut self,
        size: Option<u64>,
        place: Option<replica::Place>,
        out: &mut Vec<replica::Output>,
    ) {
        // A log on disk needs the file as its base.
        let in_memory = !self.log.is_on_disk()
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
                let path = PathBuf::from(format!("temp-{}-sync.rdb", std::process::id()));
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
                link.machine.rdb_failed(&why, true, self.clock.now_ms() as u64, out);
            }
        }
    }

    /// The primary goes on with the file of which the first `from` bytes were received before.
    fn receive_rest(
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
    fn sync_received(&mut self, out: &mut Vec<replica::Output>) {
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
    pub(super) fn received_is_durable(&mut self, id: ConnId, result: io::Result<()>) {
        if let Some(link) = &mut self.repl.link
            && link.rdb.as_ref().is_some_and(|rdb| rdb.whole == Some(id))
        {
            link.received = Some(result);
        }
    }

    /// Whether the data are to be loaded anew: [`Server::load_what_is_due`].
    pub fn load_is_due(&self) -> bool {
        let due = |link: &Link| link.received.is_some() || link.back_to.is_some();
        self.loading.is_none() && self.repl.link.as_ref().is_some_and(due)
    }

    /// Whether the RDB that is being loaded is still wanted: the role may change meanwhile.
    pub fn still_receives(&self) -> bool {
        self.repl.link.as_ref().is_some_and(|link| link.loading)
    }

    fn report_receiving(&mut self) {
        let Some(rdb) = self.repl.link.as_mut().and_then(|l| l.rdb.as_mut()) else { return };
        if !rdb.progress.is_report_due() {
            return;
        }
        let text = format!("Full sync: received {}", rdb.progress);
        log_notice!("{text}");
        service::status(self, &text);
    }

    /// Loads what the primary sent, or goes back to where it says. Runs turns of the loop meanwhile,
    /// in which the link to the primary is kept alive.
    pub fn load_what_is_due(&mut self, net: &mut Net<Client>) {
        let mut out = Vec::new();
        match self.repl.link.as_mut().and_then(|link| link.back_to.take()) {
            Some(to) => self.go_back(net, to, &mut out),
            None => self.load_and_adopt(net, &mut out),
        }
        self.act(net, None, &mut out);
        if let Some(id) = self.repl.link.as_ref().and_then(|link| link.conn) {
            if let Some(conn) = net.conn_mut(id) {
                conn.pause_read = false;
                // Decoded bytes may wait, and nothing else come for long.
                conn.again = conn.session.decoder.is_some();
            }
            net.resume(id);
        }
    }

    /// Takes log and data back to `to`, and sets aside what the log had beyond.
    fn go_back(&mut self, net: &mut Net<Client>, to: Offset, out: &mut Vec<replica::Output>) {
        let possible = match self.log.oldest_base() {
            None if self.log.is_on_disk() => Err("the log's files are just being replaced".into()),
            None => Err("the log is only in memory".into()),
            Some(oldest) if to < oldest => {
                Err(format!("the oldest base that is kept stands at offset {oldest}"))
            }
            Some(_) => Ok(()),
        };
        let result = possible.and_then(|()| self.take_log_back(net, to));
        if self.stopping {
            return;
        }
        if !self.cfg.appendonly && self.log.is_on_disk() {
            self.end_disk(net); // a client said so meanwhile
        }
        let (history, end) = self.repl.node.place(self.log.end());
        let now = self.now_u64();
        let Some(link) = &mut self.repl.link else { return };
        link.db = self.log.current_db().unwrap_or(0) as usize;
        match result {
            Ok(()) => {
                // The primary has said which name it means.
                let asked = link.machine.place().map_or(history, |(asked, _)| asked);
                link.machine.rolled_back((asked, end), now, out);
            }
            Err(why) => {
                log_warning!("Can't roll back to offset {to}, so a full resync follows: {why}");
                link.machine.set_place(Some((history, end)));
                link.machine.rollback_failed(&why, now, out);
            }
        }
    }

    /// After an error log and data are still of one place: mostly the one that they were at.
    fn take_log_back(&mut self, net: &mut Net<Client>, to: Offset) -> Result<(), String> {
        if self.snapshots.running() {
            self.kill_child();
        }
        self.snapshots.installing = false;
        // Where the history goes on they learn when they come back.
        self.drop_followers(net, Followers::Drop);
        let Some(left) = self.log.leave_disk() else {
            return Err("the log is only in memory".into());
        };
        service::status(self, "Rolling back");
        let (options, waker) = (self.log_options(), self.waker.clone());
        let work = move || left.roll_back(to, options, waker);
        let result = match self.off_the_loop(net, "rollback", work) {
            Ok(Ok(tail)) => {
                log_warning!(
                    "The primary's history shares ours up to offset {} only: the {} bytes after it are set aside in {}",
                    tail.from,
                    tail.to - tail.from,
                    tail.path.display()
                );
                Ok(())
            }
            Ok(Err((why, Some(log)))) => {
                self.log = *log;
                return Err(why.to_string());
            }
            Ok(Err((why, None))) => Err(why.to_string()),
            Err(why) => Err(why),
        };
        if self.stopping {
            return result;
        }
        // The log is what its files are now, and the data are to be that too.
        self.flush_all(self.cfg.replica_lazy_flush);
        let loaded = self.load_log(net);
        self.loading = None;
        if loaded.is_err() {
            self.hold_nothing();
        }
        if let Some(to) = &self.cfg.replicaof {
            // A load makes a primary of it.
            let _ = self.repl.node.follow(&to.host, to.port);
        }
        loaded.and(result)
    }

    fn load_and_adopt(&mut self, net: &mut Net<Client>, out: &mut Vec<replica::Output>) {
        let Some(link) = &mut self.repl.link else { return };
        let Some(synced) = link.received.take() else { return };
        let (Some(rdb), place) = (link.rdb.take(), link.place.take()) else { return };
        // A primary that tells no place (`SYNC`) leaves us with a history of our own.
        let place = place.unwrap_or_else(|| {
            let id = log::random_history().unwrap_or(HistoryId::NONE);
            (id, Offset(0))
        });
        link.loading = true;
        let beside = self.cfg.repl_diskless_load == DisklessLoad::SwapDb;
        let kept = synced.is_err() || beside;
        let loaded = synced
            .map_err(|e| format!("{}: {e}", rdb.path.display()))
            .and_then(|()| self.load_from_primary(net, &rdb.path, beside));
        let now = self.now_u64();
        let link = match &mut self.repl.link {
            Some(link) if link.loading => link,
            // Meanwhile the role was changed.
            _ => return rdb.discard(),
        };
        link.loading = false;
        let stream_db = match loaded {
            Ok(loaded) => loaded.db,
            Err(why) => {
                rdb.discard();
                link.machine.rdb_failed(&why, kept, now, out);
                return;
            }
        };
        link.db = stream_db as usize;
        let followers = self.repl.node.adopted(place.0);
        let histories = self.repl.node.histories();
        self.histories = histories;
        self.snapshots.base = None;
        let on_disk = self.log.is_on_disk();
        let base = NewBase { path: rdb.path.clone(), at: place.1, rdb: true, keep: false };
        self.log.reset(histories, place.1, stream_db, on_disk.then_some(base));
        if !on_disk && !rdb.in_memory {
            self.keep_as_dump(&rdb.path, place.1);
        }
        self.ks.dirty = 0;
        self.snapshots.dirty_saved = 0;
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
        } else if self.cfg.rdb_del_sync_files && self.keeps_nothing() {
            log_notice!("Removing the RDB file that the primary sent");
            self.remove_dump();
        } else {
            self.snapshots.base = Some(OnDisk::new(dump, at));
        }
    }

    /// Whole commands of the primary's stream: into the log as they came, then run.
    fn apply_stream(&mut self, net: &mut Net<Client>, bytes: &[u8]) {
        self.log.append(bytes);
        self.ks.now_ms = self.clock.now_ms();
        let mut db = self.repl.link.as_ref().map_or(0, |l| l.db);
        let mut frame = std::mem::take(&mut self.frame);
        // The primary's `proto-max-bulk-len` may be above the default.
        let limits =
            varve_engine::resp::request::Limits { bulk_max: usize::MAX, ..Default::default() };
        let mut rest = bytes;
        let mut ahead: usize = 0;
        loop {
            if ahead == 0 {
                // Parsed twice, which is little beside a cache miss for each key.
                let mut next = rest;
                let hashes = std::iter::from_fn(|| {
                    let len = frame.parse(next, &limits).ok()??;
                    let key = hash(frame.args(next).get(1).unwrap_or_default());
                    next = &next[len..];
                    ahead += 1;
                    Some(key)
                });
                self.prefetch_keys(db, hashes);
            }
            let Ok(Some(len)) = frame.parse(rest, &limits) else { break };
            ahead = ahead.saturating_sub(1);
            let mut args = frame.args(rest);
            match args[0].to_ascii_lowercase().as_slice() {
                b"select" => {
                    db = args
                        .get(1)
                        .and_then(varve_engine::num::parse_int)
                        .map_or(db, |n| n as usize);
                }
                b"multi" | b"exec" | b"ping" | b"replconf" => {}
                word @ (b"publish" | b"spublish") if args.len() == 3 => {
                    let kind = match word {
                        b"publish" => Listening::Channel,
                        _ => Listening::Shard,
                    };
                    self.publish(net, None, kind, &args[1], &args[2]);
                }
                _ => {
                    if let Err(why) = self.apply(db, &mut args) {
                        log_warning!(
                            "== CRITICAL == This replica is sending an error to its primary: {why}"
                        );
                        self.stats.unexpected_errors += 1;
                        let behavior = self.cfg.propagation_error_behavior;
                        if behavior != PropagationError::Ignore && self.cfg.replica_read_only {
                            panic!(
                                "the data differ from the primary's, and propagation-error-behavior is {}: {why}",
                                behavior.name()
                            );
                        }
                    }
                }
            }
            rest = &rest[len..];
        }
        self.frame = frame;
        self.log.set_current_db(Some(db as u32));
        if let Some(link) = &mut self.repl.link {
            link.db = db;
        }
    }

    /// Ends the waits of all clients, as the server is no longer what they waited on.
    fn unblock_all(&mut self, net: &mut Net<Client>, why: &'static str) {
        let blocked: Vec<ConnId> =
            net.iter().filter(|c| c.session.blocked.is_some()).map(|c| c.id).collect();
        for id in blocked {
            self.release(net, id, Some(Error::new(why)));
        }
    }
}
