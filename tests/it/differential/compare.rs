//! When two replies count as the same: everything that servers of Redis 7.0 and 7.2 may do
//! differently, in one place.
//!
//! | what | why it may differ | how it is compared |
//! | --- | --- | --- |
//! | order of hash fields, set members, keys | a hash table's own | sorted |
//! | `SORT … BY nosort`, since the key may be a set | as above | sorted; with `LIMIT` by length |
//! | `SORT … ALPHA`, of texts alike up to a zero byte | Redis's `strcoll` sees no further, so their order is chance | up to that byte |
//! | doubles of sorted sets | 7.0 prints `%.17g`, 7.2 the shortest text that reads back | as numbers |
//! | `TTL`, `PTTL`, … after a relative time | each server has its own clock reading | within 20 s |
//! | long doubles beyond 17 digits | the tail is 80-bit arithmetic's | as numbers, then deleted |
//! | long doubles beyond a double's range | Redis's reach 1e4932 where `long double` has 80 bits | not tried, or deleted |
//! | encoding of a sorted set after `SORT` | 7.0 makes a skip list of it to read it | that of a copy |
//! | encoding of a small set | `listpack` is new in 7.2, 7.0 says `hashtable` | one name |
//! | `SCAN` and the like from a cursor that no server gave | a cursor is a place in that server's table | not compared, errors are |
//! | events and changes of a `BITFIELD` | Redis has none when all of it fails, though the string grew | not compared |
//! | hits and misses of `SORT BY` | Redis looks the other weights up after one that is no number | not compared |
//! | calls of `INFO` | they are the test's own | not compared |
//! | encoding of a small list | `listpack` from 7.2 on, 7.0 says `quicklist` | one name |

use crate::support::{Command, Value};

/// How far apart the two servers may have run the same relative expiry.
pub const CLOCK_SLACK_MS: i64 = 20_000;

/// Whether the replies of the server under test and of the oracle to `command` agree.
pub fn same(command: &Command, ours: &Value, oracle: &Value) -> bool {
    let name = command.name();
    match (name.as_str(), ours, oracle) {
        ("TTL" | "EXPIRETIME", Value::Int(a), Value::Int(b)) => near(*a, *b, CLOCK_SLACK_MS / 1000),
        ("PTTL" | "PEXPIRETIME", Value::Int(a), Value::Int(b)) => near(*a, *b, CLOCK_SLACK_MS),
        // Of which kind the key is, is not known here; the data sets are compared with it at the end.
        ("OBJECT", Value::Bulk(ours), Value::Bulk(oracle)) if command.has("ENCODING") => {
            let newer = ours == b"listpack" && (oracle == b"hashtable" || oracle == b"quicklist");
            newer || ours == oracle
        }
        ("SCAN" | "SSCAN" | "HSCAN" | "ZSCAN", Value::Array(_), Value::Array(_)) => {
            let at = if name == "SCAN" { 1 } else { 2 };
            let begins = command.0.get(at).is_some_and(|cursor| cursor == b"0");
            !begins || equal(&normalise(command, ours), &normalise(command, oracle), false)
        }
        _ => equal(&normalise(command, ours), &normalise(command, oracle), name.starts_with('Z')),
    }
}

/// -1 and -2 are answers of their own; other times may be apart by `slack`.
fn near(a: i64, b: i64, slack: i64) -> bool {
    a == b || (a >= 0 && b >= 0 && (a - b).abs() <= slack)
}

/// A reply with its unspecified order taken away.
pub fn normalise(command: &Command, reply: &Value) -> Value {
    let unordered = match command.name().as_str() {
        "HKEYS" | "HVALS" | "SMEMBERS" | "SINTER" | "SUNION" | "SDIFF" | "KEYS" => true,
        // Of an unspecified order, a part is unspecified too: only its length is left.
        "SORT" | "SORT_RO" if unsorted(command) && command.has("LIMIT") => {
            return match reply {
                Value::Array(items) => Value::Int(items.len() as i64),
                other => other.clone(),
            };
        }
        "SORT" | "SORT_RO" if command.has("ALPHA") => return up_to_zero_bytes(reply),
        "SORT" | "SORT_RO" => unsorted(command),
        "HGETALL" => return sort_pairs(reply),
        _ => false,
    };
    match reply {
        Value::Array(items) if unordered => Value::Array(sorted(items)),
        Value::Set(items) if unordered => Value::Set(sorted(items)),
        other => other.clone(),
    }
}

/// Whether a `SORT` is by a pattern without `*`, which means not to sort.
fn unsorted(command: &Command) -> bool {
    let by = command.0.iter().position(|a| a.eq_ignore_ascii_case(b"BY"));
    by.and_then(|at| command.0.get(at + 1)).is_some_and(|pattern| !pattern.contains(&b'*'))
}

/// A reply's texts, each cut before its first zero byte.
fn up_to_zero_bytes(reply: &Value) -> Value {
    match reply {
        Value::Array(items) => Value::Array(items.iter().map(up_to_zero_bytes).collect()),
        Value::Bulk(text) => {
            Value::Bulk(text.iter().copied().take_while(|&byte| byte != 0).collect())
        }
        other => other.clone(),
    }
}

/// The one name of encodings that 7.0 and 7.2 call differently.
pub fn encoding_name(kind: &str, encoding: &str) -> String {
    match (kind, encoding) {
        ("set", "listpack") => "hashtable".into(),
        ("list", "listpack") => "quicklist".into(),
        _ => encoding.into(),
    }
}

fn sorted(items: &[Value]) -> Vec<Value> {
    let mut items = items.to_vec();
    items.sort_by_cached_key(order);
    items
}

/// Some total order of values: members are strings, or nil and integers among them.
fn order(value: &Value) -> Vec<u8> {
    match value {
        Value::Bulk(b) => b.clone(),
        other => format!("{other:?}").into_bytes(),
    }
}

fn sort_pairs(reply: &Value) -> Value {
    let mut pairs: Vec<(Value, Value)> = match reply {
        Value::Map(pairs) => pairs.clone(),
        Value::Array(flat) if flat.len().is_multiple_of(2) => {
            flat.chunks(2).map(|p| (p[0].clone(), p[1].clone())).collect()
        }
        other => return other.clone(),
    };
    pairs.sort_by_cached_key(|(field, _)| order(field));
    match reply {
        Value::Map(_) => Value::Map(pairs),
        _ => Value::Array(pairs.into_iter().flat_map(|(k, v)| [k, v]).collect()),
    }
}

/// Deep equality; with `numeric`, two texts of one number are equal.
fn equal(a: &Value, b: &Value, numeric: bool) -> bool {
    match (a, b) {
        (Value::Array(x), Value::Array(y)) | (Value::Set(x), Value::Set(y)) => {
            x.len() == y.len() && x.iter().zip(y).all(|(x, y)| equal(x, y, numeric))
        }
        (Value::Bulk(x), Value::Bulk(y)) if numeric && x != y => {
            matches!((number(x), number(y)), (Some(x), Some(y)) if x == y)
        }
        _ => a == b,
    }
}

/// Whether digits spell a number that is too large for a double.
pub fn beyond_double(text: &[u8]) -> bool {
    text.iter().any(u8::is_ascii_digit) && number(text).is_some_and(f64::is_infinite)
}

pub fn number(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Whether two sums differ only by what a double cannot hold, in digits or in size.
pub fn differs_as_it_may(ours: &Value, oracle: &[u8]) -> bool {
    beyond_double(oracle)
        || matches!(ours, Value::Bulk(ours) if same_but_for_long_tail(ours, oracle))
}

/// Whether what is told on a keyspace event's channel need not be told by both.
pub fn event_differs_as_it_may(channel: &[u8]) -> bool {
    channel.ends_with(b":setbit")
}

/// Whether a field of `INFO` may rise differently while `commands` run.
pub fn count_differs_as_it_may(name: &str, commands: &[Command]) -> bool {
    let may_fail = |c: &Command| c.name() == "BITFIELD" && c.has("FAIL");
    let sorts_by = |c: &Command| c.name() == "SORT" && c.has("BY");
    match name {
        "rdb_changes_since_last_save" => commands.iter().any(may_fail),
        "keyspace_hits" | "keyspace_misses" => commands.iter().any(sorts_by),
        _ => name.starts_with("cmdstat_info "),
    }
}

/// Two sums that agree but for what follows the 17th digit; both replies as text.
fn same_but_for_long_tail(ours: &[u8], oracle: &[u8]) -> bool {
    let digits = oracle.iter().filter(|b| b.is_ascii_digit()).count();
    let (Some(a), Some(b)) = (number(ours), number(oracle)) else { return false };
    digits > 17 && (a == b || (a - b).abs() <= 1e-14 * a.abs().max(b.abs()))
}
