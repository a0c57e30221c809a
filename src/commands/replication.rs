//! Replicas and primaries: who follows whom, and what is acknowledged.

use super::Done;
use crate::config::types::Primary;
use crate::log_notice;
use crate::server::Server;
use crate::server::blocking::NO_LOG;
use crate::server::client::BlockedOn;
use crate::server::dispatch::Call;
use crate::server::registry::ServerHandler;
use varve_engine::command::{Command, Keys, Spec, category, flag::*};
use varve_engine::commands::blocking::until_after;
use varve_engine::num::parse_int;
use varve_engine::{Args, Error};

fn replicaof(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    if s.repl.failover.is_some() {
        return Err(Error::new("ERR REPLICAOF not allowed while failing over."));
    }
    if args[1].eq_ignore_ascii_case(b"no") && args[2].eq_ignore_ascii_case(b"one") {
        if !s.is_primary() {
            s.promote(call.net);
            log_notice!("MASTER MODE enabled (user request from '{}')", call.client.peer);
        }
        call.reply.ok();
        return Ok(());
    }
    let port = parse_int(&args[2]).filter(|p| (0..=65535).contains(p));
    let port = port.ok_or(Error::new("ERR Invalid master port"))? as u16;
    let host = String::from_utf8_lossy(&args[1]).into_owned();
    if s.cfg.replicaof.as_ref().is_some_and(|p| p.host == host && p.port == port) {
        call.reply.simple("OK Already connected to specified master");
        return Ok(());
    }
    if port == s.cfg.port && matches!(&host[..], "127.0.0.1" | "localhost" | "::1") {
        return Err(Error::new("ERR Can't replicate from myself"));
    }
    log_notice!("REPLICAOF {host}:{port} enabled (user request from '{}')", call.client.peer);
    s.follow(call.net, Primary { host, port });
    call.reply.ok();
    Ok(())
}

fn role(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    let end = s.log.end().0 as i64;
    let now = s.now_u64();
    match (&s.repl.link, &s.cfg.replicaof) {
        (Some(link), Some(to)) => {
            call.reply.array(5);
            call.reply.bulk(b"slave");
            call.reply.bulk(to.host.as_bytes());
            call.reply.int(to.port as i64);
            call.reply.bulk(link.machine().state_name().as_bytes());
            call.reply.int(if link.machine().is_up() { end } else { -1 });
        }
        _ => {
            call.reply.array(3);
            call.reply.bulk(b"master");
            call.reply.int(end);
            let online: Vec<_> = s.repl.primary.listed(now).filter(|r| r.online).collect();
            call.reply.array(online.len());
            for replica in online {
                let ip = match replica.announced_ip {
                    Some(ip) => ip.to_owned(),
                    None => s.address_of(call, replica.conn),
                };
                call.reply.array(3);
                call.reply.bulk(ip.as_bytes());
                call.reply.bulk_int(replica.port as i64);
                call.reply.bulk_int(replica.offset.0 as i64);
            }
        }
    }
    Ok(())
}

impl Server {
    /// The address of a connection's peer, without the port.
    pub fn address_of(&self, call: &Call<'_>, id: u64) -> String {
        let socket = match id == call.id {
            true => call.client.socket,
            false => call.net.conn(id).and_then(|conn| conn.session.socket),
        };
        socket.map_or_else(|| "?".into(), |s| s.ip().to_canonical().to_string())
    }
}

/// `FAILOVER [TO host port [FORCE]] [ABORT] [TIMEOUT ms]`
fn failover(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    if args.len() == 2 && args[1].eq_ignore_ascii_case(b"abort") {
        if s.has_asked_to_take_over() {
            return Err(Error::new(
                "ERR The target was asked to take over, and is about to answer.",
            ));
        }
        if !s.abort_failover(call.net, "the operator said so") {
            return Err(Error::new("ERR No failover in progress."));
        }
        call.reply.ok();
        return Ok(());
    }
    let (mut target, mut force, mut timeout) = (None, false, None);
    let mut i = 1;
    while i < args.len() {
        let word = |name: &str| args[i].eq_ignore_ascii_case(name.as_bytes());
        if word("timeout") && i + 1 < args.len() && timeout.is_none() {
            let ms = parse_int(&args[i + 1]).ok_or(Error::NOT_INT)?;
            if ms <= 0 {
                return Err(Error::new("ERR FAILOVER timeout must be greater than 0"));
            }
            timeout = Some(ms);
            i += 1;
        } else if word("to") && i + 2 < args.len() && target.is_none() {
            let port = parse_int(&args[i + 2]).ok_or(Error::NOT_INT)?;
            let port = u16::try_from(port).unwrap_or(0); // which no replica has
            let host = String::from_utf8_lossy(&args[i + 1]).into_owned();
            target = Some(Primary { host, port });
            i += 2;
        } else if word("force") && !force {
            force = true;
        } else {
            return Err(Error::SYNTAX);
        }
        i += 1;
    }
    s.begin_failover(call, target, force, timeout)?;
    call.reply.ok();
    Ok(())
}

fn replconf(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    s.replconf(call, args)
}

fn psync(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let next = parse_int(&args[2]).ok_or(Error::NOT_INT)?;
    let take_over = match args.get(3) {
        None => false,
        Some(word) if word.eq_ignore_ascii_case(b"failover") => true,
        Some(_) => return Err(Error::SYNTAX),
    };
    s.psync(call, &args[1], next, take_over)
}

fn sync(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    s.sync(call)
}

/// When a wait of `arg` milliseconds from now ends, by the steady clock; `None` is never.
pub fn wait_until(s: &Server, arg: &[u8]) -> Result<Option<i64>, Error> {
    let ms = parse_int(arg).ok_or(Error::new("ERR timeout is not an integer or out of range"))?;
    until_after(s.clock.steady_ms(), ms)
}

fn wait(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    if !s.is_primary() {
        return Err(Error::new(
            "ERR WAIT cannot be used with replica instances. Please also note that writes to replicas are just local and are not propagated.",
        ));
    }
    let count = parse_int(&args[1]).ok_or(Error::NOT_INT)?;
    let until = wait_until(s, &args[2])?;
    let offset = call.client.wrote_to;
    let have = s.replicas_at(offset);
    if have as i64 >= count || s.in_exec.is_some() {
        call.reply.int(have as i64);
        return Ok(());
    }
    s.ask_for_acks();
    s.block(call, BlockedOn::Replicas { count: count as usize, offset }, until);
    Ok(())
}

fn waitaof(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let local = parse_int(&args[1])
        .filter(|n| (0..=1).contains(n))
        .ok_or(Error::new("ERR value is out of range, must be between 0 and 1"))?;
    let count = parse_int(&args[2]).filter(|n| *n >= 0).ok_or(Error::POSITIVE)?;
    let until = wait_until(s, &args[3])?;
    if !s.is_primary() {
        return Err(Error::new(
            "ERR WAITAOF cannot be used with replica instances. Please also note that writes to replicas are just local and are not propagated.",
        ));
    }
    if local > 0 && !s.cfg.appendonly {
        return Err(NO_LOG);
    }
    let offset = call.client.wrote_to;
    let (here, there) = (s.synced_here(offset), s.replica_disks_at(offset));
    if here as i64 >= local && there as i64 >= count || s.in_exec.is_some() {
        call.reply.array(2);
        call.reply.int(here as i64);
        call.reply.int(there as i64);
        return Ok(());
    }
    s.ask_for_acks();
    let on = BlockedOn::Disks { local: local as usize, count: count as usize, offset };
    s.block(call, on, until);
    Ok(())
}

const fn spec(name: &'static str, arity: i32, flags: u32) -> Spec {
    Spec::new(name, arity, flags, 0, Keys::None)
}

const fn dangerous(name: &'static str, arity: i32, flags: u32) -> Spec {
    Spec::new(name, arity, flags, category::DANGEROUS | category::ADMIN, Keys::None)
}

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<ServerHandler>] = &[
    Command { run: replicaof, spec: spec("replicaof", 3, ADMIN | NOSCRIPT | STALE).doc("server", "5.0.0", "O(1)", "Follows another server, or none.", "args=(host port|NO ONE)") },
    Command { run: replicaof, spec: spec("slaveof", 3, ADMIN | NOSCRIPT | STALE).doc("server", "1.0.0", "O(1)", "The old name of REPLICAOF.", "args=(host port|NO ONE)").deprecated("5.0.0", "`REPLICAOF`") },
    Command { run: role, spec: dangerous("role", 1, NOSCRIPT | LOADING | STALE | FAST).doc("server", "2.8.12", "O(1)", "Tells whether this is a primary or a replica, and how it stands.", "") },
    Command { run: replconf, spec: spec("replconf", -1, ADMIN | NOSCRIPT | LOADING | STALE | ALLOW_BUSY).doc("server", "3.0.0", "O(1)", "What replicas and primaries tell each other.", "[(option value)...]").internal() },
    Command { run: failover, spec: spec("failover", -1, ADMIN | NOSCRIPT | STALE).doc("server", "6.2.0", "O(1)", "Hands over to a replica when that has every write.", "[TO target=(host port [FORCE])] [ABORT] [TIMEOUT milliseconds]") },
    Command { run: psync, spec: spec("psync", -3, ADMIN | NOSCRIPT | NO_MULTI | NO_ASYNC_LOADING).doc("server", "2.8.0", "O(N) in what is sent", "Begins a replica's stream, from where it stopped if that can be.", "replicationid offset") },
    Command { run: sync, spec: spec("sync", 1, ADMIN | NOSCRIPT | NO_MULTI | NO_ASYNC_LOADING).doc("server", "1.0.0", "O(N) in what is sent", "Begins a replica's stream from a snapshot.", "") },
    Command { run: wait, spec: Spec::new("wait", 3, BLOCKING, category::CONNECTION, Keys::None).tips(&["request_policy:all_shards", "response_policy:agg_min"]).doc("generic", "3.0.0", "O(1)", "Waits until replicas have what this client wrote.", "numreplicas timeout:integer") },
    Command { run: waitaof, spec: Spec::new("waitaof", 4, BLOCKING, category::CONNECTION, Keys::None).tips(&["request_policy:all_shards", "response_policy:agg_min"]).doc("generic", "7.2.0", "O(1)", "Waits until disks, here and at replicas, have what this client wrote.", "numlocal numreplicas timeout:integer") },
];
