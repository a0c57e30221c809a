//! How much memory there is to use, what goes when it is used up, and who frees large values.

use super::Server;
use crate::allocator;
use crate::config::types::MaxmemoryPolicy as Policy;
use crossbeam::channel::{Sender, unbounded};
use varve_engine::keyspace::{AccessClock, Garbage};

/// Eviction's memory of good candidates, and the thread that frees.
pub struct Memory {
    /// The best candidates seen so far, worst first: idle score, database, key.
    pool: Vec<(u64, usize, Box<[u8]>)>,
    free: Sender<Garbage>,
    /// Where eviction of random keys goes on among the databases.
    next_db: usize,
    /// Set when eviction came to its end and memory is still short.
    pub exhausted: bool,
}

/// Candidates that eviction remembers.
const POOL: usize = 16;
/// Keys that one round of eviction may remove before clients get their turn.
const ROUND: usize = 128;

impl Memory {
    /// Starts the thread that frees what is large.
    pub fn new() -> std::io::Result<Memory> {
        let (free, garbage) = unbounded::<Garbage>();
        std::thread::Builder::new()
            .name("varve-free".into())
            .spawn(move || garbage.iter().for_each(drop))?;
        Ok(Memory { pool: Vec::new(), free, next_db: 0, exhausted: false })
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

impl Server {
    /// Bytes that count against `maxmemory`: all but the log's tail, which has its own limit.
    pub fn counted_memory(&self) -> u64 {
        allocator::used().saturating_sub(self.log.stats().memory as u64)
    }

    /// Evicts if memory is short. Whether it still is.
    pub fn over_memory(&mut self) -> bool {
        let limit = self.cfg.maxmemory;
        if limit == 0 || self.counted_memory() <= limit {
            self.memory.exhausted = false;
            return false;
        }
        // Eviction is the primary's; a replica gets its deletes.
        if !self.is_primary() && self.cfg.replica_ignore_maxmemory {
            return false;
        }
        self.ks.now_ms = self.clock.now_ms();
        let started = self.clock.tick_ns();
        let mut evicted = 0;
        let mut short = true;
        while evicted < ROUND {
            if self.counted_memory() <= limit {
                short = false;
                break;
            }
            let Some((db, key)) = self.choose_victim() else { break };
            self.ks.evict(db, &key);
            evicted += 1;
            self.collect_garbage();
        }
        self.append_effects_singly();
        let ms = (self.clock.tick_ns() - started) / 1_000_000;
        self.latency("eviction-cycle", ms);
        self.memory.exhausted = short && evicted < ROUND;
        self.memory.exhausted
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
                    if let Some(key) = self.ks.sample_keys(db, volatile, 1).pop() {
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
        for db in 0..self.ks.dbs.len() {
            for key in self.ks.sample_keys(db, volatile, samples) {
                let Some(entry) = self.ks.dbs[db].peek(&key) else { continue };
                let score = match policy {
                    Policy::VolatileTtl => u64::MAX - entry.expire().unwrap_or(0) as u64,
                    Policy::AllkeysLfu | Policy::VolatileLfu => {
                        255 - self.ks.frequency(entry) as u64
                    }
                    _ => self.ks.idle_seconds(entry),
                };
                let pool = &mut self.memory.pool;
                if pool.iter().any(|(_, d, k)| *d == db && *k == key) {
                    continue;
                }
                let at = pool.partition_point(|(s, ..)| *s < score);
                if at == 0 && pool.len() >= POOL {
                    continue;
                }
                pool.insert(at, (score, db, key));
                if pool.len() > POOL {
                    pool.remove(0);
                }
            }
        }
    }

    /// Sends what commands left to be freed to the thread that frees.
    pub fn collect_garbage(&mut self) {
        for garbage in self.ks.garbage.drain(..) {
            self.stats.lazy_freed += 1;
            // The thread lives as long as the process; without it, freeing here is right too.
            let _ = self.memory.free.send(garbage);
        }
    }

    /// Things that wait to be freed: `lazyfree_pending_objects`.
    pub fn pending_garbage(&self) -> usize {
        self.memory.free.len()
    }
}
