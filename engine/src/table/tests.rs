//! The table against `std`'s collections, and its promises: bounded work an operation, scans that
//! miss nothing, fair samples, each entry dropped once.

use super::*;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

/// An entry that is its own key.
#[repr(transparent)]
struct Number([u8; 8]);

impl Slot for Number {
    fn key(&self) -> &[u8] {
        &self.0
    }

    fn address(&self) -> *const u8 {
        self.0.as_ptr()
    }
}

impl Number {
    fn value(&self) -> u64 {
        u64::from_le_bytes(self.0)
    }
}

fn number(n: u64) -> (u64, Number) {
    let number = Number(n.to_le_bytes());
    (number.key_hash(), number)
}

fn filled(n: u64) -> Table<Number> {
    let mut table = Table::new();
    for i in 0..n {
        let (hash, number) = number(i);
        table.insert_new(hash, number);
    }
    table
}

fn remove(table: &mut Table<Number>, n: u64) -> Option<u64> {
    let (hash, number) = number(n);
    table.remove(hash, number.key()).map(|removed| removed.value())
}

fn has(table: &Table<Number>, n: u64) -> bool {
    let (hash, number) = number(n);
    table.contains(hash, number.key())
}

/// An owning entry, whose hash keeps few bits of its key so that chains become long.
struct Owner(Box<Owned>);

struct Owned {
    key: Vec<u8>,
    version: u32,
    _alive: Rc<()>,
}

impl Slot for Owner {
    fn key(&self) -> &[u8] {
        &self.0.key
    }

    fn address(&self) -> *const u8 {
        (&raw const *self.0).cast()
    }

    fn key_hash(&self) -> u64 {
        clumsy_hash(self.key())
    }
}

fn clumsy_hash(key: &[u8]) -> u64 {
    hasher::hash(key) & 0x0300_0000_0000_001f
}

/// Random numbers that are the same at each run.
fn generator(mut state: u64) -> impl FnMut() -> u64 {
    move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

#[derive(Clone, Debug)]
enum Step {
    Set(u16),
    Remove(u16),
    Get(u16),
    /// Insert or remove this many keys, from this one on.
    Fill(u16, u16),
    Purge(u16, u16),
    Policy(bool),
    Rehash(usize),
    Drain(usize),
    Reserve(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => (0u16..500).prop_map(Step::Set),
        20 => (0u16..500).prop_map(Step::Remove),
        10 => (0u16..500).prop_map(Step::Get),
        3 => (0u16..500, 0u16..300).prop_map(|(a, b)| Step::Fill(a, b)),
        3 => (0u16..500, 0u16..300).prop_map(|(a, b)| Step::Purge(a, b)),
        2 => any::<bool>().prop_map(Step::Policy),
        2 => (0usize..20).prop_map(Step::Rehash),
        1 => (0usize..20).prop_map(Step::Drain),
        1 => (0usize..2000).prop_map(Step::Reserve),
    ]
}

/// A table and what ought to be in it, with every way to change an entry.
struct Checked {
    table: Table<Owner>,
    model: HashMap<Vec<u8>, u32>,
    alive: Rc<()>,
    version: u32,
}

impl Checked {
    fn set(&mut self, n: u16) {
        self.version += 1;
        let key = n.to_string().into_bytes();
        let hash = clumsy_hash(&key);
        let (version, _alive) = (self.version, self.alive.clone());
        let value = Owner(Box::new(Owned { key: key.clone(), version, _alive }));
        let before = self.model.insert(key.clone(), version);
        let replaced = match self.version % 4 {
            0 => self.table.replace(hash, value),
            1 => match self.table.get_mut(hash, &key) {
                Some(entry) => Some(std::mem::replace(entry, value)),
                None => {
                    self.table.insert_new(hash, value);
                    None
                }
            },
            _ => match self.table.find_slot(hash, &key) {
                Entry::Occupied(mut entry) => Some(entry.replace(value)),
                Entry::Vacant(entry) => {
                    assert_eq!(entry.insert(value).0.version, version);
                    None
                }
            },
        };
        assert_eq!(replaced.map(|owner| owner.0.version), before);
    }

    fn remove(&mut self, n: u16) {
        let key = n.to_string().into_bytes();
        let hash = clumsy_hash(&key);
        let removed = match self.table.find_slot(hash, &key) {
            Entry::Occupied(entry) if n.is_multiple_of(2) => Some(entry.remove()),
            _ => self.table.remove(hash, &key),
        };
        assert_eq!(removed.map(|owner| owner.0.version), self.model.remove(&key));
    }

    fn check(&mut self) {
        assert_eq!(self.table.len(), self.model.len());
        assert_eq!(Rc::strong_count(&self.alive), 1 + self.model.len(), "each dropped once");
        let seen: HashMap<_, _> =
            self.table.iter().map(|owner| (owner.0.key.clone(), owner.0.version)).collect();
        assert_eq!(seen, self.model);
        assert_eq!(self.table.iter_mut().count(), self.model.len());
    }
}

proptest! {
    #[test]
    fn behaves_as_a_map(steps in prop::collection::vec(step(), 0..150)) {
        let mut t = Checked {
            table: Table::new(),
            model: HashMap::new(),
            alive: Rc::new(()),
            version: 0,
        };
        set_resize_policy(ResizePolicy::Allow);
        for step in steps {
            match step {
                Step::Set(n) => t.set(n),
                Step::Remove(n) => t.remove(n),
                Step::Get(n) => {
                    let key = n.to_string().into_bytes();
                    let found = t.table.get(clumsy_hash(&key), &key).map(|owner| owner.0.version);
                    prop_assert_eq!(found, t.model.get(&key).copied());
                }
                Step::Fill(from, n) => (from..from + n).for_each(|n| t.set(n)),
                Step::Purge(from, n) => (from..from + n).for_each(|n| t.remove(n)),
                Step::Policy(true) => set_resize_policy(ResizePolicy::Allow),
                Step::Policy(false) => set_resize_policy(ResizePolicy::Avoid),
                Step::Rehash(n) => {
                    let more = t.table.rehash_some(n);
                    prop_assert_eq!(more, t.table.rehashing());
                }
                Step::Drain(n) => {
                    for owner in t.table.drain().take(n) {
                        prop_assert_eq!(t.model.get(&owner.0.key), Some(&owner.0.version));
                    }
                    t.model.clear();
                }
                Step::Reserve(n) => t.table.reserve(n),
            }
            t.check();
        }
        let Checked { table, alive, .. } = t;
        drop(table);
        prop_assert_eq!(Rc::strong_count(&alive), 1);
    }

    /// Between the calls of one scan the table grows and shrinks by far; what was there all the time
    /// is returned all the same.
    #[test]
    fn scans_miss_nothing(
        residents in 0u64..400,
        others in 0u64..6000,
        swings in prop::collection::vec((0u64..6000, 0usize..30), 1..40),
    ) {
        let mut table = filled(residents);
        let mut present = residents..residents + others;
        for n in present.clone() {
            let (hash, number) = number(n);
            table.insert_new(hash, number);
        }
        let mut missed: HashSet<u64> = (0..residents).collect();
        let mut swings = swings.into_iter().cycle();
        let mut cursor = 0;
        for calls in 0.. {
            cursor = table.scan(cursor, |number| {
                missed.remove(&number.value());
            });
            if cursor == 0 {
                break;
            }
            prop_assert!(calls < 100_000, "the scan comes to an end");
            let (others, rehash) = swings.next().unwrap();
            // Most scans are short; spread the swings over more of the longer ones.
            if calls % 3 != 0 {
                continue;
            }
            let target = residents + others;
            for n in target..present.end {
                prop_assert_eq!(remove(&mut table, n), Some(n));
            }
            for n in present.end..target {
                let (hash, number) = number(n);
                table.insert_new(hash, number);
            }
            present.end = target;
            table.rehash_some(rehash);
        }
        prop_assert_eq!(missed, HashSet::new());
    }
}

#[test]
fn a_quiet_scan_returns_each_entry_once() {
    for n in [0, 1, 7, 8, 100, 1000, 12_345] {
        let table = filled(n);
        let (mut seen, mut cursor) = (Vec::new(), 0);
        loop {
            cursor = table.scan(cursor, |number| seen.push(number.value()));
            if cursor == 0 {
                break;
            }
        }
        seen.sort();
        assert!(seen.into_iter().eq(0..n));
        // A cursor that the table never gave is no harm.
        table.scan(u64::MAX - 5, |_| {});
    }
}

#[test]
fn an_empty_table_owns_nothing() {
    let mut table = Table::<Number>::new();
    let (hash, number) = number(1);
    assert_eq!(table.memory(), 0);
    assert!(!table.contains(hash, number.key()));
    assert!(table.remove(hash, number.key()).is_none());
    assert!(table.sample(|| 0).is_none());
    assert_eq!(table.sample_some(5, || 0, |_| {}), 0);
    assert_eq!(table.scan(77, |_| {}), 0);
    assert_eq!(table.iter().count(), 0);
    assert!(!table.rehash_some(10));
    table.prefetch(hash);
    table.prefetch_entry(hash);
    assert!(table.guess(hash).is_none());
    assert_eq!(table.memory(), 0);
    assert_eq!(size_of::<Table<Number>>(), 64);
}

/// What is fetched ahead is what will be looked up, but for entries further down a chain and for tags
/// that two entries share.
#[test]
fn a_guess_is_mostly_right() {
    let n = 100_000;
    let table = filled(n);
    let right = |i: &u64| table.guess(number(*i).0).is_some_and(|guess| guess.value() == *i);
    assert!((0..n).filter(right).count() > n as usize * 3 / 4);
    let wrong = (n..2 * n).filter(|i| table.guess(number(*i).0).is_some()).count();
    assert!(wrong < n as usize / 20, "{wrong} keys that are not there seem to be");
}

/// Two million keys in and out again: no operation changes the array by more than one bucket, and
/// the memory follows.
#[test]
fn work_and_memory_are_bounded_at_every_size() {
    let n = 2_000_000;
    let mut table = Table::new();
    let (mut most, mut worst) = (0, 0.0f64);
    for i in 0..n {
        let (hash, number) = number(i);
        let before = table.buckets;
        table.insert_new(hash, number);
        most = most.max(table.buckets - before);
        if i >= 1000 && i % 1000 == 0 {
            worst = worst.max(table.memory() as f64 / i as f64);
        }
        if i == 1_250_000 {
            let per_key = table.memory() as f64 / i as f64;
            assert!(per_key < PLACE as f64, "{per_key} bytes of table a key");
            // Tables of other tests have mapped more.
            assert!(mapped() > table.memory() - table.child_bytes - (300 << 10));
        }
    }
    assert_eq!(most, 1);
    assert!(worst < 17.0, "{worst} bytes of table a key");
    assert!(table.stats().longest_chain < 50);

    let mut most = 0;
    for i in 0..n {
        let before = table.buckets;
        assert_eq!(remove(&mut table, i), Some(i));
        most = most.max(before - table.buckets);
        if i % 4096 == 0 {
            assert!(has(&table, n - 1) && !has(&table, i));
            let per_key = table.memory() as f64 / table.len() as f64;
            assert!(table.len() < 1000 || per_key < 80.0, "{per_key} at {}", table.len());
        }
    }
    assert_eq!(most, 1);
    assert!(table.is_empty() && table.memory() < 1024, "{} bytes", table.memory());
}

#[test]
fn the_shape_is_left_alone_while_a_child_lives() {
    let mut table = filled(10_000);
    set_resize_policy(ResizePolicy::Avoid);
    let buckets = table.buckets;
    for i in 10_000..30_000 {
        let (hash, number) = number(i);
        table.insert_new(hash, number);
    }
    assert_eq!(table.buckets, buckets);
    assert!(!table.rehashing());
    for i in 30_000..100_000 {
        let (hash, number) = number(i);
        table.insert_new(hash, number);
    }
    assert!(table.buckets > buckets, "a hopeless load is more than copied pages cost");
    assert!(table.len() <= 22 * table.buckets);

    // Afterwards it catches up within as many inserts as it has buckets.
    set_resize_policy(ResizePolicy::Allow);
    assert!(table.rehashing());
    for i in 100_000..110_000 {
        let (hash, number) = number(i);
        let before = table.buckets;
        table.insert_new(hash, number);
        assert!(table.buckets - before <= 4);
    }
    assert!(!table.rehashing());

    set_resize_policy(ResizePolicy::Avoid);
    let buckets = table.buckets;
    for i in 5000..110_000 {
        remove(&mut table, i);
    }
    assert_eq!(table.buckets, buckets);
    set_resize_policy(ResizePolicy::Allow);
    let mut turns = 0;
    while table.rehash_some(100) {
        turns += 1;
    }
    assert!(turns >= (buckets - table.buckets) / 100 && table.buckets < buckets / 4);
    assert!((0..110_000).all(|i| has(&table, i) == (i < 5000)));
}

#[test]
fn reserved_room_is_used_and_not_exceeded() {
    for n in [1, 100, 20_000, 300_000] {
        let mut table = Table::new();
        table.reserve(n);
        let buckets = table.buckets;
        for i in 0..n as u64 {
            let (hash, number) = number(i);
            table.insert_new(hash, number);
        }
        assert_eq!(table.buckets, buckets);
        assert!(!table.rehashing());
        assert!((0..n as u64).all(|i| has(&table, i)));
    }
    // A damaged count costs address space at most.
    let mut table = Table::new();
    table.reserve(usize::MAX);
    let (hash, number) = number(1);
    table.insert_new(hash, number);
    assert!(has(&table, 1));
}

#[test]
fn samples_are_fair() {
    // Sizes with chains of very different lengths: in the middle of a doubling.
    for n in [1, 6, 50, 700] {
        let table = filled(n);
        let draws = n as usize * 200;
        let mut counts = vec![0u32; n as usize];
        let mut rng = generator(n);
        for _ in 0..draws {
            counts[table.sample(&mut rng).unwrap().value() as usize] += 1;
        }
        let chi: f64 = counts.iter().map(|&c| (c as f64 - 200.0).powi(2) / 200.0).sum();
        let freedom = (n - 1) as f64;
        assert!(chi <= freedom + 6.0 * (2.0 * freedom).sqrt(), "{n}: chi-square {chi}");
    }
}

#[test]
fn samples_come_from_nearly_empty_tables_too() {
    set_resize_policy(ResizePolicy::Avoid);
    let mut table = Table::new();
    table.reserve(1_000_000);
    for i in 0..3 {
        let (hash, number) = number(i);
        table.insert_new(hash, number);
    }
    let mut rng = generator(1);
    assert!((0..100).all(|_| table.sample(&mut rng).is_some()));
}

#[test]
fn some_samples_are_distinct_and_everywhere() {
    let table = filled(1000);
    let mut rng = generator(2);
    let mut ever = HashSet::new();
    for _ in 0..2000 {
        let mut seen = HashSet::new();
        let found = table.sample_some(16, &mut rng, |number| {
            assert!(seen.insert(number.value()));
        });
        assert_eq!((found, seen.len()), (16, 16));
        ever.extend(seen);
    }
    assert_eq!(ever.len(), 1000);
    assert_eq!(filled(5).sample_some(16, &mut rng, |_| {}), 5);
}

#[test]
fn a_table_can_be_dropped_elsewhere() {
    let mut table = filled(300_000);
    let entries = table.drain();
    assert!(table.is_empty());
    assert_eq!(std::thread::spawn(move || entries.count()).join().unwrap(), 300_000);
    let table = filled(100);
    std::thread::spawn(move || drop(table)).join().unwrap();
}

#[test]
fn statistics_add_up() {
    let table = filled(50_000);
    let stats = table.stats();
    assert_eq!(stats.entries, 50_000);
    assert_eq!(stats.by_chain_length.iter().sum::<usize>(), stats.buckets);
    let entries: usize = stats.by_chain_length.iter().enumerate().map(|(len, n)| len * n).sum();
    assert_eq!(entries, 50_000);
    assert!(stats.longest_chain <= table.longest);
    assert!(stats.to_string().contains("number of elements: 50000"));
}
