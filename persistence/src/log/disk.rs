//! The file system as the log uses it: few operations, each with a stated effect on a crash.
//!
//! The log goes through these traits so that its tests can run on a disk that keeps what a reader
//! sees ("live") apart from what a power cut leaves ("durable"), writes short, runs full and stops
//! at any operation. [`OsDisk`] is the real one.

use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use nix::sys::uio::pwritev;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::ops::Deref;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An open file, written at places: a write that failed half-way is simply made again.
pub trait DiskFile: Send + Sync {
    /// Writes from the front of `bufs` at `position`; returns how many bytes the kernel took.
    fn write_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize>;
    /// Reads at `position`; 0 at the end of the file.
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize>;
    /// Makes contents and size durable (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Has the file system set aside `bytes` from `position` on. The file's size stays, and
    /// [`DiskFile::set_len`] gives back what is beyond.
    fn reserve(&self, position: u64, bytes: u64) -> io::Result<()>;
    /// Has the system begin to write to the disk what it has not of the first `bytes`, and does not wait.
    fn begin_sync(&self, bytes: u64);
    /// Waits until the disk has taken the first `bytes`, which were begun or synced, and has the system give back its copy of them in
    /// memory. No reader sees a difference, and a power cut may still take them: only
    /// [`DiskFile::sync`] says that it does not. A write that failed is told once, and once more by
    /// the next sync; nothing is given back then.
    fn forget(&self, bytes: u64) -> io::Result<()>;
    /// The file's size in bytes.
    fn size(&self) -> io::Result<u64>;
}

/// A file system.
pub trait Disk: Send + Sync {
    /// A new, empty file, in place of any that has the name.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// An existing file, for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// A whole file, for reading from front to back.
    fn map(&self, path: &Path) -> io::Result<Contents>;
    /// Gives the file another name, atomically replacing any that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives the file a second name.
    fn link(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Makes the folder if there is none; its name is durable then.
    fn create_dir(&self, dir: &Path) -> io::Result<()>;
    /// The names in a folder.
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>>;
    /// How many bytes may still be written to the folder's file system.
    fn free_bytes(&self, dir: &Path) -> io::Result<u64>;
    /// A number that a copy of the folder does not share.
    fn dir_identity(&self, dir: &Path) -> io::Result<u64>;
    /// A name for this boot of the machine, after which nothing unsynced exists.
    fn boot_id(&self) -> String;
}

/// The bytes of a file.
pub enum Contents {
    Map(memmap2::Mmap),
    Owned(Vec<u8>),
}

impl Deref for Contents {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Contents::Map(map) => map,
            Contents::Owned(bytes) => bytes,
        }
    }
}

/// The operating system's files.
pub struct OsDisk;

impl DiskFile for File {
    fn write_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        loop {
            match pwritev(self, bufs, position as i64) {
                Err(nix::errno::Errno::EINTR) => {}
                other => return Ok(other?),
            }
        }
    }

    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        FileExt::read_at(self, buf, position)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        File::set_len(self, bytes)
    }

    fn reserve(&self, position: u64, bytes: u64) -> io::Result<()> {
        let mode = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(self, mode, position as i64, bytes as i64)?)
    }

    fn begin_sync(&self, bytes: u64) {
        // A refusal does no harm: the sync does it all.
        let _ = sync_range(self.as_raw_fd(), 0, bytes, libc::SYNC_FILE_RANGE_WRITE);
    }

    fn forget(&self, bytes: u64) -> io::Result<()> {
        // The kernel tells each open file of a failed write once. This one is not to take that from
        // the syncs. Without it nothing is given back, which does no harm.
        let Ok(own) = File::open(format!("/proc/self/fd/{}", self.as_raw_fd())) else {
            return Ok(());
        };
        if sync_range(own.as_raw_fd(), 0, bytes, libc::SYNC_FILE_RANGE_WAIT_BEFORE)? {
            let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
            let _ = posix_fadvise(&own, 0, bytes as i64, advice);
        }
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

impl Disk for OsDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        Ok(Arc::new(options.read(true).write(true).create(true).truncate(true).open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn map(&self, path: &Path) -> io::Result<Contents> {
        let file = File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Ok(Contents::Owned(Vec::new()));
        }
        // SAFETY: the map is read-only. The bytes stay as they are because the folder is locked
        // against other daemons and this one cuts or appends to a segment only after reading it;
        // another program that cuts the file meanwhile ends this one with SIGBUS, as it would any
        // reader of a mapped file.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        map.advise(memmap2::Advice::Sequential)?;
        Ok(Contents::Map(map))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::hard_link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn create_dir(&self, dir: &Path) -> io::Result<()> {
        match fs::create_dir(dir) {
            Ok(()) => match dir.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => self.sync_dir(parent),
                _ => self.sync_dir(Path::new(".")),
            },
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            other => other,
        }
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect()
    }

    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        let system = nix::sys::statvfs::statvfs(dir)?;
        Ok(system.blocks_available() as u64 * system.fragment_size() as u64)
    }

    fn dir_identity(&self, dir: &Path) -> io::Result<u64> {
        Ok(fs::metadata(dir)?.ino())
    }

    fn boot_id(&self) -> String {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        id.trim().to_owned()
    }
}

/// Has the system do what `flags` say with `bytes` of a file from `position` on (`sync_file_range`);
/// 0 bytes are none. Data only, so it makes nothing durable in the sense of [`DiskFile::sync`].
/// `false` if the file is of a kind that does not have it, or it is forbidden. Allocates nothing.
pub fn sync_range(fd: RawFd, position: u64, bytes: u64, flags: libc::c_uint) -> io::Result<bool> {
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

/// Writes all of `bytes` at `position`.
pub(super) fn write_all_at(
    file: &dyn DiskFile,
    mut bytes: &[u8],
    mut position: u64,
) -> io::Result<()> {
    while !bytes.is_empty() {
        let n = file.write_at(&[IoSlice::new(bytes)], position)?;
        if n == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[n..];
        position += n as u64;
    }
    Ok(())
}

/// Reads until `buf` is full; an error if the file ends before.
pub(super) fn read_exact_at(
    file: &dyn DiskFile,
    mut buf: &mut [u8],
    mut position: u64,
) -> io::Result<()> {
    while !buf.is_empty() {
        let n = file.read_at(buf, position)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buf = &mut buf[n..];
        position += n as u64;
    }
    Ok(())
}
