//! The commands of a cluster, which this server is no node of: they are known, so that they are refused
//! in the words by which clients tell that, whatever else they are given.

use super::Done;
use crate::server::Server;
use crate::server::dispatch::Call;
use crate::server::registry::ServerHandler;
use varve_engine::command::{Command, Keys, Spec, category, flag::*};
use varve_engine::{Args, Error};

fn disabled(_: &mut Server, _: &mut Call, _: &mut Args) -> Done {
    Err(Error::new("ERR This instance has cluster support disabled"))
}

const fn spec(
    name: &'static str,
    arity: i32,
    flags: u32,
    since: &'static str,
    arguments: &'static str,
) -> Spec {
    Spec::new(name, arity, flags, 0, Keys::None).doc(
        "cluster",
        since,
        "O(1)",
        "Of a cluster, which this server is no node of: refused.",
        arguments,
    )
}

/// As [`spec`], of one that clients send for their connection.
const fn of_clients(name: &'static str, flags: u32) -> Spec {
    Spec { categories: category::CONNECTION, ..spec(name, 1, flags | FAST, "3.0.0", "") }
}

const CHANGES: u32 = ADMIN | STALE | NO_ASYNC_LOADING;
const VARIES: &[&str] = &["nondeterministic_output"];

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<ServerHandler>] = &[
    Command { run: disabled, spec: of_clients("asking", 0) },
    Command { run: disabled, spec: of_clients("readonly", LOADING | STALE) },
    Command { run: disabled, spec: of_clients("readwrite", LOADING | STALE) },
    Command { run: disabled, spec: spec("cluster|addslots", -3, CHANGES, "3.0.0", "slot...") },
    Command { run: disabled, spec: spec("cluster|addslotsrange", -4, CHANGES, "7.0.0", "(start-slot end-slot)...") },
    Command { run: disabled, spec: spec("cluster|bumpepoch", 2, CHANGES, "3.0.0", "").tips(VARIES) },
    Command { run: disabled, spec: spec("cluster|count-failure-reports", 3, ADMIN | STALE, "3.0.0", "node-id").tips(VARIES) },
    Command { run: disabled, spec: spec("cluster|countkeysinslot", 3, STALE, "3.0.0", "slot") },
    Command { run: disabled, spec: spec("cluster|delslots", -3, CHANGES, "3.0.0", "slot...") },
    Command { run: disabled, spec: spec("cluster|delslotsrange", -4, CHANGES, "7.0.0", "(start-slot end-slot)...") },
    Command { run: disabled, spec: spec("cluster|failover", -2, CHANGES, "3.0.0", "options=[FORCE|TAKEOVER]") },
    Command { run: disabled, spec: spec("cluster|flushslots", 2, CHANGES, "3.0.0", "") },
    Command { run: disabled, spec: spec("cluster|forget", 3, CHANGES, "3.0.0", "node-id") },
    Command { run: disabled, spec: spec("cluster|getkeysinslot", 4, STALE, "3.0.0", "slot count").tips(VARIES) },
    Command { run: disabled, spec: spec("cluster|help", 2, LOADING | STALE, "5.0.0", "") },
    Command { run: disabled, spec: spec("cluster|info", 2, STALE, "3.0.0", "").tips(VARIES) },
    Command { run: disabled, spec: spec("cluster|keyslot", 3, STALE, "3.0.0", "key:string") },
    Command { run: disabled, spec: spec("cluster|links", 2, STALE, "7.0.0", "").tips(VARIES) },
    Command { run: disabled, spec: spec("cluster|meet", -4, CHANGES, "3.0.0", "ip port [cluster-bus-port]@4.0.0") },
    Command { run: disabled, spec: spec("cluster|myid", 2, STALE, "3.0.0", "") },
    Command { run: disabled, spec: spec("cluster|myshardid", 2, STALE, "7.2.0", "").tips(VARIES) },
    Command { run: disabled, spec: spec("cluster|nodes", 2, STALE, "3.0.0", "").tips(VARIES) },
    Command { run: disabled, spec: spec("cluster|replicas", 3, ADMIN | STALE, "5.0.0", "node-id").tips(VARIES) },
    Command { run: disabled, spec: spec("cluster|replicate", 3, CHANGES, "3.0.0", "node-id") },
    Command { run: disabled, spec: spec("cluster|reset", -2, ADMIN | NOSCRIPT | STALE, "3.0.0", "[HARD|SOFT]") },
    Command { run: disabled, spec: spec("cluster|saveconfig", 2, CHANGES, "3.0.0", "") },
    Command { run: disabled, spec: spec("cluster|set-config-epoch", 3, CHANGES, "3.0.0", "config-epoch") },
    Command { run: disabled, spec: spec("cluster|setslot", -4, CHANGES, "3.0.0", "slot subcommand=(IMPORTING node-id|MIGRATING node-id|NODE node-id|STABLE)") },
    Command { run: disabled, spec: spec("cluster|shards", 2, STALE, "7.0.0", "").tips(VARIES) },
    Command { run: disabled, spec: spec("cluster|slaves", 3, ADMIN | STALE, "3.0.0", "node-id").tips(VARIES).deprecated("5.0.0", "`CLUSTER REPLICAS`") },
    Command { run: disabled, spec: spec("cluster|slots", 2, STALE, "3.0.0", "").tips(VARIES).deprecated("7.0.0", "`CLUSTER SHARDS`") },
];
