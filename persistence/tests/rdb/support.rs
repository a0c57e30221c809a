//! Keyspaces to save, what they hold in comparable form, and the shortest ways to and from bytes.

use std::collections::BTreeMap;
use varve_engine::Keyspace;
use varve_engine::entry::{Entry, Payload};
use varve_engine::keyspace::Limits;
use varve_engine::quicklist::Quicklist;
use varve_engine::types::{hash::Hash, list::List, set::Set, zset::Zset};
use varve_engine::value::Value;
use varve_persistence::offset::{HistoryId, Offset};
use varve_persistence::rdb::{self, Buffers, Error, Item, Reader, SaveOptions};

/// A value as its content, whatever its encoding.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    Str(Vec<u8>),
    List(Vec<Vec<u8>>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
    Set(Vec<Vec<u8>>),
    /// In order.
    Zset(Vec<(Vec<u8>, f64)>),
}

pub fn content(entry: &Entry) -> Content {
    let Some(value) = entry.value() else {
        return Content::Str(entry.string().unwrap().bytes(&mut itoa::Buffer::new()).to_vec());
    };
    match value {
        Value::Str(text) => Content::Str(text.to_vec()),
        Value::List(list) => Content::List(list.range(0, list.len()).map(|e| e.to_vec()).collect()),
        Value::Hash(hash) => {
            let mut pairs = BTreeMap::new();
            hash.for_each(|f, v| assert_eq!(pairs.insert(f.to_vec(), v.to_vec()), None));
            Content::Hash(pairs)
        }
        Value::Set(set) => {
            let mut members: Vec<_> = set.iter().map(|e| e.to_vec()).collect();
            members.sort();
            Content::Set(members)
        }
        Value::Zset(zset) => {
            let mut members = vec![];
            zset.for_each(|m, s| members.push((m.to_vec(), s)));
            Content::Zset(members)
        }
    }
}

pub fn value_of(content: &Content, limits: &Limits) -> Payload<'static> {
    Payload::Value(match content {
        Content::Str(text) => return Payload::owned_string(text.clone().into()),
        Content::List(elements) => {
            let mut list = Quicklist::new(limits.list_max_listpack_size);
            elements.iter().for_each(|e| list.push_back(e));
            Value::List(List::from_quicklist(list, limits))
        }
        Content::Hash(pairs) => {
            let mut hash = Hash::new();
            pairs.iter().for_each(|(f, v)| assert!(hash.insert(f, v, limits)));
            Value::Hash(hash)
        }
        Content::Set(members) => {
            let mut set = Set::new();
            members.iter().for_each(|m| assert!(set.insert(m, limits)));
            Value::Set(set)
        }
        Content::Zset(members) => {
            let mut zset = Zset::new();
            members.iter().for_each(|(m, s)| assert!(zset.insert(m, *s, limits)));
            Value::Zset(zset)
        }
    })
}

/// All keys of all databases: content and time of expiry.
pub type Contents = BTreeMap<(usize, Vec<u8>), (Content, Option<i64>)>;

pub fn contents(ks: &Keyspace) -> Contents {
    let mut all = BTreeMap::new();
    for (db, keys) in ks.dbs.iter().enumerate() {
        for entry in keys.keys().iter() {
            all.insert((db, entry.key().to_vec()), (content(entry), entry.expire()));
        }
    }
    all
}

pub fn keyspace(contents: &Contents) -> Keyspace {
    let mut ks = Keyspace::new(16, 1);
    let limits = ks.limits.clone();
    for ((db, key), (content, expire)) in contents {
        let entry = Entry::new(key, value_of(content, &limits), *expire);
        assert!(ks.load(*db, entry, None, None, true).is_ok());
    }
    ks
}

pub fn options(version: u32) -> SaveOptions {
    SaveOptions {
        version,
        compress: true,
        checksum: true,
        now_ms: 1_700_000_000_123,
        used_memory: 1 << 20,
        history: HistoryId::from_random([7; 20]),
        offset: Offset(12345),
        db: 0,
        aof_base: false,
        lfu: false,
        evicts: false,
    }
}

pub fn save(ks: &Keyspace, options: &SaveOptions) -> Vec<u8> {
    let mut file = vec![];
    let mut write = |bytes: &[u8]| {
        file.extend_from_slice(bytes);
        Ok(())
    };
    let n = rdb::save(ks, options, &mut Buffers::new(), &mut write, &mut |_| {}).unwrap();
    assert_eq!(n, file.len() as u64);
    file
}

pub fn load(file: &[u8]) -> Result<Keyspace, Error> {
    load_by(Reader::new(file)?, file.len())
}

/// What is left of a file of that many bytes.
pub fn load_by(mut reader: Reader<'_>, len: usize) -> Result<Keyspace, Error> {
    let mut ks = Keyspace::new(16, 1);
    while let Some(item) = reader.next()? {
        if let Item::Key { db, entry, idle_s, freq, .. } = item
            && db < 16
        {
            let _ = ks.load(db, entry, idle_s, freq, false); // which key is left is not looked at
        }
    }
    assert!(reader.position() <= len);
    Ok(ks)
}

/// A file of version `version` with `records` between header and end, without a checksum.
pub fn file(version: u32, records: &[u8]) -> Vec<u8> {
    let mut file = format!("REDIS{version:04}").into_bytes();
    file.extend(records);
    file.push(255);
    if version >= 5 {
        file.extend([0; 8]);
    }
    file
}

/// The one key of a file of one record.
pub fn load_record(version: u32, record: &[u8]) -> Result<Content, Error> {
    let ks = load(&file(version, record))?;
    let all = contents(&ks);
    Ok(all.into_values().next().map(|(content, _)| content).expect("one key"))
}

/// Some keys of every type and encoding.
pub fn varied() -> Contents {
    let mut all = Contents::new();
    let bytes = |n: usize, seed: u64| -> Vec<u8> {
        let mut x = seed | 1;
        let mut next = || {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            (x >> 24) as u8
        };
        (0..n).map(|_| next()).collect()
    };
    let text = |i: usize| format!("element number {i}").into_bytes();
    let mut add = |db: usize, key: &str, content: Content, expire: Option<i64>| {
        all.insert((db, key.as_bytes().to_vec()), (content, expire));
    };
    for (i, s) in ["", "0", "-1", "127", "-128", "128", "32767", "-32769", "2147483647"]
        .iter()
        .chain(&["2147483648", "-9223372036854775808", "007", "1.5", "hello", "-0", "+1"])
        .enumerate()
    {
        add(0, &format!("string:{i}"), Content::Str(s.as_bytes().to_vec()), None);
    }
    add(0, "123", Content::Str(b"under an integer".to_vec()), Some(32_503_680_000_000));
    for n in [20, 21, 63, 64, 1000, 16_383, 16_384, 300_000, 3_000_000] {
        add(0, &format!("random:{n}"), Content::Str(bytes(n, n as u64)), None);
        add(1, &format!("zeros:{n}"), Content::Str(vec![b'0'; n]), Some(32_503_680_000_000));
    }
    for n in [1, 5, 100, 600, 5000] {
        let strings: Vec<_> = (0..n).map(text).collect();
        let ints: Vec<_> = (0..n).map(|i| (i * 7919).to_string().into_bytes()).collect();
        let mut sorted = strings.clone();
        sorted.sort();
        let mut sorted_ints = ints.clone();
        sorted_ints.sort();
        add(2, &format!("list:{n}"), Content::List(strings.clone()), None);
        add(2, &format!("set:{n}"), Content::Set(sorted), None);
        add(2, &format!("ints:{n}"), Content::Set(sorted_ints), Some(32_503_680_000_000));
        let pairs = strings.iter().cloned().zip(ints).collect();
        add(2, &format!("hash:{n}"), Content::Hash(pairs), None);
        let scored = strings.iter().enumerate().map(|(i, s)| (s.clone(), i as f64 * 0.37 - 5.0));
        add(2, &format!("zset:{n}"), Content::Zset(scored.collect()), None);
    }
    add(2, "wide list", Content::List(vec![bytes(20_000, 3), b"x".to_vec(), bytes(9, 4)]), None);
    let ends = [f64::NEG_INFINITY, -1e300, -0.5, 1e-300, 3.0, f64::INFINITY];
    let ends = ends.iter().enumerate().map(|(i, s)| (text(i), *s)).collect();
    add(9, "extreme scores", Content::Zset(ends), None);
    let long = [(vec![b'f'; 100], bytes(70_000, 5)), (b"".to_vec(), b"".to_vec())];
    add(9, "long values", Content::Hash(long.into()), None);
    all
}
