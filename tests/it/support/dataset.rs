//! All data of a server in one canonical form, so that two servers can be compared value by value.

use super::value::Bytes;
use super::{Client, Command, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// A key's value with everything that is unspecified (the order of hashes and sets) taken away.
#[derive(Clone, PartialEq)]
pub enum Data {
    String(Vec<u8>),
    List(Vec<Vec<u8>>),
    Set(BTreeSet<Vec<u8>>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    /// Members and scores in the server's order; scores as numbers, since servers print them
    /// differently.
    SortedSet(Vec<(Vec<u8>, f64)>),
    /// A stream's entries, as replied to `XRANGE - +`.
    Stream(Value),
}

/// A value and when it expires.
#[derive(Clone, PartialEq)]
pub struct Canonical {
    pub data: Data,
    /// Unix time in ms; -1 for none.
    pub expires_at_ms: i64,
}

/// `(db, key)` to value.
pub type Dataset = BTreeMap<(u32, Vec<u8>), Canonical>;

/// Reads all databases. The connection is left on database 0. It must speak RESP2 or RESP3.
pub fn dataset(client: &mut Client) -> Dataset {
    let keyspace = client.ok(&["INFO", "keyspace"]).text();
    let dbs: Vec<u32> = keyspace
        .lines()
        .filter_map(|line| line.strip_prefix("db")?.split(':').next()?.parse().ok())
        .collect();
    let mut all = Dataset::new();
    for db in dbs {
        client.ok(&["SELECT", &db.to_string()]);
        let keys = scan_all(client, &["SCAN"], &["COUNT", "1000"]);
        let keys: Vec<Vec<u8>> = keys.into_iter().collect();
        for keys in keys.chunks(1000) {
            read_keys(client, db, keys, &mut all);
        }
    }
    client.ok(&["SELECT", "0"]);
    all
}

/// Iterates SCAN, SSCAN, HSCAN or ZSCAN to its end: the set of all elements returned.
/// `head` is the command up to the cursor, `tail` what follows it.
pub fn scan_all<A: AsRef<[u8]>>(client: &mut Client, head: &[A], tail: &[A]) -> BTreeSet<Vec<u8>> {
    let mut found = BTreeSet::new();
    let mut cursor = b"0".to_vec();
    loop {
        let mut command = Command::new(head);
        command.0.push(cursor);
        command.0.extend(tail.iter().map(|a| a.as_ref().to_vec()));
        let mut reply = client.ok(&command.0).items();
        found.extend(reply.pop().unwrap().byte_items());
        cursor = reply.pop().unwrap().bytes().to_vec();
        if cursor == b"0" {
            return found;
        }
    }
}

fn read_keys(client: &mut Client, db: u32, keys: &[Vec<u8>], all: &mut Dataset) {
    let types: Vec<Command> = keys.iter().map(|k| Command::new(&[b"TYPE", &k[..]])).collect();
    let types = client.pipeline(&types);
    let mut reads = Vec::with_capacity(keys.len() * 2);
    for (key, kind) in keys.iter().zip(&types) {
        let words: (&str, &[&str]) = match kind.text().as_str() {
            "string" => ("GET", &[]),
            "list" => ("LRANGE", &["0", "-1"]),
            "hash" => ("HGETALL", &[]),
            "set" => ("SMEMBERS", &[]),
            "zset" => ("ZRANGE", &["0", "-1", "WITHSCORES"]),
            "stream" => ("XRANGE", &["-", "+"]),
            // Expired since it was scanned.
            "none" => ("TYPE", &[]),
            other => panic!("key {} has the unknown type {other}", Bytes(key)),
        };
        let mut read = Command::new(&[words.0.as_bytes(), key]);
        read.0.extend(words.1.iter().map(|w| w.as_bytes().to_vec()));
        reads.push(read);
        reads.push(Command::new(&[b"PEXPIRETIME", &key[..]]));
    }
    let mut replies = client.pipeline(&reads).into_iter();
    for (key, kind) in keys.iter().zip(&types) {
        let (value, expires) = (replies.next().unwrap(), replies.next().unwrap().int());
        if expires == -2 || kind.text() == "none" {
            continue;
        }
        let data = match kind.text().as_str() {
            "string" => Data::String(value.bytes().to_vec()),
            "list" => Data::List(value.byte_items()),
            "hash" => Data::Hash(pairs(value.byte_items()).collect()),
            "set" => Data::Set(value.byte_items().into_iter().collect()),
            "zset" => Data::SortedSet(scored(value.items())),
            _ => Data::Stream(value),
        };
        all.insert((db, key.clone()), Canonical { data, expires_at_ms: expires });
    }
}

fn pairs(flat: Vec<Vec<u8>>) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let mut flat = flat.into_iter();
    std::iter::from_fn(move || Some((flat.next()?, flat.next()?)))
}

/// Members with scores: flat in RESP2, pairs in RESP3.
fn scored(items: Vec<Value>) -> Vec<(Vec<u8>, f64)> {
    let flat: Vec<Value> = items
        .into_iter()
        .flat_map(|item| if let Value::Array(pair) = item { pair } else { vec![item] })
        .collect();
    let score = |v: &Value| match v {
        Value::Double(d) => *d,
        other => other.text().parse().expect("a score"),
    };
    flat.chunks(2).map(|pair| (pair[0].bytes().to_vec(), score(&pair[1]))).collect()
}

/// The first key whose value differs, told for a reader; `None` when all is the same.
/// Expiry times may differ by `expiry_slack_ms`: 0 for copies, more where each server took the
/// time itself.
pub fn first_difference(a: &Dataset, b: &Dataset, expiry_slack_ms: i64) -> Option<String> {
    let keys: BTreeSet<_> = a.keys().chain(b.keys()).collect();
    for id in keys {
        let same = match (a.get(id), b.get(id)) {
            (Some(x), Some(y)) => {
                let (s, t) = (x.expires_at_ms, y.expires_at_ms);
                x.data == y.data && (s < 0) == (t < 0) && (s - t).abs() <= expiry_slack_ms
            }
            _ => false,
        };
        if !same {
            let show = |d: &Dataset| d.get(id).map_or("nothing".into(), |c| format!("{c:?}"));
            let detail = match (a.get(id), b.get(id)) {
                (Some(x), Some(y)) => first_part(&x.data, &y.data),
                _ => String::new(),
            };
            return Some(format!(
                "{} and {} keys; db {} key {} differs:\n  first:  {}\n  second: {}\n{detail}",
                a.len(),
                b.len(),
                id.0,
                Bytes(&id.1),
                show(a),
                show(b),
            ));
        }
    }
    None
}

/// Where inside two values of one type the difference is.
fn first_part(a: &Data, b: &Data) -> String {
    fn at<T: PartialEq>(a: &[T], b: &[T]) -> usize {
        a.iter().zip(b).position(|(x, y)| x != y).unwrap_or(a.len().min(b.len()))
    }
    match (a, b) {
        (Data::List(x), Data::List(y)) => format!("  from element {}", at(x, y)),
        (Data::SortedSet(x), Data::SortedSet(y)) => {
            let i = at(x, y);
            format!("  from rank {i}: {:?} and {:?}", x.get(i), y.get(i))
        }
        (Data::Set(x), Data::Set(y)) => {
            let odd = x.symmetric_difference(y).next();
            format!("  member {}", odd.map_or(String::new(), |m| Bytes(m).to_string()))
        }
        (Data::Hash(x), Data::Hash(y)) => {
            let odd = x.keys().chain(y.keys()).find(|k| x.get(*k) != y.get(*k));
            format!("  field {}", odd.map_or(String::new(), |m| Bytes(m).to_string()))
        }
        (Data::String(x), Data::String(y)) => format!("  from byte {}", at(x, y)),
        _ => String::new(),
    }
}

/// Panics with the first difference between two servers' data.
pub fn assert_same_data(a: &mut Client, b: &mut Client) {
    if let Some(difference) = first_difference(&dataset(a), &dataset(b), 0) {
        panic!("{difference}");
    }
}

impl fmt::Debug for Canonical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn some<'a>(
            f: &mut fmt::Formatter<'_>,
            kind: &str,
            len: usize,
            items: impl Iterator<Item = &'a Vec<u8>>,
        ) -> fmt::Result {
            write!(f, "{kind} of {len} [")?;
            for item in items.take(8) {
                write!(f, "{} ", Bytes(item))?;
            }
            write!(f, "{}]", if len > 8 { "…" } else { "" })
        }
        match &self.data {
            Data::String(s) => write!(f, "string {}", Bytes(s))?,
            Data::List(v) => some(f, "list", v.len(), v.iter())?,
            Data::Set(v) => some(f, "set", v.len(), v.iter())?,
            Data::Hash(v) => some(f, "hash", v.len() * 2, v.iter().flat_map(|(k, v)| [k, v]))?,
            Data::SortedSet(v) => some(f, "zset", v.len(), v.iter().map(|(m, _)| m))?,
            Data::Stream(v) => write!(f, "stream {v:?}")?,
        }
        match self.expires_at_ms {
            -1 => Ok(()),
            at => write!(f, " expires at {at}"),
        }
    }
}
