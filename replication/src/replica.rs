//! The replica's end of the link to its primary.
//!
//! ```text
//!              due                    Connected              +PONG, AUTH, REPLCONF…
//!   ┌─▶ Waiting ───▶ Connecting ─────────────▶ Handshake ◀──┐
//!   │                                              │  └─────┘
//!   │                         +FULLRESYNC, or SYNC │ +CONTINUE
//!   │                     Transfer ◀───────────────┼────────▶ Streaming
//!   │                        │                     │            ▲
//!   │                        └────▶ Loading ───────┼ loaded ────┘
//!   │                                              │ -ROLLBACK
//!   │                     Handshake ◀───────── RollingBack
//!   │                                 done, or not
//!   └── closed, timeout, garbage, refusal: from every state
//! ```
//!
//! A replica that holds more of a history than its primary (it was the primary itself, and another
//! was promoted with less) is told `-ROLLBACK`: it goes back to the last place that both have and
//! asks again from there. The primary may not be content with the place that it named itself, if it
//! went back meanwhile; but a rollback too many before a link comes about, or one that fails, makes
//! the replica ask for a full resync.
//!
//! The machine holds no bytes. The caller reads the socket into one buffer and hands in what was not
//! consumed yet; the machine says how many bytes it is done with, and names ranges of the buffer in
//! its outputs. While a data set loads it consumes nothing, and the caller stops reading: what the
//! primary sends meanwhile waits on the primary's side, in its log.
//!
//! On a compressed link ([`crate::compress`]) the buffer is the one that the frames are decoded into:
//! the machine stops behind the reply line, says [`Output::Compressed`], and from there on is handed
//! what the frames hold.
//!
//! When the link is lost in the middle of a file that the primary has named, the caller keeps what it has
//! of it ([`Output::RdbAbort`]), and the next handshake says how much that is ([`crate::file::Part`]). It
//! is thrown away when the primary does not go on with it, and when the caller's role changes.
//!
//! A link that asks the other side to take over ([`Config::failover`]) takes any error that ends a
//! handshake for a refusal ([`Output::FailoverRefused`]): writes wait for the answer, and who wants can
//! ask again. A link that breaks is no answer, and is made anew. If it broke when everything was said
//! but the answer, the other side may be a primary by now, and says so when it is asked again.
//!
//! The caller may hold the stream back ([`Replica::hold`]). The link lives on, and acknowledgements go on,
//! while what the primary sends waits in the buffer, in the sockets and in its log.
//!
//! The command stream leaves as whole units only (see [`crate::frame`]), so the place that is asked
//! for after a cut is always the end of the replica's log.

use std::collections::VecDeque;
use std::ops::Range;

use varve_persistence::offset::{HistoryId, Offset};

use crate::file::{FileId, Part};
use crate::frame::{Framer, Unit};
use crate::output::Level;
use crate::transfer::{Event, Transfer};
use crate::wire::{ProtocolError, command, printable};

/// A state of the data set: a history, and the bytes of it that are held.
pub type Place = (HistoryId, Offset);

/// How often the replica says what it holds, or that it is alive, in milliseconds.
const ACK_PERIOD_MS: u64 = 1000;

/// Where the primary is and how to talk to it. Times are in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub host: String,
    pub port: u16,
    /// `masteruser`; only used with a password.
    pub user: Option<Vec<u8>>,
    /// `masterauth`
    pub password: Option<Vec<u8>>,
    /// The port to announce: `replica-announce-port`, else the one that is listened on.
    pub announce_port: u16,
    /// `replica-announce-ip`
    pub announce_ip: Option<Vec<u8>>,
    /// `repl-timeout`
    pub timeout_ms: u64,
    /// The first pause after a failed attempt; it doubles with each further one.
    pub reconnect_ms: u64,
    /// The longest pause between attempts.
    pub reconnect_max_ms: u64,
    /// Ask the other side to take over as primary (`PSYNC … FAILOVER`).
    pub failover: bool,
    /// A name of this node that no other has, so that it notices if it follows itself: see
    /// [`crate::primary::Primary::set_node`].
    pub node: Option<HistoryId>,
    /// `repl-compression lz4`
    pub lz4: bool,
}

impl Config {
    /// The defaults of `redis.conf` for the primary at `host` and `port`.
    pub fn new(host: &str, port: u16, announce_port: u16) -> Config {
        Config {
            host: host.into(),
            port,
            user: None,
            password: None,
            announce_port,
            announce_ip: None,
            timeout_ms: 60_000,
            reconnect_ms: 1000,
            reconnect_max_ms: 30_000,
            failover: false,
            node: None,
            lz4: false,
        }
    }
}

/// What the caller has to do, in order. Ranges are of the buffer handed to [`Replica::bytes`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Open a connection and answer with [`Replica::connected`] or [`Replica::connect_failed`].
    Connect { host: String, port: u16 },
    /// Close the connection (or give up opening it) and forget what is buffered of it. No
    /// [`Replica::closed`] is expected.
    Disconnect,
    /// Send to the primary.
    Send(Vec<u8>),
    /// An RDB of `size` bytes (unknown for a stream) begins; it holds `place`. After a `SYNC` the
    /// primary tells no place: the caller begins a history of its own. If `from` is not 0, that many
    /// bytes were kept, and the rest follows.
    RdbBegin { size: Option<u64>, place: Option<Place>, from: u64 },
    /// The next bytes of the RDB.
    RdbBytes(Range<usize>),
    /// The RDB is whole: load it and answer with [`Replica::rdb_loaded`] or [`Replica::rdb_failed`].
    RdbEnd,
    /// The RDB that began will not come to its end; throw it away, or keep what there is of it for the
    /// next attempt. Who does not keep it says [`Replica::part_is_gone`].
    RdbAbort { keep: bool },
    /// The bytes of the connection that were not consumed yet, and all that follow, are compressed
    /// frames: decode them and hand in what they hold. [`Replica::damaged`] is for what cannot be
    /// decoded.
    Compressed,
    /// The primary goes on from our place, under this name.
    ///
    /// The primary says which names it had before: `former`, newest first, each with how far it holds.
    Continue { history: HistoryId, former: Vec<(HistoryId, Offset)> },
    /// The primary's log is ours up to `to` only: bring data set and log back to there and answer with
    /// [`Replica::rolled_back`] or [`Replica::rollback_failed`].
    Rollback { to: Offset },
    /// Whole units of the command stream: append them to the log as they are, and execute them.
    Stream(Range<usize>),
    /// The node that was asked to take over ([`Config::failover`]) is the primary now. The link goes
    /// on as one like any other.
    TookOver,
    /// That node will not. The link has ended.
    FailoverRefused { why: String },
    /// Streaming began.
    LinkUp,
    /// Streaming ended.
    LinkDown { why: String },
    /// A line for the log file.
    Log(Level, String),
}

/// What a reply is awaited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Ping,
    Auth,
    Port,
    Ip,
    Capa,
    Psync,
}

/// What of the stream is held back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hold {
    #[default]
    Nothing,
    /// The first unit that changes data, and all that follows it.
    Writes,
    All,
}

#[derive(Debug)]
enum State {
    Stopped,
    Waiting {
        until_ms: u64,
    },
    Connecting,
    Handshake(VecDeque<Step>),
    /// `file` is what the primary sends, from byte `from` on.
    Transfer {
        transfer: Transfer,
        place: Option<Place>,
        file: Option<FileId>,
        from: u64,
    },
    Loading {
        open: bool,
    },
    RollingBack {
        open: bool,
        to: Offset,
    },
    Streaming {
        since_ms: u64,
    },
}

/// What a node went back in its histories, for `INFO`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rollbacks {
    pub count: u64,
    /// How many bytes the last one took off.
    pub last_bytes: u64,
}

/// How far the RDB of a full sync came, for `INFO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    pub size: Option<u64>,
    pub received: u64,
    /// When the last byte came, in milliseconds.
    pub last_io_ms: u64,
}

/// The link of one replica.
#[derive(Debug)]
pub struct Replica {
    config: Config,
    place: Option<Place>,
    synced: Option<Offset>,
    /// The names that the history of the data set on its way had before.
    former: Vec<(HistoryId, Offset)>,
    state: State,
    framer: Framer,
    hold: Hold,
    /// The unit that the buffer begins with, which is held back.
    held: Option<Unit>,
    /// Whether this connection's primary was told that we read compressed frames.
    offered_lz4: bool,
    /// The reply that was read last is the last thing that is not compressed.
    frames_begin: bool,
    /// Whether the primary knows offsets; false after a `SYNC`.
    acks: bool,
    attempts: u32,
    /// A link broke after the other side was asked to take over and before it answered.
    unanswered: bool,
    /// How often the primary asked for a rollback since the link last was up.
    rollbacks_asked: u32,
    /// What the caller keeps of a file whose link broke.
    part: Option<Part>,
    /// Why the next `PSYNC` asks for everything, although we have a place.
    all: Option<String>,
    rollbacks: Rollbacks,
    heard_ms: u64,
    sent_ms: u64,
    down_since_ms: u64,
}

impl Replica {
    /// A link that is to be opened at the next [`Replica::tick`]. `place` is what the data set holds,
    /// `None` if that is nothing a primary could know.
    pub fn new(config: Config, place: Option<Place>, now_ms: u64) -> Replica {
        Replica {
            config,
            place,
            synced: None,
            former: Vec::new(),
            state: State::Waiting { until_ms: now_ms },
            framer: Framer::default(),
            hold: Hold::Nothing,
            held: None,
            offered_lz4: false,
            frames_begin: false,
            acks: true,
            attempts: 0,
            unanswered: false,
            rollbacks_asked: 0,
            part: None,
            all: None,
            rollbacks: Rollbacks::default(),
            heard_ms: now_ms,
            sent_ms: now_ms,
            down_since_ms: now_ms,
        }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the data set holds: the place that the next `PSYNC` asks to go on from.
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// The names, newest first, that the history of the data set which the primary sends had before,
    /// each with how far it holds.
    pub fn take_former(&mut self) -> Vec<(HistoryId, Offset)> {
        std::mem::take(&mut self.former)
    }

    /// Sets the place when something else than the link changed it: the data set was emptied for a
    /// load that then failed, or the node took a new name for its history.
    pub fn set_place(&mut self, place: Option<Place>) {
        self.place = place;
    }

    /// Tells how far the log is on disk, for `REPLCONF ACK … FACK`; `None` without a log on disk.
    pub fn set_synced(&mut self, synced: Option<Offset>) {
        self.synced = synced;
    }

    /// Whether the stream of the primary flows: `master_link_status`.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Streaming { .. })
    }

    /// Whether the other side was asked to take over, and may have done so although it has not answered.
    pub fn has_asked_to_take_over(&self) -> bool {
        self.unanswered || self.awaits_take_over()
    }

    fn awaits_take_over(&self) -> bool {
        let State::Handshake(steps) = &self.state else { return false };
        self.config.failover && steps.front() == Some(&Step::Psync)
    }

    /// Whether a full sync runs: `master_sync_in_progress`.
    pub fn is_syncing(&self) -> bool {
        matches!(self.state, State::Transfer { .. } | State::Loading { .. })
    }

    /// The word that `ROLE` has for the link's state.
    pub fn state_name(&self) -> &'static str {
        match self.state {
            State::Stopped => "none",
            State::Waiting { .. } => "connect",
            State::Connecting => "connecting",
            State::Handshake(_) => "handshake",
            State::Transfer { .. } | State::Loading { .. } | State::RollingBack { .. } => "sync",
            State::Streaming { .. } => "connected",
        }
    }

    /// What was rolled back over this link.
    pub fn rollbacks(&self) -> Rollbacks {
        self.rollbacks
    }

    /// When the primary was last heard, in milliseconds.
    pub fn heard_ms(&self) -> u64 {
        self.heard_ms
    }

    /// Since when the link is down, in milliseconds; `None` while it is up.
    pub fn down_since_ms(&self) -> Option<u64> {
        (!self.is_up()).then_some(self.down_since_ms)
    }

    /// How far the running transfer came.
    pub fn progress(&self) -> Option<Progress> {
        match &self.state {
            State::Transfer { transfer, file, from, .. } if transfer.begun() => Some(Progress {
                size: file.map(|file| file.size).or(transfer.size()),
                received: from + transfer.received(),
                last_io_ms: self.heard_ms,
            }),
            _ => None,
        }
    }

    /// Holds the stream back, or lets it go on with the next [`Replica::bytes`].
    pub fn hold(&mut self, hold: Hold) {
        self.hold = hold;
    }

    /// Whether [`Replica::bytes`] consumes nothing because the stream is held back.
    pub fn is_holding(&self) -> bool {
        self.is_up()
            && match self.hold {
                Hold::Nothing => false,
                Hold::Writes => self.held.is_some(),
                Hold::All => true,
            }
    }

    /// How many bytes the buffer must hold before [`Replica::bytes`] can go on, 0 if it would consume
    /// nothing now: stop reading then.
    pub fn wanted(&self) -> usize {
        match self.state {
            State::Handshake(_) | State::Transfer { .. } => 1,
            State::Streaming { .. } => self.framer.wanted(),
            _ => 0,
        }
    }

    /// The connection that [`Output::Connect`] asked for is open.
    pub fn connected(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        if !matches!(self.state, State::Connecting) {
            return;
        }
        self.heard_ms = now_ms;
        self.state = State::Handshake(VecDeque::from([Step::Ping]));
        log(out, Level::Notice, "Connected to the primary, the handshake begins".into());
        self.send(command(&[b"PING"]), now_ms, out);
    }

    /// The connection that [`Output::Connect`] asked for could not be opened.
    pub fn connect_failed(&mut self, why: &str, now_ms: u64, out: &mut Vec<Output>) {
        if matches!(self.state, State::Connecting) {
            let why = format!("Cannot connect to the primary: {why}");
            self.lose(why, false, now_ms, out);
        }
    }

    /// The connection was closed by the other side or failed. What was buffered of it is lost: whole
    /// units are among it only if they were held back, and are asked for again.
    pub fn closed(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        match &mut self.state {
            State::Stopped | State::Waiting { .. } => {}
            // The RDB is all here, so the load goes on; the missing stream is asked for after it. The
            // place to go back to is known as well.
            State::Loading { open } | State::RollingBack { open, .. } => *open = false,
            _ => self.lose("Connection with the primary lost".into(), false, now_ms, out),
        }
    }

    /// Takes in what the primary sent: `buf` is all that was not consumed yet, from the first byte
    /// on. Returns how many bytes are done with. After a [`Output::Disconnect`] the rest is void.
    pub fn bytes(&mut self, buf: &[u8], now_ms: u64, out: &mut Vec<Output>) -> usize {
        if !buf.is_empty() && self.wanted() > 0 {
            self.heard_ms = now_ms;
        }
        let mut at = 0;
        loop {
            let taken = match &self.state {
                State::Handshake(_) => self.reply(&buf[at..], now_ms, out),
                State::Transfer { .. } => self.rdb(&buf[at..], at, now_ms, out),
                State::Streaming { .. } => self.stream(buf, at, now_ms, out),
                State::Stopped
                | State::Waiting { .. }
                | State::Connecting
                | State::Loading { .. }
                | State::RollingBack { .. } => Ok(None),
            };
            match taken {
                Ok(Some(taken)) => at += taken,
                Ok(None) => return at,
                Err(error) => {
                    self.forget_part(out);
                    self.damaged(error, now_ms, out);
                    return at;
                }
            }
            if std::mem::take(&mut self.frames_begin) {
                return at;
            }
        }
    }

    /// Bytes came that are not handed in yet: over a compressed link they may be no whole frame, and the
    /// stream may be held back.
    pub fn heard(&mut self, now_ms: u64) {
        if self.wanted() > 0 {
            self.heard_ms = now_ms;
        }
    }

    /// The primary sent what its protocol has not: the connection ends, and a later one asks for the
    /// rest.
    pub fn damaged(&mut self, error: ProtocolError, now_ms: u64, out: &mut Vec<Output>) {
        self.lose(format!("Protocol error from the primary: {error}"), true, now_ms, out);
    }

    /// Time passes. To be called several times a second, and also from inside a long load.
    pub fn tick(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        let silent = now_ms.saturating_sub(self.heard_ms) > self.config.timeout_ms;
        match self.state {
            State::Stopped => return,
            State::Waiting { until_ms } => {
                if now_ms >= until_ms {
                    self.connect(now_ms, out);
                }
                return;
            }
            // Nothing is read meanwhile, so silence means nothing.
            State::Loading { .. } | State::RollingBack { .. } => {}
            State::Connecting | State::Handshake(_) if silent => {
                return self.lose("Timeout connecting to the primary".into(), true, now_ms, out);
            }
            State::Transfer { .. } if silent => {
                let why = "Timeout receiving the RDB from the primary; if this goes on, \
                           raise repl-timeout";
                return self.lose(why.into(), true, now_ms, out);
            }
            State::Streaming { .. } if silent => {
                let why = "Primary timeout: neither data nor PING came";
                return self.lose(why.into(), true, now_ms, out);
            }
            _ => {}
        }
        if now_ms.saturating_sub(self.sent_ms) < ACK_PERIOD_MS {
            return;
        }
        match self.state {
            State::Streaming { .. } => self.ack(now_ms, out),
            State::Transfer { .. } | State::Loading { open: true } => {
                self.send(b"\n".to_vec(), now_ms, out)
            }
            _ => {}
        }
    }

    /// The RDB was loaded, and the data set is now at `place`.
    pub fn rdb_loaded(&mut self, place: Place, now_ms: u64, out: &mut Vec<Output>) {
        let State::Loading { open } = self.state else { return };
        self.place = Some(place);
        self.all = None;
        log(out, Level::Notice, "Full sync with the primary: finished with success".into());
        if open {
            self.heard_ms = now_ms;
            self.up(now_ms, out);
        } else {
            log(
                out,
                Level::Notice,
                "The connection was lost meanwhile: asking for the rest".into(),
            );
            self.attempts = 0;
            self.state = State::Waiting { until_ms: now_ms };
        }
    }

    /// The RDB could not be stored, read or loaded. `kept` tells whether the data set is still what
    /// it was before; otherwise the next attempt asks for everything.
    pub fn rdb_failed(&mut self, why: &str, kept: bool, now_ms: u64, out: &mut Vec<Output>) {
        self.forget_part(out);
        let open = match self.state {
            State::Loading { open } => open,
            State::Transfer { .. } => true,
            _ => return,
        };
        if !kept {
            self.place = None;
        }
        self.lose(format!("Full sync failed: {why}"), open, now_ms, out);
    }

    /// Data set and log were brought back to `place`, the one that [`Output::Rollback`] named or an
    /// earlier one of the same history: asks again from there.
    pub fn rolled_back(&mut self, place: Place, now_ms: u64, out: &mut Vec<Output>) {
        let State::RollingBack { open, .. } = self.state else { return };
        if let Some((_, old)) = self.place.replace(place) {
            self.rollbacks.count += 1;
            self.rollbacks.last_bytes = old.0.saturating_sub(place.1.0);
            let bytes = self.rollbacks.last_bytes;
            log(out, Level::Notice, format!("Rolled back to {}, by {bytes} bytes", place.1));
        }
        self.ask_again(open, now_ms, out);
    }

    /// What [`Output::Rollback`] asked for cannot be done: asks for everything. The place stays what
    /// it is; if the data set is none any more, [`Replica::set_place`] comes first.
    pub fn rollback_failed(&mut self, why: &str, now_ms: u64, out: &mut Vec<Output>) {
        let State::RollingBack { open, to } = self.state else { return };
        self.all = Some(format!("the rollback to {to} failed: {why}"));
        self.ask_again(open, now_ms, out);
    }

    fn ask_again(&mut self, open: bool, now_ms: u64, out: &mut Vec<Output>) {
        if open {
            self.heard_ms = now_ms;
            self.state = State::Handshake(VecDeque::from([Step::Psync]));
            self.psync(now_ms, out);
        } else {
            self.attempts = 0;
            self.state = State::Waiting { until_ms: now_ms };
        }
    }

    /// Follows another primary, or the same one anew; a running link is cut. A rollback that is under
    /// way is to be brought to its end all the same: only then is it known what to ask for.
    pub fn reconfigure(&mut self, config: Config, now_ms: u64, out: &mut Vec<Output>) {
        self.forget_part(out);
        self.config = config;
        self.attempts = 0;
        self.unanswered = false;
        self.rollbacks_asked = 0;
        self.all = None;
        if let State::RollingBack { open, .. } = &mut self.state {
            if std::mem::take(open) {
                out.push(Output::Disconnect);
            }
            return;
        }
        self.stop(now_ms, out);
        self.connect(now_ms, out);
    }

    /// Changes credentials, announcements and times without cutting the link. If there is none, the
    /// next [`Replica::tick`] tries again: what was changed may be what it lacked.
    pub fn set_config(&mut self, config: Config) {
        if config != self.config {
            self.attempts = 0;
            if let State::Waiting { until_ms } = &mut self.state {
                *until_ms = 0;
            }
        }
        self.config = config;
    }

    /// Ends the link for good.
    pub fn stop(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        self.forget_part(out);
        if !matches!(self.state, State::Stopped) {
            self.end("The link was given up", true, now_ms, out);
            self.state = State::Stopped;
        }
    }

    /// The caller has nothing left of the file that it was to keep a part of.
    pub fn part_is_gone(&mut self) {
        self.part = None;
    }

    /// What there is of a file is of no use any more.
    fn forget_part(&mut self, out: &mut Vec<Output>) {
        if let State::Transfer { file, .. } = &mut self.state {
            *file = None;
        }
        if self.part.take().is_some() {
            out.push(Output::RdbAbort { keep: false });
        }
    }

    fn connect(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        let (host, port) = (self.config.host.clone(), self.config.port);
        log(out, Level::Notice, format!("Connecting to primary {host}:{port}"));
        self.heard_ms = now_ms;
        self.state = State::Connecting;
        out.push(Output::Connect { host, port });
    }

    fn send(&mut self, bytes: Vec<u8>, now_ms: u64, out: &mut Vec<Output>) {
        self.sent_ms = now_ms;
        out.push(Output::Send(bytes));
    }

    fn ack(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        let Some((_, offset)) = self.place.filter(|_| self.acks) else { return };
        let offset = offset.to_string();
        let bytes = match self.synced {
            Some(synced) => command(&[
                b"REPLCONF",
                b"ACK",
                offset.as_bytes(),
                b"FACK",
                synced.to_string().as_bytes(),
            ]),
            None => command(&[b"REPLCONF", b"ACK", offset.as_bytes()]),
        };
        self.send(bytes, now_ms, out);
    }

    fn up(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        self.framer = Framer::default();
        self.held = None;
        self.rollbacks_asked = 0;
        self.attempts = 0;
        self.state = State::Streaming { since_ms: now_ms };
        out.push(Output::LinkUp);
        // The first ACK tells a primary that it may begin to stream.
        self.ack(now_ms, out);
    }

    /// Says what the end of the present state means to the caller, who still has the connection if
    /// it is `open`.
    fn end(&mut self, why: &str, open: bool, now_ms: u64, out: &mut Vec<Output>) {
        match &self.state {
            State::Streaming { .. } => {
                self.down_since_ms = now_ms;
                out.push(Output::LinkDown { why: why.into() });
            }
            State::Transfer { transfer, file, from, .. } if transfer.begun() => {
                let held = from + transfer.received();
                self.part = file.and_then(|file| Part::new(file, held));
                out.push(Output::RdbAbort { keep: self.part.is_some() });
            }
            State::Loading { .. } => out.push(Output::RdbAbort { keep: false }),
            _ => {}
        }
        let gone = matches!(
            self.state,
            State::Stopped
                | State::Waiting { .. }
                | State::Loading { open: false }
                | State::RollingBack { open: false, .. }
        );
        if open && !gone {
            out.push(Output::Disconnect);
        }
    }

    /// The other side will not have us.
    fn refused(&mut self, what: &str, error: &[u8], now_ms: u64, out: &mut Vec<Output>) {
        let why = printable(error);
        self.lose(format!("{what}: {why}"), true, now_ms, out);
        if self.config.failover {
            out.push(Output::FailoverRefused { why });
        }
    }

    /// The other side is a primary: if it was to become one, it did.
    fn took_over(&mut self, out: &mut Vec<Output>) {
        if std::mem::take(&mut self.config.failover) {
            out.push(Output::TookOver);
        }
    }

    /// Ends the connection and plans the next attempt.
    fn lose(&mut self, why: String, open: bool, now_ms: u64, out: &mut Vec<Output>) {
        // The end of a link that lasted is answered at once. One that breaks as soon as it stands
        // must not make the two nodes spin.
        let lasted = match self.state {
            State::Streaming { since_ms } => {
                now_ms.saturating_sub(since_ms) >= self.config.reconnect_ms
            }
            _ => false,
        };
        let gained = match &self.state {
            State::Transfer { transfer, file: Some(_), .. } => transfer.received() > 0,
            _ => false,
        };
        self.unanswered |= self.awaits_take_over();
        if gained {
            // Each attempt that brings a part brings the end nearer.
            self.attempts = 0;
        }
        self.end(&why, open, now_ms, out);
        log(out, Level::Warning, why);
        let delay = if lasted {
            0
        } else {
            let factor = 1u64 << self.attempts.min(20);
            self.attempts += 1;
            self.config.reconnect_ms.saturating_mul(factor).min(self.config.reconnect_max_ms)
        };
        self.state = State::Waiting { until_ms: now_ms.saturating_add(delay) };
    }

    fn rdb(
        &mut self,
        buf: &[u8],
        base: usize,
        now_ms: u64,
        out: &mut Vec<Output>,
    ) -> Result<Option<usize>, ProtocolError> {
        let State::Transfer { transfer, place, file, from } = &mut self.state else {
            return Ok(None);
        };
        let Some((taken, event)) = transfer.next(buf)? else { return Ok(None) };
        match event {
            Event::Keepalive => {}
            Event::Begin(left) => {
                let size = match (*file, left) {
                    (None, left) => left,
                    (Some(file), Some(left)) if file.size.checked_sub(*from) == Some(left) => {
                        Some(file.size)
                    }
                    (Some(_), _) => {
                        return Err(ProtocolError("an RDB that is not the file that was named"));
                    }
                };
                let text = match size {
                    Some(size) if *from > 0 => {
                        format!("Full sync resumes at byte {from} of {size}")
                    }
                    Some(size) => format!("Receiving {size} bytes of RDB from the primary"),
                    None => "Receiving a streamed RDB from the primary".into(),
                };
                log(out, Level::Notice, text);
                out.push(Output::RdbBegin { size, place: *place, from: *from });
                // From now on it is the transfer's.
                self.part = None;
            }
            Event::Bytes(range) => {
                out.push(Output::RdbBytes(base + range.start..base + range.end));
            }
            Event::End => {
                out.push(Output::RdbEnd);
                self.state = State::Loading { open: true };
            }
            Event::Refused(error) => {
                let why = format!("The primary gave up the full sync: {error}");
                self.lose(why, true, now_ms, out);
            }
        }
        Ok(Some(taken))
    }

    fn stream(
        &mut self,
        buf: &[u8],
        base: usize,
        now_ms: u64,
        out: &mut Vec<Output>,
    ) -> Result<Option<usize>, ProtocolError> {
        let (mut start, mut end) = (base, base);
        let result = loop {
            if self.hold == Hold::All {
                break Ok((end > base).then_some(end - base));
            }
            let next = match self.held.take() {
                Some(unit) => Ok(Some(unit)),
                None => self.framer.next(&buf[end..]),
            };
            match next {
                Ok(Some(unit)) if unit.writes && self.hold == Hold::Writes => {
                    self.held = Some(unit);
                    break Ok((end > base).then_some(end - base));
                }
                Ok(Some(unit)) => {
                    if unit.getack {
                        // As in Redis, the answer names what was held before the question came.
                        self.pass(start..end, out);
                        start = end;
                        self.ack(now_ms, out);
                    }
                    end += unit.len;
                }
                Ok(None) => break Ok((end > base).then_some(end - base)),
                Err(error) => break Err(error),
            }
        };
        self.pass(start..end, out);
        result
    }

    fn pass(&mut self, units: Range<usize>, out: &mut Vec<Output>) {
        if let Some((_, offset)) = &mut self.place
            && !units.is_empty()
        {
            *offset += units.len() as u64;
            out.push(Output::Stream(units));
        }
    }
}

fn log(out: &mut Vec<Output>, level: Level, text: String) {
    out.push(Output::Log(level, text));
}

mod handshake;
#[cfg(test)]
mod tests;
