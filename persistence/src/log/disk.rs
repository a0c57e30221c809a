//! The file system as the log uses it: few operations, each with a stated effect on a crash.
//!
//! The log goes through these traits so that its tests can run on a disk that keeps what a reader
//! sees ("live") apart from what a power cut leaves ("durable"), writes short, runs full and stops
//! at any operation. [`OsDisk`] is the real one.

use super::block::PAGE;
use super::mapping::Mapping;
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use nix::sys::uio::pwritev;
use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::ops::{Deref, Range};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};
use std::time::UNIX_EPOCH;

/// An open file, written at places: a write that failed half-way is simply made again.
pub trait DiskFile: Send + Sync {
    /// Writes from the front of `bufs` at `position`; returns how many bytes the kernel took.
    fn write_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize>;
    /// Gives the disk whole pages at the front of `bufs` from where they lie, without a copy of them in the
    /// page cache, and waits until it has them. `position` is a page's beginning. Returns how many bytes
    /// that were; `None` if there is no such way, or the pages do not lie at pages of memory.
    ///
    /// What is written so is as safe from a power cut as the file's size that covers it, which may be before
    /// what went through the cache earlier: that must be synced first, or be overwritten by this.
    fn write_direct(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<Option<usize>> {
        let _ = (bufs, position);
        Ok(None)
    }
    /// Reads at `position`; 0 at the end of the file.
    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize>;
    /// Makes contents and size durable (`fdatasync`).
    fn sync(&self) -> io::Result<()>;
    /// Cuts the file, or extends it with zeros.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Has the file system set aside `bytes` from `position` on. The file's size stays, and
    /// [`DiskFile::set_len`] gives back what is beyond.
    fn reserve(&self, position: u64, bytes: u64) -> io::Result<()>;
    /// Has the system write what it has not of the first `bytes`, and give back its copy in memory of what
    /// is written. No reader sees a difference; nothing is waited for, and nothing is promised.
    fn forget(&self, bytes: u64);
    /// The file's size in bytes.
    fn size(&self) -> io::Result<u64>;
}

/// A file system.
pub trait Disk: Send + Sync {
    /// A new, empty file, in place of any that has the name.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// An existing file, for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;
    /// A file of `bytes`, which lie in memory and that other processes find there as soon as they are
    /// written, also when this one has ended. Whether it existed, and what was in it, does not matter.
    fn share(&self, path: &Path, bytes: usize) -> io::Result<Arc<dyn SharedMemory>>;
    /// A whole file, for reading from front to back.
    fn map(&self, path: &Path) -> io::Result<Contents>;
    /// Gives the file another name, atomically replacing any that has it.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Gives the file a second name, or makes a copy of that name where a file can have but one.
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
    /// A number that no other file of the disk ever has, not even one that takes its place.
    fn file_identity(&self, path: &Path) -> io::Result<u64>;
    /// A name for this boot of the machine, after which nothing unsynced exists.
    fn boot_id(&self) -> String;
}

/// Memory that is a file's. Who has it sees to it that no byte is written by two threads at once.
pub trait SharedMemory: Send + Sync {
    /// Where it begins: valid as long as `self`, for as many bytes as were asked for.
    fn address(&self) -> NonNull<u8>;
    /// To be called after bytes were written, for disks that remember such things.
    fn note_changed(&self, _range: Range<usize>) {}
    /// Whether the disk has failed it: what is written is in this process's memory only.
    fn is_broken(&self) -> bool {
        false
    }
    /// Makes durable what was written before, as [`DiskFile::sync`] does.
    fn sync(&self) -> io::Result<()>;
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

struct OsFile {
    file: File,
    /// The same file past the page cache, from the first time that this is asked for; `None` where there
    /// is no such way.
    direct: OnceLock<Option<File>>,
}

impl OsFile {
    fn new(file: File) -> Arc<OsFile> {
        Arc::new(OsFile { file, direct: OnceLock::new() })
    }

    fn direct(&self) -> Option<&File> {
        let open = || {
            let mut options = OpenOptions::new();
            options.write(true).custom_flags(libc::O_DIRECT);
            options.open(format!("/proc/self/fd/{}", self.file.as_raw_fd())).ok()
        };
        self.direct.get_or_init(open).as_ref()
    }
}

fn write_vectored_at(file: &File, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
    loop {
        match pwritev(file, bufs, position as i64) {
            Err(nix::errno::Errno::EINTR) => {}
            other => return Ok(other?),
        }
    }
}

/// The whole pages at the front of `bufs` that lie at pages of memory.
fn whole_pages<'a>(bufs: &[IoSlice<'a>]) -> Vec<IoSlice<'a>> {
    let mut pages = Vec::with_capacity(bufs.len());
    for buf in bufs {
        let whole = buf.len() / PAGE * PAGE;
        if buf.as_ptr().addr() % PAGE != 0 || whole == 0 {
            break;
        }
        // SAFETY: a part of the buffer, for as long as the buffer is borrowed.
        pages.push(IoSlice::new(unsafe { std::slice::from_raw_parts(buf.as_ptr(), whole) }));
        if whole < buf.len() {
            break;
        }
    }
    pages
}

impl DiskFile for OsFile {
    fn write_at(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        write_vectored_at(&self.file, bufs, position)
    }

    fn write_direct(&self, bufs: &[IoSlice<'_>], position: u64) -> io::Result<Option<usize>> {
        let pages = whole_pages(bufs);
        let Some(direct) = self.direct().filter(|_| !pages.is_empty()) else { return Ok(None) };
        match write_vectored_at(direct, &pages, position) {
            Ok(n) => Ok(Some(n)),
            // Not what this file system takes.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read_at(&self, buf: &mut [u8], position: u64) -> io::Result<usize> {
        FileExt::read_at(&self.file, buf, position)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }

    fn reserve(&self, position: u64, bytes: u64) -> io::Result<()> {
        let mode = FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(&self.file, mode, position as i64, bytes as i64)?)
    }

    fn forget(&self, bytes: u64) {
        let _ = posix_fadvise(&self.file, 0, bytes as i64, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

impl Disk for OsDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        Ok(OsFile::new(options.open(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(OsFile::new(OpenOptions::new().read(true).write(true).open(path)?))
    }

    fn share(&self, path: &Path, bytes: usize) -> io::Result<Arc<dyn SharedMemory>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path)?;
        if file.metadata()?.len() != bytes as u64 {
            file.set_len(0)?;
        }
        match fallocate(&file, FallocateFlags::empty(), 0, bytes as i64) {
            Err(nix::errno::Errno::EOPNOTSUPP) => file.set_len(bytes as u64)?,
            other => other?,
        }
        Ok(Arc::new(Mapping::map(file, bytes)?))
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
        // `dump.rdb` may be a symbolic link: a second one would lead elsewhere from another folder.
        match fs::canonicalize(from).and_then(|file| fs::hard_link(file, to)) {
            Err(error) if is_one_name_only(&error) => {
                let copied = fs::copy(from, to).and_then(|_| File::open(to)?.sync_all());
                copied.inspect_err(|_| drop(fs::remove_file(to)))
            }
            other => other,
        }
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

    fn file_identity(&self, path: &Path) -> io::Result<u64> {
        let file = fs::metadata(path)?;
        // An inode is soon used again, and some file systems know no time at which a file was made.
        let made = file.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let made_ns = made.map_or(0, |since| since.as_nanos() as u64);
        Ok(file.ino() ^ made_ns.rotate_left(32))
    }

    fn boot_id(&self) -> String {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        id.trim().to_owned()
    }
}

/// Whether a link can not be where it is to be: on another file system, or on one that has none.
fn is_one_name_only(error: &io::Error) -> bool {
    let errors = [libc::EXDEV, libc::EPERM, libc::EOPNOTSUPP, libc::EMLINK];
    error.raw_os_error().is_some_and(|error| errors.contains(&error))
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

#[cfg(test)]
mod tests {
    use super::super::block::{BLOCK_BYTES, BlockWriter};
    use super::*;
    use crate::offset::Offset;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        /// However the pieces lie in memory and in the file, past the page cache or through it, readers
        /// find what was written, and nothing else.
        #[test]
        fn what_is_written_directly_is_read_back(
            first in 0..9000usize,
            skip in prop::sample::select(vec![0usize, 1, 100, 4095]),
            lens in prop::collection::vec(prop::sample::select(vec![1usize, 4096, 60_000, BLOCK_BYTES]), 1..12),
        ) {
            let dir = std::env::current_exe().unwrap(); // the folder that was built in: a real disk
            let name = format!("direct-{}", std::process::id());
            let path = dir.parent().unwrap().join(name);
            let file = OsDisk.create(&path).unwrap();
            let blocks: Vec<_> = lens.iter().enumerate().map(|(i, &len)| {
                let skip = if i == 0 { skip } else { 0 };
                let mut writer = BlockWriter::new(Offset(0), skip);
                writer.push(&(0..len).map(|b| (b * 13 + i) as u8).collect::<Vec<_>>());
                writer.share()
            }).collect();
            let whole: Vec<u8> = blocks.iter().flat_map(|b| (**b).as_ref().to_vec()).collect();
            let before: Vec<u8> = (0..first).map(|b| b as u8).collect();
            write_all_at(&*file, &before, 0).unwrap();
            let mut done = 0;
            while done < whole.len() {
                let mut left = done;
                let bufs: Vec<IoSlice<'_>> = blocks.iter().filter_map(|block| {
                    let bytes = (**block).as_ref();
                    let from = left.min(bytes.len());
                    left -= from;
                    (from < bytes.len()).then(|| IoSlice::new(&bytes[from..]))
                }).collect();
                let at = (first + done) as u64;
                let direct = match at % PAGE as u64 {
                    0 => file.write_direct(&bufs, at).unwrap(),
                    _ => None,
                };
                done += direct.unwrap_or_else(|| file.write_at(&bufs[..1], at).unwrap());
            }
            let read = OsDisk.map(&path).unwrap();
            fs::remove_file(&path).unwrap();
            prop_assert!(read[..first] == before && read[first..] == whole);
        }
    }
}
