//! How fast a dataset becomes a file and a file a dataset: short strings, and small hashes. The
//! throughput is that of the file's bytes.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use varve_engine::Keyspace;
use varve_engine::entry::{Entry, Payload};
use varve_engine::types::hash::Hash;
use varve_engine::value::Value;
use varve_persistence::offset::{HistoryId, Offset};
use varve_persistence::rdb::{self, Buffers, Item, Reader, SaveOptions};

const KEYS: usize = 100_000;

fn options(compress: bool) -> SaveOptions {
    SaveOptions {
        version: 10,
        compress,
        checksum: true,
        now_ms: 0,
        used_memory: 0,
        history: HistoryId::NONE,
        offset: Offset::ZERO,
        db: 0,
        aof_base: false,
        lfu: false,
        evicts: false,
    }
}

fn strings(len: usize) -> Keyspace {
    let mut ks = Keyspace::new(1, 1);
    let mut x = 1u64;
    for i in 0..KEYS {
        let value: Vec<u8> = (0..len)
            .map(|_| {
                x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (x >> 56) as u8
            })
            .collect();
        let key = format!("key:{i:012}");
        let entry = Entry::new(key.as_bytes(), Payload::string(&value), None);
        assert!(ks.load(0, entry, None, None, false).is_ok());
    }
    ks
}

fn hashes() -> Keyspace {
    let mut ks = Keyspace::new(1, 1);
    let limits = ks.limits.clone();
    for i in 0..KEYS / 10 {
        let mut hash = Hash::new();
        for f in 0..10 {
            let (field, value) = (format!("field:{f}"), format!("value {} of {i}", f * i));
            hash.insert(field.as_bytes(), value.as_bytes(), &limits);
        }
        let payload = Payload::Value(Value::Hash(hash));
        let entry = Entry::new(format!("hash:{i}").as_bytes(), payload, None);
        assert!(ks.load(0, entry, None, None, false).is_ok());
    }
    ks
}

fn save(ks: &Keyspace, options: &SaveOptions, buffers: &mut Buffers) -> Vec<u8> {
    let mut file = vec![];
    let mut write = |bytes: &[u8]| {
        file.extend_from_slice(bytes);
        Ok(())
    };
    rdb::save(ks, options, buffers, &mut write, &mut |_| {}).expect("memory takes all bytes");
    file
}

fn load(file: &[u8], ks: &mut Keyspace) {
    let mut reader = Reader::new(file).expect("a file of ours");
    while let Some(item) = reader.next().expect("a file of ours") {
        match item {
            Item::Key { db, entry, idle_s, freq, .. } => {
                assert!(ks.load(db, entry, idle_s, freq, false).is_ok());
            }
            Item::Resize { db, keys, expires } => ks.dbs[db].reserve(keys, expires),
            Item::Aux { .. } => {}
        }
    }
}

fn rdb_file(c: &mut Criterion) {
    let mut group = c.benchmark_group("rdb");
    group.sample_size(10);
    for (name, ks, compress) in [
        ("strings of 16", strings(16), true),
        ("strings of 100, compression tried", strings(100), true),
        ("strings of 100", strings(100), false),
        ("hashes of 10, compressed", hashes(), true),
        ("hashes of 10", hashes(), false),
    ] {
        let (options, mut buffers) = (options(compress), Buffers::new());
        let file = save(&ks, &options, &mut buffers);
        group.throughput(Throughput::Bytes(file.len() as u64));
        group.bench_function(format!("save {name}"), |b| {
            b.iter(|| {
                let mut write = |bytes: &[u8]| {
                    black_box(bytes);
                    Ok(())
                };
                rdb::save(&ks, &options, &mut buffers, &mut write, &mut |_| {})
            });
        });
        group.bench_function(format!("load {name}"), |b| {
            b.iter_batched_ref(
                || Keyspace::new(1, 1),
                |ks| load(&file, ks),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

criterion_group!(benches, rdb_file);
criterion_main!(benches);
