//! Hashes: fields and their values.

use super::scan::Scan;
use super::util::{int, is, reply_entry};
use crate::command::{Command, Ctx, Handler, Keys, Spec, access::*, category, flag::*};
use crate::entry::{Entry, Payload};
use crate::keyspace::{Keyspace, event};
use crate::listpack;
use crate::num::{Extended, parse_int};
use crate::types::hash::{Bounds, Hash};
use crate::value::Value;
use crate::{Args, Error, Reply};

type Done = Result<(), Error>;

fn read_hash<'k>(ks: &'k mut Keyspace, db: usize, key: &[u8]) -> Result<Option<&'k Hash>, Error> {
    match ks.read(db, key).map(Entry::value) {
        None => Ok(None),
        Some(Some(Value::Hash(hash))) => Ok(Some(hash)),
        Some(_) => Err(Error::WRONG_TYPE),
    }
}

fn write_hash<'k>(
    ks: &'k mut Keyspace,
    db: usize,
    key: &[u8],
) -> Result<Option<&'k mut Hash>, Error> {
    match ks.write(db, key).map(Entry::value_mut) {
        None => Ok(None),
        Some(Some(Value::Hash(hash))) => Ok(Some(hash)),
        Some(_) => Err(Error::WRONG_TYPE),
    }
}

/// An empty hash at a key that is free.
fn new_hash<'k>(ks: &'k mut Keyspace, db: usize, key: &[u8]) -> &'k mut Hash {
    let entry = ks.add(db, key, Payload::Value(Value::Hash(Hash::new())), None);
    let Some(Value::Hash(hash)) = entry.value_mut() else { unreachable!("just made") };
    hash
}

fn bounds(ctx: &Ctx) -> Bounds {
    Bounds::from(&ctx.ks.limits)
}

// Setting.

/// Sets the fields from argument `first` on, each before its value; how many are new.
fn set_all(ctx: &mut Ctx, args: &mut Args, first: usize, name: &str) -> Result<i64, Error> {
    if (args.len() - first) % 2 == 1 {
        return Err(Error::arity(name));
    }
    let bounds = bounds(ctx);
    let hash = match write_hash(ctx.ks, ctx.db, &args[1])? {
        Some(hash) => hash,
        None => new_hash(ctx.ks, ctx.db, &args[1]),
    };
    let pairs = (args.len() - first) / 2;
    hash.make_room(pairs, bounds);
    let mut added = 0;
    for i in (first..args.len()).step_by(2) {
        added += hash.set(&args[i], &args[i + 1], bounds) as i64;
    }
    ctx.ks.dirty += pairs as u64 - 1;
    ctx.changed(&args[1], event::HASH, "hset");
    Ok(added)
}

fn hset(ctx: &mut Ctx, args: &mut Args) -> Done {
    let added = set_all(ctx, args, 2, "hset")?;
    ctx.reply.int(added);
    Ok(())
}

fn hmset(ctx: &mut Ctx, args: &mut Args) -> Done {
    set_all(ctx, args, 2, "hmset")?;
    ctx.reply.ok();
    Ok(())
}

fn hsetnx(ctx: &mut Ctx, args: &mut Args) -> Done {
    let bounds = bounds(ctx);
    let hash = match write_hash(ctx.ks, ctx.db, &args[1])? {
        Some(hash) if hash.get(&args[2]).is_some() => {
            ctx.reply.int(0);
            return Ok(());
        }
        Some(hash) => hash,
        None => new_hash(ctx.ks, ctx.db, &args[1]),
    };
    hash.set(&args[2], &args[3], bounds);
    ctx.changed(&args[1], event::HASH, "hset");
    ctx.reply.int(1);
    Ok(())
}

/// `HSETEX` as far as fields do not expire, so `KEEPTTL` asks for nothing: Redis 8's log says the
/// outcome of `HINCRBYFLOAT` with it. Ours says `HSET`, which every version knows.
fn hsetex(ctx: &mut Ctx, args: &mut Args) -> Done {
    let (mut must_exist, mut at) = (None, 2);
    loop {
        match &args[at] {
            w if is(w, "fields") => break,
            w if is(w, "fnx") && must_exist.is_none() => must_exist = Some(false),
            w if is(w, "fxx") && must_exist.is_none() => must_exist = Some(true),
            w if is(w, "keepttl") => {}
            w if ["ex", "px", "exat", "pxat"].iter().any(|unit| is(w, unit)) => {
                return Err(Error::new(
                    "ERR fields of a hash do not expire in this version of Varve",
                ));
            }
            _ => return Err(Error::SYNTAX),
        }
        at += 1;
        if at + 1 >= args.len() {
            return Err(Error::SYNTAX);
        }
    }
    let first = at + 2;
    let count = int(&args[at + 1])?;
    if count < 1 || count.checked_mul(2) != Some((args.len() - first) as i64) {
        return Err(Error::arity("hsetex"));
    }
    let hash = write_hash(ctx.ks, ctx.db, &args[1])?;
    let exists = |field| hash.as_ref().is_some_and(|hash| hash.get(field).is_some());
    if must_exist.is_some_and(|must| args.rest(first).step_by(2).any(|f| exists(f) != must)) {
        ctx.reply.int(0);
        return Ok(());
    }
    set_all(ctx, args, first, "hsetex")?;
    let parts: Vec<&[u8]> = [&b"HSET"[..], &args[1]].into_iter().chain(args.rest(first)).collect();
    ctx.effect(parts);
    ctx.reply.int(1);
    Ok(())
}

fn hincrby(ctx: &mut Ctx, args: &mut Args) -> Done {
    let by = int(&args[3])?;
    let bounds = bounds(ctx);
    let hash = match write_hash(ctx.ks, ctx.db, &args[1])? {
        Some(hash) => hash,
        None => new_hash(ctx.ks, ctx.db, &args[1]),
    };
    let old = match hash.get(&args[2]) {
        None => 0,
        Some(listpack::Entry::Int(n)) => n,
        Some(listpack::Entry::Str(text)) => {
            parse_int(text).ok_or(Error::new("ERR hash value is not an integer"))?
        }
    };
    let new = old.checked_add(by).ok_or(Error::OVERFLOW)?;
    hash.set(&args[2], itoa::Buffer::new().format(new).as_bytes(), bounds);
    ctx.changed(&args[1], event::HASH, "hincrby");
    ctx.reply.int(new);
    Ok(())
}

fn hincrbyfloat(ctx: &mut Ctx, args: &mut Args) -> Done {
    let by = Extended::parse(&args[3]).ok_or(Error::NOT_FLOAT)?;
    if by.is_infinite() {
        return Err(Error::new("ERR value is NaN or Infinity"));
    }
    let bounds = bounds(ctx);
    let hash = match write_hash(ctx.ks, ctx.db, &args[1])? {
        Some(hash) => hash,
        None => new_hash(ctx.ks, ctx.db, &args[1]),
    };
    let mut room = itoa::Buffer::new();
    let old = hash.get(&args[2]);
    let old = old.as_ref().map_or(&b"0"[..], |entry| entry.text(&mut room));
    let value = Extended::parse(old).ok_or(Error::new("ERR hash value is not a float"))?;
    let sum = value.sum(by);
    let text = sum.ok_or(Error::new("ERR increment would produce NaN or Infinity"))?.format();
    hash.set(&args[2], text.as_bytes(), bounds);
    ctx.changed(&args[1], event::HASH, "hincrbyfloat");
    // Another machine's arithmetic may differ in the last digit: the log says the outcome.
    ctx.effect([b"HSET", &args[1], &args[2], text.as_bytes()]);
    ctx.reply.bulk(text.as_bytes());
    Ok(())
}

fn hdel(ctx: &mut Ctx, args: &mut Args) -> Done {
    let Some(hash) = write_hash(ctx.ks, ctx.db, &args[1])? else {
        ctx.reply.int(0);
        return Ok(());
    };
    let mut removed = 0;
    for field in args.rest(2) {
        removed += hash.remove(field) as u64;
        if hash.is_empty() {
            break;
        }
    }
    let is_empty = hash.is_empty();
    if removed > 0 {
        ctx.ks.dirty += removed - 1;
        ctx.changed(&args[1], event::HASH, "hdel");
        if is_empty {
            ctx.ks.delete_empty(ctx.db, &args[1]);
        }
    }
    ctx.reply.int(removed as i64);
    Ok(())
}

// Getting.

fn hget(ctx: &mut Ctx, args: &mut Args) -> Done {
    match read_hash(ctx.ks, ctx.db, &args[1])?.and_then(|hash| hash.get(&args[2])) {
        None => ctx.reply.null(),
        Some(value) => reply_entry(ctx.reply, value),
    }
    Ok(())
}

fn hmget(ctx: &mut Ctx, args: &mut Args) -> Done {
    let hash = read_hash(ctx.ks, ctx.db, &args[1])?;
    ctx.reply.array(args.len() - 2);
    for field in args.rest(2) {
        match hash.and_then(|hash| hash.get(field)) {
            None => ctx.reply.null(),
            Some(value) => reply_entry(ctx.reply, value),
        }
    }
    Ok(())
}

fn hlen(ctx: &mut Ctx, args: &mut Args) -> Done {
    let len = read_hash(ctx.ks, ctx.db, &args[1])?.map_or(0, Hash::len);
    ctx.reply.int(len as i64);
    Ok(())
}

fn hstrlen(ctx: &mut Ctx, args: &mut Args) -> Done {
    let hash = read_hash(ctx.ks, ctx.db, &args[1])?;
    let len = hash.and_then(|hash| hash.get(&args[2])).map_or(0, |value| value.len());
    ctx.reply.int(len as i64);
    Ok(())
}

fn hexists(ctx: &mut Ctx, args: &mut Args) -> Done {
    let hash = read_hash(ctx.ks, ctx.db, &args[1])?;
    let there = hash.is_some_and(|hash| hash.get(&args[2]).is_some());
    ctx.reply.int(there as i64);
    Ok(())
}

fn hkeys(ctx: &mut Ctx, args: &mut Args) -> Done {
    let hash = read_hash(ctx.ks, ctx.db, &args[1])?;
    ctx.reply.array(hash.map_or(0, Hash::len));
    if let Some(hash) = hash {
        hash.for_each_entry(|field, _| reply_entry(ctx.reply, field));
    }
    Ok(())
}

fn hvals(ctx: &mut Ctx, args: &mut Args) -> Done {
    let hash = read_hash(ctx.ks, ctx.db, &args[1])?;
    ctx.reply.array(hash.map_or(0, Hash::len));
    if let Some(hash) = hash {
        hash.for_each_entry(|_, value| reply_entry(ctx.reply, value));
    }
    Ok(())
}

fn hgetall(ctx: &mut Ctx, args: &mut Args) -> Done {
    let hash = read_hash(ctx.ks, ctx.db, &args[1])?;
    ctx.reply.map(hash.map_or(0, Hash::len));
    if let Some(hash) = hash {
        hash.for_each_entry(|field, value| {
            reply_entry(ctx.reply, field);
            reply_entry(ctx.reply, value);
        });
    }
    Ok(())
}

/// Random words from one (splitmix64), for as long as the keyspace that has the generator is
/// borrowed.
fn words(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

fn hrandfield(ctx: &mut Ctx, args: &mut Args) -> Done {
    let mut rng = words(ctx.ks.random());
    let Some(count) = args.get(2) else {
        let hash = read_hash(ctx.ks, ctx.db, &args[1])?;
        match hash.and_then(|hash| hash.sample(rng)) {
            None => ctx.reply.null(),
            Some((field, _)) => reply_entry(ctx.reply, field),
        }
        return Ok(());
    };
    let count = int(count)?;
    if count == i64::MIN {
        return Err(Error::new(
            "ERR value is out of range, value must between -9223372036854775807 and \
             9223372036854775807",
        ));
    }
    let with_values = match args.get(3) {
        None => false,
        Some(w) if args.len() == 4 && is(w, "withvalues") => true,
        Some(_) => return Err(Error::SYNTAX),
    };
    if with_values && count.unsigned_abs() > i64::MAX as u64 / 2 {
        return Err(Error::new("ERR value is out of range"));
    }
    let hash = read_hash(ctx.ks, ctx.db, &args[1])?;
    let n = match hash {
        None => 0,
        Some(hash) if count > 0 => hash.len().min(count as usize),
        Some(_) => count.unsigned_abs() as usize,
    };
    let reply = &mut *ctx.reply;
    let flat = with_values && !reply.resp3;
    reply.array(if flat { n * 2 } else { n });
    let Some(hash) = hash else { return Ok(()) };
    let each = |reply: &mut Reply, field: listpack::Entry, value: listpack::Entry| {
        if with_values && !flat {
            reply.array(2);
        }
        reply_entry(reply, field);
        if with_values {
            reply_entry(reply, value);
        }
    };
    if count > 0 {
        hash.sample_distinct(n, rng, |field, value| each(reply, field, value));
    } else {
        for _ in 0..n {
            if reply.muted {
                break;
            }
            let (field, value) = hash.sample(&mut rng).expect("a hash is never empty");
            each(reply, field, value);
        }
    }
    Ok(())
}

fn hscan(ctx: &mut Ctx, args: &mut Args) -> Done {
    let mut cursor = Scan::cursor(&args[2])?;
    let Some(hash) = read_hash(ctx.ks, ctx.db, &args[1])? else {
        Scan::reply_nothing(ctx.reply);
        return Ok(());
    };
    let scan = Scan::parse(args, 2, false)?;
    let reply = &mut *ctx.reply;
    reply.array(2);
    let Some(fields) = hash.as_table() else {
        // A small hash is returned as a whole, whatever the cursor.
        reply.bulk(b"0");
        let place = reply.deferred();
        let (mut n, mut room) = (0, itoa::Buffer::new());
        hash.for_each_entry(|field, value| {
            if scan.matches(field.text(&mut room)) {
                reply_entry(reply, field);
                reply_entry(reply, value);
                n += 2;
            }
        });
        reply.end_array(place, n);
        return Ok(());
    };
    // The cursor comes before the fields, so these wait in a reply of their own.
    let mut found = Reply::new();
    let (mut n, mut visited) = (0, 0);
    // Empty buckets count too, so that a sparse table cannot hold the loop.
    for _ in 0..scan.count.saturating_mul(10) {
        cursor = fields.scan(cursor, |field| {
            visited += 1;
            if scan.matches(field.name()) {
                found.bulk(field.name());
                found.bulk(field.value());
                n += 2;
            }
        });
        if cursor == 0 || visited >= scan.count {
            break;
        }
    }
    reply.bulk(itoa::Buffer::new().format(cursor).as_bytes());
    reply.array(n);
    reply.append(&mut found);
    Ok(())
}

const fn spec(name: &'static str, arity: i32, flags: u32) -> Spec {
    Spec::new(name, arity, flags, category::HASH, Keys::ONE)
}

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<Handler>] = &[
    Command { run: hset, spec: spec("hset", -4, WRITE | DENYOOM | FAST).key(RW | UPDATE).doc("hash", "2.0.0", "O(1) for each field", "Sets fields of a hash, which is made if need be.", "key (field value)...") },
    Command { run: hsetnx, spec: spec("hsetnx", 4, WRITE | DENYOOM | FAST).key(RW | INSERT).doc("hash", "2.0.0", "O(1)", "Sets a field of a hash if the hash does not have it.", "key field value") },
    Command { run: hsetex, spec: spec("hsetex", -6, WRITE | DENYOOM | FAST).key(RW | UPDATE).doc("hash", "8.0.0", "O(N) in the fields", "Sets fields of a hash, if all or none of them are there.", "key condition=[FNX|FXX] [KEEPTTL] FIELDS (numfields (field value)...)") },
    Command { run: hget, spec: spec("hget", 3, READONLY | FAST).doc("hash", "2.0.0", "O(1)", "Gives the value of a field.", "key field") },
    Command { run: hmset, spec: spec("hmset", -4, WRITE | DENYOOM | FAST).key(RW | UPDATE).doc("hash", "2.0.0", "O(1) for each field", "Sets fields of a hash; HSET can do the same.", "key (field value)...").deprecated("4.0.0", "`HSET`") },
    Command { run: hmget, spec: spec("hmget", -3, READONLY | FAST).doc("hash", "2.0.0", "O(N) in the fields asked for", "Gives the values of several fields.", "key field...") },
    Command { run: hincrby, spec: spec("hincrby", 4, WRITE | DENYOOM | FAST).doc("hash", "2.0.0", "O(1)", "Adds to the number in a field, which begins at 0.", "key field increment") },
    Command { run: hincrbyfloat, spec: spec("hincrbyfloat", 4, WRITE | DENYOOM | FAST).doc("hash", "2.6.0", "O(1)", "Adds to the floating point number in a field, which begins at 0.", "key field increment:double") },
    Command { run: hdel, spec: spec("hdel", -3, WRITE | FAST).key(RW | DELETE).doc("hash", "2.0.0", "O(N) in the fields named", "Takes fields out of a hash; a hash without fields is no more.", "key field...") },
    Command { run: hlen, spec: spec("hlen", 2, READONLY | FAST).key(RO).doc("hash", "2.0.0", "O(1)", "Counts the fields of a hash.", "key") },
    Command { run: hstrlen, spec: spec("hstrlen", 3, READONLY | FAST).key(RO).doc("hash", "3.2.0", "O(1)", "Gives the length of a field's value.", "key field") },
    Command { run: hkeys, spec: spec("hkeys", 2, READONLY).tips(&["nondeterministic_output_order"]).doc("hash", "2.0.0", "O(N) in the fields", "Gives the names of all fields.", "key") },
    Command { run: hvals, spec: spec("hvals", 2, READONLY).tips(&["nondeterministic_output_order"]).doc("hash", "2.0.0", "O(N) in the fields", "Gives the values of all fields.", "key") },
    Command { run: hgetall, spec: spec("hgetall", 2, READONLY).tips(&["nondeterministic_output_order"]).doc("hash", "2.0.0", "O(N) in the fields", "Gives all fields with their values.", "key") },
    Command { run: hexists, spec: spec("hexists", 3, READONLY | FAST).key(RO).doc("hash", "2.0.0", "O(1)", "Says whether a hash has a field.", "key field") },
    Command { run: hrandfield, spec: spec("hrandfield", -2, READONLY).tips(&["nondeterministic_output"]).doc("hash", "6.2.0", "O(N) in the fields returned", "Gives fields chosen at random.", "key options=[count [WITHVALUES]]") },
    Command { run: hscan, spec: spec("hscan", -3, READONLY).tips(&["nondeterministic_output"]).doc("hash", "2.8.0", "O(1) a call, O(N) for all calls of a scan", "Walks over the fields of a hash, some at a time.", "key cursor [MATCH pattern] [COUNT count]") },
];

#[cfg(test)]
mod tests {
    use crate::commands::tests::Bench;
    use std::collections::HashSet;

    #[test]
    fn fields_are_set_read_and_removed() {
        let mut b = Bench::new();
        assert_eq!(b.run("HSET h a 1 b x a 2"), ":2|");
        assert_eq!(b.ks.dirty, 3);
        assert_eq!(b.run("HGETALL h"), "*4|$1|a|$1|2|$1|b|$1|x|");
        assert_eq!(b.run("HINCRBY h a 5"), ":7|");
        assert_eq!(b.run("HINCRBY h b 5"), "-ERR hash value is not an integer|");
        assert_eq!(b.run("HINCRBYFLOAT h a 0.5"), "$3|7.5|");
        assert_eq!(b.effects, ["HSET h a 7.5"]);
        assert_eq!(b.run("HINCRBYFLOAT h b 1"), "-ERR hash value is not a float|");
        assert_eq!(b.run("HMGET h a z"), "*2|$3|7.5|$-1|");
        assert_eq!(b.run("HDEL h a b c"), ":2|");
        assert_eq!(b.run("EXISTS h"), ":0|");
        assert!(b.run("HSET h a 1 b").starts_with("-ERR wrong number of arguments for 'hset'"));
    }

    /// Redis 8 sends the outcome of `HINCRBYFLOAT` as the first of these.
    #[test]
    fn fields_that_keep_their_time_are_set() {
        let mut b = Bench::new();
        assert_eq!(b.run("HSETEX h KEEPTTL FIELDS 1 a 1.5"), ":1|");
        assert_eq!(b.effects, ["HSET h a 1.5"]);
        assert_eq!(b.run("HSETEX h fields 2 a 2 b 3"), ":1|");
        assert_eq!(b.effects, ["HSET h a 2 b 3"]);
        assert_eq!(b.ks.dirty, 3);
        assert_eq!(b.run("HSETEX h FXX FIELDS 2 b 4 c 5"), ":0|");
        assert_eq!(b.run("HSETEX h FNX FIELDS 2 c 5 b 4"), ":0|");
        assert!(b.effects.is_empty());
        assert_eq!(b.run("HSETEX h FXX FIELDS 1 b 4"), ":1|");
        assert_eq!(b.run("HSETEX h FNX KEEPTTL FIELDS 1 c 5"), ":1|");
        assert_eq!(b.run("HGETALL h"), "*6|$1|a|$1|2|$1|b|$1|4|$1|c|$1|5|");
        assert_eq!(b.run("HSETEX no FXX FIELDS 1 a 1"), ":0|");
        assert_eq!(b.run("EXISTS no"), ":0|");
        for wrong in [
            "EX 5 FIELDS 1 a 1",
            "FIELDS 2 a 1 b",
            "FIELDS 1 a 1 b 2",
            "KEEPTTL FXX FIELDS 0",
            "FIELDS x a 1",
            "FXX FNX FIELDS 1 a 1",
            "KEEPTTL FXX KEEPTTL FIELDS",
            "a 1 b 2",
        ] {
            assert!(b.run(&format!("HSETEX h {wrong}")).starts_with("-ERR "), "{wrong}");
        }
        b.run("SET s x");
        assert!(b.run("HSETEX s FIELDS 1 a 1").starts_with("-WRONGTYPE"));
    }

    #[test]
    fn a_hash_is_large_by_count_or_by_length() {
        let mut b = Bench::new();
        for i in 0..512 {
            b.run(&format!("HSET h f{i} {i}"));
        }
        assert_eq!(b.run("OBJECT ENCODING h"), "$8|listpack|");
        b.run("HSET h f512 512");
        assert_eq!(b.run("OBJECT ENCODING h"), "$9|hashtable|");
        b.run(&format!("HSET g f {}", "v".repeat(65)));
        assert_eq!(b.run("OBJECT ENCODING g"), "$9|hashtable|");
        for i in 0..513 {
            assert_eq!(b.run(&format!("HGET h f{i}")), format!("${}|{i}|", i.to_string().len()));
        }
        assert_eq!(b.run("HLEN h"), ":513|");
    }

    /// The bulk strings of a reply.
    fn bulks(reply: &str) -> Vec<String> {
        let lines: Vec<&str> = reply.split('|').collect();
        let is_bulk = |i: &usize| lines[*i].starts_with('$');
        (0..lines.len() - 1).filter(is_bulk).map(|i| lines[i + 1].to_owned()).collect()
    }

    #[test]
    fn random_fields_are_distinct_unless_repetition_is_asked_for() {
        let mut b = Bench::new();
        for size in [10, 2000] {
            for i in 0..size {
                b.run(&format!("HSET h f{i} {i}"));
            }
            for n in [1, 5, 9, size / 2, size, size * 2] {
                let fields = bulks(&b.run(&format!("HRANDFIELD h {n}")));
                let distinct: HashSet<&String> = fields.iter().collect();
                assert_eq!((fields.len(), distinct.len()), (n.min(size), n.min(size)));
            }
            assert_eq!(bulks(&b.run("HRANDFIELD h -5000 WITHVALUES")).len(), 10_000);
        }
    }

    #[test]
    fn a_scan_shows_every_field() {
        let mut b = Bench::new();
        for i in 0..2000 {
            b.run(&format!("HSET h f{i} v"));
        }
        let (mut seen, mut cursor) = (HashSet::new(), "0".to_owned());
        loop {
            let mut parts = bulks(&b.run(&format!("HSCAN h {cursor} MATCH f*"))).into_iter();
            cursor = parts.next().unwrap();
            seen.extend(parts.step_by(2));
            if cursor == "0" {
                break;
            }
        }
        assert_eq!(seen.len(), 2000);
    }
}
