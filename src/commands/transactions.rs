//! Transactions: queueing, watching, executing.

use super::Done;
use crate::server::Server;
use crate::server::client::{Client, Multi};
use crate::server::dispatch::{Call, READ_ONLY};
use crate::server::registry::ServerHandler;
use varve_engine::command::{Command, Keys, Spec, access::*, category, flag::*};
use varve_engine::{Args, Error, Reply};
use varve_net::{ConnId, Net};

fn multi(_: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    if call.client.multi.is_some() {
        return Err(Error::new("ERR MULTI calls can not be nested"));
    }
    call.client.multi = Some(Multi::default());
    call.reply.ok();
    Ok(())
}

fn discard(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    if call.client.multi.is_none() {
        return Err(Error::new("ERR DISCARD without MULTI"));
    }
    s.discard(call.client);
    call.reply.ok();
    Ok(())
}

fn exec(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    let Some(mut multi) = call.client.multi.take() else {
        return Err(Error::new("ERR EXEC without MULTI"));
    };
    // What changed since the last command ended, by eviction or as a migration's end, counts too.
    s.fail_watchers(call.net, call.id, call.client);
    let watch_failed = call.client.watch_failed || s.watched_key_expired(call.client);
    s.unwatch(call.client);
    if multi.aborted {
        return Err(Error::new("EXECABORT Transaction discarded because of previous errors."));
    }
    if watch_failed {
        call.reply.null_array();
        return Ok(());
    }
    call.reply.array(multi.queue.len());
    s.in_exec = Some(Reply::new());
    let own = call.command;
    for (id, args) in &mut multi.queue {
        call.command = *id;
        // The one before may have made a replica of this server.
        match s.commands.get(*id).spec.has(WRITE) && s.takes_no_writes() {
            true => s.fail(call, *id, &READ_ONLY),
            false => s.run(call, *id, &mut args.args()),
        }
        // It killed itself: what it still does is not answered.
        call.reply.muted |= call.client.close_after_reply;
    }
    call.command = own;
    if let Some(published) = s.in_exec.take().filter(|_| !call.client.close_after_reply) {
        s.tell_own(call.reply, published);
    }
    s.hold();
    Ok(())
}

fn watch(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    if call.client.multi.is_some() {
        return Err(Error::new("ERR WATCH inside MULTI is not allowed"));
    }
    let db = call.client.db;
    for key in args.rest(1) {
        // What has failed is not watched for: it fails whatever comes.
        if call.client.watch_failed || s.ks.is_watched_by(db, key, call.id) {
            continue;
        }
        // A key that has expired already counts as gone, not as a change to come.
        s.see_as_reader();
        let _ = s.ks.exists(db, key);
        let name = s.ks.watch(db, key, call.id);
        call.client.watched.push((db, name, s.is_over(db, key)));
    }
    call.reply.ok();
    Ok(())
}

fn unwatch(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    s.unwatch(call.client);
    call.reply.ok();
    Ok(())
}

impl Server {
    /// Ends a transaction that is being queued, and all watches.
    pub fn discard(&mut self, client: &mut Client) {
        client.multi = None;
        self.unwatch(client);
    }

    pub fn unwatch(&mut self, client: &mut Client) {
        for (db, key, _) in std::mem::take(&mut client.watched) {
            self.ks.unwatch(db, &key, client.id);
        }
        self.ks.watchers_hit.retain(|&id| id != client.id);
        client.watch_failed = false;
    }

    /// Whether a key's time is over though nobody has removed it yet.
    fn is_over(&self, db: usize, key: &[u8]) -> bool {
        let expire = self.ks.dbs[db].peek(key).and_then(|entry| entry.expire());
        expire.is_some_and(|at| at <= self.clock.now_ms())
    }

    /// Whether that has become so of a watched key. Where the deletion is not this server's to make, the
    /// key may have been over before.
    fn watched_key_expired(&self, client: &Client) -> bool {
        client.watched.iter().any(|(db, key, before)| !before && self.is_over(*db, key))
    }

    /// Marks the clients whose watched keys the last command changed.
    pub fn fail_watchers(&mut self, net: &mut Net<Client>, own: ConnId, client: &mut Client) {
        self.fail_all_watchers(net);
        self.ks.watchers_hit.retain(|&id| {
            client.watch_failed |= id == own;
            id != own
        });
    }

    /// As [`Server::fail_watchers`], for changes that no client makes.
    pub fn fail_all_watchers(&mut self, net: &mut Net<Client>) {
        // Whose command runs is not in `net`, and learns it when that has run.
        self.ks.watchers_hit.retain(|&id| match net.conn_mut(id) {
            Some(conn) => {
                conn.session.watch_failed = true;
                false
            }
            None => true,
        });
    }
}

const fn spec(name: &'static str, arity: i32, flags: u32, keys: Keys) -> Spec {
    Spec::new(name, arity, flags, category::TRANSACTION, keys)
}

const ANY: u32 = NOSCRIPT | LOADING | STALE | FAST | ALLOW_BUSY;

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<ServerHandler>] = &[
    Command { run: multi, spec: spec("multi", 1, ANY, Keys::None).doc("transactions", "1.2.0", "O(1)", "Begins a transaction.", "") },
    Command { run: exec, spec: spec("exec", 1, NOSCRIPT | LOADING | STALE | SKIP_SLOWLOG, Keys::None).doc("transactions", "1.2.0", "That of the commands in it", "Runs the commands of the transaction, nothing between them.", "") },
    Command { run: discard, spec: spec("discard", 1, ANY, Keys::None).doc("transactions", "2.0.0", "O(N) in the watched keys", "Drops the transaction.", "") },
    Command { run: watch, spec: spec("watch", -2, ANY, Keys::ALL).key(RO).doc("transactions", "2.2.0", "O(1) a key", "Lets the next transaction run only if the keys stay as they are.", "key...") },
    Command { run: unwatch, spec: spec("unwatch", 1, ANY, Keys::None).doc("transactions", "2.2.0", "O(1)", "Forgets all watched keys.", "") },
];
