//! Keys of any type: finding, naming, moving, expiring and removing them.

use super::scan::Scan;
use super::util::{int, is};
use crate::command::{Command, Ctx, Handler, Keys, Spec, access::*, category, flag::*};
use crate::entry::Entry;
use crate::keyspace::{AccessClock, Origin, event};
use crate::{Args, Error, glob};

type Done = Result<(), Error>;

fn del_all(ctx: &mut Ctx, args: &mut Args, lazy: bool) -> Done {
    let mut n = 0;
    for key in args.rest(1) {
        n += ctx.ks.delete(ctx.db, key, lazy) as i64;
    }
    ctx.reply.int(n);
    Ok(())
}

fn del(ctx: &mut Ctx, args: &mut Args) -> Done {
    let lazy = ctx.ks.lazy.user_del;
    del_all(ctx, args, lazy)
}

fn unlink(ctx: &mut Ctx, args: &mut Args) -> Done {
    del_all(ctx, args, true)
}

/// Asks without touching: what is only looked for does not count as used.
fn exists(ctx: &mut Ctx, args: &mut Args) -> Done {
    let n = args.rest(1).filter(|key| ctx.ks.look(ctx.db, key).is_some()).count();
    ctx.reply.int(n as i64);
    Ok(())
}

fn touch(ctx: &mut Ctx, args: &mut Args) -> Done {
    let mut n = 0;
    for key in args.rest(1) {
        n += ctx.ks.read(ctx.db, key).is_some() as i64;
    }
    ctx.reply.int(n);
    Ok(())
}

fn type_of(ctx: &mut Ctx, args: &mut Args) -> Done {
    let name = ctx.ks.look(ctx.db, &args[1]).map_or("none", |e| e.type_of().name());
    ctx.reply.simple(name);
    Ok(())
}

/// Whether an entry is past its time: shown to nobody, even before somebody removes it.
fn gone(ctx: &Ctx, entry: &Entry) -> bool {
    ctx.ks.origin != Origin::Log && entry.expire().is_some_and(|at| at <= ctx.ks.now_ms)
}

fn keys(ctx: &mut Ctx, args: &mut Args) -> Done {
    let pattern = &args[1];
    let place = ctx.reply.deferred();
    let mut n = 0;
    if !pattern.iter().any(|b| b"*?[\\".contains(b)) {
        // A pattern without wildcards is a lookup.
        if ctx.ks.peek(ctx.db, pattern).is_some() {
            ctx.reply.bulk(pattern);
            n = 1;
        }
    } else {
        for entry in ctx.ks.dbs[ctx.db].keys().iter() {
            if (pattern == b"*" || glob::matches(pattern, entry.key(), false)) && !gone(ctx, entry)
            {
                ctx.reply.bulk(entry.key());
                n += 1;
            }
        }
    }
    ctx.reply.end_array(place, n);
    Ok(())
}

fn scan(ctx: &mut Ctx, args: &mut Args) -> Done {
    let scan = Scan::parse(args, 1, true)?;
    let mut cursor = scan.cursor;
    let mut found: Vec<u8> = Vec::new();
    let (mut n, mut visited, mut expired) = (0, 0, Vec::<Box<[u8]>>::new());
    // Empty buckets count too, so that a sparse table can not hold the loop.
    let mut buckets = scan.count.saturating_mul(10);
    let mut itoa = itoa::Buffer::new();
    loop {
        let now = ctx.ks.now_ms;
        let holds = ctx.ks.origin == Origin::Log;
        cursor = ctx.ks.dbs[ctx.db].keys().scan(cursor, |entry| {
            visited += 1;
            if !scan.matches(entry.key()) || !scan.wants(entry.type_of()) {
                return;
            }
            if !holds && entry.expire().is_some_and(|at| at <= now) {
                expired.push(entry.key().into());
                return;
            }
            n += 1;
            found.push(b'$');
            found.extend_from_slice(itoa.format(entry.key().len()).as_bytes());
            found.extend_from_slice(b"\r\n");
            found.extend_from_slice(entry.key());
            found.extend_from_slice(b"\r\n");
        });
        buckets -= 1;
        if cursor == 0 || visited >= scan.count || buckets == 0 {
            break;
        }
    }
    for key in expired {
        ctx.ks.peek(ctx.db, &key);
    }
    ctx.reply.array(2);
    ctx.reply.bulk(itoa::Buffer::new().format(cursor).as_bytes());
    ctx.reply.array(n);
    ctx.reply.raw(&found);
    Ok(())
}

fn randomkey(ctx: &mut Ctx, _: &mut Args) -> Done {
    // If all that is left has expired, a replica, which may not delete, must still come to an end.
    for _ in 0..100 {
        let mut words = [ctx.ks.random(), ctx.ks.random()];
        let mut rng = || {
            words[0] ^= words[0] << 13;
            words[0] ^= words[0] >> 7;
            words[0] ^= words[0] << 17;
            words[0].wrapping_add(words[1])
        };
        let Some(entry) = ctx.ks.dbs[ctx.db].keys().sample(&mut rng) else { break };
        if !gone(ctx, entry) {
            ctx.reply.bulk(entry.key());
            return Ok(());
        }
        let key: Box<[u8]> = entry.key().into();
        ctx.ks.peek(ctx.db, &key);
    }
    ctx.reply.null();
    Ok(())
}

fn rename_to(ctx: &mut Ctx, args: &mut Args, only_if_free: bool) -> Done {
    let (from, to) = (&args[1], &args[2]);
    if ctx.ks.write(ctx.db, from).is_none() {
        return Err(Error::NO_SUCH_KEY);
    }
    if from == to {
        if only_if_free {
            ctx.reply.int(0);
        } else {
            ctx.reply.ok();
        }
        return Ok(());
    }
    if ctx.ks.write(ctx.db, to).is_some() {
        if only_if_free {
            ctx.reply.int(0);
            return Ok(());
        }
        let old = ctx.ks.remove(ctx.db, to).expect("just found");
        let lazy = ctx.ks.lazy.server_del;
        ctx.ks.free(old, lazy);
        ctx.ks.touched(ctx.db, to);
    }
    let entry = ctx.ks.remove(ctx.db, from).expect("found above");
    let (expire, access) = (entry.expire(), entry.access());
    let renamed = entry.moved_to(to, expire);
    ctx.ks.put(ctx.db, renamed, Some(access));
    ctx.ks.touched(ctx.db, from);
    ctx.ks.touched(ctx.db, to);
    ctx.ks.notify(event::GENERIC, "rename_from", ctx.db, from);
    ctx.ks.notify(event::GENERIC, "rename_to", ctx.db, to);
    ctx.ks.dirty += 1;
    if only_if_free {
        ctx.reply.int(1);
    } else {
        ctx.reply.ok();
    }
    Ok(())
}

fn rename(ctx: &mut Ctx, args: &mut Args) -> Done {
    rename_to(ctx, args, false)
}

fn renamenx(ctx: &mut Ctx, args: &mut Args) -> Done {
    rename_to(ctx, args, true)
}

/// A database index as an argument, where there are `databases`.
pub fn db_index(databases: usize, arg: &[u8]) -> Result<usize, Error> {
    valid_db(databases, i32::try_from(int(arg)?).map_err(|_| NOT_I32)?)
}

const NOT_I32: Error =
    Error::new("ERR value is out of range, value must between -2147483648 and 2147483647");

fn valid_db(databases: usize, n: i32) -> Result<usize, Error> {
    let index = usize::try_from(n).ok().filter(|&n| n < databases);
    index.ok_or(Error::new("ERR DB index is out of range"))
}

fn move_key(ctx: &mut Ctx, args: &mut Args) -> Done {
    let to = db_index(ctx.ks.dbs.len(), &args[2])?;
    if to == ctx.db {
        return Err(Error::new("ERR source and destination objects are the same"));
    }
    let key = &args[1];
    if ctx.ks.write(ctx.db, key).is_none() || ctx.ks.exists(to, key) {
        ctx.reply.int(0);
        return Ok(());
    }
    let entry = ctx.ks.remove(ctx.db, key).expect("found above");
    let access = entry.access();
    ctx.ks.put(to, entry, Some(access));
    ctx.ks.touched(ctx.db, key);
    ctx.ks.touched(to, key);
    ctx.ks.notify(event::GENERIC, "move_from", ctx.db, key);
    ctx.ks.notify(event::GENERIC, "move_to", to, key);
    ctx.ks.dirty += 1;
    ctx.reply.int(1);
    Ok(())
}

fn copy(ctx: &mut Ctx, args: &mut Args) -> Done {
    let (mut to_db, mut replace) = (ctx.db, false);
    let mut i = 3;
    while i < args.len() {
        match &args[i] {
            w if is(w, "replace") => replace = true,
            w if is(w, "db") && i + 1 < args.len() => {
                to_db = db_index(ctx.ks.dbs.len(), &args[i + 1])?;
                i += 1;
            }
            _ => return Err(Error::SYNTAX),
        }
        i += 1;
    }
    let (from, to) = (&args[1], &args[2]);
    if to_db == ctx.db && from == to {
        return Err(Error::new("ERR source and destination objects are the same"));
    }
    let there = ctx.ks.exists(to_db, to);
    let Some(entry) = ctx.ks.read(ctx.db, from) else {
        ctx.reply.int(0);
        return Ok(());
    };
    if there && !replace {
        ctx.reply.int(0);
        return Ok(());
    }
    let copied = entry.copy_as(to, entry.expire());
    if there {
        let old = ctx.ks.remove(to_db, to).expect("just found");
        let lazy = ctx.ks.lazy.server_del;
        ctx.ks.free(old, lazy);
    }
    ctx.ks.put(to_db, copied, None);
    ctx.ks.changed(to_db, to, event::GENERIC, "copy_to");
    ctx.reply.int(1);
    Ok(())
}

/// Makes a key that is there expire at `at_ms`: deletes it if that is past and the deletion is this
/// server's to make.
pub fn expire_key(ctx: &mut Ctx, key: &[u8], at_ms: i64) {
    if at_ms <= ctx.ks.now_ms && ctx.ks.origin == Origin::Client {
        let lazy = ctx.ks.lazy.expire;
        if let Some(entry) = ctx.ks.remove(ctx.db, key) {
            ctx.ks.free(entry, lazy);
        }
        ctx.changed(key, event::GENERIC, "del");
        ctx.effect([if lazy { &b"UNLINK"[..] } else { b"DEL" }, key]);
        return;
    }
    ctx.ks.set_expire(ctx.db, key, Some(at_ms));
    ctx.changed(key, event::GENERIC, "expire");
    ctx.effect([b"PEXPIREAT", key, itoa::Buffer::new().format(at_ms).as_bytes()]);
}

/// `EXPIRE`'s family: `unit_ms` 1 or 1000, relative to `base_ms`.
fn expire_in(ctx: &mut Ctx, args: &mut Args, unit_ms: i64, base_ms: i64, command: &str) -> Done {
    let (mut nx, mut xx, mut gt, mut lt) = (false, false, false, false);
    for word in args.rest(3) {
        match word {
            w if is(w, "nx") => nx = true,
            w if is(w, "xx") => xx = true,
            w if is(w, "gt") => gt = true,
            w if is(w, "lt") => lt = true,
            w => return Err(Error::quoting("Unsupported option ", w, "")),
        }
    }
    if nx && (xx || gt || lt) {
        return Err(Error::new(
            "ERR NX and XX, GT or LT options at the same time are not compatible",
        ));
    }
    if gt && lt {
        return Err(Error::new("ERR GT and LT options at the same time are not compatible"));
    }
    let at = int(&args[2])?
        .checked_mul(unit_ms)
        .and_then(|n| n.checked_add(base_ms))
        .ok_or_else(|| Error::invalid_expire(command))?;
    let Some(entry) = ctx.ks.write(ctx.db, &args[1]) else {
        ctx.reply.int(0);
        return Ok(());
    };
    let old = entry.expire();
    let refused = nx && old.is_some()
        || xx && old.is_none()
        // No time to live is the longest there is.
        || gt && old.is_none_or(|old| at <= old)
        || lt && old.is_some_and(|old| at >= old);
    if refused {
        ctx.reply.int(0);
        return Ok(());
    }
    expire_key(ctx, &args[1], at);
    ctx.reply.int(1);
    Ok(())
}

fn expire(ctx: &mut Ctx, args: &mut Args) -> Done {
    let now = ctx.ks.now_ms;
    expire_in(ctx, args, 1000, now, "expire")
}

fn pexpire(ctx: &mut Ctx, args: &mut Args) -> Done {
    let now = ctx.ks.now_ms;
    expire_in(ctx, args, 1, now, "pexpire")
}

fn expireat(ctx: &mut Ctx, args: &mut Args) -> Done {
    expire_in(ctx, args, 1000, 0, "expireat")
}

fn pexpireat(ctx: &mut Ctx, args: &mut Args) -> Done {
    expire_in(ctx, args, 1, 0, "pexpireat")
}

/// -2 without the key, -1 without a time to live, else what `show` makes of it (Unix ms).
fn reply_expire(ctx: &mut Ctx, key: &[u8], show: impl Fn(i64, i64) -> i64) -> Done {
    let now = ctx.ks.now_ms;
    let n = match ctx.ks.look(ctx.db, key).map(Entry::expire) {
        None => -2,
        Some(None) => -1,
        Some(Some(at)) => show(at, now),
    };
    ctx.reply.int(n);
    Ok(())
}

fn ttl(ctx: &mut Ctx, args: &mut Args) -> Done {
    reply_expire(ctx, &args[1], |at, now| ((at - now).max(0) + 500) / 1000)
}

fn pttl(ctx: &mut Ctx, args: &mut Args) -> Done {
    reply_expire(ctx, &args[1], |at, now| (at - now).max(0))
}

fn expiretime(ctx: &mut Ctx, args: &mut Args) -> Done {
    reply_expire(ctx, &args[1], |at, _| at.saturating_add(500) / 1000)
}

fn pexpiretime(ctx: &mut Ctx, args: &mut Args) -> Done {
    reply_expire(ctx, &args[1], |at, _| at)
}

fn persist(ctx: &mut Ctx, args: &mut Args) -> Done {
    let had = ctx.ks.write(ctx.db, &args[1]).is_some_and(|e| e.expire().is_some());
    if had {
        ctx.ks.set_expire(ctx.db, &args[1], None);
        ctx.changed(&args[1], event::GENERIC, "persist");
    }
    ctx.reply.int(had as i64);
    Ok(())
}

fn dbsize(ctx: &mut Ctx, _: &mut Args) -> Done {
    ctx.reply.int(ctx.ks.dbs[ctx.db].len() as i64);
    Ok(())
}

/// `[ASYNC|SYNC]` at index 1; `default` is `lazyfree-lazy-user-flush`.
fn flush_lazily(args: &Args, default: bool) -> Result<bool, Error> {
    match args.get(1) {
        None => Ok(default),
        Some(w) if args.len() == 2 && is(w, "async") => Ok(true),
        Some(w) if args.len() == 2 && is(w, "sync") => Ok(false),
        Some(_) => Err(Error::SYNTAX),
    }
}

fn flushdb(ctx: &mut Ctx, args: &mut Args) -> Done {
    let lazy = flush_lazily(args, ctx.ks.lazy.user_flush)?;
    ctx.ks.dirty += ctx.ks.flush(ctx.db, lazy) as u64 + 1;
    ctx.reply.ok();
    Ok(())
}

fn flushall(ctx: &mut Ctx, args: &mut Args) -> Done {
    let lazy = flush_lazily(args, ctx.ks.lazy.user_flush)?;
    for db in 0..ctx.ks.dbs.len() {
        ctx.ks.dirty += ctx.ks.flush(db, lazy) as u64;
    }
    ctx.ks.dirty += 1;
    ctx.ks.emptied = true;
    ctx.reply.ok();
    Ok(())
}

fn swapdb(ctx: &mut Ctx, args: &mut Args) -> Done {
    let index = |arg: &[u8], which: &str| {
        crate::num::parse_int(arg)
            .and_then(|n| i32::try_from(n).ok())
            .ok_or_else(|| Error::err(format_args!("invalid {which} DB index")))
    };
    let (a, b) = (index(&args[1], "first")?, index(&args[2], "second")?);
    let databases = ctx.ks.dbs.len();
    let (a, b) = (valid_db(databases, a)?, valid_db(databases, b)?);
    ctx.ks.swap(a, b);
    ctx.ks.dirty += 1;
    ctx.reply.ok();
    Ok(())
}

fn object_entry<'k>(ctx: &'k mut Ctx, key: &[u8]) -> Result<&'k Entry, ()> {
    // As a look, but that nobody hears of a miss.
    let there = ctx.ks.peek(ctx.db, key).is_some();
    let stats = &mut ctx.ks.stats;
    *if there { &mut stats.hits } else { &mut stats.misses } += 1;
    ctx.ks.dbs[ctx.db].peek(key).filter(|_| there).ok_or(())
}

fn object_encoding(ctx: &mut Ctx, args: &mut Args) -> Done {
    match object_entry(ctx, &args[2]).map(Entry::encoding) {
        Ok(word) => ctx.reply.bulk(word.as_bytes()),
        Err(()) => ctx.reply.null(),
    }
    Ok(())
}

fn object_refcount(ctx: &mut Ctx, args: &mut Args) -> Done {
    match object_entry(ctx, &args[2]).is_ok() {
        true => ctx.reply.int(1),
        false => ctx.reply.null(),
    }
    Ok(())
}

fn object_idletime(ctx: &mut Ctx, args: &mut Args) -> Done {
    let lfu = ctx.ks.access_clock == AccessClock::Lfu;
    let Ok(_) = object_entry(ctx, &args[2]) else {
        ctx.reply.null();
        return Ok(());
    };
    if lfu {
        return Err(Error::new(
            "ERR An LFU maxmemory policy is selected, idle time not tracked. Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.",
        ));
    }
    let entry = ctx.ks.dbs[ctx.db].peek(&args[2]).expect("found above");
    ctx.reply.int(ctx.ks.idle_seconds(entry) as i64);
    Ok(())
}

fn object_freq(ctx: &mut Ctx, args: &mut Args) -> Done {
    let lfu = ctx.ks.access_clock == AccessClock::Lfu;
    let Ok(_) = object_entry(ctx, &args[2]) else {
        ctx.reply.null();
        return Ok(());
    };
    if !lfu {
        return Err(Error::new(
            "ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.",
        ));
    }
    let entry = ctx.ks.dbs[ctx.db].peek(&args[2]).expect("found above");
    ctx.reply.int(ctx.ks.frequency(entry) as i64);
    Ok(())
}

fn object_help(ctx: &mut Ctx, _: &mut Args) -> Done {
    ctx.reply.help(
        "OBJECT",
        &[
            "ENCODING <key>",
            "    How the value at <key> is kept in memory.",
            "FREQ <key>",
            "    The access counter of <key>, under an LFU policy.",
            "IDLETIME <key>",
            "    Seconds since <key> was last used, under an LRU policy.",
            "REFCOUNT <key>",
            "    The number of references to the value at <key>.",
        ],
    );
    Ok(())
}

const fn spec(name: &'static str, arity: i32, flags: u32, keys: Keys) -> Spec {
    Spec::new(name, arity, flags, category::KEYSPACE, keys)
}
const fn dangerous(name: &'static str, arity: i32, flags: u32, keys: Keys) -> Spec {
    Spec::new(name, arity, flags, category::KEYSPACE | category::DANGEROUS, keys)
}
const N: Keys = Keys::None;
const SUB: Keys = Keys::Range(2, 2, 1);

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<Handler>] = &[
    Command { run: del, spec: spec("del", -2, WRITE, Keys::ALL).key(RM | DELETE).tips(&["request_policy:multi_shard", "response_policy:agg_sum"]).doc("generic", "1.0.0", "O(N) in the keys, plus the elements of large values", "Removes keys with their values.", "key...") },
    Command { run: unlink, spec: spec("unlink", -2, WRITE | FAST, Keys::ALL).key(RM | DELETE).tips(&["request_policy:multi_shard", "response_policy:agg_sum"]).doc("generic", "4.0.0", "O(1) a key; the memory is freed elsewhere", "Removes keys now and frees their memory later.", "key...") },
    Command { run: exists, spec: spec("exists", -2, READONLY | FAST, Keys::ALL).key(RO).tips(&["request_policy:multi_shard", "response_policy:agg_sum"]).doc("generic", "1.0.0", "O(N) in the keys", "Counts how many of the keys are there.", "key...") },
    Command { run: type_of, spec: spec("type", 2, READONLY | FAST, Keys::ONE).key(RO).doc("generic", "1.0.0", "O(1)", "Tells the type of a key's value.", "key") },
    Command { run: keys, spec: dangerous("keys", 2, READONLY, N).tips(&["nondeterministic_output_order", "request_policy:all_shards"]).doc("generic", "1.0.0", "O(N) in the keys of the database", "Lists the keys that match a pattern.", "pattern") },
    Command { run: scan, spec: spec("scan", -2, READONLY, N).tips(&["nondeterministic_output", "request_policy:special"]).doc("generic", "2.8.0", "O(1) a call, O(N) for the whole database", "Walks through the keys of the database a few at a time.", "cursor [MATCH pattern] [COUNT count] [TYPE type]@6.0.0") },
    Command { run: randomkey, spec: spec("randomkey", 1, READONLY, N).tips(&["nondeterministic_output", "request_policy:all_shards"]).doc("generic", "1.0.0", "O(1)", "Picks a key at random.", "") },
    Command { run: rename, spec: spec("rename", 3, WRITE, Keys::TWO).key(RW | ACCESS | DELETE).other_keys(OW | UPDATE).doc("generic", "1.0.0", "O(1), plus freeing what stood under the new name", "Gives a key another name, over whatever has that name.", "key newkey") },
    Command { run: renamenx, spec: spec("renamenx", 3, WRITE | FAST, Keys::TWO).key(RW | ACCESS | DELETE).other_keys(OW | INSERT).doc("generic", "1.0.0", "O(1)", "Gives a key another name if that is free.", "key newkey") },
    Command { run: move_key, spec: spec("move", 3, WRITE | FAST, Keys::ONE).doc("generic", "1.0.0", "O(1)", "Moves a key to another database.", "key db") },
    Command { run: copy, spec: spec("copy", -3, WRITE | DENYOOM, Keys::TWO).key(RO | ACCESS).other_keys(OW | UPDATE).doc("generic", "6.2.0", "O(N) in the elements of the value", "Copies a value to another key.", "source destination [DB destination-db] [REPLACE]") },
    Command { run: expire, spec: spec("expire", -3, WRITE | FAST, Keys::ONE).key(RW | UPDATE).doc("generic", "1.0.0", "O(1)", "Sets how many seconds a key still lives.", "key seconds condition=[NX|XX|GT|LT]@7.0.0") },
    Command { run: pexpire, spec: spec("pexpire", -3, WRITE | FAST, Keys::ONE).key(RW | UPDATE).doc("generic", "2.6.0", "O(1)", "Sets how many milliseconds a key still lives.", "key milliseconds condition=[NX|XX|GT|LT]@7.0.0") },
    Command { run: expireat, spec: spec("expireat", -3, WRITE | FAST, Keys::ONE).key(RW | UPDATE).doc("generic", "1.2.0", "O(1)", "Sets the Unix second at which a key expires.", "key unix-time-seconds condition=[NX|XX|GT|LT]@7.0.0") },
    Command { run: pexpireat, spec: spec("pexpireat", -3, WRITE | FAST, Keys::ONE).key(RW | UPDATE).doc("generic", "2.6.0", "O(1)", "Sets the Unix millisecond at which a key expires.", "key unix-time-milliseconds condition=[NX|XX|GT|LT]@7.0.0") },
    Command { run: ttl, spec: spec("ttl", 2, READONLY | FAST, Keys::ONE).tips(&["nondeterministic_output"]).doc("generic", "1.0.0", "O(1)", "Tells how many seconds a key still lives.", "key") },
    Command { run: pttl, spec: spec("pttl", 2, READONLY | FAST, Keys::ONE).tips(&["nondeterministic_output"]).doc("generic", "2.6.0", "O(1)", "Tells how many milliseconds a key still lives.", "key") },
    Command { run: expiretime, spec: spec("expiretime", 2, READONLY | FAST, Keys::ONE).doc("generic", "7.0.0", "O(1)", "Tells the Unix second at which a key expires.", "key") },
    Command { run: pexpiretime, spec: spec("pexpiretime", 2, READONLY | FAST, Keys::ONE).doc("generic", "7.0.0", "O(1)", "Tells the Unix millisecond at which a key expires.", "key") },
    Command { run: persist, spec: spec("persist", 2, WRITE | FAST, Keys::ONE).key(RW | UPDATE).doc("generic", "2.2.0", "O(1)", "Lets a key live for ever.", "key") },
    Command { run: touch, spec: spec("touch", -2, READONLY | FAST, Keys::ALL).key(RO).tips(&["request_policy:multi_shard", "response_policy:agg_sum"]).doc("generic", "3.2.1", "O(N) in the keys", "Counts the keys that are there and marks them as just used.", "key...") },
    Command { run: dbsize, spec: spec("dbsize", 1, READONLY | FAST, N).tips(&["request_policy:all_shards", "response_policy:agg_sum"]).doc("server", "1.0.0", "O(1)", "Counts the keys of the database.", "") },
    Command { run: flushdb, spec: dangerous("flushdb", -1, WRITE, N).tips(&["request_policy:all_shards", "response_policy:all_succeeded"]).doc("server", "1.0.0", "O(N) in the keys of the database", "Empties the database.", "async=[ASYNC@4.0.0|SYNC@6.2.0]") },
    Command { run: flushall, spec: dangerous("flushall", -1, WRITE, N).tips(&["request_policy:all_shards", "response_policy:all_succeeded"]).doc("server", "1.0.0", "O(N) in all keys", "Empties all databases.", "async=[ASYNC@4.0.0|SYNC@6.2.0]") },
    Command { run: swapdb, spec: dangerous("swapdb", 3, WRITE | FAST, N).doc("server", "4.0.0", "O(N) in the clients that watch or wait for keys", "Exchanges two databases.", "index1 index2") },
    Command { run: object_encoding, spec: spec("object|encoding", 3, READONLY, SUB).key(RO).tips(&["nondeterministic_output"]).doc("generic", "2.2.3", "O(1)", "Tells how a value is kept in memory.", "key") },
    Command { run: object_refcount, spec: spec("object|refcount", 3, READONLY, SUB).key(RO).tips(&["nondeterministic_output"]).doc("generic", "2.2.3", "O(1)", "Tells how many references to a value there are.", "key") },
    Command { run: object_idletime, spec: spec("object|idletime", 3, READONLY, SUB).key(RO).tips(&["nondeterministic_output"]).doc("generic", "2.2.3", "O(1)", "Tells how many seconds ago a key was last used.", "key") },
    Command { run: object_freq, spec: spec("object|freq", 3, READONLY, SUB).key(RO).tips(&["nondeterministic_output"]).doc("generic", "4.0.0", "O(1)", "Tells the access counter of a key.", "key") },
    Command { run: object_help, spec: spec("object|help", 2, LOADING | STALE, N).doc("generic", "6.2.0", "O(1)", "Lists the subcommands.", "") },
];
