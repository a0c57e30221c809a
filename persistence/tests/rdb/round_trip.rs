//! What is saved is what is loaded.

use crate::support::*;
use proptest::prelude::*;
use std::collections::BTreeMap;
use varve_engine::keyspace::{AccessClock, Limits};
use varve_persistence::rdb::{self, Item, Reader};

#[test]
fn every_type_in_every_version() {
    let all = varied();
    let ks = keyspace(&all);
    for version in 9..=12 {
        for (compress, checksum) in [(true, true), (false, false)] {
            let options = rdb::SaveOptions { compress, checksum, ..options(version) };
            let loaded = load(&save(&ks, &options)).unwrap();
            assert!(contents(&loaded) == all, "version {version}, compress {compress}");
        }
    }
}

#[test]
fn small_collections_stay_what_they_are() {
    let ks = keyspace(&varied());
    let loaded = load(&save(&ks, &options(11))).unwrap();
    for (db, saved) in ks.dbs.iter().enumerate() {
        for entry in saved.keys().iter() {
            let other = loaded.dbs[db].peek(entry.key()).unwrap();
            let key = entry.key().escape_ascii();
            assert_eq!(entry.encoding(), other.encoding(), "{key}");
        }
    }
}

#[test]
fn the_file_says_where_it_stands() {
    let ks = keyspace(&varied());
    let options = rdb::SaveOptions { db: 3, aof_base: true, ..options(10) };
    let mut file = save(&ks, &options);
    let end = file.len();
    file.extend(b"*1\r\n$4\r\nPING\r\n");
    let mut reader = Reader::new(&file).unwrap();
    let (mut facts, mut sizes) = (BTreeMap::new(), vec![]);
    while let Some(item) = reader.next().unwrap() {
        match item {
            Item::Aux { key, value } => {
                let text = |b: &[u8]| String::from_utf8(b.to_vec()).unwrap();
                facts.insert(text(&key), text(&value));
            }
            Item::Resize { db, keys, expires } => sizes.push((db, keys, expires)),
            Item::Key { .. } => {}
        }
    }
    assert_eq!(reader.position(), end, "what is behind the file is left alone");
    assert!(reader.next().unwrap().is_none());
    assert_eq!(facts["repl-id"], options.history.as_str());
    assert_eq!(facts["repl-offset"], "12345");
    assert_eq!(facts["repl-stream-db"], "3");
    assert_eq!(facts["aof-base"], "1");
    assert_eq!(facts["ctime"], "1700000000");
    assert_eq!(facts["redis-bits"], "64");
    let said = |db: usize| (db, ks.dbs[db].len(), ks.dbs[db].expires().len());
    assert_eq!(sizes, [0, 1, 2, 9].map(said));
}

#[test]
fn use_of_keys_is_kept() {
    let mut ks = keyspace(&varied());
    ks.now_ms = 1_700_000_000_000;
    for (clock, idle, freq) in
        [(AccessClock::Lru, Some(70_000), None), (AccessClock::Lfu, None, Some(99))]
    {
        ks.access_clock = clock;
        ks.set_access_hint(0, b"123", idle, freq);
        let options =
            rdb::SaveOptions { evicts: true, lfu: clock == AccessClock::Lfu, ..options(10) };
        let file = save(&ks, &options);
        let mut reader = Reader::new(&file).unwrap();
        let mut seen = 0;
        while let Some(item) = reader.next().unwrap() {
            if let Item::Key { entry, idle_s, freq: f, .. } = item {
                assert_eq!((idle_s.is_some(), f.is_some()), (idle.is_some(), freq.is_some()));
                if entry.key() == b"123" {
                    assert_eq!((idle_s, f), (idle, freq));
                    seen += 1;
                }
            }
        }
        assert_eq!(seen, 1);
    }
}

#[test]
fn compression_makes_files_smaller_and_may_be_off() {
    let mut all = Contents::new();
    all.insert((0, b"k".to_vec()), (Content::Str(vec![b'a'; 100_000]), None));
    let ks = keyspace(&all);
    assert!(save(&ks, &options(10)).len() < 2000);
    let plain = save(&ks, &rdb::SaveOptions { compress: false, ..options(10) });
    assert!(plain.len() > 100_000);
}

#[test]
fn dumped_values_are_restored() {
    let limits = Limits::default();
    for ((_, key), (what, expire)) in varied() {
        let entry = varve_engine::entry::Entry::new(&key, value_of(&what, &limits), expire);
        for version in 9..=12 {
            let mut payload = rdb::dump(&entry, version);
            let copy = rdb::restore(&payload, b"copy", &limits, Some(77)).unwrap();
            assert!(content(&copy) == what && copy.key() == b"copy" && copy.expire() == Some(77));
            let at = payload.len() / 2;
            payload[at] ^= 4;
            let error = rdb::restore(&payload, b"copy", &limits, None).err().unwrap();
            assert_eq!(error.to_string(), "ERR DUMP payload version or checksum are wrong");
        }
    }
}

#[test]
fn payloads_that_are_whole_but_wrong_are_refused() {
    let sign = |value: &[u8], version: u16| {
        let mut payload = value.to_vec();
        payload.extend(version.to_le_bytes());
        payload.extend(rdb::crc64(&payload).to_le_bytes());
        payload
    };
    let restore = |payload: &[u8]| {
        let restored = rdb::restore(payload, b"k", &Limits::default(), None);
        restored.map(|entry| content(&entry)).map_err(|e| e.to_string())
    };
    assert_eq!(restore(&sign(b"\x00\x02hi", 9)), Ok(Content::Str(b"hi".to_vec())));
    let damaged = Err("ERR DUMP payload version or checksum are wrong".to_string());
    let bad = Err("ERR Bad data format".to_string());
    assert_eq!(restore(b""), damaged);
    assert_eq!(restore(&sign(b"\x00\x02hi", 13)), damaged);
    assert_eq!(restore(&sign(b"", 9)), bad);
    assert_eq!(restore(&sign(b"\x00\x03hi", 9)), bad);
    assert_eq!(restore(&sign(b"\x0f\x02hi", 9)), bad, "a stream");
    assert_eq!(restore(&sign(b"\x01\x00", 9)), bad, "an empty list");
}

fn some_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..30),
        3 => any::<i64>().prop_map(|n| n.to_string().into_bytes()),
        3 => (-300i64..300).prop_map(|n| n.to_string().into_bytes()),
        1 => (any::<u8>(), 0usize..3000).prop_map(|(b, n)| vec![b; n]),
        1 => prop::collection::vec(any::<u8>(), 0..3000),
    ]
}

fn some_content() -> impl Strategy<Value = Content> {
    let score = prop_oneof![
        any::<f64>().prop_filter("a number", |s| !s.is_nan()),
        (-9i32..9).prop_map(f64::from),
    ];
    let size = || prop_oneof![4 => 1usize..20, 1 => 1usize..200];
    let sized = move |n| prop::collection::vec(some_bytes(), n);
    prop_oneof![
        some_bytes().prop_map(Content::Str),
        size().prop_flat_map(sized).prop_map(Content::List),
        prop::collection::btree_map(some_bytes(), some_bytes(), 1..40).prop_map(Content::Hash),
        prop::collection::btree_set(some_bytes(), 1..40)
            .prop_map(|s| Content::Set(s.into_iter().collect())),
        prop::collection::btree_map(some_bytes(), score, 1..40).prop_map(|pairs| {
            let mut members: Vec<_> = pairs.into_iter().collect();
            members.sort_by(|a, b| a.1.partial_cmp(&b.1).unwrap().then(a.0.cmp(&b.0)));
            Content::Zset(members)
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_keyspace(
        all in prop::collection::btree_map(
            (0usize..4, some_bytes()),
            (some_content(), prop::option::of(any::<i64>())),
            0..20,
        ),
        version in 9u32..=12,
        compress in any::<bool>(),
    ) {
        let options = rdb::SaveOptions { compress, ..options(version) };
        let loaded = load(&save(&keyspace(&all), &options)).unwrap();
        prop_assert!(contents(&loaded) == all);
    }
}
