//! `SORT`: the elements of a list, set or sorted set in the order of numbers or texts, their own or
//! those found at other keys.
//!
//! The elements are copied out first: looking up the keys that a pattern names may expire some, and
//! what is sorted must not change meanwhile. Equal numbers are ordered by the elements' bytes, so
//! that the same data always sorts the same way and the log can hold the command as it came. Equal
//! texts found at other keys leave the order as it was, which in a set is chance: of such a sort the
//! log gets the outcome.

use super::util::{int, is};
use crate::command::{Command, Ctx, Handler, Keys, Search, Spec, access::*, category, flag::*};
use crate::entry::Payload;
use crate::keyspace::event;
use crate::listpack::Entry;
use crate::num::parse_double;
use crate::quicklist::Quicklist;
use crate::types::list::List;
use crate::value::Value;
use crate::{Args, Error};
use std::cmp::Ordering;
use std::ops::Range;

type Done = Result<(), Error>;

const NOT_A_NUMBER: Error = Error::new("ERR One or more scores can't be converted into double");

/// The arguments, as indexes where they are texts.
struct Options {
    descending: bool,
    alpha: bool,
    offset: i64,
    /// Negative: all.
    count: i64,
    by: Option<usize>,
    get: Vec<usize>,
    store: Option<usize>,
}

impl Options {
    fn read(args: &Args, may_store: bool) -> Result<Options, Error> {
        let mut options = Options {
            descending: false,
            alpha: false,
            offset: 0,
            count: -1,
            by: None,
            get: Vec::new(),
            store: None,
        };
        let mut i = 2;
        while i < args.len() {
            let follow = args.len() - i - 1;
            match &args[i] {
                w if is(w, "asc") => options.descending = false,
                w if is(w, "desc") => options.descending = true,
                w if is(w, "alpha") => options.alpha = true,
                w if is(w, "limit") && follow >= 2 => {
                    options.offset = int(&args[i + 1])?;
                    options.count = int(&args[i + 2])?;
                    i += 2;
                }
                w if is(w, "store") && follow >= 1 && may_store => {
                    options.store = Some(i + 1);
                    i += 1;
                }
                w if is(w, "by") && follow >= 1 => {
                    options.by = Some(i + 1);
                    i += 1;
                }
                w if is(w, "get") && follow >= 1 => {
                    options.get.push(i + 1);
                    i += 1;
                }
                _ => return Err(Error::SYNTAX),
            }
            i += 1;
        }
        Ok(options)
    }

    /// The part of `len` elements that `LIMIT` asks for.
    fn window(&self, len: usize) -> Range<usize> {
        let start = (self.offset.max(0) as usize).min(len);
        let count = usize::try_from(self.count).unwrap_or(len);
        start..start.saturating_add(count).min(len)
    }
}

/// The elements of what is at a key, in its own order (a list's and a sorted set's from the end if
/// `descending`), and whether that order is by chance. Given how many there are and that, `part` says
/// which of them are wanted.
fn elements(
    ctx: &mut Ctx,
    key: &[u8],
    descending: bool,
    part: impl Fn(usize, bool) -> Range<usize>,
) -> Result<(Vec<Vec<u8>>, bool), Error> {
    let Some(entry) = ctx.ks.read(ctx.db, key) else { return Ok((Vec::new(), false)) };
    // What is `part` from the end, as places from the front.
    let places = |len: usize| match part(len, false) {
        part if descending => len - part.end..len - part.start,
        part => part,
    };
    Ok(match entry.value() {
        Some(Value::List(list)) => {
            let places = places(list.len());
            let mut all: Vec<_> =
                list.range(places.start, places.len()).map(|e| e.to_vec()).collect();
            if descending {
                all.reverse();
            }
            (all, false)
        }
        Some(Value::Set(set)) => {
            let part = part(set.len(), true);
            let wanted = set.iter().skip(part.start).take(part.len());
            (wanted.map(|e| e.to_vec()).collect(), true)
        }
        Some(Value::Zset(zset)) => {
            let places = places(zset.len());
            let mut all = Vec::with_capacity(places.len());
            zset.visit(places, descending, |member, _| all.push(member.to_vec()));
            (all, false)
        }
        _ => return Err(Error::WRONG_TYPE),
    })
}

/// What `pattern` names for an element: the element itself (`#`), the string at the key that the
/// first `*` becomes the element in, or a field of the hash there (`key*->field`).
fn look_up(ctx: &mut Ctx, pattern: &[u8], element: &[u8]) -> Option<Vec<u8>> {
    if pattern == b"#" {
        return Some(element.to_vec());
    }
    let star = pattern.iter().position(|&c| c == b'*')?;
    let (before, after) = (&pattern[..star], &pattern[star + 1..]);
    let arrow = after.windows(2).position(|w| w == b"->").filter(|&at| at + 2 < after.len());
    let (after, field) = match arrow {
        Some(at) => (&after[..at], Some(&after[at + 2..])),
        None => (after, None),
    };
    let entry = ctx.ks.read(ctx.db, &[before, element, after].concat())?;
    match (field, entry.value()) {
        (None, _) => Some(entry.string()?.bytes(&mut itoa::Buffer::new()).to_vec()),
        (Some(field), Some(Value::Hash(hash))) => hash.get(field).map(|value| value.to_vec()),
        _ => None,
    }
}

/// A weight as C's `strtod` reads it: a zero byte is the end, space before it is skipped, and
/// nothing at all is 0.
fn number(text: &[u8]) -> Result<f64, Error> {
    let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
    match &text[..end] {
        [] => Ok(0.0),
        text => parse_double(text.trim_ascii_start()).ok_or(NOT_A_NUMBER),
    }
}

/// Those of `items` that are at `part` once they are sorted. No others are put in order.
fn part_in_order<T>(
    mut items: Vec<T>,
    part: Range<usize>,
    compare: impl Fn(&T, &T) -> Ordering,
) -> impl Iterator<Item = T> {
    if (1..items.len()).contains(&part.end) {
        items.select_nth_unstable_by(part.end - 1, &compare);
    }
    items.truncate(part.end);
    items.sort_unstable_by(compare);
    items.into_iter().skip(part.start)
}

/// The `elements` that are at `part` when they are sorted by what `by` names for each, or by themselves.
fn sort_elements(
    ctx: &mut Ctx,
    elements: Vec<Vec<u8>>,
    by: Option<&[u8]>,
    alpha: bool,
    descending: bool,
    part: Range<usize>,
) -> Result<Vec<Vec<u8>>, Error> {
    let directed = |ordering: Ordering| if descending { ordering.reverse() } else { ordering };
    if alpha && by.is_none() {
        return Ok(part_in_order(elements, part, |a, b| directed(a.cmp(b))).collect());
    }
    if alpha {
        let weight = |element: Vec<u8>| (by.and_then(|p| look_up(ctx, p, &element)), element);
        // Those without a weight are the least.
        let mut weighted: Vec<_> = elements.into_iter().map(weight).collect();
        weighted.sort_by(|(a, _), (b, _)| directed(a.cmp(b)));
        let wanted = weighted.into_iter().skip(part.start).take(part.len());
        return Ok(wanted.map(|(_, element)| element).collect());
    }
    let mut weighted = Vec::with_capacity(elements.len());
    for element in elements {
        let weight = match by {
            None => number(&element)?,
            Some(pattern) => match look_up(ctx, pattern, &element) {
                Some(text) => number(&text)?,
                None => 0.0,
            },
        };
        weighted.push((weight, element));
    }
    let sorted = part_in_order(weighted, part, |(a, x), (b, y)| {
        directed(a.partial_cmp(b).expect("no weight is NaN").then_with(|| x.cmp(y)))
    });
    Ok(sorted.map(|(_, element)| element).collect())
}

fn sort_in(ctx: &mut Ctx, args: &mut Args, may_store: bool) -> Done {
    let options = Options::read(args, may_store)?;
    // A pattern without `*` names the same for all: they are left as they are.
    let unsorted = options.by.is_some_and(|at| !args[at].contains(&b'*'));
    // What is stored has to come out the same from the log.
    let stays = |by_chance: bool| unsorted && !(by_chance && options.store.is_some());
    let part = |len: usize, by_chance| if stays(by_chance) { options.window(len) } else { 0..len };
    let (mut elements, by_chance) = elements(ctx, &args[1], unsorted && options.descending, part)?;
    if !stays(by_chance) {
        let by = options.by.filter(|_| !unsorted).map(|at| &args[at]);
        let (alpha, part) = (options.alpha || unsorted, options.window(elements.len()));
        elements = sort_elements(ctx, elements, by, alpha, options.descending, part)?;
    }
    match options.store {
        Some(at) => {
            let told = options.alpha && options.by.is_some() && !unsorted;
            store(ctx, &elements, args, &options.get, at, told);
        }
        None => {
            ctx.reply.array(elements.len() * options.get.len().max(1));
            for element in &elements {
                if options.get.is_empty() {
                    ctx.reply.bulk(element);
                }
                for &at in &options.get {
                    match look_up(ctx, &args[at], element) {
                        Some(text) => ctx.reply.bulk(&text),
                        None => ctx.reply.null(),
                    }
                }
            }
        }
    }
    Ok(())
}

/// Makes the outcome a list at the key that is argument `at`; nothing found is an empty element. With
/// `told` the log gets the outcome and not the command.
fn store(ctx: &mut Ctx, elements: &[Vec<u8>], args: &Args, get: &[usize], at: usize, told: bool) {
    let mut list = Quicklist::new(ctx.ks.limits.list_max_listpack_size);
    for element in elements {
        if get.is_empty() {
            list.push_back(element);
        }
        for &pattern in get {
            let found = look_up(ctx, &args[pattern], element).unwrap_or_default();
            list.push_back(Entry::parse(&found));
        }
    }
    let (key, len) = (&args[at], list.len());
    if len == 0 {
        let lazy = ctx.ks.lazy.server_del;
        ctx.ks.delete(ctx.db, key, lazy);
    } else {
        if told {
            tell(ctx, key, &list);
        }
        let list = Value::List(List::from_quicklist(list, &ctx.ks.limits));
        ctx.ks.set(ctx.db, key, Payload::Value(list), None);
        ctx.ks.notify(event::LIST, "sortstore", ctx.db, key);
        ctx.ks.dirty += len as u64;
    }
    ctx.reply.int(len as i64);
}

/// Tells the log what the list at a key is from now on.
fn tell(ctx: &mut Ctx, key: &[u8], list: &Quicklist) {
    /// Elements named by one `RPUSH`.
    const BATCH: usize = 1024;
    ctx.effect([b"DEL", key]);
    let elements: Vec<_> = list.iter().map(|element| element.to_vec()).collect();
    for batch in elements.chunks(BATCH) {
        let mut parts: Vec<&[u8]> = vec![b"RPUSH", key];
        parts.extend(batch.iter().map(Vec::as_slice));
        ctx.effect(parts);
    }
}

fn sort(ctx: &mut Ctx, args: &mut Args) -> Done {
    sort_in(ctx, args, true)
}

fn sort_ro(ctx: &mut Ctx, args: &mut Args) -> Done {
    sort_in(ctx, args, false)
}

/// The sorted key and, last, the one that is stored to. Those that patterns name are not known.
fn keys(args: &Args) -> Vec<usize> {
    let (mut found, mut i) = (vec![1], 2);
    while i < args.len() {
        i += match &args[i] {
            w if is(w, "limit") => 2,
            w if is(w, "by") || is(w, "get") => 1,
            w if is(w, "store") && i + 1 < args.len() => {
                found.truncate(1);
                found.push(i + 1);
                1
            }
            _ => 0,
        };
        i += 1;
    }
    found
}

const fn spec(name: &'static str, flags: u32, keys: Keys) -> Spec {
    let categories = category::SET | category::SORTEDSET | category::LIST | category::DANGEROUS;
    Spec::new(name, -2, flags | MOVABLE_KEYS, categories, keys)
}

/// The keys that `BY` and `GET` make of what the first one holds.
const PATTERNS: (Search, u32) = (Search::Unknown, RO | ACCESS);

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<Handler>] = &[
    Command { run: sort, spec: spec("sort", WRITE | DENYOOM, Keys::Special(1, keys)).key(RO | ACCESS).other_keys(OW | UPDATE).more_keys(&[PATTERNS, (Search::Unknown, OW | UPDATE)]).doc("generic", "1.0.0", "O(N log N) in the elements, plus a look-up for each pattern", "Gives or stores the elements of a list or set in order.", "key [BY pattern#1] [LIMIT (offset count)] [GET pattern#1]... order=[ASC|DESC] [sorting=ALPHA] [STORE destination]") },
    Command { run: sort_ro, spec: spec("sort_ro", READONLY, Keys::ONE).more_keys(&[PATTERNS]).doc("generic", "7.0.0", "O(N log N) in the elements, plus a look-up for each pattern", "Gives the elements of a list or set in order.", "key [BY pattern#1] [LIMIT (offset count)] [GET pattern#1]... order=[ASC|DESC] [sorting=ALPHA]") },
];

#[cfg(test)]
mod tests {
    use crate::commands::tests::Bench;

    #[test]
    fn numbers_and_texts() {
        let mut b = Bench::new();
        b.run("RPUSH l 10 9 1.5 -3");
        assert_eq!(b.run("SORT l"), "*4|$2|-3|$3|1.5|$1|9|$2|10|");
        assert_eq!(b.run("SORT_RO l ALPHA DESC"), "*4|$1|9|$2|10|$3|1.5|$2|-3|");
        assert_eq!(b.run("SORT l LIMIT 1 2"), "*2|$3|1.5|$1|9|");
        assert_eq!(b.run("SORT l LIMIT -5 1"), "*1|$2|-3|");
        assert_eq!(b.run("SORT l LIMIT 9 9"), "*0|");
        assert_eq!(b.run("SORT l BY nosort LIMIT 0 2"), "*2|$2|10|$1|9|");
        assert_eq!(b.run("SORT l BY nosort DESC LIMIT 1 1"), b.run("LRANGE l -2 -2"));
        b.run("ZADD z 1 a 2 b 3 c 4 d");
        assert_eq!(b.run("SORT z BY nosort LIMIT 1 2"), "*2|$1|b|$1|c|");
        assert_eq!(b.run("SORT z BY nosort DESC LIMIT 1 2"), "*2|$1|c|$1|b|");
        assert_eq!(b.run("SORT z BY nosort LIMIT 3 9 STORE d"), ":1|");
        assert_eq!(b.run("LRANGE d 0 -1"), "*1|$1|d|");
        b.run("SADD unordered d a c b");
        assert_eq!(b.run("SORT unordered BY nosort LIMIT 1 2 STORE d"), ":2|");
        assert_eq!(b.run("LRANGE d 0 -1"), "*2|$1|b|$1|c|");
        b.run("RPUSH l word");
        let error = "-ERR One or more scores can't be converted into double|";
        assert_eq!(b.run("SORT l"), error);
        assert_eq!(b.run("SORT none"), "*0|");
        b.run("SET s x");
        assert!(b.run("SORT s").starts_with("-WRONGTYPE"));
        assert_eq!(b.run("SORT_RO l STORE d"), "-ERR syntax error|");
        assert_eq!(b.run("SORT l LIMIT 1"), "-ERR syntax error|");
    }

    #[test]
    fn patterns() {
        let mut b = Bench::new();
        b.run("RPUSH l a b c d");
        b.run("MSET w:a 3 w:b 1 w:c 2");
        b.run("HSET h:a name Ann");
        assert_eq!(b.run("SORT l BY w:*"), "*4|$1|d|$1|b|$1|c|$1|a|");
        assert_eq!(b.run("SORT l BY w:* ALPHA DESC"), "*4|$1|a|$1|c|$1|b|$1|d|");
        assert_eq!(
            b.run("SORT l BY w:* DESC LIMIT 0 2 GET # GET h:*->name"),
            "*4|$1|a|$3|Ann|$1|c|$-1|"
        );
        assert_eq!(b.run("SORT l ALPHA GET w:*->name LIMIT 0 1"), "*1|$-1|", "no hash");
        assert_eq!(b.run("SORT l ALPHA GET nothing LIMIT 0 1"), "*1|$-1|");
    }

    #[test]
    fn storing() {
        let mut b = Bench::new();
        b.run("RPUSH l 3 1 2");
        assert_eq!(b.run("SORT l DESC STORE d"), ":3|");
        assert_eq!(b.effects, ["SORT l DESC STORE d"]);
        assert_eq!(b.run("LRANGE d 0 -1"), "*3|$1|3|$1|2|$1|1|");
        assert_eq!(b.run("SORT l GET none:* STORE d"), ":3|");
        assert_eq!(b.run("LRANGE d 0 -1"), "*3|$0||$0||$0||");
        assert_eq!(b.run("SORT none STORE d"), ":0|");
        assert_eq!(b.run("EXISTS d"), ":0|");
        assert_eq!(b.run("SORT none STORE d"), ":0|");
        assert!(b.effects.is_empty());
    }

    /// Redis leaves equal texts as they came. It sorted what a log said otherwise than the server that had
    /// written it.
    #[test]
    fn equal_texts_stay_as_they_were_and_the_log_has_the_outcome() {
        let mut b = Bench::new();
        b.run("RPUSH l c a d b");
        b.run("MSET w:a 1 w:d 1");
        assert_eq!(b.run("SORT l BY w:* ALPHA"), "*4|$1|c|$1|b|$1|a|$1|d|");
        assert_eq!(b.run("SORT l BY w:* ALPHA DESC LIMIT 1 2 STORE d"), ":2|");
        assert_eq!(b.effects, ["DEL d", "RPUSH d d c"]);
        assert_eq!(b.run("LRANGE d 0 -1"), "*2|$1|d|$1|c|");
        assert_eq!(b.run("SORT l BY w:* ALPHA LIMIT 9 1 STORE d"), ":0|");
        assert_eq!(b.effects, ["SORT l BY w:* ALPHA LIMIT 9 1 STORE d"]);
        b.run("SADD s 3 1 2");
        b.run("SORT s BY nosort ALPHA STORE d");
        assert_eq!(b.effects, ["SORT s BY nosort ALPHA STORE d"]);
    }

    #[test]
    fn keys_are_found() {
        let owned = crate::OwnedArgs::new(["SORT", "l", "BY", "STORE", "GET", "x", "STORE", "d"]);
        assert_eq!(super::keys(&owned.args()), [1, 7]);
    }
}
