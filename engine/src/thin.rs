//! An owning pointer of one word to bytes that say themselves how long they are.
//!
//! Listpacks and intsets begin with a header from which their length follows, so a pointer is all
//! that an entry of the keyspace has to keep of them: no length, no capacity. The capacity is a
//! function of the length: all of what the allocator would spend in any case, so that growth within its size
//! classes needs no call to it. All memory of these containers is handled in this file.
//!
//! Bytes that are to grow at their front keep one number more, the gap before them in their
//! allocation: then nothing but the header moves.
//!
//! What always holds for a [`Thin`]: `ptr` owns an allocation of `size_class(gap + byte_len(head))`
//! bytes, where `head` is the `F::HEAD` bytes behind the gap, and every one of those bytes is
//! initialised.

use crate::size_class::size_class;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error, realloc};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr::{self, NonNull};
use std::slice;

/// How a kind of bytes says its length.
///
/// # Safety
///
/// `byte_len` must be a pure function of the bytes that it is given and never be less than `HEAD`.
pub unsafe trait Format {
    /// The header's bytes; only [`Thin::splice`] changes them. At least one, so that nothing is
    /// ever allocated empty.
    const HEAD: usize;

    /// The length of the whole, header included. `head` is `HEAD` bytes.
    fn byte_len(head: &[u8]) -> usize;
}

/// How many bytes are free before the first: of type `()` there are never any.
pub trait Gap: Copy + Default {
    fn get(self) -> usize;
    fn set(&mut self, gap: usize);
}

impl Gap for () {
    #[inline]
    fn get(self) -> usize {
        0
    }

    #[inline]
    fn set(&mut self, gap: usize) {
        debug_assert_eq!(gap, 0);
    }
}

impl Gap for u32 {
    #[inline]
    fn get(self) -> usize {
        self as usize
    }

    #[inline]
    fn set(&mut self, gap: usize) {
        *self = u32::try_from(gap).expect("the format's own lengths are below 4 GiB");
    }
}

fn layout(capacity: usize) -> Layout {
    Layout::from_size_align(capacity, 8).expect("a capacity is far below isize::MAX")
}

/// The owner of bytes of format `F`.
pub struct Thin<F: Format, G: Gap = ()> {
    ptr: NonNull<u8>,
    gap: G,
    format: PhantomData<F>,
}

/// With a gap before the bytes, for those that grow at their front.
pub type Gapped<F> = Thin<F, u32>;

// SAFETY: a `Thin` owns its bytes alone and has no interior mutability, as a `Box<[u8]>`.
unsafe impl<F: Format, G: Gap + Send> Send for Thin<F, G> {}
// SAFETY: as above; `&Thin` only reads.
unsafe impl<F: Format, G: Gap + Sync> Sync for Thin<F, G> {}

impl<F: Format, G: Gap> Thin<F, G> {
    /// Zeroes of the length that `head` says, behind `head`.
    pub fn zeroed(head: &[u8]) -> Thin<F, G> {
        assert_eq!(head.len(), F::HEAD);
        let layout = layout(size_class(F::byte_len(head)));
        // SAFETY: the layout's size is at least `F::byte_len(head)`, which is never 0.
        let raw = unsafe { alloc_zeroed(layout) };
        let Some(ptr) = NonNull::new(raw) else { handle_alloc_error(layout) };
        // SAFETY: the allocation is new and at least `F::HEAD` bytes long.
        unsafe { ptr::copy_nonoverlapping(head.as_ptr(), ptr.as_ptr(), F::HEAD) };
        Thin { ptr, gap: G::default(), format: PhantomData }
    }

    /// Where the bytes begin, as a hint to the processor's cache: reads nothing of them.
    #[inline]
    pub fn address(&self) -> *const u8 {
        self.ptr.as_ptr()
    }

    /// A copy of `bytes`, which must be as long as their header says.
    pub fn new(bytes: &[u8]) -> Thin<F, G> {
        let mut thin = Thin::zeroed(&bytes[..F::HEAD]);
        thin.body_mut().copy_from_slice(&bytes[F::HEAD..]);
        thin
    }

    /// The first byte of the header.
    #[inline]
    fn begin(&self) -> *mut u8 {
        // SAFETY: the type's invariant: the gap is within the allocation.
        unsafe { self.ptr.as_ptr().add(self.gap.get()) }
    }

    #[inline]
    fn byte_len(&self) -> usize {
        // SAFETY: the type's invariant: at least `HEAD` initialised bytes of ours.
        F::byte_len(unsafe { slice::from_raw_parts(self.begin(), F::HEAD) })
    }

    /// The whole, header included.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the type's invariant: `byte_len` initialised bytes of ours, at least `HEAD`.
        unsafe { slice::from_raw_parts(self.begin(), self.byte_len()) }
    }

    /// What follows the header.
    #[inline]
    pub fn body_mut(&mut self) -> &mut [u8] {
        let len = self.byte_len() - F::HEAD;
        // SAFETY: as in `bytes`, and `&mut self` makes us the only user. The header is left out, so
        // the length cannot change through the slice.
        unsafe { slice::from_raw_parts_mut(self.begin().add(F::HEAD), len) }
    }

    /// Replaces `remove` bytes at `at` by `add` bytes that the caller fills in (they hold anything
    /// at first), and the header by `head`, which must say the resulting length.
    #[inline]
    pub fn splice(&mut self, head: &[u8], at: usize, remove: usize, add: usize) -> &mut [u8] {
        let old = self.byte_len();
        assert!(head.len() == F::HEAD && F::HEAD <= at && at <= old && remove <= old - at);
        let new = old - remove + add;
        assert_eq!(F::byte_len(head), new);
        let tail = old - at - remove;
        let front = size_of::<G>() > 0 && at == F::HEAD && tail > 1;
        if front && add <= self.gap.get() + remove {
            self.move_header(head, remove, add);
        } else {
            self.move_tail(at, remove, add, tail);
            // SAFETY: the header is within the allocation.
            unsafe { ptr::copy_nonoverlapping(head.as_ptr(), self.begin(), F::HEAD) };
        }
        // SAFETY: `at + add <= new`, within the allocation, initialised by its invariant.
        unsafe { slice::from_raw_parts_mut(self.begin().add(at), add) }
    }

    /// Removes bytes behind the header and adds some there, which the gap has room for.
    #[inline]
    fn move_header(&mut self, head: &[u8], remove: usize, add: usize) {
        self.gap.set(self.gap.get() + remove - add);
        // SAFETY: the header is within the allocation: the gap was large enough.
        unsafe { ptr::copy_nonoverlapping(head.as_ptr(), self.begin(), F::HEAD) };
        // Not as soon as half of it is free: a push may come next, and make it free again.
        if remove > add && self.gap.get() > 3 * self.byte_len() {
            self.shrink_to_fit();
        }
    }

    /// Makes room for `add` instead of `remove` bytes at `at`, with `tail` bytes behind. The header is
    /// as it was.
    #[inline]
    fn move_tail(&mut self, at: usize, remove: usize, add: usize, tail: usize) {
        let (mut gap, old) = (self.gap.get(), at + remove + tail);
        let old_capacity = size_class(gap + old);
        if gap > old / 4 && size_class(gap + at + add + tail) > old_capacity {
            self.close_gap(old);
            gap = 0;
        }
        let new_capacity = size_class(gap + at + add + tail);
        if new_capacity > old_capacity {
            self.reallocate(old_capacity, new_capacity);
        }
        let base = self.begin();
        // SAFETY: there are `at + remove + tail` bytes and will be `at + add + tail`, and the allocation
        // holds the larger of both behind the gap; `at >= HEAD`, so the header is apart from what moves.
        // If the allocation shrinks below, it still holds what there is.
        unsafe {
            if tail == 1 {
                *base.add(at + add) = *base.add(at + remove);
            } else if add != remove {
                ptr::copy(base.add(at + remove), base.add(at + add), tail);
            }
        }
        if new_capacity < old_capacity {
            self.reallocate(old_capacity, new_capacity);
        }
    }

    /// Moves the bytes, `len` of them, to where the allocation begins.
    fn close_gap(&mut self, len: usize) {
        // SAFETY: the bytes lie in the allocation as a whole, so they also do without the gap.
        unsafe { ptr::copy(self.begin(), self.ptr.as_ptr(), len) };
        self.gap.set(0);
    }

    /// Closes the gap, if some of the allocation can be given back then.
    pub fn shrink_to_fit(&mut self) {
        if size_class(self.byte_len()) < self.memory() {
            self.settle();
        }
    }

    /// Closes the gap, and gives back what is not needed then.
    fn settle(&mut self) {
        let (len, old) = (self.byte_len(), self.memory());
        self.close_gap(len);
        if size_class(len) < old {
            self.reallocate(old, size_class(len));
        }
    }

    /// From one allocation size to another; the bytes and the gap stay.
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
        size_class(self.gap.get() + self.byte_len())
    }
}

impl<F: Format> Gapped<F> {
    /// Makes the gap at least `add` bytes. It makes it larger, by as much as there is, as long as all
    /// stays below `most` bytes.
    #[inline]
    pub fn make_gap(&mut self, add: usize, most: usize) {
        if self.gap.get() < add {
            self.widen_gap(add, most);
        }
    }

    #[cold]
    fn widen_gap(&mut self, add: usize, most: usize) {
        let (old, len) = (self.gap.get() + self.byte_len(), self.byte_len());
        let new = size_class((old * 2).max(most / 8).min(most).max(len + add));
        // SAFETY: the layout's size is a capacity, so not 0.
        let raw = unsafe { alloc_zeroed(layout(new)) };
        let Some(ptr) = NonNull::new(raw) else { handle_alloc_error(layout(new)) };
        // SAFETY: `len` bytes of ours, to the end of a new allocation of at least as many; the old one
        // was made with this layout and is not used again.
        unsafe {
            ptr::copy_nonoverlapping(self.begin(), ptr.as_ptr().add(new - len), len);
            dealloc(self.ptr.as_ptr(), layout(size_class(old)));
        }
        self.ptr = ptr;
        self.gap.set(new - len);
    }
}

impl<F: Format> From<Thin<F>> for Gapped<F> {
    fn from(thin: Thin<F>) -> Gapped<F> {
        let ptr = ManuallyDrop::new(thin).ptr;
        Thin { ptr, gap: 0, format: PhantomData }
    }
}

impl<F: Format> From<Gapped<F>> for Thin<F> {
    fn from(gapped: Gapped<F>) -> Thin<F> {
        let mut gapped = ManuallyDrop::new(gapped);
        gapped.settle();
        Thin { ptr: gapped.ptr, gap: (), format: PhantomData }
    }
}

impl<F: Format, G: Gap> Drop for Thin<F, G> {
    fn drop(&mut self) {
        // SAFETY: allocated with exactly this layout: the header's length has always been kept in
        // step with the allocation.
        unsafe { dealloc(self.ptr.as_ptr(), layout(self.memory())) }
    }
}

impl<F: Format, G: Gap> Clone for Thin<F, G> {
    fn clone(&self) -> Thin<F, G> {
        Thin::new(self.bytes())
    }
}
