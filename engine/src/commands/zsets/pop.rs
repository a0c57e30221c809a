//! Taking members from either end, and waiting until there are some.

use super::{Done, edit_zset, header, put, removed};
use crate::command::{Ctx, OnTimeout};
use crate::commands::blocking::{look, until, wait};
use crate::commands::util::{int, is};
use crate::{Args, Error};

/// The end that members are taken from.
#[derive(Clone, Copy)]
enum End {
    Min,
    Max,
}

impl End {
    fn event(self) -> &'static str {
        match self {
            End::Min => "zpopmin",
            End::Max => "zpopmax",
        }
    }

    fn command(self) -> &'static [u8] {
        match self {
            End::Min => b"ZPOPMIN",
            End::Max => b"ZPOPMAX",
        }
    }
}

/// How popped members are shown.
#[derive(Clone, Copy)]
enum Shape {
    /// Members and scores in turn.
    Flat,
    /// As ranges with scores are: pairs in RESP 3.
    Range,
    /// The key, then a list of pairs.
    KeyAndPairs,
    /// The key, one member, its score.
    KeyAndOne,
}

/// Takes up to `count` members, at least one, from a key and writes them. How many there were: none
/// if there is no key, and then nothing is written.
fn pop(ctx: &mut Ctx, key: &[u8], end: End, count: usize, shape: Shape) -> Result<usize, Error> {
    let Some(zset) = edit_zset(ctx.ks, ctx.db, key)? else { return Ok(0) };
    let len = zset.len();
    let n = count.min(len);
    let reply = &mut *ctx.reply;
    match shape {
        Shape::Flat => reply.array(n * 2),
        Shape::Range => header(reply, n, true),
        Shape::KeyAndPairs => {
            reply.array(2);
            reply.bulk(key);
            reply.array(n);
        }
        Shape::KeyAndOne => {
            reply.array(3);
            reply.bulk(key);
        }
    }
    let (ranks, reverse) = match end {
        End::Min => (0..n, false),
        End::Max => (len - n..len, true),
    };
    zset.visit(ranks.clone(), reverse, |member, score| match shape {
        Shape::Range => put(reply, member, score, true),
        _ => {
            if let Shape::KeyAndPairs = shape {
                reply.array(2);
            }
            reply.bulk(member);
            reply.double(score);
        }
    });
    if n < len {
        zset.remove_range(ranks, |_, _| {});
    }
    removed(ctx, key, end.event(), n, n == len);
    Ok(n)
}

fn pop_here(ctx: &mut Ctx, args: &Args, end: End) -> Done {
    if args.len() > 3 {
        return Err(Error::SYNTAX);
    }
    let count = match args.get(2) {
        Some(n) => int(n).ok().filter(|&n| n >= 0).ok_or(Error::POSITIVE)? as usize,
        None => 1,
    };
    if count == 0 {
        edit_zset(ctx.ks, ctx.db, &args[1])?;
        ctx.reply.array(0);
        return Ok(());
    }
    let shape = if args.len() == 3 { Shape::Range } else { Shape::Flat };
    if pop(ctx, &args[1], end, count, shape)? == 0 {
        ctx.reply.array(0);
    }
    Ok(())
}

pub fn zpopmin(ctx: &mut Ctx, args: &mut Args) -> Done {
    pop_here(ctx, args, End::Min)
}

pub fn zpopmax(ctx: &mut Ctx, args: &mut Args) -> Done {
    pop_here(ctx, args, End::Max)
}

/// `numkeys key … MIN|MAX [COUNT n]` from `at` on: how many keys, which end, how many members.
fn parse_mpop(args: &Args, at: usize) -> Result<(usize, End, usize), Error> {
    let positive = |arg: &[u8], error: &'static str| {
        let n = int(arg).ok().filter(|&n| n > 0);
        n.map(|n| n as usize).ok_or(Error::new(error))
    };
    let keys = positive(&args[at], "ERR numkeys should be greater than 0")?;
    let word = keys.checked_add(at + 1).and_then(|i| args.get(i)).ok_or(Error::SYNTAX)?;
    let end = match word {
        w if is(w, "min") => End::Min,
        w if is(w, "max") => End::Max,
        _ => return Err(Error::SYNTAX),
    };
    let rest = at + keys + 2;
    let count = match args.len() - rest {
        0 => 1,
        2 if is(&args[rest], "count") => {
            positive(&args[rest + 1], "ERR count should be greater than 0")?
        }
        3.. if is(&args[rest], "count") => {
            positive(&args[rest + 1], "ERR count should be greater than 0")?;
            return Err(Error::SYNTAX);
        }
        _ => return Err(Error::SYNTAX),
    };
    Ok((keys, end, count))
}

/// Pops from the first of `keys` that has members; says which it was, in the words of the log. Whether
/// there was one.
fn mpop<'a>(
    ctx: &mut Ctx,
    keys: impl Iterator<Item = &'a [u8]>,
    end: End,
    count: usize,
) -> Result<bool, Error> {
    for key in keys {
        let n = pop(ctx, key, end, count, Shape::KeyAndPairs)?;
        if n > 0 {
            let mut room = itoa::Buffer::new();
            ctx.effect([end.command(), key, room.format(n).as_bytes()]);
            return Ok(true);
        }
    }
    Ok(false)
}

pub fn zmpop(ctx: &mut Ctx, args: &mut Args) -> Done {
    let (keys, end, count) = parse_mpop(args, 1)?;
    if !mpop(ctx, args.rest(2).take(keys), end, count)? {
        ctx.reply.null_array();
    }
    Ok(())
}

pub fn bzmpop(ctx: &mut Ctx, args: &mut Args) -> Done {
    let (keys, end, count) = parse_mpop(args, 2)?;
    let until_ms = until(ctx, &args[1])?;
    let keys = || args.rest(3).take(keys);
    if let Some(key) = keys().find(|key| ctx.ks.exists(ctx.db, key)) {
        look(ctx, key);
    }
    if !mpop(ctx, keys(), end, count)? {
        wait(ctx, keys(), until_ms, OnTimeout::NullArray);
    }
    Ok(())
}

fn pop_or_wait(ctx: &mut Ctx, args: &Args, end: End) -> Done {
    let last = args.len() - 1;
    let until_ms = until(ctx, &args[last])?;
    for i in 1..last {
        look(ctx, &args[i]);
        if pop(ctx, &args[i], end, 1, Shape::KeyAndOne)? > 0 {
            ctx.effect([end.command(), &args[i]]);
            return Ok(());
        }
    }
    wait(ctx, args.iter().take(last).skip(1), until_ms, OnTimeout::NullArray);
    Ok(())
}

pub fn bzpopmin(ctx: &mut Ctx, args: &mut Args) -> Done {
    pop_or_wait(ctx, args, End::Min)
}

pub fn bzpopmax(ctx: &mut Ctx, args: &mut Args) -> Done {
    pop_or_wait(ctx, args, End::Max)
}
