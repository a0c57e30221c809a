//! The links to replicas and to a primary: the sockets, files and clocks around the state machines
//! of `varve_replication`.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `replicas.rs` | the answers to replicas, and the snapshots that they get |
//! | `feed.rs` | what each replica is sent, from memory and from disk |
//! | `compress.rs` | bytes on their way to a replica, as they are or compressed |
//! | `failover.rs` | handing over to a replica |
//! | `link.rs` | this server as a replica: the link and its stream |
//! | `link/receive.rs` | the RDB of a full sync, received and loaded |
//! | `link/rollback.rs` | going back to what the primary shares |

mod compress;
mod failover;
mod feed;
mod link;
mod replicas;

use super::Server;
use super::client::Client;
use super::progress::Progress;
use crate::config::Config;
use crate::config::types::ReplCompression;
use crate::{log_debug, log_notice, log_warning};
use compress::TailFrames;
use feed::{Feeding, Fetcher};
pub use link::Link;
use std::collections::HashMap;
use std::io;
use std::time::Duration;
use varve_net::{Conn, ConnId, Net};
use varve_persistence::log;
use varve_persistence::offset::{Histories, HistoryId, Offset};
use varve_replication::node::Node;
use varve_replication::primary::{self, LogView, Primary};
use varve_replication::replica;

/// A replica that sent or took anything within this time is alive.
const HEARD_LATELY: Duration = Duration::from_secs(1);

pub struct Replication {
    pub node: Node,
    pub primary: Primary,
    pub link: Option<Link>,
    /// Whether the log's end may be what this node wrote as a primary before it was killed, and no primary
    /// has gone on from there. It is no place to compare with others': Sentinel would prefer this node to
    /// those that have what was written since.
    pub end_is_unshared: bool,
    pub failover: Option<failover::Failover>,
    feeding: HashMap<ConnId, Feeding>,
    fetcher: Fetcher,
    tail_frames: TailFrames,
    /// Room for what the link's machine asks for.
    outputs: Vec<replica::Output>,
    loop_ms: u64,
    /// This process among all nodes, so that none follows itself.
    id: HistoryId,
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
        lz4: cfg.repl_compression == ReplCompression::Lz4,
    }
}

impl Replication {
    pub fn new(
        cfg: &Config,
        histories: Histories,
        now_ms: i64,
        waker: log::Waker,
        id: HistoryId,
    ) -> io::Result<Replication> {
        let mut primary = Primary::new(primary_config(cfg), now_ms as u64);
        primary.set_node(id);
        Ok(Replication {
            node: Node::new(histories),
            primary,
            id,
            link: None,
            end_is_unshared: false,
            failover: None,
            feeding: HashMap::new(),
            outputs: Vec::new(),
            loop_ms: now_ms as u64,
            fetcher: Fetcher::start(waker)?,
            tail_frames: TailFrames::default(),
        })
    }

    pub fn is_primary(&self) -> bool {
        self.node.is_primary()
    }

    /// How far each RDB file is that a replica is being sent.
    pub fn sending(&self) -> impl Iterator<Item = &Progress> {
        self.feeding.values().filter_map(|feeding| match feeding {
            Feeding::File { progress, .. } => Some(progress),
            _ => None,
        })
    }

    /// The data at start belongs to these histories.
    pub fn set_histories(&mut self, histories: Histories) {
        self.node = Node::new(histories);
    }
}

impl Server {
    /// The time by which the links' state machines measure: [`Clock::steady_ms`](super::clock::Clock::steady_ms).
    pub fn now_u64(&self) -> u64 {
        self.clock.steady_ms() as u64
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
            let mut config = link::link_config(&self.cfg, to, self.repl.id);
            config.failover = self.repl.failover.is_some();
            link.machine.set_config(config);
        }
    }

    /// What time brings, for both roles.
    pub fn replication_round(&mut self, net: &mut Net<Client>) {
        let now = self.now_u64();
        self.resume_stream(net);
        // Who has taken all that was sent is not the one that the others, or the disk, are waited for.
        for &id in self.repl.feeding.keys() {
            let takes =
                |c: &Conn<Client>| c.output.is_empty() || c.last_write.elapsed() < HEARD_LATELY;
            if net.conn(id).is_some_and(takes) {
                self.repl.primary.bulk_progress(id, now);
            }
        }
        let mut out = Vec::new();
        self.repl.primary.tick(now, self.is_primary(), &mut out);
        for output in out {
            match output {
                primary::Output::Append(bytes) => {
                    if self.loading.is_none() && self.repl.failover.is_none() {
                        self.log.append(bytes);
                    }
                }
                primary::Output::Newline(id) => {
                    if let Some(conn) = net.conn_mut(id) {
                        compress::send(conn, b"\n");
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

    /// What the log's threads have finished.
    pub fn log_turn(&mut self, net: &mut Net<Client>) {
        for event in self.log.take_events() {
            match event {
                log::Event::Rotated { at, result } => {
                    if let Err(why) = result {
                        log_warning!("A new segment could not be begun at offset {at}: {why}");
                    }
                    self.reap(net); // its child may have ended before
                }
                log::Event::BaseInstalled { at, result } => {
                    self.snapshots.installing = false;
                    match result {
                        Ok(()) => {
                            self.snapshots.rewrite_failures = 0;
                            log_notice!("The log's base is the snapshot at offset {at} now");
                            self.serve_base(at);
                        }
                        Err(why) => {
                            log_warning!(
                                "The snapshot at offset {at} could not become the log's base: {why}"
                            );
                            self.rewrite_failed();
                        }
                    }
                }
            }
        }
        if self.log.is_failing() != self.log_failing {
            self.log_failing = !self.log_failing;
            match self.log.error() {
                Some(why) => log_warning!(
                    "Error writing to the AOF file: {why}. Writes are refused until it can be written again."
                ),
                None => log_warning!("AOF write error looks solved, can write again."),
            }
            // What replies wait for is another matter now.
            let all: Vec<ConnId> = net.iter().map(|conn| conn.id).collect();
            all.into_iter().for_each(|id| net.mark_dirty(id));
            self.let_go_due = true;
        }
        self.files_turn(net);
        if self.waiters.any_on_replicas() {
            self.serve_replica_waiters(net);
        }
    }
}
