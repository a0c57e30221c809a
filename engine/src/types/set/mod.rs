//! The set: an intset, a listpack, or a table of members.
//!
//! It grows from one to the next and never back: integers only, and few, are an intset; few short
//! members are a listpack, which RDB holds in the same bytes; all else is a table with one
//! allocation a member.
//!
//! Elements are handed around as listpack entries: an integer is then compared and copied as one
//! from intset to intset, and nothing is printed that nobody reads.

mod member;
#[cfg(test)]
mod tests;

pub use member::Member;

use crate::hasher::hash;
use crate::intset::{self, Intset};
use crate::keyspace::Limits;
use crate::listpack::{self, Encoded, Entry, Listpack};
use crate::table::{self, Table};

/// See the module's page.
pub enum Set {
    Ints(Intset),
    Small(Listpack),
    Large(Box<Table<Member>>),
}

impl Default for Set {
    fn default() -> Set {
        Set::new()
    }
}

/// A member that was taken out.
pub enum Popped {
    Int(i64),
    Text(Vec<u8>),
    Member(Member),
}

impl Popped {
    /// Its bytes; an integer is printed into `room`.
    pub fn bytes<'r>(&'r self, room: &'r mut itoa::Buffer) -> &'r [u8] {
        match self {
            Popped::Int(value) => room.format(*value).as_bytes(),
            Popped::Text(text) => text,
            Popped::Member(member) => member.bytes(),
        }
    }
}

/// The members in storage order. What a table holds comes as [`Entry::Str`], integer or not, so
/// these entries are to be compared by their text.
pub enum Iter<'a> {
    Ints(intset::Iter<'a>),
    Small(listpack::Iter<'a>),
    Large(table::Iter<'a, Member>),
}

impl<'a> Iterator for Iter<'a> {
    type Item = Entry<'a>;

    #[inline]
    fn next(&mut self) -> Option<Entry<'a>> {
        match self {
            Iter::Ints(iter) => iter.next().map(Entry::Int),
            Iter::Small(iter) => iter.next(),
            Iter::Large(iter) => iter.next().map(|member| Entry::Str(member.bytes())),
        }
    }
}

/// What a set begins as that is to hold `n` members.
const MANY: usize = 512;

impl Set {
    pub fn new() -> Set {
        Set::Ints(Intset::new())
    }

    /// An empty set to which about `n` members will be added.
    pub fn with_capacity(n: usize) -> Set {
        if n <= MANY {
            return Set::new();
        }
        Set::Large(Box::new(table_for(n)))
    }

    /// An empty set of the form that `n` members, of which `first` is one, are likely to need.
    pub fn fitting(first: &[u8], n: usize, limits: &Limits) -> Set {
        if n <= limits.set_max_intset_entries && Entry::parse(first).as_int().is_some() {
            Set::new()
        } else if n <= limits.set_max_listpack_entries {
            Set::Small(Listpack::new())
        } else {
            Set::Large(Box::new(table_for(n)))
        }
    }

    /// A set of an intset's integers, in the form that `limits` allow.
    pub fn from_intset(ints: Intset, limits: &Limits) -> Set {
        let fits = ints.len() <= limits.set_max_intset_entries;
        let mut set = Set::Ints(ints);
        if !fits {
            set.become_large(0);
        }
        set
    }

    /// A set of a listpack's elements, in the form that `limits` allow. Elements that occur twice
    /// are the caller's to find; in a set that becomes large only one of them is left.
    pub fn from_listpack(elements: Listpack, limits: &Limits) -> Set {
        let fits = elements.len() <= limits.set_max_listpack_entries;
        let mut set = Set::Small(elements);
        if !fits {
            set.become_large(0);
        }
        set
    }

    /// Where its own memory begins, for [`crate::ahead`].
    #[inline]
    pub fn address(&self) -> *const u8 {
        match self {
            Set::Ints(ints) => ints.address(),
            Set::Small(listpack) => listpack.address(),
            Set::Large(members) => (&raw const **members).cast(),
        }
    }

    /// The members, if the set is large.
    pub fn as_table(&self) -> Option<&Table<Member>> {
        match self {
            Set::Large(members) => Some(members),
            _ => None,
        }
    }

    pub fn as_intset(&self) -> Option<&Intset> {
        match self {
            Set::Ints(ints) => Some(ints),
            _ => None,
        }
    }

    pub fn as_listpack(&self) -> Option<&Listpack> {
        match self {
            Set::Small(elements) => Some(elements),
            _ => None,
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Set::Ints(ints) => ints.len(),
            Set::Small(elements) => elements.len(),
            Set::Large(table) => table.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The word that `OBJECT ENCODING` answers.
    pub fn encoding(&self) -> &'static str {
        match self {
            Set::Ints(_) => "intset",
            Set::Small(_) => "listpack",
            Set::Large(_) => "hashtable",
        }
    }

    /// Bytes allocated; those of a table's members as [`Table::entries_memory`].
    pub fn memory(&self, samples: usize) -> usize {
        match self {
            Set::Ints(ints) => ints.memory(),
            Set::Small(elements) => elements.memory(),
            Set::Large(table) => {
                let members = table.entries_memory(samples, Member::memory);
                size_of::<Table<Member>>() + table.memory() + members
            }
        }
    }

    /// How many allocations freeing it takes.
    pub fn free_effort(&self) -> usize {
        match self {
            Set::Large(table) => table.len(),
            _ => 1,
        }
    }

    /// Whether the set is a table, where a member is found without a search.
    pub fn is_large(&self) -> bool {
        matches!(self, Set::Large(_))
    }

    #[inline]
    pub fn contains(&self, member: &[u8]) -> bool {
        match self {
            Set::Ints(ints) => Entry::parse(member).as_int().is_some_and(|v| ints.contains(v)),
            Set::Small(elements) => elements.find(member, 0).is_some(),
            Set::Large(table) => table.contains(hash(member), member),
        }
    }

    /// Whether the text of `entry` is a member.
    pub fn contains_entry(&self, entry: Entry<'_>) -> bool {
        match (self, entry) {
            (Set::Ints(ints), Entry::Int(value)) => ints.contains(value),
            (Set::Small(elements), Entry::Int(value)) => elements.find(value, 0).is_some(),
            _ => self.contains(entry.text(&mut itoa::Buffer::new())),
        }
    }

    /// Adds a member; whether it was new.
    #[inline]
    pub fn insert(&mut self, member: &[u8], limits: &Limits) -> bool {
        match self {
            Set::Large(table) => match table.find_slot(hash(member), member) {
                table::Entry::Occupied(_) => false,
                table::Entry::Vacant(slot) => {
                    slot.insert(Member::new(member));
                    true
                }
            },
            _ => self.insert_small(member, limits),
        }
    }

    /// Adds the text of `entry`; whether it was new.
    pub fn insert_entry(&mut self, entry: Entry<'_>, limits: &Limits) -> bool {
        match (&mut *self, entry) {
            (Set::Ints(_), Entry::Int(value)) => self.insert_int(value, limits),
            _ => self.insert(entry.text(&mut itoa::Buffer::new()), limits),
        }
    }

    fn insert_int(&mut self, value: i64, limits: &Limits) -> bool {
        let Set::Ints(ints) = self else { unreachable!("the caller matched") };
        let new = ints.insert(value);
        // Above 2^30 the length no longer fits; a table serves far earlier.
        if new && ints.len() > limits.set_max_intset_entries.min(1 << 30) {
            self.become_large(0);
        }
        new
    }

    fn insert_small(&mut self, member: &[u8], limits: &Limits) -> bool {
        let short = member.len() <= limits.set_max_listpack_value;
        if let Set::Ints(ints) = self {
            if let Some(value) = Entry::parse(member).as_int() {
                return self.insert_int(value, limits);
            }
            let longest = |v: Option<i64>| v.map_or(0, |v| Entry::Int(v).len());
            let fits = short
                && ints.len() < limits.set_max_listpack_entries
                && longest(ints.min()).max(longest(ints.max())) <= limits.set_max_listpack_value;
            if fits {
                let mut builder = listpack::Builder::default();
                ints.iter().for_each(|value| builder.push(value));
                builder.push(member);
                *self = Set::Small(builder.finish());
                return true;
            }
        } else if let Set::Small(elements) = self {
            let encoded = Encoded::from(member);
            if elements.find(encoded, 0).is_some() {
                return false;
            }
            if short
                && elements.len() < limits.set_max_listpack_entries
                && !elements.would_exceed(encoded.size())
            {
                elements.push_back(encoded);
                return true;
            }
        }
        self.become_large(1);
        self.insert(member, limits)
    }

    /// Prepares for `n` members to come: what cannot stay small becomes large at once.
    pub fn expect(&mut self, n: usize, limits: &Limits) {
        let most = match self {
            Set::Ints(_) => limits.set_max_intset_entries,
            Set::Small(_) => limits.set_max_listpack_entries,
            Set::Large(_) => return,
        };
        if n > most {
            self.become_large(n);
        }
    }

    /// Turns a small set into a table with room for `more` members.
    fn become_large(&mut self, more: usize) {
        let mut table = table_for(self.len() + more);
        let mut room = itoa::Buffer::new();
        for entry in self.iter() {
            let text = entry.text(&mut room);
            if let table::Entry::Vacant(slot) = table.find_slot(hash(text), text) {
                slot.insert(Member::new(text));
            }
        }
        *self = Set::Large(Box::new(table));
    }

    /// Removes a member; whether it was there.
    #[inline]
    pub fn remove(&mut self, member: &[u8]) -> bool {
        match self {
            Set::Ints(ints) => Entry::parse(member).as_int().is_some_and(|v| ints.remove(v)),
            Set::Small(elements) => match elements.find(member, 0) {
                Some(pos) => {
                    elements.remove(pos);
                    true
                }
                None => false,
            },
            Set::Large(table) => table.remove(hash(member), member).is_some(),
        }
    }

    pub fn iter(&self) -> Iter<'_> {
        match self {
            Set::Ints(ints) => Iter::Ints(ints.iter()),
            Set::Small(elements) => Iter::Small(elements.iter()),
            Set::Large(table) => Iter::Large(table.iter()),
        }
    }

    /// Hands every member to `f`. Allocates nothing.
    pub fn for_each(&self, mut f: impl FnMut(&[u8])) {
        let mut room = itoa::Buffer::new();
        self.iter().for_each(|entry| f(entry.text(&mut room)));
    }

    /// One step of a scan of the members: see [`Table::scan`]. A small set is visited whole.
    pub fn scan(&self, cursor: u64, mut visit: impl FnMut(&[u8])) -> u64 {
        match self {
            Set::Large(table) => table.scan(cursor, |member| visit(member.bytes())),
            _ => {
                self.for_each(visit);
                0
            }
        }
    }

    /// A member, each as likely as any other; `random` gives 64 random bits a call.
    pub fn sample(&self, random: &mut impl FnMut() -> u64) -> Option<Entry<'_>> {
        match self {
            Set::Ints(ints) => match ints.len() {
                0 => None,
                n => ints.get(below(random, n)).map(Entry::Int),
            },
            Set::Small(elements) => match elements.len() {
                0 => None,
                n => elements.get(below(random, n) as i64),
            },
            Set::Large(table) => table.sample(random).map(|member| Entry::Str(member.bytes())),
        }
    }

    /// Takes `n` members out, or all if there are fewer; all choices are as likely.
    pub fn pop_some(&mut self, n: usize, random: &mut impl FnMut() -> u64) -> Vec<Popped> {
        /// Drawing a member of a large table misses the cache some ten times as often as walking past it does.
        const WALK: usize = 8;
        if let Set::Large(table) = self {
            if n < table.len() / WALK {
                return (0..n).map_while(|_| self.pop(random)).collect();
            }
            // One walk, in which each member is taken with the chance that is left to it.
            let mut left = table.len();
            let mut wanted = n.min(left);
            let mut popped = Vec::with_capacity(wanted);
            let mut kept = table_for(left - wanted);
            for member in table.drain() {
                if below(random, left) < wanted {
                    wanted -= 1;
                    popped.push(Popped::Member(member));
                } else {
                    kept.insert_new(hash(member.bytes()), member);
                }
                left -= 1;
            }
            **table = kept;
            return popped;
        }
        // One walk chooses and copies, so that no member is looked for from the start again.
        let len = self.len();
        let mut wanted = n.min(len);
        let mut popped = Vec::with_capacity(wanted);
        for (i, entry) in self.iter().enumerate() {
            if below(random, len - i) < wanted {
                wanted -= 1;
                popped.push(match entry {
                    Entry::Int(value) => Popped::Int(value),
                    Entry::Str(text) => Popped::Text(text.to_vec()),
                });
            }
        }
        let mut room = itoa::Buffer::new();
        for member in &popped {
            self.remove(member.bytes(&mut room));
        }
        popped
    }

    /// Takes a member out, each as likely as any other.
    pub fn pop(&mut self, random: &mut impl FnMut() -> u64) -> Option<Popped> {
        match self {
            Set::Ints(ints) => {
                let n = ints.len();
                let value = ints.get(if n == 0 { 0 } else { below(random, n) })?;
                ints.remove(value);
                Some(Popped::Int(value))
            }
            Set::Small(elements) => {
                let n = elements.len();
                let pos = elements.seek(if n == 0 { 0 } else { below(random, n) as i64 })?;
                let popped = match elements.at(pos) {
                    Entry::Int(value) => Popped::Int(value),
                    Entry::Str(text) => Popped::Text(text.to_vec()),
                };
                elements.remove(pos);
                Some(popped)
            }
            Set::Large(table) => {
                // The key that is looked up must not be the entry's own bytes, as the entry leaves.
                let (mut short, long);
                let member = table.sample(random)?.bytes();
                let key: &[u8] = if member.len() <= 64 {
                    short = [0; 64];
                    short[..member.len()].copy_from_slice(member);
                    &short[..member.len()]
                } else {
                    long = member.to_vec();
                    &long
                };
                table.remove(hash(key), key).map(Popped::Member)
            }
        }
    }
}

/// A number below `n`, which is not 0.
fn below(random: &mut impl FnMut() -> u64, n: usize) -> usize {
    ((random() as u128 * n as u128) >> 64) as usize
}

fn table_for(n: usize) -> Table<Member> {
    let mut table = Table::new();
    table.reserve(n);
    table
}

impl Clone for Set {
    fn clone(&self) -> Set {
        match self {
            Set::Ints(ints) => Set::Ints(ints.clone()),
            Set::Small(elements) => Set::Small(elements.clone()),
            Set::Large(table) => {
                let mut copy = table_for(table.len());
                for member in table.iter() {
                    copy.insert_new(hash(member.bytes()), Member::new(member.bytes()));
                }
                Set::Large(Box::new(copy))
            }
        }
    }
}
