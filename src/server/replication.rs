//! The links to replicas and to a primary: the sockets, files and clocks around the state machines
//! of `varve_replication`.
//!
//! A replica is a connection with a place in the log. What it is due is taken from the memory tail
//! by reference, from the segments on disk when the tail has left it behind, and is asked for only
//! when the connection has little left to send: a slow replica costs an offset, not a buffer.

use super::Server;
use super::client::{Client, Kind};
use super::dispatch::Call;
use super::pubsub::Listening;
use super::snapshot::Purpose;
use crate::config::Config;
use crate::config::types::{Primary as PrimaryAddress, PropagationError};
use crate::logger::{self, Role};
use crate::{log_debug, log_notice, log_verbose, log_warning, service};
use memmap2::Mmap;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use varve_engine::{Args, Error};
use varve_net::{Conn, ConnId, Net};
use varve_persistence::log::SegmentReader;
use varve_persistence::log::{self, Cursor, NewBase};
use varve_persistence::offset::{Histories, HistoryId, Offset};
use varve_replication::node::{Followers, Node};
use varve_replication::output::Level;
use varve_replication::primary::supply::{AfterBulk, Supply, SupplyView, Target};
use varve_replication::primary::{self, Decision, LogView, Primary, Replconf};
use varve_replication::replica::{self, Replica};

/// Bytes of the log that a connection is given at a time.
const FEED: usize = 256 * 1024;
/// Bytes of an RDB file that a connection is given at a time.
const FEED_FILE: usize = 1 << 20;
/// A replica that sent anything within this time is alive.
const HEARD_LATELY: Duration = Duration::from_secs(1);
/// With more than this waiting at a replica, a streaming child is not read.
const STREAM_HIGH: usize = 16 << 20;

/// What a replica's connection is being sent.
enum Feeding {
    /// Nothing yet: it waits for a snapshot, or for its first ACK.
    Nothing,
    /// A file, from a position on.
    File {
        map: Arc<Mmap>,
        at: usize,
    },
    /// What a child streams.
    Stream,
    Log(Cursor),
    /// The log from segments on disk, until the tail has its place.
    Disk(Box<SegmentReader>, Offset),
    /// The log no longer has its place: it must ask anew.
    Lost(Offset),
}

/// This server as a replica: the link's machine and what it is receiving.
pub struct Link {
    machine: Replica,
    conn: Option<ConnId>,
    rdb: Option<Receiving>,
    place: Option<replica::Place>,
    /// The database that the stream has selected.
    db: usize,
    loading: bool,
}

struct Receiving {
    path: PathBuf,
    file: File,
    bytes: u64,
    size: Option<u64>,
    last_report_ms: i64,
}

pub struct Replication {
    pub node: Node,
    pub primary: Primary,
    pub link: Option<Link>,
    feeding: HashMap<ConnId, Feeding>,
    /// The file that the running or last disk child wrote for replicas.
    outputs: Vec<replica::Output>,
    loop_ms: u64,
}

fn primary_config(cfg: &Config) -> primary::Config {
    primary::Config {
        diskless: cfg.repl_diskless_sync,
        diskless_delay_ms: cfg.repl_diskless_sync_delay as u64 * 1000,
        diskless_max_replicas: cfg.repl_diskless_sync_max_replicas as usize,
        timeout_ms: cfg.repl_timeout as u64 * 1000,
        ping_period_ms: cfg.repl_ping_replica_period as u64 * 1000,
        backlog_ttl_ms: cfg.repl_backlog_ttl as u64 * 1000,
        min_replicas: cfg.min_replicas_to_write as usize,
        max_lag_ms: cfg.min_replicas_max_lag as u64 * 1000,
    }
}

fn link_config(cfg: &Config, to: &PrimaryAddress) -> replica::Config {
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
    config.reconnect_ms = cfg.repl_reconnect_delay as u64 * 1000;
    config
}

impl Replication {
    pub fn new(cfg: &Config, histories: Histories, now_ms: i64) -> Replication {
        Replication {
            node: Node::new(histories),
            primary: Primary::new(primary_config(cfg), now_ms as u64),
            link: None,
            feeding: HashMap::new(),
            outputs: Vec::new(),
            loop_ms: now_ms as u64,
        }
    }

    pub fn is_primary(&self) -> bool {
        self.node.is_primary()
    }

    /// The data at start belongs to these histories.
    pub fn set_histories(&mut self, histories: Histories) {
        self.node = Node::new(histories);
    }
}

impl Link {
    pub fn machine(&self) -> &Replica {
        &self.machine
    }
}

impl Server {
    fn now_u64(&self) -> u64 {
        self.clock.now_ms() as u64
    }

    /// The log as a replica may see it.
    fn log_view(&self) -> LogView {
        LogView {
            histories: self.repl.node.histories(),
            first: self.log.first_available(),
            end: self.log.end(),
            linked: self.is_primary() || self.link_is_up(),
            top: self.is_primary(),
        }
    }

    /// Whether this server's own link to its primary is up.
    pub fn link_is_up(&self) -> bool {
        self.repl.link.as_ref().is_some_and(|l| l.machine.is_up())
    }

    pub fn enough_good_replicas(&self) -> bool {
        self.repl.primary.may_write(self.now_u64())
    }

    /// Replicas that have acknowledged the log up to `offset`: `WAIT`.
    pub fn replicas_at(&self, offset: u64) -> usize {
        self.repl.primary.acked(Offset(offset))
    }

    /// Replicas that have it on disk: `WAITAOF`.
    pub fn replica_disks_at(&self, offset: u64) -> usize {
        self.repl.primary.acked_on_disk(Offset(offset))
    }

    /// 1 if the log is on this server's disk up to `offset`, else 0.
    pub fn synced_here(&self, offset: u64) -> usize {
        self.log.synced().is_some_and(|synced| synced.0 >= offset) as usize
    }

    /// Whether every replica that is online has acknowledged the whole log.
    pub fn replicas_have_everything(&self) -> bool {
        let end = self.log.end();
        self.repl.primary.listed(self.now_u64()).all(|r| !r.online || r.offset >= end)
    }

    pub fn replication_config_changed(&mut self) {
        self.repl.primary.set_config(primary_config(&self.cfg));
        if let (Some(link), Some(to)) = (&mut self.repl.link, &self.cfg.replicaof) {
            link.machine.set_config(link_config(&self.cfg, to));
        }
    }

    // The primary's side.

    /// `REPLCONF` from a client.
    pub fn replconf(&mut self, call: &mut Call<'_>, args: &Args<'_>) -> Result<(), Error> {
        match self.repl.primary.replconf(call.id, args, self.now_u64())? {
            Replconf::Ok => call.reply.ok(),
            Replconf::Silent | Replconf::GetAck => {}
            Replconf::Ack { start } => {
                if let Some(from) = start {
                    self.feed_from(call.id, from);
                    call.client.reconfigure = true;
                }
                if self.waiters.any_on_replicas() {
                    self.serve_replica_waiters(call.net);
                }
            }
        }
        call.client.speaks_replconf = true;
        Ok(())
    }

    /// `PSYNC id offset`.
    pub fn psync(&mut self, call: &mut Call<'_>, id: &[u8], next: i64) -> Result<(), Error> {
        let view = self.log_view();
        let decision = self.repl.primary.psync(call.id, id, next, &view, self.now_u64());
        self.answer_sync(call, decision)
    }

    /// `SYNC`.
    pub fn sync(&mut self, call: &mut Call<'_>) -> Result<(), Error> {
        let view = self.log_view();
        let decision = self.repl.primary.sync(call.id, &view, self.now_u64());
        self.answer_sync(call, decision)
    }

    fn answer_sync(&mut self, call: &mut Call<'_>, decision: Decision) -> Result<(), Error> {
        match decision {
            Decision::Refuse(error) => return Err(error),
            Decision::Ignore => return Ok(()),
            Decision::Continue { reply, from } => {
                log_notice!(
                    "Partial resynchronization request from {} accepted: it goes on from offset {from}, {} bytes behind",
                    call.client.peer,
                    self.log.end() - from
                );
                call.reply.raw(&reply);
                self.become_replica(call);
                self.feed_from(call.id, from);
            }
            Decision::Rollback { reply, to, reason } => {
                log_notice!(
                    "Replica {} is asked to roll back to offset {to}: {reason}",
                    call.client.peer
                );
                call.reply.raw(&reply);
            }
            Decision::Full { reason } => {
                log_notice!("Full resync requested by replica {}: {reason}", call.client.peer);
                self.become_replica(call);
                self.repl.feeding.insert(call.id, Feeding::Nothing);
                self.supply_due = true;
            }
        }
        Ok(())
    }

    fn become_replica(&mut self, call: &mut Call<'_>) {
        call.client.kind = Kind::Replica;
        call.client.reconfigure = true;
    }

    /// From now on the connection is fed the log from `from` on.
    fn feed_from(&mut self, id: ConnId, from: Offset) {
        let feeding = match self.log.cursor_at(from) {
            Some(cursor) => Feeding::Log(cursor),
            None => match self.log.segment_reader(from) {
                Some(reader) => Feeding::Disk(Box::new(reader), from),
                None => Feeding::Lost(from),
            },
        };
        self.repl.feeding.insert(id, feeding);
    }

    /// Gives a connection more of what it is due, while little waits to be sent.
    pub fn feed(&mut self, conn: &mut Conn<Client>) {
        let id = conn.id;
        match self.repl.feeding.get_mut(&id) {
            None | Some(Feeding::Nothing | Feeding::Stream) => {}
            Some(Feeding::File { map, at }) => {
                self.repl.primary.bulk_progress(id, self.clock.now_ms() as u64);
                let end = (*at + FEED_FILE).min(map.len());
                conn.output.shared(Arc::new(Mapped(map.clone())), *at..end);
                self.stats.net_replication_out += (end - *at) as u64;
                *at = end;
                if end == map.len() {
                    self.bulk_sent(conn);
                }
            }
            Some(Feeding::Log(_)) => self.feed_from_tail(conn),
            Some(Feeding::Disk(..)) => self.feed_from_disk(conn),
            Some(Feeding::Lost(at)) => {
                log_warning!(
                    "Replica {} fell behind the start of the log (offset {at}): it must ask anew",
                    conn.session.peer
                );
                conn.close_asap = true;
            }
        }
    }

    fn feed_from_tail(&mut self, conn: &mut Conn<Client>) {
        let Some(Feeding::Log(cursor)) = self.repl.feeding.get_mut(&conn.id) else { return };
        let released = self.log.released();
        let mut room = FEED;
        while room > 0 {
            let Some(piece) = self.log.next(cursor, room, released) else { break };
            let range = piece.range.clone();
            room = room.saturating_sub(range.len());
            self.stats.net_replication_out += range.len() as u64;
            conn.output.shared(piece.block, range);
        }
        let at = cursor.offset;
        if room == FEED && at < self.log.first_in_memory() {
            // The tail has left it behind: the disk may have its place.
            self.feed_from(conn.id, at);
            match self.repl.feeding.get(&conn.id) {
                Some(Feeding::Disk(..)) => self.feed_from_disk(conn),
                _ => conn.close_asap = true,
            }
        }
    }

    fn feed_from_disk(&mut self, conn: &mut Conn<Client>) {
        let Some(Feeding::Disk(reader, at)) = self.repl.feeding.get_mut(&conn.id) else { return };
        if let Some(cursor) = self.log.cursor_at(*at) {
            self.repl.feeding.insert(conn.id, Feeding::Log(cursor));
            return self.feed_from_tail(conn);
        }
        let mut bytes = vec![0u8; FEED];
        reader.refresh(self.log.segments());
        match reader.read(&mut bytes, self.log.released()) {
            // A new base has taken the segment away meanwhile.
            Ok(0) => {
                let at = *at;
                self.feed_from(conn.id, at);
            }
            Ok(n) => {
                bytes.truncate(n);
                *at += n as u64;
                self.stats.net_replication_out += n as u64;
                conn.output.shared(Arc::new(bytes), 0..n);
            }
            Err(error) => {
                log_warning!("Can't read the log for replica {}: {error}", conn.session.peer);
                conn.close_asap = true;
            }
        }
    }

    /// Without a log on disk, what replicas still need stays in memory: a snapshot that is sent
    /// would else be worth nothing when it has arrived. As far as Redis's buffer for a replica would
    /// go, `client-output-buffer-limit replica`, and not beyond.
    fn hold_for_replicas(&mut self) {
        if self.log.is_on_disk() {
            return self.log.hold(None);
        }
        let places = self.repl.feeding.iter().filter_map(|(id, feeding)| match feeding {
            Feeding::Log(cursor) => Some(cursor.offset),
            Feeding::Disk(_, at) => Some(*at),
            Feeding::Lost(_) => None,
            Feeding::Nothing | Feeding::File { .. } | Feeding::Stream => {
                self.repl.primary.feeds_from(*id)
            }
        });
        let most = match self.cfg.client_output_buffer_limit[1].hard {
            0 => u64::MAX,
            hard => hard,
        };
        let floor = Offset(self.log.end().0.saturating_sub(most));
        let held = places.min().map(|place| place.max(floor));
        self.log.hold(held);
    }

    /// At the end of a turn: whoever has taken all that was given gets what is new.
    pub fn feed_replicas(&mut self, net: &mut Net<Client>) {
        if self.repl.feeding.is_empty() {
            return self.log.hold(None);
        }
        if std::mem::take(&mut self.supply_due) {
            self.supply(net);
        }
        self.hold_for_replicas();
        if self.fed_to == self.log.released() {
            return;
        }
        self.fed_to = self.log.released();
        for id in self.repl.feeding.keys() {
            net.mark_dirty(*id);
        }
    }

    pub fn replica_closed(&mut self, _: &mut Net<Client>, id: ConnId) {
        self.repl.feeding.remove(&id);
        if self.repl.primary.closed(id, self.now_u64()) {
            log_notice!("Connection with replica client id #{id} lost.");
        }
        // Nobody left to stream to: the child works for nothing.
        let orphan = self.snapshots.running.as_ref().is_some_and(|r| match &r.purpose {
            Purpose::SyncSocket { conns, .. } => {
                !conns.iter().any(|c| self.repl.feeding.contains_key(c))
            }
            _ => false,
        });
        if orphan {
            log_notice!("No replica is left that waits for the RDB: ending the child");
            if let Some(running) = &self.snapshots.running {
                let _ = nix::sys::signal::kill(running.pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
    }

    /// Finds snapshots for the replicas that wait for one.
    fn supply(&mut self, net: &mut Net<Client>) {
        loop {
            let view = SupplyView {
                base: self.usable_base(),
                disk_child: self.snapshots.running.as_ref().and_then(|r| {
                    (matches!(r.purpose, Purpose::Save | Purpose::SyncDisk)).then_some(r.at)
                }),
                can_fork: !self.snapshots.running() && self.in_exec.is_none(),
            };
            let now = self.now_u64();
            let Some(supply) = self.repl.primary.supply(&view, now) else { return };
            match supply {
                Supply::Base { from, conns } => {
                    log_notice!(
                        "Full sync from the snapshot on disk at offset {from}: the log continues it, no fork"
                    );
                    self.announce(net, &conns);
                    let path = self.snapshots.base.as_ref().map(|b| b.path.clone());
                    if let Some(path) = path {
                        self.send_file(net, &conns, &path);
                    }
                }
                Supply::Join { from, conns } => {
                    log_notice!("Full sync joins the save that runs, of offset {from}");
                    self.announce(net, &conns);
                }
                Supply::Fork { target, conns, .. } => self.fork_for(net, target, &conns),
            }
        }
    }

    /// A complete RDB on disk that the log continues, unless writing it is nearly as long ago as
    /// loading the rest would take.
    fn usable_base(&self) -> Option<Offset> {
        let base = self.snapshots.base.as_ref()?;
        let continues = base.at >= self.log.first_available() && base.is_there();
        let behind = self.log.end().0.saturating_sub(base.at.0);
        (continues && behind <= self.cfg.repl_backlog_size.max(64 << 20)).then_some(base.at)
    }

    fn fork_for(&mut self, net: &mut Net<Client>, target: Target, conns: &[ConnId]) {
        let purpose = match target {
            Target::Disk => Purpose::SyncDisk,
            Target::Socket => {
                let mark = self.stream_mark();
                Purpose::SyncSocket { conns: conns.to_vec(), mark }
            }
        };
        let mark = match &purpose {
            Purpose::SyncSocket { mark, .. } => Some(*mark),
            _ => None,
        };
        log_notice!(
            "Starting BGSAVE for SYNC with target: {}",
            if mark.is_some() { "replicas sockets" } else { "disk" }
        );
        let now = self.now_u64();
        match self.start_child(net, purpose) {
            Ok(at) => {
                // What a replica is fed after its snapshot begins with the database of its first
                // write said: the snapshot alone does not tell a Redis replica which one that is. A
                // replica's own stream stays as its primary made it, and the snapshot tells.
                if self.is_primary() {
                    self.log.set_current_db(None);
                }
                let there = self.repl.primary.forked(conns, target, at, now);
                self.announce(net, &there);
                if let Some(mark) = mark {
                    for id in there {
                        self.repl.primary.bulk_started(id, now);
                        self.repl.feeding.insert(id, Feeding::Stream);
                        if let Some(conn) = net.conn_mut(id) {
                            conn.output.raw(b"$EOF:");
                            conn.output.raw(&mark);
                            conn.output.raw(b"\r\n");
                            net.mark_dirty(id);
                        }
                    }
                }
            }
            Err(_) => {
                for id in self.repl.primary.fork_failed(conns, now) {
                    if let Some(conn) = net.conn_mut(id) {
                        conn.output.raw(b"-ERR BGSAVE failed, replication can't continue\r\n");
                        conn.close_after_reply = true;
                        net.mark_dirty(id);
                    }
                }
            }
        }
    }

    /// Tells replicas which state their snapshot is.
    fn announce(&mut self, net: &mut Net<Client>, conns: &[ConnId]) {
        let history = self.repl.node.histories().current;
        for &id in conns {
            let Some(line) = self.repl.primary.fullresync(id, history) else { continue };
            if let Some(conn) = net.conn_mut(id) {
                conn.output.raw(&line);
                net.mark_dirty(id);
            }
        }
    }

    fn send_file(&mut self, net: &mut Net<Client>, conns: &[ConnId], path: &std::path::Path) {
        // SAFETY: RDB files are never changed in place, only replaced.
        let map = File::open(path).and_then(|file| unsafe { Mmap::map(&file) });
        let map = match map {
            Ok(map) => Arc::new(map),
            Err(error) => {
                log_warning!("Can't read {} for a full sync: {error}", path.display());
                for &id in conns {
                    net.kill(id);
                }
                return;
            }
        };
        let now = self.now_u64();
        for &id in conns {
            self.repl.primary.bulk_started(id, now);
            self.repl.feeding.insert(id, Feeding::File { map: map.clone(), at: 0 });
            if let Some(conn) = net.conn_mut(id) {
                conn.output.raw(format!("${}\r\n", map.len()).as_bytes());
                net.mark_dirty(id);
            }
        }
    }

    /// A connection was given the last byte of its RDB.
    fn bulk_sent(&mut self, conn: &mut Conn<Client>) {
        let now = self.now_u64();
        log_notice!("Synchronization with replica {} succeeded", conn.session.peer);
        self.after_bulk(conn.id, now);
    }

    fn after_bulk(&mut self, id: ConnId, now: u64) {
        match self.repl.primary.bulk_done(id, now) {
            Some(AfterBulk::Feed { from }) => self.feed_from(id, from),
            Some(AfterBulk::AwaitAck | AfterBulk::Nothing) | None => {
                self.repl.feeding.insert(id, Feeding::Nothing);
            }
        }
    }

    /// Passes on what a child streams to all who wait for it.
    pub fn stream_to_replicas(&mut self, net: &mut Net<Client>, conn: &mut Conn<Client>) {
        let Some(running) = &self.snapshots.running else { return };
        let Purpose::SyncSocket { conns, .. } = &running.purpose else { return };
        let bytes: Arc<Vec<u8>> = Arc::new(conn.input.bytes().to_vec());
        let len = bytes.len();
        conn.input.consume(len);
        let now = self.clock.now_ms() as u64;
        let mut fullest = 0;
        for &id in conns {
            if !matches!(self.repl.feeding.get(&id), Some(Feeding::Stream)) {
                continue;
            }
            if let Some(replica) = net.conn_mut(id) {
                replica.output.shared(bytes.clone(), 0..len);
                fullest = fullest.max(replica.output.len());
                self.stats.net_replication_out += len as u64;
                self.repl.primary.bulk_progress(id, now);
                net.mark_dirty(id);
            }
        }
        if fullest > STREAM_HIGH {
            conn.pause_read = true;
            self.stream_paused = Some(conn.id);
        }
    }

    /// Reads on from a child that was held back, if its readers have caught up.
    fn resume_stream(&mut self, net: &mut Net<Client>) {
        let Some(id) = self.stream_paused else { return };
        let full = self.repl.feeding.iter().any(|(id, feeding)| {
            matches!(feeding, Feeding::Stream)
                && net.conn(*id).is_some_and(|c| c.output.len() > STREAM_HIGH / 2)
        });
        if !full {
            self.stream_paused = None;
            if let Some(conn) = net.conn_mut(id) {
                conn.pause_read = false;
            }
            net.resume(id);
        }
    }

    /// A child that worked for replicas, or that replicas joined, has ended.
    pub fn sync_child_ended(&mut self, net: &mut Net<Client>, purpose: &Purpose, ok: bool) {
        let now = self.now_u64();
        match purpose {
            Purpose::SyncSocket { conns, .. } => {
                if ok {
                    for &id in conns {
                        if matches!(self.repl.feeding.get(&id), Some(Feeding::Stream)) {
                            self.after_bulk(id, now);
                        }
                    }
                } else {
                    for id in self.repl.primary.stream_failed(now) {
                        net.kill(id);
                    }
                }
            }
            Purpose::Save | Purpose::SyncDisk => {
                let waiting = self.repl.primary.child_done(ok, now);
                if !ok {
                    for id in waiting {
                        net.kill(id);
                    }
                } else if !waiting.is_empty() {
                    let path = self.snapshots.base.as_ref().map(|b| b.path.clone());
                    if let Some(path) = path {
                        self.send_file(net, &waiting, &path);
                    }
                }
            }
            Purpose::Rewrite => {}
        }
        self.supply_due = true;
    }

    /// What time brings, for both roles.
    pub fn replication_round(&mut self, net: &mut Net<Client>) {
        let now = self.now_u64();
        self.resume_stream(net);
        let mut out = Vec::new();
        self.repl.primary.tick(now, self.is_primary(), &mut out);
        for output in out {
            match output {
                primary::Output::Append(bytes) => {
                    if self.loading.is_none() {
                        self.log.append(bytes);
                    }
                }
                primary::Output::Newline(id) => {
                    if let Some(conn) = net.conn_mut(id) {
                        conn.output.raw(b"\n");
                        net.mark_dirty(id);
                    }
                }
                primary::Output::Drop { conn, why } => {
                    log_warning!("Disconnecting replica client id #{conn}: {why}");
                    net.kill(conn);
                }
                primary::Output::BacklogExpired => {
                    log_debug!("No replica for repl-backlog-ttl");
                }
            }
        }
        // A replica that loads sends bare newlines, which are no requests.
        for &id in self.repl.feeding.keys() {
            if net.conn(id).is_some_and(|c| c.last_read.elapsed() < HEARD_LATELY) {
                self.repl.primary.newline(id, now);
            }
        }
        self.supply_due = true;
        self.remove_sync_file(now);
        self.tick_link(net);
        self.repl.loop_ms = now;
    }

    /// Whether this server keeps no data on disk.
    fn keeps_nothing(&self) -> bool {
        self.cfg.save.is_empty() && !self.cfg.appendonly
    }

    /// Removes the dump that was written for replicas only, when none needs it any more.
    fn remove_sync_file(&mut self, now: u64) {
        if !self.snapshots.sync_file || !self.cfg.rdb_del_sync_files || !self.keeps_nothing() {
            return;
        }
        if self.snapshots.running() || !self.repl.primary.listed(now).all(|r| r.online) {
            return;
        }
        log_notice!("Removing the RDB file that was written for replicas only");
        self.remove_dump();
    }

    fn remove_dump(&mut self) {
        self.snapshots.sync_file = false;
        self.snapshots.base = None;
        if let Err(error) = std::fs::remove_file(&self.cfg.dbfilename) {
            log_warning!("Can't remove {}: {error}", self.cfg.dbfilename);
        }
    }

    // The replica's side.

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
        let config = link_config(&self.cfg, &to);
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
        if let Some(rdb) = link.rdb {
            let _ = std::fs::remove_file(rdb.path);
        }
        let mut random = [0u8; 20];
        random.iter_mut().for_each(|b| *b = self.ks.random() as u8);
        let followers = self.repl.node.promote(self.log.end(), random);
        self.log.set_histories(self.repl.node.histories());
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

    /// Asks all replicas to say how far they are: for `WAIT`. Once a turn is enough for all.
    pub fn ask_for_acks(&mut self) {
        self.acks_due = true;
    }

    /// Sends this server's own replicas away, so that they come back and learn the new history.
    fn drop_followers(&mut self, net: &mut Net<Client>, followers: Followers) {
        if followers == Followers::Drop {
            for id in self.repl.primary.drop_all(self.now_u64()) {
                net.kill(id);
            }
        }
    }

    fn tick_link(&mut self, net: &mut Net<Client>) {
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

    /// Bytes from the primary.
    pub fn primary_bytes(&mut self, net: &mut Net<Client>, conn: &mut Conn<Client>) {
        let now = self.now_u64();
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
            let taken = link.machine.bytes(conn.input.bytes(), now, &mut out);
            self.stats.net_replication_in += taken as u64;
            let acted = !out.is_empty();
            self.act(net, Some(conn), &mut out);
            conn.input.consume(taken);
            if taken == 0 && !acted || conn.close_asap || conn.input.bytes().is_empty() {
                return;
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
                Output::RdbBegin { size, place } => self.receive_rdb(size, place),
                Output::RdbBytes(range) => {
                    if let (Some(conn), Some(link)) = (&conn, &mut self.repl.link)
                        && let Some(rdb) = &mut link.rdb
                    {
                        rdb.bytes += range.len() as u64;
                        if let Err(error) = rdb.file.write_all(&conn.input.bytes()[range]) {
                            let why = format!("can't write {}: {error}", rdb.path.display());
                            let now = self.clock.now_ms() as u64;
                            link.machine.rdb_failed(&why, true, now, out);
                        }
                    }
                    self.report_receiving();
                }
                Output::RdbEnd => {
                    self.load_received(net, out);
                    if let Some(conn) = &mut conn {
                        conn.pause_read = false;
                    }
                }
                Output::RdbAbort => {
                    if let Some(rdb) = self.repl.link.as_mut().and_then(|l| l.rdb.take()) {
                        let _ = std::fs::remove_file(rdb.path);
                    }
                }
                Output::Continue { new_history } => {
                    let followers = self.repl.node.continued(new_history, self.log.end());
                    self.log.set_histories(self.repl.node.histories());
                    let db = self.repl.link.as_ref().map(|l| l.db as u32);
                    self.log.set_current_db(db);
                    self.stats.sync_continued += 1;
                    self.drop_followers(net, followers);
                }
                Output::Rollback { .. } => {
                    let now = self.now_u64();
                    if let Some(link) = &mut self.repl.link {
                        let why = "this server cannot take its log back";
                        link.machine.rollback_failed(why, now, out);
                    }
                }
                Output::Stream(range) => {
                    if let Some(conn) = &conn {
                        let bytes = &conn.input.bytes()[range];
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

    fn receive_rdb(&mut self, size: Option<u64>, place: Option<replica::Place>) {
        let path = PathBuf::from(format!("temp-{}-sync.rdb", std::process::id()));
        let now_ms = self.clock.now_ms();
        let Some(link) = &mut self.repl.link else { return };
        match File::create(&path) {
            Ok(file) => {
                link.rdb = Some(Receiving { path, file, bytes: 0, size, last_report_ms: now_ms });
                link.place = place;
            }
            Err(error) => {
                let mut out = Vec::new();
                let why = format!("can't make {}: {error}", path.display());
                link.machine.rdb_failed(&why, true, now_ms as u64, &mut out);
                self.repl.outputs = out;
            }
        }
    }

    fn report_receiving(&mut self) {
        let now = self.clock.now_ms();
        let Some(rdb) = self.repl.link.as_mut().and_then(|l| l.rdb.as_mut()) else { return };
        if now - rdb.last_report_ms < 1000 {
            return;
        }
        rdb.last_report_ms = now;
        let text = match rdb.size {
            Some(size) => format!(
                "Full sync: received {} of {} MB ({}%)",
                rdb.bytes >> 20,
                size >> 20,
                rdb.bytes * 100 / size.max(1)
            ),
            None => format!("Full sync: received {} MB", rdb.bytes >> 20),
        };
        log_notice!("{text}");
        service::status(self, &text);
    }

    /// The primary's RDB is whole: it replaces the data, and becomes the log's base as it is.
    fn load_received(&mut self, net: &mut Net<Client>, out: &mut Vec<replica::Output>) {
        let Some(link) = &mut self.repl.link else { return };
        let (Some(rdb), place) = (link.rdb.take(), link.place.take()) else { return };
        // A primary that tells no place (`SYNC`) leaves us with a history of our own.
        let place = place.unwrap_or_else(|| {
            let id = log::random_history().unwrap_or(HistoryId::NONE);
            (id, Offset(0))
        });
        link.loading = true;
        let synced = rdb.file.sync_all();
        let loaded = synced
            .map_err(|e| format!("can't sync {}: {e}", rdb.path.display()))
            .and_then(|()| self.load_from_primary(net, &rdb.path));
        let now = self.now_u64();
        let link = match &mut self.repl.link {
            Some(link) if link.loading => link,
            // Meanwhile the role was changed.
            _ => {
                let _ = std::fs::remove_file(&rdb.path);
                return;
            }
        };
        link.loading = false;
        let stream_db = match loaded {
            Ok(loaded) => loaded.db,
            Err(why) => {
                let _ = std::fs::remove_file(&rdb.path);
                link.machine.rdb_failed(&why, false, now, out);
                return;
            }
        };
        link.db = stream_db as usize;
        let followers = self.repl.node.adopted(place.0);
        let histories = self.repl.node.histories();
        self.histories = histories;
        if self.log.is_on_disk() {
            let base = NewBase { path: rdb.path, at: place.1, rdb: true, keep: false };
            self.log.reset(histories, place.1, stream_db, Some(base));
            self.snapshots.base = None;
        } else {
            // Kept as the dump: a restart then knows where it stood.
            let kept = std::fs::rename(&rdb.path, &self.cfg.dbfilename);
            self.log.reset(histories, place.1, stream_db, None);
            self.snapshots.base = None;
            if let Err(error) = kept {
                log_warning!("Can't keep the received RDB as {}: {error}", self.cfg.dbfilename);
            } else if self.cfg.rdb_del_sync_files && self.keeps_nothing() {
                log_notice!("Removing the RDB file that the primary sent");
                self.remove_dump();
            }
        }
        self.ks.dirty = 0;
        self.snapshots.dirty_saved = 0;
        if let Some(link) = &mut self.repl.link {
            link.machine.rdb_loaded(place, now, out);
        }
        self.drop_followers(net, followers);
    }

    /// Whole commands of the primary's stream: into the log as they came, then run.
    fn apply_stream(&mut self, net: &mut Net<Client>, bytes: &[u8]) {
        self.log.append(bytes);
        self.ks.now_ms = self.clock.now_ms();
        let mut db = self.repl.link.as_ref().map_or(0, |l| l.db);
        let mut frame = std::mem::take(&mut self.frame);
        let limits = varve_engine::resp::request::Limits::default();
        let mut rest = bytes;
        while let Ok(Some(len)) = frame.parse(rest, &limits) {
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

    /// What the log's threads have finished.
    pub fn log_turn(&mut self, net: &mut Net<Client>) {
        for event in self.log.take_events() {
            match event {
                log::Event::Rotated { result: Err(why), at } => {
                    log_warning!("A new segment could not be begun at offset {at}: {why}");
                }
                log::Event::BaseInstalled { at, result } => {
                    self.snapshots.installing = false;
                    match result {
                        Ok(()) => log_notice!("The log's base is the snapshot at offset {at} now"),
                        Err(why) => log_warning!(
                            "The snapshot at offset {at} could not become the log's base: {why}"
                        ),
                    }
                }
                log::Event::Rotated { .. } => {}
            }
        }
        if self.log.is_failing() != self.log_failing {
            self.log_failing = !self.log_failing;
            match self.log.error() {
                Some(why) => {
                    log_warning!("{why}. Writes are refused until it can be written again.")
                }
                None => log_warning!("AOF write error looks solved, can write again."),
            }
            // What replies wait for is another matter now.
            let all: Vec<ConnId> = net.iter().map(|conn| conn.id).collect();
            all.into_iter().for_each(|id| net.mark_dirty(id));
        }
        if self.waiters.any_on_replicas() {
            self.serve_replica_waiters(net);
        }
    }
}

/// A mapped file as bytes that several connections send from.
struct Mapped(Arc<Mmap>);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}
