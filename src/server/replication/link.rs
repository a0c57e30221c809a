//! The replica's side: the link to the primary, what comes over it, and where that goes.

mod receive;
mod rollback;

use super::super::Server;
use super::super::client::{Client, Kind};
use super::super::progress::Progress;
use super::super::pubsub::Listening;
use super::HEARD_LATELY;
use crate::config::Config;
use crate::config::types::{Primary as PrimaryAddress, PropagationError, ReplCompression};
use crate::logger::{self, Role};
use crate::{log_debug, log_notice, log_verbose, log_warning, service};
use crossbeam::channel::{Receiver, bounded};
use receive::Receiving;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::thread;
use varve_engine::Error;
use varve_engine::ahead::{self, AHEAD, element_at};
use varve_engine::hasher::hash;
use varve_net::{Conn, ConnId, Net};
use varve_persistence::offset::{HistoryId, Offset};
use varve_replication::output::Level;
use varve_replication::replica::{self, Hold, Replica};

/// This server as a replica: the link's machine and what it is receiving.
pub struct Link {
    pub(super) machine: Replica,
    conn: Option<ConnId>,
    /// Where the addresses of the primary's name are to come.
    resolving: Option<Receiver<io::Result<VecDeque<SocketAddr>>>>,
    /// Those that were not tried yet.
    addresses: VecDeque<SocketAddr>,
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
    let some = |value: &OsStr| (!value.is_empty()).then(|| value.as_bytes().to_vec());
    config.user = some(&cfg.masteruser);
    config.password = some(&cfg.masterauth);
    config.announce_ip = some(&cfg.replica_announce_ip);
    config.timeout_ms = cfg.repl_timeout as u64 * 1000;
    config.node = Some(node);
    config.lz4 = cfg.repl_compression == ReplCompression::Lz4;
    config.reconnect_ms = cfg.repl_reconnect_delay as u64 * 1000;
    config
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
        // What the transaction that this is in has written before is a primary's.
        self.append_effects();
        let followers = self.repl.node.follow(&to.host, to.port);
        self.drop_followers(net, followers);
        let mut config = link_config(&self.cfg, &to, self.repl.id);
        config.failover = self.repl.failover.is_some();
        self.cfg.replicaof = Some(to);
        logger::set_role(Role::Replica);
        self.unblock_all(net, "UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)");
        let now = self.now_u64();
        let place = match self.repl.failover {
            // Who is to take over must know the present name, and no other will do.
            Some(_) => (self.repl.node.histories().current, self.log.end()),
            None => self.repl.node.place(self.log.end()),
        };
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
                    resolving: None,
                    addresses: VecDeque::new(),
                    rdb: None,
                    place: None,
                    db: self.log.current_db() as usize,
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
        let random = self.random_bits();
        let followers = self.repl.node.promote(self.log.end(), random);
        self.log.take_histories(self.repl.node.histories());
        self.cfg.replicaof = None;
        logger::set_role(Role::Primary);
        log_notice!(
            "Primary mode: history {} goes on at offset {}",
            self.repl.node.histories().current,
            self.log.end()
        );
        self.drop_followers(net, followers);
        if std::mem::take(&mut self.beside_log) {
            // What is written now is of these data, which log and snapshot do not lead to.
            log_notice!("What was written to the replica alone stays: snapshots are made anew");
            self.snapshots.base = None;
            self.snapshots.rewrite_scheduled |= self.log.is_on_disk();
        }
    }

    /// Goes on under another name: where the log's files end, a start would go on under the present one.
    pub fn take_another_name(&mut self, net: &mut Net<Client>) {
        let random = self.random_bits();
        let followers = self.repl.node.begin_history(self.log.end(), random);
        self.log.take_histories(self.repl.node.histories());
        self.drop_followers(net, followers);
    }

    fn random_bits(&mut self) -> [u8; 20] {
        std::array::from_fn(|_| self.ks.random() as u8)
    }

    pub(super) fn tick_link(&mut self, net: &mut Net<Client>) {
        let now = self.now_u64();
        let synced = self.log.synced();
        let Some(link) = &mut self.repl.link else { return };
        // Of a stream that is held back, some is read and the rest cannot come.
        if link.machine.is_holding()
            && let Some(conn) = link.conn.and_then(|id| net.conn(id))
            && (conn.is_full() || conn.last_read.elapsed() < HEARD_LATELY)
        {
            link.machine.heard(now);
        }
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
        if let Err(error) = result {
            link.conn = None;
            return self.open_link(net, error);
        }
        let mut out = std::mem::take(&mut self.repl.outputs);
        link.machine.connected(now, &mut out);
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
            let (synced, hold) = (self.log.synced(), self.stream_hold());
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
            link.machine.hold(hold);
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
            if self.repl.link.as_ref().is_some_and(|link| link.machine.is_holding()) {
                conn.hold = true;
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

    /// What `CLIENT PAUSE`, or a log that is behind, holds back of the primary's stream.
    fn stream_hold(&self) -> Hold {
        match self.pause.as_ref().filter(|pause| pause.until_ms > self.clock.steady_ms()) {
            Some(pause) if pause.all => Hold::All,
            Some(_) => Hold::Writes,
            // The primary's log has it meanwhile.
            None if self.log_behind => Hold::Writes,
            None => Hold::Nothing,
        }
    }

    /// Goes on with the stream if it was held back.
    pub fn let_stream_go(&mut self, net: &mut Net<Client>) {
        if let Some(id) = self.repl.link.as_ref().and_then(|link| link.conn)
            && let Some(conn) = net.conn_mut(id)
            && conn.hold
        {
            // What was decoded of it waits too, and nothing else may come for long.
            (conn.hold, conn.again) = (false, true);
            net.resume(id);
        }
    }

    /// Up to where the primary's stream has come, whether applied or not. On a compressed link that is
    /// as far as it is decoded.
    pub fn received_offset(&self, net: &Net<Client>) -> Offset {
        let end = self.log.end();
        let link = self.repl.link.as_ref().filter(|link| link.machine.is_up());
        let conn = link.and_then(|link| net.conn(link.conn?));
        conn.map_or(end, |conn| Offset(end.0 + received(conn).len() as u64))
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
                Output::Connect { host, port } => self.connect_to_primary(net, host, port),
                Output::Disconnect => {
                    let id = self.repl.link.as_mut().and_then(|link| {
                        link.resolving = None;
                        link.conn.take()
                    });
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
                            let now = self.clock.steady_ms() as u64;
                            link.machine.rdb_failed(&why, true, now, out);
                        }
                    }
                    self.report_receiving();
                }
                Output::RdbEnd => self.sync_received(out),
                Output::RdbAbort { keep } => {
                    if let Some(link) = &mut self.repl.link {
                        (link.received, link.loading) = (None, false);
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
                    let db = self.repl.link.as_ref().map_or(0, |l| l.db as u32);
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
                        self.publish_events(net, None);
                    }
                    self.fail_all_watchers(net);
                }
                Output::TookOver => self.complete_failover(net),
                Output::FailoverRefused { why } => {
                    self.abort_failover(net, &format!("the target refused: {why}"));
                }
                Output::LinkUp => {
                    self.repl.end_is_unshared = false;
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

    /// Opens a connection to the primary. Its name is looked up by a thread, as that can take long:
    /// [`Server::take_resolved`] goes on.
    fn connect_to_primary(&mut self, net: &mut Net<Client>, host: String, port: u16) {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return self.take_addresses(net, Ok([SocketAddr::new(ip, port)].into()));
        }
        let (answer, resolving) = bounded(1);
        let waker = self.waker.clone();
        let work = move || {
            let _ = answer.send((&*host, port).to_socket_addrs().map(Iterator::collect));
            waker();
        };
        match thread::Builder::new().name("resolve".into()).spawn(work) {
            Ok(_) => {
                if let Some(link) = &mut self.repl.link {
                    link.resolving = Some(resolving);
                }
            }
            Err(error) => self.open_link(net, error),
        }
    }

    /// Goes on once the addresses of the primary's name are known.
    pub fn take_resolved(&mut self, net: &mut Net<Client>) {
        let resolving = self.repl.link.as_mut().map(|link| &mut link.resolving);
        if let Some(resolving) = resolving
            && let Some(Ok(addresses)) = resolving.as_ref().map(Receiver::try_recv)
        {
            *resolving = None;
            self.take_addresses(net, addresses);
        }
    }

    fn take_addresses(
        &mut self,
        net: &mut Net<Client>,
        addresses: io::Result<VecDeque<SocketAddr>>,
    ) {
        let Some(link) = &mut self.repl.link else { return };
        let mut why = io::Error::other("the name has no address");
        link.addresses = addresses.unwrap_or_else(|error| {
            why = error;
            VecDeque::new()
        });
        self.open_link(net, why);
    }

    /// Opens a connection to the next of the primary's addresses. `why` is for the end of them.
    fn open_link(&mut self, net: &mut Net<Client>, why: io::Error) {
        let (Some(to), Some(link)) = (&self.cfg.replicaof, &mut self.repl.link) else { return };
        let Some(address) = link.addresses.pop_front() else {
            let (now, mut out) = (self.now_u64(), Vec::new());
            let Some(link) = &mut self.repl.link else { return };
            link.machine.connect_failed(&why.to_string(), now, &mut out);
            return self.act(net, None, &mut out);
        };
        let client = Client {
            kind: Kind::Primary,
            peer: format!("{}:{}", to.host, to.port),
            authenticated: true,
            created_ms: self.clock.now_ms(),
            ..Client::default()
        };
        let source = self.cfg.bind_source_addr.to_str().and_then(|addr| addr.parse().ok());
        let result = net.connect(address, client, source);
        let limit = self.output_limit(0, true);
        let Some(link) = &mut self.repl.link else { return };
        match result {
            Ok(id) => {
                link.conn = Some(id);
                // A transaction waits here until it is whole, and acknowledgements may be many: what
                // bounds clients, and who has shown no password, is not for a primary.
                if let Some(conn) = net.conn_mut(id) {
                    (conn.query_limit, conn.output_limit) = (usize::MAX, limit);
                }
            }
            Err(error) => self.open_link(net, error),
        }
    }

    /// Whether the data are to be loaded anew: [`Server::load_what_is_due`]. Not while a shutdown waits,
    /// which is about to save them.
    pub fn load_is_due(&self) -> bool {
        let due = |link: &Link| link.received.is_some() || link.back_to.is_some();
        let may = self.loading.is_none() && self.shutdown.is_none();
        may && self.repl.link.as_ref().is_some_and(due)
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
                let (mut keys, mut starts, mut next) = ([0; AHEAD], [rest; AHEAD], rest);
                while ahead < AHEAD
                    && let Ok(Some(len)) = frame.parse(next, &limits)
                {
                    keys[ahead] = frame.args(next).get(1).map_or(0, hash);
                    starts[ahead] = next;
                    next = &next[len..];
                    ahead += 1;
                }
                if let Some(db) = self.ks.dbs.get(db) {
                    ahead::fetch(db, &keys[..ahead], |i, of| {
                        frame.parse(starts[i], &limits).ok()??;
                        let args = frame.args(starts[i]);
                        args.get(element_at(of, args.len())).map(hash)
                    });
                }
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
        self.log.set_current_db(db as u32);
        if let Some(link) = &mut self.repl.link {
            link.db = db;
        }
    }

    /// Ends the waits of all clients, as the server is no longer what they waited on. They are to look for
    /// the primary anew.
    fn unblock_all(&mut self, net: &mut Net<Client>, why: &'static str) {
        let blocked: Vec<ConnId> =
            net.iter().filter(|c| c.session.blocked.is_some()).map(|c| c.id).collect();
        for id in blocked {
            if self.release(net, id, Some(Error::new(why)))
                && let Some(conn) = net.conn_mut(id)
            {
                conn.close_after_reply = true;
            }
        }
    }
}
