//! What the next requests will touch, asked of the cache before the first of them runs.
//!
//! A request on a key that is in no cache waits for the table's bucket, then for the entry, then
//! for the value's own memory and, where that is a large hash, set or sorted set, for the bucket of
//! the element and for the element: each a miss that cannot begin before the last has ended. A batch
//! of requests goes through these stages side by side, so that each costs about one miss for all.
//!
//! A key that one request names is not looked up for certain: a stage takes the first entry of the bucket
//! whose tag fits. Five times in six that is the right one (the others are further down their chains),
//! and what is asked for in vain harms nobody. A key that several requests in a row name is looked up,
//! once for all of them: guessed wrong, it would be so each time, and none of its elements asked for.

use crate::cache::prefetch;
use crate::entry::Entry;
use crate::keyspace::Db;
use crate::table::Fetch;
use crate::value::Type;

/// The most requests of a batch.
pub const AHEAD: usize = 16;

/// Which argument of a request with `n` names an element of a value of this type: that of most of
/// its commands, `ZADD key score member` and `ZINCRBY` being the ones of four.
pub fn element_at(of: Type, n: usize) -> usize {
    if of == Type::Zset && n == 4 { 3 } else { 2 }
}

/// Asks for what requests on the keys with these hashes will touch, at most [`AHEAD`] of them.
/// `element` gives the hash of the element that the request of that number names, if it names one;
/// it is asked where the value is large.
pub fn fetch(db: &Db, keys: &[u64], mut element: impl FnMut(usize, Type) -> Option<u64>) {
    let keys = &keys[..keys.len().min(AHEAD)];
    let table = db.keys();
    // Requests in a row for one key are one as far as the key goes.
    let is_new = |i: usize| i == 0 || keys[i] != keys[i - 1];
    for i in (0..keys.len()).filter(|&i| is_new(i)) {
        table.prefetch(keys[i]);
    }
    for i in (0..keys.len()).filter(|&i| is_new(i)) {
        table.prefetch_entry(keys[i]);
    }
    let value_of = |i: usize| {
        let several = keys.get(i + 1) == Some(&keys[i]);
        let entry = if several { table.by_hash(keys[i]) } else { table.guess(keys[i]) };
        entry.and_then(Entry::value).inspect(|value| prefetch(value.address()))
    };
    // A batch is mostly of one kind, and most strings live in their entries: the first key decides.
    let Some(first) = keys.first().and_then(|_| value_of(0)) else { return };
    let mut values = [Some(first); AHEAD];
    for i in 1..keys.len() {
        values[i] = if is_new(i) { value_of(i) } else { values[i - 1] };
    }
    let mut elements: [Option<(&dyn Fetch, u64)>; AHEAD] = [None; AHEAD];
    let mut large = None;
    for i in 0..keys.len() {
        if is_new(i) {
            large = values[i].and_then(|value| Some((value.type_of(), value.elements()?)));
        }
        if let Some((of, table)) = large
            && let Some(hash) = element(i, of)
        {
            table.prefetch(hash);
            elements[i] = Some((table, hash));
        }
    }
    for (table, hash) in elements[..keys.len()].iter().flatten() {
        table.prefetch_entry(*hash);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::Payload;
    use crate::hasher::hash;
    use crate::keyspace::Keyspace;
    use crate::types::{hash::Hash, set::Set, zset::Zset};
    use crate::value::Value;

    /// The requests whose elements are asked for, among those on `keys`, as far as the tags of the keys'
    /// hashes tell all of them apart.
    fn asked(keys: &[&str]) -> Vec<(usize, Type)> {
        (0..).find_map(|n| asked_if_sure(keys, n)).expect("most names do")
    }

    /// As [`asked`], the keys' names having `n` behind them.
    fn asked_if_sure(keys: &[&str], n: u32) -> Option<Vec<(usize, Type)>> {
        let name = |key: &str| format!("{key}{n}").into_bytes();
        let mut ks = Keyspace::new(1, 1);
        let mut small = Hash::new();
        small.insert(b"f", b"v", &ks.limits);
        for (key, value) in [
            ("hash", Value::Hash(Hash::with_capacity(1000))),
            ("set", Value::Set(Set::with_capacity(1000))),
            ("zset", Value::Zset(Zset::with_capacity(1000))),
            ("small", Value::Hash(small)),
            ("long", Value::Str(vec![0; 4096].into())),
        ] {
            ks.add(0, &name(key), Payload::Value(value), None);
        }
        ks.add(0, &name("string"), Payload::string(b"v"), None);
        let table = ks.dbs[0].keys();
        for entry in table.iter() {
            table.guess(hash(entry.key())).filter(|guessed| guessed.key() == entry.key())?;
        }
        if table.guess(hash(&name("nothing"))).is_some() {
            return None;
        }
        let hashes: Vec<u64> = keys.iter().map(|key| hash(&name(key))).collect();
        let mut asked = Vec::new();
        fetch(&ks.dbs[0], &hashes, |i, of| {
            asked.push((i, of));
            Some(hash(b"element"))
        });
        Some(asked)
    }

    #[test]
    fn elements_are_asked_for_where_the_value_is_large() {
        use Type::{Hash, Set, Zset};
        assert_eq!(asked(&["hash"]), [(0, Hash)]);
        assert_eq!(asked(&["hash", "hash", "set"]), [(0, Hash), (1, Hash), (2, Set)]);
        assert_eq!(asked(&["small", "zset", "string", "nothing", "set"]), [(1, Zset), (4, Set)]);
        assert_eq!(asked(&["long", "hash"]), [(1, Hash)]);
        assert_eq!(asked(&["string", "hash"]), [], "the first key decides");
        assert_eq!(asked(&["nothing", "hash"]), []);
        assert_eq!(asked(&[]), []);
        assert_eq!(asked(&["set"; AHEAD + 9]).len(), AHEAD, "no more than a batch");
    }

    #[test]
    fn a_key_named_twice_in_a_row_is_looked_up_where_a_guess_misses_it() {
        let mut ks = Keyspace::new(1, 1);
        for n in 0..10_000 {
            ks.add(0, format!("string{n}").as_bytes(), Payload::string(b"v"), None);
        }
        let hashes: Vec<Vec<u8>> = (0..1000).map(|n| format!("hash{n}").into_bytes()).collect();
        for key in &hashes {
            ks.add(0, key, Payload::Value(Value::Hash(Hash::with_capacity(1000))), None);
        }
        let db = &ks.dbs[0];
        let is_missed = |key: &u64| db.keys().guess(*key).and_then(Entry::value).is_none();
        let missed = hashes.iter().map(|key| hash(key)).find(is_missed);
        let key = missed.expect("some share their bucket with strings");
        let asked_of = |keys: &[u64]| {
            let mut asked = Vec::new();
            fetch(db, keys, |i, _| {
                asked.push(i);
                Some(hash(b"element"))
            });
            asked
        };
        assert_eq!(asked_of(&[key, key]), [0, 1]);
        assert_eq!(asked_of(&[key]), [], "one request is not worth the search");
    }

    #[test]
    fn a_member_stands_behind_its_score() {
        assert_eq!(element_at(Type::Zset, 4), 3);
        assert_eq!(element_at(Type::Zset, 3), 2);
        assert_eq!(element_at(Type::Hash, 4), 2);
    }
}
