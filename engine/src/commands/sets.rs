//! Sets: members without order, each once.

use super::scan::Scan;
use super::util::{int, is};
use crate::command::{Command, Ctx, Handler, Keys, Spec, access::*, category, flag::*};
use crate::entry::{self, Payload};
use crate::keyspace::{Keyspace, Limits, event};
use crate::listpack::Entry;
use crate::types::set::Set;
use crate::value::Value;
use crate::{Args, Error, Reply};
use std::collections::HashSet;

type Done = Result<(), Error>;

/// The set at a key that is read.
fn read_set<'k>(ks: &'k mut Keyspace, db: usize, key: &[u8]) -> Result<Option<&'k Set>, Error> {
    match ks.read(db, key).map(|entry| entry.value()) {
        None => Ok(None),
        Some(Some(Value::Set(set))) => Ok(Some(set)),
        Some(_) => Err(Error::WRONG_TYPE),
    }
}

/// The set at a key that is about to change.
fn edit_set<'k>(ks: &'k mut Keyspace, db: usize, key: &[u8]) -> Result<Option<&'k mut Set>, Error> {
    as_set(ks.write(db, key))
}

fn as_set(entry: Option<&mut entry::Entry>) -> Result<Option<&mut Set>, Error> {
    match entry.map(|entry| entry.value_mut()) {
        None => Ok(None),
        Some(Some(Value::Set(set))) => Ok(Some(set)),
        Some(_) => Err(Error::WRONG_TYPE),
    }
}

/// Random words that are drawn while the keyspace is borrowed (splitmix64).
pub(super) fn draw(ks: &mut Keyspace) -> impl FnMut() -> u64 + use<> {
    let mut state = ks.random();
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// A number below `n`, which is not 0.
pub(super) fn below(random: &mut impl FnMut() -> u64, n: usize) -> usize {
    ((random() as u128 * n as u128) >> 64) as usize
}

/// The count of `SRANDMEMBER` and `ZRANDMEMBER`: how many, and whether repeats are allowed.
pub(super) fn random_count(arg: &[u8]) -> Result<(usize, bool), Error> {
    let n = int(arg)?;
    if n == i64::MIN {
        return Err(Error::new(
            "ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807",
        ));
    }
    Ok((n.unsigned_abs() as usize, n < 0))
}

fn sadd(ctx: &mut Ctx, args: &mut Args) -> Done {
    let limits = ctx.ks.limits.clone();
    let (key, n) = (&args[1], args.len() - 2);
    let members = args.rest(2);
    let mut added = 0;
    match edit_set(ctx.ks, ctx.db, key)? {
        Some(set) => {
            set.expect(n, &limits);
            members.for_each(|member| added += set.insert(member, &limits) as u64);
        }
        None => {
            let mut set = Set::fitting(&args[2], n, &limits);
            members.for_each(|member| added += set.insert(member, &limits) as u64);
            ctx.ks.add(ctx.db, key, Payload::Value(Value::Set(set)), None);
        }
    }
    if added > 0 {
        ctx.changed(key, event::SET, "sadd");
        ctx.ks.dirty += added - 1;
    }
    ctx.reply.int(added as i64);
    Ok(())
}

fn srem(ctx: &mut Ctx, args: &mut Args) -> Done {
    let key = &args[1];
    let mut removed = 0;
    let mut empty = false;
    if let Some(set) = edit_set(ctx.ks, ctx.db, key)? {
        for member in args.rest(2) {
            removed += set.remove(member) as u64;
            if set.is_empty() {
                empty = true;
                break;
            }
        }
    }
    if removed > 0 {
        ctx.changed(key, event::SET, "srem");
        ctx.ks.dirty += removed - 1;
    }
    if empty {
        ctx.ks.delete_empty(ctx.db, key);
    }
    ctx.reply.int(removed as i64);
    Ok(())
}

fn smove(ctx: &mut Ctx, args: &mut Args) -> Done {
    let (from, to, member) = (&args[1], &args[2], &args[3]);
    let limits = ctx.ks.limits.clone();
    let there = edit_set(ctx.ks, ctx.db, from)?.map(|set| set.contains(member));
    let has_target = edit_set(ctx.ks, ctx.db, to).map(|set| set.is_some());
    let Some(there) = there else {
        ctx.reply.int(0);
        return Ok(());
    };
    let has_target = has_target?;
    if from == to || !there {
        ctx.reply.int(there as i64);
        return Ok(());
    }
    let source = as_set(ctx.ks.again(ctx.db, from))?.expect("found above");
    source.remove(member);
    let empty = source.is_empty();
    ctx.changed(from, event::SET, "srem");
    if empty {
        ctx.ks.delete_empty(ctx.db, from);
    }
    let mut added = true;
    if has_target {
        let target = as_set(ctx.ks.again(ctx.db, to))?.expect("found above");
        added = target.insert(member, &limits);
    } else {
        let mut set = Set::fitting(member, 1, &limits);
        set.insert(member, &limits);
        ctx.ks.add(ctx.db, to, Payload::Value(Value::Set(set)), None);
    }
    if added {
        ctx.changed(to, event::SET, "sadd");
    }
    ctx.reply.int(1);
    Ok(())
}

fn sismember(ctx: &mut Ctx, args: &mut Args) -> Done {
    let set = read_set(ctx.ks, ctx.db, &args[1])?;
    ctx.reply.int(set.is_some_and(|set| set.contains(&args[2])) as i64);
    Ok(())
}

fn smismember(ctx: &mut Ctx, args: &mut Args) -> Done {
    let set = read_set(ctx.ks, ctx.db, &args[1])?;
    ctx.reply.array(args.len() - 2);
    for member in args.rest(2) {
        ctx.reply.int(set.is_some_and(|set| set.contains(member)) as i64);
    }
    Ok(())
}

fn scard(ctx: &mut Ctx, args: &mut Args) -> Done {
    let set = read_set(ctx.ks, ctx.db, &args[1])?;
    ctx.reply.int(set.map_or(0, Set::len) as i64);
    Ok(())
}

fn smembers(ctx: &mut Ctx, args: &mut Args) -> Done {
    let set = read_set(ctx.ks, ctx.db, &args[1])?;
    ctx.reply.set(set.map_or(0, Set::len));
    if let Some(set) = set {
        set.for_each(|member| ctx.reply.bulk(member));
    }
    Ok(())
}

fn spop(ctx: &mut Ctx, args: &mut Args) -> Done {
    if args.len() == 3 {
        return spop_count(ctx, args);
    } else if args.len() > 3 {
        return Err(Error::SYNTAX);
    }
    let key = &args[1];
    let mut random = draw(ctx.ks);
    let set = edit_set(ctx.ks, ctx.db, key)?;
    let Some((popped, empty)) = set.and_then(|s| Some((s.pop(&mut random)?, s.is_empty()))) else {
        ctx.reply.null();
        return Ok(());
    };
    let mut room = itoa::Buffer::new();
    let member = popped.bytes(&mut room);
    ctx.reply.bulk(member);
    ctx.effect([b"SREM", key, member]);
    ctx.changed(key, event::SET, "spop");
    if empty {
        ctx.ks.delete_empty(ctx.db, key);
    }
    Ok(())
}

fn spop_count(ctx: &mut Ctx, args: &mut Args) -> Done {
    /// Members named by one `SREM` of the log.
    const BATCH: usize = 1024;
    let key = &args[1];
    let count = int(&args[2]).ok().filter(|&n| n >= 0).ok_or(Error::POSITIVE)?;
    let mut random = draw(ctx.ks);
    let Some(set) = edit_set(ctx.ks, ctx.db, key)?.filter(|_| count > 0) else {
        ctx.reply.set(0);
        return Ok(());
    };
    let len = set.len();
    if count as usize >= len {
        ctx.reply.set(len);
        set.for_each(|member| ctx.reply.bulk(member));
        let lazy = ctx.ks.lazy.server_del;
        if let Some(entry) = ctx.ks.remove(ctx.db, key) {
            ctx.ks.free(entry, lazy);
        }
        ctx.effect([if lazy { &b"UNLINK"[..] } else { b"DEL" }, key]);
        ctx.changed(key, event::SET, "spop");
        ctx.ks.notify(event::GENERIC, "del", ctx.db, key);
        ctx.ks.dirty += len as u64 - 1;
        return Ok(());
    }
    let popped = set.pop_some(count as usize, &mut random);
    ctx.reply.set(popped.len());
    let mut room = itoa::Buffer::new();
    popped.iter().for_each(|member| ctx.reply.bulk(member.bytes(&mut room)));
    let mut rooms = vec![itoa::Buffer::new(); popped.len().min(BATCH)];
    for batch in popped.chunks(BATCH) {
        let mut parts: Vec<&[u8]> = vec![b"SREM", key];
        parts.extend(batch.iter().zip(&mut rooms).map(|(member, room)| member.bytes(room)));
        ctx.effect(parts);
    }
    ctx.changed(key, event::SET, "spop");
    ctx.ks.dirty += popped.len() as u64 - 1;
    Ok(())
}

fn bulk(reply: &mut Reply, entry: Entry<'_>) {
    reply.bulk(entry.text(&mut itoa::Buffer::new()));
}

fn srandmember(ctx: &mut Ctx, args: &mut Args) -> Done {
    if args.len() > 3 {
        return Err(Error::SYNTAX);
    }
    let mut random = draw(ctx.ks);
    let Some(count) = args.get(2) else {
        match read_set(ctx.ks, ctx.db, &args[1])?.and_then(|set| set.sample(&mut random)) {
            Some(member) => bulk(ctx.reply, member),
            None => ctx.reply.null(),
        }
        return Ok(());
    };
    let (count, repeats) = random_count(count)?;
    let Some(set) = read_set(ctx.ks, ctx.db, &args[1])?.filter(|_| count > 0) else {
        ctx.reply.array(0);
        return Ok(());
    };
    let len = set.len();
    if repeats {
        ctx.reply.array(count);
        for _ in 0..count {
            if ctx.reply.muted {
                break;
            }
            bulk(ctx.reply, set.sample(&mut random).expect("a set at a key is never empty"));
        }
    } else if set.is_large() && count < len / 3 {
        // Few of many: draw until enough are different.
        ctx.reply.array(count);
        let mut seen = HashSet::with_capacity(count);
        while seen.len() < count {
            let member = set.sample(&mut random).expect("a set at a key is never empty");
            if let Entry::Str(text) = member
                && seen.insert(text)
            {
                ctx.reply.bulk(text);
            }
        }
    } else {
        let mut wanted = count.min(len);
        ctx.reply.array(wanted);
        for (i, member) in set.iter().enumerate() {
            // Each is taken with the chance that the rest leaves it: all choices are as likely.
            if below(&mut random, len - i) < wanted {
                bulk(ctx.reply, member);
                wanted -= 1;
            }
        }
    }
    Ok(())
}

/// The sets at several keys, `None` where there is none; all are there or of the right type.
fn read_sets<'k>(
    ks: &'k mut Keyspace,
    db: usize,
    args: &Args,
    keys: std::ops::Range<usize>,
) -> Result<Vec<Option<&'k Set>>, Error> {
    let mut there = Vec::with_capacity(keys.len());
    for i in keys.clone() {
        there.push(read_set(ks, db, &args[i])?.is_some());
    }
    let ks: &'k Keyspace = ks;
    let set = |i: usize| match ks.dbs[db].peek(&args[i]).and_then(|entry| entry.value()) {
        Some(Value::Set(set)) => Some(set),
        _ => None,
    };
    Ok(keys.zip(there).map(|(i, there)| set(i).filter(|_| there)).collect())
}

/// Hands every member that all sets have to `f` until it says `false`.
fn intersect(sets: &[Option<&Set>], mut f: impl FnMut(Entry<'_>) -> bool) {
    let Some(mut sets) = sets.iter().copied().collect::<Option<Vec<&Set>>>() else { return };
    sets.sort_by_key(|set| set.len());
    let Some((smallest, others)) = sets.split_first() else { return };
    for member in smallest.iter() {
        if others.iter().all(|set| set.contains_entry(member)) && !f(member) {
            return;
        }
    }
}

/// Hands every member that only the first set has to `f`.
fn subtract(sets: &[Option<&Set>], mut f: impl FnMut(Entry<'_>)) {
    let [Some(first), others @ ..] = sets else { return };
    let mut others: Vec<&Set> = others.iter().copied().flatten().collect();
    if others.iter().any(|set| std::ptr::eq(*set, *first)) {
        return;
    }
    others.sort_by_key(|set| std::cmp::Reverse(set.len()));
    for member in first.iter() {
        if !others.iter().any(|set| set.contains_entry(member)) {
            f(member);
        }
    }
}

/// The members that only the first set has. Where it costs less, all of the first set is taken and what
/// the others have is removed. Redis chooses by the same sums, and the choice shows in the encoding
/// when a member that was removed did not fit a smaller one.
fn difference(sets: &[Option<&Set>], limits: &Limits) -> Set {
    let mut result = Set::new();
    let [Some(first), others @ ..] = sets else { return result };
    let others = || others.iter().copied().flatten();
    let lookups = first.len() * (1 + others().count()) / 2;
    let removals = first.len() + others().map(Set::len).sum::<usize>();
    if lookups <= removals {
        subtract(sets, |member| {
            result.insert_entry(member, limits);
        });
        return result;
    }
    for member in first.iter() {
        result.insert_entry(member, limits);
    }
    for set in others() {
        set.for_each(|member| {
            result.remove(member);
        });
    }
    result
}

/// Sets a key to the result of a `…STORE` command, or deletes it if there is none, and replies.
fn store(ctx: &mut Ctx, key: &[u8], set: Set, name: &'static str) {
    let len = set.len();
    if len == 0 {
        let lazy = ctx.ks.lazy.server_del;
        ctx.ks.delete(ctx.db, key, lazy);
    } else {
        ctx.ks.set(ctx.db, key, Payload::Value(Value::Set(set)), None);
        ctx.changed(key, event::SET, name);
    }
    ctx.reply.int(len as i64);
}

fn sinter(ctx: &mut Ctx, args: &mut Args) -> Done {
    let sets = read_sets(ctx.ks, ctx.db, args, 1..args.len())?;
    let place = ctx.reply.deferred();
    let mut n = 0;
    intersect(&sets, |member| {
        bulk(ctx.reply, member);
        n += 1;
        true
    });
    ctx.reply.end_set(place, n);
    Ok(())
}

fn sinterstore(ctx: &mut Ctx, args: &mut Args) -> Done {
    let limits = ctx.ks.limits.clone();
    let sets = read_sets(ctx.ks, ctx.db, args, 2..args.len())?;
    let mut result = Set::new();
    intersect(&sets, |member| {
        result.insert_entry(member, &limits);
        true
    });
    store(ctx, &args[1], result, "sinterstore");
    Ok(())
}

fn sintercard(ctx: &mut Ctx, args: &mut Args) -> Done {
    let n = int(&args[1]).ok().filter(|&n| n > 0);
    let n = n.ok_or(Error::new("ERR numkeys should be greater than 0"))? as usize;
    if n > args.len() - 2 {
        return Err(Error::new("ERR Number of keys can't be greater than number of args"));
    }
    let mut limit = 0;
    let mut i = 2 + n;
    while i < args.len() {
        let Some(value) = args.get(i + 1).filter(|_| is(&args[i], "limit")) else {
            return Err(Error::SYNTAX);
        };
        let value = int(value).ok().filter(|&n| n >= 0);
        limit = value.ok_or(Error::new("ERR LIMIT can't be negative"))?;
        i += 2;
    }
    let sets = read_sets(ctx.ks, ctx.db, args, 2..2 + n)?;
    let mut count = 0;
    intersect(&sets, |_| {
        count += 1;
        count != limit
    });
    ctx.reply.int(count);
    Ok(())
}

/// The union of the sets at the keys from `first` on.
fn union(ctx: &mut Ctx, args: &Args, first: usize) -> Result<Set, Error> {
    let limits = ctx.ks.limits.clone();
    let sets = read_sets(ctx.ks, ctx.db, args, first..args.len())?;
    let mut result = Set::new();
    for set in sets.into_iter().flatten() {
        set.iter().for_each(|member| {
            result.insert_entry(member, &limits);
        });
    }
    Ok(result)
}

fn sunion(ctx: &mut Ctx, args: &mut Args) -> Done {
    let result = union(ctx, args, 1)?;
    ctx.reply.set(result.len());
    result.for_each(|member| ctx.reply.bulk(member));
    Ok(())
}

fn sunionstore(ctx: &mut Ctx, args: &mut Args) -> Done {
    let result = union(ctx, args, 2)?;
    store(ctx, &args[1], result, "sunionstore");
    Ok(())
}

fn sdiff(ctx: &mut Ctx, args: &mut Args) -> Done {
    let sets = read_sets(ctx.ks, ctx.db, args, 1..args.len())?;
    let place = ctx.reply.deferred();
    let mut n = 0;
    subtract(&sets, |member| {
        bulk(ctx.reply, member);
        n += 1;
    });
    ctx.reply.end_set(place, n);
    Ok(())
}

fn sdiffstore(ctx: &mut Ctx, args: &mut Args) -> Done {
    let limits = ctx.ks.limits.clone();
    let sets = read_sets(ctx.ks, ctx.db, args, 2..args.len())?;
    let result = difference(&sets, &limits);
    store(ctx, &args[1], result, "sdiffstore");
    Ok(())
}

fn sscan(ctx: &mut Ctx, args: &mut Args) -> Done {
    let mut cursor = Scan::cursor(&args[2])?;
    let Some(set) = read_set(ctx.ks, ctx.db, &args[1])? else {
        Scan::reply_nothing(ctx.reply);
        return Ok(());
    };
    let scan = Scan::parse(args, 2, false)?;
    let mut found = Reply::new();
    let (mut n, mut visited, mut steps) = (0, 0, 0);
    loop {
        cursor = set.scan(cursor, |member| {
            visited += 1;
            if scan.matches(member) {
                found.bulk(member);
                n += 1;
            }
        });
        steps += 1;
        if cursor == 0 || visited >= scan.count || steps >= scan.count.saturating_mul(10) {
            break;
        }
    }
    ctx.reply.array(2);
    ctx.reply.bulk(itoa::Buffer::new().format(cursor).as_bytes());
    ctx.reply.array(n);
    ctx.reply.append(&mut found);
    Ok(())
}

const fn spec(name: &'static str, arity: i32, flags: u32, keys: Keys) -> Spec {
    Spec::new(name, arity, flags, category::SET, keys)
}

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<Handler>] = &[
    Command { run: sadd, spec: spec("sadd", -3, WRITE | DENYOOM | FAST, Keys::ONE).key(RW | INSERT).doc("set", "1.0.0", "O(N) in the members given", "Puts members into a set, which is made if there is none.", "key member...") },
    Command { run: srem, spec: spec("srem", -3, WRITE | FAST, Keys::ONE).key(RW | DELETE).doc("set", "1.0.0", "O(N) in the members given", "Takes members out of a set.", "key member...") },
    Command { run: smove, spec: spec("smove", 4, WRITE | FAST, Keys::TWO).key(RW | ACCESS | DELETE).other_keys(RW | INSERT).doc("set", "1.0.0", "O(1)", "Takes a member out of one set and puts it into another.", "source destination member") },
    Command { run: sismember, spec: spec("sismember", 3, READONLY | FAST, Keys::ONE).key(RO).doc("set", "1.0.0", "O(1)", "Says whether a set has a member.", "key member") },
    Command { run: smismember, spec: spec("smismember", -3, READONLY | FAST, Keys::ONE).doc("set", "6.2.0", "O(N) in the members asked for", "Says of each of several members whether a set has it.", "key member...") },
    Command { run: scard, spec: spec("scard", 2, READONLY | FAST, Keys::ONE).key(RO).doc("set", "1.0.0", "O(1)", "Counts the members of a set.", "key") },
    Command { run: smembers, spec: spec("smembers", 2, READONLY, Keys::ONE).tips(&["nondeterministic_output_order"]).doc("set", "1.0.0", "O(N) in the set", "Gives all members of a set.", "key") },
    Command { run: spop, spec: spec("spop", -2, WRITE | FAST, Keys::ONE).key(RW | ACCESS | DELETE).tips(&["nondeterministic_output"]).doc("set", "1.0.0", "O(N) in the members taken", "Takes random members out of a set and gives them.", "key [count]@3.2.0") },
    Command { run: srandmember, spec: spec("srandmember", -2, READONLY, Keys::ONE).tips(&["nondeterministic_output"]).doc("set", "1.0.0", "O(N) in the members returned", "Gives random members of a set, which keeps them.", "key [count]@2.6.0") },
    Command { run: sinter, spec: spec("sinter", -2, READONLY, Keys::ALL).tips(&["nondeterministic_output_order"]).doc("set", "1.0.0", "O(N*M) in the smallest set and the number of sets", "Gives the members that all sets have.", "key...") },
    Command { run: sintercard, spec: spec("sintercard", -3, READONLY | MOVABLE_KEYS, Keys::Counted(1)).doc("set", "7.0.0", "O(N*M) in the smallest set and the number of sets", "Counts the members that all sets have, up to a limit.", "numkeys key... [LIMIT limit]") },
    Command { run: sinterstore, spec: spec("sinterstore", -3, WRITE | DENYOOM, Keys::ALL).key(RW | UPDATE).other_keys(RO | ACCESS).doc("set", "1.0.0", "O(N*M) in the smallest set and the number of sets", "Keeps the members that all sets have under a key.", "destination key...") },
    Command { run: sunion, spec: spec("sunion", -2, READONLY, Keys::ALL).tips(&["nondeterministic_output_order"]).doc("set", "1.0.0", "O(N) in all members", "Gives the members that any of the sets has.", "key...") },
    Command { run: sunionstore, spec: spec("sunionstore", -3, WRITE | DENYOOM, Keys::ALL).key(OW | UPDATE).other_keys(RO | ACCESS).doc("set", "1.0.0", "O(N) in all members", "Keeps the members that any of the sets has under a key.", "destination key...") },
    Command { run: sdiff, spec: spec("sdiff", -2, READONLY, Keys::ALL).tips(&["nondeterministic_output_order"]).doc("set", "1.0.0", "O(N) in all members", "Gives the members that the first set has and no other.", "key...") },
    Command { run: sdiffstore, spec: spec("sdiffstore", -3, WRITE | DENYOOM, Keys::ALL).key(OW | UPDATE).other_keys(RO | ACCESS).doc("set", "1.0.0", "O(N) in all members", "Keeps the members that the first set has and no other under a key.", "destination key...") },
    Command { run: sscan, spec: spec("sscan", -3, READONLY, Keys::ONE).tips(&["nondeterministic_output"]).doc("set", "2.8.0", "O(1) a call, O(N) for a whole walk", "Walks over the members of a set, some a call.", "key cursor [MATCH pattern] [COUNT count]") },
];

#[cfg(test)]
mod tests {
    use crate::commands::tests::Bench;
    use std::collections::BTreeSet;

    /// The bulk strings of a reply, sorted.
    fn bulks(reply: &str) -> Vec<String> {
        let mut parts: Vec<&str> = reply.split('|').skip(2).step_by(2).collect();
        parts.sort_unstable();
        parts.into_iter().map(String::from).filter(|s| !s.is_empty()).collect()
    }

    #[test]
    fn members_come_and_go() {
        let mut b = Bench::new();
        assert_eq!(b.run("SADD s 1 2 3 2"), ":3|");
        assert_eq!(b.ks.dirty, 3);
        assert_eq!(b.run("OBJECT ENCODING s"), "$6|intset|");
        assert_eq!(b.run("SADD s x 1"), ":1|");
        assert_eq!(b.run("OBJECT ENCODING s"), "$8|listpack|");
        assert_eq!(b.run("SADD s 1"), ":0|");
        assert!(b.effects.is_empty());
        assert_eq!(b.run("SMISMEMBER s 1 x 9"), "*3|:1|:1|:0|");
        assert_eq!(b.run("SISMEMBER none 1"), ":0|");
        assert_eq!(b.run("SREM s 1 2 9"), ":2|");
        assert_eq!(b.run("SMOVE s t x"), ":1|");
        assert_eq!(b.run("SMOVE s t gone"), ":0|");
        assert_eq!(b.run("SMOVE s s 3"), ":1|");
        assert_eq!(b.run("SREM s 3"), ":1|");
        assert_eq!(b.run("EXISTS s"), ":0|");
        b.run("SET str v");
        assert!(b.run("SADD str a").starts_with("-WRONGTYPE"));
        assert!(b.run("SMOVE t str x").starts_with("-WRONGTYPE"));
        assert_eq!(b.run("SSCAN t 0 MATCH x*"), "*2|$1|0|*1|$1|x|");
    }

    #[test]
    fn what_is_popped_is_named_in_the_log() {
        let mut b = Bench::new();
        for many in [5, 100, 1000] {
            let names: Vec<String> = (0..many).map(|i| format!("m{i}")).collect();
            b.run(&format!("SADD s {}", names.join(" ")));
            let mut left: BTreeSet<String> = names.into_iter().collect();
            let reply = b.run("SPOP s");
            let member = reply.split('|').nth(1).unwrap();
            assert!(left.remove(member));
            assert_eq!(b.effects, [format!("SREM s {member}")]);
            let popped = bulks(&b.run("SPOP s 3"));
            assert_eq!(popped.len(), 3);
            assert!(popped.iter().all(|m| left.remove(m)));
            let mut named: Vec<&str> = b.effects[0].split(' ').skip(2).collect();
            named.sort_unstable();
            assert_eq!(named, popped);
            assert_eq!(b.run("SCARD s"), format!(":{}|", left.len()));
            assert_eq!(bulks(&b.run("SPOP s 5000")), Vec::from_iter(left));
            assert_eq!(b.effects, ["DEL s"]);
        }
        assert_eq!(b.run("SPOP s"), "$-1|");
        assert_eq!(b.run("SPOP s 2"), "*0|");
        assert_eq!(b.run("SPOP s -1"), "-ERR value is out of range, must be positive|");
        assert_eq!(b.run("SPOP s x"), "-ERR value is out of range, must be positive|");
        b.run("SADD s only");
        b.run("SPOP s");
        assert_eq!(b.effects, ["SREM s only"]);
        assert_eq!(b.run("EXISTS s"), ":0|");
    }

    #[test]
    fn random_members_are_members_and_distinct_unless_asked() {
        let mut b = Bench::new();
        for many in [3, 40, 900] {
            let names: Vec<String> = (0..many).map(|i| format!("m{i}")).collect();
            b.run(&format!("SADD s{many} {}", names.join(" ")));
            for count in [1, 2, 20, 600] {
                let got = bulks(&b.run(&format!("SRANDMEMBER s{many} {count}")));
                assert_eq!(BTreeSet::from_iter(&got).len(), count.min(many), "{many} {count}");
                assert!(got.iter().all(|m| names.contains(m)));
                let reply = b.run(&format!("SRANDMEMBER s{many} -{count}"));
                assert!(reply.starts_with(&format!("*{count}|")));
            }
        }
        assert_eq!(b.run("SRANDMEMBER none"), "$-1|");
        assert_eq!(b.run("SRANDMEMBER none 3"), "*0|");
    }

    #[test]
    fn sets_meet_join_and_part() {
        let mut b = Bench::new();
        b.run("SADD a 1 2 3 x");
        b.run("SADD b 2 3 4");
        b.run("SADD c 3 x y");
        assert_eq!(bulks(&b.run("SINTER a b")), ["2", "3"]);
        assert_eq!(b.run("SINTER a b none"), "*0|");
        assert_eq!(b.run("SINTERCARD 2 a b"), ":2|");
        assert_eq!(b.run("SINTERCARD 2 a b LIMIT 1"), ":1|");
        assert_eq!(b.run("SINTERCARD 0 a"), "-ERR numkeys should be greater than 0|");
        assert_eq!(
            b.run("SINTERCARD 3 a b"),
            "-ERR Number of keys can't be greater than number of args|"
        );
        assert_eq!(b.run("SINTERCARD 1 a LIMIT -1"), "-ERR LIMIT can't be negative|");
        assert_eq!(bulks(&b.run("SUNION a b c none")), ["1", "2", "3", "4", "x", "y"]);
        assert_eq!(bulks(&b.run("SDIFF a b")), ["1", "x"]);
        assert_eq!(b.run("SDIFF a a"), "*0|");
        assert_eq!(b.run("SINTERSTORE d a b"), ":2|");
        assert_eq!(b.run("OBJECT ENCODING d"), "$6|intset|");
        assert_eq!(b.effects, [] as [&str; 0]);
        assert_eq!(b.run("SUNIONSTORE d d c"), ":4|");
        assert_eq!(b.effects, ["SUNIONSTORE d d c"]);
        assert_eq!(b.run("SDIFFSTORE d d d"), ":0|");
        assert_eq!(b.run("EXISTS d"), ":0|");
        // A large first set is taken whole, and keeps the form that one of its members asked for.
        let ints: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        b.run(&format!("SADD many {} word", ints.join(" ")));
        b.run("SADD few word 7");
        assert_eq!(b.run("SDIFFSTORE d many few few"), ":99|");
        assert_ne!(b.run("OBJECT ENCODING d"), "$6|intset|");
        assert_eq!(b.run("SDIFFSTORE d many few"), ":99|");
        assert_eq!(b.run("OBJECT ENCODING d"), "$6|intset|");
        b.run("SET str v");
        assert!(b.run("SUNION none str").starts_with("-WRONGTYPE"));
        assert!(b.run("SINTER none str").starts_with("-WRONGTYPE"));
    }
}
