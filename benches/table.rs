//! The table beside `std`'s map with the same hash function: a hit, a miss, an insert and a remove
//! at sizes within and beyond the caches, and batches of lookups with prefetch.
//!
//! Keys are looked up in an order unrelated to that of their insertion, so that at the larger size
//! each lookup pays for its cache misses.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::hint::black_box;
use varve_engine::hasher;
use varve_engine::table::{Slot, Table};

/// As the keyspace's entries are: one allocation that begins with the key.
struct Entry(Box<Body>);

struct Body {
    len: u8,
    key: [u8; 23],
    value: u64,
}

impl Slot for Entry {
    #[inline]
    fn key(&self) -> &[u8] {
        &self.0.key[..self.0.len as usize]
    }

    #[inline]
    fn address(&self) -> *const u8 {
        (&raw const *self.0).cast()
    }
}

fn body(n: u64) -> Body {
    let mut key = [0; 23];
    key[..4].copy_from_slice(b"key:");
    let mut rest = n;
    for digit in key[4..16].iter_mut().rev() {
        *digit = b'0' + (rest % 10) as u8;
        rest /= 10;
    }
    Body { len: 16, key, value: n }
}

fn insert(table: &mut Table<Entry>, n: u64) {
    let entry = Entry(Box::new(body(n)));
    let hash = hasher::hash(entry.key());
    table.insert_new(hash, entry);
}

/// The process's hash function as `std` wants it.
#[derive(Default)]
struct SameHash(u64);

impl Hasher for SameHash {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = hasher::hash(bytes);
    }

    fn write_usize(&mut self, _: usize) {}
}

type Map = HashMap<Box<[u8]>, u64, BuildHasherDefault<SameHash>>;

/// Each number below `n` comes up about as often as any other, in no order.
fn scattered(n: u64) -> impl FnMut() -> u64 {
    let mut state = 1u64;
    move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 32) * n) >> 32
    }
}

fn lookups(c: &mut Criterion) {
    for n in [1_000_000u64, 10_000_000] {
        let mut table = Table::new();
        for i in 0..n {
            insert(&mut table, i);
        }
        println!("{n} entries: {:.2} bytes of table each", table.memory() as f64 / n as f64);
        let mut group = c.benchmark_group("table");
        for (name, first) in [("hit", 0), ("miss", n)] {
            let mut next = scattered(n);
            group.bench_function(BenchmarkId::new(name, n), |b| {
                b.iter(|| {
                    let key = body(first + next());
                    let key = &key.key[..key.len as usize];
                    black_box(table.get(hasher::hash(key), key).map(|entry| entry.0.value))
                })
            });
        }
        group.throughput(Throughput::Elements(32));
        let mut next = scattered(n);
        group.bench_function(BenchmarkId::new("hits_by_32", n), |b| {
            b.iter(|| {
                let keys: [_; 32] = std::array::from_fn(|_| {
                    let key = body(next());
                    let hash = hasher::hash(&key.key[..key.len as usize]);
                    table.prefetch(hash);
                    (hash, key)
                });
                for (hash, _) in &keys {
                    table.prefetch_entry(*hash);
                }
                for (hash, key) in &keys {
                    let entry = table.get(*hash, &key.key[..key.len as usize]);
                    black_box(entry.map(|entry| entry.0.value));
                }
            })
        });
        group.finish();
        drop(table);

        let mut map = Map::default();
        for i in 0..n {
            let body = body(i);
            map.insert(body.key[..body.len as usize].into(), i);
        }
        let mut group = c.benchmark_group("std");
        for (name, first) in [("hit", 0), ("miss", n)] {
            let mut next = scattered(n);
            group.bench_function(BenchmarkId::new(name, n), |b| {
                b.iter(|| {
                    let key = body(first + next());
                    black_box(map.get(&key.key[..key.len as usize]))
                })
            });
        }
        group.finish();
    }
}

fn changes(c: &mut Criterion) {
    let n = 1_000_000;
    let mut group = c.benchmark_group("fill");
    group.sample_size(10).throughput(Throughput::Elements(n));
    group.bench_function("table", |b| {
        b.iter_with_large_drop(|| {
            let mut table = Table::new();
            (0..n).for_each(|i| insert(&mut table, i));
            table
        })
    });
    group.bench_function("std", |b| {
        b.iter_with_large_drop(|| {
            let mut map = Map::default();
            for i in 0..n {
                let body = body(i);
                map.insert(body.key[..body.len as usize].into(), i);
            }
            map
        })
    });
    group.finish();
}

criterion_group!(benches, lookups, changes);
criterion_main!(benches);
