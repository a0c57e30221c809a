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
