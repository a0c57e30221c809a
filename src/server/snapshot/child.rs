//! The child's side of a snapshot: what runs between `fork()` and `_exit`.
//!
//! Another thread may have held any lock at the fork, the allocator's too, so nothing here allocates,
//! locks or touches what is not the child's own: its buffers, its file or stream, and the pipe that it
//! reports through.

use crate::server::writeback::Writeback;
use std::ffi::{CStr, CString};
use std::io;
use std::time::Duration;
use varve_persistence::rdb;

/// A record in the report pipe: kind, then two words.
pub(super) const RECORD: usize = 24;
pub(super) const PROGRESS: u64 = 1;
pub(super) const FAILED: u64 = 2;
/// How many pieces were synced on the way.
pub(super) const SYNCED: u64 = 3;
/// Keys between two reports.
pub(super) const REPORT_EVERY: u64 = 1024;

/// The private memory that this process has copied, bytes: what copy-on-write cost so far.
fn copied_memory(room: &mut [u8]) -> u64 {
    // Read with plain calls into a buffer of the caller's: a child must not allocate.
    // SAFETY: the path is a C string; the descriptor is closed below; the buffer is as long as said.
    let n = unsafe {
        let fd = libc::open(c"/proc/self/smaps_rollup".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if fd < 0 {
            return 0;
        }
        let mut n = 0;
        loop {
            let got = libc::read(fd, room[n..].as_mut_ptr().cast(), room.len() - n);
            if got <= 0 {
                break;
            }
            n += got as usize;
        }
        libc::close(fd);
        n
    };
    let text = &room[..n];
    let field = b"Private_Dirty:";
    let Some(at) = text.windows(field.len()).position(|w| w == field) else { return 0 };
    let digits = text[at + field.len()..].iter().skip_while(|c| **c == b' ');
    let kb =
        digits.take_while(|c| c.is_ascii_digit()).fold(0u64, |n, c| n * 10 + (c - b'0') as u64);
    kb * 1024
}

/// The names of a snapshot that becomes `dump.rdb`.
pub(super) struct Names {
    pub temp: CString,
    /// The one under which it can become the log's base: until that is in force, `dump.rdb` may become another
    /// snapshot's. Where a file can have but one name it stays away.
    pub base: Option<CString>,
    pub dump: CString,
}

impl Names {
    /// Puts the finished file in its place, durably. Allocates nothing.
    fn put_in_place(&self) -> io::Result<()> {
        let call = |done: i32| match done {
            -1 => Err(io::Error::last_os_error()),
            done => Ok(done),
        };
        let at = CStr::as_ptr;
        // SAFETY: the names are C strings, and the descriptor is ours.
        unsafe {
            if let Some(base) = &self.base {
                libc::link(at(&self.temp), at(base));
            }
            call(libc::rename(at(&self.temp), at(&self.dump)))?;
            let folder = call(libc::open(at(c"."), libc::O_RDONLY | libc::O_CLOEXEC))?;
            call(libc::fsync(folder))?;
        }
        Ok(())
    }
}

/// Where a child writes.
pub(super) struct Child {
    pub out: i32,
    pub report: i32,
    pub is_file: bool,
    /// `None` if the file keeps its name.
    pub names: Option<Names>,
    pub incremental: bool,
    /// How long to wait after each key.
    pub key_delay: Duration,
}

impl Child {
    /// Closes what is the parent's. The folder's lock, the port and the clients' connections must end
    /// with the parent, and not when the kernel has taken back the memory of its child.
    pub(super) fn let_go(&self) {
        let (low, high) = (self.out.min(self.report), self.out.max(self.report));
        for (first, last) in [(3, low - 1), (low + 1, high - 1), (high + 1, libc::c_int::MAX)] {
            if first <= last {
                // SAFETY: plain integers. A kernel that has no such call leaves all open.
                unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
            }
        }
    }

    pub fn run(
        &self,
        ks: &varve_engine::Keyspace,
        options: &rdb::SaveOptions,
        as_commands: bool,
        mark: Option<&[u8; 40]>,
        buffers: &mut rdb::Buffers,
        smaps: &mut [u8],
    ) -> bool {
        let mut writeback = Writeback::new(self.out, self.incremental);
        let mut write = |bytes: &[u8]| {
            self.write_all(self.out, bytes)?;
            writeback.wrote(bytes.len())
        };
        let mut reported = 0;
        let mut progress = |keys: u64| {
            if keys >= reported + REPORT_EVERY {
                reported = keys;
                self.say(PROGRESS, keys, 0);
            }
            if !self.key_delay.is_zero() {
                std::thread::sleep(self.key_delay);
            }
        };
        let mut result = match as_commands {
            false => rdb::save(ks, options, buffers, &mut write, &mut progress),
            true => rdb::save_as_commands(ks, options, buffers, &mut write, &mut progress),
        };
        if let (Ok(_), Some(mark)) = (&result, mark)
            && let Err(e) = write(mark)
        {
            result = Err(e);
        }
        if result.is_ok() && self.is_file {
            // SAFETY: a descriptor of ours.
            if unsafe { libc::fsync(self.out) } != 0 {
                result = Err(std::io::Error::last_os_error());
            }
        }
        if let (Ok(_), Some(names)) = (&result, &self.names)
            && let Err(e) = names.put_in_place()
        {
            result = Err(e);
        }
        self.say(SYNCED, writeback.pieces, 0);
        let copied = copied_memory(smaps);
        self.say(PROGRESS, u64::MAX >> 16, copied);
        if let Err(e) = &result {
            self.say(FAILED, e.raw_os_error().unwrap_or(libc::EIO) as u64, 0);
        }
        result.is_ok()
    }

    fn write_all(&self, fd: i32, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            // SAFETY: the slice is valid for its length.
            let n = unsafe { libc::write(fd, bytes.as_ptr().cast(), bytes.len()) };
            if n < 0 {
                let e = std::io::Error::last_os_error();
                if e.raw_os_error() == Some(libc::EINTR) {
                    continue;
                }
                return Err(e);
            }
            bytes = &bytes[n as usize..];
        }
        Ok(())
    }

    fn say(&self, kind: u64, a: u64, b: u64) {
        let mut record = [0u8; RECORD];
        record[..8].copy_from_slice(&kind.to_le_bytes());
        record[8..16].copy_from_slice(&a.to_le_bytes());
        record[16..].copy_from_slice(&b.to_le_bytes());
        let _ = self.write_all(self.report, &record);
    }
}
