//! An owning pointer of one word to bytes that say themselves how long they are.
//!
//! Listpacks and intsets begin with a header from which their length follows, so a pointer is all
//! that an entry of the keyspace has to keep of them: no length, no capacity. The capacity is a
//! function of the length, and all `unsafe` of these containers is in this file.
//!
//! What always holds for a [`Thin`]: `ptr` owns an allocation of `capacity(byte_len(head))` bytes,
//! where `head` is its first `F::HEAD` bytes, and every one of those bytes is initialised.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error, realloc};
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::slice;

/// How a kind of bytes says its length.
///
/// # Safety
///
/// `byte_len` must be a pure function of the bytes that it is given and never be less than `HEAD`.
pub(crate) unsafe trait Format {
    /// The header's bytes; only [`Thin::splice`] changes them. At least one, so that nothing is
    /// ever allocated empty.
    const HEAD: usize;

    /// The length of the whole, header included. `head` is `HEAD` bytes.
    fn byte_len(head: &[u8]) -> usize;
}

/// The bytes allocated for `len`: jemalloc's size classes, eight and multiples of 16 up to 128, then
/// four for each doubling. It would spend as much in any case, and growth within a class needs no
/// call to it.
const fn capacity(len: usize) -> usize {
    let step = match len {
        0..=8 => 8,
        9..=128 => 16,
        _ => 1 << ((len - 1).ilog2() - 2),
    };
    len.next_multiple_of(step)
}

fn layout(capacity: usize) -> Layout {
    Layout::from_size_align(capacity, 8).expect("a capacity is far below isize::MAX")
}

#[repr(transparent)]
pub(crate) struct Thin<F: Format> {
    ptr: NonNull<u8>,
    format: PhantomData<F>,
}

// SAFETY: a `Thin` owns its bytes alone and has no interior mutability, as a `Box<[u8]>`.
unsafe impl<F: Format> Send for Thin<F> {}
// SAFETY: as above; `&Thin` only reads.
unsafe impl<F: Format> Sync for Thin<F> {}

impl<F: Format> Thin<F> {
    /// Zeroes of the length that `head` says, behind `head`.
    pub fn zeroed(head: &[u8]) -> Thin<F> {
        assert_eq!(head.len(), F::HEAD);
        let layout = layout(capacity(F::byte_len(head)));
        // SAFETY: the layout's size is at least `F::byte_len(head)`, which is never 0.
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(raw) else { handle_alloc_error(layout) };
        // SAFETY: the allocation is new and at least `F::HEAD` bytes long.
        unsafe { ptr::copy_nonoverlapping(head.as_ptr(), ptr.as_ptr(), F::HEAD) };
        Thin { ptr, format: PhantomData }
    }

    /// A copy of `bytes`, which must be as long as their header says.
    pub fn new(bytes: &[u8]) -> Thin<F> {
        let mut thin = Thin::zeroed(&bytes[..F::HEAD]);
        thin.body_mut().copy_from_slice(&bytes[F::HEAD..]);
        thin
    }

    /// The whole, header included.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the type's invariant: `byte_len` initialised bytes of ours, at least `HEAD`.
        unsafe { slice::from_raw_parts(self.ptr.as_ptr(), self.byte_len()) }
    }

    /// What follows the header.
    #[inline]
    pub fn body_mut(&mut self) -> &mut [u8] {
        let len = self.byte_len() - F::HEAD;
        // SAFETY: as in `bytes`, and `&mut self` makes us the only user. The header is left out, so
        // the length cannot change through the slice.
        unsafe { slice::from_raw_parts_mut(self.ptr.as_ptr().add(F::HEAD), len) }
    }

    #[inline]
    fn byte_len(&self) -> usize {
        // SAFETY: the type's invariant: at least `HEAD` initialised bytes of ours.
        F::byte_len(unsafe { slice::from_raw_parts(self.ptr.as_ptr(), F::HEAD) })
    }

    /// Replaces `remove` bytes at `at` by `add` bytes that the caller fills in (they hold anything
    /// at first), and the header by `head`, which must say the resulting length.
    #[inline]
    pub fn splice(&mut self, head: &[u8], at: usize, remove: usize, add: usize) -> &mut [u8] {
        let old = self.byte_len();
        assert!(head.len() == F::HEAD && F::HEAD <= at && at <= old && remove <= old - at);
        let new = old - remove + add;
        assert_eq!(F::byte_len(head), new);
        let (old_capacity, new_capacity) = (capacity(old), capacity(new));
        if new_capacity > old_capacity {
            self.reallocate(old_capacity, new_capacity);
        }
        let base = self.ptr.as_ptr();
        let tail = old - at - remove;
        // SAFETY: `at + remove + tail == old` and `at + add + tail == new`, and the allocation holds
        // the larger of both; `at >= HEAD`, so the header is apart from what moves. If the
        // allocation shrinks below, it still holds `new` bytes.
        unsafe {
            if tail == 1 {
                *base.add(at + add) = *base.add(at + remove);
            } else if add != remove {
                ptr::copy(base.add(at + remove), base.add(at + add), tail);
            }
            ptr::copy_nonoverlapping(head.as_ptr(), base, F::HEAD);
        }
        if new_capacity < old_capacity {
            self.reallocate(old_capacity, new_capacity);
        }
        // SAFETY: `at + add <= new`, within the allocation, initialised by its invariant.
        unsafe { slice::from_raw_parts_mut(self.ptr.as_ptr().add(at), add) }
    }

    fn reallocate(&mut self, old: usize, new: usize) {
        // SAFETY: the allocation was made with `layout(old)`, and `new` is a capacity, so not 0.
        let raw = unsafe { realloc(self.ptr.as_ptr(), layout(old), new) };
        let Some(ptr) = NonNull::new(raw) else { handle_alloc_error(layout(new)) };
        self.ptr = ptr;
        if new > old {
            // SAFETY: `new - old` bytes at `old` are within the allocation, and ours.
            unsafe { ptr::write_bytes(ptr.as_ptr().add(old), 0, new - old) };
        }
    }

    /// The bytes asked of the allocator.
    pub fn memory(&self) -> usize {
        capacity(self.byte_len())
    }
}

impl<F: Format> Drop for Thin<F> {
    fn drop(&mut self) {
        // SAFETY: allocated with exactly this layout: the header's length has always been kept in
        // step with the allocation.
        unsafe { dealloc(self.ptr.as_ptr(), layout(self.memory())) }
    }
}

impl<F: Format> Clone for Thin<F> {
    fn clone(&self) -> Thin<F> {
        Thin::new(self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capacities_hold_and_waste_little() {
        for len in 1..100_000 {
            let capacity = capacity(len);
            assert!(capacity >= len && capacity - len <= 15.max(len / 4), "{len} {capacity}");
            assert_eq!(super::capacity(capacity), capacity);
        }
    }
}
