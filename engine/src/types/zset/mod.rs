//! The sorted set: a listpack of members and scores in order, or a table beside a tree.
//!
//! Every range of a sorted set, be it by rank, by score or by member, is first turned into a range
//! of ranks ([`Zset::ranks_by_score`], [`Zset::ranks_by_lex`]). Reading, counting and removing then
//! have one form each, and `LIMIT` costs nothing: the tree counts.
//!
//! A small set becomes large when it has too many members or one too long, and never small again.

mod bounds;
mod large;
#[cfg(test)]
mod tests;

pub use bounds::{LexBound, LexRange, ScoreBound, ScoreRange};

use crate::keyspace::Limits;
use crate::listpack::{Builder, Encoded, Entry, Listpack, Pos};
use crate::member::Member;
use crate::num;
use crate::table::{self, Slot, Table};
use large::Large;
use std::cmp::Ordering;
use std::ops::Range;

/// See the module's page.
#[derive(Clone)]
pub enum Zset {
    /// Member, score, member, score …, by score and then by the member's bytes.
    Small(Listpack),
    Large(Box<Large>),
}

impl Default for Zset {
    fn default() -> Zset {
        Zset::new()
    }
}

/// The score that a listpack's element holds.
#[inline]
fn score_of(entry: Entry<'_>) -> f64 {
    match entry {
        Entry::Int(value) => value as f64,
        // What cannot be read was never written here, and files are checked: see `is_valid`.
        Entry::Str(text) => num::parse_double(text).unwrap_or(0.0),
    }
}

/// A score as a listpack's element: an integer where it is one, else its shortest digits.
fn encode_score(score: f64, room: &mut num::DoubleText) -> Encoded<'_> {
    match num::as_integer(score) {
        Some(value) => Encoded::int(value),
        None => Encoded::from(room.format(score)),
    }
}

impl Zset {
    pub fn new() -> Zset {
        Zset::Small(Listpack::new())
    }

    /// An empty sorted set to which about `n` members will be added.
    pub fn with_capacity(n: usize) -> Zset {
        const MANY: usize = 128;
        if n <= MANY {
            return Zset::new();
        }
        Zset::large(Large::with_capacity(n))
    }

    fn large(large: Large) -> Zset {
        Zset::Large(Box::new(large))
    }

    /// An empty sorted set of the form that `n` members of up to `longest` bytes need.
    pub fn fitting(n: usize, longest: usize, limits: &Limits) -> Zset {
        if n <= limits.zset_max_listpack_entries && longest <= limits.zset_max_listpack_value {
            return Zset::new();
        }
        Zset::large(Large::with_capacity(n))
    }

    /// A sorted set of a listpack's members and scores, in the form that `limits` allow. What comes
    /// from outside is to be looked at with [`Zset::is_valid`] before.
    pub fn from_listpack(pairs: Listpack, limits: &Limits) -> Zset {
        let fits = pairs.len() / 2 <= limits.zset_max_listpack_entries
            && pairs.pairs().all(|(member, _)| member.len() <= limits.zset_max_listpack_value);
        let mut zset = Zset::Small(pairs);
        if !fits {
            zset.become_large(0);
        }
        zset
    }

    /// Whether a listpack is a sorted set: pairs, every score a number, in strictly ascending order.
    /// That a member does not occur twice is not looked at.
    pub fn is_valid(pairs: &Listpack) -> bool {
        if !pairs.len().is_multiple_of(2) {
            return false;
        }
        let mut last: Option<(f64, Entry)> = None;
        let (mut room, mut other_room) = (itoa::Buffer::new(), itoa::Buffer::new());
        for (member, score) in pairs.pairs() {
            let score = match score {
                Entry::Int(value) => value as f64,
                Entry::Str(text) => match num::parse_double(text) {
                    Some(score) => score,
                    None => return false,
                },
            };
            if let Some((s, m)) = last {
                let ascends =
                    s < score || s == score && m.text(&mut room) < member.text(&mut other_room);
                if !ascends {
                    return false;
                }
            }
            last = Some((score, member));
        }
        true
    }

    /// A sorted set of many members in any order. Of members with the same bytes the first is taken,
    /// and those whose score is not a number are left out: the caller sees it by the length.
    pub fn from_members(members: Vec<Member>, limits: &Limits) -> Zset {
        let mut table: Table<Member> = Table::new();
        table.reserve(members.len());
        for member in members {
            if let table::Entry::Vacant(slot) = table.find_slot(member.key_hash(), member.bytes())
                && !member.score().is_nan()
            {
                slot.insert(member);
            }
        }
        Zset::from_table(table, limits)
    }

    /// A sorted set of the members of a table, none of whose scores is NaN.
    pub fn from_table(table: Table<Member>, limits: &Limits) -> Zset {
        let longest = table.iter().map(|m| m.bytes().len()).max().unwrap_or(0);
        let small = table.len() <= limits.zset_max_listpack_entries
            && longest <= limits.zset_max_listpack_value;
        let large = Large::from_table(table);
        if !small {
            return Zset::large(large);
        }
        let mut builder = Builder::default();
        let mut room = num::DoubleText::new();
        large.visit(0..large.len(), false, |member, score| {
            builder.push(member);
            builder.push(encode_score(score, &mut room));
        });
        Zset::Small(builder.finish())
    }

    /// [`Zset::from_members`] of members that are copied.
    pub fn from_pairs<B: AsRef<[u8]>>(pairs: Vec<(B, f64)>, limits: &Limits) -> Zset {
        let members = pairs.iter().map(|(bytes, score)| Member::new(*score, bytes.as_ref()));
        Zset::from_members(members.collect(), limits)
    }

    pub fn as_listpack(&self) -> Option<&Listpack> {
        match self {
            Zset::Small(pairs) => Some(pairs),
            Zset::Large(_) => None,
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Zset::Small(pairs) => pairs.len() / 2,
            Zset::Large(large) => large.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The word that `OBJECT ENCODING` answers.
    pub fn encoding(&self) -> &'static str {
        match self {
            Zset::Small(_) => "listpack",
            Zset::Large(_) => "skiplist",
        }
    }

    /// Bytes allocated; those of a large one's members from so many of them, or all if that is 0.
    pub fn memory(&self, samples: usize) -> usize {
        match self {
            Zset::Small(pairs) => pairs.memory(),
            Zset::Large(large) => large.memory(samples),
        }
    }

    /// How many allocations freeing it takes.
    pub fn free_effort(&self) -> usize {
        match self {
            Zset::Small(_) => 1,
            Zset::Large(large) => large.len(),
        }
    }

    pub fn score(&self, member: &[u8]) -> Option<f64> {
        match self {
            Zset::Small(pairs) => {
                let pos = pairs.find(member, 1)?;
                Some(score_of(pairs.at(pairs.next(pos)?)))
            }
            Zset::Large(large) => large.score(member),
        }
    }

    /// The member's rank from the lowest score, and its score.
    pub fn rank(&self, member: &[u8]) -> Option<(usize, f64)> {
        match self {
            Zset::Small(pairs) => {
                let member = Entry::parse(member);
                let found = pairs.pairs().enumerate().find(|(_, (m, _))| *m == member);
                found.map(|(rank, (_, score))| (rank, score_of(score)))
            }
            Zset::Large(large) => large.rank(member),
        }
    }

    /// Sets a member's score; whether the member is new.
    pub fn insert(&mut self, member: &[u8], score: f64, limits: &Limits) -> bool {
        self.update(member, limits, |_| Some(score)).0.is_none()
    }

    /// Where its own memory begins, for [`crate::ahead`].
    #[inline]
    pub fn address(&self) -> *const u8 {
        match self {
            Zset::Small(pairs) => pairs.address(),
            Zset::Large(large) => (&raw const **large).cast(),
        }
    }

    /// The members, if the sorted set is large.
    pub fn as_table(&self) -> Option<&Table<Member>> {
        match self {
            Zset::Small(_) => None,
            Zset::Large(large) => Some(large.table()),
        }
    }

    /// To be called before [`Zset::update`] where the new score is known: see `Large::prefetch`.
    #[inline]
    pub fn prefetch(&self, score: f64) {
        if let Zset::Large(large) = self {
            large.prefetch(score);
        }
    }

    /// Asks `choose` for a member's new score, given the one it has if it is there; `None` changes
    /// nothing. Returns what the member had, and what it has now. A new score must not be NaN.
    #[inline]
    pub fn update(
        &mut self,
        member: &[u8],
        limits: &Limits,
        choose: impl FnOnce(Option<f64>) -> Option<f64>,
    ) -> (Option<f64>, Option<f64>) {
        match self {
            Zset::Large(large) => large.update(member, choose),
            Zset::Small(_) => self.update_small(member, limits, choose),
        }
    }

    fn update_small(
        &mut self,
        member: &[u8],
        limits: &Limits,
        choose: impl FnOnce(Option<f64>) -> Option<f64>,
    ) -> (Option<f64>, Option<f64>) {
        let Zset::Small(pairs) = self else { unreachable!("the caller matched") };
        let encoded = Encoded::from(member);
        let found = pairs.find(encoded, 1);
        let old = found.and_then(|pos| pairs.next(pos)).map(|pos| score_of(pairs.at(pos)));
        let Some(new) = choose(old) else { return (old, old) };
        debug_assert!(!new.is_nan());
        match found {
            Some(_) if old == Some(new) => return (old, old),
            Some(pos) => {
                pairs.remove_n(pos, 2);
            }
            None => {
                // 32 bytes hold any score.
                let fits = pairs.len() / 2 < limits.zset_max_listpack_entries
                    && member.len() <= limits.zset_max_listpack_value
                    && !pairs.would_exceed(encoded.size() + 32);
                if !fits {
                    self.become_large(1);
                    let Zset::Large(large) = self else { unreachable!("it has just become so") };
                    return large.update(member, |_| Some(new));
                }
            }
        }
        let mut room = num::DoubleText::new();
        let score = encode_score(new, &mut room);
        match place_for(pairs, member, new) {
            Some(pos) => pairs.insert_pair_before(pos, encoded, score),
            None => pairs.push_pair(encoded, score),
        };
        (old, Some(new))
    }

    /// Turns a small sorted set into a large one with room for `more` members.
    fn become_large(&mut self, more: usize) {
        let Zset::Small(pairs) = self else { return };
        let mut large = Large::with_capacity(pairs.len() / 2 + more);
        let mut room = itoa::Buffer::new();
        for (member, score) in pairs.pairs() {
            large.update(member.text(&mut room), |_| Some(score_of(score)));
        }
        *self = Zset::large(large);
    }

    /// Removes a member; the score it had.
    pub fn remove(&mut self, member: &[u8]) -> Option<f64> {
        match self {
            Zset::Small(pairs) => {
                let pos = pairs.find(member, 1)?;
                let score = score_of(pairs.at(pairs.next(pos)?));
                pairs.remove_n(pos, 2);
                Some(score)
            }
            Zset::Large(large) => large.remove(member),
        }
    }

    /// Removes the members at `ranks`, which must exist, and hands each to `f`, lowest first.
    pub fn remove_range(&mut self, ranks: Range<usize>, f: impl FnMut(&[u8], f64)) {
        match self {
            Zset::Small(pairs) => {
                visit_small(pairs, ranks.clone(), false, f);
                pairs.remove_range(ranks.start as i64 * 2, ranks.len() * 2);
            }
            Zset::Large(large) => large.remove_range(ranks, f),
        }
    }

    /// The ranks of the members whose scores lie in `range`.
    pub fn ranks_by_score(&self, range: &ScoreRange) -> Range<usize> {
        let (start, end) = match self {
            Zset::Small(pairs) => {
                let (mut start, mut end) = (0, 0);
                for (_, score) in pairs.pairs() {
                    let score = score_of(score);
                    if !range.within_max(score) {
                        break;
                    }
                    start += !range.within_min(score) as usize;
                    end += 1;
                }
                (start, end)
            }
            Zset::Large(large) => (
                large.partition_by_score(|score| !range.within_min(score)),
                large.partition_by_score(|score| range.within_max(score)),
            ),
        };
        start..end.max(start)
    }

    /// The ranks of the members that lie in `range`, which means something only where all scores
    /// are the same.
    pub fn ranks_by_lex(&self, range: &LexRange<'_>) -> Range<usize> {
        let (start, end) = match self {
            Zset::Small(pairs) => {
                let (mut start, mut end) = (None, None);
                let mut room = itoa::Buffer::new();
                let mut n = 0;
                for (member, _) in pairs.pairs() {
                    let member = member.text(&mut room);
                    if start.is_none() && range.within_min(member) {
                        start = Some(n);
                    }
                    if end.is_none() && !range.within_max(member) {
                        end = Some(n);
                    }
                    n += 1;
                }
                (start.unwrap_or(n), end.unwrap_or(n))
            }
            Zset::Large(large) => (
                large.partition_point(|member, _| !range.within_min(member)),
                large.partition_point(|member, _| range.within_max(member)),
            ),
        };
        start..end.max(start)
    }

    /// Hands the members at `ranks` (cut to what exists) to `f`, highest first if `reverse`.
    /// Allocates nothing.
    pub fn visit(&self, ranks: Range<usize>, reverse: bool, f: impl FnMut(&[u8], f64)) {
        match self {
            Zset::Small(pairs) => visit_small(pairs, ranks, reverse, f),
            Zset::Large(large) => large.visit(ranks, reverse, f),
        }
    }

    /// Hands every member to `f`, lowest score first.
    pub fn for_each(&self, f: impl FnMut(&[u8], f64)) {
        self.visit(0..self.len(), false, f);
    }

    /// Hands every member to `f`, highest score first.
    pub fn for_each_rev(&self, f: impl FnMut(&[u8], f64)) {
        self.visit(0..self.len(), true, f);
    }

    /// One step of a scan of the members. A small sorted set is visited whole.
    pub fn scan(&self, cursor: u64, visit: impl FnMut(&[u8], f64)) -> u64 {
        match self {
            Zset::Large(large) => large.scan(cursor, visit),
            Zset::Small(_) => {
                self.for_each(visit);
                0
            }
        }
    }
}

/// Where a member that is not there belongs: before the place returned, or at the end.
fn place_for(pairs: &Listpack, member: &[u8], score: f64) -> Option<Pos> {
    // Scores often come in ascending order, and then the place is the end.
    let last = pairs.last()?;
    if score_of(pairs.at(last)) < score {
        return None;
    }
    let mut at = pairs.first();
    while let Some(pos) = at {
        let score_at = pairs.next(pos)?;
        let there = score_of(pairs.at(score_at));
        if there > score || there == score && pairs.at(pos).cmp_bytes(member) == Ordering::Greater {
            return Some(pos);
        }
        at = pairs.next(score_at);
    }
    None
}

fn visit_small(
    pairs: &Listpack,
    ranks: Range<usize>,
    reverse: bool,
    mut f: impl FnMut(&[u8], f64),
) {
    let len = pairs.len() / 2;
    let end = ranks.end.min(len);
    if ranks.start >= end {
        return;
    }
    let n = end - ranks.start;
    let mut room = itoa::Buffer::new();
    let mut each = |(member, score): (Entry<'_>, Entry<'_>)| {
        f(member.text(&mut room), score_of(score));
    };
    if reverse {
        let Some(last) = pairs.seek(end as i64 * 2 - 1) else { return };
        let mut iter = pairs.iter_to(last);
        for _ in 0..n {
            let (Some(score), Some(member)) = (iter.next_back(), iter.next_back()) else { return };
            each((member, score));
        }
    } else {
        let Some(first) = pairs.seek(ranks.start as i64 * 2) else { return };
        let mut iter = pairs.iter_from(first);
        for _ in 0..n {
            let (Some(member), Some(score)) = (iter.next(), iter.next()) else { return };
            each((member, score));
        }
    }
}
