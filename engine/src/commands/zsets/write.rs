//! Adding members, changing scores, removing members.

use super::{Done, edit_zset, removed};
use crate::command::Ctx;
use crate::commands::util::{double, is};
use crate::entry::Payload;
use crate::keyspace::{Limits, event};
use crate::types::zset::Zset;
use crate::value::Value;
use crate::{Args, Error};

/// `ZADD`'s words.
#[derive(Clone, Copy, Default)]
struct Flags {
    nx: bool,
    xx: bool,
    gt: bool,
    lt: bool,
    ch: bool,
    incr: bool,
}

/// What became of one member.
enum Outcome {
    Added(f64),
    Updated(f64),
    /// It had the score that it was to get.
    Same(f64),
    /// The flags forbade it.
    Refused,
}

/// Adds one member or changes its score, as far as `flags` allow.
#[inline]
fn apply(
    zset: &mut Zset,
    member: &[u8],
    score: f64,
    flags: Flags,
    limits: &Limits,
) -> Result<Outcome, Error> {
    if !flags.incr {
        zset.prefetch(score);
    }
    let (mut refused, mut nan) = (false, false);
    let (old, new) = zset.update(member, limits, |old| {
        let new = match old {
            None => (!flags.xx).then_some(score),
            Some(_) if flags.nx => None,
            Some(old) => {
                let new = if flags.incr { old + score } else { score };
                nan = new.is_nan();
                let worse = flags.lt && new >= old || flags.gt && new <= old;
                (!nan && !worse).then_some(new)
            }
        };
        refused = new.is_none();
        new
    });
    if nan {
        return Err(Error::new("ERR resulting score is not a number (NaN)"));
    }
    Ok(match new {
        Some(new) if !refused => match old {
            None => Outcome::Added(new),
            Some(old) if old != new => Outcome::Updated(new),
            Some(_) => Outcome::Same(new),
        },
        _ => Outcome::Refused,
    })
}

pub fn zadd(ctx: &mut Ctx, args: &mut Args) -> Done {
    let mut flags = Flags::default();
    let mut at = 2;
    while at < args.len() {
        match &args[at] {
            w if is(w, "nx") => flags.nx = true,
            w if is(w, "xx") => flags.xx = true,
            w if is(w, "gt") => flags.gt = true,
            w if is(w, "lt") => flags.lt = true,
            w if is(w, "ch") => flags.ch = true,
            w if is(w, "incr") => flags.incr = true,
            _ => break,
        }
        at += 1;
    }
    add(ctx, args, flags, at)
}

pub fn zincrby(ctx: &mut Ctx, args: &mut Args) -> Done {
    add(ctx, args, Flags { incr: true, ..Flags::default() }, 2)
}

/// Adds the scores and members from `at` on.
fn add(ctx: &mut Ctx, args: &Args, flags: Flags, at: usize) -> Done {
    let n = (args.len() - at) / 2;
    if n == 0 || !(args.len() - at).is_multiple_of(2) {
        return Err(Error::SYNTAX);
    }
    if flags.nx && flags.xx {
        return Err(Error::new("ERR XX and NX options at the same time are not compatible"));
    }
    if [flags.gt, flags.lt, flags.nx].iter().filter(|&&on| on).count() > 1 {
        return Err(Error::new(
            "ERR GT, LT, and/or NX options at the same time are not compatible",
        ));
    }
    if flags.incr && n > 1 {
        return Err(Error::new("ERR INCR option supports a single increment-element pair"));
    }
    // All scores are read before anything changes. Reading the later ones twice is cheaper than a
    // place to keep them, as most commands have one.
    let first = double(&args[at])?;
    for i in (at + 2..args.len()).step_by(2) {
        double(&args[i])?;
    }
    let key = &args[1];
    let limits = ctx.ks.limits.clone();
    let (mut made, mut there);
    let (zset, is_new) = match edit_zset(ctx.ks, ctx.db, key)? {
        Some(zset) => {
            there = zset;
            (&mut there as &mut Zset, false)
        }
        None if flags.xx => {
            match flags.incr {
                true => ctx.reply.null(),
                false => ctx.reply.int(0),
            }
            return Ok(());
        }
        None => {
            made = Zset::fitting(1, args[at + 1].len(), &limits);
            (&mut made, true)
        }
    };
    let (mut added, mut updated, mut result) = (0, 0, None);
    for i in (at..args.len()).step_by(2) {
        let score = if i == at { first } else { double(&args[i])? };
        match apply(zset, &args[i + 1], score, flags, &limits)? {
            Outcome::Added(score) => (added, result) = (added + 1, Some(score)),
            Outcome::Updated(score) => (updated, result) = (updated + 1, Some(score)),
            Outcome::Same(score) => result = Some(score),
            Outcome::Refused => {}
        }
    }
    if is_new {
        let zset = std::mem::take(zset);
        ctx.ks.add(ctx.db, key, Payload::Value(Value::Zset(zset)), None);
    }
    if added + updated > 0 {
        ctx.changed(key, event::ZSET, if flags.incr { "zincr" } else { "zadd" });
        ctx.ks.dirty += (added + updated - 1) as u64;
    }
    match (flags.incr, result) {
        (true, Some(score)) => ctx.reply.double(score),
        (true, None) => ctx.reply.null(),
        (false, _) if flags.ch => ctx.reply.int(added + updated),
        (false, _) => ctx.reply.int(added),
    }
    Ok(())
}

pub fn zrem(ctx: &mut Ctx, args: &mut Args) -> Done {
    let key = &args[1];
    let (mut n, mut empty) = (0, false);
    if let Some(zset) = edit_zset(ctx.ks, ctx.db, key)? {
        for member in args.rest(2) {
            n += zset.remove(member).is_some() as usize;
            empty = zset.is_empty();
            if empty {
                break;
            }
        }
    }
    if n > 0 {
        removed(ctx, key, "zrem", n, empty);
    }
    ctx.reply.int(n as i64);
    Ok(())
}
