//! The connection itself: who is there, which database, which protocol.

use super::Done;
use crate::server::Server;
use crate::server::client::ReplyMode;
use crate::server::dispatch::Call;
use crate::server::registry::ServerHandler;
use std::os::unix::ffi::OsStrExt;
use varve_engine::command::{Command, Keys, Spec, category, flag::*};
use varve_engine::num::parse_int;
use varve_engine::{Args, Error};

/// The version of Redis whose behaviour this daemon has; clients choose their features by it.
pub const REDIS_VERSION: &str = "7.2.4";

fn ping(_: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    if args.len() > 2 {
        return Err(Error::arity("ping"));
    }
    if call.client.in_pubsub() && !call.reply.resp3 {
        call.reply.array(2);
        call.reply.bulk(b"pong");
        call.reply.bulk(args.get(1).unwrap_or(b""));
        return Ok(());
    }
    match args.get(1) {
        Some(text) => call.reply.bulk(text),
        None => call.reply.simple("PONG"),
    }
    Ok(())
}

fn echo(_: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    call.reply.bulk(&args[1]);
    Ok(())
}

fn select(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    call.client.db = varve_engine::commands::keys::db_index(s.ks.dbs.len(), &args[1])?;
    call.reply.ok();
    Ok(())
}

fn quit(_: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    call.client.close_after_reply = true;
    call.reply.ok();
    Ok(())
}

impl Server {
    /// Checks a name and password. The same answer, in the same time, whichever of them is wrong.
    fn log_in(&mut self, call: &mut Call<'_>, user: &[u8], password: &[u8]) -> Done {
        let want = self.cfg.requirepass.as_bytes();
        let same_length = want.len() == password.len();
        let differs = want.iter().zip(password).fold(0u8, |d, (a, b)| d | (a ^ b));
        let open = want.is_empty();
        if user == b"default" && (open || same_length && differs == 0) {
            (call.client.authenticated, call.client.reconfigure) = (true, true);
            return Ok(());
        }
        self.stats.auth_failures += 1;
        Err(Error::new("WRONGPASS invalid username-password pair or user is disabled."))
    }
}

fn auth(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    if args.len() > 3 {
        return Err(Error::SYNTAX);
    }
    (1..args.len()).for_each(|i| call.redact(i));
    if args.len() == 2 && s.cfg.requirepass.is_empty() {
        return Err(Error::new(
            "ERR AUTH <password> called without any password configured for the default user. Are you sure your configuration is correct?",
        ));
    }
    let (user, password) =
        if args.len() == 2 { (&b"default"[..], &args[1]) } else { (&args[1], &args[2]) };
    s.log_in(call, user, password)?;
    call.reply.ok();
    Ok(())
}

fn hello(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let mut version = None;
    let mut i = 1;
    if args.len() > 1 {
        let n = parse_int(&args[1])
            .ok_or(Error::new("ERR Protocol version is not an integer or out of range"))?;
        if !(2..=3).contains(&n) {
            return Err(Error::new("NOPROTO unsupported protocol version"));
        }
        version = Some(n);
        i = 2;
    }
    let (mut credentials, mut name) = (None, None);
    while i < args.len() {
        let left = args.len() - i - 1;
        let word = args[i].to_ascii_lowercase();
        match &word[..] {
            b"auth" if left >= 2 => {
                credentials = Some((i + 1, i + 2));
                call.redact(i + 1);
                call.redact(i + 2);
                i += 2;
            }
            b"setname" if left >= 1 => {
                check_name(&args[i + 1])?;
                name = Some(args[i + 1].to_vec());
                i += 1;
            }
            _ => {
                return Err(Error::quoting("Syntax error in HELLO option '", &args[i], "'"));
            }
        }
        i += 1;
    }
    if let Some((user, password)) = credentials {
        s.log_in(call, &args[user], &args[password])?;
    }
    if !call.client.authenticated {
        return Err(Error::new(
            "NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO <proto> AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the same time",
        ));
    }
    if let Some(name) = name {
        call.client.name = name;
    }
    if let Some(n) = version {
        call.reply.resp3 = n == 3;
    }
    let role = if s.is_primary() { "master" } else { "replica" };
    call.reply.map(7);
    for (field, value) in [("server", "redis"), ("version", REDIS_VERSION)] {
        call.reply.bulk(field.as_bytes());
        call.reply.bulk(value.as_bytes());
    }
    call.reply.bulk(b"proto");
    call.reply.int(if call.reply.resp3 { 3 } else { 2 });
    call.reply.bulk(b"id");
    call.reply.int(call.id as i64);
    for (field, value) in [("mode", "standalone"), ("role", role)] {
        call.reply.bulk(field.as_bytes());
        call.reply.bulk(value.as_bytes());
    }
    call.reply.bulk(b"modules");
    call.reply.array(0);
    Ok(())
}

/// Whether a connection may have that name; an empty one takes its name away.
pub fn check_name(name: &[u8]) -> Done {
    if name.iter().any(|c| !(b'!'..=b'~').contains(c)) {
        return Err(Error::new(
            "ERR Client names cannot contain spaces, newlines or special characters.",
        ));
    }
    Ok(())
}

fn reset(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    s.discard(call.client);
    s.forget_subscriptions(call.id, call.client);
    s.monitors.retain(|&m| m != call.id);
    s.stop_tracking(call.id);
    let c = &mut *call.client;
    (c.db, c.monitor) = (0, false);
    // A reply that was to be skipped is this one.
    if c.reply_mode != ReplyMode::Skip {
        c.reply_mode = ReplyMode::On;
        call.reply.muted = false;
    }
    (c.no_evict, c.no_touch) = (false, false);
    c.name.clear();
    (c.authenticated, c.reconfigure) = (s.cfg.requirepass.is_empty(), true);
    call.reply.resp3 = false;
    call.reply.simple("RESET");
    Ok(())
}

const fn spec(name: &'static str, arity: i32, flags: u32) -> Spec {
    Spec::new(name, arity, flags, category::CONNECTION, Keys::None)
}

const ALWAYS: u32 = NOSCRIPT | LOADING | STALE | FAST | NO_AUTH | ALLOW_BUSY;

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<ServerHandler>] = &[
    Command { run: ping, spec: spec("ping", -1, FAST).tips(&["request_policy:all_shards", "response_policy:all_succeeded"]).doc("connection", "1.0.0", "O(1)", "Answers, if only to show that it can.", "[message]") },
    Command { run: echo, spec: spec("echo", 2, LOADING | STALE | FAST).doc("connection", "1.0.0", "O(1)", "Gives back what it is given.", "message") },
    Command { run: select, spec: spec("select", 2, LOADING | STALE | FAST).doc("connection", "1.0.0", "O(1)", "Changes the database of the connection.", "index") },
    Command { run: quit, spec: spec("quit", -1, ALWAYS).doc("connection", "1.0.0", "O(1)", "Closes the connection.", "") },
    Command { run: auth, spec: spec("auth", -2, ALWAYS).doc("connection", "1.0.0", "O(N) in the passwords", "Logs the connection in.", "[username]@6.0.0 password") },
    Command { run: hello, spec: spec("hello", -1, ALWAYS).doc("connection", "6.0.0", "O(1)", "Greets the server and chooses the protocol.", "arguments=[protover [AUTH (username password)] [SETNAME clientname]]") },
    Command { run: reset, spec: spec("reset", 1, ALWAYS).doc("connection", "6.2.0", "O(1)", "Makes the connection as if it were new.", "") },
];
