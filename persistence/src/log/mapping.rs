//! A file in memory that stays writable when its file system fails.
//!
//! To a process that writes to a mapped file, a dead disk (or a full one, where the file system makes a
//! copy of what is written) is no error but a signal, `SIGBUS`, which would end it. Here the page is
//! then put in place anew, as a copy that is this process's own: the write succeeds, the other
//! pages stay as they are, and [`Mapping::is_broken`] says that what is written is not the file's any more.

use super::block::PAGE;
use super::disk::SharedMemory;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

/// More maps than this at a time are refused: the signal's handler looks through all.
const MOST: usize = 64;

/// What the handler knows of a map. Free if `len` is 0.
struct Slot {
    at: AtomicUsize,
    len: AtomicUsize,
    file: AtomicI32,
    broken: AtomicBool,
    /// The page that was last given a copy of its own.
    copied: AtomicUsize,
}

static SLOTS: [Slot; MOST] = [const {
    Slot {
        at: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        file: AtomicI32::new(-1),
        broken: AtomicBool::new(false),
        copied: AtomicUsize::new(0),
    }
}; MOST];

/// What the signal did before.
static BEFORE: OnceLock<SigAction> = OnceLock::new();

/// The map of a file.
pub struct Mapping {
    map: memmap2::MmapRaw,
    file: File,
    slot: &'static Slot,
}

impl Mapping {
    /// Maps the first `bytes` of a file, which has as many.
    pub fn map(file: File, bytes: usize) -> io::Result<Mapping> {
        BEFORE.get_or_init(|| {
            let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK;
            let action = SigAction::new(SigHandler::SigAction(on_sigbus), flags, SigSet::empty());
            // SAFETY: the handler uses nothing but atomics and system calls.
            let before = unsafe { sigaction(Signal::SIGBUS, &action) };
            before.expect("a valid signal and a valid handler")
        });
        let map = memmap2::MmapOptions::new().len(bytes).map_raw(&file)?;
        let take = |slot: &&Slot| {
            slot.len.compare_exchange(0, bytes, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        };
        let slot = SLOTS.iter().find(take).ok_or(io::ErrorKind::QuotaExceeded)?;
        slot.file.store(file.as_raw_fd(), Ordering::Relaxed);
        slot.broken.store(false, Ordering::Relaxed);
        slot.copied.store(0, Ordering::Relaxed);
        slot.at.store(map.as_ptr().addr(), Ordering::Release);
        Ok(Mapping { map, file, slot })
    }
}

impl SharedMemory for Mapping {
    fn address(&self) -> NonNull<u8> {
        NonNull::new(self.map.as_mut_ptr()).expect("a map is nowhere near address 0")
    }

    fn is_broken(&self) -> bool {
        self.slot.broken.load(Ordering::Acquire)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        self.slot.at.store(0, Ordering::Relaxed);
        self.slot.len.store(0, Ordering::Release);
    }
}

/// Gives the page that could not be written a copy of its own. A signal for anything else has its usual
/// effect.
extern "C" fn on_sigbus(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel gives a valid pointer, and for this signal an address.
    let address = unsafe { (*info).si_addr() }.addr();
    for slot in &SLOTS {
        let (at, len) = (slot.at.load(Ordering::Acquire), slot.len.load(Ordering::Acquire));
        if at == 0 || !(at..at + len).contains(&address) {
            continue;
        }
        slot.broken.store(true, Ordering::Release);
        let page = address / PAGE * PAGE;
        // The second time for one page not even reading it goes well: then what it held is lost, and
        // was on that disk only.
        let again = slot.copied.swap(page, Ordering::Relaxed) == page;
        let (anonymous, file) = match again {
            true => (libc::MAP_ANONYMOUS, -1),
            false => (0, slot.file.load(Ordering::Relaxed)),
        };
        let flags = libc::MAP_PRIVATE | libc::MAP_FIXED | anonymous;
        let rights = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: replaces a page of a map that this module made and that is in use, by one with the
        // same contents.
        let mapped = unsafe {
            libc::mmap(page as *mut _, PAGE, rights, flags, file, (page - at) as libc::off_t)
        };
        if mapped != libc::MAP_FAILED {
            return;
        }
    }
    if let Some(before) = BEFORE.get() {
        // SAFETY: as it was. The instruction is tried again, and is for that one.
        let _ = unsafe { sigaction(Signal::SIGBUS, before) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn memory_stays_writable_when_its_file_is_gone() {
        let path = std::env::temp_dir().join(format!("varve-shared-{}", std::process::id()));
        let mut options = std::fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        file.set_len(4 * 4096).unwrap();
        let shared = Mapping::map(file.try_clone().unwrap(), 4 * 4096).unwrap();
        let at = shared.address();
        // SAFETY: inside the map, which only this test has.
        unsafe {
            at.write(1);
            at.add(4096).write(2);
            let mut byte = [0];
            file.read_at(&mut byte, 4096).unwrap();
            assert_eq!((byte, shared.is_broken()), ([2], false));
            file.set_len(4096).unwrap(); // as if the rest could not be had from the disk any more
            at.add(4096).write(3);
            at.add(3 * 4096 + 9).write(4);
            at.write(5);
            let all = (at.read(), at.add(4096).read(), at.add(3 * 4096 + 9).read());
            assert_eq!((all, shared.is_broken()), ((5, 3, 4), true));
            file.read_at(&mut byte, 0).unwrap();
            assert_eq!(byte, [5]); // what can be the file's still is
        }
        drop(shared);
        std::fs::remove_file(&path).unwrap();
    }
}
