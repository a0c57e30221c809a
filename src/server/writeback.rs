//! Getting a file to the disk while it is written: `rdb-save-incremental-fsync` and
//! `aof-rewrite-incremental-fsync`.
//!
//! Without this the kernel gathers a snapshot in memory and writes it in one go when it is synced,
//! and everybody else's syncs wait behind that. So every few MiB the piece just written is started
//! on its way, and the piece before it is waited for: there is always one in flight, and never more
//! than two that the disk does not have. `sync_file_range` writes no metadata, so the sync at the
//! end remains, and is short.

use std::io;
use std::os::fd::RawFd;

/// Bytes of a piece.
pub const PIECE: u64 = 4 << 20;

/// A file that is written from its beginning to its end. Allocates nothing, as a child must not.
pub struct Writeback {
    fd: RawFd,
    /// Whether to do anything at all.
    on: bool,
    written: u64,
    /// Up to here pieces were started.
    started: u64,
    /// Where the last piece begins.
    last: u64,
    /// How many pieces were started.
    pub pieces: u64,
}

impl Writeback {
    pub fn new(fd: RawFd, on: bool) -> Writeback {
        Writeback { fd, on, written: 0, started: 0, last: 0, pieces: 0 }
    }

    /// Notes that `n` more bytes were written. The error is that of a piece that the disk did not
    /// take.
    pub fn wrote(&mut self, n: usize) -> io::Result<()> {
        self.written += n as u64;
        if !self.on || self.written - self.started < PIECE {
            return Ok(());
        }
        self.range(self.started, self.written, libc::SYNC_FILE_RANGE_WRITE)?;
        let whole = libc::SYNC_FILE_RANGE_WAIT_BEFORE
            | libc::SYNC_FILE_RANGE_WRITE
            | libc::SYNC_FILE_RANGE_WAIT_AFTER;
        if self.last < self.started {
            self.range(self.last, self.started, whole)?;
        }
        (self.last, self.started) = (self.started, self.written);
        self.pieces += 1;
        Ok(())
    }

    fn range(&mut self, from: u64, to: u64, flags: libc::c_uint) -> io::Result<()> {
        // Where there is no such thing, the sync at the end does it all.
        self.on = sync_range(self.fd, from, to - from, flags)?;
        Ok(())
    }
}

/// Has the system do what `flags` say with `bytes` of a file from `position` on (`sync_file_range`);
/// 0 bytes are none. Data only, so it makes nothing durable as a sync does.
/// `false` if the file is of a kind that does not have it, or it is forbidden. Allocates nothing.
fn sync_range(fd: RawFd, position: u64, bytes: u64, flags: libc::c_uint) -> io::Result<bool> {
    if bytes == 0 {
        return Ok(true); // to the system this means all that there is
    }
    // SAFETY: plain integers; a descriptor that is no file's is refused by the call.
    let done = unsafe { libc::sync_file_range(fd, position as i64, bytes as i64, flags) };
    let error = io::Error::last_os_error();
    match (done, error.raw_os_error()) {
        (0, _) => Ok(true),
        (_, Some(libc::ENOSYS | libc::EINVAL | libc::ESPIPE | libc::EPERM)) => Ok(false),
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;

    #[test]
    fn every_piece_is_started_once() {
        let path = std::env::temp_dir().join(format!("varve-writeback-{}", std::process::id()));
        let file = std::fs::File::create(&path).unwrap();
        file.set_len(64 << 20).unwrap();
        for (on, pieces) in [(true, 4), (false, 0)] {
            let mut writeback = Writeback::new(file.as_raw_fd(), on);
            for _ in 0..40 {
                writeback.wrote(PIECE as usize / 10 + 1).unwrap();
            }
            assert_eq!(writeback.pieces, pieces);
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_is_no_file_is_left_alone_and_a_closed_one_is_an_error() {
        let (_reader, writer) = std::io::pipe().unwrap();
        let mut writeback = Writeback::new(writer.as_raw_fd(), true);
        writeback.wrote(PIECE as usize).unwrap();
        writeback.wrote(PIECE as usize).unwrap();
        assert!(Writeback::new(-1, true).wrote(PIECE as usize).is_err());
    }
}
