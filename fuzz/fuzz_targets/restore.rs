//! `RESTORE` of any bytes, then commands on what it gave.

#![no_main]

use libfuzzer_sys::fuzz_target;
use varve_engine::Keyspace;
use varve_engine::command::{Keys, flag};
use varve_engine::keyspace::Limits;
use varve_fuzz::memory::bounded;
use varve_fuzz::{run, support::content};
use varve_persistence::rdb;

const KEY: &[u8] = b"k";
const OTHER: &[u8] = b"other";
/// What stands where no key is: numbers, bounds and options that commands take.
const WORDS: &[&[u8]] = &[
    b"0",
    b"1",
    b"-1",
    b"2",
    b"3",
    b"-3",
    b"7",
    b"100",
    b"a",
    b"b",
    b"field",
    b"0.5",
    b"-inf",
    b"+inf",
    b"(1",
    b"[a",
    b"-",
    b"+",
    b"withscores",
    b"withvalues",
    b"limit",
    b"rev",
    b"byscore",
    b"bylex",
    b"count",
    b"match",
    b"*",
    b"left",
    b"right",
    b"before",
    b"after",
    b"min",
    b"max",
    b"weights",
    b"aggregate",
    b"get",
    b"#",
    b"alpha",
    b"desc",
    b"store",
    b"nx",
    b"xx",
    b"ch",
    b"incr",
    b"and",
    b"xor",
    b"not",
    b"u8",
    b"i64",
    b"set",
    b"incrby",
    b"overflow",
    b"sat",
    b"rank",
    b"maxlen",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"1e308",
    b"",
    b"encoding",
    b"ex",
    b"persist",
];

struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n
    }
}

fn payload(value: &[u8], version: u16) -> Vec<u8> {
    let mut payload = value.to_vec();
    payload.extend(version.to_le_bytes());
    payload.extend(rdb::crc64(&payload).to_le_bytes());
    payload
}

/// Runs some command that has a key, mostly the one that was restored.
fn some_command(ks: &mut Keyspace, dice: &mut Dice) {
    let commands = varve_engine::commands::all();
    let keyed = |keys: &Keys| !matches!(keys, Keys::None);
    let commands: Vec<_> =
        commands.filter(|c| keyed(&c.spec.keys) && !c.spec.has(flag::BLOCKING)).collect();
    let spec = &commands[dice.below(commands.len())].spec;
    let least = spec.arity.unsigned_abs() as usize;
    let more = if spec.arity < 0 { dice.below(5) } else { 0 };
    let mut words = vec![spec.name.as_bytes()];
    while words.len() < least + more {
        let at = words.len() as i32;
        let (first, last, step) = spec.keys.range();
        let is_key =
            first > 0 && at >= first && (at <= last || last < 0) && (at - first) % step == 0;
        words.push(match (is_key, dice.below(6)) {
            (true, 0) => OTHER,
            (true, _) | (false, 0) => KEY,
            _ => WORDS[dice.below(WORDS.len())],
        });
    }
    run(ks, 0, &words);
}

fuzz_target!(|data: &[u8]| {
    let Some((&flags, value)) = data.split_first() else { return };
    // No command is to make a value of half a gigabyte of a large offset.
    let mut limits = Limits { max_string: 1 << 20, ..Limits::default() };
    if flags & 0x80 != 0 {
        // What is small is large then.
        limits.hash_max_listpack_entries = 2;
        limits.list_max_listpack_size = 2;
        limits.set_max_intset_entries = 2;
        limits.set_max_listpack_entries = 2;
        limits.zset_max_listpack_entries = 2;
    }
    let payload = payload(value, u16::from(flags & 15));
    let most = (1 << 20) + 4096 * payload.len();
    let restored = bounded(most, || rdb::restore(&payload, KEY, &limits, None));
    let Ok(entry) = restored else { return };
    for version in 9..=12 {
        let again = rdb::restore(&rdb::dump(&entry, version), KEY, &limits, None)
            .expect("a payload of our own is restored");
        assert!(content(&again) == content(&entry), "version {version} gives another value");
    }
    let mut ks = Keyspace::new(1, 1);
    ks.limits = limits.clone();
    ks.now_ms = 1_700_000_000_000;
    let seed = rdb::crc64(&payload) | 1;
    let mut dice = Dice(seed);
    for _ in 0..4 {
        ks.put(0, rdb::restore(&payload, KEY, &limits, None).expect("as before"));
        for _ in 0..8 {
            some_command(&mut ks, &mut dice);
        }
        for key in [KEY, OTHER] {
            let Some(entry) = ks.peek(0, key) else { continue };
            let again = rdb::restore(&rdb::dump(entry, 10), key, &limits, None)
                .expect("a payload of our own is restored");
            assert!(content(&again) == content(entry), "DUMP after commands gives another value");
        }
        ks.flush(0, false);
    }
});
