//! `SLOWLOG`: the commands that took long.

use super::{Done, no_such_use};
use crate::server::Server;
use crate::server::dispatch::Call;
use crate::server::registry::ServerHandler;
use varve_engine::command::{Command, Keys, Spec, flag::*};
use varve_engine::num::parse_int;
use varve_engine::{Args, Error};

/// Entries that `SLOWLOG GET` shows when it is not said how many.
const SHOWN: usize = 10;

fn get(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let entries = &s.slowlog.entries;
    let count = match args.get(2) {
        _ if args.len() > 3 => return Err(no_such_use("SLOWLOG", &args[1])),
        None => SHOWN,
        Some(word) => match parse_int(word) {
            Some(-1) => entries.len(),
            Some(n @ 0..) => n as usize,
            _ => return Err(Error::new("ERR count should be greater than or equal to -1")),
        },
    };
    let count = count.min(entries.len());
    call.reply.array(count);
    for slow in entries.iter().take(count) {
        call.reply.array(6);
        call.reply.int(slow.id as i64);
        call.reply.int(slow.at_s);
        call.reply.int(slow.us as i64);
        call.reply.array(slow.args.len());
        slow.args.iter().for_each(|arg| call.reply.bulk(arg));
        call.reply.bulk(slow.peer.as_bytes());
        call.reply.bulk(&slow.name);
    }
    Ok(())
}

fn len(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    call.reply.int(s.slowlog.entries.len() as i64);
    Ok(())
}

fn reset(s: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    s.slowlog.entries.clear();
    call.reply.ok();
    Ok(())
}

fn help(_: &mut Server, call: &mut Call, _: &mut Args) -> Done {
    call.reply.help(
        "SLOWLOG",
        &[
            "GET [<count>]",
            "    Shows the latest entries (10 of them; -1 for all): id, Unix time, microseconds,",
            "    arguments, client, client's name.",
            "LEN",
            "    Tells how many entries there are.",
            "RESET",
            "    Forgets all of them.",
        ],
    );
    Ok(())
}

const fn spec(name: &'static str, arity: i32, flags: u32) -> Spec {
    Spec::new(name, arity, flags | LOADING | STALE, 0, Keys::None)
}

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<ServerHandler>] = &[
    Command { run: get, spec: spec("slowlog|get", -2, ADMIN).tips(&["nondeterministic_output", "request_policy:all_nodes"]).doc("server", "2.2.12", "O(N) in the entries shown", "Shows the latest slow commands.", "[count]") },
    Command { run: len, spec: spec("slowlog|len", 2, ADMIN).tips(&["nondeterministic_output", "request_policy:all_nodes", "response_policy:agg_sum"]).doc("server", "2.2.12", "O(1)", "Counts the slow log's entries.", "") },
    Command { run: reset, spec: spec("slowlog|reset", 2, ADMIN).tips(&["request_policy:all_nodes", "response_policy:all_succeeded"]).doc("server", "2.2.12", "O(N) in the entries", "Empties the slow log.", "") },
    Command { run: help, spec: spec("slowlog|help", 2, 0).doc("server", "6.2.0", "O(1)", "Lists the subcommands.", "") },
];
