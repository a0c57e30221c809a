//! The set against a `BTreeSet`, across its forms.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

fn limits() -> Limits {
    Limits {
        set_max_intset_entries: 12,
        set_max_listpack_entries: 8,
        set_max_listpack_value: 6,
        ..Limits::default()
    }
}

fn members(set: &Set) -> BTreeSet<Vec<u8>> {
    let mut all = BTreeSet::new();
    set.for_each(|member| assert!(all.insert(member.to_vec()), "twice: {member:?}"));
    assert_eq!(all.len(), set.len());
    all
}

#[test]
fn forms_follow_the_limits() {
    let l = limits();
    let mut set = Set::new();
    (0..8).for_each(|i| assert!(set.insert(i.to_string().as_bytes(), &l)));
    assert_eq!(set.encoding(), "intset");
    let mut strings = set.clone();
    strings.remove(b"0");
    assert!(strings.insert(b"word", &l));
    assert_eq!(strings.encoding(), "listpack");
    assert!(strings.insert(b"more", &l));
    assert_eq!(strings.encoding(), "hashtable", "the ninth member");
    assert!(set.insert(b"word", &l));
    assert_eq!(set.encoding(), "hashtable", "eight integers and a word are nine members");

    let mut ints = Set::new();
    (0..12).for_each(|i| assert!(ints.insert(i.to_string().as_bytes(), &l)));
    assert_eq!(ints.encoding(), "intset");
    ints.insert(b"100", &l);
    assert_eq!(ints.encoding(), "hashtable");
    let mut long = Set::new();
    long.insert(b"1234567", &l);
    assert_eq!(long.encoding(), "intset");
    long.insert(b"a", &l);
    assert_eq!(long.encoding(), "hashtable", "the integer is too long for a listpack");
}

proptest! {
    #[test]
    fn a_set_is_a_set(ops in prop::collection::vec((0..5u8, 0..40u32), 0..120)) {
        let l = limits();
        let (mut set, mut model) = (Set::new(), BTreeSet::new());
        let mut seed = 7u64;
        let mut random = || { seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1); seed };
        for (op, n) in ops {
            let text = if n < 25 { n.to_string() } else { format!("m{n}") }.into_bytes();
            match op {
                0..=2 => prop_assert_eq!(set.insert(&text, &l), model.insert(text.clone())),
                3 => prop_assert_eq!(set.remove(&text), model.remove(&text)),
                _ => match set.pop(&mut random) {
                    Some(p) => prop_assert!(model.remove(p.bytes(&mut itoa::Buffer::new()))),
                    None => prop_assert!(model.is_empty()),
                },
            }
            prop_assert_eq!(set.contains(&text), model.contains(&text));
            prop_assert_eq!(set.contains_entry(Entry::parse(&text)), model.contains(&text));
            prop_assert_eq!(&members(&set), &model);
            prop_assert_eq!(&members(&set.clone()), &model);
        }
    }
}

/// Each draw is a miss of the cache, or several: three million took 2.7 s.
#[test]
fn most_of_a_large_set_is_popped_in_one_walk() {
    const ALL: usize = 20_000;
    let l = limits();
    let mut seed = 7u64;
    for n in [1, ALL / 9, ALL / 2, ALL - 3, ALL, ALL + 5] {
        let mut set = Set::new();
        (0..ALL).for_each(|i| assert!(set.insert(format!("m{i}").as_bytes(), &l)));
        let mut left = members(&set);
        let mut draws = 0;
        let popped = set.pop_some(n, &mut || {
            draws += 1;
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
            seed
        });
        assert_eq!(popped.len(), n.min(ALL));
        assert!(draws <= ALL, "{draws} draws for {n} members");
        popped.iter().for_each(|p| assert!(left.remove(p.bytes(&mut itoa::Buffer::new()))));
        assert_eq!(members(&set), left);
        assert!(left.iter().all(|member| set.contains(member)));
        // Which are taken does not depend on where they lie: of the first half, about half.
        if n == ALL / 2 {
            let low = |m: &&Vec<u8>| m.len() < 6 && m < &&b"m5".to_vec();
            let there = (0..ALL).map(|i| format!("m{i}").into_bytes());
            let all = there.collect::<BTreeSet<_>>().iter().filter(low).count();
            let kept = left.iter().filter(low).count();
            assert!((all * 2 / 5..all * 3 / 5).contains(&kept), "{kept} of {all}");
        }
    }
}
