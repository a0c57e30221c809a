use proptest::prelude::*;

use super::*;
use crate::listpack::Slice;

fn text() -> impl Strategy<Value = Vec<u8>> {
    let sized =
        |sizes: std::ops::Range<usize>| (sizes, b'x'..b'z').prop_map(|(len, byte)| vec![byte; len]);
    prop_oneof![
        8 => (-2i64..3).prop_map(|value| value.to_string().into_bytes()),
        4 => "[ab]{0,2}".prop_map(String::into_bytes),
        4 => sized(200..500),
        2 => sized(1500..3000),
        1 => sized(4070..4100),
        1 => sized(8170..8200),
    ]
}

#[derive(Clone, Debug)]
enum Op {
    PushFront(Vec<u8>, usize),
    PushBack(Vec<u8>, usize),
    PushVec(Vec<u8>, bool),
    PopFront(usize),
    PopBack(usize),
    Insert(usize, Vec<u8>),
    Set(i64, Vec<u8>),
    RemoveRange(usize, usize),
    RemoveEqual(Vec<u8>, i64),
    Trim(usize, usize),
    Plain(Vec<u8>),
    Packed(Vec<Vec<u8>>),
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0usize..120;
    prop_oneof![
        6 => (text(), 1usize..8).prop_map(|(text, n)| Op::PushFront(text, n)),
        6 => (text(), 1usize..8).prop_map(|(text, n)| Op::PushBack(text, n)),
        2 => (text(), any::<bool>()).prop_map(|(text, front)| Op::PushVec(text, front)),
        2 => (1usize..10).prop_map(Op::PopFront),
        2 => (1usize..10).prop_map(Op::PopBack),
        8 => (at.clone(), text()).prop_map(|(at, text)| Op::Insert(at, text)),
        6 => (-120i64..120, text()).prop_map(|(at, text)| Op::Set(at, text)),
        2 => (at.clone(), 0usize..40).prop_map(|(at, n)| Op::RemoveRange(at, n)),
        2 => (text(), -3i64..4).prop_map(|(text, count)| Op::RemoveEqual(text, count)),
        1 => (0usize..10, 20usize..200).prop_map(|(at, n)| Op::Trim(at, n)),
        1 => text().prop_map(Op::Plain),
        1 => prop::collection::vec(text(), 0..4).prop_map(Op::Packed),
    ]
}

fn apply(list: &mut Quicklist, model: &mut Vec<Vec<u8>>, op: Op) {
    match op {
        Op::PushFront(text, n) => (0..n).for_each(|_| {
            list.push_front(&text);
            model.insert(0, text.clone());
        }),
        Op::PushBack(text, n) => (0..n).for_each(|_| {
            list.push_back(&text);
            model.push(text.clone());
        }),
        Op::PushVec(text, true) => {
            list.push_front_vec(text.clone());
            model.insert(0, text);
        }
        Op::PushVec(text, false) => {
            list.push_back_vec(text.clone());
            model.push(text);
        }
        Op::PopFront(n) => (0..n).for_each(|_| {
            let expected = (!model.is_empty()).then(|| model.remove(0));
            assert_eq!(list.pop_front(), expected);
        }),
        Op::PopBack(n) => (0..n).for_each(|_| assert_eq!(list.pop_back(), model.pop())),
        Op::Insert(at, text) => {
            let at = at.min(model.len());
            list.insert(at, &text);
            model.insert(at, text);
        }
        Op::Set(index, text) => {
            let at = if index < 0 { index + model.len() as i64 } else { index };
            let slot = usize::try_from(at).ok().and_then(|at| model.get_mut(at));
            assert_eq!(list.set(index, &text), slot.is_some());
            if let Some(slot) = slot {
                *slot = text;
            }
        }
        Op::RemoveRange(at, n) => {
            let range = at.min(model.len())..(at + n).min(model.len());
            assert_eq!(list.remove_range(at, n), range.len());
            model.drain(range);
        }
        Op::RemoveEqual(text, count) => {
            let mut places: Vec<_> = (0..model.len()).filter(|&i| model[i] == text).collect();
            if count < 0 {
                places.reverse();
            }
            if count != 0 {
                places.truncate(count.unsigned_abs() as usize);
            }
            assert_eq!(list.remove_equal(&text, count), places.len());
            places.sort_unstable();
            places.into_iter().rev().for_each(|i| _ = model.remove(i));
        }
        Op::Trim(start, n) => {
            list.trim(start, n);
            model.truncate(start + n);
            model.drain(..start.min(model.len()));
        }
        Op::Plain(text) => {
            list.push_node_plain(text.clone());
            model.push(text);
        }
        Op::Packed(texts) => {
            list.push_node_packed(texts.iter().collect());
            model.extend(texts);
        }
    }
}

/// The list is the model's, and the module's invariants hold.
fn check(list: &Quicklist, model: &[Vec<u8>], loaded_nodes: bool) {
    assert_eq!(list.len(), model.len());
    assert!(list.iter().map(|entry| entry.to_vec()).eq(model.iter().cloned()));
    assert!(list.iter().rev().map(|entry| entry.to_vec()).eq(model.iter().rev().cloned()));
    assert_eq!(list.front().map(|entry| entry.to_vec()).as_ref(), model.first());
    assert_eq!(list.back().map(|entry| entry.to_vec()).as_ref(), model.last());
    for node in list.nodes() {
        match node {
            Container::Packed(listpack) => {
                assert!(!listpack.is_empty());
                assert!(loaded_nodes || list.limits.bounds(listpack.bytes(), listpack.len()));
            }
            Container::Plain(element) => {
                assert!(list.limits.too_large(&Encoded::from(element)));
            }
        }
    }
    assert_eq!(list.nodes.iter().map(Node::count).sum::<usize>(), list.len());
}

proptest! {
    #[test]
    fn behaves_as_a_vec(
        ops in prop::collection::vec(op(), 1..60),
        fill in prop::sample::select(vec![-1, -2, -5, 0, 1, 3, 5, 100]),
        (start, n) in (0usize..100, 0usize..50),
    ) {
        let (mut list, mut model) = (Quicklist::new(fill), Vec::new());
        let mut loaded_nodes = false;
        for op in ops {
            loaded_nodes |= matches!(op, Op::Packed(_));
            apply(&mut list, &mut model, op);
            check(&list, &model, loaded_nodes);
        }
        let len = model.len() as i64;
        for index in -len - 1..=len {
            let at = if index < 0 { index + len } else { index };
            let expected = usize::try_from(at).ok().and_then(|at| model.get(at).cloned());
            prop_assert_eq!(list.get(index).map(|entry| entry.to_vec()), expected);
        }
        for text in &model {
            prop_assert_eq!(list.position(text), model.iter().position(|other| other == text));
        }
        prop_assert_eq!(list.position(b"absent"), None);
        let expected: Vec<_> = model.iter().skip(start).take(n).cloned().collect();
        prop_assert!(list.range(start, n).map(|entry| entry.to_vec()).eq(expected.iter().cloned()));
        let rev = list.range(start, n).rev().map(|entry| entry.to_vec());
        prop_assert!(rev.eq(expected.iter().rev().cloned()));
        let mut ends = list.range(start, n);
        let mut taken = (Vec::new(), Vec::new());
        while let Some(entry) = ends.next() {
            taken.0.push(entry.to_vec());
            taken.1.extend(ends.next_back().map(|entry| entry.to_vec()));
        }
        taken.0.extend(taken.1.into_iter().rev());
        prop_assert_eq!(taken.0, expected);

        let mut loaded = Quicklist::new(fill);
        for node in list.nodes() {
            match node {
                Container::Packed(listpack) => {
                    loaded.push_node_packed(listpack.iter().collect());
                }
                Container::Plain(element) => loaded.push_node_plain(element.to_vec()),
            }
        }
        prop_assert_eq!(&loaded, &list);
        let size = list.as_listpack_bytes();
        match list.clone().into_listpack() {
            Ok(listpack) => {
                prop_assert_eq!(Some(listpack.bytes()), size);
                prop_assert_eq!(Quicklist::from_listpack(listpack, fill), list);
            }
            Err(same) => {
                prop_assert_eq!(size, None);
                prop_assert_eq!(same, list);
            }
        }
    }
}

#[test]
fn pushing_at_either_end_fills_nodes() {
    for front in [true, false] {
        let mut list = Quicklist::new(-2);
        for i in 0..100_000i64 {
            if front { list.push_front(i) } else { list.push_back(i) }
        }
        let bytes: usize = list.nodes.iter().filter_map(Node::listpack).map(Slice::bytes).sum();
        assert!(bytes / list.nodes.len() > 7000, "nodes of {} bytes", bytes / list.nodes.len());
        assert!(list.memory() < bytes + bytes / 8, "{} for {bytes}", list.memory());
    }
}

#[test]
fn in_a_list_of_several_nodes_the_next_has_the_room_of_the_last() {
    let mut list = Quicklist::new(-2);
    let element = [b'x'; 100];
    let mut memory = Vec::new(); // as each node was begun
    let mut nodes = 0;
    while nodes < 6 {
        list.push_front(&element);
        if list.nodes().len() > nodes {
            nodes += 1;
            memory.push(list.memory());
        }
    }
    let grown: Vec<usize> = memory.windows(2).map(|two| two[1] - two[0]).collect();
    assert!(grown[0] < 10_000, "{grown:?}: the first one is full, the second one is small");
    assert!(
        (16_000..17_000).contains(&grown[1]),
        "{grown:?}: the second one filled, a third in full"
    );
    assert!(grown[2..].iter().all(|&by| by < 8_500), "{grown:?}: one more each");
    // What is large has no part in it.
    list.push_front(&vec![b'y'; 1 << 20]);
    let before = list.memory();
    list.push_front(&element);
    assert!(list.memory() - before < 8192);
}

#[test]
fn popping_from_the_head_keeps_the_number_of_nodes_low() {
    let mut list = Quicklist::new(-2);
    (0..100_000i64).for_each(|i| list.push_back(i));
    let nodes = list.nodes.len();
    for i in 0..100_000i64 {
        assert_eq!(list.pop_front_with(|entry| entry.as_int()), Some(Some(i)));
        assert!(list.nodes.len() <= nodes + 1);
    }
    assert!(list.is_empty() && list.pop_front().is_none());
}

#[test]
fn nodes_merge_when_they_become_small() {
    let mut list = Quicklist::new(-2);
    (0..10_000i64).for_each(|i| list.push_back(i));
    for i in (0..10_000i64).rev().filter(|i| i % 100 != 0) {
        list.remove_range(i as usize, 1);
    }
    assert!(list.iter().map(|entry| entry.as_int()).eq((0..10_000).step_by(100).map(Some)));
    assert_eq!(list.nodes.len(), 1);
}

#[test]
fn a_large_element_keeps_its_allocation() {
    let mut list = Quicklist::new(-2);
    let element = vec![b'x'; 10_000];
    let address = element.as_ptr();
    list.push_back_vec(element);
    let Some(Container::Plain(stored)) = list.nodes().next() else { panic!("it is not plain") };
    assert_eq!(stored.as_ptr(), address);
}

/// A list that had had three million nodes kept 72 MB for the 1800 that were left.
#[test]
fn a_list_that_shrinks_gives_back_the_room_of_its_nodes() {
    const ALL: usize = 20_000;
    let shrinks: [fn(&mut Quicklist); 4] = [
        |list| while list.len() > 9 && list.pop_front().is_some() {},
        |list| while list.len() > 9 && list.pop_back().is_some() {},
        |list| list.trim(ALL / 2, 9),
        |list| _ = list.remove_equal(b"often", 0),
    ];
    let filled = |n: usize| {
        let mut list = Quicklist::new(1);
        (0..n).for_each(|i| list.push_back(if i < 9 { &b"seldom"[..] } else { b"often" }));
        list
    };
    for shrink in shrinks {
        let mut list = filled(ALL);
        shrink(&mut list);
        assert_eq!(list.len(), 9);
        assert!(list.memory() < 10 * filled(9).memory(), "{}", list.memory());
    }
}
