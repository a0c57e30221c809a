//! A sidecar index: what is read of it is without a gap and within the segment, and one goes on where
//! it ends.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::path::Path;
use varve_fuzz::memory::bounded;
use varve_persistence::log::Disk;
use varve_persistence::log::fake::FakeDisk;
use varve_persistence::log::index::{self, Indexer, crc32c};
use varve_persistence::log::replay::Reading;
use varve_persistence::offset::Offset;

/// Header and records: 24 bytes, their CRC-32C and four more.
const PART: usize = 32;
const SEGMENT: &[u8] = b"*2\r\n$3\r\nDEL\r\n$1\r\nk\r\n";

fuzz_target!(|data: &[u8]| {
    let Some((&[flags, commands], bytes)) = data.split_first_chunk::<2>() else { return };
    let mut file = bytes.to_vec();
    let start = match (flags & 2, bytes.get(16..24)) {
        (0, Some(start)) => Offset(u64::from_le_bytes(start.try_into().expect("8 bytes"))),
        _ => Offset(1000),
    };
    if flags & 1 == 0 {
        for part in file.chunks_exact_mut(PART) {
            let crc = crc32c(&part[..24]);
            part[24..28].copy_from_slice(&crc.to_le_bytes());
        }
    }
    let segment = SEGMENT.repeat(commands.into());
    let path = Path::new("d/a.1.incr.aof");
    let disk = FakeDisk::new(1);
    disk.put(path, &segment);
    disk.put(&index::path_of(path), &file);
    let len = segment.len() as u64;
    let records = bounded((1 << 16) + 8 * data.len(), || index::read(&*disk, path, start, len));
    let mut next = start;
    for record in &records {
        assert_eq!(record.start, next);
        next += u64::from(record.len);
    }
    assert!(next - start <= len);

    let reading = Reading { path, bytes: &segment, start, records: &records, db: 0 };
    if start.0.checked_add(len).is_none() {
        return; // No log comes so far.
    }
    let _ = reading.replay::<()>(0, &mut |_| Ok(()));
    let file = disk.open(path).expect("it was put there");
    let mut indexer =
        Indexer::resume(&*disk, path, file, start, &records).expect("memory takes all bytes");
    indexer.advance(start + len, 5).expect("memory takes all bytes");
    let again = index::read(&*disk, path, start, len);
    assert!(again.starts_with(&records));
    let end = again.last().map_or(start, |last| last.start + u64::from(last.len));
    assert_eq!(end, start + len);
});
