//! Keys that leave by themselves: the active expiry cycle and eviction.
//!
//! A key past its time is removed when it is met. One that nobody asks for would stay for ever, so
//! a cycle walks the expiry index a little at a time, longer where much has expired.

use crate::entry::{Entry, EntryRef};
use crate::keyspace::{Keyspace, event};

/// Keys looked at between two looks at the clock.
const STEP: usize = 20;
/// The cycle leaves a database when less than one in so many keys had expired.
const WORTHWHILE: usize = 10;

impl Keyspace {
    /// Removes expired keys until little is left to remove or `out_of_time` says stop. Their
    /// deletions are in [`Keyspace::effects`].
    pub fn expire_cycle(&mut self, mut out_of_time: impl FnMut() -> bool) {
        let (mut seen_all, mut gone_all) = (0usize, 0usize);
        'databases: for _ in 0..self.dbs.len() {
            // The next cycle goes on behind this one, or a busy database would keep the others waiting.
            let db = self.expire_db % self.dbs.len();
            self.expire_db = db + 1;
            loop {
                let index = self.dbs[db].expires();
                if index.is_empty() {
                    break;
                }
                let (mut seen, mut due, mut ttl_sum) = (0, Vec::<Box<[u8]>>::new(), 0i128);
                let mut cursor = self.dbs[db].expire_cursor;
                // Empty buckets are passed in bounded number as well.
                for _ in 0..STEP * 8 {
                    cursor = index.scan(cursor, |word| {
                        seen += 1;
                        match word.expire() {
                            Some(at) if at <= self.now_ms => {
                                due.push(crate::table::Slot::key(word).into());
                            }
                            Some(at) => ttl_sum += (at - self.now_ms) as i128,
                            None => {}
                        }
                    });
                    if cursor == 0 || seen >= STEP {
                        break;
                    }
                }
                let gone = due.len();
                for key in &due {
                    self.expire_now(db, key);
                }
                let d = &mut self.dbs[db];
                d.expire_cursor = cursor;
                if seen > gone {
                    let ttl = (ttl_sum / (seen - gone) as i128) as i64;
                    // A running average: one look says little.
                    d.avg_ttl = if d.avg_ttl == 0 { ttl } else { d.avg_ttl / 50 * 49 + ttl / 50 };
                }
                seen_all += seen;
                gone_all += gone;
                if out_of_time() {
                    self.stats.expired_time_cap_reached += 1;
                    break 'databases;
                }
                if gone * WORTHWHILE <= seen || cursor == 0 {
                    break;
                }
            }
        }
        if seen_all > 0 {
            let now = gone_all as f64 / seen_all as f64 * 100.0;
            self.stats.expired_stale_perc = now * 0.05 + self.stats.expired_stale_perc * 0.95;
        }
    }

    /// The same on a replica, where only what its own clients wrote leaves by itself.
    pub fn expire_own(&mut self, mut out_of_time: impl FnMut() -> bool) {
        let mut seen = 0usize;
        while let Some((at, ..)) = self.own_expires.first()
            && *at <= self.now_ms
            && let Some((at, db, key)) = self.own_expires.pop_first()
        {
            seen += 1;
            if seen.is_multiple_of(STEP) && out_of_time() {
                // The rest at the next round, this one too.
                self.own_expires.insert((at, db, key));
                return;
            }
            // It may have another time by now, or be gone.
            if self.dbs[db].peek(&key).and_then(Entry::expire) == Some(at) {
                self.expire_now(db, &key);
            }
        }
    }

    /// Removes a key because memory is short, with all that follows.
    pub fn evict(&mut self, db: usize, key: &[u8]) {
        let Some(entry) = self.remove(db, key) else { return };
        let name: &[u8] = if self.lazy.eviction { b"UNLINK" } else { b"DEL" };
        self.effects.push(db, [name, key].into_iter());
        self.stats.evicted += 1;
        self.notify(event::EVICTED, "evicted", db, key);
        self.vanished(db, key);
        let lazy = self.lazy.eviction;
        self.free(entry, lazy);
    }

    /// Visits about `n` entries at random, only ones with a time to live if `volatile`.
    pub fn sample(
        &mut self,
        db: usize,
        volatile: bool,
        n: usize,
        mut visit: impl FnMut(&Keyspace, &Entry),
    ) {
        let mut state = self.random() | 1;
        let mut word = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let (ks, d) = (&*self, &self.dbs[db]);
        for _ in 0..n {
            let entry = match volatile {
                true => d.expires().sample(&mut word).map(EntryRef::entry),
                false => d.keys().sample(&mut word),
            };
            entry.into_iter().for_each(|entry| visit(ks, entry));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::Keyspace;
    use crate::entry::Payload;
    use crate::keyspace::Origin;

    #[test]
    fn the_cycle_removes_all_that_is_due_and_nothing_else() {
        let mut ks = Keyspace::new(2, 1);
        ks.now_ms = 1000;
        for i in 0..10_000 {
            let at = if i % 2 == 0 { 500 } else { 5_000_000 };
            ks.set(1, format!("key:{i}").as_bytes(), Payload::Int(i), Some(at));
        }
        for _ in 0..10_000 {
            ks.expire_cycle(|| true);
        }
        assert_eq!((ks.dbs[1].len(), ks.dbs[1].expires().len()), (5000, 5000));
        assert_eq!(ks.effects.len(), 5000);
        assert_eq!(ks.stats.expired, 5000);
    }

    #[test]
    fn a_database_that_takes_all_the_time_does_not_keep_the_others_waiting() {
        let mut ks = Keyspace::new(3, 1);
        ks.now_ms = 1000;
        for i in 0..10_000 {
            ks.set(0, format!("key:{i}").as_bytes(), Payload::Int(i), Some(500));
        }
        ks.set(2, b"key", Payload::Int(1), Some(500));
        for _ in 0..10 {
            ks.expire_cycle(|| true);
        }
        assert!(!ks.dbs[0].is_empty() && ks.dbs[2].is_empty());
    }

    #[test]
    fn the_latest_time_there_is_does_not_upset_the_average() {
        let mut ks = Keyspace::new(1, 1);
        ks.now_ms = 1000;
        for i in 0..100 {
            ks.set(0, format!("key:{i}").as_bytes(), Payload::Int(i), Some(i64::MAX));
        }
        ks.expire_cycle(|| true);
        assert!(ks.dbs[0].avg_ttl > 0);
    }

    #[test]
    fn what_a_replicas_clients_wrote_leaves_a_little_at_a_time() {
        let mut ks = Keyspace::new(1, 1);
        (ks.now_ms, ks.origin) = (1000, Origin::ReplicaWriter);
        for i in 0..100 {
            let key = format!("key:{i}");
            ks.set(0, key.as_bytes(), Payload::Int(i), Some(1001 + i / 90));
            ks.touched(0, key.as_bytes());
        }
        ks.now_ms = 1001;
        let mut rounds = 0;
        while ks.dbs[0].len() > 10 {
            let before = ks.dbs[0].len();
            ks.expire_own(|| true);
            rounds += 1;
            assert!((1..20).contains(&(before - ks.dbs[0].len())));
        }
        assert!(rounds > 4);
        ks.expire_own(|| false);
        assert_eq!((ks.dbs[0].len(), ks.own_expires.len()), (10, 10));
    }
}
