//! The sidecar index: what lets damage be seen, and an offset or a time be found, in a segment.
//!
//! RESP shows a file that was cut, not a value with a flipped bit. Beside each segment stands
//! `<segment>.idx`: a header, then a record for every 64 KiB or so of the segment, with where it
//! begins, when it was appended and its CRC-32C (`marks.rs` takes them). The index is written behind the
//! log by a thread that nobody waits for, so it may end before the segment does, or be missing (folders made by
//! Redis have none): that is never an error. Where the log is synced, what has a record was synced before it, so a power cut
//! can have left holes only behind the last. `docs/design.md` has the byte tables.

use super::disk::{Disk, DiskFile, read_exact_at, write_all_at};
use super::marks::Mark;
use crate::offset::Offset;
use crc_fast::CrcAlgorithm;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The most of a segment that one record covers.
pub const CHUNK_BYTES: u64 = 64 * 1024;
const MAGIC: &[u8; 8] = b"VARVEIDX";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 32;
const RECORD_BYTES: usize = 32;

/// CRC-32C, by another of its names.
pub const CRC: CrcAlgorithm = CrcAlgorithm::Crc32Iscsi;

/// CRC-32C of `bytes`.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(CRC, bytes) as u32
}

/// What the index says of one stretch of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Where the stretch begins.
    pub start: Offset,
    /// Its length in bytes.
    pub len: u32,
    /// CRC-32C of its bytes.
    pub crc: u32,
    /// When its last byte had been appended: microseconds since 1970.
    pub time_us: u64,
}

impl Record {
    fn to_bytes(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        bytes[0..8].copy_from_slice(&self.start.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.time_us.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.len.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.crc.to_le_bytes());
        let own = crc32c(&bytes[..24]);
        bytes[24..28].copy_from_slice(&own.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Option<Record> {
        let long = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let int = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let record =
            Record { start: Offset(long(0)?), time_us: long(8)?, len: int(16)?, crc: int(20)? };
        (int(24)? == crc32c(&bytes[..24]) && record.len > 0).then_some(record)
    }
}

/// The index's name, beside its segment's.
pub fn path_of(segment: &Path) -> PathBuf {
    let mut name = OsString::from(segment);
    name.push(".idx");
    PathBuf::from(name)
}

/// The records of the segment's index, from its beginning without a gap and within `segment_len`
/// bytes. Empty if there is no index, or not of this segment.
pub fn read(disk: &dyn Disk, segment: &Path, start: Offset, segment_len: u64) -> Vec<Record> {
    let Ok(bytes) = disk.map(&path_of(segment)) else { return Vec::new() };
    if bytes.len() < HEADER_BYTES || bytes[..HEADER_BYTES] != header(start) {
        return Vec::new();
    }
    let mut next = start;
    let mut records = Vec::new();
    for bytes in bytes[HEADER_BYTES..].chunks_exact(RECORD_BYTES) {
        let Some(record) = Record::from_bytes(bytes) else { break };
        let end = next.0.checked_add(u64::from(record.len));
        if record.start != next || end.is_none_or(|end| end - start.0 > segment_len) {
            break;
        }
        next += u64::from(record.len);
        records.push(record);
    }
    records
}

fn header(start: Offset) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[..8].copy_from_slice(MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[12..16].copy_from_slice(&(RECORD_BYTES as u32).to_le_bytes());
    bytes[16..24].copy_from_slice(&start.0.to_le_bytes());
    let own = crc32c(&bytes[..24]);
    bytes[24..28].copy_from_slice(&own.to_le_bytes());
    bytes
}

/// Writes a segment's index behind the segment.
pub struct Indexer {
    segment: Arc<dyn DiskFile>,
    segment_start: Offset,
    index: Arc<dyn DiskFile>,
    position: u64,
    next: Offset,
    chunk: Vec<u8>,
}

impl Indexer {
    /// A new index for the segment `path` that begins at `start`.
    pub fn create(
        disk: &dyn Disk,
        path: &Path,
        segment: Arc<dyn DiskFile>,
        start: Offset,
    ) -> io::Result<Indexer> {
        let index = disk.create(&path_of(path))?;
        write_all_at(&*index, &header(start), 0)?;
        Ok(Indexer {
            segment,
            segment_start: start,
            index,
            position: HEADER_BYTES as u64,
            next: start,
            chunk: Vec::new(),
        })
    }

    /// Goes on with the index of a segment that was recovered with `records`; a segment that has
    /// none gets one. Other records, of bytes that a crash took and whose place others take now, are gone for
    /// good then: after a power cut they would tell of damage.
    pub fn resume(
        disk: &dyn Disk,
        path: &Path,
        segment: Arc<dyn DiskFile>,
        start: Offset,
        records: &[Record],
    ) -> io::Result<Indexer> {
        let Some(last) = records.last() else {
            let indexer = Indexer::create(disk, path, segment, start)?;
            indexer.index.sync()?;
            return Ok(indexer);
        };
        let index = disk.open(&path_of(path))?;
        let position = (HEADER_BYTES + records.len() * RECORD_BYTES) as u64;
        index.set_len(position)?;
        index.sync()?;
        let next = last.start + u64::from(last.len);
        Ok(Indexer { segment, segment_start: start, index, position, next, chunk: Vec::new() })
    }

    /// Adds records for `marks`, which the segment's file must have reached.
    pub fn add(&mut self, marks: &[Mark]) -> io::Result<()> {
        let mut records = Vec::with_capacity(marks.len() * RECORD_BYTES);
        for mark in marks {
            match mark.crc {
                Some(crc) if mark.start == self.next => {
                    self.push(crc, (mark.end - mark.start) as u32, mark.time_us, &mut records);
                }
                _ => self.read_up_to(mark.end, mark.time_us, &mut records)?,
            }
        }
        self.write(&records)
    }

    /// Makes durable what was added.
    pub fn sync(&self) -> io::Result<()> {
        self.index.sync()
    }

    /// Adds the records up to `upto` from the segment's file, which must have reached it.
    pub fn advance(&mut self, upto: Offset, time_us: u64) -> io::Result<()> {
        let mut records = Vec::new();
        self.read_up_to(upto, time_us, &mut records)?;
        self.write(&records)
    }

    fn read_up_to(&mut self, upto: Offset, time_us: u64, records: &mut Vec<u8>) -> io::Result<()> {
        while self.next < upto {
            let len = (upto - self.next).min(CHUNK_BYTES);
            self.chunk.resize(len as usize, 0);
            read_exact_at(&*self.segment, &mut self.chunk, self.next - self.segment_start)?;
            self.push(crc32c(&self.chunk), len as u32, time_us, records);
        }
        Ok(())
    }

    fn push(&mut self, crc: u32, len: u32, time_us: u64, records: &mut Vec<u8>) {
        let record = Record { start: self.next, len, crc, time_us };
        records.extend_from_slice(&record.to_bytes());
        self.next += u64::from(len);
    }

    fn write(&mut self, records: &[u8]) -> io::Result<()> {
        write_all_at(&*self.index, records, self.position)?;
        self.position += records.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::fake::FakeDisk;

    #[test]
    fn an_index_reads_back_up_to_its_first_bad_record() {
        let disk = FakeDisk::new(0);
        let path = Path::new("d/a.aof");
        let segment = disk.create(path).unwrap();
        let data: Vec<u8> = (0..200_000u32).map(|i| (i / 7) as u8).collect();
        write_all_at(&*segment, &data, 0).unwrap();
        let start = Offset(1000);
        let mut indexer = Indexer::create(&*disk, path, segment.clone(), start).unwrap();
        indexer.advance(start + 10, 1).unwrap();
        indexer.advance(start + 150_000, 2).unwrap();
        let records = read(&*disk, path, start, 200_000);
        assert_eq!(records.iter().map(|r| u64::from(r.len)).sum::<u64>(), 150_000);
        assert_eq!((records[0].len, records[0].time_us, records[1].time_us), (10, 1, 2));
        assert_eq!(records[1].crc, crc32c(&data[10..10 + 65536]));
        let short = read(&*disk, path, start, 100_000);
        assert_eq!(short, records[..2]);
        assert!(read(&*disk, path, Offset(5), 200_000).is_empty());

        let mut again = Indexer::resume(&*disk, path, segment, start, &short).unwrap();
        again.advance(start + 200_000, 3).unwrap();
        let records = read(&*disk, path, start, 200_000);
        assert_eq!(
            records.last().unwrap().start.0 + u64::from(records.last().unwrap().len),
            201_000
        );

        let index = disk.open(&path_of(path)).unwrap();
        write_all_at(&*index, &[0xff], (HEADER_BYTES + RECORD_BYTES + 20) as u64).unwrap();
        assert_eq!(read(&*disk, path, start, 200_000).len(), 1);
    }

    /// The story: power fails twice. The first cut took the end of the segment and left the records of it;
    /// after the second those must not come back, for what the segment has there now.
    #[test]
    fn records_of_lost_bytes_do_not_come_back() {
        let (path, start) = (Path::new("a.aof.1.incr.aof"), Offset(0));
        for kept in [0, 1] {
            let disk = FakeDisk::new(1);
            disk.put(path, &[b'x'; 300]);
            let segment = disk.open(path).unwrap();
            let mut indexer = Indexer::create(&*disk, path, segment.clone(), start).unwrap();
            for end in [100, 200, 300] {
                indexer.advance(Offset(end), 1).unwrap();
            }
            disk.put(&path_of(path), &disk.contents(&path_of(path)).unwrap());
            let records = read(&*disk, path, start, 300);
            Indexer::resume(&*disk, path, segment, start, &records[..kept]).unwrap();
            for seed in 1..50 {
                let disk = disk.after_power_cut(disk.ops(), seed);
                assert_eq!(read(&*disk, path, start, 300).len(), kept);
            }
        }
    }

    #[test]
    fn crc32c_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
