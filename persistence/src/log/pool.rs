//! The pool: blocks of the memory tail in a file that is mapped, so that they outlive the process.
//!
//! What was appended is in the kernel's hands at once then, without a `write`, and waits for the log
//! thread to put it into a segment in large pieces. A start finds there what the segment does not have.
//!
//! A power cut leaves any mixture of old and new pages, so nothing in the file is believed without its
//! checksum, and offsets only mean something within a **stream**: a random number, another one for each time that
//! the log is opened. So what an earlier process left of offsets that were used again is not taken for what they
//! hold now.
//!
//! The file is not part of the log's history: it is made at start and removed by a clean stop.
//! Numbers are little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 0..8 | `VARVEPL2` |
//! | 8..16 | bytes of a block |
//! | 16..96 | two records of a stream, written in turn |
//! | 96..176 | two records of another stream, the next or the one before: the manifest knows which counts |
//! | 176..6320 | for each block, a tag |
//! | 8192.. | the blocks |
//!
//! | record bytes | what | | tag bytes | what |
//! | --- | --- | --- | --- | --- |
//! | 0..8 | the stream | | 0..8 | the block's stream |
//! | 8..16 | its end: all before it is in a block here or in a segment | | 8..16 | the offset of its first byte; all ones: it holds nothing |
//! | 16..24 | the offset of the first byte of the block that is being filled; all ones: none is | | 16..24 | bits 0..12: at which of its bytes that is; bits 12..32: how many follow, 0 until no more do; bits 32..64: their checksum |
//! | 24..28 | how many of its bytes there are | | | |
//! | 28..32 | their checksum | | | |
//! | 32..40 | CRC-32C of bytes 0..32 | | | |
//!
//! The checksum of a block is the CRC-32C of its tag's first 16 bytes and of the bytes that it holds.

use super::block::{BLOCK_BYTES, PAGE};
use super::disk::{Disk, SharedMemory};
use super::index::{CRC, crc32c};
use super::writer::lock;
use crate::offset::Offset;
use crc_fast::Digest;
use std::collections::hash_map::RandomState;
use std::ffi::{OsStr, OsString};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const MAGIC: u64 = u64::from_le_bytes(*b"VARVEPL2");
const HEADER_BYTES: usize = 8192;
const RECORDS: usize = 16;
const RECORD_BYTES: usize = 40;
/// Two for each of two streams.
const RECORD_COUNT: usize = 4;
const TAGS: usize = RECORDS + RECORD_COUNT * RECORD_BYTES;
const TAG_BYTES: usize = 24;
/// The most blocks that the header has room for: 16 MiB.
pub const MOST_BLOCKS: usize = 256;
/// How many free blocks are kept ready: what the log grows by while the disk is at work.
const WARM_BLOCKS: usize = 64;
/// The offset of a block that holds nothing, or is none.
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

/// The block that is being filled, as far as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    pub start: Offset,
    pub len: usize,
    pub crc: u32,
}

/// The checksum of a block of `stream` that begins at `start`, to be given the block's bytes.
fn digest(stream: u64, start: Offset) -> Digest {
    let mut digest = Digest::new(CRC);
    digest.update(&stream.to_le_bytes());
    digest.update(&start.0.to_le_bytes());
    digest
}

/// The blocks. Given away by number; who has one alone writes it.
pub struct Pool {
    memory: Arc<dyn SharedMemory>,
    count: usize,
    stream: AtomicU64,
    /// The record that is written next: the older of the present stream's two.
    record: AtomicUsize,
    /// The numbers of the blocks that nobody has. The last that came back goes first: it is in the
    /// processor's cache.
    free: Mutex<Vec<usize>>,
}

impl Pool {
    /// Makes or takes the file at `path`, for a log that ends at `end` and whose segments have all of
    /// that, safe from a power cut. `stream` is the one that the manifest names: offsets from `end` on
    /// belong to another, which is still to begin.
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
        let (stream, record) = (AtomicU64::new(stream), AtomicUsize::new(0));
        let pool = Pool { memory, count, stream, record, free };
        // In this order a start finds nothing missing at any point in between: a record of the process
        // before may name what the tags still have.
        for record in 0..RECORD_COUNT {
            pool.write_record(record, end, None);
        }
        for number in 0..count {
            pool.number(TAGS + number * TAG_BYTES + 8).store(NOTHING, Ordering::Release);
        }
        pool.memory.note_changed(TAGS..TAGS + count * TAG_BYTES);
        pool.store(8, BLOCK_BYTES as u64);
        pool.store(0, MAGIC);
        pool.warm();
        Ok(Arc::new(pool))
    }

    /// Begins another stream at `end`. The present one stays valid, for a manifest that knows no other.
    pub fn begin_stream(&self, stream: u64, end: Offset) {
        let first = 2 - self.record.load(Ordering::Relaxed) / 2 * 2;
        self.stream.store(stream, Ordering::Relaxed);
        for record in [first, first + 1] {
            self.write_record(record, end, None);
        }
        self.record.store(first, Ordering::Relaxed);
    }

    /// Says that all before `end`, which is the end of a turn, is in blocks or in a segment. `filling` is
    /// the block that is not closed yet.
    pub fn publish(&self, end: Offset, filling: Option<Filled>) {
        let record = self.record.load(Ordering::Relaxed);
        self.write_record(record, end, filling);
        self.record.store(record ^ 1, Ordering::Relaxed);
    }

    fn write_record(&self, record: usize, end: Offset, filling: Option<Filled>) {
        let at = RECORDS + record * RECORD_BYTES;
        let words = record_words(self.stream.load(Ordering::Relaxed), end, filling);
        for (i, word) in words.into_iter().enumerate() {
            self.number(at + i * 8).store(word.to_le(), Ordering::Release);
        }
        self.memory.note_changed(at..at + RECORD_BYTES);
    }

    /// A block for the bytes from `start` on, the first of them at `skip`; `None` if all are taken.
    pub fn take(&self, start: Offset, skip: usize) -> Option<usize> {
        let number = lock(&self.free).pop()?;
        let tag = TAGS + number * TAG_BYTES;
        self.store(tag + 8, NOTHING);
        self.store(tag, self.stream.load(Ordering::Relaxed));
        self.store(tag + 16, room(skip, 0, 0));
        self.store(tag + 8, start.0);
        Some(number)
    }

    /// The checksum of a block that begins at `start` and has no bytes yet.
    pub fn digest(&self, start: Offset) -> Digest {
        digest(self.stream.load(Ordering::Relaxed), start)
    }

    /// Says that a block, whose bytes begin at `skip`, gets no more than it has.
    pub fn close(&self, number: usize, skip: usize, block: Filled) {
        self.store(TAGS + number * TAG_BYTES + 16, room(skip, block.len, block.crc));
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

    /// Takes to the disk what was published, for a start after a power cut to find.
    pub fn sync(&self) -> io::Result<()> {
        self.memory.sync()
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

/// A record's bytes.
fn record_words(stream: u64, end: Offset, filling: Option<Filled>) -> [u64; 5] {
    let none = Filled { start: Offset(NOTHING), len: 0, crc: 0 };
    let Filled { start, len, crc } = filling.unwrap_or(none);
    let mut words = [stream, end.0, start.0, len as u64 | u64::from(crc) << 32, 0];
    let mut bytes = [0; RECORD_BYTES - 8];
    for (part, word) in bytes.chunks_exact_mut(8).zip(words) {
        part.copy_from_slice(&word.to_le_bytes());
    }
    words[4] = crc32c(&bytes).into();
    words
}

/// Where a block's bytes lie in it, and their checksum.
fn room(skip: usize, len: usize, crc: u32) -> u64 {
    debug_assert!(skip < PAGE && len <= BLOCK_BYTES);
    skip as u64 | (len as u64) << 12 | u64::from(crc) << 32
}

fn number(contents: &[u8], at: usize) -> Option<u64> {
    contents.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes)
}

/// What a block in a file is said to hold.
#[derive(Clone, Copy)]
struct Tag {
    block: Filled,
    /// Where its bytes are in the file.
    place: usize,
}

/// A pool's file as a start finds it: all that it says of one stream.
pub struct Found<'a> {
    contents: &'a [u8],
    stream: u64,
    end: Offset,
    /// In order of their offsets.
    blocks: Vec<Tag>,
}

impl<'a> Found<'a> {
    /// The newest that the file has of `stream`; `None` if it has nothing whole.
    pub fn open(contents: &'a [u8], stream: u64) -> Option<Found<'a>> {
        let number = |at| number(contents, at);
        if (number(0)?, number(8)?) != (MAGIC, BLOCK_BYTES as u64) {
            return None;
        }
        let record = |nth: usize| {
            let at = RECORDS + nth * RECORD_BYTES;
            let (end, rest) = (Offset(number(at + 8)?), number(at + 24)?);
            let (len, crc) = ((rest & 0xffff_ffff) as usize, (rest >> 32) as u32);
            let filling = Filled { start: Offset(number(at + 16)?), len, crc };
            let words = record_words(stream, end, Some(filling));
            let is_whole = (0..5).all(|i| number(at + i * 8) == Some(words[i]));
            is_whole.then_some((end, filling))
        };
        let records = (0..RECORD_COUNT).filter_map(record);
        let (end, filling) = records.max_by_key(|(end, _)| *end)?;
        let count = contents.len().checked_sub(HEADER_BYTES)? / BLOCK_BYTES;
        let mut blocks = Vec::new();
        for i in 0..count.min(MOST_BLOCKS) {
            let tag = TAGS + i * TAG_BYTES;
            let (start, room) = (Offset(number(tag + 8)?), number(tag + 16)?);
            let (skip, len) = ((room & 0xfff) as usize, (room >> 12 & 0xf_ffff) as usize);
            let closed = Filled { start, len, crc: (room >> 32) as u32 };
            let block = if start == filling.start { filling } else { closed };
            if number(tag)? == stream && skip + block.len <= BLOCK_BYTES {
                blocks.push(Tag { block, place: HEADER_BYTES + i * BLOCK_BYTES + skip });
            }
        }
        blocks.sort_unstable_by_key(|tag| tag.block.start);
        Some(Found { contents, stream, end, blocks })
    }

    /// All before it was in a block or in a segment: the end of a turn.
    pub fn end(&self) -> Offset {
        self.end
    }

    /// The bytes from one offset up to another. `None` if a block of them is not there, or is not whole.
    pub fn read(&self, from: Offset, upto: Offset) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut at = from;
        while at < upto {
            let last = self.blocks.partition_point(|tag| tag.block.start <= at).checked_sub(1)?;
            let Tag { block, place } = self.blocks[last];
            let whole = self.contents.get(place..place + block.len)?;
            let skipped = usize::try_from(at - block.start).ok()?;
            let part = whole.get(skipped..).filter(|part| !part.is_empty())?;
            let mut digest = digest(self.stream, block.start);
            digest.update(whole);
            if digest.finalize() as u32 != block.crc {
                return None;
            }
            let wanted = usize::try_from(upto - at).unwrap_or(usize::MAX);
            let part = &part[..part.len().min(wanted)];
            bytes.extend_from_slice(part);
            at += part.len() as u64;
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{self, FakeDisk};
    use super::super::tail::Tail;
    use super::*;
    use proptest::prelude::*;

    const STREAM: u64 = 7;

    fn contents(disk: &FakeDisk) -> Vec<u8> {
        disk.contents(Path::new("p")).unwrap()
    }

    fn open(disk: &FakeDisk, count: usize, stream: u64, end: Offset) -> Arc<Pool> {
        Pool::open(disk, Path::new("p"), count, stream, end).unwrap()
    }

    /// All that the file has of `stream` from `from` on.
    fn read(contents: &[u8], stream: u64, from: Offset) -> Option<Vec<u8>> {
        let found = Found::open(contents, stream)?;
        found.read(from, found.end())
    }

    /// A log in a pool, and what it should hold.
    struct Bench {
        disk: Arc<FakeDisk>,
        tail: Tail,
        stream: u64,
        count: usize,
        start: Offset,
        model: Vec<u8>,
        written: Offset,
        safe: Offset,
    }

    impl Bench {
        fn new(count: usize, start: Offset, keep: u64) -> Bench {
            let disk = FakeDisk::new(1);
            let pool = open(&disk, count, STREAM, start);
            let mut tail = Tail::new(start, keep);
            tail.set_pool(Some(pool), Offset(start.0 / 3), start);
            let model = Vec::new();
            Bench { disk, tail, stream: STREAM, count, start, model, written: start, safe: start }
        }

        fn append(&mut self, n: usize) {
            let (from, stream) = (self.model.len(), self.stream as usize);
            let byte = |i: usize| (i.wrapping_mul(0x9e37_79b9 + stream) >> 13) as u8;
            self.model.extend((from..from + n).map(byte));
            self.tail.append(&self.model[from..]);
        }

        /// The log thread has taken as much as `n` bytes, if they are there.
        fn write(&mut self, n: usize) {
            self.written += (n as u64).min(self.safe - self.written);
            self.tail.trim(self.written);
            self.tail.relieve_pool(self.written);
        }

        fn publish(&mut self) {
            self.safe = self.tail.publish(self.written, self.tail.end());
        }

        /// A start that finds only so much of the log, and goes on with other bytes.
        fn begin_again(&mut self, len: usize) {
            self.model.truncate(len);
            let end = self.start + self.model.len() as u64;
            let pool = open(&self.disk, self.count, self.stream, end);
            self.stream += 1;
            pool.begin_stream(self.stream, end);
            self.tail = Tail::new(end, self.tail.keep());
            self.tail.set_pool(Some(pool), self.start, end);
            (self.written, self.safe) = (end, end);
        }

        fn step(&mut self, what: u8, n: usize) {
            match what {
                0..=2 => self.append(n),
                3 => self.tail.cut(),
                _ => self.write(n),
            }
            self.publish();
        }
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
            let mut bench = Bench::new(count, Offset(start), keep);
            for (what, n) in steps {
                let before = bench.safe;
                bench.step(what, n);
                let Bench { safe, written, start, .. } = bench;
                prop_assert!(safe >= before.max(written), "it was taken back");
                let read = read(&contents(&bench.disk), STREAM, written).unwrap();
                let (from, to) = ((written - start) as usize, (safe - start) as usize);
                prop_assert!(read == bench.model[from..to], "{} bytes from {from} on", read.len());
                if written == bench.tail.end() {
                    prop_assert_eq!(safe, written);
                }
            }
        }

        /// The story: power fails, and of the file's pages some are new and some are of any time before,
        /// also of a time before a start that knew less and went on with other bytes. Whatever the
        /// segment lost, what is read is what the log had there, up to a place that was published.
        #[test]
        fn pages_of_any_time_are_never_taken_for_what_they_are_not(
            steps in prop::collection::vec((0..7u8, 0..90_000usize), 1..25),
            count in 1..5usize,
            start in 0..10_000u64,
            keep in prop::sample::select(vec![0u64, 300_000]),
            seed in 1..u64::MAX,
        ) {
            let mut bench = Bench::new(count, Offset(start), keep);
            let mut random = seed;
            let mut below = |n: usize| fake::below(&mut random, n as u64) as usize;
            let mut times = vec![contents(&bench.disk)];
            for (what, n) in steps {
                match what {
                    6 => {
                        let len = below(bench.model.len() + 1);
                        bench.begin_again(if n % 3 == 0 { 0 } else { len });
                    }
                    _ => bench.step(what, n),
                }
                times.push(contents(&bench.disk));
                for mix in 0..6 {
                    // From hardly any new page to hardly any old one; the header also in smaller parts.
                    let mut file = times.last().unwrap().clone();
                    let (header, blocks) = file.split_at_mut(HEADER_BYTES);
                    let unit = [PAGE, 512, 8][below(3)];
                    let mut at = 0;
                    for part in header.chunks_mut(unit).chain(blocks.chunks_mut(PAGE)) {
                        if below(1 << mix) == 0 || below(40) == 0 {
                            let time = &times[below(times.len())];
                            part.copy_from_slice(&time[at..at + part.len()]);
                        }
                        at += part.len();
                    }
                    let Some(found) = Found::open(&file, bench.stream) else { continue };
                    let end = (found.end() - bench.start) as usize;
                    prop_assert!(found.end() <= bench.safe);
                    for _ in 0..4 {
                        let from = below(end + 1);
                        let read = found.read(bench.start + from as u64, found.end());
                        let is_true = read.is_none_or(|read| read == bench.model[from..end]);
                        prop_assert!(is_true, "other bytes from {from} to {end}");
                    }
                }
            }
        }

        /// A process that is killed while it publishes leaves the record half written: the turn that it
        /// is for has told nobody anything, and the one before is there as it was.
        #[test]
        fn a_record_that_is_half_written_leaves_the_one_before(
            turns in prop::collection::vec(1..30_000usize, 0..8),
            last in 1..80_000usize,
        ) {
            let mut bench = Bench::new(4, Offset(3), 0);
            turns.into_iter().for_each(|n| bench.step(0, n));
            let safe = bench.safe;
            bench.append(last);
            let before = contents(&bench.disk);
            bench.publish();
            let after = contents(&bench.disk);
            let changed = (RECORDS..TAGS).find(|&at| before[at] != after[at]).unwrap();
            let record = changed - (changed - RECORDS) % RECORD_BYTES;
            for done in 0..=RECORD_BYTES {
                let mut torn = after.clone();
                torn[record + done..TAGS].copy_from_slice(&before[record + done..TAGS]);
                let is_new = torn[RECORDS..TAGS] == after[RECORDS..TAGS];
                let found = Found::open(&torn, STREAM).unwrap();
                prop_assert_eq!(found.end(), if is_new { bench.safe } else { safe });
                let read = found.read(bench.start, found.end()).unwrap();
                prop_assert!(read == bench.model[..(found.end() - bench.start) as usize]);
            }
        }

        /// No bit of what is read may be another than was written.
        #[test]
        fn a_flipped_bit_is_found(
            turns in prop::collection::vec((0..4u8, 1..50_000usize), 1..8),
            which: usize,
            at: usize,
            bit in 0..8u8,
        ) {
            let mut bench = Bench::new(9, Offset(3), 0);
            turns.into_iter().for_each(|(what, n)| bench.step(what, n));
            let mut file = contents(&bench.disk);
            let blocks = Found::open(&file, STREAM).unwrap().blocks;
            if let Some(Tag { block, place }) = blocks.get(which % blocks.len().max(1)) {
                file[place + at % block.len] ^= 1 << bit;
                prop_assert!(read(&file, STREAM, bench.start).is_none());
            }
        }

        /// A file that is damaged, cut or another's is refused, or read as far as it goes: nothing is
        /// looked for where there is nothing.
        #[test]
        fn a_damaged_file_is_no_danger(at in 0..8192usize, byte: u8, len in 0..80_000usize) {
            let mut bench = Bench::new(1, Offset(5), 0);
            bench.append(10);
            bench.publish();
            let mut bytes = contents(&bench.disk);
            prop_assert_eq!(read(&bytes, STREAM, Offset(5)), Some(bench.model));
            prop_assert!(read(&bytes, STREAM + 1, Offset(5)).is_none());
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
