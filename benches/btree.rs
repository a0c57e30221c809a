//! The B+-tree of sorted sets at a million members, against a skiplist as Redis has it (levels with
//! a chance of a quarter, spans for ranks) whose nodes are allocated one by one.
//!
//! The work per iteration is the same for both: members and scores are made beforehand.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use varve_engine::btree::{BTree, TreeKey};
use varve_engine::member::{Member, ScoredRef};

const N: usize = 1_000_000;

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

fn members(n: usize) -> Vec<Member> {
    let mut random = Random(1);
    (0..n)
        .map(|i| {
            let score = (random.next() >> 11) as f64 / (1u64 << 53) as f64;
            Member::new(score, format!("member:{i:09}").as_bytes())
        })
        .collect()
}

fn keys(members: &[Member]) -> Vec<ScoredRef> {
    members
        .iter()
        // SAFETY: each bench drops its keys and trees before its members.
        .map(|m| ScoredRef { score: m.score(), member: unsafe { m.as_ref() } })
        .collect()
}

/// Insert only: enough to compare with.
struct Skiplist {
    // Boxed, as the comparison is with nodes allocated one by one.
    #[expect(clippy::vec_box)]
    nodes: Vec<Box<SkipNode>>,
    random: Random,
    level: usize,
}

struct SkipNode {
    key: ScoredRef,
    next: Box<[(Option<u32>, u32)]>,
}

impl Skiplist {
    const LEVELS: usize = 32;

    fn new(head: ScoredRef) -> Skiplist {
        let head = SkipNode { key: head, next: vec![(None, 0); Self::LEVELS].into() };
        Skiplist { nodes: vec![Box::new(head)], random: Random(2), level: 1 }
    }

    fn insert(&mut self, key: ScoredRef) {
        let (mut at, mut rank) = (0usize, [0u32; Self::LEVELS]);
        let mut before = [0usize; Self::LEVELS];
        for level in (0..self.level).rev() {
            rank[level] = if level + 1 < self.level { rank[level + 1] } else { 0 };
            while let (Some(next), span) = self.nodes[at].next[level] {
                if !self.nodes[next as usize].key.less(&key) {
                    break;
                }
                rank[level] += span;
                at = next as usize;
            }
            before[level] = at;
        }
        let mut height = 1;
        while height < Self::LEVELS && self.random.next().is_multiple_of(4) {
            height += 1;
        }
        for before in before.iter_mut().take(height).skip(self.level) {
            *before = 0;
        }
        self.level = self.level.max(height);
        let id = self.nodes.len() as u32;
        let mut next = vec![(None, 0); height];
        for level in 0..height {
            let link = &mut self.nodes[before[level]].next[level];
            next[level] = (link.0, link.1.wrapping_sub(rank[0] - rank[level]));
            *link = (Some(id), rank[0] - rank[level] + 1);
        }
        for (level, before) in before.iter().enumerate().take(self.level).skip(height) {
            self.nodes[*before].next[level].1 += 1;
        }
        self.nodes.push(Box::new(SkipNode { key, next: next.into() }));
    }
}

/// Times `each` over all of `keys` in chunks, so that `make` is not in the sum.
fn per_key<T>(
    iters: u64,
    n: usize,
    mut make: impl FnMut() -> T,
    mut each: impl FnMut(&mut T, usize),
) -> Duration {
    let (mut sum, mut left) = (Duration::ZERO, iters as usize);
    while left > 0 {
        let mut with = make();
        let count = left.min(n);
        let start = Instant::now();
        (0..count).for_each(|i| each(&mut with, i));
        sum += start.elapsed();
        left -= count;
    }
    sum
}

fn bench(c: &mut Criterion) {
    let members_ = members(2 * N);
    let keys = keys(&members_);
    let (old, new) = keys.split_at(N);
    let full = || {
        let mut tree = BTree::new();
        old.iter().for_each(|k| assert!(tree.insert(*k)));
        tree
    };

    let mut group = c.benchmark_group("insert one into a million");
    group.sample_size(10).warm_up_time(Duration::from_millis(500));
    group.bench_function("btree", |b| {
        b.iter_custom(|iters| per_key(iters, N, full, |tree, i| _ = tree.insert(new[i])));
    });
    group.bench_function("skiplist", |b| {
        let full = || {
            let mut list = Skiplist::new(old[0]);
            old.iter().for_each(|k| list.insert(*k));
            list
        };
        b.iter_custom(|iters| per_key(iters, N, full, |list, i| list.insert(new[i])));
    });
    group.finish();

    let tree = full();
    println!("{:.1} bytes of tree per member", tree.memory() as f64 / tree.len() as f64);
    let mut random = Random(3);
    let mut any = move || random.next() as usize % N;

    let mut group = c.benchmark_group("a million members");
    group.sample_size(10).warm_up_time(Duration::from_millis(500));
    group.measurement_time(Duration::from_secs(1));
    group.bench_function("rank", |b| b.iter(|| black_box(tree.rank(&old[any()]))));
    group.bench_function("get", |b| b.iter(|| black_box(tree.get(any()))));
    group.bench_function("range of 100", |b| {
        b.iter(|| {
            let at = any();
            tree.range(at..at + 100).map(|k| k.score).sum::<f64>()
        })
    });
    group.bench_function("range of 100 backwards", |b| {
        b.iter(|| {
            let at = any();
            tree.range(at..at + 100).rev().map(|k| k.score).sum::<f64>()
        })
    });
    group.bench_function("all", |b| b.iter(|| tree.iter().map(|k| k.score).sum::<f64>()));
    let sorted: Vec<ScoredRef> = tree.iter().copied().collect();
    group.bench_function("build from sorted", |b| {
        b.iter(|| BTree::from_sorted(sorted.iter().copied()).len())
    });
    group.bench_function("remove one", |b| {
        b.iter_custom(|iters| per_key(iters, N, full, |tree, i| _ = tree.remove(&old[i])));
    });
    let mut tree = full();
    let mut scores = old.to_vec();
    group.bench_function("update by little", |b| {
        b.iter(|| {
            let at = any();
            let new = ScoredRef { score: scores[at].score + 1e-6, ..scores[at] };
            assert!(tree.update(&scores[at], new));
            scores[at] = new;
        })
    });
    group.bench_function("update to anywhere", |b| {
        b.iter(|| {
            let (at, to) = (any(), any());
            let new = ScoredRef { score: scores[to].score + 1e-9, ..scores[at] };
            assert!(tree.update(&scores[at], new));
            scores[at] = new;
        })
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
