//! Single members: their scores and ranks, random ones, and scans.

use super::{Done, header, put, read_zset};
use crate::command::Ctx;
use crate::commands::scan::Scan;
use crate::commands::sets::{below, draw, random_count};
use crate::commands::util::is;
use crate::types::zset::Zset;
use crate::{Args, Error, Reply, num};
use std::collections::HashSet;

pub fn zcard(ctx: &mut Ctx, args: &mut Args) -> Done {
    let zset = read_zset(ctx.ks, ctx.db, &args[1])?;
    ctx.reply.int(zset.map_or(0, Zset::len) as i64);
    Ok(())
}

pub fn zscore(ctx: &mut Ctx, args: &mut Args) -> Done {
    match read_zset(ctx.ks, ctx.db, &args[1])?.and_then(|zset| zset.score(&args[2])) {
        Some(score) => ctx.reply.double(score),
        None => ctx.reply.null(),
    }
    Ok(())
}

pub fn zmscore(ctx: &mut Ctx, args: &mut Args) -> Done {
    let zset = read_zset(ctx.ks, ctx.db, &args[1])?;
    ctx.reply.array(args.len() - 2);
    for member in args.rest(2) {
        match zset.and_then(|zset| zset.score(member)) {
            Some(score) => ctx.reply.double(score),
            None => ctx.reply.null(),
        }
    }
    Ok(())
}

fn rank(ctx: &mut Ctx, args: &Args, reverse: bool, name: &str) -> Done {
    if args.len() > 4 {
        return Err(Error::arity(name));
    }
    let with_score = args.len() == 4;
    if with_score && !is(&args[3], "withscore") {
        return Err(Error::SYNTAX);
    }
    let zset = read_zset(ctx.ks, ctx.db, &args[1])?;
    let found = zset.and_then(|zset| Some((zset.rank(&args[2])?, zset.len())));
    let Some(((rank, score), len)) = found else {
        match with_score {
            true => ctx.reply.null_array(),
            false => ctx.reply.null(),
        }
        return Ok(());
    };
    if with_score {
        ctx.reply.array(2);
    }
    ctx.reply.int(if reverse { len - 1 - rank } else { rank } as i64);
    if with_score {
        ctx.reply.double(score);
    }
    Ok(())
}

pub fn zrank(ctx: &mut Ctx, args: &mut Args) -> Done {
    rank(ctx, args, false, "zrank")
}

pub fn zrevrank(ctx: &mut Ctx, args: &mut Args) -> Done {
    rank(ctx, args, true, "zrevrank")
}

pub fn zrandmember(ctx: &mut Ctx, args: &mut Args) -> Done {
    let with_scores = args.len() > 3;
    let mut random = draw(ctx.ks);
    let Some(count) = args.get(2) else {
        let Some(zset) = read_zset(ctx.ks, ctx.db, &args[1])? else {
            ctx.reply.null();
            return Ok(());
        };
        let rank = below(&mut random, zset.len());
        zset.visit(rank..rank + 1, false, |member, _| ctx.reply.bulk(member));
        return Ok(());
    };
    let (count, repeats) = random_count(count)?;
    if args.len() > 4 || with_scores && !is(&args[3], "withscores") {
        return Err(Error::SYNTAX);
    }
    if with_scores && count as u64 > i64::MAX as u64 / 2 {
        return Err(Error::new("ERR value is out of range"));
    }
    let Some(zset) = read_zset(ctx.ks, ctx.db, &args[1])?.filter(|_| count > 0) else {
        ctx.reply.array(0);
        return Ok(());
    };
    let len = zset.len();
    if repeats {
        header(ctx.reply, count, with_scores);
        let reply = &mut *ctx.reply;
        for _ in 0..count {
            if reply.muted {
                break;
            }
            let rank = below(&mut random, len);
            zset.visit(rank..rank + 1, false, |m, score| put(reply, m, score, with_scores));
        }
    } else if count < len / 3 {
        // Few of many: draw until enough are different.
        header(ctx.reply, count, with_scores);
        let reply = &mut *ctx.reply;
        let mut seen = HashSet::with_capacity(count);
        while seen.len() < count {
            let rank = below(&mut random, len);
            if seen.insert(rank) {
                zset.visit(rank..rank + 1, false, |m, score| put(reply, m, score, with_scores));
            }
        }
    } else {
        let mut wanted = count.min(len);
        header(ctx.reply, wanted, with_scores);
        let (reply, mut left) = (&mut *ctx.reply, len);
        zset.for_each(|member, score| {
            // Each is taken with the chance that the rest leaves it: all choices are as likely.
            if below(&mut random, left) < wanted {
                put(reply, member, score, with_scores);
                wanted -= 1;
            }
            left -= 1;
        });
    }
    Ok(())
}

pub fn zscan(ctx: &mut Ctx, args: &mut Args) -> Done {
    let mut cursor = Scan::cursor(&args[2])?;
    let Some(zset) = read_zset(ctx.ks, ctx.db, &args[1])? else {
        Scan::reply_nothing(ctx.reply);
        return Ok(());
    };
    let scan = Scan::parse(args, 2, false)?;
    let mut found = Reply::new();
    let mut room = num::DoubleText::new();
    let (mut n, mut visited, mut steps) = (0, 0, 0);
    loop {
        cursor = zset.scan(cursor, |member, score| {
            visited += 1;
            if scan.matches(member) {
                found.bulk(member);
                found.bulk(room.format(score));
                n += 2;
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
