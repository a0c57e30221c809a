//! The databases, and the rules by which keys are found, created, expired and removed.
//!
//! Every path that changes a key comes through here, because five things must follow the change
//! without any command thinking of them: the expiry index, `WATCH`, clients blocked on the key,
//! keyspace events, and effects for keys that vanish by themselves.

use crate::effects::Effects;
use crate::entry::{Entry, EntryRef, Payload, Str};
use crate::error::Error;
use crate::hasher::hash;
use crate::table::Table;
use crate::text::Text;
use crate::value::{SAMPLES, Value};
use std::borrow::Borrow;
use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;

/// Classes of keyspace events, as bits: `notify-keyspace-events`.
pub mod event {
    pub const KEYSPACE: u32 = 1 << 0;
    pub const KEYEVENT: u32 = 1 << 1;
    pub const GENERIC: u32 = 1 << 2;
    pub const STRING: u32 = 1 << 3;
    pub const LIST: u32 = 1 << 4;
    pub const SET: u32 = 1 << 5;
    pub const HASH: u32 = 1 << 6;
    pub const ZSET: u32 = 1 << 7;
    pub const EXPIRED: u32 = 1 << 8;
    pub const EVICTED: u32 = 1 << 9;
    pub const STREAM: u32 = 1 << 10;
    pub const KEY_MISS: u32 = 1 << 11;
    pub const MODULE: u32 = 1 << 13;
    pub const NEW: u32 = 1 << 14;
    /// For clients that cache, and no class of `notify-keyspace-events`, as the next two: a key is not what it was.
    pub const CHANGED: u32 = 1 << 16;
    /// A key has left by itself, because of its time or for want of memory.
    pub const VANISHED: u32 = 1 << 17;
    /// Any key may be another.
    pub const FLUSHED: u32 = 1 << 18;
    /// What these clients are told of.
    pub const TRACKED: u32 = CHANGED | VANISHED | FLUSHED;
    /// The classes that `A` stands for.
    pub const ALL: u32 =
        GENERIC | STRING | LIST | SET | HASH | ZSET | EXPIRED | EVICTED | STREAM | MODULE;
}

/// When a small collection becomes a large one: Redis's directives of the same names.
#[derive(Clone, Debug)]
pub struct Limits {
    pub hash_max_listpack_entries: usize,
    pub hash_max_listpack_value: usize,
    /// Positive: entries a node; -1 to -5: 4 to 64 KiB a node.
    pub list_max_listpack_size: i32,
    pub set_max_intset_entries: usize,
    pub set_max_listpack_entries: usize,
    pub set_max_listpack_value: usize,
    pub zset_max_listpack_entries: usize,
    pub zset_max_listpack_value: usize,
    /// The largest string: `proto-max-bulk-len`.
    pub max_string: usize,
    pub lfu_log_factor: u32,
    /// Minutes.
    pub lfu_decay_time: u32,
    /// Payloads of `RESTORE` are taken without looking at their checksum.
    pub skip_checksum: bool,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            hash_max_listpack_entries: 512,
            hash_max_listpack_value: 64,
            list_max_listpack_size: -2,
            set_max_intset_entries: 512,
            set_max_listpack_entries: 128,
            set_max_listpack_value: 64,
            zset_max_listpack_entries: 128,
            zset_max_listpack_value: 64,
            max_string: 512 << 20,
            lfu_log_factor: 10,
            lfu_decay_time: 1,
            skip_checksum: false,
        }
    }
}

/// What freeing may be left to another thread: the `lazyfree-*` directives.
#[derive(Clone, Copy, Debug, Default)]
pub struct LazyFree {
    pub eviction: bool,
    pub expire: bool,
    pub server_del: bool,
    pub user_del: bool,
    pub user_flush: bool,
}

/// Counters that `INFO stats` shows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stats {
    pub hits: u64,
    pub misses: u64,
    pub expired: u64,
    pub evicted: u64,
    /// Per cent of expired keys among those with a time to live, as the active cycle last saw it.
    pub expired_stale_perc: f64,
    pub expired_time_cap_reached: u64,
}

/// A keyspace event that waits to be published.
pub struct Event {
    pub class: u32,
    pub name: &'static str,
    pub db: usize,
    pub key: Box<[u8]>,
    /// Whose command it was, where that is not the one at hand.
    pub by: Option<u64>,
}

/// How keys remember when they were last used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AccessClock {
    #[default]
    Lru,
    Lfu,
}

/// Whose commands run, which decides what an expired key means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// A client of a primary: an expired key is deleted when it is met.
    #[default]
    Client,
    /// A client of a replica that reads: an expired key is not there, but deleting it is the primary's.
    ReplicaReader,
    /// A client of a writable replica that writes: an expired key makes way for what it writes.
    ReplicaWriter,
    /// The log or the primary's stream: whatever is there is there.
    Log,
}

/// What freed memory waits for another thread.
pub enum Garbage {
    Value(Value),
    Keys(Table<Entry>),
    Other(Box<dyn Send>),
}

impl Garbage {
    /// Bytes that freeing a value gives back, estimated as by [`Value::memory`]; of the rest none are promised.
    pub fn memory(&self) -> usize {
        match self {
            Garbage::Value(value) => value.memory(SAMPLES),
            Garbage::Keys(_) | Garbage::Other(_) => 0,
        }
    }
}

/// What clients have the server remember: a key or a channel. All who have the same share it.
pub type Name = Arc<[u8]>;

/// A name as a table has it, or one that is new.
pub fn shared<T>(table: &HashMap<Name, T>, name: &[u8]) -> Name {
    table.get_key_value(name).map_or_else(|| name.into(), |(known, _)| known.clone())
}

/// One database.
#[derive(Default)]
pub struct Db {
    keys: Table<Entry>,
    /// The keys of `keys` that have a time to live, by the same words.
    expires: Table<EntryRef>,
    /// Keys on which clients are blocked, and how many clients.
    waiting: HashMap<Name, u32>,
    /// Keys that clients watch, and who.
    watched: HashMap<Name, Vec<u64>>,
    /// Average time to live of the keys that the active cycle met, ms.
    pub avg_ttl: i64,
    /// Where the active expiry cycle goes on.
    pub expire_cursor: u64,
}

impl Db {
    pub fn keys(&self) -> &Table<Entry> {
        &self.keys
    }

    pub fn expires(&self) -> &Table<EntryRef> {
        &self.expires
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The entry, expired or not, without counting the access.
    #[inline]
    pub fn peek(&self, key: &[u8]) -> Option<&Entry> {
        self.keys.get(hash(key), key)
    }

    /// Whether clients are blocked on any key here.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn insert(&mut self, hash: u64, entry: Entry) -> &mut Entry {
        if entry.expire().is_some() {
            self.expires.insert_new(hash, entry.word());
        }
        self.keys.insert_new(hash, entry)
    }

    fn remove(&mut self, hash: u64, key: &[u8]) -> Option<Entry> {
        let entry = self.keys.remove(hash, key)?;
        if entry.expire().is_some() {
            // `key` may be the entry's own, which is alive until the caller drops it.
            self.expires.remove(hash, entry.key());
        }
        Some(entry)
    }

    /// Runs `change` on an entry that may move or gain or lose its time to live, and keeps the
    /// expiry index in step.
    fn change<R>(
        &mut self,
        hash: u64,
        key: &[u8],
        change: impl FnOnce(&mut Entry) -> R,
    ) -> Option<R> {
        let entry = self.keys.get_mut(hash, key)?;
        // The index finds its word by the key in the entry, so it lets go before the entry moves.
        if entry.expire().is_some() {
            self.expires.remove(hash, key);
        }
        let result = change(entry);
        if entry.expire().is_some() {
            let word = entry.word();
            self.expires.insert_new(hash, word);
        }
        Some(result)
    }

    /// Moves up to `buckets` buckets of tables that are growing or shrinking. Whether more is to do.
    pub fn rehash_some(&mut self, buckets: usize) -> bool {
        let keys = self.keys.rehash_some(buckets);
        self.expires.rehash_some(buckets) || keys
    }

    pub fn reserve(&mut self, keys: usize, expires: usize) {
        self.keys.reserve(keys);
        self.expires.reserve(expires);
    }
}

/// All databases and what they share.
pub struct Keyspace {
    pub dbs: Vec<Db>,
    /// The instant that the running command sees, Unix ms.
    pub now_ms: i64,
    pub origin: Origin,
    /// Whether nothing may leave by itself: what has expired is hidden, not removed, and nothing is
    /// evicted. Set while writes are held, by `CLIENT PAUSE` or a failover.
    pub held: bool,
    pub limits: Limits,
    pub lazy: LazyFree,
    pub effects: Effects,
    /// Changes since the last save, as Redis counts them.
    pub dirty: u64,
    pub stats: Stats,
    pub access_clock: AccessClock,
    /// Set while a child shares the memory: reads leave access clocks alone.
    pub child_alive: bool,
    /// Set while a command of a client runs that asked to leave no traces: `CLIENT NO-TOUCH`.
    pub no_touch: bool,
    /// Classes of events somebody asked for.
    pub notify: u32,
    pub events: Vec<Event>,
    /// All data were given up at once: `FLUSHALL`.
    pub emptied: bool,
    /// Clients whose watched keys were changed.
    pub watchers_hit: Vec<u64>,
    /// Keys whose time to live a client of a writable replica had a hand in, and when that is over. No
    /// primary will delete them.
    pub own_expires: BTreeSet<(i64, usize, Box<[u8]>)>,
    /// Keys that blocked clients wait for and that may now have what they want.
    pub ready: Vec<(usize, Name)>,
    pub garbage: Vec<Garbage>,
    /// The database with which the next expiry cycle begins.
    pub(crate) expire_db: usize,
    rng: u64,
}

impl Keyspace {
    /// `databases` empty databases; `seed` starts the random choices (`SPOP`, eviction, …).
    pub fn new(databases: usize, seed: u64) -> Keyspace {
        Keyspace {
            dbs: (0..databases).map(|_| Db::default()).collect(),
            now_ms: 0,
            origin: Origin::Client,
            own_expires: BTreeSet::new(),
            emptied: false,
            held: false,
            limits: Limits::default(),
            lazy: LazyFree::default(),
            effects: Effects::default(),
            dirty: 0,
            stats: Stats::default(),
            access_clock: AccessClock::Lru,
            child_alive: false,
            no_touch: false,
            notify: 0,
            events: Vec::new(),
            watchers_hit: Vec::new(),
            ready: Vec::new(),
            garbage: Vec::new(),
            expire_db: 0,
            rng: seed | 1,
        }
    }

    /// A random word (xorshift64*): good enough to sample with, not to keep secrets with.
    pub fn random(&mut self) -> u64 {
        self.rng ^= self.rng >> 12;
        self.rng ^= self.rng << 25;
        self.rng ^= self.rng >> 27;
        self.rng.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A random number below `n`, which is not 0.
    pub fn random_below(&mut self, n: usize) -> usize {
        ((self.random() as u128 * n as u128) >> 64) as usize
    }

    // Finding keys.

    /// Whether a key's time is over, as whoever is at work sees it.
    fn is_due(&self, db: usize, hash: u64, key: &[u8]) -> bool {
        let d = &self.dbs[db];
        if d.expires.is_empty() || self.origin == Origin::Log {
            return false;
        }
        d.keys.get(hash, key).and_then(Entry::expire).is_some_and(|at| at <= self.now_ms)
    }

    /// Makes an expired key vanish if it is this server's to delete. Whether it is to be seen as
    /// gone.
    fn expire_if_due(&mut self, db: usize, hash: u64, key: &[u8]) -> bool {
        if !self.is_due(db, hash, key) {
            return false;
        }
        if matches!(self.origin, Origin::Client | Origin::ReplicaWriter) && !self.held {
            self.expire_now(db, key);
        }
        true
    }

    /// Removes a key because its time is over, with all that follows.
    pub fn expire_now(&mut self, db: usize, key: &[u8]) {
        let Some(entry) = self.dbs[db].remove(hash(key), key) else { return };
        let name: &[u8] = if self.lazy.expire { b"UNLINK" } else { b"DEL" };
        self.effects.push(db, [name, entry.key()].into_iter());
        self.expired(db, entry);
    }

    /// What follows when an entry has left because its time is over.
    fn expired(&mut self, db: usize, entry: Entry) {
        self.stats.expired += 1;
        self.notify(event::EXPIRED, "expired", db, entry.key());
        self.vanished(db, entry.key());
        self.free(entry, self.lazy.expire);
    }

    /// Whether the key is there, without counting an access.
    pub fn exists(&mut self, db: usize, key: &[u8]) -> bool {
        self.peek(db, key).is_some()
    }

    /// The entry without counting an access or a hit.
    pub fn peek(&mut self, db: usize, key: &[u8]) -> Option<&Entry> {
        let hash = hash(key);
        if self.expire_if_due(db, hash, key) {
            return None;
        }
        self.dbs[db].keys.get(hash, key)
    }

    /// The entry for a command that reads what is beside the value: hit or miss is counted, and the
    /// access is none. `EXISTS`, `TYPE`, `TTL` ….
    pub fn look(&mut self, db: usize, key: &[u8]) -> Option<&Entry> {
        if self.peek(db, key).is_none() {
            self.miss(db, key);
            return None;
        }
        self.stats.hits += 1;
        self.dbs[db].peek(key)
    }

    /// The entry for a command that reads; counts hit or miss and the access.
    #[inline]
    pub fn read(&mut self, db: usize, key: &[u8]) -> Option<&Entry> {
        let hash = hash(key);
        if self.expire_if_due(db, hash, key) || self.dbs[db].keys.is_empty() {
            self.miss(db, key);
            return None;
        }
        // One probe serves the access clock and the reply.
        let clock = self.access_now();
        match self.dbs[db].keys.get_mut(hash, key) {
            None => {
                self.stats.misses += 1;
                // Looked at only where somebody asked: a miss must stay cheap.
                if self.notify & event::KEY_MISS != 0 {
                    let (class, key) = (event::KEY_MISS, key.into());
                    self.events.push(Event { class, name: "keymiss", db, key, by: None });
                }
                None
            }
            Some(entry) => {
                self.stats.hits += 1;
                clock.mark(entry, &self.limits);
                Some(entry)
            }
        }
    }

    fn miss(&mut self, db: usize, key: &[u8]) {
        self.stats.misses += 1;
        self.notify(event::KEY_MISS, "keymiss", db, key);
    }

    /// The entry for a command that changes its value in place (never its size in the entry: strings
    /// go through [`Keyspace::edit_string`] and [`Keyspace::set`]). The caller ends with
    /// [`Keyspace::changed`].
    #[inline]
    pub fn write(&mut self, db: usize, key: &[u8]) -> Option<&mut Entry> {
        let hash = hash(key);
        if self.expire_if_due(db, hash, key) {
            return None;
        }
        let clock = self.access_now();
        let entry = self.dbs[db].keys.get_mut(hash, key)?;
        clock.mark(entry, &self.limits);
        Some(entry)
    }

    /// The entry that [`Keyspace::write`] has given the command at hand before: no access more.
    pub fn again(&mut self, db: usize, key: &[u8]) -> Option<&mut Entry> {
        self.dbs[db].keys.get_mut(hash(key), key)
    }

    /// What an access now leaves in an entry's clock.
    #[inline]
    fn access_now(&mut self) -> Access {
        match self.access_clock {
            _ if self.child_alive || self.no_touch => Access::Nothing,
            AccessClock::Lru => Access::Lru(self.lru_clock()),
            AccessClock::Lfu => Access::Lfu { now_ms: self.now_ms, random: self.random() },
        }
    }

    fn lru_clock(&self) -> u32 {
        (self.now_ms / 1000) as u32 & 0x00ff_ffff
    }

    /// The access clock of a key made now.
    fn fresh_access(&self) -> u32 {
        match self.access_clock {
            AccessClock::Lru => self.lru_clock(),
            AccessClock::Lfu => minutes(self.now_ms) << 8 | LFU_INIT,
        }
    }

    /// Seconds since the last access (LRU clock).
    pub fn idle_seconds(&self, entry: &Entry) -> u64 {
        (self.lru_clock().wrapping_sub(entry.access()) & 0x00ff_ffff) as u64
    }

    /// The access counter with the decay of the time since (LFU clock).
    pub fn frequency(&self, entry: &Entry) -> u8 {
        lfu_decayed(entry.access(), self.now_ms, &self.limits)
    }

    /// Sets idle time in seconds or frequency as `RESTORE` says, as far as the access clock in use
    /// can hold it.
    pub fn set_access_hint(&mut self, db: usize, key: &[u8], idle: Option<u64>, freq: Option<u8>) {
        let Some(clock) = self.access_hint(idle, freq) else { return };
        if let Some(entry) = self.dbs[db].keys.get_mut(hash(key), key) {
            entry.set_access(clock);
        }
    }

    fn access_hint(&self, idle: Option<u64>, freq: Option<u8>) -> Option<u32> {
        match (self.access_clock, idle, freq) {
            (AccessClock::Lru, Some(idle), _) => {
                Some(self.lru_clock().wrapping_sub(idle.min(0x00ff_ffff) as u32))
            }
            (AccessClock::Lfu, _, Some(freq)) => Some(minutes(self.now_ms) << 8 | freq as u32),
            _ => None,
        }
    }

    // The value of a key, by type.

    /// The string at a key that is read.
    #[inline]
    pub fn read_string(&mut self, db: usize, key: &[u8]) -> Result<Option<Str<'_>>, Error> {
        match self.read(db, key) {
            None => Ok(None),
            Some(entry) => entry.string().map(Some).ok_or(Error::WRONG_TYPE),
        }
    }

    /// The bytes of a long string for a reader to hold; the access was counted already.
    pub fn share_string(&mut self, db: usize, key: &[u8]) -> Option<Arc<Vec<u8>>> {
        self.dbs[db].keys.get_mut(hash(key), key)?.share_string()
    }

    // Making, changing and removing keys.

    /// The largest string that may come to be. What was decided elsewhere is not judged here again, where
    /// `proto-max-bulk-len` may be another.
    pub fn max_string(&self) -> u64 {
        match self.origin {
            Origin::Log => u64::MAX,
            _ => self.limits.max_string as u64,
        }
    }

    /// Sets a key to a value, whatever it held. `expire_ms` is its new time to live, if any.
    pub fn set(&mut self, db: usize, key: &[u8], payload: Payload<'_>, expire_ms: Option<i64>) {
        let hash = hash(key);
        // A new value is one access more under LFU, and starts anew under LRU.
        let clock = match self.access_clock {
            AccessClock::Lru => Access::Lru(self.lru_clock()),
            AccessClock::Lfu => self.access_now(),
        };
        let large = |v: &Value| v.free_effort() > LAZY_EFFORT;
        match self.dbs[db].keys.get_mut(hash, key) {
            None => _ = self.add(db, key, payload, expire_ms),
            Some(entry)
                if entry.expire().is_none()
                    && expire_ms.is_none()
                    && !entry.value().is_some_and(large) =>
            {
                entry.set_payload(payload, None);
                clock.mark(entry, &self.limits);
            }
            Some(_) => {
                // What is over goes by itself first. The log need not be told, as the key is written anew.
                if self.is_due(db, hash, key)
                    && !self.held
                    && let Some(old) = self.remove(db, key)
                {
                    self.expired(db, old);
                    self.add(db, key, payload, expire_ms);
                    self.touched(db, key);
                    return;
                }
                let limits = &self.limits;
                let old = self.dbs[db].change(hash, key, |entry| {
                    // What is overwritten may be large; it goes where large things go.
                    let old = match entry.value().is_some_and(large) {
                        true => entry.take_value(),
                        false => None,
                    };
                    entry.set_payload(payload, expire_ms);
                    clock.mark(entry, limits);
                    old
                });
                if let Some(Some(old)) = old
                    && self.lazy.server_del
                {
                    self.garbage.push(Garbage::Value(old));
                }
            }
        }
        self.touched(db, key);
    }

    /// Adds a key that is known not to be there. The caller ends with [`Keyspace::changed`].
    pub fn add(
        &mut self,
        db: usize,
        key: &[u8],
        payload: Payload<'_>,
        expire_ms: Option<i64>,
    ) -> &mut Entry {
        self.notify(event::NEW, "new", db, key);
        self.signal_ready(db, key);
        let mut entry = Entry::new(key, payload, expire_ms);
        entry.set_access(self.fresh_access());
        self.dbs[db].insert(hash(key), entry)
    }

    /// Fetches what [`Keyspace::load`] of this entry will touch. A few entries ahead, so that the
    /// misses overlap.
    pub fn prefetch_load(&self, db: usize, entry: &Entry) {
        self.dbs[db].keys.prefetch(hash(entry.key()));
    }

    /// Adds an entry from a snapshot, with no events. `idle_s` and `freq` are what the snapshot says
    /// of its use.
    ///
    /// # Errors
    /// The entry itself, if its key is there already and `replace` is not set.
    pub fn load(
        &mut self,
        db: usize,
        mut entry: Entry,
        idle_s: Option<u64>,
        freq: Option<u8>,
        replace: bool,
    ) -> Result<(), Entry> {
        let hash = hash(entry.key());
        entry.set_access(self.access_hint(idle_s, freq).unwrap_or(self.fresh_access()));
        let d = &mut self.dbs[db];
        if d.keys.contains(hash, entry.key()) {
            if !replace {
                return Err(entry);
            }
            d.remove(hash, entry.key());
        }
        d.insert(hash, entry);
        Ok(())
    }

    /// The string at a key as a growing vector, made empty if there is none; the caller ends with
    /// [`Keyspace::changed`].
    pub fn edit_string(&mut self, db: usize, key: &[u8]) -> Result<&mut Vec<u8>, Error> {
        let hash = hash(key);
        match self.write(db, key) {
            None => {
                self.add(db, key, Payload::Value(Value::Str(Text::default())), None);
            }
            Some(entry) if entry.string().is_none() => return Err(Error::WRONG_TYPE),
            Some(entry) if matches!(entry.value(), Some(Value::Str(_))) => {}
            Some(_) => {
                self.dbs[db].change(hash, key, |entry| {
                    entry.edit_string();
                });
            }
        }
        let entry = self.dbs[db].keys.get_mut(hash, key).expect("found or added above");
        Ok(entry.edit_string().expect("a string, checked above"))
    }

    /// Changes when a key expires. Whether the key was there.
    pub fn set_expire(&mut self, db: usize, key: &[u8], at_ms: Option<i64>) -> bool {
        self.dbs[db].change(hash(key), key, |entry| entry.set_expire(at_ms)).is_some()
    }

    /// Takes a key out. No event, effect or signal: the caller knows what this is.
    pub fn remove(&mut self, db: usize, key: &[u8]) -> Option<Entry> {
        self.dbs[db].remove(hash(key), key)
    }

    /// Puts an entry under a key that is free, for `RENAME`, `MOVE`, `COPY`. `access` is the clock of the key that it
    /// was until now, if it was one.
    pub fn put(&mut self, db: usize, mut entry: Entry, access: Option<u32>) {
        entry.set_access(access.unwrap_or(self.fresh_access()));
        let key: Box<[u8]> = entry.key().into();
        self.dbs[db].insert(hash(&key), entry);
        self.notify(event::NEW, "new", db, &key);
        self.signal_ready(db, &key);
    }

    /// Deletes a key; `lazy` leaves a large value to another thread. Whether it was there.
    pub fn delete(&mut self, db: usize, key: &[u8], lazy: bool) -> bool {
        if self.expire_if_due(db, hash(key), key) {
            return false;
        }
        let Some(entry) = self.remove(db, key) else { return false };
        self.free(entry, lazy);
        self.changed(db, key, event::GENERIC, "del");
        true
    }

    /// Deletes a collection that has just become empty: the `del` event, and nothing else, as the
    /// command that emptied it says the rest.
    pub fn delete_empty(&mut self, db: usize, key: &[u8]) {
        if self.remove(db, key).is_some() {
            self.notify(event::GENERIC, "del", db, key);
        }
    }

    /// Drops an entry, large values on another thread if `lazy`.
    pub fn free(&mut self, mut entry: Entry, lazy: bool) {
        if lazy
            && entry.value().is_some_and(|v| v.free_effort() > LAZY_EFFORT)
            && let Some(value) = entry.take_value()
        {
            self.garbage.push(Garbage::Value(value));
        }
    }

    /// Empties a database; with `lazy` its memory is freed on another thread. How many keys it had.
    pub fn flush(&mut self, db: usize, lazy: bool) -> usize {
        self.flushed();
        let d = &mut self.dbs[db];
        let n = d.keys.len();
        for (key, clients) in &d.watched {
            if d.keys.get(hash(key), key).is_some() {
                self.watchers_hit.extend_from_slice(clients);
            }
        }
        d.expires = Table::new();
        let keys = std::mem::take(&mut d.keys);
        d.avg_ttl = 0;
        // A few keys may hold much.
        if lazy && n > 0 {
            self.garbage.push(Garbage::Keys(keys));
        }
        n
    }

    /// Puts `fresh` data in the place of all that there is, which goes as by [`Keyspace::flush`].
    /// Clients that watch a key or wait for one see the new.
    pub fn replace(&mut self, fresh: Vec<Db>, lazy: bool) {
        for (db, fresh) in fresh.into_iter().enumerate().take(self.dbs.len()) {
            self.flush(db, lazy);
            let d = &mut self.dbs[db];
            (d.keys, d.expires) = (fresh.keys, fresh.expires);
            for (key, clients) in &d.watched {
                if d.keys.get(hash(key), key).is_some() {
                    self.watchers_hit.extend_from_slice(clients);
                }
            }
            for key in d.waiting.keys().filter(|key| d.keys.get(hash(key), key).is_some()) {
                self.ready.push((db, key.clone()));
            }
        }
    }

    /// Exchanges two databases: clients that watch a key or wait for one see the other's.
    pub fn swap(&mut self, a: usize, b: usize) {
        if a == b {
            return;
        }
        self.flushed();
        // A watched key whose time is over is not there, on neither side: nothing happens to it.
        let (of_a, of_b) = (self.dbs[a].watched.keys(), self.dbs[b].watched.keys());
        for key in of_a.chain(of_b).cloned().collect::<Vec<_>>() {
            self.exists(a, &key);
            self.exists(b, &key);
        }
        for (from, to) in [(a, b), (b, a)] {
            for (key, clients) in &self.dbs[from].watched {
                let hash = hash(key);
                let there = |db: usize| self.dbs[db].keys.get(hash, key).is_some();
                if there(from) || there(to) {
                    self.watchers_hit.extend_from_slice(clients);
                }
            }
        }
        let (low, high) = (a.min(b), a.max(b));
        let (left, right) = self.dbs.split_at_mut(high);
        let (x, y) = (&mut left[low], &mut right[0]);
        std::mem::swap(&mut x.keys, &mut y.keys);
        std::mem::swap(&mut x.expires, &mut y.expires);
        std::mem::swap(&mut x.avg_ttl, &mut y.avg_ttl);
        std::mem::swap(&mut x.expire_cursor, &mut y.expire_cursor);
        for db in [a, b] {
            let keys: Vec<Name> = self.dbs[db].waiting.keys().cloned().collect();
            for key in keys {
                if self.dbs[db].keys.get(hash(&key), &key).is_some() {
                    self.ready.push((db, key));
                }
            }
        }
    }

    // What follows a change.

    /// One change to a key: watchers, waiters, the event, and the count of changes.
    #[inline]
    pub fn changed(&mut self, db: usize, key: &[u8], class: u32, name: &'static str) {
        self.touched(db, key);
        self.notify(class, name, db, key);
        self.dirty += 1;
    }

    #[cold]
    fn touched_on_replica(&mut self, db: usize, key: &[u8]) {
        if let Some(at) = self.dbs[db].peek(key).and_then(Entry::expire) {
            self.own_expires.insert((at, db, key.into()));
        }
    }

    /// A key is not what it was: who watches it will not `EXEC`, and who cached it is to forget it.
    #[inline]
    pub fn touched(&mut self, db: usize, key: &[u8]) {
        self.notify(event::CHANGED, "", db, key);
        self.unwatched(db, key);
    }

    /// As [`Keyspace::touched`], of a key that no client's command took away.
    pub fn vanished(&mut self, db: usize, key: &[u8]) {
        self.notify(event::VANISHED, "", db, key);
        self.unwatched(db, key);
    }

    #[inline]
    fn unwatched(&mut self, db: usize, key: &[u8]) {
        let d = &mut self.dbs[db];
        // There is nothing more to tell them of the key: once is enough.
        if !d.watched.is_empty()
            && let Some(clients) = take_out(&mut d.watched, key)
        {
            self.watchers_hit.extend(clients);
        }
        if self.origin == Origin::ReplicaWriter {
            self.touched_on_replica(db, key);
        }
    }

    /// A key may now have what blocked clients want.
    #[inline]
    pub fn signal_ready(&mut self, db: usize, key: &[u8]) {
        let d = &self.dbs[db];
        if let Some((name, _)) = d.waiting.get_key_value(key) {
            self.ready.push((db, name.clone()));
        }
    }

    /// A keyspace event, kept only if somebody asked for its class.
    #[inline]
    pub fn notify(&mut self, class: u32, name: &'static str, db: usize, key: &[u8]) {
        if self.notify & class != 0 {
            self.events.push(Event { class, name, db, key: key.into(), by: None });
        }
    }

    /// Any key may be another now: clients that cache forget all.
    fn flushed(&mut self) {
        // Databases that are emptied together are said once.
        if self.events.last().is_none_or(|last| last.class != event::FLUSHED) {
            self.notify(event::FLUSHED, "", 0, b"");
        }
    }

    pub fn is_watched_by(&self, db: usize, key: &[u8], client: u64) -> bool {
        self.dbs[db].watched.get(key).is_some_and(|clients| clients.contains(&client))
    }

    /// `client`, which does not do so yet, watches a key.
    pub fn watch(&mut self, db: usize, key: &[u8], client: u64) -> Name {
        let watched = &mut self.dbs[db].watched;
        let name = shared(watched, key);
        watched.entry(name.clone()).or_default().push(client);
        name
    }

    pub fn unwatch(&mut self, db: usize, key: &[u8], client: u64) {
        if let Some(clients) = self.dbs[db].watched.get_mut(key) {
            clients.retain(|&c| c != client);
            if clients.is_empty() {
                take_out(&mut self.dbs[db].watched, key);
            }
        }
    }

    /// A client is blocked on a key.
    pub fn wait_for(&mut self, db: usize, key: &[u8]) -> Name {
        let waiting = &mut self.dbs[db].waiting;
        let name = shared(waiting, key);
        *waiting.entry(name.clone()).or_default() += 1;
        name
    }

    pub fn stop_waiting(&mut self, db: usize, key: &[u8]) {
        if let Some(n) = self.dbs[db].waiting.get_mut(key) {
            *n -= 1;
            if *n == 0 {
                take_out(&mut self.dbs[db].waiting, key);
            }
        }
    }

    /// Keys on which clients are blocked.
    pub fn blocking_keys(&self) -> usize {
        self.dbs.iter().map(|d| d.waiting.len()).sum()
    }
}

/// Takes a key out of a table, which does not keep the size of its peak once it is empty.
pub fn take_out<K, V, Q>(table: &mut HashMap<K, V>, key: &Q) -> Option<V>
where
    K: Borrow<Q> + Eq + Hash,
    Q: Eq + Hash + ?Sized,
{
    const KEPT: usize = 64;
    let value = table.remove(key);
    if table.is_empty() {
        table.shrink_to(KEPT);
    }
    value
}

/// An access that is to be noted in an entry.
enum Access {
    /// A child shares the memory: the page stays clean.
    Nothing,
    Lru(u32),
    Lfu {
        now_ms: i64,
        random: u64,
    },
}

impl Access {
    #[inline]
    fn mark(&self, entry: &mut Entry, limits: &Limits) {
        match *self {
            Access::Nothing => {}
            // Most accesses find the clock as it is: the line stays clean.
            Access::Lru(clock) if entry.access() == clock => {}
            Access::Lru(clock) => entry.set_access(clock),
            Access::Lfu { now_ms, random } => {
                entry.set_access(lfu_accessed(entry.access(), now_ms, limits, random));
            }
        }
    }
}

/// Freeing more allocations than this is left to another thread where that is allowed.
const LAZY_EFFORT: usize = 64;

/// The counter of a new key, so that it survives long enough to be used again.
const LFU_INIT: u32 = 5;

/// Minutes of the clock that LFU keeps, 16 bits.
fn minutes(now_ms: i64) -> u32 {
    (now_ms / 60_000) as u32 & 0xffff
}

fn lfu_decayed(access: u32, now_ms: i64, limits: &Limits) -> u8 {
    let elapsed = minutes(now_ms).wrapping_sub(access >> 8) & 0xffff;
    let periods = elapsed.checked_div(limits.lfu_decay_time).unwrap_or(0);
    (access & 0xff).saturating_sub(periods) as u8
}

/// The logarithmic counter: the higher it stands, the less likely an access is to raise it.
fn lfu_accessed(access: u32, now_ms: i64, limits: &Limits, random: u64) -> u32 {
    let mut counter = lfu_decayed(access, now_ms, limits) as u32;
    if counter < 255 {
        let above = counter.saturating_sub(LFU_INIT) as f64;
        let chance = 1.0 / (above * limits.lfu_log_factor as f64 + 1.0);
        if (random as f64 / u64::MAX as f64) < chance {
            counter += 1;
        }
    }
    minutes(now_ms) << 8 | counter
}
