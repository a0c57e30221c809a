//! The primary's side: what it knows of each replica, and what it answers them.
//!
//! ```text
//!                PSYNC: the log continues ─────────────────────────────┐
//!                │                                                     ▼
//!   Handshake ───┤                                                   Online ◀─┐ first ACK
//!                │ PSYNC: it does not, SYNC                            ▲ │    │ (child's
//!                ▼                                                     │ └────┘ stream)
//!         WaitBgsaveStart ──▶ WaitBgsaveEnd ──▶ SendBulk ──────────────┘
//!          a snapshot is       +FULLRESYNC      the RDB is sent
//!          looked for          was sent
//! ```
//!
//! Connections are known by a number of the caller's. The machine never touches the log: it is shown
//! a [`LogView`] where it must know what the log has, and says from where a replica is to be fed.
//! Where a replica stands in the log is the feeder's to know; here only counts what the replica
//! itself acknowledged.
//!
//! How replicas without a beginning get their snapshot is in [`supply`].

pub mod supply;

use std::fmt::Write;
use varve_engine::num::parse_int;
use varve_engine::{Args, Error};
use varve_persistence::offset::{Histories, HistoryId, Offset};

use crate::file::Part;
use crate::wire::{self, PING, printable};
use supply::{Source, Target};

/// A connection, by the caller's number.
pub type ConnId = u64;

/// For a value that is neither 0 nor 1.
const NO_FLAG: Error = Error::new("ERR value is out of range, value must between 0 and 1");

/// The directives that the primary's side obeys. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `repl-diskless-sync`
    pub diskless: bool,
    /// `repl-diskless-sync-delay`
    pub diskless_delay_ms: u64,
    /// `repl-diskless-sync-max-replicas`, 0 for no bound
    pub diskless_max_replicas: usize,
    /// `repl-timeout`
    pub timeout_ms: u64,
    /// `repl-ping-replica-period`
    pub ping_period_ms: u64,
    /// `repl-backlog-ttl`, 0 for never
    pub backlog_ttl_ms: u64,
    /// `min-replicas-to-write`, 0 for no condition
    pub min_replicas: usize,
    /// `min-replicas-max-lag`, 0 for no condition
    pub max_lag_ms: u64,
    /// `repl-compression lz4`
    pub lz4: bool,
}

impl Default for Config {
    /// The defaults of `redis.conf`.
    fn default() -> Config {
        Config {
            diskless: true,
            diskless_delay_ms: 5000,
            diskless_max_replicas: 0,
            timeout_ms: 60_000,
            ping_period_ms: 10_000,
            backlog_ttl_ms: 3_600_000,
            min_replicas: 0,
            max_lag_ms: 10_000,
            lz4: false,
        }
    }
}

/// What the log can give.
#[derive(Clone, Copy, Debug)]
pub struct LogView {
    pub histories: Histories,
    /// The first byte that can still be had is the one behind this place.
    pub first: Offset,
    /// The log's end.
    pub end: Offset,
    /// Whether this node may feed others now: always on a primary, on a replica while its own link
    /// is up.
    pub linked: bool,
    /// Whether this node has no primary of its own, so that nothing comes to its log but from here.
    pub top: bool,
}

/// The answer to `PSYNC` or `SYNC`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Send `reply`, then the log from `from` on.
    Continue { reply: Vec<u8>, from: Offset },
    /// The replica waits for a snapshot: see [`Primary::supply`]. `reason` is for the log file.
    Full { reason: String },
    /// Send `reply`: the replica is to go back to `to`, which both have, and to ask from there on
    /// the same connection or another. It is no replica yet. `reason` is for the log file.
    Rollback { reply: Vec<u8>, to: Offset, reason: String },
    /// Send this error; nothing else changes.
    Refuse(Error),
    /// The connection is a replica already: no reply.
    Ignore,
}

/// The answer to `REPLCONF`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replconf {
    /// Reply `+OK`.
    Ok,
    /// No reply.
    Silent,
    /// No reply. `start` tells that this ACK ended a streamed full sync: feed the log from there on.
    Ack { start: Option<Offset> },
    /// No reply; a replica answers with an ACK on the link to its own primary.
    GetAck,
}

/// The state of a replica, as the diagram above has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Handshake,
    WaitBgsaveStart {
        since_ms: u64,
    },
    WaitBgsaveEnd {
        from: Offset,
        source: Source,
    },
    SendBulk {
        from: Offset,
        source: Source,
    },
    /// `await_ack` holds the place to feed from when the first ACK comes.
    Online {
        await_ack: Option<Offset>,
    },
    /// An RDB-only replica was given all of its RDB.
    Transmitted,
}

/// One connection that spoke `REPLCONF`, `PSYNC` or `SYNC`.
#[derive(Clone, Debug)]
struct Peer {
    conn: ConnId,
    state: State,
    port: i32,
    announced_ip: Option<String>,
    eof: bool,
    psync2: bool,
    /// Is a Varve: understands `-ROLLBACK`, former names, and parts of a file.
    varve: bool,
    /// Reads compressed frames.
    lz4: bool,
    /// The part of a file that it holds, until it was told how its full sync goes.
    part: Option<Part>,
    /// From which byte on it is sent its file.
    from: u64,
    /// The reply to its `PSYNC` was made.
    told: bool,
    /// Was told that all after the reply to `PSYNC` is compressed frames.
    compressed: bool,
    /// Came with `SYNC`: knows no offsets and never acknowledges.
    pre_psync: bool,
    rdb_only: bool,
    /// Whether its RDB is to hold the keys, and not only functions, of which there are none here.
    wants_keys: bool,
    version: Option<String>,
    /// Where the log ended when it asked for everything.
    asked_at: Offset,
    /// What it said that it holds.
    ack: Option<Offset>,
    /// What is on the replica's disk, if it told.
    fack: Option<Offset>,
    /// The replica loaded its streamed RDB before the caller knew that all of it was sent.
    early_ack: bool,
    heard_ms: u64,
    progress_ms: u64,
}

/// A replica as `INFO replication` and `ROLE` show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed<'a> {
    pub conn: ConnId,
    /// What the replica announced; otherwise its connection's own address is shown.
    pub announced_ip: Option<&'a str>,
    pub port: i32,
    /// `wait_bgsave`, `send_bulk`, `online` or `rdb_transmitted`
    pub state: &'static str,
    pub online: bool,
    pub offset: Offset,
    /// Seconds since the last ACK; 0 before it is online.
    pub lag_s: u64,
    pub version: Option<&'a str>,
}

/// What time brought about. See [`Primary::tick`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Append these bytes to the log.
    Append(&'static [u8]),
    /// Send a bare newline, which is no part of the stream: the replica waits for its RDB.
    Newline(ConnId),
    /// Close the connection, which is forgotten here already.
    Drop { conn: ConnId, why: &'static str },
    /// Nobody followed for `repl-backlog-ttl`: what is kept for replicas alone can go.
    BacklogExpired,
}

/// All replicas of a node.
#[derive(Debug)]
pub struct Primary {
    config: Config,
    /// This node, as its own link to a primary names it.
    node: Option<HistoryId>,
    peers: Vec<Peer>,
    ping_ms: u64,
    newline_ms: u64,
    /// Since when there is no replica.
    lonely_since_ms: Option<u64>,
    /// Whether [`Output::BacklogExpired`] was said since the last replica left.
    expiry_told: bool,
    full: u64,
    resumed: u64,
    partial_ok: u64,
    partial_err: u64,
    rollbacks: u64,
}

impl Primary {
    pub fn new(config: Config, now_ms: u64) -> Primary {
        Primary {
            config,
            node: None,
            peers: vec![],
            ping_ms: now_ms,
            newline_ms: now_ms,
            lonely_since_ms: Some(now_ms),
            expiry_told: false,
            full: 0,
            resumed: 0,
            partial_ok: 0,
            partial_err: 0,
            rollbacks: 0,
        }
    }

    /// Tells which node this is ([`crate::replica::Config::node`]), so that it refuses to be its own
    /// primary.
    pub fn set_node(&mut self, node: HistoryId) {
        self.node = Some(node);
    }

    pub fn set_config(&mut self, config: Config) {
        self.config = config;
    }

    /// `sync_full`, `sync_partial_ok` and `sync_partial_err` of `INFO stats`.
    pub fn sync_counts(&self) -> (u64, u64, u64) {
        (self.full, self.partial_ok, self.partial_err)
    }

    /// How often a full sync went on where its link had broken. It counted as full when it began, and
    /// counts here only after that.
    pub fn resumed(&self) -> u64 {
        self.resumed
    }

    /// How often a replica was asked to roll back.
    pub fn rollbacks(&self) -> u64 {
        self.rollbacks
    }

    /// How many connections are known here: replicas, and those that may become some.
    pub fn connections(&self) -> usize {
        self.peers.len()
    }

    /// `REPLCONF` from any connection; `args` begins with the command's name. Only replicas
    /// are listened to for ACK.
    pub fn replconf(
        &mut self,
        conn: ConnId,
        args: &Args<'_>,
        now_ms: u64,
    ) -> Result<Replconf, Error> {
        if args.len().is_multiple_of(2) {
            return Err(Error::SYNTAX);
        }
        for i in (1..args.len()).step_by(2) {
            let (option, value) = (&args[i], &args[i + 1]);
            match option.to_ascii_lowercase().as_slice() {
                b"listening-port" => {
                    // Any number, as Redis takes it: it is only shown.
                    self.peer(conn, now_ms).port = parse_int(value).ok_or(Error::NOT_INT)? as i32;
                }
                b"ip-address" => {
                    // As long as Redis allows: an address or a host name of 255 bytes.
                    if value.len() > 255 {
                        return Err(Error::err(format_args!(
                            "REPLCONF ip-address provided by replica instance is too long: {} bytes",
                            value.len()
                        )));
                    }
                    self.peer(conn, now_ms).announced_ip =
                        (!value.is_empty()).then(|| printable(value));
                }
                b"capa" => {
                    let itself = value.strip_prefix(wire::CAPA_NODE).and_then(HistoryId::parse);
                    if itself.is_some() && itself == self.node {
                        return Err(Error::err(wire::ITSELF));
                    }
                    let peer = self.peer(conn, now_ms);
                    peer.eof |= value.eq_ignore_ascii_case(b"eof");
                    peer.psync2 |= value.eq_ignore_ascii_case(b"psync2");
                    peer.varve |= value.eq_ignore_ascii_case(wire::CAPA_VARVE);
                    peer.lz4 |= value.eq_ignore_ascii_case(wire::CAPA_LZ4);
                    peer.part =
                        value.strip_prefix(wire::CAPA_RESUME).and_then(Part::parse).or(peer.part);
                }
                b"rdb-only" => {
                    self.peer(conn, now_ms).rdb_only =
                        match parse_int(value).ok_or(Error::NOT_INT)? {
                            0 => false,
                            1 => true,
                            _ => return Err(NO_FLAG),
                        };
                }
                b"rdb-filter-only" => {
                    let mut words = value.split(|&b| b == b' ').filter(|word| !word.is_empty());
                    if let Some(word) = words.find(|word| !word.eq_ignore_ascii_case(b"functions"))
                    {
                        return Err(Error::err(format_args!(
                            "Unsupported rdb-filter-only option: {}",
                            printable(word)
                        )));
                    }
                    self.peer(conn, now_ms).wants_keys = false;
                }
                b"version" => {
                    self.peer(conn, now_ms).version = Some(printable(value));
                }
                b"ack" => return Ok(self.acknowledge(conn, args, i, now_ms)),
                b"getack" => return Ok(Replconf::GetAck),
                _ => {
                    return Err(Error::err(format_args!(
                        "Unrecognized REPLCONF option: {}",
                        printable(option)
                    )));
                }
            }
        }
        Ok(Replconf::Ok)
    }

    /// `ACK offset [FACK offset]` at `args[i]`.
    fn acknowledge(&mut self, conn: ConnId, args: &Args<'_>, i: usize, now_ms: u64) -> Replconf {
        let offset = |at: usize| args.get(at).and_then(wire::count).map(Offset);
        let Some(peer) = self.replica_mut(conn) else { return Replconf::Silent };
        let Some(ack) = offset(i + 1) else { return Replconf::Silent };
        peer.heard_ms = now_ms;
        peer.ack = peer.ack.max(Some(ack));
        if args.get(i + 2).is_some_and(|option| option.eq_ignore_ascii_case(b"fack")) {
            peer.fack = peer.fack.max(offset(i + 3));
        }
        match &mut peer.state {
            State::Online { await_ack } => Replconf::Ack { start: await_ack.take() },
            State::SendBulk { .. } => {
                peer.early_ack = true;
                Replconf::Ack { start: None }
            }
            _ => Replconf::Silent,
        }
    }

    /// A bare newline from a replica: it is alive, though busy.
    pub fn newline(&mut self, conn: ConnId, now_ms: u64) {
        if let Some(peer) = self.replica_mut(conn) {
            peer.heard_ms = now_ms;
        }
    }

    /// `PSYNC id next`, with the number of the next byte as it came.
    pub fn psync(
        &mut self,
        conn: ConnId,
        id: &[u8],
        next: i64,
        log: &LogView,
        now_ms: u64,
    ) -> Decision {
        if let Some(decision) = self.not_now(conn, log) {
            return decision;
        }
        let reason = match continues(id, next, log) {
            Ok(from) => {
                self.partial_ok += 1;
                let lz4 = self.config.lz4;
                let peer = self.enter(conn, State::Online { await_ack: None }, now_ms);
                peer.ack = Some(from);
                let reply = match peer.psync2 {
                    true => {
                        let mut reply = format!("+CONTINUE {}", log.histories.current);
                        for (id, upto) in log.histories.former().filter(|_| peer.varve) {
                            let _ = write!(reply, " {}{id}:{upto}", wire::FORMER);
                        }
                        reply.push_str(&peer.agree(lz4));
                        reply.push_str("\r\n");
                        reply.into_bytes()
                    }
                    false => b"+CONTINUE\r\n".to_vec(),
                };
                return Decision::Continue { reply, from };
            }
            Err(Denied::Ahead { to, waits: true, .. }) if to >= log.first => {
                return Decision::Refuse(Error::new(
                    "NOMASTERLINK Can't SYNC yet, our primary has still to send us what you hold",
                ));
            }
            Err(Denied::Ahead { to, reason, .. })
                if to >= log.first && self.peer(conn, now_ms).varve =>
            {
                self.rollbacks += 1;
                let history = printable(id);
                let reply = format!("-ROLLBACK {history} {to}\r\n").into_bytes();
                return Decision::Rollback { reply, to, reason };
            }
            Err(Denied::Ahead { reason, .. } | Denied::Gone { reason }) => reason,
        };
        if id != b"?" {
            self.partial_err += 1;
        }
        let peer = self.enter(conn, State::WaitBgsaveStart { since_ms: now_ms }, now_ms);
        peer.asked_at = log.end;
        // Whether it begins anew is known once there is a file.
        self.full += u64::from(peer.part.is_none());
        Decision::Full { reason }
    }

    /// `SYNC`: the replica knows neither histories nor offsets.
    pub fn sync(&mut self, conn: ConnId, log: &LogView, now_ms: u64) -> Decision {
        if let Some(decision) = self.not_now(conn, log) {
            return decision;
        }
        self.full += 1;
        let peer = self.enter(conn, State::WaitBgsaveStart { since_ms: now_ms }, now_ms);
        (peer.pre_psync, peer.asked_at, peer.part) = (true, log.end, None);
        Decision::Full { reason: "it asked with SYNC, which knows no partial resync".into() }
    }

    fn not_now(&self, conn: ConnId, log: &LogView) -> Option<Decision> {
        if self.replica(conn).is_some() {
            return Some(Decision::Ignore);
        }
        (!log.linked).then_some(Decision::Refuse(Error::new(
            "NOMASTERLINK Can't SYNC while not connected with my master",
        )))
    }

    /// The connection is gone. Returns whether it was a replica's.
    pub fn closed(&mut self, conn: ConnId, now_ms: u64) -> bool {
        let was_replica = self.replica(conn).is_some();
        self.peers.retain(|peer| peer.conn != conn);
        self.note_lonely(now_ms);
        was_replica
    }

    /// Forgets all replicas and returns them: their connections are to be closed. Connections that
    /// are still in the handshake stay.
    pub fn drop_all(&mut self, now_ms: u64) -> Vec<ConnId> {
        let gone = self.replicas().map(|peer| peer.conn).collect();
        self.peers.retain(|peer| peer.state == State::Handshake);
        self.note_lonely(now_ms);
        gone
    }

    /// How many replicas have everything up to `offset`: for `WAIT`. Who was sent its snapshot and has not
    /// acknowledged anything since may still be loading it.
    pub fn acked(&self, offset: Offset) -> usize {
        self.online().filter(|peer| peer.ack.is_some_and(|ack| ack >= offset)).count()
    }

    /// How many replicas have everything up to `offset` on disk: for `WAITAOF`.
    pub fn acked_on_disk(&self, offset: Offset) -> usize {
        self.online().filter(|peer| peer.fack.is_some_and(|fack| fack >= offset)).count()
    }

    /// How many replicas are online and were heard within `min-replicas-max-lag`:
    /// `min_slaves_good_slaves`.
    pub fn good(&self, now_ms: u64) -> usize {
        let max_lag_ms = self.config.max_lag_ms;
        self.online().filter(|peer| now_ms.saturating_sub(peer.heard_ms) <= max_lag_ms).count()
    }

    /// Whether enough replicas are good for a write to be taken (`NOREPLICAS` otherwise).
    pub fn may_write(&self, now_ms: u64) -> bool {
        let conditions = self.config.min_replicas > 0 && self.config.max_lag_ms > 0;
        !conditions || self.good(now_ms) >= self.config.min_replicas
    }

    /// Whether all that the connection is sent from now on is compressed frames.
    pub fn is_compressed(&self, conn: ConnId) -> bool {
        self.replica(conn).is_some_and(|peer| peer.compressed)
    }

    pub fn state(&self, conn: ConnId) -> Option<State> {
        Some(self.peers.iter().find(|peer| peer.conn == conn)?.state)
    }

    /// The number of replicas: `connected_slaves`.
    pub fn len(&self) -> usize {
        self.replicas().count()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All replicas in the order in which they came.
    pub fn listed(&self, now_ms: u64) -> impl Iterator<Item = Listed<'_>> {
        self.replicas().map(move |peer| {
            let online = matches!(peer.state, State::Online { .. });
            Listed {
                conn: peer.conn,
                announced_ip: peer.announced_ip.as_deref(),
                port: peer.port,
                state: peer.state_name(),
                online,
                offset: peer.ack.unwrap_or(Offset::ZERO),
                lag_s: if online { now_ms.saturating_sub(peer.heard_ms) / 1000 } else { 0 },
                version: peer.version.as_deref(),
            }
        })
    }

    /// Time passes; to be called several times a second. `is_top` is whether this node has no primary
    /// of its own: only the top one may add to the stream.
    pub fn tick(&mut self, now_ms: u64, is_top: bool, out: &mut Vec<Output>) {
        if now_ms.saturating_sub(self.ping_ms) >= self.config.ping_period_ms {
            self.ping_ms = now_ms;
            if is_top && !self.is_empty() {
                out.push(Output::Append(PING));
            }
        }
        let timeout_ms = self.config.timeout_ms;
        self.peers.retain(|peer| {
            let why = peer.timed_out(now_ms, timeout_ms);
            out.extend(why.map(|why| Output::Drop { conn: peer.conn, why }));
            why.is_none()
        });
        if now_ms.saturating_sub(self.newline_ms) >= 1000 {
            self.newline_ms = now_ms;
            let waiting = self.replicas().filter(|peer| peer.wants_newline());
            out.extend(waiting.map(|peer| Output::Newline(peer.conn)));
        }
        self.note_lonely(now_ms);
        if let Some(since_ms) = self.lonely_since_ms
            && is_top
            && self.config.backlog_ttl_ms > 0
            && !self.expiry_told
            && now_ms.saturating_sub(since_ms) >= self.config.backlog_ttl_ms
        {
            self.expiry_told = true;
            out.push(Output::BacklogExpired);
        }
    }

    fn note_lonely(&mut self, now_ms: u64) {
        self.lonely_since_ms = match self.is_empty() {
            true => self.lonely_since_ms.or(Some(now_ms)),
            false => None,
        };
    }

    /// The entry of `conn`, made if there is none.
    fn peer(&mut self, conn: ConnId, now_ms: u64) -> &mut Peer {
        let at = match self.peers.iter().position(|peer| peer.conn == conn) {
            Some(at) => at,
            None => {
                self.peers.push(Peer::new(conn, now_ms));
                self.peers.len() - 1
            }
        };
        &mut self.peers[at]
    }

    fn enter(&mut self, conn: ConnId, state: State, now_ms: u64) -> &mut Peer {
        self.lonely_since_ms = None;
        self.expiry_told = false;
        let peer = self.peer(conn, now_ms);
        peer.state = state;
        peer.heard_ms = now_ms;
        peer
    }

    fn replicas(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| peer.state != State::Handshake)
    }

    fn online(&self) -> impl Iterator<Item = &Peer> {
        self.peers.iter().filter(|peer| matches!(peer.state, State::Online { .. }))
    }

    fn replica(&self, conn: ConnId) -> Option<&Peer> {
        self.replicas().find(|peer| peer.conn == conn)
    }

    fn replica_mut(&mut self, conn: ConnId) -> Option<&mut Peer> {
        self.peers.iter_mut().find(|peer| peer.conn == conn && peer.state != State::Handshake)
    }
}

impl Peer {
    fn new(conn: ConnId, now_ms: u64) -> Peer {
        Peer {
            conn,
            state: State::Handshake,
            port: 0,
            announced_ip: None,
            eof: false,
            psync2: false,
            varve: false,
            lz4: false,
            part: None,
            from: 0,
            told: false,
            compressed: false,
            pre_psync: false,
            rdb_only: false,
            wants_keys: true,
            version: None,
            asked_at: Offset::ZERO,
            ack: None,
            fack: None,
            early_ack: false,
            heard_ms: now_ms,
            progress_ms: now_ms,
        }
    }

    /// Decides whether the link is compressed: how the reply to `PSYNC` ends. `lz4` is whether this
    /// side wants that.
    fn agree(&mut self, lz4: bool) -> String {
        self.compressed = lz4 && self.lz4 && !self.rdb_only;
        if self.compressed { format!(" {}", wire::LZ4) } else { String::new() }
    }

    fn state_name(&self) -> &'static str {
        match self.state {
            State::Handshake => "handshake",
            State::WaitBgsaveStart { .. } | State::WaitBgsaveEnd { .. } => "wait_bgsave",
            // Redis counts a replica that a child writes to as one that waits for the child.
            State::SendBulk { source: Source::Child(Target::Socket), .. } => "wait_bgsave",
            State::SendBulk { .. } => "send_bulk",
            State::Online { .. } => "online",
            State::Transmitted => "rdb_transmitted",
        }
    }

    fn timed_out(&self, now_ms: u64, timeout_ms: u64) -> Option<&'static str> {
        let since = |ms: u64| now_ms.saturating_sub(ms) > timeout_ms;
        match self.state {
            State::Online { .. } if !self.pre_psync && since(self.heard_ms) => {
                Some("it acknowledged nothing for repl-timeout")
            }
            State::SendBulk { .. } | State::Transmitted if since(self.progress_ms) => {
                Some("it took nothing of its RDB for repl-timeout")
            }
            _ => None,
        }
    }

    fn wants_newline(&self) -> bool {
        match self.state {
            State::WaitBgsaveStart { .. } => true,
            // A stream may begin any moment, and a newline inside it would be data.
            State::WaitBgsaveEnd { source, .. } => source != Source::Child(Target::Socket),
            _ => false,
        }
    }
}

/// Why a replica cannot be fed from where it asked.
enum Denied {
    /// It holds more than what it shares with this node's history, which ends at `to`. `waits` says
    /// that the rest may still come to this node as well.
    Ahead { to: Offset, reason: String, waits: bool },
    /// What it asked for is not here.
    Gone { reason: String },
}

/// Where a replica that asks for byte number `next` of `id` is to be fed from, or why it cannot be.
fn continues(id: &[u8], next: i64, log: &LogView) -> Result<Offset, Denied> {
    let gone = |reason: String| Err(Denied::Gone { reason });
    if id == b"?" {
        return gone("it has nothing to continue from".into());
    }
    let Some(history) = HistoryId::parse(id) else {
        return gone(format!("'{}' is no history", printable(id)));
    };
    let Some(offset) = Offset::from_wire_next(next) else {
        return gone(format!("it asked for byte {next}, which no history has"));
    };
    let histories = &log.histories;
    if !histories.continues(history, offset) {
        let Some(shared) = histories.shared(history) else {
            let current = histories.current;
            return gone(format!("its history {history} is not ours, {current}"));
        };
        let reason = format!(
            "it holds {offset} bytes of {history}, of which only {shared} are in our history"
        );
        return Err(Denied::Ahead { to: shared.min(log.end), reason, waits: false });
    }
    if offset > log.end {
        let reason = format!("it is ahead: it holds {offset} bytes, and we only {}", log.end);
        // What our own primary has of this name reaches us too, in time.
        let waits = !log.top;
        return Err(Denied::Ahead { to: log.end, reason, waits });
    }
    if offset < log.first {
        return gone(format!("it asked from {offset}, and the log begins at {}", log.first));
    }
    Ok(offset)
}

#[cfg(test)]
mod tests;
