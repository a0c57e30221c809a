//! The pool: blocks of the memory tail in a file that is mapped, so that they outlive the process.
//!
//! What was appended is in the kernel's hands at once then, without a `write`, and waits for the log
//! thread to put it into a segment in large pieces. A start in the same boot finds there what the
//! segment does not have. After a power cut the file is worth nothing; no promise rests on it then.
//!
//! The file is not part of the log's history: it is made at start and removed by a clean stop.
//! Numbers are little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..8 | `VARVEBLK` |
//! | 8..16 | bytes of a block |
//! | 16..24 | a stream: what offsets are of, a number that the manifest knows too |
//! | 24..32 | its end: all before it is in a block here or in a segment |
//! | 32..48 | the same of another stream, the next or the one before: the manifest knows which counts |
//! | 48..6192 | for each block: its stream, the offset of its first byte, at which of its bytes that is (4), and how many follow at most (4) |
//! | 8192.. | the blocks |

use super::block::{BLOCK_BYTES, PAGE};
use super::disk::{Disk, SharedMemory};
use super::writer::lock;
use crate::offset::Offset;
use std::collections::hash_map::RandomState;
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const MAGIC: u64 = u64::from_le_bytes(*b"VARVEBLK");
const HEADER_BYTES: usize = 8192;
const STREAMS: [usize; 2] = [16, 32];
const TAGS: usize = 48;
const TAG_BYTES: usize = 24;
/// The most blocks that the header has room for: 16 MiB.
pub const MOST_BLOCKS: usize = 256;
/// How many free blocks are kept ready: what the log grows by while the disk is at work.
const WARM_BLOCKS: usize = 64;
/// The offset of a block that holds nothing.
const NOTHING: u64 = u64::MAX;

/// Where the pool of a log is.
pub fn path(dir: &Path, base_name: &OsStr) -> PathBuf {
    let mut name = OsString::from(base_name);
    name.push(".pool");
    dir.join(name)
}

/// A number for a stream that no other has.
pub fn new_stream() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// The blocks. Given away by number; who has one alone writes it.
pub struct Pool {
    memory: Arc<dyn SharedMemory>,
    count: usize,
    /// Where the present stream and its end are in the header.
    stream: AtomicUsize,
    /// The numbers of the blocks that nobody has. The last that came back goes first: it is in the
    /// processor's cache.
    free: Mutex<Vec<usize>>,
}

impl Pool {
    /// Makes or takes the file at `path`, for a log that ends at `end` and whose segments have all of
    /// that, safe from a power cut.
    pub fn open(
        disk: &dyn Disk,
        path: &Path,
        count: usize,
        stream: u64,
        end: Offset,
    ) -> io::Result<Arc<Pool>> {
        let count = count.min(MOST_BLOCKS);
        if count == 0 {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let memory = disk.share(path, HEADER_BYTES + count * BLOCK_BYTES)?;
        let free = Mutex::new((0..count).rev().collect());
        let pool = Pool { memory, count, stream: AtomicUsize::new(STREAMS[0]), free };
        // In this order a start finds nothing missing at any point in between.
        pool.store(STREAMS[0] + 8, end.0);
        pool.store(STREAMS[1] + 8, end.0);
        for number in 0..count {
            pool.number(TAGS + number * TAG_BYTES + 8).store(NOTHING, Ordering::Release);
        }
        pool.memory.note_changed(TAGS..TAGS + count * TAG_BYTES);
        pool.store(8, BLOCK_BYTES as u64);
        pool.store(STREAMS[0], stream);
        pool.store(STREAMS[1], stream);
        pool.store(0, MAGIC);
        pool.warm();
        Ok(Arc::new(pool))
    }

    /// Begins another stream at `end`. The present one stays valid, for a manifest that knows no other.
    pub fn begin_stream(&self, stream: u64, end: Offset) {
        let [first, second] = STREAMS;
        let at = if self.stream.load(Ordering::Relaxed) == first { second } else { first };
        self.store(at + 8, 0);
        self.store(at, stream);
        self.store(at + 8, end.0);
        self.stream.store(at, Ordering::Relaxed);
    }

    /// Says that all before `end`, which is the end of a turn, is in blocks or in a segment.
    pub fn publish(&self, end: Offset) {
        self.store(self.stream.load(Ordering::Relaxed) + 8, end.0);
    }

    /// A block for the bytes from `start` on, the first of them at `skip`; `None` if all are taken.
    pub fn take(&self, start: Offset, skip: usize) -> Option<usize> {
        let number = lock(&self.free).pop()?;
        let tag = TAGS + number * TAG_BYTES;
        self.store(tag + 8, NOTHING);
        let stream = self.number(self.stream.load(Ordering::Relaxed));
        self.store(tag, u64::from_le(stream.load(Ordering::Relaxed)));
        self.store(tag + 16, room(skip, BLOCK_BYTES - skip));
        self.store(tag + 8, start.0);
        Some(number)
    }

    /// Says that a block, whose bytes begin at `skip`, has no more than `len` of them.
    pub fn close(&self, number: usize, skip: usize, len: usize) {
        self.store(TAGS + number * TAG_BYTES + 16, room(skip, len));
    }

    /// Takes a block back.
    pub fn give_back(&self, number: usize) {
        lock(&self.free).push(number);
    }

    /// Writes to each page of the blocks that are taken next, so that this is not the loop's first write to it
    /// since the system made it, or took it to the disk: that one is a fault, and may wait for the disk.
    pub fn warm(&self) {
        for nth in 0..WARM_BLOCKS {
            let number = {
                let mut free = lock(&self.free);
                let Some(at) = free.len().checked_sub(nth + 1) else { return };
                free.remove(at)
            };
            for page in (0..BLOCK_BYTES).step_by(PAGE) {
                // SAFETY: inside the block, which nobody else has now.
                unsafe {
                    let byte = self.address(number).add(page);
                    byte.write_volatile(byte.read_volatile());
                }
            }
            let mut free = lock(&self.free);
            let at = free.len().saturating_sub(nth);
            free.insert(at, number);
        }
    }

    /// Whether more than a quarter is taken: what is only kept for readers should not be here then.
    pub fn is_low(&self) -> bool {
        let free = lock(&self.free).len();
        free * 4 < self.count * 3
    }

    /// Whether the disk has failed it: nothing that is published from now on can be relied on.
    pub fn is_broken(&self) -> bool {
        self.memory.is_broken()
    }

    /// Where a block's bytes lie.
    pub fn address(&self, number: usize) -> NonNull<u8> {
        assert!(number < self.count);
        // SAFETY: the memory has this many blocks behind the header.
        unsafe { self.memory.address().add(HEADER_BYTES + number * BLOCK_BYTES) }
    }

    /// To be called after bytes of a block were written, for disks that remember such things.
    pub fn note_changed(&self, number: usize, range: Range<usize>) {
        let at = HEADER_BYTES + number * BLOCK_BYTES;
        self.memory.note_changed(at + range.start..at + range.end);
    }

    fn number(&self, at: usize) -> &AtomicU64 {
        debug_assert!(at.is_multiple_of(8) && at + 8 <= HEADER_BYTES);
        // SAFETY: it lies inside the header, is aligned (the memory begins at a page, or at a u64 in
        // tests), lives as long as `self`, and is only ever used as an atomic.
        unsafe { self.memory.address().add(at).cast::<AtomicU64>().as_ref() }
    }

    fn store(&self, at: usize, number: u64) {
        self.number(at).store(number.to_le(), Ordering::Release);
        self.memory.note_changed(at..at + 8);
    }
}

/// Where a block's bytes lie in it.
fn room(skip: usize, len: usize) -> u64 {
    skip as u64 | (len as u64) << 32
}

fn number(contents: &[u8], at: usize) -> Option<u64> {
    contents.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

/// The end of `stream` in a pool's file, if that has it.
pub fn end(contents: &[u8], stream: u64) -> Option<Offset> {
    let number = |at| number(contents, at);
    if (number(0)?, number(8)?) != (MAGIC, BLOCK_BYTES as u64) {
        return None;
    }
    let at = STREAMS.into_iter().find(|&at| number(at) == Some(stream))?;
    number(at + 8).map(Offset)
}

/// What the blocks of a pool's file hold of `stream` from `from` on: all that no segment has. `None` if
/// the file is of another stream, or does not have it whole.
pub fn read(contents: &[u8], stream: u64, from: Offset) -> Option<Vec<u8>> {
    let (mut at, Offset(end)) = (from.0, end(contents, stream)?);
    let number = |at| number(contents, at);
    let count = contents.len().checked_sub(HEADER_BYTES)? / BLOCK_BYTES;
    let mut blocks = Vec::new();
    for i in 0..count.min(MOST_BLOCKS) {
        let tag = TAGS + i * TAG_BYTES;
        let (start, room) = (number(tag + 8)?, number(tag + 16)?);
        let (skip, len) = ((room & 0xffff_ffff) as usize, (room >> 32) as usize);
        if number(tag)? == stream && skip + len <= BLOCK_BYTES {
            blocks.push((start, HEADER_BYTES + i * BLOCK_BYTES + skip, len as u64));
        }
    }
    blocks.sort_unstable();
    let mut bytes = Vec::new();
    while at < end {
        let last = blocks.partition_point(|(start, ..)| *start <= at).checked_sub(1)?;
        let (start, place, len) = blocks[last];
        let upto = end.min(start.saturating_add(len));
        let range = place + (at - start) as usize..place + upto.checked_sub(start)? as usize;
        bytes.extend_from_slice(contents.get(range).filter(|part| !part.is_empty())?);
        at = upto;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::fake::FakeDisk;
    use super::super::tail::Tail;
    use super::*;
    use proptest::prelude::*;

    const STREAM: u64 = 7;

    fn contents(disk: &FakeDisk) -> Vec<u8> {
        disk.contents(Path::new("p")).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// However blocks are taken, cut short, kept for readers and given back: what was said to outlive
        /// the process can be read back from where the segments end, and is what was appended.
        #[test]
        fn what_was_published_is_read_back(
            steps in prop::collection::vec((0..6u8, 0..90_000usize), 1..40),
            count in 1..5usize,
            start in 0..10_000u64,
            keep in prop::sample::select(vec![0u64, 1000, 300_000]),
        ) {
            let disk = FakeDisk::new(1);
            let start = Offset(start);
            let pool = Pool::open(&*disk, Path::new("p"), count, STREAM, start).unwrap();
            let mut tail = Tail::new(start, keep);
            tail.set_pool(Some(pool), Offset(start.0 / 3), start);
            let (mut model, mut written, mut safe) = (Vec::new(), start, start);
            for (what, n) in steps {
                match what {
                    0..=2 => {
                        let bytes: Vec<u8> = (0..n).map(|i| (i * 7 + model.len()) as u8).collect();
                        tail.append(&bytes);
                        model.extend_from_slice(&bytes);
                    }
                    3 => tail.cut(),
                    _ => {
                        written += (n as u64).min(safe - written);
                        tail.trim(written);
                        tail.relieve_pool(written);
                    }
                }
                let now = tail.publish(written, tail.end());
                prop_assert!(now >= safe.max(written), "it was taken back");
                safe = now;
                let read = read(&contents(&disk), STREAM, written).unwrap();
                let (from, to) = ((written - start) as usize, (safe - start) as usize);
                prop_assert!(read == model[from..to], "{} bytes from {from} on", read.len());
                if written == tail.end() {
                    prop_assert_eq!(safe, written);
                }
            }
        }

        /// A file that is damaged, cut or another's is refused, or read as far as it goes: nothing is
        /// looked for where there is nothing.
        #[test]
        fn a_damaged_file_is_no_danger(at in 0..8192usize, byte: u8, len in 0..80_000usize) {
            let disk = FakeDisk::new(1);
            let pool = Pool::open(&*disk, Path::new("p"), 1, STREAM, Offset(5)).unwrap();
            let mut tail = Tail::new(Offset(5), 0);
            tail.set_pool(Some(pool), Offset(5), Offset(5));
            tail.append(b"some bytes");
            tail.publish(Offset(5), tail.end());
            let mut bytes = contents(&disk);
            prop_assert_eq!(read(&bytes, STREAM, Offset(5)), Some(b"some bytes".to_vec()));
            prop_assert_eq!(read(&bytes, STREAM + 1, Offset(5)), None);
            bytes[at] = byte;
            let _ = read(&bytes, STREAM, Offset(5));
            bytes.truncate(len);
            let _ = read(&bytes, STREAM, Offset(5));
        }
    }

    #[test]
    fn of_two_streams_the_one_is_read_that_the_manifest_knows() {
        let disk = FakeDisk::new(1);
        let pool = Pool::open(&*disk, Path::new("p"), 9, STREAM, Offset(0)).unwrap();
        let mut tail = Tail::new(Offset(0), 0);
        tail.set_pool(Some(pool.clone()), Offset(0), Offset(0));
        tail.append(b"old");
        tail.publish(Offset(0), tail.end());
        let of_old = tail.pieces(Offset(0), tail.end()).next(); // as the log thread holds it
        tail = Tail::new(Offset(1), 0);
        pool.begin_stream(8, Offset(1));
        tail.set_pool(Some(pool), Offset(1), Offset(1));
        tail.append(b"new");
        tail.publish(Offset(1), tail.end());
        let bytes = contents(&disk);
        assert_eq!(read(&bytes, STREAM, Offset(0)).as_deref(), Some(&b"old"[..]));
        assert_eq!(read(&bytes, 8, Offset(1)).as_deref(), Some(&b"new"[..]));
        assert_eq!(of_old.unwrap().bytes(), b"old");
    }
}
