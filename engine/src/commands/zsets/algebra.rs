//! Union, intersection and difference, of sorted sets and of plain sets, whose members count as if
//! their scores were 1.

use super::{Done, header, put, store};
use crate::command::Ctx;
use crate::commands::util::{int, is};
use crate::keyspace::Keyspace;
use crate::member::Member;
use crate::num::parse_double;
use crate::table::{Entry, Slot, Table};
use crate::types::set::Set;
use crate::types::zset::Zset;
use crate::value::Value;
use crate::{Args, Error, hasher};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Operation {
    Union,
    Inter,
    Diff,
}

/// How the scores of a member become one. What is no number leaves the lesser and the greater as they
/// are, and makes a sum 0: Redis's arithmetic.
#[derive(Clone, Copy)]
enum Aggregate {
    Sum,
    Min,
    Max,
}

impl Aggregate {
    fn of(self, a: f64, b: f64) -> f64 {
        match self {
            Aggregate::Sum => number(a + b),
            Aggregate::Min if b < a => b,
            Aggregate::Max if b > a => b,
            _ => a,
        }
    }
}

/// Infinities that cancel out, or that zero multiplies, count as zero.
fn number(score: f64) -> f64 {
    if score.is_nan() { 0.0 } else { score }
}

/// What a key holds, if it holds anything.
#[derive(Clone, Copy)]
enum Source<'k> {
    Nothing,
    Set(&'k Set),
    Zset(&'k Zset),
}

impl Source<'_> {
    fn len(&self) -> usize {
        match self {
            Source::Nothing => 0,
            Source::Set(set) => set.len(),
            Source::Zset(zset) => zset.len(),
        }
    }

    fn score(&self, member: &[u8]) -> Option<f64> {
        match self {
            Source::Nothing => None,
            Source::Set(set) => set.contains(member).then_some(1.0),
            Source::Zset(zset) => zset.score(member),
        }
    }

    /// Hands every member to `f` until it says `false`.
    fn each(&self, mut f: impl FnMut(&[u8], f64) -> bool) {
        /// So many members at most are walked over after the end was called for.
        const STRIDE: usize = 128;
        match self {
            Source::Nothing => {}
            Source::Set(set) => {
                let mut room = itoa::Buffer::new();
                for member in set.iter() {
                    if !f(member.text(&mut room), 1.0) {
                        return;
                    }
                }
            }
            Source::Zset(zset) => {
                let mut go_on = true;
                for start in (0..zset.len()).step_by(STRIDE) {
                    zset.visit(start..start + STRIDE, false, |member, score| {
                        go_on = go_on && f(member, score);
                    });
                    if !go_on {
                        return;
                    }
                }
            }
        }
    }
}

/// Whether a key holds something, which must be a set or a sorted set.
fn is_there(ks: &mut Keyspace, db: usize, key: &[u8]) -> Result<bool, Error> {
    match ks.read(db, key).map(|entry| entry.value()) {
        None => Ok(false),
        Some(Some(Value::Set(_) | Value::Zset(_))) => Ok(true),
        Some(_) => Err(Error::WRONG_TYPE),
    }
}

fn source<'k>(ks: &'k Keyspace, db: usize, key: &[u8], there: bool) -> Source<'k> {
    match ks.dbs[db].peek(key).and_then(|entry| entry.value()).filter(|_| there) {
        Some(Value::Set(set)) => Source::Set(set),
        Some(Value::Zset(zset)) => Source::Zset(zset),
        _ => Source::Nothing,
    }
}

/// What follows the keys.
struct Options {
    weights: Vec<f64>,
    aggregate: Aggregate,
    with_scores: bool,
    /// 0 is none.
    limit: i64,
}

/// Which words may follow the keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Show,
    Store,
    Count,
}

fn parse_options(
    args: &Args,
    mut i: usize,
    keys: usize,
    operation: Operation,
    kind: Kind,
) -> Result<Options, Error> {
    let mut options = Options {
        weights: vec![1.0; keys],
        aggregate: Aggregate::Sum,
        with_scores: false,
        limit: 0,
    };
    let combines = operation != Operation::Diff && kind != Kind::Count;
    while i < args.len() {
        let left = args.len() - i - 1;
        match &args[i] {
            w if combines && left >= keys && is(w, "weights") => {
                for (weight, at) in options.weights.iter_mut().zip(i + 1..) {
                    let value = parse_double(&args[at]);
                    *weight = value.ok_or(Error::new("ERR weight value is not a float"))?;
                }
                i += keys;
            }
            w if combines && left >= 1 && is(w, "aggregate") => {
                options.aggregate = match &args[i + 1] {
                    w if is(w, "sum") => Aggregate::Sum,
                    w if is(w, "min") => Aggregate::Min,
                    w if is(w, "max") => Aggregate::Max,
                    _ => return Err(Error::SYNTAX),
                };
                i += 1;
            }
            w if kind == Kind::Show && is(w, "withscores") => options.with_scores = true,
            w if kind == Kind::Count && left >= 1 && is(w, "limit") => {
                let limit = int(&args[i + 1]).ok().filter(|&n| n >= 0);
                options.limit = limit.ok_or(Error::new("ERR LIMIT can't be negative"))?;
                i += 1;
            }
            _ => return Err(Error::SYNTAX),
        }
        i += 1;
    }
    Ok(options)
}

/// Reads sources and options; `at` is where the number of keys stands.
fn parse<'k>(
    ks: &'k mut Keyspace,
    db: usize,
    args: &Args,
    at: usize,
    (operation, kind, name): (Operation, Kind, &str),
) -> Result<(Vec<(Source<'k>, f64)>, Options), Error> {
    let n = int(&args[at])?;
    if n < 1 {
        return Err(Error::err(format_args!(
            "at least 1 input key is needed for '{name}' command"
        )));
    }
    let n = usize::try_from(n).unwrap_or(usize::MAX);
    if n > args.len() - at - 1 {
        return Err(Error::SYNTAX);
    }
    let mut there = Vec::with_capacity(n);
    for i in at + 1..=at + n {
        there.push(is_there(ks, db, &args[i])?);
    }
    let options = parse_options(args, at + 1 + n, n, operation, kind)?;
    let ks: &'k Keyspace = ks;
    let sources = (0..n).map(|i| source(ks, db, &args[at + 1 + i], there[i]));
    let sources = sources.zip(options.weights.iter().copied()).collect();
    Ok((sources, options))
}

/// Hands every member that all sources have, and its score, to `f` until it says `false`.
fn intersect(
    sources: &mut [(Source<'_>, f64)],
    aggregate: Aggregate,
    mut f: impl FnMut(&[u8], f64) -> bool,
) {
    sources.sort_by_key(|(source, _)| source.len());
    let Some(((smallest, weight), others)) = sources.split_first() else { return };
    smallest.each(|member, score| {
        let mut total = number(score * weight);
        for (source, weight) in others {
            let Some(score) = source.score(member) else { return true };
            total = aggregate.of(total, score * weight);
        }
        f(member, total)
    });
}

fn combine(
    operation: Operation,
    mut sources: Vec<(Source<'_>, f64)>,
    aggregate: Aggregate,
) -> Table<Member> {
    let mut result: Table<Member> = Table::new();
    let mut add = |bytes: &[u8], score: f64| {
        let member = Member::new(score, bytes);
        result.insert_new(member.key_hash(), member);
        true
    };
    match operation {
        Operation::Inter => intersect(&mut sources, aggregate, add),
        Operation::Diff => {
            let Some(((first, _), others)) = sources.split_first() else { return result };
            first.each(|member, score| {
                let elsewhere = others.iter().any(|(source, _)| source.score(member).is_some());
                elsewhere || add(member, score)
            });
        }
        Operation::Union => {
            // The order of the sums shows in their last digit: Redis goes from the smallest on too.
            sources.sort_by_key(|(source, _)| source.len());
            for (source, weight) in sources {
                source.each(|bytes, score| {
                    let score = number(score * weight);
                    match result.find_slot(hasher::hash(bytes), bytes) {
                        Entry::Occupied(mut slot) => {
                            let member = slot.get_mut();
                            member.set_score(aggregate.of(member.score(), score));
                        }
                        Entry::Vacant(slot) => {
                            slot.insert(Member::new(score, bytes));
                        }
                    }
                    true
                });
            }
        }
    }
    result
}

fn run(ctx: &mut Ctx, args: &Args, operation: Operation, name: &str) -> Done {
    let (sources, options) = parse(ctx.ks, ctx.db, args, 1, (operation, Kind::Show, name))?;
    let result = combine(operation, sources, options.aggregate);
    let result = Zset::from_table(result, &ctx.ks.limits);
    header(ctx.reply, result.len(), options.with_scores);
    result.for_each(|member, score| put(ctx.reply, member, score, options.with_scores));
    Ok(())
}

fn run_store(ctx: &mut Ctx, args: &Args, operation: Operation, name: &'static str) -> Done {
    let (sources, options) = parse(ctx.ks, ctx.db, args, 2, (operation, Kind::Store, name))?;
    let result = combine(operation, sources, options.aggregate);
    let result = Zset::from_table(result, &ctx.ks.limits);
    store(ctx, &args[1], result, name);
    Ok(())
}

pub fn zunion(ctx: &mut Ctx, args: &mut Args) -> Done {
    run(ctx, args, Operation::Union, "zunion")
}

pub fn zinter(ctx: &mut Ctx, args: &mut Args) -> Done {
    run(ctx, args, Operation::Inter, "zinter")
}

pub fn zdiff(ctx: &mut Ctx, args: &mut Args) -> Done {
    run(ctx, args, Operation::Diff, "zdiff")
}

pub fn zunionstore(ctx: &mut Ctx, args: &mut Args) -> Done {
    run_store(ctx, args, Operation::Union, "zunionstore")
}

pub fn zinterstore(ctx: &mut Ctx, args: &mut Args) -> Done {
    run_store(ctx, args, Operation::Inter, "zinterstore")
}

pub fn zdiffstore(ctx: &mut Ctx, args: &mut Args) -> Done {
    run_store(ctx, args, Operation::Diff, "zdiffstore")
}

pub fn zintercard(ctx: &mut Ctx, args: &mut Args) -> Done {
    let how = (Operation::Inter, Kind::Count, "zintercard");
    let (mut sources, options) = parse(ctx.ks, ctx.db, args, 1, how)?;
    let mut count = 0;
    intersect(&mut sources, Aggregate::Sum, |_, _| {
        count += 1;
        count != options.limit
    });
    ctx.reply.int(count);
    Ok(())
}
