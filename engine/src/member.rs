//! A sorted set's member: its score and its bytes in one allocation, reached by one word.
//!
//! A large sorted set is a table of members (found by their bytes) beside a B+-tree of them (found
//! by score). The table owns each member as a [`Member`]; the tree holds [`ScoredRef`]s, a copy of
//! the score beside a [`MemberRef`], so that it follows the pointer only where two scores are equal.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..8 | score, `f64` in the machine's order |
//! | 8 | length of the member if below 255, else 255 |
//! | 9..13 | the length as `u32`, only if byte 8 is 255 |
//! | 9.. or 13.. | the member |
//!
//! One byte of length serves nearly every member, and allocators round to 8 or 16: three bytes
//! less often save a whole step.

use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cmp::Ordering;
use std::fmt;
use std::ptr::NonNull;

use crate::btree::TreeKey;
use crate::cache;
use crate::size_class::size_class;
use crate::table::Slot;

const LEN_AT: usize = 8;
const LONG: u8 = u8::MAX;
const SHORT_HEADER: usize = LEN_AT + 1;
const LONG_HEADER: usize = SHORT_HEADER + 4;

/// A member and its score, owned.
pub struct Member(MemberRef);

/// A [`Member`] that somebody else owns.
///
/// Whoever made it (see [`Member::as_ref`]) answers for the member outliving it.
#[derive(Clone, Copy)]
pub struct MemberRef(NonNull<u8>);

// SAFETY: a member is plain bytes with one owner, like a `Box<[u8]>`.
unsafe impl Send for Member {}
// SAFETY: shared references only read.
unsafe impl Sync for Member {}
// SAFETY: as for `Member`; that the owner outlives the reference, and does not write meanwhile on
// another thread, was promised where the reference was made.
unsafe impl Send for MemberRef {}
// SAFETY: as above.
unsafe impl Sync for MemberRef {}

impl Member {
    /// The longest member, in bytes: the width of the length field.
    pub const MAX_LEN: usize = u32::MAX as usize;

    /// A copy of `bytes` with `score`.
    ///
    /// # Panics
    /// If `bytes` is longer than [`Member::MAX_LEN`]; the protocol's bound on arguments is far below.
    pub fn new(score: f64, bytes: &[u8]) -> Member {
        let len = u32::try_from(bytes.len()).expect("a member is at most 4 GiB");
        let layout = layout(bytes.len());
        // SAFETY: the layout's size is never zero (the header is in it). Every write stays inside:
        // the header's `LEN_AT + 1` or `LONG_HEADER` bytes, then `bytes.len()` more, which is what
        // `layout` adds up to. The score is aligned because the allocation is.
        unsafe {
            let Some(start) = NonNull::new(alloc(layout)) else { handle_alloc_error(layout) };
            start.cast::<f64>().write(score);
            let header = if bytes.len() < LONG as usize {
                start.add(LEN_AT).write(len as u8);
                SHORT_HEADER
            } else {
                start.add(LEN_AT).write(LONG);
                start.add(SHORT_HEADER).cast::<u32>().write_unaligned(len);
                LONG_HEADER
            };
            start.add(header).as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            Member(MemberRef(start))
        }
    }

    pub fn score(&self) -> f64 {
        self.0.score()
    }

    /// Changes the score here; whoever keeps the member in score order has to move it.
    pub fn set_score(&mut self, score: f64) {
        // SAFETY: the allocation begins with the aligned score, and `&mut self` is the only access.
        unsafe { self.0.0.cast::<f64>().write(score) }
    }

    pub fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    /// The bytes that this member takes of the allocator.
    pub fn memory(&self) -> usize {
        size_class(layout(self.bytes().len()).size())
    }

    /// A reference that the borrow checker does not follow.
    ///
    /// # Safety
    /// Neither the reference nor any copy of it may be read (compared, too) once `self` is dropped,
    /// nor on another thread while `self` changes.
    pub unsafe fn as_ref(&self) -> MemberRef {
        self.0
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let layout = layout(self.bytes().len());
        // SAFETY: allocated by `new` with the layout of the same length, which never changes.
        unsafe { dealloc(self.0.0.as_ptr(), layout) }
    }
}

impl Slot for Member {
    #[inline]
    fn key(&self) -> &[u8] {
        self.bytes()
    }

    fn address(&self) -> *const u8 {
        self.0.0.as_ptr()
    }
}

impl fmt::Debug for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.bytes().escape_ascii(), self.score())
    }
}

fn layout(len: usize) -> Layout {
    let header = if len < LONG as usize { SHORT_HEADER } else { LONG_HEADER };
    Layout::from_size_align(header + len, align_of::<f64>()).expect("a member is at most 4 GiB")
}

impl MemberRef {
    pub fn score(&self) -> f64 {
        // SAFETY: the member is alive, as `Member::as_ref` demands, and begins with its score.
        unsafe { self.0.cast::<f64>().read() }
    }

    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the member is alive, as `Member::as_ref` demands; `Member::new` wrote the length
        // and as many bytes, and nothing changes them.
        unsafe {
            let (len, header) = match self.0.add(LEN_AT).read() {
                LONG => {
                    let len = self.0.add(SHORT_HEADER).cast::<u32>().read_unaligned();
                    (len as usize, LONG_HEADER)
                }
                len => (len as usize, SHORT_HEADER),
            };
            std::slice::from_raw_parts(self.0.add(header).as_ptr(), len)
        }
    }

    /// Asks for the member's first cache line, for loops that know which members come next.
    #[inline]
    pub fn prefetch(&self) {
        cache::prefetch(self.0.as_ptr());
    }
}

impl fmt::Debug for MemberRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.bytes().escape_ascii())
    }
}

/// What the tree of a sorted set holds: ordered by score, then by the member's bytes.
#[derive(Clone, Copy, Debug)]
pub struct ScoredRef {
    /// Never NaN.
    pub score: f64,
    pub member: MemberRef,
}

impl TreeKey for ScoredRef {
    #[inline]
    fn cmp(&self, other: &ScoredRef) -> Ordering {
        if self.score < other.score {
            Ordering::Less
        } else if self.score > other.score {
            Ordering::Greater
        } else {
            tie(&self.member, &other.member)
        }
    }

    #[inline]
    fn less(&self, other: &ScoredRef) -> bool {
        // Without short circuit, so that the search's step is a conditional move: which way a
        // comparison of scores goes cannot be predicted, that it is no tie mostly can.
        (self.score < other.score)
            | (self.score == other.score && tie(&self.member, &other.member).is_lt())
    }
}

#[cold]
fn tie(a: &MemberRef, b: &MemberRef) -> Ordering {
    if a.0 == b.0 { Ordering::Equal } else { a.bytes().cmp(b.bytes()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_all_lengths_read_back() {
        for len in [0, 1, 7, 8, 253, 254, 255, 256, 70_000] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut member = Member::new(1.5, &bytes);
            assert_eq!(member.bytes(), bytes);
            assert_eq!(member.score(), 1.5);
            member.set_score(f64::NEG_INFINITY);
            assert_eq!(member.score(), f64::NEG_INFINITY);
            assert_eq!(member.bytes(), bytes);
            let asked = len + if len < 255 { 9 } else { 13 };
            assert_eq!(member.memory(), size_class(asked));
        }
    }

    #[test]
    fn a_member_is_one_word() {
        assert_eq!(size_of::<Option<Member>>(), 8);
        assert_eq!(size_of::<ScoredRef>(), 16);
    }

    #[test]
    fn scores_order_first_then_bytes() {
        let members: Vec<Member> = [
            (f64::NEG_INFINITY, "z"),
            (-1.0, "z"),
            (-0.0, "a"),
            (0.0, "b"),
            (-0.0, "c"),
            (0.0, "ca"),
            (1.0, ""),
            (f64::INFINITY, "a"),
        ]
        .iter()
        .map(|(score, bytes)| Member::new(*score, bytes.as_bytes()))
        .collect();
        let keys: Vec<ScoredRef> = members
            .iter()
            // SAFETY: `members` outlives `keys`.
            .map(|m| ScoredRef { score: m.score(), member: unsafe { m.as_ref() } })
            .collect();
        for (i, a) in keys.iter().enumerate() {
            for (j, b) in keys.iter().enumerate() {
                assert_eq!(a.cmp(b), i.cmp(&j), "{a:?} {b:?}");
                assert_eq!(a.less(b), i < j, "{a:?} {b:?}");
            }
        }
    }
}
