//! The allocator, counted.
//!
//! `maxmemory` and `INFO memory` need to know at any instant what is allocated, whichever allocator
//! is below. Each thread adds to a counter of its own, which only it writes, so counting costs a
//! load and a store on a line that the thread has anyway.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ffi::CStr;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering::Relaxed};

/// A thread beyond this many shares the last counter, and adds atomically there.
const THREADS: usize = 64;

#[repr(align(64))]
struct Counter(AtomicI64);

static COUNTERS: [Counter; THREADS] = [const { Counter(AtomicI64::new(0)) }; THREADS];
static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
}

#[inline]
fn count(bytes: i64) {
    // A thread that is ending has no locals any more; what it frees then goes to the shared counter.
    let mine = MINE
        .try_with(|mine| {
            if mine.get() == usize::MAX {
                mine.set(NEXT.fetch_add(1, Relaxed).min(THREADS - 1));
            }
            mine.get()
        })
        .unwrap_or(THREADS - 1);
    let counter = &COUNTERS[mine].0;
    if mine == THREADS - 1 {
        counter.fetch_add(bytes, Relaxed);
    } else {
        counter.store(counter.load(Relaxed) + bytes, Relaxed);
    }
}

/// Bytes allocated now, over all threads.
pub fn used() -> u64 {
    COUNTERS.iter().map(|c| c.0.load(Relaxed)).sum::<i64>().max(0) as u64
}

/// The allocator's name, as `INFO` and `MEMORY` show it.
pub const NAME: &str = "jemalloc";

/// Gives what the allocator holds without need back to the system: `MEMORY PURGE`.
pub fn purge() {
    command(c"arena.4096.purge"); // the number stands for all arenas
}

/// As [`purge`], of what has not been needed for some time. The allocator does that itself, but only while it
/// is used: an idle server would keep what it has freed.
pub fn decay() {
    command(c"arena.4096.decay");
}

fn command(name: &CStr) {
    // SAFETY: a C string; the command takes no value and gives none.
    unsafe {
        tikv_jemalloc_sys::mallctl(
            name.as_ptr(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            0,
        );
    }
}

/// The program's allocator.
pub struct Counted(pub tikv_jemallocator::Jemalloc);

// SAFETY: every call is passed on as it is; counting touches no allocated memory.
unsafe impl GlobalAlloc for Counted {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promise is passed on.
        unsafe { self.0.alloc(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: as above.
        unsafe { self.0.dealloc(ptr, layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: as above.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size as i64 - layout.size() as i64);
        // SAFETY: as above.
        unsafe { self.0.realloc(ptr, layout, new_size) }
    }
}
