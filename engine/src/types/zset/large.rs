//! A large sorted set: members by their bytes in a table, by score in a tree.
//!
//! The table owns the members; the tree holds references that the borrow checker does not follow.
//! Whoever takes a member out of the table has taken it out of the tree before: that is all there
//! is to prove, and it is proved in this file.

use crate::btree::{BTree, TreeKey};
use crate::hasher::hash;
use crate::member::{Member, ScoredRef};
use crate::table::{Entry, Table};
use std::ops::Range;

/// What always holds: the tree has exactly one reference to each member of the table, with the
/// member's score.
#[derive(Default)]
pub struct Large {
    table: Table<Member>,
    tree: BTree<ScoredRef>,
}

fn scored(member: &Member) -> ScoredRef {
    // SAFETY: every reference made here goes into the tree beside the table that owns the member,
    // and leaves it before the member is dropped, or is used up while the member is still borrowed.
    ScoredRef { score: member.score(), member: unsafe { member.as_ref() } }
}

impl Large {
    /// An empty one with room for `n` members.
    pub fn with_capacity(n: usize) -> Large {
        let mut large = Large::default();
        large.table.reserve(n);
        large
    }

    /// One of the members of a table.
    pub fn from_table(table: Table<Member>) -> Large {
        let mut order: Vec<ScoredRef> = table.iter().map(scored).collect();
        order.sort_unstable_by(TreeKey::cmp);
        Large { table, tree: BTree::from_sorted(order) }
    }

    pub fn table(&self) -> &Table<Member> {
        &self.table
    }

    pub fn len(&self) -> usize {
        self.table.len()
    }

    pub fn score(&self, member: &[u8]) -> Option<f64> {
        self.table.get(hash(member), member).map(Member::score)
    }

    pub fn rank(&self, member: &[u8]) -> Option<(usize, f64)> {
        let member = self.table.get(hash(member), member)?;
        Some((self.tree.rank(&scored(member))?, member.score()))
    }

    /// Asks the cache for the place of a member that is about to get `score`: the tree's leaf comes
    /// while the table is searched for the member.
    #[inline]
    pub fn prefetch(&self, score: f64) {
        self.tree.prefetch(|key| key.score < score);
    }

    /// Asks `choose` for the member's new score, given the one it has; `None` changes nothing. What
    /// the member had, and what it has now.
    #[inline]
    pub fn update(
        &mut self,
        bytes: &[u8],
        choose: impl FnOnce(Option<f64>) -> Option<f64>,
    ) -> (Option<f64>, Option<f64>) {
        match self.table.find_slot(hash(bytes), bytes) {
            Entry::Occupied(mut slot) => {
                let member = slot.get_mut();
                let old = member.score();
                let Some(new) = choose(Some(old)) else { return (Some(old), Some(old)) };
                if new != old {
                    let before = scored(member);
                    self.tree.update(&before, ScoredRef { score: new, ..before });
                    member.set_score(new);
                }
                (Some(old), Some(new))
            }
            Entry::Vacant(slot) => {
                let Some(new) = choose(None) else { return (None, None) };
                let member = slot.insert(Member::new(new, bytes));
                self.tree.insert(scored(member));
                (None, Some(new))
            }
        }
    }

    /// Removes a member; the score it had.
    pub fn remove(&mut self, bytes: &[u8]) -> Option<f64> {
        let Entry::Occupied(slot) = self.table.find_slot(hash(bytes), bytes) else { return None };
        // The tree lets go first: it may compare the member's bytes.
        self.tree.remove(&scored(slot.get()));
        Some(slot.remove().score())
    }

    /// Removes a range of ranks and hands each member to `f`, in order.
    pub fn remove_range(&mut self, ranks: Range<usize>, mut f: impl FnMut(&[u8], f64)) {
        let table = &mut self.table;
        self.tree.remove_range(ranks, |key| {
            f(key.member.bytes(), key.score);
            // Here the tree has let go of the member, and `remove_range` compares no more keys. The
            // bytes that are looked up are the member's own, alive until `gone` is dropped.
            let gone = table.remove(hash(key.member.bytes()), key.member.bytes());
            debug_assert!(gone.is_some());
        });
    }

    /// How many members `before` holds for, which must be true for a prefix of the order.
    pub fn partition_point(&self, mut before: impl FnMut(&[u8], f64) -> bool) -> usize {
        self.tree.partition_point(|key| before(key.member.bytes(), key.score))
    }

    /// How many members have a score for which `before` holds: a search that reads no member.
    pub fn partition_by_score(&self, mut before: impl FnMut(f64) -> bool) -> usize {
        self.tree.partition_point(|key| before(key.score))
    }

    /// Hands the members at `ranks` to `f`, last first if `reverse`.
    pub fn visit(&self, ranks: Range<usize>, reverse: bool, mut f: impl FnMut(&[u8], f64)) {
        /// Members asked for ahead of the one at hand.
        const AHEAD: usize = 8;
        let mut each = |run: &[ScoredRef], at: usize, ahead: Option<usize>| {
            if let Some(next) = ahead.and_then(|at| run.get(at)) {
                next.member.prefetch();
            }
            f(run[at].member.bytes(), run[at].score);
        };
        let runs = self.tree.runs(ranks);
        if reverse {
            for run in runs.rev() {
                (0..run.len()).rev().for_each(|at| each(run, at, at.checked_sub(AHEAD)));
            }
        } else {
            for run in runs {
                (0..run.len()).for_each(|at| each(run, at, Some(at + AHEAD)));
            }
        }
    }

    /// One step of a scan: see [`Table::scan`].
    pub fn scan(&self, cursor: u64, mut visit: impl FnMut(&[u8], f64)) -> u64 {
        self.table.scan(cursor, |member| visit(member.bytes(), member.score()))
    }

    /// Bytes allocated; those of the members as [`Table::entries_memory`].
    pub fn memory(&self, samples: usize) -> usize {
        let members = self.table.entries_memory(samples, Member::memory);
        size_of::<Large>() + self.table.memory() + self.tree.memory() + members
    }

    /// Asserts that table and tree agree.
    #[cfg(test)]
    pub fn check(&self) {
        self.tree.check();
        assert_eq!(self.tree.len(), self.table.len());
        for key in self.tree.iter() {
            let bytes = key.member.bytes();
            let member = self.table.get(hash(bytes), bytes).expect("in the table");
            assert_eq!(member.score(), key.score);
            assert_eq!(member.bytes().as_ptr(), bytes.as_ptr());
        }
    }
}

impl Clone for Large {
    fn clone(&self) -> Large {
        let mut table: Table<Member> = Table::new();
        table.reserve(self.len());
        let tree = BTree::from_sorted(self.tree.iter().map(|key| {
            let bytes = key.member.bytes();
            scored(table.insert_new(hash(bytes), Member::new(key.score, bytes)))
        }));
        Large { table, tree }
    }
}
