//! Clients that cache what they read, and hear when it changes: `CLIENT TRACKING`.
//!
//! There are two ways. By default the table remembers who has read which key: the key's next change is
//! told to all of them, once, and then forgotten, as they will read it anew. With `BCAST` nothing is
//! remembered: at the end of a turn a client is told of all keys that changed and begin with one of its
//! prefixes. A key is the same key in every database, so that `SWAPDB`, like `FLUSHDB`, makes clients forget all
//! (Redis does not tell them).
//!
//! What changed comes as events from the keyspace ([`event::TRACKED`]), which leaves them only while
//! somebody tracks. They are told on the client's own connection (RESP 3), or on the one that it redirects
//! to, which in RESP 2 has to listen to a channel.
//!
//! The table holds `tracking-table-max-keys` keys at most: beyond that a random one is told of as if it
//! had changed. A client that goes leaves its number with the keys it read; the timer goes through the
//! table for those, a part each round, as a client may have read them all.

use super::Server;
use super::client::{Client, Kind};
use super::dispatch::Call;
use super::pubsub::{AtHand, unmuted};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::rc::Rc;
use varve_engine::command::{Spec, flag};
use varve_engine::hasher::hash;
use varve_engine::keyspace::{Event, Garbage, event};
use varve_engine::table::{Slot, Table};
use varve_engine::{Args, Reply};
use varve_net::{ConnId, Net};

/// Where the messages for a client come from that redirects to one which speaks RESP 2.
const CHANNEL: &[u8] = b"__redis__:invalidate";
/// A table of more keys is freed by another thread.
const SMALL: usize = 64;
/// Keys beyond the table's limit that are forgotten in one go.
const SURPLUS: usize = 1000;
/// Parts of the table that a round of the timer goes through for clients that are gone.
const SWEEP: usize = 1000;

/// How a client tracks.
#[derive(Default)]
pub struct Tracker {
    /// The client that is told in its place; 0 is itself.
    pub redirect: ConnId,
    /// ... and was not there when there was something to tell.
    pub broken: bool,
    pub bcast: bool,
    pub optin: bool,
    pub optout: bool,
    /// What it changes itself it is not told of.
    pub noloop: bool,
    /// `CLIENT CACHING` came before the command or transaction at hand.
    pub caching: bool,
    /// With `bcast`: what keys must begin with.
    pub prefixes: BTreeSet<Box<[u8]>>,
    /// Whether it may be in the table.
    reads: bool,
}

impl Tracker {
    /// Whether the keys that it reads now are remembered.
    fn caches(&self) -> bool {
        !self.bcast && !(if self.caching { self.optout } else { self.optin })
    }
}

/// A key that clients may hold, and these clients.
struct Read {
    key: Box<[u8]>,
    readers: Readers,
}

/// Mostly one.
enum Readers {
    One(ConnId),
    Many(BTreeSet<ConnId>),
}

impl Readers {
    fn len(&self) -> usize {
        match self {
            Readers::One(_) => 1,
            Readers::Many(ids) => ids.len(),
        }
    }

    fn iter(&self) -> impl Iterator<Item = ConnId> {
        let (one, many) = match self {
            Readers::One(id) => (Some(*id), None),
            Readers::Many(ids) => (None, Some(ids.iter().copied())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }
}

/// A word of the table.
struct Word(Box<Read>);

impl Slot for Word {
    fn key(&self) -> &[u8] {
        &self.0.key
    }

    fn address(&self) -> *const u8 {
        (&raw const *self.0).cast()
    }
}

/// Who has read which key.
#[derive(Default)]
pub struct ReadKeys {
    keys: Table<Word>,
    /// Keys and readers in pairs.
    items: usize,
    /// Where the search for readers that are gone goes on, and whether it is to begin again at its end.
    sweep: Option<(u64, bool)>,
}

impl ReadKeys {
    /// How many keys.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    pub fn items(&self) -> usize {
        self.items
    }

    fn add(&mut self, key: &[u8], id: ConnId) {
        let hash = hash(key);
        let Some(Word(read)) = self.keys.get_mut(hash, key) else {
            let read = Read { key: key.into(), readers: Readers::One(id) };
            self.keys.insert_new(hash, Word(Box::new(read)));
            self.items += 1;
            return;
        };
        match &mut read.readers {
            Readers::One(other) if *other == id => {}
            Readers::One(other) => {
                read.readers = Readers::Many(BTreeSet::from([*other, id]));
                self.items += 1;
            }
            Readers::Many(ids) => self.items += ids.insert(id) as usize,
        }
    }

    /// Forgets a key. Who has read it.
    fn take(&mut self, key: &[u8]) -> Option<Readers> {
        let Word(read) = self.keys.remove(hash(key), key)?;
        self.items -= read.readers.len();
        Some(read.readers)
    }

    /// Any key.
    fn sample(&self, random: impl FnMut() -> u64) -> Option<Box<[u8]>> {
        self.keys.sample(random).map(|word| word.key().into())
    }

    /// Has the table gone through for readers that are gone.
    fn sweep_from_now(&mut self) {
        self.sweep = match self.sweep {
            _ if self.keys.is_empty() => None,
            None => Some((0, false)),
            Some((at, _)) => Some((at, true)),
        };
    }

    /// Forgets readers that are not `there`, in one part of the table.
    fn sweep_some(&mut self, there: impl Fn(ConnId) -> bool) {
        let Some((at, again)) = self.sweep else { return };
        let mut found: Vec<Box<[u8]>> = Vec::new();
        let next = self.keys.scan(at, |Word(read)| {
            if !read.readers.iter().all(&there) {
                found.push(read.key.clone());
            }
        });
        for key in found {
            let left = self.take(&key).into_iter().flat_map(|readers| {
                let left: Vec<ConnId> = readers.iter().filter(|&id| there(id)).collect();
                left
            });
            left.for_each(|id| self.add(&key, id));
        }
        self.sweep = match (next, again) {
            (0, false) => None,
            (0, true) => Some((0, false)),
            _ => Some((next, again)),
        };
    }
}

/// Who listens to which prefix.
#[derive(Default)]
pub struct Prefixes(BTreeMap<Box<[u8]>, BTreeSet<ConnId>>);

impl Prefixes {
    pub fn count(&self) -> usize {
        self.0.len()
    }

    fn add(&mut self, prefix: &[u8], id: ConnId) {
        self.0.entry(prefix.into()).or_default().insert(id);
    }

    fn remove(&mut self, prefix: &[u8], id: ConnId) {
        if let Some(ids) = self.0.get_mut(prefix) {
            ids.remove(&id);
            if ids.is_empty() {
                self.0.remove(prefix);
            }
        }
    }

    fn of(&self, prefix: &[u8]) -> impl Iterator<Item = ConnId> {
        self.0.get(prefix).into_iter().flatten().copied()
    }

    /// All that a key begins with, the longest first.
    fn matching<'a>(&'a self, key: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        // The longest of those not above `bound` is found at once, or what is found shares less with the key, and
        // bounds the next.
        let mut bound = Some(key);
        std::iter::from_fn(move || {
            while let Some(most) = bound {
                let range = (Bound::Unbounded, Bound::Included(most));
                let (found, _) = self.0.range::<[u8], _>(range).next_back()?;
                let shared = found.iter().zip(most).take_while(|(a, b)| a == b).count();
                if shared == found.len() {
                    bound = shared.checked_sub(1).map(|shorter| &key[..shorter]);
                    return Some(&**found);
                }
                bound = Some(&key[..shared]);
            }
            None
        })
    }
}

/// Keys that changed, with the client whose command it was.
type Changed = BTreeMap<Box<[u8]>, Option<ConnId>>;

/// What a client is told.
#[derive(Clone)]
enum Message {
    /// These keys, as RESP, or all that there are.
    Invalid {
        keys: Option<Rc<[u8]>>,
        redirected: bool,
    },
    RedirectBroken(ConnId),
}

impl Message {
    /// Whether it is a client still: what a replica is sent is the log and nothing else.
    fn write(&self, client: &Client, reply: &mut Reply) -> bool {
        if client.kind != Kind::Normal {
            return false;
        }
        unmuted(reply, |reply| match self {
            Message::Invalid { keys, redirected } => {
                if reply.resp3 {
                    reply.push(2);
                    reply.bulk(b"invalidate");
                } else if *redirected && client.in_pubsub() {
                    reply.push(3);
                    reply.bulk(b"message");
                    reply.bulk(CHANNEL);
                } else {
                    return;
                }
                match keys {
                    Some(keys) => reply.raw(keys),
                    None => reply.null(),
                }
            }
            Message::RedirectBroken(to) if reply.resp3 => {
                reply.push(2);
                reply.bulk(b"tracking-redir-broken");
                reply.int(*to as i64);
            }
            Message::RedirectBroken(_) => {}
        });
        true
    }
}

/// Keys as the array that a message ends with.
fn array<'a>(keys: impl ExactSizeIterator<Item = &'a [u8]>) -> Rc<[u8]> {
    let mut reply = Reply::new();
    reply.array(keys.len());
    keys.for_each(|key| reply.bulk(key));
    reply.to_vec().into()
}

/// All that is known of clients that cache.
#[derive(Default)]
pub struct Tracking {
    clients: BTreeMap<ConnId, Tracker>,
    pub table: ReadKeys,
    pub prefixes: Prefixes,
    /// What changed in this turn, by prefix.
    changed: BTreeMap<Box<[u8]>, Changed>,
    /// Messages for clients that were out of reach.
    late: Vec<(ConnId, Message)>,
}

impl Tracking {
    /// Whether nobody tracks.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.clients.is_empty()
    }

    /// How many clients track.
    pub fn len(&self) -> usize {
        self.clients.len()
    }

    pub fn of(&self, id: ConnId) -> Option<&Tracker> {
        self.clients.get(&id)
    }

    pub fn of_mut(&mut self, id: ConnId) -> Option<&mut Tracker> {
        self.clients.get_mut(&id)
    }

    /// Whether there is something to tell at the end of the turn.
    #[inline]
    pub fn is_due(&self) -> bool {
        !self.changed.is_empty() || !self.late.is_empty()
    }
}

impl Server {
    /// Has a client track as `new` says; prefixes that it has already it keeps.
    pub fn track(&mut self, id: ConnId, mut new: Tracker) {
        for prefix in &new.prefixes {
            self.tracking.prefixes.add(prefix, id);
        }
        if let Some(mut old) = self.tracking.clients.remove(&id) {
            old.prefixes.extend(new.prefixes);
            new.prefixes = old.prefixes;
            (new.caching, new.reads) = (old.caching, old.reads);
        }
        self.tracking.clients.insert(id, new);
        self.choose_events();
    }

    /// A client tracks no more, if it did.
    pub fn stop_tracking(&mut self, id: ConnId) {
        let tracking = &mut self.tracking;
        let Some(old) = tracking.clients.remove(&id) else { return };
        for prefix in &old.prefixes {
            tracking.prefixes.remove(prefix, id);
        }
        if tracking.is_empty() {
            self.forget_read_keys();
            self.choose_events();
        } else if old.reads {
            tracking.table.sweep_from_now();
        }
    }

    /// What a large table frees takes a while.
    fn forget_read_keys(&mut self) {
        let table = std::mem::take(&mut self.tracking.table);
        if table.count() > SMALL {
            self.ks.garbage.push(Garbage::Other(Box::new(table)));
        }
    }

    /// Remembers the keys that a command of a client has read, if that tracks.
    #[cold]
    pub fn note_run(&mut self, call: &mut Call<'_>, spec: &Spec, args: &Args<'_>) {
        let Some(tracker) = self.tracking.clients.get_mut(&call.id) else { return };
        if spec.has(flag::READONLY) && tracker.caches() {
            tracker.reads = true;
            let keys = spec.keys.indexes(args);
            for key in keys.iter().filter_map(|&i| args.get(i)) {
                self.tracking.table.add(key, call.id);
            }
            self.forget_surplus(call, keys.len() + SURPLUS);
        }
        self.end_caching(call.client, spec.name);
    }

    /// What `CLIENT CACHING` said is over after the next command that is not another `CLIENT`, or the next
    /// transaction.
    pub fn end_caching(&mut self, client: &Client, command: &str) {
        if client.multi.is_none()
            && self.in_exec.is_none()
            && !command.starts_with("client|")
            && let Some(tracker) = self.tracking.clients.get_mut(&client.id)
        {
            tracker.caching = false;
        }
    }

    /// Forgets up to `most` keys of those that are too many.
    fn limit_read_keys(&mut self, net: &mut Net<Client>, mut own: AtHand<'_>, most: usize) {
        let limit = self.cfg.tracking_table_max_keys as usize;
        for _ in 0..most {
            if limit == 0 || self.tracking.table.count() <= limit {
                return;
            }
            let Some(key) = self.tracking.table.sample(|| self.ks.random()) else { return };
            let own = own.as_mut().map(|(client, reply)| (*client, &mut **reply));
            self.tell_readers(net, own, &key, None);
        }
    }

    /// As `limit_read_keys`, while a client's command runs.
    pub fn forget_surplus(&mut self, call: &mut Call<'_>, most: usize) {
        let mut own = call.reply.alike();
        self.limit_read_keys(call.net, Some((call.client, &mut own)), most);
        self.tell_own(call.reply, own);
    }

    /// Has the table follow a new limit.
    pub fn keep_to_table_limit(&mut self, call: &mut Call<'_>) {
        self.forget_surplus(call, SURPLUS);
    }

    /// What the timer does for the table.
    pub fn tracking_round(&mut self, net: &mut Net<Client>) {
        self.limit_read_keys(net, None, SURPLUS);
        let tracking = &mut self.tracking;
        for _ in 0..SWEEP {
            if tracking.table.sweep.is_none() {
                return;
            }
            let clients = &tracking.clients;
            tracking.table.sweep_some(|id| clients.get(&id).is_some_and(|c| !c.bcast));
        }
    }

    /// Tells of one event of [`event::TRACKED`]; `own` is as with [`Server::publish`].
    pub fn invalidate(&mut self, net: &mut Net<Client>, mut own: AtHand<'_>, event: Event) {
        if event.class == event::FLUSHED {
            self.forget_read_keys();
            let ids: Vec<ConnId> = self.tracking.clients.keys().copied().collect();
            for id in ids {
                let own = own.as_mut().map(|(client, reply)| (*client, &mut **reply));
                self.tell_tracker(net, own, id, None);
            }
            return;
        }
        let by = match event.class {
            event::VANISHED => None,
            _ => event.by.or(own.as_ref().map(|(client, _)| client.id)),
        };
        self.tell_readers(net, own, &event.key, by);
        let Tracking { prefixes, changed, .. } = &mut self.tracking;
        for prefix in prefixes.matching(&event.key) {
            let changed = match changed.get_mut(prefix) {
                Some(changed) => changed,
                None => changed.entry(prefix.into()).or_default(),
            };
            changed.insert(event.key.clone(), by);
        }
    }

    /// Tells those who have read a key that it is not what it was, by the doing of the client `by`.
    fn tell_readers(
        &mut self,
        net: &mut Net<Client>,
        mut own: AtHand<'_>,
        key: &[u8],
        by: Option<ConnId>,
    ) {
        let Some(readers) = self.tracking.table.take(key) else { return };
        let keys = array([key].into_iter());
        for id in readers.iter() {
            let own = own.as_mut().map(|(client, reply)| (*client, &mut **reply));
            match self.tracking.of(id) {
                Some(tracker) if !tracker.bcast && (!tracker.noloop || by != Some(id)) => {
                    self.tell_tracker(net, own, id, Some(keys.clone()));
                }
                _ => {}
            }
        }
    }

    /// At the end of a turn: tells what changed to those who listen to prefixes, and what could not be told
    /// before.
    #[cold]
    pub fn broadcast(&mut self, net: &mut Net<Client>) {
        for (to, message) in std::mem::take(&mut self.tracking.late) {
            self.deliver(net, None, to, message);
        }
        for (prefix, changed) in std::mem::take(&mut self.tracking.changed) {
            let all = array(changed.keys().map(|key| &**key));
            let ids: Vec<ConnId> = self.tracking.prefixes.of(&prefix).collect();
            for id in ids {
                let noloop = self.tracking.of(id).is_some_and(|tracker| tracker.noloop);
                if !noloop || !changed.values().any(|by| *by == Some(id)) {
                    self.tell_tracker(net, None, id, Some(all.clone()));
                    continue;
                }
                let others = changed.iter().filter(|(_, by)| **by != Some(id));
                let others: Vec<&[u8]> = others.map(|(key, _)| &**key).collect();
                if !others.is_empty() {
                    self.tell_tracker(net, None, id, Some(array(others.into_iter())));
                }
            }
        }
    }

    /// Tells a client that tracks of keys, or that all are to be forgotten.
    fn tell_tracker(
        &mut self,
        net: &mut Net<Client>,
        mut own: AtHand<'_>,
        id: ConnId,
        keys: Option<Rc<[u8]>>,
    ) {
        let Some(redirect) = self.tracking.of(id).map(|tracker| tracker.redirect) else { return };
        let redirected = redirect != 0;
        let to = if redirected { redirect } else { id };
        let message = Message::Invalid { keys, redirected };
        let first = own.as_mut().map(|(client, reply)| (*client, &mut **reply));
        if self.deliver(net, first, to, message) || !redirected {
            return;
        }
        if let Some(tracker) = self.tracking.of_mut(id) {
            tracker.broken = true;
        }
        self.deliver(net, own, id, Message::RedirectBroken(redirect));
    }

    /// Gives a client a message. Whether there is such a client.
    fn deliver(
        &mut self,
        net: &mut Net<Client>,
        own: AtHand<'_>,
        to: ConnId,
        message: Message,
    ) -> bool {
        if let Some((client, reply)) = own
            && client.id == to
        {
            return message.write(client, reply);
        }
        if let Some(conn) = net.conn_mut(to) {
            if conn.close_asap || !message.write(&conn.session, &mut conn.output) {
                return false;
            }
            net.mark_dirty(to);
        } else if net.has(to) {
            // Its command runs, or it waits for one that does.
            self.tracking.late.push((to, message));
        } else {
            return false;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_told_once_to_each_who_read_it() {
        let mut table = ReadKeys::default();
        for (key, id) in [("a", 1), ("a", 1), ("b", 1), ("a", 3), ("a", 2), ("a", 3), ("", 2)] {
            table.add(key.as_bytes(), id);
        }
        assert_eq!((table.count(), table.items()), (3, 5));
        let readers = table.take(b"a").unwrap();
        assert_eq!(readers.iter().collect::<Vec<_>>(), [1, 2, 3]);
        assert!(table.take(b"a").is_none());
        assert_eq!(table.take(b"").unwrap().iter().collect::<Vec<_>>(), [2]);
        assert_eq!((table.count(), table.items()), (1, 1));
    }

    #[test]
    fn a_client_that_goes_leaves_nothing() {
        let mut table = ReadKeys::default();
        let key = |i: u64| format!("key:{i}").into_bytes();
        for i in 0..10_000 {
            for id in 0..=i % 3 {
                table.add(&key(i), id);
            }
        }
        // One goes when the search for the other is under way.
        table.sweep_from_now();
        for round in 0.. {
            if round == 100 {
                table.sweep_from_now();
            }
            if table.sweep.is_none() {
                assert!(round > 100);
                break;
            }
            table.sweep_some(|id| id == 1 || id == 2 && round < 100);
        }
        let left: Vec<Vec<u64>> = (0..10_000)
            .map(|i| table.take(&key(i)).map_or(vec![], |r| r.iter().collect()))
            .collect();
        assert!(left.iter().enumerate().all(|(i, ids)| *ids == vec![1; (i % 3 > 0) as usize]));
        assert_eq!((table.count(), table.items()), (0, 0));
    }

    #[test]
    fn a_key_has_all_the_prefixes_that_it_begins_with() {
        let mut prefixes = Prefixes::default();
        let all: [&[u8]; 9] = [b"", b"a", b"ab", b"abc", b"abd", b"b", b"ba", b"a\0", b"\xff"];
        all.iter().for_each(|prefix| prefixes.add(prefix, 1));
        for key in
            [&b""[..], b"a", b"ab", b"abcd", b"abe", b"aa", b"bz", b"\xff\xff", b"a\0a", b"c"]
        {
            let mut want: Vec<&[u8]> = all.into_iter().filter(|p| key.starts_with(p)).collect();
            want.sort_by_key(|p| std::cmp::Reverse(p.len()));
            assert_eq!(prefixes.matching(key).collect::<Vec<_>>(), want, "{key:?}");
        }
        prefixes.remove(b"", 1);
        assert_eq!(prefixes.matching(b"c").count(), 0);
        assert_eq!(prefixes.count(), 8);
    }
}
