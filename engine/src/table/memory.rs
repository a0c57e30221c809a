//! The memory of a table's buckets: an array that grows at its end and never moves what is large.
//!
//! The first 4096 buckets are one allocation that is copied when it grows (256 KiB at most: tens of
//! microseconds). From there each segment is as large as all before it together and is mapped from
//! the kernel, which gives its pages zeroed and only when they are touched. So growing costs neither
//! a large copy nor a large `memset`, and shrinking gives the end back a MiB at a time.

use super::bucket::BUCKET;
use crate::size_class::size_class;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Buckets in the first allocation. Segment `s` holds the buckets from `FIRST << s` to twice that.
const FIRST: usize = 4096;
const SEGMENTS: usize = 30;
/// Buckets in one step of giving memory back: 1 MiB.
const RELEASE: usize = (1 << 20) / BUCKET;
/// Buckets in a page of the kernel's.
const PAGE: usize = 4096 / BUCKET;

/// Bytes that the buckets of all tables take in mapped segments.
static MAPPED: AtomicUsize = AtomicUsize::new(0);

/// The memory of large tables: the allocator, which counts the rest, has not given it.
pub fn mapped() -> usize {
    MAPPED.load(Relaxed)
}

/// Where the buckets lie. Grown by [`Memory::ensure`], shrunk by [`Memory::release`].
pub(super) struct Memory {
    first: *mut u8,
    first_capacity: usize,
    /// Boxed when any segment is mapped, else null.
    segments: *mut Segments,
}

struct Segments {
    at: [*mut u8; SEGMENTS],
    /// What of [`MAPPED`] is theirs.
    bytes: usize,
}

impl Segments {
    /// Counts what an array of `n` buckets has in them.
    fn count(&mut self, n: usize) {
        let bytes = mapped_bytes(n);
        MAPPED.fetch_add(bytes.wrapping_sub(self.bytes), Relaxed);
        self.bytes = bytes;
    }
}

/// The segment that holds bucket `i`, which is not in the first allocation, and its place there.
#[inline(always)]
fn segment_of(i: usize) -> (usize, usize) {
    let top = i.ilog2();
    ((top - FIRST.ilog2()) as usize, i ^ (1 << top))
}

fn segment_bytes(s: usize) -> usize {
    (FIRST << s) * BUCKET
}

fn first_layout(buckets: usize) -> Layout {
    Layout::from_size_align(buckets * BUCKET, BUCKET).expect("at most 256 KiB")
}

impl Memory {
    pub(super) const fn new() -> Memory {
        Memory { first: ptr::null_mut(), first_capacity: 0, segments: ptr::null_mut() }
    }

    /// The address of bucket `i`.
    ///
    /// # Safety
    /// `ensure(i)` has succeeded, and `release(n)` was not called since with `n <= i`.
    #[inline(always)]
    pub(super) unsafe fn bucket(&self, i: usize) -> NonNull<u8> {
        // SAFETY: the caller's promise means that the allocation that holds `i` exists.
        unsafe {
            if i < FIRST {
                NonNull::new_unchecked(self.first.add(i * BUCKET))
            } else {
                let (s, at) = segment_of(i);
                NonNull::new_unchecked((*self.segments).at[s].add(at * BUCKET))
            }
        }
    }

    /// Makes bucket `i` exist, all zeroes if it is new; every bucket below `i` must exist already.
    /// False if the kernel has no memory.
    #[inline]
    pub(super) fn ensure(&mut self, i: usize) -> bool {
        if i < self.first_capacity { true } else { self.ensure_slow(i) }
    }

    #[cold]
    fn ensure_slow(&mut self, i: usize) -> bool {
        if i < FIRST {
            return self.resize_first((i + 1 + i / 8).min(FIRST));
        }
        let (s, _) = segment_of(i);
        if s >= SEGMENTS {
            return false;
        }
        if self.segments.is_null() {
            let none = Segments { at: [ptr::null_mut(); SEGMENTS], bytes: 0 };
            self.segments = Box::into_raw(Box::new(none));
        }
        // SAFETY: `segments` is the box made above or earlier, and nothing else borrows it.
        let segments = unsafe { &mut *self.segments };
        if segments.at[s].is_null() {
            segments.at[s] = map(segment_bytes(s));
        }
        let there = !segments.at[s].is_null();
        if there && mapped_bytes(i + 1) > segments.bytes {
            segments.count(i + 1);
        }
        there
    }

    /// Makes the buckets below `n` exist at once; only while there are none. Returns how many do.
    pub(super) fn reserve(&mut self, n: usize) -> usize {
        debug_assert!(self.first.is_null());
        let mut have = n.min(FIRST);
        if have == 0 || !self.resize_first(have) {
            return 0;
        }
        while have < n {
            if !self.ensure(have) {
                return have;
            }
            have = (have * 2).min(n);
            // SAFETY: `segments` is the box that `ensure` made or found.
            unsafe { (*self.segments).count(have) };
        }
        have
    }

    /// Gives memory back: no bucket at or above `n` is needed, and all of those are empty. Meant to
    /// be called for each `n` on the way down.
    #[inline]
    pub(super) fn release(&mut self, n: usize) {
        if n < FIRST {
            if n.is_multiple_of(8) {
                self.release_first(n);
            }
        } else if n.is_multiple_of(RELEASE) || n.is_multiple_of(FIRST) {
            self.release_segment(n);
        }
    }

    #[cold]
    fn release_first(&mut self, n: usize) {
        // Mapped memory goes only well below its beginning, so that a table whose size swings about
        // a boundary does not map and unmap all the time.
        if n <= FIRST / 2 && !self.segments.is_null() {
            self.unmap_all();
        }
        if n < self.first_capacity / 2 {
            // If there is no memory for the smaller allocation, the larger one still serves.
            let _ = self.resize_first((n + n / 4).max(1));
        }
    }

    #[cold]
    fn release_segment(&mut self, n: usize) {
        let (s, at) = segment_of(n);
        if at.is_multiple_of(RELEASE) {
            // SAFETY: `segments` is a live box while any bucket at or above FIRST exists.
            let segments = unsafe { &mut *self.segments };
            segments.count(n);
            let segment = segments.at[s];
            let bytes = (RELEASE * BUCKET).min(segment_bytes(s) - at * BUCKET);
            // SAFETY: the range lies in the segment's private anonymous mapping, and its buckets
            // are empty: reading zeroes from it later is right.
            unsafe { libc::madvise(segment.add(at * BUCKET).cast(), bytes, libc::MADV_DONTNEED) };
        }
        if at <= (FIRST << s) / 2 && s + 1 < SEGMENTS {
            self.unmap_segment(s + 1);
        }
    }

    fn unmap_all(&mut self) {
        for s in 0..SEGMENTS {
            self.unmap_segment(s);
        }
        // SAFETY: callers know that `segments` is a live box. It came from `Box::into_raw` and is forgotten here.
        let mut segments = unsafe { Box::from_raw(self.segments) };
        segments.count(0);
        self.segments = ptr::null_mut();
    }

    fn unmap_segment(&mut self, s: usize) {
        // SAFETY: callers know that `segments` is a live box.
        let segment = unsafe { &mut (*self.segments).at[s] };
        if !segment.is_null() {
            // SAFETY: mapped by `map` with this length; no bucket in it is in use.
            unsafe { libc::munmap(segment.cast(), segment_bytes(s)) };
            *segment = ptr::null_mut();
        }
    }

    /// Makes room for `capacity` buckets in the first allocation, and as many more as it takes of the allocator
    /// in any case.
    fn resize_first(&mut self, capacity: usize) -> bool {
        let capacity = size_class(capacity * BUCKET) / BUCKET;
        // SAFETY: the layout's size is not zero: capacities are at least 1.
        let new = unsafe { alloc_zeroed(first_layout(capacity)) };
        if new.is_null() {
            return false;
        }
        if !self.first.is_null() {
            let kept = self.first_capacity.min(capacity) * BUCKET;
            // SAFETY: both allocations are at least `kept` bytes and distinct; the old one came from
            // here with this layout. Its buckets are only ever addressed through `first`.
            unsafe {
                ptr::copy_nonoverlapping(self.first, new, kept);
                dealloc(self.first, first_layout(self.first_capacity));
            }
        }
        (self.first, self.first_capacity) = (new, capacity);
        true
    }

    /// Bytes that an array of `n` buckets occupies, pages that were never touched not counted.
    pub(super) fn bytes(&self, n: usize) -> usize {
        let directory = if self.segments.is_null() { 0 } else { size_of::<Segments>() };
        (self.first_capacity + n.saturating_sub(FIRST)) * BUCKET + directory
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if !self.segments.is_null() {
            self.unmap_all();
        }
        if !self.first.is_null() {
            // SAFETY: allocated by `resize_first` with this layout.
            unsafe { dealloc(self.first, first_layout(self.first_capacity)) };
        }
    }
}

/// What an array of `n` buckets has in mapped segments.
fn mapped_bytes(n: usize) -> usize {
    n.saturating_sub(FIRST).next_multiple_of(PAGE) * BUCKET
}

/// `bytes` of zeroed memory that takes no room until it is touched; null if the kernel refuses.
fn map(bytes: usize) -> *mut u8 {
    // SAFETY: a new private anonymous mapping touches no memory that exists.
    let memory = unsafe {
        libc::mmap(
            ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if memory == libc::MAP_FAILED { ptr::null_mut() } else { memory.cast() }
}
