//! From a request to its reply: what is checked before a command runs, and what follows it.
//!
//! The checks stand in the order in which Redis makes them, because a client that breaks two rules
//! at once expects the same error.

use super::Server;
use super::books::escape;
use super::client::{Blocked, BlockedOn, Client, Kind, ReplyMode};
use super::load::Loading;
use super::registry::{CommandId, Run, Unknown};
use crate::log_warning;
use varve_engine::command::{Ctx, Spec, Written, flag};
use varve_engine::effects::Effects;
use varve_engine::keyspace::Origin;
use varve_engine::{Args, Error, OwnedArgs, Reply};
use varve_net::{ConnId, Net};

/// What a running command of the daemon can reach, beside the [`Server`].
pub struct Call<'a> {
    pub net: &'a mut Net<Client>,
    pub id: ConnId,
    pub client: &'a mut Client,
    pub reply: &'a mut Reply,
    pub command: CommandId,
    /// Which arguments of the command at hand are secrets, as it found out itself.
    pub secrets: Vec<usize>,
}

/// What `MONITOR` and the slow log show in place of a secret.
pub const REDACTED: &[u8] = b"(redacted)";

impl Call<'_> {
    /// Keeps an argument out of what `MONITOR` and the slow log show.
    pub fn redact(&mut self, arg: usize) {
        self.secrets.push(arg);
    }

    /// Whether the client is on this machine: some settings open things to those only.
    pub fn is_local(&self) -> bool {
        self.client.unix || self.client.socket.is_none_or(|s| s.ip().to_canonical().is_loopback())
    }
}

pub const STILL_LOADING: Error = Error::new("LOADING Varve is loading the dataset in memory");

pub const READ_ONLY: Error = Error::new("READONLY You can't write against a read only replica.");

const MISCONF_RDB: Error = Error::new(
    "MISCONF Varve is configured to save RDB snapshots, but it's currently unable to persist to disk. Commands that may modify the data set are disabled, because this instance is configured to report errors during writes if RDB snapshotting fails (stop-writes-on-bgsave-error option). Please check the Varve logs for details about the RDB error.",
);

impl Server {
    /// Runs one request of a client, or of a replica.
    pub fn execute(&mut self, call: &mut Call<'_>, args: &mut Args<'_>) {
        match call.client.kind {
            Kind::Replica => self.execute_for_replica(call, args),
            _ => self.execute_request(call, args),
        }
    }

    /// A replica takes all that comes for the history: a reply would become part of its data.
    fn execute_for_replica(&mut self, call: &mut Call<'_>, args: &mut Args<'_>) {
        let name = match self.commands.find(args) {
            Ok(id) => self.commands.get(id).spec.name.to_owned(),
            Err(_) => String::from_utf8_lossy(&args[0]).into_owned(),
        };
        let mut reply = call.reply.alike();
        let mut aside = Call {
            net: &mut *call.net,
            id: call.id,
            client: &mut *call.client,
            reply: &mut reply,
            command: call.command,
            secrets: Vec::new(),
        };
        self.execute_request(&mut aside, args);
        if !reply.is_empty() {
            let mut said = Vec::new();
            escape(&reply.to_vec()[..reply.len().min(128)], &mut said);
            log_warning!(
                "Replica generated a reply to command '{name}', disconnecting it: {}",
                String::from_utf8_lossy(&said)
            );
            call.client.close_after_reply = true;
            call.net.kill(call.id);
        }
    }

    fn execute_request(&mut self, call: &mut Call<'_>, args: &mut Args<'_>) {
        call.client.commands += 1;
        match call.client.reply_mode {
            ReplyMode::SkipNext => {
                call.client.reply_mode = ReplyMode::Skip;
                call.reply.muted = true;
            }
            ReplyMode::Skip => {
                call.client.reply_mode = ReplyMode::On;
                call.reply.muted = false;
            }
            ReplyMode::On | ReplyMode::Off => {}
        }
        let id = match self.commands.find(args) {
            Ok(id) if self.commands.get(id).spec.takes(args.len()) => id,
            Ok(id) => {
                let error = Error::arity(self.commands.get(id).spec.name);
                return self.reject(call, Some(id), args, error);
            }
            Err(why) => {
                call.client.last_command = None;
                return match why {
                    Unknown::Command if is_http(&args[0]) => self.hang_up(call),
                    _ => self.reject(call, None, args, unknown(why, args)),
                };
            }
        };
        // Nothing behind this, the log above all, depends on what `rename-command` says.
        match self.commands.with_own_name(id, args) {
            Some(owned) => self.execute_found(call, id, &mut owned.args()),
            None => self.execute_found(call, id, args),
        }
    }

    fn execute_found(&mut self, call: &mut Call<'_>, id: CommandId, args: &mut Args<'_>) {
        if let Err(error) = self.check(call, id) {
            return self.reject(call, Some(id), args, error);
        }
        call.client.last_command = Some(id);
        let spec = self.commands.get(id).spec;
        if let Some(multi) = &mut call.client.multi
            && is_queued(spec)
        {
            multi.flags |= spec.flags;
            multi.lacks |= !spec.flags;
            multi.queue.push((id, OwnedArgs::keep(args)));
            call.reply.simple("QUEUED");
            return;
        }
        let flags = self.flags_of(id, call.client);
        if self.is_paused(flags) && call.client.kind == Kind::Normal && !spec.has(flag::ADMIN) {
            call.client.blocked = Some(Blocked {
                on: BlockedOn::Pause { command: id, args: OwnedArgs::keep(args) },
                until_ms: None,
            });
            self.paused.push(call.id);
            return;
        }
        self.run(call, id, args);
        if !self.ks.ready.is_empty() {
            self.serve_ready(call.net);
            self.tell(call);
        }
    }

    /// A request that is not run: the error, and a transaction being queued will not be executed.
    pub(super) fn reject(
        &mut self,
        call: &mut Call<'_>,
        id: Option<CommandId>,
        args: &Args<'_>,
        error: Error,
    ) {
        if let Some(id) = id {
            self.commands.counters(id).rejected += 1;
        }
        if let Some(multi) = &mut call.client.multi {
            multi.aborted = true;
        }
        // A transaction that can not run any more says so with the error's own words.
        let is_exec = id.is_some_and(|id| self.commands.get(id).spec.name == "exec");
        let error = if is_exec {
            self.discard(call.client);
            let text = error.to_string();
            let text = text.strip_prefix("ERR ").unwrap_or(&text);
            Error::text(format!("EXECABORT Transaction discarded because of: {text}"))
        } else {
            error
        };
        self.count_error(&error);
        call.reply.error(&error);
        self.end_caching(call.client, id.map_or("", |id| self.commands.get(id).spec.name));
        if is_exec {
            // They have seen it begin.
            self.feed_monitors(call, args);
        }
    }

    /// Closes the connection of a browser that was made to send commands in a form's fields: all that
    /// follows would be run.
    #[cold]
    fn hang_up(&mut self, call: &mut Call<'_>) {
        const EVERY_MS: i64 = 60_000;
        let now = self.clock.now_ms();
        if now - self.http_warned_ms >= EVERY_MS {
            self.http_warned_ms = now;
            log_warning!(
                "A client at {} speaks HTTP (POST or Host:), perhaps a browser on behalf of a page that means harm: its connection is closed.",
                call.client.peer
            );
        }
        call.client.close_after_reply = true;
        call.net.kill(call.id);
    }

    pub fn count_error(&mut self, error: &Error) {
        self.stats.errors += 1;
        let word = error.code();
        // A client can make up words (`EVAL` will allow it); the list must not grow with them.
        if let Some(n) = self.error_counts.get_mut(word) {
            *n += 1;
        } else if self.error_counts.len() < 128 {
            self.error_counts.insert(word.to_owned(), 1);
        }
    }

    /// Whether this is a replica that its clients may only read.
    pub fn takes_no_writes(&self) -> bool {
        !self.is_primary() && self.cfg.replica_read_only
    }

    /// Whether the command may run now, for this client.
    pub(super) fn check(&mut self, call: &mut Call<'_>, id: CommandId) -> Result<(), Error> {
        let spec = self.commands.get(id).spec;
        let client = &*call.client;
        // What a transaction will do counts when it is executed.
        let (flags, lacks) = match &client.multi {
            Some(multi) if spec.name == "exec" => (multi.flags, multi.lacks),
            _ => (spec.flags, !spec.flags),
        };
        let writes = flags & flag::WRITE != 0;
        // A queue takes memory too.
        let queued = client.multi.is_some() && is_queued(spec);
        let denies_oom = queued || flags & flag::DENYOOM != 0;
        if !client.authenticated && !spec.has(flag::NO_AUTH) {
            return Err(Error::new("NOAUTH Authentication required."));
        }
        if client.multi.is_some() && spec.has(flag::NO_MULTI) {
            return Err(Error::new("ERR Command not allowed inside a transaction"));
        }
        if (spec.name == "debug" || spec.name.starts_with("debug|"))
            && !self.cfg.enable_debug_command.allows(call.is_local())
        {
            return Err(Error::new(
                "ERR DEBUG command not allowed. If the enable-debug-command option is set to \"local\", you can run it from a local connection, otherwise you need to set this option in the configuration file, and then restart the server.",
            ));
        }
        let own = Some((client, &mut *call.reply));
        if self.cfg.maxmemory > 0 && self.over_memory(call.net, own) && denies_oom {
            return Err(Error::OOM);
        }
        if self.is_primary() && writes {
            if self.cfg.stop_writes_on_bgsave_error
                && !self.cfg.save.is_empty()
                && !self.snapshots.last_ok
            {
                return Err(MISCONF_RDB);
            }
            if let Some(why) = self.log.error() {
                return Err(Error::text(format!("MISCONF Errors writing to the AOF file: {why}")));
            }
            if !self.enough_good_replicas() {
                return Err(Error::new("NOREPLICAS Not enough good replicas to write."));
            }
        }
        if writes && client.kind != Kind::Primary && self.takes_no_writes() {
            return Err(READ_ONLY);
        }
        if client.in_pubsub()
            && !call.reply.resp3
            && !matches!(
                spec.name,
                "ping"
                    | "subscribe"
                    | "ssubscribe"
                    | "sunsubscribe"
                    | "psubscribe"
                    | "unsubscribe"
                    | "punsubscribe"
                    | "quit"
                    | "reset"
            )
        {
            return Err(Error::err(format_args!(
                "Can't execute '{}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context",
                spec.name
            )));
        }
        if !self.is_primary()
            && !self.link_is_up()
            && !self.cfg.replica_serve_stale_data
            && lacks & flag::STALE != 0
        {
            return Err(Error::new(
                "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
            ));
        }
        if (client.kind == Kind::Replica || client.monitor)
            && spec.flags & (flag::WRITE | flag::READONLY | flag::MAY_REPLICATE) != 0
        {
            return Err(Error::new("ERR Replica can't interact with the keyspace"));
        }
        if self.loading.as_ref().is_some_and(|loading| match loading.is_beside() {
            true => spec.has(flag::NO_ASYNC_LOADING),
            false => lacks & flag::LOADING != 0,
        }) {
            return Err(STILL_LOADING);
        }
        Ok(())
    }

    /// Runs a command that passed the checks, appends what it changed to the log, and keeps the
    /// books: counters, slow log, monitors.
    pub fn run(&mut self, call: &mut Call<'_>, id: CommandId, args: &mut Args<'_>) {
        let started = self.clock.now_ns();
        let spec = self.commands.get(id).spec;
        let watched = !self.monitors.is_empty() && !spec.has(flag::SKIP_MONITOR | flag::ADMIN);
        call.secrets.clear();
        match self.commands.get(id).run {
            Run::Data(run) => {
                self.ks.now_ms = self.clock.now_ms();
                self.ks.origin = self.origin_of(spec.flags);
                let mut ctx = Ctx::new(&mut self.ks, call.client.db, call.reply);
                ctx.may_block = self.in_exec.is_none();
                ctx.ks.no_touch = call.client.no_touch && spec.name != "touch";
                let (written, result) = varve_engine::command::call(&mut ctx, run, args);
                ctx.ks.no_touch = false;
                let block = ctx.block.take();
                if let Err(error) = result {
                    self.fail(call, id, &error);
                }
                // What a command that only reads found expired goes key by key: nothing holds it together.
                if !spec.has(flag::WRITE) && written == Written::Effects && self.in_exec.is_none() {
                    self.append_effects_singly();
                    call.client.wrote_to = self.log.end().0;
                } else {
                    self.written(call.client, written, args);
                }
                if let Some(block) = block {
                    self.block_on_keys(call, id, args, block);
                }
            }
            Run::Server(run) => {
                if let Err(error) = run(self, call, args) {
                    self.fail(call, id, &error);
                }
                if !self.ks.effects.is_empty() && self.in_exec.is_none() {
                    self.written(call.client, Written::Effects, args);
                }
            }
        }
        self.stats.commands += 1;
        let spent_ns = self.clock.tick_ns() - started;
        self.account(call, id, args, spent_ns);
        self.note_peak();
        self.tell(call);
        if !self.tracking.is_empty() {
            self.note_run(call, spec, args);
        }
        if watched {
            self.feed_monitors(call, args);
        }
    }

    /// On whose behalf a client's command with these flags runs.
    pub(super) fn origin_of(&self, flags: u32) -> Origin {
        match (self.is_primary(), flags & flag::WRITE != 0) {
            (true, _) => Origin::Client,
            (false, true) => Origin::ReplicaWriter,
            (false, false) => Origin::ReplicaReader,
        }
    }

    /// Lets keys be seen as by a client that reads now: what has expired is not there, and is removed where the
    /// log would say so.
    pub fn see_as_reader(&mut self) {
        self.ks.now_ms = self.clock.now_ms();
        self.ks.origin = match self.loading {
            Some(_) => Origin::ReplicaReader,
            None => self.origin_of(0),
        };
    }

    /// Tells those concerned what has just changed, and gives away what is to be freed.
    #[inline]
    fn tell(&mut self, call: &mut Call<'_>) {
        if !self.ks.watchers_hit.is_empty() {
            self.fail_watchers(call.net, call.id, call.client);
        }
        if !self.ks.events.is_empty() {
            self.tell_events(call);
        }
        if !self.ks.garbage.is_empty() {
            self.collect_garbage();
        }
        if std::mem::take(&mut self.ks.emptied) && self.is_primary() {
            self.forget_snapshots(call.net);
        }
    }

    #[cold]
    pub(super) fn tell_events(&mut self, call: &mut Call<'_>) {
        let mut own = call.reply.alike();
        self.publish_events(call.net, Some((call.client, &mut own)));
        self.tell_own(call.reply, own);
    }

    pub fn fail(&mut self, call: &mut Call<'_>, id: CommandId, error: &Error) {
        self.count_error(error);
        self.commands.counters(id).failed += 1;
        call.reply.error(error);
    }

    /// Takes what a command left for the log there; inside a transaction it is gathered first.
    pub fn written(&mut self, client: &mut Client, written: Written, args: &Args<'_>) {
        if written == Written::Nothing {
            return;
        }
        if self.in_exec.is_some() {
            if written == Written::AsItCame {
                self.effect_as_it_came(client.db, args);
            }
            return;
        }
        if written == Written::AsItCame && self.ks.effects.is_empty() {
            match args.raw() {
                Some(raw) => self.append(client.db, raw),
                None => self.append_args(client.db, args),
            }
        } else {
            if written == Written::AsItCame {
                self.effect_as_it_came(client.db, args);
            }
            self.append_effects();
        }
        client.wrote_to = self.log.end().0;
    }

    fn effect_as_it_came(&mut self, db: usize, args: &Args<'_>) {
        match args.raw() {
            Some(raw) => self.ks.effects.push_raw(db, raw),
            None => self.ks.effects.push_parts(db, (0..args.len()).map(|i| args.part(i))),
        }
    }

    /// Appends all effects that wait, as a transaction if they are several.
    pub fn append_effects(&mut self) {
        let effects = std::mem::take(&mut self.ks.effects);
        let many = effects.len() > 1;
        if many {
            let db = effects.ops()[0].db;
            self.append(db, b"*1\r\n$5\r\nMULTI\r\n");
        }
        self.append_each(&effects);
        if many {
            let db = effects.ops()[effects.len() - 1].db;
            self.append(db, b"*1\r\n$4\r\nEXEC\r\n");
        }
        self.ks.effects = effects;
        self.ks.effects.clear();
    }

    /// Appends effects that have nothing to do with each other (expiry, eviction), one by one.
    pub fn append_effects_singly(&mut self) {
        let effects = std::mem::take(&mut self.ks.effects);
        self.append_each(&effects);
        self.ks.effects = effects;
        self.ks.effects.clear();
    }

    fn append_each(&mut self, effects: &Effects) {
        for op in effects.ops() {
            if self.may_append() {
                let mut db = Some(op.db as u32);
                effects.each_piece(op, |piece| match db.take() {
                    Some(db) => _ = self.log.append_in_db(db, &piece),
                    None => self.log.append_part(piece),
                });
            }
        }
    }

    fn append(&mut self, db: usize, resp: &[u8]) {
        if self.may_append() {
            self.log.append_in_db(db as u32, resp);
        }
    }

    /// As [`Server::append`], of a command that did not come as the log has it: of large arguments the log has the
    /// same bytes, or copies them from where they are.
    #[cold]
    fn append_args(&mut self, db: usize, args: &Args<'_>) {
        if self.may_append() {
            self.log.append_command(db as u32, (0..args.len()).map(|i| args.part(i)));
        }
    }

    /// The one way into the log for what this server changed. A replica changes nothing: what its
    /// clients write to a writable replica is not part of the history.
    fn may_append(&mut self) -> bool {
        let may = self.is_primary() && self.loading.as_ref().is_none_or(Loading::is_beside);
        self.beside_log |= !self.is_primary();
        may
    }
}

/// Whether a transaction that was begun queues the command instead of running it.
fn is_queued(spec: &Spec) -> bool {
    !matches!(spec.name, "exec" | "discard" | "multi" | "watch" | "quit" | "reset")
}

/// Whether a first word is that of an HTTP request's line or header which no client sends.
fn is_http(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"post") || word.eq_ignore_ascii_case(b"host:")
}

/// The error for a first word, or a second, that names nothing.
fn unknown(why: Unknown, args: &Args<'_>) -> Error {
    const MOST: usize = 128;
    let show = |bytes: &[u8], most: usize| -> Vec<u8> {
        bytes.iter().copied().take(most).take_while(|&b| b != 0).collect()
    };
    match why {
        Unknown::Subcommand(container) => Error::quoting(
            "unknown subcommand '",
            &show(&args[1], MOST),
            &format!("'. Try {} HELP.", container.to_uppercase()),
        ),
        Unknown::Bare(container) => Error::arity(&container),
        Unknown::Command => {
            let mut text = show(&args[0], MOST);
            text.extend_from_slice(b"', with args beginning with: ");
            let start = text.len();
            for arg in args.rest(1) {
                let shown = text.len() - start;
                if shown >= MOST {
                    break;
                }
                text.push(b'\'');
                text.extend(show(arg, MOST - shown));
                text.extend_from_slice(b"' ");
            }
            Error::quoting("unknown command '", &text, "")
        }
    }
}
