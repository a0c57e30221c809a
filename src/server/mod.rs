//! The daemon: one owner of the data, the clients and the log, driven by the event loop.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `dispatch.rs` | a request's way: checks, running, effects into the log |
//! | `progress.rs` | how far long work is, for `INFO` and the log file |
//! | `registry.rs` | all commands by name |
//! | `client.rs` | what is known of a connection |
//! | `blocking.rs` | clients that wait |
//! | `pubsub.rs` | channels, patterns, keyspace events |
//! | `tracking.rs` | clients that cache what they read |
//! | `books.rs` | counters, slow log, latency, monitors |
//! | `cron.rs` | what happens by itself: expiry, eviction, save points, rehashing |
//! | `memory.rs` | `maxmemory` and freeing large values elsewhere |
//! | `client_eviction.rs` | `maxmemory-clients` |
//! | `service.rs` | what the event loop asks of the daemon |
//! | `start.rs` | from a configuration to a running daemon |
//! | `stop.rs` | signals, `SHUTDOWN`, and what has to be done before the end |
//! | `snapshot/` | children that save: `BGSAVE`, the log's base, full syncs |
//! | `writeback.rs` | syncing a snapshot while it is written |
//! | `load.rs` | reading a snapshot and the log at start and from a primary |
//! | `replication.rs` | the links to replicas and to a primary |
//! | `clock.rs` | the time |

pub mod blocking;
pub mod books;
pub mod client;
pub mod client_eviction;
pub mod clock;
pub mod cron;
pub mod dispatch;
pub mod load;
pub mod log_files;
pub mod memory;
pub mod progress;
pub mod pubsub;
pub mod registry;
pub mod replication;
pub mod service;
pub mod snapshot;
pub mod start;
pub mod stop;
pub mod tracking;
pub mod writeback;

use crate::config::Config;
use crate::config::load::Origin;
use books::{Latency, Rate, Rates, SlowLog, Stats};
use client::Client;
use clock::Clock;
use dispatch::Call;
use registry::Registry;
use std::collections::{BTreeMap, HashMap};
use varve_engine::resp::request::Frame;
use varve_engine::{Keyspace, OwnedArgs, Reply};
use varve_net::{ConnId, Net};
use varve_persistence::log::Log;
use varve_persistence::offset::{Histories, Offset};

/// `CLIENT PAUSE`.
pub struct Pause {
    /// By the steady clock.
    pub until_ms: i64,
    /// All commands, not only those that write.
    pub all: bool,
}

/// The daemon's state. Everything here belongs to the loop's thread.
pub struct Server {
    pub cfg: Config,
    /// Where the configuration came from, for `CONFIG REWRITE`.
    pub origin: Origin,
    pub ks: Keyspace,
    pub log: Log,
    /// The names of this data before the log says them.
    pub histories: Histories,
    pub waker: varve_persistence::log::Waker,
    pub commands: Registry,
    pub clock: Clock,
    pub started_ms: i64,
    pub run_id: String,
    /// Bytes allocated when nothing was loaded yet.
    pub startup_memory: u64,
    pub stats: Stats,
    pub rates: Rates,
    /// The processor's time that the loop's thread uses, ms.
    pub load_rate: Rate,
    pub error_counts: BTreeMap<String, u64>,
    pub slowlog: SlowLog,
    pub latencies: HashMap<&'static str, Latency>,
    pub pubsub: pubsub::PubSub,
    pub tracking: tracking::Tracking,
    pub monitors: Vec<ConnId>,
    /// When a client that spoke HTTP was last warned of, Unix ms.
    pub http_warned_ms: i64,
    pub waiters: blocking::Waiters,
    pub pause: Option<Pause>,
    pub migrations: Vec<crate::commands::migrate::Migration>,
    /// Clients that a pause holds, in the order in which they came.
    pub paused: Vec<ConnId>,
    /// What was held is to run at the end of the turn.
    pub let_go_due: bool,
    /// Set while a transaction runs: its effects are gathered and appended as one. What is published to
    /// its own client comes behind the reply, and is here until then.
    pub in_exec: Option<Reply>,
    pub loading: Option<load::Loading>,
    pub snapshots: snapshot::Snapshots,
    pub files: Option<log_files::FilesWork>,
    pub repl: replication::Replication,
    pub memory: memory::Memory,
    pub client_eviction: client_eviction::ClientEviction,
    pub cron: cron::Cron,
    pub shutdown: Option<stop::Shutdown>,
    pub stopping: bool,
    /// The process ends at once, as a second `SIGINT` wants it.
    pub insisted: bool,
    /// Whether the log could not be written when it was last looked at.
    pub log_failing: bool,
    /// The log was found behind: writes wait, and so does the primary's stream.
    pub log_behind: bool,
    /// How many clients there are: replicas, the primary and children are not among them.
    pub clients: usize,
    process: Option<start::Process>,
    /// Commands of the log that were run at start.
    replayed: u64,
    apply_room: OwnedArgs,
    apply_reply: Reply,
    frame: Frame,
    /// Replicas may be waiting for a snapshot.
    supply_due: bool,
    /// Up to where replicas were last told that there is more.
    fed_to: Offset,
    /// A client waits for replicas to acknowledge.
    acks_due: bool,
    /// Whether data of this replica were changed here, by clients or by eviction, and not in its log.
    beside_log: bool,
    /// A streaming child's pipe that is not read until its readers catch up.
    stream_paused: Option<ConnId>,
}

impl Server {
    /// Whether this server decides what is written, rather than follow another.
    #[inline]
    pub fn is_primary(&self) -> bool {
        self.repl.is_primary()
    }

    /// Runs `act` for a client that is not the one at hand, as if its own request were running.
    pub fn with_client<R>(
        &mut self,
        net: &mut Net<Client>,
        id: ConnId,
        act: impl FnOnce(&mut Server, &mut Call<'_>) -> R,
    ) -> Option<R> {
        let conn = net.conn_mut(id)?;
        let mut client = std::mem::take(&mut conn.session);
        let mut reply = std::mem::take(&mut conn.output);
        let command = client.last_command.unwrap_or_default();
        let secrets = Vec::new();
        let mut call = Call { net, id, client: &mut client, reply: &mut reply, command, secrets };
        let result = act(self, &mut call);
        if let Some(conn) = net.conn_mut(id) {
            conn.hold = client.blocked.is_some();
            conn.close_after_reply |= client.close_after_reply;
            conn.session = client;
            conn.output = reply;
            if std::mem::take(&mut conn.session.reconfigure) {
                self.configure_conn(conn);
            }
        }
        net.mark_dirty(id);
        net.resume(id);
        Some(result)
    }
}
