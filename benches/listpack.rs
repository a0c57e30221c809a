//! What small collections and lists cost a command: the search in a hash or sorted set at its
//! largest as a listpack, adding to one, and the ends of long lists.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use varve_engine::intset::Intset;
use varve_engine::listpack::Listpack;
use varve_engine::quicklist::Quicklist;

/// A hash of `fields` fields with values of 16 bytes.
fn hash(fields: usize) -> Listpack {
    let mut listpack = Listpack::new();
    for i in 0..fields {
        listpack.push_pair(format!("field:{i:06}").as_bytes(), b"0123456789abcdef");
    }
    listpack
}

fn find(c: &mut Criterion) {
    for fields in [8, 128] {
        let listpack = hash(fields);
        let last = format!("field:{:06}", fields - 1);
        c.bench_function(&format!("listpack/find_last_of_{fields}"), |b| {
            b.iter(|| black_box(&listpack).find(black_box(last.as_bytes()), 1))
        });
        c.bench_function(&format!("listpack/find_absent_of_{fields}"), |b| {
            b.iter(|| black_box(&listpack).find(black_box(b"no such field"), 1))
        });
    }
    let members: Listpack =
        (0..256i64).map(|i| if i % 2 == 0 { 1_000_000 + i } else { i }).collect();
    c.bench_function("listpack/find_absent_int_of_128", |b| {
        b.iter(|| black_box(&members).find(black_box(b"7654321"), 1))
    });
    let set: Intset = (0..512).map(|i| i * 3).collect();
    c.bench_function("intset/contains_of_512", |b| {
        b.iter(|| black_box(&set).contains(black_box(700)))
    });
}

fn change(c: &mut Criterion) {
    let listpack = hash(64);
    c.bench_function("listpack/push_pair_and_remove_of_64", |b| {
        let mut listpack = listpack.clone();
        b.iter(|| {
            let pos = listpack.push_pair(black_box(b"field:new"), black_box(b"0123456789abcdef"));
            listpack.remove_n(pos, 2)
        })
    });
    c.bench_function("listpack/replace_same_size_of_64", |b| {
        let mut listpack = listpack.clone();
        let pos = listpack.seek(65).expect("it has 128 elements");
        b.iter(|| listpack.replace(pos, black_box(b"fedcba9876543210")))
    });
    let mut group = c.benchmark_group("listpack");
    group.throughput(Throughput::Elements(128));
    group.bench_function("fill_128_pairs", |b| b.iter(|| hash(128)));
    group.bench_function("load_128_pairs", |b| {
        let bytes = hash(128).as_bytes().to_vec();
        b.iter(|| Listpack::from_bytes(black_box(&bytes)))
    });
    group.finish();
}

fn lists(c: &mut Criterion) {
    const PUSHES: u64 = 10_000;
    let mut group = c.benchmark_group("quicklist");
    group.throughput(Throughput::Elements(PUSHES));
    let fill = |front: bool| {
        let mut list = Quicklist::new(-2);
        for i in 0..PUSHES as i64 {
            let element = [b'x'; 16];
            if front {
                list.push_front(&element)
            } else {
                list.push_back(&element)
            }
            black_box(i);
        }
        list
    };
    group.bench_function("push_front", |b| b.iter(|| fill(true)));
    group.bench_function("push_back", |b| b.iter(|| fill(false)));
    group.bench_function("pop_front", |b| {
        let full = fill(false);
        b.iter_batched(
            || full.clone(),
            |mut list| {
                while list.pop_front_with(|entry| entry.len()).is_some() {}
                list
            },
            BatchSize::SmallInput,
        )
    });
    group.bench_function("iterate", |b| {
        let full = fill(false);
        b.iter(|| full.iter().map(|entry| entry.len()).sum::<usize>())
    });
    group.finish();
}

criterion_group!(benches, find, change, lists);
criterion_main!(benches);
