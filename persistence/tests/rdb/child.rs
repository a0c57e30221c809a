//! Saving happens in a forked child, where an allocation can wait forever for a lock that a thread
//! held which no longer exists. So saving must not allocate, which an allocator that counts shows.

use crate::support::*;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use varve_persistence::rdb::{self, Buffers};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: hands everything on to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn saving_allocates_nothing() {
    let ks = keyspace(&varied());
    for version in 9..=12 {
        let options = options(version);
        let mut buffers = Buffers::new();
        let (mut written, mut keys) = (0, 0);
        let before = ALLOCATIONS.get();
        let mut write = |bytes: &[u8]| {
            written += bytes.len() as u64;
            Ok(())
        };
        let rdb = rdb::save(&ks, &options, &mut buffers, &mut write, &mut |n| keys = n);
        let commands = rdb::save_as_commands(&ks, &options, &mut buffers, &mut write, &mut |_| {});
        assert_eq!(ALLOCATIONS.get(), before);
        assert_eq!(rdb.unwrap() + commands.unwrap(), written);
        assert_eq!(keys, ks.dbs.iter().map(|db| db.len() as u64).sum::<u64>());
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let ks = keyspace(&varied());
    for full_after in [0, 1, 300_000, 1_000_000] {
        let mut left: usize = full_after;
        let mut write = |bytes: &[u8]| {
            left = left.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::StorageFull)?;
            Ok(())
        };
        let mut buffers = Buffers::new();
        let result = rdb::save(&ks, &options(10), &mut buffers, &mut write, &mut |_| {});
        assert_eq!(result.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    }
}
