//! A compressed segment: the bytes that were compressed, or an error; never more memory than the
//! file and two frames.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::io::ErrorKind;
use std::path::Path;
use varve_fuzz::memory::bounded;
use varve_persistence::log::Disk;
use varve_persistence::log::fake::FakeDisk;
use varve_persistence::log::index::crc32c;
use varve_persistence::log::lz4::{Compressed, FRAME_BYTES, compress};
use varve_persistence::offset::Offset;

const FOOTER: usize = 36;

/// Puts right the checksums of a file that has a footer.
fn with_checksums(file: &mut [u8]) {
    let Some(footer) = file.len().checked_sub(FOOTER) else { return };
    let len = u64::from_le_bytes(file[footer + 8..footer + 16].try_into().expect("8 bytes"));
    let records = (len.div_ceil(FRAME_BYTES)).saturating_mul(8);
    let Some(table) = (footer as u64).checked_sub(records).and_then(|at| at.checked_sub(8)) else {
        return;
    };
    let (table, mut frame) = (table as usize, 0);
    for record in (table + 8..footer).step_by(8) {
        let len = u32::from_le_bytes(file[record..record + 4].try_into().expect("4 bytes"));
        let Some(bytes) = file.get(frame..frame + len as usize) else { break };
        let crc = crc32c(bytes);
        file[record + 4..record + 8].copy_from_slice(&crc.to_le_bytes());
        frame += len as usize;
    }
    let crc = crc32c(&file[table..footer + 24]);
    file[footer + 24..footer + 28].copy_from_slice(&crc.to_le_bytes());
}

fn read(disk: &FakeDisk, path: &Path) -> std::io::Result<Vec<u8>> {
    let mut file = Compressed::open(disk, path)?;
    let len = file.end() - file.start();
    let mut all = Vec::new();
    let mut buf = vec![0; 100_000];
    loop {
        let n = file.read_at(&mut buf, all.len() as u64)?;
        if n == 0 {
            break;
        }
        all.extend_from_slice(&buf[..n]);
    }
    assert_eq!(all.len() as u64, len);
    assert_eq!(file.read_at(&mut buf, u64::MAX)?, 0);
    Ok(all)
}

fuzz_target!(|data: &[u8]| {
    let Some((&flags, bytes)) = data.split_first() else { return };
    let disk = FakeDisk::new(1);
    let path = Path::new("d/a.1.incr.aof.lz4");
    if flags & 2 != 0 {
        let raw = bytes.repeat(1 + usize::from(flags >> 2) * 16);
        disk.put(Path::new("raw"), &raw);
        let from = disk.open(Path::new("raw")).expect("it was put there");
        let to = disk.create(path).expect("memory takes all bytes");
        compress(&*from, Offset(5), raw.len() as u64, &*to, &|| true).expect("it compresses");
        assert!(read(&disk, path).expect("a file of our own is read") == raw);
        return;
    }
    let mut file = bytes.to_vec();
    if flags & 1 == 0 {
        with_checksums(&mut file);
    }
    disk.put(path, &file);
    // LZ4 makes 255 bytes of one at most.
    let most = (4 << 20) + 2 * 255 * file.len() + 4 * FRAME_BYTES as usize;
    if let Err(error) = bounded(most, || read(&disk, path)) {
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    }
});
