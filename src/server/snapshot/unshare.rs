//! The memory that a child has left, made the loop's own again before the loop writes to it.
//!
//! `fork()` write-protects every page of both processes. When the child is gone, the first write to
//! each page is still a fault, 1 to 2 µs for what is then one bit in the page table. A thread of the
//! lowest priority takes these faults instead of the loop: by small pieces, because memory that is
//! mapped meanwhile waits for the piece in hand.

use crate::log_verbose;
use nix::errno::Errno;
use procfs::process::{MMPermissions, MMapPath, Process};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// The name of the thread.
const THREAD: &str = "unshare";
const NICE: i32 = 19;
/// Pages of a piece.
const PIECE: usize = 64;

/// A pass over the memory of this process, by a thread of its own. Dropped, it ends with the piece in
/// hand.
pub struct Unshare {
    stop: Arc<AtomicBool>,
}

impl Unshare {
    /// Begins a pass. Not while a child lives: its pages would be copied. Where no thread can be had,
    /// and before Linux 5.14, the loop takes its faults itself.
    pub fn begin() -> Unshare {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let _ = std::thread::Builder::new().name(THREAD.into()).spawn(move || {
            // SAFETY: a plain integer. On Linux it is this thread's, and a refusal does no harm.
            unsafe { libc::nice(NICE) };
            let began = Instant::now();
            match unshare(&stopped) {
                Ok(bytes) => log_verbose!(
                    "{} MB of memory are no longer shared, after {:.2} s",
                    bytes >> 20,
                    began.elapsed().as_secs_f64()
                ),
                Err(error) => log_verbose!("Memory stays shared until it is written to: {error}"),
            }
        });
        Unshare { stop }
    }
}

impl Drop for Unshare {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Makes the anonymous memory writable that is there. Returns how many bytes that was.
fn unshare(stop: &AtomicBool) -> io::Result<usize> {
    let page = procfs::page_size() as usize;
    let maps = Process::myself().and_then(|this| this.maps()).map_err(io::Error::other)?;
    let private = MMPermissions::READ | MMPermissions::WRITE | MMPermissions::PRIVATE;
    let mut bytes = 0;
    for map in maps {
        let anonymous = matches!(map.pathname, MMapPath::Anonymous | MMapPath::Heap);
        if !anonymous || !map.perms.contains(private) {
            continue;
        }
        for at in (map.address.0..map.address.1).step_by(PIECE * page) {
            if stop.load(Ordering::Relaxed) {
                return Ok(bytes);
            }
            let len = (map.address.1 - at).min((PIECE * page) as u64);
            bytes += unshare_piece(at as usize, len as usize, page)?;
        }
    }
    Ok(bytes)
}

/// The same for the `len` bytes at `at`, at most a piece, of which any part may be missing.
fn unshare_piece(at: usize, len: usize, page: usize) -> io::Result<usize> {
    let mut there = [0u8; PIECE];
    // SAFETY: `there` has a byte for each page, and nothing else is written to.
    let asked = unsafe { libc::mincore(at as *mut _, len, there.as_mut_ptr()) };
    match Errno::result(asked) {
        Ok(_) => {}
        Err(Errno::ENOMEM) => return Ok(0), // unmapped since
        Err(error) => return Err(error.into()),
    }
    let (mut bytes, mut at) = (0, at);
    for run in there[..len / page].chunk_by(|a, b| a & 1 == b & 1) {
        let len = run.len() * page;
        if run[0] & 1 == 1 {
            // SAFETY: no byte changes. A page that was given back since comes again, as the zeros that
            // a reader would find.
            let result = unsafe { libc::madvise(at as *mut _, len, libc::MADV_POPULATE_WRITE) };
            match Errno::result(result) {
                Ok(_) => bytes += len,
                Err(Errno::EINVAL) => return Err(io::ErrorKind::Unsupported.into()),
                Err(_) => {} // unmapped since
            }
        }
        at += len;
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::wait::waitpid;
    use nix::unistd::{ForkResult, fork};

    const PAGES: usize = 4096;

    /// Faults of this thread while it writes to each page.
    fn faults(memory: &mut [u8]) -> usize {
        let count = || getrusage(UsageWho::RUSAGE_THREAD).unwrap().minor_page_faults() as usize;
        let before = count();
        for page in memory.chunks_mut(procfs::page_size() as usize) {
            std::hint::black_box(page)[0] += 1;
        }
        count() - before
    }

    fn have_a_child() {
        // SAFETY: the child does nothing but end.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => unsafe { libc::_exit(0) },
            ForkResult::Parent { child } => waitpid(child, None).unwrap(),
        };
    }

    #[test]
    fn what_a_child_has_left_is_written_without_a_fault() {
        let mut memory = vec![1u8; PAGES * procfs::page_size() as usize];
        have_a_child();
        assert!(faults(&mut memory) >= PAGES, "nothing was shared");
        have_a_child();
        let bytes = unshare(&AtomicBool::new(false)).unwrap();
        assert!(bytes >= memory.len(), "{bytes} bytes");
        let left = faults(&mut memory);
        assert!(left < PAGES / 16, "{left} faults");
    }

    #[test]
    fn memory_that_nobody_touched_stays_away() {
        let len = PAGES * procfs::page_size() as usize;
        let memory = memmap2::MmapMut::map_anon(len).unwrap();
        unshare(&AtomicBool::new(false)).unwrap();
        let mut there = vec![0u8; PAGES];
        // SAFETY: `there` has a byte for each page of the mapping.
        let asked = unsafe { libc::mincore(memory.as_ptr() as *mut _, len, there.as_mut_ptr()) };
        assert_eq!(asked, 0);
        assert_eq!(there.iter().filter(|there| **there & 1 == 1).count(), 0);
    }

    #[test]
    fn a_pass_ends_when_it_is_told_to() {
        assert_eq!(unshare(&AtomicBool::new(true)).unwrap(), 0);
    }
}
