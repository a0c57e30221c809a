//! The sorted set against a map of scores and the sorted list that follows from it.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn limits() -> Limits {
    Limits { zset_max_listpack_entries: 10, zset_max_listpack_value: 6, ..Limits::default() }
}

type Model = BTreeMap<Vec<u8>, f64>;

fn in_order(model: &Model) -> Vec<(Vec<u8>, f64)> {
    let mut all: Vec<_> = model.iter().map(|(m, s)| (m.clone(), *s)).collect();
    all.sort_by(|a, b| a.1.partial_cmp(&b.1).unwrap().then_with(|| a.0.cmp(&b.0)));
    all
}

fn listed(zset: &Zset, ranks: Range<usize>, reverse: bool) -> Vec<(Vec<u8>, f64)> {
    let mut all = Vec::new();
    zset.visit(ranks, reverse, |member, score| all.push((member.to_vec(), score)));
    all
}

fn agree(zset: &Zset, model: &Model) {
    if let Zset::Large(large) = zset {
        large.check();
    }
    let want = in_order(model);
    assert_eq!(zset.len(), want.len());
    assert_eq!(listed(zset, 0..usize::MAX, false), want);
    for (rank, (member, score)) in want.iter().enumerate() {
        assert_eq!(zset.rank(member), Some((rank, *score)));
        assert_eq!(zset.score(member), Some(*score));
    }
    let mut back = listed(zset, 0..usize::MAX, true);
    back.reverse();
    assert_eq!(back, want);
}

fn score() -> impl Strategy<Value = f64> {
    prop_oneof![
        (-5..5i32).prop_map(f64::from),
        (-8..8i32).prop_map(|n| n as f64 / 4.0),
        Just(f64::INFINITY),
        Just(f64::NEG_INFINITY),
        Just(0.1 + 0.2),
        Just(1e300),
    ]
}

fn member() -> impl Strategy<Value = Vec<u8>> {
    (0..30u32).prop_map(|n| match n {
        0..15 => n.to_string().into_bytes(),
        _ => format!("m{n}").into_bytes(),
    })
}

#[derive(Clone, Debug)]
enum Op {
    Insert(Vec<u8>, f64),
    Remove(Vec<u8>),
    RemoveRanks(usize, usize),
    Ranks(usize, usize),
    Scores(f64, bool, f64, bool),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        5 => (member(), score()).prop_map(|(m, s)| Op::Insert(m, s)),
        2 => member().prop_map(Op::Remove),
        1 => (0..20usize, 0..4usize).prop_map(|(a, n)| Op::RemoveRanks(a, n)),
        1 => (0..20usize, 0..20usize).prop_map(|(a, n)| Op::Ranks(a, n)),
        2 => (score(), any::<bool>(), score(), any::<bool>())
            .prop_map(|(a, x, b, y)| Op::Scores(a, x, b, y)),
    ]
}

proptest! {
    #[test]
    fn a_sorted_set_is_a_sorted_map(ops in prop::collection::vec(op(), 0..120)) {
        let l = limits();
        let (mut zset, mut model) = (Zset::new(), Model::new());
        for op in ops {
            match op {
                Op::Insert(m, s) => {
                    prop_assert_eq!(zset.insert(&m, s, &l), model.insert(m, s).is_none());
                }
                Op::Remove(m) => prop_assert_eq!(zset.remove(&m), model.remove(&m)),
                Op::RemoveRanks(start, n) => {
                    let start = start.min(zset.len());
                    let end = (start + n).min(zset.len());
                    let want = in_order(&model)[start..end].to_vec();
                    let mut gone = Vec::new();
                    zset.remove_range(start..end, |m, s| gone.push((m.to_vec(), s)));
                    prop_assert_eq!(&gone, &want);
                    want.iter().for_each(|(m, _)| { model.remove(m); });
                }
                Op::Ranks(start, n) => {
                    let all = in_order(&model);
                    let mut want = all[start.min(all.len())..(start + n).min(all.len())].to_vec();
                    prop_assert_eq!(&listed(&zset, start..start + n, false), &want);
                    want.reverse();
                    prop_assert_eq!(&listed(&zset, start..start + n, true), &want);
                }
                Op::Scores(min, a, max, b) => {
                    let range = ScoreRange {
                        min: ScoreBound { score: min, exclusive: a },
                        max: ScoreBound { score: max, exclusive: b },
                    };
                    let mut want = in_order(&model);
                    want.retain(|(_, s)| range.within_min(*s) && range.within_max(*s));
                    prop_assert_eq!(listed(&zset, zset.ranks_by_score(&range), false), want);
                }
            }
            agree(&zset, &model);
        }
        agree(&zset.clone(), &model);
        let mut pairs = Vec::new();
        zset.for_each_rev(|m, s| pairs.push((m.to_vec(), s)));
        agree(&Zset::from_pairs(pairs, &l), &model);
    }

    #[test]
    fn members_of_one_score_are_in_byte_order(
        all in prop::collection::btree_set(member(), 0..25),
        (a, b) in (member(), member()),
    ) {
        let l = limits();
        let mut zset = Zset::new();
        all.iter().for_each(|m| { zset.insert(m, 0.0, &l); });
        for min in [LexBound::First, LexBound::Included(&a), LexBound::Excluded(&a), LexBound::Last] {
            for max in [LexBound::Last, LexBound::Included(&b), LexBound::Excluded(&b), LexBound::First] {
                let range = LexRange { min, max };
                let want = all.iter().filter(|m| range.within_min(m) && range.within_max(m));
                let got = listed(&zset, zset.ranks_by_lex(&range), false);
                prop_assert!(got.iter().map(|(m, _)| m).eq(want));
            }
        }
    }
}

#[test]
fn a_small_sorted_set_keeps_what_redis_would_write() {
    let l = Limits::default();
    let mut zset = Zset::new();
    for (member, score) in [("b", 2.0), ("a", 0.5), ("7", -3.0), ("z", f64::INFINITY)] {
        zset.insert(member.as_bytes(), score, &l);
    }
    let pairs = zset.as_listpack().unwrap();
    let all: Vec<String> =
        pairs.iter().map(|entry| String::from_utf8(entry.to_vec()).unwrap()).collect();
    assert_eq!(all, ["7", "-3", "a", "0.5", "b", "2", "z", "inf"]);
    assert!(Zset::is_valid(pairs));
    let mut wrong = pairs.clone();
    wrong.push_pair(b"y", b"nonsense");
    assert!(!Zset::is_valid(&wrong));
}

#[test]
fn duplicates_and_what_is_no_number_show_in_the_length() {
    let l = limits();
    let pairs = vec![("a", 1.0), ("b", f64::NAN), ("a", 2.0)];
    let zset = Zset::from_pairs(pairs, &l);
    assert_eq!((zset.len(), zset.score(b"a")), (1, Some(1.0)));
}
