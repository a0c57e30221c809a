use proptest::prelude::*;

use super::*;

/// Texts of all the shapes that the format tells apart.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let near = (0u32..64, -2i64..=2, any::<bool>()).prop_map(|(bit, near, negative)| {
        let value = if bit == 63 { i64::MAX } else { 1 << bit };
        let value = value.wrapping_add(near);
        (if negative { value.wrapping_neg() } else { value }).to_string().into_bytes()
    });
    let sized = |sizes: std::ops::Range<usize>| {
        (sizes, any::<u8>()).prop_map(|(len, byte)| vec![byte; len])
    };
    prop_oneof![
        6 => "[ab]{0,3}".prop_map(String::into_bytes),
        6 => "k[0-9]{3,20}".prop_map(String::into_bytes),
        6 => (-3i64..3).prop_map(|value| value.to_string().into_bytes()),
        6 => near,
        1 => "-?0[0-9]{0,3}".prop_map(String::into_bytes),
        2 => sized(60..70),
        1 => sized(120..130),
        1 => sized(4090..4100),
        1 => sized(16370..16390),
    ]
}

fn texts(listpack: &Slice) -> Vec<Vec<u8>> {
    listpack.iter().map(|entry| entry.to_vec()).collect()
}

/// What every listpack must be: loadable, and the same in both directions and in its count.
fn check(listpack: &Slice, model: &[Vec<u8>]) {
    assert_eq!(texts(listpack), model);
    assert_eq!(listpack.len(), model.len());
    let mut reversed: Vec<_> = listpack.iter().rev().map(|entry| entry.to_vec()).collect();
    reversed.reverse();
    assert_eq!(reversed, model);
    let loaded = Listpack::from_bytes(listpack.as_bytes()).expect("our own bytes load");
    assert_eq!(loaded.as_bytes(), listpack.as_bytes());
    let sizes: usize = model.iter().map(|text| Encoded::from(text).size()).sum();
    assert_eq!(listpack.bytes(), sizes + HEADER + 1);
}

#[derive(Clone, Debug)]
enum Op {
    PushBack(Vec<u8>),
    PushFront(Vec<u8>),
    PushPair(Vec<u8>, i64),
    InsertBefore(usize, Vec<u8>),
    InsertAfter(usize, Vec<u8>),
    InsertPair(usize, Vec<u8>, Vec<u8>),
    Replace(usize, Vec<u8>),
    Remove(usize, usize),
    RemoveRange(i64, usize),
    RemoveEach(Vec<bool>, usize),
    Split(usize, bool),
    Double,
    MakeRoom(usize, usize),
    ShrinkToFit,
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0usize..40;
    prop_oneof![
        6 => text().prop_map(Op::PushBack),
        4 => text().prop_map(Op::PushFront),
        2 => (text(), any::<i64>()).prop_map(|(text, value)| Op::PushPair(text, value)),
        3 => (at.clone(), text()).prop_map(|(at, text)| Op::InsertBefore(at, text)),
        3 => (at.clone(), text()).prop_map(|(at, text)| Op::InsertAfter(at, text)),
        1 => (at.clone(), text(), text()).prop_map(|(at, a, b)| Op::InsertPair(at, a, b)),
        4 => (at.clone(), text()).prop_map(|(at, text)| Op::Replace(at, text)),
        2 => (at.clone(), 0usize..4).prop_map(|(at, n)| Op::Remove(at, n)),
        1 => (-40i64..40, 0usize..8).prop_map(|(at, n)| Op::RemoveRange(at, n)),
        1 => (prop::collection::vec(prop::bool::weighted(0.2), 40), 1usize..3)
            .prop_map(|(which, n)| Op::RemoveEach(which, n)),
        1 => (at, any::<bool>()).prop_map(|(at, front)| Op::Split(at, front)),
        1 => Just(Op::Double),
        2 => (0usize..300, 0usize..10_000).prop_map(|(add, most)| Op::MakeRoom(add, most)),
        1 => Just(Op::ShrinkToFit),
    ]
}

/// A listpack of either kind.
trait Kind: Sized + From<Listpack> {
    fn make_room(&mut self, add: usize, most: usize);
    fn shrink(&mut self);
}

impl Kind for Listpack {
    fn make_room(&mut self, _: usize, _: usize) {}
    fn shrink(&mut self) {}
}

impl Kind for Deque {
    fn make_room(&mut self, add: usize, most: usize) {
        let (texts, before) = (texts(self), self.memory());
        self.make_room_in_front(add, most);
        assert!(self.memory() >= self.bytes() + add);
        let bound = (self.bytes() + add).max(most) * 5 / 4 + 16;
        assert!(self.memory() <= bound.max(before));
        check(self, &texts);
    }

    fn shrink(&mut self) {
        self.shrink_to_fit();
        assert!(self.memory() <= self.bytes() * 5 / 4 + 16);
    }
}

fn apply<G: Gap>(listpack: &mut Owned<G>, model: &mut Vec<Vec<u8>>, op: Op)
where
    Owned<G>: Kind,
{
    let place = |listpack: &Slice, at: usize| listpack.seek(at as i64);
    match op {
        Op::PushBack(text) => {
            listpack.push_back(&text);
            model.push(text);
        }
        Op::PushFront(text) => {
            listpack.push_front(&text);
            model.insert(0, text);
        }
        Op::PushPair(text, value) => {
            let pos = listpack.push_pair(&text, value);
            assert_eq!(listpack.next(pos), listpack.last());
            model.extend([text, value.to_string().into_bytes()]);
        }
        Op::InsertBefore(at, text) => {
            let Some(pos) = place(listpack, at) else { return };
            let pos = listpack.insert_before(pos, &text);
            assert!(listpack.at(pos).eq_bytes(&text));
            model.insert(at, text);
        }
        Op::InsertAfter(at, text) => {
            let Some(pos) = place(listpack, at) else { return };
            let pos = listpack.insert_after(pos, &text);
            assert!(listpack.at(pos).eq_bytes(&text));
            model.insert(at + 1, text);
        }
        Op::InsertPair(at, a, b) => {
            let Some(pos) = place(listpack, at) else { return };
            listpack.insert_pair_before(pos, &a, &b);
            model.splice(at..at, [a, b]);
        }
        Op::Replace(at, text) => {
            let Some(pos) = place(listpack, at) else { return };
            listpack.replace(pos, &text);
            assert!(listpack.at(pos).eq_bytes(&text));
            model[at] = text;
        }
        Op::Remove(at, n) => {
            let Some(pos) = place(listpack, at) else { return };
            let next = listpack.remove_n(pos, n);
            model.drain(at..(at + n).min(model.len()));
            assert_eq!(next.map(|pos| listpack.at(pos).to_vec()), model.get(at).cloned());
        }
        Op::RemoveRange(index, n) => {
            let removed = listpack.remove_range(index, n);
            let at = if index < 0 { index + model.len() as i64 } else { index };
            if at < 0 || at as usize >= model.len() {
                assert_eq!(removed, 0);
                return;
            }
            let at = at as usize;
            assert_eq!(model.drain(at..(at + n).min(model.len())).count(), removed);
        }
        Op::RemoveEach(which, n) => {
            let chosen = |i: usize| which.get(i).copied().unwrap_or(false);
            let mut places = Vec::new();
            let mut pos = listpack.first();
            let mut index = 0;
            while let Some(at) = pos {
                if chosen(index) {
                    places.push(at);
                }
                (pos, index) = (listpack.next(at), index + 1);
            }
            // A place inside a group that goes counts from where that group ends.
            let (mut kept, mut i) = (Vec::new(), 0);
            let mut pending: Vec<usize> = (0..model.len()).filter(|&i| chosen(i)).collect();
            pending.reverse();
            while let Some(start) = pending.pop() {
                let start = start.max(i);
                kept.extend_from_slice(&model[i..start]);
                i = (start + n).min(model.len());
            }
            kept.extend_from_slice(&model[i..]);
            assert_eq!(listpack.remove_each(&places, n), model.len() - kept.len());
            *model = kept;
        }
        Op::Split(at, front) => {
            let at = at.min(model.len());
            let mut rest = listpack.split_off(at);
            check(&rest, &model[at..]);
            if front {
                rest.append(listpack);
                *listpack = rest.into();
                model.rotate_left(at);
            } else {
                listpack.append(&rest);
            }
        }
        Op::Double => {
            if model.len() < 100 {
                let same = listpack.clone();
                listpack.append(&same);
                model.extend_from_within(..);
            }
        }
        Op::MakeRoom(add, most) => listpack.make_room(add, most.min(listpack.memory() * 4)),
        Op::ShrinkToFit => listpack.shrink(),
    }
}

proptest! {
    #[test]
    fn behaves_as_a_vec(ops in prop::collection::vec(op(), 1..40)) {
        let (mut listpack, mut model) = (Listpack::new(), Vec::new());
        for op in ops.clone() {
            apply(&mut listpack, &mut model, op);
            check(&listpack, &model);
        }
        let (mut deque, mut same) = (Deque::new(), Vec::new());
        for op in ops {
            apply(&mut deque, &mut same, op);
            check(&deque, &same);
        }
        prop_assert_eq!(&same, &model);
        prop_assert_eq!(&deque.clone(), &deque);
        prop_assert_eq!(&Listpack::from(deque), &listpack);
        let len = model.len() as i64;
        for index in -len - 2..len + 2 {
            let at = if index < 0 { index + len } else { index };
            let expected = usize::try_from(at).ok().and_then(|at| model.get(at).cloned());
            prop_assert_eq!(listpack.get(index).map(|entry| entry.to_vec()), expected);
        }
        let pairs: Vec<_> = listpack.pairs().map(|(a, b)| (a.to_vec(), b.to_vec())).collect();
        let expected: Vec<_> =
            model.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        prop_assert_eq!(&pairs, &expected);
        for (i, pair) in expected.iter().enumerate() {
            let (a, b) = listpack.pair(i).unwrap();
            prop_assert_eq!(&(a.to_vec(), b.to_vec()), pair);
        }
        prop_assert_eq!(listpack.pair(expected.len()), None);
        prop_assert_eq!(&listpack, &model.iter().collect::<Listpack>());
    }

    #[test]
    fn finds_what_a_plain_search_finds(
        model in prop::collection::vec(text(), 0..30),
        absent in text(),
        skip in 0usize..3,
        from in any::<prop::sample::Index>(),
    ) {
        let listpack: Listpack = model.iter().collect();
        for needle in model.iter().chain([&absent]) {
            let expected = model.iter().step_by(skip + 1).position(|text| text == needle);
            let found = listpack.find(needle, skip);
            let expected = expected.and_then(|i| listpack.seek((i * (skip + 1)) as i64));
            prop_assert_eq!(found, expected);
            if !model.is_empty() {
                let from = from.index(model.len());
                let expected = model[from..].iter().step_by(skip + 1).position(|t| t == needle);
                let expected =
                    expected.and_then(|i| listpack.seek((from + i * (skip + 1)) as i64));
                let pos = listpack.seek(from as i64).unwrap();
                prop_assert_eq!(listpack.find_from(pos, needle, skip), expected);
                prop_assert_eq!(listpack.iter_from(pos).count(), model.len() - from);
                prop_assert_eq!(listpack.iter_to(pos).count(), from + 1);
            }
        }
    }

    #[test]
    fn entries_are_their_texts(a in text(), b in text()) {
        let (x, y) = (Entry::parse(&a), Entry::parse(&b));
        prop_assert_eq!(x == y, a == b);
        prop_assert_eq!(x.eq_bytes(&b), a == b);
        prop_assert_eq!(x.cmp_bytes(&b), a.cmp(&b));
        prop_assert_eq!(x.len(), a.len());
        prop_assert_eq!(x.is_empty(), a.is_empty());
        let mut out = vec![7];
        x.write_to(&mut out);
        prop_assert_eq!(&out[1..], &a);
    }

    #[test]
    fn damaged_bytes_load_as_a_listpack_or_not_at_all(
        model in prop::collection::vec(text(), 0..12),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
        fix_length in any::<bool>(),
    ) {
        let mut bytes = model.iter().collect::<Listpack>().as_bytes().to_vec();
        for (at, xor) in flips {
            let at = at.index(bytes.len());
            bytes[at] ^= xor;
        }
        bytes.truncate(cut.map_or(bytes.len(), |cut| cut.index(bytes.len())));
        if fix_length && bytes.len() > 7 {
            let len = bytes.len() as u32;
            bytes[..4].copy_from_slice(&len.to_le_bytes());
            *bytes.last_mut().unwrap() = END;
        }
        if let Some(listpack) = Listpack::from_bytes(&bytes) {
            check(&listpack, &texts(&listpack));
        }
    }
}

#[test]
fn bytes_are_those_of_redis() {
    let listpack: Listpack =
        [&b"a"[..], b"127", b"128", b"-1", b"32768", b"field"].iter().copied().collect();
    let expected: &[u8] = &[
        30, 0, 0, 0, 6, 0, // header
        0x81, b'a', 2, // a string
        127, 1, // 7 bits
        0xC0, 0x80, 2, // 13 bits
        0xDF, 0xFF, 2, // 13 bits, negative
        0xF2, 0x00, 0x80, 0x00, 4, // 24 bits
        0x85, b'f', b'i', b'e', b'l', b'd', 6, // a string
        0xFF,
    ];
    assert_eq!(listpack.as_bytes(), expected);
    assert_eq!(size_of::<Option<Listpack>>(), 8);
}

#[test]
fn back_lengths_widen_where_redis_widens_them() {
    for (len, size) in [(127 - 2, 128), (128 - 2, 130), (16382 - 5, 16384), (16383 - 5, 16386)] {
        let mut listpack = Listpack::new();
        listpack.push_back(&vec![b'x'; len]);
        assert_eq!(listpack.bytes(), size + 7, "{len}");
        assert_eq!(listpack.last(), listpack.first());
    }
}

#[test]
fn wasteful_elements_load_in_their_short_form() {
    // "5" as a string, 1 in 64 bits, "ab" with a 32-bit length; and a count that is not known.
    let bytes = [
        32, 0, 0, 0, 0xFF, 0xFF, 0x81, b'5', 2, 0xF4, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0xF0, 2, 0, 0, 0,
        b'a', b'b', 7, 0x80, 1, 5, 1, 0xFF,
    ];
    let listpack = Listpack::from_bytes(&bytes).unwrap();
    check(&listpack, &[&b"5"[..], b"1", b"ab", b"", b"5"].map(<[u8]>::to_vec));
    assert_eq!(listpack.find(b"5", 0), listpack.first());
    assert!(listpack.find(b"1", 0).is_some());
}

#[test]
fn a_count_beyond_the_header_is_still_known() {
    let mut listpack: Listpack = (0..65_534).collect();
    assert_eq!((listpack.len(), listpack.known_len()), (65_534, Some(65_534)));
    listpack.push_back(7);
    assert_eq!((listpack.len(), listpack.known_len()), (65_535, None));
    listpack.push_pair(b"x", 8);
    assert_eq!(listpack.len(), 65_537);
    assert_eq!(listpack.get(65_536), Some(Entry::Int(8)));
    assert_eq!(listpack.get(-65_537), Some(Entry::Int(0)));
    assert_eq!((listpack.get(65_537), listpack.get(-65_538)), (None, None));
    assert_eq!(listpack.remove_range(-3, 10), 3);
    assert_eq!(listpack.len(), 65_534);
    let loaded = Listpack::from_bytes(listpack.as_bytes()).unwrap();
    assert_eq!(loaded.known_len(), Some(65_534));
    let rest = listpack.split_off(65_000);
    assert_eq!((listpack.known_len(), rest.known_len()), (Some(65_000), Some(534)));
    listpack.append(&rest);
    listpack.append(&rest);
    assert_eq!((listpack.len(), listpack.known_len()), (66_068, None));
}

#[test]
fn the_fence_is_a_gibibyte() {
    let listpack = Listpack::new();
    assert!(!listpack.would_exceed(MAX_BYTES - 7));
    assert!(listpack.would_exceed(MAX_BYTES - 6));
    assert!(listpack.would_exceed(usize::MAX));
}

/// A queue and a stack at the front of a long listpack: what leaves is given back, and what stays is
/// not moved as often as there are changes.
#[test]
fn a_deque_gives_back_what_was_taken_from_its_front() {
    let mut deque = Deque::new();
    (0..2000i64).for_each(|i| deque.push_back(i));
    let (mut moves, mut address) = (0, deque.as_bytes().as_ptr_range().end);
    for i in 0..2000 {
        assert_eq!(deque.get(0), Some(Entry::Int(i)));
        deque.remove_range(0, 1);
        assert!(deque.memory() <= deque.bytes() * 5 + 16, "{} of {i}", deque.memory());
        let now = deque.as_bytes().as_ptr_range().end;
        (moves, address) = (moves + usize::from(now != address), now);
    }
    assert!(deque.is_empty() && moves < 10, "{moves}");
}
