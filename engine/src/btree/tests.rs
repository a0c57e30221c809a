//! The tree against a sorted `Vec`.

use std::cmp::Ordering;

use proptest::prelude::*;

use super::node::LEAF;
use super::{BTree, Inner, Leaf, TreeKey};
use crate::member::{Member, ScoredRef};

impl TreeKey for u32 {
    fn cmp(&self, other: &u32) -> Ordering {
        Ord::cmp(self, other)
    }
}

fn tree_of(keys: &[u32]) -> BTree<u32> {
    let mut tree = BTree::new();
    for key in keys {
        tree.insert(*key);
    }
    tree
}

/// `n` different keys in an order that looks random: a bijection of `u32`, murmur's last step.
fn shuffled(n: u32) -> impl Iterator<Item = u32> {
    (0..n).map(|i| {
        let i = (i ^ i >> 16).wrapping_mul(0x85eb_ca6b);
        let i = (i ^ i >> 13).wrapping_mul(0xc2b2_ae35);
        i ^ i >> 16
    })
}

#[derive(Clone, Debug)]
enum Op {
    Insert(u32),
    /// A run of neighbours, so that trees of several levels come up.
    Ascending(u32, u16),
    Descending(u32, u16),
    Spread(u32, u16),
    Remove(u32),
    RemoveAt(prop::sample::Index),
    RemoveRange(prop::sample::Index, prop::sample::Index),
    /// Leaves a few in each of many stretches: small nodes everywhere.
    Thin(u16, u16),
    Update(prop::sample::Index, i32),
    PopFirst,
    PopLast,
    Rebuild,
}

fn op() -> impl Strategy<Value = Op> {
    use any as a;
    prop_oneof![
        4 => (0u32..20_000).prop_map(Op::Insert),
        3 => (0u32..20_000, 0u16..3000).prop_map(|(k, n)| Op::Ascending(k, n)),
        3 => (0u32..20_000, 0u16..3000).prop_map(|(k, n)| Op::Descending(k, n)),
        3 => (a::<u32>(), 0u16..3000).prop_map(|(k, n)| Op::Spread(k, n)),
        4 => (0u32..20_000).prop_map(Op::Remove),
        4 => a::<prop::sample::Index>().prop_map(Op::RemoveAt),
        4 => (a::<prop::sample::Index>(), a::<prop::sample::Index>())
            .prop_map(|(i, j)| Op::RemoveRange(i, j)),
        1 => (1u16..4, 1u16..2500).prop_map(|(k, n)| Op::Thin(k, n)),
        6 => (a::<prop::sample::Index>(), -300i32..300).prop_map(|(i, by)| Op::Update(i, by)),
        1 => Just(Op::PopFirst),
        1 => Just(Op::PopLast),
        1 => Just(Op::Rebuild),
    ]
}

fn insert(tree: &mut BTree<u32>, model: &mut Vec<u32>, key: u32) {
    match model.binary_search(&key) {
        Ok(_) => assert!(!tree.insert(key)),
        Err(at) => {
            assert!(tree.insert(key));
            model.insert(at, key);
        }
    }
}

fn remove_range(tree: &mut BTree<u32>, model: &mut Vec<u32>, start: usize, end: usize) {
    let mut removed = Vec::new();
    assert_eq!(tree.remove_range(start..end, |k| removed.push(k)), end - start);
    assert!(model.drain(start..end).eq(removed));
}

fn apply(tree: &mut BTree<u32>, model: &mut Vec<u32>, op: Op) {
    match op {
        Op::Insert(key) => insert(tree, model, key),
        Op::Ascending(key, n) => (key..key + n as u32).for_each(|k| insert(tree, model, k)),
        Op::Descending(key, n) => (key..key + n as u32).rev().for_each(|k| insert(tree, model, k)),
        Op::Spread(key, n) => {
            shuffled(n as u32).for_each(|k| insert(tree, model, k.wrapping_add(key) % 30_000))
        }
        Op::Remove(key) => {
            let found = model.binary_search(&key);
            assert_eq!(tree.remove(&key), found.is_ok());
            found.map(|at| model.remove(at)).ok();
        }
        Op::RemoveAt(index) => {
            assert_eq!(tree.remove_at(model.len()), None);
            if !model.is_empty() {
                let at = index.index(model.len());
                assert_eq!(tree.remove_at(at), Some(model.remove(at)));
            }
        }
        Op::RemoveRange(i, j) => {
            let (i, j) = (i.index(model.len() + 1), j.index(model.len() + 1));
            remove_range(tree, model, i.min(j), i.max(j));
        }
        Op::Thin(keep, drop) => {
            let mut at = keep as usize;
            while at < model.len() {
                let end = model.len().min(at + drop as usize);
                remove_range(tree, model, at, end);
                at += keep as usize;
            }
        }
        Op::Update(index, by) => {
            if model.is_empty() {
                assert!(!tree.update(&1, 2));
                return;
            }
            let at = index.index(model.len());
            let (old, new) = (model[at], model[at].saturating_add_signed(by));
            if model.binary_search(&new).is_err() {
                assert!(!tree.update(&new, old));
                assert!(tree.update(&old, new));
                model[at] = new;
                model.sort_unstable();
            }
        }
        Op::PopFirst => {
            let first = (!model.is_empty()).then(|| model.remove(0));
            assert_eq!(tree.pop_first(), first);
        }
        Op::PopLast => assert_eq!(tree.pop_last(), model.pop()),
        Op::Rebuild => *tree = BTree::from_sorted(model.iter().copied()),
    }
}

fn compare(tree: &BTree<u32>, model: &[u32], probes: &[u32]) {
    tree.check();
    assert_eq!(tree.len(), model.len());
    assert_eq!(tree.is_empty(), model.is_empty());
    assert!(tree.iter().eq(model));
    assert!(tree.iter().rev().eq(model.iter().rev()));
    assert_eq!(tree.first(), model.first().copied());
    assert_eq!(tree.last(), model.last().copied());
    for probe in probes {
        assert_eq!(tree.rank(probe), model.binary_search(probe).ok());
        let at = model.partition_point(|k| k < probe);
        let (rank, from) = tree.seek(|k| Ord::cmp(k, probe));
        assert_eq!(rank, at);
        assert!(from.take(200).eq(model[at..].iter().take(200)));
        assert_eq!(tree.get(rank), model.get(at).copied());
        assert!(tree.range(..at).rev().take(200).eq(model[..at].iter().rev().take(200)));
        assert_eq!(tree.partition_point(|k| k <= probe), model.partition_point(|k| k <= probe));
    }
    for pair in probes.windows(2) {
        let end = pair[1] as usize % (model.len() + 2);
        let start = pair[0] as usize % (end + 1);
        let slice = &model[start.min(model.len())..end.min(model.len())];
        assert!(tree.range(start..end).eq(slice));
        assert!(tree.range(start..end).rev().eq(slice.iter().rev()));
        assert_eq!(tree.runs(start..end).collect::<Vec<_>>().concat(), slice);
        // From both ends in turn, until they meet inside a leaf.
        let (mut ours, mut theirs) = (tree.range(start..end), slice.iter());
        loop {
            let front = ours.next();
            assert_eq!(front, theirs.next());
            assert_eq!(ours.next_back(), theirs.next_back());
            if front.is_none() {
                break;
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn does_what_a_sorted_vec_does(
        ops in prop::collection::vec(op(), 1..60),
        probes in prop::collection::vec(0u32..32_000, 8),
    ) {
        let (mut tree, mut model) = (BTree::new(), Vec::new());
        for op in ops {
            apply(&mut tree, &mut model, op);
            compare(&tree, &model, &probes);
        }
    }

    #[test]
    fn building_from_sorted_keys_fills_the_leaves(n in 0u32..100_000) {
        let tree = BTree::from_sorted(0..n);
        tree.check();
        prop_assert!(tree.iter().copied().eq(0..n));
        let leaves = (n as usize).div_ceil(LEAF);
        prop_assert!(tree.memory() >= leaves * size_of::<Leaf<u32>>());
        let inners = tree.memory() - leaves * size_of::<Leaf<u32>>();
        prop_assert!(inners <= (leaves / 30 + 3) * size_of::<Inner<u32>>());
    }

    #[test]
    fn orders_members_by_score_then_bytes(
        items in prop::collection::btree_map("[ab]{0,6}", -3i8..3, 0..300),
        changes in prop::collection::vec((any::<prop::sample::Index>(), -3i8..3), 0..300),
    ) {
        let mut members: Vec<Member> =
            items.iter().map(|(k, score)| Member::new(*score as f64, k.as_bytes())).collect();
        // SAFETY: `members` is declared before the tree and outlives it.
        let key = |m: &Member| ScoredRef { score: m.score(), member: unsafe { m.as_ref() } };
        let mut tree = BTree::new();
        for member in &members {
            prop_assert!(tree.insert(key(member)));
        }
        for (index, score) in changes {
            if members.is_empty() {
                break;
            }
            let at = index.index(members.len());
            let member = &mut members[at];
            let old = key(member);
            member.set_score(score as f64);
            prop_assert!(tree.update(&old, key(member)));
        }
        tree.check();
        let mut sorted: Vec<(f64, &[u8])> =
            members.iter().map(|m| (m.score(), m.bytes())).collect();
        sorted.sort_by(|a, b| a.partial_cmp(b).unwrap());
        prop_assert!(tree.iter().map(|k| (k.score, k.member.bytes())).eq(sorted));
        let taken = members.split_off(members.len() / 2);
        for member in taken {
            prop_assert!(tree.remove(&key(&member)));
            drop(member);
        }
        tree.check();
    }
}

#[test]
fn nodes_stay_nearly_full() {
    let fill = |tree: &BTree<u32>| {
        tree.len() as f64 / (tree.memory() as f64 / size_of::<Leaf<u32>>() as f64 * LEAF as f64)
    };
    let ascending = tree_of(&(0..100_000).collect::<Vec<_>>());
    let descending = tree_of(&(0..100_000).rev().collect::<Vec<_>>());
    let random = tree_of(&shuffled(100_000).collect::<Vec<_>>());
    // An inner node in some thirty leaves is in the sum, so not even full leaves come to one.
    assert!(fill(&ascending) > 0.9, "{}", fill(&ascending));
    assert!(fill(&descending) > 0.9, "{}", fill(&descending));
    assert!(fill(&random) > 0.75, "{}", fill(&random));
    ascending.check();
    descending.check();
    random.check();

    // A leaderboard: as many removed as added, everywhere, for long.
    let mut tree = random;
    let keys: Vec<u32> = shuffled(300_000).collect();
    for i in 0..200_000 {
        assert!(tree.remove(&keys[i]));
        assert!(tree.insert(keys[i + 100_000]));
    }
    assert!(fill(&tree) > 0.6, "{}", fill(&tree));
    tree.check();

    // All but every hundredth goes.
    for (i, key) in keys[200_000..].iter().enumerate() {
        if i % 100 != 0 {
            assert!(tree.remove(key));
        }
    }
    assert_eq!(tree.len(), 1000);
    assert!(fill(&tree) > 0.3, "{}", fill(&tree));
    tree.check();
}

#[test]
fn nodes_fill_a_step_of_the_allocators() {
    assert_eq!(size_of::<Leaf<ScoredRef>>(), 1016);
    assert_eq!(size_of::<Inner<ScoredRef>>(), 1024);
}

#[test]
fn a_tree_may_be_dropped_on_another_thread() {
    let tree = tree_of(&shuffled(10_000).collect::<Vec<_>>());
    std::thread::spawn(move || drop(tree)).join().unwrap();
}
