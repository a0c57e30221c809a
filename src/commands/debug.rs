//! `DEBUG`: what tests and people in trouble use to look inside, and to make things go wrong.
//!
//! Open only as far as `enable-debug-command` says. It is one command, as in Redis, so that one rule
//! covers all of it.

use super::{Done, no_such_use};
use crate::server::Server;
use crate::server::dispatch::Call;
use crate::server::registry::{Run, ServerHandler};
use crate::{log_notice, log_warning};
use std::path::Path;
use std::time::Duration;
use varve_engine::command::{Command, Ctx, Keys, Spec, flag::*};
use varve_engine::entry::Payload;
use varve_engine::keyspace::Origin;
use varve_engine::num::{parse_double, parse_int};
use varve_engine::table::{ResizePolicy, set_resize_policy};
use varve_engine::value::{SAMPLES, Type};
use varve_engine::{Args, Error, OwnedArgs, Reply, glob};
use varve_persistence::offset::Histories;

/// A digest of 160 bits. Sums of digests do not depend on the order of what is summed. It tells
/// datasets apart; it resists nobody who looks for collisions.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Digest([u64; 3]);

impl Digest {
    fn of(parts: &[&[u8]]) -> Digest {
        let mut digest =
            Digest([0x9e37_79b9_7f4a_7c15, 0xc2b2_ae3d_27d4_eb4f, 0x1656_67b1_9e37_79f9]);
        for part in parts {
            for (i, lane) in digest.0.iter_mut().enumerate() {
                // The length keeps ("ab", "c") and ("a", "bc") apart.
                let mut h = *lane ^ (part.len() as u64 + 1).wrapping_mul(0x1000_0000_01b3);
                for &b in *part {
                    h = (h ^ (b as u64 + i as u64 * 257)).wrapping_mul(0x0100_0000_01b3);
                }
                *lane = mix(h);
            }
        }
        digest
    }

    fn add(&mut self, other: Digest) {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a = a.wrapping_add(b));
    }

    fn bytes(&self) -> [u8; 24] {
        let mut out = [0; 24];
        for (chunk, lane) in out.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&lane.to_be_bytes());
        }
        out
    }

    fn hex(&self) -> String {
        self.bytes()[..20].iter().map(|b| format!("{b:02x}")).collect()
    }
}

/// Spreads every bit over all others (the finalizer of SplitMix64).
fn mix(mut h: u64) -> u64 {
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

/// The elements of a flat array reply in RESP 2.
fn elements(resp: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut rest = resp;
    while let Some(end) = rest.windows(2).position(|w| w == b"\r\n") {
        let (line, after) = (&rest[..end], &rest[end + 2..]);
        match (line.first(), line.get(1..).and_then(parse_int)) {
            (Some(b'$'), Some(len @ 0..)) if after.len() >= len as usize + 2 => {
                found.push(after[..len as usize].to_vec());
                rest = &after[len as usize + 2..];
            }
            (Some(b':'), _) => {
                found.push(line[1..].to_vec());
                rest = after;
            }
            _ => rest = after,
        }
    }
    found
}

impl Server {
    /// What a command that only reads answers, without traces in the counters, and whatever is
    /// expired being there.
    fn look(&mut self, db: usize, words: &[&[u8]]) -> Vec<Vec<u8>> {
        let id = self.commands.by_name(&String::from_utf8_lossy(words[0]));
        let Some(Run::Data(run)) = id.map(|id| self.commands.get(id).run) else {
            return Vec::new();
        };
        let (stats, origin) = (self.ks.stats, self.ks.origin);
        self.ks.origin = Origin::Log;
        let mut reply = Reply::new();
        let args = OwnedArgs::new(words);
        let mut ctx = Ctx::new(&mut self.ks, db, &mut reply);
        let _ = varve_engine::command::call(&mut ctx, run, &mut args.args());
        (self.ks.stats, self.ks.origin) = (stats, origin);
        elements(&reply.to_vec())
    }

    /// The digest of a key's value and of whether it has a time to live.
    fn value_digest(&mut self, db: usize, key: &[u8]) -> Option<Digest> {
        let entry = self.ks.dbs[db].peek(key)?;
        let (kind, expires) = (entry.type_of(), entry.expire().is_some());
        let words: &[&[u8]] = match kind {
            Type::String => &[b"get", key],
            Type::List => &[b"lrange", key, b"0", b"-1"],
            Type::Hash => &[b"hgetall", key],
            Type::Set => &[b"smembers", key],
            Type::Zset => &[b"zrange", key, b"0", b"-1", b"withscores"],
        };
        let parts = self.look(db, words);
        let mut sum = Digest::default();
        let name = kind.name().as_bytes();
        match kind {
            Type::String | Type::List => {
                let mut all: Vec<&[u8]> = vec![name];
                all.extend(parts.iter().map(|p| &p[..]));
                sum.add(Digest::of(&all));
            }
            Type::Set => parts.iter().for_each(|m| sum.add(Digest::of(&[name, m]))),
            Type::Hash | Type::Zset => {
                parts.chunks_exact(2).for_each(|p| sum.add(Digest::of(&[name, &p[0], &p[1]])))
            }
        }
        if expires {
            sum.add(Digest::of(&[b"expires"]));
        }
        Some(sum)
    }

    /// The digest of all databases.
    fn digest(&mut self) -> Digest {
        let mut sum = Digest::default();
        for db in 0..self.ks.dbs.len() {
            let keys: Vec<Box<[u8]>> =
                self.ks.dbs[db].keys().iter().map(|e| e.key().into()).collect();
            for key in keys {
                if let Some(value) = self.value_digest(db, &key) {
                    sum.add(Digest::of(&[db.to_string().as_bytes(), &key, &value.bytes()]));
                }
            }
        }
        sum
    }

    fn flush_everything(&mut self) {
        for db in 0..self.ks.dbs.len() {
            self.ks.flush(db, false);
        }
        self.collect_garbage();
    }
}

fn object(s: &mut Server, call: &mut Call, key: &[u8]) -> Done {
    s.ks.now_ms = s.clock.now_ms();
    let Some(entry) = s.ks.dbs[call.client.db].peek(key) else { return Err(Error::NO_SUCH_KEY) };
    let mut room = itoa::Buffer::new();
    let length = entry.string().map_or(entry.memory(SAMPLES), |text| text.bytes(&mut room).len());
    let text = format!(
        "Value at:{entry:p} refcount:1 encoding:{} serializedlength:{length} lru:{} lru_seconds_idle:{}",
        entry.encoding(),
        entry.access(),
        s.ks.idle_seconds(entry)
    );
    call.reply.simple(&text);
    Ok(())
}

fn table_stats<T: varve_engine::table::Slot>(
    title: &str,
    t: &varve_engine::table::Table<T>,
) -> String {
    let stats = t.stats();
    let mut text = format!("[{title}]\nHash table 0 stats (main hash table):\n");
    if stats.entries == 0 {
        return text + "No stats available for empty dictionaries\n";
    }
    text += &format!(
        " table size: {}\n number of elements: {}\n chained buckets: {}\n max chain length: {}\n bytes: {}\n rehashing: {}\n Chain length distribution:\n",
        stats.buckets,
        stats.entries,
        stats.children,
        stats.longest_chain,
        stats.memory,
        if t.rehashing() { "yes" } else { "no" }
    );
    for (length, n) in stats.by_chain_length.iter().enumerate().filter(|(_, n)| **n > 0) {
        let percent = *n as f64 * 100.0 / stats.buckets as f64;
        text += &format!("   {length}: {n} ({percent:.2}%)\n");
    }
    text
}

fn htstats(s: &mut Server, call: &mut Call, db: &[u8]) -> Done {
    let db = parse_int(db).ok_or(Error::NOT_INT)?;
    let Some(db) = usize::try_from(db).ok().and_then(|db| s.ks.dbs.get(db)) else {
        return Err(Error::new("ERR Out of range database"));
    };
    let text = table_stats("Dictionary HT", db.keys()) + &table_stats("Expires HT", db.expires());
    call.reply.verbatim("txt", text.as_bytes());
    Ok(())
}

fn htstats_key(s: &mut Server, call: &mut Call, key: &[u8]) -> Done {
    let Some(entry) = s.ks.dbs[call.client.db].peek(key) else { return Err(Error::NO_SUCH_KEY) };
    if !matches!(entry.encoding(), "hashtable" | "skiplist") {
        return Err(Error::new(
            "ERR The value stored at the specified key is not represented using an hash table",
        ));
    }
    let text =
        format!("[Value HT]\n encoding: {}\n bytes: {}\n", entry.encoding(), entry.memory(SAMPLES));
    call.reply.verbatim("txt", text.as_bytes());
    Ok(())
}

fn listpack(s: &mut Server, call: &mut Call, key: &[u8]) -> Done {
    let db = call.client.db;
    let Some(entry) = s.ks.dbs[db].peek(key) else { return Err(Error::NO_SUCH_KEY) };
    if entry.encoding() != "listpack" {
        return Err(Error::new("ERR Not a listpack encoded object."));
    }
    let words: &[&[u8]] = match entry.type_of() {
        Type::List => &[b"lrange", key, b"0", b"-1"],
        Type::Hash => &[b"hgetall", key],
        Type::Zset => &[b"zrange", key, b"0", b"-1", b"withscores"],
        _ => &[b"smembers", key],
    };
    for (i, element) in s.look(db, words).iter().enumerate() {
        log_notice!("listpack element {i}: {}", String::from_utf8_lossy(element));
    }
    call.reply.simple("Listpack structure written to the log");
    Ok(())
}

fn reload(s: &mut Server, call: &mut Call, args: &Args) -> Done {
    let (mut save, mut flush, mut merge) = (true, true, false);
    for word in args.rest(2) {
        match &word.to_ascii_lowercase()[..] {
            b"nosave" => save = false,
            b"noflush" => flush = false,
            b"merge" => merge = true,
            _ => {
                return Err(Error::new(
                    "ERR DEBUG RELOAD only supports the MERGE, NOFLUSH and NOSAVE options.",
                ));
            }
        }
    }
    if !flush && !merge && s.ks.dbs.iter().any(|db| !db.is_empty()) {
        return Err(Error::new("ERR DEBUG RELOAD NOFLUSH needs MERGE where there are keys"));
    }
    if save {
        s.save_now().map_err(Error::err)?;
    }
    if flush {
        s.flush_everything();
    }
    let path = s.cfg.dbfilename.clone();
    s.load_rdb(call.net, Path::new(&path), merge).map_err(|why| {
        log_warning!("DEBUG RELOAD: {why}");
        Error::new("ERR Error trying to load the RDB dump, check server logs.")
    })?;
    log_warning!("DB reloaded by DEBUG RELOAD");
    call.reply.ok();
    Ok(())
}

fn loadaof(s: &mut Server, call: &mut Call) -> Done {
    // What a transaction has written is in the log when it ends.
    let busy = s.snapshots.running() || s.in_exec.is_some();
    if !s.log.is_on_disk() || busy || !s.is_primary() {
        return Err(Error::new(
            "ERR DEBUG LOADAOF needs a primary with its log on disk, no child at work and no transaction",
        ));
    }
    if let Some(why) = s.log.error() {
        return Err(Error::err(format_args!("The log's files do not have all of it: {why}")));
    }
    s.flush_everything();
    s.reload_log(call.net).map_err(|why| {
        log_warning!("Fatal error of DEBUG LOADAOF, exiting: {why}");
        // What was read of the files must not become the log in their place.
        (s.insisted, s.stopping) = (true, true);
        Error::new("ERR Error trying to load the AOF files, check server logs.")
    })?;
    log_warning!("Append Only File loaded by DEBUG LOADAOF");
    call.reply.ok();
    Ok(())
}

fn protocol(call: &mut Call, kind: &[u8]) -> Done {
    let reply = &mut *call.reply;
    match &kind.to_ascii_lowercase()[..] {
        b"string" => reply.bulk(b"Hello World"),
        b"integer" => reply.int(12345),
        b"double" => reply.double(3141.0 / 1000.0),
        b"null" => reply.null(),
        b"array" => {
            reply.array(3);
            (0..3).for_each(|i| reply.int(i));
        }
        b"set" => {
            reply.set(3);
            (0..3).for_each(|i| reply.int(i));
        }
        b"map" => {
            reply.map(3);
            for i in 0..3 {
                reply.int(i);
                reply.bool(i == 1);
            }
        }
        b"bignum" if reply.resp3 => reply.raw(b"(1234567999999999999999999999999999999\r\n"),
        b"bignum" => reply.bulk(b"1234567999999999999999999999999999999"),
        b"attrib" => {
            // Attributes stand before a reply, and only RESP 3 has them.
            if reply.resp3 {
                reply.raw(b"|1\r\n");
                reply.bulk(b"key-popularity");
                reply.array(2);
                reply.bulk(b"key:123");
                reply.int(90);
            }
            reply.bulk(b"Some real reply following the attribute");
        }
        b"push" if !reply.resp3 => {
            return Err(Error::new("ERR RESP2 is not supported by this command"));
        }
        b"push" => {
            // A push is no reply, and comes behind it.
            reply.bulk(b"Some real reply following the push reply");
            reply.push(2);
            reply.bulk(b"server-cpu-usage");
            reply.int(42);
        }
        b"true" => reply.bool(true),
        b"false" => reply.bool(false),
        b"verbatim" => reply.verbatim("txt", b"This is a verbatim\nstring"),
        _ => {
            return Err(Error::new(
                "ERR Wrong protocol type name. Please use one of the following: string|integer|double|null|array|set|map|attrib|push|verbatim|true|false",
            ));
        }
    }
    Ok(())
}

fn populate(s: &mut Server, call: &mut Call, args: &Args) -> Done {
    let count = parse_int(&args[2]).filter(|n| *n >= 0).ok_or(Error::POSITIVE)?;
    let prefix = args.get(3).unwrap_or(b"key");
    let size = match args.get(4) {
        Some(word) => Some(parse_int(word).filter(|n| *n >= 0).ok_or(Error::POSITIVE)? as usize),
        None => None,
    };
    let (db, dirty) = (call.client.db, s.ks.dirty);
    s.see_as_reader();
    for i in 0..count {
        let key = [prefix, format!(":{i}").as_bytes()].concat();
        if s.ks.exists(db, &key) {
            continue;
        }
        let mut value = format!("value:{i}").into_bytes();
        if let Some(size) = size {
            value.resize(size, 0);
        }
        s.ks.set(db, &key, Payload::string(&value), None);
    }
    // These keys are this server's alone: neither the log nor a save point hears of them.
    s.ks.dirty = dirty;
    call.reply.ok();
    Ok(())
}

fn change_repl_id(s: &mut Server, call: &mut Call) -> Done {
    let history = varve_persistence::log::random_history().map_err(Error::err)?;
    log_warning!("Changing the history's id by DEBUG CHANGE-REPL-ID");
    s.histories = Histories::new(history);
    if s.is_primary() {
        s.repl.set_histories(s.histories);
        s.log.take_histories(s.histories);
    }
    call.reply.ok();
    Ok(())
}

fn digest_value(s: &mut Server, call: &mut Call, args: &Args) -> Done {
    call.reply.array(args.len() - 2);
    for key in args.rest(2) {
        let digest = s.value_digest(call.client.db, key).unwrap_or_default();
        call.reply.simple(&digest.hex());
    }
    Ok(())
}

/// Ends the process as a fault would.
fn crash(how: &[u8]) -> ! {
    log_warning!("Crashing by DEBUG {}", String::from_utf8_lossy(how).to_uppercase());
    if how == b"segfault" {
        let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSEGV);
    }
    if how == b"panic" {
        panic!("DEBUG PANIC");
    }
    std::process::abort()
}

fn debug(s: &mut Server, call: &mut Call, args: &mut Args) -> Done {
    let word = args[1].to_ascii_lowercase();
    let text = |i: usize| String::from_utf8_lossy(&args[i]).into_owned();
    match (&word[..], args.len()) {
        (b"help", 2) => return help(call),
        (b"sleep", 3) => {
            let seconds = parse_double(&args[2]).ok_or(Error::NOT_FLOAT)?;
            std::thread::sleep(Duration::try_from_secs_f64(seconds).unwrap_or_default());
        }
        (b"object", 3 | 4) => return object(s, call, &args[2]),
        (b"digest", 2) => {
            let digest = s.digest().hex();
            call.reply.simple(&digest);
            return Ok(());
        }
        (b"digest-value", 3..) => return digest_value(s, call, args),
        (b"htstats", 3 | 4) => return htstats(s, call, &args[2]),
        (b"htstats-key", 3 | 4) => return htstats_key(s, call, &args[2]),
        (b"listpack" | b"ziplist", 3) => return listpack(s, call, &args[2]),
        (b"reload", _) => return reload(s, call, args),
        (b"loadaof", 2) => return loadaof(s, call),
        (b"protocol", 3) => return protocol(call, &args[2]),
        (b"populate", 3..=5) => return populate(s, call, args),
        (b"change-repl-id", 2) => return change_repl_id(s, call),
        (b"error", 3) => return Err(Error::text(text(2))),
        (b"log", 3) => log_warning!("DEBUG LOG: {}", text(2)),
        (b"leak", 3) => drop(args[2].to_vec().leak()),
        (b"replicate", 3..) => {
            let parts: Vec<&[u8]> = args.rest(2).collect();
            s.ks.effects.push(call.client.db, parts.into_iter());
        }
        (b"set-active-expire", 3) => s.cron.no_active_expiry = parse_int(&args[2]) == Some(0),
        (b"set-skip-checksum-validation", 3) => {
            s.ks.limits.skip_checksum = parse_int(&args[2]) == Some(1);
        }
        (b"stringmatch-len", 4) => {
            let n = parse_int(&args[2]).filter(|n| (0..=1 << 24).contains(n));
            let subject = vec![b'a'; n.ok_or(Error::POSITIVE)? as usize];
            call.reply.int(glob::matches(&args[3], &subject, false) as i64);
            return Ok(());
        }
        (b"dict-resizing", 3) => set_resize_policy(match parse_int(&args[2]) {
            Some(0) => ResizePolicy::Avoid,
            _ => ResizePolicy::Allow,
        }),
        // These change how Redis lays out its own structures. There is nothing of the kind here, and
        // the tests that use them go on to check what is the same for all.
        (b"quicklist-packed-threshold" | b"set-disable-deny-scripts", 3) => {}
        (b"replybuffer", 4) => {}
        (b"segfault" | b"panic" | b"assert" | b"oom", 2) => crash(&word),
        _ => return Err(no_such_use("DEBUG", &args[1])),
    }
    call.reply.ok();
    Ok(())
}

fn help(call: &mut Call) -> Done {
    call.reply.help(
        "DEBUG",
        &[
            "CHANGE-REPL-ID",
            "    Begins another history.",
            "DIGEST | DIGEST-VALUE <key> [<key> ...]",
            "    Sums up all data, or some values, in one number.",
            "DICT-RESIZING (0|1)",
            "    Lets tables change their size, or not.",
            "ERROR <text>",
            "    Answers with that error.",
            "HTSTATS <db> | HTSTATS-KEY <key>",
            "    Describes the hash tables of a database or a value.",
            "LEAK <text>",
            "    Forgets memory without freeing it.",
            "LISTPACK <key>",
            "    Writes the elements of a small collection to the log.",
            "LOADAOF",
            "    Reads the data back from the log on disk.",
            "LOG <text>",
            "    Writes a line to the log file.",
            "OBJECT <key>",
            "    Describes how a value is kept.",
            "POPULATE <count> [<prefix>] [<size>]",
            "    Makes keys, on this server only.",
            "PROTOCOL <type>",
            "    Answers with a value of that type of the protocol.",
            "RELOAD [NOSAVE] [NOFLUSH] [MERGE]",
            "    Saves the data and reads it back.",
            "REPLICATE <word> [<word> ...]",
            "    Puts a command into the log without running it.",
            "SEGFAULT | PANIC | ASSERT | OOM",
            "    Ends the process as a fault would.",
            "SET-ACTIVE-EXPIRE (0|1)",
            "    Stops or resumes expiry in the background.",
            "SET-SKIP-CHECKSUM-VALIDATION (0|1)",
            "    Takes the payloads of RESTORE without looking at their checksum.",
            "SLEEP <seconds>",
            "    Stands still, decimals allowed.",
            "STRINGMATCH-LEN <len> <pattern>",
            "    Matches a pattern against a long text.",
        ],
    );
    Ok(())
}

/// One entry a command.
#[rustfmt::skip]
pub const COMMANDS: &[Command<ServerHandler>] = &[
    Command { run: debug, spec: Spec::new("debug", -2, ADMIN | NOSCRIPT | LOADING | STALE, 0, Keys::None).doc("server", "1.0.0", "By subcommand", "Looks inside, and makes things go wrong, for tests.", "subcommand [arg...]").internal() },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_tell_parts_apart_and_sums_forget_the_order() {
        assert_ne!(Digest::of(&[b"ab", b"c"]), Digest::of(&[b"a", b"bc"]));
        assert_ne!(Digest::of(&[b"a"]), Digest::of(&[b"a", b""]));
        let (a, b) = (Digest::of(&[b"a"]), Digest::of(&[b"b"]));
        let (mut ab, mut ba) = (a, b);
        ab.add(b);
        ba.add(a);
        assert_eq!(ab, ba);
        assert_eq!(Digest::default().hex(), "0".repeat(40));
    }

    #[test]
    fn elements_of_replies() {
        assert_eq!(elements(b"*2\r\n$1\r\na\r\n$2\r\n\r\n\r\n"), [b"a".to_vec(), b"\r\n".to_vec()]);
        assert_eq!(elements(b":12\r\n"), [b"12".to_vec()]);
        assert!(elements(b"$-1\r\n").is_empty());
        assert!(elements(b"$9\r\nabc\r\n").is_empty());
    }
}
