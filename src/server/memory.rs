//! How much memory there is to use, what goes when it is used up, and who frees large values.

use super::Server;
use super::client::Client;
use super::pubsub::AtHand;
use crate::allocator;
use crate::config::types::MaxmemoryPolicy as Policy;
use crossbeam::channel::{RecvTimeoutError, Sender, unbounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use varve_engine::keyspace::{AccessClock, Event, Garbage};
use varve_net::Net;

/// Eviction's memory of good candidates, and the thread that frees.
pub struct Memory {
    /// The best candidates seen so far, worst first: idle score, database, key.
    pool: Vec<(u64, usize, Box<[u8]>)>,
    free: Sender<(Garbage, u64)>,
    /// Bytes of values that wait to be freed: no reason to evict more, or to refuse a write.
    leaving: Arc<AtomicU64>,
    /// Where eviction of random keys goes on among the databases.
    next_db: usize,
    /// Eviction was ended by its time limit: it goes on in the next turn.
    pub evicting: bool,
    /// Bytes that this turn's evictions have put into clients' output: they are soon gone, and must not be the
    /// reason to evict more.
    told: u64,
    /// When this thread has allocated so much, it is time to look how much is in use.
    look_at: i64,
    /// Since when memory has been short, on the clock's nanoseconds.
    short_since: Option<u64>,
}

/// How often the thread that frees, when it has nothing to do, sees to what the allocator holds without need.
const DECAY_PERIOD: Duration = Duration::from_secs(1);
/// How far the peak of memory may be from what is shown, in bytes.
const PEAK_STEP: i64 = 64 << 10;
/// Candidates that eviction remembers.
const POOL: usize = 16;
/// Evicted keys between two looks at the time.
const STEP: usize = 16;

impl Memory {
    /// Starts the thread that frees what is large.
    pub fn new() -> std::io::Result<Memory> {
        allocator::settle();
        let (free, garbage) = unbounded::<(Garbage, u64)>();
        let leaving = Arc::new(AtomicU64::new(0));
        let freed = leaving.clone();
        std::thread::Builder::new().name("varve-free".into()).spawn(move || {
            loop {
                match garbage.recv_timeout(DECAY_PERIOD) {
                    Ok((garbage, bytes)) => {
                        drop(garbage);
                        freed.fetch_sub(bytes, Relaxed);
                    }
                    Err(RecvTimeoutError::Timeout) => allocator::decay(),
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        })?;
        Ok(Memory {
            pool: Vec::new(),
            free,
            leaving,
            next_db: 0,
            evicting: false,
            told: 0,
            look_at: 0,
            short_since: None,
        })
    }
}

/// The access clock that a policy needs.
pub fn clock_of(policy: Policy) -> AccessClock {
    match policy {
        Policy::AllkeysLfu | Policy::VolatileLfu => AccessClock::Lfu,
        _ => AccessClock::Lru,
    }
}

/// Whether a policy chooses by the access clock, so that snapshots keep it.
pub fn uses_access_clock(policy: Policy) -> bool {
    matches!(
        policy,
        Policy::AllkeysLfu | Policy::VolatileLfu | Policy::AllkeysLru | Policy::VolatileLru
    )
}

/// How long one round of eviction may take at a tenacity of 0 to 100; `None` is until it is done.
/// Redis's measure: 50 us for each up to 10, then 15% more for each.
fn eviction_ns(tenacity: u32) -> Option<u64> {
    match tenacity {
        0..=10 => Some(50_000 * tenacity as u64),
        11..=99 => Some((500_000.0 * 1.15f64.powi(tenacity as i32 - 10)) as u64),
        _ => None,
    }
}

impl Server {
    /// Bytes that count against `maxmemory`: all but the log's tail, which has its own limit.
    pub fn counted_memory(&self) -> u64 {
        allocator::used().saturating_sub(self.log.memory() as u64)
    }

    /// Sees to the peak of memory after each command: the next may free what this one took.
    #[inline]
    pub fn note_peak(&mut self) {
        if allocator::own() > self.memory.look_at {
            self.see_peak();
        }
    }

    #[cold]
    pub fn see_peak(&mut self) {
        self.stats.peak_memory = self.stats.peak_memory.max(allocator::used());
        self.memory.look_at = allocator::own() + PEAK_STEP;
    }

    /// Whether more is in use than `maxmemory`, but for what is on its way out.
    fn is_short(&self) -> bool {
        let leaving = self.memory.told + self.memory.leaving.load(Relaxed);
        self.counted_memory() > self.cfg.maxmemory.saturating_add(leaving)
    }

    /// To be called when what this turn's evictions told is sent.
    #[inline]
    pub fn told_is_sent(&mut self) {
        self.memory.told = 0;
    }

    /// Evicts if memory is short, for as long as `maxmemory-eviction-tenacity` allows. Whether memory
    /// is still short with nothing left to evict; never while writes are held, or data loaded. `own` is as
    /// with [`Server::publish_events`].
    pub fn over_memory(&mut self, net: &mut Net<Client>, mut own: AtHand<'_>) -> bool {
        let limit = self.cfg.maxmemory;
        // Eviction is the primary's; a replica gets its deletes.
        let leaves_it = !self.is_primary() && self.cfg.replica_ignore_maxmemory;
        if self.ks.held || self.loading.is_some() {
            // What would be refused for want of memory waits with the other writes, and is judged
            // when they go on. In a load the log takes no deletes.
            self.memory.evicting = false;
            return false;
        }
        if limit == 0 || leaves_it || !self.is_short() {
            self.memory.evicting = false;
            if let Some(since) = self.memory.short_since.take() {
                self.stats.eviction_exceeded_us += (self.clock.tick_ns() - since) / 1000;
            }
            return false;
        }
        self.ks.now_ms = self.clock.now_ms();
        let started = self.clock.tick_ns();
        let budget = eviction_ns(self.cfg.maxmemory_eviction_tenacity);
        let mut evicted = 0usize;
        let (mut short, mut in_time) = (true, true);
        while short && in_time {
            let Some((db, key)) = self.choose_victim() else { break };
            self.ks.evict(db, &key);
            evicted += 1;
            self.collect_garbage();
            // What is to be said of it takes memory too: kept until the end, one small key after the
            // other would be evicted for the last one's sake.
            self.append_effects_singly();
            let own = own.as_mut().map(|(client, reply)| (*client, &mut **reply));
            let events = &self.ks.events;
            let names: usize = events.iter().map(|event| event.key.len()).sum();
            let events = (events.capacity() * size_of::<Event>() + names) as u64;
            let before = self.counted_memory().saturating_sub(events);
            self.publish_events(net, own);
            self.memory.told += self.counted_memory().saturating_sub(before);
            short = self.is_short();
            in_time = !evicted.is_multiple_of(STEP)
                || budget.is_none_or(|budget| self.clock.tick_ns() - started < budget);
        }
        let now = self.clock.tick_ns();
        self.latency("eviction-cycle", (now - started) / 1_000_000);
        self.memory.evicting = short && !in_time;
        match short {
            true if evicted > 0 => _ = self.memory.short_since.get_or_insert(started),
            true => {}
            false => {
                let since = self.memory.short_since.take().unwrap_or(started);
                self.stats.eviction_exceeded_us += (now - since) / 1000;
            }
        }
        short && in_time
    }

    /// Goes on with an eviction that ran out of time.
    pub fn evict_more(&mut self, net: &mut Net<Client>) {
        if self.memory.evicting && self.loading.is_none() {
            self.over_memory(net, None);
            self.fail_all_watchers(net);
        }
    }

    /// How long memory has been short by now, in milliseconds: `current_eviction_exceeded_time`.
    pub fn eviction_exceeded_ms(&self) -> u64 {
        self.memory.short_since.map_or(0, |since| (self.clock.now_ns() - since) / 1_000_000)
    }

    /// The key that the policy would miss least.
    fn choose_victim(&mut self) -> Option<(usize, Box<[u8]>)> {
        let policy = self.cfg.maxmemory_policy;
        let volatile = matches!(
            policy,
            Policy::VolatileLru
                | Policy::VolatileLfu
                | Policy::VolatileRandom
                | Policy::VolatileTtl
        );
        match policy {
            Policy::NoEviction => None,
            Policy::AllkeysRandom | Policy::VolatileRandom => {
                for _ in 0..self.ks.dbs.len() {
                    self.memory.next_db = (self.memory.next_db + 1) % self.ks.dbs.len();
                    let db = self.memory.next_db;
                    let mut key = None;
                    self.ks.sample(db, volatile, 1, |_, entry| key = Some(entry.key().into()));
                    if let Some(key) = key {
                        return Some((db, key));
                    }
                }
                None
            }
            _ => {
                self.fill_pool(policy, volatile);
                // The best may have gone since it was seen.
                while let Some((_, db, key)) = self.memory.pool.pop() {
                    let there = self.ks.dbs[db].peek(&key);
                    if there.is_some_and(|e| !volatile || e.expire().is_some()) {
                        return Some((db, key));
                    }
                }
                None
            }
        }
    }

    fn fill_pool(&mut self, policy: Policy, volatile: bool) {
        let samples = self.cfg.maxmemory_samples as usize;
        let pool = &mut self.memory.pool;
        for db in 0..self.ks.dbs.len() {
            self.ks.sample(db, volatile, samples, |ks, entry| {
                let score = match policy {
                    Policy::VolatileTtl => u64::MAX - entry.expire().unwrap_or(0) as u64,
                    Policy::AllkeysLfu | Policy::VolatileLfu => 255 - ks.frequency(entry) as u64,
                    _ => ks.idle_seconds(entry),
                };
                let at = pool.partition_point(|(s, ..)| *s < score);
                if at == 0 && pool.len() >= POOL
                    || pool.iter().any(|(_, d, key)| *d == db && **key == *entry.key())
                {
                    return;
                }
                pool.insert(at, (score, db, entry.key().into()));
                if pool.len() > POOL {
                    pool.remove(0);
                }
            });
        }
    }

    /// Sends what commands left to be freed to the thread that frees.
    pub fn collect_garbage(&mut self) {
        for garbage in self.ks.garbage.drain(..) {
            self.stats.lazy_freed += 1;
            let bytes = garbage.memory() as u64;
            self.memory.leaving.fetch_add(bytes, Relaxed);
            // The thread lives as long as the process.
            let _ = self.memory.free.send((garbage, bytes));
        }
    }

    /// Things that wait to be freed: `lazyfree_pending_objects`.
    pub fn pending_garbage(&self) -> usize {
        self.memory.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenacity_is_a_time() {
        assert_eq!(eviction_ns(0), Some(0));
        assert_eq!(eviction_ns(10), Some(500_000));
        assert_eq!(eviction_ns(11), Some(575_000));
        assert_eq!(eviction_ns(99).map(|ns| ns / 60_000_000_000), Some(2));
        assert_eq!(eviction_ns(100), None);
    }
}
