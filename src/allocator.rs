//! The allocator, counted.
//!
//! `maxmemory` and `INFO memory` need to know at any instant what is allocated, whichever allocator
//! is below. Each thread adds to a counter of its own, which only it writes, so counting costs a
//! load and a store on a line that the thread has anyway.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ffi::CStr;
use std::ptr;
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

/// What a request costs: `used_memory` is what the allocator spends, not what it was asked for.
#[inline]
fn taken(bytes: usize) -> i64 {
    varve_engine::size_class(bytes) as i64
}

/// Bytes allocated now, over all threads, and what large tables have mapped.
pub fn used() -> u64 {
    let allocated = COUNTERS.iter().map(|c| c.0.load(Relaxed)).sum::<i64>().max(0) as u64;
    allocated + varve_engine::table::mapped() as u64
}

/// Bytes that this thread has allocated, less those that it has freed.
#[inline]
pub fn own() -> i64 {
    COUNTERS.get(MINE.get()).map_or(0, |counter| counter.0.load(Relaxed))
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

/// The allocator's settings. What is 8 MiB and larger is treated as the rest: by default such memory would go
/// back to the system when it is freed, and each large value that replaces another would meet its pages anew.
#[unsafe(export_name = "_rjem_malloc_conf")]
static SETTINGS: Option<&'static std::ffi::c_char> =
    // SAFETY: the literal's first byte, behind which the others and the end are.
    Some(unsafe { &*c"oversize_threshold:0".as_ptr() });

/// Lets the settings count for the first arena as well, which is older than they are.
pub fn settle() {
    // SAFETY: the name's value is a `size_t`.
    let failed = unsafe { control(c"arena.0.oversize_threshold", None, Some(&mut { usize::MAX })) };
    debug_assert_eq!(failed, 0);
}

fn command(name: &CStr) {
    // SAFETY: the commands have no value.
    let failed = unsafe { control(name, None, None) };
    debug_assert_eq!(failed, 0, "{name:?}");
}

/// Reads, writes or does what jemalloc has under a name. 0, or an error of the system.
///
/// # Safety
/// What is read or written has the type `size_t` there.
unsafe fn control(name: &CStr, old: Option<&mut usize>, new: Option<&mut usize>) -> i32 {
    let mut len = size_of::<usize>();
    let (old, old_len) = old.map_or((ptr::null_mut(), ptr::null_mut()), |old| {
        (ptr::from_mut(old).cast(), &raw mut len)
    });
    let (new, new_len) =
        new.map_or((ptr::null_mut(), 0), |new| (ptr::from_mut(new).cast(), size_of::<usize>()));
    // SAFETY: a C string, and pointers to values that live through the call, of the size said.
    unsafe { tikv_jemalloc_sys::mallctl(name.as_ptr(), old, old_len, new, new_len) }
}

/// The program's allocator.
pub struct Counted(pub tikv_jemallocator::Jemalloc);

// SAFETY: every call is passed on as it is; counting touches no allocated memory.
unsafe impl GlobalAlloc for Counted {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(taken(layout.size()));
        // SAFETY: the caller's promise is passed on.
        unsafe { self.0.alloc(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-taken(layout.size()));
        // SAFETY: as above.
        unsafe { self.0.dealloc(ptr, layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(taken(layout.size()));
        // SAFETY: as above.
        unsafe { self.0.alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(taken(new_size) - taken(layout.size()));
        // SAFETY: as above.
        unsafe { self.0.realloc(ptr, layout, new_size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(name: &CStr) -> usize {
        let mut value = 1;
        // SAFETY: both names that are asked for have a `size_t`.
        assert_eq!(unsafe { control(name, Some(&mut value), None) }, 0, "{name:?}");
        value
    }

    #[test]
    fn large_memory_is_not_given_back_at_once() {
        settle();
        assert_eq!(read(c"opt.oversize_threshold"), 0, "no arena apart for what is large");
        assert_eq!(read(c"arena.0.oversize_threshold"), usize::MAX);
    }

    #[test]
    fn a_request_is_counted_as_what_the_allocator_spends() {
        for bytes in (1..100_000).chain((0..10_000).map(|i| i * 9973 + 1)) {
            // SAFETY: a size that is not 0, and no flags.
            let spent = unsafe { tikv_jemalloc_sys::nallocx(bytes, 0) };
            assert_eq!(taken(bytes), spent as i64, "{bytes} bytes");
        }
        let layout = Layout::from_size_align(1030, 8).unwrap();
        let allocator = Counted(tikv_jemallocator::Jemalloc);
        count(0);
        let before = own();
        // SAFETY: the layout's size is not 0, and what is reallocated and freed was allocated with it.
        unsafe {
            let memory = allocator.alloc(layout);
            assert_eq!(own() - before, 1280);
            let memory = allocator.realloc(memory, layout, 1300);
            assert_eq!(own() - before, 1536);
            allocator.dealloc(memory, Layout::from_size_align(1300, 8).unwrap());
        }
        assert_eq!(own() - before, 0);
    }

    #[test]
    fn the_commands_exist() {
        purge();
        decay();
    }
}
