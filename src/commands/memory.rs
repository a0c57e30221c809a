//! `MEMORY`: what takes how much.

use super::Done;
use super::info::{human, resident_memory};
use crate::allocator;
use crate::server::Server;
use crate::server::dispatch::Call;
use crate::server::registry::ServerHandler;
use varve_engine::command::{Command, Keys, Spec, access::*, flag::*};
use varve_engine::num::parse_int;
use varve_engine::table::PLACE;
use varve_engine::value::SAMPLES;
use varve_engine::{Args, Error};

fn usage(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let mut samples = SAMPLES;
    let mut words = args.rest(3);
    while let Some(word) = words.next() {
        let n = words.next().filter(|_| word.eq_ignore_ascii_case(b"samples"));
        let n = parse_int(n.ok_or(Error::SYNTAX)?).ok_or(Error::NOT_INT)?;
        samples = usize::try_from(n).map_err(|_| Error::SYNTAX)?;
    }
    s.see_as_reader();
    match s.ks.peek(call.client.db, &args[2]) {
        // The keyspace's table has a place for it, and another where it expires.
        Some(entry) => {
            let places = 1 + entry.expire().is_some() as usize;
            call.reply.int((entry.memory(samples) + places * PLACE) as i64);
        }
        None => call.reply.null(),
    }
    Ok(())
}

/// A figure of `MEMORY STATS`.
enum Figure {
    Bytes(u64),
    Ratio(f64),
}

fn stats(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    use Figure::{Bytes, Ratio};
    let (m, rss) = (s.memory_use(call), resident_memory());
    let fragmentation = rss as f64 / m.used.max(1) as f64;
    let per_key = m.used.saturating_sub(m.startup).checked_div(m.keys).unwrap_or(0);
    let before = [
        ("peak.allocated", Bytes(m.peak)),
        ("total.allocated", Bytes(m.used)),
        ("startup.allocated", Bytes(m.startup)),
        ("replication.backlog", Bytes(m.tail)),
        ("clients.slaves", Bytes(m.clients_replicas)),
        ("clients.normal", Bytes(m.clients_normal)),
        ("cluster.links", Bytes(0)),
        ("aof.buffer", Bytes(0)),
        ("lua.caches", Bytes(0)),
        ("functions.caches", Bytes(0)),
    ];
    let after = [
        ("overhead.total", Bytes(m.overhead())),
        ("keys.count", Bytes(m.keys)),
        ("keys.bytes-per-key", Bytes(per_key)),
        ("dataset.bytes", Bytes(m.dataset())),
        ("dataset.percentage", Ratio(m.dataset_percent())),
        ("peak.percentage", Ratio(m.used as f64 * 100.0 / m.peak.max(1) as f64)),
        ("allocator.allocated", Bytes(m.used)),
        ("allocator.active", Bytes(rss)),
        ("allocator.resident", Bytes(rss)),
        ("allocator-fragmentation.ratio", Ratio(fragmentation)),
        ("allocator-fragmentation.bytes", Bytes(rss.saturating_sub(m.used))),
        ("allocator-rss.ratio", Ratio(1.0)),
        ("allocator-rss.bytes", Bytes(0)),
        ("rss-overhead.ratio", Ratio(1.0)),
        ("rss-overhead.bytes", Bytes(0)),
        ("fragmentation", Ratio(fragmentation)),
        ("fragmentation.bytes", Bytes(rss.saturating_sub(m.used))),
    ];
    let reply = &mut *call.reply;
    reply.map(before.len() + m.tables.len() + after.len());
    let put = |reply: &mut varve_engine::Reply, figures: &[(&str, Figure)]| {
        for (name, figure) in figures {
            reply.bulk(name.as_bytes());
            match figure {
                Bytes(n) => reply.int(*n as i64),
                Ratio(x) => reply.double(*x),
            }
        }
    };
    put(reply, &before);
    for (db, keys, expires) in &m.tables {
        reply.bulk(format!("db.{db}").as_bytes());
        reply.map(2);
        reply.bulk(b"overhead.hashtable.main");
        reply.int(*keys as i64);
        reply.bulk(b"overhead.hashtable.expires");
        reply.int(*expires as i64);
    }
    put(reply, &after);
    Ok(())
}

fn purge(_: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    allocator::purge();
    call.reply.ok();
    Ok(())
}

fn doctor(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    let (m, rss) = (s.memory_use(call), resident_memory());
    let mut text = String::new();
    if m.used < 5 << 20 {
        text += "This server is empty or nearly so: there is nothing to say of its memory.\n";
    } else {
        if m.peak > m.used * 3 / 2 {
            text += &format!(
                "Peak: {} were in use at a time, and {} are now. The allocator may hold pages of that time.\n",
                human(m.peak),
                human(m.used)
            );
        }
        if rss > m.used * 7 / 5 {
            text += &format!(
                "Fragmentation: the process has {} for {} of data. MEMORY PURGE may help.\n",
                human(rss),
                human(m.used)
            );
        }
        if m.clients_normal > m.used / 2 {
            text += &format!(
                "Clients: their buffers take {}. Look for large ones in CLIENT LIST.\n",
                human(m.clients_normal)
            );
        }
        if text.is_empty() {
            text += "Nothing about this server's memory looks wrong.\n";
        }
    }
    call.reply.verbatim("txt", text.as_bytes());
    Ok(())
}

fn malloc_stats(_: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    let text = format!(
        "allocator: {}\nallocated: {}\nresident: {}\n",
        allocator::NAME,
        allocator::used(),
        resident_memory()
    );
    call.reply.verbatim("txt", text.as_bytes());
    Ok(())
}

fn help(_: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    call.reply.help(
        "MEMORY",
        &[
            "DOCTOR",
            "    Says what looks wrong about memory.",
            "MALLOC-STATS",
            "    Shows the allocator's figures.",
            "PURGE",
            "    Gives unused memory back to the system.",
            "STATS",
            "    Shows what takes how much.",
            "USAGE <key> [SAMPLES <count>]",
            "    Tells the bytes that a key takes, its value included. Those of a large value are",
            "    estimated from some of its elements, or counted of all if the count is 0.",
        ],
    );
    Ok(())
}

const fn spec(name: &'static str, arity: i32, flags: u32) -> Spec {
    Spec::new(name, arity, flags, 0, Keys::None)
}

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<ServerHandler>] = &[
    Command { run: usage, spec: Spec::new("memory|usage", -3, READONLY, 0, Keys::Range(2, 2, 1)).key(RO).doc("server", "4.0.0", "O(N) in the nodes of the value", "Tells the bytes that a key takes.", "key [SAMPLES count]") },
    Command { run: stats, spec: spec("memory|stats", 2, 0).tips(&["nondeterministic_output", "request_policy:all_shards", "response_policy:special"]).doc("server", "4.0.0", "O(N) in the connections", "Shows what takes how much memory.", "") },
    Command { run: purge, spec: spec("memory|purge", 2, 0).tips(&["request_policy:all_shards", "response_policy:all_succeeded"]).doc("server", "4.0.0", "By allocator", "Gives unused memory back to the system.", "") },
    Command { run: doctor, spec: spec("memory|doctor", 2, 0).tips(&["nondeterministic_output", "request_policy:all_shards", "response_policy:special"]).doc("server", "4.0.0", "O(N) in the connections", "Says what looks wrong about memory.", "") },
    Command { run: malloc_stats, spec: spec("memory|malloc-stats", 2, 0).tips(&["nondeterministic_output", "request_policy:all_shards", "response_policy:special"]).doc("server", "4.0.0", "By allocator", "Shows the allocator's figures.", "") },
    Command { run: help, spec: spec("memory|help", 2, LOADING | STALE).doc("server", "4.0.0", "O(1)", "Lists the subcommands.", "") },
];
