//! Ranges: each is turned into a range of ranks, then shown, counted, stored or removed.

use super::{Done, edit_zset, header, put, read_zset, removed, store};
use crate::command::Ctx;
use crate::commands::util::{self, int, is};
use crate::member::Member;
use crate::types::zset::{LexBound, LexRange, ScoreBound, ScoreRange, Zset};
use crate::{Args, Error};
use std::ops::Range;

/// What the two ends of a range are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Rank,
    Score,
    Lex,
}

/// A range as the client gave it.
enum Bounds<'a> {
    Ranks(i64, i64),
    Scores(ScoreRange),
    Lex(LexRange<'a>),
}

impl<'a> Bounds<'a> {
    fn parse(by: By, min: &'a [u8], max: &'a [u8]) -> Result<Bounds<'a>, Error> {
        Ok(match by {
            By::Rank => Bounds::Ranks(int(min)?, int(max)?),
            By::Score => Bounds::Scores(score_range(min, max)?),
            By::Lex => Bounds::Lex(lex_range(min, max)?),
        })
    }

    /// The ranks, counted from the lowest score. With `reverse`, ranks were given from the highest.
    fn ranks(&self, zset: &Zset, reverse: bool) -> Range<usize> {
        match self {
            Bounds::Ranks(start, end) => {
                let len = zset.len();
                let ranks = util::range(*start, *end, len);
                if reverse && !ranks.is_empty() {
                    return len - ranks.end..len - ranks.start;
                }
                ranks
            }
            Bounds::Scores(range) => zset.ranks_by_score(range),
            Bounds::Lex(range) => zset.ranks_by_lex(range),
        }
    }
}

fn score_range(min: &[u8], max: &[u8]) -> Result<ScoreRange, Error> {
    match (ScoreBound::parse(min), ScoreBound::parse(max)) {
        (Some(min), Some(max)) => Ok(ScoreRange { min, max }),
        _ => Err(Error::new("ERR min or max is not a float")),
    }
}

fn lex_range<'a>(min: &'a [u8], max: &'a [u8]) -> Result<LexRange<'a>, Error> {
    match (LexBound::parse(min), LexBound::parse(max)) {
        (Some(min), Some(max)) => Ok(LexRange { min, max }),
        _ => Err(Error::new("ERR min or max not valid string range item")),
    }
}

/// The part of `ranks` that `LIMIT offset count` leaves, seen from the end where reading begins.
fn limited(ranks: Range<usize>, (offset, count): (i64, i64), reverse: bool) -> Range<usize> {
    let len = ranks.len();
    let skip = usize::try_from(offset).map_or(len, |n| n.min(len));
    let take = usize::try_from(count).map_or(len, |n| n).min(len - skip);
    if reverse {
        ranks.end - skip - take..ranks.end - skip
    } else {
        ranks.start + skip..ranks.start + skip + take
    }
}

/// A command of `ZRANGE`'s family: where its source key is, and what its name already says.
struct Form {
    source: usize,
    by: Option<By>,
    reverse: Option<bool>,
}

/// What a command of `ZRANGE`'s family asks for.
struct Query<'a> {
    bounds: Bounds<'a>,
    reverse: bool,
    with_scores: bool,
    limit: Option<(i64, i64)>,
}

impl<'a> Query<'a> {
    fn parse(args: &'a Args, form: &Form, stores: bool) -> Result<Query<'a>, Error> {
        let (mut by, mut reverse) = (form.by, form.reverse);
        let (mut with_scores, mut limit) = (false, None);
        let mut i = form.source + 3;
        while i < args.len() {
            match &args[i] {
                w if is(w, "withscores") && !stores => with_scores = true,
                w if is(w, "limit") && i + 2 < args.len() => {
                    limit = Some((int(&args[i + 1])?, int(&args[i + 2])?));
                    i += 2;
                }
                w if is(w, "rev") && reverse.is_none() => reverse = Some(true),
                w if is(w, "bylex") && by.is_none() => by = Some(By::Lex),
                w if is(w, "byscore") && by.is_none() => by = Some(By::Score),
                _ => return Err(Error::SYNTAX),
            }
            i += 1;
        }
        let (by, reverse) = (by.unwrap_or(By::Rank), reverse.unwrap_or(false));
        // Redis takes a count of -1 for no LIMIT at all.
        if by == By::Rank {
            limit = limit.filter(|&(_, count)| count != -1);
        }
        if limit.is_some() && by == By::Rank {
            return Err(Error::new(
                "ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX",
            ));
        }
        if with_scores && by == By::Lex {
            return Err(Error::new(
                "ERR syntax error, WITHSCORES not supported in combination with BYLEX",
            ));
        }
        let (mut min, mut max) = (&args[form.source + 1], &args[form.source + 2]);
        if reverse && by != By::Rank {
            (min, max) = (max, min);
        }
        Ok(Query { bounds: Bounds::parse(by, min, max)?, reverse, with_scores, limit })
    }

    fn ranks(&self, zset: &Zset) -> Range<usize> {
        let ranks = self.bounds.ranks(zset, self.reverse);
        match self.limit {
            Some(limit) => limited(ranks, limit, self.reverse),
            None => ranks,
        }
    }
}

fn show(ctx: &mut Ctx, args: &Args, form: Form) -> Done {
    let query = Query::parse(args, &form, false)?;
    let Some(zset) = read_zset(ctx.ks, ctx.db, &args[form.source])? else {
        ctx.reply.array(0);
        return Ok(());
    };
    let ranks = query.ranks(zset);
    header(ctx.reply, ranks.len(), query.with_scores);
    zset.visit(ranks, query.reverse, |member, score| {
        put(ctx.reply, member, score, query.with_scores);
    });
    Ok(())
}

pub fn zrange(ctx: &mut Ctx, args: &mut Args) -> Done {
    show(ctx, args, Form { source: 1, by: None, reverse: None })
}

pub fn zrevrange(ctx: &mut Ctx, args: &mut Args) -> Done {
    show(ctx, args, Form { source: 1, by: Some(By::Rank), reverse: Some(true) })
}

pub fn zrangebyscore(ctx: &mut Ctx, args: &mut Args) -> Done {
    show(ctx, args, Form { source: 1, by: Some(By::Score), reverse: Some(false) })
}

pub fn zrevrangebyscore(ctx: &mut Ctx, args: &mut Args) -> Done {
    show(ctx, args, Form { source: 1, by: Some(By::Score), reverse: Some(true) })
}

pub fn zrangebylex(ctx: &mut Ctx, args: &mut Args) -> Done {
    show(ctx, args, Form { source: 1, by: Some(By::Lex), reverse: Some(false) })
}

pub fn zrevrangebylex(ctx: &mut Ctx, args: &mut Args) -> Done {
    show(ctx, args, Form { source: 1, by: Some(By::Lex), reverse: Some(true) })
}

pub fn zrangestore(ctx: &mut Ctx, args: &mut Args) -> Done {
    let query = Query::parse(args, &Form { source: 2, by: None, reverse: None }, true)?;
    let limits = ctx.ks.limits.clone();
    let mut members = Vec::new();
    if let Some(zset) = read_zset(ctx.ks, ctx.db, &args[2])? {
        let ranks = query.ranks(zset);
        members.reserve(ranks.len());
        zset.visit(ranks.clone(), false, |member, score| members.push(Member::new(score, member)));
        if matches!(query.bounds, Bounds::Lex(_)) && !ranks.is_empty() {
            tell(ctx, &[b"ZRANGESTORE", &args[1], &args[2]], ranks);
        }
    }
    let is_lex = matches!(query.bounds, Bounds::Lex(_));
    if is_lex && members.is_empty() && ctx.ks.exists(ctx.db, &args[1]) {
        ctx.effect([b"DEL", &args[1]]);
    }
    store(ctx, &args[1], Zset::from_members(members, &limits), "zrangestore");
    Ok(())
}

fn count(ctx: &mut Ctx, args: &Args, by: By) -> Done {
    let bounds = Bounds::parse(by, &args[2], &args[3])?;
    let zset = read_zset(ctx.ks, ctx.db, &args[1])?;
    ctx.reply.int(zset.map_or(0, |zset| bounds.ranks(zset, false).len()) as i64);
    Ok(())
}

pub fn zcount(ctx: &mut Ctx, args: &mut Args) -> Done {
    count(ctx, args, By::Score)
}

pub fn zlexcount(ctx: &mut Ctx, args: &mut Args) -> Done {
    count(ctx, args, By::Lex)
}

/// Tells the log of a range by its ranks. Where scores differ, what lies between two members depends on how
/// it is searched for, and the form of a sorted set need not be the same on two servers.
fn tell(ctx: &mut Ctx, words: &[&[u8]], ranks: Range<usize>) {
    let (mut start, mut end) = (itoa::Buffer::new(), itoa::Buffer::new());
    let mut parts = words.to_vec();
    parts.push(start.format(ranks.start).as_bytes());
    parts.push(end.format(ranks.end - 1).as_bytes());
    ctx.effect(parts);
}

fn remove(ctx: &mut Ctx, args: &Args, by: By, name: &'static str) -> Done {
    let bounds = Bounds::parse(by, &args[2], &args[3])?;
    let key = &args[1];
    let (mut n, mut empty) = (0, false);
    if let Some(zset) = edit_zset(ctx.ks, ctx.db, key)? {
        let ranks = bounds.ranks(zset, false);
        n = ranks.len();
        let told = (by == By::Lex && n > 0).then(|| ranks.clone());
        if n == zset.len() {
            // The key goes as a whole, below.
            empty = true;
        } else {
            zset.remove_range(ranks, |_, _| {});
        }
        if let Some(ranks) = told {
            tell(ctx, &[b"ZREMRANGEBYRANK", key], ranks);
        }
    }
    if n > 0 {
        removed(ctx, key, name, n, empty);
    }
    ctx.reply.int(n as i64);
    Ok(())
}

pub fn zremrangebyrank(ctx: &mut Ctx, args: &mut Args) -> Done {
    remove(ctx, args, By::Rank, "zremrangebyrank")
}

pub fn zremrangebyscore(ctx: &mut Ctx, args: &mut Args) -> Done {
    remove(ctx, args, By::Score, "zremrangebyscore")
}

pub fn zremrangebylex(ctx: &mut Ctx, args: &mut Args) -> Done {
    remove(ctx, args, By::Lex, "zremrangebylex")
}
