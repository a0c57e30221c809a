//! Strings: whole values, ranges and counters.

use super::util::{int, is, range};
use crate::command::{Command, Ctx, Handler, Keys, Spec, access::*, category, flag::*};
use crate::effects::Part;
use crate::entry::{Entry, Payload, Str};
use crate::keyspace::event;
use crate::num::{Extended, parse_int};
use crate::text::SHARE;
use crate::{Args, Error, Reply};
use std::ops::Range;

type Done = Result<(), Error>;

fn reply_string(ctx: &mut Ctx, key: &[u8]) -> Done {
    match ctx.ks.read_string(ctx.db, key)? {
        Some(Str::Bytes(bytes)) if bytes.len() >= SHARE => {
            let all = 0..bytes.len();
            put_part(ctx, key, all);
        }
        string => put_string(ctx.reply, string),
    }
    Ok(())
}

/// Replies with a part of a long string, which is not copied.
#[cold]
fn put_part(ctx: &mut Ctx, key: &[u8], range: Range<usize>) {
    if let Some(bytes) = ctx.ks.share_string(ctx.db, key) {
        ctx.reply.bulk_shared(bytes, range);
    }
}

fn put_string(reply: &mut Reply, string: Option<Str>) {
    match string {
        None => reply.null(),
        Some(Str::Bytes(b)) => reply.bulk(b),
        Some(Str::Int(n)) => reply.bulk_int(n),
    }
}

fn get(ctx: &mut Ctx, args: &mut Args) -> Done {
    reply_string(ctx, &args[1])
}

/// Sets a key to the argument at `at`, which keeps its allocation if it has one.
fn store_at(ctx: &mut Ctx, args: &Args, key: usize, at: usize, expire_ms: Option<i64>) {
    if args[at].len() > crate::entry::EMBED_MAX {
        ctx.ks.set(ctx.db, &args[key], Payload::owned_string(args.text(at)), expire_ms);
    } else {
        ctx.ks.set(ctx.db, &args[key], Payload::string(&args[at]), expire_ms);
    }
    ctx.ks.notify(event::STRING, "set", ctx.db, &args[key]);
    ctx.ks.dirty += 1;
}

/// As [`store_at`] to the key at 1.
fn store(ctx: &mut Ctx, args: &Args, at: usize, expire_ms: Option<i64>) {
    store_at(ctx, args, 1, at, expire_ms);
}

/// The words that say when a key expires, in `SET`, `GETEX`.
enum Expiry {
    Keep,
    None,
    /// Unix ms.
    At(i64),
}

/// A time of expiry as `command` takes it: `unit_ms` 1 or 1000, relative to `base_ms`.
fn expire_at(arg: &[u8], unit_ms: i64, base_ms: i64, command: &str) -> Result<i64, Error> {
    let n = int(arg)?;
    if n <= 0 {
        return Err(Error::invalid_expire(command));
    }
    n.checked_mul(unit_ms)
        .and_then(|n| n.checked_add(base_ms))
        .ok_or_else(|| Error::invalid_expire(command))
}

/// Whether what stands at `i` tells when the key expires, in the same word as what does at `before`, if
/// anything: the last one counts.
fn tells_expiry(args: &Args, i: usize, before: Option<usize>) -> bool {
    ["ex", "px", "exat", "pxat"].iter().any(|w| is(&args[i], w))
        && before.is_none_or(|before| args[before].eq_ignore_ascii_case(&args[i]))
        && i + 1 < args.len()
}

/// Reads `EX|PX|EXAT|PXAT n` at `i`; `None` if the word there is another.
fn expiry_option(ctx: &Ctx, args: &Args, i: usize, command: &str) -> Result<Option<i64>, Error> {
    let (unit, base) = match &args[i] {
        w if is(w, "ex") => (1000, ctx.ks.now_ms),
        w if is(w, "px") => (1, ctx.ks.now_ms),
        w if is(w, "exat") => (1000, 0),
        w if is(w, "pxat") => (1, 0),
        _ => return Ok(None),
    };
    let n = args.get(i + 1).ok_or(Error::SYNTAX)?;
    expire_at(n, unit, base, command).map(Some)
}

fn set(ctx: &mut Ctx, args: &mut Args) -> Done {
    let (mut nx, mut xx, mut want_old) = (false, false, false);
    let mut expiry = Expiry::None;
    // The options are checked for sense as a whole before any number among them is read.
    let mut expiry_at = None;
    let mut i = 3;
    while i < args.len() {
        let word = &args[i];
        match word {
            w if is(w, "nx") && !xx => nx = true,
            w if is(w, "xx") && !nx => xx = true,
            w if is(w, "get") => want_old = true,
            w if is(w, "keepttl") && expiry_at.is_none() => expiry = Expiry::Keep,
            _ if matches!(expiry, Expiry::None) && tells_expiry(args, i, expiry_at) => {
                expiry_at = Some(i);
                i += 1;
            }
            _ => return Err(Error::SYNTAX),
        }
        i += 1;
    }
    if let Some(i) = expiry_at {
        expiry = Expiry::At(expiry_option(ctx, args, i, "set")?.expect("one of the four words"));
    }
    if want_old {
        reply_string(ctx, &args[1])?;
    }
    if nx || xx || matches!(expiry, Expiry::Keep) {
        // Who finds the key in the way has used it: a lock that is tried for is not an idle key.
        let there = match nx {
            true => ctx.ks.write(ctx.db, &args[1]).is_some(),
            false => ctx.ks.exists(ctx.db, &args[1]),
        };
        if nx && there || xx && !there {
            if !want_old {
                ctx.reply.null();
            }
            return Ok(());
        }
    }
    let at_ms = match expiry {
        Expiry::None => None,
        Expiry::At(ms) => Some(ms),
        Expiry::Keep => ctx.ks.peek(ctx.db, &args[1]).and_then(|e| e.expire()),
    };
    if let Expiry::At(ms) = expiry {
        let ms = itoa::Buffer::new().format(ms).to_owned();
        let (px, ms) = (Part::Bytes(b"PXAT"), Part::Bytes(ms.as_bytes()));
        ctx.effect_of([Part::Bytes(b"SET"), args.part(1), args.part(2), px, ms]);
        store(ctx, args, 2, at_ms);
        ctx.ks.notify(event::GENERIC, "expire", ctx.db, &args[1]);
    } else {
        // `GET` and the conditions are of no use to whoever reads the log, but they do no harm: the
        // condition held here, so it holds there.
        store(ctx, args, 2, at_ms);
    }
    if !want_old {
        ctx.reply.ok();
    }
    Ok(())
}

/// What `SET` does to its key: with `GET` it also tells what was there.
fn set_access(args: &Args) -> u32 {
    match args.rest(3).any(|word| is(word, "get")) {
        true => RW | ACCESS | UPDATE,
        false => OW | UPDATE,
    }
}

fn setnx(ctx: &mut Ctx, args: &mut Args) -> Done {
    let absent = ctx.ks.write(ctx.db, &args[1]).is_none();
    if absent {
        store(ctx, args, 2, None);
    }
    ctx.reply.int(absent as i64);
    Ok(())
}

fn setex_in(ctx: &mut Ctx, args: &mut Args, unit_ms: i64, command: &str) -> Done {
    let at = expire_at(&args[2], unit_ms, ctx.ks.now_ms, command)?;
    let ms = itoa::Buffer::new().format(at).to_owned();
    let (px, ms) = (Part::Bytes(b"PXAT"), Part::Bytes(ms.as_bytes()));
    ctx.effect_of([Part::Bytes(b"SET"), args.part(1), args.part(3), px, ms]);
    store(ctx, args, 3, Some(at));
    ctx.ks.notify(event::GENERIC, "expire", ctx.db, &args[1]);
    ctx.reply.ok();
    Ok(())
}

fn setex(ctx: &mut Ctx, args: &mut Args) -> Done {
    setex_in(ctx, args, 1000, "setex")
}

fn psetex(ctx: &mut Ctx, args: &mut Args) -> Done {
    setex_in(ctx, args, 1, "psetex")
}

fn getset(ctx: &mut Ctx, args: &mut Args) -> Done {
    reply_string(ctx, &args[1])?;
    ctx.effect_of([Part::Bytes(b"SET"), args.part(1), args.part(2)]);
    store(ctx, args, 2, None);
    Ok(())
}

fn getdel(ctx: &mut Ctx, args: &mut Args) -> Done {
    reply_string(ctx, &args[1])?;
    let lazy = ctx.ks.lazy.server_del;
    if ctx.ks.delete(ctx.db, &args[1], lazy) {
        ctx.effect([b"DEL", &args[1]]);
    }
    Ok(())
}

fn getex(ctx: &mut Ctx, args: &mut Args) -> Done {
    let (mut expiry, mut expiry_at) = (Expiry::Keep, None);
    let mut places = 2..args.len();
    while let Some(i) = places.next() {
        if is(&args[i], "persist") && expiry_at.is_none() {
            expiry = Expiry::None;
        } else if matches!(expiry, Expiry::Keep) && tells_expiry(args, i, expiry_at) {
            expiry_at = Some(i);
            places.next();
        } else {
            return Err(Error::SYNTAX);
        }
    }
    let Some(_) = ctx.ks.read_string(ctx.db, &args[1])? else {
        ctx.reply.null();
        return Ok(());
    };
    // Only now: a bad time for a key that is not there is not noticed.
    if let Some(i) = expiry_at {
        expiry = Expiry::At(expiry_option(ctx, args, i, "getex")?.expect("one of the four words"));
    }
    // The access was counted already.
    match ctx.ks.peek(ctx.db, &args[1]).and_then(Entry::string) {
        Some(Str::Bytes(bytes)) if bytes.len() >= SHARE => {
            let all = 0..bytes.len();
            put_part(ctx, &args[1], all);
        }
        string => put_string(ctx.reply, string),
    }
    match expiry {
        Expiry::Keep => {}
        Expiry::None => {
            if ctx.ks.peek(ctx.db, &args[1]).is_some_and(|e| e.expire().is_some()) {
                ctx.ks.set_expire(ctx.db, &args[1], None);
                ctx.changed(&args[1], event::GENERIC, "persist");
                ctx.effect([b"PERSIST", &args[1]]);
            }
        }
        Expiry::At(at) => super::keys::expire_key(ctx, &args[1], at),
    }
    Ok(())
}

fn mget(ctx: &mut Ctx, args: &mut Args) -> Done {
    ctx.reply.array(args.len() - 1);
    for key in args.rest(1) {
        if reply_string(ctx, key).is_err() {
            ctx.reply.null();
        }
    }
    Ok(())
}

fn mset_all(ctx: &mut Ctx, args: &Args) {
    for i in (1..args.len()).step_by(2) {
        store_at(ctx, args, i, i + 1, None);
    }
}

fn mset(ctx: &mut Ctx, args: &mut Args) -> Done {
    if args.len().is_multiple_of(2) {
        return Err(Error::arity("mset"));
    }
    mset_all(ctx, args);
    ctx.reply.ok();
    Ok(())
}

fn msetnx(ctx: &mut Ctx, args: &mut Args) -> Done {
    if args.len().is_multiple_of(2) {
        return Err(Error::arity("msetnx"));
    }
    let free = (1..args.len()).step_by(2).all(|i| ctx.ks.write(ctx.db, &args[i]).is_none());
    if free {
        mset_all(ctx, args);
    }
    ctx.reply.int(free as i64);
    Ok(())
}

fn append(ctx: &mut Ctx, args: &mut Args) -> Done {
    let old = match ctx.ks.peek(ctx.db, &args[1]) {
        None => None,
        Some(entry) => Some(entry.string().ok_or(Error::WRONG_TYPE)?.len()),
    };
    let len = match old {
        None => {
            let value = Payload::string(&args[2]);
            ctx.ks.set(ctx.db, &args[1], value, None);
            args[2].len()
        }
        Some(len) => {
            check_length(ctx, len as u64 + args[2].len() as u64)?;
            let text = ctx.ks.edit_string(ctx.db, &args[1])?;
            text.extend_from_slice(&args[2]);
            text.len()
        }
    };
    ctx.changed(&args[1], event::STRING, "append");
    ctx.reply.int(len as i64);
    Ok(())
}

fn check_length(ctx: &Ctx, len: u64) -> Done {
    if len > ctx.ks.max_string() { Err(Error::TOO_LONG) } else { Ok(()) }
}

fn strlen(ctx: &mut Ctx, args: &mut Args) -> Done {
    let len = ctx.ks.read_string(ctx.db, &args[1])?.map_or(0, |s| s.len());
    ctx.reply.int(len as i64);
    Ok(())
}

fn setrange(ctx: &mut Ctx, args: &mut Args) -> Done {
    let offset = int(&args[2])?;
    if offset < 0 {
        return Err(Error::new("ERR offset is out of range"));
    }
    let len = ctx
        .ks
        .peek(ctx.db, &args[1])
        .map_or(Ok(0), |entry| entry.string().map(|s| s.len()).ok_or(Error::WRONG_TYPE))?;
    if args[3].is_empty() {
        ctx.reply.int(len as i64);
        return Ok(());
    }
    let end = (offset as u64).saturating_add(args[3].len() as u64);
    check_length(ctx, end)?;
    let (start, end) = (offset as usize, end as usize);
    let text = ctx.ks.edit_string(ctx.db, &args[1])?;
    if text.len() < end {
        text.resize(end, 0);
    }
    text[start..end].copy_from_slice(&args[3]);
    let len = text.len();
    ctx.changed(&args[1], event::STRING, "setrange");
    ctx.reply.int(len as i64);
    Ok(())
}

fn getrange(ctx: &mut Ctx, args: &mut Args) -> Done {
    let (start, end) = (int(&args[2])?, int(&args[3])?);
    let mut room = itoa::Buffer::new();
    match ctx.ks.read_string(ctx.db, &args[1])? {
        None => ctx.reply.bulk(b""),
        Some(text) => {
            let bytes = text.bytes(&mut room);
            // Two negative ends in the wrong order are empty even before they are clamped.
            match start < 0 && end < 0 && start > end {
                true => ctx.reply.bulk(b""),
                false => {
                    let end = if end < 0 { (bytes.len() as i64 + end).max(0) } else { end };
                    let part = range(start, end, bytes.len());
                    match part.len() < SHARE {
                        true => ctx.reply.bulk(&bytes[part]),
                        false => put_part(ctx, &args[1], part),
                    }
                }
            }
        }
    }
    Ok(())
}

fn add_to(ctx: &mut Ctx, key: &[u8], by: i64) -> Done {
    let (old, expire) = match ctx.ks.write(ctx.db, key) {
        None => {
            ctx.ks.add(ctx.db, key, Payload::Int(by), None);
            ctx.changed(key, event::STRING, "incrby");
            ctx.reply.int(by);
            return Ok(());
        }
        Some(entry) => {
            let n = match entry.string().ok_or(Error::WRONG_TYPE)? {
                Str::Int(n) => n,
                Str::Bytes(b) => parse_int(b).ok_or(Error::NOT_INT)?,
            };
            if let Some(new) = n.checked_add(by)
                && matches!(entry.string(), Some(Str::Int(_)))
            {
                // In place: the entry neither moves nor changes its time to live.
                entry.set_payload(Payload::Int(new), entry.expire());
                ctx.changed(key, event::STRING, "incrby");
                ctx.reply.int(new);
                return Ok(());
            }
            (n, entry.expire())
        }
    };
    let new = old.checked_add(by).ok_or(Error::OVERFLOW)?;
    ctx.ks.set(ctx.db, key, Payload::Int(new), expire);
    ctx.ks.notify(event::STRING, "incrby", ctx.db, key);
    ctx.ks.dirty += 1;
    ctx.reply.int(new);
    Ok(())
}

fn incr(ctx: &mut Ctx, args: &mut Args) -> Done {
    add_to(ctx, &args[1], 1)
}

fn decr(ctx: &mut Ctx, args: &mut Args) -> Done {
    add_to(ctx, &args[1], -1)
}

fn incrby(ctx: &mut Ctx, args: &mut Args) -> Done {
    let by = int(&args[2])?;
    add_to(ctx, &args[1], by)
}

fn decrby(ctx: &mut Ctx, args: &mut Args) -> Done {
    let by = int(&args[2])?;
    let by = by.checked_neg().ok_or(Error::new("ERR decrement would overflow"))?;
    add_to(ctx, &args[1], by)
}

fn incrbyfloat(ctx: &mut Ctx, args: &mut Args) -> Done {
    let mut room = itoa::Buffer::new();
    let (old, expire) = match ctx.ks.peek(ctx.db, &args[1]) {
        None => (b"0".to_vec(), None),
        Some(entry) => {
            let text = entry.string().ok_or(Error::WRONG_TYPE)?;
            (text.bytes(&mut room).to_vec(), entry.expire())
        }
    };
    let number = |text: &[u8]| Extended::parse(text).ok_or(Error::NOT_FLOAT);
    let sum = number(&old)?.sum(number(&args[2])?);
    let text = sum.ok_or(Error::new("ERR increment would produce NaN or Infinity"))?.format();
    // Redis keeps the sum as text, even if it is an integer.
    ctx.ks.set(ctx.db, &args[1], Payload::text(text.as_bytes()), expire);
    ctx.ks.notify(event::STRING, "incrbyfloat", ctx.db, &args[1]);
    ctx.ks.dirty += 1;
    // Another machine's arithmetic may differ in the last digit: the log says the outcome.
    ctx.effect([b"SET", &args[1], text.as_bytes(), b"KEEPTTL"]);
    ctx.reply.bulk(text.as_bytes());
    Ok(())
}

fn lcs(ctx: &mut Ctx, args: &mut Args) -> Done {
    let not_strings = Error::new("ERR The specified keys must contain string values");
    let mut load = |key: &[u8]| -> Result<Vec<u8>, Error> {
        let text = ctx.ks.read_string(ctx.db, key).map_err(|_| not_strings.clone())?;
        Ok(text.map_or(Vec::new(), |s| s.bytes(&mut itoa::Buffer::new()).to_vec()))
    };
    let (a, b) = (load(&args[1]), load(&args[2]));
    let (a, b) = (a?, b?);
    let (mut want_len, mut want_idx, mut with_len, mut min_len) = (false, false, false, 0);
    let mut i = 3;
    while i < args.len() {
        match &args[i] {
            w if is(w, "len") => want_len = true,
            w if is(w, "idx") => want_idx = true,
            w if is(w, "withmatchlen") => with_len = true,
            w if is(w, "minmatchlen") && i + 1 < args.len() => {
                min_len = int(&args[i + 1])?.max(0);
                i += 1;
            }
            _ => return Err(Error::SYNTAX),
        }
        i += 1;
    }
    if want_len && want_idx {
        return Err(Error::new(
            "ERR If you want both the length and indexes, please just use IDX.",
        ));
    }
    let cells = (a.len() as u64 + 1) * (b.len() as u64 + 1) * 4;
    if a.len() >= u32::MAX as usize - 1 || b.len() >= u32::MAX as usize - 1 {
        return Err(Error::new("ERR String too long for LCS"));
    }
    if cells > isize::MAX as u64 {
        return Err(Error::new(
            "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len",
        ));
    }
    if cells > ctx.ks.limits.max_string as u64 {
        return Err(Error::new(
            "ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len",
        ));
    }
    let width = b.len() + 1;
    let mut table = vec![0u32; (a.len() + 1) * width];
    for (i, x) in a.iter().enumerate() {
        let (above, row) = table[i * width..(i + 2) * width].split_at_mut(width);
        let mut left = 0;
        for ((y, corner), cell) in b.iter().zip(above.windows(2)).zip(&mut row[1..]) {
            left = if x == y { corner[0] + 1 } else { corner[1].max(left) };
            *cell = left;
        }
    }
    let total = table[a.len() * width + b.len()];
    if want_len {
        ctx.reply.int(total as i64);
        return Ok(());
    }
    // Walks back through the table; a match is a run of equal bytes in both.
    let mut common = vec![0u8; total as usize];
    let mut matches: Vec<(usize, usize, usize)> = Vec::new(); // start in a, start in b, length
    let (mut i, mut j, mut at) = (a.len(), b.len(), total as usize);
    while i > 0 && j > 0 {
        if a[i - 1] == b[j - 1] {
            at -= 1;
            common[at] = a[i - 1];
            (i, j) = (i - 1, j - 1);
            match matches.last_mut() {
                Some((x, y, n)) if *x == i + 1 && *y == j + 1 => (*x, *y, *n) = (i, j, *n + 1),
                _ => matches.push((i, j, 1)),
            }
        } else if table[(i - 1) * width + j] > table[i * width + j - 1] {
            i -= 1;
        } else {
            j -= 1;
        }
    }
    if !want_idx {
        ctx.reply.bulk(&common);
        return Ok(());
    }
    matches.retain(|&(_, _, n)| n as i64 >= min_len);
    ctx.reply.map(2);
    ctx.reply.bulk(b"matches");
    ctx.reply.array(matches.len());
    for (x, y, n) in matches {
        ctx.reply.array(2 + with_len as usize);
        for start in [x, y] {
            ctx.reply.array(2);
            ctx.reply.int(start as i64);
            ctx.reply.int((start + n - 1) as i64);
        }
        if with_len {
            ctx.reply.int(n as i64);
        }
    }
    ctx.reply.bulk(b"len");
    ctx.reply.int(total as i64);
    Ok(())
}

const fn spec(name: &'static str, arity: i32, flags: u32, keys: Keys) -> Spec {
    Spec::new(name, arity, flags, category::STRING, keys)
}

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<Handler>] = &[
    Command { run: get, spec: spec("get", 2, READONLY | FAST, Keys::ONE).doc("string", "1.0.0", "O(1)", "Gives the string at a key.", "key") },
    Command { run: set, spec: spec("set", -3, WRITE | DENYOOM, Keys::ONE).key_by_words(set_access).doc("string", "1.0.0", "O(1)", "Sets a key to a string, whatever it held.", "key value condition=[NX|XX]@2.6.12 [GET]@6.2.0 expiration=[EX seconds@2.6.12|PX milliseconds@2.6.12|EXAT unix-time-seconds@6.2.0|PXAT unix-time-milliseconds@6.2.0|KEEPTTL@6.0.0]") },
    Command { run: setnx, spec: spec("setnx", 3, WRITE | DENYOOM | FAST, Keys::ONE).key(OW | INSERT).doc("string", "1.0.0", "O(1)", "Sets a key to a string if the key is free.", "key value") },
    Command { run: setex, spec: spec("setex", 4, WRITE | DENYOOM, Keys::ONE).key(OW | UPDATE).doc("string", "2.0.0", "O(1)", "Sets a key to a string for so many seconds.", "key seconds value") },
    Command { run: psetex, spec: spec("psetex", 4, WRITE | DENYOOM, Keys::ONE).key(OW | UPDATE).doc("string", "2.6.0", "O(1)", "Sets a key to a string for so many milliseconds.", "key milliseconds value") },
    Command { run: getset, spec: spec("getset", 3, WRITE | DENYOOM | FAST, Keys::ONE).doc("string", "1.0.0", "O(1)", "Sets a key to a string and gives what it held.", "key value").deprecated("6.2.0", "`SET` with `GET`") },
    Command { run: getdel, spec: spec("getdel", 2, WRITE | FAST, Keys::ONE).key(RW | ACCESS | DELETE).doc("string", "6.2.0", "O(1)", "Gives the string at a key and removes the key.", "key") },
    Command { run: getex, spec: spec("getex", -2, WRITE | FAST, Keys::ONE).doc("string", "6.2.0", "O(1)", "Gives the string at a key and changes when it expires.", "key expiration=[EX seconds|PX milliseconds|EXAT unix-time-seconds|PXAT unix-time-milliseconds|PERSIST]") },
    Command { run: mget, spec: spec("mget", -2, READONLY | FAST, Keys::ALL).tips(&["request_policy:multi_shard"]).doc("string", "1.0.0", "O(N) in the keys", "Gives the strings at several keys.", "key...") },
    Command { run: mset, spec: spec("mset", -3, WRITE | DENYOOM, Keys::Range(1, -1, 2)).key(OW | UPDATE).tips(&["request_policy:multi_shard", "response_policy:all_succeeded"]).doc("string", "1.0.1", "O(N) in the keys", "Sets several keys at once.", "(key value)...") },
    Command { run: msetnx, spec: spec("msetnx", -3, WRITE | DENYOOM, Keys::Range(1, -1, 2)).key(OW | INSERT).tips(&["request_policy:multi_shard", "response_policy:agg_min"]).doc("string", "1.0.1", "O(N) in the keys", "Sets several keys at once if all of them are free.", "(key value)...") },
    Command { run: append, spec: spec("append", 3, WRITE | DENYOOM | FAST, Keys::ONE).key(RW | INSERT).doc("string", "2.0.0", "O(1) amortised", "Adds bytes to the end of a string.", "key value") },
    Command { run: strlen, spec: spec("strlen", 2, READONLY | FAST, Keys::ONE).key(RO).doc("string", "2.2.0", "O(1)", "Gives the length of a string.", "key") },
    Command { run: setrange, spec: spec("setrange", 4, WRITE | DENYOOM, Keys::ONE).key(RW | UPDATE).doc("string", "2.2.0", "O(1), plus the bytes written", "Overwrites part of a string from an offset on.", "key offset value") },
    Command { run: getrange, spec: spec("getrange", 4, READONLY, Keys::ONE).doc("string", "2.4.0", "O(N) in the bytes returned", "Gives part of a string.", "key start end") },
    Command { run: getrange, spec: spec("substr", 4, READONLY, Keys::ONE).doc("string", "1.0.0", "O(N) in the bytes returned", "Gives part of a string; the old name of GETRANGE.", "key start end").deprecated("2.0.0", "`GETRANGE`") },
    Command { run: incr, spec: spec("incr", 2, WRITE | DENYOOM | FAST, Keys::ONE).doc("string", "1.0.0", "O(1)", "Adds one to a number.", "key") },
    Command { run: decr, spec: spec("decr", 2, WRITE | DENYOOM | FAST, Keys::ONE).doc("string", "1.0.0", "O(1)", "Takes one from a number.", "key") },
    Command { run: incrby, spec: spec("incrby", 3, WRITE | DENYOOM | FAST, Keys::ONE).doc("string", "1.0.0", "O(1)", "Adds to a number.", "key increment") },
    Command { run: decrby, spec: spec("decrby", 3, WRITE | DENYOOM | FAST, Keys::ONE).doc("string", "1.0.0", "O(1)", "Takes from a number.", "key decrement") },
    Command { run: incrbyfloat, spec: spec("incrbyfloat", 3, WRITE | DENYOOM | FAST, Keys::ONE).doc("string", "2.6.0", "O(1)", "Adds to a floating point number.", "key increment:double") },
    Command { run: lcs, spec: spec("lcs", -3, READONLY, Keys::TWO).doc("string", "7.0.0", "O(N*M) in the two lengths", "Finds the longest subsequence that two strings share.", "key1 key2#0 [LEN] [IDX] [MINMATCHLEN len] [WITHMATCHLEN]") },
];
