//! The hash: a listpack of fields and values while it is small, a table from then on, and never
//! back.

use super::field::Field;
use crate::hasher::hash;
use crate::keyspace::Limits;
use crate::listpack::{Encoded, Entry, Listpack};
use crate::table::{self, Table};
use std::collections::HashSet;

/// See the module's page.
pub struct Hash(Repr);

enum Repr {
    /// Field, value, field, value, ….
    Small(Listpack),
    Large(Box<Table<Field>>),
}

use Repr::{Large, Small};

/// What a small hash may be: `hash-max-listpack-entries` and `hash-max-listpack-value`.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub entries: usize,
    pub value: usize,
}

impl From<&Limits> for Bounds {
    fn from(limits: &Limits) -> Bounds {
        Bounds { entries: limits.hash_max_listpack_entries, value: limits.hash_max_listpack_value }
    }
}

impl Default for Hash {
    fn default() -> Hash {
        Hash::new()
    }
}

impl Clone for Hash {
    fn clone(&self) -> Hash {
        match &self.0 {
            Small(listpack) => Hash(Small(listpack.clone())),
            Large(fields) => {
                let mut copy = Table::new();
                copy.reserve(fields.len());
                for field in fields.iter() {
                    copy.insert_new(hash(field.name()), field.clone());
                }
                Hash(Large(Box::new(copy)))
            }
        }
    }
}

impl Hash {
    /// An empty hash.
    pub fn new() -> Hash {
        Hash(Small(Listpack::new()))
    }

    /// An empty hash that is large from the start, with room for `fields`.
    pub fn with_capacity(fields: usize) -> Hash {
        let mut table = Table::new();
        table.reserve(fields);
        Hash(Large(Box::new(table)))
    }

    /// A hash of a listpack's fields and values, in whichever form the limits ask for. The
    /// elements come in pairs and no field comes twice: who reads foreign bytes checks that first.
    pub fn from_listpack(listpack: Listpack, limits: &Limits) -> Hash {
        let bounds = Bounds::from(limits);
        let large = listpack.len() / 2 > bounds.entries
            || listpack.iter().any(|entry| entry.len() > bounds.value);
        let mut hash = Hash(Small(listpack));
        if large {
            hash.become_large(0);
        }
        hash
    }

    /// The fields and values in turn, if the hash is small.
    pub fn as_listpack(&self) -> Option<&Listpack> {
        match &self.0 {
            Small(listpack) => Some(listpack),
            Large(_) => None,
        }
    }

    /// Where its own memory begins, for [`crate::ahead`].
    #[inline]
    pub fn address(&self) -> *const u8 {
        match &self.0 {
            Small(listpack) => listpack.address(),
            Large(fields) => (&raw const **fields).cast(),
        }
    }

    /// The fields, if the hash is large.
    pub fn as_table(&self) -> Option<&Table<Field>> {
        match &self.0 {
            Small(_) => None,
            Large(fields) => Some(fields),
        }
    }

    pub fn encoding(&self) -> &'static str {
        match &self.0 {
            Small(_) => "listpack",
            Large(_) => "hashtable",
        }
    }

    /// Bytes allocated; those of a large hash's fields as [`Table::entries_memory`].
    pub fn memory(&self, samples: usize) -> usize {
        match &self.0 {
            Small(listpack) => listpack.memory(),
            Large(fields) => {
                let entries = fields.entries_memory(samples, Field::memory);
                size_of::<Table<Field>>() + fields.memory() + entries
            }
        }
    }

    pub fn free_effort(&self) -> usize {
        match &self.0 {
            Small(_) => 1,
            Large(fields) => fields.len(),
        }
    }

    /// The number of fields.
    pub fn len(&self) -> usize {
        match &self.0 {
            Small(listpack) => listpack.len() / 2,
            Large(fields) => fields.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        match &self.0 {
            Small(listpack) => listpack.is_empty(),
            Large(fields) => fields.is_empty(),
        }
    }

    /// The value of a field.
    #[inline]
    pub fn get(&self, field: &[u8]) -> Option<Entry<'_>> {
        match &self.0 {
            Small(listpack) => {
                let pos = listpack.find(field, 1)?;
                listpack.next(pos).map(|pos| listpack.at(pos))
            }
            Large(fields) => Some(Entry::Str(fields.get(hash(field), field)?.value())),
        }
    }

    /// Sets a field, and says whether it is new.
    pub fn insert(&mut self, field: &[u8], value: &[u8], limits: &Limits) -> bool {
        self.set(field, value, limits.into())
    }

    /// [`Hash::insert`] for callers that cannot hold on to the limits.
    #[inline]
    pub fn set(&mut self, field: &[u8], value: &[u8], bounds: Bounds) -> bool {
        if let Small(listpack) = &mut self.0 {
            // An element takes at most ten bytes beside its text.
            let most = field.len() + value.len() + 20;
            if field.len().max(value.len()) <= bounds.value && !listpack.would_exceed(most) {
                let name = Encoded::from(field);
                if let Some(at) = listpack.find(name, 1) {
                    let at = listpack.next(at).expect("fields and values come in pairs");
                    listpack.replace(at, value);
                    return false;
                }
                if listpack.len() / 2 < bounds.entries {
                    listpack.push_pair(name, value);
                    return true;
                }
            }
            self.become_large(1);
        }
        let Large(fields) = &mut self.0 else { unreachable!("it has just become large") };
        match fields.find_slot(hash(field), field) {
            table::Entry::Occupied(mut slot) => {
                slot.get_mut().set_value(value);
                false
            }
            table::Entry::Vacant(slot) => {
                slot.insert(Field::new(field, value));
                true
            }
        }
    }

    /// Becomes large if `more` fields are more than a small hash may have, with room for them.
    pub fn make_room(&mut self, more: usize, bounds: Bounds) {
        if more > bounds.entries {
            self.become_large(more);
        }
    }

    fn become_large(&mut self, more: usize) {
        let Small(listpack) = &self.0 else { return };
        let mut fields = Table::new();
        fields.reserve(listpack.len() / 2 + more);
        let (mut name_room, mut value_room) = (itoa::Buffer::new(), itoa::Buffer::new());
        for (name, value) in listpack.pairs() {
            let name = name.text(&mut name_room);
            let field = Field::new(name, value.text(&mut value_room));
            fields.replace(hash(name), field);
        }
        self.0 = Large(Box::new(fields));
    }

    /// Removes a field, and says whether there was one.
    pub fn remove(&mut self, field: &[u8]) -> bool {
        match &mut self.0 {
            Small(listpack) => match listpack.find(field, 1) {
                Some(pos) => {
                    listpack.remove_n(pos, 2);
                    true
                }
                None => false,
            },
            Large(fields) => fields.remove(hash(field), field).is_some(),
        }
    }

    /// Shows every field and its value.
    pub fn for_each(&self, mut each: impl FnMut(&[u8], &[u8])) {
        let (mut name_room, mut value_room) = (itoa::Buffer::new(), itoa::Buffer::new());
        self.for_each_entry(|name, value| {
            each(name.text(&mut name_room), value.text(&mut value_room));
        });
    }

    /// [`Hash::for_each`] that leaves integers as they are kept.
    #[inline]
    pub fn for_each_entry(&self, mut each: impl FnMut(Entry<'_>, Entry<'_>)) {
        match &self.0 {
            Small(listpack) => listpack.pairs().for_each(|(name, value)| each(name, value)),
            Large(fields) => {
                fields.iter().for_each(|f| each(Entry::Str(f.name()), Entry::Str(f.value())));
            }
        }
    }

    /// A random field, each as likely as any other: `rng` gives 64 random bits a call.
    pub fn sample(&self, mut rng: impl FnMut() -> u64) -> Option<(Entry<'_>, Entry<'_>)> {
        match &self.0 {
            Small(listpack) => {
                let index = below(rng(), self.len());
                listpack.pair(index)
            }
            Large(fields) => {
                fields.sample(rng).map(|f| (Entry::Str(f.name()), Entry::Str(f.value())))
            }
        }
    }

    /// Shows `n` different random fields (all if there are no more), each choice as likely as any
    /// other.
    pub fn sample_distinct(
        &self,
        n: usize,
        mut rng: impl FnMut() -> u64,
        mut each: impl FnMut(Entry<'_>, Entry<'_>),
    ) {
        let n = n.min(self.len());
        match &self.0 {
            Large(fields) if n * 3 < fields.len() => {
                // Few of many: drawing one twice is rare.
                let mut seen = HashSet::with_capacity(n);
                while seen.len() < n {
                    let Some(field) = fields.sample(&mut rng) else { return };
                    if seen.insert(table::Slot::address(field)) {
                        each(Entry::Str(field.name()), Entry::Str(field.value()));
                    }
                }
            }
            _ => {
                // One pass, in which each field is taken with the chance that is left to it.
                let (mut wanted, mut left) = (n, self.len());
                self.for_each_entry(|name, value| {
                    if below(rng(), left) < wanted {
                        each(name, value);
                        wanted -= 1;
                    }
                    left -= 1;
                });
            }
        }
    }
}

/// A random number below `n` made of 64 random bits.
fn below(word: u64, n: usize) -> usize {
    ((word as u128 * n as u128) >> 64) as usize
}
