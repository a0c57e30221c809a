//! The command table's entries, and the one way to run a command on data.
//!
//! Everything about a command stands in one place: its [`Spec`], beside the function that runs it.
//! Arity checks, ACL categories, `COMMAND`, the router and the log all read it from there.

use crate::args::Args;
use crate::effects::Part;
use crate::error::Error;
use crate::keyspace::Keyspace;
use crate::resp::reply::Reply;

/// Command flags, as bits; the names are those of `COMMAND INFO`.
pub mod flag {
    pub const WRITE: u32 = 1 << 0;
    pub const READONLY: u32 = 1 << 1;
    pub const DENYOOM: u32 = 1 << 2;
    pub const ADMIN: u32 = 1 << 3;
    pub const PUBSUB: u32 = 1 << 4;
    pub const NOSCRIPT: u32 = 1 << 5;
    pub const BLOCKING: u32 = 1 << 6;
    pub const LOADING: u32 = 1 << 7;
    pub const STALE: u32 = 1 << 8;
    pub const SKIP_MONITOR: u32 = 1 << 9;
    pub const SKIP_SLOWLOG: u32 = 1 << 10;
    pub const ASKING: u32 = 1 << 11;
    pub const FAST: u32 = 1 << 12;
    pub const NO_AUTH: u32 = 1 << 13;
    pub const MAY_REPLICATE: u32 = 1 << 14;
    pub const NO_MULTI: u32 = 1 << 15;
    pub const MOVABLE_KEYS: u32 = 1 << 16;
    pub const ALLOW_BUSY: u32 = 1 << 17;
    /// Not while a full sync is loaded beside the data that are served.
    pub const NO_ASYNC_LOADING: u32 = 1 << 18;

    /// The flags in the order and with the names that `COMMAND INFO` shows. Of `MAY_REPLICATE` it says
    /// nothing.
    pub const NAMES: &[(u32, &str)] = &[
        (WRITE, "write"),
        (READONLY, "readonly"),
        (DENYOOM, "denyoom"),
        (ADMIN, "admin"),
        (PUBSUB, "pubsub"),
        (NOSCRIPT, "noscript"),
        (BLOCKING, "blocking"),
        (LOADING, "loading"),
        (STALE, "stale"),
        (SKIP_MONITOR, "skip_monitor"),
        (SKIP_SLOWLOG, "skip_slowlog"),
        (ASKING, "asking"),
        (FAST, "fast"),
        (NO_AUTH, "no_auth"),
        (NO_ASYNC_LOADING, "no_async_loading"),
        (NO_MULTI, "no_multi"),
        (MOVABLE_KEYS, "movablekeys"),
        (ALLOW_BUSY, "allow_busy"),
    ];
}

/// What a command may do to a key, as bits; the names are those of `COMMAND GETKEYSANDFLAGS`. One of the
/// first four is always there, unless it is no key.
pub mod access {
    /// Reads the value and changes it.
    pub const RW: u32 = 1 << 0;
    /// Only reads it.
    pub const RO: u32 = 1 << 1;
    /// Overwrites it, whatever it was.
    pub const OW: u32 = 1 << 2;
    /// Removes it.
    pub const RM: u32 = 1 << 3;
    /// What the value holds is told to the client, or copied; not only that it is there, its type or size.
    pub const ACCESS: u32 = 1 << 4;
    /// Changes what the value holds, or how long it lives.
    pub const UPDATE: u32 = 1 << 5;
    /// Adds to it, and changes nothing that was there.
    pub const INSERT: u32 = 1 << 6;
    /// Takes out some of it, or all.
    pub const DELETE: u32 = 1 << 7;
    /// It depends on the command's words, and this is the most that it may do.
    pub const VARIABLE: u32 = 1 << 8;
    /// It is a channel, which a cluster gives to a node as it does a key.
    pub const NOT_KEY: u32 = 1 << 9;
    /// There may be more keys than can be found this way.
    pub const INCOMPLETE: u32 = 1 << 10;

    pub const NAMES: &[(u32, &str)] = &[
        (RW, "RW"),
        (RO, "RO"),
        (OW, "OW"),
        (RM, "RM"),
        (ACCESS, "access"),
        (UPDATE, "update"),
        (INSERT, "insert"),
        (DELETE, "delete"),
        (NOT_KEY, "not_key"),
        (INCOMPLETE, "incomplete"),
        (VARIABLE, "variable_flags"),
    ];
}

/// ACL categories, as bits. `read`, `write`, `fast`, `slow`, `admin`, `dangerous`, `blocking` and
/// `pubsub` follow from the flags and are not named in a [`Spec`].
pub mod category {
    pub const KEYSPACE: u32 = 1 << 0;
    pub const READ: u32 = 1 << 1;
    pub const WRITE: u32 = 1 << 2;
    pub const SET: u32 = 1 << 3;
    pub const SORTEDSET: u32 = 1 << 4;
    pub const LIST: u32 = 1 << 5;
    pub const HASH: u32 = 1 << 6;
    pub const STRING: u32 = 1 << 7;
    pub const BITMAP: u32 = 1 << 8;
    pub const HYPERLOGLOG: u32 = 1 << 9;
    pub const GEO: u32 = 1 << 10;
    pub const STREAM: u32 = 1 << 11;
    pub const PUBSUB: u32 = 1 << 12;
    pub const ADMIN: u32 = 1 << 13;
    pub const FAST: u32 = 1 << 14;
    pub const SLOW: u32 = 1 << 15;
    pub const BLOCKING: u32 = 1 << 16;
    pub const DANGEROUS: u32 = 1 << 17;
    pub const CONNECTION: u32 = 1 << 18;
    pub const TRANSACTION: u32 = 1 << 19;
    pub const SCRIPTING: u32 = 1 << 20;

    pub const NAMES: &[(u32, &str)] = &[
        (KEYSPACE, "keyspace"),
        (READ, "read"),
        (WRITE, "write"),
        (SET, "set"),
        (SORTEDSET, "sortedset"),
        (LIST, "list"),
        (HASH, "hash"),
        (STRING, "string"),
        (BITMAP, "bitmap"),
        (HYPERLOGLOG, "hyperloglog"),
        (GEO, "geo"),
        (STREAM, "stream"),
        (PUBSUB, "pubsub"),
        (ADMIN, "admin"),
        (FAST, "fast"),
        (SLOW, "slow"),
        (BLOCKING, "blocking"),
        (DANGEROUS, "dangerous"),
        (CONNECTION, "connection"),
        (TRANSACTION, "transaction"),
        (SCRIPTING, "scripting"),
    ];
}

/// Where a command's keys stand among its arguments.
#[derive(Clone, Copy)]
pub enum Keys {
    None,
    /// First, last (negative: from the end, -1 the last) and step.
    Range(i32, i32, i32),
    /// The argument at the index says how many keys follow it: `ZINTER numkeys key …`.
    Counted(usize),
    /// A first key at the first index, then as [`Keys::Counted`] from the second: `ZUNIONSTORE`.
    AndCounted(usize, usize),
    /// Mostly one at the index; found by looking: `SORT … STORE key`.
    Special(i32, fn(&Args<'_>) -> Vec<usize>),
    /// As [`Keys::Range`], of what is no key: `SSUBSCRIBE channel …`.
    Channels(i32, i32, i32),
}

impl Keys {
    /// One key at index 1.
    pub const ONE: Keys = Keys::Range(1, 1, 1);
    /// Keys at 1 and 2.
    pub const TWO: Keys = Keys::Range(1, 2, 1);
    /// Every argument from 1 on.
    pub const ALL: Keys = Keys::Range(1, -1, 1);

    /// First key, last key and step as `COMMAND INFO` shows them.
    pub fn range(&self) -> (i32, i32, i32) {
        match *self {
            Keys::None => (0, 0, 0),
            Keys::Range(first, last, step) | Keys::Channels(first, last, step) => {
                (first, last, step)
            }
            Keys::Counted(_) => (0, 0, 0),
            Keys::AndCounted(first, _) => (first as i32, first as i32, 1),
            Keys::Special(first, _) => (first, first, 1),
        }
    }

    /// The indexes of the keys in `args`, whose arity was checked. Empty if the arguments make no
    /// sense.
    pub fn indexes(&self, args: &Args<'_>) -> Vec<usize> {
        let counted = |at: usize| -> Vec<usize> {
            let n = args.get(at).and_then(crate::num::parse_int).unwrap_or(0);
            if n < 1 || n as usize > args.len() - at - 1 {
                return Vec::new();
            }
            (at + 1..=at + n as usize).collect()
        };
        match *self {
            Keys::None | Keys::Channels(..) => Vec::new(),
            Keys::Range(first, last, step) => {
                let last = if last < 0 { args.len() as i32 + last } else { last };
                (first..=last)
                    .step_by(step as usize)
                    .map(|i| i as usize)
                    .take_while(|&i| i < args.len())
                    .collect()
            }
            Keys::Counted(at) => counted(at),
            Keys::AndCounted(first, at) => {
                let mut keys = counted(at);
                if !keys.is_empty() {
                    keys.insert(0, first);
                }
                keys
            }
            Keys::Special(_, find) => find(args),
        }
    }
}

/// Where keys may be that stand at no fixed place, as `COMMAND INFO` shows it.
#[derive(Clone, Copy)]
pub enum Search {
    /// The command's words, or the data, must be understood.
    Unknown,
    /// From behind this word to the end. It is looked for from this argument on, or if that is
    /// negative backwards from there.
    After(&'static str, i32),
}

/// What there is to know about a command.
pub struct Spec {
    /// Lower case; a subcommand is `container|sub`.
    pub name: &'static str,
    /// The number of arguments with the name; negative: at least so many. For a subcommand both
    /// words count.
    pub arity: i32,
    pub flags: u32,
    /// ACL categories beyond those that follow from the flags.
    pub categories: u32,
    pub keys: Keys,
    /// What it may do to its first key, as bits of [`access`], and to the others if that is not the same.
    pub key: u32,
    pub other_keys: Option<u32>,
    /// More keys, with what it may do to them.
    pub more_keys: &'static [(Search, u32)],
    /// What a command with these words does to its first key.
    pub key_by_words: Option<fn(&Args<'_>) -> u32>,
    /// Advice for those who send it to several servers or compare replies, as `COMMAND INFO` shows it.
    pub tips: &'static [&'static str],
    pub group: &'static str,
    pub since: &'static str,
    pub complexity: &'static str,
    pub summary: &'static str,
    /// In the notation of [`crate::grammar`].
    pub arguments: &'static str,
    /// The version of Redis that deprecated it, and what to say in its place.
    pub deprecated: Option<(&'static str, &'static str)>,
    /// Whether it is for servers and tests rather than for clients.
    pub is_internal: bool,
}

impl Spec {
    pub const fn new(
        name: &'static str,
        arity: i32,
        flags: u32,
        categories: u32,
        keys: Keys,
    ) -> Spec {
        let key = match flags & flag::WRITE {
            0 => access::RO | access::ACCESS,
            _ => access::RW | access::ACCESS | access::UPDATE,
        };
        Spec {
            name,
            arity,
            flags,
            categories,
            keys,
            key,
            other_keys: None,
            more_keys: &[],
            key_by_words: None,
            tips: &[],
            group: "",
            since: "",
            complexity: "",
            summary: "",
            arguments: "",
            deprecated: None,
            is_internal: false,
        }
    }

    /// What it may do to its keys, if that is not to read all of what they hold, or to read it and to
    /// change it when the command writes.
    pub const fn key(mut self, access: u32) -> Spec {
        self.key = access;
        self
    }

    /// What it may do to the keys after the first, if that is something else.
    pub const fn other_keys(mut self, access: u32) -> Spec {
        self.other_keys = Some(access);
        self
    }

    /// Where further keys may be, for whoever reads the table.
    pub const fn more_keys(mut self, found: &'static [(Search, u32)]) -> Spec {
        self.more_keys = found;
        self
    }

    /// Advice for clients, in Redis's words.
    pub const fn tips(mut self, tips: &'static [&'static str]) -> Spec {
        self.tips = tips;
        self
    }

    /// `of` says what it does to its first key, as that depends on its words.
    pub const fn key_by_words(mut self, of: fn(&Args<'_>) -> u32) -> Spec {
        self.key |= access::VARIABLE;
        self.key_by_words = Some(of);
        self
    }

    /// What a command with these arguments may do to the `n`th of its keys, as bits of [`access`].
    pub fn access(&self, n: usize, args: &Args<'_>) -> u32 {
        match (n, self.key_by_words) {
            (0, Some(of)) => of(args),
            (0, None) => self.key,
            _ => self.other_keys.unwrap_or(self.key),
        }
    }

    /// `COMMAND DOCS`: group, version of Redis it came with, cost, one sentence, and its arguments in
    /// the notation of [`crate::grammar`].
    pub const fn doc(
        mut self,
        group: &'static str,
        since: &'static str,
        complexity: &'static str,
        summary: &'static str,
        arguments: &'static str,
    ) -> Spec {
        self.group = group;
        self.since = since;
        self.complexity = complexity;
        self.summary = summary;
        self.arguments = arguments;
        self
    }

    /// Since which version of Redis it is deprecated, and by what it is replaced.
    pub const fn deprecated(mut self, since: &'static str, by: &'static str) -> Spec {
        self.deprecated = Some((since, by));
        self
    }

    /// It is for servers and tests rather than for clients.
    pub const fn internal(mut self) -> Spec {
        self.is_internal = true;
        self
    }

    pub fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Whether `n` arguments are a possible number.
    pub fn takes(&self, n: usize) -> bool {
        match self.arity {
            exact @ 0.. => n == exact as usize,
            least => n >= least.unsigned_abs() as usize,
        }
    }

    /// All ACL categories, those that follow from the flags included.
    pub fn all_categories(&self) -> u32 {
        let mut c = self.categories;
        let implied = [
            (flag::WRITE, category::WRITE),
            (flag::READONLY, category::READ),
            (flag::ADMIN, category::ADMIN | category::DANGEROUS),
            (flag::PUBSUB, category::PUBSUB),
            (flag::FAST, category::FAST),
            (flag::BLOCKING, category::BLOCKING),
        ];
        for (flag, categories) in implied {
            if self.has(flag) {
                c |= categories;
            }
        }
        // Scripting commands are neither.
        if self.has(flag::READONLY) && c & category::SCRIPTING != 0 {
            c &= !category::READ;
        }
        if !self.has(flag::FAST) {
            c |= category::SLOW;
        }
        c
    }
}

/// A command on data.
pub type Handler = fn(&mut Ctx<'_>, &mut Args<'_>) -> Result<(), Error>;

/// An entry of a command table: what it is, and what runs it.
pub struct Command<F: 'static> {
    pub spec: Spec,
    pub run: F,
}

/// What a client that blocks gets when its time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnTimeout {
    Null,
    NullArray,
}

/// A command that found nothing and wants to be run again when one of `keys` has something.
#[derive(Debug)]
pub struct Block {
    pub keys: Vec<Box<[u8]>>,
    /// When to give up, Unix ms; never if `None`.
    pub until_ms: Option<i64>,
    pub on_timeout: OnTimeout,
}

/// What a running command can reach.
pub struct Ctx<'a> {
    pub ks: &'a mut Keyspace,
    /// The database that the client selected.
    pub db: usize,
    pub reply: &'a mut Reply,
    /// Set by a blocking command that found nothing; it must have written no reply.
    pub block: Option<Block>,
    /// False in a transaction and for commands from the log: a blocking command then answers as if
    /// its time were over.
    pub may_block: bool,
    replaced: bool,
}

impl<'a> Ctx<'a> {
    pub fn new(ks: &'a mut Keyspace, db: usize, reply: &'a mut Reply) -> Ctx<'a> {
        Ctx { ks, db, reply, block: None, may_block: true, replaced: false }
    }

    /// One change to a key: see [`Keyspace::changed`].
    #[inline]
    pub fn changed(&mut self, key: &[u8], class: u32, name: &'static str) {
        self.ks.changed(self.db, key, class, name);
    }

    /// Says what the log gets *instead* of the command as it came. May be called several times; all
    /// are atomic together.
    pub fn effect<'p>(
        &mut self,
        parts: impl IntoIterator<Item = &'p [u8], IntoIter: ExactSizeIterator>,
    ) {
        self.ks.effects.push(self.db, parts.into_iter());
        self.replaced = true;
    }

    /// As [`Ctx::effect`], of parts that may be shared.
    pub fn effect_of<const N: usize>(&mut self, parts: [Part<'_>; N]) {
        self.ks.effects.push_parts(self.db, parts.into_iter());
        self.replaced = true;
    }

    /// The log gets nothing from this command, whatever it changed (beyond effects already said).
    pub fn no_effect(&mut self) {
        self.replaced = true;
    }
}

/// What a command left for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    Nothing,
    /// The command as it came, after whatever stands in `Keyspace::effects`.
    AsItCame,
    /// What stands in `Keyspace::effects`, and only that.
    Effects,
}

/// Runs a command whose arity was checked; an error is the caller's to reply.
///
/// `Keyspace::effects` holds what must go to the log before the command itself (keys that turned
/// out to be expired) or instead of it.
#[inline]
pub fn call(ctx: &mut Ctx<'_>, run: Handler, args: &mut Args<'_>) -> (Written, Result<(), Error>) {
    let before = ctx.ks.dirty;
    ctx.replaced = false;
    let result = run(ctx, args);
    let written = match (ctx.replaced, ctx.ks.dirty != before) {
        (false, true) => Written::AsItCame,
        _ if ctx.ks.effects.is_empty() => Written::Nothing,
        _ => Written::Effects,
    };
    (written, result)
}
