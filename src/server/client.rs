//! What the daemon knows of a connection.

use super::registry::CommandId;
use super::tracking::Tracker;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use varve_engine::OwnedArgs;
use varve_engine::command::OnTimeout;
use varve_engine::keyspace::Name;
use varve_replication::compress::{Decoder, Volume};

/// What a connection is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    #[default]
    Normal,
    /// A replica of this server, from its `PSYNC` on.
    Replica,
    /// This server's link to its primary.
    Primary,
    /// A snapshot child's pipe.
    Child,
}

/// A transaction being queued.
#[derive(Default)]
pub struct Multi {
    pub queue: Vec<(CommandId, OwnedArgs)>,
    /// A command could not be queued, so `EXEC` will refuse.
    pub aborted: bool,
    /// Flags of all queued commands together.
    pub flags: u32,
    /// Flags that not all of them have.
    pub lacks: u32,
}

/// Why a client waits.
pub enum BlockedOn {
    /// A key: the command runs again when one of them has something.
    Keys { db: usize, keys: Vec<Name>, command: CommandId, args: OwnedArgs, on_timeout: OnTimeout },
    /// `WAIT`: so many replicas at this offset.
    Replicas { count: usize, offset: u64 },
    /// `WAITAOF`: the disk here, and the disks of so many replicas.
    Disks { local: usize, count: usize, offset: u64 },
    /// `CLIENT PAUSE`: the command runs when the pause ends.
    Pause { command: CommandId, args: OwnedArgs },
    /// `MIGRATE`: the target's answer.
    Migration,
    /// `SHUTDOWN` that waits for replicas.
    Shutdown,
    /// `CONFIG SET appendonly no`: the log's files are to be closed.
    Files,
}

pub struct Blocked {
    pub on: BlockedOn,
    /// When it gives up, by the steady clock.
    pub until_ms: Option<i64>,
}

/// What `CLIENT REPLY` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReplyMode {
    #[default]
    On,
    Off,
    /// Nothing for the command after this one.
    SkipNext,
    /// Nothing for this command.
    Skip,
}

#[derive(Default)]
pub struct Client {
    pub id: u64,
    pub kind: Kind,
    pub peer: String,
    /// The address at this end, and the descriptor, from the first request on.
    pub local: String,
    pub fd: i32,
    pub socket: Option<SocketAddr>,
    pub unix: bool,
    pub name: Vec<u8>,
    pub lib_name: Vec<u8>,
    pub lib_ver: Vec<u8>,
    pub db: usize,
    pub authenticated: bool,
    pub created_ms: i64,
    pub last_command: Option<CommandId>,
    pub multi: Option<Multi>,
    /// Database, key, and whether the key's time was over already.
    pub watched: Vec<(usize, Name, bool)>,
    /// A watched key was changed.
    pub watch_failed: bool,
    pub channels: HashSet<Name>,
    pub patterns: HashSet<Name>,
    pub shard_channels: HashSet<Name>,
    pub blocked: Option<Blocked>,
    pub reply_mode: ReplyMode,
    pub no_evict: bool,
    pub no_touch: bool,
    pub monitor: bool,
    pub close_after_reply: bool,
    /// The log's end after this client's last write: what `WAIT` waits for.
    pub wrote_to: u64,
    /// Where the snapshot of a full sync stands that this replica is sent.
    pub snapshot_at: u64,
    pub commands: u64,
    /// Whether it sent `REPLCONF`, so that its end is told to the primary's side.
    pub speaks_replconf: bool,
    /// Its kind or limits have changed: the loop must be told.
    pub reconfigure: bool,
    /// A replica's link that is compressed: what it was sent.
    pub compression: Option<Volume>,
    /// The primary's link, if that is compressed.
    pub decoder: Option<Box<Decoder>>,
}

/// About what a name costs besides its bytes: its place with the client ...
const PLACE: usize = 32;
/// ... and in a table of the server's, which all clients share that have the same.
const KNOWN: usize = 128;

/// Bytes that a client has for a name which so many tables know: its place, and its share of the rest.
fn share(name: &Name, tables: usize) -> usize {
    // A watched key that was changed is in the table no longer.
    let clients = Arc::strong_count(name).saturating_sub(tables).max(1);
    PLACE + (KNOWN * tables + name.len()) / clients
}

impl Client {
    /// The number of subscriptions of all kinds that `SUBSCRIBE` counts.
    pub fn subscriptions(&self) -> usize {
        self.channels.len() + self.patterns.len()
    }

    /// Whether only the pub/sub commands are allowed (RESP 2).
    pub fn in_pubsub(&self) -> bool {
        self.subscriptions() + self.shard_channels.len() > 0
    }

    /// Bytes that are queued for `EXEC`.
    pub fn queued(&self) -> usize {
        let Some(Multi { queue, .. }) = &self.multi else { return 0 };
        let args: usize = queue.iter().map(|(_, args)| args.memory()).sum();
        args + queue.capacity() * size_of::<(CommandId, OwnedArgs)>()
    }

    /// Bytes of the command that it waits in.
    pub fn waiting(&self) -> usize {
        match self.blocked.as_ref().map(|blocked| &blocked.on) {
            Some(BlockedOn::Keys { args, .. } | BlockedOn::Pause { args, .. }) => args.memory(),
            _ => 0,
        }
    }

    /// Bytes that it holds besides its connection: its names, what it queued for `EXEC`, waits for, watches,
    /// subscribes to, and tracks.
    pub fn memory(&self, tracker: Option<&Tracker>) -> usize {
        let awaited = match self.blocked.as_ref().map(|blocked| &blocked.on) {
            Some(BlockedOn::Keys { keys, .. }) => keys.as_slice(),
            _ => &[],
        };
        let awaited: usize = awaited.iter().map(|key| share(key, 2)).sum();
        let watched = self.watched.iter().map(|(_, key, _)| key);
        let sets = [&self.channels, &self.patterns, &self.shard_channels];
        let names: usize =
            watched.chain(sets.into_iter().flatten()).map(|name| share(name, 1)).sum();
        let prefixes = tracker.into_iter().flat_map(|t| &t.prefixes);
        let prefixes: usize = prefixes.map(|prefix| PLACE + KNOWN + prefix.len()).sum();
        let own = self.name.capacity() + self.lib_name.capacity() + self.lib_ver.capacity();
        own + self.queued() + self.waiting() + awaited + names + prefixes
    }

    /// The letters that `CLIENT LIST` shows.
    pub fn flags(&self, tracker: Option<&Tracker>) -> String {
        let mut s = String::new();
        let mut add = |on: bool, c: char| {
            if on {
                s.push(c)
            }
        };
        add(self.kind == Kind::Replica && !self.monitor, 'S');
        add(self.monitor, 'O');
        add(self.kind == Kind::Primary, 'M');
        add(self.in_pubsub(), 'P');
        add(self.multi.is_some(), 'x');
        add(self.blocked.is_some(), 'b');
        add(tracker.is_some(), 't');
        add(tracker.is_some_and(|t| t.broken), 'R');
        add(tracker.is_some_and(|t| t.bcast), 'B');
        add(self.watch_failed, 'd');
        add(self.close_after_reply, 'c');
        add(self.unix, 'U');
        add(self.no_evict, 'e');
        add(self.no_touch, 'T');
        if s.is_empty() { "N".into() } else { s }
    }
}
