//! Sorted sets: members with scores, in the order of the scores.
//!
//! | file | what is in it |
//! | --- | --- |
//! | `mod.rs` | what the others share, and the table of commands |
//! | `write.rs` | adding, changing and removing |
//! | `range.rs` | ranges by rank, score and member; counting, storing and removing them |
//! | `read.rs` | single members: scores, ranks, random ones, scans |
//! | `pop.rs` | taking from either end, waiting for it too |
//! | `algebra.rs` | union, intersection, difference |

mod algebra;
mod pop;
mod range;
mod read;
#[cfg(test)]
mod tests;
mod write;

use crate::command::{Command, Ctx, Handler, Keys, Spec, access::*, category, flag::*};
use crate::entry::Payload;
use crate::keyspace::{Keyspace, event};
use crate::types::zset::Zset;
use crate::value::Value;
use crate::{Error, Reply};

type Done = Result<(), Error>;

/// The sorted set at a key that is read.
fn read_zset<'k>(ks: &'k mut Keyspace, db: usize, key: &[u8]) -> Result<Option<&'k Zset>, Error> {
    match ks.read(db, key).map(|entry| entry.value()) {
        None => Ok(None),
        Some(Some(Value::Zset(zset))) => Ok(Some(zset)),
        Some(_) => Err(Error::WRONG_TYPE),
    }
}

/// The sorted set at a key that is about to change.
fn edit_zset<'k>(
    ks: &'k mut Keyspace,
    db: usize,
    key: &[u8],
) -> Result<Option<&'k mut Zset>, Error> {
    match ks.write(db, key).map(|entry| entry.value_mut()) {
        None => Ok(None),
        Some(Some(Value::Zset(zset))) => Ok(Some(zset)),
        Some(_) => Err(Error::WRONG_TYPE),
    }
}

/// Writes the header of `n` members with or without scores; [`put`] writes each.
fn header(reply: &mut Reply, n: usize, with_scores: bool) {
    let flat = with_scores && !reply.resp3;
    reply.array(if flat { n * 2 } else { n });
}

/// Writes a member: with its score a pair in RESP 3, two elements in RESP 2.
fn put(reply: &mut Reply, member: &[u8], score: f64, with_scores: bool) {
    if !with_scores {
        return reply.bulk(member);
    }
    if reply.resp3 {
        reply.array(2);
    }
    reply.bulk(member);
    reply.double(score);
}

/// Sets a key to the result of a `…STORE` command, or deletes it if there is none, and replies.
fn store(ctx: &mut Ctx, key: &[u8], zset: Zset, name: &'static str) {
    let len = zset.len();
    if len == 0 {
        let lazy = ctx.ks.lazy.server_del;
        ctx.ks.delete(ctx.db, key, lazy);
    } else {
        ctx.ks.set(ctx.db, key, Payload::Value(Value::Zset(zset)), None);
        ctx.changed(key, event::ZSET, name);
    }
    ctx.reply.int(len as i64);
}

/// What follows when `removed` members, at least one, have left a key.
fn removed(ctx: &mut Ctx, key: &[u8], name: &'static str, removed: usize, empty: bool) {
    ctx.changed(key, event::ZSET, name);
    ctx.ks.dirty += removed as u64 - 1;
    if empty {
        ctx.ks.delete_empty(ctx.db, key);
    }
}

const fn spec(name: &'static str, arity: i32, flags: u32, keys: Keys) -> Spec {
    Spec::new(name, arity, flags, category::SORTEDSET, keys)
}

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<Handler>] = &[
    Command { run: write::zadd, spec: spec("zadd", -4, WRITE | DENYOOM | FAST, Keys::ONE).key(RW | UPDATE).doc("sorted-set", "1.2.0", "O(log N) a member", "Puts members with scores into a sorted set, or changes their scores.", "key condition=[NX|XX]@3.0.2 comparison=[GT|LT]@6.2.0 [change=CH]@3.0.2 [increment=INCR]@3.0.2 (score member)...") },
    Command { run: write::zincrby, spec: spec("zincrby", 4, WRITE | DENYOOM | FAST, Keys::ONE).doc("sorted-set", "1.2.0", "O(log N)", "Adds to a member's score.", "key increment member") },
    Command { run: write::zrem, spec: spec("zrem", -3, WRITE | FAST, Keys::ONE).key(RW | DELETE).doc("sorted-set", "1.2.0", "O(log N) a member", "Takes members out of a sorted set.", "key member...") },
    Command { run: range::zremrangebyrank, spec: spec("zremrangebyrank", 4, WRITE, Keys::ONE).key(RW | DELETE).doc("sorted-set", "2.0.0", "O(log N) and the members removed", "Takes out the members at a range of ranks.", "key start stop") },
    Command { run: range::zremrangebyscore, spec: spec("zremrangebyscore", 4, WRITE, Keys::ONE).key(RW | DELETE).doc("sorted-set", "1.2.0", "O(log N) and the members removed", "Takes out the members whose scores lie in a range.", "key min:double max:double") },
    Command { run: range::zremrangebylex, spec: spec("zremrangebylex", 4, WRITE, Keys::ONE).key(RW | DELETE).doc("sorted-set", "2.8.9", "O(log N) and the members removed", "Takes out the members that lie in a range of bytes, all scores being the same.", "key min max") },
    Command { run: range::zrange, spec: spec("zrange", -4, READONLY, Keys::ONE).doc("sorted-set", "1.2.0", "O(log N) and the members returned", "Gives a range of members, by rank, score or bytes.", "key start:string stop:string sortby=[BYSCORE|BYLEX]@6.2.0 [REV]@6.2.0 [LIMIT (offset count)]@6.2.0 [WITHSCORES]") },
    Command { run: range::zrangestore, spec: spec("zrangestore", -5, WRITE | DENYOOM, Keys::TWO).key(OW | UPDATE).other_keys(RO | ACCESS).doc("sorted-set", "6.2.0", "O(log N) and M log M for the M members stored", "Keeps a range of members under another key.", "dst src min max sortby=[BYSCORE|BYLEX] [REV] [LIMIT (offset count)]") },
    Command { run: range::zrevrange, spec: spec("zrevrange", -4, READONLY, Keys::ONE).doc("sorted-set", "1.2.0", "O(log N) and the members returned", "Gives the members at a range of ranks, counted from the highest score.", "key start stop [WITHSCORES]").deprecated("6.2.0", "`ZRANGE` with `REV`") },
    Command { run: range::zrangebyscore, spec: spec("zrangebyscore", -4, READONLY, Keys::ONE).doc("sorted-set", "1.0.5", "O(log N) and the members returned", "Gives the members whose scores lie in a range.", "key min:double max:double [WITHSCORES]@2.0.0 [LIMIT (offset count)]").deprecated("6.2.0", "`ZRANGE` with `BYSCORE`") },
    Command { run: range::zrevrangebyscore, spec: spec("zrevrangebyscore", -4, READONLY, Keys::ONE).doc("sorted-set", "2.2.0", "O(log N) and the members returned", "Gives the members whose scores lie in a range, highest first.", "key max:double min:double [WITHSCORES] [LIMIT (offset count)]").deprecated("6.2.0", "`ZRANGE` with `REV` and `BYSCORE`") },
    Command { run: range::zrangebylex, spec: spec("zrangebylex", -4, READONLY, Keys::ONE).doc("sorted-set", "2.8.9", "O(log N) and the members returned", "Gives the members that lie in a range of bytes, all scores being the same.", "key min max [LIMIT (offset count)]").deprecated("6.2.0", "`ZRANGE` with `BYLEX`") },
    Command { run: range::zrevrangebylex, spec: spec("zrevrangebylex", -4, READONLY, Keys::ONE).doc("sorted-set", "2.8.9", "O(log N) and the members returned", "Gives the members that lie in a range of bytes, last first.", "key max min [LIMIT (offset count)]").deprecated("6.2.0", "`ZRANGE` with `REV` and `BYLEX`") },
    Command { run: range::zcount, spec: spec("zcount", 4, READONLY | FAST, Keys::ONE).doc("sorted-set", "2.0.0", "O(log N)", "Counts the members whose scores lie in a range.", "key min:double max:double") },
    Command { run: range::zlexcount, spec: spec("zlexcount", 4, READONLY | FAST, Keys::ONE).doc("sorted-set", "2.8.9", "O(log N)", "Counts the members that lie in a range of bytes, all scores being the same.", "key min max") },
    Command { run: read::zcard, spec: spec("zcard", 2, READONLY | FAST, Keys::ONE).key(RO).doc("sorted-set", "1.2.0", "O(1)", "Counts the members of a sorted set.", "key") },
    Command { run: read::zscore, spec: spec("zscore", 3, READONLY | FAST, Keys::ONE).doc("sorted-set", "1.2.0", "O(1)", "Gives a member's score.", "key member") },
    Command { run: read::zmscore, spec: spec("zmscore", -3, READONLY | FAST, Keys::ONE).doc("sorted-set", "6.2.0", "O(N) in the members asked for", "Gives several members' scores.", "key member...") },
    Command { run: read::zrank, spec: spec("zrank", -3, READONLY | FAST, Keys::ONE).doc("sorted-set", "2.0.0", "O(log N)", "Gives a member's rank, counted from the lowest score.", "key member [WITHSCORE]@7.2.0") },
    Command { run: read::zrevrank, spec: spec("zrevrank", -3, READONLY | FAST, Keys::ONE).doc("sorted-set", "2.0.0", "O(log N)", "Gives a member's rank, counted from the highest score.", "key member [WITHSCORE]@7.2.0") },
    Command { run: read::zrandmember, spec: spec("zrandmember", -2, READONLY, Keys::ONE).tips(&["nondeterministic_output"]).doc("sorted-set", "6.2.0", "O(log N) a member returned", "Gives random members of a sorted set, which keeps them.", "key options=[count [WITHSCORES]]") },
    Command { run: read::zscan, spec: spec("zscan", -3, READONLY, Keys::ONE).tips(&["nondeterministic_output"]).doc("sorted-set", "2.8.0", "O(1) a call, O(N) for a whole walk", "Walks over the members and scores of a sorted set, some a call.", "key cursor [MATCH pattern] [COUNT count]") },
    Command { run: pop::zpopmin, spec: spec("zpopmin", -2, WRITE | FAST, Keys::ONE).key(RW | ACCESS | DELETE).doc("sorted-set", "5.0.0", "O(log N) a member", "Takes out the members with the lowest scores.", "key [count]") },
    Command { run: pop::zpopmax, spec: spec("zpopmax", -2, WRITE | FAST, Keys::ONE).key(RW | ACCESS | DELETE).doc("sorted-set", "5.0.0", "O(log N) a member", "Takes out the members with the highest scores.", "key [count]") },
    Command { run: pop::zmpop, spec: spec("zmpop", -4, WRITE | MOVABLE_KEYS, Keys::Counted(1)).key(RW | ACCESS | DELETE).doc("sorted-set", "7.0.0", "O(K) in the keys and O(log N) a member", "Takes members out of the first of several sorted sets that is not empty.", "numkeys key... where=(MIN|MAX) [COUNT count]") },
    Command { run: pop::bzpopmin, spec: spec("bzpopmin", -3, WRITE | NOSCRIPT | BLOCKING | FAST, Keys::Range(1, -2, 1)).key(RW | ACCESS | DELETE).doc("sorted-set", "5.0.0", "O(log N)", "Takes out the member with the lowest score, and waits until there is one.", "key... timeout") },
    Command { run: pop::bzpopmax, spec: spec("bzpopmax", -3, WRITE | NOSCRIPT | BLOCKING | FAST, Keys::Range(1, -2, 1)).key(RW | ACCESS | DELETE).doc("sorted-set", "5.0.0", "O(log N)", "Takes out the member with the highest score, and waits until there is one.", "key... timeout") },
    Command { run: pop::bzmpop, spec: spec("bzmpop", -5, WRITE | BLOCKING | MOVABLE_KEYS, Keys::Counted(2)).key(RW | ACCESS | DELETE).doc("sorted-set", "7.0.0", "O(K) in the keys and O(log N) a member", "Takes members out of the first of several sorted sets that is not empty, and waits until there is one.", "timeout numkeys key... where=(MIN|MAX) [COUNT count]") },
    Command { run: algebra::zunion, spec: spec("zunion", -3, READONLY | MOVABLE_KEYS, Keys::Counted(1)).doc("sorted-set", "6.2.0", "O(N) in all members and O(M log M) in the result", "Gives the members that any of the sorted sets has, their scores put together.", "numkeys key... [WEIGHTS weight...] [AGGREGATE aggregate=(SUM|MIN|MAX)] [WITHSCORES]") },
    Command { run: algebra::zinter, spec: spec("zinter", -3, READONLY | MOVABLE_KEYS, Keys::Counted(1)).doc("sorted-set", "6.2.0", "O(N*K) in the smallest and the number of keys, O(M log M) in the result", "Gives the members that all sorted sets have, their scores put together.", "numkeys key... [WEIGHTS weight...] [AGGREGATE aggregate=(SUM|MIN|MAX)] [WITHSCORES]") },
    Command { run: algebra::zdiff, spec: spec("zdiff", -3, READONLY | MOVABLE_KEYS, Keys::Counted(1)).doc("sorted-set", "6.2.0", "O(N*K) in the first and the number of keys", "Gives the members that the first sorted set has and no other.", "numkeys key... [WITHSCORES]") },
    Command { run: algebra::zintercard, spec: spec("zintercard", -3, READONLY | MOVABLE_KEYS, Keys::Counted(1)).doc("sorted-set", "7.0.0", "O(N*K) in the smallest and the number of keys", "Counts the members that all sorted sets have, up to a limit.", "numkeys key... [LIMIT limit]") },
    Command { run: algebra::zunionstore, spec: spec("zunionstore", -4, WRITE | DENYOOM | MOVABLE_KEYS, Keys::AndCounted(1, 2)).key(OW | UPDATE).other_keys(RO | ACCESS).doc("sorted-set", "2.0.0", "O(N) in all members and O(M log M) in the result", "Keeps the members that any of the sorted sets has under a key.", "destination numkeys key... [WEIGHTS weight...] [AGGREGATE aggregate=(SUM|MIN|MAX)]") },
    Command { run: algebra::zinterstore, spec: spec("zinterstore", -4, WRITE | DENYOOM | MOVABLE_KEYS, Keys::AndCounted(1, 2)).key(OW | UPDATE).other_keys(RO | ACCESS).doc("sorted-set", "2.0.0", "O(N*K) in the smallest and the number of keys, O(M log M) in the result", "Keeps the members that all sorted sets have under a key.", "destination numkeys key... [WEIGHTS weight...] [AGGREGATE aggregate=(SUM|MIN|MAX)]") },
    Command { run: algebra::zdiffstore, spec: spec("zdiffstore", -4, WRITE | DENYOOM | MOVABLE_KEYS, Keys::AndCounted(1, 2)).key(OW | UPDATE).other_keys(RO | ACCESS).doc("sorted-set", "6.2.0", "O(N*K) in the first and the number of keys", "Keeps the members that the first sorted set has and no other under a key.", "destination numkeys key...") },
];
