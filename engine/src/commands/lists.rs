//! Lists: the two ends, what is between them, and waiting for an element.

use super::blocking::{look, until, wait};
use super::util::{int, is, range, reply_entry};
use crate::command::{Command, Ctx, Handler, Keys, OnTimeout, Spec, access::*, category, flag::*};
use crate::entry::{Entry, Payload};
use crate::keyspace::{Keyspace, event};
use crate::listpack;
use crate::num::parse_int;
use crate::types::list::{End, List};
use crate::value::Value;
use crate::{Args, Error, Reply};

type Done = Result<(), Error>;

fn read_list<'k>(ks: &'k mut Keyspace, db: usize, key: &[u8]) -> Result<Option<&'k List>, Error> {
    match ks.read(db, key).map(Entry::value) {
        None => Ok(None),
        Some(Some(Value::List(list))) => Ok(Some(list)),
        Some(_) => Err(Error::WRONG_TYPE),
    }
}

fn write_list<'k>(
    ks: &'k mut Keyspace,
    db: usize,
    key: &[u8],
) -> Result<Option<&'k mut List>, Error> {
    as_list(ks.write(db, key))
}

fn as_list(entry: Option<&mut Entry>) -> Result<Option<&mut List>, Error> {
    match entry.map(Entry::value_mut) {
        None => Ok(None),
        Some(Some(Value::List(list))) => Ok(Some(list)),
        Some(_) => Err(Error::WRONG_TYPE),
    }
}

/// An empty list at a key that is free.
fn new_list<'k>(ks: &'k mut Keyspace, db: usize, key: &[u8]) -> &'k mut List {
    let entry = ks.add(db, key, Payload::Value(Value::List(List::new())), None);
    let Some(Value::List(list)) = entry.value_mut() else { unreachable!("just made") };
    list
}

fn fill(ctx: &Ctx) -> i32 {
    ctx.ks.limits.list_max_listpack_size
}

/// The event of adding at an end, which is also the command's name.
fn push_name(end: End) -> &'static str {
    match end {
        End::Left => "lpush",
        End::Right => "rpush",
    }
}

fn pop_name(end: End) -> &'static str {
    match end {
        End::Left => "lpop",
        End::Right => "rpop",
    }
}

/// The command that removes at an end, for effects.
fn pop_command(end: End) -> &'static [u8] {
    match end {
        End::Left => b"LPOP",
        End::Right => b"RPOP",
    }
}

/// `LEFT` or `RIGHT`.
fn end_word(arg: &[u8]) -> Result<End, Error> {
    match arg {
        w if is(w, "left") => Ok(End::Left),
        w if is(w, "right") => Ok(End::Right),
        _ => Err(Error::SYNTAX),
    }
}

// Adding at the ends.

fn push_all(ctx: &mut Ctx, args: &mut Args, end: End, only_if_there: bool) -> Done {
    let fill = fill(ctx);
    let list = match write_list(ctx.ks, ctx.db, &args[1])? {
        Some(list) => list,
        None if only_if_there => {
            ctx.reply.int(0);
            return Ok(());
        }
        None => new_list(ctx.ks, ctx.db, &args[1]),
    };
    let bytes = args.rest(2).map(<[u8]>::len).sum();
    list.make_room(bytes, args.len() - 2, fill);
    for element in args.rest(2) {
        list.push(end, element);
    }
    let len = list.len();
    ctx.ks.dirty += args.len() as u64 - 3;
    ctx.changed(&args[1], event::LIST, push_name(end));
    ctx.reply.int(len as i64);
    Ok(())
}

fn lpush(ctx: &mut Ctx, args: &mut Args) -> Done {
    push_all(ctx, args, End::Left, false)
}

fn rpush(ctx: &mut Ctx, args: &mut Args) -> Done {
    push_all(ctx, args, End::Right, false)
}

fn lpushx(ctx: &mut Ctx, args: &mut Args) -> Done {
    push_all(ctx, args, End::Left, true)
}

fn rpushx(ctx: &mut Ctx, args: &mut Args) -> Done {
    push_all(ctx, args, End::Right, true)
}

// Taking from the ends.

/// Takes `n` elements, which there are, and replies with each.
fn pop_n(list: &mut List, end: End, n: usize, fill: i32, reply: &mut Reply) {
    match end {
        End::Left if n > 1 => {
            list.range(0, n).for_each(|entry| reply_entry(reply, entry));
            list.remove_range(0, n);
        }
        _ => {
            for _ in 0..n {
                list.pop(end, |entry| reply_entry(reply, entry));
            }
        }
    }
    list.shrunk(fill);
}

/// What follows the removal of `n` elements of the list at `key`.
fn removed(ctx: &mut Ctx, key: &[u8], n: usize, is_empty: bool, name: &'static str) {
    ctx.ks.dirty += n as u64 - 1;
    ctx.changed(key, event::LIST, name);
    if is_empty {
        ctx.ks.delete_empty(ctx.db, key);
    }
}

fn pop(ctx: &mut Ctx, args: &mut Args, end: End) -> Done {
    if args.len() > 3 {
        return Err(Error::arity(pop_name(end)));
    }
    let count = match args.get(2) {
        None => None,
        Some(arg) => Some(parse_int(arg).filter(|&n| n >= 0).ok_or(Error::POSITIVE)? as usize),
    };
    let fill = fill(ctx);
    let Some(list) = write_list(ctx.ks, ctx.db, &args[1])? else {
        match count {
            None => ctx.reply.null(),
            Some(_) => ctx.reply.null_array(),
        }
        return Ok(());
    };
    let n = count.map_or(1, |n| n.min(list.len()));
    if count.is_some() {
        ctx.reply.array(n);
    }
    if n > 0 {
        pop_n(list, end, n, fill, ctx.reply);
        let is_empty = list.is_empty();
        removed(ctx, &args[1], n, is_empty, pop_name(end));
    }
    Ok(())
}

fn lpop(ctx: &mut Ctx, args: &mut Args) -> Done {
    pop(ctx, args, End::Left)
}

fn rpop(ctx: &mut Ctx, args: &mut Args) -> Done {
    pop(ctx, args, End::Right)
}

/// Takes up to `n` elements of the first of `keys` that has any: replies with the key and them.
/// `None`, and no reply, if no key has any.
fn pop_first<'k>(
    ctx: &mut Ctx,
    keys: impl Iterator<Item = &'k [u8]>,
    end: End,
    n: Option<usize>,
) -> Result<Option<()>, Error> {
    let fill = fill(ctx);
    for key in keys {
        let Some(list) = write_list(ctx.ks, ctx.db, key)? else { continue };
        ctx.reply.array(2);
        ctx.reply.bulk(key);
        let taken = n.unwrap_or(1).min(list.len());
        if n.is_some() {
            ctx.reply.array(taken);
        }
        pop_n(list, end, taken, fill, ctx.reply);
        let is_empty = list.is_empty();
        removed(ctx, key, taken, is_empty, pop_name(end));
        match n {
            None => ctx.effect([pop_command(end), key]),
            Some(_) => {
                ctx.effect([pop_command(end), key, itoa::Buffer::new().format(taken).as_bytes()]);
            }
        }
        return Ok(Some(()));
    }
    Ok(None)
}

/// `numkeys key … LEFT|RIGHT [COUNT n]` from index `at` on: the keys' indexes, the end, and how many
/// elements.
fn pop_arguments(args: &Args, at: usize) -> Result<(std::ops::Range<usize>, End, usize), Error> {
    let positive = |arg: &[u8]| parse_int(arg).filter(|&n| n > 0).map(|n| n as usize);
    let n = positive(&args[at]).ok_or(Error::new("ERR numkeys should be greater than 0"))?;
    let keys = at + 1..n.saturating_add(at + 1);
    let end = end_word(args.get(keys.end).ok_or(Error::SYNTAX)?)?;
    let count = match args.len() - keys.end {
        1 => 1,
        3 if is(&args[keys.end + 1], "count") => {
            positive(&args[keys.end + 2]).ok_or(Error::new("ERR count should be greater than 0"))?
        }
        4.. if is(&args[keys.end + 1], "count") && positive(&args[keys.end + 2]).is_none() => {
            return Err(Error::new("ERR count should be greater than 0"));
        }
        _ => return Err(Error::SYNTAX),
    };
    Ok((keys, end, count))
}

fn lmpop(ctx: &mut Ctx, args: &mut Args) -> Done {
    let (keys, end, count) = pop_arguments(args, 1)?;
    if pop_first(ctx, keys.map(|i| &args[i]), end, Some(count))?.is_none() {
        ctx.reply.null_array();
    }
    Ok(())
}

fn blmpop(ctx: &mut Ctx, args: &mut Args) -> Done {
    let (keys, end, count) = pop_arguments(args, 2)?;
    let until = until(ctx, &args[1])?;
    let keys = keys.map(|i| &args[i]);
    if pop_first(ctx, keys.clone(), end, Some(count))?.is_none() {
        wait(ctx, keys, until, OnTimeout::NullArray);
    }
    Ok(())
}

fn blocking_pop(ctx: &mut Ctx, args: &mut Args, end: End) -> Done {
    let last = args.len() - 1;
    let until = until(ctx, &args[last])?;
    let keys = (1..last).map(|i| &args[i]);
    if pop_first(ctx, keys.clone(), end, None)?.is_none() {
        wait(ctx, keys, until, OnTimeout::NullArray);
    }
    Ok(())
}

fn blpop(ctx: &mut Ctx, args: &mut Args) -> Done {
    blocking_pop(ctx, args, End::Left)
}

fn brpop(ctx: &mut Ctx, args: &mut Args) -> Done {
    blocking_pop(ctx, args, End::Right)
}

// From one list to another.

/// Moves an element and replies with it. `None`, and no reply, if the source has none.
fn move_element(
    ctx: &mut Ctx,
    (source, from): (&[u8], End),
    (target, to): (&[u8], End),
) -> Result<Option<()>, Error> {
    let fill = fill(ctx);
    let Some(list) = write_list(ctx.ks, ctx.db, source)? else { return Ok(None) };
    if source == target {
        let reply = &mut *ctx.reply;
        list.rotate(from, to, fill, |entry| reply_entry(reply, entry));
        ctx.ks.write(ctx.db, target); // it was used as either
        ctx.ks.notify(event::LIST, push_name(to), ctx.db, target);
        removed(ctx, source, 1, false, pop_name(from));
        return Ok(Some(()));
    }
    let index = if from == End::Left { 0 } else { -1 };
    let element = list.get(index).map_or(Vec::new(), |entry| entry.to_vec());
    let list = match write_list(ctx.ks, ctx.db, target)? {
        Some(list) => list,
        None => new_list(ctx.ks, ctx.db, target),
    };
    list.make_room(element.len(), 1, fill);
    list.push(to, &element);
    ctx.ks.touched(ctx.db, target);
    ctx.ks.notify(event::LIST, push_name(to), ctx.db, target);
    ctx.reply.bulk(&element);
    if let Some(list) = as_list(ctx.ks.again(ctx.db, source))? {
        list.pop(from, |_| ());
        list.shrunk(fill);
        let is_empty = list.is_empty();
        removed(ctx, source, 1, is_empty, pop_name(from));
    }
    Ok(Some(()))
}

fn lmove(ctx: &mut Ctx, args: &mut Args) -> Done {
    let (from, to) = (end_word(&args[3])?, end_word(&args[4])?);
    if move_element(ctx, (&args[1], from), (&args[2], to))?.is_none() {
        ctx.reply.null();
    }
    Ok(())
}

fn rpoplpush(ctx: &mut Ctx, args: &mut Args) -> Done {
    if move_element(ctx, (&args[1], End::Right), (&args[2], End::Left))?.is_none() {
        ctx.reply.null();
    }
    Ok(())
}

/// Waits for the source of a move.
fn wait_for_source(ctx: &mut Ctx, source: &[u8], until: Option<i64>) {
    match ctx.may_block {
        true => wait(ctx, std::iter::once(source), until, OnTimeout::NullArray),
        // Redis answers the two kinds of nothing here and after a wait.
        false => ctx.reply.null(),
    }
}

fn blmove(ctx: &mut Ctx, args: &mut Args) -> Done {
    let (from, to) = (end_word(&args[3])?, end_word(&args[4])?);
    let until = until(ctx, &args[5])?;
    look(ctx, &args[1]);
    match move_element(ctx, (&args[1], from), (&args[2], to))? {
        Some(()) => ctx.effect([b"LMOVE", &args[1], &args[2], &args[3], &args[4]]),
        None => wait_for_source(ctx, &args[1], until),
    }
    Ok(())
}

fn brpoplpush(ctx: &mut Ctx, args: &mut Args) -> Done {
    let until = until(ctx, &args[3])?;
    look(ctx, &args[1]);
    match move_element(ctx, (&args[1], End::Right), (&args[2], End::Left))? {
        Some(()) => ctx.effect([b"RPOPLPUSH", &args[1], &args[2]]),
        None => wait_for_source(ctx, &args[1], until),
    }
    Ok(())
}

// Looking.

fn llen(ctx: &mut Ctx, args: &mut Args) -> Done {
    let len = read_list(ctx.ks, ctx.db, &args[1])?.map_or(0, List::len);
    ctx.reply.int(len as i64);
    Ok(())
}

fn lindex(ctx: &mut Ctx, args: &mut Args) -> Done {
    match read_list(ctx.ks, ctx.db, &args[1])? {
        None => ctx.reply.null(),
        Some(list) => match list.get(int(&args[2])?) {
            None => ctx.reply.null(),
            Some(entry) => reply_entry(ctx.reply, entry),
        },
    }
    Ok(())
}

fn lrange(ctx: &mut Ctx, args: &mut Args) -> Done {
    let (start, end) = (int(&args[2])?, int(&args[3])?);
    let Some(list) = read_list(ctx.ks, ctx.db, &args[1])? else {
        ctx.reply.array(0);
        return Ok(());
    };
    let range = range(start, end, list.len());
    ctx.reply.array(range.len());
    list.range(range.start, range.len()).for_each(|entry| reply_entry(ctx.reply, entry));
    Ok(())
}

/// What `LPOS` looks for beside the element.
struct Position {
    /// Where the search begins.
    from: End,
    /// Matches that are passed over first.
    skip: u64,
    /// Matches that are wanted: 0 is all, and without the word there is one, not an array.
    count: Option<u64>,
    /// Elements that are compared: 0 is all.
    max_len: u64,
}

impl Position {
    fn parse(args: &Args) -> Result<Position, Error> {
        let mut position = Position { from: End::Left, skip: 0, count: None, max_len: 0 };
        let natural = |arg: &[u8], error: &'static str| {
            parse_int(arg).and_then(|n| u64::try_from(n).ok()).ok_or(Error::new(error))
        };
        for i in (3..args.len()).step_by(2) {
            let value = args.get(i + 1).ok_or(Error::SYNTAX)?;
            match &args[i] {
                w if is(w, "rank") => {
                    let rank = int(value)?;
                    if rank == i64::MIN {
                        return Err(Error::new(
                            "ERR value is out of range, value must between \
                             -9223372036854775807 and 9223372036854775807",
                        ));
                    }
                    if rank == 0 {
                        return Err(Error::new(
                            "ERR RANK can't be zero: use 1 to start from the first match, 2 from \
                             the second ... or use negative to start from the end of the list",
                        ));
                    }
                    position.from = if rank < 0 { End::Right } else { End::Left };
                    position.skip = rank.unsigned_abs() - 1;
                }
                w if is(w, "count") => {
                    position.count = Some(natural(value, "ERR COUNT can't be negative")?);
                }
                w if is(w, "maxlen") => {
                    position.max_len = natural(value, "ERR MAXLEN can't be negative")?;
                }
                _ => return Err(Error::SYNTAX),
            }
        }
        Ok(position)
    }
}

fn lpos(ctx: &mut Ctx, args: &mut Args) -> Done {
    let position = Position::parse(args)?;
    let Some(list) = read_list(ctx.ks, ctx.db, &args[1])? else {
        match position.count {
            None => ctx.reply.null(),
            Some(_) => ctx.reply.array(0),
        }
        return Ok(());
    };
    let needle = listpack::Entry::parse(&args[2]);
    let all_if_0 = |n: u64| if n == 0 { u64::MAX } else { n };
    let mut left = all_if_0(position.max_len);
    let (mut skip, wanted) = (position.skip, all_if_0(position.count.unwrap_or(1)));
    let (mut seen, mut found) = (0, 0);
    let place = position.count.map(|_| ctx.reply.deferred());
    list.walk(position.from, |entry| {
        if left == 0 {
            return false;
        }
        left -= 1;
        seen += 1;
        if entry != needle {
            return true;
        }
        if skip > 0 {
            skip -= 1;
            return true;
        }
        ctx.reply.int(match position.from {
            End::Left => seen - 1,
            End::Right => list.len() as i64 - seen,
        });
        found += 1;
        found < wanted
    });
    match place {
        Some(place) => ctx.reply.end_array(place, found as usize),
        None if found == 0 => ctx.reply.null(),
        None => {}
    }
    Ok(())
}

// Changing what is between the ends.

fn linsert(ctx: &mut Ctx, args: &mut Args) -> Done {
    let side = match &args[2] {
        w if is(w, "before") => End::Left,
        w if is(w, "after") => End::Right,
        _ => return Err(Error::SYNTAX),
    };
    let fill = fill(ctx);
    let Some(list) = write_list(ctx.ks, ctx.db, &args[1])? else {
        ctx.reply.int(0);
        return Ok(());
    };
    list.make_room(args[4].len(), 1, fill);
    if !list.insert(side, &args[3], &args[4]) {
        ctx.reply.int(-1);
        return Ok(());
    }
    let len = list.len();
    ctx.changed(&args[1], event::LIST, "linsert");
    ctx.reply.int(len as i64);
    Ok(())
}

fn lset(ctx: &mut Ctx, args: &mut Args) -> Done {
    let fill = fill(ctx);
    let list = write_list(ctx.ks, ctx.db, &args[1])?.ok_or(Error::NO_SUCH_KEY)?;
    let index = int(&args[2])?;
    list.make_room(args[3].len(), 1, fill);
    if !list.set(index, &args[3]) {
        return Err(Error::OUT_OF_RANGE);
    }
    list.shrunk(fill);
    ctx.changed(&args[1], event::LIST, "lset");
    ctx.reply.ok();
    Ok(())
}

fn lrem(ctx: &mut Ctx, args: &mut Args) -> Done {
    let count = int(&args[2])?;
    let fill = fill(ctx);
    let Some(list) = write_list(ctx.ks, ctx.db, &args[1])? else {
        ctx.reply.int(0);
        return Ok(());
    };
    let n = list.remove_equal(&args[3], count);
    if n > 0 {
        list.shrunk(fill);
        let is_empty = list.is_empty();
        removed(ctx, &args[1], n, is_empty, "lrem");
    }
    ctx.reply.int(n as i64);
    Ok(())
}

fn ltrim(ctx: &mut Ctx, args: &mut Args) -> Done {
    let (start, end) = (int(&args[2])?, int(&args[3])?);
    let fill = fill(ctx);
    let Some(list) = write_list(ctx.ks, ctx.db, &args[1])? else {
        ctx.reply.ok();
        return Ok(());
    };
    let kept = range(start, end, list.len());
    let n = list.remove_range(kept.end, usize::MAX) + list.remove_range(0, kept.start);
    list.shrunk(fill);
    let is_empty = list.is_empty();
    // The event comes even if all was kept; the log is told only of a change.
    ctx.ks.touched(ctx.db, &args[1]);
    ctx.ks.notify(event::LIST, "ltrim", ctx.db, &args[1]);
    ctx.ks.dirty += n as u64;
    if is_empty {
        ctx.ks.delete_empty(ctx.db, &args[1]);
    }
    ctx.reply.ok();
    Ok(())
}

const fn spec(name: &'static str, arity: i32, flags: u32, keys: Keys) -> Spec {
    Spec::new(name, arity, flags, category::LIST, keys)
}

/// The keys of `BLPOP` and its like: all but the timeout.
const ALL_BUT_LAST: Keys = Keys::Range(1, -2, 1);

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<Handler>] = &[
    Command { run: lpush, spec: spec("lpush", -3, WRITE | DENYOOM | FAST, Keys::ONE).key(RW | INSERT).doc("list", "1.0.0", "O(1) for each element", "Adds elements to the head of a list, which is made if need be.", "key element...") },
    Command { run: rpush, spec: spec("rpush", -3, WRITE | DENYOOM | FAST, Keys::ONE).key(RW | INSERT).doc("list", "1.0.0", "O(1) for each element", "Adds elements to the tail of a list, which is made if need be.", "key element...") },
    Command { run: lpushx, spec: spec("lpushx", -3, WRITE | DENYOOM | FAST, Keys::ONE).key(RW | INSERT).doc("list", "2.2.0", "O(1) for each element", "Adds elements to the head of a list if there is one.", "key element...") },
    Command { run: rpushx, spec: spec("rpushx", -3, WRITE | DENYOOM | FAST, Keys::ONE).key(RW | INSERT).doc("list", "2.2.0", "O(1) for each element", "Adds elements to the tail of a list if there is one.", "key element...") },
    Command { run: lpop, spec: spec("lpop", -2, WRITE | FAST, Keys::ONE).key(RW | ACCESS | DELETE).doc("list", "1.0.0", "O(N) in the elements returned", "Takes elements from the head of a list.", "key [count]@6.2.0") },
    Command { run: rpop, spec: spec("rpop", -2, WRITE | FAST, Keys::ONE).key(RW | ACCESS | DELETE).doc("list", "1.0.0", "O(N) in the elements returned", "Takes elements from the tail of a list.", "key [count]@6.2.0") },
    Command { run: llen, spec: spec("llen", 2, READONLY | FAST, Keys::ONE).key(RO).doc("list", "1.0.0", "O(1)", "Counts the elements of a list.", "key") },
    Command { run: lindex, spec: spec("lindex", 3, READONLY, Keys::ONE).doc("list", "1.0.0", "O(N) in the nodes up to the element", "Gives the element at an index.", "key index") },
    Command { run: linsert, spec: spec("linsert", 5, WRITE | DENYOOM, Keys::ONE).key(RW | INSERT).doc("list", "2.2.0", "O(N) in the elements up to the pivot", "Puts an element before or after the first one that equals a pivot.", "key where=(BEFORE|AFTER) pivot element") },
    Command { run: lrange, spec: spec("lrange", 4, READONLY, Keys::ONE).doc("list", "1.0.0", "O(S+N): the way to the start, and the elements returned", "Gives the elements between two indexes.", "key start stop") },
    Command { run: lrem, spec: spec("lrem", 4, WRITE, Keys::ONE).key(RW | DELETE).doc("list", "1.0.0", "O(N+M): the elements, and those removed", "Takes out elements that equal a value, from either end on.", "key count element") },
    Command { run: lset, spec: spec("lset", 4, WRITE | DENYOOM, Keys::ONE).key(RW | UPDATE).doc("list", "1.0.0", "O(N) in the nodes up to the element", "Overwrites the element at an index.", "key index element") },
    Command { run: ltrim, spec: spec("ltrim", 4, WRITE, Keys::ONE).key(RW | DELETE).doc("list", "1.0.0", "O(N) in the elements removed", "Keeps what is between two indexes and drops the rest.", "key start stop") },
    Command { run: lpos, spec: spec("lpos", -3, READONLY, Keys::ONE).doc("list", "6.0.6", "O(N) in the elements compared", "Finds where a value stands in a list.", "key element [RANK rank] [COUNT num-matches] [MAXLEN len]") },
    Command { run: lmove, spec: spec("lmove", 5, WRITE | DENYOOM, Keys::TWO).key(RW | ACCESS | DELETE).other_keys(RW | INSERT).doc("list", "6.2.0", "O(1)", "Takes an element from one end of a list and adds it to an end of another.", "source destination wherefrom=(LEFT|RIGHT) whereto=(LEFT|RIGHT)") },
    Command { run: rpoplpush, spec: spec("rpoplpush", 3, WRITE | DENYOOM, Keys::TWO).key(RW | ACCESS | DELETE).other_keys(RW | INSERT).doc("list", "1.2.0", "O(1)", "Takes the tail of a list and makes it the head of another; LMOVE can do the same.", "source destination").deprecated("6.2.0", "`LMOVE` with `RIGHT` and `LEFT`") },
    Command { run: lmpop, spec: spec("lmpop", -4, WRITE | MOVABLE_KEYS, Keys::Counted(1)).key(RW | ACCESS | DELETE).doc("list", "7.0.0", "O(N+M): the keys, and the elements returned", "Takes elements from the first of several lists that has any.", "numkeys key... where=(LEFT|RIGHT) [COUNT count]") },
    Command { run: blpop, spec: spec("blpop", -3, WRITE | NOSCRIPT | BLOCKING, ALL_BUT_LAST).key(RW | ACCESS | DELETE).doc("list", "2.0.0", "O(N) in the keys", "Takes the head of the first of several lists that has one, or waits for it.", "key... timeout") },
    Command { run: brpop, spec: spec("brpop", -3, WRITE | NOSCRIPT | BLOCKING, ALL_BUT_LAST).key(RW | ACCESS | DELETE).doc("list", "2.0.0", "O(N) in the keys", "Takes the tail of the first of several lists that has one, or waits for it.", "key... timeout") },
    Command { run: blmove, spec: spec("blmove", 6, WRITE | DENYOOM | NOSCRIPT | BLOCKING, Keys::TWO).key(RW | ACCESS | DELETE).other_keys(RW | INSERT).doc("list", "6.2.0", "O(1)", "Moves an element between the ends of two lists, or waits until there is one.", "source destination wherefrom=(LEFT|RIGHT) whereto=(LEFT|RIGHT) timeout") },
    Command { run: brpoplpush, spec: spec("brpoplpush", 4, WRITE | DENYOOM | NOSCRIPT | BLOCKING, Keys::TWO).key(RW | ACCESS | DELETE).other_keys(RW | INSERT).doc("list", "2.2.0", "O(1)", "Moves the tail of a list to the head of another, or waits until there is one; BLMOVE can do the same.", "source destination timeout").deprecated("6.2.0", "`BLMOVE` with `RIGHT` and `LEFT`") },
    Command { run: blmpop, spec: spec("blmpop", -5, WRITE | BLOCKING | MOVABLE_KEYS, Keys::Counted(2)).key(RW | ACCESS | DELETE).doc("list", "7.0.0", "O(N+M): the keys, and the elements returned", "Takes elements from the first of several lists that has any, or waits for some.", "timeout numkeys key... where=(LEFT|RIGHT) [COUNT count]") },
];

#[cfg(test)]
mod tests {
    use crate::commands::tests::Bench;

    #[test]
    fn a_list_is_gone_with_its_last_element() {
        let mut b = Bench::new();
        assert_eq!(b.run("RPUSH l a 2 c"), ":3|");
        assert_eq!(b.run("LRANGE l 0 -1"), "*3|$1|a|$1|2|$1|c|");
        assert_eq!(b.run("LPOP l 2"), "*2|$1|a|$1|2|");
        assert_eq!(b.effects, ["LPOP l 2"]);
        assert_eq!(b.run("RPOP l"), "$1|c|");
        assert_eq!(b.run("EXISTS l"), ":0|");
        assert_eq!(b.ks.dirty, 6);
        assert_eq!(b.run("LPOP l 1"), "*-1|");
        assert_eq!(b.run("LPOP l x"), "-ERR value is out of range, must be positive|");
    }

    #[test]
    fn a_list_is_large_beyond_a_node_and_small_again_at_half_of_it() {
        let mut b = Bench::new();
        b.ks.limits.list_max_listpack_size = 4;
        b.run("RPUSH l a b c d");
        assert_eq!(b.run("OBJECT ENCODING l"), "$8|listpack|");
        b.run("LPUSH l e");
        assert_eq!(b.run("OBJECT ENCODING l"), "$9|quicklist|");
        b.run("LPOP l 2");
        assert_eq!(b.run("OBJECT ENCODING l"), "$9|quicklist|");
        b.run("LREM l 0 b");
        assert_eq!(b.run("OBJECT ENCODING l"), "$8|listpack|");
        assert_eq!(b.run("LRANGE l 0 -1"), "*2|$1|c|$1|d|");
    }

    #[test]
    fn a_blocking_pop_waits_or_leaves_the_plain_pop() {
        let mut b = Bench::new();
        assert_eq!(b.run("BLPOP k l 0"), "", "no reply while it waits");
        b.run("RPUSH l a b c d");
        assert_eq!(b.run("BLPOP k l 0"), "*2|$1|l|$1|a|");
        assert_eq!(b.effects, ["LPOP l"]);
        assert_eq!(b.run("BLMOVE l m RIGHT LEFT 1"), "$1|d|");
        assert_eq!(b.effects, ["LMOVE l m RIGHT LEFT"]);
        assert_eq!(b.run("BLMPOP 1 2 k l RIGHT COUNT 9"), "*2|$1|l|*2|$1|c|$1|b|");
        assert_eq!(b.effects, ["RPOP l 2"]);
        b.run("SET s x");
        assert!(b.run("BLPOP s 0").starts_with("-WRONGTYPE"));
        assert_eq!(b.run("BLPOP k -1"), "-ERR timeout is negative|");
        assert_eq!(b.run("BLPOP k x"), "-ERR timeout is not a float or out of range|");
        assert_eq!(b.run("BLPOP k inf"), "-ERR timeout is out of range|");
    }

    #[test]
    fn positions_are_found_from_either_end() {
        let mut b = Bench::new();
        b.run("RPUSH l a 1 b a 1 c a");
        assert_eq!(b.run("LPOS l a"), ":0|");
        assert_eq!(b.run("LPOS l a RANK -1"), ":6|");
        assert_eq!(b.run("LPOS l a RANK -2 COUNT 0"), "*2|:3|:0|");
        assert_eq!(b.run("LPOS l 1 COUNT 0 MAXLEN 3"), "*1|:1|");
        assert_eq!(b.run("LPOS l z"), "$-1|");
    }
}
