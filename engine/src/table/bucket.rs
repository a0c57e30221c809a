//! A bucket, and the chain of buckets that begins in the table's array.
//!
//! A bucket is one cache line: a word of metadata and seven slots. The metadata's low seven bytes
//! are the entries' tags (eight bits of each hash); of its top byte, bits 0 to 6 say which slots
//! are taken, and bit 7 says that the last slot holds no entry but the address of a child bucket.
//! All zeroes is an empty bucket, so memory fresh from the kernel needs no preparation.
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..7 | tags of slots 0 to 6 |
//! | 7 | presence bits, and `CHAINED` |
//! | 8..64 | seven words: an entry each, or, in the last, a child's address |
//!
//! Most chains that overflow do so by an entry or two. A child therefore starts as half a line with
//! three slots and becomes a whole line when those are full; the low bit of its address says which
//! it is. A small child never has a child, nor any presence bit above the third.
//!
//! Chains are dense: only the last bucket has free slots, and a last child holds at least two
//! entries (with one, that entry sits in the parent's last slot instead).

use crate::cache;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::marker::PhantomData;
use std::ptr::NonNull;

/// Entries in a whole bucket.
pub(super) const SLOTS: usize = 7;
/// Bytes of a whole bucket, and its alignment.
pub(super) const BUCKET: usize = cache::LINE;
/// Entries that a bucket with a child holds itself.
const SLOTS_BESIDE_CHILD: usize = SLOTS - 1;
const SMALL_SLOTS: usize = 3;
const SMALL_BUCKET: usize = 32;

const CHAINED: u64 = 1 << 63;
/// Set in a child's address when it is a small one.
const SMALL: usize = 1;

/// The address of a live bucket.
///
/// The methods are safe to call under one rule that this module's parent keeps: a `Bucket` is made
/// only from memory of the table at hand, is not used after that memory was freed, and is not used
/// to write while anything borrows the entries.
pub(super) struct Bucket<T> {
    memory: NonNull<u8>,
    entries: PhantomData<*mut T>,
}

impl<T> Clone for Bucket<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Bucket<T> {}

impl<T> PartialEq for Bucket<T> {
    fn eq(&self, other: &Self) -> bool {
        self.memory == other.memory
    }
}

/// The tag that an entry of this hash has: bits that no bucket index reaches.
#[inline(always)]
pub(super) fn tag_of(hash: u64) -> u8 {
    (hash >> 56) as u8
}

/// The slots, as bits, that `meta` says hold an entry with this tag.
#[inline(always)]
fn matching(meta: u64, tag: u8) -> u32 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::*;
        // SAFETY: SSE2 is part of the x86_64 baseline.
        let equal = unsafe {
            let tags = _mm_cvtsi64_si128(meta as i64);
            _mm_movemask_epi8(_mm_cmpeq_epi8(tags, _mm_set1_epi8(tag as i8))) as u32
        };
        equal & present(meta)
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        matching_portable(meta, tag)
    }
}

/// [`matching`] with ordinary arithmetic on the whole word.
#[cfg(any(test, not(target_arch = "x86_64")))]
fn matching_portable(meta: u64, tag: u8) -> u32 {
    const LOW_7: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let differing = meta ^ (tag as u64 * 0x0101_0101_0101_0101);
    // The top bit of each byte that is zero, without a carry from one byte into the next.
    let zero = !(((differing & LOW_7) + LOW_7) | differing | LOW_7);
    // Gathers bit 8i+7 into bit i.
    let bits = ((zero >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56) as u32;
    bits & present(meta)
}

/// The taken slots as bits 0 to 6.
#[inline(always)]
fn present(meta: u64) -> u32 {
    (meta >> 56) as u32 & 0x7f
}

impl<T> Bucket<T> {
    const WORD_SIZED: () = {
        assert!(size_of::<T>() == 8, "a slot is one word");
        assert!(align_of::<T>() <= 8 && size_of::<*mut u8>() <= 8);
    };

    /// # Safety
    /// `memory` is a bucket of 64 zeroed or initialised bytes, aligned to 64, and see [`Bucket`].
    #[inline(always)]
    pub(super) unsafe fn at(memory: NonNull<u8>) -> Self {
        let () = Self::WORD_SIZED;
        Bucket { memory, entries: PhantomData }
    }

    pub(super) fn address(self) -> *const u8 {
        self.memory.as_ptr()
    }

    #[inline(always)]
    fn meta(self) -> u64 {
        // SAFETY: a live bucket begins with its metadata, aligned to 8 at least.
        unsafe { u64::from_le(self.memory.cast::<u64>().read()) }
    }

    #[inline(always)]
    fn set_meta(self, meta: u64) {
        // SAFETY: as in `meta`; nothing borrows the metadata.
        unsafe { self.memory.cast::<u64>().write(meta.to_le()) }
    }

    /// Where the entry in slot `i` lies, taken or not.
    #[inline(always)]
    pub(super) fn slot(self, i: usize) -> NonNull<T> {
        debug_assert!(i < SLOTS);
        // SAFETY: every caller stays below the bucket's capacity, so this is inside its memory.
        unsafe { self.memory.add(8 + 8 * i).cast() }
    }

    #[inline(always)]
    fn tag(self, i: usize) -> u8 {
        (self.meta() >> (8 * i)) as u8
    }

    fn put(self, i: usize, tag: u8, value: T) -> NonNull<T> {
        let meta = self.meta() & !(0xff << (8 * i));
        self.set_meta(meta | (tag as u64) << (8 * i) | 1 << (56 + i));
        let slot = self.slot(i);
        // SAFETY: the slot was free, so nothing is overwritten that had to be dropped.
        unsafe { slot.write(value) };
        slot
    }

    /// Moves the entry out of the taken slot `i`.
    fn take(self, i: usize) -> (u8, T) {
        let tag = self.tag(i);
        debug_assert!(self.meta() & 1 << (56 + i) != 0);
        self.set_meta(self.meta() & !(1 << (56 + i)));
        // SAFETY: the slot was taken, and is marked free before its entry leaves.
        (tag, unsafe { self.slot(i).read() })
    }

    /// The entries in this bucket alone.
    #[inline(always)]
    fn count(self) -> usize {
        present(self.meta()).count_ones() as usize
    }

    #[inline(always)]
    fn is_chained(self) -> bool {
        self.meta() & CHAINED != 0
    }

    #[inline(always)]
    fn child(self) -> Option<(Bucket<T>, bool)> {
        if !self.is_chained() {
            return None;
        }
        // SAFETY: a chained bucket's last slot holds the tagged address of its live child.
        let tagged = unsafe { self.slot(SLOTS - 1).cast::<NonNull<u8>>().read() };
        let small = tagged.addr().get() & SMALL != 0;
        // SAFETY: without the tag, the address is the child allocation's own, so not null.
        let memory =
            unsafe { NonNull::new_unchecked(tagged.as_ptr().map_addr(|addr| addr & !SMALL)) };
        Some((Bucket { memory, entries: PhantomData }, small))
    }

    fn set_child(self, child: Bucket<T>, small: bool) {
        let tagged = child.memory.as_ptr().map_addr(|addr| addr | small as usize);
        // SAFETY: the last slot is free or holds an older child's address: plain bytes either way.
        unsafe { self.slot(SLOTS - 1).cast::<*mut u8>().write(tagged) };
        self.set_meta(self.meta() | CHAINED);
    }

    fn clear_child(self) {
        self.set_meta(self.meta() & !CHAINED);
    }

    fn child_layout(small: bool) -> Layout {
        let size = if small { SMALL_BUCKET } else { BUCKET };
        Layout::from_size_align(size, size).expect("a power of two")
    }

    fn allocate(small: bool, child_bytes: &mut usize) -> Bucket<T> {
        let layout = Self::child_layout(small);
        *child_bytes += layout.size();
        // SAFETY: the layout's size is not zero.
        match NonNull::new(unsafe { alloc_zeroed(layout) }) {
            Some(memory) => Bucket { memory, entries: PhantomData },
            None => handle_alloc_error(layout),
        }
    }

    /// Frees a child from which all entries have been moved.
    fn free(self, small: bool, child_bytes: &mut usize) {
        let layout = Self::child_layout(small);
        *child_bytes -= layout.size();
        // SAFETY: children come from `allocate` with this layout; the caller has unlinked it.
        unsafe { dealloc(self.memory.as_ptr(), layout) }
    }

    /// Puts `value` into the chain that begins here. Returns where it lies and how many entries the
    /// chain now has.
    #[inline]
    pub(super) fn insert(self, tag: u8, value: T, child_bytes: &mut usize) -> (NonNull<T>, usize) {
        let meta = self.meta();
        let free = (!(meta >> 56) as u32).trailing_zeros() as usize;
        if meta & CHAINED == 0 && free < SLOTS {
            return (self.put(free, tag, value), present(meta).count_ones() as usize + 1);
        }
        self.insert_in_child(tag, value, child_bytes)
    }

    #[cold]
    fn insert_in_child(self, tag: u8, value: T, child_bytes: &mut usize) -> (NonNull<T>, usize) {
        let (mut parent, mut last, mut small) = (self, self, false);
        let mut before = 0;
        while let Some((child, child_is_small)) = last.child() {
            (parent, last, small) = (last, child, child_is_small);
            before += SLOTS_BESIDE_CHILD;
        }
        if small && last.count() == SMALL_SLOTS {
            last = last.resized(parent, false, child_bytes);
        } else if last.count() == SLOTS {
            let child = Self::allocate(true, child_bytes);
            let (moved_tag, moved) = last.take(SLOTS - 1);
            child.put(0, moved_tag, moved);
            last.set_child(child, true);
            before += SLOTS_BESIDE_CHILD;
            last = child;
        }
        let free = (!present(last.meta())).trailing_zeros() as usize;
        let slot = last.put(free, tag, value);
        (slot, before + last.count())
    }

    /// Replaces the last child of a chain by one of the other size.
    fn resized(self, parent: Bucket<T>, small: bool, child_bytes: &mut usize) -> Bucket<T> {
        let other = Self::allocate(small, child_bytes);
        for i in 0..self.count() {
            let (tag, value) = self.take_any();
            other.put(i, tag, value);
        }
        parent.set_child(other, small);
        self.free(!small, child_bytes);
        other
    }

    /// Moves some entry out of this bucket, which has one.
    fn take_any(self) -> (u8, T) {
        self.take(present(self.meta()).ilog2() as usize)
    }

    /// Moves the entry in slot `i` of `bucket`, one of the chain that begins here, out of it.
    pub(super) fn remove(self, bucket: Bucket<T>, i: usize, child_bytes: &mut usize) -> T {
        let (_, value) = bucket.take(i);
        if self.is_chained() {
            self.close_gap(bucket, i, child_bytes);
        }
        value
    }

    /// Makes the chain dense again after slot `i` of `bucket` was emptied.
    fn close_gap(self, bucket: Bucket<T>, i: usize, child_bytes: &mut usize) {
        let (mut parent, mut last, mut small) = (self, self, false);
        while let Some((child, child_is_small)) = last.child() {
            (parent, last, small) = (last, child, child_is_small);
        }
        if bucket != last {
            let (tag, moved) = last.take_any();
            bucket.put(i, tag, moved);
        }
        match last.count() {
            1 => {
                let (tag, moved) = last.take_any();
                parent.clear_child();
                parent.put(SLOTS - 1, tag, moved);
                last.free(small, child_bytes);
            }
            2 if !small => {
                last.resized(parent, true, child_bytes);
            }
            _ => {}
        }
    }

    /// Empties the chain, handing each entry and its tag to `f`, and frees its children. The first
    /// bucket is empty before `f` is called, so `f` may insert into it.
    pub(super) fn empty_into(self, child_bytes: &mut usize, mut f: impl FnMut(&mut usize, u8, T)) {
        let mut line = [const { std::mem::MaybeUninit::<u64>::uninit() }; BUCKET / 8];
        // SAFETY: both are 64 bytes and distinct. The copy takes the entries over: the original is
        // marked empty next, and `copy` below is used to move each out once.
        let copy = unsafe {
            let copy = NonNull::from(&mut line).cast::<u8>();
            self.memory.copy_to_nonoverlapping(copy, BUCKET);
            Bucket::<T> { memory: copy, entries: PhantomData }
        };
        self.set_meta(0);
        let mut bucket = copy;
        let mut is_child = None;
        loop {
            let child = bucket.child();
            while bucket.count() > 0 {
                let (tag, value) = bucket.take_any();
                f(child_bytes, tag, value);
            }
            if let Some(small) = is_child {
                bucket.free(small, child_bytes);
            }
            match child {
                Some((child, small)) => (bucket, is_child) = (child, Some(small)),
                None => return,
            }
        }
    }

    /// Frees the chain's children without dropping any entry, and marks the chain empty.
    pub(super) fn forget_chain(self, child_bytes: &mut usize) {
        let mut next = self.child();
        self.set_meta(0);
        while let Some((bucket, small)) = next {
            next = bucket.child();
            bucket.free(small, child_bytes);
        }
    }

    /// The first slot in the chain with this tag whose entry `is_it`.
    #[inline(always)]
    pub(super) fn find(
        self,
        tag: u8,
        mut is_it: impl FnMut(&T) -> bool,
    ) -> Option<(Bucket<T>, usize)> {
        let mut bucket = self;
        loop {
            let mut candidates = matching(bucket.meta(), tag);
            while candidates != 0 {
                let i = candidates.trailing_zeros() as usize;
                // SAFETY: `matching` gives taken slots only.
                if is_it(unsafe { bucket.slot(i).as_ref() }) {
                    return Some((bucket, i));
                }
                candidates &= candidates - 1;
            }
            bucket = bucket.child()?.0;
        }
    }

    /// The taken slots of this bucket alone, and the next bucket of the chain.
    #[inline(always)]
    pub(super) fn taken(self) -> Taken<T> {
        Taken { bucket: self, left: present(self.meta()) }
    }

    #[inline(always)]
    pub(super) fn next(self) -> Option<Bucket<T>> {
        self.child().map(|(child, _)| child)
    }

    /// The slots of this bucket alone that hold `tag`.
    pub(super) fn tagged(self, tag: u8) -> Taken<T> {
        Taken { bucket: self, left: matching(self.meta(), tag) }
    }

    /// Calls `f` with the place of every entry of the chain.
    #[inline]
    pub(super) fn for_each(self, mut f: impl FnMut(NonNull<T>)) {
        let mut next = Some(self);
        while let Some(bucket) = next {
            bucket.taken().for_each(&mut f);
            next = bucket.next();
        }
    }

    /// The place of the chain's `n`-th entry, counted from 0.
    pub(super) fn nth(self, mut n: usize) -> Option<NonNull<T>> {
        let mut next = Some(self);
        while let Some(bucket) = next {
            let count = bucket.count();
            if n < count {
                return bucket.taken().nth(n);
            }
            n -= count;
            next = bucket.next();
        }
        None
    }

    /// How many children the chain has, and how many entries.
    pub(super) fn shape(self) -> (usize, usize) {
        let (mut children, mut entries, mut bucket) = (0, self.count(), self);
        while let Some(child) = bucket.next() {
            children += 1;
            entries += child.count();
            bucket = child;
        }
        (children, entries)
    }
}

/// Some taken slots of one bucket.
pub(super) struct Taken<T> {
    bucket: Bucket<T>,
    left: u32,
}

impl<T> Iterator for Taken<T> {
    type Item = NonNull<T>;

    #[inline(always)]
    fn next(&mut self) -> Option<NonNull<T>> {
        if self.left == 0 {
            return None;
        }
        let i = self.left.trailing_zeros() as usize;
        self.left &= self.left - 1;
        Some(self.bucket.slot(i))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tags_are_matched_byte_by_byte(meta: u64, slot in 0usize..7, random_tag: u8, own: bool) {
            let tag = if own { (meta >> (8 * slot)) as u8 } else { random_tag };
            let expected = (0..7)
                .filter(|i| (meta >> (8 * i)) as u8 == tag && meta >> (56 + i) & 1 == 1)
                .fold(0, |bits, i| bits | 1 << i);
            prop_assert_eq!(matching(meta, tag), expected);
            prop_assert_eq!(matching_portable(meta, tag), expected);
        }

        /// A chain keeps what was put into it, stays dense, and gives all its memory back.
        #[test]
        fn chains_are_dense(steps in prop::collection::vec(prop::option::weighted(0.4, 0usize..64), 0..200)) {
            #[repr(align(64))]
            struct Line([u8; 64]);
            let mut line = Line([0; 64]);
            // SAFETY: 64 zeroed bytes, aligned to 64, used by this test alone while it runs.
            let head: Bucket<u64> = unsafe { Bucket::at(NonNull::from(&mut line.0).cast()) };
            let mut model = Vec::new();
            let mut child_bytes = 0;
            for (value, step) in steps.into_iter().enumerate() {
                match step {
                    Some(at) if !model.is_empty() => {
                        let value: usize = model.swap_remove(at % model.len());
                        let (bucket, i) = head.find(value as u8, |&v| v == value as u64).unwrap();
                        prop_assert_eq!(head.remove(bucket, i, &mut child_bytes), value as u64);
                    }
                    _ => {
                        let (_, chain) = head.insert(value as u8, value as u64, &mut child_bytes);
                        model.push(value);
                        prop_assert_eq!(chain, model.len());
                    }
                }
                let len = model.len();
                let children = if len <= SLOTS { 0 } else { (len - 2) / SLOTS_BESIDE_CHILD };
                prop_assert_eq!(head.shape(), (children, len));
                prop_assert!(child_bytes <= children * BUCKET);
                prop_assert_eq!(child_bytes == 0, children == 0);
            }
            let mut left = Vec::new();
            head.empty_into(&mut child_bytes, |_, _, value| left.push(value as usize));
            left.sort();
            model.sort();
            prop_assert_eq!(left, model);
            prop_assert_eq!((child_bytes, head.shape()), (0, (0, 0)));
        }
    }
}
