//! Who listens to which channel, and telling them.

use super::Server;
use super::client::Client;
use super::dispatch::Call;
use std::collections::{BTreeSet, HashMap};
use varve_engine::keyspace::{Name, event, shared, take_out};
use varve_engine::{Reply, glob};
use varve_net::{ConnId, Net};

/// What a subscription is to: its words in messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listening {
    Channel,
    Pattern,
    Shard,
}

type Listeners = HashMap<Name, BTreeSet<ConnId>>;

#[derive(Default)]
pub struct PubSub {
    pub channels: Listeners,
    pub patterns: Listeners,
    pub shard_channels: Listeners,
}

impl PubSub {
    pub fn of(&mut self, kind: Listening) -> &mut Listeners {
        match kind {
            Listening::Channel => &mut self.channels,
            Listening::Pattern => &mut self.patterns,
            Listening::Shard => &mut self.shard_channels,
        }
    }
}

impl Listening {
    pub fn of(self, client: &mut Client) -> &mut std::collections::HashSet<Name> {
        match self {
            Listening::Channel => &mut client.channels,
            Listening::Pattern => &mut client.patterns,
            Listening::Shard => &mut client.shard_channels,
        }
    }

    fn subscribed(self) -> &'static [u8] {
        match self {
            Listening::Channel => b"subscribe",
            Listening::Pattern => b"psubscribe",
            Listening::Shard => b"ssubscribe",
        }
    }

    fn unsubscribed(self) -> &'static [u8] {
        match self {
            Listening::Channel => b"unsubscribe",
            Listening::Pattern => b"punsubscribe",
            Listening::Shard => b"sunsubscribe",
        }
    }

    fn count(self, client: &Client) -> i64 {
        match self {
            Listening::Shard => client.shard_channels.len() as i64,
            _ => client.subscriptions() as i64,
        }
    }
}

/// The client whose command runs, which is not in `net` meanwhile, and where it is told what comes between replies.
pub type AtHand<'a> = Option<(&'a Client, &'a mut Reply)>;

/// What comes between replies comes even where `CLIENT REPLY OFF` silences those.
pub fn unmuted(reply: &mut Reply, write: impl FnOnce(&mut Reply)) {
    let muted = std::mem::replace(&mut reply.muted, false);
    write(reply);
    reply.muted = muted;
}

fn message(reply: &mut Reply, parts: &[&[u8]]) {
    unmuted(reply, |reply| {
        reply.push(parts.len());
        parts.iter().for_each(|p| reply.bulk(p));
    });
}

/// Confirms that a subscription began or ended: `count` are left.
fn confirmation(reply: &mut Reply, word: &[u8], name: Option<&[u8]>, count: i64) {
    unmuted(reply, |reply| {
        reply.push(3);
        reply.bulk(word);
        match name {
            Some(name) => reply.bulk(name),
            None => reply.null(),
        }
        reply.int(count);
    });
}

impl Server {
    pub fn subscribe(&mut self, call: &mut Call<'_>, kind: Listening, name: &[u8]) {
        let listeners = self.pubsub.of(kind);
        let known = shared(listeners, name);
        if kind.of(call.client).insert(known.clone()) {
            listeners.entry(known).or_default().insert(call.id);
            // It is of another class now, with other limits.
            call.client.reconfigure = true;
        }
        confirmation(call.reply, kind.subscribed(), Some(name), kind.count(call.client));
    }

    /// Ends one subscription, whether there was one or not; `None` answers that there was none.
    pub fn unsubscribe(&mut self, call: &mut Call<'_>, kind: Listening, name: Option<&[u8]>) {
        if let Some(name) = name
            && kind.of(call.client).remove(name)
        {
            self.stop_listening(kind, name, call.id);
            call.client.reconfigure = true;
        }
        confirmation(call.reply, kind.unsubscribed(), name, kind.count(call.client));
    }

    fn stop_listening(&mut self, kind: Listening, name: &[u8], id: ConnId) {
        let listeners = self.pubsub.of(kind);
        if let Some(ids) = listeners.get_mut(name) {
            ids.remove(&id);
            if ids.is_empty() {
                take_out(listeners, name);
            }
        }
    }

    /// A client that is going, or that was reset, listens to nothing.
    pub fn forget_subscriptions(&mut self, id: ConnId, client: &mut Client) {
        for kind in [Listening::Channel, Listening::Pattern, Listening::Shard] {
            for name in std::mem::take(kind.of(client)) {
                self.stop_listening(kind, &name, id);
            }
        }
    }

    /// Sends a message to all who listen. `own` is the client whose command this is: its connection
    /// is not in `net` meanwhile. How many got it.
    pub fn publish(
        &mut self,
        net: &mut Net<Client>,
        own: Option<(ConnId, &mut Reply)>,
        kind: Listening,
        channel: &[u8],
        text: &[u8],
    ) -> usize {
        let word: &[u8] = if kind == Listening::Shard { b"smessage" } else { b"message" };
        let mut got = 0;
        let (own_id, mut own_reply) = match own {
            Some((id, reply)) => (Some(id), Some(reply)),
            None => (None, None),
        };
        let mut send = |id: ConnId, parts: &[&[u8]]| {
            if Some(id) == own_id {
                if let Some(reply) = &mut own_reply {
                    message(reply, parts);
                }
            } else if let Some(conn) = net.conn_mut(id) {
                message(&mut conn.output, parts);
                net.mark_dirty(id);
            }
        };
        if let Some(ids) = self.pubsub.of(kind).get(channel) {
            for &id in ids {
                send(id, &[word, channel, text]);
                got += 1;
            }
        }
        if kind == Listening::Channel {
            for (pattern, ids) in &self.pubsub.patterns {
                if glob::matches(pattern, channel, false) {
                    for &id in ids {
                        send(id, &[b"pmessage", pattern, channel, text]);
                        got += 1;
                    }
                }
            }
        }
        got
    }

    /// Gives a client what was published to it while its own command ran: behind the reply, of a
    /// transaction behind all of it.
    pub fn tell_own(&mut self, reply: &mut Reply, mut published: Reply) {
        let reply = self.in_exec.as_mut().unwrap_or(reply);
        unmuted(reply, |reply| reply.append(&mut published));
    }

    /// Publishes the keyspace events that commands left, and tells the clients that cache; `own` is as with
    /// [`Server::publish`].
    pub fn publish_events(&mut self, net: &mut Net<Client>, mut own: AtHand<'_>) {
        for e in std::mem::take(&mut self.ks.events) {
            if e.class & event::TRACKED != 0 {
                let own = own.as_mut().map(|(client, reply)| (*client, &mut **reply));
                self.invalidate(net, own, e);
                continue;
            }
            let flags = self.cfg.notify_keyspace_events;
            if flags & event::KEYSPACE != 0 {
                let channel = [format!("__keyspace@{}__:", e.db).as_bytes(), &e.key].concat();
                let own = own.as_mut().map(|(client, reply)| (client.id, &mut **reply));
                self.publish(net, own, Listening::Channel, &channel, e.name.as_bytes());
            }
            if flags & event::KEYEVENT != 0 {
                let channel = format!("__keyevent@{}__:{}", e.db, e.name).into_bytes();
                let own = own.as_mut().map(|(client, reply)| (client.id, &mut **reply));
                self.publish(net, own, Listening::Channel, &channel, &e.key);
            }
        }
    }
}
