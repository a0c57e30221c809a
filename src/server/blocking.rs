//! Clients that wait: for keys, for replicas, for disks, for the end of a pause.
//!
//! A blocked client's connection is held: what it sends stays unread in its buffer, and what it
//! asked is kept with it. Waiting for a key is fair: who waited longest is served first, and is
//! served by running its command again, so that one piece of code pops for all.

use super::Server;
use super::client::{Blocked, BlockedOn, Client};
use super::dispatch::Call;
use super::registry::{CommandId, Registered, Run};
use std::collections::{HashMap, VecDeque};
use varve_engine::command::{Block, Ctx, OnTimeout, flag};
use varve_engine::keyspace::{Name, take_out};
use varve_engine::value::Type;
use varve_engine::{Args, Error, OwnedArgs};
use varve_net::{ConnId, Net};

/// What `WAITAOF` says where it would wait for a disk that nothing is written to.
pub const NO_LOG: Error =
    Error::new("ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.");

/// Who waits for which key, in the order in which they came.
#[derive(Default)]
pub struct Waiters {
    by_key: HashMap<(usize, Name), VecDeque<ConnId>>,
    /// Clients with a time limit, by that (Unix ms).
    limits: std::collections::BTreeSet<(i64, ConnId)>,
    /// Clients in `WAIT` and `WAITAOF`.
    on_replicas: Vec<ConnId>,
    /// Clients that wait for the log's files to be closed.
    on_files: Vec<ConnId>,
    blocked: usize,
}

impl Waiters {
    /// Clients blocked on anything but a pause.
    pub fn blocked(&self) -> usize {
        self.blocked
    }

    /// Who is the `n`-th of those who wait for a key.
    fn at(&self, key: &(usize, Name), n: usize) -> Option<ConnId> {
        self.by_key.get(key)?.get(n).copied()
    }

    /// When the next client's time is over, by the steady clock.
    pub fn next_limit_ms(&self) -> Option<i64> {
        self.limits.first().map(|&(at, _)| at)
    }

    pub fn clients_on_timeout(&self) -> usize {
        self.limits.len()
    }

    pub fn any_on_replicas(&self) -> bool {
        !self.on_replicas.is_empty()
    }

    pub fn any_on_files(&self) -> bool {
        !self.on_files.is_empty()
    }
}

impl Server {
    /// Blocks a client whose command found nothing.
    pub fn block_on_keys(
        &mut self,
        call: &mut Call<'_>,
        command: CommandId,
        args: &mut Args<'_>,
        block: Block,
    ) {
        let db = call.client.db;
        let mut keys = block.keys;
        let mut seen = std::collections::HashSet::new();
        keys.retain(|k| seen.insert(k.clone()));
        let keys: Vec<Name> = keys.iter().map(|key| self.ks.wait_for(db, key)).collect();
        for key in &keys {
            self.waiters.by_key.entry((db, key.clone())).or_default().push_back(call.id);
        }
        let args = OwnedArgs::keep(args);
        let on = BlockedOn::Keys { db, keys, command, args, on_timeout: block.on_timeout };
        let left = |at: i64| at.saturating_sub(self.ks.now_ms);
        let until_ms = block.until_ms.map(|at| self.clock.steady_ms().saturating_add(left(at)));
        self.block(call, on, until_ms);
    }

    /// Blocks a client until something unblocks it, or its time is over.
    pub fn block(&mut self, call: &mut Call<'_>, on: BlockedOn, until_ms: Option<i64>) {
        if let Some(at) = until_ms {
            self.waiters.limits.insert((at, call.id));
        }
        match on {
            BlockedOn::Replicas { .. } | BlockedOn::Disks { .. } => {
                self.waiters.on_replicas.push(call.id);
            }
            BlockedOn::Files => self.waiters.on_files.push(call.id),
            _ => {}
        }
        self.waiters.blocked += 1;
        call.client.blocked = Some(Blocked { on, until_ms });
    }

    /// Takes a client out of all that it waits for. The caller says what it gets.
    pub fn unblock(&mut self, id: ConnId, client: &mut Client) -> Option<BlockedOn> {
        let blocked = client.blocked.take()?;
        if let Some(at) = blocked.until_ms {
            self.waiters.limits.remove(&(at, id));
        }
        match &blocked.on {
            BlockedOn::Pause { .. } => {
                self.paused.retain(|&p| p != id);
                return Some(blocked.on);
            }
            BlockedOn::Keys { db, keys, .. } => {
                for key in keys {
                    self.ks.stop_waiting(*db, key);
                    let place = (*db, key.clone());
                    if let Some(queue) = self.waiters.by_key.get_mut(&place) {
                        // Mostly the first: it is served first.
                        if let Some(at) = queue.iter().position(|&w| w == id) {
                            queue.remove(at);
                        }
                        if queue.is_empty() {
                            take_out(&mut self.waiters.by_key, &place);
                        }
                    }
                }
            }
            BlockedOn::Replicas { .. } | BlockedOn::Disks { .. } => {
                self.waiters.on_replicas.retain(|&w| w != id);
            }
            BlockedOn::Files => self.waiters.on_files.retain(|&w| w != id),
            BlockedOn::Shutdown | BlockedOn::Migration => {}
        }
        self.waiters.blocked -= 1;
        Some(blocked.on)
    }

    /// Runs the commands of clients that wait for keys which may now have something.
    pub fn serve_ready(&mut self, net: &mut Net<Client>) {
        // To take an element is a write: `let_go` comes back to it.
        if self.ks.held {
            return;
        }
        // What expired while the command ran is not there to be had.
        self.see_as_reader();
        // Serving one client may make a key ready for another (`BLMOVE`): until nothing is left.
        while !self.ks.ready.is_empty() {
            for (db, key) in std::mem::take(&mut self.ks.ready) {
                let place = (db, key);
                let mut left = self.waiters.by_key.get(&place).map_or(0, VecDeque::len);
                let mut at = 0;
                while left > 0
                    && let Some(id) = self.waiters.at(&place, at)
                    && let Some(entry) = self.ks.peek(db, &place.1)
                {
                    let held = entry.type_of();
                    self.serve(net, id, held);
                    // Who was served is out of the queue.
                    at += (self.waiters.at(&place, at) == Some(id)) as usize;
                    left -= 1;
                }
            }
        }
    }

    /// Runs a blocked client's command again; it stays where it is if there is still nothing.
    /// `held` is the type of what the key has now: a client that waits for another waits on.
    fn serve(&mut self, net: &mut Net<Client>, id: ConnId, held: Type) {
        let Some(conn) = net.conn_mut(id) else { return };
        let Some(Blocked { on: BlockedOn::Keys { command, args, db, .. }, .. }) =
            &mut conn.session.blocked
        else {
            return;
        };
        let (command, db, args) = (*command, *db, args.clone());
        let Registered { run: Run::Data(run), spec, .. } = *self.commands.get(command) else {
            return;
        };
        if held != if spec.group == "list" { Type::List } else { Type::Zset } {
            return;
        }
        let mut reply = conn.output.alike();
        let started = self.clock.tick_ns();
        self.ks.origin = self.origin_of(spec.flags);
        let before = self.ks.events.len();
        let mut ctx = Ctx::new(&mut self.ks, db, &mut reply);
        let (written, result) = varve_engine::command::call(&mut ctx, run, &mut args.args());
        if ctx.block.is_some() {
            return;
        }
        self.ks.events[before..].iter_mut().for_each(|event| event.by = Some(id));
        self.with_client(net, id, |s, call| {
            s.unblock(call.id, call.client);
            call.reply.append(&mut reply);
            if let Err(error) = &result {
                s.fail(call, command, error);
            }
            s.written(call.client, written, &args.args());
            let spent_ns = s.clock.tick_ns() - started;
            s.served(call, command, &args.args(), spent_ns);
        });
    }

    /// Answers the clients whose time is over.
    pub fn time_out_blocked(&mut self, net: &mut Net<Client>) {
        let now = self.clock.steady_ms();
        while let Some(&(at, id)) = self.waiters.limits.first() {
            if at > now {
                break;
            }
            self.waiters.limits.pop_first();
            self.release(net, id, None);
        }
    }

    /// Ends a client's wait as its time's end would, or with an error. Whether it was blocked.
    pub fn release(&mut self, net: &mut Net<Client>, id: ConnId, error: Option<Error>) -> bool {
        let blocked = |c: &Client| {
            c.blocked.as_ref().is_some_and(|b| !matches!(b.on, BlockedOn::Pause { .. }))
        };
        if !net.conn(id).is_some_and(|conn| blocked(&conn.session)) {
            return false;
        }
        self.with_client(net, id, |s, call| {
            let on = s.unblock(id, call.client);
            match (on, error) {
                (_, Some(error)) => s.fail(call, call.command, &error),
                (Some(BlockedOn::Keys { on_timeout, .. }), None) => match on_timeout {
                    OnTimeout::Null => call.reply.null(),
                    OnTimeout::NullArray => call.reply.null_array(),
                },
                (Some(BlockedOn::Replicas { offset, .. }), None) => {
                    call.reply.int(s.replicas_at(offset) as i64);
                }
                (Some(BlockedOn::Disks { offset, .. }), None) => {
                    call.reply.array(2);
                    call.reply.int(s.synced_here(offset) as i64);
                    call.reply.int(s.replica_disks_at(offset) as i64);
                }
                (Some(BlockedOn::Files), None) => call.reply.ok(),
                _ => {}
            }
        });
        true
    }

    /// Answers the clients that waited for the log's files to be closed.
    pub fn serve_files_waiters(&mut self, net: &mut Net<Client>) {
        for id in self.waiters.on_files.clone() {
            self.release(net, id, None);
        }
    }

    /// Answers the clients in `WAIT` and `WAITAOF` whose condition now holds.
    pub fn serve_replica_waiters(&mut self, net: &mut Net<Client>) {
        for id in self.waiters.on_replicas.clone() {
            let Some(conn) = net.conn_mut(id) else { continue };
            let mut error = None;
            let done = match conn.session.blocked.as_ref().map(|b| &b.on) {
                Some(&BlockedOn::Replicas { count, offset }) => self.replicas_at(offset) >= count,
                Some(&BlockedOn::Disks { local, count, offset }) => {
                    error = (local > 0 && !self.cfg.appendonly).then_some(NO_LOG);
                    error.is_some()
                        || self.synced_here(offset) >= local
                            && self.replica_disks_at(offset) >= count
                }
                _ => true,
            };
            if done {
                self.release(net, id, error);
            }
        }
    }

    /// Whether writes wait for the end of something that no client can cut short: a failover, a
    /// shutdown, keys on their way to another server.
    fn holds_writes(&self) -> bool {
        self.repl.failover.is_some() || self.shutdown.is_some() || self.is_migrating()
    }

    /// To be called whenever one of these, or a `CLIENT PAUSE`, begins or ends. While writes are held
    /// the dataset does not change: nothing expires or is evicted either. A transaction in which it
    /// begins still runs to its end, and then calls this again.
    pub fn hold(&mut self) {
        self.ks.held = self.in_exec.is_none() && (self.pause.is_some() || self.holds_writes());
    }

    /// Whether commands with these flags are held, by that, by a disk that is slower than they are, or by
    /// `CLIENT PAUSE`.
    pub fn is_paused(&self, flags: u32) -> bool {
        let writes = flags & (flag::WRITE | flag::MAY_REPLICATE) != 0;
        // While the disk takes nothing they are refused.
        let waits_for_log = self.log_behind && !self.log_failing;
        if writes && (waits_for_log || self.holds_writes()) {
            return true;
        }
        // Its time may be over: until `end_pause` nothing that is held changes all the same.
        self.pause.as_ref().is_some_and(|pause| pause.all || writes)
    }

    /// The flags of a client's command; a transaction is what is in it.
    pub fn flags_of(&self, command: CommandId, client: &Client) -> u32 {
        let spec = self.commands.get(command).spec;
        match &client.multi {
            Some(multi) if spec.name == "exec" => multi.flags,
            _ => spec.flags,
        }
    }

    /// Ends what `CLIENT PAUSE` began.
    pub fn end_pause(&mut self, net: &mut Net<Client>) {
        self.pause = None;
        self.let_go(net);
    }

    /// What nothing holds any more runs now, in the order in which it came.
    pub fn let_go(&mut self, net: &mut Net<Client>) {
        self.hold();
        // Nobody else's commands run amid a transaction: they do at the end of the turn.
        self.let_go_due = self.in_exec.is_some();
        if self.let_go_due {
            return;
        }
        self.let_stream_go(net);
        for id in std::mem::take(&mut self.paused) {
            let Some(conn) = net.conn(id) else { continue };
            let Some(Blocked { on: BlockedOn::Pause { command, .. }, .. }) = &conn.session.blocked
            else {
                continue;
            };
            let flags = self.flags_of(*command, &conn.session);
            if self.is_paused(flags) {
                self.paused.push(id);
                continue;
            }
            self.with_client(net, id, |s, call| {
                if let Some(BlockedOn::Pause { command, args }) = s.unblock(id, call.client) {
                    call.command = command;
                    // Much may have changed meanwhile: this server may be a replica now.
                    match s.check(call, command) {
                        Ok(()) => s.run(call, command, &mut args.args()),
                        Err(error) => s.reject(call, Some(command), &args.args(), error),
                    }
                }
            });
            self.serve_ready(net);
        }
        self.serve_ready(net);
        self.publish_events(net, None);
        self.fail_all_watchers(net);
    }

    /// A client that is going leaves every list: it takes nothing along.
    pub fn forget_client(&mut self, id: ConnId, client: &mut Client) {
        self.unblock(id, client);
        self.monitors.retain(|&m| m != id);
        self.stop_tracking(id);
        self.forget_subscriptions(id, client);
        self.unwatch(client);
    }
}
