//! `maxmemory-clients`: when the clients' buffers together take too much memory, the largest client
//! is closed, and the next, until they fit. `CLIENT NO-EVICT on` keeps a client from it.
//!
//! Buffers grow and shrink where only the event loop sees them, so there is no running sum: at the
//! end of a turn all clients are looked at, as often as that takes no more than a fiftieth of the
//! time, and ten times a second in any case. Replicas and the primary are not counted: what they
//! have not taken stands in the log.

use super::Server;
use super::client::{Client, Kind};
use crate::config::types::ClientMemory;
use crate::log_notice;
use std::time::{Duration, Instant};
use varve_net::{Conn, Net};

/// A smaller limit would close even a client that wants to raise it.
const LEAST: u64 = 128 << 10;
/// Between two looks, at least.
const PAUSE: Duration = Duration::from_millis(5);
/// ... and so many times as long as the last took.
const SHARE: u32 = 50;

/// When the clients are looked at next.
#[derive(Default)]
pub struct ClientEviction {
    next: Option<Instant>,
}

impl Server {
    /// Bytes that a client holds: its buffers, and what [`Client::memory`] counts.
    pub fn memory_of(&self, conn: &Conn<Client>) -> u64 {
        (conn.memory() + conn.session.memory(self.tracking.of(conn.id))) as u64
    }

    /// Bytes that clients may hold together; `None` is no limit.
    fn client_memory_limit(&self) -> Option<u64> {
        let bytes = match self.cfg.maxmemory_clients {
            ClientMemory::Bytes(0) => return None,
            ClientMemory::Bytes(bytes) => bytes,
            ClientMemory::Percent(_) if self.cfg.maxmemory == 0 => return None,
            ClientMemory::Percent(percent) => {
                (self.cfg.maxmemory as u128 * percent as u128 / 100) as u64
            }
        };
        Some(bytes.max(LEAST))
    }

    /// Closes clients if they hold too much.
    pub fn evict_clients(&mut self, net: &mut Net<Client>) {
        let Some(limit) = self.client_memory_limit() else { return };
        let began = Instant::now();
        if self.client_eviction.next.is_some_and(|next| began < next) {
            return;
        }
        let counted = || net.iter().filter(|c| c.session.kind == Kind::Normal && !c.close_asap);
        let memory = |conn: &Conn<Client>| self.memory_of(conn);
        let mut sum: u64 = counted().map(memory).sum();
        if sum >= limit {
            let mut largest: Vec<(u64, u64)> = counted()
                .filter(|conn| !conn.session.no_evict)
                .map(|conn| (memory(conn), conn.id))
                .collect();
            largest.sort_unstable();
            while sum >= limit
                && let Some((bytes, id)) = largest.pop()
            {
                if let Some(conn) = net.conn(id) {
                    log_notice!(
                        "Evicting client: id={id} addr={} tot-mem={bytes}, as all hold {sum} bytes and maxmemory-clients is {limit}",
                        conn.session.peer
                    );
                }
                net.kill(id);
                self.stats.evicted_clients += 1;
                sum -= bytes;
            }
        }
        let now = Instant::now();
        self.client_eviction.next = Some(now + PAUSE.max((now - began) * SHARE));
    }
}
