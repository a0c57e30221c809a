//! Commands run against a keyspace, their replies and effects as text.

use super::all;
use crate::command::{Ctx, Written, call};
use crate::{Keyspace, OwnedArgs, Reply};

/// A keyspace and a client of it.
pub struct Bench {
    pub ks: Keyspace,
    /// The effects of the last command, a line each, arguments separated by spaces.
    pub effects: Vec<String>,
}

impl Bench {
    pub fn new() -> Bench {
        let mut ks = Keyspace::new(16, 42);
        ks.now_ms = 1_700_000_000_000;
        Bench { ks, effects: Vec::new() }
    }

    /// Runs `line`, split at spaces, in database 0; the reply as RESP text with CRLF as `|`.
    pub fn run(&mut self, line: &str) -> String {
        let words: Vec<&str> = line.split(' ').collect();
        self.run_args(&words)
    }

    pub fn run_args(&mut self, words: &[&str]) -> String {
        let name = words[0].to_lowercase();
        let sub = words.get(1).map(|w| format!("{name}|{}", w.to_lowercase()));
        let find = |n: &str| all().find(|c| c.spec.name == n);
        let command = find(&name)
            .or_else(|| sub.and_then(|n| find(&n)))
            .unwrap_or_else(|| panic!("no command {name}"));
        assert!(command.spec.takes(words.len()), "wrong arity in the test: {words:?}");
        let mut reply = Reply::new();
        let owned = OwnedArgs::new(words);
        let mut args = owned.args();
        let mut ctx = Ctx::new(&mut self.ks, 0, &mut reply);
        let (written, result) = call(&mut ctx, command.run, &mut args);
        if let Err(error) = result {
            reply.error(&error);
        }
        self.effects.clear();
        let text = |resp: &[u8]| {
            let all = String::from_utf8_lossy(resp).into_owned();
            let parts: Vec<&str> = all.split("\r\n").skip(2).step_by(2).collect();
            parts.join(" ").trim().to_owned()
        };
        if written == Written::AsItCame {
            self.ks.effects.push(0, args.iter());
        }
        for op in self.ks.effects.ops() {
            let mut resp = Vec::new();
            self.ks.effects.each_piece(op, |piece| resp.extend_from_slice(&piece));
            self.effects.push(text(&resp));
        }
        self.ks.effects.clear();
        String::from_utf8_lossy(&reply.to_vec()).replace("\r\n", "|")
    }
}

#[test]
fn a_write_is_its_own_effect_unless_time_or_chance_is_in_it() {
    let mut b = Bench::new();
    assert_eq!(b.run("SET k v"), "+OK|");
    assert_eq!(b.effects, ["SET k v"]);
    assert_eq!(b.run("GET k"), "$1|v|");
    assert!(b.effects.is_empty());
    b.run("SET k v EX 10");
    assert_eq!(b.effects, ["SET k v PXAT 1700000010000"]);
    b.run("INCRBYFLOAT f 1.5");
    assert_eq!(b.effects, ["SET f 1.5 KEEPTTL"]);
    b.run("EXPIRE f 5");
    assert_eq!(b.effects, ["PEXPIREAT f 1700000005000"]);
    b.run("EXPIRE f -1");
    assert_eq!(b.effects, ["DEL f"]);
    assert_eq!(b.run("SETNX k other"), ":0|");
    assert!(b.effects.is_empty());
}

#[test]
fn an_expired_key_leaves_its_deletion_before_the_command() {
    let mut b = Bench::new();
    b.run("SET k v PX 5");
    b.ks.now_ms += 5;
    assert_eq!(b.run("APPEND k x"), ":1|");
    assert_eq!(b.effects, ["DEL k", "APPEND k x"]);
    assert_eq!(b.ks.dbs[0].expires().len(), 0);
}

#[test]
fn what_is_over_goes_before_it_is_overwritten() {
    let mut b = Bench::new();
    b.ks.notify = crate::keyspace::event::EXPIRED | crate::keyspace::event::NEW;
    for (n, command) in ["SET k new", "SET k new EX 9", "MSET k new"].iter().enumerate() {
        b.run("SET k v PX 5");
        b.ks.now_ms += 5;
        b.ks.events.clear();
        b.run(command);
        let heard: Vec<_> = b.ks.events.iter().map(|event| event.name).collect();
        assert_eq!(heard, ["expired", "new"], "{command}");
        assert_eq!(b.ks.stats.expired, n as u64 + 1);
        assert!(b.effects.len() == 1 && !b.effects[0].starts_with("DEL"), "{:?}", b.effects);
    }
}

#[test]
fn a_key_that_is_written_to_was_used_once_more() {
    let mut b = Bench::new();
    b.ks.access_clock = crate::keyspace::AccessClock::Lfu;
    b.ks.limits.lfu_log_factor = 0;
    b.run("SADD s a b");
    b.run(&format!("RPUSH large {}", "element ".repeat(100_000).trim_end()));
    for (command, key) in [
        ("SET k v", "k"),
        ("SET k v EX 100", "k"),
        ("SET k v NX", "k"),
        ("SETNX k v", "k"),
        ("MSETNX k v other v", "k"),
        ("APPEND k v", "k"),
        ("SETRANGE k 0 w", "k"),
        ("INCR n", "n"),
        ("INCRBYFLOAT f 0.5", "f"),
        ("SINTERSTORE t s", "t"),
        ("GETEX k", "k"),
    ] {
        b.run(command);
        let before = b.run(&format!("OBJECT FREQ {key}"));
        let before: u32 = before.trim_matches([':', '|']).parse().unwrap();
        b.run(command);
        assert_eq!(b.run(&format!("OBJECT FREQ {key}")), format!(":{}|", before + 1), "{command}");
    }
    b.run("SET large v");
    assert_eq!(b.run("OBJECT FREQ large"), ":6|");
}

#[test]
fn what_a_command_names_is_used_as_often_as_it_is_named() {
    for (made, command, used) in [
        ("SET k v", "BITOP NOT t k", "k 6 t 5"),
        ("MSET k v t w", "BITOP AND t k k", "k 7 t 6"),
        ("SADD k 1 2", "SMOVE k t 1", "k 6 t 5"),
        ("SADD t 2", "SMOVE k t 1", "t 6"),
        ("RPUSH k 1 2", "LMOVE k t LEFT RIGHT", "k 6 t 5"),
        ("RPUSH k 1 2", "LMOVE k k LEFT RIGHT", "k 7"),
        ("SET k v", "RENAME k t", "t 6"),
        ("SET k v", "COPY k t", "k 6 t 5"),
        ("MSET k v t w", "RENAMENX k t", "k 6 t 6"),
        // One that may have to wait looks at what it takes from before.
        ("RPUSH k 1 2", "BLMOVE k t LEFT RIGHT 0", "k 7 t 5"),
        ("RPUSH k 1 2", "BRPOPLPUSH k k 0", "k 8"),
        ("ZADD k 1 a 2 b", "BZPOPMIN none k 0", "k 7"),
        ("ZADD k 1 a 2 b", "BZMPOP 0 2 none k MAX", "k 7"),
    ] {
        let mut b = Bench::new();
        b.ks.access_clock = crate::keyspace::AccessClock::Lfu;
        b.ks.limits.lfu_log_factor = 0;
        b.run(made);
        b.run(command);
        let used: Vec<&str> = used.split(' ').collect();
        for key in used.chunks(2) {
            let shown = b.run(&format!("OBJECT FREQ {}", key[0]));
            assert_eq!(shown, format!(":{}|", key[1]), "{} after {command}", key[0]);
        }
    }
}

#[test]
fn looking_at_a_key_is_a_hit_or_a_miss_and_no_use_of_it() {
    let mut b = Bench::new();
    b.run("SET k v");
    b.ks.now_ms += 60_000;
    b.ks.notify = crate::keyspace::event::KEY_MISS;
    for command in ["EXISTS", "TYPE", "TTL", "PTTL", "EXPIRETIME", "OBJECT ENCODING"] {
        let before = b.ks.stats;
        b.run(&format!("{command} k"));
        b.run(&format!("{command} none"));
        let after = b.ks.stats;
        assert_eq!((after.hits, after.misses), (before.hits + 1, before.misses + 1), "{command}");
        let heard = std::mem::take(&mut b.ks.events).len();
        assert_eq!(heard, (command != "OBJECT ENCODING") as usize, "{command}");
    }
    assert_eq!(b.run("OBJECT IDLETIME k"), ":60|");
}

#[test]
fn the_expiry_index_follows_every_move_of_an_entry() {
    let mut b = Bench::new();
    for i in 0..200 {
        b.run(&format!("SET key:{i} {} PX 100000", "v".repeat(i * 7)));
        b.run(&format!("APPEND key:{i} tail"));
        b.run(&format!("RENAME key:{i} new:{i}"));
        b.run(&format!("SETRANGE new:{i} 3000 x"));
        if i % 2 == 0 {
            b.run(&format!("PERSIST new:{i}"));
        }
    }
    let db = &b.ks.dbs[0];
    assert_eq!((db.len(), db.expires().len()), (200, 100));
    b.ks.now_ms += 200_000;
    assert_eq!(b.run("EXISTS new:1 new:2"), ":1|");
    assert!(b.ks.dbs[0].peek(b"new:2").is_some());
}

/// One set of a million members was freed in 68 ms by the thread that serves clients.
#[test]
fn a_flush_leaves_few_large_keys_to_another_thread() {
    let mut bench = Bench::new();
    let members: Vec<String> = (0..1000).map(|n| format!("member:{n}")).collect();
    for (flush, left) in [("FLUSHALL ASYNC", 1), ("FLUSHDB ASYNC", 1), ("FLUSHALL SYNC", 0)] {
        let words: Vec<&str> =
            ["SADD", "k"].into_iter().chain(members.iter().map(|m| &**m)).collect();
        assert_eq!(bench.run_args(&words), ":1000|");
        bench.ks.garbage.clear();
        assert_eq!(bench.run(flush), "+OK|");
        assert_eq!((bench.ks.garbage.len(), bench.run("DBSIZE")), (left, ":0|".into()), "{flush}");
    }
}
